"""How many webhooks a second are acknowledged, each on disk before its 200, and how long a sender waits.

    python bench/webhook.py [--events 20000] [--senders 64] [--body 500]

The receiver is a process of its own; the senders are another one. Beside it, in the same run, on the same
disk: what one sync costs, and the rate that one sync for each event would allow.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import hmac
import json
import os
import re
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECRET = "not-a-real-secret"
PIPELINE = """
name: bench
sources:
  events: {type: webhook, verify: {scheme: github, secrets: [not-a-real-secret]}, idempotency_key: "body:id"}
tables: {events: {from: events, contract: {columns: {id: {from: body.id}}}}}
"""


def request(number: int, size: int) -> bytes:
    body = json.dumps({"id": number, "pad": "x" * size}).encode()
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    head = (
        "POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Hub-Signature-256: sha256={digest}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def sender(port: int, requests: list[bytes], waits: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for raw in requests:
        started = time.perf_counter()
        writer.write(raw)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length
        await reader.readexactly(int(length[1]))
        assert head.startswith(b"HTTP/1.1 200"), head
        waits.append(time.perf_counter() - started)
    writer.close()


async def load(port: int, events: int, senders: int, size: int) -> tuple[float, list[float]]:
    raw = [request(number, size) for number in range(events)]
    waits: list[float] = []
    started = time.perf_counter()
    await asyncio.gather(*[sender(port, raw[lane::senders], waits) for lane in range(senders)])
    return time.perf_counter() - started, sorted(waits)


def sync_cost(folder: Path, size: int) -> float:
    """Seconds for one append of an event and its sync: the median of 200."""
    costs = []
    with (folder / "sync").open("ab", buffering=0) as file:
        for _ in range(200):
            started = time.perf_counter()
            file.write(b"x" * size)
            os.fsync(file.fileno())
            costs.append(time.perf_counter() - started)
    return sorted(costs)[100]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--senders", type=int, default=64)
    parser.add_argument("--body", type=int, default=500)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP")) as name:
        root = Path(name)
        (root / "pipeline.yml").write_text(PIPELINE)
        cost = sync_cost(root, asked.body)
        command = [sys.executable, "-m", "headrace", "webhook", "--port", "0"]
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            match = re.search(r":(\d+)/events", process.stdout.readline())
            assert match
            seconds, waits = asyncio.run(load(int(match[1]), asked.events, asked.senders, asked.body))
        finally:
            process.terminate()
            process.wait()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        con = sqlite3.connect(root / "spool/events.db")
        kept = con.execute("SELECT count(*) FROM events").fetchone()[0]
        con.close()
    assert kept == asked.events, f"{kept} events are in the spool"
    print(f"{asked.events:,} events of {asked.body} bytes, {asked.senders} senders; all are in the spool")
    print(f"acknowledged  {asked.events / seconds:,.0f}/s   (one sync each would allow {1 / cost:,.0f}/s)")
    for share in (50, 95, 99):
        print(f"p{share}           {waits[len(waits) * share // 100 - 1] * 1000:.1f} ms")
    print(
        f"receiver      {(used.ru_utime + used.ru_stime) / asked.events * 1e6:.0f} µs of CPU an event, "
        f"{used.ru_maxrss / 1024:.0f} MB at most"
    )


if __name__ == "__main__":
    main()
