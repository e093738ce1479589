"""Two at once on one lake: the loser says so plainly, readers go on, and each row is there once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import content, day, go, headrace, make, put

HOLDER = r"another run is at work on \S+/lake: pid (\d+) on \S+ since 20\d\d-\d\d-\d\d"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make(tmp_path / "p", {"0.csv": day(0)})
    assert go(root).status == "success"
    put(root, "1.csv", day(1))
    return root


@pytest.fixture
def running(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that takes its time, with its plan made and nothing committed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "run"],
        cwd=root,
        env={**os.environ, "HEADRACE_FAILPOINTS": "refine.computed=pause"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        state = ""
        for _ in range(600):
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T":
                break
            time.sleep(0.05)
        assert state == "T", "the run was never at work"
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_loser_names_the_winner_and_changes_nothing(root: Path, running: subprocess.Popen[str]) -> None:
    before = content(root)
    losers = [["run"], ["restore", "orders", "--to-epoch", "1"], ["forget", "customer=c1"]]
    for command in losers:
        done = headrace(root, *command)
        assert done.returncode == 1
        found = re.search(HOLDER, done.stderr)
        assert found, f"{command}: {done.stderr}"
        assert int(found[1]) == running.pid
        assert "hint: wait for it" in done.stderr
    done = headrace(root, "run", "--json")
    assert re.search(HOLDER, json.loads(done.stdout)["error"])
    tended = headrace(root, "maintain")
    assert tended.returncode == 0
    assert "tend silver.orders: epoch 2 is not finished" in tended.stdout
    assert re.search(f"sweep bronze/orders: left for the next time: {HOLDER}", tended.stdout)
    assert content(root) == before

    running.send_signal(signal.SIGCONT)
    out, _ = running.communicate(timeout=120)
    assert running.returncode == 0, out
    assert go(root).tables[0].noop
    clean = make(root.parent / "clean", {f"{n}.csv": day(n) for n in range(2)})
    go(clean)
    assert content(root) == content(clean)


def test_readers_and_backups_do_not_wait(
    root: Path,
    tmp_path: Path,
    running: subprocess.Popen[str],  # noqa: ARG001
) -> None:
    status = json.loads(headrace(root, "status", "--format", "json").stdout)
    assert [run["status"] for run in status["runs"]] == ["running", "success"]
    assert status["tables"][0]["epoch"] == 1
    rows = json.loads(headrace(root, "query", "select count(*) as n from silver.orders", "-f", "json").stdout)
    assert rows == [{"n": len(content(root)["silver.orders"])}]
    assert headrace(root, "backup", str(tmp_path / "b")).returncode == 0
