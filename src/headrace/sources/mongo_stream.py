"""From a change stream to batches of changes, each with the token behind which the next read starts.

A change's place is its cluster time and, as transactions share one, its number among the changes of that
time. A batch ends where the time does. The server is told nothing: the token lies in the batch's position.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import bson
from bson import Timestamp
from bson.datetime_ms import DatetimeMS
from pymongo.change_stream import DatabaseChangeStream
from pymongo.database import Database

from ..core import Batch, RawFile
from ..errors import Gap, SystemFault
from .mongo_json import document
from .mongo_server import Raw, Server, stamp, unstamp
from .mongo_snapshot import Lines

DRAIN, AWAIT = 250, 1000
"""Milliseconds that the server waits for a change, when all up to now is wanted, and when following."""
HEARTBEAT = 600
"""Seconds after which a token that saw no change is kept all the same, before the oplog forgets it."""
OPS = {"insert": "c", "replace": "u", "update": "u", "delete": "d"}
ENDS = ("drop", "rename", "dropDatabase", "invalidate")


@dataclass(slots=True)
class Pending:
    """Changes that have been read and not landed; the place of the last one."""

    at: str
    ordinal: int
    token: str
    tables: dict[str, tuple[str, Lines]] = field(default_factory=dict)
    """Collection → (the place of its first change, its changes)."""

    @property
    def size(self) -> int:
        return sum(lines.size for _, lines in self.tables.values())

    def files(self) -> list[RawFile]:
        return [lines.file(f"{name}/{first}.jsonl") for name, (first, lines) in self.tables.items()]


@dataclass(slots=True)
class Stream:
    """Changes of collections of a database, from a position on."""

    server: Server
    database: Database[Raw]
    position: dict[str, Any]
    batch_bytes: int
    images: bool
    looked: tuple[str, str] = ("", "")
    """How far the server has looked, and the token of that."""

    def drain(self, until: Timestamp | None) -> Iterator[Batch | None]:
        """Batches of what has come up to `until`, or on and on, with `None` when idle.

        Raises `Gap` where the stream ends or its beginning is gone; what came before has been given.
        """
        with self.server.talking("begin to follow changes"):
            stream = self.database.watch(self._matched(), **self._from(until))
        try:
            yield from self._batches(stream, until)
        finally:
            stream.close()

    def check(self) -> None:
        """Raises `Gap` where the stream cannot go on from the position, before anything is read."""
        with self.server.talking("begin to follow changes"):
            self.database.watch(self._matched(), **self._from(None)).close()

    def _matched(self) -> list[dict[str, Any]]:
        names = list(self.position["collections"])
        whole = {"operationType": {"$in": ["dropDatabase", "invalidate"]}}
        return [{"$match": {"$or": [{"ns.coll": {"$in": names}}, {"to.coll": {"$in": names}}, whole]}}]

    def _from(self, until: Timestamp | None) -> dict[str, Any]:
        options: dict[str, Any] = {
            "full_document": "whenAvailable" if self.images else "updateLookup",
            "max_await_time_ms": AWAIT if until is None else DRAIN,
        }
        if self.images:
            options["full_document_before_change"] = "whenAvailable"
        if self.position["token"]:
            return {**options, "resume_after": bson.decode(bytes.fromhex(self.position["token"]))}
        # What happened at that very time is in the snapshot, which is read no earlier.
        begin = unstamp(self.position["at"])
        return {**options, "start_at_operation_time": Timestamp(begin.time, begin.inc + 1)}

    def _batches(self, stream: DatabaseChangeStream[Raw], until: Timestamp | None) -> Iterator[Batch | None]:
        pending = self._nothing()
        patience = time.monotonic() + self.server.timeout
        while True:
            with self.server.talking("follow changes"):
                event = stream.try_next()
            if event is None:
                came = bool(pending.tables)
                if came:
                    yield self._landing(pending)
                    pending = self._nothing()
                self._moved(stream.resume_token)
                beat = self._heartbeat()
                if beat is not None:
                    yield beat
                if until is not None and (self._reached(until) or time.monotonic() > patience):
                    return
                if beat is None and not came:
                    yield None
                continue
            patience = time.monotonic() + self.server.timeout
            at = stamp(event["clusterTime"])
            if until is not None and at > stamp(until):
                if pending.tables:
                    yield self._landing(pending)
                return
            if pending.tables and at != pending.at and pending.size >= self.batch_bytes:
                yield self._landing(pending)
                pending = self._nothing()
            if event["operationType"] in ENDS:
                if not self._ends(event, at):
                    continue
                if pending.tables:
                    yield self._landing(pending)
                raise self._ended(event)
            pending.ordinal = pending.ordinal + 1 if at == pending.at else 1
            pending.at, pending.token = at, bson.encode(event["_id"]).hex()
            self._take(event, pending)

    def _nothing(self) -> Pending:
        place = self.position
        return Pending(place["at"], place["ordinal"], place["token"])

    def _landing(self, pending: Pending) -> Batch:
        """The batch of what is pending; the position is that of its end from here on."""
        self.position |= {"at": pending.at, "ordinal": pending.ordinal, "token": pending.token}
        self.position["seen"] = pending.at
        return Batch(pending.files(), dict(self.position))

    def _moved(self, token: Mapping[str, Any] | None) -> None:
        """Remembers how far the server has looked, though nothing came."""
        if token is not None and (told := _time_of(token)) is not None:
            self.looked = (stamp(told), bson.encode(token).hex())

    def _reached(self, until: Timestamp) -> bool:
        return not self.looked[0] or self.looked[0] >= stamp(until)

    def _heartbeat(self) -> Batch | None:
        """A batch without data where the token has grown old, although nothing came."""
        at, token = self.looked
        if not at or unstamp(at).time - unstamp(self.position["seen"]).time < HEARTBEAT:
            return None
        self.position |= {"token": token, "seen": at}
        return Batch([], dict(self.position))

    # Events

    def _take(self, event: Raw, pending: Pending) -> None:
        name, kind = str(event["ns"]["coll"]), str(event["operationType"])
        op = OPS.get(kind)
        if op is None:
            raise SystemFault(
                f"source {self.server.name}: a change of type `{kind}` in {name}, which is not known",
                hint="update Headrace; until then the stream stays where it is",
            )
        sequence = f"{self.position['restart']:04d}-{pending.at}-{pending.ordinal:08d}"
        _, lines = pending.tables.setdefault(name, (sequence, Lines(name)))
        after, before = event.get("fullDocument"), event.get("fullDocumentBeforeChange")
        parts = [f'"sequence":"{sequence}","committed":"{_committed(event)}"'.encode()]
        if (session := event.get("lsid")) is not None:
            parts.append(f'"tx":"{bytes(session["id"]).hex()}:{event["txnNumber"]}"'.encode())
        parts.append(b'"key":' + document(event["documentKey"].raw))
        if after is not None:
            parts.append(b'"after":' + lines.told(after.raw))
        elif kind == "update":
            op = self._unknown(name)
            parts.append(b'"update":' + document(event["updateDescription"].raw))
        elif op != "d":
            raise SystemFault(f"source {self.server.name}: {kind} in {name} came without its document")
        if before is not None:
            parts.append(b'"before":' + lines.told(before.raw))
        lines.add(f'{{"op":"{op}",'.encode() + b",".join(parts) + b"}\n")

    def _unknown(self, name: str) -> str:
        """An update whose document is gone: its delete follows. With images, it is lost."""
        if self.images:
            raise Gap(
                f"source {self.server.name}: the document of an update in {name} was not kept long enough",
                hint=f"raise `resnapshot: {{{name}: …}}` by one to read the collection again, and keep "
                "images longer (changeStreamOptions.preAndPostImages.expireAfterSeconds)",
            )
        return "m"

    def _ends(self, event: Raw, at: str) -> bool:
        """Whether this is the end of a collection that is read, and not of one before it."""
        states = self.position["collections"]
        told = [str(event[part]["coll"]) for part in ("ns", "to") if "coll" in (event.get(part) or {})]
        watched = [name for name in told if name in states] if told else list(states)
        return any(at > states[name]["at"] for name in watched)

    def _ended(self, event: Raw) -> Gap:
        kind = str(event["operationType"])
        space = event.get("ns") or {}
        what = f"{space.get('db', self.server.database)}.{space.get('coll', '*')}"
        to = f" to {event['to']['coll']}" if event.get("to") else ""
        name = str((event.get("to") or space).get("coll", "")) or "<collection>"
        hint = (
            f"what came before has landed. If {name} is there again, raise `resnapshot: {{{name}: …}}` by "
            "one: it is read anew and what is not in it is deleted; otherwise take it out of `collections`"
        )
        if kind in ("dropDatabase", "invalidate"):
            hint = "what came before has landed. If the database is there again, raise `restart` by one"
        return Gap(
            f"source {self.server.name}: {kind} of {what}{to} ends the stream of its changes", hint=hint
        )


def _committed(event: Raw) -> str:
    told = event.get("wallTime")
    ms = int(told) if isinstance(told, DatetimeMS) else event["clusterTime"].time * 1000
    at = datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def _time_of(token: Mapping[str, Any]) -> Timestamp | None:
    """The cluster time in a token: after a byte 0x82, big endian. None for tokens of another make."""
    data = token.get("_data")
    if not isinstance(data, str) or not data.startswith("82") or len(data) < 18:
        return None
    try:
        return unstamp(data[2:18])
    except ValueError:
        return None


def started(now: Timestamp, restart: int, states: Mapping[str, Any]) -> dict[str, Any]:
    """The position of a stream that begins now."""
    return {
        "restart": restart, "at": stamp(now), "seen": stamp(now), "ordinal": 0, "token": "",
        "collections": dict(states),
    }  # fmt: skip


def truncation(name: str, sequence: str, restart: int) -> RawFile:
    """The delete of every row that is older than a snapshot that was taken again."""
    lines = Lines(name)
    place = f"{restart:04d}-{sequence}"
    lines.add(json.dumps({"op": "t", "sequence": place}).encode() + b"\n")
    return lines.file(f"{name}/{place}-before.jsonl")
