"""What a stand-in for MongoDB holds: documents as the bytes that came, an oplog, and who follows it."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import bson
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS

OPTIONS: CodecOptions[Any] = CodecOptions(
    document_class=dict, datetime_conversion=DatetimeConversion.DATETIME_MS
)
MISSING = object()
RANKS: Mapping[type, int] = {
    MinKey: 0, type(None): 1, int: 2, Int64: 2, float: 2, Decimal128: 2, str: 3, dict: 4, list: 5, bytes: 6,
    Binary: 6, ObjectId: 7, bool: 8, DatetimeMS: 9, Timestamp: 10, Regex: 11, MaxKey: 12,
}  # fmt: skip
NAMES: Mapping[str, Sequence[type]] = {
    "minKey": (MinKey,), "null": (type(None),), "int": (int,), "long": (Int64,), "double": (float,),
    "decimal": (Decimal128,), "string": (str,), "symbol": (), "object": (dict,), "array": (list,),
    "binData": (bytes, Binary), "objectId": (ObjectId,), "bool": (bool,), "date": (DatetimeMS,),
    "timestamp": (Timestamp,), "maxKey": (MaxKey,),
}  # fmt: skip


class Failed(Exception):
    def __init__(self, code: int, name: str, message: str) -> None:
        self.reply = {"ok": 0.0, "code": code, "codeName": name, "errmsg": message}


# Values and filters


def key(value: Any) -> tuple[Any, ...]:
    """Sorts as the server does."""
    rank = RANKS[type(value)]
    if rank == 2:
        number = value.to_decimal() if isinstance(value, Decimal128) else Decimal(value)
        return (rank, 0, 0) if number.is_nan() else (rank, 1, number)
    if rank == 4:
        return rank, [(RANKS[type(v)], k, key(v)) for k, v in value.items()]
    if rank == 5:
        return rank, [key(v) for v in value]
    if rank == 6:
        return rank, len(value), getattr(value, "subtype", 0), bytes(value)
    if rank == 9:
        return rank, int(value)
    if rank == 10:
        return rank, value.time, value.inc
    if rank == 7:
        return rank, value.binary
    return (rank,) if rank in (0, 1, 12) else (rank, value.encode() if isinstance(value, str) else value)


def at(document: Any, path: str) -> Any:
    for step in path.split("."):
        if not isinstance(document, dict) or step not in document:
            return MISSING
        document = document[step]
    return document


def matches(document: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    for path, wanted in chosen.items():
        if path == "$or":
            if not any(matches(document, each) for each in wanted):
                return False
        elif not _fits(at(document, path), wanted):
            return False
    return True


def _fits(value: Any, wanted: Any) -> bool:
    if not (isinstance(wanted, dict) and wanted and next(iter(wanted)).startswith("$")):
        return value is not MISSING and key(value) == key(wanted)
    return all(_OPERATORS[name](value, argument) for name, argument in wanted.items())


def _compare(judge: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def fits(value: Any, bound: Any) -> bool:
        # Only values of one type are compared, and NaN with none.
        if value is MISSING or RANKS[type(value)] != RANKS[type(bound)]:
            return False
        one, other = key(value), key(bound)
        return judge(one, other) and (one[:2] != (2, 0)) == (other[:2] != (2, 0))

    return fits


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$gt": _compare(lambda a, b: a > b),
    "$gte": _compare(lambda a, b: a >= b),
    "$ne": lambda value, other: key(None if value is MISSING else value) != key(other),
    "$in": lambda value, some: value is not MISSING and any(key(value) == key(one) for one in some),
    "$type": lambda value, names: value is not MISSING and any(type(value) in NAMES[n] for n in names),
}


# Data


@dataclass
class Space:
    """A collection."""

    uuid: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    documents: dict[bytes, bytes] = field(default_factory=dict)
    images: bool = False
    view: bool = False


@dataclass
class Entry:
    """Of the oplog."""

    time: tuple[int, int]
    number: int
    """Among the operations of one transaction."""
    event: dict[str, Any]
    before: bytes | None = None
    after: bytes | None = None
    images: bool = False

    @property
    def place(self) -> tuple[int, int, int]:
        return (*self.time, self.number)


@dataclass
class Follower:
    """An open change stream."""

    database: str
    options: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]
    place: tuple[int, int, int]


class Data:
    def __init__(self, alone: bool) -> None:
        self.alone = alone
        self.databases: dict[str, dict[str, Space]] = {}
        self.oplog: list[Entry] = []
        self.time = (int(time.time()), 1)
        self.forgotten = self.time
        self.changed = threading.Condition()
        self.cursors: dict[int, Follower | tuple[str, Iterator[bytes]]] = {}
        self.numbers = itertools.count(1 << 40)
        self.waiting: dict[Any, list[tuple[str, dict[str, Any]]]] = {}
        self.failures: list[tuple[str, int, str]] = []

    # Writes

    def tick(self) -> tuple[int, int]:
        now = int(time.time())
        self.time = (now, 1) if now > self.time[0] else (self.time[0], self.time[1] + 1)
        return self.time

    def space(self, database: str, name: str) -> Space:
        return self.databases.setdefault(database, {}).setdefault(name, Space())

    def log(self, entry: Entry) -> None:
        self.oplog.append(entry)
        self.changed.notify_all()

    def write(self, database: str, command: dict[str, Any]) -> dict[str, Any]:
        """Applies an insert, update or delete; all of a transaction's have one time."""
        if command.get("autocommit") is False:
            self.waiting.setdefault(transaction(command), []).append((database, command))
            return {"ok": 1.0, "n": len(command.get("documents") or command.get("updates") or [1])}
        return self.apply(database, command, None, {})

    def commit(self, command: dict[str, Any]) -> dict[str, Any]:
        when, numbers = self.tick(), itertools.count()
        extra = {"lsid": command["lsid"], "txnNumber": command["txnNumber"]}
        for database, each in self.waiting.pop(transaction(command), []):
            self.apply(database, each, (when, numbers), extra)
        return {"ok": 1.0}

    def apply(
        self, database: str, command: dict[str, Any], one: tuple[tuple[int, int], Iterator[int]] | None,
        extra: dict[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        kind = next(iter(command))
        name = str(command[kind])
        space = self.space(database, name)
        count = 0

        def record(
            operation: str, ident: Any, before: bytes | None, after: bytes | None, **more: Any
        ) -> None:
            nonlocal count
            count += 1
            when, number = (one[0], next(one[1])) if one else (self.tick(), 0)
            event = {"operationType": operation, "clusterTime": Timestamp(*when), **extra}
            event["wallTime"] = DatetimeMS(int(time.time() * 1000))
            event |= {"ns": {"db": database, "coll": name}, "documentKey": {"_id": ident}, **more}
            self.log(Entry(when, number, event, before, after, space.images))

        if kind == "insert":
            for raw in command["documents"]:
                ident = _id(raw)
                if bson.encode({"": ident}) in space.documents:
                    raise Failed(11000, "DuplicateKey", "E11000 duplicate key")
                space.documents[bson.encode({"": ident})] = raw
                record("insert", ident, None, raw)
        for each in command.get("updates", []) if kind == "update" else []:
            self._update(space, each, record)
        for each in command.get("deletes", []) if kind == "delete" else []:
            chosen = bson.decode(each["q"], OPTIONS)
            for place, raw in list(space.documents.items()):
                if matches(bson.decode(raw, OPTIONS), chosen):
                    del space.documents[place]
                    record("delete", _id(raw), raw, None)
                    if each.get("limit"):
                        break
        return {"ok": 1.0, "n": count, "nModified": count}

    def _update(self, space: Space, each: dict[str, Any], record: Callable[..., None]) -> None:
        chosen, change = bson.decode(each["q"], OPTIONS), bson.decode(each["u"], OPTIONS)
        found = False
        candidates = list(space.documents.items())
        if set(chosen) == {"_id"} and not isinstance(chosen["_id"], dict):
            place = bson.encode({"": chosen["_id"]})
            candidates = [(place, space.documents[place])] if place in space.documents else []
        for place, raw in candidates:
            old = bson.decode(raw, OPTIONS)
            if not matches(old, chosen):
                continue
            found = True
            if next(iter(change), "").startswith("$"):
                new, updated, removed = changed(old, change)
                after = bson.encode(new, codec_options=OPTIONS)
                if after != raw:
                    space.documents[place] = after
                    told = {"updatedFields": updated, "removedFields": removed, "truncatedArrays": []}
                    record("update", old["_id"], raw, after, updateDescription=told)
            else:
                body = {"_id": old["_id"], **{k: v for k, v in change.items() if k != "_id"}}
                after = bson.encode(body, codec_options=OPTIONS)
                space.documents[place] = after
                record("replace", old["_id"], raw, after)
            if not each.get("multi"):
                break
        if not found and each.get("upsert"):
            plain = {k: v for k, v in chosen.items() if not isinstance(v, dict)}
            body = plain | (changed(plain, change)[0] if next(iter(change), "").startswith("$") else change)
            after = bson.encode({"_id": body.pop("_id", ObjectId()), **body}, codec_options=OPTIONS)
            space.documents[bson.encode({"": _id(after)})] = after
            record("insert", _id(after), None, after)

    def ends(self, operation: str, database: str, name: str = "", to: str = "") -> None:
        when = self.tick()
        event: dict[str, Any] = {"operationType": operation, "clusterTime": Timestamp(*when)}
        event["ns"] = {"db": database, "coll": name} if name else {"db": database}
        if to:
            event["to"] = {"db": database, "coll": to}
        self.log(Entry(when, 0, event))
        if operation == "dropDatabase":
            self.log(Entry(when, 1, {"operationType": "invalidate", "clusterTime": Timestamp(*when)}))

    # Reads

    def find(self, database: str, command: Mapping[str, Any]) -> Iterator[bytes]:
        space = self.databases.get(database, {}).get(str(command["find"]), Space())
        chosen, order = command.get("filter", {}), command.get("sort", {})
        found = [(bson.decode(raw, OPTIONS), raw) for raw in space.documents.values()]
        found = [each for each in found if matches(each[0], chosen)]
        for path, way in reversed(list(order.items())):

            def place(each: tuple[Any, bytes], path: str = path) -> Any:
                value = at(each[0], path)
                return key(None if value is MISSING else value)

            found.sort(key=place, reverse=way < 0)
        limit = command.get("limit") or len(found)
        return iter([raw for _, raw in found[:limit]])

    def follow(self, database: str, command: Mapping[str, Any]) -> Follower:
        if self.alone:
            raise Failed(40573, "Location40573", "The $changeStream stage is only supported on replica sets")
        options = command["pipeline"][0]["$changeStream"]
        place = (*self.time, 1 << 31)
        token = options.get("resumeAfter") or options.get("startAfter")
        if token:
            data = token["_data"]
            place = (int(data[2:10], 16), int(data[10:18], 16), int(data[18:26], 16) - 1)
        elif begin := options.get("startAtOperationTime"):
            place = (begin.time, begin.inc, -1)
        if place[:2] < self.forgotten:
            raise Failed(
                286,
                "ChangeStreamHistoryLost",
                "Resume of change stream was not possible, the resume point may no longer be in the oplog.",
            )
        return Follower(database, options, command["pipeline"][1:], place)

    def take(self, follower: Follower, most: int, wait: float) -> list[bytes]:
        """Events after the follower's place; waits for one."""
        until = time.monotonic() + wait
        while True:
            found: list[bytes] = []
            first = len(self.oplog)
            while first and self.oplog[first - 1].place > follower.place:
                first -= 1
            for entry in self.oplog[first:]:
                if len(found) == most:
                    return found
                follower.place = entry.place
                ours = entry.event.get("ns", {}).get("db", follower.database) == follower.database
                event = self._event(entry, follower.options)
                if ours and all(matches(event, stage["$match"]) for stage in follower.stages):
                    found.append(bson.encode(event, codec_options=OPTIONS))
            follower.place = max(follower.place, (*self.time, 1 << 31))
            left = until - time.monotonic()
            if found or left <= 0:
                return found
            self.changed.wait(left)

    def _event(self, entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
        event = {"_id": token(entry.place), **entry.event}
        kind = event["operationType"]
        if kind in ("insert", "replace"):
            event["fullDocument"] = bson.decode(entry.after or b"", OPTIONS)
        if kind == "update" and options.get("fullDocument") == "updateLookup":
            space = self.databases.get(event["ns"]["db"], {}).get(event["ns"]["coll"], Space())
            raw = space.documents.get(bson.encode({"": event["documentKey"]["_id"]}))
            event["fullDocument"] = bson.decode(raw, OPTIONS) if raw else None
        if kind == "update" and options.get("fullDocument") == "whenAvailable":
            known = entry.after if entry.images else None
            event["fullDocument"] = bson.decode(known, OPTIONS) if known else None
        if kind in ("update", "replace", "delete") and options.get("fullDocumentBeforeChange"):
            known = entry.before if entry.images else None
            event["fullDocumentBeforeChange"] = bson.decode(known, OPTIONS) if known else None
        return event


def changed(old: dict[str, Any], change: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    new = bson.decode(bson.encode(old, codec_options=OPTIONS), OPTIONS)
    updated: dict[str, Any] = {}
    removed: list[str] = []
    for operator, fields in change.items():
        for path, value in fields.items():
            *way, last = path.split(".")
            inner = new
            for step in way:
                inner = inner.setdefault(step, {})
            if operator == "$unset":
                if last in inner:
                    del inner[last]
                    removed.append(path)
                continue
            if operator == "$inc":
                value = inner.get(last, 0) + value
            elif operator == "$setOnInsert":
                continue
            if last not in inner or inner[last] != value or type(inner[last]) is not type(value):
                inner[last] = updated[path] = value
    return new, updated, removed


def token(place: tuple[int, int, int]) -> dict[str, str]:
    return {"_data": f"82{place[0]:08X}{place[1]:08X}{place[2] + 1:08X}04"}


def _id(raw: bytes) -> Any:
    return bson.decode(raw, OPTIONS)["_id"]


def transaction(command: Mapping[str, Any]) -> Any:
    return bytes(command["lsid"]["id"]), command["txnNumber"]
