"""What is damaged on disk is named before it can do harm; what can be computed anew is, when asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from deltalake import DeltaTable

from headrace import failpoints
from headrace.core import DataFile
from headrace.errors import Corrupt
from headrace.run.compact import compact
from headrace.run.inspect import query
from headrace.run.runner import open_storage
from headrace.run.verify import verify
from headrace.spec.load import load
from headrace.store.delta import Change, Table
from tests.projects import content, day, go, make, put


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    root = make(tmp_path / "shop", {"0.csv": day(0)})
    assert go(root).status == "success"
    put(root, "1.csv", day(1))
    assert go(root).status == "success"
    return root


def data(root: Path, table: str) -> Path:
    """A live file of a table."""
    return Path(DeltaTable(str((root / "lake").joinpath(*table.split(".")))).file_uris()[0])


def flip(path: Path) -> None:
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 4
    path.write_bytes(changed)


def faults(root: Path, *, hashes: bool = True) -> list[str]:
    verdicts = verify(open_storage(load(root)), hashes=hashes)
    return [fault for verdict in verdicts for fault in verdict.faults]


def test_a_flipped_bit_in_a_data_file_is_found_by_its_hash_alone(shop: Path) -> None:
    assert faults(shop) == []
    path = data(shop, "silver.orders")
    flip(path)
    assert faults(shop, hashes=False) == []
    (fault,) = faults(shop)
    assert path.name in fault
    assert "was changed" in fault


def test_a_damaged_file_is_never_written_anew_as_a_good_one(shop: Path) -> None:
    before = [p.name for p in (shop / "lake/silver/orders").glob("*.parquet")]
    for name in before:
        flip(shop / "lake/silver/orders" / name)
    put(shop, "2.csv", ["31,someone,7.00,2026-02-02T00:00:00"])  # replaces a row: its file would be rewritten
    (table,) = go(shop).tables
    assert "was changed" in str(table.error) or "Parquet" in str(table.error)
    assert DeltaTable(str(shop / "lake/silver/orders")).version() == 1


@pytest.mark.parametrize("harm", [flip, lambda path: os.truncate(path, 900), Path.unlink])
@pytest.mark.parametrize("table", ["silver.orders", "quarantine.orders", "silver.orders_history"])
def test_a_rebuild_mends_damaged_data_files(shop: Path, harm: object, table: str) -> None:
    whole = content(shop)
    harm(data(shop, table))  # type: ignore[operator]
    assert go(shop, rebuild=["orders"]).status == "success"
    assert content(shop) == whole
    assert faults(shop) == []


def test_a_cut_file_is_named_by_a_run_and_by_a_query(shop: Path) -> None:
    path = data(shop, "quarantine.orders")
    os.truncate(path, 900)
    with pytest.raises(Corrupt, match="has 900 bytes; the table's log says"):
        query(load(shop), "select * from quarantine.orders")
    put(shop, "2.csv", day(2))
    (table,) = go(shop).tables
    assert path.name in str(table.error)
    assert "headrace run --rebuild orders" in str(table.error)


def test_an_old_log_entry_is_held_to_what_was_committed(shop: Path) -> None:
    put(shop, "2.csv", day(2))
    assert go(shop).status == "success"
    (shop / "lake/quarantine/orders/_delta_log/00000000000000000001.json").write_text("")
    put(shop, "3.csv", day(3))
    assert "log entry of version 1 was changed" in str(go(shop).tables[0].error)


def test_a_lost_land_record_is_told_though_its_number_is_filled_again(shop: Path) -> None:
    last = sorted((shop / "lake/_headrace/land/orders").glob("*.json"))[-1]
    last.unlink()
    put(shop, "2.csv", day(2))
    report = go(shop)
    assert last.exists(), "the new file has landed under the old number"
    assert "record 2 is not the one that was refined" in str(report.tables[0].error)


def test_what_landed_while_an_epoch_was_in_doubt_is_refined_by_the_run_that_finishes_it(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shop, "2.csv", day(2))
    monkeypatch.setattr(failpoints, "_armed", {"sink.commit": ("error", 1)})
    assert go(shop).status == "failed"
    put(shop, "3.csv", day(3))
    report = go(shop)
    assert report.status == "success"
    ledger = report.tables[0].ledger
    assert ledger.read == 80 == ledger.accounted, "both epochs are in the report"
    clean = make(tmp_path / "clean", {f"{n}.csv": day(n) for n in range(4)})
    go(clean)
    assert content(shop) == content(clean)


def test_a_compaction_whose_answer_is_lost_keeps_its_files(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.run.compact.MANY", 2)
    table = Table(shop / "lake/quarantine/orders", "quarantine.orders")
    whole, commit = content(shop), Table.commit

    def lost(self: Table, change: Change) -> int:
        commit(self, change)
        raise OSError("the connection broke after the commit")

    monkeypatch.setattr(Table, "commit", lost)
    with pytest.raises(OSError, match="after the commit"):
        compact(table, Joined())
    assert table.snapshot("").at.version == 2
    assert content(shop) == whole


class Joined:
    """An engine that only joins files."""

    def kept_rows(self, _at: object, files: list[DataFile], into: Path) -> list[DataFile]:
        import duckdb

        path = into / "part-joined.snappy.parquet"
        names = [str(file.path) for file in files]
        duckdb.execute(f"copy (select * from read_parquet({names})) to '{path}' (format parquet)")
        return [DataFile(path, sum(file.rows for file in files), path.stat().st_size)]
