"""DuckDB's text reader: what it read of each file, and which records it refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from .parts import Part, Stage, StagedFile, ident, text

NEVER = "\ufdd0headrace\ufdd1"  # nothing is NULL: an empty field is '' and stays ''
UNQUOTED = "UNQUOTED VALUE"
RULES = {
    "TOO MANY COLUMNS": "csv.too_many_columns",
    "MISSING COLUMNS": "csv.missing_columns",
    UNQUOTED: "csv.unterminated_quote",
    "INVALID ENCODING": "csv.encoding",
    "LINE SIZE OVER MAXIMUM": "csv.line_too_long",
}
# Said where it can be, or a quoted \r is taken for the line end; DuckDB 2.0 misreads an explicit \r\n.
NEWLINES = {"\n": r"'\n'", "\r": r"'\r'"}
LINES = (
    "auto_detect=false, columns={'c0': 'VARCHAR'}, header=false, delim='\x01\x02\x03\x01', quote='', "
    "escape='', strict_mode=true"
)
"""Options that give physical lines, blank ones as NULL; the delimiter is no text."""
FAILED = (duckdb.Error, UnicodeDecodeError, RuntimeError)
"""What DuckDB raises where it cannot read a file at all."""
CUT = 9_000  # a rejected line is reported up to 10,000 characters: a longer one may have swallowed anything
LONG_LINE = 64 << 20
PIECE = 8_000_000
"""Bytes of a file that DuckDB's reader gives to a thread at a time."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that DuckDB refused: its line by DuckDB's count, byte offsets of the record and the fault."""

    line: int
    start: int
    fault: int
    kind: str
    raw: str

    @property
    def swallows(self) -> bool:
        return self.kind == "LINE SIZE OVER MAXIMUM" or (
            self.kind == UNQUOTED
            and (len(self.raw) >= CUT or "\n" in self.raw.strip("\n") or "\r" in self.raw)
        )


@dataclass(slots=True)
class Reading:
    """One file as it is being read: the bytes that DuckDB sees, and what it said about them."""

    file: StagedFile
    path: Path
    form: Mapping[str, Any]
    blanked: Sequence[int] = ()
    """Lines that a repair took out: their quote was never closed."""
    first: int = 0
    """The rowid of its first row."""
    rows: int = 0
    broken: list[Broken] = field(default_factory=list)

    @property
    def plain(self) -> bool:
        return self.path == self.file.path


def options(form: Mapping[str, Any], width: int, long: bool = False) -> str:
    """The dialect as arguments of `read_csv`: nothing is detected, all columns are text."""
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(width))
    quote = str(form.get("quote") or "")
    escape = str(form.get("escape") or quote) if quote else ""
    # With one column, a null text other than '' makes the reader skip blank lines, which are records.
    unquoted = form.get("nulls") == "unquoted" or width == 1
    parts = [
        "auto_detect=false",
        f"columns={{{columns}}}",
        f"header={'false' if form.get('header') is None else 'true'}",
        f"skip={int(form.get('skip') or 0)}",
        f"delim={text(str(form.get('delimiter') or ','))}",
        f"quote={text(quote)}",
        f"escape={text(escape)}",
        f"nullstr={text('' if unquoted else NEVER)}",
        "strict_mode=true",
        f"compression={text(str(form.get('compression') or 'none'))}",
    ]
    if form.get("nulls") == "unquoted":
        parts.append("allow_quoted_nulls=false")
    if form.get("newline") in NEWLINES:
        parts.append(f"new_line={NEWLINES[form['newline']]}")
    if long:
        parts += [f"max_line_size={LONG_LINE}", "parallel=false"]
    return ", ".join(parts)


def load(stage: Stage, part: Part, group: Sequence[Reading], query: str, opts: str) -> None:
    """Reads the group into the part's table; notes per file its rows, first rowid and rejected records.

    `query` selects from `{source}`; of several files it has the path (`filename`) as `_f`.
    """
    con, errors, scans = stage.con, stage.table("errors"), stage.table("scans")
    several = len(group) > 1
    source = (
        f"read_csv({{paths}}, {opts}{', filename=true' if several else ''}, "
        f"store_rejects=true, rejects_table={text(errors)}, rejects_scan={text(scans)})"
    )
    stage.keep(part, query.replace("{source}", source), [str(r.path) for r in group], _piece(group))
    by_path = {str(r.path): r for r in group}
    if several:
        counted = f"SELECT _f, min(rowid), count(*) FROM {ident(part.table)} GROUP BY _f"
        for path, first, rows in con.execute(counted).fetchall():
            by_path[path].first, by_path[path].rows = first, rows
    else:
        counted = f"SELECT count(*) FROM {ident(part.table)}"
        group[0].rows = con.execute(counted).fetchall()[0][0]
    refused = con.execute(
        "SELECT s.file_path, any_value(e.line), e.line_byte_position - 1, min(e.byte_position) - 1, "
        "list(e.error_type::VARCHAR ORDER BY e.byte_position), any_value(e.csv_line) "
        f"FROM {ident(errors)} e JOIN {ident(scans)} s USING (scan_id, file_id) "
        "GROUP BY s.file_path, e.line_byte_position ORDER BY 1, 3"
    ).fetchall()
    for path, line, start, fault, kinds, raw in refused:
        kind = UNQUOTED if UNQUOTED in kinds else kinds[0]
        by_path[path].broken.append(Broken(line, start, fault, kind, raw or ""))
    con.execute(f"DROP TABLE {ident(errors)}")
    con.execute(f"DROP TABLE {ident(scans)}")


def _piece(group: Sequence[Reading]) -> int:
    """Rows in a piece of these files, about; 0 if that cannot be told."""
    if any(reading.form.get("compression") for reading in group):
        return 0
    lines = sum(int(reading.form.get("lines") or 0) for reading in group)
    return PIECE * lines // (sum(reading.path.stat().st_size for reading in group) or 1)
