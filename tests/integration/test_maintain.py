"""Maintenance: no row changes, nothing that is needed goes, and a run beside it or a kill does no harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

from headrace import failpoints
from headrace.errors import Fenced
from headrace.run import compact
from headrace.run.land import LandReading
from headrace.run.maintain import maintain
from headrace.run.report import Step
from headrace.run.runner import open_storage
from headrace.spec.load import load
from headrace.store.delta import Table
from headrace.store.records import LandLog
from tests.projects import content, day, go, headrace, make, put

PLACES = [place for place in failpoints.PLACES if place.startswith("maintain")]
LATER = datetime.now(UTC) + timedelta(days=40)


def daily(root: Path, days: int = 10) -> Path:
    """A lake that got one small file a day."""
    make(root)
    for n in range(days):
        put(root, f"{n}.csv", day(n))
        assert go(root).status == "success"
    return root


def tend(root: Path, now: datetime | None = None, **options: bool) -> dict[str, Step]:
    return {step.what: step for step in maintain(load(root), now=now, **options)}


def orphan(root: Path, folder: str, name: str, days: float = 3) -> Path:
    path = root / "lake" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"left behind")
    before = time.time() - days * 86400
    os.utime(path, (before, before))
    return path


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return daily(tmp_path_factory.mktemp("grown"))


def copy_of(grown: Path, root: Path) -> Path:
    # hard links would share time stamps and bytes
    subprocess.run(["cp", "-a", str(grown), str(root)], check=True)
    return root


def live(root: Path, table: str) -> list[str]:
    return DeltaTable(str(root / "lake" / table.replace(".", "/"))).file_uris()


def test_small_files_become_few_and_no_row_changes(grown: Path, tmp_path: Path) -> None:
    root = copy_of(grown, tmp_path / "p")
    before = content(root)
    assert len(live(root, "quarantine.orders")) == 10
    steps = tend(root)
    assert steps["compact quarantine.orders"].count == 10
    assert len(live(root, "quarantine.orders")) == 1
    assert content(root) == before
    assert go(root).tables[0].noop, "compaction is no news to a run"
    put(root, "10.csv", day(10))
    assert go(root).status == "success"
    clean = make(tmp_path / "clean", {f"{n}.csv": day(n) for n in range(11)})
    go(clean)
    assert content(root) == content(clean)


def test_compaction_says_that_it_changes_no_data(grown: Path, tmp_path: Path) -> None:
    root = copy_of(grown, tmp_path / "p")
    tend(root)
    table = Table(root / "lake/quarantine/orders", "quarantine.orders")
    entry = table.entry(table.snapshot("").at.version)
    changes = [action[kind]["dataChange"] for action in entry for kind in ("add", "remove") if kind in action]
    assert len(changes) == 11
    assert not any(changes)
    assert not any("txn" in action for action in entry)
    assert DeltaTable(str(table.path)).transaction_version("headrace:orders") == 10


def test_a_dry_run_says_the_same_and_does_nothing(grown: Path, tmp_path: Path) -> None:
    root = copy_of(grown, tmp_path / "p")
    orphan(root, "silver/orders", "part-x.parquet")
    orphan(root, "bronze/orders/year=2026", "abc-x.csv")
    files = {path: path.stat().st_mtime_ns for path in (root / "lake").rglob("*") if path.is_file()}
    told = tend(root, dry_run=True)
    now = {path: path.stat().st_mtime_ns for path in (root / "lake").rglob("*") if path.is_file()}
    changed = {path.name for path in files.keys() ^ now.keys()}
    assert changed <= {"maintenance.lock"}
    done = tend(root)
    assert {name: step.count for name, step in told.items()} == {n: s.count for n, s in done.items()}
    assert {"vacuum silver.orders", "sweep bronze/orders", "compact quarantine.orders"} <= set(done)


def test_vacuum_keeps_young_and_needed_files_and_takes_old_ones(grown: Path, tmp_path: Path) -> None:
    root = copy_of(grown, tmp_path / "p")
    before = content(root)
    assert not any(what.startswith("vacuum") for what in tend(root)), "nothing is old yet"
    done = int(DeltaTable(str(root / "lake/quarantine/orders")).version()) - 1
    steps = tend(root, LATER)
    assert "vacuum silver.orders" in steps
    assert "vacuum quarantine.orders" not in steps, "the last done epoch names the files before compaction"
    assert all(
        Path(path).exists()
        for path in DeltaTable(str(root / "lake/quarantine/orders"), version=done).file_uris()
    )
    assert content(root) == before
    put(root, "10.csv", day(10))
    assert go(root).status == "success"
    assert "vacuum quarantine.orders" in tend(root, LATER), "the next epoch does not need them"
    assert all(Path(path).exists() for path in live(root, "quarantine.orders"))


def test_orphans_go_and_young_ones_stay(grown: Path, tmp_path: Path) -> None:
    root = copy_of(grown, tmp_path / "p")
    before = content(root)
    old = [
        orphan(root, "silver/orders", "part-x.snappy.parquet"),
        orphan(root, "silver/orders", "part-y.parquet#1"),
        orphan(root, "bronze/orders/year=2026/month=01/day=01", "abc-x.csv"),
        orphan(root, "_headrace/refine/orders", ".abc.tmp"),
    ]
    young = [
        orphan(root, "silver/orders", "part-z.parquet", 0.1),
        orphan(root, "bronze/orders/year=2026", "y.csv", 0.1),
    ]
    tend(root)
    assert [path for path in old if path.exists()] == []
    assert [path for path in young if not path.exists()] == []
    assert go(root).tables[0].noop
    assert content(root) == before


def test_a_paused_lander_cannot_claim_what_was_swept(grown: Path, tmp_path: Path) -> None:
    root = copy_of(grown, tmp_path / "p")
    storage = open_storage(load(root))
    paused = LandLog(storage, "orders")  # it has read epoch 10 and written an object
    path = orphan(root, "bronze/orders/year=2026", "abc-x.csv")
    item = paused.records[-1].objects[0]
    tend(root)
    assert not path.exists()
    with pytest.raises(Fenced):
        paused.append(paused.end, [item], "paused")


def test_a_paused_writer_cannot_name_what_was_vacuumed(grown: Path, tmp_path: Path) -> None:
    root = copy_of(grown, tmp_path / "p")
    table = Table(root / "lake/silver/orders", "silver.orders")
    snapshot = table.snapshot("")
    path = orphan(root, "silver/orders", "part-x.snappy.parquet")
    tend(root)
    assert not path.exists()
    with pytest.raises(Fenced):
        table.commit(compact.maintenance(snapshot, "compact"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_anywhere_nothing_is_lost_and_the_next_one_goes_on(
    grown: Path, tmp_path: Path, place: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LandLog.checkpoint, "__defaults__", (1,))
    root = copy_of(grown, tmp_path / "p")
    before = content(root)
    for n in range(3):
        orphan(root, "silver/orders", f"part-{n}.parquet")
        orphan(root, "bronze/orders/year=2026", f"{n}.csv")
    code = (
        "from headrace.store.records import LandLog; LandLog.checkpoint.__defaults__ = (1,);"
        "from headrace.run.maintain import maintain; from headrace.spec.load import load; import sys;"
        "list(maintain(load(sys.argv[1])))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        env={**os.environ, "HEADRACE_FAILPOINTS": f"{place}=kill@{nth}"},
        check=False,
    )
    if nth == 1:
        assert ended.returncode == -signal.SIGKILL
    assert go(root).tables[0].noop
    assert content(root) == before
    tend(root)
    assert len(live(root, "quarantine.orders")) == 1
    assert not list((root / "lake/silver/orders").glob("part-?.parquet"))
    put(root, "10.csv", day(10))
    assert go(root).status == "success"
    clean = make(tmp_path / "clean", {f"{n}.csv": day(n) for n in range(11)})
    go(clean)
    assert content(root) == content(clean)


@pytest.mark.parametrize("place", ["refine.planned", "refine.computed", "sink.files", "sink.commit"])
def test_a_run_that_maintenance_overtakes_ends_well(grown: Path, tmp_path: Path, place: str) -> None:
    root = copy_of(grown, tmp_path / "p")
    put(root, "10.csv", day(10))
    run = subprocess.Popen(
        [sys.executable, "-m", "headrace", "run"],
        cwd=root,
        env={**os.environ, "HEADRACE_FAILPOINTS": f"{place}=pause"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_until_paused(run)
        steps = tend(root)
        assert steps["tend silver.orders"].skipped, "maintenance waits for the epoch"
        for name in ("quarantine.orders", "silver.orders", "silver.orders_history"):  # as if it had not
            table = Table(root / "lake" / name.replace(".", "/"), name)
            table.commit(compact.maintenance(table.snapshot(""), "compact"))
        run.send_signal(signal.SIGCONT)
        out, _ = run.communicate(timeout=60)
        assert run.returncode == 0, out
    finally:
        run.kill()
        run.wait()
    clean = make(tmp_path / "clean", {f"{n}.csv": day(n) for n in range(11)})
    go(clean)
    assert content(root) == content(clean)


def _wait_until_paused(run: subprocess.Popen[str]) -> None:
    for _ in range(400):
        if Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.05)
    pytest.fail("the run never reached its pause")


def test_the_slower_compaction_is_done_again(
    grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copy_of(grown, tmp_path / "p")
    before = content(root)
    commit, calls = Table.commit, []

    def overtaken(self: Table, change: object) -> int:
        calls.append(1)
        if len(calls) == 1:
            commit(self, compact.maintenance(self.snapshot(""), "other"))
        return commit(self, change)  # type: ignore[arg-type]

    monkeypatch.setattr(Table, "commit", overtaken)
    tend(root)
    assert len(calls) >= 2
    assert content(root) == before
    assert len(live(root, "quarantine.orders")) == 1


def test_a_checkpoint_of_records_is_only_a_copy(grown: Path, tmp_path: Path) -> None:
    root = copy_of(grown, tmp_path / "p")
    storage = open_storage(load(root))
    whole = LandLog(storage, "orders")
    assert whole.checkpoint(every=1000) is None
    key = whole.checkpoint(every=1)
    assert key
    again = LandLog(storage, "orders")
    assert again.records == whole.records
    assert LandReading(again.newest(), {}).names() == LandReading(whole.newest(), {}).names()
    path = storage.path(key)
    path.write_bytes(path.read_bytes().replace(b"orders", b"0rders", 1))
    assert LandLog(storage, "orders").records == whole.records, "a damaged copy is left alone"
    put(root, "10.csv", day(10))
    go(root)
    assert LandLog(storage, "orders").epoch == 11


def test_a_missing_record_is_found_through_a_checkpoint(grown: Path, tmp_path: Path) -> None:
    from headrace.errors import Corrupt

    root = copy_of(grown, tmp_path / "p")
    storage = open_storage(load(root))
    assert LandLog(storage, "orders").checkpoint(every=1)
    storage.delete(["_headrace/land/orders/000000000003.json"])
    with pytest.raises(Corrupt, match="record 3 is missing"):
        LandLog(storage, "orders")


def test_the_command_prints_what_was_done(grown: Path, tmp_path: Path) -> None:
    root = copy_of(grown, tmp_path / "p")
    told = headrace(root, "maintain", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "compact quarantine.orders: 10 files become few" in told.stdout
    done = headrace(root, "maintain")
    assert "compact quarantine.orders: 10 files became 1" in done.stdout
    assert "nothing to do" in headrace(root, "maintain").stdout
