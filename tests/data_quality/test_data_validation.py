"""The whole of a real data set through its contract: every row is accounted for, to the last decimal."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path

import duckdb
import pytest
import yaml

from headrace.spec.pipeline import TableSpec
from headrace.sql import checked_sql, compile_table, expectations, winners_sql
from tests.unit.test_sql_golden import connect

Data = Callable[[str], Path]

SALES = """
columns:
  invoice_no: {from: InvoiceNo, required: true}
  stock_code: {from: StockCode, required: true}
  description: {from: Description}
  quantity: {type: integer, from: Quantity}
  invoice_date: {type: timestamp, from: InvoiceDate, timezone: Europe/London, required: true}
  unit_price: {type: "decimal(12,3)", from: UnitPrice}
  customer_id: {type: integer, from: CustomerID, formats: [whole_decimal]}
  country: {from: Country}
  amount: {type: "decimal(18,3)", derive: quantity * unit_price}
rules:
  valid_sale:
    check: >-
      customer_id is not null and quantity > 0 and unit_price > 0
      and not starts_with(invoice_no, 'C') and not starts_with(invoice_no, 'A')
expect:
  - {sum: amount, between: ["8887208.894", "8887208.894"]}
  - {rows: [392692, 392692]}
"""


@pytest.fixture
def retail(shared_data: Data) -> duckdb.DuckDBPyConnection:
    return loaded(shared_data("online_retail") / "online_retail.csv.gz")


@cache
def loaded(file: Path) -> duckdb.DuckDBPyConnection:
    con = connect()
    con.execute("SET threads = 2")
    spec = TableSpec.model_validate({"from": "s", "contract": yaml.safe_load(SALES), "keys": ["*"]})
    step = compile_table("sales", spec)
    texts = ", ".join(f'"{given[0]}" AS "{column}"' for column, given in step.inputs.items())
    con.execute(
        f"CREATE TEMP TABLE staged AS SELECT {texts}, 's' _source, 'f' _file, row_number() OVER () _line, "
        "TIMESTAMPTZ '2026-01-01' _ingested_at FROM read_csv(?, all_varchar = true, header = true)",
        [str(file)],
    )
    con.execute(f"CREATE TEMP TABLE checked AS {checked_sql(step)}")
    con.execute("CREATE TEMP TABLE good AS SELECT * FROM checked WHERE _broken = ''")
    con.execute(f"CREATE TEMP TABLE loaded AS {winners_sql(step, checked='good')}")
    return con


def test_every_sale_is_accounted_for(retail: duckdb.DuckDBPyConnection) -> None:
    read, quarantined, good = retail.execute(
        "SELECT count(*), count(*) FILTER (_broken <> ''), count(*) FILTER (_broken = '') FROM checked"
    ).fetchall()[0]
    loaded, total = retail.execute("SELECT count(*), sum(amount) FROM loaded").fetchall()[0]
    assert (read, loaded, good - loaded, quarantined) == (541909, 392692, 5192, 144025)
    assert total == Decimal("8887208.894")
    assert retail.execute("SELECT DISTINCT _broken FROM checked ORDER BY 1").fetchall() == [
        ("",),
        ("valid_sale;",),
    ]


def test_no_value_changed_on_its_way(retail: duckdb.DuckDBPyConnection) -> None:
    changed = retail.execute(
        """SELECT count(*) FROM checked c JOIN staged s USING (_line)
        WHERE CAST(s.quantity AS DOUBLE) IS DISTINCT FROM c.quantity
        OR CAST(s.unit_price AS DOUBLE) IS DISTINCT FROM CAST(c.unit_price AS DOUBLE)
        OR CAST(CAST(s.customer_id AS DOUBLE) AS INTEGER) IS DISTINCT FROM c.customer_id
        OR nullif(trim(s.description), '') IS NULL <> (c.description IS NULL)
        OR (c.description IS NOT NULL AND s.description <> c.description)
        OR timezone('Europe/London', c.invoice_date) <> CAST(s.invoice_date AS TIMESTAMP)"""
    ).fetchall()
    assert changed == [(0,)]


def test_set_rules_hold_on_what_was_loaded(retail: duckdb.DuckDBPyConnection) -> None:
    spec = TableSpec.model_validate({"from": "s", "contract": yaml.safe_load(SALES), "keys": ["*"]})
    found = expectations(compile_table("sales", spec), "duckdb", "loaded")
    assert [retail.execute(e.sql).fetchall()[0] for e in found] == [
        (True, "8887208.894"),
        (True, "392692 rows"),
    ]


def test_the_winner_of_duplicates_is_the_same_in_any_order(retail: duckdb.DuckDBPyConnection) -> None:
    spec = TableSpec.model_validate({"from": "s", "contract": yaml.safe_load(SALES), "keys": ["*"]})
    retail.execute("CREATE TEMP TABLE shuffled AS SELECT * FROM good ORDER BY hash(_line)")
    again = winners_sql(compile_table("sales", spec), checked="shuffled")
    assert retail.execute(f"SELECT count(*) FROM ({again} EXCEPT SELECT * FROM loaded)").fetchall() == [(0,)]
