"""DuckDB against every golden case, rows in memory and rows on disk; and mutants that must be found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.core import Frame, Outcome, Rewrite, TableAt, Write
from headrace.engines.duckdb import DuckEngine
from headrace.engines.duckdb.frame import DuckFrame
from headrace.testing.engine import PII_KEY, Case, check_engine, golden

CASES = list(golden(Path(__file__).parents[1] / "golden"))


def make(scratch: Path) -> DuckEngine:
    return DuckEngine(scratch, "500MB", 2, pii_key=PII_KEY)


def on_disk(scratch: Path) -> DuckEngine:
    engine = make(scratch)
    engine.large = 0
    return engine


@pytest.mark.parametrize("maker", [make, on_disk])
def test_every_golden_case(maker: Callable[[Path], DuckEngine], tmp_path: Path) -> None:
    assert sum(len(case.rows) for case in CASES) > 400
    check_engine(maker, CASES, tmp_path)


class Mutant:
    """An engine that spoils an outcome."""

    dialect = "duckdb"

    def __init__(self, scratch: Path, spoil: Callable[[Outcome], Outcome]) -> None:
        self.engine, self.spoil = make(scratch), spoil

    def run(self, step: Any, inputs: Mapping[str, Any], *, epoch: int, now: str) -> Outcome:
        return self.spoil(self.engine.run(step, inputs, epoch=epoch, now=now))

    def rewrite(self, target: TableAt, write: Write, frame: Frame, into: Path) -> Rewrite:
        return self.engine.rewrite(target, write, frame, into)

    def close(self) -> None:
        self.engine.close()


def altered(name: str, sql: str) -> Callable[[Outcome], Outcome]:
    def spoil(outcome: Outcome) -> Outcome:
        frame = outcome.frames[name]
        assert isinstance(frame, DuckFrame)
        return replace(outcome, frames={**outcome.frames, name: replace(frame, sql=sql.format(frame.sql))})

    return spoil


MUTANTS: Sequence[Callable[[Outcome], Outcome]] = [
    altered("rows", "SELECT * FROM ({}) LIMIT 1"),
    altered("rows", "SELECT * REPLACE (v + 1 AS v) FROM ({})"),
    altered("rows", "SELECT * REPLACE (v::DOUBLE AS v) FROM ({})"),
    altered("rows", "SELECT * REPLACE (NULL::INTEGER AS v) FROM ({})"),
    altered("quarantine", "SELECT * FROM ({}) WHERE false"),
    altered("quarantine", "SELECT * REPLACE ('other' AS rules) FROM ({})"),
    lambda outcome: replace(outcome, read=outcome.read + 1),
    lambda outcome: replace(outcome, by_rule={}),
    lambda outcome: replace(outcome, filtered=1),
]


@pytest.mark.parametrize("spoil", MUTANTS)
def test_mutants_are_found(spoil: Callable[[Outcome], Outcome], tmp_path: Path) -> None:
    case: Case = next(case for case in CASES if case.step.columns == {"v": "integer"} and len(case.rows) > 3)
    with pytest.raises(AssertionError):
        check_engine(lambda scratch: Mutant(scratch, spoil), [case], tmp_path)
