"""What the benches on PostgreSQL share: a server of their own, measured processes, a table of results."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from services import Database, Postgres, postgres_server, remove  # noqa: E402

COLUMNS = {
    "id": "bigint",
    "customer": "integer",
    "status": "text",
    "amount": "numeric(12,2)",
    "placed_at": "timestamptz",
    "paid": "boolean",
    "country": "text",
    "note": "text",
}
ROW = """i, (i * 7919 % 100000)::int, (array['open', 'paid', 'sent', 'returned'])[1 + i % 4],
  (i * 31 % 1000000) / 100.0, timestamptz '2026-01-01 00:00+00' + i * interval '7 seconds', i % 3 = 0,
  (array['DE', 'FR', 'US', 'JP', 'BR'])[1 + i % 5], case when i % 4 > 0 then 'note ' || md5(i::text) end"""
CONTRACT = """      nulls: []
      columns:
        id: {type: bigint, required: true}
        customer: {type: integer}
        status: {type: text, values: [open, paid, sent, returned]}
        amount: {type: "decimal(12,2)", min: 0}
        placed_at: {type: timestamp}
        paid: {type: boolean}
        country: {type: text}
        note: {type: text}
"""


@dataclass(frozen=True)
class Measure:
    wall: float
    cpu: float
    """Of the process itself, not of the server."""
    peak: float
    """MB."""


@contextmanager
def server() -> Iterator[Database]:
    """An empty database in a server that is stopped and deleted afterwards."""
    made: Postgres = postgres_server()
    try:
        yield made.database()
    finally:
        remove(made)


def create(database: Database, rows: int) -> None:
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    database.sql(
        f"create table orders ({columns}, primary key (id))",
        f"insert into orders select {ROW} from generate_series(1, {rows}::bigint) i",
        "vacuum analyze orders",
        "checkpoint",
    )


def measure(
    command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None, out: Path | None = None
) -> Measure:
    """Runs the command in `folder`; raises with what it said if it fails. `out` takes what it writes."""
    log = folder / "bench.log"
    started = time.monotonic()
    with log.open("wb") as said, (out or log).open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **(env or {})}, stdout=output, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command}: {process.returncode}: {log.read_text()[-2000:]}")
    return Measure(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def table(found: Mapping[str, Measure], number: int, limit: str) -> None:
    """A Markdown table: rates, and what part of the limit's rate each has."""
    print("| | wall s | CPU s | peak MB | thousand/s | of the limit's rate |\n|---|--:|--:|--:|--:|--:|")
    for name, item in found.items():
        rate, part = number / item.wall / 1000, found[limit].wall / item.wall
        print(f"| {name} | {item.wall:.1f} | {item.cpu:.1f} | {item.peak:,.0f} | {rate:,.0f} | {part:.0%} |")


def drains(runs: Sequence[tuple[Mapping[str, Measure], float]], changes: int, limit: str) -> None:
    """The medians of several runs, each with its decoder's CPU seconds, as a table."""
    middle = statistics.median
    found = {
        name: Measure(
            middle(r[name].wall for r, _ in runs),
            middle(r[name].cpu for r, _ in runs),
            max(r[name].peak for r, _ in runs),
        )
        for name in runs[0][0]
    }
    print(f"\n{changes:,} changes, {os.cpu_count()} cores, median of {len(runs)}\n")
    table(found, changes, limit)
    seconds = middle(seconds for _, seconds in runs)
    print(f"\nThe decoder by itself: {changes / seconds / 1000:,.0f} thousand changes a CPU second")
