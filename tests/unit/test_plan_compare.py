"""Two versions of a table compared in SQL, against the same comparison in Python."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core import DataFile, TableAt
from headrace.engines.duckdb import DuckEngine
from headrace.run.compare import Comparison, compare

Row = tuple[int | None, str | None]
COLUMNS = {"k": "integer", "v": "text", "_file": "text"}


def written(folder: Path, name: str, rows: Sequence[Sequence[Any]], columns: Mapping[str, str]) -> DataFile:
    path = folder / f"{name}.parquet"
    con = duckdb.connect()
    types = ", ".join(f'"{c}" {"varchar" if kind == "text" else kind}' for c, kind in columns.items())
    con.execute(f"create table t ({types})")
    if rows:
        con.executemany(
            f"insert into t values ({', '.join('?' * len(columns))})", [list(row) for row in rows]
        )
    con.execute(f"copy t to '{path}' (format parquet)")
    return DataFile(path, len(rows), path.stat().st_size)


def table(
    folder: Path, *files: tuple[str, Sequence[Sequence[Any]]], columns: Mapping[str, str] = COLUMNS
) -> TableAt:
    return TableAt("silver.t", 0, [written(folder, name, rows, columns) for name, rows in files], columns)


def told(old: TableAt, new: TableAt, keys: Sequence[str] = ("k",)) -> Comparison:
    return compare(DuckEngine.query, old, new, keys)


KEYED = st.dictionaries(st.one_of(st.none(), st.integers(0, 5)), st.one_of(st.none(), st.sampled_from("ab")))


@settings(max_examples=25)
@given(KEYED, KEYED, KEYED)
def test_keyed_versions_compare_as_dictionaries_do(
    shared: dict[int | None, str | None], old: dict[int | None, str | None], new: dict[int | None, str | None]
) -> None:
    old = {k: v for k, v in old.items() if k not in shared}
    new = {k: v for k, v in new.items() if k not in shared}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        same = written(folder, "shared", [(k, v, "s") for k, v in shared.items()], COLUMNS)
        before = written(folder, "old", [(k, v, "o") for k, v in old.items()], COLUMNS)
        after = written(folder, "new", [(k, v, "n") for k, v in new.items()], COLUMNS)
        found = told(
            TableAt("silver.t", 0, [same, before], COLUMNS), TableAt("silver.t", 1, [same, after], COLUMNS)
        )
    changed = [k for k in old if k in new and old[k] != new[k]]
    assert (found.added, found.removed) == (len(set(new) - set(old)), len(set(old) - set(new)))
    assert found.changed == len(changed)
    assert dict(found.columns) == ({"v": len(changed)} if changed else {})
    assert (found.rows_before, found.rows_after) == (len(shared) + len(old), len(shared) + len(new))
    assert dict(found.files) == ({"n": found.added + found.changed} if found.added + found.changed else {})


@settings(max_examples=25)
@given(*[st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab")), max_size=8)] * 2)
def test_versions_without_a_key_compare_as_bags_do(old: list[Row], new: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = told(
            table(folder, ("old", [(*row, "o") for row in old])),
            table(folder, ("new", [(*row, "n") for row in new])),
            (),
        )
    assert found.added == (Counter(new) - Counter(old)).total()
    assert found.removed == (Counter(old) - Counter(new)).total()
    assert found.changed == 0


def test_a_wider_type_alone_is_no_other_value(tmp_path: Path) -> None:
    old = table(tmp_path, ("old", [(1, "1.50")]), columns={"k": "integer", "n": "decimal(10,2)"})
    new = table(tmp_path, ("new", [(1, "1.5000")]), columns={"k": "bigint", "n": "decimal(14,4)"})
    assert not told(old, new).differs
    text = table(tmp_path, ("text", [(1, "1.5")]), columns={"k": "integer", "n": "text"})
    assert told(old, text).changed == 1


def test_examples_show_the_key_and_what_differs(tmp_path: Path) -> None:
    old = table(tmp_path, ("old", [(n, "a", "o") for n in range(9)]))
    new = table(tmp_path, ("new", [(n, "b" if n % 2 else "a", "n") for n in range(10)]))
    found = compare(DuckEngine.query, old, new, ["k"], 2)
    assert [(item.kind, item.key["k"], dict(item.values)) for item in found.examples] == [
        ("added", 9, {"v": (None, "b")}),
        ("changed", 1, {"v": ("a", "b")}),
        ("changed", 3, {"v": ("a", "b")}),
    ]


def test_a_table_that_was_not_there_has_only_new_rows(tmp_path: Path) -> None:
    found = told(TableAt("silver.t", -1, (), {}), table(tmp_path, ("new", [(1, "a", "n")])))
    assert (found.added, found.removed, found.changed, found.rows_before) == (1, 0, 0, 0)


def test_deleted_keys_are_removed_rows(tmp_path: Path) -> None:
    columns = {"k": "integer", "v": "text", "_deleted": "boolean"}
    old = table(tmp_path, ("old", [(1, "a", False), (2, "b", False)]), columns=columns)
    new = table(tmp_path, ("new", [(1, "a", False), (2, "b", True)]), columns=columns)
    found = told(old, new)
    assert (found.removed, found.rows_before, found.rows_after) == (1, 2, 1)
