"""A data file that is lost or cut is told before anything is appended beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.projects import PIPELINE, day, go, make, put

APPEND = "\n".join(
    line for line in PIPELINE.splitlines() if not line.strip().startswith(("keys:", "latest_by:", "history:"))
)


@pytest.mark.parametrize(
    ("hurt", "says"), [(os.remove, "is gone"), (lambda p: os.truncate(p, 99), "has 99 bytes")]
)
def test_an_increment_names_the_file_and_appends_nothing(tmp_path: Path, hurt: object, says: str) -> None:
    make(tmp_path, {"a.csv": day(1)}, APPEND)
    assert go(tmp_path).status == "success"
    (file,) = (tmp_path / "lake/silver/orders").glob("*.parquet")
    hurt(file)  # type: ignore[operator]
    put(tmp_path, "b.csv", day(2))
    report = go(tmp_path)
    assert report.status == "failed"
    assert f"{file} {says}" in str(report.tables[0].error)
    assert report.tables[0].error_type == "Corrupt"
    assert len(list((tmp_path / "lake/silver/orders/_delta_log").glob("*.json"))) == 1
