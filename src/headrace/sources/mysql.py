"""MySQL and MariaDB: tables as they are, then every change of them by the row binlog, commit by commit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from ..core import Batch, Position, RawFile, Reading
from ..errors import ConfigError, DataError, Gap
from .binlog import DELETE, MAGIC, TRUNCATED, UPDATE, WRITE, write
from .binlog_stream import (
    ANONYMOUS,
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
from .binlog_values import TableMap, table_map
from .inspect import Past
from .mysql_server import Column, Server, quoted
from .mysql_snapshot import begin, delimited_rows, here, key_of, rows
from .raw import delimited, known, pieces

SHOWN = ("uuid", "inet4", "inet6")
"""MariaDB's types that the binlog carries as bytes."""
NEEDED = {
    "log_bin": ("ON", "start the server with `log_bin`"),
    "binlog_format": ("ROW", "SET GLOBAL binlog_format = ROW"),
    "binlog_row_image": ("FULL", "SET GLOBAL binlog_row_image = FULL"),
    "binlog_row_metadata": ("FULL", "SET GLOBAL binlog_row_metadata = FULL"),
}


class MySQL(BaseModel):
    """Every row that the tables hold, and with `cdc` every change of them, lands once and in order.

    The server keeps the binlog; what is read of it is only ever behind what is durable in bronze. The user
    needs SELECT on the tables, REPLICATION SLAVE and REPLICATION CLIENT (MariaDB: BINLOG MONITOR), and on
    MySQL RELOAD for the instant in which a snapshot begins.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["mysql", "mariadb"] = "mysql"
    name: str
    root: Path
    dsn: str = Field(repr=False)
    """mysql://user:password@host:3306/database, by reference: ${MYSQL_DSN}."""
    tables: list[str] = Field(min_length=1)
    """Names; `schema.table` outside the DSN's database. A table reads one with `from: source.name`."""
    mode: Literal["cdc", "snapshot"] = "cdc"
    """`cdc`: the tables once, then their changes. `snapshot`: all rows anew in each run."""
    resnapshot: str = ""
    """Any text, such as today's date: where it is another than before, the tables are taken in anew."""
    chunk_rows: int = Field(50_000, ge=1)
    """Rows of a table that are read, and landed, at a time."""
    batch_bytes: int = Field(64 << 20, ge=1)
    """Of the binlog; a batch ends with the transaction that goes beyond it."""

    @property
    def changes(self) -> bool:
        return self.mode == "cdc"

    def streams(self) -> Sequence[str]:
        return [self.name]

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        """Drains what there is; positions are ends of transactions. Raises `Gap` where the binlog is gone."""
        assert stream == self.name
        server = Server(self.dsn, self.name)
        found: dict[str, list[Column]] = {}
        con = server.connect()
        try:
            for table in self.tables:
                found[table] = server.columns(con, *self._placed(server, table))
                if not found[table]:
                    schema, name = self._placed(server, table)
                    raise ConfigError(
                        f"source {self.name}: no table `{name}` in `{schema}`, or it may not be seen",
                        hint="correct `tables`, or GRANT SELECT on it to the source's user",
                    )
            if self.mode == "snapshot":
                yield from self._whole(server, con, found, ctx)
                return
            mariadb = "mariadb" in con.get_server_info().lower()
            self._able(server.variables(con, *NEEDED))
            at = _At.of(start, server, con, mariadb=mariadb)
        finally:
            con.close()
        if start is None:
            yield Batch([], at.position)
        yield from self._snapshots(server, found, at, mariadb=mariadb)
        yield from _Stream(self, server, found, at, mariadb).drain()

    def _placed(self, server: Server, table: str) -> tuple[str, str]:
        schema, dot, name = table.partition(".")
        return (schema, name) if dot else (server.database, table)

    def _able(self, settings: Mapping[str, str]) -> None:
        for name, (wanted, cure) in NEEDED.items():
            if settings.get(name, "").upper() != wanted:
                told = settings.get(name, "unknown to this server")
                raise ConfigError(
                    f"source {self.name}: changes need `{name}` = {wanted}; the server has {told}", hint=cure
                )

    def _whole(
        self, server: Server, con: Any, found: Mapping[str, list[Column]], ctx: Reading
    ) -> Iterator[Batch]:
        """All rows of each table as a new version of what landed before; no rows where there were some is
        refused."""
        with server.talking("begin a snapshot"):
            con.query("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        for table, columns in found.items():
            named = quoted_table(self._placed(server, table))
            header = [column.name for column in columns]

            def content(
                header: list[str] = header, columns: list[Column] = columns, named: str = named
            ) -> BinaryIO:
                return pieces(delimited_rows(_headed(header, rows(server, con, named, columns, ((), None)))))

            name = f"{table}.csv"
            more = {"nulls": "unquoted"}
            yield Batch([delimited(name, content, more=more, table=table, past=Past(ctx.seen(name)))], {})

    def _snapshots(
        self, server: Server, found: Mapping[str, list[Column]], at: _At, *, mariadb: bool
    ) -> Iterator[Batch]:
        """The rows of tables that have not been taken in under the present `resnapshot`, chunk by chunk."""
        for table, columns in found.items():
            state = at.tables.get(table, {})
            if state.get("done") == self.resnapshot:
                continue
            after = state.get("after") if state.get("taking") == self.resnapshot else None
            key = [column.name for column in key_of(columns)]
            con = server.connect()
            try:
                place = begin(server, con, mariadb=mariadb)
                while True:
                    chunk = _Chunk(self, server, con, columns, quoted_table(self._placed(server, table)))
                    file, last, count = chunk.read(table, place.sequence(at.generation), after)
                    done = not key or count < self.chunk_rows
                    after = last
                    at.tables[table] = (
                        {"done": self.resnapshot} if done else {"taking": self.resnapshot, "after": after}
                    )
                    yield Batch([file], at.position)
                    if done:
                        break
            finally:
                con.close()


@dataclass
class _At:
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
    def of(cls, start: Position | None, server: Server, con: Any, *, mariadb: bool) -> _At:
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
class _Chunk:
    source: MySQL
    server: Server
    con: Any
    columns: Sequence[Column]
    named: str

    def read(
        self, table: str, sequence: str, after: Sequence[str | None] | None
    ) -> tuple[RawFile, list[str | None], int]:
        """(the next rows after a key as a file, the last key in it, how many rows)."""
        names = [column.name for column in self.columns]
        key = [names.index(column.name) for column in key_of(self.columns)]
        spool: BinaryIO = cast(BinaryIO, tempfile.SpooledTemporaryFile(self.source.batch_bytes))  # noqa: SIM115
        last: list[str | None] = list(after or ())
        count = 0

        def told() -> Iterator[Sequence[str | None]]:
            nonlocal last, count
            limit = self.source.chunk_rows if key else None
            for row in rows(self.server, self.con, self.named, self.columns, (after or (), limit)):
                count += 1
                last = [row[place] for place in key]
                yield [*row, "r", sequence]

        for piece in delimited_rows(_headed([*names, "_op", "_sequence"], told())):
            spool.write(piece)
        name = f"{table}/{sequence.replace('/', '-')}-{'-'.join(str(v) for v in after or ('begin',))}.csv"
        more = {"nulls": "unquoted", "changes": True}
        return delimited(name, _again(spool), more=more, table=table), last, count


def _headed(names: Sequence[str], found: Iterator[Sequence[str | None]]) -> Iterator[Sequence[str | None]]:
    yield names
    yield from found


def _again(spool: BinaryIO) -> Any:
    def opened() -> BinaryIO:
        spool.seek(0)
        return spool

    return opened


def quoted_table(placed: tuple[str, str]) -> str:
    return ".".join(quoted(name) for name in placed)


@dataclass
class _Object:
    """Events of one table under one description of it, as they will lie in bronze."""

    described: TableMap
    form: Mapping[str, Any]
    name: str
    out: BinaryIO


@dataclass
class _Stream:
    """From events to batches of whole transactions."""

    source: MySQL
    server: Server
    found: Mapping[str, list[Column]]
    at: _At
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
        followed = {self.source._placed(self.server, table): table for table in self.found}
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
                        f"source {self.source.name}: the binlog has compressed transactions",
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
                elif event.kind == ROTATE and at.file and not inside:
                    at.file, at.pos = event.file, event.end
            yield from self._flushed()
        finally:
            con.close()

    def _committed(self, event: Event, gtid: str) -> Iterator[Batch]:
        self.at.file, self.at.pos = event.file, event.end
        if gtid and self.mariadb:
            self.at.gtid |= _domains(gtid)
        if self.size >= self.source.batch_bytes:
            yield from self._flushed()

    def _flushed(self) -> Iterator[Batch]:
        """What was collected, at the end of the newest transaction."""
        files = [
            known(each.name, _again(each.out), each.form, table=table)
            for table, each in [*self.full, *self.open.items()]
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
                f"source {self.source.name}: changes of `{name}` at {event.file}:{event.start} were written "
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
        out: BinaryIO = cast(BinaryIO, tempfile.SpooledTemporaryFile(self.source.batch_bytes))  # noqa: SIM115
        out.write(MAGIC)
        self.open[table] = _Object(told, form, name, out)
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
            described = described or _empty_map(self.source._placed(self.server, table), self.found[table])
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
