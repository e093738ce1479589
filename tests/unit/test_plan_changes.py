"""What differs between two definitions, and which differences break what readers rely on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.spec.change import Change, changes, essence, renamed
from headrace.spec.change_column import widens
from headrace.spec.pipeline import TableSpec

COLUMNS: dict[str, Any] = {
    "order_id": {"type": "integer", "required": True},
    "email": {"pii": "email"},
    "amount": {"type": "decimal(10,2)", "min": 0, "max": 100},
    "day": {"type": "date", "formats": ["%d.%m.%Y"]},
    "state": {"values": ["open", "closed"]},
    "double_amount": {"type": "decimal(12,2)", "derive": "amount * 2"},
}


def table(
    columns: dict[str, Any] | None = None, contract: dict[str, Any] | None = None, **more: Any
) -> TableSpec:
    """The base table with some columns altered (None: left out) and other settings."""
    merged = {
        **COLUMNS,
        **{k: {**COLUMNS.get(k, {}), **v} if v is not None else None for k, v in (columns or {}).items()},
    }
    kept = {name: column for name, column in merged.items() if column is not None}
    rules = {"good": {"check": "amount > 1"}}
    return TableSpec.model_validate(
        {
            "from": "orders",
            "keys": "order_id",
            "contract": {"columns": kept, "rules": rules, **(contract or {})},
            **more,
        }
    )


def ruled(severity: str = "quarantine", **checks: str) -> TableSpec:
    rules = {name: {"check": check, "severity": severity} for name, check in checks.items()}
    return table(contract={"rules": rules})


def found(new: TableSpec, old: TableSpec | None = None, evolved: list[str] | None = None) -> list[Change]:
    return changes(old or table(), new, evolved or [])


def test_equal_definitions_do_not_differ() -> None:
    assert found(table()) == []
    told = table({"amount": {"description": "net", "example": 3}}, {"owner": "me", "description": "sales"})
    assert found(told) == []
    assert essence(told) == essence(table())
    assert essence(table({"amount": {"required": False, "clean": []}})) == essence(table())
    assert essence(table({"amount": {"required": True}})) != essence(table())


BREAKING: list[tuple[str, TableSpec]] = [
    ("column `state`: removed", table({"state": None})),
    ("decimal(10,2) → decimal(9,2)", table({"amount": {"type": "decimal(9,2)"}})),
    ("decimal(10,2) → text", table({"amount": {"type": "text", "min": None, "max": None}})),
    ("min 0 → 1", table({"amount": {"min": 1}})),
    ("max 100 → 20", table({"amount": {"max": 20}})),
    ("values [open, closed] → [open]", table({"state": {"values": ["open"]}})),
    ("required false → true", table({"state": {"required": True}})),
    ("pattern none → `x`", table({"state": {"pattern": "x"}})),
    ("mask none → `hash`", table({"email": {"mask": "hash"}})),
    ("pii `email` → none", table({"email": {"pii": None}})),
    ("formats [%d.%m.%Y] → []", table({"day": {"formats": []}})),
    ("default none → `open`", table({"state": {"default": "open"}})),
    ("derive `amount * 2` → `amount * 3`", table({"double_amount": {"derive": "amount * 3"}})),
    ("from [state] → [status]", table({"state": {"from": "status"}})),
    ("added, text", table({"more": {"required": True}})),
    ("rule `other`: added", ruled(good="amount > 1", other="true")),
    ("rule `good`: `amount > 1` → `amount > 2`", ruled(good="amount > 2")),
    ("severity quarantine → stop", ruled("stop", good="amount > 1")),
    ("filter: none → `amount > 5`", table(contract={"filter": "amount > 5"})),
    ("nulls", table(contract={"nulls": ["", "NA"]})),
    ("expect: added, unique [order_id]", table(contract={"expect": [{"unique": "order_id"}]})),
    ("keys: [order_id] → [order_id, day]", table(keys=["order_id", "day"])),
    ("latest_by", table(latest_by="day")),
    ("mode", table(mode="replace")),
    ("delete_when", table(delete_when="state = 'closed'")),
    ("from: without `orders`, also", table(**{"from": "other"})),
    ("steps", table(steps=[{"processor": "steps:clean"}])),
]  # fmt: skip


@pytest.mark.parametrize(("told", "new"), BREAKING, ids=[told for told, _ in BREAKING])
def test_what_takes_away_or_alters_is_breaking(told: str, new: TableSpec) -> None:
    breaking = [str(change) for change in found(new) if change.breaking]
    assert any(part in text for text in breaking for part in [told.partition(", also")[0]]), breaking


HARMLESS: list[tuple[str, TableSpec]] = [
    ("added, integer", table({"more": {"type": "integer"}})),
    ("added, integer, derived", table({"more": {"type": "integer", "derive": "order_id + 1"}})),
    ("integer → bigint", table({"order_id": {"type": "bigint"}})),
    ("decimal(10,2) → decimal(12,4)", table({"amount": {"type": "decimal(12,4)"}})),
    ("min 0 → -1", table({"amount": {"min": -1}})),
    ("max 100 → none", table({"amount": {"max": None}})),
    ("values [open, closed] → [open, closed, new]", table({"state": {"values": ["open", "closed", "new"]}})),
    ("values [open, closed] → none", table({"state": {"values": None}})),
    ("formats [%d.%m.%Y] → [%d.%m.%Y, %Y%m%d]", table({"day": {"formats": ["%d.%m.%Y", "%Y%m%d"]}})),
    ("from [state] → [state, status]", table({"state": {"from": ["state", "status"]}})),
    ("map {} → {zu: closed}", table({"state": {"map": {"zu": "closed"}}})),
    ("severity quarantine → warn", table({"amount": {"severity": "warn"}})),
    ("rule `good`: removed", table(contract={"rules": {}})),
    ("expect: added, rows", table(contract={"expect": [{"rows": [1, None], "severity": "warn"}]})),
    ("from: also `other`", table(**{"from": ["orders", "other"]})),
    ("history: false → true", table(history=True)),
    ("partition_by", table(partition_by="day")),
]


@pytest.mark.parametrize(("told", "new"), HARMLESS, ids=[told for told, _ in HARMLESS])
def test_what_only_adds_or_allows_is_not(told: str, new: TableSpec) -> None:
    differences = found(new)
    assert any(told in str(change) for change in differences), differences
    assert [change for change in differences if change.breaking] == []


def test_the_way_back_of_a_widening_is_breaking() -> None:
    wide = table({"amount": {"type": "decimal(12,4)"}, "order_id": {"type": "bigint"}})
    assert [change.columns for change in found(table(), wide) if change.breaking] == [
        ("order_id",),
        ("amount",),
    ]


def test_a_checked_column_that_only_warns_breaks_nothing() -> None:
    assert not found(table({"more": {"required": True, "severity": "warn"}}))[0].breaking


def test_a_renamed_column_is_told_as_one_change() -> None:
    new = table({"state": None, "status": {"from": "state", "values": ["open", "closed"]}})
    assert renamed(table().contract, new.contract) == {"state": "status"}
    (change,) = found(new)
    assert str(change) == "column `state`: renamed to `status` (readers ask for the old name)"


def test_a_renamed_column_may_have_other_checks_as_well() -> None:
    new = table({"state": None, "status": {"from": "state", "values": ["open"]}})
    assert [change.breaking for change in found(new)] == [True, True]


def test_an_evolved_column_that_is_claimed_under_another_name_goes() -> None:
    claimed = found(table({"colour": {"from": "Colour Code"}}), evolved=["Colour Code", "Size"])
    assert [str(change).partition(" (")[0] for change in claimed] == [
        "column `colour`: added, text",
        "column `colour_code`: removed",
    ]
    assert claimed[1].breaking
    assert not claimed[0].breaking


def test_an_evolved_column_that_gets_a_type_is_narrower() -> None:
    assert "evolved as text" in found(table({"size": {"type": "integer"}}), evolved=["Size"])[0].breaks
    assert not found(table({"size": {}}), evolved=["Size"])[0].breaking


def test_no_evolution_any_more_takes_evolved_columns_away() -> None:
    frozen = table(contract={"on_new_column": "freeze"})
    assert [change.columns for change in found(frozen, evolved=["Size"]) if change.breaking] == [("size",)]
    assert not any(change.breaking for change in found(frozen))


def test_one_more_column_under_a_key_of_all_columns_is_breaking() -> None:
    old, new = table(keys="*"), table({"more": {}}, keys="*")
    assert "rows that were one may be two" in str(found(new, old)[0])


PLAIN = ("boolean", "integer", "bigint", "double", "date", "timestamp", "text", "json")
DECIMALS = st.integers(1, 38).flatmap(
    lambda digits: st.integers(0, digits).map(lambda scale: f"decimal({digits},{scale})")
)
KINDS = st.one_of(st.sampled_from(PLAIN), DECIMALS)


@given(KINDS, KINDS)
def test_types_do_not_widen_in_a_circle(one: str, other: str) -> None:
    if one != other:
        assert not (widens(one, other) and widens(other, one))
