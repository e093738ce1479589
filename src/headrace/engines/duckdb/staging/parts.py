"""What the readers of all formats share: files with their facts, tables of staged rows, rejected records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headrace.core import Landed

if TYPE_CHECKING:
    import duckdb

BATCH = 10_000
SCRATCH = (
    "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION snappy, DICTIONARY_SIZE_LIMIT 100, "
    "WRITE_BLOOM_FILTER false"
)
"""How rows are kept on disk: written once and read a few times, so that writing must be cheap. Dictionaries
of many entries, bloom filters and the encodings of version 1 cost a fifth of a refinement."""
VECTOR = 2_048
"""Rows of a vector of DuckDB: a row group may have so many more or fewer than it should, not to be cut."""
TREE = 2_048  # up to so many boundaries a line shift is a CASE tree, beyond that a join


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A landed file with its place in the batch."""

    place: int
    source: str
    landed: Landed
    path: Path

    @property
    def form(self) -> Mapping[str, Any]:
        return self.landed.format

    @property
    def encoding(self) -> str:
        return str(self.form.get("encoding") or "utf-8")

    @property
    def arrived(self) -> str | None:
        """With its zone; UTC where none is written."""
        value = self.landed.arrived
        if not value:
            return None
        return value if value.endswith("Z") or "+" in value or value[-6:-5] == "-" else value + "Z"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read: staged columns with their accepted names, columns beyond the contract, and policies."""

    columns: Mapping[str, Sequence[str]]
    extras: Sequence[str]
    case: Literal["ignore", "exact"]
    on_new: str
    on_missing: str
    evolved: Sequence[str] = ()
    """Those of `columns` that are beyond the contract: a file need not have them."""
    flat: Sequence[str] = ()
    """Columns into which no object or array goes, whatever the format."""
    json: Sequence[str] = ()
    """Columns that take JSON as it is."""

    @property
    def contract(self) -> int:
        """So many of `names`, the first ones, are the contract's."""
        return len(self.columns) - len(self.evolved)

    @property
    def names(self) -> list[str]:
        return [*self.columns, *(e for e in self.extras if e not in self.columns)]


@dataclass(frozen=True, slots=True)
class Shape:
    """What is kept of staged texts: one row of other columns for each, in the same order."""

    columns: Sequence[str]
    sql: Callable[[str, Sequence[str], Sequence[str]], str]
    """(query of texts, their names, other columns of it to carry along) → query of `columns` and those."""
    large: int
    """Bytes of input from which rows are kept on disk, as Parquet."""
    constant: Mapping[str, str] = field(default_factory=dict)
    """Those of `columns` that are the same in all rows, and their SQL: stored, each costs as a text does."""


@dataclass(slots=True)
class Part:
    """A table of staged rows: data columns x0, x1, … in the order of `Wanted.names`, `_f` if several files.

    `delta` gives per file what to add to `rowid` for the line; `shifts` are (rowid from, lines more);
    each file ends its own. `gone` are inclusive rowid ranges that are no data. With `lines`, the table has
    `_l` itself.
    """

    table: str
    files: Sequence[StagedFile]
    delta: list[int] = field(default_factory=list)
    shifts: list[tuple[int, int]] = field(default_factory=list)
    gone: list[tuple[int, int]] = field(default_factory=list)
    lines: bool = False
    carried: list[str] = field(default_factory=list)
    """Columns beside the data: `_f`, and `_h` where it says whether a row repeats the header."""
    shaped: bool = False
    paths: Sequence[str] = ()
    """What was read of each file, where that is not the file itself: `_f` names these."""

    def locate(self, index: int, first: int, rows: int, segments: Sequence[tuple[int, int]]) -> None:
        """Says where the rows of a file, from rowid `first` on, begin: (ordinal from, line) each."""
        base = segments[0][1]
        self.delta[index] = base - first
        moved = [(first + ordinal, line - ordinal - base) for ordinal, line in segments[1:] if ordinal < rows]
        if moved:
            self.shifts += [*moved, (first + rows, 0)]

    def drop_rows(self, first: int, rows: int) -> None:
        if rows:
            self.gone.append((first, first + rows - 1))


def ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


class Stage:
    """One staging run: owns its scratch tables, and counts every record once, as staged or as rejected."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        into: str,
        wanted: Wanted,
        scratch: Path,
        shape: Shape | None = None,
    ) -> None:
        self.con, self.into, self.wanted, self.scratch, self.shape = con, into, wanted, scratch, shape
        self.parts: list[Part] = []
        self.counts: dict[int, int] = {}
        self._rejects: list[tuple[int, int, str, str]] = []
        self._serial = 0
        self.rejects, self.raw_rejects = f"{into}_rejects", f"{into}__rejected"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {ident(self.raw_rejects)} "
            "(place INTEGER, line BIGINT, raw VARCHAR, rule VARCHAR)"
        )

    def table(self, kind: str) -> str:
        """A fresh name for a scratch table."""
        self._serial += 1
        return f"{self.into}__{kind}{self._serial}"

    def path(self, name: str) -> Path:
        """A fresh path in scratch."""
        self._serial += 1
        self.scratch.mkdir(parents=True, exist_ok=True)
        return self.scratch / f"{self.into}-{self._serial}-{name}"

    def keep(self, part: Part, query: str, paths: Sequence[str], piece: int = 0) -> None:
        """Runs a reader's query (`{paths}` stands for the files) into the part's table, shaped if wanted.

        `piece` rows, if that is known, are about what the reader gives to a thread at a time.
        """
        listed = "[" + ", ".join(text(path) for path in paths) + "]"
        query = query.replace("{paths}", listed)
        if self.shape is not None:
            names = [f"x{i} AS {ident(name)}" for i, name in enumerate(self.wanted.names)]
            query = f"SELECT {', '.join([*names, *part.carried])} FROM ({query})"
            query = self.shape.sql(query, self.wanted.names, part.carried)
            part.shaped = True
        self.store(part.table, query, sum(file.landed.bytes for file in part.files), piece)

    def store(self, table: str, query: str, size: int, piece: int = 0) -> None:
        """Keeps the rows of `query` in order under `table`, with their `rowid`; on disk if they are many.

        A row group is a piece of what is read: rows of one that were cut differently would be copied once
        more, under a lock that all threads wait for.
        """
        if self.shape is None or size < self.shape.large:
            self.con.execute(f"CREATE TEMP TABLE {ident(table)} AS {query}")
            return
        path = text(str(self.path("rows.parquet")))
        group = f", ROW_GROUP_SIZE {max(1, round(piece / VECTOR)) * VECTOR}" if piece else ""
        known = self.shape.constant
        left = f" EXCLUDE ({', '.join(map(ident, known))})" if known else ""
        given = "".join(f", {sql} AS {ident(name)}" for name, sql in known.items())
        self.con.execute(f"COPY (SELECT *{left} FROM ({query})) TO {path} ({SCRATCH}{group})")
        self.con.execute(
            f"CREATE TEMP VIEW {ident(table)} AS SELECT *{given}, file_row_number AS rowid "
            f"FROM read_parquet({path})"
        )

    def count(self, file: StagedFile, rows: int) -> None:
        self.counts[file.place] = self.counts.get(file.place, 0) + rows

    def reject(self, file: StagedFile, records: Iterable[tuple[int, str, str]]) -> None:
        """Counts and keeps records (line, raw text, rule) that are no rows."""
        for line, raw, rule in records:
            self._rejects.append((file.place, line, raw, rule))
            self.count(file, 1)
            if len(self._rejects) >= BATCH:
                self.flush()

    def flush(self) -> None:
        if self._rejects:
            columns = [list(column) for column in zip(*self._rejects, strict=True)]
            self.con.execute(
                f"INSERT INTO {ident(self.raw_rejects)} "
                "SELECT unnest(?::INTEGER[]), unnest(?::BIGINT[]), "
                "unnest(?::VARCHAR[]), unnest(?::VARCHAR[])",
                columns,
            )
            self._rejects.clear()

    def add(self, part: Part, rows: Sequence[int]) -> None:
        """Takes a finished part; `rows` are its rows per file, those in `gone` not counted."""
        for file, number in zip(part.files, rows, strict=True):
            self.count(file, number)
        if not any(rows):
            self.drop(part)
            return
        # Where one file ends and the next begins with a shift of its own, that one counts.
        part.shifts = sorted(dict(sorted(part.shifts, key=lambda s: (s[0], s[1] != 0))).items())
        self.parts.append(part)

    def select(self, part: Part) -> str:
        """SQL that gives the part's rows with all columns of the staged relation."""
        columns = [f"s.x{i} AS {ident(name)}" for i, name in enumerate(self.wanted.names)]
        if part.shaped and self.shape is not None:
            columns = [f"s.{ident(name)}" for name in self.shape.columns]
        source = f"FROM {ident(part.table)} s"
        if len(part.files) == 1:
            file = part.files[0]
            arrived = f"{text(file.arrived)}::TIMESTAMPTZ" if file.arrived else "NULL::TIMESTAMPTZ"
            audit = [text(file.source), text(file.landed.name), arrived]
            delta = str(part.delta[0]) if part.delta else "0"
        else:
            lookup = self._lookup(part)
            source += f" JOIN {ident(lookup)} f ON s._f = f.path"
            audit, delta = ["f.source", "f.name", "f.arrived"], "f.delta"
        line = "s._l"
        if not part.lines:
            line = f"s.rowid + {delta}"
            if part.shifts and len(part.shifts) <= TREE:
                line += f" + {_tree(part.shifts)}"
            elif part.shifts:
                source += f" JOIN {ident(self._shift_table(part))} h ON h.row = s.rowid"
                line += " + h.shift"
        if part.gone:
            source += f" WHERE s.rowid NOT IN (SELECT row FROM {ident(self._gone_table(part))})"
        names = ("_source", "_file", "_ingested_at")
        columns += [f"{value} AS {name}" for value, name in zip(audit, names, strict=True)]
        return f"SELECT {', '.join(columns)}, ({line})::BIGINT AS _line {source}"

    def _lookup(self, part: Part) -> str:
        name = self.table("files")
        delta = part.delta or [0] * len(part.files)
        self.con.execute(
            f"CREATE TEMP TABLE {ident(name)} AS SELECT unnest(?::VARCHAR[]) AS path, "
            "unnest(?::VARCHAR[]) AS source, unnest(?::VARCHAR[]) AS name, "
            "unnest(?::VARCHAR[])::TIMESTAMPTZ AS arrived, unnest(?::BIGINT[]) AS delta",
            [
                list(part.paths) or [str(f.path) for f in part.files],
                [f.source for f in part.files],
                [f.landed.name for f in part.files],
                [f.arrived for f in part.files],
                list(delta),
            ],
        )
        return name

    def _shift_table(self, part: Part) -> str:
        name, edges = self.table("shifts"), self.table("edges")
        shifts = part.shifts
        starts = [0, *(s for s, _ in shifts)]
        ends = [*(s for s, _ in shifts), (1 << 62)]
        self.con.execute(
            f"CREATE TEMP TABLE {ident(edges)} AS "
            "SELECT unnest(?::BIGINT[]) AS a, unnest(?::BIGINT[]) AS b, unnest(?::BIGINT[]) AS shift",
            [starts, ends, [0, *(n for _, n in shifts)]],
        )
        self.con.execute(
            f"CREATE TEMP TABLE {ident(name)} AS SELECT unnest(range(a, least(b, n))) AS row, shift "
            f"FROM {ident(edges)}, (SELECT coalesce(max(rowid) + 1, 0) AS n FROM {ident(part.table)}) "
            "WHERE a < n"
        )
        self.con.execute(f"DROP TABLE {ident(edges)}")
        return name

    def _gone_table(self, part: Part) -> str:
        name = self.table("gone")
        self.con.execute(
            f"CREATE TEMP TABLE {ident(name)} AS SELECT unnest(range(a, b + 1)) AS row FROM "
            "(SELECT unnest(?::BIGINT[]) AS a, unnest(?::BIGINT[]) AS b)",
            [[a for a, _ in part.gone], [b for _, b in part.gone]],
        )
        return name

    def drop(self, part: Part) -> None:
        found = self.con.execute(
            "SELECT table_type FROM information_schema.tables WHERE table_name = ?", [part.table]
        ).fetchall()
        for (kind,) in found:
            self.con.execute(f"DROP {'VIEW' if kind == 'VIEW' else 'TABLE'} {ident(part.table)}")


def _tree(shifts: Sequence[tuple[int, int]], before: int = 0) -> str:
    """A balanced CASE over rowid: neighbours take the same branch, so a vector costs log2(n) comparisons."""
    if not shifts:
        return str(before)
    middle = len(shifts) // 2
    start, lines = shifts[middle]
    left, right = _tree(shifts[:middle], before), _tree(shifts[middle + 1 :], lines)
    return f"CASE WHEN s.rowid < {start} THEN {left} ELSE {right} END"
