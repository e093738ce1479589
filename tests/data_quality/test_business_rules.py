"""Contracts on real dirty data that has a clean twin: what rules find, and what standardisation repairs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.spec.pipeline import TableSpec
from headrace.sql import TableStep, checked_sql, compile_table
from tests.unit.test_sql_golden import connect, plain

Data = Callable[[str], Path]


@dataclass
class Judged:
    """All rows of a dirty file after its contract, beside the texts of the dirty and the clean file."""

    step: TableStep
    rows: list[dict[str, Any]]
    dirty: list[list[str]]
    clean: list[list[str]]
    header: list[str]

    def wrong(self) -> set[tuple[int, str]]:
        """(row, column) of all cells that differ between the files."""
        return {
            (n, column)
            for n, (before, after) in enumerate(zip(self.dirty, self.clean, strict=True))
            for column, old, new in zip(self.header, before, after, strict=True)
            if old != new
        }

    def found(self) -> set[tuple[int, str]]:
        """(row, column) of all cells that a broken rule names or reads."""
        cells = set()
        for n, row in enumerate(self.rows):
            for rule in filter(None, row["_broken"].split(";")):
                reads = (
                    self.step.rules[rule].columns if rule in self.step.rules else [rule.rpartition(".")[0]]
                )
                cells |= {(n, column) for column in reads}
        return cells

    def scores(self, columns: set[str]) -> tuple[float, float]:
        """(precision, recall) of finding wrong cells, in `columns` only."""
        wrong = {cell for cell in self.wrong() if cell[1] in columns}
        found = {cell for cell in self.found() if cell[1] in columns}
        hits = len(wrong & found)
        return hits / len(found), hits / len(wrong)


def judge(folder: Path, contract: str) -> Judged:
    dirty, clean = (
        list(csv.reader((folder / f"{kind}.csv").open(encoding="utf-8"))) for kind in ("dirty", "clean")
    )
    spec = TableSpec.model_validate({"from": "s", "contract": yaml.safe_load(contract)})
    step = compile_table("t", spec)
    con = connect()
    texts = ", ".join(f'"{given[0]}" AS "{column}"' for column, given in step.inputs.items())
    con.execute(
        f"CREATE TEMP TABLE staged AS SELECT {texts}, 's' _source, 'f' _file, row_number() OVER () _line, "
        "now() _ingested_at FROM read_csv(?, all_varchar = true, auto_detect = false, header = true, "
        f"delim = ',', quote = '\"', escape = '\"', columns = {(dict.fromkeys(dirty[0], 'VARCHAR'))!r})",
        [str(folder / "dirty.csv")],
    )
    cursor = con.execute(f"SELECT * FROM ({checked_sql(step)}) ORDER BY _line")
    heads = [d[0] for d in cursor.description]
    rows = [dict(zip(heads, row, strict=True)) for row in cursor.fetchall()]
    assert len(rows) == len(dirty) - 1
    return Judged(step, rows, dirty[1:], clean[1:], dirty[0])


BEERS = """
nulls: ["", "N/A"]
columns:
  ounces_text: {from: ounces, pattern: "[0-9]+\\\\.[0-9] (oz|OZ|ounce).*"}
  abv_text: {from: abv}
  city_text: {from: city, required: true}
  state_text: {from: state}
  ounces:
    type: decimal(5,1)
    derive: cast(split_part(ounces_text, ' ', 1) as decimal(5,1))
    min: 1
    max: 64
  abv:
    type: decimal(5,3)
    derive: round(cast(replace(abv_text, '%', '') as decimal(20,18)), 3)
    min: 0
    max: 0.2
  ibu: {type: integer, min: 0}
  state:
    derive: "coalesce(state_text, right(city_text, 2))"
    required: true
    pattern: "[A-Z]{2}"
  city:
    derive: case when state_text is null then substr(city_text, 1, length(city_text) - 3) else city_text end
"""


def test_standardisation_repairs_every_wrong_beer(shared_data: Data) -> None:
    beers = judge(shared_data("raha_pairs") / "beers", BEERS)
    assert len(beers.wrong()) == 4362
    assert beers.found() == set()
    for row, clean in zip(beers.rows, beers.clean, strict=True):
        want = dict(zip(beers.header, clean, strict=True))
        assert (row["city"], row["state"]) == (want["city"], want["state"])
        for column in ("ounces", "abv", "ibu"):
            number = None if row[column] is None else float(row[column])
            assert number == (float(want[column]) if want[column] else None), (column, want)


HOSPITAL = """
columns:
  provider_number: {pattern: "[0-9]{5}", required: true}
  zip: {pattern: "[0-9]{5}"}
  phone: {pattern: "[0-9]{10}"}
  state: {values: [al, ak]}
  emergency_service: {values: ["yes", "no"]}
  type: {values: [acute care hospitals]}
  owner:
    values: [government - federal, government - hospital district or authority, government - local,
      government - state, proprietary, voluntary non-profit - church, voluntary non-profit - other,
      voluntary non-profit - private]
  condition:
    values: [children s asthma care, heart attack, heart failure, pneumonia, surgical infection prevention]
  measure_code: {pattern: "(ami|cac|hf|pn|scip-card|scip-inf|scip-vte)-[0-9][abc]?"}
  score: {pattern: "empty|[0-9]{1,3}%"}
  sample: {pattern: "empty|[0-9]+ patients"}
  state_average: {pattern: "(al|ak)_(ami|cac|hf|pn|scip-card|scip-inf|scip-vte)-[0-9][abc]?"}
"""


def test_patterns_and_code_lists_find_typing_errors_without_false_alarms(shared_data: Data) -> None:
    hospital = judge(shared_data("raha_pairs") / "hospital", HOSPITAL)
    precision, recall = hospital.scores(set(hospital.step.columns))
    assert precision == 1.0
    assert recall >= 0.99
    everything = len(hospital.wrong() & hospital.found()) / len(hospital.wrong())
    assert everything >= 0.60, "names, addresses, cities and counties need a dictionary"


FLIGHTS = """
nulls: ["", "Not Available", "Contact Airline"]
columns:
  sched_dep_time: {required: true, pattern: &time "[0-9]{1,2}:[0-9]{2} [ap]\\\\.m\\\\."}
  act_dep_time: {required: true, pattern: *time}
  sched_arr_time: {required: true, pattern: *time}
  act_arr_time: {required: true, pattern: *time}
"""


def test_missing_and_malformed_times_are_found_but_not_wrong_ones(shared_data: Data) -> None:
    flights = judge(shared_data("raha_pairs") / "flights", FLIGHTS)
    precision, recall = flights.scores(set(flights.step.columns))
    assert precision == 1.0
    assert 0.55 <= recall <= 0.75, "a plausible time of a careless source is beyond a row rule"


RAYYAN = """
columns:
  journal_issn: {pattern: "[0-9]{4}-[0-9]{3}[0-9X].*"}
  article_jvolumn: {type: integer, required: true}
  article_jissue: {required: true}
  article_jcreated_at: {type: date, formats: ["%m/%d/%y"]}
"""


def test_rayyan_dates_read_but_swapped_parts_pass(shared_data: Data) -> None:
    rayyan = judge(shared_data("raha_pairs") / "rayyan", RAYYAN)
    _, recall = rayyan.scores({"journal_issn", "article_jvolumn", "article_jissue"})
    assert recall >= 0.95
    dates = {cell for cell in rayyan.found() if cell[1] == "article_jcreated_at"}
    assert not dates, "month, day and year in another order still make a date"
    years = [plain(row["article_jcreated_at"])[:2] for row in rayyan.rows if row["article_jcreated_at"]]
    assert set(years) <= {"19", "20"}


@pytest.mark.parametrize(
    ("folder", "contract"), [("beers", BEERS), ("hospital", HOSPITAL), ("flights", FLIGHTS)]
)
def test_clean_twins_break_nothing(shared_data: Data, tmp_path: Path, folder: str, contract: str) -> None:
    source = shared_data("raha_pairs") / folder
    header = (source / "dirty.csv").read_text("utf-8").split("\n", 1)[0]
    body = (source / "clean.csv").read_text("utf-8").split("\n", 1)[1]
    for kind in ("dirty", "clean"):
        (tmp_path / f"{kind}.csv").write_text(f"{header}\n{body}", "utf-8")
    if folder == "beers":
        contract = contract.replace('pattern: "[0-9]+\\\\.[0-9] (oz|OZ|ounce).*"', "required: true")
    found = judge(tmp_path, contract).found()
    assert found == set()
