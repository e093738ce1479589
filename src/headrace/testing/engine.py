"""What every engine must hold: the same typed rows, verdicts and counts for the same contract and texts.

Plain functions, free of any test runner; they raise AssertionError with what differs. The cases are those of
`tests/golden` (its README says how they are written).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from ..core import Engine, Frame, Input, Landed, Outcome, RawInput, TableAt, Write
from ..sources.inspect import FileInspector
from ..spec.pipeline import TableSpec
from ..sql import TableStep, compile_table

ARRIVED = "2026-01-01T00:00:00.000001Z"
NOW = "2026-06-15T12:00:00Z"
PII_KEY = b"secret"
"""The engine under test is made with it: golden files hold hashes under this key."""
_GOOD = {"_broken": "", "_warned": "", "_stopped": "", "_filtered": False}


@dataclass(frozen=True, slots=True)
class Case:
    """Texts that go into a step, and what each row must become."""

    name: str
    step: TableStep
    rows: Sequence[Mapping[str, str | None]]
    want: Sequence[Mapping[str, Any]]
    """Per row its values (where named) and verdicts (`_broken`, `_warned`, `_stopped`, `_filtered`)."""
    references: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)


def golden(folder: Path) -> Iterator[Case]:
    """All cases of the YAML files in `folder`."""
    for file in sorted(folder.glob("*.yml")):
        for case in yaml.safe_load(file.read_text("utf-8")):
            whole = case if "contract" in case else _rows_of(case)
            spec = TableSpec.model_validate(
                {"from": "s", "contract": whole["contract"], **whole.get("table", {})}
            )
            step = compile_table("t", spec)
            name = f"{file.stem}: {case['name']}"
            yield Case(name, step, whole["rows"], whole["want"], whole.get("references", {}))


def _rows_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """A case of one column as a case of rows."""
    good, bad = case.get("good", {}), case.get("bad", [])
    nulls = {"nulls": case["nulls"]} if "nulls" in case else {}
    return {
        "contract": {"columns": {"v": case["column"]}, **nulls},
        "rows": [{"v": text} for text in [*good, *bad]],
        "want": [{"v": value} for value in good.values()]
        + [{"_broken": case.get("breaks", "v.type;")} for _ in bad],
    }


def check_engine(make: Callable[[Path], Engine], cases: Sequence[Case], folder: Path) -> None:
    """Every case gives its typed rows, broken rules and counts, and accounts for each of its rows once."""
    engine, problems = make(folder / "scratch"), []
    try:
        for place, case in enumerate(cases):
            problems += _check(engine, case, folder / f"case{place}")
    finally:
        close = getattr(engine, "close", None)
        if close:
            close()
    assert not problems, "\n".join(problems)


def _check(engine: Engine, case: Case, folder: Path) -> list[str]:
    folder.mkdir(parents=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in case.rows))
    tables = {name: _table(engine, name, columns, folder) for name, columns in case.references.items()}
    outcome = run(engine, case.step, [_json_lines(path, len(case.rows))], **tables)
    rows = {row["_line"]: row for row in rows_of(outcome.frames["rows"])}
    bad = {row["_line"]: row["rules"] for row in rows_of(outcome.frames["quarantine"])}
    problems = []
    for line, wanted in enumerate(case.want, 1):
        verdict = {**_GOOD, **{key: value for key, value in wanted.items() if key in _GOOD}}
        broken = (verdict["_broken"] + verdict["_stopped"]).rstrip(";")
        if verdict["_filtered"] or broken:
            where = "quarantine" if line in bad else "rows" if line in rows else "nowhere"
            if (line in rows) or bad.get(line, "") != broken:
                problems.append(f"{case.name}: row {line} is in {where} ({bad.get(line)}), wanted {verdict}")
        elif line in rows:
            named = [key for key in wanted if key not in _GOOD]
            found = {key: plain(rows[line][key]) for key in named if key not in case.step.encrypted}
            sealed = [key for key in named if key in case.step.encrypted and wanted[key] is not None]
            open_ = any(rows[line][key] in (None, wanted[key]) for key in sealed)
            if open_ or found != {key: wanted[key] for key in found} or not _same_types(found, wanted):
                problems.append(f"{case.name}: row {line} is {found}, wanted {dict(wanted)}")
        elif line in bad or not outcome.deduplicated:
            problems.append(f"{case.name}: row {line} is not there ({bad.get(line)}), wanted {dict(wanted)}")
    return [*problems, *_accounts(case, outcome, len(rows), len(bad))]


def _accounts(case: Case, outcome: Outcome, rows: int, bad: int) -> Iterator[str]:
    """What does not add up."""
    accounted = rows + outcome.quarantined + outcome.filtered + outcome.deduplicated + outcome.late
    if outcome.read != len(case.rows) or outcome.read != accounted:
        yield f"{case.name}: {len(case.rows)} rows, {outcome.read} read, {accounted} accounted for"
    if bad != outcome.quarantined:
        yield f"{case.name}: the quarantine holds {bad} rows, counted {outcome.quarantined}"
    broken: dict[str, int] = {}
    for wanted in case.want:
        for rule in (wanted.get("_broken", "") + wanted.get("_stopped", "")).split(";"):
            if rule:
                broken[rule] = broken.get(rule, 0) + 1
    if dict(outcome.by_rule) != broken:
        yield f"{case.name}: rules broken {dict(outcome.by_rule)}, wanted {broken}"


def _same_types(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """1, 1.0 and true are equal to Python, not to a table."""
    return all(type(found[key]) is type(wanted[key]) for key in found)


def plain(value: Any) -> Any:
    """A typed value as golden files write it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def run(
    engine: Engine, step: TableStep, raw: Sequence[RawInput], target: TableAt | None = None, **refs: TableAt
) -> Outcome:
    """One refinement at a fixed clock and epoch; `refs` are the tables that foreign keys point to."""
    inputs: dict[str, Input | Sequence[RawInput] | None] = {"raw": raw, "target": target}
    inputs |= {f"ref:{name}": table for name, table in refs.items()}
    return engine.run(step, inputs, epoch=7, now=NOW)


def landed(path: Path, *, arrived: str = ARRIVED, name: str | None = None) -> Landed:
    """The commit record's description of a local file, its format detected as it would be when it lands."""
    inspector, data, name = FileInspector(name or path.name), path.read_bytes(), name or path.name
    inspector.feed(data)
    return Landed(f"bronze/{path.name}", name, len(data), "", None, inspector.result(), {}, arrived)


def raw_input(source: str, *paths: Path, arrived: str = ARRIVED) -> RawInput:
    """Local files as one source's landed files, each a little later than the one before."""
    stamps = [f"{arrived[:-7]}{int(arrived[-7:-1]) + place:06}Z" for place in range(len(paths))]
    files = [(1, landed(path, arrived=stamp), path) for path, stamp in zip(paths, stamps, strict=True)]
    return RawInput(source, files)


def _json_lines(path: Path, lines: int) -> RawInput:
    # Of the few rows of a case nothing need be guessed.
    form: dict[str, Any] = {
        "type": "jsonl",
        "compression": None,
        "encoding": "utf-8",
        "newline": "\n",
        "lines": lines,
    }
    form |= {"nul": False, "final_newline": True, "keys": []}
    size = path.stat().st_size
    return RawInput("s", [(1, Landed(path.name, path.name, size, "", None, form, {}, ARRIVED), path)])


def _table(engine: Engine, name: str, columns: Mapping[str, Sequence[Any]], folder: Path) -> TableAt:
    """A table that the engine wrote, of literal columns."""
    import duckdb

    selects = ", ".join(f'unnest(?) AS "{column}"' for column in columns)
    with duckdb.connect() as con:
        con.execute(f"CREATE TABLE given AS SELECT {selects}", [list(values) for values in columns.values()])
        frame = con.sql("FROM given")
        empty = TableAt(name, -1, (), {})
        change = engine.rewrite(empty, Write(name, "append"), _Stream(frame), folder / name)
    return TableAt(name, 0, change.add, change.columns)


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
    frame: Any

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)
