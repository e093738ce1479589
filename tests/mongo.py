"""A MongoDB for tests: the stand-in of `mongo_server.py`, or the replica set of `HEADRACE_TEST_MONGO`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from mongo_server import stand_in
from pymongo import MongoClient
from services import missing

_count = itertools.count(1)


@dataclass
class Mongo:
    """A server; every test gets a database of its own."""

    url: str
    options: str = ""
    ours: bool = True
    """Whether it takes the commands that only the stand-in has."""

    def dsn(self, database: str) -> str:
        return f"{self.url}/{database}{self.options}"

    def forget(self) -> None:
        """The oplog loses all that it has."""
        self._only_ours("standInForget", {})

    def fail(self, command: str, code: int, name: str, times: int = 1) -> None:
        """The next commands of that name fail."""
        self._only_ours("standInFail", {"command": command, "code": code, "name": name, "times": times})

    def _only_ours(self, command: str, more: dict[str, Any]) -> None:
        if not self.ours:
            missing("a MongoDB of our own to hurt (HEADRACE_TEST_MONGO is somebody else's)")
        with MongoClient(self.dsn("admin")) as client:
            client.admin.command({command: 1, **more})


@dataclass
class Shop:
    """A database, with a client to write to it."""

    server: Mongo
    name: str
    client: MongoClient[Any]

    @property
    def db(self) -> Any:
        return self.client[self.name]

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)


@pytest.fixture(scope="session")
def mongo() -> Iterator[Mongo]:
    """One server for all tests of a session."""
    if url := os.environ.get("HEADRACE_TEST_MONGO"):
        base, mark, options = url.partition("?")
        yield Mongo(base.rstrip("/"), mark + options, ours=False)
        return
    server = stand_in()
    yield Mongo(f"mongodb://127.0.0.1:{server.port}", "?replicaSet=rs0")
    server.stop()


@pytest.fixture
def mongo_shop(mongo: Mongo) -> Iterator[Shop]:
    """An empty database of that server."""
    name = f"headrace_test_{os.getpid()}_{next(_count)}"
    with MongoClient[Any](mongo.dsn(name)) as client:
        yield Shop(mongo, name, client)
        client.drop_database(name)
