"""The quarantine of one refinement: every bad row, where it lay, what it broke, and its raw bytes as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from arro3.core import Array, DataType, Table

from ...core import Frame, Landed, RawInput, TableAt
from .corrections import Corrected, kept_sql, same_origin
from .frame import DuckFrame, Session, casts, count, fresh, table_sql, text
from .raw import Records, as_text
from .staging.parts import SCRATCH
from .staging.stage import Staged

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

QUARANTINE = {
    "_file": "text",
    "_line": "bigint",
    "_source": "text",
    "_ingested_at": "timestamp",
    "_epoch": "bigint",
    "rules": "text",
    "raw": "text",
    "fields": "text",
    "correction": "bigint",
}
"""The same for every table: rule ids joined by `;`, the exact line, and the staged texts as a JSON object.

`correction` is the number of the correction that has changed the fields, if one has."""
CHANGE_OF = {"key": "text", "sequence": "text"}
"""Of a table of changes also: the key as a JSON array of texts, if it could be read; which change it is."""
LINES = ("csv", "jsonl")
"""Formats whose records are lines of text; of others the fields are kept as the raw text."""
File = tuple[str, Landed, Path]
"""(source, the object, where its plain bytes are)."""
PORTION = 51_200
"""So many bad rows are put together at a time, and more are kept on disk: a row group of the scratch file."""


def fill(
    session: Session,
    staged: Staged,
    raw: Sequence[RawInput],
    odd: str,
    epoch: int,
    scratch: Path,
    corrections: str | None = None,
    keyed: bool = False,
) -> int:
    """Makes `quarantine` of the rows of `odd` and of what staging rejected; returns their number.

    `odd` has the identity of each row, its `rules` and its `fields` as JSON; `corrections` names a table of
    corrections, which know what their records looked like. `keyed`: `odd` has key and sequence as well.
    Where rows are many, `quarantine` lies in `scratch`: memory does not grow with them.
    """
    con = session.con
    of_keys = ", NULL::VARCHAR AS key, NULL::VARCHAR AS sequence" if keyed else ""
    rejected = (
        f"SELECT _file, _line, _source, _ingested_at, {epoch}::BIGINT AS _epoch, _rule AS rules, "
        f"_raw AS raw, NULL::VARCHAR AS fields, NULL::BIGINT AS correction{of_keys} FROM {staged.rejects}"
    )
    total = count(con, odd)
    if not total:
        con.execute(f"CREATE TEMP TABLE quarantine AS {rejected}")
        return count(con, "quarantine")
    files = [
        (source.source, landed, path)
        for source in raw
        for _, landed, path in source.files
        if landed.format.get("type") in LINES
    ]
    _name_files(con, files)
    large = total > PORTION
    source = _odd_sql(odd, corrections)
    if large:
        path = scratch / f"{fresh('odd')}.parquet"
        con.execute(f"COPY ({source}) TO {text(str(path))} ({SCRATCH}, ROW_GROUP_SIZE {PORTION})")
        kept = f"SELECT *, file_row_number AS rowid FROM read_parquet({text(str(path))})"
        con.execute(f"CREATE TEMP VIEW odd_rows AS {kept}")
    else:
        con.execute(f"CREATE TEMP TABLE odd_rows AS {source}")
    made: list[str] = []
    for start, lines in _raw_texts(con, files, count(con, "odd_rows")):
        sql = (
            f"SELECT o._file, o._line, o._source, o._ingested_at, {epoch}::BIGINT AS _epoch, "
            "rtrim(o.rules, ';') AS rules, coalesce(o.raw, r.raw, o.fields) AS raw, o.fields, "
            f"o.correction{', o.key, o.sequence' if keyed else ''} FROM odd_rows o LEFT JOIN "
            f"raw_lines r ON r.row = o.rowid WHERE {_within(start)}"
        )
        sql = sql if start else f"{sql} UNION ALL {rejected}"
        con.register("raw_lines", lines)
        if large:
            made.append(text(str(scratch / f"{fresh('quarantine')}.parquet")))
            con.execute(f"COPY ({sql}) TO {made[-1]} ({SCRATCH})")
        else:
            con.execute(f"CREATE TEMP TABLE quarantine AS {sql}")
        con.unregister("raw_lines")
    con.execute(f"DROP {'VIEW' if large else 'TABLE'} odd_rows")
    con.execute("DROP TABLE raw_files")
    if large:
        path.unlink()
        con.execute(f"CREATE TEMP VIEW quarantine AS SELECT * FROM read_parquet([{', '.join(made)}])")
    return count(con, "quarantine")


def whole(session: Session, new: Frame, quarantine: TableAt, corrected: Corrected) -> DuckFrame:
    """All of quarantine: what was there without the corrected rows, and what is bad now."""
    columns = new.columns if isinstance(new, DuckFrame) else QUARANTINE
    sql = f"SELECT * FROM quarantine UNION ALL BY NAME {kept_sql(quarantine, corrected.table, columns)}"
    return DuckFrame(session, sql, columns, count(session.con, f"({sql})"))


def requarantined(session: Session, new: Frame, before: TableAt, raw: Sequence[RawInput]) -> DuckFrame:
    """All of quarantine after files are refined again: what it had of them goes, all else in it stays."""
    con, table = session.con, fresh("files")
    columns = new.columns if isinstance(new, DuckFrame) else QUARANTINE
    files = [(each.source, item.name, item.arrived) for each in raw for _, item, _ in each.files]
    con.execute(
        f"CREATE TEMP TABLE {table} AS SELECT unnest(?::VARCHAR[]) AS s, unnest(?::VARCHAR[]) AS f, "
        "unnest(?::VARCHAR[])::TIMESTAMPTZ AS t",
        [list(column) for column in zip(*files, strict=True)],
    )
    same = "t.s = q._source AND t.f = q._file AND t.t IS NOT DISTINCT FROM q._ingested_at"
    theirs = f"SELECT 1 FROM {table} t WHERE {same}"
    listed = casts(columns, before.columns, "q")
    kept = f"SELECT {listed} FROM ({table_sql(before)}) q WHERE NOT EXISTS ({theirs})"
    sql = f"SELECT * FROM quarantine UNION ALL BY NAME {kept}"
    return DuckFrame(session, sql, columns, count(con, f"({sql})"))


BREAKS = r"regexp_replace(o.fields, '\\\\', '', 'g')"
"""The JSON text of a row without escaped backslashes: then each `\n` in it is a line break in a field."""


def _name_files(con: DuckDBPyConnection, files: Sequence[File]) -> None:
    """Table `raw_files`: names of `files`, their places among these, and what breaks lines within records."""
    marks = [
        ("\\r" if landed.format.get("newline") == "\r" else "\\n") if landed.format.get("quoted") else None
        for _, landed, _ in files
    ]
    con.execute(
        "CREATE TEMP TABLE raw_files AS SELECT unnest(?::VARCHAR[]) AS s, unnest(?::VARCHAR[]) AS f, "
        "unnest(?::VARCHAR[])::TIMESTAMPTZ AS t, unnest(?::VARCHAR[]) AS mark, unnest(?::INTEGER[]) AS place",
        [
            [source for source, _, _ in files],
            [landed.name for _, landed, _ in files],
            [landed.arrived for _, landed, _ in files],
            marks,
            list(range(len(files))),
        ],
    )


def _odd_sql(odd: str, corrections: str | None) -> str:
    """SQL of the rows of `odd` with the raw text known of them, or the file's `place` and `n` lines of it."""
    known, join = "NULL::VARCHAR AS raw, NULL::BIGINT AS correction", ""
    if corrections is not None:
        known = "c.raw, CASE WHEN len(c.changed) > 0 THEN c.number END AS correction"
        join = f" LEFT JOIN {corrections} c ON {same_origin('o', 'c')}"
    breaks = f"(length({BREAKS}) - length(replace({BREAKS}, p.mark, ''))) // 2"
    lines = f"CASE WHEN contains(o.fields, p.mark) THEN 1 + {breaks} ELSE 1 END"
    return (
        f"SELECT o.*, {known}, p.place, {lines} AS n FROM {odd} o{join} "
        "LEFT JOIN raw_files p ON p.s = o._source AND p.f = o._file "
        "AND p.t IS NOT DISTINCT FROM o._ingested_at"
    )


def _within(start: int) -> str:
    return f"o.rowid >= {start} AND o.rowid < {start + PORTION}"


def _raw_texts(con: DuckDBPyConnection, files: Sequence[File], total: int) -> Iterator[tuple[int, Table]]:
    """For each portion of `odd_rows`: its first row; `row` and exact line, `raw`, where its file has lines.

    Rows stand in the order of their files and lines: each file is read once. The lines of the next portion
    are read in another thread while the caller stores the last ones.
    """
    lines = _Lines(files)

    def portion(start: int) -> tuple[int, Future[Table]]:
        wanted = con.execute(
            f"SELECT o.rowid, o.place, o._line, o.n FROM odd_rows o WHERE {_within(start)} "
            "AND o.place IS NOT NULL AND o.raw IS NULL ORDER BY o.place, o._line"
        ).fetchall()
        return start, reader.submit(lines.of, wanted)

    with closing(lines), ThreadPoolExecutor(1, "lines") as reader:
        coming = portion(0)
        for start in range(PORTION, total + PORTION, PORTION):
            here, table = coming[0], coming[1].result()
            if start < total:
                coming = portion(start)
            yield here, table


class _Lines:
    """Raw records of several files, asked for in the order of files and lines; one file is open at a time."""

    def __init__(self, files: Sequence[File]) -> None:
        self.files = files
        self._place = -1
        self._file: Records | None = None

    def of(self, wanted: Sequence[tuple[int, int, int, int]]) -> Table:
        """Of each (row, place of its file, first line, lines) the row and the text."""
        found = []
        for _, place, line, lines in wanted:
            _, landed, path = self.files[place]
            if self._file is None or place != self._place:
                self.close()
                self._place, self._file = place, Records(path, landed.format)
            found.append(as_text(self._file.at(line, lines), str(landed.format.get("encoding") or "utf-8")))
        rows = Array([row for row, *_ in wanted], DataType.int64())
        return Table.from_pydict({"row": rows, "raw": Array(found, DataType.large_string())})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def names_of(con: DuckDBPyConnection, rules: str) -> dict[str, int]:
    """Rule → rows, over a query of one column of rule ids joined by `;`."""
    found = con.execute(
        f"SELECT rule, count(*) FROM (SELECT unnest(string_split(c, ';')) AS rule FROM ({rules}) q(c)) "
        "WHERE rule <> '' GROUP BY rule ORDER BY rule"
    ).fetchall()
    return {rule: int(rows) for rule, rows in found}
