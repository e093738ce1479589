"""Publishing is killed, paused, doubled and cut off; the target has each change once, and is never ahead.

`HEADRACE_PROVE=full` kills and restarts more often.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from projects import PIPELINE, day, go, make, put
from services import Database, Postgres, postgres_server, remove
from targets import Place, in_postgres, publishing, silver
from targets import place as place

from headrace.core import Commit, Write
from headrace.engines.duckdb.engine import DuckEngine
from headrace.errors import Busy, Fenced, TransientError
from headrace.run.publish import Publication, publish
from headrace.run.runner import open_storage
from headrace.sinks.postgres import Postgres as Target
from headrace.sinks.postgres import PostgresWriter
from headrace.spec.load import load

FULL = os.environ.get("HEADRACE_PROVE") == "full"
SEED = 20261128
PLACES = ("publish.computed", "publish.merged", "publish.committed")
SHOP = PIPELINE.replace("    history: true\n", "")


def shop(root: Path, place: Place) -> Path:
    """A shop whose first day is published, and whose second waits."""
    make(root, {"0.csv": day(0)}, "retry: {attempts: 2, base: 0.2}\n" + publishing(place, SHOP))
    assert go(root).status == "success"
    put(root, "1.csv", day(1))
    return root


def agree(root: Path, place: Place) -> None:
    assert place.rows("orders") == silver(root, "orders")


def start(root: Path, failpoint: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "headrace", "run"],
        cwd=root,
        env={**os.environ, "HEADRACE_FAILPOINTS": failpoint},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=120)
    assert "Traceback" not in out, out
    return process.returncode, out


def paused(process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        assert process.poll() is None, process.communicate()
        if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.05)
    raise AssertionError("the step was not reached")


@pytest.mark.parametrize("step", PLACES)
def test_killed_at_each_step(tmp_path: Path, place: Place, step: str) -> None:
    root = shop(tmp_path / "p", place)
    code, _ = end(start(root, f"{step}=kill"))
    assert code == -signal.SIGKILL
    assert place.publications()["shop.orders"] == (2 if step == "publish.committed" else 1)
    report = go(root)
    assert report.status == "success"
    assert report.loads[0].noop == (step == "publish.committed")
    assert place.publications()["shop.orders"] == 2, "once"
    agree(root, place)


@pytest.mark.parametrize("step", PLACES)
def test_an_error_at_each_step_is_told(tmp_path: Path, place: Place, step: str) -> None:
    root = shop(tmp_path / "p", place)
    code, out = end(start(root, f"{step}=error"))
    assert code == 3, out
    assert f"failpoint {step}: injected error" in out
    assert go(root).status == "success"
    assert place.publications()["shop.orders"] == 2
    agree(root, place)


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server of our own: it is crashed on the way."""
    made = postgres_server()
    yield made
    remove(made)


@pytest.mark.parametrize("step", PLACES[:2])
def test_a_writer_that_was_paused_harms_nothing(tmp_path: Path, database: Database, step: str) -> None:
    place = in_postgres(database)
    place.settings = place.settings.replace("timeout: 10", "timeout: 3")
    root = shop(tmp_path / "p", place)
    zombie = start(root, f"{step}=pause")
    try:
        paused(zombie)
        for lock in (root / "lake/_headrace").glob("*.lock"):
            lock.unlink()  # as if its holder were on another machine
        put(root, "2.csv", day(2))
        for _ in range(4):
            report = go(root)
            if report.status == "success":
                break
        assert report.status == "success", report.loads
        before = place.publications()
        assert before["shop.orders"] == 2, "its lock has ended with its transaction"
        agree(root, place)
        zombie.send_signal(signal.SIGCONT)
        code, out = end(zombie)
    finally:
        zombie.kill()
        zombie.wait()
    if step == "publish.merged":  # it tries again, and finds that nothing is left to do
        assert "terminating connection due to idle-in-transaction timeout" in out
        assert code == 0, out
    else:
        assert code == 3, out
        assert "failed  target w.orders" in out
        assert "another run has published in the meantime; nothing was written" in out
    assert place.publications() == before
    agree(root, place)
    assert go(root).status == "success"
    agree(root, place)


def test_killed_at_random(tmp_path: Path, place: Place) -> None:
    root = shop(tmp_path / "p", place)
    dice = random.Random(SEED)
    for number in range(2, 40 if FULL else 5):
        put(root, f"{number}.csv", day(number))
        process = start(root)
        time.sleep(dice.uniform(0.5, 4))
        process.kill()
        process.wait()
        held = place.rows("orders")
        assert len(held) == len(set(held))
    assert go(root).status == "success"
    agree(root, place)


def test_the_server_crashes_in_the_middle(tmp_path: Path, server: Postgres) -> None:
    database = server.database()
    place = in_postgres(database)
    root = shop(tmp_path / "p", place)
    dice = random.Random(SEED)
    over = threading.Event()
    crashes = 0

    def crash() -> None:
        nonlocal crashes
        while not over.wait(dice.uniform(0.3, 1.5)):
            server.restart("immediate")
            crashes += 1

    thread = threading.Thread(target=crash)
    thread.start()
    try:
        for number in range(2, 60):
            if number >= (30 if FULL else 6) and crashes > 1:
                break
            put(root, f"{number}.csv", day(number))
            report = go(root)
            assert report.status in ("success", "incomplete")
            assert report.tables[0].error is None
    finally:
        over.set()
        thread.join()
    assert crashes > 1
    path = root / "lake/catalog.db"
    path.unlink()  # with the breaker in it: the lake and the target know all that counts
    assert go(root).status == "success"
    agree(root, place)


def test_two_publishers_at_once(tmp_path: Path, place: Place) -> None:
    root = shop(tmp_path / "p", place)
    text = (root / "pipeline.yml").read_text()
    (root / "pipeline.yml").write_text(text.replace("    to: w\n", ""))
    go(root)
    (root / "pipeline.yml").write_text(text)
    project = load(root)
    together, said = threading.Barrier(2), list[str]()

    def work(number: int) -> None:
        with DuckEngine(tmp_path / f"scratch{number}") as engine:
            together.wait()
            try:
                (done,) = publish(Publication(project, open_storage(project), engine, "w", "orders"))
                said.append("noop" if done.noop or not done.sent else "done")
            except (Fenced, Busy) as error:
                said.append(str(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.count("done") >= 1
    assert all(word in ("done", "noop") or "run again" in word for word in said)
    assert len(said) == 2
    assert place.publications()["shop.orders"] == 2
    agree(root, place)


@pytest.mark.parametrize("after", [True, False])
def test_a_commit_whose_answer_is_lost_is_looked_up(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """The connection goes before the server has heard of the commit, or after it has done it."""
    target = Target(name="w", url=database.dsn, schema="shop", timeout=5)
    move, commit, armed = PostgresWriter._move, psycopg.Connection.commit, list[bool]()

    def moving(self: PostgresWriter, *rest: Any) -> None:
        move(self, *rest)
        armed.append(True)

    def lost(con: psycopg.Connection[Any]) -> None:
        if armed != [True]:
            commit(con)
            return
        armed.append(False)
        if after:
            commit(con)
        con.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(PostgresWriter, "_move", moving)
    monkeypatch.setattr(psycopg.Connection, "commit", lost)
    part = (Write("t", "append"), pa.table({"id": [1, 2]}))
    with DuckEngine(tmp_path / "scratch") as engine:
        writer = target.sink(engine).open(["t"], "s")
        if after:
            (done,) = writer.write([part], Commit("s", 0, 1))
            assert done.inserted == 2
        else:
            with pytest.raises(TransientError):
                writer.write([part], Commit("s", 0, 1))
            again = target.sink(engine).open(["t"], "s")
            assert again.epoch == 0
            again.write([part], Commit("s", 0, 1))
    assert database.sql("select id from shop.t order by 1") == [(1,), (2,)]
    assert armed[:2] == [True, False]
