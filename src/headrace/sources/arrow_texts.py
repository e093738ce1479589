"""Columns of text cut out of bytes by offsets and handed on as Arrow; needs numpy and nanoarrow.

Import it only from a decoder, which is loaded when its format is met.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DataError, MissingExtra

try:
    import nanoarrow as na
    import numpy as np
    from nanoarrow.c_array_stream import CArrayStream
except ImportError as error:
    raise MissingExtra(
        f"decoding binary changes needs `{error.name}`",
        hint="pip install 'headrace[postgres]', or 'headrace[mysql]'",
    ) from error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Octets = NDArray[np.uint8]
    Flags = NDArray[np.bool_]

__all__ = [
    "TextFrame",
    "Texts",
    "chosen",
    "digits",
    "fixed",
    "gather",
    "hexadecimal",
    "moments",
    "np",
    "numbers",
    "padded",
    "same",
    "side_by_side",
    "texts",
]

PADDING = 16
"""Bytes of zero after the messages, so that a number may be read at any place in them."""
LONG = 128
"""From so many bytes a text on average, a slice for each costs less than an index for each byte."""


@dataclass(frozen=True, slots=True)
class Texts:
    """One column: `data` from `offsets[i]` to `offsets[i + 1]` is the text of row i; not `valid` is NULL."""

    offsets: Ints
    data: Octets
    valid: Flags | None = None


@dataclass(frozen=True, slots=True)
class TextFrame:
    """An Arrow stream of one batch of text columns; can be read again."""

    columns: Mapping[str, Texts]
    rows: int

    def __arrow_c_schema__(self) -> object:
        return na.c_schema(self._schema()).__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        schema = self._schema()
        children = [_array(column, self.rows) for column in self.columns.values()]
        batch = na.c_array_from_buffers(schema, self.rows, [None], children=children, validation_level="none")
        stream = CArrayStream.from_c_arrays([batch], na.c_schema(schema))
        return stream.__arrow_c_stream__(requested_schema)

    def _schema(self) -> Any:
        return na.struct(dict.fromkeys(self.columns, na.large_string()))


def _array(column: Texts, rows: int) -> Any:
    valid = None if column.valid is None else np.packbits(column.valid, bitorder="little")
    buffers = [valid, column.offsets, column.data]
    return na.c_array_from_buffers(na.large_string(), rows, buffers, validation_level="none")


def padded(data: memoryview, more: int = PADDING) -> Octets:
    """A copy of `data` with `more` bytes of zero behind it."""
    buffer = np.empty(len(data) + more, np.uint8)
    buffer[: len(data)] = np.frombuffer(data, np.uint8)
    buffer[len(data) :] = 0
    return buffer


def numbers(buffer: Octets, form: str) -> NDArray[Any]:
    """The number (`form`: `>u4`) that begins at each byte of `buffer`, as a view."""
    width = np.dtype(form).itemsize
    return np.ndarray((len(buffer) - width + 1,), form, buffer.data, strides=(1,))


def gather(buffer: Octets, start: Ints, length: Ints) -> tuple[Ints, Octets]:
    """The bytes of all cells (each `length` bytes from `start`) back to back, and the offset of each."""
    offsets = np.zeros(len(start) + 1, np.int64)
    np.cumsum(length, out=offsets[1:])
    total = int(offsets[-1])
    if total and total >= LONG * len(start):
        view, ends = buffer.data, (start + length).tolist()
        cells = [view[a:b] for a, b in zip(start.tolist(), ends, strict=True)]
        return offsets, np.frombuffer(b"".join(cells), np.uint8)
    index: Any = np.int32 if max(total, len(buffer)) < 1 << 31 else np.int64
    places = np.repeat((start - offsets[:-1]).astype(index), length)
    places += np.arange(total, dtype=index)
    return offsets, buffer.take(places)


def same(buffer: Octets, one: tuple[Ints, Ints], other: tuple[Ints, Ints]) -> Flags:
    """Which of the cells (start, length) have the same bytes in the one as in the other."""
    equal: Flags = one[1] == other[1]
    among = np.flatnonzero(equal)
    offsets, left = gather(buffer, one[0][among], one[1][among])
    _, right = gather(buffer, other[0][among], other[1][among])
    differing = np.concatenate(([0], np.cumsum(left != right)))[offsets]
    equal[among] = differing[1:] == differing[:-1]
    return equal


def texts(buffer: Octets, start: Ints, length: Ints, valid: Flags | None = None) -> Texts:
    """The cells as a column; raises `DataError` with the number of the first that is not UTF-8."""
    offsets, data = gather(buffer, start, length)
    if len(data) and data.max() > 127:
        _check(offsets, data)
    return Texts(offsets, data, valid)


def _check(offsets: Ints, data: Octets) -> None:
    """Valid as a whole, and no cell begins within a character: so every cell is valid by itself."""
    try:
        str(data.data, "utf-8")
        begins = offsets[:-1][offsets[1:] > offsets[:-1]]
        within = begins[(data[begins] & 0xC0) == 0x80]
        place = int(within[0]) if len(within) else None
    except UnicodeDecodeError as error:
        place = error.start
    if place is not None:
        row = int(np.searchsorted(offsets, place, "right"))
        raise DataError(
            f"row {row}: byte {bytes(data[place : place + 1])!r} is not UTF-8",
            hint="let the server convert: connect with client_encoding=UTF8",
        )


def chosen(values: Sequence[str | None], which: Ints) -> Texts:
    """A column whose row i is `values[which[i]]`."""
    encoded = [(value or "").encode() for value in values]
    length = np.array([len(value) for value in encoded], np.int64)
    start = np.cumsum(length) - length
    buffer = padded(memoryview(b"".join(encoded)))
    known = np.array([value is not None for value in values], np.bool_)[which]
    offsets, data = gather(buffer, start[which], length[which])
    return Texts(offsets, data, None if known.all() else known)


def fixed(cells: Octets) -> Texts:
    """A column of ASCII texts of one width: `cells` has a row for each."""
    rows, width = cells.shape
    return Texts(np.arange(rows + 1, dtype=np.int64) * width, np.ascontiguousarray(cells).reshape(-1))


def digits(numbers: NDArray[Any], width: int) -> Octets:
    """Decimal digits of `numbers` >= 0, with leading zeros: a row of `width` for each."""
    out = np.empty((len(numbers), width), np.uint8)
    low = len(numbers) and numbers.min() >= 0 and numbers.max() < 1 << 32
    rest = numbers.astype(np.uint32) if low else numbers.copy()
    for place in range(width - 1, -1, -1):
        if not rest.any():
            out[:, : place + 1] = ord("0")
            break
        rest, last = np.divmod(rest, 10)
        out[:, place] = last + ord("0")
    return out


def moments(seconds: Ints) -> list[Octets]:
    """Year, month, day, hour, minute and second, as digits, of moments in seconds from 1970."""
    days, clock = np.divmod(seconds, 86_400)
    months = days.astype("datetime64[D]").astype("datetime64[M]")
    year, month = np.divmod(months.astype(np.int64), 12)
    day = days - months.astype("datetime64[D]").astype(np.int64)
    parts = [month + 1, day + 1, clock // 3600, clock // 60 % 60, clock % 60]
    return [digits(year + 1970, 4), *(digits(part, 2) for part in parts)]


def side_by_side(*parts: Octets | str) -> Octets:
    """Digits and single signs between them, as rows of characters."""
    rows = max(0 if isinstance(part, str) else len(part) for part in parts)
    made = [np.full((rows, 1), ord(part), np.uint8) if isinstance(part, str) else part for part in parts]
    return np.concatenate(made, axis=1)


def hexadecimal(numbers: NDArray[np.uint64]) -> Octets:
    """16 upper-case hexadecimal digits of each."""
    octets = numbers.astype(">u8").view(np.uint8).reshape(-1, 8)
    halves = np.stack([octets >> 4, octets & 15], axis=-1).reshape(-1, 16)
    return np.frombuffer(b"0123456789ABCDEF", np.uint8)[halves]
