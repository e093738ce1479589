"""A disk that is too small: the run says so, nothing is lost, and the next run goes on once there is room."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .lab import Ended, Lab, Outcome, report_of


def disk_full(lab: Lab, levels: int, _dice: random.Random) -> Iterator[Outcome]:
    """The lake on a disk of its own that is too small; then the disk grows, and the next run goes on.

    A small disk needs Linux and a mount namespace; elsewhere no file may grow beyond a limit (RLIMIT_FSIZE).
    """
    if not levels:
        return
    mount = mounts(lab)
    for level in range(levels):
        lab.fresh()
        share = (level + 0.5) / levels
        yield _small_disk(lab, mount, share) if mount else _small_files(lab, share)


SMALL_DISK = """
set -u
mount -t tmpfs -o size=$SIZE,mode=755 none "$LAKE" || exit 90
cp -a "$FROM/." "$LAKE/" || exit 91
cd "$ROOT"
"$@" > "$OUT.1" 2> "$OUT.1.err"; echo $? > "$OUT.1.code"
mount -o remount,size=$MORE "$LAKE" || exit 92
rm -rf "$AFTER"; mkdir "$AFTER"; cp -a "$LAKE/." "$AFTER/" || exit 93
df -B1 --output=used "$LAKE" | tail -1 > "$OUT.used"
"""


def mounts(lab: Lab) -> list[str] | None:
    """The command in front that gives a mount namespace of our own, if this machine lets us have one."""
    if not shutil.which("unshare"):
        return None
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        probe = [*command, "sh", "-c", f"mount -t tmpfs none '{lab.replica.held}'"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return command
    return None


def _small_disk(lab: Lab, mount: list[str], share: float) -> Outcome:
    before, growth = _sizes(lab)
    size = before + int(share * growth)
    source, out, after = lab.scratch / "from", lab.scratch / "full", lab.scratch / "after"
    shutil.rmtree(source, ignore_errors=True)
    lab.lake.rename(source) if lab.lake.exists() else source.mkdir()
    lab.lake.mkdir()
    names = {"SIZE": size, "MORE": before + 20 * growth + (1 << 30), "LAKE": lab.lake, "FROM": source}
    more = {"ROOT": lab.replica.root, "OUT": out, "AFTER": after, "HEADRACE_ENV": lab.replica.env}
    environment = {**os.environ, **{name: str(value) for name, value in {**names, **more}.items()}}
    started = time.monotonic()
    done = subprocess.run(
        [*mount, "sh", "-c", SMALL_DISK, "sh", *lab.command()],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * lab.patience,
    )
    what = f"disk full at {size / 1e6:,.1f} MB"
    if done.returncode:
        return what, [f"the trial itself failed: {done.stderr.strip()}"]
    code = int(Path(f"{out}.1.code").read_text())
    told, err = Path(f"{out}.1").read_text(), Path(f"{out}.1.err").read_text(errors="replace")
    ended = Ended(code, report_of(told), err, time.monotonic() - started)
    shutil.rmtree(lab.lake)
    after.rename(lab.lake)
    return f"{what}: exit code {code}", _clear(lab, ended) + lab.recover()


def _small_files(lab: Lab, share: float) -> Outcome:
    """No file may become larger than a limit: as near as one comes without a mount namespace."""
    largest = max((path.stat().st_size for path in lab.before.rglob("*") if path.is_file()), default=1 << 20)
    limit = int(share * 2 * largest) + 1

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    started = time.monotonic()
    done = subprocess.run(
        lab.command(),
        cwd=lab.replica.root,
        env={**os.environ, "HEADRACE_ENV": lab.replica.env},
        capture_output=True,
        text=True,
        preexec_fn=limited,
        check=False,
        timeout=lab.patience,
    )
    ended = Ended(done.returncode, report_of(done.stdout), done.stderr, time.monotonic() - started)
    return f"no file beyond {limit:,} bytes: exit code {ended.code}", _clear(lab, ended) + lab.recover()


def _clear(lab: Lab, ended: Ended) -> list[str]:
    problems = lab.judge(ended)
    if ended.code < 0:
        problems.append(f"the run died of signal {-ended.code} instead of saying what is wrong")
    told = f"{ended.report} {ended.err}".lower()
    if ended.code and not any(word in told for word in ("space", "too large")):
        problems.append(f"the run does not say that there is no space: {ended}")
    return problems


def _sizes(lab: Lab) -> tuple[int, int]:
    """Bytes of the lake before, and what a run adds at most: the new lake, and scratch copies of new data."""
    before, after = lab.size
    data = sum((lab.replica.root / name).stat().st_size for name in lab.replica.here)
    return before + (16 << 10), after - before + data
