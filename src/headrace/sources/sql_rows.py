"""Tables of any database: quoted by its own dialect, read in the order of keys, every value as exact text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.engine.default import DefaultDialect

from ..errors import ConfigError, MissingExtra, TransientError

_FETCH = 5_000
"""Rows that cross the line at once."""


@dataclass(frozen=True, slots=True)
class Shape:
    columns: Sequence[str]
    key: Sequence[str]
    """Of the primary key; empty if there is none."""


class Database(Protocol):
    def shape(self, table: str) -> Shape:
        """Raises `LookupError` if there is no such table."""
        ...

    def rows(self, query: sa.Select[Any]) -> Iterator[Sequence[Any]]:
        """Streamed: what the server has is never held as a whole."""
        ...

    def close(self) -> None: ...


@contextmanager
def connected(url: str, root: Path) -> Iterator[Database]:
    """The database of `url`, only read; errors of its driver in our words, without the URL's secrets."""
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError:
        raise ConfigError(
            "the database's URL cannot be read", hint="such as postgresql+psycopg://user@host/db"
        ) from None
    where = f"{parsed.get_backend_name()}://{parsed.host or ''}/{parsed.database or ''}"
    path = root / Path(parsed.database).expanduser() if parsed.database else None
    if parsed.get_backend_name() in ("sqlite", "duckdb"):
        if path is None or not path.is_file():
            raise ConfigError(f"there is no database file {parsed.database}", hint="correct `url`")
        parsed = parsed.set(database=str(path))
    database: Database | None = None
    try:
        if parsed.get_backend_name() == "duckdb":
            database = _Duck(str(path))
        else:
            database = _Alchemy(sa.create_engine(parsed, poolclass=sa.pool.NullPool, hide_parameters=True))
        yield database
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise MissingExtra(
            f"{where} needs a driver that is not installed: {error}",
            hint="pip install psycopg, pymysql, or whichever SQLAlchemy names for this database",
        ) from None
    except sa.exc.DBAPIError as error:
        raise _of(error, where, parsed.password) from None
    finally:
        if database is not None:
            database.close()


def _of(error: sa.exc.DBAPIError, where: str, password: object) -> ConfigError | TransientError:
    said = str(error.orig).strip().partition("\n")[0]
    if password:
        said = said.replace(str(password), "***")
    if isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError)) or error.connection_invalidated:
        wrong = ("password", "authentication", "access denied", "role", "does not exist", "unknown database")
        if not any(word in said.lower() for word in wrong):
            return TransientError(f"{where}: {said}", hint="is the database up?")
    return ConfigError(f"{where}: {said}", hint="check `url`, `tables`, and the rights of its user")


@dataclass
class _Alchemy:
    engine: sa.Engine

    def shape(self, table: str) -> Shape:
        schema, _, name = table.rpartition(".")
        inspector = sa.inspect(self.engine)
        try:
            columns = inspector.get_columns(name, schema or None)
            key = inspector.get_pk_constraint(name, schema or None)
        except sa.exc.NoSuchTableError:
            raise LookupError(table) from None
        return Shape([column["name"] for column in columns], list(key.get("constrained_columns") or ()))

    def rows(self, query: sa.Select[Any]) -> Iterator[Sequence[Any]]:
        with self.engine.connect() as connection:
            streamed = connection.execution_options(stream_results=True, max_row_buffer=_FETCH)
            with streamed.execute(query) as result:
                for part in result.partitions(_FETCH):
                    yield from cast(Sequence[Sequence[Any]], part)

    def close(self) -> None:
        self.engine.dispose()


class _Duck:
    """DuckDB without a dialect for SQLAlchemy: its SQL is compiled by the standard one."""

    dialect: Dialect = DefaultDialect(paramstyle="qmark")

    def __init__(self, path: str) -> None:
        import duckdb

        self._error = duckdb.Error
        try:
            self._connection = duckdb.connect(path, read_only=True)
        except duckdb.Error as error:
            raise TransientError(f"{path}: {error}", hint="does another process write it?") from None

    def shape(self, table: str) -> Shape:
        schema, _, name = table.rpartition(".")
        schema = schema or "main"
        ask = self._connection.execute
        columns = ask(
            "select column_name from duckdb_columns() where schema_name = ? and table_name = ? "
            "order by column_index",
            [schema, name],
        ).fetchall()
        if not columns:
            raise LookupError(table)
        keys = ask(
            "select constraint_column_names from duckdb_constraints() "
            "where schema_name = ? and table_name = ? and constraint_type = 'PRIMARY KEY'",
            [schema, name],
        ).fetchall()
        return Shape([row[0] for row in columns], list(keys[0][0]) if keys else [])

    def rows(self, query: sa.Select[Any]) -> Iterator[Sequence[Any]]:
        compiled = query.compile(dialect=self.dialect)
        values = [compiled.params[name] for name in compiled.positiontup or ()]
        cursor = self._connection.cursor()
        try:
            cursor.execute(str(compiled), values)
            while part := cursor.fetchmany(_FETCH):
                yield from part
        except self._error as error:
            raise ConfigError(f"the query failed: {error}", hint="check the table's settings") from None
        finally:
            cursor.close()

    def close(self) -> None:
        self._connection.close()


def select(
    table: str,
    columns: Sequence[str],
    order: Sequence[str],
    *,
    after: Sequence[Any] = (),
    least: tuple[str, Any] | None = None,
    until: Sequence[Any] = (),
    present: str | None = None,
    limit: int | None = None,
) -> sa.Select[Any]:
    """`columns` of rows above the values `after` of `order`, at most `until`, in the order of `order`.

    Rows without a value of `present` are left out.

    Names are always quoted: they may be words of SQL, or hold any character.
    """
    schema, _, name = table.rpartition(".")
    source = sa.table(
        sa.quoted_name(name, True),
        *(sa.column(sa.quoted_name(column, True)) for column in dict.fromkeys([*columns, *order])),
        schema=sa.quoted_name(schema, True) if schema else None,
    )
    by_name = {column.name: column for column in source.columns}
    keys = [by_name[column] for column in order]
    query = sa.select(*(by_name[column] for column in columns)).order_by(*keys)
    if after:
        query = query.where(_beyond(keys, after))
    if until:
        query = query.where(sa.not_(_beyond(keys, until)))
    if present is not None:
        query = query.where(by_name[present].is_not(None))
    if least is not None:
        query = query.where(by_name[least[0]] >= least[1])
    return query if limit is None else query.limit(limit)


def _beyond(keys: Sequence[Any], values: Sequence[Any]) -> Any:
    """(a, b) > (x, y), spelt out: not every database compares rows."""
    cases = []
    for place, (key, value) in enumerate(zip(keys, values, strict=True)):
        same = [keys[before] == values[before] for before in range(place)]
        cases.append(sa.and_(*same, key > value))
    return sa.or_(*cases)


def line(names: Sequence[str], row: Sequence[Any]) -> bytes:
    """One row as a line of JSON: numbers exact, NULL as null, all else as text (bytes in hexadecimal)."""
    try:
        text = json.dumps(
            dict(zip(names, row, strict=True)), default=exact, allow_nan=False, ensure_ascii=False
        )
        return f"{text}\n".encode()
    except ValueError:  # not a number, infinite, or a lone surrogate
        values = [exact(value) if _odd(value) else value for value in row]
        text = json.dumps(dict(zip(names, values, strict=True)), default=exact)
        return f"{text}\n".encode()


def _odd(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def exact(value: Any) -> str:
    """Exact text of a value that JSON has no word for.

    >>> exact(Decimal("1E+2")), exact(datetime(2026, 1, 2, 3, 4, 5, 60)), exact(b"\\x00ab")
    ('100', '2026-01-02 03:04:05.000060', '006162')
    """
    if isinstance(value, float):
        return "NaN" if value != value else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value // timedelta(microseconds=1)} microseconds"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return ",".join(sorted(map(str, value)))
    return str(value)


def kept(value: Any) -> Any:
    """A key or watermark as JSON, so that `given` makes the same of it again."""
    for name, (kind, write, _) in _KEPT.items():
        if type(value) is kind:
            return {name: write(value)}
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return value
    raise ConfigError(
        f"values of type {type(value).__name__} are no key",
        hint="choose a key or watermark of numbers, texts, dates or timestamps",
    )


def given(value: Any) -> Any:
    """What `kept` was given.

    >>> given(kept(Decimal("1.50"))), given(kept(date(2026, 1, 2)))
    (Decimal('1.50'), datetime.date(2026, 1, 2))
    """
    if isinstance(value, Mapping):
        [(name, text)] = value.items()
        return _KEPT[name][2](text)
    return value


_KEPT: Mapping[str, tuple[type, Any, Any]] = {
    "decimal": (Decimal, str, Decimal),
    "timestamp": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "uuid": (UUID, str, UUID),
    "hex": (bytes, bytes.hex, bytes.fromhex),
}


def earlier(value: Any, overlap: float) -> Any:
    """`value` less `overlap`: seconds where it is a time, or else a difference of numbers.

    >>> earlier(100, 10), earlier("2026-01-02 00:00:05", 10)
    (90, '2026-01-01 23:59:55')
    """
    if not overlap:
        return value
    if isinstance(value, datetime):
        return value - timedelta(seconds=overlap)
    if isinstance(value, date):
        return value - timedelta(days=math.ceil(overlap / 86_400))
    if isinstance(value, str):
        with suppress(ValueError):
            moved = datetime.fromisoformat(value) - timedelta(seconds=overlap)
            if len(value) == 10:
                return moved.date().isoformat()
            return moved.isoformat(sep=value[10])[: len(value)]
        raise ConfigError(f"`{value}` is no time", hint="leave out `overlap`, or take another `watermark`")
    if isinstance(value, (int, Decimal)):
        return value - type(value)(math.ceil(overlap))
    return value - overlap
