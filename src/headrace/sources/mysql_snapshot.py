"""What a table of MySQL or MariaDB holds at one position of the binlog, as delimited text.

Rows carry that position with ordinal 0 as their `_sequence`: a change after it wins over them, one before it
loses, whichever lands first. So a snapshot that was cut short goes on with the next chunk, read at a later
position, and a table can be read anew while its changes are followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .binlog import sequence
from .binlog_stream import number
from .binlog_values import real
from .mysql_server import Column, Server, quoted, streamed

INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint", "year")
ORDERED = (*INTEGERS, "char", "varchar", "date", "datetime", "decimal")
"""Types of keys by which a table is read in chunks: what the server prints is what it compares."""
BYTES = ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob")
SPATIAL = (
    *("geometry", "point", "linestring", "polygon", "geometrycollection", "geomcollection"),
    *("multipoint", "multilinestring", "multipolygon"),
)
BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where the binlog stands."""

    file: str
    position: int
    gtid: str = ""

    def sequence(self, generation: int) -> str:
        return sequence(generation, number(self.file), self.position, 0)


def here(server: Server, con: Any, *, mariadb: bool) -> Place:
    """Where the binlog ends now."""
    found = server.rows(con, "SHOW MASTER STATUS" if mariadb else _status(server, con))
    gtid = server.rows(con, "SELECT @@gtid_binlog_pos")[0][0] if mariadb else found[0][4]
    return Place(str(found[0][0]), int(found[0][1]), str(gtid or ""))


def _status(server: Server, con: Any) -> str:
    """MySQL 8.4 has dropped the old words."""
    version = str(server.rows(con, "SELECT version()")[0][0])
    major, minor = (int(part) for part in version.split(".")[:2])
    return "SHOW BINARY LOG STATUS" if (major, minor) >= (8, 2) else "SHOW MASTER STATUS"


def begin(server: Server, con: Any, *, mariadb: bool) -> Place:
    """Starts a transaction whose reads see exactly the transactions before the place that it returns.

    MariaDB tells the place of such a snapshot itself; on MySQL a global read lock, held for an instant (it
    takes the right RELOAD), keeps every commit away from between the two.
    """
    if mariadb:
        with server.talking("begin a snapshot"):
            con.query("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        told = dict(server.rows(con, "SHOW STATUS LIKE 'binlog_snapshot_%%'"))
        return Place(str(told["Binlog_snapshot_file"]), int(told["Binlog_snapshot_position"]))
    with server.talking("begin a snapshot", "GRANT RELOAD ON *.* TO the source's user"):
        con.query("FLUSH TABLES WITH READ LOCK")
        try:
            con.query("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            return here(server, con, mariadb=False)
        finally:
            con.query("UNLOCK TABLES")


def key_of(columns: Sequence[Column]) -> list[Column]:
    """The columns by whose values the table can be read in chunks; empty if it is read at one go."""
    key = sorted((column for column in columns if column.key), key=lambda column: column.key)
    return key if all(column.kind in ORDERED for column in key) else []


def rows(
    server: Server,
    con: Any,
    table: str,
    columns: Sequence[Column],
    more: tuple[Sequence[str | None], int | None],
) -> Iterator[list[str | None]]:
    """Rows as text, in the order of the key and after the key values given, so many at most."""
    after, limit = more
    key = key_of(columns)
    where, values = _after(key, after) if after else ("", [])
    order = f" ORDER BY {', '.join(_name(column) for column in key)}" if key else ""
    listed = ", ".join(_select(column) for column in columns)
    query = f"SELECT {listed} FROM {table}{where}{order}" + (f" LIMIT {limit}" if limit else "")
    shown = [_shown(column) for column in columns]
    with server.talking(f"read {table}"), streamed(con) as cursor:
        cursor.execute(query, values)
        for row in cursor:
            yield [None if value is None else show(value) for show, value in zip(shown, row, strict=True)]


def _after(key: Sequence[Column], values: Sequence[str | None]) -> tuple[str, list[Any]]:
    """Rows beyond a key, spelt so that every server uses the key's index."""
    bound = [int(str(v)) if c.kind in INTEGERS else v for c, v in zip(key, values, strict=True)]
    found, given = [], []
    for place, column in enumerate(key):
        same = [f"{_name(each)} = %s" for each in key[:place]]
        found.append("(" + " AND ".join([*same, f"{_name(column)} > %s"]) + ")")
        given += bound[: place + 1]
    return f" WHERE {' OR '.join(found)}", given


def _name(column: Column) -> str:
    """Quoted, and safe beside the placeholders of the driver."""
    return quoted(column.name).replace("%", "%%")


def _select(column: Column) -> str:
    name = _name(column)
    if column.kind == "float":  # as text a FLOAT is rounded to six digits
        return f"CAST({name} AS DOUBLE)"
    return f"{name} + 0" if column.kind == "bit" else name


def _shown(column: Column) -> Callable[[Any], str]:
    kind = column.kind
    if kind in BYTES:
        return lambda value: "\\x" + value.hex()
    if kind in SPATIAL:
        return lambda value: "\\x" + value[4:].hex()
    if kind in ("float", "double"):
        return lambda value: real(float(_text(value)))
    if kind in INTEGERS and kind != "year":  # ZEROFILL is how a number is shown, not what it is
        return lambda value: str(int(value))
    if kind == "timestamp":
        return lambda value: _text(value) + ("" if _text(value).startswith("0000") else "+00")
    return _text


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def delimited_rows(found: Iterator[Sequence[str | None]]) -> Iterator[bytes]:
    """RFC 4180 in pieces of about a megabyte; NULL is what has no quotes."""
    piece: list[str] = []
    size = 0
    for row in found:
        line = ",".join("" if v is None else '"' + v.replace('"', '""') + '"' for v in row)
        piece.append(line)
        size += len(line)
        if size > BUFFER:
            yield ("\n".join(piece) + "\n").encode()
            piece, size = [], 0
    if piece:
        yield ("\n".join(piece) + "\n").encode()
