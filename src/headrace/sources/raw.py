"""Bytes of a format that their source knows, as files of bronze."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..core import Inspector, RawFile
from .how import How, OrRefuse
from .inspect import FileInspector, Past

Content = bytes | Callable[[], BinaryIO]


@dataclass
class Known:
    """Says what the source says; counts nothing."""

    form: Mapping[str, Any]

    def feed(self, chunk: bytes) -> None:
        pass

    def result(self) -> Mapping[str, Any]:
        return self.form


@dataclass
class Dialect:
    """Learns of delimited text only where its lines are; the dialect is the source's."""

    scan: FileInspector
    more: Mapping[str, Any]

    def feed(self, chunk: bytes) -> None:
        self.scan.feed(chunk)

    def result(self) -> Mapping[str, Any]:
        return {**self.scan.result(), **self.more}


def known(name: str, content: Content, form: Mapping[str, Any], table: str = "") -> RawFile:
    """`content` as a file that lands under `name`, never to come again; `form` is its format, by `type`.

    `content` is the bytes, or opens a stream of them that can be read once.
    """
    return _file(name, content, lambda: Known(form), table)


def delimited(
    name: str,
    content: Content,
    *,
    more: Mapping[str, Any] | None = None,
    table: str = "",
    past: Past | None = None,
) -> RawFile:
    """CSV by RFC 4180 in UTF-8 with a header; `more` is added to its format.

    `more={"nulls": "unquoted"}`: an empty field without quotes is NULL, one with quotes is an empty text.
    It may have no row; but with `past`, what the source landed before, one that lost its rows, or most of
    them, is refused.
    """
    policy: OrRefuse = "accept" if past is None else "refuse"
    how = How("csv", ",", '"', "utf-8", True, 0, 0, policy, policy, policy)
    return _file(name, content, lambda: Dialect(FileInspector(name, how, past), more or {}), table)


class _Pieces(io.RawIOBase):
    """A stream over pieces that are made while it is read."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._source, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def pieces(source: Iterator[bytes]) -> BinaryIO:
    """A stream of the bytes that `source` gives, one piece at a time in memory."""
    return io.BufferedReader(_Pieces(source), 1 << 20)


def spooled(spool: BinaryIO) -> Callable[[], BinaryIO]:
    """Opens, from its begin, what was written to `spool`; whoever reads it closes it."""

    def opened() -> BinaryIO:
        spool.seek(0)
        return spool

    return opened


def _file(name: str, content: Content, inspector: Callable[[], Inspector], table: str) -> RawFile:
    if not isinstance(content, bytes):
        return RawFile(name, 0, content, lambda: None, inspector, {}, table, records=True)
    size = len(content)
    return RawFile(name, size, lambda: io.BytesIO(content), lambda: None, inspector, {}, table, records=True)
