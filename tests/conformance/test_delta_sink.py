"""The Delta sink holds what `check_sink` asks, and the checks find sinks that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from headrace.core import Commit, Frame, TableAt, Write
from headrace.engines.duckdb.engine import DuckEngine
from headrace.sinks.delta import DeltaSink
from headrace.store import delta
from headrace.testing import sink as checks
from headrace.testing.sink import Bench, Row, check_sink

SCHEMA = pa.schema([("id", pa.int64()), ("seq", pa.int64()), ("text", pa.string())])


def frame(rows: Sequence[Row]) -> Frame:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    with ExitStack() as stack:

        def make() -> Bench:
            number = len(list(tmp_path.iterdir()))
            root = tmp_path / f"lake{number}"
            root.mkdir()
            engine = stack.enter_context(DuckEngine(tmp_path / f"scratch{number}"))
            sink = DeltaSink(root, engine)

            def rows(table: str) -> list[Row]:
                at: TableAt = sink.table(table).snapshot("").at
                files = [str(item.path) for item in at.files]
                if not files:
                    return []
                query = "select id, seq, text from read_parquet(?)"
                return duckdb.connect().execute(query, [files]).fetchall()

            return Bench(lambda: DeltaSink(root, engine), frame, rows)

        yield make


def test_the_delta_sink_conforms(bench: Callable[[], Bench]) -> None:
    check_sink(bench)


def _by_path(self: delta.Table, change: delta.Change) -> int:
    """A mutant that reloads the table by its path before it commits, as delta-rs does by default."""
    fresh = Table_snapshot(self, change.commit.stream)
    commit = Commit(change.commit.stream, fresh.txn, change.commit.next)
    return Table_commit(self, replace(change, base=fresh, commit=commit))


def _reuses_epochs(self: delta.Table, change: delta.Change) -> int:
    """A mutant that does not record the epoch, so that every repetition is a new write."""
    commit = replace(change.commit, next=change.base.txn)
    return Table_commit(self, replace(change, commit=replace(commit, prev=change.base.txn)))


Table_snapshot = delta.Table.snapshot
Table_commit = delta.Table.commit


@pytest.mark.parametrize("mutant", [_by_path, _reuses_epochs])
def test_a_careless_sink_is_found(
    bench: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch, mutant: Callable[..., int]
) -> None:
    monkeypatch.setattr(delta.Table, "commit", mutant)
    with pytest.raises(AssertionError):
        check_sink(bench)


def test_a_merge_that_appends_is_found(bench: Callable[[], Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite = DuckEngine.rewrite

    def careless(self: DuckEngine, target: TableAt, write: Write, *rest: Any) -> Any:
        return rewrite(self, target, replace(write, mode="append"), *rest)

    monkeypatch.setattr(DuckEngine, "rewrite", careless)
    with pytest.raises(AssertionError):
        checks.check_merge_keeps_the_highest(bench())
