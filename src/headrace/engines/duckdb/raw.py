"""Exact bytes of records, by line, out of an object of bronze, without holding the object in memory."""

from __future__ import annotations

import gzip
import io
import itertools
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from headrace.errors import MissingExtra

BLOCK = 1 << 20
BROKEN = (OSError, EOFError, ValueError, zlib.error)
"""What reading `open_plain` raises where the file itself is broken."""


def open_plain(path: Path, compression: str | None) -> BinaryIO:
    """The decompressed bytes of `path`; opening and reading raise one of `BROKEN` where they are broken."""
    if compression is None:
        return path.open("rb")
    if compression == "gzip":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if compression == "zstd":
        return _open_zstd(path)
    if compression == "zip":
        return _open_zip(path)
    raise ValueError(f"compression `{compression}` is not known: gzip, zstd and zip are")


def _open_zstd(path: Path) -> BinaryIO:
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra(
            "reading zstd needs the package `zstandard`",
            hint="pip install 'headrace[formats]'",
            where=str(path),
        ) from error

    class Reader(io.RawIOBase):
        def __init__(self) -> None:
            self.file = path.open("rb")
            self.stream = zstandard.ZstdDecompressor().stream_reader(self.file, read_across_frames=True)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            try:
                data = self.stream.read(len(buffer))
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from error
            buffer[: len(data)] = data
            return len(data)

        def close(self) -> None:
            self.file.close()
            super().close()

    return io.BufferedReader(Reader(), BLOCK)


def _open_zip(path: Path) -> BinaryIO:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            if len(members) != 1:
                raise ValueError(f"a zip with {len(members)} members; exactly one can be read")
            # The member keeps the archive's file open for itself.
            return cast(BinaryIO, archive.open(members[0]))
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error


def line_end(form: Mapping[str, Any]) -> bytes:
    """What ends a physical line of this format, in its own encoding."""
    end = "\r" if form.get("newline") == "\r" else "\n"
    encoding = str(form.get("encoding") or "utf-8")
    return end.encode(encoding) if encoding.startswith("utf-16-") else end.encode()


def lines(stream: BinaryIO, end: bytes) -> Iterator[bytes]:
    """Physical lines, each with its end; together they are the stream's bytes."""
    return iter(stream) if end == b"\n" else _cut(stream, end)


def _cut(stream: BinaryIO, end: bytes) -> Iterator[bytes]:
    rest = b""
    width = len(end)
    while block := stream.read(BLOCK):
        parts = (rest + block).split(end) if width == 1 else _split_wide(rest + block, end)
        rest = parts.pop()
        for part in parts:
            yield part + end
    if rest:
        yield rest


def _split_wide(data: bytes, end: bytes) -> list[bytes]:
    # In UTF-16 the bytes of a line end also occur across two characters: only even offsets count.
    parts, start, at = [], 0, data.find(end)
    while at >= 0:
        if (at - start) % 2 == 0:
            parts.append(data[start:at])
            start = at + 2
            at = data.find(end, start)
        else:
            at = data.find(end, at + 1)
    parts.append(data[start:])
    return parts


def raw_lines(path: Path, form: Mapping[str, Any], wanted: Sequence[tuple[int, int]]) -> list[bytes]:
    """The exact bytes of each record of `wanted` (first line from 1, number of lines), in that order.

    Line ends inside a record stay, its last one does not. A record past the end of the file is `b""`.
    """
    if not wanted:
        return []
    ordered = sorted(set(wanted))
    found = dict(zip(ordered, records(path, form, ordered), strict=True))
    return [found[key] for key in wanted]


def records(path: Path, form: Mapping[str, Any], wanted: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """What `raw_lines` gives, one by one, of records `wanted` by ascending first lines; reads the file once."""
    end = line_end(form)
    with open_plain(Path(path), form.get("compression")) as stream:
        here = lines(stream, end)
        at = 1
        kept: list[bytes] = []  # lines from `at - len(kept)` on, for records that overlap
        for first, count in wanted:
            if first >= at:
                kept = []
                if first > at:
                    skipped = first - at
                    next(itertools.islice(here, skipped - 1, None), None)
                    at = first
            else:
                kept = kept[first - (at - len(kept)) :]
            missing = first + count - at
            if missing > 0:
                more = list(itertools.islice(here, missing))
                kept += more
                at += len(more)
            yield bare(b"".join(kept[:count]), end)


def bare(record: bytes, end: bytes) -> bytes:
    """A record without its last line end, a carriage return before it included."""
    record = record.removesuffix(end)
    return record if b"\r" in end else record.removesuffix(end.replace(b"\n", b"\r"))


def as_text(raw: bytes, encoding: str) -> str:
    """Readable text from which the bytes can be told: what does not decode is shown as `\\xff`."""
    if encoding in ("windows-1252", "utf-16-le", "utf-16-be"):
        text = raw.decode(encoding, "backslashreplace")
    else:
        text = raw.decode("utf-8", "backslashreplace")
    return text.replace("\0", "\\x00")
