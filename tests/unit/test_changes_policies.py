"""What a definition may ask of changes: order by columns, deletes by a condition, filters, masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.engines.duckdb import DuckEngine
from headrace.engines.duckdb.masks import decrypt
from headrace.spec.load import load
from headrace.spec.pipeline import Changes
from headrace.spec.project import Project
from tests.changes import Event, Lake, shown, step_of


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckEngine]:
    with DuckEngine(tmp_path / "scratch", "500MB", 2, pii_key=b"secret", project=tmp_path) as made:
        yield made


def c(n: int, op: str, *unchanged: str, **values: Any) -> dict[str, Any]:
    return Event(op, f"{n:016X}/{1:010}", values, unchanged).line()


def lake(engine: DuckEngine, folder: Path, columns: str, more: str = "", changes: str = "{}") -> Lake:
    text = f"from: s\nkeys: [id]\nchanges: {changes}\ncontract:\n  columns: {columns}\n{more}"
    return Lake(engine, step_of(text), folder / "lake")


def test_plain_files_are_changes_by_their_own_columns(engine: DuckEngine, tmp_path: Path) -> None:
    changes = "{sequence_by: [n], apply_as_deletes: \"operation = 'DELETE'\"}"
    columns = "{id: {type: integer}, n: {type: integer}, operation: {}, city: {required: true}}"
    users = lake(engine, tmp_path, columns, changes=changes)
    row = {"operation": "INSERT", "city": "Oaxaca"}
    users.land([{"id": 1, "n": 1, **row}, {"id": 2, "n": 1, **row}, {"id": 1, "n": 6, "operation": "DELETE"}])
    assert shown(users, "id", "city") == [(2, "Oaxaca")]
    # what is older than the delete stays away; a change without its place in the order is refused
    users.land([{"id": 1, "n": 5, **row}, {"id": 2, **row}, {"id": 2, "n": 4, **row, "city": "Cancun"}])
    assert shown(users, "id", "city") == [(2, "Cancun")]
    assert users.quarantined() == [('["2"]', "n.required")]
    users.land([{"id": 1, "n": 7, **row}])
    assert shown(users, "id", "n") == [(1, 7), (2, 4)]


def test_a_row_that_an_update_moves_out_of_the_filter_is_gone(engine: DuckEngine, tmp_path: Path) -> None:
    orders = lake(engine, tmp_path, "{id: {type: integer}, state: {}}", "  filter: state = 'open'")
    rows = [c(1, "r", id=1, state="open"), c(1, "r", id=2, state="done"), c(2, "c", id=3, state="open")]
    assert orders.land(rows) == {"read": 3, "inserted": 2, "filtered": 1}
    assert orders.land([c(3, "u", id=1, state="done"), c(4, "c", id=4, state="done")]) == {
        "read": 2,
        "deleted": 1,
        "filtered": 1,
    }
    assert shown(orders, "id") == [(3,)]
    # what it was is no base for a change that leaves the state out
    orders.land([c(5, "u", "state", id=1)])
    assert orders.quarantined() == [('["1"]', "state.unchanged")]
    orders.land([c(6, "u", id=1, state="open"), c(7, "u", "state", id=1)])
    assert shown(orders, "id", "_sequence") == [(1, f"{7:016X}/0000000001"), (3, f"{2:016X}/0000000001")]


MASKED = """
    id: {type: integer}
    mail: {pii: email, mask: hash}
    note: {pii: note, mask: encrypt}
    qty: {type: integer}
    domain: {derive: "split_part(mail, '@', 2)", pii: domain}
"""
BOTH = MASKED + '    both: {derive: "mail || cast(qty as text)", pii: x}'


def test_masked_values_are_carried_as_they_are_stored(engine: DuckEngine, tmp_path: Path) -> None:
    people = lake(engine, tmp_path, MASKED)
    people.land([c(1, "r", id=1, mail="a@x.org", note="hello", qty=1)])
    (before,) = people.rows()
    people.land([c(2, "u", "mail", "note", id=1, qty=2)])
    (after,) = people.rows()
    assert (after["mail"], after["note"], after["domain"]) == (before["mail"], before["note"], "x.org")
    assert after["qty"] == 2
    people.land([c(3, "u", id=1, mail="b@y.org", note="bye", qty=3), c(4, "u", "mail", "note", id=1, qty=4)])
    (last,) = people.rows()
    assert last["mail"] != before["mail"]
    assert (last["domain"], last["qty"]) == ("y.org", 4)
    assert decrypt(b"secret", "note", last["note"]) == "bye"


def test_what_needs_a_clear_value_that_is_only_stored_masked_is_refused(
    engine: DuckEngine, tmp_path: Path
) -> None:
    people = lake(engine, tmp_path, BOTH)
    people.land([c(1, "r", id=1, mail="a@x.org", note="hello", qty=1)])
    people.land([c(2, "u", "mail", id=1, note="n", qty=2)])
    assert people.quarantined() == [('["1"]', "mail.unchanged")]
    assert [(row["qty"], row["both"]) for row in people.rows()] == [(1, "a@x.org1")]


def test_rules_hold_for_a_change_with_what_it_left_out(engine: DuckEngine, tmp_path: Path) -> None:
    rules = '  rules: {cheap: {check: "qty * price < 100"}}\n'
    columns = '{id: {type: integer}, qty: {type: integer}, price: {type: "decimal(8,2)", required: true}}'
    orders = lake(engine, tmp_path, columns, rules)
    orders.land([c(1, "r", id=1, qty=2, price="10.00")])
    orders.land([c(2, "u", "price", id=1, qty=20)])
    assert orders.quarantined() == [('["1"]', "cheap")]
    orders.land([c(3, "u", "price", id=1, qty=3), c(4, "u", "qty", id=1, price=None)])
    assert orders.quarantined() == [('["1"]', "cheap"), ('["1"]', "price.required;cheap")]
    assert shown(orders, "id", "qty") == [(1, 3)]


def test_truncations_can_be_ignored(engine: DuckEngine, tmp_path: Path) -> None:
    orders = lake(engine, tmp_path, "{id: {type: integer}}", changes="{truncate: ignore}")
    assert orders.land([c(1, "r", id=1), c(2, "t", id=None)]) == {"read": 2, "inserted": 1, "filtered": 1}
    assert shown(orders, "id") == [(1,)]


def test_a_hard_delete_keeps_nothing_but_the_key(engine: DuckEngine, tmp_path: Path) -> None:
    orders = lake(engine, tmp_path, "{id: {type: integer}, name: {}}")
    orders.land([c(1, "r", id=1, name="Ann"), c(1, "r", id=2, name="Bo")])
    orders.land([c(2, "d", id=1, name="Ann")])
    orders.land([c(3, "t", id=None)])
    assert {row["name"] for row in orders.rows()} == {None}
    assert {row["id"]: row["_op"] for row in orders.rows()} == {1: "t", 2: "t", None: "t"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("keys: []", "needs `keys`"),
        ('keys: "*"', "needs `keys`"),
        ("latest_by: [a]", "`latest_by` and `changes`"),
        ("mode: replace", "`mode: replace` is not possible"),
        ("steps: [{processor: 'm:f'}]", "no Python steps"),
        ("changes: {sequence_by: [nope]}", "`nope` is not a column"),
    ],
)
def test_what_does_not_go_together_is_refused(more: str, told: str) -> None:
    lines = {"from": "from: s", "keys": "keys: [id]", "changes": "changes: {}"}
    lines[more.partition(":")[0]] = more
    text = "\n".join(lines.values()) + "\ncontract: {columns: {id: {}, a: {}}}"
    with pytest.raises(ValidationError) as error:
        step_of(text)
    assert told in str(error.value.errors()[0]["ctx"])


def test_a_snapshot_that_ends_older_rows_keeps_its_own(engine: DuckEngine, tmp_path: Path) -> None:
    orders = lake(engine, tmp_path, "{id: {type: integer}, name: {}}")
    orders.land([c(1, "r", id=1, name="Ann"), c(1, "r", id=2, name="Bo")])
    assert orders.land([c(5, "t", id=None)]) == {"read": 1, "truncated": 2, "deleted": 3}
    assert shown(orders, "id") == []
    assert orders.land([c(5, "r", id=1, name="Ann")]) == {"read": 1, "updated": 1}
    assert orders.land([c(5, "t", id=None), c(4, "u", id=1, name="X")]) == {
        "read": 2,
        "unchanged": 1,
        "deduplicated": 1,
    }
    assert shown(orders, "id", "name") == [(1, "Ann")]


def test_a_truncation_without_a_place_in_the_order_is_refused(engine: DuckEngine, tmp_path: Path) -> None:
    orders = lake(engine, tmp_path, "{id: {type: integer}}")
    orders.land([c(1, "r", id=1), {"_op": "t", "id": None}])
    assert orders.quarantined() == [(None, "_sequence.required")]
    assert shown(orders, "id") == [(1,)]


def test_a_table_follows_changes_by_itself(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(
        "name: shop\nsources:\n  later: {type: files, path: '*.jsonl', envelope: debezium}\n"
        "  plain: {type: files, path: '*.csv'}\ntables:\n"
        "  one: {from: [plain, later], keys: [id], contract: {columns: {id: {}}}}\n"
        "  two: {from: plain, keys: [id], contract: {columns: {id: {}}}}\n"
        "  three: {from: later, keys: [id], changes: {deletes: soft}, contract: {columns: {id: {}}}}\n"
    )
    for project in (load(tmp_path), Project.of(load(tmp_path).config, tmp_path)):
        found = {name: table.changes for name, table in project.config.tables.items()}
        assert found == {"one": Changes(), "two": None, "three": Changes(deletes="soft")}
