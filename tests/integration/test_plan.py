"""`headrace plan` says what `run` then does, and a breaking change waits until somebody accepts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from headrace import failpoints
from headrace.errors import ConfigError
from headrace.run.accept import FOLDER
from headrace.run.diff import diff
from headrace.run.plan import PipelinePlan, TablePlan, plan
from headrace.spec.load import load
from headrace.store.hold import hold
from headrace.store.storage import LocalStorage
from tests.projects import PIPELINE, content, day, go, headrace, make, put

SALES = Path(__file__).parents[2] / "examples" / "sales"
STRICT = PIPELINE.replace("min: 0", "min: 5")
WIDER = PIPELINE.replace("decimal(10,2)", "decimal(12,2)")


def looked(root: Path, **options: bool) -> PipelinePlan:
    return plan(load(root), **options)


def table(root: Path) -> TablePlan:
    (found,) = looked(root).tables
    return found


def files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_first_run_is_told_and_no_lake_is_made(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1), "b.csv": day(2)})
    found = looked(tmp_path)
    assert [(source.new, source.changed) for source in found.sources] == [(2, 0)]
    assert (found.tables[0].action, found.tables[0].reason) == ("increment", "first load")
    assert found.tables[0].cost.files == 2
    assert not (tmp_path / "lake").exists()


def test_looking_changes_no_byte(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)}, STRICT)
    go(tmp_path)
    put(tmp_path, "b.csv", day(2))
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    before = {name: data for name, data in files(tmp_path / "lake").items() if "catalog" not in name}
    looked(tmp_path)
    after = {name: data for name, data in files(tmp_path / "lake").items() if "catalog" not in name}
    assert after == before


def test_no_change_increment_and_a_new_version_are_what_the_run_then_does(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    assert table(tmp_path).action == "no change"
    assert go(tmp_path).tables[0].noop
    put(tmp_path, "b.csv", day(2))
    told = table(tmp_path)
    assert (told.action, told.cost.files) == ("increment", 1)
    assert go(tmp_path).tables[0].rebuilt is None
    put(tmp_path, "a.csv", day(1)[:20])
    told = table(tmp_path)
    assert (told.action, told.reason) == ("rebuild", "a new version of data/a.csv")
    assert told.cost.files == 2
    assert {item.table for item in told.stored} == {
        "quarantine.orders", "silver.orders", "silver.orders_history",
    }  # fmt: skip
    assert go(tmp_path).tables[0].rebuilt == told.reason


def test_the_cost_is_told_from_past_epochs(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1, 400)})
    assert table(tmp_path).cost.seconds is None, "nothing is known before the first run"
    go(tmp_path)
    (tmp_path / "pipeline.yml").write_text(STRICT)
    told = table(tmp_path).cost
    assert (told.files, told.rows) == (1, 400)
    assert told.seconds is not None
    assert told.seconds > 0
    put(tmp_path, "b.csv", day(1, 400))
    rows = table(tmp_path).cost.rows
    assert rows is not None
    assert abs(rows - 800) < 20, "a file that has not landed is estimated from its bytes"


def test_touched_time_stamps_are_not_called_new_files(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    text = (tmp_path / "data/a.csv").read_bytes()
    (tmp_path / "data/a.csv").write_bytes(text)
    (source,) = looked(tmp_path).sources
    assert (source.new, source.changed) == (0, 1)
    go(tmp_path)
    (source,) = looked(tmp_path).sources
    assert (source.new, source.changed) == (0, 0)


def test_a_source_that_cannot_be_listed_is_told_beside_the_others(tmp_path: Path) -> None:
    pipeline = PIPELINE.replace("sources:\n", "sources:\n  more: {type: files, path: nowhere/*.csv}\n")
    make(tmp_path, {"a.csv": day(1)}, pipeline)
    found = {source.name: source for source in looked(tmp_path).sources}
    assert "does not exist" in found["more"].error
    assert found["orders"].new == 1


def test_a_breaking_change_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    before = content(tmp_path)
    put(tmp_path, "b.csv", day(2))
    (tmp_path / "pipeline.yml").write_text(STRICT)
    assert looked(tmp_path).refused
    with pytest.raises(ConfigError, match="orders: column `amount`: min 0 → 5") as caught:
        go(tmp_path)
    assert "headrace plan --accept" in str(caught.value)
    assert content(tmp_path) == before
    assert not LocalStorage(tmp_path / "lake").list(FOLDER)
    assert looked(tmp_path).sources[0].new == 1, "nothing has landed"
    with pytest.raises(ConfigError, match="min 0 → 5"):
        go(tmp_path, rebuild=["orders"])


def test_an_accepted_change_runs_and_equals_a_clean_first_load(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    (tmp_path / "pipeline.yml").write_text(STRICT)
    assert not looked(tmp_path, accepting=True).refused
    assert not looked(tmp_path).refused, "it is kept in the lake"
    assert go(tmp_path).tables[0].rebuilt
    make(tmp_path / "clean", {"a.csv": day(1)}, STRICT)
    go(tmp_path / "clean")
    assert content(tmp_path) == content(tmp_path / "clean")


def test_an_acceptance_is_for_one_change_only(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    (tmp_path / "pipeline.yml").write_text(STRICT)
    looked(tmp_path, accepting=True)
    (tmp_path / "pipeline.yml").write_text(PIPELINE.replace("min: 0", "min: 6"))
    with pytest.raises(ConfigError, match="min 0 → 6"):
        go(tmp_path)
    assert go(tmp_path, accept_changes=True).status == "success"
    (tmp_path / "pipeline.yml").write_text(STRICT)  # from another definition this time, and only looser
    assert go(tmp_path).status == "success"
    (tmp_path / "pipeline.yml").write_text(PIPELINE.replace("min: 0", "min: 6"))
    with pytest.raises(ConfigError, match="min 5 → 6"):
        go(tmp_path)


def test_a_harmless_change_and_other_words_need_nobody(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    (tmp_path / "pipeline.yml").write_text(WIDER)
    told = table(tmp_path)
    assert (told.action, told.refused, list(told.columns)) == ("rebuild", False, ["amount"])
    assert go(tmp_path).tables[0].rebuilt
    (tmp_path / "pipeline.yml").write_text(WIDER.replace("min: 0", "min: 0, description: net of tax"))
    assert table(tmp_path).action == "no change"
    assert go(tmp_path).tables[0].noop


def test_part_of_the_graph_is_not_held_up_by_the_rest(tmp_path: Path) -> None:
    second = "\n  second: {from: orders, contract: {columns: {customer: {}}}}\n"
    make(tmp_path, {"a.csv": day(1)}, PIPELINE + second)
    go(tmp_path)
    (tmp_path / "pipeline.yml").write_text(STRICT + second)
    put(tmp_path, "b.csv", day(2))
    assert go(tmp_path, select=["orders", "second"], accept_changes=True).status == "success"
    (tmp_path / "pipeline.yml").write_text(PIPELINE.replace("min: 0", "min: 9") + second)
    with pytest.raises(ConfigError, match="`orders`"):
        go(tmp_path)
    assert [item.name for item in go(tmp_path, select=["second"]).tables] == ["second"]


def test_changed_python_code_is_a_breaking_change(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    steps = PIPELINE.replace("    history: true\n", "    steps: [{processor: 'steps:same'}]\n")
    code = "import polars as pl\ndef same(rows: pl.DataFrame) -> pl.DataFrame:\n    return rows\n"
    make(tmp_path, {"a.csv": day(1)}, steps)
    (tmp_path / "steps.py").write_text(code)
    assert go(tmp_path).status == "success"
    (tmp_path / "steps.py").write_text(code + "\n# another word\n")
    assert [str(change) for change in table(tmp_path).breaking] == [
        "steps: the Python code changed (what code does to rows cannot be told from here)"
    ]
    with pytest.raises(ConfigError, match="the Python code changed"):
        go(tmp_path)
    assert go(tmp_path, accept_changes=True).tables[0].rebuilt


def test_another_key_of_masks_is_a_breaking_change(tmp_path: Path) -> None:
    masked = PIPELINE.replace("clean: [trim]", "clean: [trim], pii: name, mask: hash")
    make(tmp_path, {"a.csv": day(1)}, masked + "pii_key: one\n")
    go(tmp_path)
    (tmp_path / "pipeline.yml").write_text(masked + "pii_key: other\n")
    assert [str(change) for change in table(tmp_path).breaking] == [
        "pii_key: another key masks `customer` (what is stored is not what was stored)"
    ]
    with pytest.raises(ConfigError, match="another key masks"):
        go(tmp_path)
    assert go(tmp_path, accept_changes=True).status == "success"
    (found,) = diff(load(tmp_path), "1", "2").tables
    assert {cause.kind for cause in found.causes} == {"configuration", "operation"}
    assert set(found.comparison.columns) == {"customer"}


def test_an_interrupted_epoch_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, {"a.csv": day(1)})
    monkeypatch.setattr(failpoints, "_armed", {"refine.outputs": ("error", 1)})
    go(tmp_path)
    monkeypatch.setattr(failpoints, "_armed", {})
    told = table(tmp_path)
    assert (told.action, told.reason) == ("finish", "epoch 1 was interrupted")


def test_a_held_or_altered_table_is_told(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    put(tmp_path, "b.csv", day(2))
    DeltaTable(str(tmp_path / "lake/silver/orders")).delete("order_id > 40")
    told = table(tmp_path)
    assert told.action == "cannot"
    assert "committed by somebody else" in told.reason
    make(tmp_path / "other", {"a.csv": day(1)})
    go(tmp_path / "other")
    hold(LocalStorage(tmp_path / "other/lake"), "orders", 1, "an audit")
    put(tmp_path / "other", "b.csv", day(2))
    assert (table(tmp_path / "other").action, "an audit" in table(tmp_path / "other").reason) == (
        "held",
        True,
    )


def test_gold_models_and_columns_that_depend_on_a_change_are_named(tmp_path: Path) -> None:
    pytest.importorskip("dbt.adapters.duckdb")
    shutil.copytree(SALES, tmp_path / "sales", ignore=shutil.ignore_patterns("lake", "data", "target"))
    from headrace.testing.generate import generate

    generate(tmp_path / "sales" / "data", seed=3, days=8, rows=60)
    root = tmp_path / "sales"
    assert go(root, select=["+sales"]).status == "success"
    contract = root / "contracts" / "sales.yml"
    text = contract.read_text()
    contract.write_text(text.replace("  customer_city:\n", "  customer_city:\n    required: true\n"))
    told = {item.name: item for item in looked(root).tables}
    assert told["stores"].action == "no change"
    assert [str(change) for change in told["sales"].breaking] == [
        "column `customer_city`: required false → true (rows may go to quarantine)"
    ]
    assert {"fact_sales", "dim_customer"} <= {item.model for item in told["sales"].gold if item.rows}
    wider = text.replace("  discount:\n    type: decimal(10,2)", "  discount:\n    type: decimal(11,2)")
    contract.write_text(wider)
    (sales,) = (item for item in looked(root).tables if item.name == "sales")
    assert (list(sales.columns), sales.refused) == (["discount"], False)
    assert {item.model: list(item.columns) for item in sales.gold} == {
        "stg_sales_silver": ["discount"],
        "int_sales_unified": ["discount_amount"],
        "fact_sales": ["discount_amount"],
    }
    assert not any(item.rows or item.unknown for item in sales.gold)


def test_the_command_line_refuses_shows_and_accepts(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    assert headrace(tmp_path, "run").returncode == 0
    (tmp_path / "pipeline.yml").write_text(STRICT)
    shown = headrace(tmp_path, "plan")
    assert shown.returncode == 2
    assert "! column `amount`: min 0 → 5  breaking: rows may go to quarantine" in shown.stdout
    refused = headrace(tmp_path, "run")
    assert refused.returncode == 2
    assert "headrace run --accept-changes" in refused.stderr
    document = json.loads(headrace(tmp_path, "plan", "--json").stdout)
    assert document["refused"]
    assert document["tables"][0]["changes"][0]["breaking"]
    assert headrace(tmp_path, "run", "--accept-changes").returncode == 0
    assert "no change" in headrace(tmp_path, "plan").stdout
    (tmp_path / "pipeline.yml").write_text(STRICT.replace("min: 5", "min: 7"))
    assert "accepted" in headrace(tmp_path, "plan", "--accept").stdout
    assert headrace(tmp_path, "run").returncode == 0
