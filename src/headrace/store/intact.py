"""Whether data files are what they were when they were written: cheaply by size, surely by a hash.

A file's name ends in the first half of its sha256. So the hash goes where the file goes, into links, bases
and backups, and outlives clean-ups of the Delta log.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..core import DataFile
from ..errors import Corrupt

_END = ".snappy.parquet"
_SEAL = re.compile(r"-([0-9a-f]{32})" + re.escape(_END))


def sealed(file: DataFile) -> DataFile:
    """The file under a name that tells its hash; to be called once, when it has just been written."""
    seal = _sha256(file.path)[:32]
    path = file.path.with_name(f"{file.path.name.removesuffix(_END)}-{seal}{_END}")
    file.path.rename(path)
    return replace(file, path=path)


def new_name(path: Path) -> str:
    """A new name for a link to or a copy of `path`, which says the same hash."""
    found = _SEAL.search(path.name)
    return f"part-{uuid.uuid4()}{f'-{found[1]}' if found else ''}{_END}"


def check_sizes(table: str, files: Iterable[DataFile]) -> None:
    """Raises `Corrupt` if a file is gone or has another size than the table's log says; reads nothing."""
    for file in files:
        try:
            size = file.path.stat().st_size
        except FileNotFoundError:
            raise _damaged(table, file.path, "is gone") from None
        if size != file.bytes:
            raise _damaged(table, file.path, f"has {size:,} bytes; the table's log says {file.bytes:,}")


def check_bytes(table: str, files: Iterable[DataFile]) -> None:
    """Raises `Corrupt` if a file is not byte for byte what was written, as far as its name tells the hash."""
    for file in files:
        check_sizes(table, [file])
        found = _SEAL.search(file.path.name)
        if found and _sha256(file.path)[:32] != found[1]:
            raise _damaged(table, file.path, "was changed: its bytes do not have the hash that its name says")


def _damaged(table: str, path: Path, what: str) -> Corrupt:
    return Corrupt(
        f"table `{table}`: {path} {what}",
        hint=f"restore it from a backup, or `headrace run --rebuild {table.partition('.')[2]}`",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
