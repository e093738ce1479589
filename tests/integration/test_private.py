"""Personal data stays where it is masked: not in logs of tables, not in queries, not in messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.run.inspect import quarantine_rows, query
from headrace.spec.load import load
from tests.projects import PIPELINE, go, make

PRIVATE = PIPELINE.replace("clean: [trim]", "clean: [trim], pii: name, mask: redact")
DAY = "2020-01-01 00:00:00"
LINES = [
    f"1,ann@x.org,-5,{DAY}",
    f"2,,-5,{DAY}",
    f"3,bob@x.org,1,{DAY}",
    "4,carl@x.org,1,a,b,c",
]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    make(tmp_path, {"a.csv": LINES}, PRIVATE)
    ledger = go(tmp_path).tables[0].ledger
    assert (ledger.inserted, ledger.quarantined) == (1, 3)
    return tmp_path


def test_a_query_of_quarantine_shows_no_personal_data(lake: Path) -> None:
    project = load(lake)
    columns, rows = query(project, "select rules, raw, fields from quarantine.orders order by _line")
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [row["raw"] for row in found] == ["***"] * 3
    first, second = (json.loads(row["fields"]) for row in found[:2])
    assert (first["customer"], first["amount"]) == ("***", "-5")
    assert second["customer"] != "***"
    assert found[2]["fields"] is None
    assert "x.org" not in str(found)


def test_quarantine_show_still_masks_in_place(lake: Path) -> None:
    columns, rows = quarantine_rows(load(lake), "orders")
    shown = [dict(zip(columns, row, strict=True)) for row in rows]
    assert sorted(row["raw"] for row in shown) == [
        "***",
        f"1,***,-5,{DAY}",
        f"2,,-5,{DAY}",
    ]
    assert "x.org" not in str(shown)


def test_a_quarantine_without_personal_data_shows_all(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": LINES}, PIPELINE)
    go(tmp_path)
    _, rows = query(load(tmp_path), "select raw from quarantine.orders order by _line limit 1")
    assert list(rows) == [(LINES[0],)]


def test_no_log_of_a_table_holds_personal_data(lake: Path) -> None:
    logs = [path.read_text() for path in (lake / "lake").rglob("_delta_log/*.json")]
    assert any('"minValues' in text.replace("\\", "") for text in logs)
    assert not [text for text in logs if "x.org" in text]


STEPS = """
import polars as pl
def shout(rows: pl.DataFrame) -> pl.DataFrame:
    return helper(rows)
def helper(rows):
    raise ValueError(rows["customer"][0])
def count(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(amount=pl.col("customer"))
"""


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("shout", "ValueError at {}:6 in helper"),
        ("count", "column `amount` came back as VARCHAR with a value"),
    ],
)
def test_a_steps_error_tells_its_place_and_no_value(tmp_path: Path, step: str, says: str) -> None:
    pytest.importorskip("polars")
    make(
        tmp_path,
        {"a.csv": LINES},
        PRIVATE.replace("    contract:", f"    steps: [{{processor: steps:{step}}}]\n    contract:"),
    )
    (tmp_path / "steps.py").write_text(STEPS)
    error = go(tmp_path).tables[0].error
    assert error is not None
    assert says.format(tmp_path / "steps.py") in error
    database = (tmp_path / "lake" / "catalog.db").read_bytes()
    assert "bob@x.org" not in error
    assert b"bob@x.org" not in database
