"""`headrace prove` holds for a sound pipeline, finds every seeded fault, and leaves the user's lake alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.errors import ConfigError
from headrace.spec.load import load
from headrace.testing.mutant import MUTANTS, VARIABLE
from headrace.testing.prove.lab import laboratory
from headrace.testing.prove.proof import Proof, Wish, markdown, prove
from headrace.testing.prove.replica import replicate
from headrace.testing.prove.trials import KINDS
from tests.projects import PIPELINE, day, headrace, make, put

FOUND_BY = {
    "record-before-objects": ("kill", "land.record"),
    "position-before-commit": ("kill", "land.copied"),
    "record-before-sync": ("power", "land.record"),
    "reused-epoch": ("kill", "refine.planned"),
    "plan-overwritten": ("relay", "refine.planned"),
    "commit-by-path": ("pause", "refine.planned"),
    "no-txn-check": ("kill", "sink.commit"),
    "ledger-unchecked": ("kill", "sink.commit"),
    "scratch-left": ("kill", "land.record"),
    "no-fsync": ("power", "land.record"),
    "gold-in-place": ("kill", "gold.built"),
    "exit-zero": ("error", "refine.computed"),
}
"""Mutant → the kind of trial that finds it, and where."""

DBT = {
    "dbt_project.yml": "name: shop\nprofile: headrace\nversion: '1.0'\nmodel-paths: [models]\n",
    "models/sources.yml": (
        "sources:\n  - name: silver\n    database: \"{{ var('silver_database') }}\"\n"
        "    tables: [{name: orders}]\n"
    ),
    "models/per_customer.sql": (
        "{{ config(materialized='table') }}\n"
        "select customer, count(*) as orders, sum(amount) as amount, now() as built\n"
        "from {{ source('silver', 'orders') }} group by all\n"
    ),
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return make(tmp_path / "shop", {f"{n}.csv": day(n) for n in range(4)})


@pytest.fixture
def gilded(shop: Path) -> Path:
    pytest.importorskip("dbt.adapters.duckdb")
    for name, text in DBT.items():
        path = shop / "dbt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with (shop / "pipeline.yml").open("a") as file:
        file.write("gold: {dbt: dbt}\n")
    return shop


def proved(root: Path, scratch: Path, **wish: object) -> tuple[Proof, list[str]]:
    told: list[str] = []
    options = {"seed": 1, **wish}
    proof = prove(load(root), scratch, Wish(**options), told.append, "headrace prove")  # type: ignore[arg-type]
    return proof, told


def state(root: Path) -> dict[str, tuple[int, int, bytes]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ctime_ns, path.stat().st_ino, path.read_bytes()) for path in files}


def test_a_proof_holds_leaves_all_alone_and_can_be_attached(shop: Path) -> None:
    assert headrace(shop, "run", "--quiet").returncode == 0
    before = state(shop)
    kinds = [
        word
        for kind in ("random kill", "two at once", "random pause", "arrival")
        for word in ("--only", kind)
    ]
    options = ["--quick", "--kills", "3", "--seed", "7", "--report", "../review/proof.md", *kinds]
    done = headrace(shop, "prove", ".", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "shop holds: " in done.stdout
    assert "random kill: " in done.stderr
    assert state(shop) == before, "neither data nor lake of the user is touched, not even a time stamp"
    report = json.loads((shop.parent / "review/proof.json").read_text())
    assert report["holds"] is True
    assert report["seed"] == 7
    assert report["data"] == {
        "files": 4,
        "bytes": sum((shop / f"data/{n}.csv").stat().st_size for n in range(4)),
        "rows": 160,
    }
    assert {trial["kind"] for trial in report["trials"]} == {
        "random kill",
        "two at once",
        "random pause",
        "arrival",
    }
    page = (shop.parent / "review/proof.md").read_text()
    assert f"Repeat it: `{report['command']}`" in page
    assert "--seed 7 --kills 3 --quick --only 'random kill'" in report["command"]
    assert "| silver.orders | 127 |" in page


def test_killed_failed_and_paused_at_every_step_of_a_run_with_gold(gilded: Path, tmp_path: Path) -> None:
    """The failpoints of land and refine are killed one by one in test_crash and test_faults."""
    proof, told = proved(
        gilded, tmp_path / "scratch", only=("kill", "error", "pause"), at=("gold.built", "gold.published")
    )
    assert proof.holds, told
    assert {trial.what.split(",")[0] for trial in proof.trials} == {
        f"{how} at gold.{step}" for how in ("killed", "error", "paused") for step in ("built", "published")
    }
    assert proof.tables["gold.per_customer"]["rows"] == 7
    assert any("gold.per_customer.built" in note for note in proof.notes), "what differs by nature is named"


def test_every_mutant_has_its_test() -> None:
    assert set(FOUND_BY) == set(MUTANTS)
    assert {kind for kind, _ in FOUND_BY.values()} < {kind.name for kind in KINDS}


@pytest.mark.parametrize("mutant", [name for name in MUTANTS if name != "gold-in-place"])
def test_every_mutant_is_found(shop: Path, tmp_path: Path, mutant: str) -> None:
    kind, place = FOUND_BY[mutant]
    proof, told = proved(shop, tmp_path / "scratch", only=(kind,), at=(place,), mutants=(mutant,), first=True)
    assert not proof.holds, f"{mutant} was not found: {told}"
    assert "DOES NOT HOLD" in markdown(proof)
    assert f"SEEDED FAULTS: {mutant}" in markdown(proof)


def test_a_gold_file_that_is_overwritten_in_place_is_found(gilded: Path, tmp_path: Path) -> None:
    proof, told = proved(
        gilded, tmp_path / "scratch", only=("kill",), at=("gold.built",), mutants=("gold-in-place",)
    )
    assert not proof.holds, told


def test_a_seeded_fault_makes_the_command_fail(shop: Path) -> None:
    options = ["--only", "kill", "--at", "land.record", "--seed", "3", "--first"]
    done = headrace(shop, "prove", ".", *options, env={VARIABLE: "record-before-objects"})
    assert done.returncode == 1, done.stderr
    assert "DOES NOT HOLD" in done.stdout
    assert "is gone from the lake" in done.stderr


def test_a_pipeline_that_fails_by_itself_is_not_proved(shop: Path) -> None:
    with (shop / "pipeline.yml").open("a") as file:
        file.write("      expect:\n        - {rows: [1000, null]}\n")
    done = headrace(shop, "prove", ".", "--only", "kill")
    assert done.returncode == 2
    assert "does not run undisturbed" in done.stderr
    assert "hint: make `headrace run` succeed" in done.stderr
    assert not (shop / "proof.md").exists()


def test_a_step_that_gives_other_rows_each_time_is_not_proved(shop: Path, tmp_path: Path) -> None:
    text = (
        (shop / "pipeline.yml")
        .read_text()
        .replace("    history: true\n", '    steps: [{processor: "steps:lucky"}]\n')
    )
    (shop / "pipeline.yml").write_text(text)
    (shop / "steps.py").write_text(
        "import random\nimport polars\n\n\ndef lucky(rows: polars.DataFrame) -> polars.DataFrame:\n"
        "    return rows.with_columns(polars.lit(str(random.random())).alias('customer'))\n"
    )
    with pytest.raises(ConfigError, match=r"two clean runs differ: silver\.orders differs in customer"):
        proved(shop, tmp_path / "scratch", only=("kill",))


def test_unknown_words_are_named(shop: Path) -> None:
    done = headrace(shop, "prove", ".", "--only", "kil")
    assert (done.returncode, "no kind of trial is called `kil`" in done.stderr) == (2, True)
    done = headrace(shop, "prove", ".", "--at", "sink.comit")
    assert (done.returncode, "no failpoint is called `sink.comit`" in done.stderr) == (2, True)


def test_a_replica_finds_data_elsewhere_and_keeps_secrets_by_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_KEY", "cd" * 32)
    monkeypatch.setenv("DROP", str(tmp_path / "elsewhere"))
    pipeline = PIPELINE.replace(
        "path: data/*.csv}", 'path: [data/*.csv, "${DROP}/in/**/*.csv", ../aside/x.csv]}'
    )
    pipeline += 'encryption: {key: k1, keys: {k1: "${LAKE_KEY}"}}\nmonitoring: {alerts: ["json://pager"]}\n'
    pipeline += "environments: {prod: {lake: /nowhere/lake, sources: {orders: {settle: 30}}}}\n"
    root = make(tmp_path / "shop", {"0.csv": day(0)}, pipeline)
    for folder, number in (("elsewhere/in/a/b", 1), ("aside", 2)):
        (tmp_path / folder).mkdir(parents=True)
        put(root, "x.csv", day(number))
        (root / "data/x.csv").rename(tmp_path / folder / "x.csv")
    replica = replicate(load(root, "prod"), tmp_path / "scratch")
    assert sorted(replica.inputs) == ["data/0.csv", "inputs/orders/1/a/b/x.csv", "inputs/orders/2/x.csv"]
    project = replica.load()
    assert project.lake == replica.root / "lake"
    assert project.config.monitoring.alerts == []
    source = project.source("orders")
    assert source.path == ["data/*.csv", "inputs/orders/1/**/*.csv", "inputs/orders/2/x.csv"]  # type: ignore[attr-defined]
    assert source.settle == 0  # type: ignore[attr-defined]
    written = b"".join(path.read_bytes() for path in replica.root.rglob("*") if path.is_file())
    assert b"cd" * 32 not in written, "secrets are not written to the scratch directory"
    environment = {**os.environ, "HEADRACE_ENV": "prod"}
    done = subprocess.run(
        [sys.executable, "-m", "headrace", "run", str(replica.file), "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["tables"][0]["ledger"]["read"] == 120, done.stderr


def test_a_changed_table_a_lost_row_and_a_lie_are_seen(shop: Path, tmp_path: Path) -> None:
    """The judge itself: without this, all trials could hold for the wrong reason."""
    from deltalake import DeltaTable

    with laboratory(load(shop), tmp_path / "scratch") as lab:
        lab.fresh()
        assert any("silver.orders has" in line for line in lab.compare()), "half of the data is missing"
        ended = lab.run()
        assert lab.judge(ended) == []
        assert lab.recover() == []
        (lab.lake / ".scratch" / "left").mkdir(parents=True)
        table = DeltaTable(str(lab.lake / "silver/orders"))
        table.update(predicate="order_id = 1", updates={"customer": "'someone else'"})
        assert lab.compare() == ["silver.orders differs in customer"]
        table.delete("order_id = 2")
        assert lab.compare() == ["silver.orders has 126 rows, the clean run 127"]
        DeltaTable(str(lab.lake / "quarantine/orders")).delete("_line = 5")
        problems = lab.judge(ended)
        assert any("exit code 0, but quarantine.orders has 4 rows" in line for line in problems)
        assert lab.recover() != []


def test_nothing_is_left_running(shop: Path, tmp_path: Path) -> None:
    with laboratory(load(shop), tmp_path / "scratch") as lab:
        lab.fresh()
        paused = lab.start("refine.planned=pause")
        assert paused.paused(60)
    assert paused.process.returncode == -9
