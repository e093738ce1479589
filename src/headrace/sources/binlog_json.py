"""MySQL's binary JSON as the very text that the server prints for it: nothing reordered, nothing rounded.

Format: MySQL's `sql-common/json_binary.h`; what numbers, times and other opaque values look like as text is
in its `json_dom.cc`.
"""

from __future__ import annotations

import base64
import json
import struct

from ..errors import DataError

SMALL_OBJECT, LARGE_OBJECT, SMALL_ARRAY, LARGE_ARRAY, LITERAL = 0, 1, 2, 3, 4
INT16, UINT16, INT32, UINT32, INT64, UINT64, DOUBLE, STRING, OPAQUE = 5, 6, 7, 8, 9, 10, 11, 12, 15
NUMBERS = {INT16: "<h", UINT16: "<H", INT32: "<i", UINT32: "<I", INT64: "<q", UINT64: "<Q"}
LITERALS = {0: "null", 1: "true", 2: "false"}
TIMESTAMP, DATE, TIME, DATETIME, NEWDECIMAL, VAR_STRING = 7, 10, 11, 12, 246, 253
"""MySQL's types of opaque values; all others are shown in base 64."""
LINE = 76
DBL_DIG = 15


def json_text(value: bytes) -> str:
    """Raises `DataError` for bytes that are no binary JSON.

    >>> json_text(bytes.fromhex("00 0100 0c00 0b00 0100 05 0100 61"))
    '{"a": 1}'
    """
    if not value:  # what a server takes it for, which has stored nothing under NOT NULL
        return "null"
    try:
        return _text(value[0], memoryview(value)[1:])
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"a JSON value of {len(value)} bytes is damaged: {error}") from None


def _text(kind: int, data: memoryview) -> str:
    if kind <= LARGE_ARRAY:
        return _container(data, large=bool(kind & 1), named=kind <= LARGE_OBJECT)
    if kind == LITERAL:
        return LITERALS[data[0]]
    if kind in NUMBERS:
        return str(struct.unpack_from(NUMBERS[kind], data)[0])
    if kind == DOUBLE:
        return double(struct.unpack_from("<d", data)[0])
    if kind == STRING:
        return _quoted(str(_sized(data), "utf-8"))
    if kind == OPAQUE:
        return _opaque(data[0], bytes(_sized(data[1:])))
    raise KeyError(f"type {kind}")


def _container(data: memoryview, *, large: bool, named: bool) -> str:
    """An object's keys come in the order in which the server keeps them: by length, then by their bytes."""
    form, size = ("<I", 4) if large else ("<H", 2)
    count, length = struct.unpack_from(form, data)[0], struct.unpack_from(form, data, size)[0]
    if length > len(data):
        raise IndexError("it ends too early")
    data, at = data[:length], 2 * size
    keys: list[str] = []
    for _ in range(count if named else 0):
        begin, width = struct.unpack_from(form, data, at)[0], struct.unpack_from("<H", data, at + size)[0]
        keys.append(_quoted(str(_cut(data, begin, width), "utf-8")) + ": ")
        at += size + 2
    values = []
    for _ in range(count):
        kind = data[at]
        inlined = kind in (LITERAL, INT16, UINT16) or (large and kind in (INT32, UINT32))
        place = at + 1 if inlined else struct.unpack_from(form, data, at + 1)[0]
        values.append(_text(kind, data[place:]))
        at += 1 + size
    if named:
        return "{" + ", ".join(key + value for key, value in zip(keys, values, strict=True)) + "}"
    return "[" + ", ".join(values) + "]"


def _cut(data: memoryview, begin: int, size: int) -> memoryview:
    if begin + size > len(data):
        raise IndexError("it ends too early")
    return data[begin : begin + size]


def _sized(data: memoryview) -> memoryview:
    """The bytes behind their length, which has seven bits in each byte, the lowest first."""
    size = at = 0
    while True:
        byte = data[at]
        size |= (byte & 0x7F) << 7 * at
        at += 1
        if byte < 0x80 or at == 5:
            return _cut(data, at, size)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def double(value: float) -> str:
    """As MySQL's `my_gcvt` prints it in JSON: the shortest digits that give the number back.

    >>> double(1.0), double(1e15), double(1e14), double(0.00001), double(1e-16)
    ('1.0', '1e15', '100000000000000.0', '0.00001', '1e-16')
    """
    if value == 0:
        return "-0.0" if struct.pack(">d", value)[0] else "0.0"
    # Python prints the same digits; where the point stands is to be found again.
    mantissa, _, power = repr(abs(value)).partition("e")
    whole, _, part = mantissa.partition(".")
    digits = (whole + part).lstrip("0")
    point = len(digits) - len(part) + int(power or 0)
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    if not (1 - DBL_DIG <= point <= DBL_DIG or len(digits) > point > 0):
        return f"{sign}{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}e{point - 1}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    return f"{sign}{digits[:point].ljust(point, '0')}.{digits[point:] or '0'}"


def _opaque(kind: int, value: bytes) -> str:
    if kind == NEWDECIMAL:
        from .binlog_values import Cursor, decimal

        return decimal(Cursor(value[2:]), value[0], value[1])
    if kind in (TIME, DATE, DATETIME, TIMESTAMP):
        return f'"{_moment(kind, struct.unpack("<q", value)[0])}"'
    if kind == VAR_STRING:
        return _quoted(value.decode())
    coded = base64.b64encode(value).decode()
    lines = [coded[at : at + LINE] for at in range(0, len(coded), LINE)]
    return _quoted(f"base64:type{kind}:" + "\n".join(lines))


def _moment(kind: int, packed: int) -> str:
    """A time or date as it lies in memory: 24 bits of microseconds below the rest."""
    sign, packed = ("-", -packed) if packed < 0 else ("", packed)
    whole, part = packed >> 24, packed & 0xFFFFFF
    minutes = f"{whole >> 6 & 63:02d}:{whole & 63:02d}.{part:06d}"
    if kind == TIME:
        return f"{sign}{whole >> 12 & 1023:02d}:{minutes}"
    month = whole >> 22
    day = f"{month // 13:04d}-{month % 13:02d}-{whole >> 17 & 31:02d}"
    return day if kind == DATE else f"{day} {whole >> 12 & 31:02d}:{minutes}"
