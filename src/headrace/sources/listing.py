"""Lists the files that a glob means, with what tells whether one has changed; opens just what was listed."""

from __future__ import annotations

import io
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase, translate
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ..errors import Refused, TransientError

MAGIC = re.compile(r"[*?\[]")
_TICK = 0.02
"""Seconds within which two writes may leave the same time stamps."""
LAKE = "_headrace/format.json"
"""What makes a folder a lake."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file as it was when it was listed."""

    name: str
    """Relative to the project with `/`, or absolute where it lies outside of it."""
    path: Path
    size: int
    signature: Mapping[str, Any]
    changed_at: float
    """The later of its modification and change times, in seconds."""
    escapes: bool = False
    """A symbolic link leads it out of the folder that was asked for."""
    key: str = ""
    """What the place calls it, where `path` is not a path of this machine."""
    unfit: str = ""
    """Why its name cannot be trusted."""
    place: Place | None = field(default=None, compare=False, repr=False)
    """Where it lies; None for a folder of this machine."""


class Place(Protocol):
    """Where files lie, if not in a folder of this machine: all that the files source asks of it."""

    settle: float
    """Seconds for which files must have been left alone, as others may see them half written."""

    def entries(self, pattern: str, after: str = "") -> Iterator[Entry]:
        """What matches `pattern`, in rising order of names; after the key `after` where that can be asked.

        Raises `FileNotFoundError` without its folder.
        """
        ...

    def open(self, entry: Entry) -> BinaryIO:
        """Exactly the bytes of `entry`, or `TransientError` while they are read."""
        ...

    def verify(self, entry: Entry) -> None:
        """Raises `TransientError` unless the file is what it was when it was listed."""
        ...

    def close(self) -> None: ...


def signature(status: os.stat_result) -> dict[str, Any]:
    """Equal for two looks at a file only if its bytes were not written in between."""
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }


def base_of(root: Path, pattern: str) -> Path:
    """The folder from which `pattern` starts to vary."""
    fixed: list[str] = []
    for part in _whole(root, pattern).parts[:-1]:
        if MAGIC.search(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _whole(root: Path, pattern: str) -> Path:
    return Path(os.path.normpath(root.absolute() / pattern))


def listed(
    root: Path,
    pattern: str,
    ignore: Sequence[str],
    *,
    follow_links: bool,
    closed: Callable[[str], None] = lambda _: None,
) -> Iterator[Entry]:
    """Files that match `pattern`, each once, in no order; raises `FileNotFoundError` without its folder.

    A folder below it that may not be read is told to `closed`, by its name, and does not hold up the others.
    Hidden and ignored names are left out. Linked folders are entered only with `follow_links`; a linked
    file that lies elsewhere is yielded as one that `escapes`.
    """
    within = not Path(pattern).is_absolute()
    root = _whole(root, "")
    whole = _whole(root, pattern)
    if not MAGIC.search(pattern):
        if whole.is_dir():
            whole = whole / "**" / "*"
        else:
            ignore = ()
    base = base_of(root, str(whole))
    rest = whole.relative_to(base).parts
    matches = re.compile(expression(rest)).fullmatch
    deep = None if "**" in rest else len(rest)
    real = base.resolve(strict=True)
    visited: set[str] = set()
    pending: list[tuple[str, int]] = [("", 1)]
    while pending:
        folder, depth = pending.pop()
        where = base / folder if folder else base
        if follow_links:
            true = os.path.realpath(where)
            if true in visited:
                continue
            visited.add(true)
        try:
            if (where / LAKE).exists():
                continue  # what has landed is no news, however wide the glob
            with os.scandir(where) as entries:
                items = list(entries)
        except PermissionError:
            if not folder:
                raise
            closed(_name(root, where, within))
            continue
        except FileNotFoundError:
            if not folder:
                raise
            continue  # it went away since it was listed
        for item in items:
            relative = f"{folder}/{item.name}" if folder else item.name
            if any(fnmatchcase(item.name, hidden) for hidden in ignore):
                continue
            if item.is_dir(follow_symlinks=follow_links):
                if deep is None or depth < deep:
                    pending.append((relative, depth + 1))
            elif matches(relative) and (found := _entry(base / relative, item, real)):
                yield replace(found, name=_name(root, found.path, within))


def _name(root: Path, path: Path, within: bool) -> str:
    """Stable when the project moves; the same file has one name, however it was asked for."""
    if within or path.is_relative_to(root):
        return Path(os.path.relpath(path, root)).as_posix()
    return path.as_posix()


def _entry(path: Path, item: os.DirEntry[str], real: Path) -> Entry | None:
    try:
        status = item.stat()
    except OSError:
        # It went away between the listing and the look, or is a link to nothing.
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    escapes = item.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(real)
    changed = max(status.st_mtime, status.st_ctime)
    return Entry(path.name, path, status.st_size, signature(status), changed, escapes)


def expression(parts: Sequence[str]) -> str:
    """A regular expression for relative paths; `**` stands for any number of folders."""
    pieces = []
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            pieces.append(".*" if last else "(?:[^/]+/)*")
        else:
            one = translate(part).removesuffix(r"\Z").removeprefix("(?s:").removesuffix(")")
            pieces.append(one.replace(".*", "[^/]*") + ("" if last else "/"))
    return "".join(pieces)


def opened(entry: Entry) -> BinaryIO:
    """The very file that was listed, and no other that took its name."""
    if entry.place is not None:
        return entry.place.open(entry)
    try:
        # Without O_NONBLOCK a pipe that took the name would block for ever.
        handle = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise gone(entry) from None
    except PermissionError:
        raise Refused(
            f"{entry.name} may not be read", hint=f"give this user access: chmod +r {entry.path}"
        ) from None
    stream = io.FileIO(handle, closefd=True)
    if signature(os.fstat(handle)) != entry.signature:
        stream.close()
        raise unstable(entry)
    return stream


def verify(entry: Entry) -> None:
    """Raises `TransientError` unless the file is what it was when it was listed.

    Time stamps have a grain: a write within one tick of the last one leaves no trace. So a file that changed
    just now is looked at again after a tick, and its signature can be trusted from then on.
    """
    if entry.place is not None:
        entry.place.verify(entry)
        return
    wait = entry.changed_at + _TICK - time.time()
    if 0 < wait <= _TICK:
        time.sleep(wait)
    try:
        same = signature(entry.path.stat()) == entry.signature
    except FileNotFoundError:
        same = False
    if not same:
        raise unstable(entry)


def gone(entry: Entry) -> TransientError:
    return TransientError(f"{entry.name} is gone", hint="it was moved while it was to be read")


def unstable(entry: Entry) -> TransientError:
    return TransientError(
        f"{entry.name} changed while it was read",
        hint="it lands when it is at rest; writers should write aside and rename, or set `settle: 10`",
    )
