"""Sweeping: files and objects that nothing refers to are deleted, and nothing can refer to them afterwards.

What is to go is listed first. Then a commit that changes nothing is made on top of what the list was made
from: whoever was paused with an unwritten commit that names a listed file finds its number taken. Only then
is anything deleted.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..failpoints import reach
from ..store.delta import Table
from ..store.records import LandLog, RefineLog
from ..store.storage import LocalStorage
from .compact import maintenance
from .report import Step

SAFE = timedelta(days=1)
"""Younger files may belong to a run at work."""
KEEP = timedelta(days=30)
"""How long old versions of a table stay readable, unless its Delta property says otherwise."""


def vacuum(table: Table, needed: set[Path], now: datetime, *, dry_run: bool) -> Step | None:
    """Deletes files that left the table long ago, and those that never were in it (of killed writers).

    `needed` are files of older versions that must stay. None if there is nothing to delete.
    """
    snapshot = table.snapshot("")
    kept = needed | {file.path for file in snapshot.at.files}
    removed = table.removed(snapshot.at.version)
    before = now - _keep(snapshot.configuration)
    gone: list[tuple[Path, int]] = []
    for path, stat in data_files(table.path):
        written = datetime.fromtimestamp(stat.st_mtime, UTC)
        if path not in kept and (removed[path] < before if path in removed else written < now - SAFE):
            gone.append((path, stat.st_size))
    if not gone:
        return None
    told = Step(f"vacuum {table.name}", len(gone), sum(size for _, size in gone), "files deleted")
    if dry_run:
        return told
    table.commit(maintenance(snapshot, "vacuum"))
    reach("maintain.fenced")
    for path, _ in gone:
        path.unlink(missing_ok=True)
        reach("maintain.deleted")
    return told


def _keep(configuration: Mapping[str, str]) -> timedelta:
    """The table's own `delta.deletedFileRetentionDuration`."""
    text = configuration.get("delta.deletedFileRetentionDuration", "")
    match = re.fullmatch(r"interval (\d+) (second|minute|hour|day|week)s?", text.lower())
    return timedelta(**{match[2] + "s": int(match[1])}) if match else KEEP


def data_files(root: Path) -> Iterable[tuple[Path, os.stat_result]]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != "_delta_log"]
        for name in names:
            path = Path(folder, name)
            yield path, path.stat()


def needed_files(table: Table, versions: Iterable[int]) -> set[Path]:
    """The files of `table` at some of its versions."""
    return {file.path for version in sorted(set(versions)) for file in table.at(version).files}


def streams(storage: LocalStorage) -> list[str]:
    """Every land stream that has records in this lake, also of sources that are no longer defined."""
    return sorted({key.split("/")[2] for key in storage.list("_headrace/land")})


def orphans(log: LandLog, storage: LocalStorage, now: datetime, *, dry_run: bool) -> Step | None:
    """Deletes objects of bronze that no record names; a lander that was paused cannot name them any more."""
    listed = []
    known = named(log)
    for key in storage.list(f"bronze/{log.stream}"):
        stat = storage.path(key).stat()
        if key not in known and datetime.fromtimestamp(stat.st_mtime, UTC) < now - SAFE:
            listed.append((key, stat.st_size))
    if not listed or log.epoch < 0:
        return None
    told = Step(f"sweep bronze/{log.stream}", len(listed), sum(size for _, size in listed), "objects deleted")
    if dry_run:
        return told
    log.append(log.end, (), uuid.uuid4().hex)
    reach("maintain.fenced")
    known = named(log)
    for key, _ in listed:
        if key not in known:
            storage.delete([key])
            reach("maintain.deleted")
    return told


def named(log: LandLog) -> set[str]:
    """Keys of all objects that the records of a stream stand for."""
    return {item.key for _, item in log.objects(-1, log.epoch)}


def leftovers(storage: LocalStorage, now: datetime, *, dry_run: bool) -> Step | None:
    """Deletes temporary files that killed writers left beside records and log entries."""
    found = []
    for top in ("_headrace", "silver", "quarantine"):
        for folder, _, names in os.walk(storage.path(top)):
            for name in names:
                path = Path(folder, name)
                if name.startswith(".") and name.endswith(".tmp") and _old(path, now):
                    found.append(path)
    if not found:
        return None
    told = Step("sweep temporary files", len(found), sum(path.stat().st_size for path in found), "deleted")
    if not dry_run:
        for path in found:
            path.unlink(missing_ok=True)
    return told


def _old(path: Path, now: datetime) -> bool:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC) < now - SAFE
    except FileNotFoundError:
        return False


def versions_in_use(logs: Sequence[RefineLog], table: str, own: RefineLog) -> list[int]:
    """Versions of `table` that the last done epoch has written, and that others are from or are to read."""
    found = []
    if own.last and table in own.last.outputs:
        found.append(int(own.last.outputs[table]["version"]))
    short = table.partition(".")[2]
    for log in logs:
        found += [plan.references[short] for plan in log.open_plans() if short in plan.references]
        if log.last and table in log.last.inputs:  # a stream: its next epoch asks what has changed since
            found.append(int(log.last.inputs[table]))
    return found
