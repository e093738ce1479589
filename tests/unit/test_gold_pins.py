from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.gold.pins import Pins, fingerprint, pin, pinned, went_back


def test_a_note_is_about_the_file_that_is_there(tmp_path: Path) -> None:
    database = tmp_path / "gold.duckdb"
    assert pinned(database) is None
    database.write_bytes(b"one")
    assert pinned(database) is None
    pins = Pins({"sales": {"version": 3, "epoch": 3, "id": "a"}}, "hash")
    pin(database, pins)
    assert pinned(database) == pins
    other = tmp_path / "other"
    other.write_bytes(b"two")
    other.replace(database)
    assert pinned(database) is None


def test_a_broken_note_is_no_note(tmp_path: Path) -> None:
    database = tmp_path / "gold.duckdb"
    database.write_bytes(b"one")
    pin(database, Pins({}, "hash"))
    (tmp_path / ".gold.duckdb.pins").write_text("{")
    assert pinned(database) is None


def test_the_fingerprint_sees_files_and_variables_and_no_clock(tmp_path: Path) -> None:
    model = tmp_path / "models" / "a.sql"
    model.parent.mkdir()
    model.write_text("select 1")
    first = fingerprint(tmp_path, {"x": 1})
    os.utime(model, (1, 1))
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "a.sql").write_text("compiled")
    assert fingerprint(tmp_path, {"x": 1}) == first
    assert fingerprint(tmp_path, {"x": 2}) != first
    model.write_text("select 2")
    second = fingerprint(tmp_path, {"x": 1})
    assert second != first
    model.rename(model.with_name("b.sql"))
    assert fingerprint(tmp_path, {"x": 1}) not in (first, second)


@pytest.mark.parametrize(
    ("now", "back"),
    [
        ({"sales": {"version": 2, "epoch": 2, "id": "a"}}, False),
        ({"sales": {"version": 3, "epoch": 3, "id": "a"}, "more": {"version": 0, "epoch": 1}}, False),
        ({"sales": {"version": 1, "epoch": 2, "id": "a"}}, True),
        ({"sales": {"version": 3, "epoch": 1, "id": "a"}}, True),
        ({"sales": {"version": 3, "epoch": 3, "id": "b"}}, True),
        ({}, True),
    ],
)
def test_going_back(now: dict[str, dict[str, str | int]], back: bool) -> None:
    old = Pins({"sales": {"version": 2, "epoch": 2, "id": "a"}}, "hash")
    assert went_back(old, Pins(now, "hash")) is back
