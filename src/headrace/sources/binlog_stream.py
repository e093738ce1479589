"""The binlog of a MySQL or MariaDB server, event by event, from a position to its end of now.

The protocol is that of a replica (COM_BINLOG_DUMP; MySQL internals, "Replication Protocol"), which asks not
to wait at the end. PyMySQL brings the connection; its rows are never read.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, Gap, TransientError

DUMP = 0x12
QUERY, ROTATE, FORMAT, XID, TABLE_MAP = 2, 4, 15, 16, 19
GTID, ANONYMOUS, PAYLOAD = 33, 34, 40
MARIADB_GTID, QUERY_COMPRESSED = 162, 165
STANDALONE = 1
LOST = (1236,)
"""The server's error where it no longer has what is asked for."""


@dataclass(frozen=True, slots=True)
class Event:
    kind: int
    seconds: int
    server: int
    file: str
    start: int
    end: int
    """Where the next event begins."""
    body: bytes


def number(file: str) -> int:
    """The place of a binlog file among its like.

    >>> number("mysql-bin.000042")
    42
    """
    return int(file.rpartition(".")[2])


def dump(con: Any, file: str, position: int, *, gtid: str = "") -> Iterator[Event]:
    """Events from the position (or after the MariaDB GTIDs) on, to where the binlog ends now.

    Raises `Gap` if the server has purged what is asked for, `TransientError` if the connection is lost.
    """
    import pymysql

    mariadb = "mariadb" in con.get_server_info().lower()
    with con.cursor() as cursor:
        cursor.execute("SET @master_binlog_checksum = @@global.binlog_checksum")
        cursor.execute("SET @source_binlog_checksum = @master_binlog_checksum")
        cursor.execute("SELECT @@global.binlog_checksum")
        checked = str(cursor.fetchone()[0]).upper() == "CRC32"
        if mariadb:
            cursor.execute("SET @mariadb_slave_capability = 4")
        if gtid:
            cursor.execute("SET @slave_connect_state = %s, @slave_gtid_strict_mode = 1", (gtid,))
    if position >= 1 << 32:
        raise ConfigError(
            f"binlog {file} is larger than 4 GiB, which the protocol cannot address",
            hint="set `max_binlog_size` to 1G, and split the transaction that made it so large",
        )
    name = b"" if gtid else file.encode()
    payload = struct.pack("<IHI", 4 if gtid else position, 1, con.thread_id() + (1 << 30)) + name
    try:
        con._execute_command(DUMP, payload)
        yield from _events(con, file, 4 if gtid else position, checked=checked)
    except pymysql.err.MySQLError as error:
        if error.args and error.args[0] in LOST:
            raise Gap(
                f"the server has no binlog from {gtid or f'{file}:{position}'} on: {error.args[1]}",
                hint="the changes since then are lost: keep the binlog longer (`expire_logs_days`), and take "
                "the tables in anew under a new `id` of the source",
            ) from None
        raise TransientError(f"reading the binlog at {file}: {error}") from None


def _events(con: Any, file: str, position: int, *, checked: bool) -> Iterator[Event]:
    """`checked`: events end with a checksum; each file says so for itself."""
    at = position
    while True:
        packet = con._read_packet()
        if packet.is_eof_packet():
            return
        data = packet.get_all_data()
        seconds, kind, server, _, end, _ = struct.unpack_from("<IBIIIH", data, 1)
        if kind == FORMAT:
            checked = data[-5] == 1
        if checked and zlib.crc32(data[1:-4]) != int.from_bytes(data[-4:], "little"):
            raise TransientError(f"an event of {file} at {at} was damaged on its way")
        body = data[20:-4] if checked else data[20:]
        if kind == ROTATE:
            file, at = body[8:].decode(), int.from_bytes(body[:8], "little")
            yield Event(kind, seconds, server, file, at, at, body)
            continue
        if not end:  # made up for this connection; it has no place
            continue
        end |= at & ~0xFFFFFFFF
        end += (end < at) << 32
        yield Event(kind, seconds, server, file, at, end, body)
        at = end


def gtid_of(event: Event) -> tuple[str, bool]:
    """(id, whether it is a group of one statement that commits by itself) of a GTID event."""
    if event.kind == MARIADB_GTID:
        sequence, domain, flags = struct.unpack_from("<QIB", event.body)
        return f"{domain}-{event.server}-{sequence}", bool(flags & STANDALONE)
    if event.kind == GTID:
        uuid, sequence = event.body[1:17].hex(), int.from_bytes(event.body[17:25], "little")
        parts = (uuid[:8], uuid[8:12], uuid[12:16], uuid[16:20], uuid[20:])
        return f"{'-'.join(parts)}:{sequence}", False
    return "", False


def statement(event: Event) -> tuple[str, str]:
    """(schema, SQL) of a query event."""
    _, _, schema, _, status = struct.unpack_from("<IIBHH", event.body)
    at = 13 + status
    name = event.body[at : at + schema].decode()
    text = event.body[at + schema + 1 :]
    if event.kind == QUERY_COMPRESSED:
        text = zlib.decompress(text[1 + (text[0] & 7) :])
    return name, text.decode("utf-8", errors="replace")


_TRUNCATE = re.compile(
    r"\s*(?:/\*.*?\*/\s*)*truncate\s+(?:table\s+)?(`(?:[^`]|``)+`|\w+)(?:\.(`(?:[^`]|``)+`|\w+))?",
    re.I | re.S,
)


def truncated(schema: str, sql: str) -> tuple[str, str] | None:
    """(schema, table) that a statement empties.

    >>> truncated("shop", "truncate table `a``b`"), truncated("shop", "TRUNCATE other.t")
    (('shop', 'a`b'), ('other', 't'))
    """
    found = _TRUNCATE.match(sql)
    if not found:
        return None
    first, second = (name and _bare(name) for name in found.groups())
    return (first, second) if second else (schema, first or "")


def _bare(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else name
