"""Python steps: the frame that a function asks for, rows by identity, exact values, clear errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from headrace.core import Outcome
from headrace.engines.duckdb import DuckEngine
from headrace.errors import ConfigError, DataError
from headrace.spec.pipeline import TableSpec
from headrace.sql import compile_table
from headrace.testing.engine import raw_input, rows_of, run

CONTRACT = """
from: [orders]
keys: [id]
contract:
  columns:
    id: {type: integer}
    name: {}
    price: {type: "decimal(12,2)"}
    at: {type: timestamp}
"""
LINES = [
    "id,name,price,at",
    "1,a,1.50,2020-01-01 00:00:00",
    "2,b,,",
    "3,c,9,2020-01-03 00:00:00.000001",
    "4,d,x,",
]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckEngine]:
    with DuckEngine(tmp_path / "scratch", "500MB", 2, project=tmp_path) as made:
        yield made


def outcome_of(engine: DuckEngine, folder: Path, code: str, *steps: str) -> Outcome:
    (folder / "steps.py").write_text(code)
    path = folder / "a.csv"
    path.write_text("\n".join(LINES) + "\n")
    spec = yaml.safe_load(CONTRACT) | {"steps": [yaml.safe_load(step) for step in steps]}
    return run(engine, compile_table("t", TableSpec.model_validate(spec)), [raw_input("o", path)])


def names(outcome: Outcome) -> list[str]:
    return sorted(row["name"] for row in rows_of(outcome.frames["rows"]))


def test_polars_frames_go_in_and_out(engine: DuckEngine, tmp_path: Path) -> None:
    pytest.importorskip("polars")
    code = """
import polars as pl
def louder(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("id") != 3).with_columns(pl.col("name").str.to_uppercase())
"""
    outcome = outcome_of(engine, tmp_path, code, "processor: steps:louder")
    assert names(outcome) == ["A", "B"]
    assert (outcome.read, outcome.filtered, outcome.quarantined) == (4, 1, 1)


def test_lazy_polars_frames_are_collected(engine: DuckEngine, tmp_path: Path) -> None:
    pytest.importorskip("polars")
    code = """
import polars as pl
def first(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.filter(pl.col("id") == 1)
"""
    assert names(outcome_of(engine, tmp_path, code, "processor: steps:first")) == ["a"]


def test_pyarrow_tables_go_in_and_out(engine: DuckEngine, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    code = "import pyarrow as pa\ndef rows(t: pa.Table) -> pa.Table:\n    return t.slice(1)\n"
    assert names(outcome_of(engine, tmp_path, code, "processor: steps:rows")) == ["b", "c"]


def test_plain_arrow_is_offered_where_nothing_is_asked_for(engine: DuckEngine, tmp_path: Path) -> None:
    arro3 = pytest.importorskip("arro3.core")
    assert arro3 is not None
    code = """
from arro3.core import Table
def same(rows):
    return Table.from_arrow(rows)
"""
    assert names(outcome_of(engine, tmp_path, code, "processor: steps:same")) == ["a", "b", "c"]


def test_validators_quarantine_warn_or_stop(engine: DuckEngine, tmp_path: Path) -> None:
    pytest.importorskip("polars")
    code = """
import polars as pl
def cheap(rows: pl.DataFrame) -> pl.Series:
    return rows["price"] < 5
"""
    outcome = outcome_of(engine, tmp_path, code, "validator: steps:cheap")
    assert names(outcome) == ["a"]
    assert outcome.by_rule == {"cheap": 2, "price.type": 1}
    raws = {row["raw"] for row in rows_of(outcome.frames["quarantine"]) if row["rules"] == "cheap"}
    assert raws == {LINES[2], LINES[3]}
    outcome = outcome_of(engine, tmp_path, code, "{validator: 'steps:cheap', severity: warn}")
    assert (names(outcome), outcome.warned) == (["a", "b", "c"], {"cheap": 2})
    outcome = outcome_of(engine, tmp_path, code, "{validator: 'steps:cheap', severity: stop}")
    assert [(check.name, check.passed) for check in outcome.checks] == [("cheap", False)]
    assert outcome.read == len(names(outcome)) + outcome.quarantined


def test_steps_run_one_after_another(engine: DuckEngine, tmp_path: Path) -> None:
    pytest.importorskip("polars")
    code = """
import polars as pl
def set_price(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.col("price").fill_null(0))
def priced(rows: pl.DataFrame) -> list[bool]:
    return rows["price"].is_not_null().to_list()
"""
    outcome = outcome_of(engine, tmp_path, code, "processor: steps:set_price", "validator: steps:priced")
    assert names(outcome) == ["a", "b", "c"]


def test_deduplication_sees_what_the_processor_made(engine: DuckEngine, tmp_path: Path) -> None:
    pytest.importorskip("polars")
    code = """
import polars as pl
def one_key(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.lit(7).alias("id"))
"""
    outcome = outcome_of(engine, tmp_path, code, "processor: steps:one_key")
    assert (names(outcome), outcome.deduplicated) == (["c"], 2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return rows.drop('price')", "lacks column `price`"),
        ("return rows.with_columns(pl.lit(1).alias('extra'))", "has a column `extra`"),
        ("return rows.with_columns(pl.lit(1.239).alias('price'))", "came back as DOUBLE with 1.239"),
        ("return rows.with_columns(pl.lit('x').alias('id'))", "came back as VARCHAR with 'x'"),
        ("return pl.concat([rows, rows])", "3 rows more than once"),
        ("return rows.with_columns(pl.col('_line') + 100)", "3 rows that did not come in"),
        ("return 5", "returned int, which is no frame"),
        ("raise KeyError('boom')", "failed on 3 rows from 0: KeyError: 'boom'"),
    ],
)
def test_what_a_processor_may_not_do(engine: DuckEngine, tmp_path: Path, body: str, message: str) -> None:
    pytest.importorskip("polars")
    code = f"import polars as pl\ndef f(rows: pl.DataFrame):\n    {body}\n"
    with pytest.raises(DataError) as caught:
        outcome_of(engine, tmp_path, code, "processor: steps:f")
    assert message in str(caught.value)
    assert caught.value.hint


def test_a_number_that_fits_may_come_back_in_a_wider_type(engine: DuckEngine, tmp_path: Path) -> None:
    pytest.importorskip("polars")
    code = """
import polars as pl
def f(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.lit(0.1).alias("price"))
"""
    rows = rows_of(outcome_of(engine, tmp_path, code, "processor: steps:f").frames["rows"])
    assert {str(row["price"]) for row in rows} == {"0.10"}


@pytest.mark.parametrize("result", ["[True]", "['yes', 'no', 'yes']"])
def test_what_a_validator_may_not_return(engine: DuckEngine, tmp_path: Path, result: str) -> None:
    code = f"def f(rows):\n    return {result}\n"
    with pytest.raises(DataError, match="returned"):
        outcome_of(engine, tmp_path, code, "validator: steps:f")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("steps:nope", "has no function `nope`"),
        ("other:f", "there is no"),
        ("broken:f", "cannot be imported"),
    ],
)
def test_functions_that_cannot_be_found(engine: DuckEngine, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(ConfigError, match=message):
        outcome_of(engine, tmp_path, "def f(rows):\n    return rows\n", f"processor: {name}")


def test_many_portions_keep_their_order(
    engine: DuckEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.engines.duckdb import python_steps

    monkeypatch.setattr(python_steps, "PORTION", 2)
    pytest.importorskip("polars")
    code = """
import polars as pl
def odd(rows: pl.DataFrame) -> pl.Series:
    assert rows.height <= 2
    return rows["id"] % 2 == 1
"""
    assert names(outcome_of(engine, tmp_path, code, "validator: steps:odd")) == ["a", "c"]


def test_the_empty_text_is_no_partition_also_after_a_processor(engine: DuckEngine, tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(
        "import pyarrow as pa\n"
        "def f(rows: pa.Table) -> pa.Table:\n"
        "    names = ['' if name == 'a' else name for name in rows['name'].to_pylist()]\n"
        "    place = rows.schema.get_field_index('name')\n"
        "    return rows.set_column(place, 'name', pa.array(names, pa.string()))\n"
    )
    path = tmp_path / "a.csv"
    path.write_text("\n".join(LINES) + "\n")
    for steps in ([], [{"processor": "steps:f"}]):
        spec = yaml.safe_load(CONTRACT) | {"partition_by": ["name"], "steps": steps}
        outcome = run(engine, compile_table("t", TableSpec.model_validate(spec)), [raw_input("o", path)])
        assert names(outcome) == (["b", "c"] if steps else ["a", "b", "c"])
        assert outcome.by_rule == ({"name.partition": 1} if steps else {}) | {"price.type": 1}
