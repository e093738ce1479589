"""Cost grows with the data and not faster: ratios within one run, since machines differ and are shared."""

from __future__ import annotations

import time
from pathlib import Path

from headrace.run.runner import run
from headrace.spec.load import load
from tests.performance.test_throughput import lines
from tests.projects import make, put

SMALL, TIMES = 25_000, 8


def seconds(root: Path) -> float:
    started = time.process_time()
    assert run(load(root)).status == "success"
    return time.process_time() - started


def test_eight_times_the_rows_take_at_most_twelve_times_as_long(tmp_path: Path) -> None:
    small = min(seconds(make(tmp_path / f"small{n}", {"a.csv": lines(0, SMALL)})) for n in range(2))
    large = min(seconds(make(tmp_path / f"large{n}", {"a.csv": lines(0, SMALL * TIMES)})) for n in range(2))
    assert large < small * TIMES * 1.5


def test_a_small_delivery_does_not_cost_what_the_table_costs(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": lines(0, SMALL * TIMES)})
    whole = seconds(tmp_path)
    put(tmp_path, "b.csv", lines(SMALL * TIMES, 250))
    assert seconds(tmp_path) < whole
