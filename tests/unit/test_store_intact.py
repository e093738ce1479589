"""Data files tell by their size and their name whether they are still what was written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from headrace.core import DataFile
from headrace.errors import Corrupt
from headrace.store.intact import check_bytes, check_sizes, new_name, sealed


@pytest.fixture
def file(tmp_path: Path) -> DataFile:
    path = tmp_path / "part-0b8d.snappy.parquet"
    path.write_bytes(os.urandom(5000))
    return sealed(DataFile(path, 1, 5000))


def test_an_untouched_file_passes_and_so_does_its_link(file: DataFile, tmp_path: Path) -> None:
    check_bytes("silver.t", [file])
    other = tmp_path / new_name(file.path)
    shutil.copyfile(file.path, other)
    assert other.name != file.path.name
    check_bytes("silver.t", [DataFile(other, 1, 5000)])


@pytest.mark.parametrize("place", [0, 2500, 4999])
def test_one_changed_bit_is_found(file: DataFile, tmp_path: Path, place: int) -> None:
    data = bytearray(file.path.read_bytes())
    data[place] ^= 1
    file.path.write_bytes(data)
    check_sizes("silver.t", [file])
    with pytest.raises(Corrupt, match=r"was changed") as caught:
        check_bytes("silver.t", [file])
    assert "headrace run --rebuild t" in str(caught.value)
    other = tmp_path / new_name(file.path)
    shutil.copyfile(file.path, other)
    with pytest.raises(Corrupt):
        check_bytes("silver.t", [DataFile(other, 1, 5000)])


def test_a_cut_and_a_lost_file_are_found_without_reading(file: DataFile) -> None:
    os.truncate(file.path, 4999)
    with pytest.raises(Corrupt, match="4,999 bytes; the table's log says 5,000"):
        check_sizes("silver.t", [file])
    file.path.unlink()
    with pytest.raises(Corrupt, match="is gone"):
        check_sizes("silver.t", [file])


def test_a_file_of_another_writer_has_no_seal_and_only_a_size(tmp_path: Path) -> None:
    path = tmp_path / "part-00000-c000.snappy.parquet"
    path.write_bytes(b"x" * 10)
    check_bytes("silver.t", [DataFile(path, 1, 10)])
    assert new_name(path).endswith(".snappy.parquet")
