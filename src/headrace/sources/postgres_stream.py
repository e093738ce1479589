"""The stream of changes: raw messages, table by table, in batches that end where a transaction ends.

A transaction comes whole or not at all: what has come of an open one lies in spools without names, so memory
stays bounded and nothing is left of a killed process. An LSN is confirmed on the line after the batch that
ends there has been yielded, which is when it is durable. A batch's end is the end of a commit record: the
server skips what commits below it, so a reader that starts there misses nothing and sees nothing twice.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import pq

from ..core import RawFile
from ..errors import SystemFault, TransientError
from .pgoutput_file import MAGIC, MOST_BYTES, MOST_MESSAGES, Blocks
from .pgoutput_stream import (
    HEAD,
    KEEPALIVE,
    RELATION,
    TRUNCATE,
    Place,
    Received,
    Share,
    ends,
    others,
    received,
    shares,
)
from .postgres_server import Connection, Server, Spool, come, ident, literal, lsn_text, wait
from .postgres_slot import SEGMENT
from .postgres_tables import Table
from .raw import known

BATCH_BYTES = 128 << 20
OBJECT_BYTES = 256 << 20
LATEST = 1.0
"""Seconds after which, while following, a batch ends with the next transaction, however busy it is."""
ROUND = 1 << 20
GATHER = 0.05
NAP = 0.002
"""So many bytes are taken in together, or what comes in so many seconds, with naps between."""
_size, _data = itemgetter(0), itemgetter(1)
_EPOCH = 946_684_800.0


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
class Changes:
    """Reads one slot from `at` on. `types` names PostgreSQL's types by oid, for the objects' formats."""

    server: Server
    slot: str
    publication: str
    tables: Mapping[int, Table]
    at: int
    types: Callable[[Sequence[int]], Mapping[int, str]]
    con: Connection | None = None
    confirmed: int = 0
    reached: int = 0
    """Everything before this LSN has come."""
    _targets: dict[int, Target | None] = field(default_factory=dict)
    _place: Place = field(default_factory=Place)
    _size: int = 0
    """Bytes in spools since the last batch."""
    _held: int = 0
    _count: int = 0
    """Bytes and messages that are in no spool yet."""
    _ended: bool = False
    _began: float = 0.0
    """When the first change since the last batch came; 0 if there is none."""

    def start(self) -> None:
        """Starts the stream; waits some seconds for a predecessor that the server believes alive."""
        deadline = time.monotonic() + min(self.server.timeout, 20.0)
        con = self.server.connect(replication=True)
        try:
            command = (
                f"START_REPLICATION SLOT {ident(self.slot)} LOGICAL {lsn_text(self.at)} "
                f"(proto_version '1', publication_names {literal(ident(self.publication))})"
            )
            while True:
                result = con.pgconn.exec_(command.encode())
                if result.status == pq.ExecStatus.COPY_BOTH:
                    break
                error = psycopg.errors.error_from_result(result)
                if error.sqlstate != "55006" or time.monotonic() > deadline:
                    hint = "is another run of this pipeline at work?" if error.sqlstate == "55006" else None
                    raise self.server.explain(error, f"read slot {self.slot}", hint)
                time.sleep(0.2)
        except BaseException:
            con.close()
            raise
        con.pgconn.nonblocking = 1
        self.con, self.confirmed = con, self.at
        with self.server.talking(f"read slot {self.slot}"):
            self._tell(ask=True)

    def confirm(self, at: int) -> None:
        """Tells the server that everything before LSN `at` is durable here."""
        self.confirmed = max(self.confirmed, at)
        with self.server.talking("confirm"):
            self._tell()

    def batches(self, until: int | None, idle: float) -> Iterator[tuple[list[RawFile], int] | None]:
        """Objects and the LSN after them, until everything before LSN `until` has come; None when idle.

        Without `until` for ever: what has come is handed out when nothing came for `idle` seconds. An item
        may be without objects: nothing of ours changed, but the position can move. The caller confirms.
        """
        assert self.con is not None
        try:
            with self.server.talking(f"read slot {self.slot}"):
                yield from self._batches(until, idle)
        finally:
            for target in self._targets.values():
                if target is not None and target.spool is not None:
                    target.spool.file.close()
                    target.spool = None

    def _batches(self, until: int | None, idle: float) -> Iterator[tuple[list[RawFile], int] | None]:
        assert self.con is not None
        while True:
            if until is not None and self._place.end >= until and self._place.open is None:
                yield self._cut(self._place.end)
                return
            found, at = self._received(self.con.pgconn, idle), 0
            if found is None:
                self._tell(ask=True)
                if until is None and self._place.open is None:
                    yield self._cut(self._place.end) if self._began else None
                continue
            for other in (*others(found), len(found.kind)):
                while at < other:
                    at = self._rows(found, at, other, follow=until is None)
                    if self._place.open is None and self._full(until is None):
                        yield self._cut(self._place.end)
                if other == len(found.kind):
                    break
                at = other + 1
                read = self._other(found.kind[other], found[other])
                if self._place.open is not None:
                    continue
                self.reached = max(self.reached, read, self._place.end)
                if read - self.at >= SEGMENT if until is None else read >= until:
                    yield self._cut(max(read, self._place.end, self.at))
                    if until is not None:
                        return

    def _received(self, pgconn: Any, idle: float) -> Received | None:
        """What has come, at least something; None if nothing came for `idle` seconds.

        The server sends each message by itself: who is woken for each does little else.
        """
        pieces, lengths, size, until = [], array("I"), 0, 0.0
        while not self._ended and size < ROUND:
            # Nothing is kept of single messages: the interpreter would look for cycles among them.
            if came := come(pgconn):
                self._ended = came[-1][0] < 0
                pieces.append(b"".join(map(_data, came)))
                size += len(pieces[-1])
                lengths.extend(map(_size, came[:-1] if self._ended else came))
                until = until or time.monotonic() + GATHER
            del came
            if self._ended or wait(pgconn, 0 if lengths else idle):
                continue
            if not lengths:
                return None
            if time.monotonic() > until:
                break
            time.sleep(NAP)
        if lengths:
            return received(b"".join(pieces), lengths)
        result = pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
        raise TransientError(f"source {self.server.name}: the server ended the stream of changes")

    def _rows(self, found: Received, first: int, stop: int, *, follow: bool) -> int:
        """Takes in row changes, up to `stop` or to the end of a transaction where a batch may be full."""
        if self._full(follow, found.size(first, stop)):
            stop = ends(found, first, stop)
        came, self._place = shares(found, first, stop, self._place, self.at)
        for share in came:
            target = self._targets.get(share.oid)
            if target is not None:
                target.add(share)
                self._took(len(share.messages), len(share.lengths))
        return stop

    def _took(self, size: int, count: int) -> None:
        self._held += size
        self._count += count
        self._began = self._began or time.monotonic()
        if self._held > MOST_BYTES or self._count >= MOST_MESSAGES:
            self._settle()

    def _full(self, follow: bool, more: int = 0) -> bool:
        late = follow and self._began and time.monotonic() - self._began > LATEST
        return bool(late) or self._size + self._held + more > BATCH_BYTES

    def _other(self, kind: int, message: bytes) -> int:
        """Takes in any other message; how far the server has read, if it says so, else -1."""
        if kind == RELATION:
            self._relation(message[HEAD:])
        elif kind == TRUNCATE:
            self._place = replace(self._place, ordinal=self._place.ordinal + 2)
            self._truncate(message[HEAD:])
        elif kind == KEEPALIVE:
            if message[17]:
                self._tell()
            return int.from_bytes(message[1:9], "big")
        return -1

    def _truncate(self, message: bytes) -> None:
        assert self._place.open is not None
        if self._place.open[0] < self.at:
            return
        for oid in _truncated(message):
            target = self._targets.get(oid)
            if target is not None:
                run = (*self._place.open, 1)
                place = array("I", [self._place.ordinal])
                target.add(Share(oid, message, array("I", [len(message)]), place, [run]))
                self._took(len(message), 1)

    def _cut(self, end: int) -> tuple[list[RawFile], int]:
        """Everything that has come, as objects; only between transactions."""
        files: list[RawFile] = []
        for target in sorted(filter(None, self._targets.values()), key=lambda target: target.table.full):
            self._roll(target)
            files += target.done
            target.done = []
        self._size = self._held = self._count = 0
        self._began = 0.0
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

    def _tell(self, *, ask: bool = False) -> None:
        """Standby status: received and durable up to `confirmed`; `ask` how far the server has read."""
        if self.con is None or self.con.closed:
            return
        clock = int((time.time() - _EPOCH) * 1_000_000)
        status = struct.pack(">cQQQqB", b"r", self.confirmed, self.confirmed, self.confirmed, clock, ask)
        pgconn = self.con.pgconn
        pgconn.put_copy_data(status)
        while pgconn.flush():
            wait(pgconn, 1.0)

    def close(self) -> None:
        """Ends the stream so that the server has taken in the last confirmation, or just closes it."""
        con, self.con = self.con, None
        if con is None:
            return
        with closing(con):
            try:
                con.pgconn.put_copy_end()
                until = time.monotonic() + 5.0
                con.pgconn.flush()
                while time.monotonic() < until:
                    size, _ = con.pgconn.get_copy_data(1)
                    if size < 0:
                        break
                    if size == 0:
                        wait(con.pgconn, 0.5)
            except psycopg.Error:
                pass  # the connection was lost: what is durable here is confirmed by the next run


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
