"""Exact bytes of records, by line, out of an object of bronze, without holding the object in memory."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from headrace.errors import MissingExtra

BLOCK = 1 << 18
BROKEN = (OSError, EOFError, ValueError, zlib.error)
"""What reading `open_plain` raises where the file itself is broken."""


def open_plain(path: Path, compression: str | None) -> BinaryIO:
    """The decompressed bytes of `path`; opening and reading raise one of `BROKEN` where they are broken."""
    if compression is None:
        return path.open("rb", buffering=BLOCK)
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
    return iter(stream) if end == b"\n" else chain.from_iterable(_blocks(stream, end))


def _blocks(stream: BinaryIO, end: bytes) -> Iterator[list[bytes]]:
    """The same lines, as many at a time as a block holds: in lists, which costs half of one by one."""
    rest = b""
    while block := stream.read(max(BLOCK, len(rest))):
        data = rest + block
        if end == b"\n":
            found = io.BytesIO(data).readlines()
            rest = b"" if data.endswith(end) else found.pop()
        else:
            *parts, rest = data.split(end) if len(end) == 1 else _split_wide(data, end)
            found = [part + end for part in parts]
        yield found
    if rest:
        yield [rest]


def _groups(stream: BinaryIO) -> Iterator[list[bytes]]:
    """The lines of a packed file, which may break off: all that come before its error, and then that."""
    while True:
        group: list[bytes] = []
        try:
            group.extend(islice(stream, 1_000))
        except BROKEN:
            yield group
            raise
        if not group:
            return
        yield group


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
    """The exact bytes of each record of `wanted` (first line from 1, number of lines), in that order."""
    if not wanted:
        return []
    with Records(path, form) as file:
        found = {span: file.at(*span) for span in sorted(set(wanted))}
    return [found[span] for span in wanted]


class Records:
    """Exact bytes of records of one file, by line; asked for in ascending order, the file is read once."""

    def __init__(self, path: Path, form: Mapping[str, Any]) -> None:
        self._path, self._form, self._end = Path(path), form, line_end(form)
        self._stream: BinaryIO | None = None
        self._start()

    def _start(self) -> None:
        self.close()
        packed = self._form.get("compression")
        self._stream = open_plain(self._path, packed)
        by_line = packed and self._end == b"\n"
        self._blocks = _groups(self._stream) if by_line else _blocks(self._stream, self._end)
        self._first = 1
        self._held: list[bytes] = []  # lines from `_first` on: of the block last read, and before as needed

    def at(self, first: int, count: int) -> bytes:
        """The record of `count` lines from line `first` (from 1) on; `b""` past the end of the file.

        Line ends inside it stay, its last one does not.
        """
        if first < self._first:
            self._start()
        while first + count > self._first + len(self._held):
            block = next(self._blocks, None)
            if block is None:
                break
            gone = min(first - self._first, len(self._held))
            self._first += gone
            self._held = [*self._held[gone:], *block] if gone < len(self._held) else block
        start = first - self._first
        return bare(b"".join(self._held[start : start + count]), self._end)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
