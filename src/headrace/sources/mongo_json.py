"""BSON as Extended JSON (canonical): every type keeps its name and every value its digits.

The driver's decoder is quick, and exact where encoding what it gave returns the same bytes. Where it does not
(a key that comes twice, types that only old servers wrote, text that is no UTF-8), the bytes are walked.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator, Mapping
from json.encoder import encode_basestring
from typing import Any

import bson
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from ..errors import DataError

OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict, datetime_conversion=DatetimeConversion.DATETIME_MS
)
"""Dates as milliseconds, which any year fits; binary values as they are."""
RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_MS
)
_DEEPEST = 200  # the server takes 100 levels


def document(raw: bytes, keys: dict[str, None] | None = None) -> bytes:
    """One document as one line of Extended JSON in UTF-8, compact, with its keys in their order.

    Text that is no UTF-8 stays the bytes that it is, so that whoever reads the line must notice. `keys`,
    where given, learns the names of the document's fields. Raises `DataError` for bytes that are no document.
    """
    try:
        value = bson.decode(raw, OPTIONS)
        if keys is not None and not value.keys() <= keys.keys():
            keys.update(dict.fromkeys(value))
        if bson.encode(value, codec_options=OPTIONS) == raw:
            return text(value).encode()
    except (BSONError, OverflowError, ValueError, RecursionError, struct.error):
        pass
    return walked(raw)


def text(value: Any) -> str:
    """Extended JSON of a decoded value.

    >>> text({"n": 5, "big": Int64(5), "x": 0.1, "at": DatetimeMS(0), "tags": ["a", None]})
    '{"n":{"$numberInt":"5"},"big":{"$numberLong":"5"},"x":{"$numberDouble":"0.1"},"at":{"$date":{"$numberLong":"0"}},"tags":["a",null]}'
    """
    told = _TOLD.get(type(value))
    if told is None:
        raise DataError(f"a value of type {type(value).__name__} is none of BSON's")
    return told(value)


def _object(value: Mapping[str, Any]) -> str:
    told = _TOLD
    return (
        "{"
        + ",".join([f"{encode_basestring(key)}:{told[type(each)](each)}" for key, each in value.items()])
        + "}"
    )


def _array(value: list[Any]) -> str:
    told = _TOLD
    return "[" + ",".join([told[type(each)](each) for each in value]) + "]"


def _double(value: float) -> str:
    if value != value:
        return '{"$numberDouble":"NaN"}'
    if value in (float("inf"), float("-inf")):
        return f'{{"$numberDouble":"{"-" if value < 0 else ""}Infinity"}}'
    return f'{{"$numberDouble":"{value!r}"}}'


def _binary(value: bytes) -> str:
    subtype = getattr(value, "subtype", 0)
    coded = base64.b64encode(value).decode()
    return f'{{"$binary":{{"base64":"{coded}","subType":"{subtype:02x}"}}}}'


def _regex(value: Regex[str]) -> str:
    flags = "".join(letter for letter, flag in _FLAGS if value.flags & flag)
    return _pattern(encode_basestring(str(value.pattern)), encode_basestring(flags))


def _pattern(pattern: str, options: str) -> str:
    return f'{{"$regularExpression":{{"pattern":{pattern},"options":{options}}}}}'


def _code(value: Code) -> str:
    scope = "" if value.scope is None else f',"$scope":{_object(value.scope)}'
    return f'{{"$code":{encode_basestring(str(value))}{scope}}}'


_FLAGS = (("i", 2), ("l", 4), ("m", 8), ("s", 16), ("u", 32), ("x", 64))
_TOLD: dict[type, Callable[[Any], str]] = {
    dict: _object,
    list: _array,
    str: encode_basestring,
    int: lambda v: f'{{"$numberInt":"{v}"}}',
    Int64: lambda v: f'{{"$numberLong":"{v}"}}',
    float: _double,
    bool: lambda v: "true" if v else "false",
    type(None): lambda _: "null",
    ObjectId: lambda v: f'{{"$oid":"{v}"}}',
    DatetimeMS: lambda v: f'{{"$date":{{"$numberLong":"{int(v)}"}}}}',
    Decimal128: lambda v: f'{{"$numberDecimal":"{v}"}}',
    bytes: _binary,
    Binary: _binary,
    Timestamp: lambda v: f'{{"$timestamp":{{"t":{v.time},"i":{v.inc}}}}}',
    Regex: _regex,
    Code: _code,
    DBRef: lambda v: _object(v.as_doc()),
    MinKey: lambda _: '{"$minKey":1}',
    MaxKey: lambda _: '{"$maxKey":1}',
}


# Byte by byte


def walked(raw: bytes) -> bytes:
    """The same, for what the driver cannot give back: every element as its bytes have it."""
    try:
        line, end = _walk(memoryview(raw), 0, 0, array=False)
    except (struct.error, IndexError, ValueError) as error:
        raise DataError(f"{len(raw)} bytes that are no BSON document: {error}") from None
    if end != len(raw):
        raise DataError(f"{len(raw) - end} bytes after the end of a BSON document")
    return line


def _walk(raw: memoryview, at: int, depth: int, *, array: bool) -> tuple[bytes, int]:
    if depth > _DEEPEST:
        raise ValueError("documents within documents without end")
    (size,) = struct.unpack_from("<i", raw, at)
    end = at + size
    if size < 5 or end > len(raw) or raw[end - 1] != 0:
        raise ValueError(f"a document of {size} bytes")
    parts: list[bytes] = []
    at += 4
    while (kind := raw[at]) != 0:
        key, at = _cstring(raw, at + 1)
        value, at = _element(kind, raw, at, depth)
        parts.append(value if array else key + b":" + value)
    if at != end - 1:
        raise ValueError("a document that ends before its size")
    return (b"[%s]" if array else b"{%s}") % b",".join(parts), end


def _element(kind: int, raw: memoryview, at: int, depth: int) -> tuple[bytes, int]:
    if kind in (0x03, 0x04):
        return _walk(raw, at, depth + 1, array=kind == 0x04)
    if kind in (0x02, 0x0E, 0x0D):
        value, at = _string(raw, at)
        return {0x02: b"%s", 0x0E: b'{"$symbol":%s}', 0x0D: b'{"$code":%s}'}[kind] % value, at
    if kind == 0x0C:
        value, at = _string(raw, at)
        oid = bytes(raw[at : at + 12]).hex().encode()
        return b'{"$dbPointer":{"$ref":%s,"$id":{"$oid":"%s"}}}' % (value, oid), at + 12
    if kind == 0x0B:
        pattern, at = _cstring(raw, at)
        options, at = _cstring(raw, at)
        return _pattern("%s", "%s").encode() % (pattern, options), at
    if kind == 0x0F:
        value, inner = _string(raw, at + 4)
        scope, end = _walk(raw, inner, depth + 1, array=False)
        return b'{"$code":%s,"$scope":%s}' % (value, scope), end
    if kind == 0x06:
        return b'{"$undefined":true}', at
    size = _SIZES.get(kind)
    if kind == 0x05:
        size = 5 + struct.unpack_from("<i", raw, at)[0]
    if size is None or size < 0:
        raise ValueError(f"an element of type 0x{kind:02x}")
    # Simple types: a document of this one element, by the driver.
    content = bytes(raw[at : at + size])
    one = struct.pack("<i", 4 + 3 + size + 1) + bytes([kind]) + b"v\0" + content + b"\0"
    return text(bson.decode(one, OPTIONS)["v"]).encode(), at + size


_SIZES = {
    0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0xFF: 0, 0x7F: 0,
}  # fmt: skip


def _string(raw: memoryview, at: int) -> tuple[bytes, int]:
    (size,) = struct.unpack_from("<i", raw, at)
    end = at + 4 + size
    if size < 1 or end > len(raw) or raw[end - 1] != 0:
        raise ValueError(f"a text of {size} bytes")
    return _quoted(bytes(raw[at + 4 : end - 1])), end


def _cstring(raw: memoryview, at: int) -> tuple[bytes, int]:
    end = at
    while raw[end] != 0:
        end += 1
    return _quoted(bytes(raw[at:end])), end + 1


def _quoted(content: bytes) -> bytes:
    return encode_basestring(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def split(batch: bytes) -> Iterator[bytes]:
    """The documents that lie one after another in `batch`, none of them decoded."""
    at = 0
    while at < len(batch):
        (size,) = struct.unpack_from("<i", batch, at)
        yield batch[at : at + size]
        at += size
