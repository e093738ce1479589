"""Truncations reach every older row, also one that comes later; a delete learns its row's values late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ...core import TableAt
from ...sql import TableStep
from .frame import DuckFrame, Session, casts, count, ident, native, one, table_sql, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def is_soft(step: TableStep) -> bool:
    return step.spec.changes is not None and step.spec.changes.deletes == "soft"


def told(con: DuckDBPyConnection, batch: str) -> dict[str, dict[str, int]]:
    """Source → kind of change → rows of `batch`; plain rows tell no kind."""
    found: dict[str, dict[str, int]] = {}
    kinds = f"SELECT _source, _op, count(*) FROM {batch} WHERE _op IS NOT NULL GROUP BY ALL ORDER BY ALL"
    for source, kind, rows in con.execute(kinds).fetchall():
        found.setdefault(source, {})[kind] = int(rows)
    return found


def truncations(step: TableStep, batch: str, target: TableAt | None) -> list[str]:
    """Queries of the `_sequence` and `_committed` of truncations: those that came, and the last one before.

    In the table a truncation is a deleted row without a key.
    """
    changes, first = step.spec.changes, ident(step.keys[0])
    if changes is None or changes.truncate == "ignore":
        return []
    found = [f"SELECT _sequence, _committed FROM {batch} WHERE _op = 't' AND _rules IS NULL"]
    if target is not None:
        files = [str(f.path) for f in target.files if f.nulls.get(step.keys[0], 1)]
        if files:
            old = table_sql(target, files)
            found.append(f"SELECT _sequence, _committed FROM ({old}) WHERE {first} IS NULL AND _op = 't'")
    return found


def reached(
    session: Session, step: TableStep, rows: DuckFrame, batch: str, target: TableAt | None, epoch: int
) -> tuple[DuckFrame, int]:
    """`rows`, one for each key, as truncations left them, and how many more became deleted by these."""
    sql = rows.sql
    if is_soft(step) and target is not None and target.files:
        sql = _filled(step, rows, target)
    found = truncations(step, batch, target)
    if not found:
        return replace(rows, sql=sql), 0
    last = "SELECT max(_sequence), arg_max(_committed, _sequence)::VARCHAR FROM "
    at, committed = one(session.con, f"{last}({' UNION ALL '.join(found)})")
    if at is None:
        return replace(rows, sql=sql), 0
    at = just_before(at)
    stamp = f"{text(committed)}::TIMESTAMPTZ" if committed else "NULL::TIMESTAMPTZ"
    marks = {"_deleted": "true", "_op": "'t'", "_sequence": text(at), "_committed": stamp}
    blank = {c: f"NULL::{native(step.columns[c])}" for c in step.blanks}
    key = ident(step.keys[0])
    older = f"({key} IS NOT NULL AND coalesce(_sequence < {text(at)}, true))"

    def listed(when: str, fixed: Sequence[str]) -> str:
        new = {**blank, **marks}
        return ", ".join(
            f"{new[c] if not when else f'CASE WHEN {when} THEN {new[c]} ELSE {ident(c)} END'} AS {ident(c)}"
            if c in new
            else f"{epoch}::BIGINT AS _epoch"
            if c in fixed
            else ident(c)
            for c in rows.columns
        )

    sql = f"SELECT {listed(older, ())} FROM ({sql})"
    if target is None or not target.files:
        return replace(rows, sql=sql), 0
    same = " AND ".join(f"f.{ident(k)} = o.{ident(k)}" for k in step.keys)
    old = f"SELECT {casts(rows.columns, target.columns)} FROM ({table_sql(target)})"
    more = f"SELECT * FROM ({old}) o WHERE {older} AND NOT EXISTS (SELECT 1 FROM ({rows.sql}) f WHERE {same})"
    number = count(session.con, f"({more})")
    if number:
        sql += f" UNION ALL SELECT {listed('', ('_epoch',))} FROM ({more})"
    return replace(rows, sql=sql, rows=rows.rows + number), number


def just_before(sequence: str) -> str:
    """The place of rows that a truncation deleted: behind all that is older than it, before what is not.

    A snapshot may end older rows and bring its own under one sequence: these must not lose to that end.

    >>> just_before("0A/02"), "0A/01" < just_before("0A/02") < "0A/02"
    ('0A/01~', True)
    """
    return sequence[:-1] + chr(ord(sequence[-1]) - 1) + "~"


def _filled(step: TableStep, rows: DuckFrame, target: TableAt) -> str:
    """SQL of `rows`; one that is older than its key's delete, of which no value was known, tells them."""
    values = [c for c in step.columns if c not in step.keys]
    nothing = " AND ".join(f"{ident(c)} IS NULL" for c in values) or "true"
    have = {**{key: step.columns[key] for key in step.keys}, **step.beside}
    have |= {name: step.columns[name] for name in step.sequence if name in step.columns}
    old = (
        f"SELECT {casts(have, target.columns)} FROM (SELECT * FROM ({table_sql(target)}) "
        f"WHERE _deleted AND {nothing} AND {ident(step.keys[0])} IS NOT NULL)"
    )
    same = " AND ".join(f"o.{ident(k)} = f.{ident(k)}" for k in step.keys)
    new = " OR ".join(["f._sequence IS NULL", "o._sequence > f._sequence"])
    taken = [*step.beside, *(name for name in step.sequence if name not in step.beside)]
    shown = ", ".join(
        f"CASE WHEN o._deleted THEN o.{ident(c)} ELSE f.{ident(c)} END AS {ident(c)}"
        if c in taken
        else f"f.{ident(c)}"
        for c in rows.columns
    )
    return f"SELECT {shown} FROM ({rows.sql}) f LEFT JOIN ({old}) o ON {same} AND NOT f._deleted AND ({new})"
