"""The stream of changes: raw messages, table by table, in batches that end where a transaction ends.

A transaction comes whole or not at all: what has come of an open one lies in spools without names, so memory
stays bounded and nothing is left of a killed process. An LSN is confirmed on the line after the batch that
ends there has been yielded, which is when it is durable. A batch's end is the end of a commit record: the
server skips what commits below it, so a reader that starts there misses nothing and sees nothing twice.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import pq

from ..core import RawFile
from ..errors import SystemFault, TransientError
from .pgoutput_file import MAGIC, MOST_BYTES, MOST_MESSAGES, Blocks
from .postgres_server import Connection, Server, Spool, ident, literal, lsn_text, wait
from .postgres_tables import Table
from .raw import known

BATCH_BYTES = 128 << 20
OBJECT_BYTES = 256 << 20
LATEST = 1.0
"""Seconds after which, while following, a batch ends with the next transaction, however busy it is."""
SEGMENT = 16 << 20
"""WAL is recycled by segments: moving the position by less than one would free nothing."""

_INSERT, _UPDATE, _DELETE, _TRUNCATE, _BEGIN, _COMMIT, _RELATION = b"IUDTBCR"
_XLOG, _KEEPALIVE = b"wk"
_HEAD = 25
"""Bytes before the message: type, two LSNs, the server's clock."""
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
    fresh: bool = True
    """Nothing of the transaction that is being read."""
    add: Callable[[bytes | memoryview], None] = field(init=False)
    number: Callable[[int], None] = field(init=False)
    """Appends to the block; looked up once, since they are called for every message."""

    def __post_init__(self) -> None:
        self.add, self.number = self.blocks.messages.append, self.blocks.ordinals.append


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
    _targets: dict[bytes, Target | None] = field(default_factory=dict)
    _lookup: Mapping[bytes, Target | None] = field(default_factory=dict)
    """`_targets`, or nothing while a transaction passes that has landed."""
    _touched: list[Target] = field(default_factory=list)
    _open: tuple[int, int, int] | None = None
    """Commit LSN, commit time and id of the transaction that is being read."""
    _ours: int = 0
    """The end of the last transaction that was read."""
    _size: int = 0
    """Bytes in spools since the last batch."""
    _touched_since: bool = False
    _began: float = 0.0

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
        pgconn = self.con.pgconn
        get = pgconn.get_copy_data
        ordinal = held = count = 0
        while True:
            size, data = get(1)
            if size > 0:
                kind = data[_HEAD] if data[0] == _XLOG else _KEEPALIVE
                if kind in (_INSERT, _UPDATE, _DELETE):
                    ordinal += 2
                    target = self._lookup.get(bytes(data[26:30]))
                    if target is not None:
                        if target.fresh:
                            self._touch(target)
                        target.add(data[_HEAD:])
                        target.number(ordinal)
                        held += size
                        count += 1
                        if held > MOST_BYTES or count >= MOST_MESSAGES:
                            self._settle()
                            held = count = 0
                    continue
                if kind == _BEGIN:
                    ordinal = 0
                    self._begin(data)
                elif kind == _COMMIT:
                    self._commit(data)
                    late = until is None and count and time.monotonic() - self._began > LATEST
                    if late or self._size + held > BATCH_BYTES:
                        yield self._cut(self._ours)
                        held = count = 0
                elif kind == _RELATION:
                    self._relation(bytes(data[_HEAD:]))
                elif kind == _TRUNCATE:
                    ordinal += 2
                    count += self._truncate(data[_HEAD:], ordinal)
                elif kind == _KEEPALIVE:
                    read = int.from_bytes(data[1:9], "big")
                    if data[17]:
                        self._tell()
                    if self._open is None and (read - self.at >= SEGMENT if until is None else read >= until):
                        yield self._cut(max(read, self._ours, self.at))
                        held = count = 0
                        if until is not None:
                            return
            elif size < 0:
                result = pgconn.get_result()
                if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                    raise psycopg.errors.error_from_result(result)
                raise TransientError(f"source {self.server.name}: the server ended the stream of changes")
            elif until is not None and self._ours >= until and self._open is None:
                yield self._cut(self._ours)
                return
            elif not wait(pgconn, idle):
                self._tell(ask=True)
                if until is None and self._open is None:
                    yield self._cut(self._ours) if self._size + held + count else None
                    held = count = 0

    def _begin(self, data: bytes | memoryview) -> None:
        begun, committed, xid = struct.unpack_from(">QqI", data, _HEAD + 1)
        self._open = (begun, committed, xid)
        self._lookup = self._targets if begun >= self.at else {}
        if not self._touched_since:
            self._began = time.monotonic()

    def _touch(self, target: Target) -> None:
        target.fresh = False
        self._touched.append(target)
        self._touched_since = True

    def _commit(self, data: bytes | memoryview) -> None:
        self._close()
        for target in self._touched:
            target.fresh = True
        self._touched.clear()
        self._open = None
        self._ours = max(self._ours, struct.unpack_from(">Q", data, _HEAD + 10)[0])

    def _close(self) -> None:
        """All messages that have come since the last call are of the transaction that is open."""
        if self._open is not None:
            for target in self._touched:
                target.blocks.close(*self._open)
                if not target.name and target.blocks.messages:
                    # An object is called by its first change: no other has the same.
                    begun, first = self._open[0], target.blocks.ordinals[0]
                    target.name = f"{target.table.full}/{begun:016X}-{first:010d}"

    def _truncate(self, message: bytes | memoryview, ordinal: int) -> int:
        found = [target for oid in _truncated(message) if (target := self._lookup.get(oid)) is not None]
        for target in found:
            if target.fresh:
                self._touch(target)
            target.add(message)
            target.number(ordinal)
        return len(found)

    def _cut(self, end: int) -> tuple[list[RawFile], int]:
        """Everything that has come, as objects; only between transactions."""
        files: list[RawFile] = []
        for target in sorted(filter(None, self._targets.values()), key=lambda target: target.table.full):
            self._roll(target)
            files += target.done
            target.done = []
        self._size = 0
        self._touched_since = False
        self.at = end
        return files, end

    def _settle(self) -> None:
        """Writes the blocks of all tables to their spools; the transaction may still be open."""
        self._close()
        for target in filter(None, self._targets.values()):
            self._write(target)
            if target.spool is not None and target.spool.file.tell() > OBJECT_BYTES:
                self._roll(target)

    def _write(self, target: Target) -> None:
        count = len(target.blocks.messages)
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
        target.done.append(RawFile(file.name, spool.size, *_rest(file)))
        target.name = ""

    def _relation(self, message: bytes) -> None:
        """A table is described, or described anew: then what follows is another object."""
        form = relation(message)
        key = message[1:5]
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
            self._close()
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


def _truncated(message: bytes | memoryview) -> list[bytes]:
    count = struct.unpack_from(">I", message, 1)[0]
    return [bytes(message[6 + 4 * place : 10 + 4 * place]) for place in range(count)]


def _rest(file: RawFile) -> tuple[Any, ...]:
    return file.open, file.verify, file.inspector, file.signature, file.table
