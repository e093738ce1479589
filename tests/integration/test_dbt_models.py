"""The dbt project of examples/sales over a hand-made silver, against the expected outcome, exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from headrace.gold.dbt import GoldResult, build, docs, freshness
from headrace.gold.pins import pinned
from headrace.testing.generate import Truth, generate
from headrace.testing.storefiles import Row
from headrace.testing.truth import TRACKED, State, gold, summary

pytest.importorskip("dbt.adapters.duckdb")

PROJECT = Path(__file__).parents[2] / "examples" / "sales" / "dbt"
TYPES = {
    "order_ts": "timestamptz",
    "updated_at": "timestamptz",
    "unit_price": "decimal(10,2)",
    "quantity": "integer",
    "discount": "decimal(10,2)",
    "total_amount": "decimal(12,2)",
}


class Silver:
    """Parquet files as Headrace would leave them, and `publish` over the newest of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epochs: dict[str, int] = {}
        self.version = 0
        folder.mkdir(parents=True)

    def load(self, data: Path, phase: int | None, rows: int = 300) -> Truth:
        """Generates files and leaves what one run over them leaves: rows that changed carry its epoch."""
        truth = generate(data, seed=11, days=30, rows=rows, phase=phase)
        self.put(truth.rows, truth.history, sorted(self._registered(data)))
        return truth

    def put(self, rows: Sequence[Row], history: Sequence[Row], products: Iterable[str]) -> None:
        self.version += 1
        for row in rows:
            self.epochs.setdefault(self._stamp(row), self.version)
        self._write("sales", (self._typed(row) for row in rows))
        self._write("sales_history", (self._typed(row) for row in history))
        self._write("products", ({"product_id": p, "_epoch": self.version} for p in products))

    def remove(self, order_id: str) -> None:
        """As if the file that held the order had been retracted."""
        old = self.version
        self.version += 1
        for table in ("sales", "sales_history", "products"):
            where = "" if table == "products" else f" where order_id <> '{order_id}'"
            duckdb.sql(f"copy (from '{self._file(table, old)}'{where}) to '{self._file(table)}'")

    def pins(self) -> dict[str, dict[str, int]]:
        return {name: {"version": self.version, "epoch": self.version} for name in ("sales", "products")}

    def publish(self, path: Path) -> None:
        assert not path.exists()
        with duckdb.connect(str(path)) as con:
            con.execute("create schema silver")
            for table in ("sales", "sales_history", "products"):
                con.execute(
                    f"create view silver.{table} as select * from read_parquet(['{self._file(table)}'])"
                )

    def _typed(self, row: Row) -> dict[str, Any]:
        epoch = self.epochs.get(self._stamp(row), self.version)
        return {**row, "order_date": row["order_ts"].date(), "_epoch": epoch}

    def _stamp(self, row: Row) -> str:
        return f"{row['order_id']} {row['updated_at']} {row['total_amount']}"

    def _registered(self, folder: Path) -> Iterable[str]:
        for path in sorted((folder / "reference").glob("products*.csv")):
            yield from (line.split(",")[0] for line in path.read_text().splitlines()[1:])

    def _file(self, table: str, version: int | None = None) -> Path:
        return self.folder / f"{table}-{version or self.version}.parquet"

    def _write(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        draft = self.folder / "draft.jsonl"
        draft.write_text("".join(json.dumps(dict(row), default=str) + "\n" for row in rows))
        if table == "products":
            columns = "{'product_id': 'varchar', '_epoch': 'bigint'}"
        else:
            names = json.loads(draft.open().readline())
            kinds = {n: TYPES.get(n, "varchar") for n in names} | {"order_date": "date", "_epoch": "bigint"}
            columns = str(kinds)
        with duckdb.connect() as con:
            con.execute("set timezone = 'UTC'")
            con.execute(
                f"copy (select *, now() as _ingested_at from read_json('{draft}', columns={columns}, "
                f"format='newline_delimited')) to '{self._file(table)}'"
            )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gold")


def ask(database: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(database), read_only=True) as con:
        return con.execute(sql).fetchall()


def failed(result: GoldResult) -> list[str]:
    return [f"{n.name}: {n.status} {n.message}" for n in result.nodes if n.status not in ("success", "pass")]


def check(database: Path, truth: Truth) -> None:
    """The gold file says exactly what the generator expects."""
    expected = truth.gold
    assert ask(database, "select count(*), sum(total_amount) from fact_sales") == [
        (expected["fact_sales"], Decimal(truth.state["total_amount"]))
    ]
    sums: dict[str, dict[str, dict[str, Any]]] = {}
    for store, month, rows, total in ask(
        database,
        "select store_id, strftime(full_date, '%Y-%m'), count(*), sum(total_amount) "
        "from fact_sales join dim_date using (date_key) group by all order by all",
    ):
        sums.setdefault(store, {})[month] = {"rows": rows, "total_amount": str(total)}
    assert sums == truth.state["by_store_month"]
    for name, tracked in TRACKED.items():
        wanted = expected["dimensions"][name]
        unknown = ask(database, f"select count(*) from fact_sales where {name}_key = '-1'")
        assert unknown == [(wanted["unknown"],)]
        lines: dict[str, list[dict[str, Any]]] = {}
        looks = ", ".join(f"any_value(dim.{column})" for column in tracked)
        for member, since, facts, *look in ask(
            database,
            f"select dim.{name}_id, valid_from, count(order_id), {looks} "
            f"from dim_{name} dim left join fact_sales using ({name}_key) where {name}_key <> '-1' "
            f"group by {name}_key, dim.{name}_id, valid_from order by 1, 2",
        ):
            texts = [None if value is None else str(value) for value in look]
            version = {
                "valid_from": since.isoformat(),
                "facts": facts,
                **dict(zip(tracked, texts, strict=True)),
            }
            lines.setdefault(member, []).append(version)
        assert lines == wanted["timelines"]
        assert ask(database, f"select count(*) from dim_{name} where is_current") == [
            (wanted["members"] + 1,)
        ]


def test_phases_give_what_one_load_gives_and_both_are_right(home: Path) -> None:
    database = home / "lake" / "gold" / "gold.duckdb"
    silver = Silver(home / "silver")
    first = silver.load(home / "data", 1, rows=3000)
    result = build(PROJECT, database, silver.publish, pins=silver.pins())
    assert failed(result) == []
    assert result.passed
    assert result.full
    rows = {node.name: node.rows for node in result.nodes if node.kind == "model"}
    assert rows["fact_sales"] == first.gold["fact_sales"]
    assert rows["dim_product"] == first.gold["dimensions"]["product"]["versions"] + 1
    assert rows["stg_sales_silver"] is None
    check(database, first)

    # the same silver again: nothing is done, not a byte changes
    before = database.stat()
    again = build(PROJECT, database, silver.publish, pins=silver.pins())
    assert again.noop
    assert again.passed
    assert not again.nodes
    assert database.stat() == before

    # without pins it builds, and comes to the same
    assert build(PROJECT, database, silver.publish).passed
    check(database, first)

    # late orders, corrections (prices too), and a product that becomes known
    assert build(PROJECT, database, silver.publish, pins=silver.pins()).passed
    second = silver.load(home / "data", 2, rows=3000)
    wrong_before = first.gold["dimensions"]["product"]["timelines"]
    assert any(
        version not in second.gold["dimensions"]["product"]["timelines"].get(member, [])
        for member, versions in wrong_before.items()
        for version in versions
    )
    assert first.gold["dimensions"]["product"]["unknown"] > 0
    result = build(PROJECT, database, silver.publish, pins=silver.pins())
    assert failed(result) == []
    assert not result.full
    check(database, second)

    # from nothing, in one load
    fresh = home / "fresh" / "gold.duckdb"
    other = Silver(home / "other")
    whole = other.load(home / "whole", None, rows=3000)
    assert build(PROJECT, fresh, other.publish, pins=other.pins()).passed
    check(fresh, whole)
    assert whole.gold == second.gold

    # a retracted order leaves gold too
    gone = second.rows[0]["order_id"]
    silver.remove(gone)
    result = build(PROJECT, database, silver.publish, pins=silver.pins())
    assert failed(result) == []
    assert not result.full
    assert ask(database, f"select count(*) from fact_sales where order_id = '{gone}'") == [(0,)]
    assert ask(database, "select count(*) from fact_sales") == [(second.gold["fact_sales"] - 1,)]


def test_gold_stands_alone_and_knows_its_pins(home: Path) -> None:
    database, silver = home / "alone" / "gold.duckdb", Silver(home / "silver-alone")
    silver.load(home / "data-alone", 1)
    assert build(PROJECT, database, silver.publish, pins=silver.pins()).passed
    shutil.rmtree(silver.folder)
    names = ask(database, "select schema_name || '.' || table_name from duckdb_tables()")
    for (name,) in names:
        assert ask(database, f"select count(*) >= 0 from {name}") == [(True,)]
    assert ask(database, "select count(*) from duckdb_views() where not internal") == [(0,)]
    pins = dict(ask(database, "select name, value from _headrace"))
    assert json.loads(pins["silver.sales"]) == {"version": 1, "epoch": 1}
    noted = pinned(database)
    assert noted is not None
    assert dict(noted.silver) == silver.pins()
    assert sorted(p.name for p in database.parent.iterdir()) == [
        ".gold-build",
        ".gold.duckdb.pins",
        "gold.duckdb",
    ]


def test_a_failing_test_leaves_the_old_file(home: Path) -> None:
    database, silver = home / "kept" / "gold.duckdb", Silver(home / "silver-kept")
    truth = silver.load(home / "data-kept", 1)
    assert build(PROJECT, database, silver.publish, pins=silver.pins()).passed
    before = database.read_bytes()

    def publish_wrong(path: Path) -> None:
        silver.publish(path)
        with duckdb.connect(str(path)) as con:
            con.execute(
                "create or replace view silver.sales as select * replace (total_amount + 1 as total_amount) "
                f"from read_parquet('{silver._file('sales')}')"
            )

    result = build(
        PROJECT, database, publish_wrong, pins={"sales": {"version": 9, "epoch": 9}}, full_refresh=True
    )
    assert not result.passed
    assert any(n.name == "test_business_logic_validation" and n.failures for n in result.nodes)
    assert database.read_bytes() == before
    check(database, truth)


def test_readers_are_not_locked_out_while_gold_is_built(home: Path) -> None:
    database, silver = home / "read" / "gold.duckdb", Silver(home / "silver-read")
    silver.load(home / "data-read", 1)
    assert build(PROJECT, database, silver.publish, pins=silver.pins()).passed
    seen: list[int] = []

    def publish_and_read(path: Path) -> None:
        seen.append(ask(database, "select count(*) from fact_sales")[0][0])
        silver.publish(path)

    assert build(PROJECT, database, publish_and_read, full_refresh=True).passed
    assert seen[0] > 0


def test_freshness_and_docs(home: Path) -> None:
    database, silver = home / "docs" / "gold.duckdb", Silver(home / "silver-docs")
    silver.load(home / "data-docs", 1)
    fresh = freshness(PROJECT, database, silver.publish)
    assert {(n.name, n.status) for n in fresh.nodes} == {("sales", "pass"), ("sales_history", "pass")}
    assert not database.exists()
    page = docs(PROJECT, database, silver.publish, home / "site")
    assert "fact_sales" in page.read_text()


def test_a_build_in_a_thread_prints_nothing(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    database, silver = home / "thread" / "gold.duckdb", Silver(home / "silver-thread")
    silver.load(home / "data-thread", 1)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(build, PROJECT, database, silver.publish, pins=silver.pins()).result()
    assert failed(result) == []
    assert capfd.readouterr() == ("", "")


def test_a_table_that_went_back_is_built_anew(home: Path) -> None:
    database, silver = home / "back" / "gold.duckdb", Silver(home / "silver-back")
    first = silver.load(home / "data-back", 1)
    early = silver.pins()
    silver.load(home / "data-back", 2)
    assert build(PROJECT, database, silver.publish, pins=silver.pins()).passed
    silver.version = 1
    result = build(PROJECT, database, silver.publish, pins=early)
    assert failed(result) == []
    assert result.full
    check(database, first)


def test_sightings_of_the_same_second_are_settled_by_the_later_update(home: Path) -> None:
    database, silver = home / "ties" / "gold.duckdb", Silver(home / "silver-ties")
    truth = generate(home / "data-ties", seed=3, days=10, rows=200)
    second = truth.rows[0]["order_ts"]
    state = State({r["order_id"]: r for r in truth.rows}, {}, {r["product_id"] for r in truth.rows})
    for number, row in enumerate(truth.rows[:40]):
        looks = {"store_id": "S01", "product_id": "P0001", "customer_id": "C000001"}
        looks |= {"store_name": f"Name {number % 7}", "unit_price": Decimal(f"{number}.00")}
        looks |= {"total_amount": number * row["quantity"] - Decimal(0), "discount": Decimal(0)}
        state.rows[row["order_id"]] = {**row, **looks, "order_ts": second, "updated_at": second}
    state.history = {(r["order_id"], r["updated_at"]): r for r in state.rows.values()}
    silver.put(list(state.rows.values()), list(state.history.values()), sorted(state.products))
    result = build(PROJECT, database, silver.publish)
    assert failed(result) == []
    check(database, replace(truth, state=summary(state), gold=gold(state)))
