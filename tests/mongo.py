"""A MongoDB for tests: the stand-in of `mongo_server.py`, or the replica set of `HEADRACE_TEST_MONGO`.

`snapshots` is another server, FerretDB, that speaks the same protocol and was written by others; it has no
change streams. `HEADRACE_TEST_FERRETDB` says where its program lies, unless `scripts/services` put it there.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mongo_server import stand_in
from pymongo import MongoClient
from services import free_port, missing

FERRETDB = Path(
    os.environ.get("HEADRACE_TEST_FERRETDB", Path(__file__).parents[1] / ".services" / "ferretdb")
)
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


@pytest.fixture
def snapshots() -> Iterator[Shop]:
    """A database of a FerretDB."""
    if not FERRETDB.exists():
        missing("FerretDB (scripts/services builds it where Go is; or set HEADRACE_TEST_FERRETDB)")
    folder = Path(tempfile.mkdtemp(prefix="headrace-ferretdb-"))
    port = free_port()
    process = subprocess.Popen(
        [str(FERRETDB), "--handler=sqlite", f"--sqlite-url=file:{folder}/", f"--listen-addr=127.0.0.1:{port}",
         "--debug-addr=-", f"--state-dir={folder}", "--telemetry=disable"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    server = Mongo(f"mongodb://127.0.0.1:{port}", "?directConnection=true", ours=False)
    try:
        for _ in range(200):
            if process.poll() is None and _answers(server):
                break
            time.sleep(0.1)
        with MongoClient[Any](server.dsn("shop")) as client:
            yield Shop(server, "shop", client)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(server: Mongo) -> bool:
    with MongoClient[Any](f"{server.dsn('admin')}&serverSelectionTimeoutMS=300") as client:
        try:
            client.admin.command("ping")
        except Exception:
            return False
    return True
