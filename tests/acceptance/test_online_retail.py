"""The example on real data, as shipped: one file and its 305 days give the same tables, to the last digit."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COLUMNS = "invoice_no stock_code description quantity invoice_date unit_price customer_id country amount"
SALES = "select {} from silver.sales order by all"


def headrace(root: Path, *args: str, **env: str) -> str:
    command = [sys.executable, "-m", "headrace", *args]
    done = subprocess.run(command, cwd=root, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def asked(root: Path, sql: str, place: Path) -> list[dict[str, Any]]:
    told = headrace(root, "query", sql, "-f", "csv", ONLINE_RETAIL=str(place))
    return list(csv.DictReader(told.splitlines()))


Truth = tuple[dict[str, Decimal], dict[str, set[str]]]


@pytest.fixture
def truth(shared_data: Callable[[str], Path]) -> Truth:
    """Revenue by month and countries by customer, worked out in plain Python from the file."""
    months: dict[str, Decimal] = defaultdict(Decimal)
    countries: dict[str, set[str]] = defaultdict(set)
    with gzip.open(shared_data("online_retail") / "online_retail.csv.gz", "rt", newline="") as text:
        rows = csv.reader(text)
        assert len(next(rows)) == 8
        for invoice, _, _, quantity, moment, price, customer, country in set(map(tuple, rows)):
            if customer and invoice[0] not in "CA" and int(quantity) > 0 and Decimal(price) > 0:
                months[moment[:7]] += int(quantity) * Decimal(price)
                countries[customer.removesuffix(".0")].add(country)
    return dict(months), dict(countries)


def test_one_file_and_its_days_give_the_same_sales(
    shared_data: Callable[[str], Path], truth: Truth, tmp_path: Path
) -> None:
    data = shared_data("online_retail")
    with tarfile.open(data / "by-day.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    days = tmp_path / "by-day"
    assert len(list(days.glob("*.csv"))) == 305
    whole = tmp_path / "whole.csv.gz"
    shutil.copy(data / "online_retail.csv.gz", whole)

    found = {}
    for place in (whole, days):
        root = tmp_path / f"project-{place.name}"
        shutil.copytree(ROOT / "examples" / "online_retail", root)
        report = json.loads(headrace(root, "run", "--json", ONLINE_RETAIL=str(place)))
        (table,) = report["tables"]
        ledger = table["ledger"]
        assert ledger["read"] == 541_909
        assert ledger["inserted"] + ledger["updated"] == 392_692
        assert ledger["deduplicated"] == 5_192
        assert ledger["quarantined"] == 144_025
        assert asked(root, "select sum(amount) as total from silver.sales", place) == [
            {"total": "8887208.894"}
        ]
        found[place] = headrace(
            root,
            "query",
            SALES.format(COLUMNS.replace(" ", ", ")),
            "-f",
            "csv",
            ONLINE_RETAIL=str(place),
        )
        gold(root, place, *truth)
    assert found[whole].count("\n") == 392_692 + 1
    assert found[whole] == found[days]


def gold(root: Path, place: Path, months: dict[str, Decimal], countries: dict[str, set[str]]) -> None:
    told = asked(root, "select month, revenue from gold.monthly_revenue order by 1", place)
    assert {row["month"][:7]: Decimal(row["revenue"]) for row in told} == months
    moved = {customer for customer, seen in countries.items() if len(seen) > 1}
    told = asked(root, "select distinct customer_id from gold.dim_customer where not is_current", place)
    assert {row["customer_id"] for row in told} == moved
    told = asked(root, "select count(*) as n from gold.dim_customer where is_current", place)
    assert told == [{"n": str(len(countries))}]
