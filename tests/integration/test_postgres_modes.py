"""PostgreSQL without its log: full snapshots, a watermark column, triggers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from postgres_lake import ORDERS, Lake, same
from projects import go, rows
from services import Database

from headrace.errors import ConfigError, Gap
from headrace.run.report import RunReport
from headrace.sources.postgres import Postgres as Source
from headrace.testing.source import check_source

Project = Callable[..., Path]


@pytest.fixture
def project(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    database.sql(*ORDERS, "alter table orders add column at timestamptz default '2026-01-01'")
    monkeypatch.setenv("PG_DSN", database.dsn)

    def make(keys: str = "", **settings: Any) -> Path:
        source = {"type": "postgres", "dsn": "${PG_DSN}", "tables": ["orders"], **settings}
        table = {"from": "pg.orders", **({"keys": [keys]} if keys else {})}
        if settings.get("mode") == "trigger":
            table["changes"] = {}
        columns = {"id": "bigint", "what": "text", "price": "decimal(20,4)", "at": "timestamp"}
        table["contract"] = {"nulls": [], "columns": {c: {"type": t} for c, t in columns.items()}}
        whole = {"name": "shop", "sources": {"pg": source}, "tables": {"orders": table}}
        (tmp_path / "pipeline.yml").write_text(json.dumps(whole))  # JSON is YAML
        return tmp_path

    return make


def live(root: Path) -> list[tuple[Any, ...]]:
    """(id, what) of the rows in silver that are not deleted."""
    import duckdb
    from deltalake import DeltaTable

    files = DeltaTable(str(root / "lake" / "silver" / "orders")).file_uris()
    if not files:
        return []
    frame = duckdb.read_parquet(files, union_by_name=True)
    kept = frame.filter("not _deleted") if "_deleted" in frame.columns else frame
    return sorted(kept.project("id, what").fetchall())


def truth(database: Database) -> list[tuple[Any, ...]]:
    return database.sql("select id, what from orders order by id")


def ran(root: Path) -> RunReport:
    report = go(root)
    assert report.error is None
    assert [source.error for source in report.sources] == [None]
    return report


# Snapshot


@pytest.mark.parametrize("keys", ["", "id"])
def test_a_snapshot_follows_the_table_row_by_row_and_lands_only_what_changed(
    project: Project, database: Database, keys: str
) -> None:
    database.sql("insert into orders select n, repeat('p', 400), 0 from generate_series(101, 9000) n")
    root = project(keys, mode="snapshot", chunk_mb=1)
    assert ran(root).sources[0].new_files >= 4
    assert live(root) == truth(database)
    again = ran(root).sources[0]
    assert (again.new_files, again.changed) == (0, 0)
    database.sql(
        "delete from orders where id in (1, 9000)", "update orders set what = 'last' where id = 8999"
    )
    changed = ran(root).sources[0]
    assert changed.changed + changed.new_files <= 3  # of all the chunks
    assert live(root) == truth(database)
    database.sql("delete from orders where id > 5000", "vacuum full orders")  # fewer chunks than before
    ran(root)
    assert live(root) == truth(database)


def test_a_table_that_is_suddenly_empty_or_small_is_left_as_it_was(
    project: Project, database: Database
) -> None:
    root = project("id", mode="snapshot")
    database.sql("insert into orders select n, 'x', 0 from generate_series(101, 200) n")
    ran(root)
    before = live(root)
    database.sql("delete from orders where id > 5")
    report = go(root)
    assert "had 200 rows and has 5" in report.sources[0].refused[0][1]
    database.sql("delete from orders")
    report = go(root)
    assert "had 200 rows and is empty" in report.sources[0].refused[0][1]
    assert live(root) == before
    project("id", mode="snapshot", empty="accept")
    ran(root)
    assert live(root) == []


def test_views_have_snapshots_too(project: Project, database: Database) -> None:
    database.sql("create view cheap as select id, what, price, at from orders where id <= 7")
    root = project("id", mode="snapshot", tables=["cheap"])
    (root / "pipeline.yml").write_text((root / "pipeline.yml").read_text().replace("pg.orders", "pg.cheap"))
    ran(root)
    assert [row[0] for row in live(root)] == [1, 2, 3, 4, 5, 6, 7]


def test_no_row_is_seen_twice_or_missed_while_it_moves(project: Project, database: Database) -> None:
    database.sql("insert into orders select n, repeat('p', 400), 0 from generate_series(101, 9000) n")
    root = project("", mode="snapshot", chunk_mb=1)
    stop = threading.Event()

    def move() -> None:
        with database.connect(autocommit=True) as con:
            n = 0
            while not stop.is_set():
                n += 1
                con.execute(f"update orders set what = repeat('m', 300) || {n} where id % 50 = {n % 50}")

    thread = threading.Thread(target=move)
    thread.start()
    try:
        for _ in range(3):
            ran(root)
            assert [row[0] for row in live(root)] == list(range(1, 9001))
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("settings", [{"mode": "snapshot"}, {"mode": "watermark", "watermark": "id"}])
def test_reading_can_stop_anywhere_and_go_on(database: Database, settings: dict[str, Any]) -> None:
    database.sql(*ORDERS, "create table items as select * from generate_series(1, 10) id")
    settings["tables"] = ["orders", "items"]
    assert check_source(lambda: Source(name="pg", dsn=database.dsn, **settings)) == 2


# Watermark


def test_a_watermark_reads_what_is_new_and_ties_again(project: Project, database: Database) -> None:
    root = project("id", mode="watermark", watermark="at")
    ran(root)
    assert ran(root).sources[0].new_files == 0
    database.sql(
        "insert into orders values (101, 'tie', 1, '2026-01-01'), (102, 'new', 1, '2026-01-02')",
        "update orders set what = 'touched', at = '2026-01-02' where id = 7",
        "update orders set what = 'unseen', at = '2025-01-01' where id = 8",
    )
    report = ran(root)
    assert report.sources[0].rows == 102 - 1  # all 99 of the first day, the tie, and two of the second
    seen = dict(live(root))
    assert (seen[101], seen[102], seen[7], seen[8]) == ("tie", "new", "touched", "w8")
    assert ran(root).sources[0].new_files == 0
    database.sql("update orders set at = '2026-01-03' where id = 1")
    assert ran(root).sources[0].rows == 3  # two of the second day, and the new one
    size = len(json.dumps(_position(root)))
    for n in range(5):
        database.sql(f"insert into orders values ({200 + n}, 'more', 1, '2026-02-{n + 1:02}')")
        ran(root)
    assert len(json.dumps(_position(root))) < size + 20


def test_an_overlap_catches_late_commits_within_it(project: Project, database: Database) -> None:
    root = project("id", mode="watermark", watermark="at", overlap="1 hour")
    database.sql("update orders set at = '2026-01-01 12:00+00' where id = 100")
    with database.connect() as late:
        late.execute("insert into orders values (901, 'late', 1, '2026-01-01 11:30+00')")
        ran(root)
    assert 901 not in dict(live(root))
    ran(root)
    assert dict(live(root))[901] == "late"
    assert ran(root).sources[0].new_files == 0


def test_a_number_is_a_watermark_without_keys_too(project: Project, database: Database) -> None:
    root = project("id", mode="watermark", watermark="id", overlap="10")
    ran(root)
    database.sql(
        "insert into orders values (150, 'x', 1), (95, 'y', 1) on conflict (id) do update set what = 'y'"
    )
    ran(root)
    assert dict(live(root))[95] == "y"


def test_a_watermark_that_is_no_column_is_refused_by_name(project: Project, database: Database) -> None:
    del project
    database.sql("alter table orders add column flag boolean")
    for name, match in (("updated_at", "no column `updated_at`"), ("flag", "is boolean")):
        source = Source(name="pg", dsn=database.dsn, tables=["orders"], mode="watermark", watermark=name)
        with pytest.raises(ConfigError, match=match):
            check_source(lambda source=source: source)  # type: ignore[misc]


# Triggers


@pytest.fixture
def lake(database: Database, tmp_path: Path) -> Lake:
    database.sql(*ORDERS)
    return Lake(database, tmp_path, {"mode": "trigger"})


def test_triggers_tell_every_change(lake: Lake) -> None:
    lake.run()
    lake.database.sql(
        "insert into orders values (101, 'quoted \"x\" \\ ''', 1.50)",
        "update orders set what = 'changed' where id <= 3",
        "delete from orders where id = 4",
        "update orders set id = -5 where id = 5",
    )
    lake.run()
    same(lake)
    after = [(e["_op"], e["id"]) for e in lake.events["orders"][100:]]
    assert after == [("c", "101"), *(("u", str(n)) for n in (1, 2, 3)), ("d", "4"), ("d", "5"), ("c", "-5")]
    records = lake.records
    lake.run()
    assert lake.records == records
    lake.database.sql("truncate orders", "insert into orders values (1, 'only', null)")
    lake.run()
    assert list(lake.state()) == ["1"]


def test_transactions_that_commit_out_of_order_are_not_passed_over(lake: Lake) -> None:
    lake.run()
    first, second = lake.database.connect(), lake.database.connect()
    first.execute("insert into orders values (201, 'first', 1)")
    second.execute("insert into orders values (202, 'second', 1)")
    second.commit()  # its audit row has the greater id, and is visible first
    lake.run()
    assert "202" not in lake.state()  # not before what is older has ended
    first.commit()
    lake.run()
    first.close()
    second.close()
    same(lake)


def test_a_transaction_open_while_the_snapshot_is_taken_is_in_neither_twice(lake: Lake) -> None:
    with lake.database.connect() as warm:
        warm.execute("create table unrelated ()")
        warm.commit()
        lake.run(most=1)  # triggers are there, and which transactions the snapshot is to contain is recorded
        warm.execute("insert into orders values (300, 'open', 1)")
        warm.execute("update orders set what = 'open' where id = 1")
        lake.run(most=1)
    lake.run()
    same(lake)


def test_killed_after_any_batch_triggers_lose_nothing(lake: Lake) -> None:
    lake.database.sql("insert into orders select n, repeat('y', 500), 0 from generate_series(101, 9000) n")
    for step in range(12):
        lake.run(most=1, chunk_mb=1)
        lake.database.sql(
            f"update orders set what = 'moved {step}' where id % 97 = {step}",
            f"delete from orders where id % 101 = {step}",
            f"update orders set id = -id where id = {5000 + step}",
        )
    lake.run()
    same(lake)


def test_what_has_landed_leaves_the_audit_table(lake: Lake) -> None:
    lake.run()
    lake.database.sql("update orders set what = 'x'")
    lake.run()
    lake.database.sql("update orders set what = 'y' where id = 1")
    lake.run()
    assert lake.database.sql("select count(*) from headrace.changes")[0][0] <= 1


def test_triggers_that_are_gone_stop_loudly(lake: Lake) -> None:
    lake.run()
    lake.database.sql("alter table orders disable trigger headrace_rows", "delete from orders where id = 1")
    with pytest.raises(Gap, match=r"triggers of public\.orders are gone or disabled"):
        lake.run()


def test_a_pipeline_over_triggers(project: Project, database: Database) -> None:
    root = project("id", mode="trigger")
    ran(root)
    database.sql("delete from orders where id = 3", "update orders set price = 0.1 where id = 4")
    ran(root)
    assert live(root) == truth(database)
    assert rows(root, "quarantine.orders") == []


def _position(root: Path) -> Any:
    records = sorted((root / "lake/_headrace/land/pg").iterdir())
    return json.loads(records[-1].read_text())["body"]["end"]
