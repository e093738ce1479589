"""The PostgreSQL source against a real server: it can stop after any batch and go on from there."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from services import Database

from headrace.core import Batch, Position, Reading
from headrace.errors import Gap
from headrace.sources import postgres_backlog, postgres_intake, postgres_stream, postgres_trigger
from headrace.sources.postgres import Postgres
from headrace.testing.source import check_source, read_all

TABLES = (
    "create table orders (id int primary key, what text)",
    "insert into orders select n, 'w' || n from generate_series(1, 500) n",
    "create table items (id int primary key, what text)",
    "insert into items select n, null from generate_series(1, 20) n",
)
NAMES = ["orders", "items"]


@dataclass
class From:
    """The source as if it had never been read beyond `base`: a stream has its start where its slot is."""

    source: Postgres
    base: Position

    def streams(self) -> Sequence[str]:
        return self.source.streams()

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        return self.source.read(stream, start or self.base, ctx)


@pytest.mark.parametrize(
    "settings", [{"mode": "snapshot"}, {"mode": "watermark", "watermark": {"orders": "id", "items": "id"}}]
)
def test_full_and_incremental(database: Database, settings: dict[str, Any]) -> None:
    database.sql(*TABLES)
    assert check_source(lambda: Postgres(name="pg", dsn=database.dsn, tables=NAMES, **settings)) == 2


@pytest.mark.parametrize("streamed", [False, True])
def test_the_log(database: Database, monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    database.sql(*TABLES)
    source = Postgres(name="pg", dsn=database.dsn, tables=NAMES)
    base = json.loads(json.dumps(read_all(source, "pg")[-1].end))
    monkeypatch.setattr(postgres_intake, "BATCH_BYTES", 1_000)
    # The slot stays where it is: the conformance check reads the same changes many times.
    monkeypatch.setattr(postgres_backlog.Backlog, "_move", lambda *_: None)
    tell = postgres_stream.Stream._tell

    def silent(stream: postgres_stream.Stream, *, ask: bool = False) -> None:
        stream.confirmed = 0
        tell(stream, ask=ask)

    monkeypatch.setattr(postgres_stream.Stream, "_tell", silent)

    def no_room(*_: object) -> Generator[None, None, psycopg.Error]:
        yield from ()
        return psycopg.errors.DiskFull()

    if streamed:
        monkeypatch.setattr(postgres_backlog.Backlog, "_answered", no_room)
    for n in range(30):
        database.sql(
            f"update orders set what = what || {n} where id % 30 = {n}",
            f"insert into items values ({100 + n}, 'x'); delete from orders where id = {n + 1}",
        )
    lost = {**base, "lsn": f"{int(base['lsn'], 16) - 1:016X}"}
    looked = check_source(lambda: From(source, base), lost={"pg": lost}, most=100)
    assert looked > 10


def test_triggers(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.sql(*TABLES)
    source = Postgres(name="pg", dsn=database.dsn, tables=NAMES, mode="trigger")
    base = json.loads(json.dumps(read_all(source, "pg")[-1].end))
    with monkeypatch.context() as patched:
        # Nothing is released, so that the same changes can be read again.
        patched.setattr(postgres_trigger, "_release", lambda *_: None)
        database.sql("delete from orders where id < 10", "update items set what = 'y'")
        assert check_source(lambda: From(source, base)) == 1
    read_all(source, "pg", start=base)
    with pytest.raises(Gap, match="were deleted"):
        read_all(source, "pg", start=base)
