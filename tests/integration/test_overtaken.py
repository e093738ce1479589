"""A run that stood still while another one took over says so, whatever it stumbles over when it wakes up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.run import runner
from headrace.sinks.delta import DeltaWriter
from tests.projects import content, day, go, make, put


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make(tmp_path / "p", {"0.csv": day(0)})
    assert go(root).status == "success"
    put(root, "1.csv", day(1))
    return root


def rival(root: Path) -> None:
    """A whole run that sees no lease, as if it came while this one stood still."""
    subprocess.run(
        [sys.executable, "-m", "headrace.testing.mutant", "no-lock", "--", "run", "--quiet"],
        cwd=root,
        check=True,
        timeout=120,
    )


def stumbles(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None]) -> None:
    """Instead of writing, a run stands still for `before`, and then misses a file."""

    def write(_self: DeltaWriter, *_: Any, **__: Any) -> None:
        before()
        raise OSError("a file of mine is gone")

    monkeypatch.setattr(DeltaWriter, "write", write)


def test_it_is_fenced_by_the_plan_of_the_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stumbles(monkeypatch, lambda: rival(root))
    (table,) = go(root).tables
    assert table.error_type == "Fenced"
    assert "another run has taken over from epoch 2: a file of mine is gone" in str(table.error)


def test_it_is_fenced_by_the_loss_of_its_scratch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stumbles(monkeypatch, lambda: shutil.rmtree(root / "lake/.scratch"))
    (table,) = go(root).tables
    assert table.error_type == "Fenced"
    assert "another run took over while this one stood still, and cleared its scratch" in str(table.error)


def test_an_error_of_its_own_stays_what_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stumbles(monkeypatch, lambda: None)
    (table,) = go(root).tables
    assert (table.error_type, table.error) == ("OSError", "a file of mine is gone")


def test_what_the_other_landed_and_refined_is_no_damage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands still between landing and refining: its log of what has landed is older than the tables."""
    refine = runner._refine

    def late(plant: Any, name: str) -> Any:
        put(root, "2.csv", day(2))
        rival(root)
        return refine(plant, name)

    monkeypatch.setattr(runner, "_refine", late)
    report = go(root)
    (table,) = report.tables
    assert (report.status, table.error, table.noop) == ("success", None, True)
    clean = make(root.parent / "clean", {f"{n}.csv": day(n) for n in range(3)})
    go(clean)
    assert content(root) == content(clean)
