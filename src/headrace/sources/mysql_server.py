"""Connections to MySQL and MariaDB: verified TLS, the same text for the same value, errors by what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql
from pymysql.constants import CLIENT
from pymysql.converters import encoders
from pymysql.cursors import SSCursor

from ..drivers.hosts import local
from ..errors import ConfigError, HeadraceError, SystemFault, TransientError

SESSION = (
    "SET time_zone = '+00:00', sql_mode = '', sql_quote_show_create = 1, "
    "net_write_timeout = 600, wait_timeout = 28800, character_set_results = utf8mb4"
)
"""What a value looks like as text depends on these."""
ACCESS = (1044, 1045, 1049, 1130, 1142, 1143, 1227, 1698, 2049, 1146, 1054)
PASSING = (1040, 1053, 1205, 1213, 2002, 2003, 2006, 2013, 1158, 1159, 1160, 1161)


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    kind: str
    """As `information_schema` names the type, without length."""
    charset: str = ""
    """Of texts."""
    key: int = 0
    """Place in the primary key, from 1; 0 is none of it."""


@dataclass(slots=True)
class Server:
    """How to reach one database, as `mysql://user:password@host:3306/database?ssl_ca=…`."""

    dsn: str = field(repr=False)
    name: str
    """Of the source, for messages."""
    timeout: float = 60.0
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        try:
            url = urlsplit(self.dsn)
            port = url.port or 3306
        except ValueError:
            url, port = urlsplit(""), 0
        database = unquote(url.path.lstrip("/"))
        if url.scheme not in ("mysql", "mariadb") or not url.hostname or not database:
            raise ConfigError(
                f"source {self.name}: `dsn` is no URL of a MySQL database",
                hint="such as ${MYSQL_DSN} with MYSQL_DSN=mysql://user:password@host:3306/database",
            )
        self.options = {
            "host": url.hostname,
            "port": port,
            "user": unquote(url.username or ""),
            "password": unquote(url.password or ""),
            "database": database,
            **self._secured(url.hostname, parse_qs(url.query)),
        }

    def _secured(self, host: str, query: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """TLS, verified, wherever bytes leave this machine; `?ssl=disabled` is for who knows better."""
        if unknown := set(query) - {"ssl", "ssl_ca", "ssl_cert", "ssl_key"}:
            raise ConfigError(
                f"source {self.name}: `dsn` has the parameter `{min(unknown)}`",
                hint="known: ssl (verify | disabled), ssl_ca, ssl_cert, ssl_key",
            )
        wanted = query.get("ssl", ["" if local(host) and "ssl_ca" not in query else "verify"])[0]
        if wanted not in ("verify", "disabled", ""):
            raise ConfigError(f"source {self.name}: ssl={wanted}", hint="ssl is `verify` or `disabled`")
        if wanted != "verify":
            return {"ssl_disabled": True}
        given = {key: query[key][0] for key in ("ssl_ca", "ssl_cert", "ssl_key") if key in query}
        if "ssl_ca" not in given:
            import ssl

            return {"ssl": ssl.create_default_context(), **given}
        return {**given, "ssl_verify_cert": True, "ssl_verify_identity": True}

    @property
    def database(self) -> str:
        return str(self.options["database"])

    def connect(self) -> Any:
        """A connection in autocommit mode whose results are text; to be closed by the caller."""
        with self.talking("connect"):
            con: Any = pymysql.connect(
                **self.options,
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=15,
                read_timeout=600,
                conv=cast(Any, encoders),
                client_flag=CLIENT.FOUND_ROWS,
                init_command=SESSION,
            )
        return con

    @contextmanager
    def talking(self, doing: str, hint: str | None = None) -> Iterator[None]:
        """Errors of the driver within come out by class, with where and what."""
        try:
            yield
        except pymysql.err.MySQLError as error:
            raise self.explain(error, doing, hint) from None
        except OSError as error:
            raise TransientError(f"source {self.name}: {doing}: {error}") from None

    def explain(self, error: pymysql.err.MySQLError, doing: str, hint: str | None) -> HeadraceError:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        said = str(error.args[1] if len(error.args) > 1 else error)
        message = f"source {self.name}: {doing}: {said} ({code})"
        if code in ACCESS:
            return ConfigError(message, hint=hint or "correct `dsn`, the tables' names, or the user's rights")
        if code in PASSING or isinstance(error, pymysql.err.InterfaceError) or not code:
            return TransientError(message, hint=hint or "is the server up, and reachable from here?")
        return SystemFault(message, hint=hint)

    def rows(self, con: Any, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a small query."""
        with self.talking("look"), con.cursor() as cursor:
            cursor.execute(query, values or None)
            return list(cursor.fetchall())

    def variables(self, con: Any, *names: str) -> dict[str, str]:
        """Those of the server's global variables that it knows, in small letters."""
        listed = ", ".join(["%s"] * len(names))
        found = self.rows(con, f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({listed})", names)
        return {str(name).lower(): str(value) for name, value in found}

    def charsets(self, con: Any, *, mariadb: bool) -> dict[str, str]:
        """Number of a collation, as text → its character set."""
        table = "collation_character_set_applicability" if mariadb else "collations"
        where = "WHERE table_schema = 'information_schema' AND column_name = 'ID'"
        known = self.rows(con, f"SELECT lower(table_name) FROM information_schema.columns {where}")
        table = table if (table,) in known else "collations"
        found = self.rows(con, f"SELECT id, character_set_name FROM information_schema.{table}")
        return {str(number): str(name) for number, name in found if number is not None}

    def columns(self, con: Any, schema: str, table: str) -> list[Column]:
        """The columns of a table in order; empty if there is no such table."""
        found = self.rows(
            con,
            "SELECT c.column_name, c.data_type, c.character_set_name, coalesce(k.ordinal_position, 0) "
            "FROM information_schema.columns c LEFT JOIN information_schema.key_column_usage k "
            "ON k.constraint_name = 'PRIMARY' AND k.table_schema = c.table_schema "
            "AND k.table_name = c.table_name AND k.column_name = c.column_name "
            "WHERE c.table_schema = %s AND c.table_name = %s ORDER BY c.ordinal_position",
            (schema, table),
        )
        return [
            Column(str(name), str(kind).lower(), charset or "", int(key))
            for name, kind, charset, key in found
        ]


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def streamed(con: Any) -> Any:
    """A cursor that holds one row at a time."""
    return con.cursor(SSCursor)
