"""Verification: every record, object, log entry and file of a lake against its hash or size. Reads only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ..core import Landed
from ..errors import Corrupt, HeadraceError
from ..store.base import Expired, expired, ways
from ..store.delta import Table
from ..store.intact import check_bytes, check_sizes
from ..store.records import LandLog, RefineLog, unseal
from ..store.storage import LocalStorage
from .compact import outputs
from .sweep import streams


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was looked at, how much of it there is, and what is wrong with it."""

    what: str
    told: str = ""
    faults: tuple[str, ...] = ()


def verify(storage: LocalStorage, *, hashes: bool = True) -> Iterator[Verdict]:
    """One verdict for each land stream, table and kind of record; nothing is changed.

    What is written while it reads may be looked at or not, and is no fault. Without `hashes`, objects of
    bronze are only looked for, and data files only measured.
    """
    state = Expired()
    try:
        state = expired(storage)
        ways(storage, state.number)
        yield Verdict("expiries", f"{state.number} records", tuple(_bases(state)))
    except HeadraceError as error:
        yield Verdict("expiries", faults=(str(error),))
    for stream in streams(storage):
        yield _judged(f"source {stream}", partial(_stream, storage, stream, state, hashes=hashes))
    for name in refined(storage):
        yield _judged(f"records of {name}", partial(_records, storage, name))
        for table in outputs(storage, name):
            yield _judged(f"table {table.name}", partial(_table, storage, table, name, hashes=hashes))


def refined(storage: LocalStorage) -> list[str]:
    """Every table that has refine records in this lake."""
    return sorted({key.split("/")[2] for key in storage.list("_headrace/refine")})


def _judged(what: str, look: Callable[[], Verdict]) -> Verdict:
    try:
        return look()
    except (HeadraceError, OSError) as error:
        return Verdict(what, faults=(str(error),))


def _bases(state: Expired) -> Iterator[str]:
    for name, base in state.bases.items():
        for at in base.outputs.values():
            for file in at.files:
                if not file.path.is_file() or file.path.stat().st_size != file.bytes:
                    yield f"base of {name}: {file.path} is missing or not {file.bytes} bytes"


def _stream(storage: LocalStorage, stream: str, state: Expired, *, hashes: bool) -> Verdict:
    """The records themselves, never their checkpoint; then every object that should be there."""
    before = ""
    for key in storage.list(f"_headrace/land/{stream}"):
        _, digest, link = unseal(storage.read(key), key)
        if link != before:
            return Verdict(f"source {stream}", faults=(f"{key} does not follow the record before it",))
        before = digest
    log = LandLog(storage, stream)
    there = [item for epoch, item in log.objects(-1, log.epoch) if not state.lacks(log.stream, epoch, item)]
    look = _object if hashes else _missing
    faults = tuple(fault for item in there if (fault := look(storage, item)))
    size = sum(item.bytes for item in there) / 1e6
    told = f"{log.epoch + 1:,} records, {len(there):,} objects, {size:,.1f} MB{' hashed' if hashes else ''}"
    return Verdict(f"source {stream}", told, faults)


def _object(storage: LocalStorage, item: Landed) -> str:
    digest = hashlib.sha256()
    try:
        with storage.open(item.key) as file:
            while chunk := file.read(1 << 18):
                digest.update(chunk)
    except (HeadraceError, OSError) as error:
        return str(error)
    return "" if digest.hexdigest() == item.sha256 else f"{item.key} ({item.name}) has another sha256"


def _missing(storage: LocalStorage, item: Landed) -> str:
    return "" if storage.path(item.key).is_file() else f"{item.key} ({item.name}) is gone"


def _records(storage: LocalStorage, name: str) -> Verdict:
    log = RefineLog(storage, name)
    planned = log.plans
    faults = tuple(
        f"epoch {done.epoch} is done and has no plan" for done in log.done if done.epoch not in planned
    )
    return Verdict(f"records of {name}", f"{len(planned):,} plans, {len(log.done):,} done", faults)


def _table(storage: LocalStorage, table: Table, name: str, *, hashes: bool) -> Verdict:
    snapshot = table.snapshot(f"headrace:{name}")
    faults = []
    done = [item for item in RefineLog(storage, name).done if table.name in item.outputs]
    renewed = max((item.epoch for item in done if not item.fingerprint), default=0)
    done = [item for item in done if item.epoch >= renewed]  # before that it was a table that is lost
    since = max((item.forgotten for item in done), default=0)
    for item in done:
        if item.forgotten < since:
            continue  # an erasure has rewritten what it had
        known = item.outputs[table.name]
        if known["version"] <= snapshot.at.version and known["id"] == snapshot.table_id:
            if table.digest(known["version"]) != known["log"]:
                faults.append(f"log entry {known['version']} is not the one of epoch {item.epoch}")
        else:
            faults.append(f"epoch {item.epoch} is not in the table: it was restored or replaced")
    if done:
        others = table.foreign(done[0].outputs[table.name]["version"], snapshot.at.version)
        restored = max((d.outputs[table.name]["version"] for d in done if d.mode != "increment"), default=-1)
        faults += [
            f"version {version} was committed by somebody else" for version in others if version > restored
        ]
    check = check_bytes if hashes else check_sizes
    for file in snapshot.at.files:
        try:
            check(table.name, [file])
        except Corrupt as error:
            faults.append(str(error))
    told = f"version {snapshot.at.version}, {len(snapshot.at.files):,} files, {len(done):,} epochs"
    return Verdict(f"table {table.name}", told, tuple(faults))
