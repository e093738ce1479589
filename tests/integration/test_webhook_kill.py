"""The receiver as a process, killed while it receives: every event that got 200 is in silver, once."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.projects import go, headrace, rows

pytest.importorskip("uvicorn", reason="the extra `web` is not installed")

SECRET = "not-a-real-secret"
PIPELINE = """
name: pay
sources:
  events:
    type: webhook
    verify: {scheme: github, secrets: ["${HOOK_SECRET}"]}
    idempotency_key: body:id
tables:
  events:
    from: events
    keys: [id]
    contract:
      columns:
        id:     {type: integer, from: body.id, required: true}
        amount: {type: "decimal(12,2)", from: body.amount}
        at:     {type: text, from: received}
"""


@contextmanager
def receiver(root: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "webhook", "--port", "0"],
        cwd=root,
        env={**os.environ, "HOOK_SECRET": SECRET},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    try:
        line = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)/events", line)
        assert match, line + process.stdout.read()
        yield process, int(match[1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def deliver(port: int, numbers: Iterator[int], acknowledged: list[int]) -> None:
    """Posts events until the receiver is gone; notes those that got 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        for number in numbers:
            body = json.dumps({"id": number, "amount": f"{number}.50"}).encode()
            digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
            headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={digest}"}
            connection.request("POST", "/events", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                acknowledged.append(number)
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()


def test_killed_while_it_receives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    dice = random.Random(11)
    acknowledged: list[int] = []
    for round_ in range(4):
        with receiver(tmp_path) as (process, port):
            # Some numbers come again in the next round, as senders repeat what was not acknowledged.
            senders = [
                threading.Thread(
                    target=deliver,
                    args=[port, iter(range(round_ * 3000 + lane, round_ * 3000 + 4000, 8)), acknowledged],
                )
                for lane in range(8)
            ]
            for sender in senders:
                sender.start()
            time.sleep(dice.uniform(0.2, 0.8))
            if round_ % 2:
                assert go(tmp_path).status == "success"  # lands beside the receiver
            process.send_signal(signal.SIGKILL)
            for sender in senders:
                sender.join(20)
    report = go(tmp_path)
    assert report.status == "success"
    silver = rows(tmp_path, "silver.events")
    assert len(acknowledged) > 100
    ids = [row[-1] for row in silver]
    assert len(ids) == len(set(ids))
    assert set(acknowledged) <= set(ids)
    assert all(str(row[-2]) == f"{row[-1]}.50" for row in silver if "." in str(row[-2]))
    assert rows(tmp_path, "quarantine.events") == []
    assert go(tmp_path).tables[0].noop, "the spool is empty, and nothing comes twice"


def test_it_ends_when_told_and_takes_what_waits_along(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    with receiver(tmp_path) as (process, port):
        acknowledged: list[int] = []
        deliver(port, iter(range(20)), acknowledged)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) in (0, -signal.SIGTERM)
    assert acknowledged == list(range(20))


def test_what_it_cannot_do_it_says(tmp_path: Path) -> None:
    files = re.sub(r"(?s)\n    type: webhook.*?\ntables", " {type: files, path: x.csv}\ntables", PIPELINE)
    (tmp_path / "pipeline.yml").write_text(files)
    done = headrace(tmp_path, "webhook", env={"HOOK_SECRET": SECRET})
    assert done.returncode == 2
    assert "no source of type webhook" in done.stderr
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    with receiver(tmp_path) as (_, port):
        done = headrace(tmp_path, "webhook", "--port", str(port), env={"HOOK_SECRET": SECRET})
        assert done.returncode != 0
        assert "--port" in done.stderr + done.stdout
        assert SECRET not in done.stderr + done.stdout
