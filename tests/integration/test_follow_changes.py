"""Files of changes through the whole loop: what a database did over years, and what people see of it."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import ConfigError
from headrace.run.corrections import fix
from headrace.run.inspect import query, tables
from headrace.run.remember import remember
from headrace.run.retention import expire
from headrace.run.runner import open_catalog, open_storage
from headrace.spec.load import load
from tests.projects import go, headrace, rows

PIPELINE = """
name: airports
sources:
  first: {{type: files, path: data/first.csv}}
  later: {{type: files, path: "data/*.jsonl", envelope: {envelope}}}
tables:
  {table}:
    from: [first, later]
    keys: [id]
    history: true
    contract:
      columns: {columns}
"""
RUNS = 3


def rows_of(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def ours(event: dict[str, Any]) -> dict[str, Any]:
    key = {"id": event["id"]}
    own = {"op": event["op"], "sequence": f"{event['seq']:010}", "committed": event["ts"], "key": key}
    # a delete tells its key alone, as most do
    return {**own, "before": None, "after": event["after"]}


def debeziums(event: dict[str, Any]) -> dict[str, Any]:
    before = {"id": event["id"]} if event["op"] == "d" else event["before"]
    source = {"connector": "postgresql", "lsn": event["seq"], "ts_ms": event["seq"] * 1000}
    after = event["after"]
    return {
        "payload": {"op": event["op"], "before": before, "after": after, "source": source},
        "schema": None,
    }


def portions(events: list[dict[str, Any]], parts: int) -> Iterator[list[dict[str, Any]]]:
    size = -(-len(events) // parts)
    return (events[start : start + size] for start in range(0, len(events), size))


@pytest.mark.parametrize("envelope", ["headrace", "debezium"])
@pytest.mark.parametrize("table", ["countries", "regions"])
def test_years_of_changes_end_as_the_last_snapshot(
    tmp_path: Path, shared_data: Callable[[str], Path], table: str, envelope: str
) -> None:
    folder = shared_data("cdc_ourairports")
    truth = json.loads((folder / f"{table}_TRUTH.json").read_text())
    with gzip.open(folder / f"{table}_changes.jsonl.gz", "rt", encoding="utf-8") as file:
        events = [json.loads(line) for line in file]
    last = rows_of(folder / f"{table}_snapshot_last.csv.gz")
    (tmp_path / "data").mkdir()
    columns: dict[str, dict[str, str]] = {name: {} for name in last[0]}
    text = PIPELINE.format(envelope=envelope, table=table, columns=json.dumps(columns))
    (tmp_path / "pipeline.yml").write_text(text)
    # the changes of the first third land before the rows that they change
    first = gzip.decompress((folder / f"{table}_snapshot_first.csv.gz").read_bytes())
    ledgers = []
    tell = ours if envelope == "headrace" else debeziums
    for number, part in enumerate(portions(events, RUNS)):
        lines = "".join(json.dumps(tell(event), ensure_ascii=False) + "\n" for event in part)
        (tmp_path / "data" / f"{number}.jsonl").write_text(lines, encoding="utf-8")
        if number == 1:
            (tmp_path / "data" / "first.csv").write_bytes(first)
        report = go(tmp_path)
        assert report.status == "success", report
        ledgers.append(report.tables[0].ledger)
    assert all(ledger.balanced for ledger in ledgers)
    assert sum(ledger.quarantined for ledger in ledgers) == 0
    project = load(tmp_path)
    listed = ", ".join(f'"{name}"' for name in columns)
    _, found = query(project, f"SELECT {listed} FROM silver.{table}")
    want = sorted(tuple(value or None for value in row.values()) for row in last)
    assert sorted(found, key=lambda row: tuple(v or "" for v in row)) == sorted(
        want, key=lambda row: tuple(v or "" for v in row)
    )
    _, versions = query(project, f"SELECT count(*), count(*) FILTER (_current) FROM silver.{table}_history")
    assert list(versions) == [(truth["scd2_rows_total"], truth["scd2_open_rows"])]
    _, overlaps = query(
        project,
        f"SELECT count(*) FROM silver.{table}_history a JOIN silver.{table}_history b ON a.id = b.id "
        "AND a._sequence > b._sequence AND b._valid_to > a._valid_from",
    )
    assert list(overlaps) == [(0,)]


ORDERS = """
name: shop
sources:
  orders: {type: files, path: "data/*.jsonl", envelope: headrace}
tables:
  orders:
    from: orders
    keys: [id]
    contract:
      columns: {id: {type: integer}, qty: {type: integer, min: 0}, note: {}}
"""


def put(root: Path, name: str, *changes: dict[str, Any]) -> None:
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in changes))


def change(op: str, at: int, id: int, **after: Any) -> dict[str, Any]:
    row = None if op == "d" else {"id": id, **after}
    return {"op": op, "sequence": f"{at:08}", "committed": None, "key": {"id": id}, "after": row}


def test_a_key_whose_newest_change_is_in_quarantine_is_stale(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(ORDERS)
    put(tmp_path, "a", change("r", 1, 1, qty=1, note="x"), change("r", 1, 2, qty=1, note="x"))
    put(tmp_path, "b", change("u", 2, 1, qty=-5, note="y"), change("c", 3, 3, qty=-1, note="z"))
    assert go(tmp_path).tables[0].ledger.quarantined == 2
    project = load(tmp_path)
    names, found = query(project, "SELECT * FROM quarantine.orders_stale ORDER BY key")
    assert names == ["key", "sequence", "rules", "changes", "since"]
    assert list(found) == [
        ('["1"]', "00000002", "qty.min", 1, "00000001"),
        ('["3"]', "00000003", "qty.min", 1, None),
    ]
    columns, told = tables(project)
    assert dict(zip(columns, next(iter(told)), strict=True))["stale"] == 2
    # a later good change ends it; an older one does not; a delete does
    put(tmp_path, "c", change("u", 4, 1, qty=2, note="y"), change("r", 1, 3, qty=2, note="y"))
    go(tmp_path)
    assert list(query(project, "SELECT key, since FROM quarantine.orders_stale")[1]) == [
        ('["3"]', "00000001")
    ]
    put(tmp_path, "d", change("d", 5, 3))
    go(tmp_path)
    assert list(query(project, "SELECT key FROM quarantine.orders_stale")[1]) == []
    assert list(query(project, "SELECT id, qty FROM silver.orders ORDER BY id")[1]) == [(1, 2), (2, 1)]


@pytest.mark.parametrize(
    "place", ["refine.computed=kill", "sink.commit=kill", "sink.commit=kill@2", "refine.outputs=kill"]
)
def test_killed_while_waiting_changes_are_taken_along(tmp_path: Path, place: str) -> None:
    waits = {**change("u", 5, 1, qty=2), "unchanged": ["note"]}
    roots = [tmp_path / name for name in ("clean", "killed")]
    for root in roots:
        root.mkdir()
        (root / "pipeline.yml").write_text(ORDERS)
        put(root, "a", waits, change("c", 6, 2, qty=1, note="x"), change("u", 7, 3, qty=-1, note="y"))
        go(root)
        put(root, "b", change("r", 1, 1, qty=1, note="long"), change("d", 8, 2))
    listed = headrace(roots[0], "quarantine", "list")
    assert "note.unchanged" in listed.stdout
    assert "hint: `ALTER TABLE … REPLICA IDENTITY FULL`" in listed.stderr
    report = go(roots[0])
    assert report.tables[0].ledger.corrected == 1
    killed = headrace(roots[1], "run", "--quiet", env={"HEADRACE_FAILPOINTS": place})
    assert killed.returncode < 0
    again = headrace(roots[1], "run", "--quiet")
    assert again.returncode == 0, again.stdout + again.stderr
    for name in ("silver.orders", "quarantine.orders"):
        assert rows(roots[1], name) == rows(roots[0], name)
    assert [row[0] for row in query(load(roots[1]), "SELECT note FROM silver.orders")[1]] == ["long"]


def test_a_corrected_change_takes_its_place_in_the_order(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(ORDERS)
    put(tmp_path, "a", change("r", 1, 1, qty=1, note="x"), change("r", 1, 2, qty=1, note="x"))
    put(tmp_path, "b", change("u", 2, 1, qty=-5, note="y"), change("u", 2, 2, qty=-6, note="y"))
    put(tmp_path, "c", change("u", 3, 2, qty=7, note="z"))
    go(tmp_path)
    project = load(tmp_path)
    assert fix(project, "orders", rule="qty.min", sets=["qty = replace(qty, '-', '')"]).rows == 2
    ledger = go(tmp_path).tables[0].ledger
    assert (ledger.corrected, ledger.updated, ledger.deduplicated) == (2, 1, 1)
    shown = "SELECT id, qty, note FROM silver.orders ORDER BY id"
    assert list(query(project, shown)[1]) == [(1, 5, "y"), (2, 7, "z")]
    assert list(query(project, "SELECT * FROM quarantine.orders_stale")[1]) == []
    before = rows(tmp_path, "silver.orders")
    assert go(tmp_path, rebuild=["orders"]).status == "success"
    assert rows(tmp_path, "silver.orders") == before


def test_a_table_of_changes_needs_keys_and_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(ORDERS.replace("    keys: [id]\n", ""))
    with pytest.raises(ConfigError, match=r"table `orders`: a table of changes needs `keys`"):
        load(tmp_path)


def test_changes_that_leave_bronze_leave_what_they_did(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(ORDERS.replace("keys: [id]", "keys: [id]\n    history: true"))
    waits = {**change("u", 4, 1, qty=2), "unchanged": ["note"]}
    ended = {"op": "t", "sequence": f"{6:08}"}
    days: list[list[dict[str, Any]]] = [
        [change("r", 1, 1, qty=1, note="long"), change("r", 1, 2, qty=1, note="x")],
        [waits, change("d", 5, 2)],
        [change("c", 5, 3, qty=1, note="z"), ended, change("c", 7, 4, qty=1, note="n")],
        [{**change("u", 8, 4, qty=5), "unchanged": ["note"]}, change("c", 9, 5, qty=-1, note="bad")],
        [{**change("u", 10, 4, qty=6), "unchanged": ["note"]}],
    ]
    for number, day in enumerate(days):
        put(tmp_path, f"{number}", *day)
        go(tmp_path)
        if number == 1:  # a base that later ones are put upon
            assert len(gone(tmp_path)) == 2
    before = {name: rows(tmp_path, name) for name in ("silver.orders", "silver.orders_history")}
    # what has a bad row stays, and so does all that came after it
    assert gone(tmp_path) == ["2.jsonl"]
    assert go(tmp_path, rebuild=["orders"]).status == "success"
    assert {name: rows(tmp_path, name) for name in before} == before
    shown = list(query(load(tmp_path), "SELECT id, qty, note FROM silver.orders")[1])
    assert shown == [(4, 6, "n")]


def gone(root: Path) -> list[str]:
    """Names of the objects that an expiry long after takes away."""
    project = load(root)
    taken = expire(project, open_storage(project), now=datetime.now(UTC) + timedelta(days=91))
    return sorted(key.rpartition("/")[2].partition("-")[2] for key in taken.objects)


def test_the_catalog_tells_what_sources_told_also_when_it_was_lost(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(ORDERS)
    put(tmp_path, "a", *(change("r", 1, id, qty=1, note="x") for id in (1, 2, 3)), change("c", 2, 4, qty=-1))
    go(tmp_path)
    put(tmp_path, "b", change("u", 3, 1, qty=5), change("d", 4, 2), {"op": "t", "sequence": "9"})
    go(tmp_path)
    want = [("orders", "DELETE", 2), ("orders", "INSERT", 4), ("orders", "UPDATE", 1)]
    assert told(tmp_path) == want
    (tmp_path / "lake" / "catalog.db").unlink()
    project = load(tmp_path)
    with open_catalog(project) as catalog:
        assert remember(project, open_storage(project), catalog) == 2
    assert told(tmp_path) == want


def told(root: Path) -> list[tuple[str, str, int]]:
    with open_catalog(load(root)) as catalog:
        events = catalog.change_events("orders")
    return sorted((event.table_name, event.change_type, event.affected_rows) for event in events)
