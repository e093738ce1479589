"""Restore: a table becomes what it was, the next run replays what came later, and a hold is never silent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable

from headrace import failpoints
from headrace.errors import ConfigError
from headrace.run.restore import Point, let_go, restore
from headrace.run.runner import open_storage
from headrace.spec.load import load
from headrace.store.records import RefineLog
from tests.projects import content, day, go, headrace, make, put, rows

PLACES = [place for place in failpoints.PLACES if place.startswith("restore")]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of three days, an epoch each."""
    root = make(tmp_path_factory.mktemp("grown"))
    for n in range(3):
        put(root, f"{n}.csv", day(n))
        assert go(root).status == "success"
    return root


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first day alone gives."""
    root = make(tmp_path_factory.mktemp("once"), {"0.csv": day(0)})
    go(root)
    return root


@pytest.fixture
def root(grown: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", str(grown), str(tmp_path / "p")], check=True)
    return tmp_path / "p"


def log_of(root: Path) -> RefineLog:
    return RefineLog(open_storage(load(root)), "orders")


@pytest.mark.parametrize("by", ["epoch", "version", "time"])
def test_a_table_becomes_what_it_was_and_the_next_run_replays(
    root: Path, once: Path, grown: Path, by: str
) -> None:
    first = log_of(root).done[0]
    points = {
        "epoch": Point(epoch=1),
        "version": Point(version=first.outputs["silver.orders"]["version"]),
        "time": Point(time=first.time),
    }
    restore(load(root), "orders", points[by])
    assert content(root) == content(once)
    last = log_of(root).last
    assert last is not None
    assert (last.epoch, last.mode, last.inputs) == (4, "restore", first.inputs)
    report = go(root)
    assert (report.status, report.tables[0].ledger.read) == ("success", 80)
    assert content(root) == content(grown)


def test_a_held_table_stays_and_every_run_says_so(root: Path, once: Path, grown: Path) -> None:
    assert "held" in str(restore(load(root), "orders", Point(epoch=1), hold=True, reason="a bad delivery"))
    for _ in range(2):
        report = go(root)
        assert report.status == "incomplete"
        assert "a bad delivery" in report.tables[0].held
        assert content(root) == content(once)
    ended = headrace(root, "run")
    assert ended.returncode == 3
    assert "headrace restore orders --release" in ended.stdout
    assert let_go(load(root), "orders")
    assert not let_go(load(root), "orders")
    assert go(root).status == "success"
    assert content(root) == content(grown)


def test_somebody_elses_commits_are_undone_from_the_records(root: Path, grown: Path, tmp_path: Path) -> None:
    DeltaTable(str(root / "lake/silver/orders")).restore(0)
    DeltaTable(str(root / "lake/silver/orders_history")).delete("order_id > 10")
    put(root, "3.csv", day(3))
    assert go(root).status == "failed"
    restore(load(root), "orders", Point())
    assert content(root) == content(grown)
    assert go(root).status == "success"
    clean = make(tmp_path / "clean", {f"{n}.csv": day(n) for n in range(4)})
    go(clean)
    assert content(root) == content(clean)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_anywhere_a_run_finishes_it_or_it_never_was(
    root: Path, grown: Path, once: Path, place: str, nth: int
) -> None:
    code = (
        "import sys; from headrace.run.restore import Point, restore; from headrace.spec.load import load;"
        "restore(load(sys.argv[1]), 'orders', Point(epoch=1))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        env={**os.environ, "HEADRACE_FAILPOINTS": f"{place}=kill@{nth}"},
        check=False,
    )
    if nth == 1:
        assert ended.returncode == -signal.SIGKILL
    assert go(root).status == "success"
    assert content(root) == content(grown)
    restore(load(root), "orders", Point(epoch=1))
    assert content(root) == content(once)


def _log_entry(root: Path, nth: int) -> Path:
    return sorted((root / "lake/silver/orders/_delta_log").glob("*.json"))[nth]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


HARM: dict[str, Callable[[Path], object]] = {
    "a deleted folder": lambda root: shutil.rmtree(root / "lake/silver/orders"),
    "deleted folders": lambda root: [
        shutil.rmtree(root / "lake" / name) for name in ("silver", "quarantine")
    ],
    "a lost file": lambda root: Path(DeltaTable(str(root / "lake/silver/orders")).file_uris()[0]).unlink(),
    "a foreign commit": lambda root: DeltaTable(str(root / "lake/silver/orders")).delete("order_id > 10"),
    "a truncated last log entry": lambda root: _cut(_log_entry(root, -1)),
    "a truncated first log entry": lambda root: _cut(_log_entry(root, 0)),
    "a lost log entry": lambda root: _log_entry(root, -1).unlink(),
    "damage to quarantine": lambda root: shutil.rmtree(root / "lake/quarantine/orders/_delta_log"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_deviated_table_becomes_what_the_last_run_had_left(root: Path, grown: Path, harm: str) -> None:
    HARM[harm](root)
    if harm != "a lost file":  # which nothing reads where nothing is new
        refused = headrace(root, "run")
        assert refused.returncode == 1
        assert "`headrace restore orders --from-records`" in refused.stdout + refused.stderr
    cured = headrace(root, "restore", "orders", "--from-records")
    assert cured.returncode == 0, cured.stderr
    assert content(root) == content(grown)
    assert "0 new files" in headrace(root, "run").stdout
    checked = headrace(root, "doctor", "--verify")
    assert checked.returncode == 0, checked.stdout
    put(root, "3.csv", day(3))
    assert go(root).status == "success"
    assert len(rows(root, "silver.orders")) > len(rows(grown, "silver.orders"))


@pytest.mark.parametrize(
    ("place", "nth"),
    [
        *(("restore.planned", 1), ("restore.commit", 1), ("restore.commit", 3), ("restore.done", 1)),
        *(("refine.planned", 1), ("sink.commit", 1), ("sink.commit", 3), ("refine.done", 1)),
    ],
)
def test_a_table_that_begins_anew_is_never_left_empty(root: Path, grown: Path, place: str, nth: int) -> None:
    _cut(_log_entry(root, -1))
    killed = {"HEADRACE_FAILPOINTS": f"{place}=kill@{nth}"}
    assert headrace(root, "restore", "orders", "--from-records", env=killed).returncode == -signal.SIGKILL
    if headrace(root, "run").returncode:
        assert headrace(root, "restore", "orders", "--from-records").returncode == 0
    assert content(root) == content(grown)
    assert "0 new files" in headrace(root, "run").stdout


def test_a_table_whose_bronze_is_gone_is_not_emptied(root: Path, grown: Path) -> None:
    for path in (root / "lake/bronze/orders").rglob("*.csv"):
        path.unlink()
    Path(DeltaTable(str(root / "lake/silver/orders")).file_uris()[0]).unlink()
    before = log_of(root).epoch
    refused = headrace(root, "restore", "orders", "--from-records")
    assert refused.returncode == 1
    assert "is gone from the lake" in refused.stderr
    assert rows(root, "quarantine.orders") == rows(grown, "quarantine.orders")
    assert log_of(root).epoch == before


def test_what_is_not_there_is_refused_and_nothing_changes(root: Path, grown: Path) -> None:
    with pytest.raises(ConfigError, match="no such state") as caught:
        restore(load(root), "orders", Point(epoch=9))
    assert "epochs 1 to 3" in str(caught.value)
    first = log_of(root).done[0].outputs["silver.orders"]["version"]
    for path in DeltaTable(str(root / "lake/silver/orders"), version=first).file_uris():
        Path(path).unlink()
    with pytest.raises(ConfigError, match="is gone"):
        restore(load(root), "orders", Point(epoch=1))
    assert content(root) == content(grown)
    assert go(root).tables[0].noop


def test_the_command(root: Path, once: Path) -> None:
    refused = headrace(root, "restore", "orders")
    assert refused.returncode == 2
    done = headrace(root, "restore", "orders", "--to-epoch", "1", "--hold")
    assert done.returncode == 0, done.stderr
    assert "as of epoch 1" in done.stdout
    assert content(root) == content(once)
    assert "released" in headrace(root, "restore", "orders", "--release").stdout
