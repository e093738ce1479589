"""Where bytes lie. Two promises carry everything else: `create` is exclusive, and `sync` is durable.

A key is a path with `/`, relative to the lake. Objects are written once and never changed. With a cipher,
objects are AES-256-GCM envelopes on disk and plain bytes to every caller.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from ..core import Landed
from ..errors import ConfigError, Corrupt
from .cipher import Cipher

MANY = 64
"""From so many files on, one `syncfs` is cheaper than an fsync each."""


class Storage(Protocol):
    root: Path

    def create(self, key: str, data: bytes) -> bool:
        """Makes `key` hold `data`, durably, or returns False because it exists: put-if-absent."""
        ...

    def write(self, key: str, chunks: Iterable[bytes]) -> None:
        """Writes a new object; it is durable only after `sync`."""
        ...

    def sync(self, keys: Iterable[str]) -> None: ...
    def read(self, key: str) -> bytes: ...
    def open(self, key: str) -> BinaryIO: ...
    def checked(self, item: Landed, scratch: Path, *, fresh: bool = False) -> Path:
        """A local path with a landed object's plain bytes; raises `Corrupt` if they are not what landed."""
        ...

    def list(self, prefix: str) -> list[str]: ...
    def delete(self, keys: Iterable[str]) -> None: ...


def sync_files(paths: Iterable[Path], root: Path) -> None:
    """After this returns, the files' bytes and names survive a power cut; `root` itself exists already."""
    files = list(paths)
    if len(files) > MANY:
        _syncfs(root)
        return
    folders: set[Path] = set()
    for path in files:
        _fsync(path)
        folder = path.parent
        while folder not in folders and folder != root.parent:
            folders.add(folder)
            folder = folder.parent
    for folder in sorted(folders, key=lambda f: len(f.parts), reverse=True):
        _fsync(folder)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _syncfs(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):
            os.sync()
        elif libc.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(handle)


def create_exclusive(path: Path, data: bytes) -> bool:
    """Creates `path` with all of `data`, durably, or returns False because it exists already.

    A reader sees the whole file or none: a synced temporary file gets its name by link(2), which fails
    where the name is taken, also between processes.
    """
    if path.exists():
        return False  # nothing is written, and nothing synced, only to learn that; the link still decides
    folder = path.parent
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    _fsync(folder)
    if made:
        for parent in list(folder.parents)[:4]:
            _fsync(parent)
    return True


class LocalStorage:
    """A folder on a local disk (or a POSIX network file system that honours link and fsync)."""

    def __init__(self, root: Path, cipher: Cipher | None = None) -> None:
        self.root = root
        self.cipher = cipher
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"the lake {root} cannot be made: {error.strerror or error}",
                hint="give this user the right to write there, or set another `lake:` in the pipeline file",
            ) from error

    def path(self, key: str) -> Path:
        """The file of `key`; a key that would leave the lake is refused."""
        if key.startswith("/") or ".." in key.split("/"):
            raise ConfigError(f"key `{key}` leaves the lake", hint="keys are relative and have no `..`")
        return self.root / key

    def create(self, key: str, data: bytes) -> bool:
        return create_exclusive(self.path(key), data)

    def write(self, key: str, chunks: Iterable[bytes]) -> None:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:
                for chunk in self.cipher.seal(chunks) if self.cipher else chunks:
                    file.write(chunk)
        except BaseException:
            with suppress(FileNotFoundError):
                path.unlink()
            raise

    def sync(self, keys: Iterable[str]) -> None:
        sync_files((self.path(key) for key in keys), self.root)

    def read(self, key: str) -> bytes:
        with self.open(key) as file:
            return file.read()

    def open(self, key: str) -> BinaryIO:
        try:
            file = self.path(key).open("rb")
        except FileNotFoundError:
            raise Corrupt(
                f"object `{key}` is gone from the lake",
                hint="restore it from a backup; nothing else was changed",
            ) from None
        return Cipher.reader(self.cipher, file, key)

    def checked(self, item: Landed, scratch: Path, *, fresh: bool = False) -> Path:
        """A local path with the plain bytes of a landed object: itself, or a decrypted copy in `scratch`.

        Raises `Corrupt` if its bytes are not those that landed. `fresh` objects were hashed by this process.
        """
        path = self.path(item.key)
        if fresh and item.key_id is None:
            return path
        digest = hashlib.sha256()
        with self.open(item.key) as file:
            if item.key_id is None:
                while chunk := file.read(1 << 18):
                    digest.update(chunk)
            else:
                scratch.mkdir(parents=True, exist_ok=True)
                path = scratch / f"{uuid.uuid4().hex}-{path.name}"
                with path.open("xb") as copy:
                    while chunk := file.read(1 << 18):
                        digest.update(chunk)
                        copy.write(chunk)
        if digest.hexdigest() != item.sha256:
            raise Corrupt(
                f"bronze object `{item.key}` ({item.name}) does not have the sha256 it landed with",
                hint="restore it from a backup; nothing was refined from it",
            )
        return path

    def list(self, prefix: str) -> list[str]:
        """All keys below the folder `prefix`, sorted; unfinished temporary files are not objects."""
        top = self.path(prefix)
        found = [
            (Path(folder) / name).relative_to(self.root).as_posix()
            for folder, _, names in os.walk(top)
            for name in names
            if not name.startswith(".")
        ]
        return sorted(found)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):
                self.path(key).unlink()

    def rewrap(self, key: str) -> bool:
        """Puts the object's envelope under the current encryption key; False if it already is, or has none.

        Its bytes stay the same; the file is replaced by an atomic rename.
        """
        if self.cipher is None:
            return False
        path = self.path(key)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with path.open("rb") as old, temporary.open("xb") as new:
                if not self.cipher.rewrap(old, new):
                    return False
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
            return True
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """A private folder that is gone when the block ends, however it ends."""
    folder = root / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
