"""The loop end to end, in this process: increments, changed contracts, and all that is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable

from headrace import failpoints
from headrace.errors import Busy, ConfigError
from headrace.run import runner
from tests.projects import HEADER, PIPELINE, content, day, go, make, put, rows


def test_a_run_balances_and_a_second_one_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path, {f"{n}.csv": day(n) for n in range(3)})
    report = go(tmp_path)
    (table,) = report.tables
    assert report.status == "success"
    assert table.ledger.read == 120 == table.ledger.accounted
    assert (table.ledger.quarantined, dict(table.by_rule)) == (6, {"known_customer": 3, "order_id.type": 3})
    before = sorted(path for path in (tmp_path / "lake").rglob("*") if "catalog" not in path.name)
    again = go(tmp_path)
    assert (again.tables[0].noop, again.sources[0].new_files) == (True, 0)
    after = sorted(path for path in (tmp_path / "lake").rglob("*") if "catalog" not in path.name)
    assert before == after, "a no-op writes nothing"


def test_days_one_by_one_equal_all_at_once(tmp_path: Path) -> None:
    make(tmp_path / "all", {f"{n}.csv": day(n) for n in range(6)})
    go(tmp_path / "all")
    make(tmp_path / "daily")
    totals = 0
    for n in range(6):
        put(tmp_path / "daily", f"{n}.csv", day(n))
        ledger = go(tmp_path / "daily").tables[0].ledger
        assert ledger.read == 40 == ledger.accounted
        totals += ledger.inserted
    assert content(tmp_path / "daily") == content(tmp_path / "all")
    assert totals == len(rows(tmp_path / "all", "silver.orders"))


def test_quarantine_keeps_the_raw_line_and_every_reason(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": ["1,ann,1.00,2026-01-01T00:00:00", 'x,"no,body",-3,never', "2,bob"]})
    go(tmp_path)
    import duckdb

    files = DeltaTable(str(tmp_path / "lake/quarantine/orders")).file_uris()
    found = (
        duckdb.connect()
        .execute("select _line, raw, rules from read_parquet(?) order by _line", [files])
        .fetchall()
    )
    assert [(line, str(raw)) for line, raw, _ in found] == [(3, 'x,"no,body",-3,never'), (4, "2,bob")]
    assert "order_id.type" in str(found[0][2])
    assert "amount.min" in str(found[0][2])
    assert "updated_at.type" in str(found[0][2])
    assert "csv" in str(found[1][2])


def test_a_new_version_of_a_file_retracts_the_old_ones_rows(tmp_path: Path) -> None:
    make(
        tmp_path,
        {
            "a.csv": ["1,ann,1.00,2026-01-01T00:00:00", "2,bob,2.00,2026-01-01T00:00:00"],
            "b.csv": ["2,bea,1.50,2025-12-01T00:00:00"],
        },
    )
    go(tmp_path)
    put(tmp_path, "a.csv", ["1,ann,9.00,2026-01-02T00:00:00", "3,cid,3.00,2026-01-01T00:00:00"])
    report = go(tmp_path)
    assert report.sources[0].changed == 1
    assert "new version of" in str(report.tables[0].rebuilt)
    clean = make(tmp_path / "clean")
    shutil.copytree(tmp_path / "data", clean / "data", dirs_exist_ok=True)
    go(clean)
    assert content(tmp_path) == content(clean)
    assert [row for row in rows(tmp_path, "silver.orders") if "bea" in row], (
        "what the old version had hidden is back"
    )


def test_a_changed_contract_computes_the_table_anew(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    changed = PIPELINE.replace(
        "known_customer: {check: \"customer <> 'nobody'\"}", "small: {check: amount < 20}"
    )
    (tmp_path / "pipeline.yml").write_text(changed)
    report = go(tmp_path, accept_changes=True)
    assert report.tables[0].rebuilt == "the contract or table settings changed"
    make(tmp_path / "clean", {"a.csv": day(1)}, changed)
    go(tmp_path / "clean")
    assert content(tmp_path) == content(tmp_path / "clean")


def test_new_columns_evolve(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": ["1,ann,1.00,2026-01-01T00:00:00"]})
    go(tmp_path)
    put(tmp_path, "b.csv", ["2,bob,2.00,2026-01-01T00:00:00,red,7"], HEADER + ",Colour Code,_line")
    report = go(tmp_path)
    assert report.status == "success"
    at = DeltaTable(str(tmp_path / "lake/silver/orders"))
    names = [field.name for field in at.schema().fields]
    assert "colour_code" in names
    assert names.count("_line") == 1
    assert any("red" in row for row in rows(tmp_path, "silver.orders"))


@pytest.mark.parametrize(
    "place", [place for place in failpoints.PLACES if place.startswith(("land", "refine", "sink"))]
)
def test_an_error_at_every_step_loses_and_doubles_nothing(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "clean", {f"{n}.csv": day(n) for n in range(3)})
    go(tmp_path / "clean")
    make(tmp_path / "hurt", {"0.csv": day(0)})
    go(tmp_path / "hurt")
    put(tmp_path / "hurt", "1.csv", day(1))
    put(tmp_path / "hurt", "2.csv", day(2))
    for nth in (1, 2, 3):
        monkeypatch.setattr(failpoints, "_armed", {place: ("error", nth)})
        report = go(tmp_path / "hurt")
        assert report.status in ("success", "incomplete", "failed")
    monkeypatch.setattr(failpoints, "_armed", {})
    report = go(tmp_path / "hurt")
    assert report.status == "success"
    assert content(tmp_path / "hurt") == content(tmp_path / "clean")


def test_the_loser_of_two_runs_says_so(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    (tmp_path / "lake").mkdir()
    with runner._alone(tmp_path / "lake"), pytest.raises(Busy, match="another run is at work"):
        go(tmp_path)
    assert go(tmp_path).status == "success"


def test_losing_the_catalog_loses_nothing(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    before = content(tmp_path)
    for path in (tmp_path / "lake").glob("catalog.db*"):
        path.unlink()
    assert go(tmp_path).tables[0].noop
    assert content(tmp_path) == before


def test_a_foreign_commit_stops_the_table_until_it_is_rebuilt(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    clean = content(tmp_path)
    DeltaTable(str(tmp_path / "lake/silver/orders")).delete("order_id > 40")
    put(tmp_path, "b.csv", day(2))
    report = go(tmp_path)
    assert "committed by somebody else" in str(report.tables[0].error)
    (tmp_path / "data/b.csv").unlink()
    assert clean["silver.orders"] != rows(tmp_path, "silver.orders")


def test_a_restored_table_stops_too(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    put(tmp_path, "b.csv", day(2))
    go(tmp_path)
    DeltaTable(str(tmp_path / "lake/silver/orders")).restore(0)
    put(tmp_path, "c.csv", day(3))
    assert "silver.orders" in str(go(tmp_path).tables[0].error)


def test_a_changed_bronze_object_is_never_refined(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    (path,) = (tmp_path / "lake/bronze").rglob("*.csv")
    path.write_bytes(path.read_bytes().replace(b"c1", b"c9"))
    report = go(tmp_path, rebuild=["orders"])
    assert "sha256" in str(report.tables[0].error)


def test_one_bad_source_does_not_stop_the_others(tmp_path: Path) -> None:
    pipeline = PIPELINE.replace("sources:\n", "sources:\n  more: {type: files, path: more/*.csv}\n").replace(
        "from: orders", "from: [orders, more]"
    )
    make(tmp_path, {"a.csv": day(1)}, pipeline)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.csv").write_bytes(b"")
    report = go(tmp_path)
    assert report.status == "incomplete"
    assert report.tables[0].ledger.read == 40
    assert [name for name, _ in report.sources[0].refused or report.sources[1].refused] == ["more/x.csv"]


def test_a_stop_rule_writes_nothing(tmp_path: Path) -> None:
    pipeline = PIPELINE + "      expect:\n        - {rows: [100, null]}\n"
    make(tmp_path, {"a.csv": day(1)}, pipeline)
    report = go(tmp_path)
    assert report.status == "failed"
    assert report.tables[0].error_class == "data"
    assert content(tmp_path) == {"silver.orders": [], "silver.orders_history": [], "quarantine.orders": []}
    put(tmp_path, "b.csv", day(2, 90))
    assert go(tmp_path).status == "success"


def test_an_encrypted_lake_refines_the_same_and_shows_no_clear_bronze(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKE_KEY", "ab" * 32)
    make(tmp_path / "open", {"a.csv": day(1)})
    make(
        tmp_path / "sealed",
        {"a.csv": day(1)},
        PIPELINE + 'encryption: {key: k1, keys: {k1: "${LAKE_KEY}"}}\n',
    )
    go(tmp_path / "open")
    go(tmp_path / "sealed")
    assert content(tmp_path / "open") == content(tmp_path / "sealed")
    (path,) = (tmp_path / "sealed/lake/bronze").rglob("*.csv")
    assert b"nobody" not in path.read_bytes()
    lake = [item.read_bytes() for item in (tmp_path / "sealed/lake").rglob("*") if item.is_file()]
    assert not any(b"ab" * 32 in data for data in lake), "the key is nowhere"


def test_a_newer_lake_is_refused(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)})
    go(tmp_path)
    (tmp_path / "lake/_headrace/format.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(ConfigError, match="format 2"):
        go(tmp_path)


def test_bad_sql_in_a_contract_stops_before_anything_is_read(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)}, PIPELINE.replace("customer <> 'nobody'", "custmer <> 'nobody'"))
    with pytest.raises(ConfigError, match="custmer"):
        go(tmp_path)
    assert not (tmp_path / "lake").exists()


def test_a_table_that_each_delivery_replaces_stays_so_when_it_is_computed_anew(tmp_path: Path) -> None:
    pipeline = PIPELINE.replace("    latest_by: updated_at\n    history: true\n", "    mode: replace\n")
    make(tmp_path, {"a.csv": day(1)}, pipeline)
    go(tmp_path)
    put(tmp_path, "b.csv", day(5))
    go(tmp_path)
    only_b = rows(tmp_path, "silver.orders")
    go(tmp_path, rebuild=["orders"])
    assert rows(tmp_path, "silver.orders") == only_b
    put(tmp_path, "a.csv", day(3))
    go(tmp_path)
    assert {row[0] for row in rows(tmp_path, "silver.orders")} == {"data/a.csv"}


def test_what_start_now_left_out_stays_out_when_the_table_is_computed_anew(tmp_path: Path) -> None:
    pipeline = PIPELINE + "    start: now\n"
    make(tmp_path, {"a.csv": day(1)}, pipeline)
    go(tmp_path)
    go(tmp_path, rebuild=["orders"])
    assert rows(tmp_path, "silver.orders") == []
    put(tmp_path, "b.csv", day(5))
    go(tmp_path)
    before = rows(tmp_path, "silver.orders")
    assert before
    assert go(tmp_path, rebuild=["orders"]).tables[0].rebuilt == "asked for"
    assert rows(tmp_path, "silver.orders") == before


def test_another_key_of_masks_computes_the_table_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = (
        PIPELINE.replace("clean: [trim]}", "clean: [trim], pii: name, mask: hash}") + "pii_key: ${PII}\n"
    )
    monkeypatch.setenv("PII", "one")
    make(tmp_path, {"a.csv": day(1)}, pipeline)
    go(tmp_path)
    first = rows(tmp_path, "silver.orders")
    monkeypatch.setenv("PII", "another")
    assert go(tmp_path, accept_changes=True).tables[0].rebuilt
    second = rows(tmp_path, "silver.orders")
    assert len(first) == len(second)
    assert not {row[-1] for row in first} & {row[-1] for row in second} or first != second


def test_a_source_may_be_renamed_under_its_id(tmp_path: Path) -> None:
    make(tmp_path, {"a.csv": day(1)}, PIPELINE.replace("path: data/*.csv", "path: data/*.csv, id: stream1"))
    go(tmp_path)
    before = content(tmp_path)
    renamed = PIPELINE.replace("path: data/*.csv", "path: data/*.csv, id: stream1").replace(
        "  orders: {type: files", "  sales: {type: files"
    )
    (tmp_path / "pipeline.yml").write_text(renamed.replace("from: orders", "from: sales"))
    report = go(tmp_path)
    assert report.tables[0].noop
    assert content(tmp_path) == before


def test_headers_that_differ_in_case_are_one_evolved_column(tmp_path: Path) -> None:
    make(tmp_path)
    for n, header in enumerate(("Extra", "EXTRA", "extra")):
        put(tmp_path, f"{n}.csv", [f"{n},ann,1.00,2026-01-01T00:00:00,x{n}"], HEADER + f",{header}")
        go(tmp_path)
    names = [field.name for field in DeltaTable(str(tmp_path / "lake/silver/orders")).schema().fields]
    assert [name for name in names if name.startswith("extra")] == ["extra"]
    assert {"x0", "x1", "x2"} <= {value for row in rows(tmp_path, "silver.orders") for value in row}
