"""Killed at every step, paused while another takes over, killed at random: every row is there, once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace import failpoints
from tests.projects import content, day, go, headrace, make, put

PLACES = [place for place in failpoints.PLACES if place.startswith(("land", "refine", "sink"))]
KILLS = int(os.environ.get("HEADRACE_KILLS", "10"))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that nothing has disturbed."""
    root = make(tmp_path_factory.mktemp("clean"), {f"{n}.csv": day(n) for n in range(4)})
    assert go(root).status == "success"
    return root


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pipeline after its first day only."""
    root = make(tmp_path_factory.mktemp("first"), {"0.csv": day(0)})
    go(root)
    return root


def begun(first: Path, root: Path) -> Path:
    shutil.copytree(first, root)
    for n in range(1, 4):
        put(root, f"{n}.csv", day(n))
    return root


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("nth", [1, 2])
def test_killed_at_every_step(clean: Path, first: Path, tmp_path: Path, place: str, nth: int) -> None:
    root = begun(first, tmp_path / "lake")
    killed = headrace(root, "run", "--quiet", env={"HEADRACE_FAILPOINTS": f"{place}=kill@{nth}"})
    if nth == 1:
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = headrace(root, "run", "--quiet")
    assert again.returncode == 0, again.stderr
    assert content(root) == content(clean)


def test_killed_at_random_again_and_again(clean: Path, first: Path, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    started = time.monotonic()
    trial = begun(first, tmp_path / "trial")
    assert headrace(trial, "run", "--quiet").returncode == 0
    length = time.monotonic() - started
    root = begun(first, tmp_path / "lake")
    for _ in range(KILLS):
        running = subprocess.Popen(
            [sys.executable, "-m", "headrace", "run", "--quiet"],
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(dice.uniform(0, length))
        running.kill()
        running.wait()
    assert headrace(root, "run", "--quiet").returncode == 0
    assert content(root) == content(clean), f"seed {seed}"


@pytest.mark.parametrize("place", ["land.synced", "refine.computed", "sink.files", "sink.commit"])
def test_a_paused_run_that_wakes_up_later_adds_nothing(
    clean: Path, first: Path, tmp_path: Path, place: str
) -> None:
    root = begun(first, tmp_path / "lake")
    zombie = subprocess.Popen(
        [sys.executable, "-m", "headrace", "run", "--quiet"],
        cwd=root,
        env={**os.environ, "HEADRACE_FAILPOINTS": f"{place}=pause"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            state = Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T":
                break
            time.sleep(0.05)
        else:
            pytest.fail("the run never reached its pause")
        (root / "lake/_headrace/run.lock").unlink()  # as if the lock had been another machine's
        assert headrace(root, "run", "--quiet").returncode == 0
        taken = content(root)
        zombie.send_signal(signal.SIGCONT)
        zombie.wait(60)
    finally:
        zombie.kill()
        zombie.wait()
    assert content(root) == taken == content(clean)
    assert headrace(root, "run", "--quiet").returncode == 0
    assert content(root) == content(clean)
