"""MongoDB: the documents of collections, and then every change of them, from the server's change stream.

The position is one for all collections: the resume token behind which changes go on, and for each collection
how far its first snapshot got. The stream's beginning is noted before a snapshot; a document is read as it is
at some moment after that, and every later change of it comes and wins.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from bson import Timestamp
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pymongo import MongoClient
from pymongo.client_session import ClientSession

from ..core import Batch, Position, Reading
from ..errors import ConfigError, Gap
from .mongo_full import read_full, read_watermark
from .mongo_server import Collection, Server, stamp
from .mongo_snapshot import Lines, Reader, id_of
from .mongo_stream import Stream, started, truncation


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class MongoDB(BaseModel):
    """Each document and each change of it lands once, in the order of the changes, with no value altered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["mongodb"] = "mongodb"
    name: str
    root: Path = Path()
    dsn: str = Field(repr=False, min_length=1)
    """`mongodb://user:password@host1,host2/database?replicaSet=rs0`, by reference: ${MONGO_DSN}."""
    collections: Annotated[list[str], BeforeValidator(_listed)]
    """Names or patterns: `orders`, `events_*`. A table reads one with `from: source.name`."""
    mode: Literal["cdc", "snapshot", "watermark"] = "cdc"
    """Changes; all documents every time; documents with a greater `watermark`."""
    watermark: str | dict[str, str] = ""
    """A field that only grows when a document is written, for all collections or by collection."""
    overlap: float = Field(0, ge=0)
    """How far below the last value documents are read again: seconds for dates, else a number."""
    images: bool = False
    """Documents as they were before and after each change; the server must keep them."""
    empty: Literal["refuse", "accept"] = "refuse"
    """Mode snapshot: a collection that had documents and has none now."""
    min_ratio: float = Field(0.1, ge=0, le=1)
    """Mode snapshot: a collection of over 100 documents that shrinks below this part is refused as well."""
    resnapshot: dict[str, int] = Field(default_factory=dict)
    """Raise a collection's number to have it read again while its changes go on."""
    restart: int = Field(0, ge=0, le=9999)
    """Raise it to accept that changes were lost: they begin anew, and all collections are read again."""
    chunk_mb: float = Field(16, gt=0)
    """Of a snapshot, and of the stream: what lands at once, or is read again after a kill."""
    session_minutes: float = Field(30.0, gt=0)
    """How long a snapshot goes on before changes are read again, so that the oplog does not run away."""
    timeout: float = Field(60.0, gt=0)
    """Seconds for an answer of the server."""

    @field_validator("collections")
    @classmethod
    def _some(cls, value: list[str]) -> list[str]:
        if not value or not all(part.strip() for part in value):
            raise ValueError("name at least one collection, such as orders or events_*")
        return value

    @model_validator(mode="after")
    def _fits(self) -> MongoDB:
        if self.mode == "watermark" and not self.watermark:
            raise ValueError("mode `watermark` needs `watermark: field`, such as updated_at")
        if self.mode != "watermark" and (self.watermark or self.overlap):
            raise ValueError("`watermark` and `overlap` are for `mode: watermark`")
        if self.mode != "cdc" and (self.restart or self.resnapshot or self.images):
            raise ValueError("`images`, `restart` and `resnapshot` are for `mode: cdc`")
        return self

    @property
    def changes(self) -> bool:
        """Whether rows are changes, with deletes."""
        return self.mode == "cdc"

    def streams(self) -> Sequence[str]:
        """One stream: the database as far as it is read has one position."""
        return [self.name]

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        """Yields what is new since `start` up to now; following, goes on, with `None` when idle.

        Raises `Gap` where the server no longer has what comes next, or a collection is another one;
        `ConfigError` with what to run where something must be set up; `TransientError` for lost connections.
        """
        if stream != self.name:
            raise ConfigError(f"source {self.name} has no stream {stream}", hint=f"its stream is {self.name}")
        server = Server(self.dsn, self.name, self.timeout)
        with server.connected() as client, client.start_session(causal_consistency=True) as session:
            if self.mode == "cdc":
                yield from self._cdc(server, client, session, start, ctx)
                return
            reader = {"snapshot": read_full, "watermark": read_watermark}[self.mode]
            position = start
            while True:
                found = server.collections(client, self.collections)
                documents = Reader(server, server.raw(client), session)
                came = False
                for batch in reader(self, documents, list(found), position, ctx):
                    came, position = True, batch.end
                    yield batch
                if not ctx.follow:
                    return
                if not came:
                    yield None

    # Changes

    def _cdc(
        self, server: Server, client: MongoClient[Any], session: ClientSession, start: Position | None,
        ctx: Reading,
    ) -> Iterator[Batch | None]:  # fmt: skip
        now = server.now(client, session)
        found = server.collections(client, self.collections)
        self._able(found)
        position = self._opened(dict(copy.deepcopy(start or {})), found, now)
        reader = Reader(server, server.raw(client), session)
        if not start:
            yield Batch([], position)
        self._stream(reader, position).check()
        while True:
            for batch in self._snapshot(reader, position):
                position = dict(batch.end)
                yield batch
            more = any(not state["done"] for state in position["collections"].values())
            stream = self._stream(reader, position)
            yield from stream.drain(None if ctx.follow and not more else server.now(client, session))
            position = stream.position
            if not more:
                return

    def _stream(self, reader: Reader, position: dict[str, Any]) -> Stream:
        size = int(self.chunk_mb * (1 << 20))
        return Stream(reader.server, reader.database, position, size, self.images)

    def _able(self, found: Mapping[str, Collection]) -> None:
        """Raises `ConfigError` for what no change stream can follow."""
        for each in found.values():
            if each.kind != "collection":
                raise ConfigError(
                    f"source {self.name}: {each.name} is a {each.kind}, which has no changes",
                    hint="follow the collections that it is made of, or read it with `mode: snapshot`",
                )
            if self.images and not each.images:
                command = f"{{collMod: '{each.name}', changeStreamPreAndPostImages: {{enabled: true}}}}"
                raise ConfigError(
                    f"source {self.name}: `images`: the server keeps none of {each.name}",
                    hint=f"db.runCommand({command}) (MongoDB 6.0 or later)",
                )
        for name in self.resnapshot:
            if name not in found:
                raise ConfigError(
                    f"source {self.name}: resnapshot: `{name}` is none of the collections",
                    hint=f"they are {', '.join(sorted(found))}",
                )

    def _opened(
        self, position: dict[str, Any], found: Mapping[str, Collection], now: Timestamp
    ) -> dict[str, Any]:
        """The position with a state for each collection; those that are to be read begin here."""
        if position and position["restart"] >= self.restart:
            if stamp(now) < position["at"]:
                raise Gap(
                    f"source {self.name}: the server is at {stamp(now)}, behind {position['at']}",
                    hint="it is another server or was restored: point `dsn` at the one that was read, or "
                    "raise `restart` by one to read every collection again from this one",
                )
            old = position["collections"]
        else:
            # Of what lay there before, all that is not found again is to go.
            again = {n: {**state, "done": False} for n, state in position.get("collections", {}).items()}
            position, old = started(now, self.restart, {}), again
        states: dict[str, Any] = {}
        for name, each in found.items():
            state, wanted = old.get(name), self.resnapshot.get(name, 0)
            fresh = state is None or position["restart"] != state["restart"] or state["again"] < wanted
            if state is not None and not fresh and state["uuid"] != each.uuid:
                raise Gap(
                    f"source {self.name}: {name} is another collection than the one that was read (it was "
                    "dropped or replaced, or this is another server)",
                    hint=f"raise `resnapshot: {{{name}: …}}` by one: it is read anew, and what is not in it "
                    "is deleted",
                )
            if state is None or fresh:
                state = {
                    "uuid": each.uuid, "again": wanted, "restart": position["restart"], "at": stamp(now),
                    "done": False, "after": "", "rest": state is not None,
                }  # fmt: skip
            states[name] = state
        return {**position, "collections": states}

    def _snapshot(self, reader: Reader, position: dict[str, Any]) -> Iterator[Batch]:
        """Chunks of collections that have not been read yet, until all are or the time is over."""
        until = time.monotonic() + self.session_minutes * 60
        for name, state in position["collections"].items():
            if state["done"]:
                continue
            for batch in self._chunks(reader, name, position):
                position = dict(batch.end)
                yield batch
                if time.monotonic() > until:
                    return

    def _chunks(self, reader: Reader, name: str, position: dict[str, Any]) -> Iterator[Batch]:
        state = position["collections"][name]
        sequence = f"{state['restart']:04d}-{state['at']}-{0:08d}"

        def landing(lines: Lines, **change: Any) -> Batch:
            nonlocal state
            start = hashlib.sha256(state["after"].encode()).hexdigest()[:20] if state["after"] else "begin"
            state = {**state, **change}
            end = {**position, "collections": {**position["collections"], name: state}}
            files = [lines.file(f"{name}/{sequence}.{state['again']}-{start}.jsonl")] if lines.parts else []
            if state["done"] and state["rest"]:
                files.append(truncation(name, state["at"], state["restart"]))
            return Batch(files, end)

        lines, last = Lines(name), b""
        for raw in reader.documents(name, bytes.fromhex(state["after"]) or None):
            if lines.size >= self.chunk_mb * (1 << 20):
                yield landing(lines, after=id_of(last).hex())
                lines = Lines(name)
            lines.read(raw, sequence)
            last = raw
        yield landing(lines, done=True, after="")
