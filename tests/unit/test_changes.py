"""Tables that follow changes: the newest one of each key stands, whatever came first; nothing is guessed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.core import RawInput
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


# any history of a table, landed in any way ---------------------------------------------------------------


@dataclass
class Database:
    """A table at the source, and what its log and its snapshots tell of it."""

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    log: list[Event] = field(default_factory=list)
    snapshots: list[list[Event]] = field(default_factory=list)

    def do(self, what: str, id: int, qty: int) -> None:
        at, old = f"{2 * len(self.log) + 2:016X}/0000000001", self.rows.get(id)
        if what == "snapshot":
            position = f"{2 * len(self.log) + 1:016X}/0000000000"
            rows = [Event("r", position, {"id": i, **row}) for i, row in self.rows.items()]
            ended = [Event("t", position, {"id": None})] if qty > 1 else []
            self.snapshots.append([*ended, *rows])  # one that ends what it does not find, or does not
        elif what == "truncate":
            self.rows.clear()
            self.log.append(Event("t", at, {"id": None}))
        elif what == "delete" and old:
            del self.rows[id]
            self.log.append(Event("d", at, {"id": id}))
        elif what == "touch" and old:
            old["qty"] = qty
            self.log.append(Event("u", at, {"id": id, "qty": qty}, ["note"]))
        elif what == "write":
            self.rows[id] = {"qty": qty, "note": f"note {len(self.log)}"}
            self.log.append(Event("u" if old else "c", at, {"id": id, **self.rows[id]}))


def expected(events: Sequence[Event]) -> dict[int, tuple[Any, ...]]:
    """Key → (sequence, op, qty, note) of its newest change that is good, if that is no end of it."""
    found: dict[int, tuple[Any, ...]] = {}
    for id in {e.values["id"] for e in events if e.op != "t"}:
        own = [e for e in events if e.values["id"] == id or e.op == "t"]
        own.sort(key=lambda e: (str(e.sequence), e.op != "t"))
        note: tuple[Any, bool] = (None, False)
        for event in own:
            if event.op in "dt":
                note = (None, False)
                found.pop(id, None)
                continue
            good = event.values["qty"] >= 0
            if not event.unchanged:
                note = (event.values["note"], good)
            if good and note[1]:
                found[id] = (event.sequence, event.op, event.values["qty"], note[0])
    return found


WHAT = st.sampled_from(["write", "write", "write", "touch", "touch", "delete", "snapshot", "truncate"])
DEEDS = st.lists(st.tuples(WHAT, st.integers(1, 3), st.integers(-1, 3)), min_size=1, max_size=14)
PLAIN = """
from: pg.t
keys: [id]
history: true
changes: {}
contract: {columns: {id: {type: integer}, qty: {type: integer, min: 0}, note: {}}}
"""


def landings(database: Database, draw: Any, *, ordered: bool) -> list[list[Event]]:
    """The log in its order, cut anywhere; snapshots among it where they were taken, or anywhere."""
    told = list(database.log)
    if ordered:
        told += [row for snapshot in database.snapshots for row in snapshot]
        told.sort(key=lambda event: (str(event.sequence), event.op != "t"))
    cuts = draw(st.lists(st.integers(0, len(told)), max_size=3).map(sorted))
    batches = [told[a:b] for a, b in zip([0, *cuts], [*cuts, len(told)], strict=True)]
    if not ordered:
        for row in (row for snapshot in database.snapshots for row in snapshot):
            batches[draw(st.integers(0, len(batches) - 1))] += [row]
        batches = [draw(st.permutations(batch)) for batch in batches]
    return [batch for batch in batches if batch]


SLOW = settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@SLOW
@given(deeds=DEEDS, data=st.data())
def test_any_landing_of_any_history_gives_what_the_newest_changes_say(
    engine: DuckEngine, tmp_path: Path, deeds: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    database = Database()
    for deed in deeds:
        database.do(*deed)
    events = [*database.log, *(row for snapshot in database.snapshots for row in snapshot)]
    text = data.draw(st.sampled_from([PLAIN, PLAIN.replace("history: true", "")]))
    lake = Lake(engine, step_of(text), Path(tempfile.mkdtemp(dir=tmp_path)))
    for batch in landings(database, data.draw, ordered=False):
        lake.land([event.line() for event in batch])
    found = {row[0]: row[1:] for row in shown(lake, "id", "_sequence", "_op", "qty", "note")}
    assert found == expected(events)
    # the same changes once more, in whatever batches: nothing moves
    before = lake.content()
    for batch in landings(database, data.draw, ordered=False)[:1]:
        ledger = lake.land([event.line() for event in batch])
        assert not {"inserted", "updated"} & set(ledger)
    assert [line for line in lake.content() if "silver" in line] == [
        line for line in before if "silver" in line
    ]


@SLOW
@given(deeds=DEEDS, data=st.data())
def test_batches_do_not_matter_and_a_rebuild_gives_the_same(
    engine: DuckEngine, tmp_path: Path, deeds: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    database = Database()
    for deed in deeds:
        database.do(*deed)
    batches = landings(database, data.draw, ordered=True)
    if not batches:
        return
    lake = Lake(engine, step_of(PLAIN), Path(tempfile.mkdtemp(dir=tmp_path)))
    for batch in batches:
        lake.land([event.line() for event in batch])
    by_batches = lake.content()
    lake.refine([RawInput("s", [file for raw in lake.raw for file in raw.files])], rebuild=True)
    assert lake.content() == by_batches


@SLOW
@given(deeds=DEEDS.map(lambda ds: [(w, i, abs(q)) for w, i, q in ds if w != "touch"]), data=st.data())
def test_soft_deletes_show_the_last_values_whatever_landed_first(
    engine: DuckEngine, tmp_path: Path, deeds: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    database = Database()
    last: dict[int, tuple[Any, ...]] = {}
    for deed in deeds:
        before = {id: dict(row) for id, row in database.rows.items()}
        database.do(*deed)
        for id, row in before.items():
            if id not in database.rows:
                last[id] = (True, row["qty"], row["note"])
    last |= {id: (False, row["qty"], row["note"]) for id, row in database.rows.items()}
    lake = Lake(
        engine, step_of(PLAIN.replace("{}", "{deletes: soft}", 1)), Path(tempfile.mkdtemp(dir=tmp_path))
    )
    for batch in landings(database, data.draw, ordered=False):
        lake.land([event.line() for event in batch])
    rows = {
        row["id"]: (row["_deleted"], row["qty"], row["note"]) for row in lake.rows() if row["id"] is not None
    }
    assert rows == last
