"""The quarantine of one refinement: every bad row, where it lay, what it broke, and its raw bytes as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...core import RawInput
from .corrections import same_origin
from .frame import Session, count, text
from .raw import as_text, raw_lines
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
) -> int:
    """Makes table `quarantine` of the rows of `odd` and of what staging rejected; returns their number.

    `odd` has the identity of each row, its `rules` and its `fields` as JSON; `corrections` names a table of
    corrections, which know what their records looked like.
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
        f"rtrim(o.rules, ';') AS rules, coalesce(o.raw, r.raw, o.fields) AS raw, o.fields, o.correction "
        f"FROM odd_rows o LEFT JOIN raw_texts r "
        "ON r.f = o._file AND r.s = o._source AND r.l = o._line AND r.t IS NOT DISTINCT FROM o._ingested_at "
        f"UNION ALL SELECT _file, _line, _source, _ingested_at, {epoch}::BIGINT, _rule, _raw, NULL, NULL "
        f"FROM {staged.rejects}"
    )
    con.execute("DROP TABLE raw_texts")
    con.execute("DROP TABLE odd_rows")
    return count(con, "quarantine")


BREAKS = r"regexp_replace(fields, '\\\\', '', 'g')"
"""The JSON text of a row without escaped backslashes: then each `\n` in it is a line break in a field."""


def _read_raw(con: DuckDBPyConnection, raw: Sequence[RawInput]) -> None:
    """Fetches the exact lines of odd rows from their files."""
    has_odd = set(con.execute("SELECT DISTINCT _source, _file FROM odd_rows WHERE raw IS NULL").fetchall())
    for source in raw:
        for _, landed, path in source.files:
            form = landed.format
            if form.get("type") not in LINES or (source.source, landed.name) not in has_odd:
                continue
            mark = r"\r" if form.get("newline") == "\r" else r"\n"
            breaks = f"(length({BREAKS}) - length(replace({BREAKS}, '{mark}', ''))) // 2"
            lines = f"1 + coalesce({breaks}, 0)" if form.get("quoted") else "1"
            con.execute(
                f"CREATE OR REPLACE TEMP TABLE wanted AS SELECT _line AS l, {lines} AS n "
                f"FROM odd_rows WHERE raw IS NULL AND _source = {text(source.source)} "
                f"AND _file = {text(landed.name)} "
                f"AND _ingested_at IS NOT DISTINCT FROM {text(landed.arrived)}::TIMESTAMPTZ ORDER BY l"
            )
            total = count(con, "wanted")
            for start in range(0, total, PORTION):
                wanted = con.execute(
                    f"SELECT l, n FROM wanted WHERE rowid >= {start} AND rowid < {start + PORTION}"
                ).fetchall()
                found = raw_lines(path, form, wanted)
                encoding = str(form.get("encoding") or "utf-8")
                con.execute(
                    f"INSERT INTO raw_texts SELECT {text(landed.name)}, {text(source.source)}, "
                    f"{text(landed.arrived)}::TIMESTAMPTZ, unnest(?::BIGINT[]), unnest(?::VARCHAR[])",
                    [[line for line, _ in wanted], [as_text(line, encoding) for line in found]],
                )
    con.execute("DROP TABLE IF EXISTS wanted")


def names_of(con: DuckDBPyConnection, rules: str) -> dict[str, int]:
    """Rule → rows, over a query of one column of rule ids joined by `;`."""
    found = con.execute(
        f"SELECT rule, count(*) FROM (SELECT unnest(string_split(c, ';')) AS rule FROM ({rules}) q(c)) "
        "WHERE rule <> '' GROUP BY rule ORDER BY rule"
    ).fetchall()
    return {rule: int(rows) for rule, rows in found}
