"""Many small things: counts must be right. How long it takes, bench/scale.py tells (docs/bench.md)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.parametrize(("what", "count"), [("files", 300), ("tables", 30), ("runs", 1500)])
def test_so_many_are_counted_right(
    what: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bench ends with an error where a count is wrong."""
    monkeypatch.syspath_prepend(str(BENCH))
    import scale

    spent = scale.MEASURES[what](tmp_path, count)
    assert len(spent) >= 3


def test_a_wrong_count_ends_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    import scale

    monkeypatch.setattr(scale, "remember", lambda _catalog, _count: None)
    with pytest.raises(SystemExit, match="the catalog holds 1 runs, not 5"):
        scale.runs(tmp_path, 5)


def test_bad_rows_of_many_files_keep_their_own_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw lines are fetched for many files at once: none may get another one's."""
    monkeypatch.syspath_prepend(str(BENCH))
    import scale

    scale.files(tmp_path, 120)
    sql = "select _file, raw from quarantine.orders order by _file"
    found = json.loads(scale.headrace(tmp_path, "query", "query", sql, "--format", "json").out)
    wanted = {
        f"data/{number // 500:04}/{number:06}.csv": f"{number},c,none,2026-01-01T00:00:00"
        for number in range(120)
    } | {"data/one-more.csv": "120,c,none,2026-01-01T00:00:00"}
    assert {row["_file"]: row["raw"] for row in found} == wanted
