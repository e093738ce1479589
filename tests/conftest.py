"""Fixtures for all tests. Real data is used where it is there; a test without it skips, or fails if STRICT=1."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

_DATA = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def missing(what: str) -> None:
    """Skips by name and reason; where a machine must have everything (STRICT=1), fails instead."""
    if os.environ.get("STRICT") == "1":
        pytest.fail(f"{what} is missing and STRICT=1")
    pytest.skip(f"{what} is missing")


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """The folder of a real data set by name, such as `online_retail`; set HEADRACE_DATA to where they lie."""

    def find(name: str) -> Path:
        path = _DATA / name
        if not path.exists():
            missing(f"data set {name} (looked in {_DATA})")
        return path

    return find
