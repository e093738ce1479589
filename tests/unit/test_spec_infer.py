"""A contract proposed from data: under it that data loads, but for its true outliers."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.engines.duckdb.profile import composite_keys, profile
from headrace.spec.checks import contract_problems
from headrace.spec.document import parse
from headrace.spec.infer import ColumnProfile, Proposal, propose
from headrace.spec.load import load
from headrace.spec.pipeline import TableSpec
from headrace.spec.scaffold import project_files
from headrace.sql import checked_sql, compile_table


@dataclass(frozen=True)
class Inferred:
    proposal: Proposal
    spec: TableSpec
    broken: Mapping[str, int]
    profiles: Mapping[str, ColumnProfile]

    def column(self, name: str) -> tuple[str, list[str]]:
        column = self.spec.contract.columns[name]
        return column.type, column.formats


def infer(con: duckdb.DuckDBPyConnection, table: str = "t") -> Inferred:
    """Infers from relation `raw`, then loads it under what was proposed."""
    headers = [row[0] for row in con.execute("DESCRIBE raw").fetchall()]
    profiles = profile(con, "raw", headers)
    proposal = propose(table, profiles, profiles[0].rows, composite_keys(con, "raw", profiles))
    spec = TableSpec.model_validate(
        {
            "from": "s",
            "contract": parse(proposal.contract_yaml, "contract.yml").value,
            "keys": proposal.keys,
            "latest_by": proposal.latest_by,
        }
    )
    assert list(contract_problems(spec.contract)) == []
    step = compile_table(table, spec)
    quoted = [header.replace('"', '""') for header in headers]
    staged = ", ".join(f'"{h}" AS "{c}"' for c, h in zip(step.columns, quoted, strict=True))
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE staged AS SELECT {staged}, 's' AS _source, 'f' AS _file,"
        " 1::BIGINT AS _line, now() AS _ingested_at FROM raw"
    )
    verdicts = f"SELECT _broken, count(*) FROM ({checked_sql(step)}) WHERE _broken <> '' GROUP BY 1"
    broken = dict(con.execute(verdicts).fetchall())
    return Inferred(proposal, spec, broken, {p.name: p for p in profiles})


def of_columns(columns: Mapping[str, Sequence[str | None]], table: str = "t") -> Inferred:
    con = duckdb.connect()
    quoted = [c.replace('"', '""') for c in columns]
    con.execute("CREATE TEMP TABLE raw (" + ", ".join(f'"{c}" VARCHAR' for c in quoted) + ")")
    marks = ", ".join("?" * len(columns))
    con.executemany(f"INSERT INTO raw VALUES ({marks})", list(zip(*columns.values(), strict=True)))
    return infer(con, table)


def of_file(path: Path, table: str = "t") -> Inferred:
    con = duckdb.connect()
    con.execute(
        "CREATE TEMP TABLE raw AS SELECT * FROM read_csv(?, all_varchar=true, header=true)", [str(path)]
    )
    return infer(con, table)


@pytest.mark.parametrize(
    ("values", "type_", "formats"),
    [
        (["1", "-2", "+3"], "integer", []),
        (["1", "3000000000"], "bigint", []),
        (["1.0", "2.0", "3"], "integer", ["whole_decimal"]),
        (["1.5", "2.25", ".5"], "decimal(18,2)", []),
        (["1234567890123456789012345678901234567890"], "text", []),
        (["0.12345678901234567", "1"], "double", []),
        (["1e5", "2.5E-3"], "double", []),
        (["007", "8"], "text", []),
        (["1,234.50", "1,000", "12.00"], "decimal(18,2)", ["thousands"]),
        (["1.234,5", "1000,25", "7"], "decimal(18,2)", ["decimal_comma"]),
        (["1.234.567", "12,5"], "decimal(18,1)", ["decimal_comma"]),
        (["1,234", "12,345"], "integer", ["thousands"]),
        (["$1.50", "$ 2", "($3.25)"], "decimal(18,2)", ["currency"]),
        (["1.50 EUR", "1.234,00 €"], "decimal(18,2)", ["currency", "decimal_comma"]),
        (["5%", "12.5 %"], "decimal(18,3)", ["percent"]),
        (["true", "False"], "boolean", []),
        (["yes", "no", "Y"], "boolean", ["yes_no"]),
        (["0", "1"], "integer", []),
        (["M", "F"], "text", []),
        (["2026-01-31", "2025-12-01"], "date", []),
        (["2026-01-31 08:00:00", "2026-01-31T08:00:00.5Z"], "timestamp", []),
        (["2026-01-31 08:00", "2026-01-31"], "timestamp", ["%Y-%m-%d"]),
        (["31/12/2025", "01/02/2026"], "date", ["%d/%m/%Y"]),
        (["12/31/2025", "01/02/2026"], "date", ["%m/%d/%Y"]),
        (["12/31/2025 8:15", "01/02/2026 23:59"], "timestamp", ["%m/%d/%Y %H:%M"]),
        (["12/31/2025 8:15 PM", "01/02/2026 11:59 am"], "timestamp", ["%m/%d/%Y %I:%M %p"]),
        (["31.12.25", "1.2.26"], "date", ["%d.%m.%y"]),
        (["5 Jan 2026", "31 Dec 2025"], "date", ["%d %b %Y"]),
        (["January 5, 2026", "December 31, 2025"], "date", ["%B %d, %Y"]),
        (["31/12/2025", "2026-01-01", "1.2.2026", "13.2.2026"], "date", None),
        (['{"a": 1}', "[1, 2]"], "json", []),
        (["{NULL}", "{x"], "text", []),
        (["99/99/2026", "98/98/2026"], "text", []),
        (["abc", "1", "2"], "text", []),
        ([None, None], "text", []),
    ],
)
def test_types_and_formats(values: list[str | None], type_: str, formats: list[str] | None) -> None:
    found = of_columns({"v": values})
    assert found.column("v")[0] == type_
    if formats is not None:
        assert found.column("v")[1] == formats
    assert found.broken == {}


@pytest.mark.parametrize("header", ["zip", "phone", "EAN", "product_code", "Card Number"])
def test_numbers_that_are_names_stay_text(header: str) -> None:
    found = of_columns({header: ["80331", "10115"]})
    assert [c.type for c in found.spec.contract.columns.values()] == ["text"]


def test_outliers_are_named_and_counted() -> None:
    found = of_columns({"n": [str(n) for n in range(999)] + ["many"]})
    assert found.column("n") == ("integer", [])
    assert found.broken == {"n.type;": 1}
    assert (
        "1 of 1,000 values are no integer: they go to quarantine: `many` (1)" in found.proposal.contract_yaml
    )
    assert of_columns({"n": [str(n) for n in range(90)] + ["many"]}).column("n") == ("text", [])


def test_words_for_missing() -> None:
    found = of_columns({"n": ["1", "N/A", "-", "2"], "t": ["a", "N/A", "b", "c"], "u": ["a", "b", "c", "d"]})
    assert found.spec.contract.nulls == ["", "-", "N/A"]
    assert found.broken == {}
    required = {name: c.required for name, c in found.spec.contract.columns.items()}
    assert required == {"n": False, "t": False, "u": True}
    assert "t: `N/A` (1) will count as missing here too" in found.proposal.notes
    assert of_columns({"t": ["a", "N/A"]}).spec.contract.nulls == [""]


def test_day_or_month_first() -> None:
    ambiguous = ["01/02/2026", "02/02/2026", "03/02/2026"]
    alone = of_columns({"d": ambiguous})
    assert alone.column("d")[1] == ["%d/%m/%Y"], "the narrower span is likelier"
    assert (
        "ambiguous: read as `%d/%m/%Y`; `%m/%d/%Y` fits as well: check one date"
        in alone.proposal.contract_yaml
    )
    beside = of_columns({"d": ambiguous, "e": ["12/31/2025", "12/30/2025", "01/01/2026"]})
    assert beside.column("d")[1] == ["%m/%d/%Y"], "the other column says so"
    assert any("like the file's other dates" in note for note in beside.proposal.notes)


def test_personal_data_is_marked_and_not_shown() -> None:
    found = of_columns(
        {
            "E-Mail": ["ann@example.org", "bob@example.org"],
            "contact": ["+49 170 1234567", "+49 171 7654321"],
            "last_name": ["Miller", "Smith"],
            "payment": ["4111 1111 1111 1111", "5500 0000 0000 0004"],
            "product_name": ["Lamp", "Chair"],
        }
    )
    marks = {name: c.pii for name, c in found.spec.contract.columns.items()}
    assert marks == {
        "e_mail": "email",
        "contact": "phone",
        "last_name": "name",
        "payment": "card",
        "product_name": None,
    }
    for secret in ("ann@", "170", "Miller", "4111"):
        assert secret not in found.proposal.contract_yaml
    assert "Lamp" in found.proposal.contract_yaml


def test_keys_and_versions() -> None:
    columns = {
        "index": ["1", "2", "3"],
        "customer_id": ["7", "7", "8"],
        "Order ID": ["a1", "a2", "a3"],
        "note_id": ["x", "y", "z"],
        "updated_at": ["2026-01-01 00:00:00"] * 3,
    }
    found = of_columns(columns, "orders")
    assert (found.proposal.keys, found.proposal.latest_by) == (["order_id"], ["updated_at"])
    fewer = {
        name: values for name, values in columns.items() if name in ("index", "customer_id", "updated_at")
    }
    assert (of_columns(fewer).proposal.keys, of_columns(fewer).proposal.latest_by) == (["*"], [])


def test_columns_unique_only_together() -> None:
    rows = [(str(order), str(line)) for order in range(400) for line in range(3)]
    found = of_columns(
        {"order_id": [r[0] for r in rows], "line_no": ["1"] * len(rows), "item_id": [r[1] for r in rows]}
    )
    assert found.proposal.keys == ["order_id", "item_id"]


def test_headers_become_names() -> None:
    found = of_columns({"Unit Price (€)": ["1.5"], "unit price": ["2"], "InvoiceNo": ["x"], "2nd": ["y"]})
    sources = {name: c.source for name, c in found.spec.contract.columns.items()}
    assert sources == {
        "unit_price": ["Unit Price (€)"],
        "unit_price_2": ["unit price"],
        "invoice_no": ["InvoiceNo"],
        "c_2nd": ["2nd"],
    }


def test_the_proposed_project_loads(tmp_path: Path) -> None:
    found = of_columns({"id": ["1", "2"], 'na"me: #1': [" a ", "b"], "price": ["1,5", "2,5"]})
    files = project_files("Shop Orders", "../in/öl *.csv", found.proposal)
    assert sorted(files) == [".gitignore", "README.md", "contracts/shop_orders.yml", "pipeline.yml"]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    config = load(tmp_path, environ={}).config
    assert config.name == "shop_orders"
    assert config.sources["shop_orders_files"].settings["path"] == "../in/öl *.csv"
    assert config.tables["shop_orders"].keys == ["id"]
    assert config.tables["shop_orders"].contract.columns["na_me_1"].clean == ["trim"]


numbers = st.decimals(min_value=-(10**6), max_value=10**6, places=2, allow_nan=False).map(
    lambda d: d or Decimal(0)
)
days = st.dates(min_value=date(1990, 1, 1), max_value=date(2035, 1, 1))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(numbers, min_size=3, max_size=30),
    st.sampled_from(["{:f}", "{:,.2f}", "$ {:f}", "{:f} EUR", "{:f}%"]),
)
def test_any_numbers_load_under_what_was_inferred(values: list[Decimal], spelling: str) -> None:
    found = of_columns({"v": [spelling.format(value) for value in values]})
    assert found.broken == {}
    assert found.column("v")[0] != "text"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(days, min_size=3, max_size=30),
    st.sampled_from(
        ["%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%y", "%d-%b-%Y", "%Y/%m/%d", "%m/%d/%Y %H:%M"]
    ),
)
def test_any_dates_load_under_what_was_inferred(values: list[date], spelling: str) -> None:
    found = of_columns({"order_date": [value.strftime(spelling) for value in values]})
    assert found.broken == {}
    assert found.column("order_date")[0] == ("timestamp" if "%H" in spelling else "date")


def test_profile_counts_are_exact() -> None:
    first = date(2026, 1, 1)
    values = [(first + timedelta(days=n % 50)).strftime("%d.%m.%Y") for n in range(500)] + [
        "x",
        "",
        None,
        " 1.1.2026 ",
    ]
    found = of_columns({"d": values}).profiles["d"]
    assert (found.rows, found.nulls, found.untrimmed, found.distinct) == (504, 2, 1, 52)
    assert found.shapes["%d.%m.%Y"] == 501
    assert found.odd == [("x", 1)]
    assert not found.unique


def test_online_retail(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    plain = tmp_path / "online_retail.csv"
    with (
        gzip.open(shared_data("online_retail") / "online_retail.csv.gz") as source,
        plain.open("wb") as target,
    ):
        shutil.copyfileobj(source, target)
    found = of_file(plain, "sales")
    assert {name: found.column(name) for name in found.spec.contract.columns} == {
        "invoice_no": ("text", []),
        "stock_code": ("text", []),
        "description": ("text", []),
        "quantity": ("integer", []),
        "invoice_date": ("timestamp", []),
        "unit_price": ("decimal(18,3)", []),
        "customer_id": ("integer", ["whole_decimal"]),
        "country": ("text", []),
    }
    assert found.broken == {}
    assert found.proposal.keys == ["*"], "(InvoiceNo, StockCode) is no key"
    assert found.profiles["CustomerID"].nulls == 135_080
    assert found.profiles["Description"].nulls == 1_454


@pytest.mark.parametrize(
    ("file", "keys", "broken"),
    [
        ("transactions_sample", ["basket_id", "product_id"], {"basket_id.type;": 1, "sales_value.type;": 1}),
        ("products", ["product_id"], {"product_id.type;": 1}),
        ("promotions_sample", ["*"], {}),
        ("demographics", ["household_id"], {}),
        ("campaigns", ["campaign_id", "household_id"], {}),
        ("campaign_descriptions", ["campaign_id"], {}),
        ("coupon_redemptions", ["*"], {}),
    ],
)
def test_complete_journey(
    file: str, keys: list[str], broken: dict[str, int], shared_data: Callable[[str], Path]
) -> None:
    """The few broken values are real: R wrote 900000 as `9e+05`, and lost digits of an id as `4.0128e+10`."""
    found = of_file(shared_data("complete_journey") / f"{file}.csv", file.removesuffix("_sample"))
    assert found.proposal.keys == keys
    assert found.broken == broken


@pytest.mark.parametrize(
    ("name", "column", "type_", "formats"),
    [
        ("beers", "ibu", "integer", []),
        ("flights", "sched_dep_time", "text", []),
        ("hospital", "zip", "text", []),
        ("rayyan", "article_jcreated_at", "date", ["%m/%d/%y"]),
    ],
)
def test_dirty_data_loads_whole(
    name: str, column: str, type_: str, formats: list[str], shared_data: Callable[[str], Path]
) -> None:
    found = of_file(shared_data("raha_pairs") / name / "dirty.csv", name)
    assert found.column(column) == (type_, formats)
    assert found.broken == {}
