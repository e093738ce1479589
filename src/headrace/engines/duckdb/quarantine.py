"""The quarantine of one refinement: every bad row, where it lay, what it broke, and its raw bytes as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, tee
from operator import itemgetter
from typing import TYPE_CHECKING

from ...core import Frame, RawInput, TableAt
from .corrections import Corrected, kept_sql, same_origin
from .frame import DuckFrame, Session, count
from .raw import as_text, records
from .stage import Staged

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
PORTION = 50_000


def fill(
    session: Session,
    staged: Staged,
    raw: Sequence[RawInput],
    odd: str,
    epoch: int,
    corrections: str | None = None,
    keyed: bool = False,
) -> int:
    """Makes table `quarantine` of the rows of `odd` and of what staging rejected; returns their number.

    `odd` has the identity of each row, its `rules` and its `fields` as JSON; `corrections` names a table of
    corrections, which know what their records looked like. `keyed`: `odd` has key and sequence as well.
    """
    con = session.con
    if corrections is None:
        none = "NULL::VARCHAR AS raw, NULL::BIGINT AS correction"
        con.execute(f"CREATE TEMP TABLE odd_rows AS SELECT *, {none} FROM {odd}")
    else:
        con.execute(
            "CREATE TEMP TABLE odd_rows AS SELECT o.*, c.raw, CASE WHEN len(c.changed) > 0 THEN c.number END "
            f"AS correction FROM {odd} o LEFT JOIN {corrections} c ON {same_origin('o', 'c')}"
        )
    con.execute("CREATE TEMP TABLE raw_texts (f VARCHAR, s VARCHAR, t TIMESTAMPTZ, l BIGINT, raw VARCHAR)")
    if count(con, "odd_rows"):
        _read_raw(con, raw)
    con.execute(
        f"CREATE TEMP TABLE quarantine AS "
        f"SELECT o._file, o._line, o._source, o._ingested_at, {epoch}::BIGINT AS _epoch, "
        f"rtrim(o.rules, ';') AS rules, coalesce(o.raw, r.raw, o.fields) AS raw, o.fields, "
        f"o.correction{', o.key, o.sequence' if keyed else ''} FROM odd_rows o LEFT JOIN raw_texts r "
        "ON r.f = o._file AND r.s = o._source AND r.l = o._line AND r.t IS NOT DISTINCT FROM o._ingested_at "
        f"UNION ALL SELECT _file, _line, _source, _ingested_at, {epoch}::BIGINT, _rule, _raw, NULL, NULL"
        f"{', NULL, NULL' if keyed else ''} FROM {staged.rejects}"
    )
    con.execute("DROP TABLE raw_texts")
    con.execute("DROP TABLE odd_rows")
    return count(con, "quarantine")


def whole(session: Session, new: Frame, quarantine: TableAt, corrected: Corrected) -> DuckFrame:
    """All of quarantine: what was there without the corrected rows, and what is bad now."""
    columns = new.columns if isinstance(new, DuckFrame) else QUARANTINE
    sql = f"SELECT * FROM quarantine UNION ALL BY NAME {kept_sql(quarantine, corrected.table, columns)}"
    return DuckFrame(session, sql, columns, count(session.con, f"({sql})"))


BREAKS = r"regexp_replace(fields, '\\\\', '', 'g')"
"""The JSON text of a row without escaped backslashes: then each `\n` in it is a line break in a field."""


def _read_raw(con: DuckDBPyConnection, raw: Sequence[RawInput]) -> None:
    """Fetches the exact lines of odd rows from their files, each read once; a portion of rows at a time."""
    files = [
        (source.source, landed, path)
        for source in raw
        for _, landed, path in source.files
        if landed.format.get("type") in LINES
    ]
    marks = [
        ("\\r" if landed.format.get("newline") == "\r" else "\\n") if landed.format.get("quoted") else None
        for _, landed, _ in files
    ]
    # one statement for all files: a statement for each costs more than all the reading where files are small
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
    breaks = f"(length({BREAKS}) - length(replace({BREAKS}, mark, ''))) // 2"
    con.execute(
        f"CREATE TEMP TABLE wanted AS SELECT p.place, o._line AS l, 1 + coalesce({breaks}, 0) AS n "
        "FROM odd_rows o JOIN raw_files p ON o._source = p.s AND o._file = p.f "
        "AND o._ingested_at IS NOT DISTINCT FROM p.t WHERE o.raw IS NULL ORDER BY p.place, o._line"
    )
    found: list[tuple[int, int, str]] = []
    for place, group in groupby(_wanted(con), itemgetter(0)):
        _, landed, path = files[place]
        encoding = str(landed.format.get("encoding") or "utf-8")
        rows, spans = tee(group)
        lines = records(path, landed.format, ((line, n) for _, line, n in spans))
        for (_, line, _), data in zip(rows, lines, strict=True):
            found.append((place, line, as_text(data, encoding)))
            if len(found) == PORTION:
                _keep(con, found)
    _keep(con, found)
    con.execute("DROP TABLE wanted")
    con.execute("DROP TABLE raw_files")


def _wanted(con: DuckDBPyConnection) -> Iterator[tuple[int, int, int]]:
    """(place of the file, first line, number of lines) of each row of `wanted`, by file and line."""
    for start in range(0, count(con, "wanted"), PORTION):
        yield from con.execute(
            f"SELECT place, l, n FROM wanted WHERE rowid >= {start} AND rowid < {start + PORTION}"
        ).fetchall()


def _keep(con: DuckDBPyConnection, found: list[tuple[int, int, str]]) -> None:
    """Moves (place, line, text) of records into `raw_texts`."""
    if found:
        con.execute(
            "INSERT INTO raw_texts SELECT p.f, p.s, p.t, u.l, u.raw FROM (SELECT unnest(?::INTEGER[]) AS "
            "place, unnest(?::BIGINT[]) AS l, unnest(?::VARCHAR[]) AS raw) u JOIN raw_files p USING (place)",
            [list(column) for column in zip(*found, strict=True)],
        )
        found.clear()


def names_of(con: DuckDBPyConnection, rules: str) -> dict[str, int]:
    """Rule → rows, over a query of one column of rule ids joined by `;`."""
    found = con.execute(
        f"SELECT rule, count(*) FROM (SELECT unnest(string_split(c, ';')) AS rule FROM ({rules}) q(c)) "
        "WHERE rule <> '' GROUP BY rule ORDER BY rule"
    ).fetchall()
    return {rule: int(rows) for rule, rows in found}
