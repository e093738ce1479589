"""Corrections of quarantined rows, put in the places of what had landed, before the checks.

A correction names its origin (source, file, line, arrival), gives all fields as texts, and says which of
them it changed. Where the record itself is read again, only the changed ones count: a column that the
contract has learned of since comes from the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import RawInput, TableAt
from ...sql import TableStep
from .frame import Session, casts, count, fresh, ident, table_sql, text
from .shape import shape_of
from .staging.stage import Staged, stage

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from .engine import DuckEngine

ORIGIN = ("_source", "_file", "_line", "_ingested_at")
"""What identifies a record of bronze, in silver and in quarantine."""
LINE = {
    "_source": "VARCHAR",
    "_file": "VARCHAR",
    "_line": "BIGINT",
    "_ingested_at": "VARCHAR",
    "fields": "JSON",
    "changed": "VARCHAR[]",
    "raw": "VARCHAR",
    "by": "VARCHAR",
    "at": "VARCHAR",
    "reason": "VARCHAR",
    "how": "VARCHAR",
}
"""One correction, as a line of JSON in bronze."""
OBJECT = 16 << 20
"""Bytes of a line that DuckDB reads unasked."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """Staged rows with the corrections in them; `table` has the newest correction of each origin."""

    staged: Staged
    table: str
    rows: int
    superseded: int


def same_origin(one: str, other: str) -> str:
    """SQL: rows `one` and `other` are of the same record."""
    known = [f"{one}.{name} = {other}.{name}" for name in ("_line", "_file", "_source")]
    return " AND ".join([*known, f"{one}._ingested_at IS NOT DISTINCT FROM {other}._ingested_at"])


def field(column: str, fields: str = "fields") -> str:
    """SQL of one field's text in a JSON object of fields; NULL where it has none."""
    path = text(f'$."{column}"')
    return f"({fields} ->> {path})"


def lines_sql(given: RawInput) -> str:
    """SQL of every correction in `given`, a row each, with the commit that landed it as `number`."""
    typed = ", ".join(f"NULL::{kind} AS {ident(name)}" for name, kind in LINE.items())
    if not given.files:
        source = f"SELECT {typed}, 0::BIGINT AS number WHERE false"
    else:
        columns = ", ".join(f"{text(name)}: {text(kind)}" for name, kind in LINE.items())
        paths = ", ".join(text(str(path)) for _, _, path in given.files)
        known = ", ".join(f"({text(str(path))}, {epoch})" for epoch, _, path in given.files)
        longest = max(int(item.format.get("longest") or 0) for _, item, _ in given.files)
        source = (
            f"SELECT j.* EXCLUDE (filename), f.number::BIGINT AS number FROM read_json([{paths}], "
            f"columns={{{columns}}}, format='newline_delimited', filename=true, hive_partitioning=false, "
            f"maximum_object_size={max(OBJECT, 2 * longest)}) j "
            f"JOIN (VALUES {known}) f(path, number) ON j.filename = f.path"
        )
    return f"SELECT * REPLACE (_ingested_at::TIMESTAMPTZ AS _ingested_at) FROM ({source})"


def newest_into(con: DuckDBPyConnection, given: RawInput, table: str) -> None:
    """Makes `table` of the newest correction of each origin."""
    con.execute(
        f"CREATE TEMP TABLE {table} AS SELECT * FROM ({lines_sql(given)}) QUALIFY row_number() OVER "
        f"(PARTITION BY {', '.join(ORIGIN)} ORDER BY number DESC) = 1"
    )


def strays(session: Session, quarantine: TableAt, given: RawInput) -> int:
    """How many corrections are of records that are not in quarantine: only a rebuild can apply these."""
    table = fresh("corrections")
    newest_into(session.con, given, table)
    if quarantine.version < 0:
        return count(session.con, table)
    there = f"SELECT 1 FROM ({table_sql(quarantine)}) q WHERE {same_origin('q', 'c')}"
    return count(session.con, f"{table} c WHERE NOT EXISTS ({there})")


def history(session: Session, given: RawInput, live: Mapping[tuple[str, str], str]) -> list[tuple[Any, ...]]:
    """Each landed correction: number, when, who, how, why, rows, and those that still apply.

    A row no longer applies once a newer correction of its record, or a newer version of its file (`live`: its
    arrival by source and name), has landed.
    """
    con = session.con
    lines, known = fresh("lines"), fresh("live")
    con.execute(f"CREATE TEMP TABLE {lines} AS {lines_sql(given)}")
    con.execute(
        f"CREATE TEMP TABLE {known} AS SELECT unnest(?::VARCHAR[]) AS s, unnest(?::VARCHAR[]) AS f, "
        "unnest(?::VARCHAR[])::TIMESTAMPTZ AS t",
        [[s for s, _ in live], [f for _, f in live], list(live.values())],
    )
    partition = ", ".join(f"c.{name}" for name in ORIGIN)
    return con.execute(
        'SELECT number, any_value("at"), any_value("by"), any_value(how), any_value(reason), count(*), '
        "count(*) FILTER (newest AND t = _ingested_at) FROM (SELECT c.*, k.t, row_number() OVER "
        f"(PARTITION BY {partition} ORDER BY c.number DESC) = 1 AS newest FROM {lines} c "
        f"LEFT JOIN {known} k ON k.s = c._source AND k.f = c._file) GROUP BY number ORDER BY number"
    ).fetchall()


def passed(session: Session, given: RawInput, out: Path) -> int:
    """Writes the corrections to `out` whose rows are not in the quarantine of this refinement; how many."""
    con, table = session.con, fresh("passed")
    lines = f"SELECT * EXCLUDE (number) FROM ({lines_sql(given)})"
    bad = f"SELECT 1 FROM quarantine q WHERE {same_origin('q', 'c')}"
    con.execute(f"CREATE TEMP TABLE {table} AS SELECT * FROM ({lines}) c WHERE NOT EXISTS ({bad})")
    stamp = "strftime(_ingested_at, '%Y-%m-%dT%H:%M:%S.%fZ') AS _ingested_at"
    con.execute(
        f"COPY (SELECT * REPLACE ({stamp}) FROM {table} ORDER BY _source, _file, _line) "
        f"TO {text(str(out))} (FORMAT json)"
    )
    return count(con, table)


def correct(
    engine: DuckEngine,
    step: TableStep,
    staged: Staged,
    raw: Sequence[RawInput],
    given: RawInput,
    quarantine: TableAt | None,
    again: str = "",
) -> Corrected:
    """`staged` with each corrected record in place of what was read of it.

    With `quarantine`, the corrected records were read in an earlier epoch and come in addition; without,
    those not among the staged ones are left out: their file is not part of this, or has a newer version.
    `again` is a query of quarantined rows that go through once more as they are.
    """
    con = engine.session.con
    table, texts, rows, rejects = (fresh(what) for what in ("corrections", "texts", "corrected", "rejects"))
    newest_into(con, given, table)
    if again:
        here = f"SELECT 1 FROM {table} c WHERE {same_origin('c', 'a')}"
        con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM ({again}) a WHERE NOT EXISTS ({here})")
    columns = list(step.inputs)
    superseded = 0
    if quarantine is None:
        con.execute(f"DELETE FROM {table} WHERE len(changed) = 0")  # a replay: the record speaks for itself
        found = _find(con, table, staged)
        superseded = count(con, found)
        _reread(engine, step, found, raw)
        con.execute(f"CREATE TEMP TABLE {texts} AS {_overlaid(table, found, columns)}")
    else:
        whole = ", ".join([*(f"{field(name)} AS {ident(name)}" for name in columns), *ORIGIN])
        con.execute(f"CREATE TEMP TABLE {texts} AS SELECT {whole} FROM {table}")
    typed = shape_of(step, engine.session.dialect).sql(f"SELECT * FROM {texts}", columns, ORIGIN)
    con.execute(f"CREATE TEMP TABLE {rows}_typed AS {typed}")
    lost = f"SELECT 1 FROM {table} c WHERE {same_origin('c', 's')}"
    con.execute(
        f"CREATE TEMP VIEW {rows} AS SELECT * FROM {staged.relation} s WHERE NOT EXISTS ({lost}) "
        f"UNION ALL BY NAME SELECT * FROM {rows}_typed"
    )
    con.execute(f"CREATE TEMP TABLE {rejects} AS SELECT * FROM {staged.rejects} s WHERE NOT EXISTS ({lost})")
    return Corrected(Staged(rows, rejects, staged.records), table, count(con, texts), superseded)


def _find(con: DuckDBPyConnection, table: str, staged: Staged) -> str:
    """Makes and names a table of the staged records that have corrections, with their fields where known."""
    name = fresh("found")
    listed = ", ".join(f"s.{each}" for each in ORIGIN)
    on = same_origin("c", "s")
    con.execute(
        f"CREATE TEMP TABLE {name} AS SELECT {listed}, s._fields AS fields, false AS rejected "
        f"FROM {staged.relation} s JOIN {table} c ON {on} "
        f"UNION ALL SELECT {listed}, NULL, true FROM {staged.rejects} s JOIN {table} c ON {on}"
    )
    return name


def _reread(engine: DuckEngine, step: TableStep, found: str, raw: Sequence[RawInput]) -> None:
    """Fills in the fields of records that are good as they came: staging keeps texts of broken ones only."""
    con = engine.session.con
    missing = f"{found} WHERE fields IS NULL AND NOT rejected"
    files = set(con.execute(f"SELECT DISTINCT _source, _file FROM {missing}").fetchall())
    if not files:
        return
    some = [
        RawInput(each.source, [file for file in each.files if (each.source, file[1].name) in files])
        for each in raw
    ]
    contract = step.spec.contract
    again = stage(
        con,
        some,
        step.inputs,
        evolved=step.optional,
        flat=[name for name, column in contract.columns.items() if column.type == "text"],
        json=[name for name, column in contract.columns.items() if column.type == "json"],
        case=contract.header_case,
        on_new=contract.on_new_column,
        on_missing=contract.on_missing_column,
        into=fresh("reread"),
        scratch=engine.scratch,
    )
    packed = ", ".join(f"{ident(name)} := s.{ident(name)}" for name in step.inputs)
    con.execute(
        f"UPDATE {found} SET fields = to_json(struct_pack({packed}))::VARCHAR "
        f"FROM {again.relation} s WHERE {same_origin(found, 's')} AND {found}.fields IS NULL"
    )


def _overlaid(table: str, found: str, columns: Sequence[str]) -> str:
    """SQL of the found records with the changed fields in them; of a reject nothing else is known."""
    listed = [
        f"CASE WHEN f.rejected OR list_contains(c.changed, {text(name)}) THEN {field(name, 'c.fields')} "
        f"ELSE {field(name, 'f.fields')} END AS {ident(name)}"
        for name in columns
    ]
    origin = [f"f.{name}" for name in ORIGIN]
    return f"SELECT {', '.join([*listed, *origin])} FROM {found} f JOIN {table} c ON {same_origin('c', 'f')}"


def kept_sql(quarantine: TableAt, table: str, columns: Mapping[str, str]) -> str:
    """SQL of the rows of `quarantine` that have no correction in `table`."""
    corrected = f"SELECT 1 FROM {table} c WHERE {same_origin('c', 'q')}"
    listed = casts(columns, quarantine.columns, "q")
    return f"SELECT {listed} FROM ({table_sql(quarantine)}) q WHERE NOT EXISTS ({corrected})"
