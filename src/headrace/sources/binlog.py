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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..core import Frame
from ..errors import DataError

MAGIC = b"HRBINLG1"
HEAD = struct.Struct("<BIIQIH")
"""Event type, body's length, number of the binlog file, end position, seconds (UTC), id's length."""
BLOCK = 8 << 20
"""So many bytes of a file, and the event that goes beyond them, are decoded at a time."""
WRITE, UPDATE, DELETE = (23, 30, 166, 169), (24, 31, 167, 170), (25, 32, 168, 171)
SECOND = (30, 31, 32, 169, 170, 171)
"""Row events of version 2, which carry more of a head."""
PACKED = (166, 167, 168, 169, 170, 171)
"""MariaDB's `log_bin_compress`."""
TRUNCATED = 0
"""Our own: what a TRUNCATE TABLE statement becomes."""


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


@dataclass(slots=True)
class Block:
    """Events of one file, one after another; places are those in `data`."""

    data: bytes
    kind: list[int] = field(default_factory=list)
    file: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    seconds: list[int] = field(default_factory=list)
    name: list[int] = field(default_factory=list)
    """Where the transaction's id begins; it ends where the body begins."""
    body: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)


def blocks(path: Path, size: int = BLOCK) -> Iterator[Block]:
    """All events of a file in their order, some at a time; raises `DataError` if it is none, or cut off."""
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{path.name} is no file of row events")
        rest = b""
        while more := stream.read(size):
            block, at, needed = _cut(rest + more)
            if needed > size:  # an event that is larger than a block
                block, at, _ = _cut(block.data + stream.read(needed - len(block.data)))
            rest = block.data[at:]
            if block.kind:
                yield block
        if rest:
            raise DataError(f"{path.name} is cut off")


def _cut(data: bytes) -> tuple[Block, int, int]:
    """(the whole events at the begin of `data`, where they end, how many bytes the next one needs)."""
    block, at, last = Block(data), 0, len(data)
    head, unpack = HEAD.size, HEAD.unpack_from
    while at + head <= last:
        kind, length, file, position, seconds, named = unpack(data, at)
        name = at + head
        body = name + named
        end = body + length
        if end > last:
            return block, at, end
        block.kind.append(kind)
        block.file.append(file)
        block.position.append(position)
        block.seconds.append(seconds)
        block.name.append(name)
        block.body.append(body)
        block.end.append(end)
        at = end
    return block, at, at + head


def decode(path: Path, form: Mapping[str, Any]) -> tuple[Sequence[str], Iterator[Frame]]:
    """The changes in a `binlog` object: the table's columns and core.CHANGE, all text, in binlog order.

    A key change is two rows, `d` of the old row and `c` of the new one. Raises `DataError` for bytes that are
    no such events, or that lack columns.
    """
    from .binlog_changes import changes

    return changes(path, form)
