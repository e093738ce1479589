"""What the guarantees rest on, tried often; in full with HEADRACE_PROVE=full (`make prove`).

Seeds are fixed and told; HEADRACE_SEED tries others.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace import failpoints
from headrace.errors import Corrupt, HeadraceError
from headrace.spec.load import load
from headrace.store.delta import Table
from headrace.store.intact import check_bytes
from headrace.testing.powercut import cut
from headrace.testing.prove import disks, trials
from headrace.testing.prove.content import contents, differences, ledgers, unbalanced
from headrace.testing.prove.lab import Lab, Outcome, laboratory, power_variables
from tests.conftest import missing
from tests.projects import day, go, make, put

FULL = os.environ.get("HEADRACE_PROVE") == "full"
SEED = int(os.environ.get("HEADRACE_SEED", "20261120"))
ROOT = Path(__file__).parents[2]


def many(full: int, short: int) -> int:
    return full if FULL else short


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The shop pipeline, half of whose files have been taken in."""
    root = make(tmp_path_factory.mktemp("shop"), {f"{n}.csv": day(n) for n in range(4)})
    with laboratory(load(root), tmp_path_factory.mktemp("scratch")) as made:
        yield made


def all_hold(outcomes: Iterator[Outcome], least: int) -> None:
    found = list(outcomes)
    bad = [f"{what}: {problem}" for what, problems in found for problem in problems]
    assert not bad, f"seed {SEED}\n" + "\n".join(bad)
    assert len(found) >= least


def test_every_step_is_killed_failed_and_paused(lab: Lab) -> None:
    """100% of the failpoints of land and refine; those of gold are in test_prove."""
    steps = [place for place in failpoints.PLACES if place.startswith(("land", "refine", "sink"))]
    assert [place for place in steps if not lab.places[place]] == []
    dice = random.Random(SEED)
    kinds = (trials.killed, trials.failed, trials.paused) if FULL else (trials.failed,)
    for kind in kinds:  # kills and some pauses are in test_crash as well
        all_hold(kind(lab, 0, dice), len(steps))


def test_no_zombie_adds_a_row(lab: Lab) -> None:
    """Paused when it is about to write, and woken when another run has taken over: rejected, every time."""
    dice = random.Random(SEED)
    steps = [("land.synced", 1), ("refine.planned", 1), ("refine.computed", 1), ("refine.written", 1)]
    steps += [("sink.files", 1), ("sink.commit", 1), ("sink.commit", 2)]
    accepted: list[str] = []
    for _ in range(many(50, 4)):
        place, nth = dice.choice(steps)
        lab.fresh()
        zombie = lab.start(f"{place}=pause@{nth}")
        assert zombie.paused(lab.patience)
        assert lab.run(alter=["no-lock"]).code == 0
        taken = contents(lab.project)
        zombie.resume()
        woken = zombie.end(lab.patience)
        assert differences(contents(lab.project), taken) == [], f"{place}, seed {SEED}"
        assert "Traceback" not in woken.err
        if woken.code not in (1, 3) or "another" not in json.dumps(woken.report) + woken.err:
            accepted.append(f"{place}, time {nth}: {woken}")
        assert lab.recover() == []
    assert accepted == [], f"seed {SEED}"


def test_two_runs_at_once_apply_each_row_once(lab: Lab) -> None:
    times = many(50, 4)
    all_hold(trials.two_at_once(lab, times, random.Random(SEED)), times)


def test_a_full_disk_loses_nothing(lab: Lab) -> None:
    if not disks.mounts(lab):
        missing("leave to mount a small tmpfs (user namespaces)")
    levels = many(50, 8)
    outcomes = list(disks.disk_full(lab, levels, random.Random(SEED)))
    all_hold(iter(outcomes), levels)
    codes = [int(what.rpartition(" ")[2]) for what, _ in outcomes]
    assert any(codes), "none of the disks was too small"
    assert all(code in (0, 1, 3) for code in codes)


def power_cuts(lab: Lab, times: int, alter: tuple[str, ...]) -> int:
    """How many acknowledged commits could be read after the cut, whole."""
    dice = random.Random(SEED)
    shutil.rmtree(lab.lake, ignore_errors=True)
    names = list(lab.replica.inputs)
    lab.replica.hold(names)
    held = 0
    try:
        for turn in range(times):
            (lab.replica.root / "data").mkdir(exist_ok=True)
            put(lab.replica.root, f"turn-{turn:02}.csv", day(turn))
            shadow, after = lab.scratch / "shadow", lab.scratch / "after"
            lab.lake.mkdir(exist_ok=True)
            ended = lab.run("", ["power", *alter], **power_variables(lab, shadow))
            assert ended.code == 0, ended
            wanted = contents(lab.project)
            cut(shadow, lab.lake, after, dice if turn % 2 else None)
            if alter:
                live = lab.lake.rename(lab.scratch / "live")
            else:
                shutil.rmtree(lab.lake)
            after.rename(lab.lake)
            try:
                found = contents(lab.project)
            except Exception:
                found = {}
            held += found == wanted
            if alter:
                shutil.rmtree(lab.lake)
                live.rename(lab.lake)
    finally:
        for path in (lab.replica.root / "data").glob("turn-*.csv"):
            path.unlink()
        lab.replica.place(names)
    return held


def test_what_was_acknowledged_survives_a_power_cut(lab: Lab) -> None:
    """Beyond 20 commits a Delta table has a checkpoint, too."""
    times = many(24, 5)
    assert power_cuts(lab, times, ()) == times


def test_without_fsync_a_power_cut_loses_what_was_acknowledged(lab: Lab) -> None:
    assert power_cuts(lab, 2, ("no-fsync",)) < 2


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 305 daily files of UCI Online Retail."""
    data = Path(os.environ.get("HEADRACE_DATA", ROOT.parent / "shared" / "data"))
    archive = data / "online_retail" / "by-day.tar.gz"
    if not archive.exists():
        missing(f"data set online_retail (looked for {archive})")
    folder = tmp_path_factory.mktemp("days")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "by-day"


def retail(root: Path) -> Path:
    shutil.copytree(ROOT / "examples" / "online_retail", root)
    text = (root / "pipeline.yml").read_text().replace("gold: {dbt: dbt}", "")
    (root / "pipeline.yml").write_text(text.replace("${ONLINE_RETAIL}", "data/*.csv"))
    (root / "data").mkdir()
    return root


def test_online_retail_killed_at_random_is_exact(days: Path, tmp_path: Path) -> None:
    """One daily file an epoch; each run is killed at a moment that is uniform over its whole length.

    A file comes when the one before it has been taken in. Kills go on until a run has outlived its moment.
    """
    files = sorted(days.glob("*.csv"))[: many(305, 15)]
    clean = retail(tmp_path / "clean")
    for path in files:
        shutil.copy2(path, clean / "data")
    assert go(clean).status == "success"
    wanted = contents(load(clean))

    root = retail(tmp_path / "killed")
    dice = random.Random(SEED)
    kills, least = 0, many(300, 30)
    length = 1.0
    for number, path in enumerate(files, 1):
        shutil.copy2(path, root / "data")
        while kills < least * number / len(files):
            running = subprocess.Popen(
                [sys.executable, "-m", "headrace", "run", "--quiet"],
                cwd=root,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(dice.uniform(0, length))
            running.kill()
            kills += running.wait() == -9
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "headrace", "run", "--quiet"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"seed {SEED}, {path.name}: {done.stderr}"
        length = time.monotonic() - started
    project = load(root)
    found = contents(project)
    assert differences(found, wanted) == [], f"seed {SEED}"
    assert unbalanced(project, found) == []
    total = ledgers(project)["sales"]
    assert total["read"] == sum(path.read_bytes().count(b"\n") - 1 for path in files)
    assert kills >= least


MUTATED = {
    "claims": "_headrace/land/*/*.json",
    "plans": "_headrace/refine/*/plan-*.json",
    "done records": "_headrace/refine/*/done-*.json",
    "bronze objects": "bronze/**/*.csv",
    "Delta log entries": "*/*/_delta_log/*.json",
    "Parquet files": "*/*/*.parquet",
}


def mutate(path: Path, dice: random.Random) -> str:
    """Changes a file as disks and people do; says what was done."""
    data = bytearray(path.read_bytes())
    how = dice.choice(["a bit", "a bit", "a byte run", "cut", "emptied", "deleted", "appended to"])
    if how == "deleted":
        path.unlink()
        return how
    if how == "a bit":
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif how == "a byte run":
        start = dice.randrange(len(data))
        data[start : start + 16] = dice.randbytes(len(data[start : start + 16]))
    elif how == "appended to":
        data += dice.randbytes(40)
    else:
        del data[0 if how == "emptied" else dice.randrange(len(data)) :]
    path.write_bytes(data)
    return how


@pytest.fixture(scope="module")
def aged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of several epochs."""
    root = make(tmp_path_factory.mktemp("aged"))
    for number in range(4):
        put(root, f"{number}.csv", day(number))
        assert go(root).status == "success"
    return root


def test_a_damaged_lake_is_told_or_mended_and_never_wrong(
    aged: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """After each damage a new file comes: the run names the damage, or the tables are as without it."""
    dice = random.Random(SEED)
    clean = tmp_path / "clean"
    shutil.copytree(aged, clean)
    put(clean, "4.csv", day(4))
    assert go(clean).status == "success"
    wanted = contents(load(clean))
    told = harmless = 0
    for number in range(many(200, 36)):
        what, pattern = list(MUTATED.items())[number % len(MUTATED)]
        root = tmp_path / f"lake-{number}"
        shutil.copytree(aged, root)
        path = dice.choice(sorted((root / "lake").glob(pattern)))
        case = f"{number}: {what}: {path.relative_to(root)}: {mutate(path, dice)} (seed {SEED})"
        put(root, "4.csv", day(4))
        error = damage(root)
        if error:
            told += 1
            assert "Traceback" not in error, case
        else:
            harmless += 1
            if what != "Parquet files" or not found_by_hash(root):
                assert differences(contents(load(root)), wanted) == [], case
        shutil.rmtree(root)
    record_property("told", told)
    record_property("harmless", harmless)
    assert told > harmless / 4, "hardly anything was noticed: does the damage reach what is read?"


def found_by_hash(root: Path) -> bool:
    """True if a live file is not what was written: a run that need not read it does not look."""
    for name in ("silver.orders", "silver.orders_history", "quarantine.orders"):
        table = Table((root / "lake").joinpath(*name.split(".")), name)
        try:
            check_bytes(name, table.snapshot("").at.files)
        except Corrupt:
            return True
    return False


def damage(root: Path) -> str:
    """What a run says of the damage; empty if it says that all is well. Only our own errors count."""
    try:
        report = go(root)
    except HeadraceError as error:
        return str(error)
    errors = [part.error for part in (*report.sources, *report.tables) if part.error]
    assert bool(errors) == (report.status != "success")
    return "\n".join(errors)
