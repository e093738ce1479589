"""Columns of values of row events as text, all rows of a column at once; each as `binlog_values` reads one.

What is rare, or has no shape to calculate with (JSON, compressed columns, foreign character sets), goes value
by value through the readers of `binlog_values`.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .arrow_texts import Texts, chosen, digits, gather, moments, np, numbers, side_by_side, texts
from .binlog_values import (
    BINARY,
    BIT,
    BLOB,
    BLOB_COMPRESSED,
    CODECS,
    DATE,
    DATETIME2,
    DOUBLE,
    ENUM,
    FLOAT,
    GEOMETRY,
    INTEGERS,
    JSON,
    NEWDECIMAL,
    SET,
    STRING,
    TIME2,
    TIMESTAMP2,
    VAR_STRING,
    VARCHAR,
    VARCHAR_COMPRESSED,
    YEAR,
    Cursor,
    Field,
    Reader,
    decimal_groups,
    reader,
    real,
)
from .binlog_values import shown as printed

if TYPE_CHECKING:
    from .arrow_texts import Flags, Ints, Octets

HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint8).reshape(256, 2)
ASCII = ("utf-8", "ascii", "cp125", "iso8859", "koi8", "latin", "cp852", "cp866", "cp850")
"""Codecs of which a byte under 128 is itself, and no part of another character."""


@dataclass(frozen=True, slots=True)
class Width:
    """How many bytes a value has: `size`, or what the number in its first `prefix` bytes says."""

    size: int
    prefix: int = 0


@dataclass(frozen=True, slots=True)
class Cells:
    """Where the values of a column are, without their length; not `valid` is NULL, which has no length."""

    buffer: Octets
    start: Ints
    length: Ints
    valid: Flags

    @property
    def nulls(self) -> Flags | None:
        return None if self.valid.all() else self.valid


def width(of: Field) -> Width:
    """Raises `DataError` for types that cannot be read."""
    kind, meta = of.kind, of.meta
    if kind in INTEGERS:
        return Width(INTEGERS[kind])
    sizes = {
        FLOAT: 4,
        DOUBLE: 8,
        YEAR: 1,
        DATE: 3,
        BIT: (meta >> 8) + (meta & 255 > 0),
        ENUM: meta,
        SET: meta,
    }
    if kind in sizes:
        return Width(sizes[kind])
    if kind in (TIME2, DATETIME2, TIMESTAMP2):
        return Width({TIME2: 3, DATETIME2: 5, TIMESTAMP2: 4}[kind] + (meta + 1) // 2)
    if kind == NEWDECIMAL:
        return Width(sum(size for size, _ in decimal_groups(meta & 255, meta >> 8)))
    if kind in (VARCHAR, VAR_STRING, STRING, VARCHAR_COMPRESSED):
        return Width(0, 2 if meta > 255 else 1)
    if kind in (BLOB, GEOMETRY, JSON, BLOB_COMPRESSED):
        return Width(0, meta)
    raise DataError(f"column `{of.name}`: values of MySQL type {kind} cannot be read from the binlog")


def column(of: Field, cells: Cells, shown: str) -> Texts:
    """`shown` is what the binlog does not tell of the column: see `binlog_values.shown`."""
    if of.kind in INTEGERS:
        return _numbers(_little(cells, INTEGERS[of.kind], signed=not of.unsigned), cells)
    if of.kind == BIT:
        return _numbers(_big(cells, width(of).size), cells)
    if of.kind in (VARCHAR, VAR_STRING, STRING, BLOB) and shown not in ("uuid", "inet4", "inet6"):
        if of.charset == BINARY:
            return _hexadecimal(cells, of.meta if of.kind == STRING else 0)
        if text := _plain(of, cells):
            return text
    if of.kind == GEOMETRY:  # after the SRID: well-known binary
        skip = np.minimum(cells.length, 4)
        return _hexadecimal(Cells(cells.buffer, cells.start + skip, cells.length - skip, cells.valid), 0)
    made = COLUMNS.get(of.kind)
    return made(of, cells) if made else _each(cells, printed(reader(of), shown), width(of).prefix)


def _each(cells: Cells, read: Reader, prefix: int) -> Texts:
    """Value by value."""
    view = cells.buffer.data
    found = [
        read(Cursor(view[a - prefix : b])).encode() if valid else b""
        for a, b, valid in zip(
            cells.start.tolist(), (cells.start + cells.length).tolist(), cells.valid.tolist(), strict=True
        )
    ]
    offsets = np.zeros(len(found) + 1, np.int64)
    np.cumsum([len(each) for each in found], out=offsets[1:])
    return Texts(offsets, np.frombuffer(b"".join(found), np.uint8), cells.nulls)


def _plain(of: Field, cells: Cells) -> Texts | None:
    """The bytes as they are, if they are UTF-8 or ASCII; None if they must be converted."""
    codec = codecs.lookup(CODECS.get(of.charset, of.charset)).name if _known(of.charset) else ""
    if codec == "utf-8":
        return texts(cells.buffer, cells.start, cells.length, cells.nulls)
    offsets, data = gather(cells.buffer, cells.start, cells.length)
    if codec.startswith(ASCII) and (not len(data) or data.max() < 128):
        return Texts(offsets, data, cells.nulls)
    return None


def _known(charset: str) -> bool:
    try:
        codecs.lookup(CODECS.get(charset, charset))
    except LookupError:
        return False
    return True


def _hexadecimal(cells: Cells, least: int) -> Texts:
    """`\\x` and two digits for each byte; zero bytes up to `least`, which are not sent, are told."""
    _, data = gather(cells.buffer, cells.start, cells.length)
    length = np.where(cells.valid, np.maximum(cells.length, least) + 1, 0)
    offsets = np.zeros(len(length) + 1, np.int64)
    np.cumsum(length, out=offsets[1:])
    out = np.full((int(offsets[-1]), 2), ord("0"), np.uint8)
    out[offsets[:-1][cells.valid]] = np.frombuffer(b"\\x", np.uint8)
    told = np.cumsum(cells.length) - cells.length
    out[np.repeat(offsets[:-1] + 1 - told, cells.length) + np.arange(len(data))] = HEX[data]
    return Texts(offsets * 2, out.reshape(-1), cells.nulls)


def _little(cells: Cells, size: int, *, signed: bool) -> Ints:
    if size == 3:
        found = numbers(cells.buffer, "<u4")[cells.start].astype(np.int64) & 0xFFFFFF
        return (found ^ 0x800000) - 0x800000 if signed else found
    return numbers(cells.buffer, f"<{'i' if signed else 'u'}{size}")[cells.start]


def _big(cells: Cells, size: int, skip: int = 0) -> Ints:
    """Unsigned, most significant byte first."""
    found: Any = np.zeros(len(cells.start), np.uint64)
    for n in range(skip, skip + size):
        found = found << np.uint64(8) | cells.buffer[cells.start + n]
    return found if size == 8 else found.astype(np.int64)  # type: ignore[no-any-return]


def _numbers(found: Ints, cells: Cells) -> Texts:
    """Whole numbers without leading zeros; what is NULL may be any."""
    negative = (found < 0) & cells.valid
    size = found.astype(np.uint64)
    size[negative] = np.uint64(0) - size[negative]
    size[~cells.valid] = 0
    figures = digits(size, len(str(int(size.max(initial=0)))))
    return _stripped(figures, figures.shape[1], negative, cells)


def _stripped(figures: Octets, whole: int, negative: Flags, cells: Cells) -> Texts:
    """Rows of digits without zeros before the last of the first `whole`, and with the sign."""
    rows, size = figures.shape
    zeros = np.zeros(rows, np.int64)
    leading = np.ones(rows, np.bool_)
    for n in range(whole - 1):
        leading &= figures[:, n] == ord("0")
        if not leading.any():
            break
        zeros += leading
    padded = np.empty((rows, size + 1), np.uint8)
    padded[:, 1:] = figures
    begin = np.arange(rows) * (size + 1) + 1 + zeros - negative
    flat = padded.reshape(-1)
    flat[begin[negative]] = ord("-")
    length = np.where(cells.valid, size - zeros + negative, 0)
    return Texts(*gather(flat, begin, length), cells.nulls)


def _decimals(of: Field, cells: Cells) -> Texts:
    precision, scale = of.meta & 255, of.meta >> 8
    negative = (cells.buffer[cells.start] & 0x80 == 0) & cells.valid
    parts, at = [], 0
    for size, count in decimal_groups(precision, scale):
        value = _big(cells, size, at)
        value = value ^ (0x80 << 8 * (size - 1)) if at == 0 and size else value
        value = np.where(negative, value ^ ((1 << 8 * size) - 1), value)
        parts.append(digits(value, count))
        at += size
    figures = np.concatenate(parts, axis=1)
    whole = precision - scale
    rows = len(figures)
    if not whole:
        figures, whole = np.concatenate((np.full((rows, 1), ord("0"), np.uint8), figures), axis=1), 1
    if scale:
        point = np.full((rows, 1), ord("."), np.uint8)
        figures = np.concatenate((figures[:, :whole], point, figures[:, whole:]), axis=1)
    return _stripped(figures, whole, negative, cells)


def _reals(of: Field, cells: Cells) -> Texts:
    """Each number is printed once."""
    bits = numbers(cells.buffer, "<u4" if of.kind == FLOAT else "<u8")[cells.start]
    known, which = np.unique(bits[cells.valid], return_inverse=True)
    values = known.view(np.float32 if of.kind == FLOAT else np.float64).tolist()
    return _chosen([real(value) for value in values], which, cells)


def _chosen(values: Sequence[str], which: Ints, cells: Cells) -> Texts:
    """`which` is by row that is not NULL."""
    places = np.zeros(len(cells.start), np.int64)
    places[cells.valid] = which + 1
    return chosen([None, *values], places)


def _words(of: Field, cells: Cells) -> Texts:
    """Values of enums and sets; a number without a word is an empty text, as in the server."""
    size = width(of).size
    found = (_little(cells, 8, signed=False) & np.uint64((1 << 8 * size) - 1))[cells.valid]
    known, which = np.unique(found, return_inverse=True)
    if of.kind == ENUM:
        values = [of.words[n - 1] if 0 < n <= len(of.words) else "" for n in known.tolist()]
    else:
        values = [",".join(w for n, w in enumerate(of.words) if mask >> n & 1) for mask in known.tolist()]
    return _chosen(values, which, cells)


def _cut(figures: Octets, begin: Ints | int, end: Ints | int, cells: Cells) -> Texts:
    rows, size = figures.shape
    length = np.where(cells.valid, np.asarray(end) - begin, 0)
    return Texts(*gather(figures.reshape(-1), np.arange(rows) * size + begin, length), cells.nulls)


def _dates(_: Field, cells: Cells) -> Texts:
    value = _little(cells, 3, signed=False)
    figures = side_by_side(digits(value >> 9, 4), "-", *_month_day(value >> 5 & 15, value & 31))
    return _cut(figures, 0, 10, cells)


def _month_day(month: Ints, day: Ints) -> list[Octets | str]:
    return [digits(month, 2), "-", digits(day, 2)]


def _clock(value: Ints) -> list[Octets | str]:
    return [digits(value >> 6 & 63, 2), ":", digits(value & 63, 2)]


def _fraction(part: Ints, places: int) -> list[Octets | str]:
    return [".", digits(part, (places + 1) // 2 * 2)[:, :places]] if places else []


def _datetimes(of: Field, cells: Cells) -> Texts:
    value = _big(cells, 5) - 0x8000000000
    month = value >> 22
    day = side_by_side(digits(month // 13, 4), "-", *_month_day(month % 13, value >> 17 & 31), " ")
    part = _fraction(_big(cells, (of.meta + 1) // 2, 5), of.meta)
    figures = side_by_side(day, digits(value >> 12 & 31, 2), ":", *_clock(value), *part)
    return _cut(figures, 0, figures.shape[1], cells)


def _timestamps(of: Field, cells: Cells) -> Texts:
    """In UTC; what is zero is no moment, and has no offset."""
    seconds, part = _big(cells, 4), _big(cells, (of.meta + 1) // 2, 4)
    year, month, day, hour, minute, second = moments(seconds)
    moment = side_by_side(year, "-", month, "-", day, " ", hour, ":", minute, ":", second)
    figures = side_by_side(moment, *_fraction(part, of.meta), "+", "0", "0")
    zero = (seconds == 0) & (part == 0)
    figures[zero, :19] = np.frombuffer(b"0000-00-00 00:00:00", np.uint8)
    return _cut(figures, 0, figures.shape[1] - np.where(zero, 3, 0), cells)


def _times(of: Field, cells: Cells) -> Texts:
    extra = (of.meta + 1) // 2
    value = _big(cells, 3 + extra) - (0x800000 << 8 * extra)
    negative = (value < 0) & cells.valid
    value = np.abs(value)
    whole, part = value >> 8 * extra, value & ((1 << 8 * extra) - 1)
    hours = whole >> 12 & 1023
    figures = side_by_side("-", digits(hours, 3), ":", *_clock(whole), *_fraction(part, of.meta))
    begin = np.where(hours > 99, 1, 2) - negative
    figures[np.arange(len(figures))[negative], begin[negative]] = ord("-")
    return _cut(figures, begin, figures.shape[1], cells)


def _years(_: Field, cells: Cells) -> Texts:
    value = cells.buffer[cells.start].astype(np.int64)
    return _cut(digits(np.where(value, value + 1900, 0), 4), 0, 4, cells)


COLUMNS: dict[int, Callable[[Field, Cells], Texts]] = {
    **dict.fromkeys((FLOAT, DOUBLE), _reals),
    **dict.fromkeys((ENUM, SET), _words),
    NEWDECIMAL: _decimals,
    DATE: _dates,
    DATETIME2: _datetimes,
    TIMESTAMP2: _timestamps,
    TIME2: _times,
    YEAR: _years,
}
