"""The log of a real PostgreSQL: what stops a reader, loudly and with what to do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from postgres_lake import ORDERS, Lake, same
from services import Database, Postgres, missing

from headrace.errors import ConfigError, Gap, TransientError
from headrace.sources.postgres import Postgres as Source
from headrace.sources.postgres_server import Server
from headrace.testing.source import Ledger

READER, WEAK = "headrace_test_reader", "headrace_test_weak"


@pytest.fixture
def lake(database: Database, tmp_path: Path) -> Lake:
    database.sql(*ORDERS)
    return Lake(database, tmp_path)


def test_a_slot_that_is_gone_stops_loudly_and_restart_begins_anew(lake: Lake) -> None:
    lake.run()
    lake.database.sql("select pg_drop_replication_slot('headrace_pg')", "delete from orders where id = 3")
    records = lake.records
    with pytest.raises(Gap, match="replication slot headrace_pg is gone") as error:
        lake.run()
    assert "raise `restart:`" in str(error.value.hint)
    assert lake.records == records
    lake.run(restart=1)
    same(lake)  # also without the row whose delete was never seen


def test_a_slot_ahead_of_bronze_stops_loudly(lake: Lake) -> None:
    lake.run()
    lake.database.sql("insert into orders values (300, 'x', 1)")
    lake.database.sql("select count(*) from pg_logical_slot_get_binary_changes('headrace_pg', null, null, "
                      "'proto_version', '1', 'publication_names', 'headrace_pg')")  # fmt: skip
    with pytest.raises(Gap, match="somebody else has read"):
        lake.run()


def test_a_slot_invalidated_by_the_server_stops_loudly(lake: Lake, postgres: Postgres) -> None:
    if postgres.folder is None:
        missing("a PostgreSQL server of our own, whose settings may be changed")
    lake.run()
    admin = Database(lake.database.server, "postgres")
    admin.sql("alter system set max_slot_wal_keep_size = '1MB'", "select pg_reload_conf()")
    try:
        lake.database.sql("create table filler (x text)")
        for _ in range(6):
            lake.database.sql(
                "insert into filler select repeat('f', 1000) from generate_series(1, 20000)",
                "select pg_switch_wal()",
                "checkpoint",
            )
            if lake.database.sql("select wal_status from pg_replication_slots") == [("lost",)]:
                break
        with pytest.raises(Gap, match="was invalidated"):
            lake.run()
    finally:
        admin.sql("alter system reset max_slot_wal_keep_size", "select pg_reload_conf()")
    lake.run(restart=1)
    same(lake)


def test_a_server_that_was_restored_to_an_earlier_state_stops_loudly(lake: Lake, postgres: Postgres) -> None:
    lake.run()
    if postgres.folder is None:
        missing("a PostgreSQL server of our own, which may be restored")
    assert postgres.folder is not None
    postgres.stop("fast")
    data = postgres.folder / "data"
    (data / "recovery.signal").touch()
    with (data / "postgresql.conf").open("a") as out:
        out.write("restore_command = '/bin/false'\n")
    postgres.start()  # ends its recovery at once, on a new timeline
    until = time.monotonic() + 30
    while lake.database.sql("select pg_is_in_recovery()") == [(True,)]:
        assert time.monotonic() < until
        time.sleep(0.1)
    lake.database.sql("insert into orders values (501, 'on timeline 2', 1)")
    assert lake.position is not None
    timeline = lake.position["timeline"]
    lake.run()
    same(lake)
    assert lake.position["timeline"] > timeline
    split = int(lake.position["lsn"], 16)
    lake.database.sql("insert into orders select n, 'more', 1 from generate_series(1000, 2000) n")
    ahead = {**lake.position, "timeline": timeline, "lsn": f"{split + 16:016X}"}  # as of a lost timeline
    for position in (ahead, {**ahead, "lsn": "00000FFF00000000"}):
        lake.position = position
        with pytest.raises(Gap, match="restored or failed over"):
            lake.run()


def test_somebody_elses_slot_is_left_alone(lake: Lake) -> None:
    lake.database.sql("select pg_create_logical_replication_slot('headrace_pg', 'test_decoding')")
    with pytest.raises(ConfigError, match="exists, and is not of this lake"):
        lake.run()


def test_killed_between_making_the_slot_and_the_first_chunk(lake: Lake) -> None:
    assert lake.run(most=1) == 1
    assert lake.position is not None
    assert lake.position["made"] is False
    batches = lake.read()
    next(batches)  # the slot exists, and its first chunk is lost
    batches.close()
    lake.database.sql("update orders set what = 'between' where id = 1")
    lake.run()
    same(lake)


def test_another_reader_of_the_slot_is_told(lake: Lake) -> None:
    lake.run()
    lake.database.sql("insert into orders values (400, 'x', 1)")
    lake.ledger.follow = True
    with closing(lake.read(idle=0.05)) as batches:
        next(batches)
        with pytest.raises(TransientError, match="is active") as error:
            lake.run(timeout=1)
        assert "another run" in str(error.value.hint)


def test_an_open_transaction_that_holds_up_the_slot_is_named(lake: Lake) -> None:
    with lake.database.connect() as con:
        con.execute("insert into orders values (600, 'open', 1)")
        with pytest.raises(TransientError) as error:
            lake.run(timeout=1)
        pid = con.info.backend_pid
    assert f"process {pid}" in str(error.value.hint)
    lake.run()
    same(lake)


def test_a_server_without_a_logical_log_is_refused(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = Server.rows

    def rows(server: Server, con: Any, query: str, values: Any = ()) -> list[tuple[Any, ...]]:
        return [("replica",)] if query == "show wal_level" else looked(server, con, query, values)

    monkeypatch.setattr(Server, "rows", rows)
    with pytest.raises(ConfigError, match="no logical WAL") as error:
        lake.run()
    assert "ALTER SYSTEM SET wal_level" in str(error.value.hint)
    assert lake.database.sql("select 1 from pg_publication") == []


def test_tables_whose_changes_cannot_be_had_are_refused_before_anything_is_made(lake: Lake) -> None:
    lake.database.sql(
        "create unlogged table fleeting (id int primary key)",
        "create view seen as select * from orders",
        "create table silent (id int primary key)",
        "alter table silent replica identity nothing",
    )
    for table, match in (
        ("fleeting", "is unlogged"),
        ("seen", "no table with changes of its own"),
        ("silent", "REPLICA IDENTITY|refuses updates"),
        ("nowhere", "matches nothing"),
    ):
        with pytest.raises(ConfigError, match=match):
            lake.run(tables=["orders", table])
    assert lake.database.sql("select 1 from pg_publication") == []
    assert lake.database.sql("select 1 from pg_replication_slots where slot_name = 'headrace_pg'") == []


def test_a_policy_that_hides_rows_is_an_error_and_no_filter(lake: Lake) -> None:
    lake.database.sql(
        f"drop role if exists {READER}",
        f"create role {READER} login replication",
        f"grant select on orders to {READER}",
        "create publication headrace_pg for table orders",
        "alter table orders enable row level security",
        "create policy few on orders using (id < 5)",
    )
    source = Source(name="pg", dsn=lake.database.dsn.replace("postgres@", f"{READER}@"), tables=["orders"])
    try:
        with pytest.raises(ConfigError, match="row-level security"):
            list(source.read("pg", None, Ledger()))
    finally:
        lake.database.sql(f"drop owned by {READER}", f"drop role {READER}")


@pytest.mark.parametrize(
    ("prepare", "match", "hint"),
    [
        ([], "may not read public.orders", "GRANT SELECT"),
        (
            [f"grant select on orders to {WEAK}"],
            "permission denied for database",
            "CREATE PUBLICATION",
        ),
        (
            [
                f"grant select on orders to {WEAK}",
                "create publication headrace_pg for table orders",
            ],
            "replication",
            "REPLICATION",
        ),
    ],
)
def test_missing_rights_come_with_the_sql(lake: Lake, prepare: Sequence[str], match: str, hint: str) -> None:
    lake.database.sql(f"drop role if exists {WEAK}", f"create role {WEAK} login", *prepare)
    source = Source(
        name="pg",
        dsn=lake.database.dsn.replace("postgres@", f"{WEAK}@"),
        tables=["orders"],
        timeout=5,
    )
    try:
        with pytest.raises(ConfigError, match=match) as error:
            list(source.read("pg", None, Ledger()))
        assert hint in str(error.value.hint)
    finally:
        lake.database.sql(f"drop owned by {WEAK}", f"drop role {WEAK}")


def test_a_role_with_just_the_rights_of_the_docs_is_enough(lake: Lake) -> None:
    lake.database.sql(
        f"drop role if exists {READER}",
        f"create role {READER} login replication",
        f"grant select on orders to {READER}",
        "create publication headrace_pg for table orders",
    )
    try:
        lake.database.server.url = lake.database.server.url.replace("postgres@", f"{READER}@")
        lake.run()
        assert len(lake.state()) == 100
    finally:
        lake.database.server.url = lake.database.server.url.replace(f"{READER}@", "postgres@")
        lake.database.sql(f"drop owned by {READER}", f"drop role {READER}")


def test_passwords_are_in_no_error() -> None:
    for dsn in ("postgresql://u:hunter2@127.0.0.1:1/x", "host=127.0.0.1 password=hunter2 port='oops"):
        with pytest.raises((TransientError, ConfigError)) as error:
            list(Source(name="pg", dsn=dsn, tables=["orders"]).read("pg", None, Ledger()))
        assert "hunter2" not in str(error.value) + repr(error.value.__cause__) + repr(error.value.__context__)


def test_servers_elsewhere_must_prove_their_name() -> None:
    assert Server("host=db.example.com dbname=x", "pg").params["sslmode"] == "verify-full"
    assert Server("host=db.example.com sslmode=require", "pg").params["sslmode"] == "require"
    assert "sslmode" not in Server("host=127.0.0.1", "pg").params
    assert "sslmode" not in Server("host=/run/postgresql", "pg").params
