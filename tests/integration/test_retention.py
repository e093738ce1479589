"""Retention: what is old goes once nothing needs it, and a rebuild gives the same tables without it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headrace import failpoints
from headrace.core import Landed
from headrace.errors import Busy, ConfigError, Corrupt
from headrace.run import refine as refining
from headrace.run.alone import alone
from headrace.run.report import Event
from headrace.run.restore import Point, restore
from headrace.run.retention import Expiry, adopt, expire
from headrace.run.runner import open_storage
from headrace.spec.load import load
from headrace.store.base import expired, newest
from headrace.store.records import LandLog
from tests.projects import HEADER, PIPELINE, content, go, headrace, make, put, rows

LATER = timedelta(days=91)
KEY = 'encryption: {key: k1, keys: {k1: "' + "ab" * 32 + '"}}\n'
APPEND = """
name: shop
sources:
  events: {type: files, path: data/*.csv}
tables:
  events:
    from: events
    partition_by: customer
    contract:
      columns:
        order_id: {type: integer}
        customer: {type: text}
        amount:   {type: "decimal(10,2)"}
"""


def lines(number: int, count: int = 12, start: int | None = None) -> list[str]:
    """Good lines of one day; a third was there the day before, with another amount."""
    first = number * 8 if start is None else start
    return [
        f"{order},c{order % 3},{number}.{order % 10}0,2026-01-{1 + number:02}T10:00:{order % 60:02}"
        for order in range(first, first + count)
    ]


def landed(root: Path, numbers: Sequence[int] = range(4), pipeline: str = PIPELINE) -> Path:
    """A project into which each day's file came by a run of its own."""
    make(root, {}, pipeline)
    for number in numbers:
        put(root, f"{number}.csv", lines(number))
        assert go(root).status == "success"
    return root


def clock(root: Path, source: str = "orders", epoch: int | None = None) -> datetime:
    """The moment at which all that landed up to `epoch` is 90 days old, and nothing that came later."""
    record = LandLog(open_storage(load(root)), source).records[-1 if epoch is None else epoch]
    last = max(item.arrived for item in record.objects)
    return datetime.fromisoformat(last) + timedelta(days=90, microseconds=1)


def old(root: Path, now: datetime | None = None, *, dry_run: bool = False) -> Expiry:
    project = load(root)
    return expire(project, open_storage(project), now=now or datetime.now(UTC) + LATER, dry_run=dry_run)


def bronze(root: Path) -> list[str]:
    """Names of the objects that are there."""
    return sorted(path.name.partition("-")[2] for path in (root / "lake/bronze").rglob("*") if path.is_file())


def rebuilt(root: Path, table: str = "orders") -> None:
    report = go(root, rebuild=[table])
    (found,) = (item for item in report.tables if item.name == table)
    assert report.status == "success", found.error
    assert found.rebuilt == "asked for"


@pytest.mark.parametrize(
    "pipeline", [PIPELINE, PIPELINE + KEY, PIPELINE.replace("latest_by: updated_at", "")]
)
def test_old_objects_go_and_a_rebuild_gives_the_same_tables(tmp_path: Path, pipeline: str) -> None:
    landed(tmp_path, pipeline=pipeline)
    before = content(tmp_path)
    found = old(tmp_path, clock(tmp_path, epoch=3))
    assert len(found.objects) == 3
    assert found.bytes > 0
    assert not found.kept
    assert bronze(tmp_path) == ["3.csv"]
    assert go(tmp_path).tables[0].noop
    rebuilt(tmp_path)
    assert content(tmp_path) == before
    rebuilt(tmp_path)
    assert content(tmp_path) == before
    put(tmp_path, "4.csv", lines(4))
    report = go(tmp_path)
    assert report.tables[0].ledger.read == 12
    clean = landed(tmp_path / "clean", range(5), pipeline)
    assert content(tmp_path) == content(clean)


def test_one_expiry_after_another_grows_the_base(tmp_path: Path) -> None:
    clean = content(landed(tmp_path / "clean", range(5)))
    root = landed(tmp_path / "lake", range(5))
    for epoch in (1, 2, 4):
        found = old(root, clock(root, epoch=epoch))
        assert len(found.objects) == (2 if epoch == 4 else 1)
        rebuilt(root)
        assert content(root) == clean
    assert not old(root, clock(root, epoch=4)).objects
    assert newest(open_storage(load(root))) == 3, "nothing to do writes no record"
    assert content(root) == clean
    files = set((root / "lake/base").rglob("*.parquet"))
    bases = expired(open_storage(load(root))).bases
    assert files == {file.path for at in bases["orders"].outputs.values() for file in at.files}, "no old base"


def test_a_dry_run_only_counts(tmp_path: Path) -> None:
    landed(tmp_path, range(2))
    before = sorted((tmp_path / "lake").rglob("*"))
    with alone(tmp_path / "lake"):
        found = old(tmp_path, dry_run=True)
        assert (len(found.objects), found.kept) == (2, {})
        with pytest.raises(Busy):
            old(tmp_path)
    assert sorted((tmp_path / "lake").rglob("*")) == before


def test_what_is_young_stays(tmp_path: Path) -> None:
    landed(tmp_path, range(2))
    assert old(tmp_path, datetime.now(UTC) + timedelta(days=89)) == Expiry()
    (tmp_path / "pipeline.yml").write_text(PIPELINE + "retention: {bronze: 4w}\n")
    assert len(old(tmp_path, datetime.now(UTC) + timedelta(days=29)).objects) == 2


def test_what_is_unrefined_stays(tmp_path: Path) -> None:
    landed(tmp_path, [0])
    put(tmp_path, "1.csv", lines(1))
    go(tmp_path, select=["land:orders"])
    found = old(tmp_path)
    assert (len(found.objects), found.kept) == (1, {"unrefined": 1})
    assert bronze(tmp_path) == ["1.csv"]
    go(tmp_path)
    assert content(tmp_path) == content(landed(tmp_path / "clean", range(2)))
    assert len(old(tmp_path).objects) == 1


def test_a_table_that_is_behind_keeps_what_it_has_not_read(tmp_path: Path) -> None:
    more = PIPELINE.replace(
        "tables:\n  orders:",
        "tables:\n  other: {from: orders, contract: {columns: {customer: {}}}}\n  orders:",
    )
    landed(tmp_path, [0], more)
    put(tmp_path, "1.csv", lines(1))
    go(tmp_path, select=["land:orders", "refine:orders"])
    found = old(tmp_path)
    assert (len(found.objects), found.kept) == (1, {"unrefined": 1})
    go(tmp_path)
    assert len(old(tmp_path).objects) == 1
    other = rows(tmp_path, "silver.other")
    rebuilt(tmp_path, "other")
    assert rows(tmp_path, "silver.other") == other
    assert len(other) == 24


def test_while_an_epoch_is_open_nothing_of_its_table_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed(tmp_path, [0])
    put(tmp_path, "1.csv", lines(1))
    monkeypatch.setattr(failpoints, "_armed", {"sink.commit": ("error", 1)})
    assert go(tmp_path).status == "failed"
    assert old(tmp_path).kept == {"an epoch of `orders` is not finished": 2}
    assert go(tmp_path).status == "success"
    assert len(old(tmp_path).objects) == 2


def test_what_a_quarantined_row_came_from_stays(tmp_path: Path) -> None:
    landed(tmp_path, [0])
    put(tmp_path, "bad.csv", [*lines(1), "x,c1,1.00,2026-01-01T00:00:00", "1,2"])
    go(tmp_path)
    before = content(tmp_path)
    assert len(before["quarantine.orders"]) == 2
    found = old(tmp_path)
    assert (len(found.objects), found.kept) == (1, {"quarantined": 1})
    assert bronze(tmp_path) == ["bad.csv"]
    rebuilt(tmp_path)
    assert content(tmp_path) == before


def test_a_corrected_row_stays_corrected_when_its_object_is_gone(tmp_path: Path) -> None:
    landed(tmp_path, [0])
    put(tmp_path, "bad.csv", [*lines(1), "x,c1,1.00,2026-01-01T00:00:00"])
    go(tmp_path)
    project = load(tmp_path)
    storage = open_storage(project)
    bad = LandLog(storage, "orders").newest()["data/bad.csv"]
    fixed = {"order_id": "77", "customer": "c1", "amount": "1.00", "updated_at": "2026-01-01T00:00:00"}
    origin = {"_source": "orders", "_file": bad.name, "_line": 14, "_ingested_at": bad.arrived}
    line = json.dumps({**origin, "fields": fixed, "changed": ["order_id"], "raw": "", "by": "me"}) + "\n"
    key = "bronze/corrections.orders/1.jsonl"
    storage.write(key, [line.encode()])
    storage.sync([key])
    digest = hashlib.sha256(line.encode()).hexdigest()
    item = Landed(key, "1.jsonl", len(line), digest, 1, {"type": "jsonl"}, key_id=None)
    log = LandLog(storage, "corrections.orders")
    log.append(None, (), "me")
    log.append({"fix": 1}, [item], "me")
    assert old(tmp_path).kept == {"corrections of `orders` wait": 2}
    assert go(tmp_path).tables[0].ledger.corrected == 1
    before = content(tmp_path)
    assert not before["quarantine.orders"]
    assert sum(77 in row for row in before["silver.orders"]) == 1
    assert len(old(tmp_path).objects) == 2
    rebuilt(tmp_path)
    assert content(tmp_path) == before


def test_a_version_that_was_replaced_goes_and_the_newest_stays(tmp_path: Path) -> None:
    landed(tmp_path, [0, 1])
    put(tmp_path, "0.csv", lines(0, 5))
    go(tmp_path, select=["land:orders"])
    assert old(tmp_path).kept == {"unrefined": 2}, "the old version is needed until the new one is refined"
    rebuilt_once = go(tmp_path)
    assert "new version" in str(rebuilt_once.tables[0].rebuilt)
    before = content(tmp_path)
    found = old(tmp_path)
    assert found.kept == {"newest version of a file that changes": 1}
    assert bronze(tmp_path) == ["0.csv"]
    rebuilt(tmp_path)
    assert content(tmp_path) == before
    put(tmp_path, "0.csv", lines(0, 7))
    assert go(tmp_path).status == "success", "a file that changes can change again"
    clean = make(tmp_path / "clean", {"0.csv": lines(0, 7), "1.csv": lines(1)})
    go(clean)
    assert content(tmp_path) == content(clean)


def test_partitioned_rows_without_a_key_come_back_as_often_as_they_came(tmp_path: Path) -> None:
    same = ["1,ann,1.00", "1,ann,1.00", "2,bob,2.00", "3,,3.00"]
    make(tmp_path, {}, APPEND)
    for number in range(4):
        put(tmp_path, f"{number}.csv", same[: number + 1], "order_id,customer,amount")
        go(tmp_path)
    before = rows(tmp_path, "silver.events")
    assert len(before) == 10
    assert len(old(tmp_path, clock(tmp_path, "events", 2)).objects) == 2
    for left in (1, 0):
        rebuilt(tmp_path, "events")
        assert rows(tmp_path, "silver.events") == before
        assert len(old(tmp_path).objects) == 2 * left
    put(tmp_path, "4.csv", ["9,zoe,9.00"], "order_id,customer,amount")
    assert go(tmp_path).tables[0].ledger.inserted == 1
    rebuilt(tmp_path, "events")
    assert len(rows(tmp_path, "silver.events")) == 11


def test_expectations_of_a_rebuild_are_of_the_rows_that_there_will_be(tmp_path: Path) -> None:
    pipeline = APPEND + "      expect: [{sum: amount, between: [10, 10]}]\n"
    make(tmp_path, {}, APPEND)
    for number in range(2):
        put(tmp_path, f"{number}.csv", [f"{number},ann,5.00"], "order_id,customer,amount")
        go(tmp_path)
    (tmp_path / "pipeline.yml").write_text(pipeline)
    go(tmp_path, accept_changes=True)
    for _ in range(2):
        rebuilt(tmp_path, "events")  # neither the old rows as well, nor without those of the base
        assert len(rows(tmp_path, "silver.events")) == 2
        assert len(old(tmp_path, clock(tmp_path, "events", 1)).objects) in (0, 1)
    assert bronze(tmp_path) == ["1.csv"]


def test_deletions_stay_deleted(tmp_path: Path) -> None:
    deletes = PIPELINE.replace("history: true", "history: true\n    delete_when: customer = 'gone'")
    landed(tmp_path, [0], deletes)
    put(tmp_path, "1.csv", ["3,gone,0.00,2026-02-01T00:00:00", "99,gone,0.00,2026-02-01T00:00:00"])
    go(tmp_path)
    old(tmp_path)
    put(tmp_path, "2.csv", ["3,late,5.00,2026-01-31T00:00:00", "99,late,5.00,2026-01-31T00:00:00"])
    go(tmp_path)
    before = content(tmp_path)
    rebuilt(tmp_path)
    assert content(tmp_path) == before
    clean = landed(tmp_path / "clean", [0], deletes)
    for name in ("1.csv", "2.csv"):
        shutil.copy(tmp_path / "data" / name, clean / "data" / name)
        go(clean)
    assert content(clean) == before


def test_of_a_table_that_each_delivery_replaces_only_the_newest_counts(tmp_path: Path) -> None:
    pipeline = APPEND.replace("partition_by: customer", "mode: replace")
    make(tmp_path, {}, pipeline)
    for number in range(3):
        put(tmp_path, f"{number}.csv", [f"{number},ann,{number}.00"], "order_id,customer,amount")
        go(tmp_path)
    found = old(tmp_path)
    assert found.kept == {"newest delivery of a table that each one replaces": 1}
    assert bronze(tmp_path) == ["2.csv"]
    before = rows(tmp_path, "silver.events")
    rebuilt(tmp_path, "events")
    assert rows(tmp_path, "silver.events") == before
    put(tmp_path, "3.csv", ["3,bob,3.00"], "order_id,customer,amount")
    go(tmp_path)
    assert len(old(tmp_path).objects) == 1
    (tmp_path / "pipeline.yml").write_text(pipeline.replace("amount:   {", "amount: {max: 99, "))
    assert go(tmp_path, accept_changes=True).status == "success", "nothing that is gone has a part in it"
    (row,) = rows(tmp_path, "silver.events")
    assert "bob" in row


def test_what_a_table_passed_over_is_not_in_its_base(tmp_path: Path) -> None:
    landed(tmp_path, range(2))
    now = "\n  late: {from: orders, start: now, contract: {columns: {customer: {}}}}\n"
    (tmp_path / "pipeline.yml").write_text(PIPELINE + now)
    go(tmp_path)
    for number in (2, 3):
        put(tmp_path, f"{number}.csv", lines(number))
        go(tmp_path)
    before = rows(tmp_path, "silver.late")
    assert len(before) == 24
    for epoch in (1, 3, 4):
        old(tmp_path, clock(tmp_path, epoch=epoch))
        rebuilt(tmp_path, "late")
        assert rows(tmp_path, "silver.late") == before
    assert not bronze(tmp_path)


def test_a_table_set_back_to_before_expired_bronze_is_rebuilt_and_never_continued(tmp_path: Path) -> None:
    landed(tmp_path)
    before = content(tmp_path)
    old(tmp_path, clock(tmp_path, epoch=3))
    restore(load(tmp_path), "orders", Point(epoch=1))
    once = content(tmp_path)
    assert len(once["silver.orders"]) < len(before["silver.orders"])
    report = go(tmp_path)
    assert "was set back to before 2 objects that are gone from bronze" in str(report.tables[0].error)
    assert content(tmp_path) == once
    assert "unrefined" in old(tmp_path).kept
    rebuilt(tmp_path)
    assert content(tmp_path) == before


def test_columns_that_came_later_are_there_after_a_rebuild(tmp_path: Path) -> None:
    landed(tmp_path, [0])
    put(tmp_path, "1.csv", ["1,ann,1.00,2026-02-01T00:00:00,red"], HEADER + ",colour")
    go(tmp_path)
    old(tmp_path, clock(tmp_path, epoch=1))
    put(tmp_path, "2.csv", lines(2))
    go(tmp_path)
    before = content(tmp_path)
    rebuilt(tmp_path)
    assert content(tmp_path) == before
    old(tmp_path)
    rebuilt(tmp_path)
    assert content(tmp_path) == before
    assert sum("red" in row for row in before["silver.orders"]) == 1


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_order_the_tables_are_those_of_a_lake_that_keeps_all(tmp_path: Path, seed: int) -> None:
    """New files, corrected files, expiries and rebuilds in any order; old rows of a corrected file go."""
    dice = random.Random(seed)
    root = landed(tmp_path / "lake", [0])
    for step in range(1, 14):
        what = dice.choice(["land", "land", "correct", "expire", "rebuild"])
        there = [name for name in bronze(root) if name != "0.csv"]
        if what == "land":
            put(root, f"{step}.csv", lines(step, dice.randrange(1, 20), dice.randrange(60)))
            assert go(root).status == "success"
        elif what == "correct" and there:
            put(root, dice.choice(there), lines(step, dice.randrange(1, 20), dice.randrange(60)))
            assert go(root).status == "success"
        elif what == "expire":
            epochs = len(LandLog(open_storage(load(root)), "orders").records)
            old(root, clock(root, epoch=dice.randrange(1, epochs)))
        elif what == "rebuild":
            rebuilt(root)
    clean = make(tmp_path / "clean")
    shutil.copytree(root / "data", clean / "data", dirs_exist_ok=True)
    go(clean)
    assert content(root) == content(clean), f"seed {seed}"
    rebuilt(root)
    assert content(root) == content(clean), f"seed {seed}"


def test_a_run_lets_old_objects_go_at_most_once_a_day(tmp_path: Path) -> None:
    notes: list[str] = []
    make(tmp_path, {"0.csv": lines(0)}, PIPELINE + "retention: {bronze: 1s}\n")

    def told(event: Event) -> None:
        if event.task == "retention":
            notes.append(event.message)

    def later() -> None:
        yesterday = time.time() - 86401
        os.utime(tmp_path / "lake/_headrace/retention.stamp", (yesterday, yesterday))
        time.sleep(1.05)

    assert go(tmp_path, listener=told).status == "success"
    assert bronze(tmp_path) == ["0.csv"]
    later()
    assert go(tmp_path, listener=told).tables[0].noop
    assert notes.pop().startswith("1 old objects of bronze (0.0 MB) expired")
    assert not bronze(tmp_path)
    put(tmp_path, "1.csv", lines(1))
    before = go(tmp_path, listener=told)
    assert (before.status, notes, bronze(tmp_path)) == ("success", [], ["1.csv"])
    later()
    put(tmp_path, "2.csv", lines(2))
    go(tmp_path, listener=told)
    assert notes.pop().startswith("1 old objects")
    assert bronze(tmp_path) == ["2.csv"]
    assert content(tmp_path) == content(landed(tmp_path / "clean", range(3)))
    assert go(tmp_path).tables[0].noop, "files that are still in the source do not land again"


def test_what_goes_wrong_with_retention_does_not_undo_a_run(tmp_path: Path) -> None:
    notes: list[str] = []
    make(tmp_path, {"0.csv": lines(0)})
    go(tmp_path)
    (tmp_path / "pipeline.yml").write_text(PIPELINE + "retention: {bronze: 1s}\n")
    assert go(tmp_path).status == "success"
    (path,) = (tmp_path / "lake/bronze").rglob("*.csv")
    path.write_bytes(b"damaged")
    (tmp_path / "lake/_headrace/retention.stamp").unlink()
    for _ in range(2):
        time.sleep(1.05)
        report = go(tmp_path, listener=lambda event: notes.append(event.task + " " + event.message))
        assert report.status == "success"
        assert "retention nothing expired: bronze object" in notes.pop(), "told again until it is mended"
    assert path.exists()


# what cannot be had any more ------------------------------------------------------------------------------


def test_a_changed_contract_is_refused_until_it_is_adopted(tmp_path: Path) -> None:
    landed(tmp_path)
    before = content(tmp_path)
    old(tmp_path, clock(tmp_path, epoch=2))
    changed = PIPELINE.replace(
        "known_customer: {check: \"customer <> 'nobody'\"}", "none: {check: customer <> 'c1'}"
    )
    (tmp_path / "pipeline.yml").write_text(changed)
    report = go(tmp_path, accept_changes=True)
    assert report.tables[0].error_class == "configuration"
    assert "its settings changed, but bronze" in str(report.tables[0].error)
    assert "hint: undo the change" in str(report.tables[0].error)
    assert "`headrace plan --adopt orders`" in str(report.tables[0].error)
    assert content(tmp_path) == before
    assert old(tmp_path).kept == {"`orders` has changed and was not computed anew": 2}
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    assert go(tmp_path).tables[0].noop, "undone, it is as if nothing had been"
    (tmp_path / "pipeline.yml").write_text(changed)
    project = load(tmp_path)
    assert adopt(project, open_storage(project), "orders")
    assert go(tmp_path).tables[0].rebuilt == "the contract or table settings changed"
    kept = [row for row in rows(tmp_path, "silver.orders") if "c1" in row]
    assert kept, "rows of expired bronze stay as they are"
    assert {name for row in kept for name in row if str(name).startswith("data/")} == {
        "data/0.csv",
        "data/1.csv",
    }
    assert len(rows(tmp_path, "quarantine.orders")) == 8
    after = content(tmp_path)
    rebuilt(tmp_path)
    assert content(tmp_path) == after


def test_a_plan_tells_what_expired_bronze_forbids_and_adopts_on_request(tmp_path: Path) -> None:
    landed(tmp_path)
    old(tmp_path, clock(tmp_path, epoch=2))
    put(tmp_path, "0.csv", ["0,corrected,9.00,2026-03-01T00:00:00"])
    told = headrace(tmp_path, "plan")
    assert told.returncode == 2, told.stdout + told.stderr
    assert "table orders  cannot: table `orders`: a new version of data/0.csv has landed" in told.stdout
    assert "`headrace plan --adopt orders`" in told.stdout
    assert headrace(tmp_path, "run").returncode == 2
    told = headrace(tmp_path, "plan", "--adopt", "orders", "--reason", "late corrections")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "table orders  its rows of expired bronze stay as they are" in told.stdout
    assert "table orders  rebuild: a new version of data/0.csv" in told.stdout
    record = expired(open_storage(load(tmp_path)))
    assert (record.adopted["table"], record.adopted["reason"]) == ("orders", "late corrections")
    assert record.adopted["by"]
    assert headrace(tmp_path, "run").returncode == 0
    assert sum("corrected" in row for row in rows(tmp_path, "silver.orders")) == 1


def test_adopting_does_not_change_what_a_row_is(tmp_path: Path) -> None:
    landed(tmp_path, [0])
    project = load(tmp_path)
    assert not adopt(project, open_storage(project), "orders"), (
        "nothing is gone, so there is nothing to adopt"
    )
    old(tmp_path)
    (tmp_path / "pipeline.yml").write_text(PIPELINE.replace("keys: [order_id]", "keys: [order_id, customer]"))
    project = load(tmp_path)
    with pytest.raises(ConfigError, match="keys and partition_by cannot change"):
        adopt(project, open_storage(project), "orders")
    with pytest.raises(ConfigError, match="`ordres` is not defined"):
        adopt(project, open_storage(project), "ordres")


def test_a_new_version_of_an_expired_file_is_refused_until_it_is_adopted(tmp_path: Path) -> None:
    landed(tmp_path)
    old(tmp_path, clock(tmp_path, epoch=2))
    before = content(tmp_path)
    put(tmp_path, "3.csv", lines(3, 2))
    assert go(tmp_path).status == "success", "the old version of this one is still there"
    assert content(tmp_path)["silver.orders"] != before["silver.orders"]
    before = content(tmp_path)
    put(tmp_path, "0.csv", ["0,corrected,9.00,2026-03-01T00:00:00"])
    report = go(tmp_path)
    assert "a new version of data/0.csv has landed, but the old one is gone" in str(report.tables[0].error)
    assert content(tmp_path) == before
    project = load(tmp_path)
    assert adopt(project, open_storage(project), "orders")
    assert go(tmp_path).status == "success"
    after = content(tmp_path)
    assert len(after["silver.orders"]) == len(before["silver.orders"]), "old rows stay, equal keys are merged"
    assert sum("corrected" in row for row in after["silver.orders"]) == 1
    rebuilt(tmp_path)
    assert content(tmp_path) == after
    put(tmp_path, "1.csv", lines(1, 3))
    assert "a new version of data/1.csv" in str(go(tmp_path).tables[0].error), "what was not adopted"


def test_a_new_table_says_where_bronze_begins(tmp_path: Path) -> None:
    landed(tmp_path)
    old(tmp_path, clock(tmp_path, epoch=2))
    second = "\n  second: {from: orders, contract: {columns: {customer: {}}}}\n"
    (tmp_path / "pipeline.yml").write_text(PIPELINE + second)
    table = {item.name: item for item in go(tmp_path).tables}["second"]
    today = LandLog(open_storage(load(tmp_path)), "orders").records[-1].time[:10]
    assert "`second` cannot be filled from the beginning: 2 objects of `orders` are gone" in str(table.error)
    assert f"it begins with {today}" in str(table.error)
    assert old(tmp_path).kept == {"unrefined": 2}
    project = load(tmp_path)
    assert adopt(project, open_storage(project), "second")
    assert go(tmp_path).status == "success"
    assert len(rows(tmp_path, "silver.second")) == 24
    assert len(old(tmp_path).objects) == 2
    rebuilt(tmp_path, "second")
    assert len(rows(tmp_path, "silver.second")) == 24
    third = second + "  third: {from: orders, start: now, contract: {columns: {customer: {}}}}\n"
    (tmp_path / "pipeline.yml").write_text(PIPELINE + third)
    assert go(tmp_path).status == "success"


@pytest.mark.parametrize("before", [0, 1])
def test_a_table_that_was_away_while_bronze_expired_is_not_rebuilt_from_half(
    tmp_path: Path, before: int
) -> None:
    both = PIPELINE + "\n  second: {from: orders, contract: {columns: {customer: {}}}}\n"
    landed(tmp_path, range(2), both)
    if before:
        assert len(old(tmp_path, clock(tmp_path, epoch=1)).objects) == 1
        assert set(expired(open_storage(load(tmp_path))).bases) == {"orders", "second"}
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    assert len(old(tmp_path).objects) == 2 - before
    (tmp_path / "pipeline.yml").write_text(both)
    assert go(tmp_path).status == "success", "nothing is new"
    table = {item.name: item for item in go(tmp_path, rebuild=["second"]).tables}["second"]
    assert "`second` has no base that stands for them: 2 objects of `orders` are gone" in str(table.error)
    assert len(rows(tmp_path, "silver.second")) == 24
    put(tmp_path, "2.csv", lines(2))
    assert go(tmp_path).status == "success"
    assert len(rows(tmp_path, "silver.second")) == 36
    assert old(tmp_path).kept == {"`second` has no base for what is gone already": 1}
    project = load(tmp_path)
    with pytest.raises(ConfigError, match="has no base for the bronze that is gone"):
        adopt(project, open_storage(project), "second")


def test_rows_that_a_rebuild_would_quarantine_keep_their_object(tmp_path: Path) -> None:
    pipeline = PIPELINE.replace(
        "customer:   {type: text, clean: [trim]}", "customer: {references: people.id}"
    )
    pipeline = pipeline.replace("sources:\n", "sources:\n  people: {type: files, path: people/*.csv}\n")
    pipeline += "  people: {from: people, contract: {columns: {id: {}}}}\n"
    make(tmp_path, {}, pipeline)
    (tmp_path / "people").mkdir()
    (tmp_path / "people/p.csv").write_text("id\nc0\nc1\nc2\n")
    put(tmp_path, "a.csv", ["1,c0,1.00,2026-01-01T00:00:00"])
    put(tmp_path, "b.csv", ["2,c1,1.00,2026-01-01T00:00:00"])
    assert go(tmp_path).status == "success"
    (tmp_path / "people/p.csv").write_text("id\nc0\n")
    assert go(tmp_path).status == "success"
    found = old(tmp_path)
    assert found.kept["would be quarantined by a rebuild"] == 1
    assert "a.csv" not in bronze(tmp_path)
    assert "b.csv" in bronze(tmp_path)
    rebuilt_table = {item.name: item for item in go(tmp_path, rebuild=["orders"]).tables}["orders"]
    assert rebuilt_table.ledger.quarantined == 1
    assert [row for row in rows(tmp_path, "silver.orders") if "c0" in row]


def test_a_damaged_base_is_never_built_on(tmp_path: Path) -> None:
    landed(tmp_path, range(2))
    old(tmp_path)
    before = content(tmp_path)
    (path, *_) = (tmp_path / "lake/base").rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    report = go(tmp_path, rebuild=["orders"])
    assert "of its base is missing or not the size it had" in str(report.tables[0].error)
    assert content(tmp_path) == before
    record = tmp_path / "lake/_headrace/expired/000000000001.json"
    record.write_text(
        record.read_text().replace('"superseded"', '"base"').replace("silver.orders", "silver.orderz")
    )
    with pytest.raises(Corrupt, match="was changed"):
        old(tmp_path)


# killed, paused, beside one another -----------------------------------------------------------------------

EXPIRE = (
    "from datetime import datetime; from pathlib import Path; from headrace.run.retention import expire; "
    "from headrace.run.runner import open_storage; from headrace.spec.load import load; import sys; "
    "project = load(Path('.')); "
    "print(len(expire(project, open_storage(project), now=datetime.fromisoformat(sys.argv[1])).objects))"
)


def spawned(root: Path, failpoint: str, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=root,
        env={**os.environ, "HEADRACE_FAILPOINTS": failpoint},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def paused(process: subprocess.Popen[str]) -> None:
    for _ in range(400):
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "T":
            return
        assert state != "Z", process.communicate()
        time.sleep(0.05)
    pytest.fail("never paused")


@pytest.mark.parametrize("place", [place for place in failpoints.PLACES if place.startswith("expire")])
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_at_every_step_nothing_is_lost(tmp_path: Path, place: str, nth: int) -> None:
    root = landed(tmp_path)
    before = content(root)
    old(root, clock(root, epoch=1))
    now = clock(root, epoch=3)
    with spawned(root, f"{place}=kill@{nth}", "-c", EXPIRE, now.isoformat()) as killed:
        _, errors = killed.communicate(timeout=60)
        once = place != "expire.deleted"
        assert killed.returncode == (0 if once and nth == 2 else -signal.SIGKILL), errors
    rebuilt(root)
    assert content(root) == before
    old(root, now)
    assert bronze(root) == ["3.csv"]
    rebuilt(root)
    assert content(root) == before
    bases = expired(open_storage(load(root))).bases
    named = {file.path for at in bases["orders"].outputs.values() for file in at.files}
    assert set((root / "lake/base").rglob("*.parquet")) == named, "what a killed one left is gone"


@pytest.mark.parametrize("orphans", [False, True])
def test_a_paused_expiry_that_wakes_up_later_deletes_nothing_that_is_needed(
    tmp_path: Path, orphans: bool
) -> None:
    root = landed(tmp_path)
    before = content(root)
    now = clock(root, epoch=3)
    zombie = spawned(root, "expire.based=pause", "-c", EXPIRE, now.isoformat())
    try:
        paused(zombie)
        (root / "lake/_headrace/run.lock").unlink()  # as if the lock had been another machine's
        # the rival has something to expire itself, or only cleans up what it takes for leftovers
        old(root, datetime.now(UTC) if orphans else now)
        zombie.send_signal(signal.SIGCONT)
        _, errors = zombie.communicate(timeout=60)
    finally:
        zombie.kill()
        zombie.wait()
    assert "another expiry made" in errors
    assert bronze(root) == (["0.csv", "1.csv", "2.csv", "3.csv"] if orphans else ["3.csv"])
    rebuilt(root)
    assert content(root) == before


def test_a_rebuild_planned_before_an_expiry_keeps_what_it_needs(tmp_path: Path) -> None:
    root = landed(tmp_path)
    before = content(root)
    now = clock(root, epoch=3)
    expiry = spawned(root, "expire.based=pause", "-c", EXPIRE, now.isoformat())
    lock = root / "lake/_headrace/run.lock"
    run = None
    try:
        paused(expiry)
        lock.unlink()
        run = spawned(
            root, "refine.computed=pause", "-m", "headrace", "run", "--quiet", "--rebuild", "orders"
        )
        paused(run)
        expiry.send_signal(signal.SIGCONT)
        out, errors = expiry.communicate(timeout=60)
        assert out.strip() == "0", errors
        assert len(bronze(root)) == 4, "recorded as gone, deleted when the plan is done"
        run.send_signal(signal.SIGCONT)
        assert run.wait(60) == 0
    finally:
        for process in filter(None, (expiry, run)):
            process.kill()
            process.communicate()
    assert content(root) == before
    assert len(old(root, now).objects) == 3
    rebuilt(root)
    assert content(root) == before


def test_an_expiry_that_comes_while_a_rebuild_is_planned_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = landed(tmp_path)
    before = content(root)
    monkeypatch.setattr(refining, "newest", lambda _: 1)
    report = go(root, rebuild=["orders"])
    assert "bronze expired while epoch 5 was planned" in str(report.tables[0].error)
    monkeypatch.undo()
    rebuilt(root)
    assert content(root) == before
