"""What the guarantees cost: the same work with and without fsync, with and without claims, in one run.

    python bench/guarantees.py                   # 60 daily files, one run each; then 500,000 rows in one
    python bench/guarantees.py --days 300 --rows 5000000 --turns 5

Variants take turns, so that a drift of the machine's speed falls on all; the table shows medians, and ratios
to the product as it is. The switches are here and not in the product:

- `no fsync`: nothing is ever synced (`headrace.testing.powercut.forget_syncs`);
- `no claims`: land records, plans and done records are kept in the process's memory instead of being created
  exclusively on disk, so a killed run would leave nothing to go on from. The Delta log is written as ever.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VARIANTS = {"as it is": (), "no fsync": ("fsync",), "no claims": ("claims",), "neither": ("fsync", "claims")}
PIPELINE = """
name: guarantees
sources:
  orders: {type: files, path: data/*.csv}
tables:
  orders:
    from: orders
    keys: [order_id]
    latest_by: updated_at
    contract:
      columns:
        order_id:   {type: integer, required: true}
        customer:   {type: text, clean: [trim]}
        amount:     {type: "decimal(10,2)", min: 0}
        updated_at: {type: timestamp}
"""
PER_DAY = 1000


def rows(start: int, count: int) -> str:
    """Orders, of which every hundredth has a negative amount."""
    lines = [
        f"{n},customer {n % 500},{'-5.00' if n % 100 == 0 else f'{n % 100}.25'},2026-01-01T00:{n % 60:02}:00"
        for n in range(start, start + count)
    ]
    return "\n".join(["order_id,customer,amount,updated_at", *lines, ""])


def without(parts: tuple[str, ...]) -> None:
    """Takes guarantees out of this process."""
    if "fsync" in parts:
        from headrace.testing.powercut import forget_syncs

        forget_syncs()
    if "claims" in parts:
        _records_in_memory()


def _records_in_memory() -> None:
    from headrace.store.storage import LocalStorage

    held: dict[str, bytes] = {}
    create, read, listed = LocalStorage.create, LocalStorage.read, LocalStorage.list

    def created(self: LocalStorage, key: str, data: bytes) -> bool:
        if not key.startswith("_headrace/"):
            return create(self, key, data)
        return held.setdefault(key, data) is data

    def read_back(self: LocalStorage, key: str) -> bytes:
        return held[key] if key in held else read(self, key)

    def keys(self: LocalStorage, prefix: str) -> list[str]:
        return sorted({key for key in held if key.startswith(prefix + "/")} | set(listed(self, prefix)))

    LocalStorage.create, LocalStorage.read, LocalStorage.list = created, read_back, keys  # type: ignore[method-assign]


def work(root: Path, days: int, count: int) -> dict[str, float]:
    """Seconds and CPU seconds of the daily runs and of the one large file; counts are checked."""
    from headrace.run.runner import run
    from headrace.spec.load import load

    (root / "data").mkdir()
    (root / "pipeline.yml").write_text(PIPELINE)
    spent = {}
    for name, files, size in (("days", days, PER_DAY), ("large", 1, count)):
        start = 0 if name == "days" else days * PER_DAY
        wall = cpu = 0.0
        for number in range(files):
            (root / "data" / f"{name}-{number:04}.csv").write_text(rows(start + number * size, size))
            os.sync()  # what the bench itself has written is not to be anybody's cost
            began, used = time.monotonic(), time.process_time()
            (table,) = run(load(root)).tables
            wall += time.monotonic() - began
            cpu += time.process_time() - used
            if table.error or (table.ledger.read, table.ledger.quarantined) != (size, size // 100):
                raise SystemExit(f"{name}, file {number}: {table}")
        spent |= {name: wall, f"{name} cpu": cpu}
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.variant:
        without(VARIANTS[chosen.variant])
        print(json.dumps(work(Path.cwd(), chosen.days, chosen.rows)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    options = ["--days", str(chosen.days), "--rows", str(chosen.rows)]
    for _ in range(chosen.turns):
        for name in VARIANTS:
            with tempfile.TemporaryDirectory(prefix="guarantees-") as scratch:
                command = [sys.executable, str(Path(__file__).resolve()), "--variant", name, *options]
                done = subprocess.run(command, cwd=scratch, stdout=subprocess.PIPE, text=True, check=True)
                found[name].append(json.loads(done.stdout))
    print(
        f"{chosen.days} daily files of {PER_DAY:,} rows, one run each; one file of {chosen.rows:,} rows; "
        f"{os.cpu_count()} cores, median of {chosen.turns}\n"
    )
    print(
        "| | a day, ms | ratio | CPU ratio | large file, s | ratio | CPU ratio |\n"
        "|---|--:|--:|--:|--:|--:|--:|"
    )
    middle = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        for name, turns in found.items()
    }
    whole = middle["as it is"]
    for name, spent in middle.items():
        ratio = {key: spent[key] / whole[key] for key in spent}
        print(
            f"| {name} | {1000 * spent['days'] / chosen.days:.0f} | {ratio['days']:.2f} "
            f"| {ratio['days cpu']:.2f} | {spent['large']:.2f} | {ratio['large']:.2f} "
            f"| {ratio['large cpu']:.2f} |"
        )


if __name__ == "__main__":
    main()
