"""What every engine must hold: the same typed rows, verdicts and counts for the same contract and texts.

Plain functions, free of any test runner; they raise AssertionError with what differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core import Engine, Frame, Landed, Outcome, RawInput, TableAt
from ..sources.inspect import FileInspector
from ..sql import TableStep

ARRIVED = "2026-01-01T00:00:00.000001Z"
NOW = "2026-01-02T03:04:05Z"


@dataclass(frozen=True, slots=True)
class Case:
    """Texts that go into a step, and what must come out."""

    name: str
    step: TableStep
    rows: Sequence[Mapping[str, str | None]]
    good: Sequence[Mapping[str, str | None]]
    """Expected rows, in any order; each value as the engine-neutral text that DuckDB prints for it."""
    broken: Mapping[str, int] = field(default_factory=dict)
    """Rule id → rows in quarantine for it."""
    deduplicated: int = 0
    filtered: int = 0


def landed(path: Path, *, arrived: str = ARRIVED, name: str | None = None) -> Landed:
    """The commit record's description of a local file, its format detected as it would be when it lands."""
    inspector = FileInspector(name or path.name)
    data = path.read_bytes()
    inspector.feed(data)
    return Landed(
        f"bronze/{path.name}", name or path.name, len(data), "", None, inspector.result(), {}, arrived
    )


def raw_input(source: str, *paths: Path, arrived: str = ARRIVED) -> RawInput:
    """Local files as one source's landed files, each a little later than the one before."""
    stamps = [f"{arrived[:-7]}{int(arrived[-7:-1]) + place:06}Z" for place in range(len(paths))]
    return RawInput(
        source,
        [(1, landed(path, arrived=stamp), path) for path, stamp in zip(paths, stamps, strict=True)],
    )


def rows_of(frame: Frame) -> list[dict[str, Any]]:
    """All rows of any Arrow stream, as DuckDB's Python values."""
    import duckdb

    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("frame", _Stream(frame))
        found = con.execute("SELECT * FROM frame")
        names = [column[0] for column in found.description or []]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@dataclass(frozen=True, slots=True)
class _Stream:
    frame: Frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)


def check_engine(make: Callable[[Path], Engine], cases: Sequence[Case], folder: Path) -> None:
    """Every case gives its typed rows, broken rules and counts; and the outcome does not depend on order.

    Each case runs as one file, and as one file per row in reverse: the same rows must stay, where the table
    has an order of its own.
    """
    problems: list[str] = []
    for place, case in enumerate(cases):
        engine = make(folder / f"scratch{place}")
        try:
            problems += _check(engine, case, folder / f"case{place}")
        finally:
            close = getattr(engine, "close", None)
            if close:
                close()
    assert not problems, "\n".join(problems)


def _check(engine: Engine, case: Case, folder: Path) -> list[str]:
    folder.mkdir(parents=True)
    whole = _write(folder / "whole.jsonl", case.rows)
    problems = _compare(case, run(engine, case.step, [raw_input("whole", whole)]), "")
    if case.step.sequence or case.step.keys == tuple(case.step.columns) or not case.step.keys:
        single = [_write(folder / f"{n:04}.jsonl", [row]) for n, row in enumerate(reversed(case.rows))]
        problems += _compare(case, run(engine, case.step, [raw_input("single", *single)]), ", row by row")
    return problems


def run(
    engine: Engine, step: TableStep, raw: Sequence[RawInput], target: TableAt | None = None, **refs: TableAt
) -> Outcome:
    """One refinement at a fixed clock and epoch; `refs` are the tables that foreign keys point to."""
    inputs = {"raw": raw, "target": target} | {f"ref:{name}": table for name, table in refs.items()}
    return engine.run(step, inputs, epoch=7, now=NOW)


def _write(path: Path, rows: Sequence[Mapping[str, str | None]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def _compare(case: Case, outcome: Outcome, how: str) -> list[str]:
    label = f"{case.name}{how}"
    shown = [
        {name: None if row[name] is None else _spelled(row[name]) for name in case.step.columns}
        for row in rows_of(outcome.frames["rows"])
    ]
    expected = [{name: row.get(name) for name in case.step.columns} for row in case.good]
    problems = []
    if sorted(shown, key=repr) != sorted(expected, key=repr):
        problems.append(f"{label}: rows {shown}, expected {expected}")
    for what, found, wanted in (
        ("broken rules", dict(outcome.by_rule), dict(case.broken)),
        ("deduplicated", outcome.deduplicated, case.deduplicated),
        ("filtered", outcome.filtered, case.filtered),
        ("read", outcome.read, len(case.rows)),
    ):
        if found != wanted:
            problems.append(f"{label}: {what} {found}, expected {wanted}")
    accounted = len(shown) + outcome.quarantined + outcome.filtered + outcome.deduplicated + outcome.late
    if outcome.read != accounted:
        problems.append(f"{label}: read {outcome.read} rows, but {accounted} are accounted for")
    if len(rows_of(outcome.frames["quarantine"])) != outcome.quarantined:
        problems.append(f"{label}: the quarantine does not hold {outcome.quarantined} rows")
    return problems


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if hasattr(value, "isoformat"):
        return str(value.isoformat(" ") if hasattr(value, "hour") else value.isoformat())
    return str(value)
