"""Envelopes: every object has a key of its own, wrapped by a named master key, so that keys can rotate.

Layout: `HRE1`, one byte length and the master key's id, 12 bytes nonce and 48 bytes wrapped data key, 7
bytes nonce prefix, then segments of at most 1 MiB plain text, each followed by its 16-byte tag. Segment
nonces are prefix, 4-byte counter and a last-segment flag (the STREAM construction of Hoang, Reyhanitabar,
Rogaway and Vizár, 2015): cut, reordered or repeated segments do not open.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, cast

from ..errors import ConfigError, Corrupt, MissingExtra

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"HRE1"
SEGMENT = 1 << 20
TAG = 16


def _aead(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError:
        raise MissingExtra(
            "encryption needs the extra `crypto`", hint="pip install 'headrace[crypto]'"
        ) from None
    return AESGCM(key)


def _master(key_id: str, text: str) -> bytes:
    for decode in (bytes.fromhex, base64.b64decode):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == 32:
            return key
    raise ConfigError(
        f"encryption key `{key_id}` is not 32 bytes in hex or base64",
        hint="make one with: python -c 'import secrets; print(secrets.token_hex(32))'",
    )


class Cipher:
    """Seals with the current key; opens with any key it knows."""

    def __init__(self, current: str, keys: Mapping[str, str]) -> None:
        if current not in keys:
            raise ConfigError(f"encryption key `{current}` is not among keys: {', '.join(keys)}")
        self.current = current
        self._keys = {key_id: _master(key_id, text) for key_id, text in keys.items()}

    def seal(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The envelope of the concatenated chunks, in pieces; memory is bounded by one segment and chunk."""
        data_key = os.urandom(32)
        prefix = os.urandom(7)
        yield self._header(data_key) + prefix
        aead = _aead(data_key)
        buffer = bytearray()
        counter = 0
        for chunk in chunks:
            buffer += chunk
            while len(buffer) > SEGMENT:
                yield aead.encrypt(_nonce(prefix, counter, last=False), bytes(buffer[:SEGMENT]), None)
                del buffer[:SEGMENT]
                counter += 1
        yield aead.encrypt(_nonce(prefix, counter, last=True), bytes(buffer), None)

    def _header(self, data_key: bytes) -> bytes:
        nonce = os.urandom(12)
        key_id = self.current.encode()
        wrapped = _aead(self._keys[self.current]).encrypt(nonce, data_key, key_id)
        return MAGIC + bytes([len(key_id)]) + key_id + nonce + wrapped

    def rewrap(self, old: BinaryIO, new: BinaryIO) -> bool:
        """Copies an envelope with its data key under the current key; False if there is nothing to do."""
        if old.read(4) != MAGIC:
            return False
        key_id, data_key = self._unwrap(old, "object")
        if key_id == self.current:
            return False
        new.write(self._header(data_key))
        while chunk := old.read(SEGMENT):
            new.write(chunk)
        return True

    def _unwrap(self, file: BinaryIO, name: str) -> tuple[str, bytes]:
        from cryptography.exceptions import InvalidTag

        length = file.read(1)
        key_id = file.read(length[0] if length else 0).decode(errors="replace")
        nonce, wrapped = file.read(12), file.read(48)
        if key_id not in self._keys:
            raise ConfigError(
                f"`{name}` is encrypted with key `{key_id}`, which is not configured",
                hint=f"add `{key_id}` to encryption.keys",
            )
        try:
            return key_id, _aead(self._keys[key_id]).decrypt(nonce, wrapped, key_id.encode())
        except (InvalidTag, ValueError):
            raise Corrupt(f"`{name}`: key `{key_id}` does not open its envelope") from None

    @staticmethod
    def reader(cipher: Cipher | None, file: BinaryIO, name: str) -> BinaryIO:
        """`file` itself if it is plain; else a stream of its plain bytes. Raises `Corrupt` on any change."""
        head = file.read(4)
        if head != MAGIC:
            file.seek(0)
            return file
        if cipher is None:
            raise ConfigError(
                f"`{name}` is encrypted and no key is configured", hint="set `encryption` in the pipeline"
            )
        _, data_key = cipher._unwrap(file, name)
        return cast(BinaryIO, io.BufferedReader(_Opened(file, _aead(data_key), name), SEGMENT))


def _nonce(prefix: bytes, counter: int, *, last: bool) -> bytes:
    return prefix + counter.to_bytes(4, "big") + bytes([last])


class _Opened(io.RawIOBase):
    def __init__(self, file: BinaryIO, aead: AESGCM, name: str) -> None:
        self._file, self._aead, self._name = file, aead, name
        self._prefix = file.read(7)
        self._counter = 0
        self._plain = memoryview(b"")
        self._next = file.read(SEGMENT + TAG)
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, target: object) -> int:
        from cryptography.exceptions import InvalidTag

        while not self._plain and not self._ended:
            current, self._next = self._next, self._file.read(SEGMENT + TAG)
            self._ended = not self._next
            try:
                nonce = _nonce(self._prefix, self._counter, last=self._ended)
                self._plain = memoryview(self._aead.decrypt(nonce, current, None))
            except (InvalidTag, ValueError):
                raise Corrupt(f"`{self._name}`: segment {self._counter} was changed or cut") from None
            self._counter += 1
        view = memoryview(cast(bytearray, target)).cast("B")
        count = min(len(view), len(self._plain))
        view[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
