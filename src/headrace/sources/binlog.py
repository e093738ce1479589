"""Row events of one table as the binlog had them, in a file; and the changes that they are, as text.

A file is a magic, then events: a head (`HEAD`), the transaction's id, and the event's body as it was
received, without its header and checksum. The format has the body of the table map that they refer to::

    {"type": "binlog", "changes": true, "mariadb": true, "generation": 0, "table_map": "<hex>",
     "charsets": {"45": "utf8mb4"},
     "keys": ["id", "name"], "shown": {"id": "uuid", "packed": "utf8mb4"}}

`shown` says what the binlog does not: which bytes are MariaDB's UUIDs and addresses, and the character sets
of compressed columns.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from ..core import CHANGE, Frame
from ..errors import DataError
from .binlog_values import (
    BINARY,
    BLOB_COMPRESSED,
    VARCHAR_COMPRESSED,
    Cursor,
    Field,
    Reader,
    readers,
    table_map,
)

MAGIC = b"HRBINLG1"
HEAD = struct.Struct("<BIIQIH")
"""Event type, body's length, number of the binlog file, end position, seconds (UTC), id's length."""
ROWS = 16_384
"""So many rows make a frame."""
WRITE, UPDATE, DELETE = (23, 30, 166, 169), (24, 31, 167, 170), (25, 32, 168, 171)
SECOND = (30, 31, 32, 169, 170, 171)
"""Row events of version 2, which carry more of a head."""
PACKED = (166, 167, 168, 169, 170, 171)
"""MariaDB's `log_bin_compress`."""
UNTOLD = (BLOB_COMPRESSED, VARCHAR_COMPRESSED)
"""Types of columns whose character set the binlog does not tell."""
TRUNCATED = 0
"""Our own: what a TRUNCATE TABLE statement becomes."""

Row = list[str | None]


def sequence(generation: int, file: int, position: int, ordinal: int) -> str:
    """Text whose order is the order of the binlog; `generation` counts the servers that were followed.

    >>> sequence(0, 3, 1234, 0) < sequence(0, 3, 1234, 2) < sequence(0, 12, 4, 0) < sequence(1, 1, 4, 0)
    True
    """
    return f"{generation:04d}/{file:08d}/{position:012d}/{ordinal:010d}"


def write(out: BinaryIO, kind: int, body: bytes, at: tuple[int, int], transaction: str, seconds: int) -> None:
    """Adds one event; `at` is (number of the binlog file, end position)."""
    name = transaction.encode()
    out.write(HEAD.pack(kind, len(body), *at, seconds, len(name)) + name + body)


def decode(path: Path, form: Mapping[str, Any]) -> tuple[Sequence[str], Iterator[Frame]]:
    """The changes in a `binlog` object: the table's columns and core.CHANGE, all text, in binlog order."""
    body = bytes.fromhex(form["table_map"])
    described = table_map(body, form["charsets"], mariadb=bool(form["mariadb"]))
    shown: Mapping[str, str] = form.get("shown") or {}
    names = [each.name for each in described.fields]
    return [*names, *CHANGE], _frames(
        [*names, *CHANGE], _changes(path, form, described.fields, described.keys, shown)
    )


def _frames(names: Sequence[str], rows: Iterator[Row]) -> Iterator[Frame]:
    from arro3.core import Array, DataType, Table

    def made(block: list[Row]) -> Frame:
        columns = zip(*block, strict=True)
        frame: Frame = Table.from_pydict(
            {
                name: Array(list(values), DataType.string())
                for name, values in zip(names, columns, strict=True)
            }
        )
        return frame

    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == ROWS:
            yield made(block)
            block = []
    if block:
        yield made(block)


def _changes(
    path: Path,
    form: Mapping[str, Any],
    fields: Sequence[Field],
    keys: Sequence[str],
    shown: Mapping[str, str],
) -> Iterator[Row]:
    names = [each.name for each in fields]
    identity = [names.index(key) for key in keys]
    told_of = [
        replace(each, charset=shown.get(each.name, BINARY)) if each.kind in UNTOLD else each
        for each in fields
    ]
    read = [_shown(reader, shown.get(name, "")) for reader, name in zip(readers(told_of), names, strict=True)]
    for kind, body, (file, position), transaction, seconds in events(path):
        committed = datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
        told = [committed, transaction or None, None]
        for nth, (op, values) in enumerate(_told(kind, body, read, identity), start=1):
            yield [*values, op, sequence(form["generation"], file, position, nth), *told]


def _told(
    kind: int, body: bytes, read: Sequence[Reader], identity: Sequence[int]
) -> Iterator[tuple[str, Row]]:
    """(operation, row) of each change of an event; a changed key ends one row and begins another."""
    if kind == TRUNCATED:
        yield "t", [None] * len(read)
        return
    for before, after in images(kind, body, read):
        if before is None or after is None:
            yield ("d", before) if before is not None else ("c", after or [])
        elif identity and all(before[n] == after[n] for n in identity):
            yield "u", after
        else:
            yield "d", before
            yield "c", after


def events(path: Path) -> Iterator[tuple[int, bytes, tuple[int, int], str, int]]:
    """(type, body, (file, end position), transaction, seconds) of each event in a file."""
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{path.name} is no file of row events")
        while head := stream.read(HEAD.size):
            if len(head) < HEAD.size:
                raise DataError(f"{path.name} is cut off")
            kind, length, file, position, seconds, named = HEAD.unpack(head)
            transaction, body = stream.read(named), stream.read(length)
            if len(transaction) < named or len(body) < length:
                raise DataError(f"{path.name} is cut off")
            yield kind, body, (file, position), transaction.decode(), seconds


def images(kind: int, body: bytes, read: Sequence[Reader]) -> Iterator[tuple[Row | None, Row | None]]:
    """(before, after) of each row of an event; None where there is none."""
    cursor = Cursor(body)
    cursor.take(8)
    if kind in SECOND:
        cursor.take(max(cursor.number(2) - 2, 0))
    columns = cursor.packed()
    if columns != len(read):
        raise DataError(f"a row event has {columns} columns, its table {len(read)}")
    present = [cursor.bits(columns) for _ in range(2 if kind in UPDATE else 1)]
    if not all(all(bits) for bits in present):
        raise DataError("a row event without all columns: set `binlog_row_image=FULL` on the server")
    while cursor.left:
        first = _row(cursor, read)
        if kind in UPDATE:
            yield first, _row(cursor, read)
        else:
            yield (None, first) if kind in WRITE else (first, None)


def _row(cursor: Cursor, read: Sequence[Reader]) -> Row:
    nulls = cursor.bits(len(read))
    return [None if null else reader(cursor) for null, reader in zip(nulls, read, strict=True)]


def _shown(reader: Reader, kind: str) -> Reader:
    """MariaDB's types that the binlog carries as plain bytes, printed as the server does."""
    if kind not in SHOWN:
        return reader
    return lambda cursor: SHOWN[kind](bytes.fromhex(reader(cursor)[2:]))


def _uuid(value: bytes) -> str:
    import uuid

    return str(uuid.UUID(bytes=value))


def _address(value: bytes) -> str:
    import socket

    return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)


SHOWN = {"uuid": _uuid, "inet4": _address, "inet6": _address}
