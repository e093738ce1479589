"""Contracts bound against empty tables: what only DuckDB can tell of their SQL, before anything is read."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ConfigError
from ...sql import TableStep, checked_sql, expectations
from ...sql.windows import WindowStep
from .frame import AUDIT, Session, ident, native
from .windows import types_of


def validate(steps: Mapping[str, TableStep], chosen: Mapping[str, str]) -> None:
    """Raises `ConfigError` for the first of `chosen` (table → where it is defined) whose SQL does not bind.

    `steps` holds all tables of the pipeline, for foreign keys.
    """
    import duckdb

    with tempfile.TemporaryDirectory() as scratch:
        con = duckdb.connect(
            config={"temp_directory": str(Path(scratch)), "autoinstall_known_extensions": False}
        )
        try:
            session = Session(con)
            session.set("headrace_now", "2026-01-01T00:00:00Z")
            session.set("headrace_pii_key", "")
            for name, where in chosen.items():
                session.clear()
                try:
                    _bind(session, steps[name], steps)
                except duckdb.Error as error:
                    told = str(error).split("\n\nLINE")[0].split("\n")[0]
                    raise ConfigError(
                        f"table `{name}`: its rules do not fit its types: {told}",
                        hint="compare the types in `columns` with what rules, derive, filter and expect do",
                        where=where or None,
                    ) from error
        finally:
            con.close()


def validate_windows(steps: Sequence[WindowStep]) -> None:
    """Raises `ConfigError` for the first stream whose SQL does not bind, or would not be exact."""
    import duckdb

    with duckdb.connect(config={"autoinstall_known_extensions": False}) as con:
        for step in steps:
            types_of(Session(con), step)


def _bind(session: Session, step: TableStep, steps: Mapping[str, TableStep]) -> None:
    con = session.con
    texts = [f"{ident(name)} VARCHAR" for name in step.inputs]
    audit = [f"{name} {native(word)}" for name, word in AUDIT.items() if name != "_epoch"]
    con.execute(f"CREATE TEMP TABLE staged ({', '.join([*texts, *audit])})")
    for reference in step.references:
        columns = {**steps[reference.table].columns, **AUDIT}
        listed = ", ".join(f"{ident(name)} {native(word)}" for name, word in columns.items())
        con.execute(f"CREATE OR REPLACE TEMP TABLE {ident('ref_' + reference.table)} ({listed})")
    con.execute(f"CREATE TEMP TABLE checked AS {checked_sql(step)}")
    for expected in expectations(step, "duckdb", "checked"):
        con.execute(expected.sql).fetchall()
