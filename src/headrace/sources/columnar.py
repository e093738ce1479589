"""Inspects Parquet, Avro and Excel files as they stream by, without their libraries."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import Any

from ..errors import Refused
from .how import Found

_FOOTER = 1 << 20
_AGAIN = "ask the sender for a new copy"
_BEGUN = re.compile(rb"<(?:\w+:)?(?:row|c)\s")
_TAGS = re.compile(rb"""<(?:\w+:)?(row|c)((?:\s(?:[^>"']|"[^"]*"|'[^']*')*)?)>""")
_AT = re.compile(rb"""\sr=["']([A-Z]*)(\d+)["']""")
_MOST_CELLS = 20_000_000
_SPARSE = 20
"""A sheet that reaches further than `_MOST_CELLS` must be filled by one cell in so many."""


class ParquetScan:
    """Column names and the row count from the footer; a file without one is cut off."""

    def __init__(self) -> None:
        self.head = b""
        self.tail = b""
        self.size = 0

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        if len(self.head) < 4:
            self.head = (self.head + data)[:4]
        self.tail = data[-_FOOTER:] if len(data) >= _FOOTER else (self.tail + data)[-_FOOTER:]

    def finish(self) -> Found:
        facts: dict[str, Any] = {"type": "parquet", "header": None, "types": None, "rows": None}
        if self.tail[-4:] == b"PARE":
            raise Refused("its Parquet footer is encrypted", hint="decrypt it before it is delivered")
        if self.size < 12 or self.tail[-4:] != b"PAR1":
            return Found(facts, None, self.size == 0, "its Parquet footer is missing")
        length = struct.unpack("<I", self.tail[-8:-4])[0]
        if length + 12 > self.size:
            return Found(facts, None, False, "its Parquet footer is larger than the file")
        if length + 8 <= len(self.tail):
            try:
                names, rows = _parquet_footer(self.tail[-8 - length : -8])
            except (IndexError, ValueError, RecursionError, KeyError):
                return Found(facts, None, False)
            facts |= {"header": names, "rows": rows}
            return Found(facts, rows, rows == 0)
        return Found(facts, None, False)


class _Compact:
    """As much of Thrift's compact protocol as a Parquet footer's start needs."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("varint")

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        size = self.varint()
        if size > len(self.data) - self.at:
            raise ValueError("size")
        self.at += size
        return self.data[self.at - size : self.at]

    def listed(self) -> tuple[int, int]:
        head = self.data[self.at]
        self.at += 1
        size = head >> 4
        return (self.varint() if size == 15 else size), head & 15

    def struct(self, wanted: dict[int, str]) -> dict[int, Any]:
        """The wanted fields of a struct (`i` integer, `b` binary, `l` schema list); others are skipped."""
        found: dict[int, Any] = {}
        field = 0
        while (head := self.data[self.at]) != 0:
            self.at += 1
            kind = head & 15
            field = field + (head >> 4) if head >> 4 else self.integer()
            how = wanted.get(field)
            if how == "i" and kind in (4, 5, 6):
                found[field] = self.integer()
            elif how == "b" and kind == 8:
                found[field] = self.binary()
            elif how == "l" and kind == 9:
                size, inner = self.listed()
                if inner != 12 or size > len(self.data):
                    raise ValueError("schema")
                found[field] = [self.struct({4: "b", 5: "i"}) for _ in range(size)]
            else:
                self.skip(kind)
            if len(found) == len(wanted) and "l" in wanted.values():
                return found
        self.at += 1
        return found

    def skip(self, kind: int) -> None:
        if kind in (1, 2):
            return
        if kind == 3:
            self.at += 1
        elif kind in (4, 5, 6):
            self.varint()
        elif kind == 7:
            self.at += 8
        elif kind == 8:
            self.binary()
        elif kind in (9, 10):
            size, inner = self.listed()
            if size > len(self.data):
                raise ValueError("size")
            for _ in range(size):
                self.skip(3 if inner in (1, 2) else inner)
        elif kind == 12:
            self.struct({})
        else:
            raise ValueError("kind")


def _parquet_footer(data: bytes) -> tuple[list[str], int]:
    fields = _Compact(data).struct({2: "l", 3: "i"})
    elements = fields[2]
    names: list[str] = []
    at = 1

    def past(index: int) -> int:
        after = index + 1
        for _ in range(elements[index].get(5, 0)):
            after = past(after)
        return after

    for _ in range(elements[0].get(5, 0)):
        names.append(elements[at][4].decode("utf-8", "replace"))
        at = past(at)
    return names, int(fields[3])


class AvroScan:
    """Field names from the schema, and records counted block by block."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.names: list[str] | None = None
        self.sync: bytes | None = None
        self.left = 0
        self.rows = 0
        self.size = 0
        self.between = False

    def feed(self, data: bytes) -> None:
        self.size += len(data)
        self.buffer += data
        try:
            while self._step():
                pass
        except _More:
            return

    def finish(self) -> Found:
        facts = {"type": "avro", "header": self.names, "rows": self.rows}
        cut = None if self.between and not self.buffer else "its last Avro block is cut off"
        return Found(facts, self.rows, self.between and self.rows == 0, cut)

    def _step(self) -> bool:
        if self.sync is None:
            at, meta = _avro_header(bytes(self.buffer))
            self.sync = bytes(self.buffer[at : at + 16])
            self.names = _avro_names(meta.get("avro.schema", b""))
            del self.buffer[: at + 16]
            self.between = True
        elif self.left > 16:
            part = min(self.left - 16, len(self.buffer))
            del self.buffer[:part]
            self.left -= part
            return part > 0
        elif self.left:
            if len(self.buffer) < 16:
                return False
            if bytes(self.buffer[:16]) != self.sync:
                raise Refused("an Avro block does not end with its mark", hint=_AGAIN)
            del self.buffer[:16]
            self.left = 0
            self.between = True
        else:
            if not self.buffer:
                return False
            window = bytes(self.buffer[:40])
            count, at = _long(window, 0)
            size, at = _long(window, at)
            if count < 0 or size < 0:
                raise Refused("an Avro block has a negative size", hint=_AGAIN)
            self.rows += count
            self.left = size + 16
            self.between = False
            del self.buffer[:at]
        return True


class _More(Exception):
    """The bytes so far do not hold the whole value."""


def _long(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise _More
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > 63:
            raise Refused("its Avro data is corrupt", hint=_AGAIN)


def _avro_header(data: bytes) -> tuple[int, dict[str, bytes]]:
    if len(data) < 4:
        raise _More
    at = 4
    meta: dict[str, bytes] = {}

    def taken(start: int) -> tuple[bytes, int]:
        size, start = _long(data, start)
        if size < 0 or size > _FOOTER:
            raise Refused("its Avro header is corrupt", hint=_AGAIN)
        if start + size > len(data):
            raise _More
        return data[start : start + size], start + size

    while True:
        count, at = _long(data, at)
        if count == 0:
            break
        if count < 0:
            _, at = _long(data, at)
        for _ in range(abs(count)):
            key, at = taken(at)
            meta[key.decode("utf-8", "replace")], at = taken(at)
    if at + 16 > len(data):
        raise _More
    return at, meta


def _avro_names(schema: bytes) -> list[str] | None:
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError):
        return None
    fields = parsed.get("fields") if isinstance(parsed, dict) else None
    return [str(field.get("name")) for field in fields] if isinstance(fields, list) else None


class ExcelScan:
    """Sheet names of a workbook, from its members; refuses a workbook that would fill the memory."""

    def __init__(self) -> None:
        self.book = b""
        self.sheets: dict[str, _Extent] = {}

    def member(self, name: str, data: bytes) -> None:
        if name == "xl/workbook.xml" and len(self.book) < _FOOTER:
            self.book += data
        elif name.startswith("xl/worksheets/") and name.endswith(".xml"):
            self.sheets.setdefault(name, _Extent()).feed(data)

    def finish(self) -> Found:
        for extent in self.sheets.values():
            extent.check()
        tags = re.findall(rb"<(?:\w+:)?sheet\b[^>]*?\bname=\"([^\"]*)\"", self.book)
        names = [_unescape(tag.decode("utf-8", "replace")) for tag in tags]
        return Found({"type": "xlsx", "sheets": names, "rows": None}, None, not names)


@dataclass
class _Extent:
    """How far a sheet reaches: what reads it holds all cells up to the last one, be they filled or not."""

    rest: bytes = b""
    row: int = 0
    column: int = 0
    rows: int = 0
    columns: int = 0
    filled: int = 0

    def feed(self, data: bytes) -> None:
        data, end = self.rest + data, 0
        for tag in _TAGS.finditer(data):
            end = tag.end()
            name, inner = tag.groups()
            at = _AT.search(inner)
            if name == b"row":
                self.row, self.column = int(at[2]) if at else self.row + 1, 0
            elif not inner.endswith(b"/"):  # else it is a format without a value
                self.column = _number_of(at[1]) if at and at[1] else self.column + 1
                self.row = int(at[2]) if at else self.row
                self.filled += 1
                self.rows, self.columns = max(self.rows, self.row), max(self.columns, self.column)
        self.rest = data[max(end, len(data) - _FOOTER) :]
        if _BEGUN.search(data, end, len(data) - len(self.rest)):
            raise Refused("a sheet of the workbook is damaged", hint=_AGAIN)

    def check(self) -> None:
        area = self.rows * self.columns
        if area > _MOST_CELLS and area > _SPARSE * self.filled:
            raise Refused(
                f"a sheet of {self.filled:,} cells reaches to row {self.rows:,} and column {self.columns:,}",
                hint="delete what stands far away from the table (Ctrl+End leads there), or save it as CSV",
            )


def _number_of(letters: bytes) -> int:
    """
    >>> _number_of(b"A"), _number_of(b"Z"), _number_of(b"AA"), _number_of(b"XFD")
    (1, 26, 27, 16384)
    """
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number


def _unescape(text: str) -> str:
    for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(entity, sign)
    return text
