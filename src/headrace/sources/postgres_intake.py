"""What a replication slot has: raw messages, table by table, in batches that end where a transaction ends.

A transaction comes whole or not at all: what has come of an open one lies in spools without names, so memory
stays bounded and nothing is left of a killed process. A batch's end is the end of a commit record: the server
skips what commits below it, so a reader that starts there misses nothing and sees nothing twice.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..core import RawFile
from ..errors import SystemFault
from .pgoutput_file import MAGIC, MOST_BYTES, MOST_MESSAGES, Blocks
from .pgoutput_stream import KEEPALIVE, RELATION, TRUNCATE, Place, Received, Share, ends, others, shares
from .postgres_server import Spool
from .postgres_tables import Table
from .raw import known

BATCH_BYTES = 128 << 20
OBJECT_BYTES = 256 << 20
LATEST = 1.0
"""Seconds after which, while following, a batch ends with the next transaction, however busy it is."""
Cut = tuple[list[RawFile], int]
"""Objects, and the LSN after them. Without objects nothing of ours changed, but the position can move."""


@dataclass(slots=True)
class Target:
    """What has come of one table since the last batch: full objects, and one that grows."""

    table: Table
    form: Mapping[str, Any]
    blocks: Blocks = field(default_factory=Blocks)
    spool: Spool | None = None
    name: str = ""
    done: list[RawFile] = field(default_factory=list)

    def add(self, share: Share) -> None:
        if not self.name:
            self.call(share.runs[0][0], share.ordinals[0])
        self.blocks.extend(share.messages, share.lengths, share.ordinals, share.runs)

    def call(self, begun: int, ordinal: int) -> None:
        """An object is called by its first change: no other has the same."""
        self.name = self.name or f"{self.table.full}/{begun:016X}-{ordinal:010d}"


@dataclass(slots=True)
class Intake:
    """Takes in what a slot has from LSN `at` on, of `tables` by oid.

    `types` names PostgreSQL's types by oid, for the objects' formats.
    """

    tables: Mapping[int, Table]
    at: int
    types: Callable[[Sequence[int]], Mapping[int, str]]
    place: Place = field(default_factory=Place)
    reached: int = 0
    """Everything before this LSN has come."""
    began: float = 0.0
    """When the first change since the last batch came; 0 if there is none."""
    _targets: dict[int, Target | None] = field(default_factory=dict)
    _size: int = 0
    """Bytes in spools since the last batch."""
    _held: int = 0
    _count: int = 0
    """Bytes and messages that are in no spool yet."""

    def take(self, found: Received, *, follow: bool = False) -> Iterator[Cut | bytes]:
        """Takes in messages; yields a batch whenever one is full, and every keepalive in its place."""
        at = 0
        for other in (*others(found), len(found.kind)):
            while at < other:
                at = self._rows(found, at, other, follow=follow)
                if self.place.open is None and self._full(follow):
                    yield self.cut(self.place.end)
            if other == len(found.kind):
                return
            at = other + 1
            kind, message = int(found.kind[other]), found[other]
            if kind == KEEPALIVE:
                yield message
            elif kind == RELATION:
                self._relation(message)
            elif kind == TRUNCATE:
                self.place = replace(self.place, ordinal=self.place.ordinal + 2)
                self._truncate(message)

    def close(self) -> None:
        """Gives back what is in spools."""
        for target in self._targets.values():
            if target is not None and target.spool is not None:
                target.spool.file.close()
                target.spool = None

    def _rows(self, found: Received, first: int, stop: int, *, follow: bool) -> int:
        """Takes in row changes, up to `stop` or to the end of a transaction where a batch may be full."""
        if self._full(follow, found.size(first, stop)):
            stop = ends(found, first, stop)
        came, self.place = shares(found, first, stop, self.place, self.at)
        for share in came:
            target = self._targets.get(share.oid)
            if target is not None:
                target.add(share)
                self._took(len(share.messages), len(share.lengths))
        return stop

    def _took(self, size: int, count: int) -> None:
        self._held += size
        self._count += count
        self.began = self.began or time.monotonic()
        if self._held > MOST_BYTES or self._count >= MOST_MESSAGES:
            self._settle()

    def _full(self, follow: bool, more: int = 0) -> bool:
        late = follow and self.began and time.monotonic() - self.began > LATEST
        return bool(late) or self._size + self._held + more > BATCH_BYTES

    def _truncate(self, message: bytes) -> None:
        assert self.place.open is not None
        if self.place.open[0] < self.at:
            return
        for oid in _truncated(message):
            target = self._targets.get(oid)
            if target is not None:
                run = (*self.place.open, 1)
                place = array("I", [self.place.ordinal])
                target.add(Share(oid, message, array("I", [len(message)]), place, [run]))
                self._took(len(message), 1)

    def cut(self, end: int) -> Cut:
        """Everything that has come, as objects; only between transactions."""
        files: list[RawFile] = []
        for target in sorted(filter(None, self._targets.values()), key=lambda target: target.table.full):
            self._roll(target)
            files += target.done
            target.done = []
        self._size = self._held = self._count = 0
        self.began = 0.0
        self.at = end
        return files, end

    def _settle(self) -> None:
        """Writes the blocks of all tables to their spools; the transaction may still be open."""
        self._held = self._count = 0
        for target in filter(None, self._targets.values()):
            self._write(target)
            if target.spool is not None and target.spool.file.tell() > OBJECT_BYTES:
                self._roll(target)

    def _write(self, target: Target) -> None:
        count = len(target.blocks)
        block = target.blocks.take()
        if not block:
            return
        if target.spool is None:
            target.spool = Spool()
            target.spool.file.write(MAGIC)
        target.spool.file.write(block)
        target.spool.rows += count
        self._size += len(block)

    def _roll(self, target: Target) -> None:
        """The object that grew is full: what comes next is another."""
        self._write(target)
        if target.spool is None:
            return
        spool, target.spool = target.spool, None
        spool.size = spool.file.tell()
        form = {"type": "pgoutput", "changes": True, "rows": spool.rows, "relation": target.form}
        form["keys"] = [column["name"] for column in target.form["columns"]]  # what a table may evolve by
        file = known(target.name, spool.open, form, target.table.shown)
        target.done.append(replace(file, size=spool.size))
        target.name = ""

    def _relation(self, message: bytes) -> None:
        """A table is described, or described anew: then what follows is another object."""
        form = relation(message)
        key = form["oid"]
        table = self.tables.get(form["oid"])
        if table is None:
            self._targets[key] = None
            return
        columns = form["columns"]
        names = self.types([column["type_oid"] for column in columns])
        for column in columns:
            column["type"] = names.get(column["type_oid"])
        present = {column["name"] for column in columns}
        if form["identity"] == "f":
            form["keys"] = list(table.primary) if present.issuperset(table.primary) else []
        else:
            form["keys"] = [column["name"] for column in columns if column["key"]]
        old = self._targets.get(key)
        if old is not None:
            if old.form == form:
                return
            self._roll(old)
        if old is None:
            self._targets[key] = Target(table, form)
        else:
            old.form = form
            old.table = table


def relation(message: bytes) -> dict[str, Any]:
    """What a Relation message says, as JSON; `type` of columns and `keys` are not in it."""
    try:
        oid = struct.unpack_from(">I", message, 1)[0]
        schema, at = _text(message, 5)
        table, at = _text(message, at)
        identity = chr(message[at])
        count = struct.unpack_from(">H", message, at + 1)[0]
        at += 3
        columns = []
        for _ in range(count):
            flags = message[at]
            name, at = _text(message, at + 1)
            type_oid, modifier = struct.unpack_from(">Ii", message, at)
            at += 8
            columns.append(
                {
                    "name": name,
                    "type_oid": type_oid,
                    "modifier": modifier,
                    "key": bool(flags & 1),
                    "type": None,
                }
            )
    except (struct.error, IndexError, ValueError):
        raise SystemFault("the server sent a description of a table that cannot be read") from None
    return {"oid": oid, "schema": schema, "table": table, "identity": identity, "columns": columns}


def _text(message: bytes, at: int) -> tuple[str, int]:
    end = message.index(b"\0", at)
    return message[at:end].decode(), end + 1


def _truncated(message: bytes | memoryview) -> list[int]:
    count = struct.unpack_from(">I", message, 1)[0]
    return [struct.unpack_from(">I", message, 6 + 4 * place)[0] for place in range(count)]
