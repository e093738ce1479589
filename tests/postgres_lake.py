"""What the PostgreSQL source lands, put together again as a table, to be compared with the real one."""

from __future__ import annotations

import csv
import io
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from services import Database

from headrace.core import Batch, Position
from headrace.sources.pgoutput import decode
from headrace.sources.postgres import Postgres as Source
from headrace.testing.source import Ledger

ORDERS = (
    "create table orders (id bigint primary key, what text, price numeric)",
    "insert into orders select n, 'w' || n, n / 4.0 from generate_series(1, 100) n",
)
Event = dict[str, Any]


@dataclass
class Lake:
    """What has landed, as change events; `position` moves when a batch is handed over, as in the lander."""

    database: Database
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    position: Position | None = None
    events: dict[str, list[Event]] = field(default_factory=dict)
    objects: list[str] = field(default_factory=list)
    records: int = 0
    ledger: Ledger = field(default_factory=Ledger)

    def source(self, **more: Any) -> Source:
        given = {"tables": ["orders"], **self.settings, **more}
        return Source(name="pg", dsn=self.database.dsn, **given)

    def read(self, **more: Any) -> Generator[Batch | None]:
        made = self.source(**more).read("pg", self.position, self.ledger)
        return cast("Generator[Batch | None]", made)

    def take(self, batch: Batch) -> None:
        for file in batch.data:
            assert file.name not in self.objects, "a name came again"
            self.objects.append(file.name)
            with file.open() as stream:
                content = stream.read()
            inspector = file.inspector()
            inspector.feed(content)
            form = inspector.result()
            assert form["changes"] is True
            self.events.setdefault(file.table, []).extend(self._decoded(content, form))
        self.position = batch.end
        self.records += 1

    def _decoded(self, content: bytes, form: Any) -> list[Event]:
        if form["type"] == "csv":
            return [dict(row) for row in csv.DictReader(io.StringIO(content.decode()))]
        import pyarrow as pa

        path = self.folder / "object"
        path.write_bytes(content)
        _, frames = decode(path, form)
        tables = [pa.RecordBatchReader.from_stream(frame).read_all() for frame in frames]
        return [row for table in tables for row in table.to_pylist()]

    def run(self, most: int = 1000, **more: Any) -> int:
        """Lands up to `most` batches; the reader is then closed without having been told of the last one."""
        taken = 0
        with closing(self.read(**more)) as batches:
            for batch in batches:
                if batch is not None:
                    self.take(batch)
                    taken += 1
                if taken >= most:
                    break
        return taken

    def state(self, table: str = "orders", key: str = "id") -> dict[str, Event]:
        """The table as the events say it is: per key the greatest sequence counts."""
        newest: dict[str, Event] = {}
        truncated = ""
        for event in self.events.get(table, []):
            if event["_op"] == "t":
                truncated = max(truncated, event["_sequence"])
            elif event[key] not in newest or newest[event[key]]["_sequence"] < event["_sequence"]:
                newest[event[key]] = event
        return {
            k: {c: v for c, v in e.items() if not c.startswith("_")}
            for k, e in newest.items()
            if e["_op"] != "d" and e["_sequence"] >= truncated
        }


def actual(database: Database, table: str = "orders", key: str = "id") -> dict[str, Event]:
    rows = database.sql(f"select jsonb_object_agg({key}, r) from (select * from {table}) r")
    found = rows[0][0] or {}
    return {k: {c: None if v is None else str(v) for c, v in row.items()} for k, row in found.items()}


def same(lake: Lake, table: str = "orders", key: str = "id") -> None:
    got = lake.state(table, key)
    wanted = actual(lake.database, table, key)
    assert {k: _plain(v) for k, v in got.items()} == {k: _plain(v) for k, v in wanted.items()}


def _plain(row: Event) -> Event:
    """Numbers by value: JSON drops the zeros that NUMERIC keeps; text by COPY in csv knows no NULL here."""
    return {c: (float(v) if c == "price" and v else v or None) for c, v in row.items()}


def slot(database: Database) -> tuple[Any, ...]:
    query = (
        "select confirmed_flush_lsn::text, active from pg_replication_slots where slot_name = 'headrace_pg'"
    )
    return database.sql(query)[0]


def lsn(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)
