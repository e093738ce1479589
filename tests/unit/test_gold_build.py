from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest

from headrace.errors import Busy, ConfigError, MissingExtra
from headrace.gold.dbt import build


def nothing(path: Path) -> None:
    """Publishes no table at all."""
    import duckdb

    with duckdb.connect(str(path)) as con:
        con.execute("create schema silver")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = tmp_path / "dbt"
    (made / "models").mkdir(parents=True)
    (made / "dbt_project.yml").write_text(
        "name: tiny\nversion: '1.0.0'\nprofile: tiny\nmodel-paths: [models]\n"
    )
    (made / "models" / "one.sql").write_text("{{ config(materialized='table') }} select 1 as x")
    return made


def test_a_folder_without_a_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dbt_project\.yml is missing") as caught:
        build(tmp_path, tmp_path / "gold.duckdb", nothing)
    assert "gold.dbt" in (caught.value.hint or "")


def test_a_project_without_a_profile_name_is_refused(project: Path, tmp_path: Path) -> None:
    (project / "dbt_project.yml").write_text("name: tiny\n")
    with pytest.raises(ConfigError, match="cannot read `profile`"):
        build(project, tmp_path / "gold.duckdb", nothing)


def test_without_dbt_the_error_names_the_extra(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dbt.cli.main", None)
    with pytest.raises(MissingExtra) as caught:
        build(project, tmp_path / "gold.duckdb", nothing)
    assert caught.value.hint == "pip install 'headrace[gold]'"
    assert not (tmp_path / "gold.duckdb").exists()


def test_two_builds_of_one_file_do_not_mix(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".gold-build"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another process"):
            build(project, tmp_path / "gold.duckdb", nothing)


def test_a_project_that_cannot_be_parsed_says_where(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("dbt.adapters.duckdb")
    (project / "models" / "one.sql").write_text("select * from {{ ref('nowhere') }}")
    with pytest.raises(ConfigError, match="nowhere") as caught:
        build(project, tmp_path / "gold.duckdb", nothing)
    assert str(project) in str(caught.value)
    assert not (tmp_path / "gold.duckdb").exists()


def test_a_failing_model_is_a_result_and_what_hangs_on_it_is_skipped(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("dbt.adapters.duckdb")
    database = tmp_path / "gold.duckdb"
    first = build(project, database, nothing)
    assert [(n.name, n.kind, n.status, n.rows) for n in first.nodes] == [("one", "model", "success", 1)]
    before = database.read_bytes()
    (project / "models" / "one.sql").write_text("{{ config(materialized='table') }} select 1 / 'a' as x")
    (project / "models" / "two.sql").write_text("select x from {{ ref('one') }}")
    result = build(project, database, nothing)
    assert not result.passed
    assert [(n.name, n.status) for n in result.nodes] == [("one", "error"), ("two", "skipped")]
    assert "Conversion Error" in result.nodes[0].message
    assert database.read_bytes() == before


def test_views_over_tables_of_gold_stay(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("dbt.adapters.duckdb")
    import duckdb

    (project / "models" / "two.sql").write_text("select x + 1 as y from {{ ref('one') }}")
    database = tmp_path / "gold.duckdb"
    assert build(project, database, nothing).passed
    with duckdb.connect(str(database), read_only=True) as con:
        assert con.execute("select y from two").fetchall() == [(2,)]


def test_what_a_killed_build_left_is_swept(project: Path, tmp_path: Path) -> None:
    pytest.importorskip("dbt.adapters.duckdb")
    folder = tmp_path / ".gold-build"
    folder.mkdir()
    for name in ("gold.duckdb", "gold.duckdb.wal", "headrace_silver.duckdb", "headrace_silver.duckdb.wal"):
        (folder / name).write_bytes(b"half written")
    assert build(project, tmp_path / "gold.duckdb", nothing).passed
    assert not list(folder.glob("*.duckdb*"))


def test_a_gold_file_that_somebody_writes_is_left_alone(project: Path, tmp_path: Path) -> None:
    database = tmp_path / "gold.duckdb"
    database.write_bytes(b"theirs")
    database.with_name("gold.duckdb.wal").write_bytes(b"theirs too")
    with pytest.raises(Busy, match="another program writes it"):
        build(project, database, nothing)
    assert database.read_bytes() == b"theirs"
