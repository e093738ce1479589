"""Bytes of a format that their source knows, as files of bronze."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..core import Inspector, RawFile
from .how import How
from .inspect import FileInspector

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
    name: str, content: Content, *, more: Mapping[str, Any] | None = None, table: str = ""
) -> RawFile:
    """CSV by RFC 4180 in UTF-8 with a header, which may have no row; `more` is added to its format.

    `more={"nulls": "unquoted"}`: an empty field without quotes is NULL, one with quotes is an empty text.
    """
    how = How("csv", ",", '"', "utf-8", True, 0, 0, "accept", "accept", "accept")
    return _file(name, content, lambda: Dialect(FileInspector(name, how), more or {}), table)


def _file(name: str, content: Content, inspector: Callable[[], Inspector], table: str) -> RawFile:
    if not isinstance(content, bytes):
        return RawFile(name, 0, content, lambda: None, inspector, {}, table)
    return RawFile(name, len(content), lambda: io.BytesIO(content), lambda: None, inspector, {}, table)
