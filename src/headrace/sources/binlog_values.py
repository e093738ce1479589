"""Values of MySQL's and MariaDB's row events as the text that the server would print; none is rounded.

Formats: MySQL internals, "Rows_log_event" and "Table_map_log_event" (mysql/libs, MariaDB's log_event.cc).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import DataError
from .binlog_json import json_text

Reader = Callable[["Cursor"], str]

TINY, SHORT, LONG, FLOAT, DOUBLE, LONGLONG, INT24 = 1, 2, 3, 4, 5, 8, 9
DATE, YEAR, VARCHAR, BIT = 10, 13, 15, 16
TIMESTAMP2, DATETIME2, TIME2 = 17, 18, 19
BLOB_COMPRESSED, VARCHAR_COMPRESSED = 140, 141
JSON, NEWDECIMAL, ENUM, SET, BLOB, VAR_STRING, STRING, GEOMETRY = 245, 246, 247, 248, 252, 253, 254, 255
BINARY = "binary"
"""The character set of bytes that are no text."""

_META = dict.fromkeys((FLOAT, DOUBLE, BLOB, JSON, GEOMETRY, TIMESTAMP2, DATETIME2, TIME2, BLOB_COMPRESSED), 1)
_META |= dict.fromkeys((VARCHAR, BIT, NEWDECIMAL, STRING, VAR_STRING, ENUM, SET, VARCHAR_COMPRESSED), 2)
INTEGERS = {TINY: 1, SHORT: 2, INT24: 3, LONG: 4, LONGLONG: 8}
_SIGNED = {*INTEGERS, NEWDECIMAL, FLOAT, DOUBLE}
_TEXTS = {VARCHAR, STRING, VAR_STRING, BLOB, BLOB_COMPRESSED, VARCHAR_COMPRESSED}


@dataclass(slots=True)
class Cursor:
    """Reads bytes in order; raises `DataError` rather than go beyond their end."""

    data: bytes | memoryview
    at: int = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise DataError(f"a row event ends {end - len(self.data)} bytes too early")
        found = bytes(self.data[self.at : end])
        self.at = end
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def packed(self) -> int:
        """A length-encoded integer."""
        first = self.number(1)
        return first if first < 251 else self.number({252: 2, 253: 3, 254: 8}[first])

    def sized(self, size: int) -> bytes:
        """Bytes behind their length, which has `size` bytes."""
        return self.take(self.number(size))

    def bits(self, count: int) -> list[bool]:
        found = int.from_bytes(self.take((count + 7) // 8), "little")
        return [bool(found >> place & 1) for place in range(count)]

    @property
    def left(self) -> bool:
        return self.at < len(self.data)


@dataclass(frozen=True, slots=True)
class Field:
    """A column as a table map describes it."""

    name: str
    kind: int
    """MySQL's type number; ENUM and SET are told apart from STRING."""
    meta: int
    unsigned: bool = False
    charset: str = BINARY
    words: Sequence[str] = ()
    """The values of an enum or set."""


@dataclass(slots=True)
class TableMap:
    """What a table map event says of its table, with `binlog_row_metadata=FULL`."""

    id: int
    schema: str
    table: str
    fields: list[Field] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The primary key's columns; empty without one."""

    @property
    def named(self) -> bool:
        """False if the server told no names: `binlog_row_metadata` is not FULL."""
        return all(each.name for each in self.fields)


def table_map(body: bytes, charsets: Mapping[str, str], *, mariadb: bool) -> TableMap:
    """The table of a TABLE_MAP event's body (without header and checksum).

    `charsets` names the character set of each collation, by its number as text.
    """
    cursor = Cursor(body)
    found = TableMap(cursor.number(6), "", "")
    cursor.take(2)
    found.schema = cursor.sized(1).decode()
    cursor.take(1)
    found.table = cursor.sized(1).decode()
    cursor.take(1)
    kinds = list(cursor.take(cursor.packed()))
    meta = Cursor(cursor.take(cursor.packed()))
    shapes = [_shape(kind, meta) for kind in kinds]
    cursor.take((len(kinds) + 7) // 8)
    more: dict[int, Cursor] = {}
    while cursor.left:
        what = cursor.number(1)
        more[what] = Cursor(cursor.take(cursor.packed()))
    numbers = [n for n, (kind, _) in enumerate(shapes) if kind in _SIGNED or (mariadb and kind == YEAR)]
    # the first column is the highest bit
    signs = "".join(f"{byte:08b}" for byte in more[1].data) if 1 in more else ""
    unsigned = {n for n, bit in zip(numbers, signs, strict=False) if bit == "1"}
    collations = _collations(
        [n for n, (kind, _) in enumerate(shapes) if kind in _TEXTS], more.get(2), more.get(3)
    )
    sets = [n for n, (kind, _) in enumerate(shapes) if kind in (ENUM, SET)]
    collations |= _collations(sets, more.get(10), more.get(11))
    words: dict[int, list[str]] = {}
    for what, kind in ((5, SET), (6, ENUM)):
        for place in [n for n, shape in enumerate(shapes) if shape[0] == kind and what in more]:
            count = more[what].packed()
            listed = [more[what].take(more[what].packed()) for _ in range(count)]
            words[place] = [decoded(word, _charset(collations.get(place), charsets)) for word in listed]
    names: list[str] = []
    while 4 in more and more[4].left:
        names.append(more[4].take(more[4].packed()).decode())
    names += [""] * (len(kinds) - len(names))
    found.fields = [
        Field(names[n], kind, size, n in unsigned, _charset(collations.get(n), charsets), words.get(n, ()))
        for n, (kind, size) in enumerate(shapes)
    ]
    for what in (8, 9):
        while what in more and more[what].left:
            found.keys.append(names[more[what].packed()])
            if what == 9:
                more[what].packed()
    return found


def _shape(kind: int, meta: Cursor) -> tuple[int, int]:
    size = _META.get(kind, 0)
    if kind not in (STRING, VAR_STRING):
        return kind, meta.number(size) if size else 0
    high, low = meta.take(2)
    if high & 0x30 != 0x30:  # lengths over 255 borrow two bits of the type
        return high | 0x30, low | ((high & 0x30) ^ 0x30) << 4
    return high, low


def _charset(collation: int | None, charsets: Mapping[str, str]) -> str:
    return BINARY if collation is None else charsets.get(str(collation), f"of collation {collation}")


def _collations(places: Sequence[int], default: Cursor | None, each: Cursor | None) -> dict[int, int]:
    if each is not None:
        return {place: each.packed() for place in places if each.left}
    if default is None:
        return {}
    found = dict.fromkeys(places, default.packed())
    while default.left:
        place = default.packed()
        found[places[place]] = default.packed()
    return found


CODECS = {
    "utf8mb4": "utf-8",
    "utf8mb3": "utf-8",
    "utf8": "utf-8",
    "ucs2": "utf-16-be",
    "utf16": "utf-16-be",
    "utf16le": "utf-16-le",
    "utf32": "utf-32-be",
    "latin1": "cp1252",
    "latin2": "iso8859-2",
    "latin5": "iso8859-9",
    "latin7": "iso8859-13",
    "hebrew": "iso8859-8",
    "greek": "iso8859-7",
    "tis620": "tis-620",
    "ujis": "euc-jp",
    "eucjpms": "euc-jp",
    "euckr": "euc-kr",
    "gb2312": "gb2312",
    "sjis": "shift-jis",
    "koi8r": "koi8-r",
    "koi8u": "koi8-u",
    "macroman": "mac-roman",
    "macce": "mac-latin2",
}
"""Character sets that Python calls otherwise."""


def decoded(value: bytes, charset: str) -> str:
    """Text of the column's character set; bytes that are no text as `\\x` and hexadecimal digits."""
    if charset == BINARY:
        return "\\x" + value.hex()
    try:
        return value.decode(CODECS.get(charset, charset))
    except UnicodeDecodeError:
        if charset != "latin1":
            raise DataError(f"a text is not {charset}: {value[:40]!r}") from None
        # MySQL takes the five bytes that Windows-1252 leaves open for what they are in ISO 8859-1
        return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in value)
    except LookupError:
        raise DataError(f"character set `{charset}` cannot be read from the binlog") from None


def reader(of: Field) -> Reader:
    """How to read one value of a field; NULL is told by the row's own bits."""
    kind, meta = of.kind, of.meta
    if kind in INTEGERS:
        size = INTEGERS[kind]
        return lambda c: str(int.from_bytes(c.take(size), "little", signed=not of.unsigned))
    if kind in (FLOAT, DOUBLE):
        shape = "<f" if kind == FLOAT else "<d"
        return lambda c: real(struct.unpack(shape, c.take(struct.calcsize(shape)))[0])
    if kind == NEWDECIMAL:
        return lambda c: decimal(c, meta & 255, meta >> 8)
    if kind == BIT:
        width = (meta >> 8) + (meta & 255 > 0)
        return lambda c: str(int.from_bytes(c.take(width), "big"))
    if kind in (ENUM, SET):
        return _word(of) if kind == ENUM else _words(of)
    times = {YEAR: _year, DATE: _date, TIME2: _time, DATETIME2: _datetime, TIMESTAMP2: _timestamp}
    if kind in times:
        return lambda c: times[kind](c, meta)
    if kind in (VARCHAR, VAR_STRING, STRING):
        prefix = 2 if meta > 255 else 1
        if of.charset == BINARY and kind == STRING:  # its trailing zero bytes are not sent
            return lambda c: decoded(c.sized(prefix).ljust(meta, b"\0"), BINARY)
        return lambda c: decoded(c.sized(prefix), of.charset)
    if kind == BLOB:
        return lambda c: decoded(c.sized(meta), of.charset)
    if kind == VARCHAR_COMPRESSED:
        prefix = 2 if meta > 255 else 1
        return lambda c: decoded(_unpacked(c.sized(prefix)), of.charset)
    if kind == BLOB_COMPRESSED:
        return lambda c: decoded(_unpacked(c.sized(meta)), of.charset)
    if kind == JSON:
        return lambda c: json_text(c.sized(meta))
    if kind == GEOMETRY:
        return lambda c: decoded(c.sized(meta)[4:], BINARY)  # after the SRID: well-known binary
    raise DataError(f"column `{of.name}`: values of MySQL type {kind} cannot be read from the binlog")


def real(value: float) -> str:
    """The shortest text that gives the number back, whole ones without a point.

    >>> real(1.0), real(1e300), real(0.1)
    ('1', '1e+300', '0.1')
    """
    text = repr(value)
    return text.removesuffix(".0")


def _unpacked(value: bytes) -> bytes:
    if not value:
        return b""
    head = value[0]
    if head == 0:
        return value[1:]
    if head >> 4 & 7 != 0:
        raise DataError("a compressed column of an unknown algorithm")
    size = head & 7
    return zlib.decompress(value[1 + size :], -zlib.MAX_WBITS if head & 8 else zlib.MAX_WBITS)


def _word(of: Field) -> Reader:
    size = of.meta

    def read(cursor: Cursor) -> str:
        index = cursor.number(size)
        return of.words[index - 1] if 0 < index <= len(of.words) else ""

    return read


def _words(of: Field) -> Reader:
    size = of.meta

    def read(cursor: Cursor) -> str:
        mask = cursor.number(size)
        return ",".join(word for place, word in enumerate(of.words) if mask >> place & 1)

    return read


_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)


def decimal_groups(precision: int, scale: int) -> list[tuple[int, int]]:
    """(bytes, digits) of each group of a packed decimal, those of the whole part first."""
    whole = precision - scale
    digits = [whole % 9, *[9] * (whole // 9 + scale // 9), scale % 9]
    return [(_DIGIT_BYTES[count], count) for count in digits if count]


def decimal(cursor: Cursor, precision: int, scale: int) -> str:
    """MySQL's packed decimal (strings/decimal.c): nine digits to four bytes, the first bit inverted."""
    whole, groups = precision - scale, decimal_groups(precision, scale)
    data = bytearray(cursor.take(sum(size for size, _ in groups)))
    negative = not data[0] & 0x80
    data[0] ^= 0x80
    if negative:
        data = bytearray(byte ^ 0xFF for byte in data)
    text, at = "", 0
    for size, count in groups:
        text += str(int.from_bytes(data[at : at + size], "big")).zfill(count)
        at += size
    number = text[:whole].lstrip("0") or "0"
    number += f".{text[whole:]}" if scale else ""
    return f"-{number}" if negative else number


def _year(cursor: Cursor, _: int) -> str:
    value = cursor.number(1)
    return str(value + 1900) if value else "0000"


def _date(cursor: Cursor, _: int) -> str:
    value = cursor.number(3)
    return f"{value >> 9:04d}-{value >> 5 & 15:02d}-{value & 31:02d}"


def _fraction(value: int, places: int) -> str:
    return f".{str(value).zfill((places + 1) // 2 * 2)[:places]}" if places else ""


def _time(cursor: Cursor, places: int) -> str:
    extra = (places + 1) // 2
    value = int.from_bytes(cursor.take(3 + extra), "big") - (0x800000 << 8 * extra)
    sign, value = ("-", -value) if value < 0 else ("", value)
    whole, part = value >> 8 * extra, value & (1 << 8 * extra) - 1
    clock = f"{whole >> 12 & 1023:02d}:{whole >> 6 & 63:02d}:{whole & 63:02d}"
    return f"{sign}{clock}{_fraction(part, places)}"


def _datetime(cursor: Cursor, places: int) -> str:
    value = int.from_bytes(cursor.take(5), "big") - 0x8000000000
    part = int.from_bytes(cursor.take((places + 1) // 2), "big")
    month = value >> 22
    day = f"{month // 13:04d}-{month % 13:02d}-{value >> 17 & 31:02d}"
    return f"{day} {value >> 12 & 31:02d}:{value >> 6 & 63:02d}:{value & 63:02d}{_fraction(part, places)}"


def _timestamp(cursor: Cursor, places: int) -> str:
    from datetime import UTC, datetime

    seconds = int.from_bytes(cursor.take(4), "big")
    part = int.from_bytes(cursor.take((places + 1) // 2), "big")
    if not seconds and not part:
        return f"0000-00-00 00:00:00{_fraction(0, places)}"
    moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{moment}{_fraction(part, places)}+00"


def shown(read: Reader, kind: str) -> Reader:
    """MariaDB's types that the binlog carries as plain bytes, printed as the server does."""
    if kind not in _SHOWN:
        return read
    return lambda cursor: _SHOWN[kind](bytes.fromhex(read(cursor)[2:]))


def _uuid(value: bytes) -> str:
    import uuid

    return str(uuid.UUID(bytes=value))


def _address(value: bytes) -> str:
    import socket

    return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)


_SHOWN = {"uuid": _uuid, "inet4": _address, "inet6": _address}
