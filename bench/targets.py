"""Publishing a table to PostgreSQL: how near it comes to a bare COPY of the same rows.

    python bench/targets.py [--rows 1000000]

The limit is psql's COPY FROM a CSV file of the same columns into an empty table, and then a unique index.
What Headrace does beside that: it reads the table's files, writes the CSV, adds five columns of origin,
counts every row, and moves the target's record in the same transaction. The second figure is a run of which
1% of the rows are new or changed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import duckdb
from database import CONTRACT, measure, server

from headrace.run.report import LoadResult
from headrace.run.runner import run
from headrace.spec.load import load

PIPELINE = """
name: bench
sources:
  orders: {{type: files, path: data/*.parquet}}
targets:
  w: {{type: postgres, url: "{dsn}", schema: shop}}
tables:
  orders:
    from: orders
    keys: [id]
    to: w
    contract:
{contract}"""
ROWS = """select i as id, (i * 7919 % 100000)::int as customer,
['open', 'paid', 'sent', 'returned'][1 + i % 4] as status,
((i * 31 % 1000000) / 100)::decimal(12,2) as amount,
timestamptz '2026-01-01 00:00+00' + to_seconds(i * 7) as placed_at, i % 3 = 0 as paid,
['DE', 'FR', 'US', 'JP', 'BR'][1 + i % 5] as country,
case when i % 4 > 0 then 'note {word} ' || md5(i::text) end as note from range({low}, {high}) t(i)"""
TABLE = """create table {name} (id bigint, customer integer, status text, amount numeric(12,2),
placed_at timestamptz, paid boolean, country text, note text)"""


def put(path: Path, low: int, high: int, word: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ROWS.format(low=low, high=high, word=word)
    duckdb.execute(f"copy ({rows}) to '{path}' (format {path.suffix[1:]})")


def published(root: Path) -> LoadResult:
    report = run(load(root))
    assert report.status == "success", report
    (found,) = report.loads
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with server() as database, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        root = Path(folder)
        put(root / "all.csv", 0, rows)
        put(root / "data/0.parquet", 0, rows)
        (root / "pipeline.yml").write_text(PIPELINE.format(dsn=database.dsn, contract=CONTRACT))
        psql = f"{database.server.bin}/psql", database.dsn, "-qc"
        limits = []
        for name in ("warm", "a", "b"):
            database.sql(TABLE.format(name=name))
            begun = time.monotonic()
            with (root / "all.csv").open("rb"):
                copy = f"\\copy {name} from '{root}/all.csv' (format csv, header)"
                measure([*psql, copy], root, out=Path(os.devnull))
            measure([*psql, f"create unique index on {name} (id)"], root, out=Path(os.devnull))
            limits.append(time.monotonic() - begun)
        limit = min(limits[1:])
        first = published(root)
        assert database.sql("select count(*), sum(amount) from shop.orders") == database.sql(
            "select count(*), sum(amount) from a"
        )
        put(root / "data/1.parquet", rows - rows // 200, rows + rows // 200, "new")
        second = published(root)
        print(f"{rows:,} rows, {(root / 'all.csv').stat().st_size / 1e6:.0f} MB of CSV")
        print(f"COPY and index   {limit:6.1f} s")
        print(f"first load       {first.seconds:6.1f} s   {first.seconds / limit:.2f} times the limit")
        print(f"1% new, changed  {second.seconds:6.1f} s   {second.sent:,} rows sent")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
