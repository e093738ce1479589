"""The quarantine of one refinement: every bad row, where it lay, what it broke, and its raw bytes as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...core import RawInput
from .frame import Session, count, ident, text
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
}
"""The same for every table: rule ids joined by `;`, the exact line, and the staged texts as a JSON object."""
LINES = ("csv", "jsonl")
"""Formats whose records are lines of text; of others the fields are kept as the raw text."""
PORTION = 50_000
_AUDIT = ("_source", "_file", "_line", "_ingested_at", "rules")


def fill(session: Session, staged: Staged, raw: Sequence[RawInput], odd: str, epoch: int) -> int:
    """Makes table `quarantine` of the rows of `odd` and of what staging rejected; returns their number."""
    con = session.con
    columns = [row[0] for row in con.execute(f"DESCRIBE {odd}").fetchall() if row[0] not in _AUDIT]
    packed = ", ".join(f"{ident(name)} := {ident(name)}" for name in columns)
    fields = f"to_json(struct_pack({packed}))::VARCHAR" if columns else "'{}'"
    con.execute("CREATE TEMP TABLE raw_texts (f VARCHAR, s VARCHAR, t TIMESTAMPTZ, l BIGINT, raw VARCHAR)")
    if count(con, odd):
        _read_raw(con, raw, odd, columns)
    con.execute(
        f"CREATE TEMP TABLE quarantine AS "
        f"SELECT o._file, o._line, o._source, o._ingested_at, {epoch}::BIGINT AS _epoch, "
        f"rtrim(o.rules, ';') AS rules, coalesce(r.raw, {fields}) AS raw, {fields} AS fields "
        f"FROM {odd} o LEFT JOIN raw_texts r "
        "ON r.f = o._file AND r.s = o._source AND r.l = o._line AND r.t IS NOT DISTINCT FROM o._ingested_at "
        f"UNION ALL SELECT _file, _line, _source, _ingested_at, {epoch}::BIGINT, _rule, _raw, NULL "
        f"FROM {staged.rejects}"
    )
    con.execute("DROP TABLE raw_texts")
    return count(con, "quarantine")


def _read_raw(con: DuckDBPyConnection, raw: Sequence[RawInput], odd: str, columns: Sequence[str]) -> None:
    """Fetches the exact lines of odd rows from their files."""
    has_odd = set(con.execute(f"SELECT DISTINCT _source, _file FROM {odd}").fetchall())
    breaks = " + ".join(
        f"coalesce(length({ident(name)}) - length(replace({ident(name)}, chr(10), '')), 0)"
        for name in columns
    )
    for source in raw:
        for _, landed, path in source.files:
            form = landed.format
            if form.get("type") not in LINES or (source.source, landed.name) not in has_odd:
                continue
            lines = f"1 + {breaks}" if breaks and form.get("quoted") else "1"
            con.execute(
                f"CREATE OR REPLACE TEMP TABLE wanted AS SELECT _line AS l, {lines} AS n, _ingested_at AS t "
                f"FROM {odd} WHERE _source = {text(source.source)} AND _file = {text(landed.name)} "
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
