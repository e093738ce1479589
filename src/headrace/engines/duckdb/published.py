"""What external targets get: the rows that readers see, and exactly what takes one version to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...core import GONE, Frame, TableAt
from .frame import DuckFrame, Session, count, fresh, ident, one, relation_of, text, word
from .views import view_sql

QUIET = ("_epoch", "_ingested_at")
"""When a row was computed: a rebuild changes it and nothing of what the row says."""


def visible(session: Session, at: TableAt) -> DuckFrame:
    """All rows that a reader sees of `at`: neither tombstones nor, of changes, versions that are over."""
    sql = view_sql(at.table, at)
    described = session.con.execute(f"DESCRIBE {sql}").fetchall()
    columns = {row[0]: at.columns.get(row[0]) or word(row[1]) for row in described}
    return DuckFrame(session, sql, columns, count(session.con, f"({sql})"))


def changed(session: Session, old: TableAt, new: TableAt, keys: Sequence[str]) -> DuckFrame | None:
    """Rows of `new` that a reader of `old` does not have, and keys of rows that are gone (`GONE` is true).

    Both have the same columns. Files that both have hold the same rows and are not read, except where what is
    seen of a row depends on others. Without keys, rows can only be added: None if some are gone.
    """
    if not (new.following and new.following.history):
        shared = {file.path for file in old.files} & {file.path for file in new.files}
        old = replace(old, files=[file for file in old.files if file.path not in shared])
        new = replace(new, files=[file for file in new.files if file.path not in shared])
    before, after = visible(session, old), visible(session, new)
    sql = _keyed(before, after, keys) if keys else _added(before, after)
    if sql is None:
        return None
    name = fresh("changed")
    session.con.execute(f"CREATE TEMP TABLE {name} AS {sql}")
    columns = {**after.columns, GONE: "boolean"}
    return DuckFrame(session, f"SELECT * FROM {name}", columns, count(session.con, name))


def _keyed(before: DuckFrame, after: DuckFrame, keys: Sequence[str]) -> str:
    on = " AND ".join(f"o.{ident(key)} IS NOT DISTINCT FROM n.{ident(key)}" for key in keys)
    said = [name for name in after.columns if name not in (*keys, *QUIET)]
    differs = " OR ".join(f"o.{ident(name)} IS DISTINCT FROM n.{ident(name)}" for name in said) or "false"
    listed = ", ".join(f"n.{ident(name)}" for name in after.columns)
    left = ", ".join(f"o.{ident(key)}" for key in keys)
    return (
        f"WITH o AS (SELECT *, true AS _headrace_was FROM ({before.sql})), n AS ({after.sql}) "
        f"SELECT {listed}, false AS {GONE} FROM n LEFT JOIN o ON {on} "
        f"WHERE o._headrace_was IS NULL OR {differs} "
        f"UNION ALL BY NAME SELECT {left}, true AS {GONE} FROM o ANTI JOIN n ON {on}"
    )


def _added(before: DuckFrame, after: DuckFrame) -> str | None:
    """Rows as a multiset: those that `after` has more often; None if it has any less often."""
    listed = ", ".join(ident(name) for name in after.columns)
    if not before.rows:
        return f"SELECT {listed}, false AS {GONE} FROM ({after.sql})"
    said = ", ".join(ident(name) for name in after.columns if name not in QUIET)
    counted = (
        f"SELECT sum(_headrace_n) AS n FROM (SELECT {said}, 1 AS _headrace_n FROM ({after.sql}) "
        f"UNION ALL SELECT {said}, -1 FROM ({before.sql})) GROUP BY {said} HAVING n < 0 LIMIT 1"
    )
    if after.session.con.execute(counted).fetchall():
        return None
    numbered = f"row_number() OVER (PARTITION BY {said}) AS _headrace_n"
    return (
        f"SELECT {listed}, false AS {GONE} FROM (SELECT {listed}, {numbered} FROM ({after.sql})) n "
        f"ANTI JOIN (SELECT {said}, {numbered} FROM ({before.sql})) o ON n._headrace_n = o._headrace_n AND "
        + " AND ".join(
            f"n.{ident(name)} IS NOT DISTINCT FROM o.{ident(name)}"
            for name in after.columns
            if name not in QUIET
        )
    )


def lines(session: Session, frame: Frame, path: Path) -> int:
    """Writes `frame` as CSV without a header: NULL is nothing, an empty text is quoted; how many rows."""
    sql = relation_of(session, frame).sql
    options = """FORMAT csv, HEADER false, DELIMITER ',', QUOTE '"', ESCAPE '"', NULLSTR ''"""
    return int(one(session.con, f"COPY ({sql}) TO {text(str(path))} ({options})")[0])


def with_nul(session: Session, frame: Frame) -> Mapping[str, int]:
    """Columns whose texts hold NUL, and in how many rows."""
    typed = relation_of(session, frame)
    names = [name for name, kind in typed.columns.items() if kind in ("text", "json")]
    if not names:
        return {}
    counts = ", ".join(f"count(*) FILTER (contains({ident(name)}, chr(0)))" for name in names)
    found = one(session.con, f"SELECT {counts} FROM ({typed.sql})")
    return {name: number for name, number in zip(names, found, strict=True) if number}
