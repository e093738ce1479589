"""What must fit together in a contract and a pipeline, beyond single fields."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.spec.checks import contract_problems, problems
from headrace.spec.contract import Contract
from headrace.spec.pipeline import PipelineConfig
from headrace.spec.values import literal


def contract(column: dict[str, Any], **more: Any) -> list[tuple[str, str, str | None]]:
    parts = {"columns": {"c": column, "d": {"type": "date"}, "n": {"type": "decimal(9,2)"}}, **more}
    found = contract_problems(Contract.model_validate(parts))
    return [(".".join(map(str, p.at)), p.message, p.hint) for p in found]


@pytest.mark.parametrize(
    ("column", "at", "message"),
    [
        ({"type": "integer", "min": 3, "max": 2}, "min", "min 3 is greater than max 2"),
        ({"type": "date", "min": "2026-02-01", "max": "2026-01-31"}, "min", "min 2026-02-01 is greater"),
        ({"type": "integer", "min": 1.5}, "min", "min: 1.5 is no integer"),
        ({"type": "integer", "max": 2**31}, "max", "max: 2147483648 is out of range for integer"),
        ({"type": "bigint", "max": 2**63}, "max", "out of range for bigint"),
        (
            {"type": "decimal(5,2)", "default": "1.234"},
            "default",
            "default: 1.234 does not fit into decimal(5,2)",
        ),
        (
            {"type": "decimal(5,2)", "default": 1000},
            "default",
            "default: 1000 does not fit into decimal(5,2)",
        ),
        ({"type": "decimal(5,2)", "default": "NaN"}, "default", "default: NaN is no decimal(5,2)"),
        ({"type": "double", "max": "inf"}, "max", "max: inf is not finite"),
        ({"type": "date", "default": "31.01.2026"}, "default", "default: `31.01.2026` is no date"),
        ({"type": "timestamp", "min": "2026-13-01"}, "min", "min: `2026-13-01` is no timestamp"),
        ({"type": "boolean", "default": "maybe"}, "default", "default: maybe is no boolean"),
        ({"type": "integer", "default": True}, "default", "default: true is no integer"),
        ({"type": "json", "default": "{"}, "default", "default: `{` is no valid JSON"),
        ({"default": 5}, "default", "default: 5 is not text"),
        ({"values": ["a", 5]}, "values.1", "values: 5 is not text"),
        ({"values": []}, "values", "no value is allowed"),
        ({"values": ["a"], "default": "b"}, "default", "default `b` is not among `values`"),
        ({"type": "integer", "min": 1, "default": 0}, "default", "default 0 breaks min 1"),
        ({"type": "integer", "max": 1, "default": 2}, "default", "default 2 breaks max 1"),
        ({"min": 0}, "min", "`min` needs a number, date or timestamp, not text"),
        ({"type": "date", "pattern": "x"}, "pattern", "`pattern` needs a text column, not date"),
        ({"max_length": 0}, "max_length", "max_length 0 is below 1"),
        ({"pattern": "(a"}, "pattern", "pattern `(a` is no regular expression"),
        ({"pattern": "a(?=b)"}, "pattern", "RE2 has neither look-around"),
        ({"pattern": r"(a)\1"}, "pattern", "RE2 has neither look-around"),
        ({"type": "date", "formats": ["%d.%m"]}, "formats.0", "does not make a whole date"),
        ({"type": "date", "formats": ["%d.%m.%Y", "%Q"]}, "formats.1", "%Q is not known"),
        ({"type": "date", "formats": ["percent"]}, "formats.0", "format `percent` is not for date"),
        ({"type": "double", "formats": ["%d.%m.%Y"]}, "formats.0", "format `%d.%m.%Y` is not for double"),
        ({"type": "double", "formats": ["curency"]}, "formats.0", "format `curency` is not known"),
        ({"timezone": "UTC"}, "timezone", "`timezone` is not for text"),
        (
            {"type": "timestamp", "timezone": "Europe/Berln"},
            "timezone",
            "time zone `Europe/Berln` is not known",
        ),
        ({"type": "timestamp", "timezone": "../etc"}, "timezone", "time zone `../etc` is not known"),
        (
            {"derive": "1", "formats": ["percent"], "type": "double"},
            "formats",
            "a derived column has no `formats`",
        ),
        ({"from": ["x", "D"]}, "", "header `d` already feeds column `c`"),
    ],
)
def test_refused_columns(column: dict[str, Any], at: str, message: str) -> None:
    found = contract(column)
    assert any(message in text for _, text, _ in found), found
    assert all(hint for _, _, hint in found)
    if at:
        assert found[0][0] == f"columns.c.{at}"


@pytest.mark.parametrize(
    "column",
    [
        {"type": "integer", "min": 0, "max": "10", "default": 5, "formats": ["whole_decimal", "thousands"]},
        {"type": "decimal(5,2)", "min": -1.5, "formats": ["percent", "currency"]},
        {"type": "date", "min": "2020-01-01", "formats": ["%d/%m/%y", "%b %d, %Y", "%Y%j"]},
        {
            "type": "timestamp",
            "max": "2030-01-01T00:00:00+02:00",
            "min": "2020-01-01",
            "timezone": "Europe/Berlin",
        },
        {"type": "boolean", "default": False, "formats": ["yes_no"]},
        {"type": "json", "default": "[]"},
        {"pattern": r"\p{L}+[[:digit:]]?", "max_length": 1, "values": ["a"], "default": "a"},
        {"derive": "n * 2", "type": "decimal(9,2)", "min": 0},
    ],
)
def test_accepted_columns(column: dict[str, Any]) -> None:
    assert contract(column) == []


def test_headers_by_case() -> None:
    columns = {"a": {"from": "X"}, "b": {"from": "x"}, "x": {"derive": "a"}}
    both = Contract.model_validate({"columns": columns, "header_case": "exact"})
    assert list(contract_problems(both)) == []
    [problem] = contract_problems(Contract.model_validate({"columns": columns}))
    assert (problem.at, problem.message) == (("columns", "b", "from"), "header `x` already feeds column `a`")


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ({"unique": ["c", "e"]}, "unique: `e` is not a column"),
        ({"sum": "c", "between": [0, 1]}, "sum: column `c` is text, not a number"),
        ({"sum": "n", "between": [2, 1]}, "between: 2 is greater than 1"),
        ({"sum": "n", "between": [0, "x"]}, "between: x is no decimal"),
        ({"rows": [5, 2]}, "rows: 5 is greater than 2"),
        ({"fresh": "n", "within": "2d"}, "fresh: column `n` is decimal(9,2), not a date or timestamp"),
        ({"fresh": "d", "within": "two days"}, "within `two days` is no duration"),
    ],
)
def test_expectations(expect: dict[str, Any], message: str) -> None:
    [(at, text, hint)] = contract({}, expect=[{"unique": "c"}, {"rows": [1, None]}, expect])
    assert at.startswith("expect.2")
    assert message in text
    assert hint


def pipeline(**changes: Any) -> list[str]:
    def table(**more: Any) -> dict[str, Any]:
        columns = {"id": {"type": "integer"}, "j": {"type": "json"}, **more.pop("columns", {})}
        return {"from": "s", "contract": {"columns": columns}, **more}

    values: dict[str, Any] = {"name": "p", "sources": {"s": {"type": "files"}}, "tables": {}}
    for name, change in changes.items():
        if name in ("a", "b", "a_history"):
            values["tables"][name] = table(**change)
        else:
            values[name] = change
    return [p.message for p in problems(PipelineConfig.model_validate(values))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retention": {"bronze": "90 days"}}, "bronze `90 days` is no duration"),
        ({"monitoring": {"freshness": "soon"}}, "freshness `soon` is no duration"),
        ({"memory": "lots"}, "memory `lots` is no size"),
        ({"schedule": "every day"}, "schedule `every day` is no cron expression"),
        ({"schedule": "61 * * * *"}, "schedule `61 * * * *` is no cron expression"),
        ({"encryption": {"key": "k2", "keys": {"k1": "x"}}}, "encryption: key `k2` is not among `keys`"),
        (
            {"sources": {"s": {"type": "files"}, "t": {"type": "files", "id": "s"}}},
            "id `s` is already that of source `s`",
        ),
        ({"a": {"keys": ["j"]}}, "keys: column `j` is json, which does not serve for that"),
        (
            {"a": {"keys": "id", "history": True}, "a_history": {}},
            "`a_history` is the name of table `a`'s history",
        ),
        (
            {"a": {"columns": {"x": {"references": "b.id"}}}, "b": {}},
            "references: text cannot be compared with `b.id`",
        ),
        ({"a": {"steps": [{"processor": "nope"}]}}, "`nope` is not `module:function`"),
        (
            {
                "a": {"columns": {"x": {"type": "integer", "references": "b.id"}}},
                "b": {"columns": {"y": {"type": "bigint", "references": "a.id"}}},
            },
            "references go in a circle",
        ),
        (
            {"a": {"columns": {"x": {"type": "integer", "references": "a.id"}}}},
            "references: `a.id` is of the table itself",
        ),
    ],
)
def test_refused_pipelines(changes: dict[str, Any], message: str) -> None:
    changes = {"a": {}, **changes}
    found = pipeline(**changes)
    assert len(found) == 1
    assert message in found[0]


def test_accepted_pipelines() -> None:
    fine = {"schedule": "*/15 0-6 1,15 JAN MON-FRI", "memory": "1.5 GiB", "retention": {"bronze": "12h"}}
    column = {"type": "bigint", "references": "b.id"}
    assert pipeline(a={"columns": {"x": column}, "steps": [{"validator": "my.steps:ok"}]}, b={}, **fine) == []


@given(st.integers(-(10**6), 10**6), st.integers(0, 4))
def test_decimals_are_read_exactly(digits: int, places: int) -> None:
    number = Decimal(digits).scaleb(-places)
    assert literal("decimal(12,4)", f"{number:f}") == number


@given(st.dates())
def test_dates_are_read_exactly(day: datetime.date) -> None:
    assert literal("date", day.isoformat()) == day
