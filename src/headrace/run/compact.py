"""Compaction: many small files of a table become few, and not one row changes.

The commit goes on top of exactly the version that was read: a refinement that is faster wins, and one that is
slower is computed again on top of the new files. Killed anywhere, only files are left that nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol

from ..core import DataFile, TableAt
from ..errors import Corrupt, Fenced
from ..failpoints import reach
from ..store.delta import Change, Snapshot, Table
from ..store.storage import LocalStorage
from .report import Step

SMALL = 16 << 20
"""Bytes below which a file is small."""
FULL = 128 << 20
"""Bytes that a new file should not exceed by much: a merge rewrites whole files."""
MANY = 8
"""From so many small files side by side on, a rewrite is worth its price."""
AGAIN = 3


class Copier(Protocol):
    """What compaction and erasure need of an engine."""

    def kept_rows(
        self, target: TableAt, files: Sequence[DataFile], into: Path, where: str = "true"
    ) -> list[DataFile]: ...


def groups(files: Sequence[DataFile]) -> Iterator[list[DataFile]]:
    """Small files of one partition that are to become one, neighbours together: keys are often close."""
    small = [file for file in files if file.bytes < SMALL]
    placed = sorted(small, key=lambda file: str(sorted(file.partition.items())))
    for _, members in groupby(placed, key=lambda file: dict(file.partition)):
        group: list[DataFile] = []
        size = 0
        for file in members:
            if group and size + file.bytes > FULL:
                yield from [group] if len(group) >= MANY else []
                group, size = [], 0
            group.append(file)
            size += file.bytes
        if len(group) >= MANY:
            yield group


def compact(table: Table, engine: Copier | None) -> Step | None:
    """Rewrites small files of `table`; None if there are too few. Without an engine it only counts.

    Raises `Fenced` if others commit to the table all the time.
    """
    for left in range(AGAIN, -1, -1):
        snapshot = table.snapshot("")
        chosen = list(groups(snapshot.at.files))
        if not chosen:
            return None
        old = [file for group in chosen for file in group]
        told = Step(f"compact {table.name}", len(old), sum(file.bytes for file in old), "files become few")
        if engine is None:
            return told
        try:
            new = _rewritten(table, snapshot, chosen, engine)
        except Fenced:
            if not left:
                raise
            continue
        return Step(told.what, told.count, told.bytes, f"files became {new}")
    raise AssertionError("the last round returns or raises")


def _rewritten(table: Table, snapshot: Snapshot, chosen: Sequence[Sequence[DataFile]], engine: Copier) -> int:
    old = [file for group in chosen for file in group]
    new: list[DataFile] = []
    try:
        for group in chosen:
            made = engine.kept_rows(snapshot.at, group, table.path)
            new += made
            if sum(file.rows for file in made) != sum(file.rows for file in group):
                raise Corrupt(
                    f"table `{table.name}`: its files do not hold the rows that its log says",
                    hint="`headrace doctor --verify` names them; nothing was changed",
                )
        reach("maintain.files")
    except BaseException:
        _drop(new)
        raise
    try:
        table.commit(maintenance(snapshot, "compact", new, old))
    except Fenced:  # any other error may have come after the commit, and then these are the table
        _drop(new)
        raise
    reach("maintain.commit")
    return len(new)


def _drop(files: Sequence[DataFile]) -> None:
    for file in files:
        file.path.unlink(missing_ok=True)


def maintenance(
    snapshot: Snapshot, what: str, add: Sequence[DataFile] = (), remove: Sequence[DataFile] = ()
) -> Change:
    """A commit that leaves every row and the epoch as they are."""
    at = snapshot.at
    note = {"maintenance": what}
    return Change(snapshot, None, "OPTIMIZE", at.columns, at.partition_by, add, remove, note, same_rows=True)


def outputs(storage: LocalStorage, name: str) -> list[Table]:
    """The tables that refinement of `name` writes and that exist, in commit order."""
    names = (f"quarantine.{name}", f"silver.{name}", f"silver.{name}_history")
    paths = [(output, storage.root.joinpath(*output.split("."))) for output in names]
    return [Table(path, output) for output, path in paths if (path / "_delta_log").is_dir()]
