"""A sum of each minute over two million rows: all at once, by small batches, and late rows afterwards.

    python bench/windows.py --rows 2000000 --batch 100000

The rows lie in a silver table of one Delta commit a batch, as a run would leave it. What is measured is the
stream's own epochs: plan, computation, Delta commit with fsync, done record. The sums are compared with one
GROUP BY over all rows at the end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from headrace.run.report import silent
from headrace.run.runner import open_storage, run
from headrace.run.windows import refine_windows, windowing
from headrace.spec.load import load

PIPELINE = """
name: bench
sources:
  sales: {type: files, path: data/*.parquet}
tables:
  sales:
    from: sales
    contract:
      columns:
        event_id: {type: bigint, required: true}
        store_id: {type: integer, required: true}
        amount:   {type: "decimal(12,2)", required: true}
        order_ts: {type: timestamp, required: true}
streams:
  revenue_per_minute:
    from: sales
    window: {tumbling: 1m, time: order_ts, lateness: 30s}
    group_by: [store_id]
    select: {revenue: sum(amount), orders: count(*)}
"""
STORES = 20


def write(root: Path, name: str, first: int, rows: int, back: int = 0) -> None:
    """Events of 100 a second, in an order scrambled by some seconds; `back` seconds earlier."""
    duckdb.execute(
        f"copy (select i as event_id, (i * 7919 % {STORES})::integer as store_id, "
        f"(i % 10007 / 100)::decimal(12,2) as amount, "
        f"timestamptz '2026-01-01 00:00:00+00' + to_microseconds((i * 10000 + hash(i)::hugeint % 5000000 "
        f"- {back * 1_000_000})::bigint) as order_ts from range({first}, {first + rows}) t(i)) "
        f"to '{root / 'data' / name}' (format parquet)"
    )


def land(root: Path) -> None:
    report = run(load(root), select=["land:sales", "refine:sales"])
    assert report.status == "success", report


def windows(root: Path) -> tuple[float, float, Any]:
    """Wall and CPU seconds of one epoch of the stream, and its report."""
    project = load(root)
    storage = open_storage(project)
    wall, cpu = time.monotonic(), time.process_time()
    with windowing(project, "revenue_per_minute", storage, root / "scratch", silent) as work:
        report = refine_windows(work)
    return time.monotonic() - wall, time.process_time() - cpu, report


def told(what: str, rows: int, wall: float, cpu: float, report: Any) -> None:
    rate = rows / cpu / 1000
    print(
        f"{what:<28} {rows:>9,} rows  {wall:6.2f} s  {cpu:6.2f} CPU s  {rate:8,.0f} thousand rows/CPU s  "
        f"{report.ledger.read:,} windows, {report.late:,} late"
    )


def compare(root: Path) -> None:
    silver = root / "lake" / "silver"
    from deltalake import DeltaTable

    rows, sums = (DeltaTable(str(silver / name)).file_uris() for name in ("sales", "revenue_per_minute"))
    wrong = duckdb.execute(
        "select count(*) from (select time_bucket(interval 1 minute, order_ts) w, store_id, sum(amount) r, "
        "count(*) n from read_parquet(?) group by all) a full join read_parquet(?) b "
        "on w = window_start and a.store_id = b.store_id "
        "where r is distinct from revenue or n is distinct from orders",
        [rows, sums],
    ).fetchone()
    assert wrong == (0,), wrong


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rows", type=int, default=2_000_000)
    options.add_argument("--batch", type=int, default=100_000)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        root = Path(folder)
        (root / "data").mkdir()
        (root / "pipeline.yml").write_text(PIPELINE)
        wall = cpu = 0.0
        report: Any = None
        for first in range(0, chosen.rows, chosen.batch):
            write(root, f"{first:012}.parquet", first, chosen.batch)
            land(root)
            one = windows(root)
            wall, cpu, report = wall + one[0], cpu + one[1], one[2]
        told(f"batches of {chosen.batch:,}", chosen.rows, wall, cpu, report)
        write(root, "late.parquet", chosen.rows, 1_000, back=chosen.rows // 200)
        land(root)
        told("1,000 late rows", 1_000, *windows(root))
        project = load(root)
        before = time.monotonic(), time.process_time()
        with windowing(
            project, "revenue_per_minute", open_storage(project), root / "scratch", silent
        ) as work:
            report = refine_windows(work, rebuild="measured")
        spent = time.monotonic() - before[0], time.process_time() - before[1]
        told("all at once", chosen.rows, *spent, report)
        compare(root)


if __name__ == "__main__":
    main()
