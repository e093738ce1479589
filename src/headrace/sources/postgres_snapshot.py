"""Tables as they are: read in chunks by several connections that all see the same moment.

Chunks are ranges of blocks (`ctid`), which need no key and no index, and are read in the order of the disk.

Why a snapshot and a stream of changes meet exactly. CREATE_REPLICATION_SLOT … EXPORT_SNAPSHOT builds its
snapshot out of the WAL: it shows the transactions whose commit record begins before the slot's
`consistent_point`, and no others; the slot would stream exactly those others (SnapBuildXactNeedsSkip compares
the same two positions; PostgreSQL's own subscriptions copy tables by it). So rows of a chunk carry
`_sequence` = that point, ordinal 0: every change that they contain is of a transaction that commits below the
point, and every one that they lack commits at or above it, with an ordinal of at least 2. A later change wins
and an earlier one loses, whichever lands first. The main slot is older than every chunk, so each row that
changed or moved to another block since then is in the stream too; all others stand in the one chunk of their
block, under whichever snapshot that is read. Hence each session may have a snapshot of its own, and a table
may be read again while its changes go on.

Three things move rows without a change in the stream: VACUUM FULL, CLUSTER, and an ALTER TABLE that rewrites
(after which older snapshots even find the table empty). All give the table a new file. So its file is looked
up before the snapshot is made and again after a chunk was read, under the lock that the reading took: where
it differs, the chunk is thrown away, and the table is read from its first block.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

from ..core import RawFile
from ..drivers.postgres import Connection
from ..errors import ConfigError, TransientError
from .postgres_server import Server, Spool, ident, literal, lsn
from .postgres_slot import open_transaction
from .postgres_tables import Leaf, Table, leaves
from .raw import delimited

RANGES = 140000
"""From this version on a range of `ctid` reads only its blocks."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Blocks `start` to `stop` (exclusive; None: to the end) of one leaf of a table."""

    table: Table
    leaf: Leaf
    start: int
    stop: int | None
    file: int
    """The leaf's file on the server's disk when the chunk was planned."""
    last: bool = False
    """Of the whole table."""


@dataclass(slots=True)
class Readers:
    """Connections in transactions that all see snapshot `exported`; `copy` runs on the next free one."""

    server: Server
    exported: str
    parallel: int
    _free: SimpleQueue[Connection] = field(default_factory=SimpleQueue)
    _all: list[Connection] = field(default_factory=list)
    _pool: ThreadPoolExecutor | None = None

    def open(self) -> None:
        for _ in range(self.parallel):
            con = self.server.connect()
            self._all.append(con)
            with self.server.talking("begin a snapshot"):
                con.execute("begin isolation level repeatable read read only")
                con.execute(f"set transaction snapshot {literal(self.exported)}".encode())
            self._free.put(con)
        self._pool = ThreadPoolExecutor(self.parallel, "postgres-copy")

    def copy(self, query: str, oid: int) -> Future[tuple[Spool, int]]:
        """The bytes, and the file that relation `oid` had while they were read."""
        assert self._pool is not None
        return self._pool.submit(self._copy, query, oid)

    def _copy(self, query: str, oid: int) -> tuple[Spool, int]:
        con = self._free.get()
        try:
            spool = self.server.copy(con, query)
            try:
                file = self.server.rows(con, "select coalesce(pg_relation_filenode(%s), 0)::bigint", [oid])
            except BaseException:
                spool.file.close()
                raise
            return spool, int(file[0][0])
        finally:
            self._free.put(con)

    def look(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query that may take its time, as of the snapshot."""
        con = self._free.get()
        try:
            with self.server.talking("look"):
                return con.execute(query.encode(), values or None).fetchall()
        finally:
            self._free.put(con)

    def close(self) -> None:
        """Ends what still runs, and gives back every connection, thread and spool."""
        for con in self._all:
            if not con.closed and con.pgconn.transaction_status == 1:
                con.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for con in self._all:
            con.close()


@contextmanager
def shared_snapshot(server: Server, parallel: int) -> Iterator[Readers]:
    """Readers that see the moment of the call, and all the same one; there is no slot."""
    with server.connect() as holder:
        with server.talking("begin a snapshot"):
            holder.execute("begin isolation level repeatable read read only")
        exported = server.rows(holder, "select pg_export_snapshot()")[0][0]
        readers = Readers(server, exported, parallel)
        try:
            readers.open()
            yield readers
        finally:
            readers.close()


@contextmanager
def consistent_snapshot(server: Server, con: Connection, slot: str, parallel: int) -> Iterator[
    tuple[int, Readers]
]:  # fmt: skip
    """(consistent point, readers that see exactly what committed before it); its slot is gone at once."""
    readers = None
    name = f"{slot[:40]}_{uuid.uuid4().hex[:12]}"
    with server.connect(replication=True) as replication:
        command = f"CREATE_REPLICATION_SLOT {ident(name)} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"
        try:
            row = server.command(replication, command)[0]
        except TransientError as error:
            raise open_transaction(server, con, error) from None
        readers = Readers(server, str(row[2]), parallel)
        try:
            readers.open()
        except BaseException:
            readers.close()
            raise
    try:
        yield lsn(str(row[1])), readers
    finally:
        readers.close()


def plan(
    server: Server, con: Connection, table: Table, state: Mapping[str, Any], chunk_bytes: int
) -> list[Chunk]:
    """The chunks of `table` that are left, in order; from the first block if it has another file by now."""
    block = int(server.rows(con, "show block_size")[0][0])
    step = max(1, chunk_bytes // block)
    found: list[Chunk] = []
    for leaf in leaves(server, con, table):
        if leaf.oid < int(state.get("leaf", 0)):
            continue
        query = (
            "select coalesce(pg_relation_filenode(%s), 0)::bigint, coalesce(pg_relation_size(%s), 0)::bigint"
        )
        file, size = server.rows(con, query, [leaf.oid, leaf.oid])[0]
        same = leaf.oid == state.get("leaf") and file == state.get("file")
        start = int(state["block"]) if same else 0
        ranged = leaf.kind in "rm" and con.info.server_version >= RANGES
        starts = list(range(start, max(start + 1, size // block), step)) if ranged else [0]
        stops: list[int | None] = [*starts[1:], None]
        found += [Chunk(table, leaf, one, other, file) for one, other in zip(starts, stops, strict=True)]
    if not found:
        raise ConfigError(
            f"source {server.name}: {table.full} is partitioned and has no partition",
            hint=f"create one, or leave {table.full} out of `tables`",
        )
    return [*found[:-1], replace(found[-1], last=True)]


def next_place(chunk: Chunk, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a table of which `chunk` has been read; without any place when that was the last."""
    if chunk.last:
        passing = ("leaf", "file", "block", "first")
        return {**{key: value for key, value in state.items() if key not in passing}, "done": True}
    if chunk.stop is None:
        return {**state, "leaf": chunk.leaf.oid + 1, "file": 0, "block": 0}
    return {**state, "leaf": chunk.leaf.oid, "file": chunk.file, "block": chunk.stop}


def query_of(chunk: Chunk, extra: Mapping[str, str], columns: Sequence[str]) -> str:
    """The COPY of a chunk: `columns`, then constants `extra`."""
    wanted = [ident(name) for name in columns]
    wanted += [f"{literal(value)} AS {ident(name)}" for name, value in extra.items()]
    where = [f"({chunk.table.filter})"] if chunk.table.filter else []
    if chunk.start:
        where.append(f"ctid >= '({chunk.start},0)'::tid")
    if chunk.stop is not None:
        where.append(f"ctid < '({chunk.stop},0)'::tid")
    only = "ONLY " if chunk.leaf.kind in "rp" else ""
    rows = f"SELECT {', '.join(wanted)} FROM {only}{chunk.leaf.sql}"
    if where:
        rows += f" WHERE {' AND '.join(where)}"
    # NULL is nothing, and an empty text is quoted in any case; but alone in its line, nothing is no record.
    quoted = ", FORCE_QUOTE *" if len(wanted) == 1 else ""
    return f"COPY ({rows}) TO STDOUT (FORMAT csv, HEADER{quoted})"


def read_chunks(
    readers: Readers, chunks: Sequence[Chunk], query: Callable[[Chunk], str], until: float
) -> Generator[tuple[Chunk, Spool]]:
    """Chunks in their order, the next ones read meanwhile; ends early at `until` or where a file changed."""
    waiting: deque[tuple[Chunk, Future[tuple[Spool, int]]]] = deque()
    left = deque(chunks)
    try:
        while left or waiting:
            late = time.monotonic() > until
            while left and not late and len(waiting) <= readers.parallel:
                chunk = left.popleft()
                waiting.append((chunk, readers.copy(query(chunk), chunk.leaf.oid)))
            if not waiting:
                return
            chunk, future = waiting.popleft()
            spool, file = future.result()
            if file != chunk.file:
                spool.file.close()
                return
            yield chunk, spool
    finally:
        for _, future in waiting:
            if not future.cancel():
                future.add_done_callback(_dropped)


def snapshot_file(chunk: Chunk, spool: Spool, at: int) -> RawFile:
    """The object of a chunk whose rows are changes of kind `r` at LSN `at`."""
    name = f"{chunk.table.full}/snapshot-{at:016X}-{chunk.leaf.oid}-{chunk.start:010d}"
    return csv_file(name, spool, chunk.table.shown)


def csv_file(name: str, spool: Spool, table: str) -> RawFile:
    """Changes as COPY sent them, as a file of bronze."""
    more = {"nulls": "unquoted", "rows": spool.rows, "changes": True}
    return replace(delimited(name, spool.open, more=more, table=table), size=spool.size)


def gone_file(table: Table, at: int) -> RawFile:
    """One row: whatever is older than LSN `at` and was not read since is no longer there."""
    columns = [*table.replicated, "_op", "_sequence"]
    head = ",".join('"' + name.replace('"', '""') + '"' for name in columns)
    row = "," * len(table.replicated) + f'"t","{sequence(at)}"'
    more = {"nulls": "unquoted", "changes": True}
    return delimited(
        f"{table.full}/snapshot-{at:016X}-rest", f"{head}\n{row}\n".encode(), more=more, table=table.shown
    )


def sequence(at: int, ordinal: int = 0) -> str:
    """`_sequence`: its byte order is the order of changes.

    >>> sequence(97500059720, 2)
    '00000016B374D848/0000000002'
    """
    return f"{at:016X}/{ordinal:010d}"


def _dropped(future: Future[tuple[Spool, int]]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result()[0].file.close()
