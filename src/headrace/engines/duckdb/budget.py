"""How much memory the engine may take: what the definition says, and never more than this process can have.

A limit is only known to who looks: one that is set too high ends in a kill without a word. So the least of
the limits of the process counts: its control groups (v2 `memory.max`, v1 `memory.limit_in_bytes`), its
resource limits (`ulimit -d`, `ulimit -v`) and the machine's memory.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError

MB = 1_000_000
RESERVE = 270 * MB
"""What the process takes beside the engine's own budget: the interpreter, libraries, the Delta log."""
LEAST = 60 * MB
"""Below this the engine cannot read, sort and write at the same time."""
PER_THREAD = 96 * MB
"""Each thread holds a block that it reads and a row group that it writes."""
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes and threads of one engine, and in words where the number comes from."""

    bytes: int
    threads: int
    source: str

    @property
    def row_group(self) -> int:
        """Bytes that a thread may gather before it writes them: else wide rows make huge row groups."""
        return min(128 * MB, self.bytes // self.threads // 4)

    def __str__(self) -> str:
        return f"{shown(self.bytes)} ({self.source})"


def shown(size: int) -> str:
    """A size as people write it.

    >>> shown(1_500_000_000), shown(64_000_000), shown(700_000)
    ('1.5 GB', '64 MB', '0.7 MB')
    """
    return f"{size / 10**9:.3g} GB" if size >= 10**9 else f"{size / MB:.3g} MB"


def parse(setting: str) -> int:
    """Bytes of `512MB`, `1.5 GB`, `1GiB`; raises ConfigError.

    >>> parse("512MB"), parse("1.5 GiB")
    (512000000, 1610612736)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b)\s*", setting, re.IGNORECASE)
    if not match or match[2].lower() not in _UNITS:
        raise ConfigError(f"memory: `{setting}` is no size", hint="write a number and a unit: 512MB, 2GB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def budget(setting: str, shares: int = 1, threads: int | None = None, root: Path = Path("/")) -> Budget:
    """What one of `shares` engines that work side by side may take; raises ConfigError where that is nothing.

    `root` is where /proc and /sys lie.
    """
    asked = parse(setting)
    limit, source = min(limits(root), default=(asked + RESERVE, ""))
    free = (limit - RESERVE) // shares
    size, word = (asked, f"memory: {setting}") if asked <= free else (free, f"{source} {shown(limit)}")
    if size < LEAST:
        fix = "raise that limit" if asked > free else "raise `memory:` in the pipeline file"
        beside = f", {shown(RESERVE)} of which the rest of the process takes" if asked > free else ""
        side = f", shared by {shares} tables at a time" if shares > 1 and asked > free else ""
        raise ConfigError(
            f"memory: {word}{beside}{side} leaves {shown(max(size, 0))} for the engine; "
            f"it needs {shown(LEAST)}",
            hint=fix + (" or set `parallel: 1`" if side else ""),
        )
    cores = threads or len(os.sched_getaffinity(0))
    return Budget(size, max(1, min(cores, size // PER_THREAD)), word)


def limits(root: Path = Path("/")) -> Iterator[tuple[int, str]]:
    """(bytes, what sets them) of every limit that this process has."""
    yield from _groups(root)
    for kind, word in ((resource.RLIMIT_DATA, "ulimit -d"), (resource.RLIMIT_AS, "ulimit -v")):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft // 2, f"half of {word}, which counts what is reserved as well,"
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "the machine's memory"


def _groups(root: Path) -> Iterator[tuple[int, str]]:
    """Limits of the process's control groups and of all groups above; what cannot be read is no limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # a container sees its own group at the top, whatever the path says
        places = [top, *(top.joinpath(*path.strip("/").split("/")[: n + 1]) for n in range(path.count("/")))]
        for place in dict.fromkeys(places):
            try:
                text = (place / name).read_text().strip()
            except OSError:
                continue
            if text.isdigit():
                yield int(text), f"control group's {name}"
