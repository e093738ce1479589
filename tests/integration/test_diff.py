"""`headrace diff`: the rows that changed between two runs; code, configuration and input told apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from headrace.errors import ConfigError
from headrace.run import parts
from headrace.run.diff import RunDiff, TableDiff, diff
from headrace.spec.load import load
from tests.projects import PIPELINE, day, go, headrace, make, put, rows

FIRST = ["1,ann,1.00,2026-01-01T00:00:00", "2,bob,2.00,2026-01-01T00:00:00", "3,cid,3.00,2026-01-01T00:00:00"]


def compared(root: Path, first: str, second: str, **options: int) -> RunDiff:
    return diff(load(root), first, second, **options)  # type: ignore[arg-type]


def one(root: Path, first: str, second: str) -> TableDiff:
    (found,) = compared(root, first, second).tables
    return found


def counts(found: TableDiff) -> tuple[int, int, int]:
    return found.comparison.added, found.comparison.removed, found.comparison.changed


def test_input_is_the_cause_where_only_files_came(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": FIRST})
    first = go(tmp_path).run_id
    put(tmp_path, "b.csv", ["2,bea,2.00,2026-02-01T00:00:00", "4,dan,4.00,2026-01-01T00:00:00"])
    second = go(tmp_path).run_id
    found = one(tmp_path, first, second)
    assert counts(found) == (1, 0, 1)
    assert dict(found.comparison.columns) == {"customer": 1, "updated_at": 1}
    assert dict(found.comparison.files) == {"data/b.csv": 2}
    assert [(cause.kind, cause.details) for cause in found.causes] == [("input", ("data/b.csv",))]
    (changed,) = (item for item in found.comparison.examples if item.kind == "changed")
    assert (changed.key, changed.values["customer"]) == ({"order_id": 2}, ("bob", "bea"))


def test_a_new_version_of_a_file_is_named_with_what_it_took_back(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": FIRST})
    go(tmp_path)
    put(tmp_path, "a.csv", FIRST[:2])
    go(tmp_path)
    found = one(tmp_path, "1", "2")
    assert counts(found) == (0, 1, 0)
    assert [(cause.kind, *cause.details) for cause in found.causes] == [
        ("input", "data/a.csv (new version)"),
        ("operation",),
    ]
    assert "a rebuild: a new version of data/a.csv" in found.causes[1].what


def test_configuration_is_the_cause_where_only_the_contract_changed(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": FIRST})
    go(tmp_path)
    changed = PIPELINE.replace("min: 0}", "min: 2}").replace(
        "      rules:", "        twice: {type: double, derive: amount * 2}\n      rules:"
    )
    (tmp_path / "pipeline.yml").write_text(changed)
    go(tmp_path, accept_changes=True)
    found = one(tmp_path, "1", "2")
    assert counts(found) == (0, 1, 0)
    assert found.columns_added == ["twice"]
    kinds = {cause.kind for cause in found.causes}
    assert kinds == {"configuration", "operation"}
    (configuration,) = (cause for cause in found.causes if cause.kind == "configuration")
    assert "column `amount`: min 0 → 2 (rows may go to quarantine)" in configuration.details


def test_code_is_the_cause_where_another_version_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, {"a.csv": FIRST})
    go(tmp_path)
    monkeypatch.setattr(parts, "__version__", "9.9")
    go(tmp_path, rebuild=["orders"])
    found = one(tmp_path, "1", "2")
    assert found.same
    assert [cause.what for cause in found.causes if cause.kind == "code"] == ["headrace 0.1.0 → 9.9"]


def test_python_steps_are_code(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    code = "import polars as pl\ndef one(rows: pl.DataFrame) -> pl.DataFrame:\n    return rows"
    pipeline = PIPELINE.replace("    history: true\n", "    steps: [{processor: 'steps:one'}]\n")
    make(tmp_path, {"a.csv": FIRST}, pipeline)
    (tmp_path / "steps.py").write_text(code)
    go(tmp_path)
    (tmp_path / "steps.py").write_text(code + ".with_columns(pl.col('customer').str.to_uppercase())\n")
    go(tmp_path, accept_changes=True)
    found = one(tmp_path, "1", "2")
    assert counts(found) == (0, 0, 3)
    assert dict(found.comparison.columns) == {"customer": 3}
    assert {cause.kind for cause in found.causes} == {"code", "operation"}


def test_a_table_that_another_one_refers_to_is_input(tmp_path: Path) -> None:
    people = "  people: {from: people, keys: customer, contract: {columns: {customer: {}}}}\n"
    pipeline = (
        PIPELINE.replace("sources:\n", "sources:\n  people: {type: files, path: people/*.csv}\n")
        .replace("tables:\n", f"tables:\n{people}")
        .replace("clean: [trim]", "references: people.customer")
    )
    make(tmp_path, {"a.csv": FIRST}, pipeline)
    (tmp_path / "people").mkdir()
    (tmp_path / "people/1.csv").write_text("customer\nann\n")
    go(tmp_path)
    (tmp_path / "people/2.csv").write_text("customer\nbob\n")
    go(tmp_path, rebuild=["orders"])
    found = {item.table: item for item in compared(tmp_path, "1", "2").tables}
    assert counts(found["orders"]) == (1, 0, 0)
    assert "silver.people, which is referred to: version 0 → 1" in [c.what for c in found["orders"].causes]


def test_personal_data_is_masked_and_missing_values_are_not(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": FIRST}, PIPELINE.replace("clean: [trim]", "clean: [trim], pii: name"))
    go(tmp_path)
    put(tmp_path, "b.csv", ["1,zoe,1.00,2026-02-01T00:00:00"])
    go(tmp_path)
    document = compared(tmp_path, "1", "2").to_json()
    assert "zoe" not in json.dumps(document, default=str)
    assert "ann" not in json.dumps(document, default=str)
    (example,) = document["tables"][0]["comparison"]["examples"]
    assert example["values"]["customer"] == ("***", "***")


def test_a_run_that_did_nothing_stands_where_the_one_before_did(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": FIRST})
    go(tmp_path)
    idle = go(tmp_path).run_id
    put(tmp_path, "b.csv", ["4,dan,4.00,2026-01-01T00:00:00"])
    later = go(tmp_path).run_id
    assert one(tmp_path, idle, later).epochs == (1, 2)
    assert one(tmp_path, "1", idle).epochs == (1, 1)


def test_without_the_catalog_the_lakes_records_know_the_runs(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": FIRST})
    first = go(tmp_path).run_id
    put(tmp_path, "b.csv", ["4,dan,4.00,2026-01-01T00:00:00"])
    second = go(tmp_path).run_id
    before = one(tmp_path, first, second)
    for path in (tmp_path / "lake").glob("catalog.db*"):
        path.unlink()
    found = compared(tmp_path, first, second)
    assert found.tables[0].comparison == before.comparison
    assert "not in the catalog" in found.notes[0]


def test_epochs_times_and_what_is_none_of_these(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    everything = len(rows(tmp_path, "silver.orders"))
    assert counts(one(tmp_path, "0", "1")) == (everything, 0, 0)
    assert counts(one(tmp_path, "2020-01-01", "2100-01-01T00:00:00Z")) == (everything, 0, 0)
    with pytest.raises(ConfigError, match="has no epoch 7"):
        compared(tmp_path, "1", "7")
    with pytest.raises(ConfigError, match="`nonsense` is no run, epoch or time"):
        compared(tmp_path, "1", "nonsense")
    with pytest.raises(ConfigError, match="was not there yet"):
        compared(tmp_path, "1", "2020-01-01")
    with pytest.raises(ConfigError, match="`ordres` is not defined"):
        diff(load(tmp_path), "1", "1", table="ordres")


def test_a_vacuumed_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": FIRST})
    go(tmp_path)
    put(tmp_path, "b.csv", ["1,zoe,1.00,2026-02-01T00:00:00"])
    old = set((tmp_path / "lake/silver/orders").glob("*.parquet"))
    go(tmp_path)
    for path in old:
        path.unlink()
    with pytest.raises(ConfigError, match="version 0 are gone"):
        compared(tmp_path, "1", "2")


def test_the_command_line(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": FIRST})
    go(tmp_path)
    put(tmp_path, "b.csv", ["2,bea,2.00,2026-02-01T00:00:00"])
    go(tmp_path)
    shown = headrace(tmp_path, "diff", "1", "2")
    assert shown.returncode == 0
    assert "table orders  epoch 1 → 2: 1 changed (3 → 3 rows)" in shown.stdout
    assert "customer bob → bea" in shown.stdout
    assert "input: source orders: 1 file landed" in shown.stdout
    document = json.loads(headrace(tmp_path, "diff", "1", "2", "--json", "--limit", "0").stdout)
    assert document["tables"][0]["comparison"]["changed"] == 1
    assert document["tables"][0]["comparison"]["examples"] == []
    assert headrace(tmp_path, "diff", "1", "9").returncode == 2
    shutil.rmtree(tmp_path / "lake")
    assert "no lake" in headrace(tmp_path, "diff", "1", "2").stderr
