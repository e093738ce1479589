"""Leases: the loser is told whose the lake is and until when, and an owner that was too slow adds nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace.errors import Busy
from headrace.run import alone as leases
from headrace.run.alone import TERM, alone, lake_lease, read
from tests.projects import content, day, go, headrace, make, put

HOST = {
    "id": "theirs",
    "what": "run",
    "host": "mill-7",
    "machine": "another kernel",
    "pid": 4711,
    "since": "2026-11-20 08:00:00Z",
    "run_id": "run-of-mill-7",
    "term": 60.0,
}


def held(lake: Path, age: float = 0.0) -> Path:
    """A lease of another machine, renewed `age` seconds ago."""
    path = lake_lease(lake)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(HOST))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_a_live_lease_of_another_machine_is_refused_with_its_owners_name(tmp_path: Path) -> None:
    path = held(tmp_path, 20)
    before = path.stat().st_mtime
    with pytest.raises(Busy) as error, alone(tmp_path):
        raise AssertionError("got it")
    assert "pid 4711 on mill-7 since 2026-11-20 08:00:00Z, run-of-mill-7" in error.value.message
    times = [f"{datetime.fromtimestamp(at, UTC):%H:%M:%SZ}" for at in (before, before + 60)]
    assert f"(lease renewed {times[0]}, expires {times[1]})" in error.value.message
    assert "if that machine is gone" in str(error.value.hint)
    assert path.stat().st_mtime == before, "looking at it does not renew it"


@pytest.mark.parametrize("age", [61.0, 86400.0, -3600.0], ids=["just", "a day", "clock jumped back"])
def test_an_expired_lease_is_taken_over(tmp_path: Path, age: float) -> None:
    path = held(tmp_path, age)
    with alone(tmp_path):
        owner = read(path)
        assert owner is not None
        assert owner.pid == os.getpid()
        assert owner.machine == leases.machine()
        assert abs(owner.renewed - time.time()) < TERM
    assert path.read_text() == ""
    with alone(tmp_path):  # what was given back is free at once
        pass


def test_without_flock_the_lease_keeps_two_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_file: object, _how: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(leases.fcntl, "flock", none)  # type: ignore[attr-defined]
    with alone(tmp_path), pytest.raises(Busy, match=f"pid {os.getpid()} on"), alone(tmp_path):
        pass
    with alone(tmp_path), alone(tmp_path, "maintenance"):
        pass


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "TERM", 0.3)
    path = lake_lease(tmp_path)
    with alone(tmp_path) as lease:
        lease.tell("run-1")
        os.utime(path, (0, 0))  # a jump of the clock is over with the next renewal
        for _ in range(100):
            if path.stat().st_mtime > 0:
                break
            time.sleep(0.05)
        owner = read(path)
        assert owner is not None
        assert owner.live(time.time())
        assert str(owner).endswith(", run-1")


def test_who_lost_a_lease_leaves_it_alone_and_knows_it(tmp_path: Path) -> None:
    with alone(tmp_path) as lease:
        path = held(tmp_path)
    assert lease.lost is not None
    assert lease.lost.host == "mill-7"
    assert json.loads(path.read_text()) == HOST


@pytest.mark.parametrize("text", ["", "pid 12 on a since 2026", "{}", '{"id": 1}', "\0" * 300])
def test_a_lease_that_cannot_be_read_keeps_nobody_out(tmp_path: Path, text: str) -> None:
    held(tmp_path).write_text(text)
    with alone(tmp_path):
        pass


def test_a_disk_without_room_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(leases.os, "pwrite", full)  # type: ignore[attr-defined]
    with alone(tmp_path), pytest.raises(Busy, match="another process"), alone(tmp_path):
        pass


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make(tmp_path / "p", {"0.csv": day(0)})
    assert go(root).status == "success"
    put(root, "1.csv", day(1))
    return root


@pytest.fixture
def away(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A run on what seems another machine, which stands still before its first commit."""
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace.testing.mutant", "elsewhere", "--", "run", "--json"],
        cwd=root,
        env={**os.environ, "HEADRACE_FAILPOINTS": "refine.written=pause"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        yield process
    finally:
        process.kill()
        process.wait()


def expire(root: Path) -> None:
    path = lake_lease(root / "lake")
    then = path.stat().st_mtime - TERM - 1
    os.utime(path, (then, then))


def clean(root: Path) -> Path:
    other = make(root.parent / "clean", {f"{n}.csv": day(n) for n in range(2)})
    go(other)
    return other


def test_a_paused_run_whose_lease_was_taken_over_is_fenced(root: Path, away: subprocess.Popen[str]) -> None:
    refused = headrace(root, "run")
    assert refused.returncode == 1
    assert f"another run is at work on {root / 'lake'}: pid {away.pid} on " in refused.stderr
    assert "run-" in refused.stderr or "expires" in refused.stderr
    expire(root)
    assert headrace(root, "run").returncode == 0
    taken = content(root)
    away.send_signal(signal.SIGCONT)
    out, err = away.communicate(timeout=120)
    report = json.loads(out)
    assert away.returncode == report["exit_code"] == 1, err
    assert "another" in report["tables"][0]["error"]
    assert "Traceback" not in err
    assert content(root) == taken == content(clean(root))
    assert headrace(root, "run").returncode == 0, "it took no lease with it"


def test_a_killed_run_of_another_machine_holds_the_lake_until_its_lease_expires(
    root: Path, away: subprocess.Popen[str]
) -> None:
    away.kill()
    away.wait()
    refused = headrace(root, "run", "--json")
    assert refused.returncode == 1
    assert f"pid {away.pid} on " in json.loads(refused.stdout)["error"]
    expire(root)
    assert headrace(root, "run").returncode == 0
    assert content(root) == content(clean(root))


def test_a_killed_run_of_this_machine_holds_nothing(root: Path) -> None:
    killed = headrace(root, "run", env={"HEADRACE_FAILPOINTS": "refine.written=kill"})
    assert killed.returncode == -signal.SIGKILL
    owner = read(lake_lease(root / "lake"))
    assert owner is not None
    assert owner.live(time.time()), "its lease has not expired, but its flock is gone"
    assert headrace(root, "run").returncode == 0
