"""The wheel builds; its core installs from the lock alone, with pip, in a new environment."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 250 << 20


FOREIGN = ("PYTHON", "HEADRACE", "COVERAGE")
"""With PYTHONPATH, say, pip would take the working tree for an installed package."""


def _call(*command: str | Path, cwd: Path | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    line = [str(part) for part in command]
    done = subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the core and nothing else."""
    here = tmp_path_factory.mktemp("install")
    tree = here / "tree"
    # A copy, so that building leaves nothing in the working tree.
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    _call(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", here, tree)
    _call(sys.executable, "-m", "venv", here / "venv")
    place = here / "venv" / "bin"
    _call(place / "pip", "install", "--quiet", "--require-hashes", "-r", ROOT / "requirements/core.lock")
    (wheel,) = here.glob("headrace-*.whl")
    _call(place / "pip", "install", "--quiet", "--no-deps", wheel)
    return place


def _bytes(place: Path) -> int:
    """Of all that the wheels hold; bytecode, which Python may write or not, is not counted."""
    total = 0
    packages = next(place.parent.glob("lib/python*/site-packages"))
    for record in packages.glob("*.dist-info/RECORD"):
        if record.parent.name.startswith(("pip-", "setuptools-")):
            continue
        for name, *_ in csv.reader(record.open()):
            if not name.endswith(".pyc") and (packages / name).exists():
                total += (packages / name).stat().st_size
    return total


def test_the_core_is_small_and_has_no_dataframe_library(installed: Path) -> None:
    size = _bytes(installed)
    print(f"core: {size / (1 << 20):.0f} MiB")
    assert size < LIMIT
    names = {line.partition("==")[0].lower() for line in _call(installed / "pip", "freeze").splitlines()}
    assert not names & {"pyarrow", "numpy", "pandas", "polars", "dbt-core"}


def test_pip_finds_no_conflict(installed: Path) -> None:
    assert "No broken requirements" in _call(installed / "pip", "check")


def test_it_starts_fast_and_runs_a_new_project(installed: Path, tmp_path: Path) -> None:
    python, headrace = installed / "python", installed / "headrace"
    for told, limit, command in (
        ("import headrace", 0.3, [python, "-c", "import headrace"]),
        ("headrace --help", 0.5, [headrace, "--help"]),
    ):
        _call(*command, cwd=tmp_path)
        before = os.times()
        _call(*command, cwd=tmp_path)
        after = os.times()
        # Time on the processor: what else the machine does has no part in it, as long as nothing waits.
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        print(f"{told}: {spent:.2f} s")
        assert spent < limit, told
    _call(headrace, "init", "shop", cwd=tmp_path)
    told = _call(headrace, "run", cwd=tmp_path / "shop")
    assert "orders  read 7 = " in told
    told = _call(
        headrace, "query", "select count(*) as n from silver.orders", "-f", "csv", cwd=tmp_path / "shop"
    )
    assert told == "n\n4\n"
