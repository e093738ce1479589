"""A large file is appended under a small memory limit, and what does not fit says so before it commits.

    python bench/memory.py 4gb.csv --limit 512MiB                # append: keeps every row, in bounded memory
    python bench/memory.py 4gb.csv --limit 512MiB --keys         # keyed: a merge, which holds every key

The limit is a control group where one can be made (by systemd, or by root in the memory controller's own
folder), and Headrace finds it by itself. Elsewhere the process is watched as the kernel would: every
20 ms its anonymous memory (RssAnon; the page cache is nobody's) is looked up, and it is killed when above
the limit; then `memory:` is set to what Headrace takes in such a group. Which of them it was is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from headrace.engines.duckdb.budget import RESERVE

HERE = Path(__file__).parent
UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True)
class Limited:
    code: int
    out: str
    peak: int
    """Bytes of anonymous memory at most, sampled."""
    seconds: float
    how: str


def limited(command: list[str], folder: Path, limit: int, env: dict[str, str] | None = None) -> Limited:
    """Runs `command` in `folder` with at most `limit` bytes of memory."""
    log = folder / ".log"
    started = time.monotonic()
    with log.open("w") as out, control_group(limit) as scope:
        process = subprocess.Popen(
            [*scope, *command], cwd=folder, stdout=out, stderr=out, env={**os.environ, **(env or {})}
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            if peak > limit and not scope:
                process.kill()
            time.sleep(0.02)
    how = "control group" if scope else "watched"
    return Limited(process.returncode, log.read_text(), peak, time.monotonic() - started, how)


@contextmanager
def control_group(limit: int) -> Iterator[list[str]]:
    """What goes before a command so that it runs in a control group; nothing where none can be made."""
    options = ["--scope", "--quiet", "-p", f"MemoryMax={limit}", "-p", "MemorySwapMax=0"]
    for user in ([], ["--user"]):
        scope = ["systemd-run", *user, *options]
        if (
            shutil.which("systemd-run")
            and not subprocess.run([*scope, "true"], capture_output=True).returncode
        ):
            yield scope
            return
    group = _folder(limit)
    if group is None:
        yield []
        return
    try:
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        for _ in range(50):  # the kernel may take a moment to see that the group is empty
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def _folder(limit: int) -> Path | None:
    """A new group below the memory controller's mount (version 1, or 2 where its root hands memory on)."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        one = kind == "cgroup" and "memory" in options.split(",")
        two = kind == "cgroup2" and "memory" in _text(Path(place, "cgroup.subtree_control")).split()
        if not (one or two):
            continue
        group = Path(place, f"headrace-{os.getpid()}")
        try:
            group.mkdir()
            (group / ("memory.limit_in_bytes" if one else "memory.max")).write_text(str(limit))
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        return group
    return None


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", type=Path)
    parser.add_argument("--limit", default="512MiB")
    parser.add_argument("--keys", action="store_true", help="Merge by key instead of appending.")
    parser.add_argument("--memory", help="The pipeline's own `memory:`.")
    parser.add_argument("--scratch", type=Path)
    chosen = parser.parse_args()
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", chosen.limit).groups()
    limit = int(float(number) * UNITS[unit])
    with control_group(limit) as scope:
        memory = chosen.memory or ("1GB" if scope else f"{(limit - RESERVE) // 10**6}MB")
    with tempfile.TemporaryDirectory(prefix="memory-", dir=chosen.scratch) as scratch:
        root = Path(scratch)
        shutil.copytree(HERE / "dirty", root, dirs_exist_ok=True)
        text = (root / "pipeline.yml").read_text() + f"memory: {memory}\n"
        if not chosen.keys:
            text = re.sub(r" +(keys|latest_by): .*\n", "", text)
        (root / "pipeline.yml").write_text(text)
        command = [sys.executable, "-m", "headrace", "run"]
        found = limited(command, root, limit, {"BENCH_INPUT": str(chosen.input.resolve())})
    print(found.out.strip())
    size = chosen.input.stat().st_size
    print(
        f"{size / 1e9:.2f} GB under {chosen.limit} ({found.how}): exit code {found.code}, "
        f"{found.peak / 1e6:.0f} MB at most, {found.seconds:.0f} s"
    )
    raise SystemExit(found.code)


if __name__ == "__main__":
    main()
