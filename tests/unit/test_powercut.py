"""The disk that forgets keeps exactly what was synced, and what Headrace acknowledges is synced."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.core import Commit, DataFile
from headrace.store import storage
from headrace.store.delta import CHECKPOINT_EVERY, Change, Table
from headrace.testing.powercut import Shadow, cut, record


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A lake, and the shadow of all that is synced in it from now on."""
    monkeypatch.setattr(os, "fsync", os.fsync)
    monkeypatch.setattr(storage, "_syncfs", storage._syncfs)
    lake, shadow = tmp_path / "lake", tmp_path / "shadow"
    lake.mkdir()
    (lake / "old").write_text("was there")
    record(shadow, lake)
    return lake, shadow


def after(disk: tuple[Path, Path], dice: random.Random | None = None) -> dict[str, bytes]:
    lake, shadow = disk
    left = lake.parent / "after"
    cut(shadow, lake, left, dice)
    return {p.relative_to(left).as_posix(): p.read_bytes() for p in left.rglob("*") if p.is_file()}


def test_bytes_and_names_are_synced_apart(disk: tuple[Path, Path]) -> None:
    lake, _ = disk
    (lake / "only-bytes").write_text("x")
    storage._fsync(lake / "only-bytes")
    assert after(disk) == {"old": b"was there"}
    (lake / "only-name").write_text("y")
    storage._fsync(lake)
    assert after(disk) == {"old": b"was there", "only-bytes": b"x", "only-name": b""}
    with (lake / "only-bytes").open("a") as file:
        file.write("more")
    (lake / "old").unlink()
    assert after(disk) == {"old": b"was there", "only-bytes": b"x", "only-name": b""}
    storage._syncfs(lake)
    assert after(disk) == {"only-bytes": b"xmore", "only-name": b"y"}


def test_luck_keeps_a_part_and_never_more_than_was_written(disk: tuple[Path, Path]) -> None:
    lake, _ = disk
    (lake / "new").write_bytes(b"0123456789")
    found = {after(disk, random.Random(seed)).get("new") for seed in range(40)}
    assert {None, b"", b"0123456789"} < found
    assert all(data is None or b"0123456789".startswith(data) for data in found)


def test_an_exclusive_creation_is_durable_with_its_folders(disk: tuple[Path, Path]) -> None:
    lake, _ = disk
    assert storage.create_exclusive(lake / "a" / "b" / "record.json", b"{}")
    assert after(disk) == {"old": b"was there", "a/b/record.json": b"{}"}


def test_objects_are_durable_after_sync_one_by_one_and_all_at_once(disk: tuple[Path, Path]) -> None:
    lake, _ = disk
    store = storage.LocalStorage(lake)
    for many in (3, storage.MANY + 1):
        keys = [f"bronze/{many}/deep/{n}" for n in range(many)]
        for key in keys:
            store.write(key, [key.encode()])
        assert not {*after(disk)} & {*keys}
        store.sync(keys)
        left = after(disk)
        assert [left[key] for key in keys] == [key.encode() for key in keys]


def test_delta_commits_are_readable_after_each_cut_also_with_a_checkpoint(disk: tuple[Path, Path]) -> None:
    import duckdb

    lake, shadow = disk
    table = Table(lake / "silver" / "t", "silver.t")
    for epoch in range(1, CHECKPOINT_EVERY + 4):
        table.path.mkdir(parents=True, exist_ok=True)
        path = table.path / f"part-{epoch}.snappy.parquet"
        duckdb.sql(f"copy (select {epoch} as n) to '{path}' (format parquet)")
        item = DataFile(path, 1, path.stat().st_size, {}, {}, {}, {})
        base = table.snapshot("s")
        table.commit(Change(base, Commit("s", epoch - 1, epoch), "WRITE", {"n": "integer"}, (), [item]))
        left = lake.parent / "after"
        cut(shadow, lake, left)
        found = Table(left / "silver" / "t", "silver.t").snapshot("s")
        assert (found.txn, found.at.version) == (epoch, epoch - 1)
        names = [str(file.path) for file in found.at.files]
        assert duckdb.sql(f"select sum(n) from read_parquet({names})").fetchall() == [
            (epoch * (epoch + 1) // 2,)
        ]
    assert (left / "silver/t/_delta_log/_last_checkpoint").stat().st_size


def test_a_failed_checkpoint_is_no_failed_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb
    from deltalake import DeltaTable

    def full(_self: DeltaTable) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(DeltaTable, "create_checkpoint", full)
    monkeypatch.setattr("headrace.store.delta.CHECKPOINT_EVERY", 1)
    table = Table(tmp_path / "t", "silver.t")
    for epoch in (1, 2):
        table.path.mkdir(exist_ok=True)
        path = table.path / f"part-{epoch}.snappy.parquet"
        duckdb.sql(f"copy (select {epoch} as n) to '{path}' (format parquet)")
        item = DataFile(path, 1, path.stat().st_size, {}, {}, {}, {})
        change = Change(
            table.snapshot("s"), Commit("s", epoch - 1, epoch), "WRITE", {"n": "integer"}, (), [item]
        )
        assert table.commit(change) == epoch - 1
    assert table.snapshot("s").txn == 2


def test_the_shadow_survives_a_kill(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from headrace.testing.powercut import record;"
        "from headrace.store.storage import create_exclusive as make;"
        f"lake = Path({str(tmp_path / 'lake')!r}); lake.mkdir();"
        f"record(Path({str(tmp_path / 'shadow')!r}), lake);"
        "make(lake / 'a', b'1'); (lake / 'b').write_bytes(b'2'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    cut(tmp_path / "shadow", tmp_path / "lake", tmp_path / "after")
    assert [path.name for path in (tmp_path / "after").iterdir()] == ["a"]
    shutil.rmtree(tmp_path / "lake")
    assert Shadow(tmp_path / "shadow").names(0) == {}
