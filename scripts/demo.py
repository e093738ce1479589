"""`make demo`: two deliveries of generated sales files through examples/sales, and a check of what comes out.

The generator works out the outcome by itself, row by row; this script compares every ledger, the broken
rules, the sums of silver and the star schema with it, and fails on the first difference.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from headrace.cli.output import run_lines, where_to_look
from headrace.cli.progress import progress
from headrace.run.runner import run
from headrace.spec.load import load
from headrace.testing.generate import Truth, generate

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".demo" / "sales"
SEED = 7
LIMIT = 2.0
"""Seconds that a run without news may take."""

TOP = """
select s.store_region, date_trunc('month', f.order_date) as month, count(*) as orders,
       sum(f.total_amount) as revenue
from gold.fact_sales f join gold.dim_store s using (store_key)
group by all order by month, revenue desc limit 8
"""
HISTORY = """
select product_id, product_category, unit_price, valid_from, valid_to, is_current
from gold.dim_product
where product_id in (
    select product_id from gold.dim_product group by all having count(*) > 2 order by 1 limit 1
)
order by valid_from
"""


class Different(Exception):
    """The outcome is not what it must be."""


def headrace(*args: str, show: bool = False) -> str:
    """Runs a command in the demo's folder and returns what it printed."""
    if show:
        shown = " ".join(f'"{" ".join(arg.split())}"' if " " in arg else arg for arg in args)
        print(f"\n$ headrace {shown}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "headrace", *args], cwd=HOME, text=True, stdout=subprocess.PIPE, check=False
    )
    if show:
        print(done.stdout, end="", flush=True)
    if done.returncode:
        raise Different(f"headrace {args[0]} ended with exit code {done.returncode}")
    return done.stdout


def rows(sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(headrace("query", sql, "-f", "json"), parse_float=Decimal)
    return found


def same(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise Different(f"{what}:\n  found    {found}\n  expected {expected}")


def without_zeros(counts: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(count) for name, count in counts.items() if count}


def deliver(phase: int) -> None:
    """Generates the files of one delivery, runs the pipeline on them, and compares all of it."""
    truth = generate(HOME / "data", seed=SEED, phase=phase)
    print(f"\n== delivery {phase}: {len(truth.files)} sales files of five stores in three formats ==")
    print("\n$ headrace run", flush=True)
    with progress(quiet=False) as listener:
        report = run(load(HOME), listener=listener)
    print("\n".join([*run_lines(report), "", *where_to_look(report, HOME)]))
    same("status", report.status, "success")
    ledgers = {table.name: without_zeros(asdict(table.ledger)) for table in report.tables}
    same("ledgers", ledgers, {table: without_zeros(truth.run.get(table, {})) for table in ledgers})
    (sales,) = (table for table in report.tables if table.name == "sales")
    same("broken rules", dict(sales.by_rule), dict(truth.by_rule))
    same("warnings", dict(sales.warned), dict(truth.warned))
    compare(truth)


def compare(truth: Truth) -> None:
    """Silver and gold say exactly what the generator expects."""
    (silver,) = rows("select count(*) as n, sum(total_amount) as total from silver.sales")
    same("rows of silver.sales", silver["n"], truth.state["sales"])
    same("sum(total_amount)", silver["total"], Decimal(truth.state["total_amount"]))
    (history,) = rows("select count(*) as n from silver.sales_history")
    same("rows of silver.sales_history", history["n"], truth.state["sales_history"])
    sums: dict[str, dict[str, Any]] = {}
    for row in rows(
        "select store_id, strftime(order_date, '%Y-%m') as month, count(*) as n, sum(total_amount) as total "
        "from gold.fact_sales group by all order by all"
    ):
        cell = {"rows": row["n"], "total_amount": str(row["total"])}
        sums.setdefault(row["store_id"], {})[row["month"]] = cell
    same("orders and revenue by store and month", sums, truth.state["by_store_month"])
    for name, expected in truth.gold["dimensions"].items():
        (dim,) = rows(
            f"select count(*) as versions, count(distinct {name}_id) as members from gold.dim_{name} "
            f"where {name}_key <> '-1'"
        )
        (fact,) = rows(f"select count(*) as n from gold.fact_sales where {name}_key = '-1'")
        found = {**dim, "unknown": fact["n"]}
        same(f"dim_{name}", found, {key: expected[key] for key in ("versions", "members", "unknown")})


def no_news() -> None:
    started = time.monotonic()
    told = headrace("run", show=True)
    seconds = time.monotonic() - started
    same(
        "a run without news", {line.split("  ", 1)[1].strip() for line in told.splitlines()}, {"0 new files"}
    )
    print(f"{seconds:.1f} s from start to end of the process")
    if seconds > LIMIT and os.environ.get("STRICT") == "1":
        raise Different(f"a run without news took {seconds:.1f} s, more than {LIMIT} s")


def main() -> int:
    if HOME.exists():
        shutil.rmtree(HOME)
    shutil.copytree(
        ROOT / "examples" / "sales", HOME, ignore=shutil.ignore_patterns("lake", "data", "target")
    )
    try:
        deliver(1)
        deliver(2)
        no_news()
        headrace("quarantine", "list", show=True)
        headrace("query", TOP, show=True)
        headrace("query", HISTORY, show=True)
    except Different as difference:
        print(f"\ndemo FAILED: {difference}", file=sys.stderr)
        return 1
    print("\nEvery ledger, sum, dimension and unknown member is what the generator says it must be.")
    print(f"Look around: cd {HOME.relative_to(Path.cwd()) if HOME.is_relative_to(Path.cwd()) else HOME}")
    print("  headrace status                        tables and runs")
    print("  headrace quarantine show sales -n 5    bad rows, their lines and reasons")
    print("  lake/gold/sales.duckdb                 the star schema; lake/silver/sales is a Delta table")
    return 0


if __name__ == "__main__":
    sys.exit(main())
