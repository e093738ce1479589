"""Odd text becomes clean UTF-8 in scratch, line for line, so that one fast reader serves all."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from .raw import BLOCK, BROKEN, open_plain

MARK = "\ufeff"


def is_plain(form: Mapping[str, Any]) -> bool:
    """True if DuckDB's reader takes the bytes as they are."""
    return (
        str(form.get("encoding") or "utf-8") in ("utf-8", "utf-8-sig")
        and not form.get("nul")
        and not form.get("row_end")
        and form.get("compression") != "zip"
        and len(str(form.get("delimiter") or ",").encode()) <= 4
    )


def normalise(path: Path, form: Mapping[str, Any], to: Path) -> Mapping[str, Any] | None:
    """Writes the text to `to` as UTF-8 and gives the format of that; None if a byte has no certain meaning.

    Every character stays, line ends too, so that lines are the same; only a byte order mark goes. What this
    cannot do is done record by record elsewhere, where one broken line is one reject.
    """
    clean = {**form, "encoding": "utf-8", "compression": None}
    if not is_plain(clean):
        return None
    try:
        with closing(open_plain(path, form.get("compression"))) as stream, to.open("wb") as out:
            first = True
            for text in _texts(stream, str(form.get("encoding") or "utf-8")):
                out.write((text.removeprefix(MARK) if first else text).encode("utf-8"))
                first = False
    except BROKEN:  # a UnicodeError is a ValueError
        to.unlink(missing_ok=True)
        return None
    return clean


def _texts(stream: BinaryIO, encoding: str) -> Iterator[str]:
    if encoding == "mixed":
        yield from _by_line(stream)
        return
    decoder = codecs.getincrementaldecoder("utf-8" if encoding == "utf-8-sig" else encoding)("strict")
    while block := stream.read(BLOCK):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def _by_line(stream: BinaryIO) -> Iterator[str]:
    """UTF-8, and windows-1252 for a line that is none; most blocks have no such line."""
    rest = b""
    while block := stream.read(BLOCK):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        yield _lines(whole + newline)
    yield _lines(rest)


def _lines(block: bytes) -> str:
    try:
        return block.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(map(_line, block.splitlines(keepends=True)))


def _line(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("windows-1252")
