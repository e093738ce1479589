"""A merge that does not fit into memory is told with its numbers before anything is committed."""

from __future__ import annotations

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


def versions(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "lake").glob("*/*/_delta_log/*.json"))


def test_what_does_not_fit_is_told_before_it_commits_and_goes_on_with_more(tmp_path: Path) -> None:
    root = make(tmp_path / "shop", {"a.csv": lines(0, ROWS)})
    assert go(root).status == "success"
    before = versions(root)
    wide = "guest" + 60 * " of the house"
    put(root, "b.csv", [line.replace("customer", wide) for line in lines(0, ROWS // 2)])
    (root / "pipeline.yml").write_text(PIPELINE + "memory: 60MB\n")
    report = run(load(root))
    (table,) = report.tables
    assert report.status == "failed"
    assert table.error_type == SystemFault.__name__
    assert "does not fit into 60 MB (memory: 60MB)" in str(table.error)
    assert "nothing was committed; raise `memory:`" in str(table.error)
    assert versions(root) == before

    (root / "pipeline.yml").write_text(PIPELINE)
    assert go(root).status == "success"
    clean = make(tmp_path / "clean", {})
    for name in ("a.csv", "b.csv"):
        (clean / "data" / name).write_bytes((root / "data" / name).read_bytes())
        assert go(clean).status == "success"
    assert content(root) == content(clean)


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
