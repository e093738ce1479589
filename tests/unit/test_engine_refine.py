"""Refinement: every row in one place, exact raw bytes in quarantine, one winner per key in any order."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.core import Outcome, TableAt, Write
from headrace.engines.duckdb import DuckEngine, quarantine, repeated
from headrace.engines.duckdb.masks import decrypt
from headrace.engines.duckdb.staging.parts import VECTOR
from headrace.engines.duckdb.staging.read import PIECE
from headrace.errors import ConfigError, DataError
from headrace.spec.pipeline import TableSpec
from headrace.sql import TableStep, compile_table
from headrace.testing.engine import NOW, raw_input, rows_of, run

ORDERS = """
from: [orders]
keys: [id]
latest_by: [at]
contract:
  columns:
    id: {type: integer}
    name: {clean: [trim]}
    price: {type: "decimal(12,2)", min: 0, required: true}
    at: {type: timestamp}
  rules:
    not_free: {check: "price <> 0", severity: warn}
"""
HEAD = "id,name,price,at"


@pytest.fixture(params=["in memory", "on disk"])
def engine(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DuckEngine]:
    """An engine that keeps rows in memory, and one that keeps them as Parquet and takes them in portions."""
    with DuckEngine(tmp_path / "scratch", "500MB", 2, pii_key=b"secret", project=tmp_path) as made:
        if request.param == "on disk":
            made.large = 0
            monkeypatch.setattr(quarantine, "PORTION", 2)
            monkeypatch.setattr(repeated, "PASS", 2)
        yield made


def step_of(text: str, name: str = "orders", evolved: Sequence[str] = ()) -> TableStep:
    return compile_table(name, TableSpec.model_validate(yaml.safe_load(text)), evolved)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def good(outcome: Outcome, *columns: str) -> list[tuple[Any, ...]]:
    rows = [tuple(row[name] for name in columns) for row in rows_of(outcome.frames["rows"])]
    return sorted(rows, key=repr)


def balanced(outcome: Outcome) -> bool:
    kept = len(rows_of(outcome.frames["rows"]))
    assert outcome.frames["rows"].rows == kept  # type: ignore[attr-defined]
    assert len(rows_of(outcome.frames["quarantine"])) == outcome.quarantined
    return outcome.read == kept + outcome.quarantined + outcome.filtered + outcome.deduplicated


def test_bad_rows_of_several_files_and_portions_keep_their_own_lines(
    engine: DuckEngine, tmp_path: Path
) -> None:
    expected = {}
    paths = []
    for name in ("a.csv", "b.csv", "c.csv"):
        lines, at = [HEAD], 2
        for n in range(7):
            bad = f'{n},"{name}\n{n}",x,' if n % 2 else f"{n},{name},y{n},"
            lines += [f"{n},good,1,", bad]
            expected[name, at + 1] = bad
            at += 2 + n % 2
        paths.append(write(tmp_path / name, *lines, "1,2"))
        expected[name, at] = "1,2"
    outcome = run(engine, step_of(ORDERS), [raw_input("orders", *paths)])
    found = {(row["_file"], row["_line"]): row["raw"] for row in rows_of(outcome.frames["quarantine"])}
    assert found == expected
    assert balanced(outcome)


def test_rows_on_disk_are_not_cut_otherwise_than_they_are_read(tmp_path: Path) -> None:
    """Else DuckDB copies them once more, which costs a sixth of a refinement; no result would tell."""
    lines = [f"{n},{'x' * 200},1,2020-01-01 00:00:00" for n in range(120_000)]
    path = write(tmp_path / "a.csv", HEAD, *lines)
    pieces = path.stat().st_size / PIECE
    with DuckEngine(tmp_path / "scratch", threads=2) as made:
        made.large = path.stat().st_size
        assert run(made, step_of(ORDERS), [raw_input("orders", path)]).read == len(lines)
        (rows,) = made.scratch.glob("*-rows.parquet")
        groups = made.session.con.execute(
            "SELECT any_value(row_group_num_rows) FROM parquet_metadata(?) GROUP BY row_group_id "
            "ORDER BY row_group_id",
            [str(rows)],
        ).fetchall()
    assert len(groups) == -(-pieces // 1) > 3
    assert all(abs(group - len(lines) / pieces) < VECTOR for (group,) in groups[:-1])


def test_rows_quarantine_and_counts(engine: DuckEngine, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        HEAD,
        "1, Ann ,1.50,2020-01-01 00:00:00",
        "1,Ann,2.50,2020-01-02 00:00:00",
        '2,"Bo\nb",x,2020-01-01 00:00:00',
        "3,Cy,0,2020-01-01 00:00:00",
        "4,Di,-1,2020-01-01 00:00:00",
        "5,too,many,2020-01-01 00:00:00,fields",
    )
    outcome = run(engine, step_of(ORDERS), [raw_input("orders", path)])
    assert (outcome.read, outcome.quarantined, outcome.deduplicated, outcome.filtered) == (6, 3, 1, 0)
    assert balanced(outcome)
    assert outcome.warned == {"not_free": 1}
    assert outcome.by_rule["price.type"] == 1
    assert outcome.by_rule["price.min"] == 1
    assert outcome.files == {"bronze/a.csv": 6}
    rows = rows_of(outcome.frames["rows"])
    assert [(row["id"], row["name"], str(row["price"])) for row in sorted(rows, key=lambda r: r["id"])] == [
        (1, "Ann", "2.50"),
        (3, "Cy", "0.00"),
    ]
    assert list(rows[0]) == [
        "id",
        "name",
        "price",
        "at",
        "_source",
        "_file",
        "_line",
        "_epoch",
        "_ingested_at",
    ]
    assert {(row["_source"], row["_file"], row["_epoch"]) for row in rows} == {("orders", "a.csv", 7)}
    assert sorted(row["_line"] for row in rows) == [3, 6]
    bad = {row["_line"]: row for row in rows_of(outcome.frames["quarantine"])}
    assert bad[4]["raw"] == '2,"Bo\nb",x,2020-01-01 00:00:00'
    assert json.loads(bad[4]["fields"]) == {
        "id": "2",
        "name": "Bo\nb",
        "price": "x",
        "at": "2020-01-01 00:00:00",
    }
    assert bad[4]["rules"] == "price.type"
    assert bad[8]["raw"] == "5,too,many,2020-01-01 00:00:00,fields"
    assert bad[8]["fields"] is None


def test_the_empty_text_is_no_partition(engine: DuckEngine, tmp_path: Path) -> None:
    """Delta reads an empty partition value as NULL: silver would hold another value than the row has."""
    spec = "{from: [orders], partition_by: [town], contract: {nulls: ['-'], columns: {id: {}, town: {}}}}"
    path = write(tmp_path / "a.csv", "id,town", "1,", "2,-", "3,x")
    outcome = run(engine, step_of(spec), [raw_input("orders", path)])
    assert good(outcome, "id", "town") == [("2", None), ("3", "x")]
    assert outcome.by_rule == {"town.partition": 1}
    assert balanced(outcome)
    spec = spec.replace("partition_by: [town], ", "")
    assert good(run(engine, step_of(spec), [raw_input("orders", path)]), "id", "town")[0] == ("1", "")


def test_nothing_to_read_is_an_empty_outcome(engine: DuckEngine) -> None:
    outcome = run(engine, step_of(ORDERS), [])
    assert (outcome.read, outcome.quarantined, rows_of(outcome.frames["rows"])) == (0, 0, [])


def test_a_frame_as_raw_input_is_refused(engine: DuckEngine) -> None:
    with pytest.raises(ConfigError, match="sequence of RawInput"):
        engine.run(step_of(ORDERS), {"raw": TableAt("t", 0, [], {})}, epoch=1, now=NOW)


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["1", "2", "3", ""]),
            st.sampled_from(["a", "b", " b", ""]),
            st.sampled_from(["1.50", "1.5", "x", "", "-1", "2"]),
            st.sampled_from(["2020-01-01 00:00:00", "2020-01-02 00:00:00", "nope", ""]),
        ),
        max_size=12,
    ),
    cut=st.integers(0, 12),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_winners_do_not_depend_on_files_or_order(
    engine: DuckEngine, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], cut: int
) -> None:
    folder, step = tmp_path_factory.mktemp("in"), step_of(ORDERS)

    def file(name: str, part: Sequence[tuple[str, ...]]) -> Path:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows([HEAD.split(","), *part])
        (folder / name).write_text(out.getvalue())
        return folder / name

    form: dict[str, Any] = {
        "type": "csv", "compression": None, "encoding": "utf-8", "delimiter": ",", "quote": '"',
        "escape": '"', "header": HEAD.split(","), "skip": 0, "newline": "\n", "quoted": False, "nul": False,
        "final_newline": True, "row_end": "",
    }  # fmt: skip

    def outcome(*paths: Path) -> Outcome:
        from headrace.core import Landed, RawInput

        files = []
        for place, path in enumerate(paths):
            facts = form | {"lines": path.read_text().count("\n")}
            stamp = f"2026-01-01T00:00:00.{place:06}Z"
            files.append((1, Landed(path.name, path.name, 1, "", None, facts, {}, stamp), path))
        return run(engine, step, [RawInput("s", files)])

    columns = ("id", "name", "price", "at")
    whole = outcome(file("whole.csv", rows))
    assert whole.read == len(rows)
    assert balanced(whole)
    expected = good(whole, *columns)
    parts = outcome(file("b.csv", rows[cut:][::-1]), file("a.csv", rows[:cut]))
    assert balanced(parts)
    assert good(parts, *columns) == expected
    assert parts.by_rule == whole.by_rule
    keys = [row[0] for row in expected]
    assert len(set(keys)) == len(keys)


def test_exact_duplicates_collapse_with_all_columns_as_key(engine: DuckEngine, tmp_path: Path) -> None:
    text = ORDERS.replace("[id]", '"*"').replace("latest_by: [at]", "")
    same = "1,Ann,1.50,2020-01-01 00:00:00"
    path = write(tmp_path / "a.csv", HEAD, same, same.replace("1.50", "1.5"), "2,,3,", "2,,3,")
    outcome = run(engine, step_of(text), [raw_input("orders", path)])
    assert (outcome.deduplicated, outcome.quarantined, len(good(outcome, "id"))) == (2, 0, 2)


def test_without_latest_by_what_landed_last_stays(engine: DuckEngine, tmp_path: Path) -> None:
    text = ORDERS.replace("latest_by: [at]", "")
    old = write(tmp_path / "z.csv", HEAD, "1,zz,9,2020-01-09 00:00:00", "1,old,9,2020-01-09 00:00:00")
    new = write(tmp_path / "a.csv", HEAD, "1,new,1,2020-01-01 00:00:00")
    outcome = run(engine, step_of(text), [raw_input("orders", old, new)])
    assert good(outcome, "name") == [("new",)]


def test_append_keeps_every_row(engine: DuckEngine, tmp_path: Path) -> None:
    text = ORDERS.replace("keys: [id]", "").replace("latest_by: [at]", "")
    path = write(tmp_path / "a.csv", HEAD, *["1,Ann,1.50,2020-01-01 00:00:00"] * 3)
    outcome = run(engine, step_of(text), [raw_input("orders", path)])
    assert (outcome.deduplicated, len(good(outcome, "id"))) == (0, 3)


def test_filter_leaves_rows_out_and_counts_them(engine: DuckEngine, tmp_path: Path) -> None:
    text = ORDERS + "  filter: \"name <> 'skip'\"\n"
    path = write(tmp_path / "a.csv", HEAD, "1,skip,1,2020-01-01 00:00:00", "2,keep,1,2020-01-01 00:00:00")
    outcome = run(engine, step_of(text), [raw_input("orders", path)])
    assert (outcome.filtered, outcome.quarantined, good(outcome, "id")) == (1, 0, [(2,)])
    assert balanced(outcome)


def test_history_has_every_distinct_version(engine: DuckEngine, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        HEAD,
        "1,a,1,2020-01-01 00:00:00",
        "1,a,1.00,2020-01-01 00:00:00",
        "1,b,1,2020-01-02 00:00:00",
        "2,c,x,2020-01-01 00:00:00",
    )
    outcome = run(
        engine, step_of(ORDERS.replace("keys:", "history: true\nkeys:")), [raw_input("orders", path)]
    )
    versions = sorted(row["name"] for row in rows_of(outcome.frames["history"]))
    assert versions == ["a", "b"]
    assert good(outcome, "name") == [("b",)]
    assert outcome.deduplicated == 2


def test_deletes_are_marked_and_a_later_version_revives(engine: DuckEngine, tmp_path: Path) -> None:
    text = ORDERS.replace("keys:", "delete_when: \"name = 'gone'\"\nkeys:")
    path = write(
        tmp_path / "a.csv",
        HEAD,
        "1,gone,,2020-01-02 00:00:00",
        "1,a,1,2020-01-01 00:00:00",
        "2,gone,,2020-01-01 00:00:00",
        "2,a,1,2020-01-02 00:00:00",
    )
    outcome = run(engine, step_of(text), [raw_input("orders", path)])
    assert good(outcome, "id", "_deleted") == [(1, True), (2, False)]
    assert outcome.deduplicated == 2


def test_references_look_into_the_other_table(engine: DuckEngine, tmp_path: Path) -> None:
    text = ORDERS.replace("name: {clean: [trim]}", "name: {references: people.name}")
    into = tmp_path / "people"
    select = "SELECT 'Ann' AS name, false AS _deleted UNION ALL SELECT 'Bob', true"
    from headrace.engines.duckdb.frame import DuckFrame

    frame = DuckFrame(engine.session, select, {"name": "text", "_deleted": "boolean"}, 2)
    change = engine.rewrite(TableAt("people", -1, [], {}), Write("people", "append"), frame, into)
    people = TableAt("people", 0, change.add, change.columns)
    stamp = "2020-01-01 00:00:00"
    path = write(tmp_path / "a.csv", HEAD, f"1,Ann,1,{stamp}", f"2,Bob,1,{stamp}", f"3,,1,{stamp}")
    outcome = run(engine, step_of(text), [raw_input("orders", path)], people=people)
    assert outcome.by_rule == {"name.reference": 1}
    assert good(outcome, "id") == [(1,), (3,)]
    again = run(
        engine, step_of(text), [raw_input("orders", path)], people=TableAt("people", -1, [], {"name": "text"})
    )
    assert again.by_rule["name.reference"] >= 2


def test_stop_rules_are_reported_and_their_rows_quarantined(engine: DuckEngine, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEAD, "1,a,0,2020-01-01 00:00:00", "2,a,1,2020-01-01 00:00:00")
    outcome = run(engine, step_of(ORDERS.replace("severity: warn", "severity: stop")), [raw_input("o", path)])
    assert [(c.name, c.passed, c.severity, c.value) for c in outcome.checks] == [
        ("not_free", False, "stop", "1 rows")
    ]
    assert outcome.by_rule == {"not_free": 1}
    assert balanced(outcome)


def test_expectations_judge_the_table_as_it_would_be(engine: DuckEngine, tmp_path: Path) -> None:
    text = ORDERS + "  expect:\n  - {rows: [1, 2]}\n  - {sum: price, between: [0, 5]}\n  - {unique: name}\n"
    step = step_of(text)
    stamp = "2020-01-01 00:00:00"
    first = run(
        engine, step, [raw_input("o", write(tmp_path / "a.csv", HEAD, f"1,a,1,{stamp}", f"2,b,2,{stamp}"))]
    )
    assert [check.passed for check in first.checks] == [True, True, True]
    empty = TableAt("orders", -1, [], {})
    change = engine.rewrite(
        empty, Write("orders", "merge", step.keys, step.sequence), first.frames["rows"], tmp_path / "t"
    )
    table = TableAt("orders", 0, change.add, change.columns)
    later = write(
        tmp_path / "b.csv",
        HEAD,
        f"1,b,4,{stamp.replace('2020', '2021')}",
        f"2,x,9,{stamp.replace('2020', '2019')}",
    )
    outcome = run(engine, step, [raw_input("o", later)], table)
    assert [(check.name, check.passed, check.value) for check in outcome.checks] == [
        ("rows", True, "2 rows"),
        ("sum(price)", False, "6.00"),
        ("unique(name)", False, "1 values more than once"),
    ]


def test_evolved_columns_are_texts(engine: DuckEngine, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEAD + ",Colour", "1,a,1,2020-01-01 00:00:00, red")
    outcome = run(engine, step_of(ORDERS, evolved=["Colour"]), [raw_input("o", path)])
    assert good(outcome, "colour") == [(" red",)]


def test_now_is_the_plans(engine: DuckEngine, tmp_path: Path) -> None:
    text = ORDERS.replace('not_free: {check: "price <> 0"', 'past: {check: "at < now()"')
    path = write(tmp_path / "a.csv", HEAD, "1,a,1,2026-06-15 11:59:59", "2,a,1,2026-06-15 12:00:01")
    assert run(engine, step_of(text), [raw_input("o", path)]).warned == {"past": 1}


def test_masks_hide_and_ciphers_open_again(engine: DuckEngine, tmp_path: Path) -> None:
    text = ORDERS.replace("name: {clean: [trim]}", "name: {pii: name, mask: MASK}")
    stamp = "2020-01-01 00:00:00"
    path = write(
        tmp_path / "a.csv", HEAD, f"1,Ann,1,{stamp}", f"2,Ann,1,{stamp}", f"3,Bo,1,{stamp}", f"4,,1,{stamp}"
    )
    seen = {}
    for mask in ("encrypt", "hash", "redact"):
        outcome = run(engine, step_of(text.replace("MASK", mask)), [raw_input("o", path)])
        rows = sorted(rows_of(outcome.frames["rows"]), key=lambda row: row["id"])
        seen[mask] = [row["name"] for row in rows]
        assert seen[mask][0] == seen[mask][1]
        assert seen[mask][3] is None
        assert "Ann" not in str(seen[mask])
    assert seen["encrypt"][0] != seen["encrypt"][2]
    assert [decrypt(b"secret", "name", value) for value in seen["encrypt"][:3]] == ["Ann", "Ann", "Bo"]
    again = run(engine, step_of(text.replace("MASK", "encrypt")), [raw_input("o", path)])
    assert [row[0] for row in good(again, "name")] == sorted(seen["encrypt"], key=lambda v: repr((v,)))
    with pytest.raises(DataError, match="cannot be decrypted"):
        decrypt(b"other", "name", seen["encrypt"][0])
    with pytest.raises(DataError, match="cannot be decrypted"):
        decrypt(b"secret", "email", seen["encrypt"][0])


def test_what_is_derived_from_a_masked_column_has_a_mask_of_its_own(
    engine: DuckEngine, tmp_path: Path
) -> None:
    loud = "\n    loud: {derive: upper(name), pii: name, mask: redact}"
    size = "\n    size: {type: integer, derive: length(name), pii: none}"
    text = ORDERS.replace("name: {clean: [trim]}", "name: {pii: name, mask: hash}" + loud + size)
    path = write(tmp_path / "a.csv", HEAD, "1,Ann,1,2020-01-01 00:00:00")
    outcome = run(engine, step_of(text), [raw_input("o", path)])
    assert good(outcome, "loud", "size") == [("***", 3)]


def test_encrypted_keys_still_deduplicate(engine: DuckEngine, tmp_path: Path) -> None:
    text = ORDERS.replace("name: {clean: [trim]}", "name: {pii: name, mask: encrypt}").replace(
        "[id]", "[name]"
    )
    path = write(tmp_path / "a.csv", HEAD, "1,Ann,1,2020-01-01 00:00:00", "2,Ann,1,2020-01-02 00:00:00")
    outcome = run(engine, step_of(text), [raw_input("o", path)])
    assert (good(outcome, "id"), outcome.deduplicated) == ([(2,)], 1)


def test_formats_without_lines_keep_their_fields_as_raw(engine: DuckEngine, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"id": 1, "price": "x"}, {"id": 2, "price": 1.50, "at": "2020-01-01 00:00:00"}]')
    outcome = run(engine, step_of(ORDERS), [raw_input("o", path)])
    bad = rows_of(outcome.frames["quarantine"])
    assert [row["raw"] == row["fields"] for row in bad] == [True]
    assert balanced(outcome)


def test_an_earlier_runs_tables_are_gone_after_the_next(engine: DuckEngine, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEAD, "1,a,1,2020-01-01 00:00:00")
    for _ in range(3):
        run(engine, step_of(ORDERS), [raw_input("o", path)])
    tables = engine.session.con.execute("SELECT count(*) FROM duckdb_tables()").fetchall()[0][0]
    run(engine, step_of(ORDERS), [raw_input("o", path)])
    assert engine.session.con.execute("SELECT count(*) FROM duckdb_tables()").fetchall()[0][0] == tables


def test_an_engine_leaves_no_scratch(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEAD, "1,a,1,2020-01-01 00:00:00")
    with DuckEngine(tmp_path / "s") as made:
        run(made, step_of(ORDERS), [raw_input("o", path)])
    assert list((tmp_path / "s").iterdir()) == []


def test_all_works_without_pyarrow_numpy_pandas_polars(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", HEAD, "1,a,1,2020-01-01 00:00:00", "1,b,1,2020-01-02 00:00:00", "2,x,y,z"
    )
    code = f"""
import sys, yaml
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pyarrow", "numpy", "pandas", "polars"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
from pathlib import Path
from headrace.core import TableAt, Write
from headrace.engines.duckdb import DuckEngine, quarantine, repeated
from headrace.spec.pipeline import TableSpec
from headrace.sql import compile_table
from headrace.testing.engine import raw_input, rows_of, run
step = compile_table("t", TableSpec.model_validate(yaml.safe_load({ORDERS!r})))
with DuckEngine(Path({str(tmp_path / "s")!r})) as engine:
    outcome = run(engine, step, [raw_input("o", Path({str(path)!r}))])
    rows = rows_of(outcome.frames["rows"])
    write = Write("t", "merge", step.keys, step.sequence)
    into = Path({str(tmp_path / "t")!r})
    one = engine.rewrite(TableAt("t", -1, [], {{}}), write, outcome.frames["rows"], into)
    table = TableAt("t", 0, one.add, one.columns)
    two = engine.rewrite(table, write, outcome.frames["rows"], into)
print(len(rows), outcome.quarantined, one.written.inserted, two.written.unchanged)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1", "1", "1", "1"], done.stderr


def test_ties_are_ended_by_content_and_copies_by_place(engine: DuckEngine, tmp_path: Path) -> None:
    stamp = "2020-01-01 00:00:00"
    lines = [
        f"1,a,1,{stamp}",
        f"1,b,1,{stamp}",  # the same sequence, greater content
        f"1,a,9,{stamp}",
        f"2,x,1,{stamp}",
        f"2,x,1.00,{stamp}",  # a copy
        f"3,old,1,{stamp}",
        "3,new,1,2020-01-02 00:00:00",
        f"4,only,1,{stamp}",
    ]
    expected = [(1, "b", 3), (2, "x", 6), (3, "new", 8), (4, "only", 9)]
    outcome = run(engine, step_of(ORDERS), [raw_input("o", write(tmp_path / "a.csv", HEAD, *lines))])
    assert good(outcome, "id", "name", "_line") == expected
    assert outcome.deduplicated == 4
    backwards = run(engine, step_of(ORDERS), [raw_input("o", write(tmp_path / "b.csv", HEAD, *lines[::-1]))])
    assert [row[:2] for row in good(backwards, "id", "name")] == [row[:2] for row in expected]
