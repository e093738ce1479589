"""The sinks of external targets hold what `check_sink` asks, and the checks find sinks that do not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from services import Database

from headrace.core import Commit, Frame, Write
from headrace.engines.duckdb.engine import DuckEngine
from headrace.errors import Fenced
from headrace.sinks import duckdb_file, postgres, postgres_write
from headrace.sinks.duckdb_file import DuckDB
from headrace.sinks.postgres import Postgres
from headrace.testing import sink as checks
from headrace.testing.sink import Bench, Row, check_sink

SCHEMA = pa.schema([("id", pa.int64()), ("seq", pa.int64()), ("text", pa.string())])
Make = Callable[[], Bench]
_numbers = itertools.count(1)


def frame(rows: Sequence[Row]) -> Frame:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckEngine]:
    with ExitStack() as stack:
        yield stack.enter_context(DuckEngine(tmp_path / "scratch"))


@pytest.fixture
def in_postgres(engine: DuckEngine, database: Database) -> Make:
    def make() -> Bench:
        schema = f"bench_{next(_numbers)}"
        target = Postgres(name="t", url=database.dsn, schema=schema, timeout=5)

        def rows(table: str) -> list[Row]:
            there = database.sql(f"select to_regclass('{schema}.{table}') is not null")[0][0]
            return database.sql(f"select id, seq, text from {schema}.{table}") if there else []

        return Bench(lambda: target.sink(engine), frame, rows)

    return make


@pytest.fixture
def in_duckdb(engine: DuckEngine, tmp_path: Path) -> Make:
    def make() -> Bench:
        target = DuckDB(name="t", root=tmp_path, path=f"{next(_numbers)}.duckdb")

        def rows(table: str) -> list[Row]:
            with duckdb.connect(str(target.file)) as con:
                there = con.execute("select 1 from duckdb_tables() where table_name = ?", [table]).fetchall()
                return con.execute(f"select id, seq, text from {table}").fetchall() if there else []

        return Bench(lambda: target.sink(engine), frame, rows)

    return make


def test_the_postgres_sink_conforms(in_postgres: Make) -> None:
    check_sink(in_postgres)


def test_the_duckdb_sink_conforms(in_duckdb: Make) -> None:
    check_sink(in_duckdb)


def _whatever(_: str, commit: Commit, __: str, epoch: int, ___: str) -> bool:
    """A mutant that goes on top of whatever is there, as one that opens the table by its name does."""
    return epoch != commit.next


def _always(*_: object) -> bool:
    """A mutant that never looks."""
    return True


@pytest.mark.parametrize("mutant", [_whatever, _always])
@pytest.mark.parametrize("where", ["in_postgres", "in_duckdb"])
def test_a_careless_sink_is_found(
    where: str, mutant: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (postgres, duckdb_file):
        monkeypatch.setattr(module, "due", mutant)
    with pytest.raises(AssertionError):
        check_sink(request.getfixturevalue(where))


@pytest.mark.parametrize("where", ["in_postgres", "in_duckdb"])
def test_a_sink_that_forgets_its_epoch_is_found(
    where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres.PostgresWriter, "_move", lambda *_: None)
    monkeypatch.setattr(duckdb_file.DuckDBWriter, "_move", lambda *_: None)
    with pytest.raises((AssertionError, Fenced)):  # it refuses its own next commit
        check_sink(request.getfixturevalue(where))


def test_merges_that_append_are_found(
    in_postgres: Make, in_duckdb: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled, apply = postgres_write.filled, duckdb_file.DuckDBWriter._apply

    def careless(write: Write) -> Write:
        return replace(write, mode="append")

    monkeypatch.setattr(
        postgres_write,
        "filled",
        lambda con, target, load, place: filled(
            con, target, replace(load, write=careless(load.write)), place
        ),
    )
    monkeypatch.setattr(
        duckdb_file.DuckDBWriter,
        "_apply",
        lambda self, con, write, *rest: apply(self, con, careless(write), *rest),
    )
    for make in (in_postgres, in_duckdb):
        with pytest.raises(AssertionError):
            checks.check_merge_keeps_the_highest(make())
