"""Windows on their way to targets: what a target holds is what the windows are, corrected ones included."""

from __future__ import annotations

from pathlib import Path

import pytest
from targets import Place, silver
from targets import place as place

from headrace.errors import ConfigError
from headrace.spec.load import load
from tests.projects import go, headrace, put

HEADER = "id,store,amount,at"
PIPELINE = """
name: shop
sources:
  sales: {type: files, path: data/*.csv}
tables:
  sales:
    from: sales
    keys: [id]
    contract:
      columns:
        id:     {type: integer, required: true}
        store:  {type: text, required: true}
        amount: {type: "decimal(10,2)", min: 0}
        at:     {type: timestamp, required: true}
streams:
  minutes:
    from: sales
    window: {tumbling: 1m, time: at, lateness: 30s}
    group_by: [store]
    select: {revenue: sum(amount), orders: count(*)}
    to: [table, w]
"""


def make(root: Path, place: Place) -> Path:
    (root / "data").mkdir(parents=True)
    (root / "pipeline.yml").write_text(f"{PIPELINE}targets:\n  w: {place.settings}\n")
    return root


def test_a_correction_of_a_closed_window_reaches_the_target(tmp_path: Path, place: Place) -> None:
    root = make(tmp_path / "p", place)
    put(root, "1.csv", ["1,a,1.00,2026-03-01T12:00:05", "2,a,-5.00,2026-03-01T12:00:06"], HEADER)
    put(root, "2.csv", ["3,b,2.00,2026-03-01T13:00:00"], HEADER)
    first = go(root)
    assert [(load.table, load.inserted) for load in first.loads] == [("minutes", 2)]
    assert place.rows("minutes") == silver(root, "minutes")
    fixed = headrace(root, "quarantine", "fix", "sales", "--rule", "amount.min", "--set", "amount = '5.00'")
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    (told,) = go(root).loads
    assert (told.mode, told.sent, told.updated) == ("merge", 1, 1)
    held = place.rows("minutes")
    assert held == silver(root, "minutes")
    assert sum("'Decimal:6.00'" in row or "6.00" in row for row in held) == 1
    put(root, "2.csv", ["3,a,2.00,2026-03-01T12:00:07"], HEADER)  # its only window goes
    (told,) = go(root).loads
    assert (told.updated, told.deleted) == (1, 1)
    assert place.rows("minutes") == silver(root, "minutes")
    (told,) = go(root).loads
    assert told.noop


def test_a_stream_names_only_targets_that_exist(tmp_path: Path, place: Place) -> None:
    root = make(tmp_path / "p", place)
    (root / "pipeline.yml").write_text(
        (root / "pipeline.yml").read_text().replace("[table, w]", "[table, x]")
    )
    with pytest.raises(ConfigError, match="to: target `x` is not defined"):
        load(root)
