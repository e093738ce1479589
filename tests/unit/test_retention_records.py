"""Records of expiries: what they say is gone, what they keep of a base, and who may make the next one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core import DataFile, Landed, TableAt
from headrace.errors import Corrupt, Fenced
from headrace.store.base import Base, Expired, Gone, How, commit, expired, newest, ways
from headrace.store.records import LandLog
from headrace.store.storage import LocalStorage


def item(name: str) -> Landed:
    return Landed(f"bronze/s/{name}", name, 1, "", None, {})


def log(storage: LocalStorage, *commits: int) -> LandLog:
    """A land stream whose commits bring so many objects each, named 0, 1, 2 and on."""
    land = LandLog(storage, "s")
    land.append(None, (), "me")
    total = 0
    for count in commits:
        land.append({"n": total}, [item(str(total + n)) for n in range(count)], "me")
        total += count
    return land


def missing(state: Expired, land: LandLog) -> set[str]:
    return {it.name for epoch, it in land.objects(-1, land.epoch) if state.lacks("s", epoch, it)}


def test_a_lake_from_which_nothing_went(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert newest(storage) == 0
    assert expired(storage) == Expired()
    assert missing(Expired(), log(storage, 2)) == set()
    assert ways(storage, 0) == {}


@given(
    commits=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    rounds=st.lists(st.sets(st.integers(0, 20)), max_size=4),
)
def test_exactly_what_went_is_gone(
    tmp_path_factory: pytest.TempPathFactory, commits: list[int], rounds: list[set[int]]
) -> None:
    land = log(LocalStorage(tmp_path_factory.mktemp("lake")), *commits)
    keys = {it.key for _, it in land.objects(-1, land.epoch)}
    state = Expired()
    expected: set[str] = set()
    for numbers in rounds:
        going: dict[str, How] = {key: "base" for key in keys if int(key.rsplit("/", 1)[-1]) in numbers}
        expected |= {key.rsplit("/", 1)[-1] for key in going}
        state = replace(state, gone=state.after([land], going))
        assert missing(state, land) == expected
    later = land.append({"n": 99}, [item("later")], "me")
    assert not state.lacks("s", later.epoch, later.objects[0]), "what lands later is there"


def test_a_record_gives_back_what_was_put_in(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    file = DataFile(
        tmp_path / "base/1/orders/silver.orders/city=b%20c/part.parquet",
        3,
        99,
        {"city": "b c", "none": None},
        {"z": 1, "amount": 1.25, "day": "2026-01-01"},
        {"z": 9},
        {"z": 0},
    )
    at = TableAt("silver.orders", 7, (file,), {"z": "bigint", "a": "text", "city": "text"}, ("city",))
    base = Base("f", ["s"], ["z"], ["city"], {"silver.orders": at}, {"s": 4})
    gone = {"s": Gone(3, ["bronze/s/1"])}
    made = commit(storage, Expired(), Expired(0, "t", gone, {"orders": base}, {"k": "base"}, "me"))
    assert made == expired(storage) == expired(storage, 1)
    assert (made.number, made.bases["orders"], made.gone) == (1, base, gone)
    assert list(made.bases["orders"].at("silver.orders").columns) == ["z", "a", "city"], "in their order"
    assert made.bases["orders"].at("silver.orders_history").files == ()
    assert str(tmp_path) not in (tmp_path / "_headrace/expired/000000000001.json").read_text(), "lakes move"


def test_only_one_expiry_comes_next(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    mine = replace(Expired(), writer="me", objects={"a": "base"})
    first = commit(storage, Expired(), mine)
    assert commit(storage, Expired(), mine) == first, "an answer that was lost"
    with pytest.raises(Fenced, match="another expiry made _headrace/expired/000000000001"):
        commit(storage, Expired(), replace(mine, writer="rival"))
    second = commit(storage, first, replace(mine, writer="rival", objects={"b": "superseded"}))
    assert second.number == newest(storage) == 2
    assert ways(storage, 2) == {"a": "base", "b": "superseded"}
    assert ways(storage, 1) == {"a": "base"}


def test_a_changed_or_foreign_record_is_never_believed(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    first = commit(storage, Expired(), replace(Expired(), writer="me"))
    commit(storage, first, replace(Expired(), writer="me"))
    path = tmp_path / "_headrace/expired/000000000001.json"
    whole = path.read_text()
    record = json.loads(whole)
    record["body"]["objects"] = {"a": "base"}
    path.write_text(json.dumps(record))
    with pytest.raises(Corrupt, match="was changed"):
        expired(storage, 1)
    path.unlink()
    commit(storage, Expired(), replace(Expired(), writer="other"))
    with pytest.raises(Corrupt, match="does not follow the one before it"):
        ways(storage, 2)
    path.unlink()
    with pytest.raises(Corrupt, match="is gone"):
        ways(storage, 2)
    assert expired(storage).number == 2, "the newest says all that is gone"
