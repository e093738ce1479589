"""What is done to a lake besides running: an error or a pause at every step loses nothing, and is told.

Kills at these steps are tried where each command has its tests. A pause is the harder case: another process,
which sees no lock, works on the lake in the meantime, and then the first one wakes up.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from headrace import failpoints
from tests.projects import content, day, go, headrace, make, put

FULL = os.environ.get("HEADRACE_PROVE") == "full"
FILES = 10
"""So many that compaction has something to do."""
EXPIRE = """
import sys
from datetime import UTC, datetime, timedelta
from headrace.errors import HeadraceError
from headrace.run.retention import expire
from headrace.run.runner import open_storage
from headrace.spec.load import load
from headrace.store.records import LandLog

project = load('.')
storage = open_storage(project)
arrived = LandLog(storage, 'orders').records[9].objects[-1].arrived
try:
    expire(project, storage, now=datetime.fromisoformat(arrived) + timedelta(days=90, microseconds=1))
except HeadraceError as error:
    sys.exit(f'error: {error}')
"""
"""The command line has no clock of its own: this one lives when all files but the last are 90 days old."""
CHECKPOINT = (
    "from headrace.store.records import LandLog; LandLog.checkpoint.__defaults__ = (1,);"
    "from headrace.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
)
"""`maintain`, to which every record is reason enough for a checkpoint."""
Wanted = Callable[[str], object]
COMMANDS: dict[str, Sequence[str]] = {
    "expire": ["-c", EXPIRE],
    "maintain": ["-c", CHECKPOINT, "maintain"],
    "restore": ["-m", "headrace", "restore", "orders", "--to-epoch", "1"],
    "backup": ["-m", "headrace", "backup", "../backup"],
    "forget": ["-m", "headrace", "forget", "customer=c5"],
}
PLACES = [place for place in failpoints.PLACES if place.partition(".")[0] in COMMANDS]
ELSEWHERE = ("land", "refine", "sink", "publish", "gold")
"""Steps of a run: test_faults, test_prove and test_publish_faults try them."""


SHORT = ("expire.record", "maintain.files", "maintain.commit", "restore.planned", "forget.rewritten")
"""All the others with HEADRACE_PROVE=full."""
TRIED = [place for place in PLACES if FULL or place in SHORT]


@dataclass(frozen=True)
class Ended:
    code: int
    out: str


def start(root: Path, place: str, failpoint: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *COMMANDS[place.partition(".")[0]]],
        cwd=root,
        env={**os.environ, "HEADRACE_FAILPOINTS": failpoint},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> Ended:
    out, _ = process.communicate(timeout=120)
    assert "Traceback" not in out, out
    return Ended(process.returncode, out)


def good(number: int) -> list[str]:
    """A day without bad rows: what is in quarantine keeps its object from expiring."""
    return [line for place, line in enumerate(day(number)) if place not in (3, 5)]


def litter(root: Path) -> None:
    """What sweeping has to find: a file and an object that nothing refers to, both old enough."""
    for name in ("silver/orders/part-00000.parquet", "bronze/orders/year=2026/orphan.csv"):
        path = root / "lake" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"nobody's")
        os.utime(path, (1, 1))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Some epochs, so that there is something to compact, restore and expire: by command."""
    found = {}
    for name, lines in (("good", good), ("usual", day)):
        root = found[name] = make(tmp_path_factory.mktemp(name) / "p")
        for number in range(FILES):
            put(root, f"{number}.csv", lines(number))
            assert go(root).status == "success"
    return {command: found["good" if command == "expire" else "usual"] for command in COMMANDS}


def finished(root: Path, place: str) -> dict[str, list[tuple[object, ...]]]:
    """The command undisturbed, a new file, and the command again: what the lake holds then, and anew."""
    assert end(start(root, place)).code == 0
    put(root, "new.csv", good(FILES))
    assert go(root).status == "success"
    if not place.startswith("restore"):
        assert end(start(root, place)).code == 0
    held = content(root)
    verified = headrace(root, "doctor", "--verify")
    assert verified.returncode == 0, verified.stdout
    assert go(root, rebuild=["orders"]).status == "success"
    assert content(root) == held, "what is kept is what a rebuild gives"
    return held


@pytest.fixture(scope="module")
def wanted(grown: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Wanted:
    """Command → what the lake holds if nothing goes wrong, computed when it is asked for."""

    @cache
    def compute(command: str) -> dict[str, list[tuple[object, ...]]]:
        root = copied(grown[command], tmp_path_factory.mktemp(command) / "p")
        return finished(root, command)

    return lambda place: compute(place.partition(".")[0])


def copied(grown: Path, root: Path) -> Path:
    shutil.copytree(grown, root)
    litter(root)
    return root


@pytest.fixture
def root(grown: dict[str, Path], tmp_path: Path, place: str) -> Path:
    return copied(grown[place.partition(".")[0]], tmp_path / "p")


def test_no_step_is_left_out() -> None:
    assert {place for place in failpoints.PLACES if place not in PLACES} == {
        place for place in failpoints.PLACES if place.startswith(ELSEWHERE)
    }


@pytest.mark.parametrize("place", TRIED)
def test_an_error_at_any_step_is_told_and_the_next_one_does_the_rest(
    root: Path, wanted: Wanted, place: str
) -> None:
    ended = end(start(root, place, f"{place}=error"))
    assert ended.code != 0, f"an error, and exit code 0: {ended.out}"
    assert f"failpoint {place}: injected error" in ended.out
    assert go(root).status == "success"
    assert finished(root, place) == wanted(place)


def stopped(process: subprocess.Popen[str]) -> bool:
    for _ in range(600):
        if process.poll() is not None:
            return False
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def zombie(root: Path, place: str) -> Iterator[subprocess.Popen[str]]:
    process = start(root, place, f"{place}=pause")
    try:
        assert stopped(process), "the step was not reached"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("place", TRIED)
@pytest.mark.parametrize("rival", ["run", "the same"] if FULL else ["run"])
def test_what_was_paused_while_another_worked_harms_nothing(
    root: Path, zombie: subprocess.Popen[str], wanted: Wanted, place: str, rival: str
) -> None:
    for lock in (root / "lake/_headrace").glob("*.lock"):
        lock.unlink()  # as if its holder were on another machine
    if rival == "run":
        put(root, "new.csv", good(FILES))
        go(root)
    else:
        end(start(root, place))
    zombie.send_signal(signal.SIGCONT)
    woken = end(zombie)
    assert woken.code in (0, 1, 3), woken.out
    assert go(root).status == "success"
    assert finished(root, place) == wanted(place)
