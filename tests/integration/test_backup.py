"""Backup and recovery: any moment since the first backup comes back whole, also one taken beside a run."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from headrace.errors import ConfigError, Corrupt
from headrace.run.backup import backup, manifests
from headrace.run.maintain import maintain
from headrace.run.recover import drill, recover
from headrace.run.remember import remember
from headrace.run.runner import open_catalog, open_storage
from headrace.run.verify import verify
from headrace.spec.load import load
from headrace.store.records import RefineLog
from tests.projects import content, day, go, headrace, make, put


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make(tmp_path_factory.mktemp("grown"))
    for n in range(3):
        put(root, f"{n}.csv", day(n))
        go(root)
    return root


@pytest.fixture
def root(grown: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", str(grown), str(tmp_path / "p")], check=True)
    return tmp_path / "p"


def at_home(root: Path, home: Path) -> Path:
    """The project without its lake, for a recovered one."""
    shutil.copytree(root, home, ignore=shutil.ignore_patterns("lake"))
    return home


def faults(root: Path) -> list[str]:
    return [fault for item in verify(open_storage(load(root))) for fault in item.faults]


def test_a_recovered_lake_is_the_same_and_goes_on(root: Path, tmp_path: Path) -> None:
    backup(load(root), tmp_path / "b")
    home = at_home(root, tmp_path / "home")
    recover(tmp_path / "b", home / "lake")
    assert content(home) == content(root)
    assert faults(home) == []
    assert len(open_catalog(load(home)).runs()) == 3
    assert go(home).tables[0].noop
    for each in (home, root):
        put(each, "3.csv", day(3))
        assert go(each).status == "success"
    assert content(home) == content(root)


def test_a_second_backup_copies_only_what_is_new(root: Path, tmp_path: Path) -> None:
    assert backup(load(root), tmp_path / "b").count > 20
    assert backup(load(root), tmp_path / "b").count == 0
    put(root, "3.csv", day(3))
    go(root)
    again = backup(load(root), tmp_path / "b")
    assert 0 < again.count < 15
    assert len(manifests(tmp_path / "b")) == 3


def test_any_moment_since_the_first_backup_comes_back(root: Path, tmp_path: Path) -> None:
    backup(load(root), tmp_path / "b")
    wanted = []
    for n in range(3, 6):
        put(root, f"{n}.csv", day(n))
        go(root)
        done = RefineLog(open_storage(load(root)), "orders").last
        assert done is not None
        wanted.append((done.time, content(root)))
    list(maintain(load(root)))
    backup(load(root), tmp_path / "b")
    for number, (moment, tables) in enumerate(wanted):
        home = at_home(root, tmp_path / f"home{number}")
        recover(tmp_path / "b", home / "lake", moment)
        assert content(home) == tables
        assert faults(home) == []
        assert go(home).status == "success"
        assert content(home) == content(root)


def test_a_backup_beside_a_running_pipeline_is_consistent(root: Path, tmp_path: Path) -> None:
    stop = threading.Event()

    def daily() -> None:
        for n in range(3, 40):
            if stop.is_set():
                return
            put(root, f"{n}.csv", day(n))
            go(root)

    runs = threading.Thread(target=daily)
    runs.start()
    try:
        for _ in range(6):
            backup(load(root), tmp_path / "b")
            time.sleep(0.1)
    finally:
        stop.set()
        runs.join()
    for number, manifest in enumerate(manifests(tmp_path / "b")):
        home = at_home(root, tmp_path / f"home{number}")
        recover(tmp_path / "b", home / "lake", manifest.time)
        assert faults(home) == []
        assert go(home).status == "success"
        assert content(home) == content(root)


@pytest.mark.parametrize("place", ["backup.copied=kill@5", "backup.records=kill"])
def test_a_killed_backup_is_none_and_the_next_one_is_whole(root: Path, tmp_path: Path, place: str) -> None:
    ended = headrace(root, "backup", str(tmp_path / "b"), env={"HEADRACE_FAILPOINTS": place})
    assert ended.returncode == -signal.SIGKILL
    assert manifests(tmp_path / "b") == []
    with pytest.raises(ConfigError, match="no backup"):
        recover(tmp_path / "b", tmp_path / "new")
    assert headrace(root, "backup", str(tmp_path / "b")).returncode == 0
    home = at_home(root, tmp_path / "home")
    recover(tmp_path / "b", home / "lake")
    assert content(home) == content(root)


def test_a_damaged_backup_recovers_nothing(root: Path, tmp_path: Path) -> None:
    backup(load(root), tmp_path / "b")
    paths = sorted(path for path in (tmp_path / "b/files").rglob("*") if path.is_file())
    for path in (paths[0], paths[len(paths) // 2], paths[-1]):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(Corrupt):
            recover(tmp_path / "b", tmp_path / "new")
        path.unlink()
        with pytest.raises(Corrupt):
            recover(tmp_path / "b", tmp_path / "new")
        path.write_bytes(whole)
        assert not (tmp_path / "new").exists()
    recover(tmp_path / "b", tmp_path / "new")


def test_two_lakes_do_not_share_a_folder(root: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", {"x.csv": day(7)})
    go(other)
    backup(load(root), tmp_path / "b")
    with pytest.raises(ConfigError, match="another lake"):
        backup(load(other), tmp_path / "b")


def test_a_drill_compares_and_finds_what_differs(root: Path, tmp_path: Path) -> None:
    backup(load(root), tmp_path / "b")
    put(root, "3.csv", day(3))
    go(root)
    found = list(drill(load(root), tmp_path / "b", tmp_path))
    assert [item for item in found if item.faults] == []
    assert sum("equal to the lake's by content hash" in item.told for item in found) == 3
    assert headrace(root, "doctor", "--drill", str(tmp_path / "b")).returncode == 0
    entry = tmp_path / "b/files/_headrace/refine/orders/done-000000000003.json"
    entry.write_bytes(entry.read_bytes()[:-10])
    ended = headrace(root, "doctor", "--drill", str(tmp_path / "b"))
    assert ended.returncode == 1


def test_verification_finds_a_changed_byte_anywhere(root: Path) -> None:
    assert faults(root) == []
    lake = root / "lake"
    victims = [
        next((lake / "bronze").rglob("*.csv")),
        lake / "_headrace/land/orders/000000000001.json",
        lake / "_headrace/refine/orders/plan-000000000001.json",
        lake / "_headrace/refine/orders/done-000000000002.json",
        lake / "silver/orders/_delta_log/00000000000000000001.json",
    ]
    for path in victims:
        whole = path.read_bytes()
        place = len(whole) // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert faults(root), path
        path.write_bytes(whole)
    assert faults(root) == []
    ended = headrace(root, "doctor", "--verify")
    assert ended.returncode == 0, ended.stdout
    next((lake / "bronze").rglob("*.csv")).unlink()
    assert headrace(root, "doctor", "--verify").returncode == 1


def test_a_lost_catalog_is_filled_from_the_lake(root: Path) -> None:
    with open_catalog(load(root)) as catalog:
        before = {
            run.run_id: (run.metrics.records_read, catalog.ledgers(run.run_id)) for run in catalog.runs()
        }
        verdicts = [len(catalog.quality_results(run_id)) for run_id in sorted(before)]
        changes = len(catalog.change_events("orders"))
    for path in (root / "lake").glob("catalog.db*"):
        path.unlink()
    assert headrace(root, "doctor", "--rebuild").returncode == 0
    with open_catalog(load(root)) as catalog:
        after = {
            run.run_id: (run.metrics.records_read, catalog.ledgers(run.run_id)) for run in catalog.runs()
        }
        assert before.keys() == after.keys()
        for run_id, (read, (old,)) in before.items():
            now, (new,) = after[run_id]
            assert (read, old.epoch, old.version, old.inserted, old.quarantined) == (
                now,
                new.epoch,
                new.version,
                new.inserted,
                new.quarantined,
            )
        assert [len(catalog.quality_results(run_id)) for run_id in sorted(after)] == verdicts
        assert len(catalog.change_events("orders")) == changes
        assert remember(load(root), open_storage(load(root)), catalog) == 0


def test_the_commands(root: Path, tmp_path: Path) -> None:
    done = headrace(root, "backup", str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    assert headrace(root, "recover", str(tmp_path / "b"), str(root / "lake")).returncode == 2
    back = headrace(root, "recover", str(tmp_path / "b"), str(tmp_path / "new"))
    assert back.returncode == 0, back.stderr
    assert (tmp_path / "new/silver/orders").is_dir()
