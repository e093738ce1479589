"""MySQL and MariaDB: tables as they are, then every change of them by the row binlog, commit by commit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from ..core import Batch, Position, RawFile, Reading
from ..errors import ConfigError
from .inspect import Past
from .mysql_position import At
from .mysql_server import Column, Server, quoted
from .mysql_snapshot import begin, delimited_rows, key_of, rows
from .mysql_stream import Stream
from .raw import delimited, pieces, spooled

NEEDED = {
    "log_bin": ("ON", "start the server with `log_bin`"),
    "binlog_format": ("ROW", "SET GLOBAL binlog_format = ROW"),
    "binlog_row_image": ("FULL", "SET GLOBAL binlog_row_image = FULL"),
    "binlog_row_metadata": ("FULL", "SET GLOBAL binlog_row_metadata = FULL"),
    "binlog_row_value_options": ("", "SET GLOBAL binlog_row_value_options = ''"),
}
UNKNOWN_IS_FINE = ("binlog_row_value_options",)
"""What only MySQL has, from 8.0 on."""


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
        placed = {table: self._placed(server, table) for table in self.tables}
        found: dict[str, list[Column]] = {}
        con = server.connect()
        try:
            for table, (schema, name) in placed.items():
                found[table] = server.columns(con, schema, name)
                if not found[table]:
                    raise ConfigError(
                        f"source {self.name}: no table `{name}` in `{schema}`, or it may not be seen",
                        hint="correct `tables`, or GRANT SELECT on it to the source's user",
                    )
            if self.mode == "snapshot":
                yield from self._whole(server, con, found, ctx)
                return
            mariadb = "mariadb" in con.get_server_info().lower()
            self._able(server.variables(con, *NEEDED))
            at = At.of(start, server, con, mariadb=mariadb)
        finally:
            con.close()
        if start is None:
            yield Batch([], at.position)
        yield from self._snapshots(server, found, at, mariadb=mariadb)
        yield from Stream(server, placed, found, at, self.batch_bytes, mariadb).drain()

    def _placed(self, server: Server, table: str) -> tuple[str, str]:
        schema, dot, name = table.partition(".")
        return (schema, name) if dot else (server.database, table)

    def _able(self, settings: Mapping[str, str]) -> None:
        for name, (wanted, cure) in NEEDED.items():
            told = settings.get(name, "" if name in UNKNOWN_IS_FINE else "unknown to this server")
            if told.upper() != wanted:
                raise ConfigError(
                    f"source {self.name}: changes need `{name}` = {wanted or 'nothing'}; "
                    f"the server has {told}",
                    hint=cure,
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
        self, server: Server, found: Mapping[str, list[Column]], at: At, *, mariadb: bool
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
        return delimited(name, spooled(spool), more=more, table=table), last, count


def _headed(names: Sequence[str], found: Iterator[Sequence[str | None]]) -> Iterator[Sequence[str | None]]:
    yield names
    yield from found


def quoted_table(placed: tuple[str, str]) -> str:
    return ".".join(quoted(name) for name in placed)
