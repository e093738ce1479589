"""Records: epochs without gaps, one winner each, and any change to a file is found."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace.core import Landed
from headrace.errors import ConfigError, Corrupt, Fenced
from headrace.store.records import Done, LandLog, Plan, RefineLog, check_format
from headrace.store.storage import LocalStorage

ITEM = Landed("bronze/k", "a.csv", 3, "s", 1, {"type": "csv"}, {"mtime": 1})


@pytest.fixture
def store(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def plan(number: int, prev: int = 0) -> Plan:
    return Plan("t", prev, number, "increment", {"s": (-1, 0)}, {}, {}, "f", [], {}, "now", "test", "w")


def done(number: int) -> Done:
    return Done("t", number, "f", {"s": 0}, [], {}, {}, {}, {}, {}, [], "now", "time")


def test_a_log_comes_back_as_it_was_written(store: LocalStorage) -> None:
    log = LandLog(store, "orders")
    log.append(None, (), "w")
    log.append({"lsn": 7}, [ITEM, replace(ITEM, name="b.csv")], "w")
    again = LandLog(store, "orders")
    assert again.records == log.records
    assert (again.epoch, again.end) == (1, {"lsn": 7})
    assert set(again.newest()) == {"a.csv", "b.csv"}
    assert [epoch for epoch, _ in again.objects(0, 1)] == [1, 1]
    assert again.objects(1, 1) == []


def test_a_stale_lander_is_fenced_and_then_goes_on(store: LocalStorage) -> None:
    first, second = LandLog(store, "s"), LandLog(store, "s")
    first.append(None, (), "one")
    with pytest.raises(Fenced, match="another writer committed epoch 0 first"):
        second.append(None, (), "two")
    assert second.append({"n": 1}, [ITEM], "two").epoch == 1


def test_an_unclear_answer_is_resolved_by_the_writers_id(
    store: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = store.create

    def lost_answer(key: str, data: bytes) -> bool:
        create(key, data)
        return create(key, data)

    monkeypatch.setattr(store, "create", lost_answer)
    log = LandLog(store, "s")
    assert log.append({"n": 1}, [ITEM], "me").epoch == 0
    assert "bronze/k" in log.fresh


def test_arrival_rises_within_a_stream_although_the_clock_falls(
    store: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(
        [datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)]
    )

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            assert tz is UTC
            return next(times)

    monkeypatch.setattr("headrace.store.records.datetime", Clock)
    log = LandLog(store, "s")
    for _ in range(3):
        log.append({}, [ITEM, ITEM], "w")
    arrived = [item.arrived for _, item in log.objects(-1, 2)]
    assert arrived == sorted(set(arrived))


@pytest.mark.parametrize("harm", ["change", "cut", "remove", "swap", "empty"])
def test_a_harmed_record_is_found(store: LocalStorage, harm: str) -> None:
    log = LandLog(store, "s")
    for number in range(4):
        log.append({"n": number}, [ITEM], "w")
    folder = store.root / "_headrace/land/s"
    first, second = folder / f"{1:012d}.json", folder / f"{2:012d}.json"
    if harm == "change":
        record = json.loads(first.read_text())
        record["body"]["objects"][0]["sha256"] = "t"
        first.write_text(json.dumps(record))
    elif harm == "cut":
        first.write_bytes(first.read_bytes()[:-9])
    elif harm == "remove":
        first.unlink()
    elif harm == "empty":
        first.write_bytes(b"")
    else:
        a, b = first.read_bytes(), second.read_bytes()
        first.write_bytes(b)
        second.write_bytes(a)
    with pytest.raises(Corrupt):
        LandLog(store, "s")


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b"])
def test_a_stream_id_is_a_plain_name(store: LocalStorage, name: str) -> None:
    with pytest.raises(ConfigError, match="stream id"):
        LandLog(store, name)


def test_one_plan_a_number_and_numbers_are_never_used_twice(store: LocalStorage) -> None:
    one, two = RefineLog(store, "t"), RefineLog(store, "t")
    one.plan(plan(1))
    with pytest.raises(Fenced, match="planned epoch 1 first"):
        two.plan(plan(1))
    two.refresh()
    assert two.next_number() == 2, "an abandoned plan keeps its number"
    two.plan(plan(2))
    assert [item.next for item in two.open_plans()] == [1, 2]
    two.finish(done(2))
    assert (two.epoch, two.open_plans(), two.next_number()) == (2, [], 3)
    again = RefineLog(store, "t")
    assert again.plans == two.plans
    assert again.last == two.last == done(2)


def test_a_changed_plan_is_found(store: LocalStorage) -> None:
    RefineLog(store, "t").plan(plan(1))
    path = store.root / "_headrace/refine/t/plan-000000000001.json"
    path.write_text(path.read_text().replace('"increment"', '"rebuild"'))
    with pytest.raises(Corrupt, match="was changed"):
        RefineLog(store, "t").open_plans()


def test_a_newer_lake_is_refused(store: LocalStorage) -> None:
    check_format(store)
    check_format(store)
    (store.root / "_headrace/format.json").write_text('{"format": 99}')
    with pytest.raises(ConfigError, match="format 99"):
        check_format(store)
    (store.root / "_headrace/format.json").write_text("{")
    with pytest.raises(Corrupt):
        check_format(store)


def test_a_log_tells_only_of_the_tables_that_are_asked_for(tmp_path: Path) -> None:
    log = LandLog(LocalStorage(tmp_path), "pg")
    log.append(None, (), "w")
    log.append({}, [Landed(f"k{t}", t, 1, "", 1, {}, table=t) for t in ("orders", "items")], "w")
    assert [item.name for _, item in log.objects(-1, 1)] == ["orders", "items"]
    orders = log.of({"orders"})
    assert [item.name for _, item in orders.objects(-1, 1)] == ["orders"]
    assert list(orders.newest()) == ["orders"]
    assert (orders.stream, orders.epoch) == ("pg", 1)
