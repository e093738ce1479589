"""Contracts over Extended JSON: wrapped values are plain, texts that look like them stay, others are JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.engines.duckdb import DuckEngine
from tests.changes import Lake, shown, step_of

SPEC = """
from: s
keys: [id]
changes: {}
contract:
  nulls: []
  columns:
    id: {from: _id}
    v: {}
    city: {from: address.city}
    second: {from: list.1.n}
    document: {type: json}
    n: {type: bigint}
    at: {type: timestamp}
"""


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Lake]:
    with DuckEngine(tmp_path / "scratch", "500MB", 2, pii_key=b"secret", project=tmp_path) as engine:
        yield Lake(engine, step_of(SPEC), tmp_path / "lake")


def land(table: Lake, *documents: dict[str, Any]) -> dict[str, int]:
    lines = [
        {"op": "c", "sequence": f"{n:04}", "after": {"_id": {"$oid": f"{n:024x}"}, **document}}
        for n, document in enumerate(documents)
    ]
    texts = [json.dumps(line, separators=(",", ":"), ensure_ascii=False) for line in lines]
    return table.land(texts, envelope="headrace", extended=True)


WRAPPED: list[tuple[Any, str | None]] = [
    ({"$numberInt": "-5"}, "-5"),
    ({"$numberLong": "9223372036854775807"}, "9223372036854775807"),
    ({"$numberDouble": "1e-07"}, "1e-07"),
    ({"$numberDouble": "-0.0"}, "-0.0"),
    ({"$numberDouble": "NaN"}, "NaN"),
    ({"$numberDecimal": "1.10"}, "1.10"),
    ({"$numberDecimal": "-1E+6144"}, "-1E+6144"),
    ({"$oid": "56e1fc72e0c917e9c4714161"}, "56e1fc72e0c917e9c4714161"),
    ({"$date": {"$numberLong": "1356351330501"}}, "2012-12-24T12:15:30.501Z"),
    ({"$date": {"$numberLong": "-284643869501"}}, "1960-12-24T12:15:30.499Z"),
    ({"$date": {"$numberLong": "0"}}, "1970-01-01T00:00:00.000Z"),
    ({"$binary": {"base64": "//8=", "subType": "00"}}, r"\xffff"),
    ({"$binary": {"base64": "", "subType": "00"}}, r"\x"),
    (
        {"$binary": {"base64": "c//SZESzTGmQ6OfR38A11A==", "subType": "04"}},
        "73ffd264-44b3-4c69-90e8-e7d1dfc035d4",
    ),
    ({"$binary": {"base64": "c//SZESzTGk=", "subType": "03"}}, r"\x73ffd26444b34c69"),
    ({"$symbol": "b"}, "b"),
    ({"$code": "f()"}, "f()"),
    ("plain", "plain"),
    ("", ""),
    (True, "true"),
    (None, None),
    ('{"$oid":"56e1fc72e0c917e9c4714161"}', '{"$oid":"56e1fc72e0c917e9c4714161"}'),
    ('{"$numberInt":"5"}', '{"$numberInt":"5"}'),
    ("[1]", "[1]"),
    ("a\u0001b\u2028\"\\", "a\u0001b\u2028\"\\"),
]  # fmt: skip


def test_a_wrapped_value_is_its_plain_text(table: Lake) -> None:
    land(table, *({"v": value} for value, _ in WRAPPED))
    assert [v for _, v in sorted(shown(table, "id", "v"))] == [wanted for _, wanted in WRAPPED]


def test_nested_values_by_path_and_as_json(table: Lake) -> None:
    inner = {"a": {"$numberLong": "1"}, "b": [None, {"$date": {"$numberLong": "5"}}]}
    land(
        table,
        {"address": {"city": "Bonn"}, "list": [{}, {"n": {"$numberInt": "7"}}], "document": inner},
        {"address": {"city": {"$symbol": "1"}}, "document": {"$numberLong": "9"}, "n": {"$numberInt": "8"}},
        {"document": "text", "at": {"$date": {"$numberLong": "1356351330501"}}},
    )  # fmt: skip
    rows = sorted(shown(table, "id", "city", "second", "document", "n", "at"), key=lambda row: row[0])
    assert [row[1:5] for row in rows[:2]] == [
        ("Bonn", "7", json.dumps(inner, separators=(",", ":")), None),
        ("1", None, '{"$numberLong":"9"}', 8),
    ]
    assert len(rows) == 2, "a bare text is no JSON, and goes to quarantine"


@pytest.mark.parametrize(
    "value", [{"a": "b"}, [], [{"$numberInt": "1"}], {"$timestamp": {"t": 1, "i": 2}}, {"$minKey": 1},
              {"$regularExpression": {"pattern": "a", "options": ""}}, {"$code": "f", "$scope": {}}]
)  # fmt: skip
def test_what_has_no_plain_text_is_no_text(table: Lake, value: Any) -> None:
    ledger = land(table, {"v": value}, {"v": "good"})
    assert ledger["quarantined"] == 1
    assert [rules for _, rules in table.quarantined()] == ["v.type"]
    assert [v for _, v in shown(table, "id", "v")] == ["good"]


def test_a_date_beyond_every_calendar_is_not_null(table: Lake) -> None:
    far = {"$date": {"$numberLong": "9223372036854775807"}}
    assert land(table, {"v": "x", "at": far})["quarantined"] == 1


def test_deletes_are_found_by_their_wrapped_key(table: Lake) -> None:
    land(table, {"v": "a"}, {"v": "b"})
    key = {"_id": {"$oid": f"{1:024x}"}}
    gone = json.dumps({"op": "d", "sequence": "0009", "key": key}, separators=(",", ":"))
    table.land([gone], envelope="headrace", extended=True)
    assert [v for _, v in shown(table, "id", "v")] == ["a"]
