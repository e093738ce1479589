"""What `start: now` passed over comes in portions, once, and killed anywhere it goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace import failpoints
from headrace.errors import ConfigError
from headrace.run.backfill import backfill, window
from headrace.run.corrections import fix as correct
from headrace.spec.load import load
from headrace.store.records import RefineLog
from headrace.store.storage import LocalStorage
from tests.projects import PIPELINE, content, day, go, headrace, make, put, rows

LATE = PIPELINE.replace("    history: true\n", "    history: true\n    start: now\n")
EARLY = (
    PIPELINE.partition("tables:")[0]
    + """tables:
  other: {from: orders, contract: {columns: {order_id: {}}}}
"""
)


def begun(root: Path, days: int = 4) -> Path:
    """A lake whose bronze is older than its table."""
    make(root, {f"{n}.csv": day(n) for n in range(days)}, EARLY)
    assert go(root).status == "success"
    (root / "pipeline.yml").write_text(LATE)
    assert go(root).status == "success"
    assert rows(root, "silver.orders") == []
    return root


def clean(root: Path, days: int) -> Path:
    make(root, {f"{n}.csv": day(n) for n in range(days)})
    go(root)
    return root


def test_portions_and_the_live_stream_together_equal_the_whole(tmp_path: Path) -> None:
    root = begun(tmp_path / "late")
    put(root, "4.csv", day(4))
    go(root)
    found = []
    for place, (told, report) in enumerate(backfill(load(root), "orders", portion=1)):
        found.append(told)
        if place == 2:
            put(root, "5.csv", day(5))
            assert go(root).status == "success", "a run between two portions"
        if report:
            assert report.tables[0].ledger.read == 40
            assert report.tables[0].ledger.balanced
    assert (found[0].files, found[0].refined, len(found[0].portions)) == (5, 1, 4)
    assert content(root) == content(clean(tmp_path / "clean", 6))
    again = list(backfill(load(root), "orders"))
    assert [(told.refined, len(told.portions), report) for told, report in again] == [(6, 0, None)]
    assert str(again[0][0]).endswith("6 are refined; nothing to backfill")


@pytest.mark.parametrize("place", [each for each in failpoints.PLACES if each.startswith(("refine", "sink"))])
def test_killed_at_every_step_it_goes_on_where_it_was(tmp_path: Path, place: str) -> None:
    root = begun(tmp_path / "late", 3)
    for options in ((), ("--files", "data/0.csv"), ()):
        killed = headrace(root, "backfill", "orders", *options, env={"HEADRACE_FAILPOINTS": f"{place}=kill"})
        assert killed.returncode < 0 or "nothing to backfill" in killed.stdout
    done = headrace(root, "backfill", "orders")
    assert done.returncode == 0, done.stderr
    assert content(root) == content(clean(tmp_path / "clean", 3))


def test_an_append_table_takes_nothing_twice(tmp_path: Path) -> None:
    pipeline = LATE
    for line in ("    keys: [order_id]\n", "    latest_by: updated_at\n", "    history: true\n"):
        pipeline = pipeline.replace(line, "")
    root = make(tmp_path, {f"{n}.csv": day(n) for n in range(3)}, EARLY)
    go(root)
    (root / "pipeline.yml").write_text(pipeline)
    go(root)
    killed = headrace(root, "backfill", "orders", env={"HEADRACE_FAILPOINTS": "refine.outputs=kill"})
    assert killed.returncode < 0
    for _ in range(2):
        assert headrace(root, "backfill", "orders").returncode == 0
    assert len(rows(root, "silver.orders")) + len(rows(root, "quarantine.orders")) == 120


def test_a_window_is_files_by_glob_or_by_arrival(tmp_path: Path) -> None:
    root = begun(tmp_path)
    project = load(root)
    assert window(project, "orders", files="data/[12].csv").files == 2
    arrived = window(project, "orders", files="data/2.csv").first
    assert window(project, "orders", since=arrived).files == 2
    assert window(project, "orders", until=arrived).files == 2
    assert window(project, "orders", since="2000-01-01", until="2001-01-01").files == 0
    before = sorted(path for path in (root / "lake/_headrace").rglob("*.json"))
    told = headrace(root, "backfill", "orders", "--dry-run", "--files", "data/1.csv")
    assert "1 files" in told.stdout
    assert "1 to refine in 1 portions" in told.stdout
    assert sorted(path for path in (root / "lake/_headrace").rglob("*.json")) == before
    taken = headrace(root, "backfill", "orders", "--files", "data/1.csv")
    assert "orders  read 40 = " in taken.stdout, taken.stderr
    assert window(project, "orders").refined == 1


def test_what_cannot_be_filled_in_says_why(tmp_path: Path) -> None:
    root = begun(tmp_path)
    project = load(root)
    with pytest.raises(ConfigError, match="not defined"):
        window(project, "ordres")
    with pytest.raises(ConfigError, match="is no time"):
        window(project, "orders", since="yesterday")
    (root / "pipeline.yml").write_text(LATE.replace("customer <> 'nobody'", "amount >= 0"))
    with pytest.raises(ConfigError, match=r"computed anew|nobody has accepted"):
        list(backfill(load(root), "orders"))
    assert rows(root, "silver.orders") == []


def test_a_table_from_the_beginning_lacks_nothing(tmp_path: Path) -> None:
    root = clean(tmp_path, 2)
    ((told, report),) = backfill(load(root), "orders")
    assert (told.files, told.refined, report) == (2, 2, None)
    put(root, "9.csv", day(2))
    assert RefineLog(LocalStorage(root / "lake"), "orders").epoch == 1


def test_a_window_is_refined_again_without_doubling_a_row(tmp_path: Path) -> None:
    root = clean(tmp_path, 3)
    before = content(root)
    told = headrace(root, "backfill", "orders", "--again", "--files", "data/[01].csv", "--dry-run")
    assert "2 to refine in 1 portions" in told.stdout, told.stderr
    again = headrace(root, "backfill", "orders", "--again", "--files", "data/[01].csv")
    assert "orders  read 80 = " in again.stdout, again.stderr
    assert content(root) == before
    done = RefineLog(LocalStorage(root / "lake"), "orders").last
    assert done is not None
    assert done.ledger["inserted"] + done.ledger["updated"] == 0
    assert "0 new files" in headrace(root, "run").stdout
    put(root, "3.csv", day(3))
    assert go(root).status == "success"
    assert content(root) == content(clean(tmp_path / "clean", 4))


def test_again_judges_quarantine_anew_and_keeps_corrections(tmp_path: Path) -> None:
    root = clean(tmp_path, 2)
    correct(load(root), "orders", where="customer = 'nobody'", sets=["customer = 'c9'"])
    go(root)
    before = content(root)
    assert len(before["quarantine.orders"]) == 2
    list(backfill(load(root), "orders", again=True))
    assert content(root) == before
    go(root, rebuild=["orders"])
    assert content(root) == before


def test_killed_between_portions_again_goes_on_and_then_begins_anew(tmp_path: Path) -> None:
    root = clean(tmp_path, 4)
    before = content(root)
    steps = backfill(load(root), "orders", again=True, portion=1)
    assert [len(next(steps)[0].portions) for _ in range(3)] == [4, 4, 4]
    steps.close()
    put(root, "4.csv", day(4))
    go(root)
    left = window(load(root), "orders", again=True, portion=1)
    assert (left.files, left.refined, len(left.portions)) == (5, 2, 3)
    list(backfill(load(root), "orders", again=True, portion=1))
    assert len(window(load(root), "orders", again=True, portion=1).portions) == 5, "another backfill begins"
    assert len(window(load(root), "orders", again=True, portion=1, files="data/0*").portions) == 1
    assert content(root) != before
    assert content(root) == content(clean(tmp_path / "clean", 5))


@pytest.mark.parametrize("place", [each for each in failpoints.PLACES if each.startswith(("refine", "sink"))])
def test_killed_at_every_step_again_doubles_nothing(tmp_path: Path, place: str) -> None:
    root = clean(tmp_path, 2)
    before = content(root)
    killed = headrace(root, "backfill", "orders", "--again", env={"HEADRACE_FAILPOINTS": f"{place}=kill"})
    assert killed.returncode < 0
    assert headrace(root, "backfill", "orders", "--again").returncode == 0
    assert content(root) == before


def test_again_is_refused_where_rows_have_no_key(tmp_path: Path) -> None:
    pipeline = PIPELINE
    for line in ("    keys: [order_id]\n", "    latest_by: updated_at\n", "    history: true\n"):
        pipeline = pipeline.replace(line, "")
    root = make(tmp_path, {"0.csv": day(0)}, pipeline)
    go(root)
    before = rows(root, "silver.orders")
    refused = headrace(root, "backfill", "orders", "--again")
    assert refused.returncode == 2
    assert "would not be known by a key" in refused.stderr
    assert rows(root, "silver.orders") == before
