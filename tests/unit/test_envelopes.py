"""Changes in envelopes: every line is a row or a reject, and every value what the source wrote."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.engines.duckdb import DuckEngine
from headrace.sources.how import How
from headrace.sources.inspect import FileInspector
from tests.changes import Lake, shown, step_of

ORDERS = """
from: s
keys: [id]
changes: {}
contract:
  columns:
    id: {type: integer}
    price: {type: "decimal(20,4)"}
    note: {}
"""
WIDE = """
from: s
keys: [id]
changes: {}
contract: {columns: {id: {}, d: {}, ts: {}, us: {}, t: {}, amount: {}, any: {}, big: {}, zoned: {}}}
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckEngine]:
    with DuckEngine(tmp_path / "scratch", "500MB", 2, pii_key=b"secret", project=tmp_path) as made:
        yield made


def lake(engine: DuckEngine, folder: Path, spec: str = ORDERS) -> Lake:
    return Lake(engine, step_of(spec), folder / "lake")


def change(op: str, sequence: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "sequence": sequence, "committed": "2026-01-01T00:00:00Z", "tx": "9", **more}


def test_headrace_envelopes(engine: DuckEngine, tmp_path: Path) -> None:
    orders = lake(engine, tmp_path)
    lines: list[Any] = [
        change("r", "1", after={"id": 1, "price": "1.10", "note": "a"}),
        '{"op":"c","sequence":"2","after":{"id":2,"price":1.10,"note":null},"before":null}',
        # an explicit null is a value, whatever was there before
        change(
            "u", "3", before={"id": 1, "price": "1.1", "note": "a"}, after={"id": 1, "price": 2, "note": None}
        ),
        change("c", "4", after={"id": 3, "price": "3", "note": "gone soon"}),
        change("d", "5", key={"id": 3}, before=None, after=None),
        change("c", "6", after={"id": 4, "price": "4", "note": "long"}),
        change("u", "7", after={"id": 4, "price": "5"}, unchanged=["note"]),
    ]
    ledger = orders.land(lines, envelope="headrace")
    assert ledger == {"read": 7, "inserted": 3, "deleted": 1, "deduplicated": 3}
    assert [(i, str(p), n) for i, p, n in shown(orders, "id", "price", "note")] == [
        (1, "2.0000", None),
        (2, "1.1000", None),
        (4, "5.0000", "long"),
    ]
    assert [row["_committed"].isoformat() for row in orders.rows() if row["id"] == 4] == [
        "2026-01-01T00:00:00+00:00"
    ]


def test_an_old_value_in_the_envelope_serves_for_one_that_was_not_sent(
    engine: DuckEngine, tmp_path: Path
) -> None:
    orders = lake(engine, tmp_path)
    old = {"id": 4, "price": "4", "note": "long"}
    orders.land(
        [change("u", "7", before=old, after={"id": 4, "price": "5"}, unchanged=["note"])], envelope="headrace"
    )
    assert shown(orders, "id", "note") == [(4, "long")]


@pytest.mark.parametrize("envelope", ["headrace", "debezium"])
def test_a_column_with_a_comma_in_its_name_is_not_taken_for_two_others(
    engine: DuckEngine, tmp_path: Path, envelope: str
) -> None:
    spec = """
from: s
keys: [id]
changes: {}
contract:
  columns:
    id: {type: integer}
    both: {from: ["size,colour"]}
    size: {}
    colour: {}
"""
    places = lake(engine, tmp_path, spec)
    first = {"id": 1, "size,colour": "XL, red", "size": "XL", "colour": "red"}
    later = {"id": 1, "size": None, "colour": "blue"}
    if envelope == "headrace":
        lines = [change("c", "1", after=first), change("u", "2", after=later, unchanged=["size,colour"])]
    else:
        later["size,colour"] = "__debezium_unavailable_value"
        where = {"connector": "postgresql", "ts_ms": 1}
        lines = [
            {"op": "c", "after": first, "source": {**where, "lsn": 1}, "ts_ms": 1},
            {"op": "u", "after": later, "source": {**where, "lsn": 2}, "ts_ms": 2},
        ]
    places.land(lines, envelope=envelope)
    assert shown(places, "id", "both", "size", "colour") == [(1, "XL, red", None, "blue")]


def test_what_is_no_envelope_is_in_quarantine_with_its_line(engine: DuckEngine, tmp_path: Path) -> None:
    orders = lake(engine, tmp_path)
    good = change("c", "1", after={"id": 1, "price": "1", "note": "x"})
    lines: list[Any] = [
        good,
        '{"id": 1}',
        "not json",
        '{"op": "x", "after": {"id": 5}}',
        "[1]",
        change("c", "2", after={"id": 2}),
    ]
    ledger = orders.land(lines, envelope="headrace")
    assert ledger == {"read": 6, "inserted": 2, "quarantined": 4}
    bad = {row["_line"]: (row["rules"], row["raw"]) for row in orders.rows("quarantine.t")}
    assert bad == {
        2: ("envelope.unknown", '{"id": 1}'),
        3: ("json.malformed", "not json"),
        4: ("envelope.unknown", '{"op": "x", "after": {"id": 5}}'),
        5: ("json.not_an_object", "[1]"),
    }
    assert {row["_line"] for row in orders.rows()} == {1, 6}


@pytest.mark.parametrize("policy", ["on_new_column", "on_missing_column"])
def test_header_policies_hold_in_envelopes(engine: DuckEngine, tmp_path: Path, policy: str) -> None:
    orders = lake(engine, tmp_path, ORDERS.replace("contract:", f"contract:\n  {policy}: quarantine"))
    row = {"id": 1, "price": "1", "note": "x"}
    other = {**row, "more": 1} if policy == "on_new_column" else {"id": 2, "price": "1"}
    orders.land([change("c", "1", after=row), change("c", "2", after=other)], envelope="headrace")
    rule = "header.unknown_column" if policy == "on_new_column" else "header.missing_column"
    assert [rules for _, rules in orders.quarantined()] == [rule]
    assert shown(orders, "id") == [(1,)]


def b64(value: int, size: int) -> str:
    return base64.b64encode(value.to_bytes(size, "big", signed=True)).decode()


def debezium(op: str, at: int, after: Any = None, before: Any = None, **source: Any) -> dict[str, Any]:
    where = {"connector": "postgresql", "lsn": at, "ts_ms": 1767225600123, "txId": 77, **source}
    return {"before": before, "after": after, "op": op, "ts_ms": 1767225600999, "source": where}


@pytest.mark.parametrize("wrapped", [False, True])
def test_debezium_envelopes(engine: DuckEngine, tmp_path: Path, wrapped: bool) -> None:
    orders = lake(engine, tmp_path)
    row = {"id": 1, "price": "1.5", "note": "long"}
    events: list[Any] = [
        debezium("r", 100, row),
        debezium("u", 200, {**row, "price": "2.5", "note": "__debezium_unavailable_value"}),
        debezium("c", 201, {**row, "id": 2}),
        debezium("d", 300, None, {"id": 2, "price": None, "note": None}),
        None,
        debezium("c", 301, {**row, "id": 3}),
        debezium("m", 302),
    ]
    lines = [{"schema": None, "payload": e} if wrapped and e else e for e in events]
    ledger = orders.land(lines, envelope="debezium", wrapped=wrapped)
    assert ledger == {"read": 5, "inserted": 2, "deleted": 1, "deduplicated": 2}
    assert [
        (i, str(p), n, s, o) for i, p, n, s, o in shown(orders, "id", "price", "note", "_sequence", "_op")
    ] == [
        (1, "2.5000", "long", f"{200:016X}/0000000002", "u"),
        (3, "1.5000", "long", f"{301:016X}/0000000006", "c"),
    ]
    assert {row["_committed"].isoformat() for row in orders.rows()} == {"2026-01-01T00:00:00.123000+00:00"}
    orders.land([{"schema": None, "payload": debezium("t", 400)} if wrapped else debezium("t", 400)],
        envelope="debezium", wrapped=wrapped)  # fmt: skip
    assert shown(orders, "id") == []


def test_values_of_debezium_mean_what_their_schema_says(engine: DuckEngine, tmp_path: Path) -> None:
    decimal = "org.apache.kafka.connect.data.Decimal"
    fields: list[dict[str, Any]] = [
        {"type": "int32", "field": "id"},
        {"type": "int32", "name": "io.debezium.time.Date", "field": "d"},
        {"type": "int64", "name": "io.debezium.time.Timestamp", "field": "ts"},
        {"type": "int64", "name": "io.debezium.time.MicroTimestamp", "field": "us"},
        {"type": "int64", "name": "io.debezium.time.MicroTime", "field": "t"},
        {"type": "bytes", "name": decimal, "field": "amount", "parameters": {"scale": "2"}},
        {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal", "field": "any"},
        {"type": "bytes", "name": decimal, "field": "big", "parameters": {"scale": "0"}},
        {"type": "string", "name": "io.debezium.time.ZonedTimestamp", "field": "zoned"},
    ]  # fmt: skip
    schema = {"type": "struct", "fields": [{"type": "struct", "field": "after", "fields": fields}]}
    huge = -(10**45) - 7
    rows: list[dict[str, Any]] = [
        {"id": 1, "d": -719162, "ts": 1700000000123, "us": 1700000000123456, "t": 3661000001,
         "amount": b64(-5, 1), "any": {"scale": 3, "value": b64(123456, 4)}, "big": b64(huge, 20),
         "zoned": "2026-01-01T00:00:00Z"},
        {"id": 2, "d": 20000, "ts": -1, "us": 0, "t": -1000, "amount": b64(12345678901234567890123456789, 13),
         "any": {"scale": 0, "value": b64(-1, 1)}, "big": b64(128, 2), "zoned": None},
        {"id": 3, "d": None, "ts": None, "us": None, "t": None, "amount": None, "any": None, "big": None,
         "zoned": None},
    ]  # fmt: skip
    wide = lake(engine, tmp_path, WIDE)
    lines: list[Any] = [{"schema": schema, "payload": debezium("c", 10 + row["id"], row)} for row in rows]
    wide.land(lines, envelope="debezium")
    assert wide.quarantined() == []
    names = ("id", "d", "ts", "us", "t", "amount", "any", "big", "zoned")
    assert shown(wide, *names) == [
        ("1", "0001-01-01", "2023-11-14T22:13:20.123000", "2023-11-14T22:13:20.123456", "01:01:01.000001",
         "-0.05", "123.456", str(huge), "2026-01-01T00:00:00Z"),
        ("2", "2024-10-04", "1969-12-31T23:59:59.999000", "1970-01-01T00:00:00.000000", "-00:00:00.001",
         "123456789012345678901234567.89", "-1", "128", None),
        ("3", *[None] * 8),
    ]  # fmt: skip


def test_the_order_of_other_connectors(engine: DuckEngine, tmp_path: Path) -> None:
    orders = lake(engine, tmp_path)
    row = {"id": 1, "price": "1", "note": "x"}
    where = {"lsn": None, "file": "binlog.000999", "pos": 900, "row": 0}
    orders.land(
        [
            debezium("c", 0, {**row, "price": "3"}, **{**where, "file": "binlog.1000000", "pos": 4}),
            debezium("u", 0, {**row, "price": "1"}, **where),
            debezium("u", 0, {**row, "price": "2"}, **{**where, "pos": 1000, "row": 1}),
        ],
        envelope="debezium",
    )
    assert [str(price) for (price,) in shown(orders, "price")] == ["3.0000"]


def test_a_file_of_envelopes_lands_with_the_columns_of_its_rows() -> None:
    lines = [debezium("c", 1, {"id": 1, "Note": "x"}), debezium("d", 2, None, {"id": 1, "old": 2})]
    inspector = FileInspector("a.json", How(format="jsonl", envelope="debezium"))
    inspector.feed("".join(json.dumps({"schema": 1, "payload": line}) + "\n" for line in lines).encode())
    form = inspector.result()
    assert {name: form[name] for name in ("type", "envelope", "changes", "wrapped", "keys")} == {
        "type": "jsonl",
        "envelope": "debezium",
        "changes": True,
        "wrapped": True,
        "keys": ["id", "Note", "old"],
    }
