"""What grows with the number of things, not with their size: files, tables, runs; by the command line.

    python bench/scale.py files --count 10000     # so many small files land and refine
    python bench/scale.py tables --count 1000     # a run of so many tables that has nothing to do
    python bench/scale.py runs --count 10000      # `headrace status` with so many runs in the catalog

Each prints wall and CPU seconds and the peak of memory of every command, and fails if a count is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from headrace.catalog.catalog import Catalog
from headrace.catalog.models import (
    DataQualityResult,
    LedgerEntry,
    PipelineRun,
    RunMetrics,
    TaskExecution,
    new_run_id,
)
from headrace.run.runner import open_catalog
from headrace.spec.load import load

CONTRACT = """
    contract:
      columns:
        order_id:   {type: integer, required: true}
        customer:   {type: text, clean: [trim]}
        amount:     {type: "decimal(10,2)", min: 0}
        updated_at: {type: timestamp}
"""
ONE = f"""
name: small
sources:
  orders: {{type: files, path: "data/**/*.csv"}}
tables:
  orders:
    from: orders
    keys: [order_id]
    latest_by: updated_at{CONTRACT}"""
ROWS = 10
"""Of each small file; the last one's amount is no number."""


@dataclass(frozen=True)
class Spent:
    what: str
    wall: float
    cpu: float
    peak: float
    """MB."""
    out: str

    def __str__(self) -> str:
        return f"| {self.what} | {self.wall:.2f} | {self.cpu:.2f} | {self.peak:.0f} |"


def headrace(root: Path, what: str, *arguments: str) -> Spent:
    """One command in a process of its own; anything but success ends the measurement."""
    with tempfile.TemporaryFile() as out:
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "headrace", *arguments], cwd=root, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode()
    if process.returncode:
        raise SystemExit(f"{what}: exit code {process.returncode}\n{text[-2000:]}")
    return Spent(what, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text)


def small_file(number: int) -> str:
    lines = [
        f"{number * ROWS + n},c{n},{n}.50,2026-01-{1 + number % 28:02}T00:00:{n:02}" for n in range(ROWS - 1)
    ]
    return "\n".join(
        ["order_id,customer,amount,updated_at", *lines, f"{number},c,none,2026-01-01T00:00:00\n"]
    )


def files(root: Path, count: int) -> list[Spent]:
    """`count` files in folders of 500, then one more, then nothing."""
    (root / "pipeline.yml").write_text(ONE)
    for number in range(count):
        folder = root / "data" / f"{number // 500:04}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06}.csv").write_text(small_file(number))
    found = [headrace(root, f"{count:,} files land and refine", "run", "--json")]
    (root / "data" / "one-more.csv").write_text(small_file(count))
    found.append(headrace(root, "one file more", "run", "--json"))
    found.append(headrace(root, "nothing new", "run", "--json"))
    for spent, read in zip(found, (count, 1, 0), strict=True):
        (table,) = json.loads(spent.out)["tables"]
        wanted = (read * ROWS, read * (ROWS - 1), read)
        counted = tuple(table["ledger"][word] for word in ("read", "inserted", "quarantined"))
        if counted != wanted:
            raise SystemExit(f"{spent.what}: read, inserted, quarantined are {counted}, not {wanted}")
    return found


def tables(root: Path, count: int) -> list[Spent]:
    """`count` sources and tables, each with one file."""
    sources = "".join(f"  s{n}: {{type: files, path: data/s{n}/*.csv}}\n" for n in range(count))
    entry = "  t{n}:\n    from: s{n}\n    keys: [order_id]\n    latest_by: updated_at" + CONTRACT
    body = "".join(entry.replace("{n}", str(n)) for n in range(count))
    (root / "pipeline.yml").write_text(f"name: wide\nsources:\n{sources}tables:\n{body}")
    for number in range(count):
        folder = root / "data" / f"s{number}"
        folder.mkdir(parents=True)
        (folder / "a.csv").write_text(small_file(number))
    found = [headrace(root, f"{count:,} tables, first run", "run", "--json")]
    found.append(headrace(root, f"{count:,} tables, nothing new", "run", "--json"))
    (root / "data" / "s0" / "b.csv").write_text(small_file(count))
    found.append(headrace(root, "one file more", "run", "--json"))
    for spent, busy in zip(found, (count, 0, 1), strict=True):
        report = json.loads(spent.out)
        worked = sum(not table["noop"] for table in report["tables"])
        if (len(report["tables"]), worked) != (count, busy):
            raise SystemExit(f"{spent.what}: {worked} of {len(report['tables'])} tables worked, not {busy}")
    return [*found, headrace(root, "status", "status")]


def runs(root: Path, count: int) -> list[Spent]:
    """A catalog with `count` runs of one table, as runs themselves write them."""
    (root / "pipeline.yml").write_text(ONE)
    (root / "data").mkdir()
    (root / "data" / "a.csv").write_text(small_file(0))
    headrace(root, "first run", "run", "--json")
    with open_catalog(load(root)) as catalog:
        remember(catalog, count - 1)
    found = [
        headrace(root, f"status with {count:,} runs", "status"),
        headrace(root, f"status --format json with {count:,} runs", "status", "--format", "json"),
        headrace(
            root, f"query over {count:,} runs", "query", "select count(*) as n from runs", "--format", "json"
        ),
        headrace(root, f"a run after {count:,} runs", "run", "--json"),
    ]
    ((counted,),) = (row.values() for row in json.loads(found[2].out))
    if counted != count:
        raise SystemExit(f"the catalog holds {counted} runs, not {count}")
    return found


def remember(catalog: Catalog, count: int) -> None:
    """Writes `count` runs, one a minute, with what the run of one table writes."""
    started = datetime.now(UTC) - timedelta(minutes=count + 1)
    records: list[PipelineRun | TaskExecution | LedgerEntry | DataQualityResult] = []
    for number in range(count):
        at = started + timedelta(minutes=number)
        run_id, end = new_run_id(at), at + timedelta(seconds=1)
        found = RunMetrics(records_read=10, inserted=9, quarantined=1, files=1, bytes=400, seconds=1.0)
        records.append(PipelineRun(run_id, "small", at, end, "success", found, host="bench", pid=1))
        records += [
            TaskExecution(task, run_id, at, end, "success") for task in ("land:orders", "refine:orders")
        ]
        records.append(LedgerEntry(run_id, "orders", number, number, read=10, inserted=9, quarantined=1))
        records.append(DataQualityResult("orders", "amount.type", "fail", 10, 1, end, run_id))
    catalog.record(records)


MEASURES: dict[str, Callable[[Path, int], list[Spent]]] = {"files": files, "tables": tables, "runs": runs}
DEFAULTS = {"files": 10_000, "tables": 1000, "runs": 10_000}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=[*MEASURES, "all"])
    parser.add_argument("--count", type=int)
    parser.add_argument("--keep", type=Path, help="Work in this empty folder and leave it there.")
    chosen = parser.parse_args()
    print("| | wall s | CPU s | peak MB |\n|---|--:|--:|--:|")
    for what in MEASURES if chosen.what == "all" else [chosen.what]:
        with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
            root = chosen.keep or Path(scratch)
            root.mkdir(parents=True, exist_ok=True)
            for spent in MEASURES[what](root, chosen.count or DEFAULTS[what]):
                print(spent, flush=True)


if __name__ == "__main__":
    main()
