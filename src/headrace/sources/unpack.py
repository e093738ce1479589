"""Streams through gzip, zstd and zip; corrupt, cut and exploding archives are found while they pass."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

from ..errors import MissingExtra, Refused

_PIECE = 1 << 20
_AGAIN = "ask the sender for a new copy"
_BOMB_RATIO = 200
_BOMB_BYTES = 1 << 30


class Unpack(Protocol):
    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """(member, plain bytes); the member is "" where the format has none."""
        ...

    def finish(self) -> str | None:
        """Why the archive is cut off, or None."""
        ...


def packed(head: bytes) -> str | None:
    """The compression that a file's first bytes announce; refuses those that we cannot read."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zstd"  # the second begins a frame to skip, as pzstd writes
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    for magic, name in ((b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"7z\xbc\xaf", "7-Zip"), (b"Rar!", "RAR")):
        if head.startswith(magic):
            raise Refused(f"{name} files are not read", hint="repack it with gzip, zstd or zip")
    return None


def unpacker(kind: str) -> Unpack:
    if kind == "gzip":
        return _Gzip()
    return _Zstd() if kind == "zstd" else _Zip()


class _Meter:
    """Refuses an archive that grows beyond 200 times its size and 1 GB."""

    def __init__(self) -> None:
        self.packed = 0
        self.plain = 0

    def count(self, piece: bytes) -> bytes:
        self.plain += len(piece)
        if self.plain > _BOMB_BYTES and self.plain > _BOMB_RATIO * max(self.packed, 1):
            raise Refused(
                f"it unpacks to more than {self.plain >> 20} MB, {_BOMB_RATIO} times its size",
                hint="this looks like a decompression bomb; unpack it yourself if it is not",
            )
        return piece


class _Gzip:
    def __init__(self) -> None:
        self.meter = _Meter()
        self.inner = zlib.decompressobj(31)
        self.started = False
        self.padding = False

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        self.meter.packed += len(data)
        while data:
            if self.inner.eof:
                if self.padding or data.strip(b"\0") == b"":
                    self.padding = True
                    return
                self.inner = zlib.decompressobj(31)
            try:
                plain = self.inner.decompress(data, _PIECE)
            except zlib.error as error:
                raise Refused(f"its gzip data is corrupt: {error}", hint=_AGAIN) from None
            self.started = True
            data = self.inner.unused_data if self.inner.eof else self.inner.unconsumed_tail
            if plain:
                yield "", self.meter.count(plain)

    def finish(self) -> str | None:
        return None if self.inner.eof else "its gzip data is cut off"


class _Zstd:
    def __init__(self) -> None:
        try:
            import zstandard
        except ImportError:
            raise MissingExtra(
                "zstd files need the package zstandard", hint='pip install "headrace[formats]"'
            ) from None
        self.meter = _Meter()
        self.error: type[Exception] = zstandard.ZstdError
        self.make: Any = zstandard.ZstdDecompressor().decompressobj
        self.inner: Any = self.make()
        self.open = False

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        # Small pieces bound what one call can unpack to.
        for at in range(0, len(data), 4096):
            piece = data[at : at + 4096]
            self.meter.packed += len(piece)
            while piece:
                if self.inner.eof:
                    self.inner = self.make()
                try:
                    plain = self.inner.decompress(piece)
                except self.error as error:
                    raise _of_zstd(str(error)) from None
                piece = self.inner.unused_data if self.inner.eof else b""
                if plain:
                    yield "", self.meter.count(plain)

    def finish(self) -> str | None:
        return None if self.inner.eof else "its zstd data is cut off"


def _of_zstd(error: str) -> Refused:
    if "too much memory" in error:
        return Refused(
            "its zstd window is over 128 MB, and as much memory would be needed",
            hint="repack it without `--ultra` and `--long`, or with `--long=27`",
        )
    if "ictionary" in error:
        return Refused("its zstd data needs a dictionary", hint="repack it without one")
    return Refused(f"its zstd data is corrupt: {error}", hint=_AGAIN)


class _Zip:
    """Reads members from their local headers, in order; the central directory must agree at the end."""

    def __init__(self) -> None:
        self.meter = _Meter()
        self.buffer = bytearray()
        self.members: list[str] = []
        self.listed: list[str] = []
        self.inner: Any = None
        self.stored = 0
        self.crc = 0
        self.expected: int | None = None
        self.ended = False

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        self.meter.packed += len(data)
        self.buffer += data
        while not self.ended:
            if self.inner is not None or self.stored:
                if not self.buffer:
                    return
                yield from self._body()
            elif not self._header():
                return

    def finish(self) -> str | None:
        if not self.ended:
            return "its zip directory is missing"
        if self.listed != self.members:
            raise Refused("its zip directory does not match its members", hint=_AGAIN)
        return None

    def _body(self) -> Iterator[tuple[str, bytes]]:
        if self.inner is None:
            plain = bytes(self.buffer[: self.stored])
            del self.buffer[: len(plain)]
            self.stored -= len(plain)
        else:
            data = bytes(self.buffer)
            try:
                plain = self.inner.decompress(data, _PIECE)
            except zlib.error as error:
                raise Refused(f"its zip data is corrupt: {error}", hint=_AGAIN) from None
            self.buffer[:] = self.inner.unused_data if self.inner.eof else self.inner.unconsumed_tail
        self.crc = zlib.crc32(plain, self.crc)
        if plain:
            yield self.members[-1], self.meter.count(plain)
        if (self.inner.eof if self.inner is not None else not self.stored) and self._checked():
            self.inner = None

    def _checked(self) -> bool:
        if self.expected is not None and self.crc != self.expected:
            raise Refused(f"{self.members[-1]} is damaged inside the zip file", hint=_AGAIN)
        return True

    def _header(self) -> bool:
        """Takes one header from the buffer; False if more bytes are needed."""
        mark = bytes(self.buffer[:4])
        if len(mark) < 4:
            return False
        if mark == b"PK\x03\x04":
            return self._member()
        if mark == b"PK\x01\x02":
            return self._entry()
        if mark in (b"PK\x05\x06", b"PK\x06\x06"):
            self.ended = True
            return True
        # A data descriptor, with or without its mark and in two sizes, lies between members.
        at = self.buffer.find(b"PK", 1)
        while at > 0 and bytes(self.buffer[at + 2 : at + 4]) not in (b"\x01\x02", b"\x03\x04", b""):
            at = self.buffer.find(b"PK", at + 1)
        if at < 0 or at + 4 > len(self.buffer):
            if len(self.buffer) > 4096:
                raise Refused("its zip structure is damaged", hint=_AGAIN)
            return False
        del self.buffer[:at]
        return True

    def _member(self) -> bool:
        if len(self.buffer) < 30:
            return False
        flags, method = struct.unpack_from("<HH", self.buffer, 6)
        crc, size = struct.unpack_from("<II", self.buffer, 14)
        name_size, extra_size = struct.unpack_from("<HH", self.buffer, 26)
        start = 30 + name_size + extra_size
        if len(self.buffer) < start:
            return False
        name = _name(bytes(self.buffer[30 : 30 + name_size]), flags)
        extra = bytes(self.buffer[30 + name_size : start])
        if flags & 1:
            raise Refused(f"{name} is encrypted inside the zip file", hint="unpack it before it is delivered")
        if method not in (0, 8) or (method == 0 and flags & 8 and not name.endswith("/")):
            raise Refused(f"{name} is packed in a way that cannot be streamed", hint="repack it with zip")
        if size == 0xFFFFFFFF and extra[:2] == b"\x01\x00":
            size = struct.unpack_from("<Q", extra, 12)[0]
        del self.buffer[:start]
        self.members.append(name)
        self.crc = 0
        self.expected = None if flags & 8 else crc
        self.inner = zlib.decompressobj(-15) if method == 8 else None
        self.stored = size if method == 0 else 0
        return True

    def _entry(self) -> bool:
        if len(self.buffer) < 46:
            return False
        flags = struct.unpack_from("<H", self.buffer, 8)[0]
        name_size, extra_size, comment_size = struct.unpack_from("<HHH", self.buffer, 28)
        size = 46 + name_size + extra_size + comment_size
        if len(self.buffer) < size:
            return False
        self.listed.append(_name(bytes(self.buffer[46 : 46 + name_size]), flags))
        del self.buffer[:size]
        return True


def _name(raw: bytes, flags: int) -> str:
    name = raw.decode("utf-8" if flags & 0x800 else "cp437", "replace")
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
        raise Refused(f"the zip member {name!r} would leave its folder", hint="do not accept this file")
    return name
