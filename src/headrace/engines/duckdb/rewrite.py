"""Copy-on-write changes of a table: which files go, which come, and what became of every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import DataFile, Frame, Rewrite, TableAt, Write, Written
from ...errors import ConfigError, Corrupt, DataError
from ...spec.widen import wider
from ...store.intact import check_bytes, sealed
from .frame import AUDIT, DuckFrame, Session, casts, fresh, ident, one, relation_of, table_sql, text
from .stats import data_file, overlaps, unbounded

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

FILE_BYTES = 256 * 1024 * 1024
DICTIONARY = 1_000
"""Entries of a column's dictionary in a row group: more make files smaller by a few per cent, and cost memory
in each thread and a fifth of the time to write them."""
ROWS = 61_440
"""Rows of a row group: twice as many make files no smaller and take a tenth longer, outside the cache."""
WIDE = 20_480
"""Rows of a row group where rows hold whole records as texts; each thread keeps one in memory."""
LANDED = ("_ingested_at", "_source", "_file", "_line")
"""The order in which rows landed: it decides where a table has no sequence of its own."""


def rewrite(session: Session, target: TableAt, write: Write, frame: Frame, into: Path) -> Rewrite:
    """The change that applies `frame` to `target` and leaves its old files alone; new ones lie under `into`.

    Every row of the frame is counted exactly once in `written`: inserted, updated, unchanged, deleted or
    stale. Raises DataError if two rows of a merge share a key, ConfigError if types cannot be reconciled.
    """
    into.mkdir(parents=True, exist_ok=True)
    known = relation_of(session, frame)
    session.con.execute("SET preserve_insertion_order = false")  # else COPY holds back whole row groups
    try:
        return _Change(session.con, target, write, known, into, session.row_group).apply()
    finally:
        session.con.execute("SET preserve_insertion_order = true")


def kept_rows(
    session: Session, target: TableAt, files: Sequence[DataFile], where: str, into: Path
) -> list[DataFile]:
    """New files under `into` with the rows of `files` for which `where` (SQL over the columns) is true.

    Types, partitions and values stay as they are; the files themselves are left alone.
    """
    check_bytes(target.table, files)
    into.mkdir(parents=True, exist_ok=True)
    paths = [str(file.path) for file in files]
    write = Write(target.table, "append", partition_by=target.partition_by)
    session.con.execute("SET preserve_insertion_order = false")
    try:
        empty = DuckFrame(session, "SELECT 1 WHERE false", {}, 0)
        change = _Change(session.con, target, write, empty, into, session.row_group)
        return change._copy(f"SELECT * FROM ({table_sql(target, paths)}) WHERE {where}")
    finally:
        session.con.execute("SET preserve_insertion_order = true")


def columns_after(target: TableAt, frame: Mapping[str, str]) -> dict[str, str]:
    """The table's columns once rows of `frame` are in: old ones widened where needed, then new ones."""
    kept = {
        name: wider(kind, frame[name], name) if name in frame else kind
        for name, kind in target.columns.items()
    }
    return kept | {name: kind for name, kind in frame.items() if name not in kept}


@dataclass(frozen=True, slots=True)
class _Change:
    con: DuckDBPyConnection
    target: TableAt
    write: Write
    frame: DuckFrame
    into: Path
    row_group: int
    """Bytes of a row group, uncompressed: each thread holds one, and what it becomes."""

    @property
    def columns(self) -> dict[str, str]:
        gone = self.write.delete_when if self.write.purge else None
        kept = {name: kind for name, kind in self.frame.columns.items() if name != gone}
        if self.write.purge and self.write.mode == "replace":
            return kept  # a table that is computed whole is of the types that it is computed in
        return columns_after(self.target, kept)

    @property
    def _gone(self) -> str:
        """SQL: a new row `n` only takes an old one away."""
        when = self.write.delete_when if self.write.purge else None
        return f"coalesce(n.{ident(when)}, false)" if when else "false"

    def apply(self) -> Rewrite:
        missing = [
            name for name in (*self.write.keys, *self.write.sequence) if name not in self.frame.columns
        ]
        if missing:
            raise ConfigError(
                f"table `{self.write.table}`: the rows have no column `{missing[0]}`, which the write needs",
                hint=f"its columns are {', '.join(self.frame.columns)}",
            )
        if self.write.mode == "replace":
            return self._replace()
        retyped = any(self.columns[name] != kind for name, kind in self.target.columns.items())
        if self.write.mode == "append" or not self.target.files:
            return self._append(self.target.files if retyped else ())
        return self._merge(retyped)

    # append ---------------------------------------------------------------------------------------------

    def _append(self, old: Sequence[DataFile]) -> Rewrite:
        shaped = casts(self.columns, self.frame.columns)
        new = f"SELECT {shaped} FROM ({self.frame.sql}) n WHERE NOT {self._gone}"
        if self.write.mode == "merge" and not self.frame.one_per_key:
            self._refuse_twins(f"({self.frame.sql})")
        if old:
            new += f" UNION ALL BY NAME {self._old_sql([str(file.path) for file in old])}"
        added = self._copy(new)
        written = sum(file.rows for file in added) - sum(file.rows for file in old)
        deleted = 0
        if self.write.delete_when and written and not self.write.purge:
            # tombstones of keys that were never there are kept: an older version may still arrive
            paths = [str(file.path) for file in added]
            after = TableAt(self.target.table, 0, added, self.columns, self.write.partition_by)
            (deleted,) = one(
                self.con,
                f"SELECT count(*) FROM ({table_sql(after, paths)}) WHERE {ident(self.write.delete_when)}",
            )
        return self._result(added, old, {"inserted": written - deleted, "deleted": deleted})

    # replace --------------------------------------------------------------------------------------------

    def _replace(self) -> Rewrite:
        """Old rows all go; a table that would hold the same content again is left as it is."""
        had = sum(file.rows for file in self.target.files)
        added = self._copy(f"SELECT {casts(self.columns, self.frame.columns)} FROM ({self.frame.sql})")
        rows = sum(file.rows for file in added)
        same = had == rows and self.columns == dict(self.target.columns)
        if same and self._intact() and self._same_content(added):
            for file in added:
                file.path.unlink()
            return self._result((), (), {"unchanged": rows})
        return self._result(added, self.target.files, {"inserted": rows, "removed": had})

    def _intact(self) -> bool:
        """A damaged table is replaced, not compared."""
        try:
            check_bytes(self.target.table, self.target.files)
        except Corrupt:
            return False
        return True

    def _same_content(self, added: Sequence[DataFile]) -> bool:
        after = TableAt(self.target.table, 0, added, self.columns, self.write.partition_by)
        names = ", ".join(ident(name) for name in self._content()) or "1"
        sums = [
            f"(SELECT (sum(hash({names})::HUGEINT), count(*)) FROM ({table_sql(table)}))"
            for table in (self.target, after)
        ]
        if not one(self.con, f"SELECT {sums[0]} IS NOT DISTINCT FROM {sums[1]}")[0]:
            return False
        old, new = (f"SELECT {names} FROM ({table_sql(table)})" for table in (self.target, after))
        return not one(self.con, f"SELECT count(*) FROM (SELECT 1 FROM ({old} EXCEPT ALL {new}) LIMIT 1)")[0]

    def _content(self) -> list[str]:
        """Columns that make a row what it is; where it came from is none of them."""
        return [name for name in self.columns if name not in AUDIT]

    # merge ----------------------------------------------------------------------------------------------

    def _merge(self, retyped: bool) -> Rewrite:
        """Only a higher version of a key replaces the one that is there; other rows of its file move along.

        Wide rows are only streamed: hash tables hold keys, sequences and places.
        """
        new = fresh("new")
        kept = {**self.columns, **({self.write.delete_when or "": "boolean"} if self.write.purge else {})}
        shaped = f"SELECT {casts(kept, self.frame.columns)} FROM ({self.frame.sql})"
        self.con.execute(f"CREATE TEMP TABLE {new} AS {shaped}")
        try:
            spans, total, deletions = self._spans(new)
            near = [file for file in self.target.files if self._may_hold(file, spans)]
            if not near:
                return self._all_new(new, total, deletions, retyped)
            return self._apply_hits(new, near, spans, retyped)
        finally:
            self.con.execute(f"DROP TABLE IF EXISTS {new}")
            self.con.execute(f"DROP TABLE IF EXISTS {new}_hit")

    def _all_new(self, new: str, total: int, deletions: int, retyped: bool) -> Rewrite:
        old = self.target.files if retyped else ()
        names = ", ".join(ident(name) for name in self.columns)
        sql = f"SELECT {names} FROM {new} n WHERE NOT {self._gone}"
        if old:
            sql += f" UNION ALL BY NAME {self._old_sql([str(file.path) for file in old])}"
        added = self._copy(sql) if total or old else []
        return self._result(added, old, {"inserted": total - deletions, "deleted": deletions})

    def _apply_hits(
        self, new: str, near: Sequence[DataFile], spans: Mapping[str, tuple[Any, Any, int]], retyped: bool
    ) -> Rewrite:
        self._find(new, near, spans)
        delete = f"coalesce(n.{ident(self.write.delete_when)}, false)" if self.write.delete_when else "false"
        tally = self.con.execute(
            f"SELECT h.verdict, {delete} AS gone, h.file_index, count(*) FROM {new} n "
            f"LEFT JOIN {new}_hit h ON h.id = n.rowid GROUP BY ALL"
        ).fetchall()
        counts = {"inserted": 0, "updated": 0, "unchanged": 0, "deleted": 0, "stale": 0}
        touched: set[int] = set()
        for verdict, gone, index, rows in tally:
            if verdict in ("unchanged", "stale"):
                counts[verdict] += rows
                continue
            counts["deleted" if gone else "inserted" if verdict is None else "updated"] += rows
            if verdict is not None:
                touched.add(index)
        going = list(self.target.files) if retyped else [near[index] for index in sorted(touched)]
        check_bytes(self.write.table, going)  # else damage would be written anew, as good as any other row
        if not going and not (counts["inserted"] + counts["deleted"]):
            return self._result((), (), counts)
        added = self._copy(self._survivors(new, near, going))
        expected = sum(file.rows for file in going) + counts["inserted"]
        expected += 0 if self.write.purge else counts["deleted"]
        expected -= sum(rows for verdict, gone, _, rows in tally if verdict == "newer" and gone)
        left = sum(file.rows for file in added)
        if left != expected:
            raise DataError(
                f"table `{self.write.table}`: a merge would leave {left} rows in the files it rewrites, "
                f"where {expected} belong; nothing was written",
                hint="the table holds a key more than once: find it with `headrace query`, then rebuild",
            )
        return self._result(added, going, counts)

    def _find(self, new: str, near: Sequence[DataFile], spans: Mapping[str, tuple[Any, Any, int]]) -> None:
        """Table `<new>_hit`: for each new row whose key is there, its place and who wins."""
        on = " AND ".join(
            f"o.{ident(key)} {'IS NOT DISTINCT FROM' if spans[key][2] else '='} n.{ident(key)}"
            for key in self.write.keys
        )
        landed = [] if self.write.sequence else [name for name in LANDED if name in self.target.columns]
        order = [*self.write.sequence]
        if self.write.delete_when and order:
            order.append(self.write.delete_when)  # of two versions alike, the deletion stays
        known = {*self.write.keys, *order, *([self.write.delete_when] if self.write.purge else [])}
        content = [name for name in self.frame.columns if name in self._content() and name not in known]
        kept = dict.fromkeys([*self.write.keys, *order, *landed, *content])
        old = self._old_sql([str(file.path) for file in near], places=True, only=list(kept))
        self.con.execute(
            f"CREATE TEMP TABLE {new}_hit AS SELECT n.rowid AS id, o.file_index, o.file_row_number, "
            f"CASE WHEN {self._gone} THEN 'newer' ELSE {verdict_sql(order, content, landed)} END AS verdict "
            f"FROM ({old}) o JOIN {new} n ON {on}"
        )

    def _survivors(self, new: str, near: Sequence[DataFile], going: Sequence[DataFile]) -> str:
        names = ", ".join(ident(name) for name in self.columns)
        lost = f"SELECT id FROM {new}_hit WHERE verdict <> 'newer'"
        sql = f"SELECT {names} FROM {new} n WHERE rowid NOT IN ({lost}) AND NOT {self._gone}"
        if going:
            places = {str(file.path): index for index, file in enumerate(near)}
            paths = [str(file.path) for file in going]
            moved = ", ".join(f"({index}, {places.get(path, -1)})" for index, path in enumerate(paths))
            sql += (
                f" UNION ALL SELECT {names} FROM ({self._old_sql(paths, places=True)}) o WHERE NOT EXISTS ("
                f"SELECT 1 FROM {new}_hit h JOIN (VALUES {moved}) m(now, was) ON h.file_index = m.was "
                f"WHERE h.verdict = 'newer' AND m.now = o.file_index "
                f"AND h.file_row_number = o.file_row_number)"
            )
        return sql

    def _old_sql(self, paths: Sequence[str], *, places: bool = False, only: Sequence[str] = ()) -> str:
        """Rows of the target's files in the shape that the table has afterwards."""
        columns = {name: self.columns[name] for name in only or self.columns}
        place = ", o.file_index, o.file_row_number" if places else ""
        old = table_sql(self.target, paths, places=places)
        return f"SELECT {casts(columns, self.target.columns, 'o')}{place} FROM ({old}) o"

    def _spans(self, new: str) -> tuple[dict[str, tuple[Any, Any, int]], int, int]:
        """Least, greatest and number of NULLs of each key column; rows; tombstones."""
        if not self.frame.one_per_key:
            self._refuse_twins(new)
        parts = [
            f"min({ident(key)}), max({ident(key)}), count(*) - count({ident(key)})" for key in self.write.keys
        ]
        gone = f"count(*) FILTER ({ident(self.write.delete_when)})" if self.write.delete_when else "0"
        row = one(self.con, f"SELECT {', '.join([*parts, 'count(*)', gone])} FROM {new}")
        spans = {key: tuple(row[3 * i : 3 * i + 3]) for i, key in enumerate(self.write.keys)}
        return spans, int(row[-2]), int(row[-1])

    def _may_hold(self, file: DataFile, spans: Mapping[str, tuple[Any, Any, int]]) -> bool:
        for key, span in spans.items():
            kind = self.columns[key]
            if kind == "text" and self.target.columns.get(key) != "text":
                continue  # its bounds are those of another order
            if key in file.partition:
                value = file.partition[key]
                bounds = {key: value} if value is not None else {}
                nulls = {key: file.rows if value is None else 0}
                file_ = DataFile(file.path, file.rows, file.bytes, {}, bounds, bounds, nulls)
                if not overlaps(kind, file_, key, span):
                    return False
            elif not overlaps(kind, file, key, span):
                return False
        return True

    def _refuse_twins(self, relation: str) -> None:
        keys = ", ".join(ident(key) for key in self.write.keys)
        twins = self.con.execute(
            f"SELECT {keys}, count(*) FROM {relation} GROUP BY ALL HAVING count(*) > 1 ORDER BY ALL LIMIT 1"
        ).fetchall()
        for twin in twins:
            key = ", ".join(f"{name}={value!r}" for name, value in zip(self.write.keys, twin, strict=False))
            raise DataError(
                f"table `{self.write.table}`: {twin[-1]} rows of one merge have the key {key}",
                hint="merge one row per key: deduplicate first, or make the keys more specific",
            )

    # files ----------------------------------------------------------------------------------------------

    def _copy(self, sql: str) -> list[DataFile]:
        hidden = unbounded(self.write.table)
        options = ["FORMAT parquet", "COMPRESSION snappy", "RETURN_STATS", "APPEND"]
        options.append(f"ROW_GROUP_SIZE_BYTES {self.row_group}")
        options.append(f"DICTIONARY_SIZE_LIMIT {DICTIONARY}")
        options.append("FILENAME_PATTERN 'part-{uuid}.snappy'")
        if self.write.partition_by:
            names = ", ".join(ident(name) for name in self.write.partition_by)
            options += [f"PARTITION_BY ({names})", "WRITE_PARTITION_COLUMNS false"]
        else:
            options.append(f"FILE_SIZE_BYTES {FILE_BYTES}")
        options.append(f"ROW_GROUP_SIZE {WIDE if hidden else ROWS}")
        rows = self.con.execute(f"COPY ({sql}) TO {text(str(self.into))} ({', '.join(options)})").fetchall()
        files = [data_file(row, self.columns, self.write.partition_by, hidden) for row in rows]
        for file in files:
            if not file.rows:
                file.path.unlink()
        return [sealed(file) for file in files if file.rows]

    def _result(
        self, add: Sequence[DataFile], remove: Sequence[DataFile], counts: Mapping[str, int]
    ) -> Rewrite:
        written = Written(
            self.write.table,
            self.target.version,
            inserted=counts.get("inserted", 0),
            updated=counts.get("updated", 0),
            unchanged=counts.get("unchanged", 0),
            deleted=counts.get("deleted", 0),
            stale=counts.get("stale", 0),
            removed=counts.get("removed", 0),
        )
        return Rewrite(list(add), list(remove), written, self.columns)


def verdict_sql(sequence: Sequence[str], content: Sequence[str], landed: Sequence[str] = ()) -> str:
    """SQL over old row `o` and new row `n` of one key: 'newer', 'unchanged' or 'stale'.

    Greater sequences win, NULL being least; ties go to the greater content, so that the outcome does not
    depend on which of two came first. Without a sequence, rows of equal content are the same, else the one
    that landed later wins.
    """
    alike = [f"o.{ident(name)} IS NOT DISTINCT FROM n.{ident(name)}" for name in (*sequence, *content)]
    steps = [f"WHEN {' AND '.join(alike) or 'true'} THEN 'unchanged'"]
    for name in (*sequence, *(content if sequence else landed)):
        old, new = f"o.{ident(name)}", f"n.{ident(name)}"
        steps.append(f"WHEN {new} > {old} OR ({old} IS NULL AND {new} IS NOT NULL) THEN 'newer'")
        steps.append(f"WHEN {new} < {old} OR ({new} IS NULL AND {old} IS NOT NULL) THEN 'stale'")
    return f"CASE {' '.join(steps)} ELSE 'newer' END"
