"""Delta commits: a stale or paused writer never adds a row, and delta-rs reads what we wrote."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable, write_deltalake

from headrace.core import Commit, DataFile
from headrace.errors import ConfigError, Corrupt, Fenced
from headrace.store.delta import Change, Snapshot, Table

COLUMNS = {"id": "bigint", "name": "text", "price": "decimal(10,2)", "day": "date", "doc": "json"}


def data_file(folder: Path, name: str, low: int, high: int) -> DataFile:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    duckdb.connect().execute(
        f"copy (select r as id, 'n' || r as name, (r / 100)::decimal(10,2) as price,"
        f" date '2026-01-01' as day, '{{}}' as doc from range({low}, {high}) t(r)) to '{path}'"
    )
    return DataFile(
        path, high - low, path.stat().st_size, low={"id": low}, high={"id": high - 1}, nulls={"id": 0}
    )


def append(table: Table, base: Snapshot, prev: int, following: int, stream: str = "s") -> int:
    item = data_file(table.path, f"part-{stream}-{following}.parquet", following * 10, following * 10 + 10)
    change = Change(
        base,
        Commit(stream, prev, following),
        "WRITE",
        COLUMNS,
        add=[item],
        note={"written": {"n": following}},
    )
    return table.commit(change)


def rows(table: Table) -> int:
    return sum(item.rows for item in table.snapshot("s").at.files)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "silver" / "sales", "silver.sales")


def test_a_table_is_what_was_committed(table: Table) -> None:
    assert table.snapshot("s").at.version == -1
    append(table, table.snapshot("s"), 0, 1)
    append(table, table.snapshot("s"), 1, 2)
    snapshot = table.snapshot("s")
    assert (snapshot.at.version, snapshot.txn, dict(snapshot.at.columns)) == (1, 2, COLUMNS)
    assert {item.low["id"] for item in snapshot.at.files} == {10, 20}
    assert table.at(0).version == 0
    assert len(table.at(0).files) == 1
    assert table.at(-1).files == ()
    other = DeltaTable(str(table.path))
    assert other.version() == 1
    assert other.transaction_version("s") == 2
    uris = other.file_uris()
    assert duckdb.connect().execute(f"select count(*) from read_parquet({uris})").fetchall() == [(20,)]


def test_a_zombie_on_its_old_snapshot_is_fenced_every_time(table: Table) -> None:
    for number in range(50):
        zombie = table.snapshot("s")
        append(table, table.snapshot("s"), number, number + 1)
        before = rows(table)
        with pytest.raises(Fenced, match="committed version"):
            append(table, zombie, number, number + 1)
        with pytest.raises(Fenced, match="is at epoch"):
            append(table, table.snapshot("s"), number, number + 1)
        assert rows(table) == before


def test_of_many_writers_one_wins_each_epoch(table: Table) -> None:
    append(table, table.snapshot("s"), 0, 1)

    def attempt(number: int) -> bool:
        mine = Table(table.path, table.name)
        try:
            append(mine, mine.snapshot("s"), 1, 2 + number)
        except Fenced:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(attempt, range(8))).count(True) == 1
    assert rows(table) == 20


def test_streams_do_not_fence_each_other(table: Table) -> None:
    append(table, table.snapshot("a"), 0, 1, "a")
    append(table, table.snapshot("b"), 0, 1, "b")
    assert (table.snapshot("a").txn, table.snapshot("b").txn) == (1, 1)


def test_an_empty_commit_moves_the_epoch(table: Table) -> None:
    append(table, table.snapshot("s"), 0, 1)
    table.commit(Change(table.snapshot("s"), Commit("s", 1, 5), "WRITE", COLUMNS))
    assert table.snapshot("s").txn == 5
    assert rows(table) == 10


def test_a_lost_answer_is_resolved_by_reading_the_entry(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.store import delta

    create = delta.create_exclusive
    monkeypatch.setattr(
        delta, "create_exclusive", lambda path, data: create(path, data) and create(path, data)
    )
    assert append(table, table.snapshot("s"), 0, 1) == 0
    assert rows(table) == 10


def test_an_applied_epoch_is_found_with_its_note(table: Table) -> None:
    for number in range(3):
        append(table, table.snapshot("s"), number, number + 1)
    assert table.applied("s", 2, 2) == (1, {"written": {"n": 2}})


def test_txn_and_files_survive_checkpoints(table: Table) -> None:
    for number in range(45):
        append(table, table.snapshot("s"), number, number + 1)
    fresh = Table(table.path, table.name).snapshot("s")
    assert (fresh.txn, len(fresh.at.files)) == (45, 45)
    assert {item.low["id"] for item in fresh.at.files} == {n * 10 for n in range(1, 46)}
    assert list((table.path / "_delta_log").glob("*.checkpoint*.parquet"))


def test_removed_files_leave_and_new_columns_come(table: Table) -> None:
    append(table, table.snapshot("s"), 0, 1)
    base = table.snapshot("s")
    item = data_file(table.path, "new.parquet", 100, 103)
    columns = {**COLUMNS, "extra": "text"}
    table.commit(Change(base, Commit("s", 1, 2), "MERGE", columns, add=[item], remove=base.at.files))
    after = table.snapshot("s")
    assert [file.path.name for file in after.at.files] == ["new.parquet"]
    assert dict(after.at.columns) == columns
    assert after.table_id == base.table_id


def test_partitions_keep_odd_values(tmp_path: Path) -> None:
    table = Table(tmp_path / "t", "t")
    items = []
    for value in ("a b", "ä/ö", "50%", None):
        folder = tmp_path / "t" / f"id={len(items)}"
        item = data_file(folder, "x y.parquet", 0, 1)
        items.append(DataFile(item.path, 1, item.bytes, {"name": value}))
    table.commit(Change(table.snapshot("s"), Commit("s", 0, 1), "WRITE", COLUMNS, ["name"], add=items))
    found = table.snapshot("s").at
    assert {file.partition["name"] for file in found.files} == {"a b", "ä/ö", "50%", None}
    assert all(file.path.exists() for file in found.files)


def test_somebody_elses_commit_is_seen(table: Table) -> None:
    import pyarrow as pa

    append(table, table.snapshot("s"), 0, 1)
    row = pa.table({name: pa.array([None], pa.string()) for name in ("name", "doc")})
    write_deltalake(str(table.path), row, mode="append", schema_mode="merge")
    assert table.foreign(0, table.snapshot("s").at.version) == [1]


def test_a_broken_log_says_so(table: Table) -> None:
    append(table, table.snapshot("s"), 0, 1)
    entry = table.path / "_delta_log" / f"{0:020}.json"
    entry.write_text("{broken")
    with pytest.raises(Corrupt):
        Table(table.path, table.name).snapshot("s")
    with pytest.raises(Corrupt):
        table.entry(0)
    entry.unlink()
    with pytest.raises(Corrupt):
        table.digest(0)


def test_deletion_vectors_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    write_deltalake(
        str(tmp_path), pa.table({"a": [1]}), configuration={"delta.enableDeletionVectors": "true"}
    )
    if DeltaTable(str(tmp_path)).protocol().min_reader_version > 1:
        with pytest.raises(ConfigError, match="reader version"):
            Table(tmp_path, "t").snapshot("s")
