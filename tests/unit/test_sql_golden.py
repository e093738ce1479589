"""Every golden case, on DuckDB, through the checked SELECT alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from headrace.spec.pipeline import TableSpec
from headrace.sql import checked_sql, compile_table

GOLDEN = Path(__file__).parents[1] / "golden"
VERDICTS: dict[str, Any] = {"_broken": "", "_warned": "", "_stopped": "", "_filtered": False}


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and row case; column cases become row cases."""
    for file in sorted(GOLDEN.glob("*.yml")):
        for case in yaml.safe_load(file.read_text("utf-8")):
            yield f"{file.stem}: {case['name']}", case if "contract" in case else _rows_of(case)


def _rows_of(case: Mapping[str, Any]) -> dict[str, Any]:
    good, bad = case.get("good", {}), case.get("bad", [])
    contract = {"columns": {"v": case["column"]}, **({"nulls": case["nulls"]} if "nulls" in case else {})}
    broken = {"_broken": case["breaks"]} if "breaks" in case else {"_broken": "v.type;", "v": None}
    return {
        "contract": contract,
        "rows": [{"v": text} for text in [*good, *bad]],
        "want": [{"v": value} for value in good.values()] + [broken for _ in bad],
    }


def plain(value: Any) -> Any:
    """A typed value as golden files write it; booleans are not integers."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value


def connect() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET VARIABLE headrace_now = TIMESTAMPTZ '2026-06-15 12:00:00+00'")
    con.execute("SET VARIABLE headrace_pii_key = 'secret'")
    return con


def run(con: duckdb.DuckDBPyConnection, case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The checked rows of `case`, in the order of its rows."""
    spec = TableSpec.model_validate({"from": "s", "contract": case["contract"], **case.get("table", {})})
    step = compile_table("t", spec)
    for table, columns in case.get("references", {}).items():
        for column, values in columns.items():
            con.execute(f"CREATE TEMP TABLE ref_{table} AS SELECT unnest(?) AS {column}", [values])
    names = list(step.inputs)
    texts = "".join(f'"{c}" VARCHAR, ' for c in names)
    audit = "_source VARCHAR, _file VARCHAR, _line BIGINT, _ingested_at TIMESTAMPTZ"
    con.execute(f"CREATE TEMP TABLE staged ({texts}{audit})")
    rows = [[*(row.get(c) for c in names), "s", "f", n] for n, row in enumerate(case["rows"])]
    con.executemany(f"INSERT INTO staged VALUES ({'?, ' * (len(names) + 3)}TIMESTAMPTZ '2026-01-01')", rows)
    cursor = con.execute(f"SELECT * FROM ({checked_sql(step)}) ORDER BY _line")
    heads = [d[0] for d in cursor.description]
    return [dict(zip(heads, row, strict=True)) for row in cursor.fetchall()]


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in cases()])
def test_golden(case: dict[str, Any]) -> None:
    got = run(connect(), case)
    assert len(got) == len(case["rows"]) == len(case["want"])
    wrong = []
    for row, want, have in zip(case["rows"], case["want"], got, strict=True):
        deletes = {"_deleted": False} if "_deleted" in have else {}
        for column, value in {**VERDICTS, **deletes, **want}.items():
            found = plain(have[column])
            if found != value or type(found) is not type(value):
                wrong.append(f"{row}: {column} is {found!r}, not {value!r}")
    assert not wrong, "\n".join(wrong)


def test_there_are_enough_cases() -> None:
    assert sum(len(case["rows"]) for _, case in cases()) >= 400
    assert len(list(cases())) >= 70
