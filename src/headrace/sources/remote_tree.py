"""Files in the folders of a server, whatever its protocol: listed once, and read as they were listed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar, cast

from ..errors import Refused
from .listing import MAGIC, Entry, expression, gone, unstable
from .remote import Transfer, Unreachable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """What a server says of one thing in a folder; times in seconds since 1970, UTC."""

    name: str
    folder: bool
    size: int = 0
    modified: float = 0


class Server(Protocol):
    """A connection, made when it is first needed, and again after it broke.

    `FileNotFoundError` and `PermissionError` mean the path; what else goes wrong is the place's.
    """

    @property
    def base(self) -> str: ...

    lost: tuple[type[BaseException], ...]

    def listed(self, folder: str) -> Sequence[Item]: ...

    def stat(self, path: str) -> Item: ...

    def fetch(self, path: str, at: int) -> BinaryIO:
        """The file from byte `at` on."""
        ...

    def told(self) -> AbstractContextManager[None]:
        """Errors of the library, in our words."""
        ...

    def close(self) -> None: ...


@dataclass
class Tree:
    """The files of a server. `/~/` begins in the user's own folder."""

    server: Server
    ignore: Sequence[str]
    settle: float = 10.0
    """Files grow while they are sent, and time stamps are whole seconds."""

    def entries(self, pattern: str, after: str = "") -> Iterator[Entry]:  # noqa: ARG002  (none begins later)
        pattern = pattern.removeprefix("/~/")
        with self.server.told():
            if not MAGIC.search(pattern):
                bare = pattern.rstrip("/") or ("/" if pattern.startswith("/") else ".")
                found = self.server.stat(bare)
                if not found.folder:
                    yield self._entry(bare, found)
                    return
                pattern = f"{pattern.rstrip('/')}/**"
            yield from sorted(self._walk(pattern), key=lambda entry: entry.name)

    def _walk(self, pattern: str) -> Iterator[Entry]:
        """Folders are entered only as deep as the glob can reach; hidden and ignored names are left out."""
        parts = pattern.split("/")
        fixed = next((n for n, part in enumerate(parts) if MAGIC.search(part)), len(parts))
        matches = re.compile(expression(parts[fixed:]), re.DOTALL).fullmatch
        deep = None if "**" in parts else len(parts) - fixed
        base = "".join(f"{part}/" for part in parts[:fixed])
        pending = [("", 1)]
        while pending:
            folder, depth = pending.pop()
            try:
                items = self.server.listed(base + folder or ".")
            except PermissionError:
                if not folder:
                    raise
                yield self._entry(base + folder.rstrip("/"), Item("", True), "may not be read by this user")
                continue
            except FileNotFoundError:
                if not folder:
                    raise
                continue  # it went away since it was listed
            for item in items:
                if item.name in (".", ".."):
                    continue
                if why := unfit(item.name):
                    yield self._entry(base + folder + item.name, item, why)
                elif any(fnmatchcase(item.name, hidden) for hidden in self.ignore):
                    continue
                elif item.folder:
                    if deep is None or depth < deep:
                        pending.append((f"{folder}{item.name}/", depth + 1))
                elif matches(folder + item.name):
                    yield self._entry(base + folder + item.name, item)

    def _entry(self, path: str, item: Item, unfit: str = "") -> Entry:
        return Entry(
            name=self.server.base + (path if path.startswith("/") else f"/~/{path}"),
            path=Path(),
            size=item.size,
            signature={"size": item.size, "mtime": int(item.modified)},
            changed_at=item.modified,
            key=path,
            unfit=unfit,
            place=self,
        )

    def open(self, entry: Entry) -> BinaryIO:
        self.verify(entry)
        return cast(BinaryIO, Transfer(entry, lambda at: self._fetch(entry, at), self.server.lost))

    def _fetch(self, entry: Entry, at: int) -> BinaryIO:
        if at:
            self.server.close()  # it broke, whether or not it has noticed
            self.verify(entry)  # what follows must be of the same file
        try:
            return self._asked(lambda: self.server.fetch(entry.key, at))
        except FileNotFoundError:
            raise gone(entry) from None
        except PermissionError:
            raise Refused(
                f"{entry.name} may not be read", hint="give this user the right to read it"
            ) from None

    def verify(self, entry: Entry) -> None:
        try:
            now = self._asked(lambda: self.server.stat(entry.key))
        except (FileNotFoundError, PermissionError):
            raise gone(entry) from None
        if self._entry(entry.key, now).signature != entry.signature:
            raise unstable(entry)

    def _asked(self, call: Callable[[], T]) -> T:
        """Asks once more on a new connection: servers end those that were idle while a file was landed."""
        try:
            with self.server.told():
                return call()
        except Unreachable:
            self.server.close()
        with self.server.told():
            return call()

    def close(self) -> None:
        self.server.close()


def unfit(name: str) -> str:
    """Why a file name that a server gave is not followed, or "".

    >>> unfit("a.csv"), unfit("../../etc/passwd")
    ('', 'has a name that would leave its folder')
    """
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        return "has a name that would leave its folder"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "has control characters in its name"
    return ""
