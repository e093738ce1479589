"""Binlog events and binary JSON made by the documented formats, for what no server here can be made to write.

MySQL internals: "Table_map_event", "Rows_event", "Transaction_payload_event", and `json_binary.h`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STRING, ENUM, SET = 254, 247, 248
NUMERIC = (1, 2, 3, 4, 5, 8, 9, 246)
TEXTS = (15, 252, 253, 254)
UTF8, LATIN1, BINARY = 45, 8, 63
"""Collations by MySQL's numbers."""


@dataclass(frozen=True)
class Made:
    """A column; `meta` is its bytes in the table map. ENUM and SET are of kind STRING, and have `words`."""

    name: str
    kind: int
    meta: bytes = b""
    unsigned: bool = False
    collation: int = UTF8
    words: Sequence[str] = ()


def packed(number: int) -> bytes:
    if number < 251:
        return bytes([number])
    return (
        b"\xfc" + struct.pack("<H", number) if number < 1 << 16 else b"\xfd" + struct.pack("<I", number)[:3]
    )


def told(value: bytes) -> bytes:
    return packed(len(value)) + value


def bits(flags: Sequence[bool], *, high: bool = False) -> bytes:
    out = bytearray((len(flags) + 7) // 8)
    for place, flag in enumerate(flags):
        out[place // 8] |= flag << (7 - place % 8 if high else place % 8)
    return bytes(out)


def table_map(
    number: int, schema: str, table: str, columns: Sequence[Made], keys: Sequence[int] = ()
) -> bytes:
    """With `binlog_row_metadata=FULL`."""
    body = (
        number.to_bytes(6, "little") + b"\1\0" + told(schema.encode()) + b"\0" + told(table.encode()) + b"\0"
    )
    body += packed(len(columns)) + bytes(c.kind for c in columns) + told(b"".join(c.meta for c in columns))
    body += bits([True] * len(columns))
    worded = [c for c in columns if c.kind == STRING and c.meta[0] in (ENUM, SET)]
    texts = [c for c in columns if c.kind in TEXTS and c not in worded]
    more: dict[int, bytes] = {
        1: bits([c.unsigned for c in columns if c.kind in NUMERIC], high=True),
        3: b"".join(packed(c.collation) for c in texts),
        4: b"".join(told(c.name.encode()) for c in columns),
        8: b"".join(packed(key) for key in keys),
        11: b"".join(packed(c.collation) for c in worded),
    }
    for what, kind in ((5, SET), (6, ENUM)):
        listed = [c.words for c in worded if c.meta[0] == kind]
        more[what] = b"".join(packed(len(w)) + b"".join(told(word.encode()) for word in w) for w in listed)
    return body + b"".join(bytes([what]) + told(value) for what, value in sorted(more.items()) if value)


def row(cells: Sequence[bytes | None]) -> bytes:
    return bits([cell is None for cell in cells]) + b"".join(cell or b"" for cell in cells)


def rows_event(number: int, kind: int, columns: int, rows: Sequence[bytes]) -> bytes:
    """Of version 2 for kinds from 30 on; an update has two rows for each."""
    body = number.to_bytes(6, "little") + b"\1\0" + (b"\2\0" if kind >= 30 else b"") + packed(columns)
    return body + bits([True] * columns) * (2 if kind in (24, 31) else 1) + b"".join(rows)


def event(kind: int, body: bytes, seconds: int, end: int, *, checked: bool = True) -> bytes:
    size = 19 + len(body) + 4 * checked
    head = struct.pack("<IBIIIH", seconds, kind, 1, size, end, 0)
    return head + body + (struct.pack("<I", zlib.crc32(head + body)) if checked else b"")


def query(schema: str, sql: str) -> bytes:
    return struct.pack("<IIBHH", 7, 0, len(schema), 0, 0) + schema.encode() + b"\0" + sql.encode()


def gtid(uuid: str, number: int) -> bytes:
    return b"\1" + bytes.fromhex(uuid.replace("-", "")) + struct.pack("<Q", number) + bytes(17)


def payload(events: Sequence[bytes], compression: int, content: bytes | None = None) -> bytes:
    """`content` is what the events are compressed to."""
    raw = b"".join(events)
    content = raw if content is None else content
    fields = ((2, packed(compression)), (3, packed(len(raw))), (1, packed(len(content))))
    return b"".join(packed(what) + told(value) for what, value in fields) + b"\0" + content


# Binary JSON


@dataclass(frozen=True)
class Opaque:
    kind: int
    value: bytes


def binary_json(value: Any, *, large: bool = False) -> bytes:
    """With its type in front; `large` makes all containers large ones."""
    kind, body = _value(value, large)
    return bytes([kind]) + body


def _value(value: Any, large: bool) -> tuple[int, bytes]:
    if value is None or isinstance(value, bool):
        return 4, bytes([{None: 0, True: 1, False: 2}[value]])
    if isinstance(value, int):
        ranges = ((5, "<h"), (6, "<H"), (7, "<i"), (8, "<I"), (9, "<q"), (10, "<Q"))
        for kind, form in ranges:
            try:
                return kind, struct.pack(form, value)
            except struct.error:
                continue
    if isinstance(value, float):
        return 11, struct.pack("<d", value)
    if isinstance(value, str):
        return 12, _sized(value.encode())
    if isinstance(value, Opaque):
        return 15, bytes([value.kind]) + _sized(value.value)
    if isinstance(value, Mapping):
        pairs = sorted(((k.encode(), v) for k, v in value.items()), key=lambda pair: (len(pair[0]), pair[0]))
        return large, _container([k for k, _ in pairs], [v for _, v in pairs], large)
    return 2 + large, _container(None, value, large)


def _sized(value: bytes) -> bytes:
    out, size = b"", len(value)
    while size > 127:
        out += bytes([size & 127 | 128])
        size >>= 7
    return out + bytes([size]) + value


def _container(keys: Sequence[bytes] | None, values: Sequence[Any], large: bool) -> bytes:
    form = "<I" if large else "<H"
    size = struct.calcsize(form)
    at = 2 * size + len(values) * (1 + size) + len(keys or ()) * (size + 2)
    heads, rest = b"", b""
    for key in keys or ():
        heads += struct.pack(form, at + len(rest)) + struct.pack("<H", len(key))
        rest += key
    for value in values:
        kind, body = _value(value, large)
        if kind in (4, 5, 6) or (large and kind in (7, 8)):
            heads += bytes([kind]) + body.ljust(size, b"\0")
        else:
            heads += bytes([kind]) + struct.pack(form, at + len(rest))
            rest += body
    return struct.pack(form, len(values)) + struct.pack(form, at + len(rest)) + heads + rest
