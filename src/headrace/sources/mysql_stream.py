"""From the binlog's events to batches of whole transactions, table by table, and the position as it grows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from ..core import Batch
from ..errors import ConfigError, DataError, Gap, SystemFault
from .binlog import DELETE, MAGIC, TRUNCATED, UPDATE, WRITE, write
from .binlog_payload import flat
from .binlog_stream import (
    ANONYMOUS,
    FORMAT,
    GTID,
    MARIADB_GTID,
    PARTIAL_UPDATE,
    QUERY,
    QUERY_COMPRESSED,
    ROTATE,
    TABLE_MAP,
    TAGGED_GTID,
    XA_PREPARE,
    XID,
    Event,
    begins_branch,
    branch_of,
    dump,
    gtid_of,
    number,
    rows_of,
    statement,
    truncated,
    xa,
)
from .binlog_values import table_map
from .mysql_position import ANEW, At
from .mysql_server import Column, Server
from .raw import known, spooled

SHOWN = ("uuid", "inet4", "inet6")
"""MariaDB's types that the binlog carries as bytes."""
PATIENCE = 600
"""Seconds for which a prepared transaction (XA) may hold back what comes after it."""
MOST_MAPS = 1000


@dataclass
class _Object:
    """Events of one table under one description of it, as they will lie in bronze."""

    form: Mapping[str, Any]
    name: str
    out: BinaryIO
    whole: int = len(MAGIC)
    """So many bytes of it are of whole transactions."""
    committed: int = len(MAGIC)
    """So many of these may land: they are not behind one that is still in doubt."""


@dataclass(frozen=True, slots=True)
class _Change:
    """One event of a followed table."""

    table: str
    described: str
    kind: int
    body: bytes
    event: Event


@dataclass(slots=True)
class _Prepared:
    """A transaction in two phases (XA) between them."""

    seconds: int
    changes: list[_Change] = field(default_factory=list)


@dataclass
class Stream:
    """From events to batches of whole transactions."""

    server: Server
    placed: Mapping[str, tuple[str, str]]
    """Table, as the pipeline names it → (schema, name)."""
    found: Mapping[str, list[Column]]
    at: At
    batch_bytes: int
    mariadb: bool
    open: dict[str, _Object] = field(default_factory=dict)
    """Table → what is being written of it."""
    full: list[tuple[str, _Object]] = field(default_factory=list)
    maps: dict[int, tuple[str, str]] = field(default_factory=dict)
    """The server's table id → (table, its map as hex), for tables that are followed."""
    read: dict[bytes, tuple[str, str] | None] = field(default_factory=dict)
    """Table maps that came before, and what they were."""
    size: int = 0
    charsets: dict[str, str] = field(default_factory=dict)
    gtid: str = ""
    seconds: int = 0
    """Of the transaction that is being read."""
    inside: bool = False
    """A transaction has begun and not ended."""
    branch: _Prepared | None = None
    """What is being read is the first phase of one in two phases."""
    prepared: dict[str, _Prepared] = field(default_factory=dict)
    behind: list[str] = field(default_factory=list)
    """Ids of transactions whose end is not yet the position."""

    def drain(self) -> Iterator[Batch]:
        """Everything up to where the binlog ends now."""
        con = self.server.connect()
        at = self.at
        self.charsets = self.server.charsets(con, mariadb=self.mariadb)
        try:
            for event in flat(dump(con, at.file, at.pos, gtids=None if at.file else at.gtid)):
                if event.kind in (MARIADB_GTID, GTID, ANONYMOUS, TAGGED_GTID):
                    self._begun(event)
                elif event.kind == TABLE_MAP:
                    self._described(event)
                elif event.kind in WRITE + UPDATE + DELETE:
                    self._changed(event)
                elif event.kind in (QUERY, QUERY_COMPRESSED):
                    yield from self._said(event)
                elif event.kind == XID:
                    yield from self._committed(event)
                elif event.kind == XA_PREPARE:
                    yield from self._prepare(event)
                elif event.kind == PARTIAL_UPDATE:
                    self._partial(event)
                elif event.kind == FORMAT and self.inside:
                    self._discard()  # the server crashed while it wrote this transaction
                elif event.kind == ROTATE and at.file and not self.inside and not self.prepared:
                    at.file, at.pos = event.file, event.end
            if self.inside:
                self._discard()
            yield from self._flushed()
            self._overdue()
        finally:
            con.close()

    def _begun(self, event: Event) -> None:
        self.gtid, alone = gtid_of(event)
        self.seconds, self.inside = event.seconds, event.kind == MARIADB_GTID and not alone
        if begins_branch(event):
            self.branch = _Prepared(event.seconds)
        if event.kind in (ANONYMOUS, TAGGED_GTID):
            self.at.gtid.forget()

    def _said(self, event: Event) -> Iterator[Batch]:
        """A statement: it begins or ends a transaction, or is one by itself."""
        schema, sql = statement(event)
        word = sql.strip().upper()
        phase, named = xa(sql)
        followed = self.followed
        if name := followed.get(truncated(schema, sql) or ("", "")):
            self._truncated(event, name)
        elif lost := rows_of(schema, sql, list(followed)):
            raise Gap(
                f"source {self.server.name}: changes of `{lost}` before {event.file}:{event.end} were "
                "written as a statement, not as rows",
                hint=f"set `binlog_format = ROW` for every session; {ANEW}",
            )
        if word == "BEGIN":
            self.inside = True
        elif phase == "START":
            self.inside, self.branch = True, _Prepared(self.seconds or event.seconds)
        elif phase in ("COMMIT", "ROLLBACK"):
            yield from self._resolved(event, phase, named)
        elif not self.inside or word in ("COMMIT", "ROLLBACK"):
            yield from self._committed(event)

    def _prepare(self, event: Event) -> Iterator[Batch]:
        """The end of the first phase, or of both at once."""
        branch, self.branch = self.branch or _Prepared(event.seconds), None
        if event.body[0]:
            for change in branch.changes:
                self._written(change, (number(event.file), event.start))
        else:
            self.prepared[branch_of(event)] = branch
        yield from self._committed(event)

    def _resolved(self, event: Event, phase: str, named: str) -> Iterator[Batch]:
        """The second phase: the changes come where they were committed, not where they were prepared."""
        branch = self.prepared.pop(named, None)
        if branch is None and phase == "COMMIT":
            raise Gap(
                f"source {self.server.name}: the transaction (XA) that was committed at "
                f"{event.file}:{event.start} had been prepared before reading began",
                hint=ANEW,
            )
        for change in branch.changes if branch and phase == "COMMIT" else ():
            self._written(change, (number(event.file), event.start))
        yield from self._committed(event)

    def _overdue(self) -> None:
        """Raises `SystemFault` where a prepared transaction holds back everything for long."""
        for named, branch in self.prepared.items():
            if time.time() - branch.seconds > PATIENCE:
                raise SystemFault(
                    f"source {self.server.name}: the transaction (XA) {named} was prepared "
                    f"{int(time.time() - branch.seconds)} seconds ago; what was committed since has to wait",
                    hint=f"XA COMMIT {named}, or XA ROLLBACK {named}",
                )

    def _committed(self, event: Event) -> Iterator[Batch]:
        self.inside = False
        if self.gtid:
            self.behind.append(self.gtid)
        for each in self._objects():
            each.whole = each.out.tell()
        if self.prepared:
            return
        for gtid in self.behind:
            self.at.gtid.add(gtid)
        self.behind.clear()
        self.at.file, self.at.pos = event.file, event.end
        for each in self._objects():
            each.committed = each.whole
        if self.size >= self.batch_bytes:
            yield from self._flushed()

    def _objects(self) -> Iterator[_Object]:
        yield from (each for _, each in self.full)
        yield from self.open.values()

    def _discard(self) -> None:
        """Takes back the events of a transaction that did not end: its next reader gets it whole."""
        self.inside, self.branch = False, None
        for each in self._objects():
            each.out.seek(each.whole)
            each.out.truncate()

    def _flushed(self) -> Iterator[Batch]:
        """What was collected, at the end of the newest transaction."""
        for each in self._objects():
            each.out.truncate(each.committed)
        files = [
            known(each.name, spooled(each.out), each.form, table=table)
            for table, each in [*self.full, *self.open.items()]
            if each.committed > len(MAGIC)
        ]
        self.full, self.open, self.size = [], {}, 0
        yield Batch(files, self.at.position)

    @property
    def followed(self) -> Mapping[tuple[str, str], str]:
        return {placed: table for table, placed in self.placed.items()}

    def _described(self, event: Event) -> None:
        """Tables are described anew in every transaction, mostly in the same words."""
        table = int.from_bytes(event.body[:6], "little")
        if event.body not in self.read:
            if len(self.read) >= MOST_MAPS:
                self.read.clear()
            self.read[event.body] = self._parsed(event)
        if found := self.read[event.body]:
            self.maps[table] = found
        else:
            self.maps.pop(table, None)

    def _parsed(self, event: Event) -> tuple[str, str] | None:
        described = table_map(event.body, self.charsets, mariadb=self.mariadb)
        name = self.followed.get((described.schema, described.table))
        if name is None:
            return None
        if not described.named:
            raise ConfigError(
                f"source {self.server.name}: changes of `{name}` at {event.file}:{event.start} were written "
                "without the names of the columns",
                hint=f"SET GLOBAL binlog_row_metadata = FULL; {ANEW}",
            )
        return name, event.body.hex()

    def _partial(self, event: Event) -> None:
        if known_map := self.maps.get(int.from_bytes(event.body[:6], "little")):
            raise ConfigError(
                f"source {self.server.name}: an update of `{known_map[0]}` at {event.file}:{event.start} "
                "tells only the parts of JSON values that changed (`binlog_row_value_options`)",
                hint=f"SET GLOBAL binlog_row_value_options = ''; {ANEW}",
            )

    def _object(self, table: str, described: str, event: Event) -> _Object:
        """Where events of a table go; a table that has changed gets a new object."""
        old = self.open.get(table)
        shape = described[12:]  # without the server's number of the table
        if old and old.form["table_map"][12:] == shape:
            return old
        if old:
            self.full.append((table, self.open.pop(table)))
        told = table_map(bytes.fromhex(described), self.charsets, mariadb=self.mariadb)
        form = {
            "type": "binlog",
            "changes": True,
            "mariadb": self.mariadb,
            "generation": self.at.generation,
            "table_map": described,
            "charsets": self.charsets,
            "keys": [each.name for each in told.fields],
            "shown": {
                column.name: column.kind if column.kind in SHOWN else column.charset
                for column in self.found[table]
                if column.kind in SHOWN or column.charset
            },
        }
        name = f"{table}/{self.at.generation:04d}-{number(event.file):08d}-{event.start:012d}"
        out: BinaryIO = cast(BinaryIO, tempfile.SpooledTemporaryFile(self.batch_bytes))  # noqa: SIM115
        out.write(MAGIC)
        self.open[table] = _Object(form, name, out)
        return self.open[table]

    def _changed(self, event: Event) -> None:
        known_map = self.maps.get(int.from_bytes(event.body[:6], "little"))
        if known_map is None:
            return
        change = _Change(*known_map, event.kind, event.body, event)
        if self.branch is not None:
            self.branch.changes.append(change)
        else:
            self._written(change, (number(event.file), event.end))

    def _truncated(self, event: Event, table: str) -> None:
        at = self.open.get(table)
        described = at.form["table_map"] if at else None
        described = described or next((text for name, text in self.maps.values() if name == table), None)
        described = described or _empty_map(self.placed[table], self.found[table])
        change = _Change(table, described, TRUNCATED, b"", event)
        self._written(change, (number(event.file), event.end))

    def _written(self, change: _Change, place: tuple[int, int]) -> None:
        """`place` in the binlog (file, end) is what orders the change among others."""
        to = self._object(change.table, change.described, change.event)
        write(to.out, change.kind, change.body, place, self.gtid, self.seconds or change.event.seconds)
        self.size += len(change.body)


def _empty_map(placed: tuple[str, str], columns: Sequence[Column]) -> str:
    """A table map that only names the columns: enough to say that all rows are gone."""
    schema, table = (name.encode() for name in placed)
    names = b"".join(bytes([len(c.name.encode())]) + c.name.encode() for c in columns)
    if len(columns) > 250 or len(names) > 250:
        raise DataError(f"table `{placed[1]}` is too wide to be described")
    body = bytes(8) + bytes([len(schema)]) + schema + b"\0" + bytes([len(table)]) + table + b"\0"
    body += bytes([len(columns)]) + bytes([3]) * len(columns) + b"\0" + bytes((len(columns) + 7) // 8)
    return (body + bytes([4, len(names)]) + names).hex()
