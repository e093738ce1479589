"""From the binlog's events to batches of whole transactions, table by table, and the position as it grows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from ..core import Batch, Position
from ..errors import ConfigError, DataError, Gap
from .binlog import DELETE, MAGIC, TRUNCATED, UPDATE, WRITE, write
from .binlog_stream import (
    ANONYMOUS,
    FORMAT,
    GTID,
    MARIADB_GTID,
    PAYLOAD,
    QUERY,
    QUERY_COMPRESSED,
    ROTATE,
    TABLE_MAP,
    XID,
    Event,
    dump,
    gtid_of,
    number,
    statement,
    truncated,
)
from .binlog_values import table_map
from .mysql_server import Column, Server
from .mysql_snapshot import here
from .raw import known, spooled

SHOWN = ("uuid", "inet4", "inet6")
"""MariaDB's types that the binlog carries as bytes."""


@dataclass
class At:
    """The position, as it grows."""

    server: str
    generation: int
    file: str
    pos: int
    gtid: dict[str, str]
    """MariaDB: replication domain → the newest transaction of it."""
    tables: dict[str, dict[str, Any]]

    @property
    def position(self) -> Position:
        return {
            "server": self.server,
            "generation": self.generation,
            "file": self.file,
            "pos": self.pos,
            "gtid": ",".join(self.gtid.values()),
            "tables": {name: dict(state) for name, state in self.tables.items()},
        }

    @classmethod
    def of(cls, start: Position | None, server: Server, con: Any, *, mariadb: bool) -> At:
        """Where to go on; on another server than before only if both count transactions alike (GTID)."""
        identity = "@@server_id" if mariadb else "@@server_uuid"
        me = str(server.rows(con, f"SELECT {identity}")[0][0])
        if start is None:
            place = here(server, con, mariadb=mariadb)
            return cls(me, 0, place.file, place.position, _domains(place.gtid), {})
        at = cls(
            start["server"],
            start["generation"],
            start["file"],
            start["pos"],
            _domains(start["gtid"]),
            {name: dict(state) for name, state in start["tables"].items()},
        )
        if me == at.server:
            return at
        if not at.gtid:
            raise Gap(
                f"source {server.name}: this is server {me}; changes were read from server {at.server} up to "
                f"{at.file}:{at.pos}, a place that only that one knows",
                hint="go back to that server, or take the tables in anew: `id: <a new name>` in the source",
            )
        at.server, at.generation, at.file, at.pos = me, at.generation + 1, "", 0
        return at


def _domains(gtid: str) -> dict[str, str]:
    return {each.partition("-")[0]: each for each in gtid.split(",") if each}


@dataclass
class _Object:
    """Events of one table under one description of it, as they will lie in bronze."""

    form: Mapping[str, Any]
    name: str
    out: BinaryIO
    committed: int = len(MAGIC)
    """So many bytes of it are of whole transactions."""


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
    size: int = 0
    charsets: dict[str, str] = field(default_factory=dict)

    def drain(self) -> Iterator[Batch]:
        """Everything up to where the binlog ends now."""
        con = self.server.connect()
        at = self.at
        followed = {placed: table for table, placed in self.placed.items()}
        gtid, seconds, inside = "", 0, False
        self.charsets = self.server.charsets(con, mariadb=self.mariadb)
        try:
            start = ",".join(at.gtid.values()) if not at.file else ""
            for event in dump(con, at.file, at.pos, gtid=start):
                if event.kind in (MARIADB_GTID, GTID, ANONYMOUS):
                    gtid, alone = gtid_of(event)
                    seconds, inside = event.seconds, event.kind == MARIADB_GTID and not alone
                elif event.kind == PAYLOAD:
                    raise ConfigError(
                        f"source {self.server.name}: the binlog has compressed transactions",
                        hint="SET GLOBAL binlog_transaction_compression = OFF",
                    )
                elif event.kind == TABLE_MAP:
                    self._described(event, followed)
                elif event.kind in WRITE + UPDATE + DELETE:
                    self._changed(event, gtid, seconds)
                elif event.kind in (QUERY, QUERY_COMPRESSED):
                    schema, sql = statement(event)
                    word = sql.strip().upper()
                    if name := followed.get(truncated(schema, sql) or ("", "")):
                        self._truncated(event, name, gtid, seconds)
                    if word == "BEGIN":
                        inside = True
                    elif not inside or word in ("COMMIT", "ROLLBACK"):
                        yield from self._committed(event, gtid)
                        inside = False
                elif event.kind == XID:
                    yield from self._committed(event, gtid)
                    inside = False
                elif event.kind == FORMAT and inside:
                    self._discard()  # the server crashed while it wrote this transaction
                    inside = False
                elif event.kind == ROTATE and at.file and not inside:
                    at.file, at.pos = event.file, event.end
            if inside:
                self._discard()
            yield from self._flushed()
        finally:
            con.close()

    def _committed(self, event: Event, gtid: str) -> Iterator[Batch]:
        self.at.file, self.at.pos = event.file, event.end
        if gtid and self.mariadb:
            self.at.gtid |= _domains(gtid)
        for each in self._objects():
            each.committed = each.out.tell()
        if self.size >= self.batch_bytes:
            yield from self._flushed()

    def _objects(self) -> Iterator[_Object]:
        yield from (each for _, each in self.full)
        yield from self.open.values()

    def _discard(self) -> None:
        """Takes back the events of a transaction that did not end: its next reader gets it whole."""
        for each in self._objects():
            each.out.seek(each.committed)
            each.out.truncate()

    def _flushed(self) -> Iterator[Batch]:
        """What was collected, at the end of the newest transaction."""
        files = [
            known(each.name, spooled(each.out), each.form, table=table)
            for table, each in [*self.full, *self.open.items()]
            if each.committed > len(MAGIC)
        ]
        self.full, self.open, self.size = [], {}, 0
        yield Batch(files, self.at.position)

    def _described(self, event: Event, followed: Mapping[tuple[str, str], str]) -> None:
        described = table_map(event.body, self.charsets, mariadb=self.mariadb)
        name = followed.get((described.schema, described.table))
        if name is None:
            self.maps.pop(described.id, None)
            return
        if not described.named:
            raise ConfigError(
                f"source {self.server.name}: changes of `{name}` at {event.file}:{event.start} were written "
                "without the names of the columns",
                hint="SET GLOBAL binlog_row_metadata = FULL, then take the table in anew with `resnapshot`",
            )
        self.maps[described.id] = (name, event.body.hex())

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

    def _changed(self, event: Event, gtid: str, seconds: int) -> None:
        known_map = self.maps.get(int.from_bytes(event.body[:6], "little"))
        if known_map is None:
            return
        table, described = known_map
        self._written(self._object(table, described, event), event.kind, event.body, event, (gtid, seconds))

    def _truncated(self, event: Event, table: str, gtid: str, seconds: int) -> None:
        at = self.open.get(table)
        if at is None:
            described = next((text for name, text in self.maps.values() if name == table), None)
            described = described or _empty_map(self.placed[table], self.found[table])
            at = self._object(table, described, event)
        self._written(at, TRUNCATED, b"", event, (gtid, seconds))

    def _written(
        self, to: _Object, kind: int, body: bytes, event: Event, transaction: tuple[str, int]
    ) -> None:
        gtid, seconds = transaction
        write(to.out, kind, body, (number(event.file), event.end), gtid, seconds or event.seconds)
        self.size += len(body)


def _empty_map(placed: tuple[str, str], columns: Sequence[Column]) -> str:
    """A table map that only names the columns: enough to say that all rows are gone."""
    schema, table = (name.encode() for name in placed)
    names = b"".join(bytes([len(c.name.encode())]) + c.name.encode() for c in columns)
    if len(columns) > 250 or len(names) > 250:
        raise DataError(f"table `{placed[1]}` is too wide to be described")
    body = bytes(8) + bytes([len(schema)]) + schema + b"\0" + bytes([len(table)]) + table + b"\0"
    body += bytes([len(columns)]) + bytes([3]) * len(columns) + b"\0" + bytes((len(columns) + 7) // 8)
    return (body + bytes([4, len(names)]) + names).hex()
