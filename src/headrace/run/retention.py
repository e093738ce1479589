"""Retention: old objects leave bronze once everything that they contributed can be had without them.

An object goes only if every table that reads its source has refined it, no row in quarantine points to it,
and either a refined newer version has replaced it or each of those tables has a base that holds its rows.
One exclusively created record is the commit; what it lists is deleted only then (see docs/decisions/0006).
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from ..core import Landed
from ..errors import ConfigError
from ..failpoints import reach
from ..spec.project import Project
from ..sql.expect import duration
from ..store.base import DATA, Base, Expired, How, commit, expired
from ..store.delta import Table
from ..store.records import LandLog, RefineLog, utc
from ..store.storage import LocalStorage, scratch_folder
from .accept import user
from .alone import alone
from .bases import covering, grown
from .corrected import corrections_log, wait
from .origin import chosen
from .parts import code_of, lands_of, part, refinery
from .portions import again
from .refinery import fingerprint_of
from .report import Listener, silent

STAMP = "_headrace/retention.stamp"
EVERY = timedelta(days=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Expiry:
    """What went from bronze, and how many old objects stayed for which reason."""

    objects: Sequence[str] = ()
    bytes: int = 0
    kept: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        stay = "".join(f", {count} kept: {reason}" for reason, count in self.kept.items())
        return f"{len(self.objects)} old objects of bronze ({self.bytes / 1e6:,.1f} MB) expired{stay}"


@dataclass(frozen=True, slots=True)
class Old:
    """An object that is old enough to go, and how it would go."""

    source: str
    stream: str
    epoch: int
    item: Landed
    how: How


@dataclass(frozen=True)
class Reader:
    """A table that reads from bronze; `blocked` says why nothing that it has read may go."""

    name: str
    fingerprint: str
    log: RefineLog
    blocked: str
    replaced: bool
    """Whether each delivery replaces the table."""
    reads: frozenset[str] | None
    """Keys of the objects that a rebuild would read, in base or not; None for all."""


@dataclass(frozen=True)
class Keeper:
    """One look at a lake: what is old in it, and who needs it."""

    project: Project
    storage: LocalStorage
    lands: Mapping[str, LandLog]
    scratch: Path
    listener: Listener
    now: datetime

    @cached_property
    def state(self) -> Expired:
        return expired(self.storage)

    @cached_property
    def readers(self) -> dict[str, Reader]:
        return {name: self._reader(name) for name in self.project.config.tables}

    def of(self, source: str) -> list[Reader]:
        """The tables that read `source`."""
        tables = self.project.config.tables
        return [self.readers[name] for name, spec in tables.items() if source in spec.source]

    def streams(self, table: str) -> list[str]:
        return [self.lands[source].stream for source in self.project.config.tables[table].source]

    def _reader(self, name: str) -> Reader:
        spec = self.project.config.tables[name]
        log = RefineLog(self.storage, name)
        fingerprint = fingerprint_of(spec, code_of(self.project, spec))
        base = self.state.bases.get(name)
        lands = lands_of(spec, self.lands.__getitem__)
        blocked = ""
        if log.last is None:
            blocked = "unrefined"
        elif log.open_plans():
            blocked = f"an epoch of `{name}` is not finished"
        elif wait(corrections_log(self.storage, name), log.last):
            blocked = f"corrections of `{name}` wait"
        elif log.last.fingerprint != fingerprint or (base and not base.fits(fingerprint)):
            blocked = f"`{name}` has changed and was not computed anew"
        elif uncovered(self.state, lands, base):
            blocked = f"`{name}` has no base for what is gone already"
        reads = again(spec, log, lands)
        replaced = spec.effective_mode == "replace"
        return Reader(name, fingerprint, log, blocked, replaced, None if reads is None else frozenset(reads))

    def survey(self, cutoff: str) -> tuple[list[Old], Counter[str]]:
        """Objects that arrived before `cutoff` and may go; the others by their reason to stay."""
        going: list[Old] = []
        kept: Counter[str] = Counter()
        for source, land in self.lands.items():
            versions = Counter(item.name for _, item in land.objects(-1, land.epoch))
            newest = {item.name: epoch for epoch, item in land.objects(-1, land.epoch)}
            latest = {item.name: item.key for _, item in land.objects(-1, land.epoch)}
            for epoch, item in land.objects(-1, land.epoch):
                if item.arrived >= cutoff or self.state.lacks(land.stream, epoch, item):
                    continue
                replaced = latest[item.name] != item.key
                reason = self._needed(source, max(epoch, newest[item.name]), item)
                if not reason and not replaced and versions[item.name] > 1:
                    reason = "newest version of a file that changes"
                if reason:
                    kept[reason] += 1
                else:
                    how: How = "superseded" if replaced else "base"
                    going.append(Old(source, land.stream, epoch, item, how))
        return going, kept

    def _needed(self, source: str, epoch: int, item: Landed) -> str:
        """Why an object must stay; `epoch` is that of its newest version."""
        readers = self.of(source)
        if not readers:
            return "no table reads it"
        for reader in readers:
            if reader.blocked:
                return reader.blocked
            if reader.log.last is None or epoch > reader.log.last.inputs.get(source, -1):
                return "unrefined"
            if reader.replaced and reader.reads and item.key in reader.reads:
                return "newest delivery of a table that each one replaces"
        micros = (datetime.fromisoformat(item.arrived) - EPOCH) // timedelta(microseconds=1)
        if any((source, item.name, micros) in self.quarantined(reader.name) for reader in readers):
            return "quarantined"
        return ""

    def quarantined(self, table: str) -> frozenset[tuple[str, str, int]]:
        """(source, file, arrival in µs) of every object that a row in quarantine came from."""
        if table not in self._quarantined:
            name = f"quarantine.{table}"
            at = Table(self.project.lake.joinpath("quarantine", table), name).snapshot("").at
            found: list[tuple[str, str, int]] = []
            if at.files:
                sql = f'SELECT DISTINCT _source, _file, epoch_us(_ingested_at) FROM quarantine."{table}"'
                ask = part("engines", "duckdb").query
                found += ask({"quarantine": {table: at}}, sql, memory=self.project.config.memory)[1]
            self._quarantined[table] = frozenset(found)
        return self._quarantined[table]

    @cached_property
    def _quarantined(self) -> dict[str, frozenset[tuple[str, str, int]]]:
        return {}

    def bases(self, going: Sequence[Old], data: Path) -> tuple[dict[str, Base], set[str]]:
        """Each table's base with what is going in it, or the keys of objects that would leave bad rows."""
        moving = [(old.source, (old.epoch, old.item)) for old in going if old.how == "base"]
        sources = {source for source, _ in moving}
        found: dict[str, Base] = {}
        for name, kept in self.state.bases.items():
            known = name in self.project.config.tables
            if known or not any(old.stream in kept.streams for old in going if old.how == "base"):
                found[name] = kept
        for name, spec in self.project.config.tables.items():
            if not sources & set(spec.source):
                continue
            reader, base = self.readers[name], self.state.bases.get(name)
            objects = [
                (source, (epoch, item))
                for source, (epoch, item) in moving
                if source in spec.source and (reader.reads is None or item.key in reader.reads)
            ]
            if not objects:
                found[name] = covering(base, reader.fingerprint, spec, self.streams(name))
                continue
            lands = lands_of(spec, self.lands.__getitem__)
            with refinery(
                self.project, name, self.storage, lands, self.scratch / name, self.listener
            ) as work:
                new, bad = grown(work, reader.log, base, objects, data / name)
            if new is None:
                return {}, bad
            found[name] = new
        return found, set()

    def busy(self) -> set[str]:
        """Tables that have planned an epoch since: they may still need what is gone or replaced."""
        return {name for name in self.project.config.tables if RefineLog(self.storage, name).open_plans()}


def uncovered(state: Expired, lands: Mapping[str, LandLog], base: Base | None) -> bool:
    """Whether objects are gone of streams that the base does not answer for; replaced ones do not count."""
    streams = base.streams if base else ()
    return any(
        state.lacks(lands[source].stream, epoch, item)
        for source, (epoch, item) in chosen(
            lands, {source: (-1, land.epoch) for source, land in lands.items()}
        )
        if lands[source].stream not in streams
    )


def expire(
    project: Project, storage: LocalStorage, *, now: datetime | None = None, dry_run: bool = False
) -> Expiry:
    """Takes from bronze what is older than `retention.bronze` and needed by nothing; says what stayed.

    Raises `Busy` while a run is at work. `dry_run` only counts, and may count objects that turn out to be
    needed. Killed anywhere, nothing that is needed is gone, and the next call deletes the rest.
    """
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(alone(project.lake))
        scratch = stack.enter_context(scratch_folder(project.lake / ".scratch"))
        lands = {source: LandLog(storage, project.stream(source)) for source in project.config.sources}
        keeper = Keeper(project, storage, lands, scratch, silent, now or datetime.now(UTC))
        return _expire(keeper, dry_run=dry_run)


def due(storage: LocalStorage, now: datetime) -> bool:
    """True if no run has looked after this lake's bronze for a day."""
    stamp = storage.path(STAMP)
    if not stamp.exists():
        return True
    return not timedelta(0) <= now - datetime.fromtimestamp(stamp.stat().st_mtime, UTC) < EVERY


def tend(keeper: Keeper) -> Expiry:
    """`expire` within a run that holds the lake's lock already; then it is not `due` for a day."""
    result = _expire(keeper, dry_run=False)
    keeper.storage.path(STAMP).touch()
    return result


def adopt(project: Project, storage: LocalStorage, table: str, *, reason: str = "") -> bool:
    """Keeps a table's rows of expired bronze as they are, whatever has changed since; False if none is gone.

    The record of it says when, by whom and why. The next run computes the table from them and all of bronze
    that is left, under the settings of now. New versions of expired files that have landed so far are added
    to the old rows, not put in their place.
    """
    if table not in project.config.tables:
        raise ConfigError(
            f"table `{table}` is not defined", hint=f"tables: {', '.join(project.config.tables)}"
        )
    spec = project.config.tables[table]
    lands = lands_of(spec, lambda source: LandLog(storage, project.stream(source)))
    with alone(project.lake):
        state = expired(storage)
        base = state.bases.get(table)
        if not any(land.stream in state.gone for land in lands.values()):
            return False
        if base is None and RefineLog(storage, table).last is not None:
            if not uncovered(state, lands, base):
                return False
            raise ConfigError(
                f"table `{table}` has no base for the bronze that is gone",
                hint="restore it from a backup, or define the table anew under another name",
            )
        if base and (list(base.keys), list(base.partition_by)) != (spec.key_columns, spec.partition_by):
            raise ConfigError(
                f"table `{table}`: keys and partition_by cannot change while its oldest bronze is gone",
                hint=f"set keys: {list(base.keys)} and partition_by: {list(base.partition_by)} again,"
                " or define a new table",
            )
        adopted = Base(
            fingerprint_of(spec, code_of(project, spec)),
            [land.stream for land in lands.values()],
            spec.key_columns,
            spec.partition_by,
            base.outputs if base else {},
            {land.stream: land.epoch for land in lands.values()},
            base.objects if base else 0,
        )
        bases = {**state.bases, table: adopted}
        told = {"table": table, "by": user(), "reason": reason}
        record = replace(state, time=utc(), bases=bases, objects={}, writer=uuid.uuid4().hex, adopted=told)
        commit(storage, state, record)
    return True


def _expire(keeper: Keeper, *, dry_run: bool) -> Expiry:
    cutoff = utc(keeper.now - duration(keeper.project.config.retention.bronze))
    going, kept = keeper.survey(cutoff)
    if dry_run:
        return _told(going, kept)
    data = keeper.storage.path(f"{DATA}/{uuid.uuid4().hex}")
    left_behind = keeper.storage.list(DATA)
    bases: dict[str, Base] = dict(keeper.state.bases)
    while going:
        bases, bad = keeper.bases(going, data)
        if not bad:
            break
        shutil.rmtree(data, ignore_errors=True)
        kept["would be quarantined by a rebuild"] += len(bad)
        going = [old for old in going if old.item.key not in bad]
        bases = dict(keeper.state.bases)
    state = keeper.state
    in_use = _paths(keeper.storage, bases)
    if going or set(left_behind) - in_use:
        # files of bases are deleted only behind a record of our own: a paused rival can then not commit
        # one that names them
        reach("expire.based")
        how = {old.item.key: old.how for old in going}
        gone = state.after(keeper.lands.values(), how)
        record = Expired(0, utc(keeper.now), gone, bases, how, uuid.uuid4().hex)
        state = commit(keeper.storage, state, record)
        reach("expire.record")
    return _told(_delete(keeper, state, set(left_behind) - in_use), kept)


def _delete(keeper: Keeper, state: Expired, unused: set[str]) -> list[Old]:
    """Deletes all that the records have given up, but for what a plan made in the meantime may need."""
    busy = keeper.busy()
    held = {stream for table in busy for stream in keeper.streams(table)}
    deleted = []
    for source, land in keeper.lands.items():
        if land.stream not in state.gone or land.stream in held:
            continue
        there = set(keeper.storage.list(f"bronze/{land.stream}"))
        for epoch, item in land.objects(-1, state.gone[land.stream].upto):
            if item.key in there and state.lacks(land.stream, epoch, item):
                keeper.storage.delete([item.key])
                deleted.append(Old(source, land.stream, epoch, item, "base"))
                reach("expire.deleted")
    if not busy:
        keeper.storage.delete(unused)
        _prune(keeper.storage.path(DATA))
    return deleted


def _prune(root: Path) -> None:
    """Removes folders without files."""
    for folder, _, _ in os.walk(root, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()


def _paths(storage: LocalStorage, bases: Mapping[str, Base]) -> set[str]:
    """Keys of all files that the bases consist of."""
    return {
        file.path.relative_to(storage.root).as_posix()
        for base in bases.values()
        for at in base.outputs.values()
        for file in at.files
    }


def _told(going: Sequence[Old], kept: Counter[str]) -> Expiry:
    return Expiry(tuple(old.item.key for old in going), sum(old.item.bytes for old in going), dict(kept))
