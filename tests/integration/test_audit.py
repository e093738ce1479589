"""What a careful user tried and what must hold for it: odd names, typos, headers that differ only in case."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from headrace.cli.output import run_lines
from headrace.cli.start import create
from headrace.errors import ConfigError
from headrace.run.inspect import query
from headrace.spec.load import load
from tests.projects import PIPELINE, day, go, make


def test_a_name_that_is_no_text_is_refused_and_the_other_files_land(tmp_path: Path) -> None:
    make(tmp_path, {"0.csv": day(0)})
    (tmp_path / "data" / os.fsdecode(b"bad\xff.csv")).write_bytes(b"whatever")
    report = go(tmp_path)
    assert report.status == "incomplete"
    ((name, reason),) = report.sources[0].refused
    name.encode("utf-8")
    assert "bad" in name
    assert "no UTF-8 name" in reason
    assert report.tables[0].ledger.read == 40
    _, landed = query(load(tmp_path), "select path from bronze.orders")
    assert [tuple(row) for row in landed] == [("data/0.csv",)]


def test_a_glob_that_matches_nothing_is_told(tmp_path: Path) -> None:
    make(tmp_path, {"0.csv": day(0)})
    pipeline = tmp_path / "pipeline.yml"
    pipeline.write_text(pipeline.read_text().replace("*.csv", "*.cvs"))
    report = go(tmp_path)
    assert any("*.cvs` matches no file" in line for line in run_lines(report))


def test_a_proposal_for_headers_that_differ_only_in_case_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("Order ID,order id\n1,2\n2,4\n")
    monkeypatch.chdir(tmp_path)
    create("shop", Path("a.csv"))
    go(tmp_path / "shop")
    _, found = query(load(tmp_path / "shop"), "select order_id, order_id_2 from silver.a order by 1")
    assert [tuple(row) for row in found] == [(1, 2), (2, 4)]


def test_a_glob_over_the_lake_does_not_land_it_again(tmp_path: Path) -> None:
    make(tmp_path, {"0.csv": day(0)}, PIPELINE.replace("data/*.csv", '"**/*.csv"'))
    assert go(tmp_path).tables[0].ledger.read == 40
    again = go(tmp_path)
    assert (again.tables[0].noop, again.sources[0].new_files) == (True, 0)


@pytest.mark.parametrize("keys", ["[customer]", '"*"'])
def test_a_mask_that_makes_keys_equal_is_refused(tmp_path: Path, keys: str) -> None:
    text = PIPELINE.replace("clean: [trim]", "pii: name, mask: partial").replace("[order_id]", keys)
    make(tmp_path, {"0.csv": day(0)}, text)
    with pytest.raises(ConfigError, match="makes different values of `customer` equal"):
        go(tmp_path)
