"""Windows, hurt: killed, failed and paused at every step, two runs at once; each row counts in them, once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from headrace import failpoints
from tests.integration.test_windows import HEADER, PIPELINE, actual, exact, line, make, row
from tests.projects import go, headrace, put

FULL = os.environ.get("HEADRACE_PROVE") == "full"
STEPS = [place for place in failpoints.PLACES if place.startswith(("refine", "sink"))]
OURS = range(2, 5) if FULL else (3,)
"""The table comes first, then the three streams one after another: which time a step is one of theirs."""


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with windows, and files that make some late, some new and some go, not yet refined."""
    root = make(tmp_path_factory.mktemp("grown") / "p", PIPELINE + "parallel: 1\n")
    put(root, "1.csv", [line(row(n, n * 11, f"{n}.25", "ab"[n % 2])) for n in range(40)], HEADER)
    assert go(root).status == "success"
    late = [line(row(100 + n, n * 37, "2.00", "ab"[n % 2])) for n in range(15)]
    moved = [line(row(n, n * 11 + 500, "3.00", "b", version=2)) for n in range(0, 40, 5)]
    gone = [line(row(n, n * 11, status="deleted", version=3)) for n in (1, 2, 3, 4)]
    put(root, "2.csv", [*late, *moved, *gone], HEADER)
    return root


@pytest.fixture(scope="module")
def wanted(grown: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Any, ...]]]:
    root = tmp_path_factory.mktemp("wanted") / "p"
    shutil.copytree(grown, root)
    assert go(root).status == "success"
    return exact(root)


@pytest.mark.parametrize("nth", OURS)
@pytest.mark.parametrize(
    ("place", "action"),
    [(place, action) for place in STEPS for action in ("kill", "error") if FULL or action == "kill"],
)
def test_hurt_at_every_step(
    grown: Path, wanted: dict[str, Any], tmp_path: Path, place: str, action: str, nth: int
) -> None:
    root = tmp_path / "p"
    shutil.copytree(grown, root)
    hurt = headrace(root, "run", "--quiet", env={"HEADRACE_FAILPOINTS": f"{place}={action}@{nth}"})
    assert hurt.returncode == (-signal.SIGKILL if action == "kill" else 1), hurt.stdout + hurt.stderr
    assert go(root).status == "success"
    assert actual(root) == wanted
    assert [item.noop for item in go(root).tables] == [True] * 4


def start(root: Path, failpoint: str = "") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "headrace", "run", "--quiet"],
        cwd=root,
        env={**os.environ, "HEADRACE_FAILPOINTS": failpoint},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("place", STEPS if FULL else ["refine.planned", "refine.computed", "sink.commit"])
def test_paused_while_another_run_takes_over(
    grown: Path, wanted: dict[str, Any], tmp_path: Path, place: str
) -> None:
    root = tmp_path / "p"
    shutil.copytree(grown, root)
    zombie = start(root, f"{place}=pause@3")
    try:
        for _ in range(600):
            if Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                break
            time.sleep(0.05)
        else:
            pytest.fail("the run never reached its pause")
        (root / "lake/_headrace/run.lock").unlink()  # as if the lock had been another machine's
        assert headrace(root, "run", "--quiet").returncode == 0
        assert actual(root) == wanted
        zombie.send_signal(signal.SIGCONT)
        zombie.wait(60)
    finally:
        zombie.kill()
        zombie.wait()
    assert actual(root) == wanted
    assert headrace(root, "run", "--quiet").returncode == 0
    assert actual(root) == wanted


@pytest.mark.parametrize("gap", [0.0, 0.3] if FULL else [0.0])
def test_two_runs_at_once(grown: Path, wanted: dict[str, Any], tmp_path: Path, gap: float) -> None:
    """Without the lock, as from two machines."""
    root = tmp_path / "p"
    shutil.copytree(grown, root)
    alone = "import contextlib, headrace.run.runner as r; r._alone = lambda *a: contextlib.nullcontext();"
    code = alone + "from headrace.cli import main; import sys; sys.exit(main(['run', '--quiet']))"
    both = []
    for _ in range(2):
        both.append(subprocess.Popen([sys.executable, "-c", code], cwd=root, stderr=subprocess.PIPE))
        time.sleep(gap)
    for one in both:
        _, err = one.communicate(timeout=120)
        assert b"Traceback" not in err, err.decode()
    assert headrace(root, "run", "--quiet").returncode == 0
    assert actual(root) == wanted
