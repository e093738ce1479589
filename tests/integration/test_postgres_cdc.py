"""The log of a real PostgreSQL: what lands, and what a reader may rely on after a crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from postgres_lake import ORDERS, Lake, lsn, same, slot
from projects import go, headrace
from services import Database, Postgres

from headrace.core import Batch
from headrace.errors import ConfigError
from headrace.sources import postgres_backlog, postgres_intake, postgres_stream


@pytest.fixture
def lake(database: Database, tmp_path: Path) -> Lake:
    database.sql(*ORDERS)
    return Lake(database, tmp_path)


# What lands


def test_a_snapshot_and_then_every_change_in_order(lake: Lake) -> None:
    lake.run()
    assert len(lake.state()) == 100
    lake.database.sql(
        "insert into orders values (101, 'new', 1.50)",
        "update orders set what = 'changed' where id <= 3",
        "delete from orders where id = 4",
        "update orders set id = -5 where id = 5",
    )
    lake.run()
    same(lake)
    after = [(e["_op"], e["id"]) for e in lake.events["orders"][100:]]
    assert after == [("c", "101"), *(("u", str(n)) for n in (1, 2, 3)), ("d", "4"), ("d", "5"), ("u", "-5")]
    sequences = [e["_sequence"] for e in lake.events["orders"][100:]]
    assert sequences == sorted(sequences)
    assert len(set(sequences)) == len(sequences)
    assert min(sequences) > max(e["_sequence"] for e in lake.events["orders"][:100])


def test_a_run_without_news_lands_nothing_and_leaves_the_slot(lake: Lake) -> None:
    lake.run()
    records, before = lake.records, slot(lake.database)
    lake.run()
    assert lake.records == records
    assert slot(lake.database) == before == (before[0], False)


def test_truncate_reaches_every_table_that_it_names(lake: Lake) -> None:
    lake.database.sql("create table items (id int primary key)", "insert into items values (1), (2)")
    lake.settings["tables"] = ["orders", "items"]
    lake.run()
    lake.database.sql("truncate orders, items", "insert into items values (3)")
    lake.run()
    assert lake.state() == {}
    assert list(lake.state("items")) == ["3"]


def test_a_table_without_a_key_needs_full_identity_and_gives_both_rows(lake: Lake) -> None:
    lake.database.sql("create table loose (a int, b text)", "insert into loose values (1, 'x'), (2, null)")
    lake.settings["tables"] = ["loose"]
    with pytest.raises(ConfigError, match=r"public\.loose has no primary key") as error:
        lake.run()
    assert 'ALTER TABLE "public"."loose" REPLICA IDENTITY FULL' in str(error.value.hint)
    lake.database.sql(
        "update loose set b = 'writable' where a = 1", "alter table loose replica identity full"
    )
    lake.run()
    lake.database.sql("update loose set a = 10 where a = 1")
    lake.run()
    assert sorted(lake.state("loose", "a")) == ["10", "2"]


def test_columns_that_come_and_go_in_the_middle(lake: Lake) -> None:
    lake.run()
    with lake.database.connect() as con:
        con.execute("insert into orders values (201, 'before', 1)")
        con.execute("alter table orders add column note text default 'none', drop column price")
        con.execute("insert into orders (id, what, note) values (202, 'after', 'yes')")
    lake.database.sql("alter table orders rename what to name", "update orders set name = '' where id = 202")
    lake.run()
    late = lake.events["orders"][100:]
    assert [sorted(c for c in e if not c.startswith("_")) for e in late] == [
        ["id", "price", "what"],
        ["id", "note", "what"],
        ["id", "name", "note"],
    ]
    assert late[0]["_tx"] == late[1]["_tx"] != late[2]["_tx"]


def test_quoted_names_schemas_patterns_and_partitions(lake: Lake) -> None:
    lake.database.sql(
        'create schema "Odd ""one"""',
        'create table "Odd ""one"""."T, x" ("Id" int primary key, "a b" text)',
        'insert into "Odd ""one"""."T, x" values (1, \'"q", \\ and\'\' more\')',
        "create table parts (id int, at date, primary key (id, at)) partition by range (at)",
        "create table parts_a partition of parts for values from ('2026-01-01') to ('2026-02-01')",
        "create table parts_b partition of parts for values from ('2026-02-01') to ('2026-03-01')",
        "insert into parts values (1, '2026-01-05'), (2, '2026-02-05')",
    )
    lake.settings["tables"] = ['Odd "one".*', "part*"]
    lake.run()
    lake.database.sql("update parts set at = '2026-02-07' where id = 1", "delete from parts where id = 2")
    lake.run()
    odd = lake.events['Odd "one".T, x']
    assert [(e["Id"], e["a b"]) for e in odd] == [("1", '"q", \\ and\' more')]
    assert {e["at"] for e in lake.state("parts", "id").values()} == {"2026-02-07"}
    lake.database.sql("truncate parts", "insert into parts values (9, '2026-01-01')")
    lake.run()
    assert list(lake.state("parts", "id")) == ["9"]


def test_a_transaction_of_many_rows_lands_whole_and_in_bounded_memory(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_intake, "MOST_BYTES", 100_000)
    monkeypatch.setattr(postgres_intake, "OBJECT_BYTES", 1_000_000)
    monkeypatch.setattr(postgres_intake, "BATCH_BYTES", 500_000)
    lake.run()
    records, objects = lake.records, len(lake.objects)
    lake.database.sql("insert into orders select n, repeat('x', 99), 1 from generate_series(1001, 31000) n")
    lake.database.sql("delete from orders where id = 1001")
    lake.run()
    assert lake.records - records == 2  # the transaction, and what came after it
    assert len(lake.objects) - objects > 3  # of about a megabyte each
    assert len(lake.state()) == 100 + 30_000 - 1
    sequences = [e["_sequence"] for e in lake.events["orders"][100:]]
    assert sequences == sorted(sequences)


def test_unpublished_tables_are_passed_over_and_move_the_position_now_and_then(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.run()
    position = lake.position
    lake.database.sql("create table other as select 'y' as x from generate_series(1, 1000)")
    lake.run()
    assert lake.position == position  # less than a segment of WAL: nothing is written for it
    monkeypatch.setattr("headrace.sources.postgres.SEGMENT", 10_000)
    lake.run()
    assert lake.position != position
    assert lake.position is not None
    assert int(lake.position["lsn"], 16) == lsn(str(slot(lake.database)[0]))


def test_a_long_backlog_is_asked_for_in_pieces(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_backlog, "PIECE", 20_000)
    monkeypatch.setattr(postgres_backlog, "ROUND", 3_000)
    lake.run()
    records = lake.records
    for n in range(20):
        span = f"generate_series({1000 * (n + 1)}, {1000 * (n + 1) + 300}) n"
        lake.database.sql(
            f"insert into orders select n, repeat('x', n % 99), 1 from {span}",
            f"update orders set what = 'y' where id % 50 = {n}",
            f"delete from orders where id % 60 = {n}",
        )
    lake.run()
    assert lake.records - records > 20
    same(lake)
    changes = [e["_sequence"] for e in lake.events["orders"] if e["_op"] != "r"]
    assert len(set(changes)) == len(changes)
    assert lake.position is not None
    assert lsn(str(slot(lake.database)[0])) == int(lake.position["lsn"], 16)


def test_a_server_without_room_for_an_answer_streams_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    start = postgres_stream.Stream.start

    def spy(stream: postgres_stream.Stream) -> None:
        started.append(stream.intake.at)
        start(stream)

    monkeypatch.setattr(postgres_stream.Stream, "start", spy)
    lake.run()
    name = lake.database.name
    lake.database.sql(
        f"alter database {name} set temp_file_limit = '100kB'",
        f"alter database {name} set work_mem = '64kB'",
        "insert into orders select n, repeat('x', 99), 1 from generate_series(1001, 9000) n",
    )
    lake.run()
    same(lake)
    assert len(started) == 1
    lake.database.sql("delete from orders where id > 8000")
    lake.run()
    same(lake)
    assert len(started) == 1  # this one has room


# Crashes


def test_killed_after_any_batch_nothing_is_missing_and_nothing_comes_twice(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_intake, "BATCH_BYTES", 1000)
    lake.settings["chunk_mb"] = 1
    for step in range(40):  # each run dies after its first batch, before it could confirm
        lake.database.sql(
            f"insert into orders values ({1000 + step}, 'step {step}', 1)",
            f"update orders set what = what || '.' where id % 7 = {step % 7}",
            f"delete from orders where id = {step + 1}",
        )
        lake.run(most=1)
    lake.run()
    same(lake)
    changes = [e["_sequence"] for e in lake.events["orders"] if e["_op"] != "r"]
    assert len(set(changes)) == len(changes)


def test_a_snapshot_that_is_killed_meets_the_changes_made_meanwhile(lake: Lake) -> None:
    lake.database.sql(
        "insert into orders select n, repeat('y', 500), 0 from generate_series(101, 20000) n", "vacuum orders"
    )
    lake.settings |= {"chunk_mb": 1}
    for step in range(30):
        lake.run(most=1)
        lake.database.sql(
            f"update orders set what = 'moved {step}' where id % 97 = {step}",  # to other blocks
            f"delete from orders where id % 101 = {step}",
            f"insert into orders values ({100_000 + step}, 'late', null)",
            f"update orders set id = -id where id = {5000 + step}",
        )
    lake.run()
    same(lake)
    assert len({name for name in lake.objects if "/snapshot-" in name}) >= 8


def test_a_rewritten_table_is_read_again_and_loses_nothing(lake: Lake) -> None:
    lake.database.sql("insert into orders select n, repeat('y', 500), 0 from generate_series(101, 20000) n")
    lake.settings |= {"chunk_mb": 1, "parallel": 1}
    lake.run(most=4)
    lake.database.sql("delete from orders where id < 9000", "vacuum full orders")  # rows move to other blocks
    lake.run(most=3)
    lake.database.sql("alter table orders alter price type double precision")  # rewrites as well
    lake.run()
    same(lake)


@contextmanager
def writing(lake: Lake) -> Iterator[None]:
    """Others change the table all the while."""
    stop = threading.Event()

    def write() -> None:
        with lake.database.connect(autocommit=True) as con:
            n = 0
            while not stop.is_set():
                n += 1
                low, one = n * 37 % 30000, n * 11 % 30000
                con.execute(f"update orders set what = 'w{n}' where id between {low} and {low + 20}")
                con.execute(f"delete from orders where id = {one}")
                con.execute(f"insert into orders values ({one}, 'back {n}', {n}) on conflict do nothing")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_changes_while_the_snapshot_is_read(lake: Lake) -> None:
    lake.database.sql("insert into orders select n, repeat('z', 300), 0 from generate_series(101, 30000) n")
    with writing(lake):
        lake.run(chunk_mb=1)
    lake.run()
    same(lake)


def test_a_table_is_read_again_chunk_by_chunk_while_others_write(lake: Lake) -> None:
    lake.database.sql("insert into orders select n, repeat('z', 300), 0 from generate_series(101, 30000) n")
    lake.run()
    del lake.events["orders"][1000:2000]  # as if lost
    phantom = {"id": "777777", "what": "never was", "price": "1", "_op": "c"}
    lake.events["orders"].append({**phantom, "_sequence": "0000000000000001/0000000002"})
    with writing(lake):
        lake.run(resnapshot={"orders": 1}, chunk_mb=1, most=3)  # killed in the middle of it
        lake.run(resnapshot={"orders": 1}, chunk_mb=1)
    assert sum(e["_op"] == "r" for e in lake.events["orders"]) > 50_000  # it was read twice
    lake.run(resnapshot={"orders": 1})
    same(lake)


def test_a_table_is_read_again_while_its_changes_go_on(lake: Lake) -> None:
    lake.run()
    del lake.events["orders"][10:20]  # as if lost
    phantom = {"id": "7777", "what": "never was", "price": "1", "_op": "c"}
    lake.events["orders"].append({**phantom, "_sequence": "0000000000000001/0000000002"})
    lake.database.sql("update orders set what = 'x' where id < 50")
    lake.run(resnapshot={"orders": 1})
    same(lake)
    records = lake.records
    lake.run(resnapshot={"orders": 1})
    assert lake.records == records


def test_a_new_table_joins_a_running_stream(lake: Lake) -> None:
    lake.run()
    lake.database.sql("create table later (id int primary key)", "insert into later values (1)")
    lake.settings["tables"] = ["orders", "later"]
    lake.database.sql("insert into orders values (500, 'a', 1)")
    lake.run()
    lake.database.sql("insert into later values (2)")
    lake.run()
    same(lake)
    assert sorted(lake.state("later")) == ["1", "2"]


def test_a_table_that_is_dropped_and_made_anew_is_read_anew(lake: Lake) -> None:
    lake.run()
    lake.database.sql("drop table orders", *ORDERS, "delete from orders where id > 10")
    lake.run()
    same(lake)
    lake.database.sql("insert into orders values (11, 'again', 1)")
    lake.run()
    same(lake)


def test_a_quiet_database_holds_back_no_log_of_its_busy_neighbour(
    lake: Lake, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.sources.postgres.SEGMENT", 1 << 20)
    neighbour = postgres.database()
    neighbour.sql("create table busy (x text)")
    lake.run()
    objects = len(lake.objects)
    for _ in range(4):
        neighbour.sql("insert into busy select repeat('b', 500) from generate_series(1, 20000)", "checkpoint")
        lake.run()
    assert len(lake.objects) == objects
    retained = lake.database.sql(
        "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint from pg_replication_slots "
        "where slot_name = 'headrace_pg'"
    )
    assert retained[0][0] < 30_000_000  # of some 50 MB that were written
    postgres.drop(neighbour)


def test_an_immediate_restart_of_the_server_costs_nothing(lake: Lake, postgres: Postgres) -> None:
    lake.run()
    for round_ in range(3):
        lake.database.sql(f"insert into orders values ({900 + round_}, 'r', 1)")
        lake.run(most=1)
        postgres.restart("immediate")
    lake.run()
    same(lake)


# Following


def test_following_hands_out_what_came_and_none_when_idle(lake: Lake) -> None:
    lake.run()
    lake.ledger.follow = True
    seen: list[Batch | None] = []
    with closing(lake.read(idle=0.05)) as batches:
        assert next(batches) is None
        for n in range(3):
            lake.database.sql(f"insert into orders values ({800 + n}, 'f', 1)")
            batch = _within(batches, seen)
            lake.take(batch)
        assert next(batches) is None  # resumed: the last batch is confirmed now
        assert lake.position is not None
        assert lsn(str(slot(lake.database)[0])) == int(lake.position["lsn"], 16)
    same(lake)
    assert slot(lake.database)[1] is False


def _within(batches: Iterator[Batch | None], seen: list[Batch | None], seconds: float = 10.0) -> Batch:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        batch = next(batches)
        seen.append(batch)
        if batch is not None:
            return batch
    raise AssertionError(f"nothing came within {seconds} s")


def test_following_a_server_that_never_rests_hands_out_what_came(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_intake, "LATEST", 0.2)
    lake.run()
    lake.ledger.follow = True
    stop = threading.Event()

    def write() -> None:
        with lake.database.connect(autocommit=True) as con:
            n = 1000
            while not stop.is_set():
                n += 1
                con.execute(f"insert into orders values ({n}, 'busy', 1)")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with closing(lake.read(idle=60)) as batches:
            for _ in range(3):
                lake.take(_within(batches, []))
    finally:
        stop.set()
        thread.join()
    lake.ledger.follow = False
    lake.run()
    same(lake)


def test_following_a_quiet_table_moves_the_position_with_the_log(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.run()
    for module in ("postgres", "postgres_stream"):
        monkeypatch.setattr(f"headrace.sources.{module}.SEGMENT", 100_000)
    lake.ledger.follow = True
    with closing(lake.read(idle=0.05)) as batches:
        assert next(batches) is None
        lake.database.sql("create table other as select repeat('o', 100) from generate_series(1, 5000)")
        batch = _within(batches, [])
        assert batch.data == []
        assert next(batches) is None
        assert lsn(str(slot(lake.database)[0])) == int(batch.end["lsn"], 16)


# Through the whole pipeline


def test_a_pipeline_follows_a_table(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_DSN", lake.database.dsn)
    (tmp_path / "pipeline.yml").write_text(
        """
name: shop
sources:
  pg: {type: postgres, dsn: "${PG_DSN}", tables: [orders]}
tables:
  orders:
    from: pg.orders
    keys: [id]
    contract:
      columns:
        id: {type: bigint, required: true}
        what: {type: text}
        price: {type: "decimal(20,4)", min: 0}
"""
    )
    first = go(tmp_path)
    assert (first.tables[0].ledger.read, first.tables[0].ledger.inserted) == (100, 100)
    lake.database.sql(
        "update orders set price = -1 where id = 1",
        "delete from orders where id = 2",
        "insert into orders values (700, '', null)",
    )
    second = go(tmp_path)
    ledger = second.tables[0].ledger
    assert (ledger.read, ledger.inserted, ledger.deleted, ledger.quarantined) == (3, 1, 1, 1)
    third = go(tmp_path)
    assert third.sources[0].new_files == 0


def test_a_publication_with_a_filter_and_a_column_list_is_followed_as_it_is(lake: Lake) -> None:
    if lake.database.sql("select current_setting('server_version_num')::int >= 150000") == [(False,)]:
        pytest.skip("PostgreSQL below 15 has neither filters nor column lists")
    lake.database.sql("create publication part for table orders (id, what) where (id <= 10)")
    lake.settings["publication"] = "part"
    lake.run()
    lake.database.sql(
        "insert into orders values (-1, 'in', 7), (500, 'out', 7)", "delete from orders where id = 2"
    )
    lake.run()
    assert sorted(map(int, lake.state())) == [-1, 1, *range(3, 11)]
    assert not [event for event in lake.events["orders"] if "price" in event]


def test_no_password_is_in_anything_that_is_written(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "hunter2-canary"
    monkeypatch.setenv("PG_DSN", lake.database.dsn.replace("postgres@", f"postgres:{canary}@"))
    (tmp_path / "pipeline.yml").write_text(
        """
name: shop
sources:
  pg: {type: postgres, dsn: "${PG_DSN}", tables: [orders]}
tables:
  orders: {from: pg.orders, keys: [id], contract: {columns: {id: {type: bigint}}}}
"""
    )
    report = go(tmp_path)
    assert report.tables[0].ledger.read == 100
    monkeypatch.setenv("PG_DSN", f"postgresql://postgres:{canary}@127.0.0.1:1/none")
    failed = headrace(tmp_path, "run")
    assert failed.returncode != 0
    assert "Connection refused" in failed.stdout + failed.stderr
    assert canary not in failed.stdout + failed.stderr + repr(report)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or canary.encode() not in path.read_bytes(), path


def test_a_plan_does_not_read_the_log(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_DSN", lake.database.dsn)
    (tmp_path / "pipeline.yml").write_text(
        """
name: shop
sources:
  pg: {type: postgres, dsn: "${PG_DSN}", tables: [orders]}
tables:
  orders: {from: pg.orders, keys: [id], contract: {columns: {id: {type: bigint}}}}
"""
    )
    for _ in range(2):
        planned = headrace(tmp_path, "plan")
        assert planned.returncode == 0, planned.stderr
        go(tmp_path)
        lake.database.sql("update orders set what = 'x'")
    assert lake.database.sql("select count(*) from pg_replication_slots where slot_name = 'headrace_pg'") == [
        (1,)
    ]
