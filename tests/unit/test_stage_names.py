"""Whatever a header or a column is called, its values land in a column of their own."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from headrace.core import RawInput, TableAt, Write
from headrace.engines.duckdb import DuckEngine
from headrace.errors import ConfigError
from headrace.spec.pipeline import TableSpec
from headrace.sql import compile_table
from headrace.testing.engine import run
from tests.staging import landed

INNER = (
    "k", "j", "f", "h", "l", "s", "o", "n", "t", "id", "row", "x0", "c0", "verdict", "fields", "rules", 
    "place", "name", "path", "filename", "source", "delta",
)  # fmt: skip
PLACES = ("rowid", "file_index", "FILE_ROW_NUMBER", "RowId")


def spec(columns: dict[str, object]) -> TableSpec:
    keyed = {"from": "s", "keys": ["key"], "latest_by": ["at"]}
    return TableSpec.model_validate({**keyed, "contract": {"columns": {"key": {}, "at": {}, **columns}}})


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("evolve", [False, True])
@pytest.mark.parametrize("large", [0, 1 << 40])
def test_names_that_the_engine_uses_itself_are_columns_like_others(tmp_path: Path, kind, evolve, large):
    names = [*INNER, *PLACES[:3]] if evolve else list(INNER)
    step = compile_table("t", spec({} if evolve else {c: {} for c in INNER}), names if evolve else ())
    shown = [c for c in step.columns if c not in ("key", "at")]

    def file(tag: str, rows: list[list[str]]) -> Path:
        path = tmp_path / f"{tag}.{kind}"
        records = [{"key": key, "at": at, **{n: f"{n} {at}" for n in names}} for key, at in rows]
        if kind == "csv":
            lines = [",".join(records[0]), *(",".join(r.values()) for r in records)]
        else:
            lines = [json.dumps(r) for r in records]
        path.write_text("\n".join(lines) + "\n")
        return path

    with DuckEngine(tmp_path / "scratch", "500MB", 2) as engine:
        engine.large = large
        table = TableAt("t", 0, [], {})
        for epoch, rows in enumerate(([["a", "1"], ["b", "1"], ["b", "2"]], [["a", "3"], ["c", "1"]])):
            how = {"header": True} if kind == "csv" else {}
            raw = RawInput("s", [landed(file(str(epoch), rows), **how)])
            outcome = run(engine, step, [raw], table)
            assert (outcome.read, outcome.quarantined) == (len(rows), 0)
            write = Write("t", "merge", ["key"], ["at"])
            change = engine.rewrite(table, write, outcome.frames["rows"], tmp_path / f"table{epoch}")
            left = [f for f in table.files if f not in change.remove]
            table = TableAt("t", epoch, [*left, *change.add], change.columns)
    columns = ", ".join(f'"{c}"' for c in ("key", *shown))
    files = [str(f.path) for f in table.files]
    found = duckdb.execute(f"SELECT {columns} FROM read_parquet(?) ORDER BY key", [files]).fetchall()
    assert found == [(key, *(f"{n} {at}" for n in names)) for key, at in (("a", "3"), ("b", "2"), ("c", "1"))]


@pytest.mark.parametrize("name", PLACES)
def test_a_contract_does_not_name_a_column_like_the_place_of_a_row(name):
    with pytest.raises(ConfigError, match=f"column `{name}` has the name") as refused:
        compile_table("t", spec({name: {}}))
    assert f"from: {name}" in str(refused.value)
    assert list(compile_table("t", spec({"other": {"from": name}})).columns) == ["key", "at", "other"]
