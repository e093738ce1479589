"""Recovery: a lake from its backups, as it was at any moment since the first one, or not at all."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..core import TableAt
from ..errors import ConfigError, Corrupt
from ..spec.project import Project
from ..store.base import expired
from ..store.delta import Table
from ..store.records import Done, LandLog, RefineLog, unseal
from ..store.storage import LocalStorage, sync_files
from .backup import CATALOG, FILES, Manifest, copied, epochs, manifests, moment, parquet
from .opened import open_storage
from .parts import part
from .report import Step
from .sweep import streams
from .verify import Verdict, refined, verify


def recover(folder: Path, into: Path, to_time: str | None = None) -> Step:
    """Makes the new lake `into` what the backed-up one was at `to_time`, by default at the last backup.

    Every table is as its last epoch of then left it; the next run goes on. `into` appears whole or not at
    all. Raises `Corrupt` if a file of the backup was changed or is missing, `ConfigError` if there is none.
    """
    if into.exists() and any(into.iterdir()):
        raise ConfigError(f"{into} is not empty", hint="name a new folder; move it where `lake:` points then")
    found = manifests(folder)
    if not found:
        raise ConfigError(f"there is no backup in {folder}", hint="`headrace backup` makes one")
    until = moment(to_time)
    if until and until < _first(folder, found):
        raise ConfigError(
            f"there is nothing in {folder} from before {until}", hint=f"since {_first(folder, found)}"
        )
    manifest = next((item for item in found if until and item.time >= until), found[-1])
    known = {key: item for old in found for key, item in old.files.items()}
    draft = into.with_name(f".{into.name}-{uuid.uuid4().hex}")
    try:
        size = _filled(folder, draft, manifest, known, until)
        faults = [
            f"{seen.what}: {seen.faults[0]}"
            for seen in verify(LocalStorage(draft), hashes=False)
            if seen.faults
        ]
        if faults:
            raise Corrupt(f"the backup in {folder} is not whole: {faults[0]}", hint="try another --to-time")
        if into.exists():
            into.rmdir()
        draft.rename(into)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    count = sum(1 for path in into.rglob("*") if path.is_file())
    return Step(f"recover {into}", count, size, f"files, as of {until or manifest.time}")


def _first(folder: Path, found: list[Manifest]) -> str:
    """When the oldest record was written."""
    times = []
    for key in found[0].files:
        if key.startswith("_headrace/land/") and key.endswith("/000000000000.json"):
            body, _, _ = unseal((folder / FILES / key).read_bytes(), key)
            times.append(str(body["time"]))
    return min(times, default=found[0].time)


def _filled(
    folder: Path, into: Path, manifest: Manifest, known: Mapping[str, tuple[int, str]], until: str | None
) -> int:
    """Copies what belongs to the moment, each file checked against its hash; returns bytes."""
    old = LocalStorage(folder / FILES)
    keys = [*_records(old, manifest, until), *_named(old, manifest, until)]
    size, paths = 0, []
    for key in dict.fromkeys(keys):
        if key not in known:
            continue  # of an epoch before the first backup; what is needed is looked for afterwards
        try:
            found = copied(old.path(key), into / key)
        except Corrupt:
            raise Corrupt(f"{old.path(key)} is gone from the backup", hint="try another --to-time") from None
        if found != known[key]:
            raise Corrupt(
                f"{old.path(key)} was changed or cut", hint="try another backup, or another copy of it"
            )
        size += found[0]
        paths.append(into / key)
    if manifest.catalog and until is None:
        _, digest = copied(folder / manifest.database, into / CATALOG)
        if digest != manifest.catalog:
            raise Corrupt(
                f"{folder / manifest.database} was changed", hint="`headrace doctor --rebuild` makes one"
            )
        paths.append(into / CATALOG)
    sync_files(paths, into)
    return size


def _ends(old: LocalStorage, manifest: Manifest, until: str | None) -> Iterator[tuple[str, Done]]:
    """Each table with its last epoch of then."""
    for name in refined(old):
        done = [
            item
            for item in RefineLog(old, name).done
            if f"_headrace/refine/{name}/done-{item.epoch:012d}.json" in manifest.files
            and (until is None or item.time <= until)
        ]
        if done:
            yield name, done[-1]


def _records(old: LocalStorage, manifest: Manifest, until: str | None) -> Iterator[str]:
    for name, end in _ends(old, manifest, until):
        yield from epochs(old, name, end)
    for key in manifest.files:
        if key.startswith(("_headrace/land/", "_headrace/expired/", "_headrace/hold/")):
            body, _, _ = unseal(old.read(key), key)
            if until is None or body["time"] <= until:
                yield key
        elif key.startswith(("_headrace/accept/", "_headrace/forget/", "_headrace/format")):
            yield key


def _named(old: LocalStorage, manifest: Manifest, until: str | None) -> Iterator[str]:
    for _, end in _ends(old, manifest, until):
        for output, known in end.outputs.items():
            yield from parquet(old, output, known["version"])
    kept = set(_records(old, manifest, until))
    expiries = sorted(key for key in kept if key.startswith("_headrace/expired/"))
    state = expired(old, int(expiries[-1][-17:-5])) if expiries else None
    for base in state.bases.values() if state else ():
        for at in base.outputs.values():
            yield from (file.path.relative_to(old.root).as_posix() for file in at.files)
    for stream in streams(old):
        log = LandLog(old, stream)
        for epoch, item in log.objects(-1, log.epoch):
            here = f"_headrace/land/{stream}/{epoch:012d}.json" in kept
            if here and not (state and state.lacks(stream, epoch, item)):
                yield item.key


def drill(project: Project, folder: Path, scratch: Path | None = None) -> Iterator[Verdict]:
    """Recovers the last backup into a scratch folder, checks every hash, compares tables with the lake."""
    live = open_storage(project)
    place = Path(tempfile.mkdtemp(prefix="headrace-drill-", dir=scratch))
    try:
        told = recover(folder, place / "lake")
        yield Verdict("recovery", str(told))
        back = LocalStorage(place / "lake", live.cipher)
        yield from verify(back)
        for name in refined(back):
            end = RefineLog(back, name).last
            for output, known in (end.outputs if end else {}).items():
                yield _compared(project, back, live, output, int(known["version"]))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _compared(project: Project, back: LocalStorage, live: LocalStorage, output: str, version: int) -> Verdict:
    what = f"content of {output}"
    found = []
    for storage in (back, live):
        table = Table(storage.root.joinpath(*output.split(".")), output)
        at = table.at(version) if table.has(version) else None
        if at is None or not all(file.path.is_file() for file in at.files):
            return Verdict(what, f"version {version} is no longer in the lake: not compared")
        found.append(content_hash(project, at))
    (rows, digest), other = found
    if (rows, digest) != other:
        return Verdict(
            what, faults=(f"the backup has {rows:,} rows of other content than the lake's {other[0]:,}",)
        )
    return Verdict(what, f"version {version}: {rows:,} rows, equal to the lake's by content hash")


def content_hash(project: Project, at: TableAt) -> tuple[int, int]:
    """Rows of a table and the sum of their hashes: equal for equal rows in any order."""
    if not at.files:
        return 0, 0
    sql = "SELECT count(*), sum(hash(t)::HUGEINT) FROM (SELECT * FROM main.at) t"
    _, rows = part("engines", "duckdb").query({"main": {"at": at}}, sql, memory=project.config.memory)
    ((count, total),) = list(rows)
    return int(count), int(total or 0)
