"""The binlog of a MySQL or MariaDB server, event by event, from a position to its end of now.

The protocol is that of a replica (COM_BINLOG_DUMP; MySQL internals, "Replication Protocol"), which asks not
to wait at the end. PyMySQL brings the connection; its rows are never read.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, Gap, TransientError
from .mysql_gtid import Gtids, encoded

DUMP, DUMP_GTID = 0x12, 0x1E
QUERY, ROTATE, FORMAT, XID, TABLE_MAP = 2, 4, 15, 16, 19
GTID, ANONYMOUS, XA_PREPARE, PARTIAL_UPDATE, PAYLOAD, TAGGED_GTID = 33, 34, 38, 39, 40, 42
MARIADB_GTID, QUERY_COMPRESSED = 162, 165
STANDALONE, PREPARED = 1, 64
NO_WAIT, BY_GTID = 1, 4
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


def dump(con: Any, file: str, position: int, *, gtids: Gtids | None = None) -> Iterator[Event]:
    """Events from the position (or of all transactions but `gtids`) on, to where the binlog ends now.

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
        if gtids and mariadb:
            cursor.execute("SET @slave_connect_state = %s, @slave_gtid_strict_mode = 1", (gtids.text,))
    if position >= 1 << 32:
        raise ConfigError(
            f"binlog {file} is larger than 4 GiB, which the protocol cannot address",
            hint="set `max_binlog_size` to 1G, and split the transaction that made it so large",
        )
    me = con.thread_id() + (1 << 30)
    if gtids and not mariadb:
        known = encoded(gtids.spans)
        command, payload = DUMP_GTID, struct.pack("<HIIQI", NO_WAIT | BY_GTID, me, 0, 4, len(known)) + known
    else:
        named = b"" if gtids else file.encode()
        command, payload = DUMP, struct.pack("<IHI", 4 if gtids else position, NO_WAIT, me) + named
    try:
        con._execute_command(command, payload)
        yield from _events(con, file, 4 if gtids else position, checked=checked)
    except pymysql.err.MySQLError as error:
        if error.args and error.args[0] in LOST:
            raise Gap(
                f"the server has no binlog from {gtids.text if gtids else f'{file}:{position}'} on: "
                f"{error.args[1]}",
                hint="the changes since then are lost: keep the binlog longer (`expire_logs_days`; MySQL: "
                "`binlog_expire_logs_seconds`), and take the tables in anew: `id: <a new name>` in the "
                "source",
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


def begins_branch(event: Event) -> bool:
    """Whether MariaDB's GTID begins the first phase of a transaction in two; MySQL says it by a statement."""
    return event.kind == MARIADB_GTID and bool(event.body[12] & PREPARED)


def branch_of(event: Event) -> str:
    """What an XA_PREPARE event calls its transaction, as statements spell it."""
    form, global_size, _ = struct.unpack_from("<III", event.body, 1)
    name = event.body[13:]
    return f"x'{name[:global_size].hex()}',x'{name[global_size:].hex()}',{form}"


_XA = re.compile(r"\s*xa\s+(start|begin|end|commit|rollback)\s+(.+?)\s*(?:one\s+phase\s*)?$", re.I | re.S)


def xa(sql: str) -> tuple[str, str]:
    """(what, which transaction) of a statement of a transaction in two phases.

    >>> xa("XA START X'61',X'',1"), xa("XA COMMIT X'61',X'',1"), xa("COMMIT")
    (('START', "x'61',x'',1"), ('COMMIT', "x'61',x'',1"), ('', ''))
    """
    found = _XA.match(sql)
    if not found:
        return "", ""
    what = found[1].upper()
    return "START" if what == "BEGIN" else what, found[2].lower()


_ROWS = re.compile(
    r"\s*(?:/\*.*?\*/\s*)*(?:insert|update|delete|replace|load\s+data|merge|with)\b", re.I | re.S
)


def rows_of(schema: str, sql: str, tables: Sequence[tuple[str, str]]) -> str | None:
    """The table, of these, that a statement changes the rows of; with `binlog_format=ROW` there is none.

    >>> rows_of("shop", "insert into `t` values (1)", [("shop", "u"), ("shop", "t")])
    't'
    >>> rows_of("shop", "create table t (a int)", [("shop", "t")])
    """
    if not _ROWS.match(sql):
        return None
    words = {schema, *re.findall(r"[^\s`.,;()'\"=]+", sql)}
    return next((table for where, table in tables if {where, table} <= words), None)


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
