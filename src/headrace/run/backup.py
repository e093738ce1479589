"""Backup: a copy of the lake from which every epoch since the first backup can be had again.

Done records are listed first: each table is copied as its last one says, with the log and the plans up to it.
All that they rest on was written before them, so that it is there, whatever a run beside it does. A manifest,
written last, says what belongs to one backup; without it there is none.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..errors import ConfigError, Corrupt
from ..failpoints import reach
from ..spec.project import Project
from ..store.base import expired, newest
from ..store.delta import Table
from ..store.records import ERASED, Done, LandLog, RefineLog, utc
from ..store.storage import LocalStorage, create_exclusive, sync_files
from .alone import alone
from .opened import open_storage
from .report import Step
from .sweep import streams
from .verify import refined

FILES = "files"
MANIFESTS = "manifests"
CATALOG = "catalog.db"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One backup: what belongs to it, by key, with (bytes, sha256)."""

    time: str
    pipeline: str
    files: Mapping[str, tuple[int, str]]
    catalog: str = ""
    """sha256 of the copy of the catalog; empty without one."""

    @property
    def database(self) -> str:
        """Where the copy of the catalog lies."""
        return f"catalogs/{_name(self.time)}.db"


def backup(project: Project, to: Path) -> Step:
    """Copies to `to` what is not there yet, durably, beside a running pipeline; earlier backups stay whole.

    Raises `Corrupt` if something that the records name is not in the lake, and then there is no new backup.
    """
    storage = open_storage(project)
    if to.resolve().is_relative_to(project.lake.resolve()):
        raise ConfigError(f"{to} lies within the lake", hint="back up to another disk")
    with alone(project.lake, "maintenance"):  # else vacuum might take what is about to be copied
        number = newest(storage)
        try:
            manifest, new, size = _copied(project, storage, to)
        except Corrupt:
            if newest(storage) == number:
                raise
            manifest, new, size = _copied(project, storage, to)  # bronze has expired in between
    total = sum(bytes_ for bytes_, _ in manifest.files.values())
    note = f"new files of {len(manifest.files):,} ({total / 1e6:,.1f} MB in all), as of {manifest.time}"
    return Step(f"backup to {to}", new, size, note)


def _copied(project: Project, storage: LocalStorage, to: Path) -> tuple[Manifest, int, int]:
    known = {key: item for old in manifests(to) for key, item in old.files.items()}
    if set(storage.list(ERASED)) - set(known):
        known = _forget(storage, to, known)
    time = utc()
    ends = {name: done for name in refined(storage) if (done := RefineLog(storage, name).last)}
    records = [key for name, done in ends.items() for key in epochs(storage, name, done)]
    for folder in ("hold", "accept", "forget", "expired", "land"):
        records += storage.list(f"_headrace/{folder}")
    found: dict[str, tuple[int, str]] = {}
    new, size = [], 0
    for key in dict.fromkeys([*_data(storage, ends, records), *records, "_headrace/format.json"]):
        copy = to / FILES / key
        if key in known and copy.is_file():
            found[key] = known[key]
            if key.startswith("_headrace/") and hash_of(storage.path(key)) != known[key][1]:
                raise ConfigError(
                    f"{to} holds backups of another lake: {key} differs", hint="back up to a new folder"
                )
            if "/_delta_log/" in key and hash_of(storage.path(key)) != known[key][1]:
                raise ConfigError(
                    f"{to} holds {key} as it was before the table was made anew, or damaged",
                    hint="back up to a new folder; the old one has all moments before that",
                )
            continue
        found[key] = copied(storage.path(key), copy)
        new.append(copy)
        size += found[key][0]
        reach("backup.copied")
    to.mkdir(parents=True, exist_ok=True)
    sync_files(new, to)
    reach("backup.records")
    catalog = _catalog(project, to / "catalogs" / f"{_name(time)}.db")
    manifest = Manifest(time, project.config.name, found, catalog)
    text = json.dumps(asdict(manifest), sort_keys=True).encode()
    path = to / MANIFESTS / f"{_name(time)}.json"
    create_exclusive(path, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    return manifest, len(new), size


def _forget(storage: LocalStorage, to: Path, known: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """What was erased from the lake goes from its backups, too: files that it has no more, or has changed."""
    kept = {}
    for key, item in known.items():
        path = storage.path(key)
        if key.startswith("_headrace/") or (path.is_file() and hash_of(path) == item[1]):
            kept[key] = item
        else:
            (to / FILES / key).unlink(missing_ok=True)
    return kept


def _name(time: str) -> str:
    return time.replace(":", "").replace(".", "-")


def epochs(storage: LocalStorage, name: str, end: Done) -> Iterator[str]:
    """Keys of all records of table `name` up to the epoch `end`: plans, log entries, done records."""
    for kind in ("plan", "done"):
        for key in storage.list(f"_headrace/refine/{name}"):
            if f"/{kind}-" in key and int(key[-17:-5]) <= end.epoch:
                yield key
    for output, known in end.outputs.items():
        folder = f"{output.replace('.', '/')}/_delta_log"
        yield from (f"{folder}/{version:020}.json" for version in range(known["version"] + 1))


def _data(storage: LocalStorage, ends: Mapping[str, Done], records: Sequence[str]) -> Iterator[str]:
    """Keys of what the records name: files of tables, objects of bronze, files of bases."""
    for end in ends.values():
        for output, known in end.outputs.items():
            yield from parquet(storage, output, known["version"])
    expiries = [key for key in records if key.startswith("_headrace/expired/")]
    state = expired(storage, int(expiries[-1][-17:-5]) if expiries else 0)
    for base in state.bases.values():
        for at in base.outputs.values():
            yield from (file.path.relative_to(storage.root).as_posix() for file in at.files)
    for stream in streams(storage):
        log = LandLog(storage, stream)
        upto = sum(key.startswith(f"_headrace/land/{stream}/") for key in records) - 1
        for epoch, item in log.objects(-1, upto):
            if not state.lacks(stream, epoch, item):
                yield item.key


def parquet(storage: LocalStorage, output: str, newest: int) -> Iterator[str]:
    """Keys of the files that an output has at version `newest`, and of older ones that are still there."""
    table = Table(storage.root.joinpath(*output.split(".")), output)
    live: dict[Path, bool] = {}
    for version in range(newest + 1):
        for action in table.entry(version):
            for kind in ("add", "remove"):
                if kind in action:
                    live[table.file(action[kind]["path"])] = kind == "add"
    for path, needed in live.items():
        if needed or path.is_file():
            yield path.relative_to(storage.root).as_posix()


def hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 18):
            digest.update(chunk)
    return digest.hexdigest()


def copied(source: Path, to: Path) -> tuple[int, str]:
    """Copies one file under a temporary name first; (bytes, sha256)."""
    to.parent.mkdir(parents=True, exist_ok=True)
    temporary = to.with_name(f".{uuid.uuid4().hex}.tmp")
    digest, size = hashlib.sha256(), 0
    try:
        with source.open("rb") as old, temporary.open("xb") as new:
            while chunk := old.read(1 << 18):
                digest.update(chunk)
                size += new.write(chunk)
        temporary.replace(to)
    except FileNotFoundError:
        raise Corrupt(
            f"{source} is gone, but the records of the lake name it",
            hint="`headrace doctor --verify` says what is wrong; earlier backups are whole",
        ) from None
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return size, digest.hexdigest()


def _catalog(project: Project, to: Path) -> str:
    """A consistent copy of the SQLite catalog; other databases have backups of their own."""
    path = project.lake / CATALOG
    if project.config.catalog is not None or not path.exists():
        return ""
    to.parent.mkdir(parents=True, exist_ok=True)
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(to)) as new,
    ):
        old.backup(new)
    sync_files([to], to.parent)
    return hashlib.sha256(to.read_bytes()).hexdigest()


def manifests(folder: Path) -> list[Manifest]:
    """All backups in `folder`, oldest first; raises `Corrupt` if a manifest was changed."""
    found = []
    for path in sorted((folder / MANIFESTS).glob("*.json")) if (folder / MANIFESTS).is_dir() else []:
        head, _, text = path.read_bytes().partition(b"\n")
        if head.decode(errors="replace") != hashlib.sha256(text).hexdigest():
            raise Corrupt(f"{path} was changed or cut", hint="move it away; other backups do not need it")
        body = json.loads(text)
        files = {key: (int(size), str(digest)) for key, (size, digest) in body["files"].items()}
        found.append(Manifest(body["time"], body["pipeline"], files, body["catalog"]))
    return found


def moment(text: str | None) -> str | None:
    """A user's time in the form of the records."""
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"`{text}` is no time", hint="such as 2026-11-20T18:00:00Z") from None
    return utc((when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC))
