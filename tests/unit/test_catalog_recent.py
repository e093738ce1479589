"""The quick look at the newest runs tells exactly what the catalog tells, or nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from headrace.catalog import Catalog
from headrace.catalog.models import PipelineRun, RunMetrics
from headrace.catalog.recent import recent
from headrace.catalog.schema import REVISION
from tests.projects import day, go, make

NOON = datetime(2026, 11, 20, 12, 0, 0, 250_000, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "cata log.db"
    with Catalog.open(path) as catalog:
        for number in range(30):
            started = (NOON + timedelta(minutes=number % 7)).astimezone(timezone(timedelta(hours=5)))
            ended = None if number == 3 else started + timedelta(seconds=number)
            found = RunMetrics(records_read=number, inserted=2, seconds=0.5)
            error = "it's gone\nhint: look" if number % 4 == 0 else None
            catalog.record(
                [
                    PipelineRun(
                        f"r{number:02}", "shop", started, ended, "failed", found, "prod", error, "f", "h", 7
                    )
                ]
            )
        catalog.record([PipelineRun("other", "mill", NOON)])
    return path


@pytest.mark.parametrize("limit", [1, 5, None])
def test_it_tells_what_the_catalog_tells(path: Path, limit: int | None) -> None:
    with Catalog.open(path) as catalog:
        wanted = catalog.runs(limit, "shop")
    assert wanted
    assert recent(path, "shop", limit) == wanted
    assert recent(path, "nobody", limit) == []


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def _older(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE headrace_version SET version_num = '0001'")
        database.commit()


def _garbled(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE pipeline_runs SET metrics = '{' WHERE run_id = 'r05'")
        database.commit()


@pytest.mark.parametrize(
    "harm", [Path.unlink, lambda path: path.write_text("no database"), _cut, _older, _garbled]
)
def test_where_it_is_not_sure_it_tells_nothing(path: Path, harm: Callable[[Path], object]) -> None:
    assert recent(path, "shop", None) is not None
    harm(path)
    assert recent(path, "shop", None) is None


def test_it_knows_the_newest_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT version_num FROM headrace_version").fetchall() == [(REVISION,)]


@pytest.mark.parametrize(("command", "without"), [("status", ["sqlalchemy"]), ("run", [])])
def test_what_is_slow_to_import_is_left_out(tmp_path: Path, command: str, without: list[str]) -> None:
    """Where nothing is new, nothing has to be computed."""
    root = make(tmp_path, {"0.csv": day(0)})
    assert go(root).status == "success"
    code = (
        f"import sys; from headrace.cli import main; code = main(['{command}']);"
        f"print(code, {{'alembic', 'duckdb', 'dbt', *{without}}} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 set()", done.stdout
