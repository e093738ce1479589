"""Raw pgoutput messages of one table in a file: every message as it was received, and where it belongs.

A file is a magic, then blocks; numbers are little-endian. A block stands for itself, so that a reader's
memory is bounded by one block, and a decoder can look at a block column by column::

    8 bytes   b"HRPGOUT1"
    block:    count u32, bytes u64
              commit LSN      u64 x count    of the message's transaction
              commit time     i64 x count    microseconds since 2000-01-01 00:00 UTC, PostgreSQL's epoch
              ordinal         u32 x count    place in the transaction, counted in twos from 2
              transaction id  u32 x count
              length          u32 x count    of the message
              messages                       `bytes` in all, back to back

Messages are Insert, Update, Delete and Truncate of protocol version 1, type byte first. A Truncate is kept
for each table that it names. Ordinals leave a gap of one: a key change becomes two events, the delete of the
old key at `n` and the new row at `n + 1`. None is 0 or 1, so that every change is above a snapshot taken at
the very position where its transaction commits (whose rows have ordinal 0).

What the messages say of columns, they say by place. The names are in the object's format::

    {"type": "pgoutput", "changes": true, "rows": 12, "keys": ["id", …], "relation": {
        "oid": 16384, "schema": "public", "table": "orders",
        "identity": "d",                 d default, n nothing, f full, i index (of the Relation message)
        "columns": [{"name": "id", "type_oid": 23, "modifier": -1, "key": true, "type": "integer"}, …],
        "keys": ["id"]}}

The outer `keys` are the names of all columns, as in other formats: a table may evolve by them.
`key` is the Relation message's own flag: part of the replica identity, so true for all columns if that is
full. `type` is PostgreSQL's name for the type, or null where the type is gone. `keys` are the columns by
whose values a key change is recognised: the primary key, or else the replica identity's index. If empty
(identity full, no primary key), every update must become two events, since any column may be the target's
key.
"""

from __future__ import annotations

import io
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from ..errors import DataError

MAGIC = b"HRPGOUT1"
HEAD = struct.Struct("<IQ")
PER_MESSAGE = 8 + 8 + 4 + 4 + 4
MOST_MESSAGES = 65_536
MOST_BYTES = 8 << 20
"""A block ends soon after one of these is reached."""

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Block:
    """Messages of one block, column by column; each column's bytes as they are in the file."""

    count: int
    lsn: memoryview
    committed: memoryview
    ordinal: memoryview
    xid: memoryview
    length: memoryview
    messages: memoryview


@dataclass(slots=True)
class Blocks:
    """Collects messages in their order and hands out a block's bytes whenever one is full."""

    messages: list[Bytes] = field(default_factory=list)
    """Pieces of one message or of many, back to back."""
    lengths: array[int] = field(default_factory=lambda: array("I"))
    ordinals: array[int] = field(default_factory=lambda: array("I"))
    _runs: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(commit LSN, commit time, xid, how many messages of it) of the transactions in this block."""
    _closed: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, message: Bytes, ordinal: int) -> None:
        self.messages.append(message)
        self.lengths.append(len(message))
        self.ordinals.append(ordinal)

    def extend(
        self,
        messages: Bytes,
        lengths: array[int],
        ordinals: array[int],
        runs: Iterable[tuple[int, int, int, int]],
    ) -> None:
        """Adds many messages, back to back, of whole runs (see `_runs`). Call `close` before."""
        self.messages.append(messages)
        self.lengths.extend(lengths)
        self.ordinals.extend(ordinals)
        self._runs.extend(runs)
        self._closed = len(self.lengths)

    def close(self, lsn: int, committed: int, xid: int) -> None:
        """All messages added since the last call are of this transaction."""
        count = len(self.lengths) - self._closed
        if count:
            self._runs.append((lsn, committed, xid, count))
            self._closed += count

    def take(self) -> bytes:
        """The block's bytes, and an empty block from now on; b"" if it was empty. Call `close` before."""
        if not self.messages:
            return b""
        lsns, times, xids = array("Q"), array("q"), array("I")
        for lsn, committed, xid, count in self._runs:
            lsns.extend(array("Q", (lsn,)) * count)
            times.extend(array("q", (committed,)) * count)
            xids.extend(array("I", (xid,)) * count)
        body = b"".join(self.messages)
        columns = [_little(column) for column in (lsns, times, self.ordinals, xids, self.lengths)]
        block = b"".join((HEAD.pack(len(self.lengths), len(body)), *columns, body))
        self.messages.clear()
        self._runs.clear()
        del self.ordinals[:], self.lengths[:]
        self._closed = 0
        return block


def read_blocks(file: BinaryIO) -> Iterator[Block]:
    """All blocks in their order; raises `DataError` with the place of the first byte that does not fit."""
    if file.read(len(MAGIC)) != MAGIC:
        raise DataError("this is no file of pgoutput messages", hint=f"it should begin with {MAGIC!r}")
    at = len(MAGIC)
    end = file.seek(0, io.SEEK_END)
    file.seek(at)
    while head := file.read(HEAD.size):
        if len(head) < HEAD.size:
            raise DataError(f"byte {at}: a block ends within its head")
        count, size = HEAD.unpack(head)
        at += HEAD.size
        if count * PER_MESSAGE + size > end - at:
            raise DataError(f"byte {at}: a block of {count} messages is cut off after {end - at} bytes")
        data = memoryview(file.read(count * PER_MESSAGE + size))
        lsn, committed, ordinal, xid, length = _cut(data, count)
        if sum(_native(array("I", length.tobytes()))) != size:
            raise DataError(f"byte {at}: the lengths of a block's messages do not add up to {size}")
        yield Block(count, lsn, committed, ordinal, xid, length, data[count * PER_MESSAGE :])
        at += len(data)


def _cut(data: memoryview, count: int) -> tuple[memoryview, memoryview, memoryview, memoryview, memoryview]:
    at = [place * count for place in (0, 8, 16, 20, 24, 28)]
    return data[: at[1]], data[at[1] : at[2]], data[at[2] : at[3]], data[at[3] : at[4]], data[at[4] : at[5]]


def _little(column: array[int]) -> bytes:
    return _native(column).tobytes()


def _native(column: array[int]) -> array[int]:
    """Little-endian columns on any machine; on nearly all, as they are."""
    if struct.pack("=H", 1) != b"\x01\x00":
        column = array(column.typecode, column)
        column.byteswap()
    return column
