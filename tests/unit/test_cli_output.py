"""What a run prints: every row counted, and then only what matters."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cli import FAILED, INCOMPLETE, OK, STOPPED, UNBALANCED, USAGE, exit_code
from headrace.cli.app import verdict
from headrace.cli.output import SHOWN, as_csv, as_json, cell, run_lines, table, where_to_look
from headrace.errors import ConfigError, Fenced, MissingExtra, Refused, Stopped, TransientError, Unbalanced
from headrace.run.report import GoldReport, Ledger, RunReport, SourceReport, TableReport

RETAIL = Ledger(read=541_909, inserted=392_692, deduplicated=5_192, quarantined=144_025)


def report(*tables: TableReport, status: str = "success", **more: object) -> RunReport:
    return RunReport("20261120T183000-3f2a", "shop", status, 2.5, more.pop("sources", ()), tables, **more)


def test_a_line_counts_every_row() -> None:
    (line,) = run_lines(report(TableReport("sales", ledger=RETAIL, seconds=2.1)))
    assert line == "sales  read 541,909 = loaded 392,692 + deduplicated 5,192 + quarantined 144,025   2.1 s"


def test_updates_are_told_apart_and_lines_are_aligned() -> None:
    lines = run_lines(
        report(
            TableReport("sales", ledger=Ledger(read=12, inserted=7, updated=3, unchanged=2), seconds=0.34),
            TableReport("stores", noop=True),
            TableReport("products_of_all", ledger=Ledger(read=3, filtered=3, removed=9), seconds=11.06),
            sources=[SourceReport("stores")],
        )
    )
    assert lines == [
        "sales            read 12 = loaded 10 (7 new, 3 updated) + unchanged 2   0.3 s",
        "stores           0 new files",
        "products_of_all  read  3 = filtered 3; in place of 9 old rows           11.1 s",
    ]


def test_what_went_wrong_is_told_by_name() -> None:
    lines = run_lines(
        report(
            TableReport(
                "sales",
                ledger=RETAIL,
                warned={"late": 4},
                checks=[
                    {
                        "name": "rows",
                        "passed": False,
                        "severity": "stop",
                        "value": "3 rows, not 10",
                    },
                    {"name": "sum", "passed": True, "severity": "stop", "value": "5"},
                ],
            ),
            TableReport("stores", error="disk full", error_class="system"),
            sources=[
                SourceReport("a", refused=[("x.csv", "is empty")], vanished=["y.csv"]),
                SourceReport("b", error="no such folder"),
            ],
            gold=GoldReport(
                "gold.duckdb",
                [
                    {"name": "fact", "kind": "model", "status": "success", "message": ""},
                    {"name": "unique_fact", "kind": "test", "status": "fail", "message": "2 rows"},
                ],
                passed=False,
                seconds=1.0,
            ),
            error="disk full",
            status="failed",
        )
    )
    assert lines[1:] == [
        "gold  1 models, 1 tests   1.0 s",
        "fail  gold unique_fact: 2 rows",
        "refused  a: x.csv: is empty",
        "vanished  a: y.csv",
        "failed  source b: no such folder",
        "warned  sales: late  4 rows",
        "stopped  sales: rows: 3 rows, not 10",
        "failed  table stores: disk full",
    ]


def test_where_to_look_names_only_what_is_there(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lines = where_to_look(
        report(
            TableReport("bad", error="no", path=str(lake / "silver/bad")),
            TableReport("sales", ledger=RETAIL, path=str(lake / "silver/sales")),
            gold=GoldReport(str(lake / "gold.duckdb")),
        ),
        tmp_path,
    )
    assert lines == [
        "silver      lake/silver/sales",
        "gold        lake/gold.duckdb",
        'look        headrace query "select * from silver.sales limit 10"',
        "quarantine  headrace quarantine list    (144,025 rows of this run)",
    ]


UNEVEN = Ledger(read=2, inserted=1)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (report(TableReport("t", ledger=RETAIL)), OK),
        (report(TableReport("t", ledger=RETAIL), status="incomplete"), INCOMPLETE),
        (report(TableReport("t", ledger=RETAIL), status="failed"), FAILED),
        (report(TableReport("t", error="x", error_class="system"), status="failed"), FAILED),
        (report(TableReport("t", error="x", error_class="data"), status="failed"), STOPPED),
        (report(TableReport("t", error="x", error_class="data"), status="incomplete"), STOPPED),
        (report(TableReport("t", error="x", error_class="configuration"), status="failed"), USAGE),
        (report(TableReport("t", ledger=UNEVEN), status="success"), UNBALANCED),
        (report(TableReport("t", error="x", error_type="Unbalanced"), status="failed"), UNBALANCED),
        (report(gold=GoldReport("g", error="x", error_class="data"), status="failed"), STOPPED),
    ],
)
def test_the_exit_code_is_the_worst_of_it(found: RunReport, code: int) -> None:
    assert verdict(found) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), USAGE),
        (MissingExtra("x"), USAGE),
        (Stopped("x"), STOPPED),
        (Refused("x"), STOPPED),
        (Unbalanced("x"), UNBALANCED),
        (Fenced("x"), FAILED),
        (TransientError("x"), FAILED),
        (RuntimeError("x"), FAILED),
    ],
)
def test_an_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


ROW = (
    None,
    True,
    Decimal("8887208.894"),
    Decimal("1E+3"),
    date(2026, 1, 5),
    datetime(2026, 1, 5, 9, 30, tzinfo=UTC),
    b"caf\xe9",
    ["a", Decimal("1.10")],
    'say "hi", you',
)
NAMES = tuple("abcdefghi")


def test_values_as_text() -> None:
    assert [cell(value) for value in ROW] == [
        "",
        "true",
        "8887208.894",
        "1000",
        "2026-01-05",
        "2026-01-05 09:30:00Z",
        "caf\\xe9",
        '["a", "1.10"]',
        'say "hi", you',
    ]


def test_json_keeps_every_digit() -> None:
    out = io.StringIO()
    as_json(NAMES, [ROW, ROW], out)
    first, second = json.loads(out.getvalue(), parse_float=Decimal)
    assert first == second
    assert first["c"] == Decimal("8887208.894")
    assert first["a"] is None
    assert first["f"] == "2026-01-05T09:30:00Z"
    out = io.StringIO()
    as_json(("x",), [(float("nan"),)], out)
    assert json.loads(out.getvalue()) == [{"x": None}]
    out = io.StringIO()
    as_json(("x",), [], out)
    assert json.loads(out.getvalue()) == []


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\r\0")),
            st.decimals(allow_nan=False, allow_infinity=False),
        )
    )
)
def test_csv_reads_back(rows: list[tuple[str, Decimal]]) -> None:
    out = io.StringIO()
    as_csv(("t", "d"), rows, out)
    header, *read = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert header == ["t", "d"]
    assert [(text, Decimal(number)) for text, number in read] == rows


def test_a_table_off_a_terminal_is_never_folded() -> None:
    out = io.StringIO()
    table(("n", "text"), [(1, "x" * 500), (12, "[bold]")], out)
    lines = [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]
    assert lines[0].split() == ["n", "text"]
    assert lines[2].split() == ["1", "x" * 500]
    assert lines[3].split() == ["12", "[bold]"]


def test_a_long_table_says_that_it_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    table(("n",), ((n,) for n in range(SHOWN + 5)))
    captured = capsys.readouterr()
    assert "999" in captured.out
    assert "1000\n" not in captured.out
    assert "--format csv" in captured.err


def test_a_run_that_asked_no_source_does_not_say_that_nothing_is_new() -> None:
    (line,) = run_lines(report(TableReport("sales", noop=True)))
    assert line == "sales  new files: not looked for (`-s +sales` does)"
