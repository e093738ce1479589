"""Relations of DuckDB as frames: lazy, copyable by the same engine without leaving it, Arrow for others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core import Frame, TableAt
from ...errors import ConfigError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

AUDIT = {
    "_source": "text",
    "_file": "text",
    "_line": "bigint",
    "_epoch": "bigint",
    "_ingested_at": "timestamp",
}
"""Where a row of silver came from; its last columns, in this order."""

NATIVE = {
    "boolean": "BOOLEAN",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "double": "DOUBLE",
    "date": "DATE",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "text": "VARCHAR",
    "json": "VARCHAR",
}
_WORDS = {native: word for word, native in NATIVE.items() if word != "json"} | {
    "TINYINT": "integer",
    "SMALLINT": "integer",
    "UTINYINT": "integer",
    "USMALLINT": "integer",
    "UINTEGER": "bigint",
    "UBIGINT": "decimal(20,0)",
    "HUGEINT": "decimal(38,0)",
    "FLOAT": "double",
    "TIMESTAMP": "timestamp",
    "TIMESTAMP_S": "timestamp",
    "TIMESTAMP_MS": "timestamp",
    "TIMESTAMP_NS": "timestamp",
    "JSON": "json",
    "UUID": "text",
    '"NULL"': "text",
}
_names = itertools.count(1)


def ident(name: str) -> str:
    """`name` as a quoted identifier.

    >>> ident('a "b"')
    '"a ""b""\"'
    """
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """`value` as a string literal.

    >>> text("it's")
    "'it''s'"
    """
    return "'" + value.replace("'", "''") + "'"


def native(word: str) -> str:
    """DuckDB's type for a contract's type word.

    >>> native("decimal(12,2)"), native("text")
    ('DECIMAL(12,2)', 'VARCHAR')
    """
    return NATIVE.get(word) or word.upper()


def word(native_type: str) -> str:
    """The contract's type word for a DuckDB type; nested types are `json`. Raises ConfigError on others."""
    upper = native_type.upper()
    if upper in _WORDS:
        return _WORDS[upper]
    if upper.startswith("DECIMAL("):
        return upper.lower()
    if upper.endswith("]") or upper.startswith(("STRUCT", "MAP")):
        return "json"
    if upper.startswith("ENUM"):
        return "text"
    raise ConfigError(
        f"column type {native_type} has no place in a table",
        hint="cast it to text, a number, a date or a timestamp in the step that makes the frame",
    )


class Session:
    """One DuckDB connection with its settings and variables; temporary tables are visible nowhere else."""

    dialect = "duckdb"

    def __init__(self, con: DuckDBPyConnection, row_group: int = 128 << 20) -> None:
        self.con = con
        self.row_group = row_group
        self.used = False
        con.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")  # which notebooks would see

    def set(self, name: str, value: str) -> None:
        """Gives user SQL the variable `name`."""
        self.con.execute(f"SET VARIABLE {name} = {text(value)}")

    def clear(self) -> None:
        """Drops all relations: what an earlier run made becomes unreadable, and its memory is free."""
        if not self.used:
            self.used = True  # a first look into the catalog costs more than the rest of a small run's set-up
            return
        found = self.con.execute(
            "SELECT 'VIEW', schema_name, view_name, database_name FROM duckdb_views() WHERE NOT internal "
            "UNION ALL SELECT 'TABLE', schema_name, table_name, database_name FROM duckdb_tables()"
        ).fetchall()
        for kind, schema, name, database in found:
            self.con.execute(f"DROP {kind} {ident(database)}.{ident(schema)}.{ident(name)}")


def fresh(what: str) -> str:
    """A relation name that nobody else has."""
    return f"{what}_{next(_names)}"


@dataclass(frozen=True, slots=True)
class DuckFrame:
    """Rows that a query of `session` gives, evaluated anew whenever it is read.

    As an Arrow stream it occupies the session until it is drained or released: read one at a time.
    """

    session: Session
    sql: str
    columns: Mapping[str, str]
    """Name → type in the contract's words."""
    rows: int
    one_per_key: bool = False
    """True where the engine has made sure that no two rows share a key."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.session.con.sql(self.sql).__arrow_c_stream__(requested_schema)


def relation_of(session: Session, frame: Frame) -> DuckFrame:
    """`frame` as a relation of `session`, typed in the contract's words; reads a foreign stream once.

    A foreign stream becomes a table, since it can be read only once; its rows must fit memory and spill.
    """
    if isinstance(frame, DuckFrame) and frame.session is session:
        return frame
    con, name = session.con, fresh("frame")
    con.register(f"{name}_stream", frame)
    try:
        described = con.execute(f"DESCRIBE SELECT * FROM {name}_stream").fetchall()
        columns = {row[0]: word(row[1]) for row in described}
        con.execute(f"CREATE TEMP TABLE {name} AS SELECT {_columns(columns, described)} FROM {name}_stream")
    finally:
        con.unregister(f"{name}_stream")
    rows = count(con, name)
    return DuckFrame(session, f"SELECT * FROM {name}", columns, rows)


def _columns(columns: Mapping[str, str], described: Sequence[Sequence[Any]]) -> str:
    """Nested values become JSON text; naive timestamps are UTC."""
    return ", ".join(
        f"to_json({ident(name)})::VARCHAR AS {ident(name)}"
        if columns[name] == "json" and row[1] != "JSON"
        else f"{ident(name)}::{native(columns[name])} AS {ident(name)}"
        for name, row in zip(columns, described, strict=True)
    )


def count(con: DuckDBPyConnection, relation: str) -> int:
    return int(one(con, f"SELECT count(*) FROM {relation}")[0])


def one(con: DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The single row of `sql`."""
    # fetchone would leave the result open, and an open result blocks the connection for Arrow streams
    row: tuple[Any, ...] = con.execute(sql).fetchall()[0]
    return row


def casts(columns: Mapping[str, str], have: Mapping[str, str], source: str = "") -> str:
    """A select list of `columns` in their types from a relation that has `have`; what it lacks is NULL."""
    prefix = f"{source}." if source else ""
    parts = []
    for name, kind in columns.items():
        quoted = ident(name)
        if name not in have:
            parts.append(f"NULL::{native(kind)} AS {quoted}")
        elif native(have[name]) == native(kind):
            parts.append(f"{prefix}{quoted}")
        else:
            parts.append(f"{prefix}{quoted}::{native(kind)} AS {quoted}")
    return ", ".join(parts)


def table_sql(table: TableAt, paths: Sequence[str] | None = None, *, places: bool = False) -> str:
    """A query for the rows of `table` (or of some of its files), typed as `table.columns` says.

    Files written before a column came give NULL for it. `places` adds `file_index` (in `paths`) and
    `file_row_number`.
    """
    files = [str(file.path) for file in table.files] if paths is None else list(paths)
    empty = ", ".join(f"NULL::{native(kind)} AS {ident(name)}" for name, kind in table.columns.items())
    if not files:
        return f"SELECT {empty} WHERE false"
    listed = "[" + ", ".join(text(path) for path in files) + "]"
    options = ["union_by_name=true"]
    if table.partition_by:
        types = ", ".join(f"{text(name)}: {native(table.columns[name])}" for name in table.partition_by)
        options += ["hive_partitioning=true", f"hive_types={{{types}}}"]
    else:
        options.append("hive_partitioning=false")
    extra = ", file_index, file_row_number" if places else ""
    none = ", NULL::UBIGINT AS file_index, NULL::BIGINT AS file_row_number" if places else ""
    listing = ", ".join(ident(name) for name in table.columns)
    return (
        f"SELECT {listing}{extra} FROM (SELECT {empty}{none} WHERE false UNION ALL BY NAME "
        f"SELECT *{extra} FROM read_parquet({listed}, {', '.join(options)}))"
    )
