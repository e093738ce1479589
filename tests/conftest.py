"""Fixtures for all tests. Real data is used where it is; a test without it skips, or fails if STRICT=1."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from mariadb_server import mariadb as mariadb
from mongo import mongo as mongo
from mongo import mongo_shop as mongo_shop
from services import database as database
from services import missing
from services import postgres as postgres

# Machines differ and are shared: a property is judged by what it says, not by how long it takes. The same
# examples every time, so that a failure is a change and not the weather; HYPOTHESIS_PROFILE=search looks on.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

_DATA = Path(os.environ.get("HEADRACE_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """The folder of a real data set by name, such as `online_retail`; set HEADRACE_DATA to where they lie."""

    def find(name: str) -> Path:
        path = _DATA / name
        if not path.exists():
            missing(f"data set {name} (looked in {_DATA})")
        return path

    return find
