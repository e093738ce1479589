"""What a target holds is what silver is, after everything that can happen to silver."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from projects import PIPELINE, day, go, headrace, make, put
from services import Database
from targets import Place, in_postgres, project, publishing, silver
from targets import place as place

from headrace.run.report import LoadResult, RunReport

TABLES = ("orders", "orders_history")


def load_of(report: RunReport, table: str = "orders") -> LoadResult:
    return next(load for load in report.loads if load.table == table)


def agree(root: Path, place: Place, *tables: str) -> int:
    """The target's tables are silver's, value for value; how many rows."""
    count = 0
    for table in tables or TABLES:
        held = place.rows(table)
        assert held == silver(root, table), table
        count += len(held)
    assert count
    return count


def test_first_load_increments_and_nothing_new(tmp_path: Path, place: Place) -> None:
    root = project(tmp_path / "p", place, {"0.csv": day(0)})
    first = go(root)
    assert first.status == "success"
    agree(root, place)
    told = load_of(first)
    assert (told.mode, told.reason) == ("reload", "first load")
    assert told.sent == told.inserted == len(silver(root, "orders")) > 30
    put(root, "1.csv", day(1))
    second = go(root)
    agree(root, place)
    told, ledger = load_of(second), second.tables[0].ledger
    assert told.mode == "merge"
    assert (told.inserted, told.updated, told.deleted) == (ledger.inserted, ledger.updated, 0)
    assert told.sent == ledger.inserted + ledger.updated, "unchanged rows are not sent"
    before = place.publications()
    third = go(root)
    assert all(load.noop for load in third.loads)
    assert len(third.loads) == 2
    assert place.publications() == before
    assert before == {"shop.orders": 2, "shop.orders_history": 2}


def test_a_row_that_leaves_silver_leaves_the_target(tmp_path: Path, place: Place) -> None:
    root = project(tmp_path / "p", place, {"0.csv": day(0), "1.csv": day(1)})
    go(root)
    put(root, "1.csv", day(1)[:10])  # a new version of the file takes the rows of the old one back
    told = load_of(go(root))
    assert told.deleted > 10
    agree(root, place)


def test_corrections_and_replays_reach_the_target(tmp_path: Path, place: Place) -> None:
    root = project(tmp_path / "p", place, {"0.csv": day(0), "1.csv": day(1)})
    go(root)
    before = len(place.rows("orders"))
    fixed = headrace(
        root, "quarantine", "fix", "orders", "--rule", "known_customer", "--set", "customer = 'c9'"
    )
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    replayed = headrace(root, "quarantine", "replay", "orders")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    report = go(root)
    agree(root, place)
    assert len(place.rows("orders")) > before
    assert any("c9" in row for row in place.rows("orders"))
    assert report.status == "success"


def test_rebuild_restore_and_a_lake_from_its_records(tmp_path: Path, place: Place) -> None:
    root = project(tmp_path / "p", place, {"0.csv": day(0)})
    go(root)
    put(root, "1.csv", day(1))
    go(root)
    two = place.rows("orders")
    rebuilt = load_of(go(root, rebuild=["orders"]))
    assert rebuilt.sent == 0, "the same rows are not sent again"
    agree(root, place)
    assert headrace(root, "restore", "orders", "--to-epoch", "1", "--hold").returncode == 0
    told = load_of(go(root))
    assert told.deleted > 0
    agree(root, place)
    assert place.rows("orders") != two
    assert headrace(root, "restore", "orders", "--release").returncode == 0
    go(root)
    assert agree(root, place)
    assert place.rows("orders") == two
    shutil.rmtree(root / "lake/silver/orders")
    assert headrace(root, "restore", "orders", "--from-records").returncode == 0
    told = load_of(go(root))
    assert told.reason == "the table was made anew"
    assert place.rows("orders") == two
    agree(root, place)


def test_maintenance_sends_nothing_and_lost_versions_are_loaded_whole(tmp_path: Path, place: Place) -> None:
    root = project(tmp_path / "p", place, {})
    for number in range(10):
        put(root, f"{number}.csv", day(number))
        go(root)
    assert headrace(root, "maintain").returncode == 0
    before = place.publications()
    assert all(load.noop for load in go(root).loads)
    assert place.publications() == before
    pipeline = root / "pipeline.yml"
    text = pipeline.read_text()
    pipeline.write_text(text.replace("    to: w\n", ""))
    put(root, "10.csv", day(10))
    go(root)
    old = {path.name for path in (root / "lake/silver/orders").rglob("*.parquet")}
    put(root, "11.csv", day(11))
    go(root)
    from deltalake import DeltaTable

    live = {Path(uri).name for uri in DeltaTable(str(root / "lake/silver/orders")).file_uris()}
    for path in (root / "lake/silver/orders").rglob("*.parquet"):
        if path.name in old - live:
            path.unlink()  # what vacuum does after 30 days
    pipeline.write_text(text)
    told = load_of(go(root))
    assert told.mode == "reload"
    assert "are gone" in told.reason
    agree(root, place)


def test_a_table_that_was_dropped_there_comes_back(tmp_path: Path, database: Database) -> None:
    place = in_postgres(database)
    root = project(tmp_path / "p", place, {"0.csv": day(0)})
    go(root)
    database.sql("drop table shop.orders")
    told = load_of(go(root))
    assert told.reason == "its table is gone"
    agree(root, place)


def test_tables_without_keys(tmp_path: Path, place: Place) -> None:
    pipeline = """
name: shop
sources:
  orders: {type: files, path: data/*.csv}
tables:
  orders:
    from: orders
    contract: {columns: {order_id: {}, customer: {}, amount: {type: double}, updated_at: {}}}
"""
    same = ["1,a,1.5,x", "1,a,1.5,x", ",,,"]
    root = project(tmp_path / "p", place, {"0.csv": same}, pipeline)
    go(root)
    assert agree(root, place, "orders") == 3
    put(root, "1.csv", [*same, "2,b,2,y"])
    told = load_of(go(root))
    assert (told.mode, told.inserted) == ("append", 4)
    assert agree(root, place, "orders") == 7
    assert load_of(go(root, rebuild=["orders"])).sent == 0
    put(root, "1.csv", ["2,b,2,y"])
    told = load_of(go(root))
    assert (told.mode, told.reason) == ("reload", "rows without a key are gone")
    assert (told.inserted, told.removed) == (4, 7)
    assert agree(root, place, "orders") == 4


def test_keys_may_be_missing_values(tmp_path: Path, place: Place) -> None:
    pipeline = """
name: shop
sources:
  orders: {type: files, path: data/*.csv}
tables:
  orders:
    from: orders
    keys: [order_id, customer]
    contract: {columns: {order_id: {type: integer}, customer: {}, amount: {type: double}, updated_at: {}}}
"""
    root = project(tmp_path / "p", place, {"0.csv": ["1,,1,x", ",b,2,x", "3,c,3,x"]}, pipeline)
    go(root)
    agree(root, place, "orders")
    put(root, "1.csv", ["1,,10,y", ",b,20,y", "4,,4,y"])
    go(root)
    agree(root, place, "orders")
    put(root, "1.csv", ["3,c,30,z"])
    go(root)
    agree(root, place, "orders")


def test_columns_that_come_and_widen(tmp_path: Path, place: Place) -> None:
    root = project(tmp_path / "p", place, {"0.csv": day(0)})
    go(root)
    path = root / "pipeline.yml"
    text = path.read_text()
    text = text.replace("order_id:   {type: integer", "order_id:   {type: bigint")
    text = text.replace('amount:     {type: "decimal(10,2)"', 'amount:     {type: "decimal(14,3)"')
    text = text.replace(
        "      rules:", "        big:        {type: bigint, derive: order_id + 1}\n      rules:"
    )
    path.write_text(text)
    put(root, "1.csv", day(1))
    report = go(root, accept_changes=True)
    assert report.status == "success", report
    assert load_of(report).reason == "its columns or keys have changed"
    agree(root, place)
    text = text.replace("keys: [order_id]", "keys: [order_id, customer]")
    path.write_text(text)
    assert go(root, accept_changes=True).status == "success"
    agree(root, place)


def test_a_column_that_cannot_hold_the_values_is_refused(tmp_path: Path, database: Database) -> None:
    place = in_postgres(database, ", adopt: true")
    root = project(tmp_path / "p", place, {"0.csv": day(0)})
    for kind, told in (
        ("numeric(10,1)", ""),
        ("boolean", "is boolean there and decimal(10,2) in silver"),
        ("varchar(9)", "does not hold decimal(10,2) exactly"),
    ):
        database.sql("drop schema if exists shop cascade", "create schema shop")
        database.sql(f"create table shop.orders (order_id bigint, amount {kind})")
        report = go(root)
        assert (told in str(load_of(report).error)) if told else report.status == "success"
    assert database.sql("select count(*) from shop.orders") == [(0,)]


def test_soft_deletes(tmp_path: Path, place: Place) -> None:
    place.settings = place.settings.replace("}", ", deletes: soft}")
    pipeline = PIPELINE.replace("    history: true\n", "    delete_when: customer = 'gone'\n")
    root = project(
        tmp_path / "p", place, {"0.csv": ["1,a,1,2026-01-01T00:00:00", "2,b,2,2026-01-01T00:00:00"]}, pipeline
    )
    ask = f"select order_id, amount, _deleted from {place.schema}.orders order by 1"

    def kept() -> list[tuple[int, str, bool]]:
        return [(int(order), str(amount), deleted) for order, amount, deleted in place.ask(ask)[1]]

    go(root)
    put(root, "1.csv", ["2,gone,2,2026-01-02T00:00:00"])
    assert load_of(go(root)).deleted == 1
    assert kept() == [(1, "1.00", False), (2, "2.00", True)]
    put(root, "2.csv", ["2,b,5,2026-01-03T00:00:00"])
    go(root)
    assert kept() == [(1, "1.00", False), (2, "5.00", False)]


def test_a_reload_mends_what_others_have_changed(tmp_path: Path, database: Database) -> None:
    place = in_postgres(database, ", mode: reload")
    root = project(tmp_path / "p", place, {"0.csv": day(0)})
    go(root)
    database.sql(
        "update shop.orders set customer = 'mine' where order_id < 5",
        "delete from shop.orders where order_id > 30",
    )
    database.sql("insert into shop.orders (order_id, customer) values (-1, 'nobody')")
    told = load_of(go(root))
    assert told.reason == "mode: reload"
    assert told.removed == 1
    assert told.updated > 0
    assert told.inserted > 0
    assert told.unchanged > 0
    agree(root, place)


def test_what_is_not_ours_is_not_touched(tmp_path: Path, database: Database) -> None:
    place = in_postgres(database)
    root = project(tmp_path / "p", place, {"0.csv": day(0)})
    database.sql(
        "create schema shop",
        "create table shop.orders (order_id bigint, customer text, note text)",
        "insert into shop.orders values (1, 'kept', 'n'), (1, 'twice', 'n')",
    )
    report = go(root)
    told = load_of(report)
    assert report.status == "incomplete"
    assert "Headrace has not made it" in str(told.error)
    assert "pipeline.yml:" in str(told.error)
    assert database.sql("select customer from shop.orders order by 1") == [("kept",), ("twice",)]
    assert headrace(root, "run").returncode == 3
    path = root / "pipeline.yml"
    path.write_text(path.read_text().replace("timeout: 10", "timeout: 10, adopt: true"))
    assert go(root).status == "success"
    names, rows = place.ask("select * from shop.orders")
    assert "note" in names
    assert len(rows) == len(silver(root, "orders"))
    other = make(
        tmp_path / "q", {"0.csv": day(2)}, publishing(in_postgres(database)).replace("shop\n", "store\n", 1)
    )
    report = go(other)
    assert "is published by `shop.orders`" in str(load_of(report).error)


def test_status_plan_doctor_and_the_line_of_a_run(tmp_path: Path, place: Place) -> None:
    root = project(tmp_path / "p", place, {"0.csv": day(0)})
    planned = headrace(root, "plan")
    assert "target w  receives: orders" in planned.stdout
    ran = headrace(root, "run")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"published  w.orders  {len(silver(root, 'orders'))} new (first load)" in ran.stdout
    status = json.loads(headrace(root, "status", "--format", "json").stdout)
    (told,) = status["targets"]
    assert told == {"target": "w", "table": "orders", "epoch there": 1, "epoch": 1, "remark": ""}
    examined = headrace(root, "doctor")
    assert "target w" in examined.stdout
    assert examined.returncode == 0, examined.stdout
    path = root / "pipeline.yml"
    text = path.read_text()
    path.write_text(text.replace("    to: w\n", ""))
    put(root, "1.csv", day(1))
    go(root)
    path.write_text(text)
    (told,) = json.loads(headrace(root, "status", "--format", "json").stdout)["targets"]
    assert told["remark"] == "behind: the next run publishes it"
    put(root, "2.csv", [])
    agree_after = go(root)
    assert load_of(agree_after).mode == "merge"
    agree(root, place)
    from headrace.run.runner import open_catalog
    from headrace.spec.load import load

    with open_catalog(load(root)) as catalog:
        names = {entry.table_name for run in catalog.runs(10) for entry in catalog.ledgers(run.run_id)}
    assert "w.orders" in names


def test_a_target_that_is_down_stops_nothing_else(tmp_path: Path, database: Database) -> None:
    place = in_postgres(database)
    root = project(tmp_path / "p", place, {"0.csv": day(0)})
    path = root / "pipeline.yml"
    text = path.read_text()
    path.write_text("retry: {attempts: 0}\n" + text.replace(database.dsn, "postgresql://x@127.0.0.1:9/none"))
    report = go(root)
    assert report.status == "incomplete"
    assert report.tables[0].ledger.loaded > 30
    told = load_of(report)
    assert told.error_class == "transient"
    for _ in range(5):
        report = go(root)
    assert "not called" in str(load_of(report).error), "the breaker has opened"
    path.write_text(text)
    from headrace.run.runner import open_catalog
    from headrace.spec.load import load

    with open_catalog(load(root)) as catalog:
        state = catalog.breaker("target w")
        from dataclasses import replace

        catalog.keep_breaker("target w", {"failures": 0, "opened_at": None, "last_error": ""})
        assert replace(state).failures >= 5
    assert go(root).status == "success"
    agree(root, place)
