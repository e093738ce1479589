"""How far a slot is behind is measured and told; a heartbeat moves the slot of a database that is idle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from postgres_lake import ORDERS, Lake, lsn, slot
from projects import go, headrace
from services import Database, Postgres

PIPELINE = """
name: shop
sources:
  pg: {type: postgres, dsn: "${PG_DSN}", tables: [orders]}
tables:
  orders: {from: pg.orders, keys: [id], contract: {columns: {id: {type: bigint}}}}
"""


@pytest.fixture
def lake(database: Database, tmp_path: Path) -> Lake:
    database.sql(*ORDERS)
    return Lake(database, tmp_path)


@pytest.fixture
def neighbour(postgres: Postgres) -> Iterator[Database]:
    """Another database of the same server."""
    made = postgres.database()
    made.sql("create table busy (x text)")
    yield made
    postgres.drop(made)


def position(lake: Lake) -> int:
    assert lake.position is not None
    return int(lake.position["lsn"], 16)


def test_a_heartbeat_moves_the_slot_of_an_idle_database_while_its_neighbour_writes(
    lake: Lake, neighbour: Database
) -> None:
    lake.run()
    neighbour.sql("insert into busy select repeat('x', 100) from generate_series(1, 10000)")
    before = position(lake)
    lake.run()
    assert position(lake) == before  # less than a segment: not worth a commit
    lake.settings["heartbeat"] = "1s"
    written = lsn(neighbour.sql("select pg_current_wal_lsn()::text")[0][0])
    lake.run()
    assert position(lake) >= written > before
    assert lsn(str(slot(lake.database)[0])) == position(lake)
    records = lake.records
    lake.settings["heartbeat"] = "1h"
    lake.run()
    assert lake.records == records  # the last one is not so long ago


def test_following_an_idle_database_it_beats_on(lake: Lake, neighbour: Database) -> None:
    lake.run()
    lake.settings["heartbeat"] = 0.2
    lake.ledger.follow = True
    ends: list[int] = []
    with closing(lake.read(idle=0.05)) as batches:
        for _ in range(400):
            neighbour.sql("insert into busy values ('x')")
            batch = next(batches)
            if batch is not None:
                assert batch.data == []
                ends.append(int(batch.end["lsn"], 16))
            if len(ends) == 3:
                break
        next(batches)  # the last batch is durable from here on
        assert ends == sorted(set(ends))
        assert len(ends) == 3
        assert lsn(str(slot(lake.database)[0])) >= ends[-1]


def test_a_run_measures_its_lag_and_status_shows_it(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_DSN", lake.database.dsn)
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    go(tmp_path)
    lake.database.sql("insert into orders select n, repeat('y', 100), 1 from generate_series(1000, 30000) n")
    (kept,) = lake.database.sql(
        "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint from pg_replication_slots"
        " where slot_name = 'headrace_pg'"
    )[0]
    assert kept > 3_000_000
    report = go(tmp_path)
    (lag,) = report.sources[0].lag.values()
    assert lag["retained_bytes"] >= kept
    assert lag["wal_status"] == "reserved"
    assert (lag["bytes"] == 0) == (lag["seconds"] == 0)
    assert lag["bytes"] < 1_000_000  # it was drained
    shown = json.loads(headrace(tmp_path, "status", "--format", "json").stdout)
    assert shown["runs"][0]["retained_bytes"] == lag["retained_bytes"]
    asked = headrace(tmp_path, "query", "select max(retained_bytes) from runs", "--format", "csv").stdout
    assert asked.split()[-1] == str(lag["retained_bytes"])


def test_a_slot_that_keeps_more_log_than_the_server_wants_is_told_of(
    lake: Lake, neighbour: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PG_DSN", lake.database.dsn)
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    assert not go(tmp_path).sources[0].remarks
    lake.database.sql("alter system set max_wal_size = '32MB'", "select pg_reload_conf()")
    try:
        for _ in range(4):
            neighbour.sql("insert into busy select repeat('x', 1000) from generate_series(1, 20000)")
        assert lake.database.sql(
            "select wal_status from pg_replication_slots where slot_name = 'headrace_pg'"
        ) == [("extended",)]
        remarks = go(tmp_path).sources[0].remarks
        assert len(remarks) == 1
        assert "headrace_pg (extended: more than max_wal_size)" in remarks[0]
    finally:
        lake.database.sql("alter system reset max_wal_size", "select pg_reload_conf()")
