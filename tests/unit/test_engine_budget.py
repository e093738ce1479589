"""What the engine may take is what the process can have; what does not fit is told before it commits."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.engines.duckdb.budget import LEAST, MB, RESERVE, budget, limits, parse
from headrace.engines.duckdb.engine import DuckEngine
from headrace.errors import ConfigError


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = {
    "proc/self/cgroup": "0::/kubepods/pod7/job\n",
    "sys/fs/cgroup/memory.max": "max\n",
    "sys/fs/cgroup/kubepods/memory.max": "8000000000\n",
    "sys/fs/cgroup/kubepods/pod7/memory.max": "536870912\n",
    "sys/fs/cgroup/kubepods/pod7/job/memory.max": "max\n",
}
V1 = {
    "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "600000000\n",
}
CONTAINER = {"proc/self/cgroup": "0::/../../elsewhere\n", "sys/fs/cgroup/memory.max": "700000000\n"}


@pytest.mark.parametrize(
    ("files", "limit", "name"),
    [
        (V2, 536870912, "memory.max"),
        (V1, 600000000, "memory.limit_in_bytes"),
        (CONTAINER, 700000000, "memory.max"),
    ],
)
def test_the_lowest_limit_of_all_groups_counts(
    tmp_path: Path, files: dict[str, str], limit: int, name: str
) -> None:
    found = budget("4GB", root=tree(tmp_path, files))
    assert found.bytes == limit - RESERVE
    assert name in found.source
    assert budget("4GB", 2, root=tmp_path).bytes == (limit - RESERVE) // 2
    assert budget("100MB", root=tmp_path).bytes == 100 * MB, "what is asked for is enough"


def test_without_a_limit_the_definition_counts(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}
    found = budget("300MB", threads=8, root=tree(tmp_path, files))
    assert (found.bytes, found.threads, str(found)) == (300 * MB, 3, "300 MB (memory: 300MB)")
    assert budget("1TB", root=tmp_path).bytes < 10**12, "never more than the machine has"


def test_where_nothing_is_left_both_numbers_and_the_fix_are_named(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "370000000\n"}
    with pytest.raises(ConfigError) as caught:
        budget("1GB", 2, root=tree(tmp_path, files))
    assert "370 MB, 270 MB of which the rest of the process takes, shared by 2 tables" in str(caught.value)
    assert "leaves 50 MB for the engine; it needs 60 MB" in str(caught.value)
    assert "`parallel: 1`" in str(caught.value)
    with pytest.raises(ConfigError, match="raise `memory:` in the pipeline file"):
        budget("20MB", root=tmp_path)
    assert budget("60MB", root=tmp_path).bytes == LEAST


def test_sizes_are_read_as_they_are_written() -> None:
    assert [parse(text) for text in ("1GB", "1.5GiB", "64 mb", "1000B")] == [10**9, 3 * 2**29, 64 * MB, 1000]
    with pytest.raises(ConfigError, match="is no size"):
        parse("80%")


def test_no_write_is_left_to_other_threads(tmp_path: Path) -> None:
    """A COPY that fails while they write waits for them for ever (DuckDB 2.0.0, seen under little memory)."""
    with DuckEngine(tmp_path) as engine:
        held = engine.session.con.execute("SELECT current_setting('async_threads')").fetchall()
    assert held == [(0,)]


def test_a_resource_limit_counts_by_half() -> None:
    """It counts what is reserved; in a process of its own, for it cannot be taken back."""
    code = (
        "import resource\nfrom headrace.engines.duckdb.budget import budget\n"
        f"resource.setrlimit(resource.RLIMIT_DATA, ({2 * 10**9}, {2 * 10**9}))\nprint(budget('9GB'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("730 MB (half of ulimit -d")
    if resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
        assert not any("ulimit -d" in word for _, word in limits())
