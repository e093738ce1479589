"""Foreign keys to a table that has no data yet: nothing of it is there, and nothing breaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace import failpoints
from tests.projects import PIPELINE, content, go, headrace, make, put, rows

PLACES = [each for each in failpoints.PLACES if each.startswith(("land.s", "land.r", "refine", "sink"))]
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
    (root / "people").mkdir(parents=True)
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
    told = (orders.ledger.read, orders.ledger.corrected, orders.ledger.inserted, orders.ledger.quarantined)
    assert told == (2, 1, 2, 1), "the row of ann that waited comes with the new one"


def test_rows_that_waited_are_taken_up_by_the_run_after_what_they_refer_to(tmp_path: Path) -> None:
    project(tmp_path, "quarantine")
    go(tmp_path)
    (tmp_path / "people" / "p.csv").write_text("id,born\nann,1990\n")
    report = go(tmp_path)
    (orders,) = [table for table in report.tables if table.name == "orders"]
    assert (orders.ledger.read, orders.ledger.corrected, orders.ledger.inserted) == (0, 1, 1)
    assert len(rows(tmp_path, "quarantine.orders")) == 1, "bob still waits"
    lands = sorted((tmp_path / "lake/_headrace/land/corrections.orders").iterdir())
    assert all(table.noop for table in go(tmp_path).tables), "what was taken up is not taken up again"
    (tmp_path / "people" / "q.csv").write_text("id,born\ncy,1990\n")
    go(tmp_path)
    assert sorted((tmp_path / "lake/_headrace/land/corrections.orders").iterdir()) == lands, "nothing for bob"
    (tmp_path / "people" / "r.csv").write_text("id,born\nbob,1991\n")
    put(tmp_path, "b.csv", ["4,ann,1,2020-01-02 00:00:00", "5,dan,1,2020-01-02 00:00:00"])
    report = go(tmp_path)
    (orders,) = [table for table in report.tables if table.name == "orders"]
    assert (orders.ledger.read, orders.ledger.corrected, orders.ledger.inserted) == (2, 1, 2)
    listed = headrace(tmp_path, "quarantine", "fixes", "orders").stdout
    assert listed.count("people has changed") == 2
    assert listed.count("headrace") == 2
    clean = project(tmp_path / "clean", "quarantine")
    for name in ("p", "q", "r"):
        (clean / "people" / f"{name}.csv").write_text((tmp_path / "people" / f"{name}.csv").read_text())
    put(clean, "b.csv", ["4,ann,1,2020-01-02 00:00:00", "5,dan,1,2020-01-02 00:00:00"])
    go(clean)
    assert content(tmp_path) == content(clean)
    before = content(tmp_path)
    go(tmp_path, rebuild=["orders"])
    assert content(tmp_path) == before


@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere_what_waited_is_taken_up_once(tmp_path: Path, place: str) -> None:
    project(tmp_path, "quarantine")
    go(tmp_path)
    (tmp_path / "people" / "p.csv").write_text("id,born\nann,1990\nbob,1991\n")
    go(tmp_path, select=["people"])
    killed = headrace(
        tmp_path, "run", "--select", "refine:orders", env={"HEADRACE_FAILPOINTS": f"{place}=kill"}
    )
    assert killed.returncode < 0, killed.stdout
    go(tmp_path)
    assert len(rows(tmp_path, "silver.orders")) == 3
    assert rows(tmp_path, "quarantine.orders") == []
    assert all(table.noop for table in go(tmp_path).tables)
