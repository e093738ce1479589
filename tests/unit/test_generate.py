"""The generator's own promises; that the platform agrees with it is shown elsewhere."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.spec.contract import Contract
from headrace.testing.generate import Truth, generate
from headrace.testing.storefiles import FIELDS
from headrace.testing.truth import BEGINNING, Line, State, apply

CONTRACT = Path(__file__).parents[2] / "examples" / "sales" / "contracts" / "sales.yml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("sales")
    return folder, generate(folder, rows=4000, days=20)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_writes_the_same_bytes_and_another_one_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name, seed=seed, rows=200, days=10)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a != c


def test_two_phases_write_what_one_load_writes(tmp_path: Path) -> None:
    first = generate(tmp_path / "two", rows=900, days=12, phase=1)
    second = generate(tmp_path / "two", rows=900, days=12, phase=2)
    whole = generate(tmp_path / "one", rows=900, days=12)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one.keys() == two.keys()
    assert {n for n in one if one[n] != two[n]} == {"expected.json"}
    assert not first.files.keys() & second.files.keys()
    assert second.state == whole.state
    assert second.gold == whole.gold
    assert second.run["sales"]["updated"] > 0
    assert second.run["sales"]["unchanged"] > 0


def test_the_ledger_balances_and_agrees_with_the_files(made: tuple[Path, Truth]) -> None:
    _, truth = made
    ledger = Counter(truth.run["sales"])
    assert ledger["read"] == sum(ledger.values()) - ledger["read"]
    assert ledger["read"] == sum(file.read for file in truth.files.values())
    assert ledger["quarantined"] == sum(file.quarantined for file in truth.files.values())
    assert ledger["inserted"] == truth.state["sales"] == len(truth.rows)
    assert all(ledger[what] > 0 for what in ("deduplicated", "quarantined", "filtered"))


def test_files_hold_as_many_records_as_the_truth_says(made: tuple[Path, Truth]) -> None:
    folder, truth = made
    for name, file in truth.files.items():
        data = (folder / name).read_bytes()
        if name.endswith(".jsonl"):
            assert data.count(b"\n") == file.read
        else:
            encoding = "windows-1252" if "/filialen/" in name else "utf-8-sig"
            delimiter = ";" if "/filialen/" in name else ","
            records = list(csv.reader(io.StringIO(data.decode(encoding), newline=""), delimiter=delimiter))
            assert len(records) - 1 == file.read
            ragged = sum(len(record) != len(FIELDS) for record in records)
            assert ragged == file.rules.get("csv.too_many_columns", 0) + file.rules.get(
                "csv.missing_columns", 0
            )


def test_every_rule_is_one_of_the_contract_or_of_reading(made: tuple[Path, Truth]) -> None:
    contract = Contract.model_validate(yaml.safe_load(CONTRACT.read_text()))
    for rule in [*made[1].by_rule, *made[1].warned]:
        column, _, kind = rule.partition(".")
        if column in ("csv", "json"):
            continue
        if not kind:
            assert rule in contract.rules
            continue
        spec = contract.columns[column]
        told = {"type": spec.type, "reference": spec.references}.get(kind, getattr(spec, kind, None))
        assert told is not None, rule
        assert told is not False, rule
    assert len(made[1].by_rule) >= 20


def test_the_contract_reads_every_field_of_every_format() -> None:
    contract = Contract.model_validate(yaml.safe_load(CONTRACT.read_text()))
    assert len(contract.columns) == 24
    assert set(contract.columns) == {*FIELDS, "order_date"}
    for name in FIELDS:
        assert len(contract.columns[name].source) == 3, name


def test_prices_add_up_and_sums_are_exact(made: tuple[Path, Truth]) -> None:
    _, truth = made
    for row in truth.rows:
        assert row["total_amount"] == row["quantity"] * row["unit_price"] - row["discount"]
    total = sum((row["total_amount"] for row in truth.rows), Decimal(0))
    assert str(total) == truth.state["total_amount"]
    cells = [cell for months in truth.state["by_store_month"].values() for cell in months.values()]
    assert sum(Decimal(cell["total_amount"]) for cell in cells) == total
    assert sum(cell["rows"] for cell in cells) == len(truth.rows)


def test_timelines_start_at_the_beginning_and_neighbours_differ(made: tuple[Path, Truth]) -> None:
    for name, dimension in made[1].gold["dimensions"].items():
        facts = dimension["unknown"]
        for versions in dimension["timelines"].values():
            assert versions[0]["valid_from"] == BEGINNING.isoformat()
            assert [v["valid_from"] for v in versions] == sorted({v["valid_from"] for v in versions})
            looks = [{k: v[k] for k in v if k not in ("valid_from", "facts")} for v in versions]
            assert all(a != b for a, b in itertools.pairwise(looks))
            facts += sum(version["facts"] for version in versions)
        assert facts == len(made[1].rows), name
        assert dimension["versions"] > dimension["members"]


def test_expected_json_lies_outside_the_landing_folder(made: tuple[Path, Truth]) -> None:
    folder, truth = made
    assert json.loads((folder / "expected.json").read_text()) == json.loads(json.dumps(truth.to_json()))
    assert {p.name for p in folder.iterdir()} == {"landing", "reference", "expected.json"}


def test_impossible_wishes_are_refused(tmp_path: Path) -> None:
    for wish in ({"days": 3}, {"stores": 0}, {"stores": 100}, {"rows": 0}, {"phase": 3}):
        with pytest.raises(ValueError, match="days >= 8"):
            generate(tmp_path, **wish)  # type: ignore[arg-type]


def _line(order: int, second: int) -> Line:
    updated = BEGINNING.replace(second=second)
    return Line("", "good", {"order_id": str(order), "updated_at": updated, "order_ts": BEGINNING})


lines = st.lists(st.builds(_line, st.integers(0, 4), st.integers(0, 5)))


@settings(deadline=None)
@given(lines, lines)
def test_the_ledger_of_the_truth_always_balances_and_order_does_not_matter(
    a: list[Line], b: list[Line]
) -> None:
    split, at_once, reverse = State(), State(), State()
    for some in (a, b):
        ledger = apply(split, some)
        assert ledger["read"] == sum(ledger.values()) - ledger["read"]
    apply(at_once, a + b)
    apply(reverse, (a + b)[::-1])
    assert split.rows == at_once.rows == reverse.rows
    assert split.history == at_once.history == reverse.history


def test_no_header_of_a_csv_is_an_object_of_the_json(made: tuple[Path, Truth]) -> None:
    folder, _ = made
    record = json.loads(next((folder / "landing" / "online").iterdir()).open(encoding="utf-8").readline())
    contract = Contract.model_validate(yaml.safe_load(CONTRACT.read_text()))
    accepted = {name for column in contract.columns.values() for name in column.source}
    assert not accepted & record.keys()
