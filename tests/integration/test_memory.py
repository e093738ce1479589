"""A merge that does not fit into memory is told with its numbers before anything is committed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from headrace.core import TableAt, Write
from headrace.engines.duckdb.engine import DuckEngine
from headrace.engines.duckdb.frame import DuckFrame
from headrace.errors import SystemFault
from headrace.run.runner import run
from headrace.spec.load import load
from tests.performance.test_throughput import lines
from tests.projects import PIPELINE, content, go, headrace, make, put

ROWS = 200_000


def test_what_does_not_fit_is_told_before_it_commits_and_goes_on_with_more(tmp_path: Path) -> None:
    root = make(tmp_path / "shop", {"a.csv": lines(0, ROWS)})
    assert go(root).status == "success"
    before = outputs(root)
    wide = "guest" + 60 * " of the house"
    put(root, "b.csv", [line.replace("customer", wide) for line in lines(0, ROWS // 2)])
    (root / "pipeline.yml").write_text(PIPELINE + "memory: 60MB\n")
    report = run(load(root))
    (table,) = report.tables
    assert report.status == "failed"
    assert table.error_type == SystemFault.__name__
    assert "does not fit into 60 MB (memory: 60MB)" in str(table.error)
    assert "nothing was committed; raise `memory:`" in str(table.error)
    assert outputs(root) == before

    (root / "pipeline.yml").write_text(PIPELINE)
    assert go(root).status == "success"
    clean = make(tmp_path / "clean", {})
    for name in ("a.csv", "b.csv"):
        (clean / "data" / name).write_bytes((root / "data" / name).read_bytes())
        assert go(clean).status == "success"
    assert content(root) == content(clean)


def wide(number: int) -> str:
    return "".join(hashlib.md5(f"{number} {part}".encode()).hexdigest() for part in range(20))


def moment(number: int) -> str:
    return f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}"


@pytest.mark.parametrize("what", ["dedup", "history"])
def test_whatever_does_not_fit_leaves_no_file_and_no_commit(tmp_path: Path, what: str) -> None:
    """120,000 keys of 640 bytes to compare, or 60,000 wide versions of ten keys to put beside as many."""
    text = PIPELINE
    if what == "dedup":
        text = text.replace("keys: [order_id]", "keys: [customer]").replace("    history: true\n", "")
        root = make(tmp_path, {"b.csv": [f"{n},{wide(n // 2)},1.00,{moment(n)}" for n in range(120_000)]})
    else:
        root = make(tmp_path, {"a.csv": [f"{n % 10},{wide(n)},1.00,{moment(n)}" for n in range(60_000)]})
        assert go(root).status == "success"
        put(root, "b.csv", [f"{n % 10},{wide(n + 7)},1.00,{moment(n)}" for n in range(60_000)])
    (root / "pipeline.yml").write_text(text + "memory: 60MB\n")
    before = outputs(root)
    done = headrace(root, "run")
    told = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1, told
    table, did = {
        "dedup": ("orders", "refining this range of bronze"),
        "history": ("silver.orders_history", "the merge into 60,000 rows in 1 files"),
    }[what]
    assert f"table `{table}`: {did} does not fit into 60 MB (memory: 60MB)" in told
    assert "nothing was committed; raise `memory:`" in told
    assert outputs(root) == before


def outputs(root: Path) -> list[str]:
    """Every file of every table, and of its log."""
    files = [path for kind in ("silver", "quarantine") for path in (root / "lake" / kind).rglob("*")]
    return sorted(str(path) for path in files if path.is_file())


def test_a_limit_that_leaves_nothing_is_a_mistake_of_the_definition(tmp_path: Path) -> None:
    root = make(tmp_path / "shop", {"a.csv": lines(0, 10)}, PIPELINE + "memory: 20MB\n")
    done = headrace(root, "run")
    assert done.returncode == 2
    assert "memory: 20MB leaves 20 MB for the engine; it needs 60 MB" in done.stdout + done.stderr
    assert "hint: raise `memory:` in the pipeline file" in done.stdout + done.stderr


@pytest.mark.parametrize("keys", ["", "    keys: [order_id]\n    latest_by: updated_at\n"])
def test_little_memory_is_enough_for_many_rows(tmp_path: Path, keys: str) -> None:
    text = PIPELINE.replace("    keys: [order_id]\n    latest_by: updated_at\n    history: true\n", keys)
    root = make(tmp_path, {"a.csv": lines(0, 2 * ROWS)}, text + "memory: 120MB\n")
    (table,) = run(load(root)).tables
    assert (table.error, table.ledger.read, table.ledger.quarantined) == (None, 2 * ROWS, 2 * ROWS // 100)


def test_wide_rows_are_written_in_little_memory(tmp_path: Path) -> None:
    """A row group of 122,880 rows of a kilobyte for each thread would be more than there is."""
    sql = (
        "SELECT i AS order_id, list_aggregate(list_transform(range(34), lambda x: md5((i * x)::VARCHAR)), "
        "'string_agg', '') AS note FROM range(250000) t(i)"
    )
    with DuckEngine(tmp_path / "scratch", "200MB", 2) as engine:
        frame = DuckFrame(engine.session, sql, {"order_id": "bigint", "note": "text"}, 250_000)
        empty = TableAt("silver.wide", -1, (), {})
        change = engine.rewrite(empty, Write("silver.wide", "append"), frame, tmp_path / "wide")
    assert change.written.inserted == sum(file.rows for file in change.add) == 250_000
