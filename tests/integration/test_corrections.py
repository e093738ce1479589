"""Bad rows put right: the tables become those of a clean first load, in increments and in rebuilds."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace import failpoints
from headrace.cli.start import inspected
from headrace.errors import ConfigError, DataError, Refused
from headrace.run import corrections
from headrace.run.inspect import query
from headrace.run.report import TableReport
from headrace.spec.load import load
from tests.projects import HEADER, PIPELINE, content, go, headrace, make, put, rows

GOOD = [
    "1,ann,1.00,2026-01-01T00:00:00",
    "2,bob,2.00,2026-01-02T00:00:00",
    "3,cid,3.00,2026-01-03T00:00:00",
    "3,cid,3.50,2026-01-04T00:00:00",
]
BAD = [GOOD[0], "2,nobody,2.00,2026-01-02T00:00:00", 'x3,cid,"3,00",2026-01-03T00:00:00', GOOD[3]]


def fix(root: Path, **options: Any) -> corrections.Correction:
    return corrections.fix(load(root), "orders", **options)


def fix_file(root: Path, file: Path, **options: Any) -> corrections.Correction:
    return corrections.fix_from(load(root), "orders", file, inspected("edits", file), **options)


def table(root: Path, **options: Any) -> TableReport:
    report = go(root, **options)
    assert report.status == "success", [item.error for item in report.tables]
    (found,) = [item for item in report.tables if item.name == "orders"]
    return found


def plain(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What the tables say, without where each row came from."""
    found = {}
    for name, columns in (
        ("silver.orders", "order_id, customer, amount, updated_at"),
        ("silver.orders_history", "order_id, customer, amount, updated_at"),
        ("quarantine.orders", "rules, raw, fields"),
    ):
        _, every = query(load(root), f"select {columns} from {name} order by all")
        found[name] = list(every)
    return found


def put_right(root: Path) -> None:
    assert fix(root, rule="known_customer", sets=["customer = 'bob'"]).rows == 1
    done = fix(
        root,
        where="order_id like 'x%'",
        sets=["order_id = replace(order_id, 'x', '')", "amount = replace(amount, ',', '.')"],
        reason="scanner",
    )
    assert (done.rows, done.bad, dict(done.still)) == (1, 0, {})


def test_corrected_rows_equal_a_clean_first_load_also_after_a_rebuild(tmp_path: Path) -> None:
    make(tmp_path / "clean", {"a.csv": GOOD})
    go(tmp_path / "clean")
    root = make(tmp_path / "bad", {"a.csv": BAD})
    assert table(root).ledger.quarantined == 2
    put_right(root)
    ledger = table(root).ledger
    assert (ledger.read, ledger.corrected, ledger.superseded, ledger.quarantined) == (0, 2, 0, 0)
    assert ledger.balanced
    assert content(root) == content(tmp_path / "clean")
    assert table(root).noop
    ledger = table(root, rebuild=["orders"]).ledger
    assert (ledger.read, ledger.corrected, ledger.superseded) == (4, 2, 2)
    assert content(root) == content(tmp_path / "clean")


def test_the_same_correction_twice_changes_nothing(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    options = {"rule": "known_customer", "sets": ["customer = customer || '!'"]}
    first, second = fix(root, **options), fix(root, **options)
    assert (first.number, second.number, second.same) == (1, None, 1)
    assert table(root).ledger.corrected == 1
    again = fix(root, **options)
    assert (again.number, again.chosen) == (None, 0)
    assert table(root).noop


def test_two_corrections_of_a_row_add_up_before_and_after_a_run(tmp_path: Path) -> None:
    for between in (False, True):
        root = make(tmp_path / str(between), {"a.csv": ["x1,nobody,-1.00,2026-01-01T00:00:00"]})
        go(root)
        assert dict(fix(root, sets=["order_id = '1'"]).still) == {"amount.min": 1, "known_customer": 1}
        if between:
            assert table(root).ledger.quarantined == 1
        fix(root, sets=["customer = 'ann'"])
        fix(root, sets=["amount = replace(amount, '-', '')"])
        table(root)
        assert rows(root, "quarantine.orders") == []
        before = content(root)
        table(root, rebuild=["orders"])
        assert content(root) == before
        assert plain(root)["silver.orders"][0][:2] == (1, "ann")


def test_what_is_still_bad_stays_with_its_raw_line_and_the_correction_noted(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    fix(root, rule="order_id.type", sets=["order_id = '3'"])
    assert table(root).ledger.quarantined == 1
    _, found = query(
        load(root), "select rules, raw, fields, correction from quarantine.orders order by _line"
    )
    first, second = found
    assert (first[0], first[3]) == ("known_customer", None)
    assert second[:2] == ("amount.type", BAD[2])
    assert (json.loads(second[2])["order_id"], second[3]) == ("3", 1)
    before = content(root)
    table(root, rebuild=["orders"])
    assert content(root) == before


def spoiled(dice: random.Random, line: str) -> str:
    order, customer, amount, updated = line.split(",")
    kind = dice.choice(["order", "customer", "amount", "date", "many"])
    if kind == "order":
        return f"x{order},{customer},{amount},{updated}"
    if kind == "customer":
        return f"{order},nobody,{amount},{updated}"
    if kind == "amount":
        return f"{order},{customer},-{amount},{updated}"
    if kind == "date":
        return f"{order},{customer},{amount},{updated.replace('T', ' at ')}"
    return f"{line},surplus"


def repair(root: Path, clean: dict[str, list[str]], folder: Path) -> int:
    """Corrects every bad row by an edited export, from what it should have been."""
    out = folder / "bad.csv"
    count = corrections.export(load(root), "orders", out)
    if not count:
        return 0
    with out.open(newline="") as file:
        listed = list(csv.DictReader(file))
    names = HEADER.split(",")
    for row in listed:
        right = clean[Path(row["_file"]).name][int(row["_line"]) - 2].split(",")
        row |= dict(zip(names, right, strict=True))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, listed[0].keys())
        writer.writeheader()
        writer.writerows(listed)
    done = fix_file(root, out)
    assert (done.rows + done.same, done.bad) == (count, 0)
    return count


@pytest.mark.parametrize("seed", range(4))
def test_random_rows_broken_and_repaired_in_any_order_equal_the_clean_load(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    latest = seed % 2 == 0
    pipeline = PIPELINE if latest else PIPELINE.replace("    latest_by: updated_at\n", "")
    clean = {
        f"{n}.csv": [
            f"{dice.randrange(30)},c{dice.randrange(5)},{dice.randrange(900)}.{dice.randrange(100):02},"
            f"2026-01-{dice.randrange(1, 28):02}T00:00:00"
            for _ in range(25)
        ]
        for n in range(4)
    }
    make(tmp_path / "clean", clean, pipeline)
    go(tmp_path / "clean")
    root = make(tmp_path / "bad", pipeline=pipeline)
    for name, lines in clean.items():
        put(root, name, [spoiled(dice, line) if dice.random() < 0.3 else line for line in lines])
        table(root)
        if dice.random() < 0.5 and repair(root, clean, tmp_path) and dice.random() < 0.5:
            assert table(root).ledger.balanced
    repair(root, clean, tmp_path)
    table(root)
    assert plain(root) == plain(tmp_path / "clean")
    assert table(root, rebuild=["orders"]).ledger.balanced
    assert content(root) == content(tmp_path / "clean"), "rebuilt, each row also has its clean origin"


PLACES = [place for place in failpoints.PLACES if place.startswith(("refine", "sink"))]


@pytest.mark.parametrize("place", PLACES)
def test_killed_at_every_step_of_a_corrected_epoch(tmp_path: Path, place: str) -> None:
    make(tmp_path / "clean", {"a.csv": GOOD})
    go(tmp_path / "clean")
    root = make(tmp_path / "bad", {"a.csv": BAD})
    go(root)
    put_right(root)
    for nth in (1, 2) if place == "sink.commit" else (1,):
        killed = headrace(root, "run", "--quiet", env={"HEADRACE_FAILPOINTS": f"{place}=kill@{nth}"})
        assert killed.returncode < 0
    again = headrace(root, "run", "--quiet")
    assert again.returncode == 0, again.stderr
    assert content(root) == content(tmp_path / "clean")


@pytest.mark.parametrize("place", ["land.synced", "land.record"])
def test_a_correction_that_is_killed_lands_wholly_or_not_at_all(tmp_path: Path, place: str) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    arguments = ("quarantine", "fix", "orders", "--rule", "known_customer", "--set", "customer = 'bob'")
    killed = headrace(root, *arguments, env={"HEADRACE_FAILPOINTS": f"{place}=kill"})
    assert killed.returncode < 0
    again = headrace(root, *arguments)
    assert again.returncode == 0, again.stderr
    assert ("left alone" in again.stdout) == (place == "land.record")
    assert table(root).ledger.corrected == 1


def export_rows(root: Path, out: Path, **options: Any) -> list[dict[str, str]]:
    corrections.export(load(root), "orders", out, **options)
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(out: Path, listed: Sequence[dict[str, str]]) -> Path:
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, listed[0].keys())
        writer.writeheader()
        writer.writerows(listed)
    return out


def test_records_without_fields_are_put_right_by_fields_or_by_a_new_raw_text(tmp_path: Path) -> None:
    root = make(tmp_path / "bad", {"a.csv": ["1,ann", "2,b,o,b,2.00,2026-01-02T00:00:00", GOOD[2]]})
    go(root)
    assert fix(root, sets=["customer = 'x'"]).unparsed == 2
    listed = export_rows(root, tmp_path / "out.csv")
    listed[0] |= {"order_id": "1", "customer": "ann", "amount": "1.00", "updated_at": "2026-01-01T00:00:00"}
    listed[1]["_raw"] = '2,"b,o,b",2.00,2026-01-02T00:00:00'
    assert fix_file(root, write_rows(tmp_path / "out.csv", listed)).bad == 0
    assert table(root).ledger.corrected == 2
    assert [row[:2] for row in plain(root)["silver.orders"]] == [(1, "ann"), (2, "b,o,b"), (3, "cid")]
    before = content(root)
    ledger = table(root, rebuild=["orders"]).ledger
    assert (ledger.corrected, ledger.superseded) == (2, 2)
    assert content(root) == before


def test_raw_texts_are_replaced_by_an_expression(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": [f"{line};" for line in GOOD[:2]] + [f"{line}," for line in GOOD[2:]]})
    go(root)
    done = fix(root, where="ends_with(_raw, ',')", sets=["_raw = left(_raw, length(_raw) - 1)"])
    assert (done.chosen, done.rows, done.bad) == (2, 2, 0)
    assert fix(root, where="_raw like '%;'", sets=["_raw = replace(_raw, ';', '')"]).rows == 2
    table(root)
    assert len(rows(root, "silver.orders")) == 3
    put(root, "b.csv", ["9,ann"])
    go(root)
    with pytest.raises(Refused, match=r"b.csv:2: the new raw text is csv.missing_columns"):
        fix(root, sets=["_raw = 'only,three,fields'"])
    with pytest.raises(Refused, match=r"b.csv:2: the new raw text is not one record"):
        fix(root, sets=["_raw = '9,ann,1,2026-01-01\n9,ann,1,2026-01-01'"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"_line": "77"}, r"out.csv:2: no such row"),
        ({"_line": "seven"}, r"out.csv:2: `_line` is a number"),
        ({"_ingested_at": "2020-01-01T00:00:00Z"}, r"out.csv:2: no such row"),
        ({"customer": "bob", "_raw": "1,2,3,4"}, r"out.csv:2: `_raw` and a field"),
        ({"_raw": "1,2"}, r"a.csv:3: the new raw text is csv.missing_columns"),
    ],
)
def test_a_wrong_edit_is_refused_with_its_line(tmp_path: Path, change: dict[str, str], told: str) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    listed = export_rows(root, tmp_path / "out.csv")
    listed[0] |= change
    with pytest.raises(Refused, match=told):
        fix_file(root, write_rows(tmp_path / "out.csv", listed))
    assert corrections.fixes(load(root), "orders")[1] == []


def test_an_edit_of_an_unknown_field_or_a_row_twice_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    listed = export_rows(root, tmp_path / "out.csv")
    with pytest.raises(Refused, match=r"out.csv:2: this row is there twice"):
        fix_file(root, write_rows(tmp_path / "out.csv", [listed[0], *listed]))
    with pytest.raises(Refused, match=r"out.csv:1: `colour` is no field"):
        fix_file(root, write_rows(tmp_path / "out.csv", [row | {"colour": "red"} for row in listed]))
    lacking = [{name: value for name, value in row.items() if name != "_line"} for row in listed]
    with pytest.raises(Refused, match=r"out.csv:1: there is no column `_line`"):
        fix_file(root, write_rows(tmp_path / "out.csv", lacking))
    with (tmp_path / "out.csv").open("w") as file:
        file.write((",".join(listed[0])) + "\n" + "a,b\n")
    with pytest.raises(Refused, match=r"out.csv:2: cannot be read \(csv.missing_columns\): a,b"):
        fix_file(root, tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sets": ["custmer = 'x'"]}, "no field `custmer`"),
        ({"sets": ["customer = lowr(customer)"]}, "did you mean `lower`"),
        ({"sets": ["customer = (select 1)"]}, "subqueries"),
        ({"sets": ["customer"]}, "not `column = expression`"),
        ({"sets": ["customer = 'a'", "customer = 'b'"], "statement": "set customer = 'c'"}, "twice"),
        ({"statement": "delete from orders"}, "not one update"),
        ({}, "nothing is set"),
        ({"sets": ["amount = amount * 2"]}, "cannot be computed"),
    ],
)
def test_wrong_sql_is_refused_before_anything_lands(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    with pytest.raises(ConfigError, match=told):
        fix(root, **options)
    assert not (root / "lake/_headrace/land/corrections.orders").exists()


def test_a_value_that_cannot_be_computed_is_an_error_and_never_a_missing_value(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    with pytest.raises(DataError, match=r"fails for 1 rows, first data/a.csv:4"):
        fix(root, sets=["order_id = cast(order_id as integer) + 1"])


def test_an_update_chooses_and_sets_in_one(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    done = fix(root, statement="update orders set customer = 'bob' where customer = 'nobody' and _line = 3")
    assert (done.chosen, done.rows) == (1, 1)


REFERENCES = """
name: shop
sources:
  orders: {type: files, path: data/*.csv}
  people: {type: files, path: people/*.csv}
tables:
  people:
    from: people
    keys: [name]
    contract: {columns: {name: {required: true}}}
  orders:
    from: orders
    keys: [order_id]
    latest_by: updated_at
    history: true
    contract:
      columns:
        order_id: {type: integer, required: true}
        customer: {references: people.name}
        amount: {type: "decimal(10,2)", min: 0}
        updated_at: {type: timestamp}
"""


def test_replay_takes_in_rows_whose_reference_has_arrived(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": [*GOOD, "x,ann,1,2026-01-01T00:00:00", "8,zoe"]}, REFERENCES)
    (root / "people").mkdir()
    (root / "people/1.csv").write_text("name\nann\nbob\n")
    go(root)
    (root / "people/2.csv").write_text("name\ncid\n")
    go(root, select=["+people"])
    assert len(rows(root, "silver.orders")) == 2, "a run of `orders` would have taken it up by itself"
    done = corrections.replay(load(root), "orders")
    assert (done.chosen, done.rows, done.bad, done.unparsed) == (4, 3, 1, 1)
    assert corrections.replay(load(root), "orders").same == 3
    ledger = table(root).ledger
    assert (ledger.corrected, ledger.inserted, ledger.quarantined) == (3, 1, 1)
    replayed = content(root)
    assert len(replayed["silver.orders"]) == 3
    ledger = table(root, rebuild=["orders"]).ledger
    assert (ledger.read, ledger.corrected, ledger.superseded) == (6, 0, 0), "a replay leaves bronze as it is"
    assert content(root) == replayed


def test_a_correction_of_a_row_that_is_good_meanwhile_computes_the_table_anew(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    put_right(root)
    table(root)
    out = tmp_path / "out.csv"
    arrived = str(next(iter(query(load(root), "select arrived from bronze.orders")[1]))[0])
    where = {"_source": "orders", "_file": "data/a.csv", "_line": "3", "_ingested_at": arrived}
    done = fix_file(root, write_rows(out, [where | {"customer": "rob"}]))
    assert done.rows == 1
    report = table(root)
    assert report.rebuilt == "corrections of 1 rows that are not in quarantine"
    assert (2, "rob") in [row[:2] for row in plain(root)["silver.orders"]]
    assert len(plain(root)["silver.orders_history"]) == 4


def test_a_column_that_comes_later_has_the_files_value_also_in_corrected_rows(tmp_path: Path) -> None:
    lines = ["1,ann,1.00,2026-01-01T00:00:00,red", "2,nobody,2.00,2026-01-01T00:00:00,blue"]
    pipeline = PIPELINE.replace("    contract:\n", "    contract:\n      on_new_column: freeze\n")
    root = make(tmp_path, pipeline=pipeline)
    put(root, "a.csv", lines, HEADER + ",colour")
    go(root)
    fix(root, sets=["customer = 'bob'"])
    table(root)
    for change in ("known_customer: {check: \"customer <> 'nobody'\"}", "any: {check: order_id > 0}"):
        grown = pipeline.replace("      rules:\n", "        colour: {}\n      rules:\n").replace(
            "known_customer: {check: \"customer <> 'nobody'\"}", change
        )
        (root / "pipeline.yml").write_text(grown)
        table(root, accept_changes=True)
        _, found = query(load(root), "select customer, colour from silver.orders order by all")
        assert list(found) == [("ann", "red"), ("bob", "blue")]


def test_a_newer_version_of_the_file_ends_its_corrections(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    fix(root, rule="known_customer", sets=["customer = 'bob'"])
    table(root)
    put(root, "a.csv", GOOD)
    assert table(root).ledger.corrected == 0
    make(tmp_path / "clean", {"a.csv": GOOD})
    go(tmp_path / "clean")
    assert content(root) == content(tmp_path / "clean")
    _, listed = corrections.fixes(load(root), "orders")
    assert [(row[0], row[5], row[6]) for row in listed] == [(1, 1, 0)]


PRIVATE = PIPELINE.replace("customer:   {type: text, clean: [trim]}", "customer: {clean: [trim], pii: name}")


def test_personal_data_is_masked_in_exports_and_survives_the_way_back(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": ["x1,ann,1.00,2026-01-01T00:00:00", "2,bob"]}, PRIVATE)
    go(root)
    listed = export_rows(root, tmp_path / "out.csv")
    assert "ann" not in (tmp_path / "out.csv").read_text()
    assert [(row["customer"], row["_raw"]) for row in listed] == [("***", "***"), ("", "***")]
    listed[0]["order_id"] = "1"
    assert fix_file(root, write_rows(tmp_path / "out.csv", listed)).rows == 1
    table(root)
    assert plain(root)["silver.orders"][0][:2] == (1, "ann")
    revealed = export_rows(root, tmp_path / "out.csv", reveal=True)
    assert [row["_raw"] for row in revealed] == ["2,bob"]


def test_literals_of_personal_data_are_masked_in_the_list_of_corrections(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": ["x1,nobody,1.00,2026-01-01T00:00:00"]}, PRIVATE)
    go(root)
    fix(root, sets=["customer = 'secretname'"])
    fix(root, sets=["order_id = '1'"])
    what = [row[3] for row in corrections.fixes(load(root), "orders")[1]]
    assert what == ["set customer = '***'", "set order_id = '1'"]


def test_a_sweep_of_bronze_leaves_corrections_and_no_epoch_to_refine(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    fix(root, rule="known_customer", sets=["customer = 'bob'"])
    orphan = next((root / "lake/bronze/corrections.orders").rglob("*.jsonl")).with_name("orphan.jsonl")
    orphan.write_text("{}")
    assert headrace(root, "maintain").returncode == 0
    assert table(root).ledger.corrected == 1
    assert headrace(root, "maintain").returncode == 0
    assert table(root).noop


def test_dry_runs_show_values_masked_and_land_nothing(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": ["1,nobody,1.00,2026-01-01T00:00:00"]}, PRIVATE)
    go(root)
    arguments = ("quarantine", "fix", "orders", "--set", "customer = 'secretname'", "--dry-run")
    shown = headrace(root, *arguments)
    assert shown.returncode == 0, shown.stderr
    assert "1 of 1 rows would go" in shown.stdout
    assert "secretname" not in shown.stdout
    assert "secretname" in headrace(root, *arguments, "--reveal").stdout
    assert headrace(root, "quarantine", "fixes", "orders").stdout.count("root") == 0
    assert not (root / "lake/_headrace/land/corrections.orders").exists()


def test_the_command_line_fixes_runs_and_lists(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    out = headrace(root, "quarantine", "export", "orders", "--out", "bad.jsonl")
    assert out.stdout.startswith("2 rows in bad.jsonl"), out.stderr
    lines = [json.loads(line) for line in (root / "bad.jsonl").read_text().splitlines()]
    lines[0]["customer"] = "bob"
    (root / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    fixed = headrace(root, "quarantine", "fix", "orders", "--file", "bad.jsonl", "--reason", "typo")
    assert "1 of 2 rows go through the rules again as correction 1" in fixed.stdout, fixed.stderr
    ran = headrace(root, "run")
    assert "read 0 + corrected 1 = loaded 1" in ran.stdout
    assert "typo" in headrace(root, "quarantine", "fixes", "orders").stdout
    assert headrace(root, "quarantine", "fix", "orders", "--set", "colour = 'x'").returncode == 2


def test_what_cannot_be_corrected_says_why(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    with pytest.raises(ConfigError, match="no lake"):
        fix(root, sets=["customer = 'x'"])
    go(root)
    with pytest.raises(ConfigError, match="not defined"):
        corrections.replay(load(root), "ordres")
    pipeline = PIPELINE.replace("    history: true\n", "    mode: replace\n")
    shutil.rmtree(root / "lake")
    make(root, pipeline=pipeline)
    go(root)
    with pytest.raises(ConfigError, match="replaced by each delivery"):
        fix(root, sets=["customer = 'x'"])


def test_a_changed_correction_in_bronze_is_never_refined(tmp_path: Path) -> None:
    root = make(tmp_path, {"a.csv": BAD})
    go(root)
    fix(root, rule="known_customer", sets=["customer = 'bob'"])
    (path,) = (root / "lake/bronze/corrections.orders").rglob("*.jsonl")
    path.write_text(path.read_text().replace("bob", "rob"))
    assert "sha256" in str(go(root).tables[0].error)


def test_an_encrypted_lake_seals_corrections_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_KEY", "ab" * 32)
    root = make(tmp_path, {"a.csv": BAD}, PIPELINE + 'encryption: {key: k1, keys: {k1: "${LAKE_KEY}"}}\n')
    go(root)
    fix(root, rule="known_customer", sets=["customer = 'bobby'"])
    (path,) = (root / "lake/bronze/corrections.orders").rglob("*.jsonl")
    assert b"bobby" not in path.read_bytes()
    assert table(root).ledger.corrected == 1


STEPS = """
import pyarrow as pa
import pyarrow.compute as pc


def cheap(table: pa.Table) -> pa.Array:
    return pc.less(table["amount"], 100)
"""


def test_rows_that_a_validator_refused_are_corrected_as_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PII", "0123456789abcdef" * 8)
    pipeline = PIPELINE.replace("clean: [trim]", "clean: [trim], pii: name, mask: hash").replace(
        "    history: true\n", "    history: true\n    steps: [{validator: steps:cheap}]\n"
    ) + 'pii_key: "${PII}"\n'  # fmt: skip
    for name, lines in (("clean", GOOD), ("bad", [GOOD[0], GOOD[1].replace("2.00", "200.00"), *GOOD[2:]])):
        root = make(tmp_path / name, {"a.csv": lines}, pipeline)
        (root / "steps.py").write_text(STEPS)
        assert table(root).ledger.quarantined == (name == "bad")
    assert fix(root, sets=["amount = '2.00'"]).bad == 0
    table(root)
    assert content(root) == content(tmp_path / "clean")
    table(root, rebuild=["orders"])
    assert content(root) == content(tmp_path / "clean")


def test_records_of_json_lines_are_corrected_by_field_and_by_text(tmp_path: Path) -> None:
    pipeline = PIPELINE.replace("data/*.csv", "data/*.jsonl").replace(
        "customer:   {type: text, clean: [trim]}", "customer: {from: buyer.name}"
    )
    good = [
        {"order_id": n, "buyer": {"name": f"c{n}"}, "amount": "1.50", "updated_at": "2026-01-01T00:00:00"}
        for n in range(4)
    ]
    texts = [json.dumps(each) for each in good]
    bad = [texts[0].replace("1.50", "1,50"), texts[1][:-1], texts[2].replace("c2", "nobody"), texts[3]]
    for name, lines in (("clean", texts), ("bad", bad)):
        root = make(tmp_path / name, pipeline=pipeline)
        (root / "data/a.jsonl").write_text("".join(f"{line}\n" for line in lines))
        go(root)
    assert len(rows(root, "quarantine.orders")) == 3
    fix(root, rule="amount.type", sets=["amount = replace(amount, ',', '.')"])
    fix(root, rule="known_customer", statement="set customer = 'c2'")
    assert fix(root, rule="json.malformed", sets=["_raw = _raw || '}'"]).bad == 0
    table(root)
    assert content(root) == content(tmp_path / "clean")
    table(root, rebuild=["orders"])
    assert content(root) == content(tmp_path / "clean")
