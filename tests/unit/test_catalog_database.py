"""The catalog's file: made and migrated without a word, replaced when broken, refused when too new."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from headrace.catalog import Catalog, migrate
from headrace.catalog import database as database_module
from headrace.catalog.database import Database
from headrace.catalog.migrate import downgrade, settings, upgrade
from headrace.catalog.schema import METADATA, REVISION, VERSION
from headrace.errors import Busy, ConfigError, MissingExtra, SystemFault


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.db"


def _differences(connection: sa.Connection) -> list[object]:
    options = {"compare_type": True, "version_table": VERSION.name}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), METADATA))


def _empty(path: Path) -> sa.Engine:
    return sa.create_engine(f"sqlite:///{path}")


def test_migrations_and_metadata_agree(path: Path) -> None:
    with _empty(path).begin() as connection:
        upgrade(connection)
        assert _differences(connection) == []
        assert connection.execute(sa.select(VERSION.c.version_num)).scalars().all() == [REVISION]
        heads = ScriptDirectory.from_config(settings(connection)).get_heads()
        assert heads == [REVISION]


def test_the_comparison_can_fail(path: Path) -> None:
    with _empty(path).begin() as connection:
        upgrade(connection)
        connection.exec_driver_sql("ALTER TABLE ledger ADD COLUMN stray TEXT")
        connection.exec_driver_sql("DROP INDEX ix_pipeline_runs_start_time")
        assert len(_differences(connection)) == 2


def _shape(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        columns = [(t, *row[1:]) for t in tables for row in connection.execute(f"PRAGMA table_info({t})")]
        return sorted((*row[:2], str(row[2]), row[3], row[5]) for row in columns)


def test_a_fresh_catalog_equals_a_migrated_one(path: Path, tmp_path: Path) -> None:
    Catalog.open(path).close()
    with _empty(tmp_path / "migrated.db").begin() as connection:
        upgrade(connection)
    assert _shape(path) == _shape(tmp_path / "migrated.db")


def test_down_and_up_again(path: Path) -> None:
    with _empty(path).begin() as connection:
        upgrade(connection)
        downgrade(connection, "base")
        assert sa.inspect(connection).get_table_names() == [VERSION.name]
        upgrade(connection)
        assert _differences(connection) == []


_NEXT = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "9998", "REVISION"
def upgrade():
    op.add_column("pipeline_runs", sa.Column("colour", sa.Text))
def downgrade():
    op.drop_column("pipeline_runs", "colour")
"""


def test_an_older_schema_is_brought_up_to_date_with_its_rows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Catalog.open(path) as catalog:
        run = catalog.start_run("sales")
    migrations = tmp_path / "migrations"
    shutil.copytree(Path(migrate.__file__).parent / "migrations", migrations)
    (migrations / "versions" / "r9998_next.py").write_text(_NEXT.replace("REVISION", REVISION))

    def with_next(connection: sa.Connection) -> Config:
        config = settings(connection)
        config.set_main_option("script_location", str(migrations))
        return config

    monkeypatch.setattr(migrate, "settings", with_next)
    monkeypatch.setattr(database_module, "REVISION", "9998")
    with Catalog.open(path) as catalog:
        assert catalog.runs() == [run]
        with catalog.database.engine.begin() as connection:
            assert connection.execute(sa.select(VERSION.c.version_num)).scalars().all() == ["9998"]
            assert connection.exec_driver_sql("SELECT colour FROM pipeline_runs").scalars().all() == [None]


def test_a_newer_schema_is_refused(path: Path) -> None:
    Catalog.open(path).close()
    with _empty(path).begin() as connection:
        connection.execute(VERSION.update(), {"version_num": "9999"})
    with pytest.raises(ConfigError, match=f"schema 9999; this Headrace knows up to {REVISION}") as caught:
        Catalog.open(path)
    assert "upgrade Headrace" in str(caught.value)
    with _empty(path).begin() as connection:
        assert connection.execute(sa.select(VERSION.c.version_num)).scalar() == "9999"


def test_opening_imports_no_alembic(path: Path) -> None:
    code = (
        "import sys; from headrace.catalog import models; assert 'sqlalchemy' not in sys.modules\n"
        f"from headrace.catalog import Catalog; Catalog.open({str(path)!r}).start_run('x')\n"
        "print('alembic' in sys.modules)"
    )
    for _ in ("made", "opened"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


def _rubbish(path: Path) -> None:
    path.write_bytes(b"this is no database at all, but long enough to look at. " * 200)


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5000)


def _scribbled(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(path.stat().st_size - 100))


@pytest.mark.parametrize("harm", [_rubbish, _cut, _scribbled])
def test_a_broken_file_is_moved_aside(path: Path, harm: Callable[[Path], None]) -> None:
    with Catalog.open(path) as catalog:
        catalog.start_run("old")
    harm(path)
    with pytest.warns(UserWarning, match=r"moved to catalog\.db\.broken-"):
        Catalog.open(path).close()
    with Catalog.open(path) as catalog:
        catalog.start_run("sales")
        assert [run.pipeline_name for run in catalog.runs()] == ["sales"]
    assert len(list(path.parent.glob("catalog.db.broken-*"))) >= 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Catalog.open(path) as catalog:
            assert len(catalog.runs()) == 1


def test_a_file_without_its_tables_is_moved_aside_when_they_are_missed(path: Path) -> None:
    with Catalog.open(path) as catalog:
        with catalog.database.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE pipeline_runs")
        with pytest.warns(UserWarning, match="no such table: pipeline_runs"):
            catalog.start_run("sales")
        assert len(catalog.runs()) == 1


def test_an_empty_file_is_a_new_catalog(path: Path) -> None:
    path.touch()
    with Catalog.open(path) as catalog:
        assert catalog.runs() == []


@pytest.mark.parametrize("folder", [False, True])
def test_a_catalog_deleted_under_us_is_begun_anew(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "state" / "catalog.db"
    with Catalog.open(path) as catalog:
        run = catalog.start_run("sales")
        for file in path.parent.iterdir():
            file.unlink()
        if folder:
            path.parent.rmdir()
        catalog.finish_run(run, "success")
        with Catalog.open(path) as other:
            assert [(one.run_id, one.status) for one in other.runs()] == [(run.run_id, "success")]
            assert other.runs() == catalog.runs()


def test_a_catalog_broken_under_us_is_begun_anew(path: Path) -> None:
    with Catalog.open(path) as catalog:
        run = catalog.start_run("sales")
        catalog.close()
        _rubbish(path)
        with pytest.warns(UserWarning, match="history of runs is lost, no data is"):
            catalog.finish_run(run, "success")
        assert [one.status for one in catalog.runs()] == ["success"]


def test_a_sound_file_is_never_moved(path: Path) -> None:
    with Catalog.open(path) as catalog:
        catalog.start_run("sales")
        catalog.database._repair("somebody else repaired it meanwhile")
        assert len(catalog.runs()) == 1
    assert not list(path.parent.glob("*.broken-*"))


def test_a_long_writer_makes_others_wait_then_busy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "WAIT", 0.1)
    with Catalog.open(path) as catalog, closing(sqlite3.connect(path, isolation_level=None)) as rival:
        rival.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy, match="locked"):
            catalog.start_run("sales")
        assert catalog.runs() == [], "readers do not wait for writers"
        rival.execute("COMMIT")
        assert catalog.start_run("sales").status == "running"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(SystemFault, match="file") as caught:
        Catalog.open(blocked / "catalog.db")
    assert "hint:" in str(caught.value)
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(SystemFault, match=r"folder\.db"):
        Catalog.open(tmp_path / "folder.db")


def test_where_nothing_may_be_written_the_catalog_is_still_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Catalog.open(path) as catalog:
        catalog.start_run("shop", run_id="r1")
    kept = path.read_bytes()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere but on a read-only disk
    with Catalog.open(path) as catalog:
        assert [run.run_id for run in catalog.runs(5)] == ["r1"]
        with pytest.raises(SystemFault, match="readonly"):
            catalog.start_run("shop")
    assert path.read_bytes() == kept
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    # what lies in an unread log would be missing: then it is opened as ever
    Path(f"{path}-wal").write_bytes(b"x")
    assert not database_module.frozen(path)


@pytest.mark.parametrize("url", ["nonsense://host/db", "sqlite://", "sqlite:///:memory:", "://"])
def test_impossible_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Catalog.open(url)
    assert "hint:" in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match="psycopg") as caught:
        Catalog.open("postgresql+psycopg://etl:hunter2@localhost/x")
    assert "hunter2" not in str(caught.value)


def test_paths_and_sqlite_urls_are_the_same(path: Path) -> None:
    with Catalog.open(str(path)) as one, Catalog.open(f"sqlite:///{path}") as other:
        one.start_run("sales")
        assert other.runs() == one.runs()
        assert Database.open(path).path == path


def test_the_statements_suit_postgresql() -> None:
    """Every table and index compiles for PostgreSQL without types of SQLite's own."""
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateIndex, CreateTable

    dialect = postgresql.dialect()
    text = "\n".join(
        str(statement.compile(dialect=dialect))
        for table in METADATA.sorted_tables
        for statement in (CreateTable(table), *(CreateIndex(index) for index in table.indexes))
    )
    assert "TIMESTAMP WITH TIME ZONE" in text
    assert "DATETIME" not in text
