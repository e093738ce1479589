"""Tables that follow changes: the newest one of each key stands, whatever came first; nothing is guessed."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from headrace.engines.duckdb import DuckEngine
from tests.changes import Event, Lake, shown, step_of

ORDERS = """
from: pg.orders
keys: [id]
changes: {}
contract:
  columns:
    id: {type: integer}
    qty: {type: integer, required: true, min: 0}
    note: {}
    price: {type: "decimal(8,2)"}
    total: {type: "decimal(20,2)", derive: "qty * price"}
  rules:
    dear: {check: "price > 0 and qty > 0 or note = 'gift'"}
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckEngine]:
    with DuckEngine(tmp_path / "scratch", "500MB", 2, pii_key=b"secret", project=tmp_path) as made:
        yield made


@pytest.fixture
def orders(engine: DuckEngine, tmp_path: Path) -> Lake:
    return Lake(engine, step_of(ORDERS), tmp_path / "lake")


def c(n: int, op: str, id: int | None, *unchanged: str, **values: Any) -> dict[str, Any]:
    own = {"id": id}
    return Event(op, f"{n:016X}/{0:010}", {**own, **values}, unchanged).line()


def full(
    n: int, op: str, id: int, qty: Any = 1, note: str | None = "n", price: Any = "2.50"
) -> dict[str, Any]:
    return c(n, op, id, qty=qty, note=note, price=price)


def test_the_newest_change_stands_and_a_delete_knows_only_its_key(orders: Lake) -> None:
    ledger = orders.land([full(1, "r", 1), full(1, "r", 2), full(5, "u", 1, qty=3), c(6, "d", 2)])
    assert ledger == {"read": 4, "inserted": 1, "deleted": 1, "deduplicated": 2}
    assert shown(orders, "id", "qty", "total", "_sequence", "_op") == [
        (1, 3, Decimal("7.50"), f"{5:016X}/{0:010}", "u")
    ]
    assert orders.quarantined() == []
    # a replay of what is older, and of the delete itself, brings nothing back
    assert orders.land([full(1, "r", 2), c(6, "d", 2)]) == {"read": 2, "unchanged": 1, "deduplicated": 1}
    assert orders.land([full(2, "u", 2)]) == {"read": 1, "deduplicated": 1}
    assert shown(orders, "id") == [(1,)]
    assert orders.land([full(9, "c", 2)]) == {"read": 1, "updated": 1}
    assert shown(orders, "id") == [(1,), (2,)]


def test_unchanged_values_come_from_the_batch_or_the_table(orders: Lake) -> None:
    orders.land([full(1, "r", 1, note="long"), c(2, "u", 1, "note", qty=2, price="1.00")])
    assert shown(orders, "id", "qty", "note", "_sequence") == [(1, 2, "long", f"{2:016X}/{0:010}")]
    orders.land([c(3, "u", 1, "note", "price", qty=4)])
    assert [(row["note"], str(row["price"]), str(row["total"])) for row in orders.rows()] == [
        ("long", "1.00", "4.00")
    ]
    assert orders.quarantined() == []


def test_what_is_not_known_waits_until_it_comes(orders: Lake) -> None:
    ledger = orders.land([c(7, "u", 1, "note", qty=2, price="1.00"), full(8, "c", 2)])
    assert ledger == {"read": 2, "inserted": 1, "quarantined": 1}
    assert orders.quarantined() == [('["1"]', "note.unchanged")]
    ledger = orders.land([full(3, "r", 1, note="old")])
    assert ledger == {"read": 1, "corrected": 1, "inserted": 1, "deduplicated": 1}
    assert orders.quarantined() == []
    assert shown(orders, "id", "qty", "note") == [(1, 2, "old"), (2, 1, "n")]


def test_a_value_that_was_refused_is_not_known(orders: Lake) -> None:
    orders.land([full(1, "r", 1), full(2, "u", 1, qty="x"), c(3, "u", 1, "note", qty=2, price="1.00")])
    assert orders.quarantined() == [('["1"]', "note.unchanged"), ('["1"]', "qty.type;dear")]
    assert shown(orders, "id", "qty") == [(1, 1)]
    other = Lake(orders.engine, orders.step, orders.folder.parent / "other")
    other.land([full(1, "r", 1)])
    other.land([full(2, "u", 1, qty="x")])
    other.land([c(3, "u", 1, "note", qty=2, price="1.00")])
    assert other.quarantined() == orders.quarantined()
    assert shown(other, "id", "qty") == [(1, 1)]


def test_a_truncation_reaches_all_that_is_older(orders: Lake) -> None:
    orders.land([full(1, "r", 1), full(1, "r", 2), full(9, "u", 3)])
    ledger = orders.land([c(5, "t", None), full(6, "c", 2, qty=5), full(4, "u", 4)])
    assert ledger == {"read": 3, "truncated": 1, "updated": 1, "deleted": 3}
    assert shown(orders, "id", "qty") == [(2, 5), (3, 1)]
    # one that is older still does not rise again, though it comes later
    orders.land([full(2, "u", 5), full(3, "u", 1)])
    assert shown(orders, "id", "qty") == [(2, 5), (3, 1)]
