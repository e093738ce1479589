"""How fast whole runs are, first load, increment and no-op; counted as well, so that speed is never wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from headrace.run.report import RunReport
from headrace.run.runner import run
from headrace.spec.load import load
from tests.projects import make, put

ROWS = 50_000


def lines(start: int, rows: int) -> list[str]:
    """Orders, of which every hundredth has a negative amount."""
    amounts = ["-5.00", *(f"{cents}.{cents:02}" for cents in range(1, 100))]
    return [
        f"{n},customer {n % 500},{amounts[n % 100]},2026-01-01T00:{n % 60:02}:00Z"
        for n in range(start, start + rows)
    ]


def go(root: Path) -> RunReport:
    return run(load(root))


def test_first_load(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    counter = iter(range(100))

    def fresh() -> tuple[tuple[Path], dict[str, object]]:
        return (make(tmp_path / str(next(counter)), {"a.csv": lines(0, ROWS)}),), {}

    report = benchmark.pedantic(go, setup=fresh, rounds=3)
    (table,) = report.tables
    assert (table.ledger.inserted, table.ledger.quarantined) == (ROWS - ROWS // 100, ROWS // 100)


def test_increment(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    make(tmp_path, {"start.csv": lines(0, ROWS)})
    go(tmp_path)
    batch = ROWS // 50
    counter = iter(range(1, 100))

    def deliver() -> tuple[tuple[Path], dict[str, object]]:
        day = next(counter)
        # A quarter of each delivery has been there before.
        put(tmp_path, f"day{day}.csv", lines(ROWS + day * batch * 3 // 4, batch))
        return (tmp_path,), {}

    report = benchmark.pedantic(go, setup=deliver, rounds=5)
    ledger = report.tables[0].ledger
    assert (ledger.read, ledger.quarantined) == (batch, batch // 100)
    assert ledger.unchanged == pytest.approx(batch // 4, abs=batch // 50)


def test_no_news(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": lines(0, ROWS)})
    go(tmp_path)
    report = benchmark.pedantic(go, args=(tmp_path,), rounds=5)
    assert [table.noop for table in report.tables] == [True]
