"""PostgreSQL: tables and every change of them, from the log; or by snapshots, a watermark, triggers.

The position is one for all tables: the LSN before which all changes have landed, and for each table how far
its first snapshot got. See postgres_snapshot.py for why both meet exactly.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ..core import Batch, Position, RawFile, Reading
from ..drivers.postgres import Connection
from ..errors import ConfigError, Gap
from .postgres_full import read_full
from .postgres_lag import Lag, beat, due
from .postgres_server import Server, lsn, lsn_text
from .postgres_slot import (
    SEGMENT,
    check_publication,
    check_slot,
    check_tables,
    check_timeline,
    find_slot,
    make_slot,
)
from .postgres_snapshot import (
    consistent_snapshot,
    gone_file,
    next_place,
    plan,
    query_of,
    read_chunks,
    sequence,
    snapshot_file,
)
from .postgres_tables import Table, find_tables
from .postgres_trigger import read_trigger
from .postgres_watermark import read_watermark

TOGETHER = 200
"""Most small tables that land in one commit."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _seconds(value: Any) -> Any:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh])\s*", value) if isinstance(value, str) else None
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else value


class Postgres(BaseModel):
    """Each change of the tables lands once, in the order of its commit; with what was there before it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["postgres"] = "postgres"
    name: str
    root: Path = Path()
    dsn: str = Field(repr=False, min_length=1)
    """`postgresql://user:password@host:5432/database`, by reference: ${PG_DSN}."""
    tables: Annotated[list[str], BeforeValidator(_listed)]
    """Names or patterns: `orders` (in schema public), `sales.order_*`, `sales.*`."""
    mode: Literal["cdc", "snapshot", "watermark", "trigger"] = "cdc"
    """Changes from the log; all rows every time; rows with a greater `watermark`; changes by triggers."""
    slot: str = ""
    """Default: headrace_<name of the source>. One slot has one reader."""
    publication: str = ""
    """Default: that of the slot."""
    watermark: str | dict[str, str] = ""
    """A column that only grows when a row is written, for all tables or by table."""
    overlap: str | dict[str, str] = ""
    """How far below the last value rows are read again: `10 minutes`, or a number for a number."""
    empty: Literal["refuse", "accept"] = "refuse"
    """Mode snapshot: a table that had rows and has none now."""
    min_ratio: float = Field(0.1, ge=0, le=1)
    """Mode snapshot: a table of over 100 rows that shrinks below this part of them is refused as well."""
    heartbeat: Annotated[float, BeforeValidator(_seconds), Field(ge=0)] = 0.0
    """Mode cdc: write a mark into the log this often (`60s`), and move the slot to it, with or without
    changes; 0 never."""
    resnapshot: dict[str, int] = Field(default_factory=dict)
    """Raise a table's number to have it read again while its changes go on."""
    restart: int = Field(0, ge=0)
    """Raise it to accept that changes were lost: a new slot, and every table is read again."""
    parallel: int = Field(2, ge=1, le=32)
    """Connections that read a snapshot."""
    chunk_mb: int = Field(64, ge=1)
    """Size of a chunk of a snapshot, in the table's own blocks; what lands at once, or is read again."""
    session_minutes: float = Field(30.0, gt=0)
    """How long a snapshot is held before the next chunks get a new one, so that the server can clean up."""
    timeout: float = Field(60.0, gt=0)
    """Seconds for statements that look and prepare."""
    idle: float = Field(0.25, gt=0)
    """Seconds without a change after which what has come is landed, while following."""

    @field_validator("tables")
    @classmethod
    def _some(cls, value: list[str]) -> list[str]:
        if not value or not all(part.strip() for part in value):
            raise ValueError("name at least one table, such as orders or sales.*")
        return value

    @field_validator("slot", "publication")
    @classmethod
    def _plain(cls, value: str) -> str:
        if value and not re.fullmatch(r"[a-z0-9_]{1,63}", value):
            raise ValueError(f"`{value}`: lower case letters, digits and _, at most 63")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Postgres:
        if self.mode == "watermark" and not self.watermark:
            raise ValueError("mode `watermark` needs `watermark: column`, such as updated_at")
        if self.mode != "watermark" and (self.watermark or self.overlap):
            raise ValueError("`watermark` and `overlap` are for `mode: watermark`")
        if self.mode != "cdc" and (
            self.slot or self.publication or self.restart or self.resnapshot or self.heartbeat
        ):
            raise ValueError(
                "`slot`, `publication`, `restart`, `resnapshot` and `heartbeat` are for `mode: cdc`"
            )
        return self

    @property
    def changes(self) -> bool:
        """Whether rows are changes, with deletes."""
        return self.mode in ("cdc", "trigger")

    @property
    def slot_name(self) -> str:
        return self.slot or f"headrace_{re.sub(r'[^a-z0-9_]', '_', self.name.lower())}"[:63]

    @property
    def publication_name(self) -> str:
        return self.publication or self.slot_name

    def streams(self) -> Sequence[str]:
        """One stream: the database as far as it is read has one position."""
        return [self.name]

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        """Yields what is new since `start` up to now; following, goes on, with `None` when idle.

        Raises `Gap` where the server no longer has what comes next, `ConfigError` with the SQL to run where
        something must be set up by somebody with more rights, `TransientError` for lost connections.
        """
        if stream != self.name:
            raise ConfigError(f"source {self.name} has no stream {stream}", hint=f"its stream is {self.name}")
        server = Server(self.dsn, self.name, self.timeout)
        if self.mode == "cdc":
            yield from self._cdc(server, start, ctx)
            return
        reader = {"snapshot": read_full, "watermark": read_watermark, "trigger": read_trigger}[self.mode]
        position = start
        while True:
            came = False
            for batch in reader(self, server, position, ctx):
                came, position = True, batch.end
                yield batch
            if not ctx.follow:
                return
            if not came:
                yield None

    # The log

    def _cdc(self, server: Server, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        with closing(server.connect()) as con:
            tables, position = self._tables(server, con), dict(copy.deepcopy(start or {}))
            if not position or position.get("restart", 0) < self.restart:
                # What is about to be made is recorded first: then a slot of this name is ours.
                position = self._intent(server, con, position)
                yield Batch([], position)
            position = self._opened(server, con, position, tables)
            lag = Lag(server, self.slot_name, ctx)
            lag.begin(con)
            while True:
                pending = {full: t for full, t in tables.items() if not self._done(position, t)}
                if pending:
                    for batch in self._snapshot(server, con, position, pending):
                        position = dict(batch.end)
                        yield batch
                more = any(not self._done(position, t) for t in tables.values())
                for item in self._drain(server, con, position, tables, follow=ctx.follow and not more):
                    if item is not None:
                        position = dict(item.end)
                    yield item
                if not more:
                    break
            lag.end(con, int(position["lsn"], 16))

    def _tables(self, server: Server, con: Connection) -> dict[str, Table]:
        tables = find_tables(server, con, self.tables, "rp")
        check_tables(server, con, tables)
        for shown in self.resnapshot:
            if shown not in {table.shown for table in tables.values()}:
                raise ConfigError(
                    f"source {self.name}: resnapshot: `{shown}` is none of the tables",
                    hint=f"they are {', '.join(sorted(table.shown for table in tables.values()))}",
                )
        return check_publication(server, con, self.publication_name, tables)

    def _intent(self, server: Server, con: Connection, old: Mapping[str, Any]) -> dict[str, Any]:
        """The position that says: we are making the slot. Raises `ConfigError` if it is somebody else's."""
        slot = find_slot(server, con, self.slot_name)
        if slot is not None and not old:
            raise ConfigError(
                f"source {self.name}: replication slot {self.slot_name} exists, and is not of this lake",
                hint=f"if nobody reads it: SELECT pg_drop_replication_slot('{self.slot_name}'); "
                "otherwise give this source another name for its own: `slot: …`",
            )
        system, _, now = _system(server, con)
        if old and now < int(str(old.get("lsn") or "0"), 16):
            raise ConfigError(
                f"source {self.name}: the server's log is at {lsn_text(now)}, behind what has landed",
                hint="it is another server or was restored: land it under a new `id:`, into new tables",
            )
        states = {
            full: {"oid": state["oid"], "again": state["again"], "done": False, "rest": True}
            for full, state in dict(old.get("tables") or {}).items()
        }
        made = {"slot": self.slot_name, "made": False, "system": system, "restart": self.restart}
        return {**made, "lsn": str(old.get("lsn") or ""), "tables": states}

    def _opened(
        self, server: Server, con: Connection, position: dict[str, Any], tables: Mapping[str, Table]
    ) -> dict[str, Any]:
        """The position with a slot that has everything from it on, and a state for each table."""
        system, timeline, now = _system(server, con)
        if position["system"] != system:
            raise Gap(
                f"source {self.name}: this is another server (system {system}, not {position['system']})",
                hint="point `dsn` at the server that was read before; or raise `restart:` of this source by "
                "one, to read every table again from this one",
            )
        if position["slot"] != self.slot_name:
            raise ConfigError(
                f"source {self.name}: so far it was read from slot {position['slot']}, not {self.slot_name}",
                hint=f"set `slot: {position['slot']}`; to change slots, raise `restart:` by one as well",
            )
        slot = find_slot(server, con, self.slot_name)
        if not position["made"]:
            if slot is not None and (slot.wal_status == "lost" or position["lsn"]):
                server.rows(con, "select pg_drop_replication_slot(%s)", [self.slot_name])
                slot = None
            at = make_slot(server, con, self.slot_name) if slot is None else slot.confirmed
            position = {**position, "made": True, "lsn": f"{at:016X}", "timeline": timeline}
        else:
            at = int(position["lsn"], 16)
            check_slot(slot, self.slot_name, con.info.dbname, at)
            check_timeline(server, position["timeline"], timeline if now >= at else -1, at)
            position = {**position, "timeline": timeline}
        states = dict(position["tables"])
        for full, table in tables.items():
            state = states.get(full)
            if state is None or state["oid"] != table.oid or state["again"] < self._again(table):
                again = state is not None
                states[full] = {"oid": table.oid, "again": self._again(table), "done": False, "rest": again}
        return {**position, "tables": states}

    def _again(self, table: Table) -> int:
        return self.resnapshot.get(table.shown, 0)

    def _done(self, position: Mapping[str, Any], table: Table) -> bool:
        return bool(position["tables"][table.full]["done"])

    def _snapshot(
        self, server: Server, con: Connection, position: dict[str, Any], pending: Mapping[str, Table]
    ) -> Iterator[Batch]:
        """Chunks of `pending` under one snapshot, until all are read or the session is over."""
        states = position["tables"]
        chunks = [
            chunk
            for table in pending.values()
            for chunk in plan(server, con, table, states[table.full], self.chunk_mb << 20)
        ]
        until = time.monotonic() + self.session_minutes * 60
        with consistent_snapshot(server, con, self.slot_name, self.parallel) as (at, readers):
            extra = {"_op": "r", "_sequence": sequence(at)}
            reading = read_chunks(
                readers, chunks, lambda chunk: query_of(chunk, extra, chunk.table.replicated), until
            )
            files: list[RawFile] = []
            size = 0
            with closing(reading):
                for chunk, spool in reading:
                    table = chunk.table
                    before = {"first": f"{at:016X}", **states[table.full]}
                    state = next_place(chunk, before)
                    files.append(snapshot_file(chunk, spool, at))
                    if state["done"] and state.pop("rest", False):
                        files.append(gone_file(table, int(before["first"], 16)))
                    states = {**states, table.full: state}
                    position = {**position, "tables": states}
                    size += spool.size
                    if size >= self.chunk_mb << 19 or len(files) >= TOGETHER:
                        yield Batch(files, position)
                        files, size = [], 0
            if files:
                yield Batch(files, position)

    def _drain(
        self, server: Server, con: Connection, position: dict[str, Any], tables: Mapping[str, Table],
        *, follow: bool,
    ) -> Iterator[Batch | None]:  # fmt: skip
        """The log up to now, or on and on; an LSN is confirmed when what lies before it is durable."""
        from .postgres_backlog import Backlog  # with numpy, which only changes need
        from .postgres_intake import Intake
        from .postgres_stream import Stream

        at = int(position["lsn"], 16)
        if due(self.heartbeat, position):
            beat(server, con)
        now = _system(server, con)[-1]
        if not follow and now <= at:
            return
        by_oid = {table.oid: table for table in tables.values()}
        intake = Intake(by_oid, at, _types(server, con))
        stream = Stream(server, self.slot_name, self.publication_name, intake)
        changes = stream if follow else Backlog(stream, now)
        changes.start()
        with closing(changes):
            for item in changes.batches(self.idle):
                beats = due(self.heartbeat, position)
                if item is None and beats:
                    beat(server, con)
                    item = [], intake.reached
                    if intake.reached <= at:
                        position = {**position, "beat": time.time()}
                if item is None:
                    yield None
                    continue
                files, end = item
                if files or end - at >= SEGMENT or (beats and end > at):
                    at = end
                    position = {**position, "lsn": f"{end:016X}"}
                    position |= {"beat": time.time()} if beats else {}
                    yield Batch(files, position)
                    changes.confirm(end)


def _system(server: Server, con: Connection) -> tuple[str, int, int]:
    """The server's identity, its timeline, and how far its log is on disk."""
    system, timeline, now = server.rows(
        con,
        "select (select system_identifier::text from pg_control_system()), "
        "case when pg_is_in_recovery() then (select to_hex(timeline_id) from pg_control_checkpoint()) "
        "else left(pg_walfile_name(pg_current_wal_lsn()), 8) end, "
        "(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() "
        "else pg_current_wal_flush_lsn() end)::text",
    )[0]
    return str(system), int(timeline, 16), lsn(now)


def _types(server: Server, con: Connection) -> Callable[[Sequence[int]], Mapping[int, str]]:
    def names(oids: Sequence[int]) -> Mapping[int, str]:
        query = "select oid::bigint, format_type(oid, null) from pg_type where oid = any(%s::oid[])"
        return dict(server.rows(con, query, [list(oids)]))

    return names
