"""A disk that forgets: what of a lake would survive a power cut, kept beside it while a program runs.

Only what was synced counts: a file's bytes as of its last fsync, a folder's names as of its own. So the
shadow of a lake is a copy of every file and folder at each of its syncs, and a power cut puts that shadow in
the lake's place. It is stricter than real disks, which keep some of what nobody asked them to keep; `dice`
keeps a random part of it, as they do.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from threading import Lock

HELD = 4096
"""Most files that are held open, so that no inode is used again while a program runs."""


class Shadow:
    """Under `folder`, by inode: the durable bytes of files and the durable names of folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()
        self._held: dict[int, int] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, path: Path) -> None:
        """All below `path` is durable as it is now."""
        for folder, _, names in os.walk(path):
            self.synced(folder)
            for name in names:
                self.synced(f"{folder}/{name}")

    def synced(self, path: str | int) -> None:
        """The file or folder (by its path or handle) is durable as it is now; its parents' names are not."""
        try:
            status = os.fstat(path) if isinstance(path, int) else Path(path).stat()
        except FileNotFoundError:
            return
        with self._lock:
            self._hold(path, status.st_ino)
            if stat.S_ISDIR(status.st_mode):
                self._names(path, status.st_ino)
            elif stat.S_ISREG(status.st_mode):
                self._bytes(path, status.st_ino)

    def _hold(self, path: str | int, inode: int) -> None:
        if inode not in self._held and len(self._held) < HELD:
            self._held[inode] = os.dup(path) if isinstance(path, int) else os.open(path, os.O_RDONLY)

    def _names(self, path: str | int, inode: int) -> None:
        found = {}
        with os.scandir(path) as entries:
            for entry in entries:
                found[entry.name] = [entry.inode(), entry.is_dir(follow_symlinks=False)]
        self._put(f"names-{inode}", json.dumps(found).encode())

    def _bytes(self, path: str | int, inode: int) -> None:
        where = f"/proc/self/fd/{path}" if isinstance(path, int) else path
        self._put(f"bytes-{inode}", Path(where).read_bytes())

    def _put(self, name: str, data: bytes) -> None:
        """The shadow itself must be whole whenever the program is killed."""
        draft = self.folder / f".{name}"
        draft.write_bytes(data)
        draft.replace(self.folder / name)

    def names(self, inode: int) -> dict[str, tuple[int, bool]]:
        path = self.folder / f"names-{inode}"
        found = json.loads(path.read_bytes()) if path.exists() else {}
        return {name: (number, is_folder) for name, (number, is_folder) in found.items()}

    def bytes(self, inode: int) -> bytes:
        path = self.folder / f"bytes-{inode}"
        return path.read_bytes() if path.exists() else b""


def record(folder: Path, lake: Path) -> None:
    """From now on, in this process: every sync of Headrace's own goes to the shadow in `folder`, too.

    Syncs of the libraries below are not counted: what is promised must not hang on them.
    """
    from ..store import storage

    shadow = Shadow(folder)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if lake.exists():
        shadow.keep(lake)
    fsync, syncfs = os.fsync, storage._syncfs

    def traced(handle: int) -> None:
        fsync(handle)
        shadow.synced(handle)

    def traced_all(path: Path) -> None:
        syncfs(path)
        shadow.keep(lake)

    os.fsync = traced  # type: ignore[assignment]
    storage._syncfs = traced_all


def forget_syncs() -> None:
    """A mutant: no sync reaches the disk, nor a shadow that `record` keeps."""
    from ..store import storage

    os.fsync = lambda _handle: None  # type: ignore[assignment]
    storage._syncfs = lambda path: None  # noqa: ARG005


def cut(shadow_folder: Path, lake: Path, into: Path, dice: random.Random | None = None) -> None:
    """Builds at `into` the lake as it would be after a power cut now.

    With `dice`, of what was never synced a random part is there: names, and bytes wholly, in part or not.
    """
    shadow = Shadow(shadow_folder)
    luck: Callable[[], bool] = (lambda: dice.random() < 0.5) if dice else lambda: False

    def restore(inode: int, live: Path | None, target: Path) -> None:
        target.mkdir()
        names = shadow.names(inode)
        now = {entry.name: entry for entry in os.scandir(live)} if live and live.is_dir() else {}
        for name, entry in now.items():
            if luck():
                names[name] = (entry.inode(), entry.is_dir(follow_symlinks=False))
        for name, (number, is_folder) in names.items():
            here = now.get(name)
            same = Path(here.path) if here and here.inode() == number else None
            if is_folder:
                restore(number, same, target / name)
            else:
                (target / name).write_bytes(_content(shadow.bytes(number), same))

    def _content(durable: bytes, live: Path | None) -> bytes:
        if dice is None or live is None or not luck():
            return durable
        data = live.read_bytes()
        return data if luck() else data[: dice.randrange(len(data) + 1)] if data != durable else data

    if into.exists():
        shutil.rmtree(into)
    restore(lake.stat().st_ino, lake, into)
