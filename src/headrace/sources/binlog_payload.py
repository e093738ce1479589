"""Transactions that MySQL has compressed (`binlog_transaction_compression`), event by event.

Format: MySQL's `Transaction_payload_event`: fields of type, length and value, then the events as they would
stand in the binlog, without checksums. They have no place of their own: they share the one where the
transaction begins, and its end is where the next one begins.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, cast

from ..errors import DataError, MissingExtra
from .binlog_stream import PAYLOAD, QUERY, XID, Event
from .binlog_values import Cursor

END, SIZE, COMPRESSION = 0, 1, 2
ZSTD, NONE = 0, 255
HEAD = 19


def flat(events: Iterator[Event]) -> Iterator[Event]:
    """The events, those of compressed transactions among them; one of these at a time is in memory."""
    for event in events:
        if event.kind == PAYLOAD:
            yield from _inside(event)
        else:
            yield event


def _inside(event: Event) -> Iterator[Event]:
    cursor = Cursor(event.body)
    told: dict[int, int] = {}
    while (what := cursor.packed()) != END:
        told[what] = Cursor(cursor.take(cursor.packed())).packed()
    content = _opened(event.body[cursor.at :], told.get(COMPRESSION, NONE))
    while head := content.read(HEAD):
        if len(head) < HEAD:
            raise DataError(f"the compressed transaction at {event.file}:{event.start} is cut off")
        seconds, kind, server, size = struct.unpack_from("<IBII", head)
        body = content.read(size - HEAD)
        if len(body) < size - HEAD:
            raise DataError(f"the compressed transaction at {event.file}:{event.start} is cut off")
        end = event.end if kind in (QUERY, XID) else event.start
        yield Event(kind, seconds, server, event.file, event.start, end, body)


def _opened(payload: bytes, compression: int) -> BinaryIO:
    if compression == NONE:
        return io.BytesIO(payload)
    if compression != ZSTD:
        raise DataError(f"a transaction in the binlog is compressed by an unknown algorithm ({compression})")
    try:
        import zstandard
    except ImportError:
        raise MissingExtra(
            "the binlog has compressed transactions, which need `zstandard`",
            hint="pip install 'headrace[mysql]', or SET GLOBAL binlog_transaction_compression = OFF",
        ) from None
    reader = zstandard.ZstdDecompressor().stream_reader(payload, read_across_frames=True)
    return io.BufferedReader(cast(io.RawIOBase, reader), 1 << 20)
