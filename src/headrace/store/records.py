"""The lake's own memory: land commits, plans and done records. Each is created once, exclusively.

A record is one JSON file: its body, the sha256 of the body, and the sha256 of the record before it. So a
changed, cut or missing record is found when it is read; it is never skipped.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from ..core import Landed, Position
from ..errors import ConfigError, Corrupt, Fenced
from .storage import Storage

ERASED = "_headrace/forget"
FORMAT = 1
"""The lake's format; newer ones are refused."""


def check_format(storage: Storage) -> None:
    """Marks a new lake with our format; refuses a lake that a newer Headrace has written."""
    key = "_headrace/format.json"
    body = json.dumps({"format": FORMAT}).encode()
    if storage.create(key, body):
        return
    try:
        found = int(json.loads(storage.read(key))["format"])
    except (ValueError, KeyError, TypeError):
        raise Corrupt(f"{key} cannot be read", hint='it should hold {"format": 1}') from None
    if found > FORMAT:
        raise ConfigError(
            f"the lake has format {found}; this Headrace knows up to {FORMAT}", hint="upgrade headrace"
        )


def seal(body: Mapping[str, Any], before: str) -> bytes:
    """A record's bytes: its body, bound by its hash to the record before it ("" for a record of its own)."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), default=str)
    digest = hashlib.sha256((before + text).encode()).hexdigest()
    return json.dumps(
        {"sha256": digest, "before": before, "body": body}, sort_keys=True, default=str
    ).encode()


def unseal(data: bytes, key: str) -> tuple[dict[str, Any], str, str]:
    """(body, sha256, sha256 of the record before); raises `Corrupt`."""
    try:
        record = json.loads(data)
        body, digest, before = record["body"], record["sha256"], record["before"]
    except (ValueError, KeyError, TypeError):
        raise Corrupt(f"record {key} cannot be read", hint="restore this file from a backup") from None
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256((before + text).encode()).hexdigest() != digest:
        raise Corrupt(f"record {key} was changed", hint="restore this file from a backup")
    return body, digest, before


def utc(moment: datetime | None = None) -> str:
    return (moment or datetime.now(UTC)).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class LandRecord:
    """One commit of a land stream: what came, and where the next read starts."""

    stream: str
    epoch: int
    end: Position | None
    objects: Sequence[Landed]
    time: str
    writer: str
    sha256: str = ""


class LandLog:
    """The commits of one land stream, read once and then kept; `append` is the only way to land."""

    def __init__(self, storage: Storage, stream: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", stream):
            raise ConfigError(f"stream id `{stream}`: letters, digits, `_`, `.` and `-` only")
        self.storage = storage
        self.stream = stream
        self._folder = f"_headrace/land/{stream}"
        self.records: list[LandRecord] = []
        self.tables: Collection[str] | None = None
        """Of which of the source's tables `objects` and `newest` tell; None: of all."""
        self.fresh: set[str] = set()
        """Keys that this process has just hashed: reading them again needs no second check."""
        self.refresh()

    def _key(self, epoch: int) -> str:
        return f"{self._folder}/{epoch:012d}.json"

    def refresh(self) -> None:
        """Reads what was committed or erased since; raises `Corrupt` if a record is missing or changed."""
        found = erasures(self.storage)
        self.forgotten = len(found)
        self._replaced = {key: new for _, body in found for key, new in body["replaced"].items()}
        keys = self.storage.list(self._folder)
        if not self.records:
            self._recall(keys)
        for expected, key in enumerate(keys[len(self.records) :], start=len(self.records)):
            if key != self._key(expected):
                raise Corrupt(
                    f"land stream `{self.stream}`: record {expected} is missing (found {key})",
                    hint=f"restore {self._key(expected)} from a backup",
                )
            body, digest, before = unseal(self.storage.read(key), key)
            if before != self._digest():
                raise Corrupt(
                    f"record {key} does not follow the one before it", hint="restore both from a backup"
                )
            self.records.append(_land_record({**body, "sha256": digest}))

    def _recall(self, keys: Sequence[str]) -> None:
        """Takes the oldest records from the newest checkpoint, if it fits the records themselves.

        A checkpoint is a copy: one that is damaged, or of which a record is missing, is not looked at again.
        """
        for key in reversed(self.storage.list(self._copies)):
            head, _, text = self.storage.read(key).partition(b"\n")
            if head.decode(errors="replace") != hashlib.sha256(text).hexdigest():
                continue
            records = [_land_record(body) for body in json.loads(text)]
            upto = len(records) - 1
            if [self._key(epoch) for epoch in range(len(records))] != keys[: len(records)]:
                continue
            _, digest, _ = unseal(self.storage.read(self._key(upto)), self._key(upto))
            if digest == records[-1].sha256:
                self.records = records
                return

    @property
    def _copies(self) -> str:
        return f"_headrace/checkpoint/{self.stream}"

    def checkpoint(self, every: int = 1000) -> str | None:
        """Copies all records into one file that opens fast, if `every` have come since the last; its key.

        The records stay: they are what counts.
        """
        copies = self.storage.list(self._copies)
        last = int(copies[-1].rsplit("/", 1)[-1].removesuffix(".json")) if copies else -1
        if self.epoch - last < every:
            return None
        key = f"{self._copies}/{self.epoch:012d}.json"
        text = json.dumps([asdict(record) for record in self.records], separators=(",", ":")).encode()
        self.storage.create(key, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
        self.storage.delete(copies)
        return key

    def _digest(self) -> str:
        return self.records[-1].sha256 if self.records else ""

    @property
    def epoch(self) -> int:
        """The newest commit; 0 is the empty first record that fixes the start, -1 means none yet."""
        return len(self.records) - 1

    @property
    def end(self) -> Position | None:
        return self.records[-1].end if self.records else None

    def append(self, end: Position | None, objects: Sequence[Landed], writer: str) -> LandRecord:
        """Commits the next epoch durably, or raises `Fenced` because another writer did so first.

        Arrival times are made unique and rising within the stream, whatever the clock does: they order rows.
        """
        moment = datetime.now(UTC)
        if self.records:
            last = self.records[-1]
            floor = datetime.fromisoformat(last.time) + timedelta(microseconds=len(last.objects) + 1)
            moment = max(moment, floor)
        stamped = [
            _stamp(item, utc(moment + timedelta(microseconds=place))) for place, item in enumerate(objects)
        ]
        record = LandRecord(self.stream, self.epoch + 1, end, tuple(stamped), utc(moment), writer)
        body = asdict(record)
        del body["sha256"]
        key = self._key(record.epoch)
        if not self.storage.create(key, seal(body, self._digest())):
            self.refresh()
            if self.records[record.epoch].writer != writer:
                raise Fenced(
                    f"land stream `{self.stream}`: another writer committed epoch {record.epoch} first",
                    hint="run again: what it landed is kept, what it did not will be read again",
                )
        else:
            self.refresh()
        self.fresh.update(item.key for item in objects)
        return self.records[record.epoch]

    def of(self, tables: Collection[str] | None) -> LandLog:
        """The same log, seen by who reads only some of the source's tables."""
        seen = copy.copy(self)
        seen.tables = tables
        return seen

    def newest(self) -> dict[str, Landed]:
        """Name → its newest version."""
        return {item.name: item for record in self.records for item in self._told(record)}

    def _told(self, record: LandRecord) -> Iterator[Landed]:
        return (item for item in record.objects if self.tables is None or item.table in self.tables)

    def objects(self, after: int, upto: int) -> list[tuple[int, Landed]]:
        """(epoch, object) of the commits in (after, upto], in bronze order."""
        return [
            (record.epoch, self._now(item))
            for record in self.records[max(after + 1, 0) : upto + 1]
            for item in self._told(record)
        ]

    def _now(self, item: Landed) -> Landed:
        """The object that stands for the one of the record: records may have been erased from it."""
        while new := self._replaced.get(item.key):
            item = replace(item, **new, was=(*item.was, item.key))
        return item


def erasures(storage: Storage) -> list[tuple[str, dict[str, Any]]]:
    """(key, body) of every erasure, oldest first; see store/forgotten."""
    return [(key, unseal(storage.read(key), key)[0]) for key in storage.list(ERASED)]


def _land_record(body: dict[str, Any]) -> LandRecord:
    objects = tuple(Landed(**item) for item in body.pop("objects"))
    return LandRecord(**body, objects=objects)


def _stamp(item: Landed, arrived: str) -> Landed:
    return replace(item, arrived=arrived)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one refine epoch will do, fixed before anything is written."""

    table: str
    prev: int
    next: int
    mode: Literal["increment", "rebuild", "restore"]
    inputs: Mapping[str, tuple[int, int]]
    """Land stream → (from, to]."""
    references: Mapping[str, int]
    """Table read → its version."""
    spec: Mapping[str, Any]
    """The table's spec, as it was then."""
    fingerprint: str
    evolved: Sequence[str]
    """Columns beyond the contract, as text."""
    engine: Mapping[str, str]
    now: str
    reason: str
    writer: str
    corrections: tuple[int, int] = (-1, -1)
    """Of the table's land stream of corrections: (from, to]."""
    base: int = 0
    """The newest expiry when this was planned: a rebuild starts from the bases of that one."""
    forgotten: int = 0
    """The newest erasure when its objects were chosen."""
    only: Sequence[str] = ()
    """Of a backfill: keys of the objects to refine, which are below `inputs`."""
    again: bool = False
    """Of a backfill: whether these may have been refined before."""
    restores: int = 0
    """Of a restore: the epoch that is to come back."""
    versions: Mapping[str, int] = field(default_factory=dict)
    """Of a restore: output table → its version in that epoch; -1 makes it empty."""
    heads: Mapping[str, str] = field(default_factory=dict)
    """Land stream → sha256 of the newest record in `inputs`, which stands for all before it."""


@dataclass(frozen=True, slots=True)
class Done:
    """What one refine epoch did."""

    table: str
    epoch: int
    fingerprint: str
    inputs: Mapping[str, int]
    """Land stream → refined up to and including."""
    evolved: Sequence[str]
    outputs: Mapping[str, Mapping[str, Any]]
    """Table → id, version and sha256 of its log entry."""
    references: Mapping[str, int]
    ledger: Mapping[str, int]
    by_rule: Mapping[str, int]
    warned: Mapping[str, int]
    checks: Sequence[Mapping[str, Any]]
    now: str
    time: str
    mode: str = "increment"
    files: Mapping[str, int] = field(default_factory=dict)
    """Bronze key → records read from it."""
    corrections: int = -1
    """Epoch of the table's corrections, refined up to and including."""
    forgotten: int = 0
    """The newest erasure that it knows of."""
    run_id: str = ""
    """The run that did it, by which a lost catalog is filled again."""
    heads: Mapping[str, str] = field(default_factory=dict)
    """Land stream → sha256 of the newest record that was refined."""
    told: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Source → kind of change → how many, of a table of changes."""
    late: int = 0
    """Of a stream: rows that came into, or left, windows that were closed."""


class RefineLog:
    """Plans and done records of one refine stream (a silver table and what belongs to it)."""

    def __init__(self, storage: Storage, table: str) -> None:
        self.storage = storage
        self.table = table
        self._folder = f"_headrace/refine/{table}"
        self._plans: dict[int, Plan] = {}
        self._done: dict[int, Done] = {}
        self.refresh()

    def refresh(self) -> None:
        """Looks up which epochs there are; records are read when they are asked for, and then kept."""
        self._numbers: dict[str, list[int]] = {"plan": [], "done": []}
        for key in self.storage.list(self._folder):
            kind, _, number = key.rsplit("/", 1)[-1].removesuffix(".json").partition("-")
            if kind in self._numbers and number.isdigit():
                self._numbers[kind].append(int(number))

    def _key(self, kind: str, epoch: int) -> str:
        return f"{self._folder}/{kind}-{epoch:012d}.json"

    def planned(self, epoch: int) -> Plan:
        """The plan of `epoch`."""
        if epoch not in self._plans:
            key = self._key("plan", epoch)
            body, _, _ = unseal(self.storage.read(key), key)
            body["inputs"] = {stream: (low, high) for stream, (low, high) in body["inputs"].items()}
            body["corrections"] = tuple(body.get("corrections", (-1, -1)))
            self._plans[epoch] = Plan(**body)
        return self._plans[epoch]

    def finished(self, epoch: int) -> Done:
        """The done record of `epoch`."""
        if epoch not in self._done:
            key = self._key("done", epoch)
            body, _, _ = unseal(self.storage.read(key), key)
            self._done[epoch] = Done(**body)
        return self._done[epoch]

    @property
    def plans(self) -> dict[int, Plan]:
        """All plans, by their epoch."""
        return {epoch: self.planned(epoch) for epoch in self._numbers["plan"]}

    @property
    def done(self) -> list[Done]:
        """All done records, oldest first."""
        return [self.finished(epoch) for epoch in self._numbers["done"]]

    def back(self) -> Iterator[Done]:
        """All done records, newest first, each read when it is asked for."""
        return (self.finished(epoch) for epoch in sorted(self._numbers["done"], reverse=True))

    @property
    def last(self) -> Done | None:
        return self.finished(self.epoch) if self.epoch else None

    @property
    def epoch(self) -> int:
        return max(self._numbers["done"], default=0)

    def open_plans(self) -> list[Plan]:
        """Plans made over the last done epoch and not finished, oldest first."""
        return [self.planned(epoch) for epoch in self._numbers["plan"] if epoch > self.epoch]

    def next_number(self) -> int:
        """Numbers are never used twice, also those of abandoned plans."""
        return max([self.epoch, *self._numbers["plan"]]) + 1

    def plan(self, plan: Plan) -> None:
        """Fixes the plan durably, or raises `Fenced` because another runner planned this number first."""
        if not self.storage.create(self._key("plan", plan.next), seal(asdict(plan), "")):
            raise Fenced(
                f"table `{plan.table}`: another run planned epoch {plan.next} first",
                hint="it is at work or was killed; run again",
            )
        self.refresh()

    def finish(self, done: Done) -> None:
        """Records the epoch as done; a helper that finished it in the meantime has written the same."""
        self.storage.create(self._key("done", done.epoch), seal(asdict(done), ""))
        self.refresh()
