"""Foreign keys to a table that has no data yet: nothing of it is there, and nothing breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.projects import PIPELINE, go, make, put, rows

PEOPLE = """
  people:
    from: people
    keys: id
    contract: {columns: {id: {}, born: {type: integer}}}
"""
LINES = ["1,ann,1,2020-01-01 00:00:00", "2,bob,1,2020-01-01 00:00:00", "3,,1,2020-01-01 00:00:00"]


def project(root: Path, on_missing: str) -> Path:
    column = f"customer:   {{references: people.id, on_missing: {on_missing}}}"
    text = PIPELINE.replace("customer:   {type: text, clean: [trim]}", column)
    text = text.replace("tables:", "  people: {type: files, path: people/*.csv}\ntables:")
    text = text.replace("customer <> 'nobody'", "true")
    (root / "people").mkdir()
    return make(root, {"a.csv": LINES}, text + PEOPLE)


@pytest.mark.parametrize(("on_missing", "loaded"), [("accept", 3), ("quarantine", 1)])
def test_a_table_without_data_has_none_of_the_keys(tmp_path: Path, on_missing: str, loaded: int) -> None:
    project(tmp_path, on_missing)
    report = go(tmp_path)
    (orders,) = [table for table in report.tables if table.name == "orders"]
    assert orders.error is None
    assert orders.ledger.inserted == loaded
    assert dict(orders.by_rule) == ({"customer.reference": 2} if loaded == 1 else {})
    assert len(rows(tmp_path, "silver.orders")) == loaded


def test_what_comes_later_is_found(tmp_path: Path) -> None:
    project(tmp_path, "quarantine")
    go(tmp_path)
    (tmp_path / "people" / "p.csv").write_text("id,born\nann,1990\nbob,x\n")
    put(tmp_path, "b.csv", ["4,ann,1,2020-01-02 00:00:00", "5,bob,1,2020-01-02 00:00:00"])
    report = go(tmp_path)
    (orders,) = [table for table in report.tables if table.name == "orders"]
    assert (orders.ledger.inserted, orders.ledger.quarantined) == (1, 1)
