"""The lake as a database: views over pinned files for dbt and for `headrace query`, which can only read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import TableAt
from ...errors import ConfigError
from .followed import followed_sql
from .frame import ident, table_sql, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Schemas = Mapping[str, Mapping[str, TableAt | str]]
"""Schema → name → a table at a version, or the SQL of a view over the others."""
Private = Mapping[str, Mapping[str, Sequence[str]]]
"""Schema → quarantine → the fields that hold personal data."""
HIDDEN = "***"
PORTION = 1_000


def publish(database: Path, schemas: Schemas) -> None:
    """Makes the DuckDB file `database` show exactly these views in these schemas, and keeps the rest.

    A view reads the files of one version of its table: it stays as it is until it is published again.
    """
    import duckdb

    with duckdb.connect(str(database)) as con:
        con.execute("SET TimeZone = 'UTC'")
        _define(con, schemas)


def _define(con: DuckDBPyConnection, schemas: Schemas, private: Private | None = None) -> None:
    for schema, tables in schemas.items():
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {ident(schema)}")
        old = con.execute(
            "SELECT view_name FROM duckdb_views() "
            "WHERE schema_name = ? AND database_name = current_database()",
            [schema],
        ).fetchall()
        for (name,) in old:
            if name not in tables:
                con.execute(f"DROP VIEW {ident(schema)}.{ident(name)}")
        for name, table in tables.items():
            sql = view_sql(name, table)
            if fields := (private or {}).get(schema, {}).get(name):
                keyed = isinstance(table, TableAt) and "key" in table.columns
                sql = _hiding(sql, fields, keyed=keyed)
            con.execute(f"CREATE OR REPLACE VIEW {ident(schema)}.{ident(name)} AS {sql}")


def _hiding(sql: str, fields: Sequence[str], *, keyed: bool) -> str:
    """The rows of a quarantine without their raw text, which nobody can search for all that is personal."""
    patches = []
    for name in fields:
        given = f"coalesce(json_extract_string(fields, {text('$.' + ident(name))}), '') <> ''"
        patches.append(f"CASE WHEN {given} THEN {text(json.dumps({name: HIDDEN}))} ELSE '{{}}' END")
    patched = f"json_merge_patch(fields, {', '.join(patches)})::VARCHAR"
    shown = f"CASE WHEN fields IS NOT NULL THEN {patched} END"
    raw = f"CASE WHEN raw IS NOT NULL THEN {text(HIDDEN)} END"
    key = f", {text(HIDDEN)} AS key" if keyed else ""
    return f"SELECT * REPLACE ({raw} AS raw, {shown} AS fields{key}) FROM ({sql})"


def view_sql(name: str, table: TableAt | str) -> str:
    """What a reader sees of a table: rows that are not deleted; a history shows deletions as well."""
    if isinstance(table, str):
        return table
    if not table.columns:
        raise ConfigError(
            f"table `{name}` has no columns yet", hint="`headrace run` makes it; leave it out of the views"
        )
    if table.following:
        return followed_sql(table, table.following)
    sql = table_sql(table)
    if "_deleted" in table.columns and not name.endswith("_history"):
        return f"SELECT * EXCLUDE (_deleted) FROM ({sql}) WHERE NOT coalesce(_deleted, false)"
    return sql


def query(
    schemas: Schemas,
    sql: str,
    *,
    attach: Mapping[str, Path] | None = None,
    memory: str = "1GB",
    scratch: Path | None = None,
    private: Private | None = None,
) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Column names and rows of one SELECT over the views (and `attach`ed DuckDB files, by name).

    It can read these tables and nothing else: other statements, other files and settings are refused with
    ConfigError. Rows are fetched as they are asked for. Of quarantines in `private` the raw text and the
    named fields are hidden.
    """
    import duckdb

    con = duckdb.connect(":memory:", config={"memory_limit": memory, "autoinstall_known_extensions": False})
    try:
        if scratch:
            con.execute(f"SET temp_directory = {text(str(scratch))}")
        con.execute("SET TimeZone = 'UTC'")
        for name, path in (attach or {}).items():
            con.execute(f"ATTACH {text(str(path))} AS {ident(name)} (READ_ONLY)")
        _define(con, schemas, private)
        files = [str(f.path) for views in schemas.values() for t in views.values() for f in _files(t)]
        con.execute(f"SET allowed_paths = [{', '.join(text(path) for path in files)}]")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
        statements = con.extract_statements(sql)
        allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
        if len(statements) != 1 or statements[0].type not in allowed:
            raise ConfigError(
                f"`{sql.strip()[:80]}` is not one SELECT",
                hint="query reads the lake; tables change by `headrace run` only",
            )
        result = con.execute(statements[0])
        names = [column[0] for column in result.description or []]
        return names, _rows(con)
    except duckdb.Error as error:
        con.close()
        named = (f"{schema}.{name}" for schema, tables in schemas.items() for name in tables)
        known = ", ".join(name.removeprefix("main.") for name in named)
        raise ConfigError(f"query: {str(error).strip()}", hint=f"tables: {known}") from error
    except ConfigError:
        con.close()
        raise


def _files(table: TableAt | str) -> Sequence[Any]:
    return () if isinstance(table, str) else table.files


def _rows(con: DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    import duckdb

    try:
        while rows := con.fetchmany(PORTION):
            yield from rows
    except duckdb.Error as error:
        raise ConfigError(f"query: {str(error).strip()}", hint="a value did not fit; try try_cast") from error
    finally:
        con.close()
