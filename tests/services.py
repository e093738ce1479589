"""Real servers for tests: started on loopback from what Debian installs, stopped and deleted afterwards.

`HEADRACE_TEST_POSTGRES` may name a running server instead (a URL of a superuser; `wal_level=logical`); tests
that restart the server then skip. What is not there skips by name; with STRICT=1 it fails.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


def missing(what: str) -> None:
    """Skips by name and reason; where a machine must have everything (STRICT=1), fails instead."""
    if os.environ.get("STRICT") == "1":
        pytest.fail(f"{what} is missing and STRICT=1")
    pytest.skip(f"{what} is missing")


_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_wal_senders": "30",
    "max_replication_slots": "30",
    "max_connections": "80",
    "shared_buffers": "64MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_sender_timeout": "20s",
    "log_min_messages": "warning",
}
_count = itertools.count(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Database:
    """A database of its own in a server; every test gets one."""

    server: Postgres
    name: str

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    def sql(self, *statements: str, values: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Runs each statement in a transaction of its own; the rows of the last one."""
        import psycopg

        rows: list[tuple[Any, ...]] = []
        with psycopg.connect(self.dsn, autocommit=True) as con:
            for statement in statements:
                done = con.execute(statement, values)
                rows = done.fetchall() if done.description else []
        return rows

    def connect(self, **options: Any) -> Any:
        import psycopg

        return psycopg.connect(self.dsn, **options)


@dataclass
class Postgres:
    """A PostgreSQL server; `folder` is None if it is somebody else's, which cannot be restarted."""

    url: str
    folder: Path | None = None
    bin: Path | None = None
    port: int = 0
    databases: list[str] = field(default_factory=list)

    def dsn(self, database: str = "postgres") -> str:
        return re.sub(r"/[^/?]*(\?.*)?$", rf"/{database}\1", self.url)

    def database(self) -> Database:
        name = f"headrace_test_{os.getpid()}_{next(_count)}"
        Database(self, "postgres").sql(f"create database {name}")
        self.databases.append(name)
        return Database(self, name)

    def drop(self, database: Database) -> None:
        """The database with its slots and whoever uses it."""
        admin = Database(self, "postgres")
        busy = f"select active_pid from pg_replication_slots where database = '{database.name}' and active"
        admin.sql(f"select pg_terminate_backend(active_pid) from ({busy}) s")
        for _ in range(100):
            if not admin.sql(busy):
                break
        admin.sql(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots "
            f"where database = '{database.name}' and not temporary"
        )
        admin.sql(f"drop database if exists {database.name} with (force)")

    def start(self) -> None:
        self._control("start", "-w", "-l", f"{self.folder}/log")

    def stop(self, mode: str = "fast") -> None:
        """`immediate` is what a crash is: no checkpoint, recovery from the WAL at the next start."""
        self._control("stop", "-m", mode)

    def restart(self, mode: str = "immediate") -> None:
        self._control("restart", "-w", "-m", mode, "-l", f"{self.folder}/log")

    def _control(self, *arguments: str) -> None:
        if self.folder is None or self.bin is None:
            missing("a PostgreSQL server of our own to restart (HEADRACE_TEST_POSTGRES is somebody else's)")
        assert self.bin is not None
        _run([f"{self.bin}/pg_ctl", "-D", f"{self.folder}/data", "-t", "60", *arguments])


def postgres_server() -> Postgres:
    """A server with `wal_level=logical`, started for the caller, who stops it with `remove`; or skips."""
    if url := os.environ.get("HEADRACE_TEST_POSTGRES"):
        return Postgres(url)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        missing("PostgreSQL server (apt-get install postgresql; or set HEADRACE_TEST_POSTGRES)")
    bin = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    port = free_port()
    server = Postgres(f"postgresql://postgres@127.0.0.1:{port}/postgres", folder, bin, port)
    try:
        _run([f"{bin}/initdb", "-D", f"{folder}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"])
        lines = {**_SETTINGS, "port": str(port), "unix_socket_directories": str(folder)}
        text = "".join(f"{name} = '{value}'\n" for name, value in lines.items())
        with (folder / "data" / "postgresql.conf").open("a") as out:
            out.write(text)
        server.start()
    except BaseException:
        remove(server)
        raise
    return server


def remove(server: Postgres) -> None:
    """Stops a server that `postgres_server` started, and deletes it."""
    if server.folder is None:
        for name in server.databases:
            server.drop(Database(server, name))
        return
    if (server.folder / "data" / "postmaster.pid").exists():
        server.stop("immediate")
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL server for all tests of a session; where tests run side by side, one for each worker,
    since some of them stop it.
    """
    server = postgres_server()
    yield server
    remove(server)


@pytest.fixture
def database(postgres: Postgres) -> Iterator[Database]:
    """An empty database of that server."""
    made = postgres.database()
    yield made
    postgres.drop(made)


def _run(command: Sequence[str]) -> None:
    as_user: dict[str, Any] = {}
    if os.getuid() == 0:  # the server refuses to run as root
        as_user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    with tempfile.TemporaryFile() as out:  # a pipe would stay open as long as the server lives
        done = subprocess.run(
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd="/", check=False, **as_user
        )
        if done.returncode:
            out.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {out.read().decode(errors='replace')}")
