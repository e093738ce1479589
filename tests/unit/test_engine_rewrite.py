"""Copy-on-write: counts, pruning, evolution, tombstones, partitions, against a model in plain Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.core import Rewrite, TableAt, Write
from headrace.engines.duckdb import DuckEngine
from headrace.engines.duckdb.frame import DuckFrame, table_sql
from headrace.errors import ConfigError, DataError

COLUMNS = {"id": "integer", "v": "text", "seq": "integer"}
MERGE = Write("t", "merge", ["id"], ["seq"])
NATIVE = {"integer": "INTEGER", "bigint": "BIGINT", "text": "VARCHAR", "boolean": "BOOLEAN", "date": "DATE"}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[DuckEngine]:
    with DuckEngine(tmp_path / "scratch", memory="500MB", threads=2) as made:
        yield made


def frame_of(
    engine: DuckEngine, rows: Sequence[Sequence[Any]], columns: dict[str, str] | None = None
) -> DuckFrame:
    columns = columns or COLUMNS

    def literal(value: Any, kind: str) -> str:
        native = NATIVE.get(kind, kind)
        return f"NULL::{native}" if value is None else f"'{value}'::{native}"

    selects = [
        "SELECT "
        + ", ".join(f"{literal(v, k)} AS {n}" for v, (n, k) in zip(row, columns.items(), strict=True))
        for row in rows
    ]
    empty = (
        "SELECT " + ", ".join(f"NULL::{NATIVE.get(k, k)} AS {n}" for n, k in columns.items()) + " WHERE false"
    )
    return DuckFrame(engine.session, " UNION ALL ".join([*selects, empty]), columns, len(rows))


def rows_of(engine: DuckEngine, table: TableAt) -> list[tuple[Any, ...]]:
    return sorted(engine.session.con.execute(table_sql(table)).fetchall(), key=repr)


def after(table: TableAt, change: Rewrite, partition_by: Sequence[str] = ()) -> TableAt:
    gone = {file.path for file in change.remove}
    files = [file for file in table.files if file.path not in gone] + list(change.add)
    return TableAt(table.table, table.version + 1, files, change.columns, tuple(partition_by))


EMPTY = TableAt("t", -1, [], {})


def test_merge_keeps_only_higher_sequences_and_counts_every_row(engine: DuckEngine, tmp_path: Path) -> None:
    change = engine.rewrite(
        EMPTY, MERGE, frame_of(engine, [(1, "a", 1), (2, "b", 5), (3, "c", 1)]), tmp_path / "t"
    )
    assert (change.written.inserted, len(change.add), list(change.remove)) == (3, 1, [])
    table = after(EMPTY, change)
    new = frame_of(engine, [(1, "a2", 2), (2, "late", 4), (3, "c", 1), (4, "d", 1)])
    change = engine.rewrite(table, MERGE, new, tmp_path / "t")
    written = change.written
    assert (written.inserted, written.updated, written.unchanged, written.stale) == (1, 1, 1, 1)
    assert rows_of(engine, after(table, change)) == [(1, "a2", 2), (2, "b", 5), (3, "c", 1), (4, "d", 1)]
    assert [file.path for file in change.remove] == [file.path for file in table.files]


def test_a_pure_insert_leaves_old_files_alone(engine: DuckEngine, tmp_path: Path) -> None:
    table = after(EMPTY, engine.rewrite(EMPTY, MERGE, frame_of(engine, [(1, "a", 1)]), tmp_path / "t"))
    change = engine.rewrite(table, MERGE, frame_of(engine, [(2, "b", 1), (0, "z", 1)]), tmp_path / "t")
    assert list(change.remove) == []
    assert sum(file.rows for file in change.add) == 2


def test_nothing_new_writes_nothing(engine: DuckEngine, tmp_path: Path) -> None:
    table = after(EMPTY, engine.rewrite(EMPTY, MERGE, frame_of(engine, [(1, "a", 1)]), tmp_path / "t"))
    change = engine.rewrite(table, MERGE, frame_of(engine, [(1, "a", 1)]), tmp_path / "t")
    assert (list(change.add), list(change.remove), change.written.unchanged) == ([], [], 1)
    assert len(list((tmp_path / "t").rglob("*.parquet"))) == 1
    assert engine.rewrite(table, MERGE, frame_of(engine, []), tmp_path / "t").add == []


def test_an_empty_first_load_has_columns_and_no_files(engine: DuckEngine, tmp_path: Path) -> None:
    change = engine.rewrite(EMPTY, MERGE, frame_of(engine, []), tmp_path / "t")
    assert (list(change.add), change.columns) == ([], COLUMNS)
    assert not list((tmp_path / "t").rglob("*.parquet"))


@given(
    batches=st.lists(
        st.dictionaries(
            st.one_of(st.none(), st.integers(0, 5)),
            st.tuples(st.sampled_from(["a", "b", None]), st.one_of(st.none(), st.integers(0, 3))),
            max_size=6,
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_merges_equal_a_model_in_any_order(
    engine: DuckEngine, tmp_path_factory: pytest.TempPathFactory, batches: list[dict[Any, tuple[Any, Any]]]
) -> None:
    def rank(value: tuple[Any, Any]) -> tuple[Any, ...]:
        text, seq = value
        return (seq is not None, seq or 0, text is not None, text or "")

    model: dict[Any, tuple[Any, Any]] = {}
    for batch in batches:
        for key, value in batch.items():
            if key not in model or rank(value) > rank(model[key]):
                model[key] = value
    for order in (batches, batches[::-1]):
        into, table = tmp_path_factory.mktemp("t"), EMPTY
        for batch in order:
            rows = [(key, text, seq) for key, (text, seq) in batch.items()]
            change = engine.rewrite(table, MERGE, frame_of(engine, rows), into)
            written = change.written
            counted = written.inserted + written.updated + written.unchanged + written.stale + written.deleted
            assert counted == len(rows)
            table = after(table, change)
        assert rows_of(engine, table) == sorted(((k, t, s) for k, (t, s) in model.items()), key=repr)


def test_two_rows_of_one_key_are_refused(engine: DuckEngine, tmp_path: Path) -> None:
    twins = frame_of(engine, [(1, "a", 1), (1, "b", 2)])
    with pytest.raises(DataError, match="have the key id=1"):
        engine.rewrite(EMPTY, MERGE, twins, tmp_path / "t")


def test_tombstones_stay_and_win_over_what_is_older(engine: DuckEngine, tmp_path: Path) -> None:
    columns = COLUMNS | {"_deleted": "boolean"}
    write = replace(MERGE, delete_when="_deleted")
    first = frame_of(engine, [(1, "a", 1, False), (2, "b", 1, True)], columns)
    change = engine.rewrite(EMPTY, write, first, tmp_path / "t")
    assert (change.written.inserted, change.written.deleted) == (1, 1)
    table = after(EMPTY, change)
    second = frame_of(engine, [(1, "a", 2, True), (2, "b", 0, False), (3, "c", 1, True)], columns)
    change = engine.rewrite(table, write, second, tmp_path / "t")
    assert (change.written.deleted, change.written.stale, change.written.updated) == (2, 1, 0)
    assert rows_of(engine, after(table, change)) == [(1, "a", 2, True), (2, "b", 1, True), (3, "c", 1, True)]


def test_of_two_versions_alike_the_deletion_stays(engine: DuckEngine, tmp_path: Path) -> None:
    columns = COLUMNS | {"_deleted": "boolean"}
    write = replace(MERGE, delete_when="_deleted")
    for first, second in ((True, False), (False, True)):
        into = tmp_path / str(first)
        table = after(
            EMPTY, engine.rewrite(EMPTY, write, frame_of(engine, [(1, "a", 1, first)], columns), into)
        )
        change = engine.rewrite(table, write, frame_of(engine, [(1, "b", 1, second)], columns), into)
        assert rows_of(engine, after(table, change))[0][3] is True


def test_partitions_have_typed_values_and_rows_move_between_them(engine: DuckEngine, tmp_path: Path) -> None:
    columns = COLUMNS | {"day": "date", "p q": "text"}
    columns = {"id": "integer", "v": "text", "seq": "integer", "day": "date"}
    write = replace(MERGE, partition_by=["day"])
    rows = [(1, "a", 1, "2020-01-01"), (2, "b", 1, "2020-01-02"), (3, "c", 1, None)]
    change = engine.rewrite(EMPTY, write, frame_of(engine, rows, columns), tmp_path / "t")
    assert sorted((str(f.partition["day"]), f.rows) for f in change.add) == [
        ("2020-01-01", 1),
        ("2020-01-02", 1),
        ("None", 1),
    ]
    assert all("day" not in file.low for file in change.add)
    table = after(EMPTY, change, ["day"])
    change = engine.rewrite(
        table, write, frame_of(engine, [(1, "a", 2, "2020-01-02")], columns), tmp_path / "t"
    )
    assert [file.partition["day"] for file in change.remove] == ["2020-01-01"]
    table = after(table, change, ["day"])
    assert [row[:3] for row in rows_of(engine, table)] == [(1, "a", 2), (2, "b", 1), (3, "c", 1)]


def test_only_files_that_may_hold_a_key_are_read(engine: DuckEngine, tmp_path: Path) -> None:
    table = EMPTY
    for start in (0, 100, 200):
        rows = [(start + i, "x", 1) for i in range(5)]
        table = after(table, engine.rewrite(table, MERGE, frame_of(engine, rows), tmp_path / "t"))
    for file in table.files:
        if file.low["id"] != 100:
            file.path.write_bytes(b"not to be opened")
    change = engine.rewrite(table, MERGE, frame_of(engine, [(102, "y", 2), (99, "new", 1)]), tmp_path / "t")
    assert (change.written.updated, change.written.inserted) == (1, 1)
    assert [file.low["id"] for file in change.remove] == [100]


def test_new_columns_come_in_and_old_rows_have_nulls(engine: DuckEngine, tmp_path: Path) -> None:
    table = after(
        EMPTY, engine.rewrite(EMPTY, MERGE, frame_of(engine, [(1, "a", 1), (2, "b", 1)]), tmp_path / "t")
    )
    wide = frame_of(engine, [(1, "a", 2, "x"), (3, "c", 1, "y")], COLUMNS | {"extra": "text"})
    change = engine.rewrite(table, MERGE, wide, tmp_path / "t")
    assert list(change.columns) == ["id", "v", "seq", "extra"]
    table = after(table, change)
    expected = [(1, "a", 2, "x"), (2, "b", 1, None), (3, "c", 1, "y")]
    assert rows_of(engine, table) == expected
    change = engine.rewrite(table, MERGE, frame_of(engine, [(4, "d", 1)]), tmp_path / "t")
    assert rows_of(engine, after(table, change)) == [*expected, (4, "d", 1, None)]


def test_a_wider_type_rewrites_all_files(engine: DuckEngine, tmp_path: Path) -> None:
    table = EMPTY
    for key in (1, 500):
        table = after(table, engine.rewrite(table, MERGE, frame_of(engine, [(key, "a", 1)]), tmp_path / "t"))
    wide = frame_of(engine, [(2**40, "b", 1)], COLUMNS | {"id": "bigint"})
    change = engine.rewrite(table, MERGE, wide, tmp_path / "t")
    assert change.columns["id"] == "bigint"
    assert len(change.remove) == 2
    assert change.written.inserted == 1
    assert [row[0] for row in rows_of(engine, after(table, change))] == [1, 2**40, 500]


def test_types_that_no_type_holds_are_refused(engine: DuckEngine, tmp_path: Path) -> None:
    table = after(EMPTY, engine.rewrite(EMPTY, MERGE, frame_of(engine, [(1, "a", 1)]), tmp_path / "t"))
    odd = frame_of(engine, [(1, "a", "2020-01-01")], COLUMNS | {"seq": "date"})
    with pytest.raises(ConfigError, match="no type holds both"):
        engine.rewrite(table, MERGE, odd, tmp_path / "t")


def test_replace_removes_what_was_there_unless_it_is_the_same(engine: DuckEngine, tmp_path: Path) -> None:
    write = Write("t", "replace")
    rows = [(1, "a", 1), (1, "a", 1), (2, None, 1)]
    table = after(EMPTY, engine.rewrite(EMPTY, write, frame_of(engine, rows), tmp_path / "t"))
    change = engine.rewrite(table, write, frame_of(engine, rows[::-1]), tmp_path / "t")
    assert (change.written.unchanged, change.written.removed, list(change.add)) == (3, 0, [])
    assert len(list((tmp_path / "t").rglob("*.parquet"))) == 1
    change = engine.rewrite(
        table, write, frame_of(engine, [(1, "a", 1), (2, None, 1), (2, None, 1)]), tmp_path / "t"
    )
    assert (change.written.inserted, change.written.removed, len(change.remove)) == (3, 3, 1)


def test_rows_without_a_sequence_follow_the_order_in_which_they_landed(
    engine: DuckEngine, tmp_path: Path
) -> None:
    columns = {"id": "integer", "v": "text", "_source": "text", "_file": "text", "_line": "bigint"}
    columns |= {"_epoch": "bigint", "_ingested_at": "timestamp"}
    write = Write("t", "merge", ["id"])

    def landed(v: str, at: str, line: int = 1) -> DuckFrame:
        sql = (
            f"SELECT 1::INTEGER AS id, '{v}' AS v, 's' AS _source, 'f' AS _file, {line}::BIGINT AS _line, "
            f"1::BIGINT AS _epoch, '{at}'::TIMESTAMPTZ AS _ingested_at"
        )
        return DuckFrame(engine.session, sql, columns, 1)

    table = after(EMPTY, engine.rewrite(EMPTY, write, landed("a", "2020-01-02 00:00:00+00"), tmp_path / "t"))
    for frame, expected in (
        (landed("a", "2020-01-03 00:00:00+00"), "unchanged"),
        (landed("b", "2020-01-03 00:00:00+00"), "updated"),
        (landed("c", "2020-01-01 00:00:00+00"), "stale"),
        (landed("d", "2020-01-02 00:00:00+00", 2), "updated"),
    ):
        assert getattr(engine.rewrite(table, write, frame, tmp_path / "t").written, expected) == 1, expected


def test_frames_of_other_libraries_merge(engine: DuckEngine, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    table = after(EMPTY, engine.rewrite(EMPTY, MERGE, frame_of(engine, [(1, "a", 1)]), tmp_path / "t"))
    frame = polars.DataFrame(
        {"id": [1, 2], "v": ["b", "c"], "seq": [2, 1]}, schema_overrides={"id": polars.Int32}
    )
    change = engine.rewrite(table, MERGE, frame, tmp_path / "t")
    assert (change.written.updated, change.written.inserted, change.columns["seq"]) == (1, 1, "bigint")
    assert rows_of(engine, after(table, change)) == [(1, "b", 2), (2, "c", 1)]


def test_a_frame_without_a_key_column_is_refused(engine: DuckEngine, tmp_path: Path) -> None:
    frame = frame_of(engine, [("a", 1)], {"v": "text", "seq": "integer"})
    with pytest.raises(ConfigError, match="no column `id`"):
        engine.rewrite(EMPTY, MERGE, frame, tmp_path / "t")
