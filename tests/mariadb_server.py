"""A real MariaDB for tests: started on loopback from what Debian installs, stopped and deleted afterwards.

`HEADRACE_TEST_MARIADB` may name a running server instead (`mysql://root:…@host:port`; row binlog with full
metadata); tests that restart the server then skip.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from services import free_port, missing

SETTINGS = (
    *(
        "--log-bin=bin",
        "--binlog-format=ROW",
        "--binlog-row-metadata=FULL",
        "--server-id=1",
        "--sync-binlog=1",
    ),
    *("--bind-address=127.0.0.1", "--innodb-buffer-pool-size=64M", "--performance-schema=OFF"),
    *("--innodb-flush-log-at-trx-commit=1", "--character-set-server=utf8mb4", "--skip-name-resolve"),
)
_count = itertools.count(1)


@dataclass
class MariaDB:
    """A MariaDB server; `folder` is None if it is somebody else's, which cannot be restarted."""

    url: str
    folder: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    made: list[str] = field(default_factory=list)

    def dsn(self, database: str) -> str:
        return f"{self.url}/{database}"

    def connect(self, database: str | None = None) -> Any:
        import pymysql

        url = urlsplit(self.url)
        return pymysql.connect(
            host=url.hostname,
            port=url.port or 3306,
            user=unquote(url.username or "root"),
            password=unquote(url.password or ""),
            database=database,
            charset="utf8mb4",
            autocommit=True,
            init_command="SET time_zone = '+00:00', sql_mode = ''",
        )

    def sql(self, database: str | None, *statements: str) -> list[tuple[Any, ...]]:
        """Runs the statements; the rows of the last one."""
        with self.connect(database) as con, con.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def database(self) -> str:
        name = f"headrace_test_{os.getpid()}_{next(_count)}"
        self.sql(None, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        self.made.append(name)
        return name

    def start(self) -> None:
        assert self.folder is not None
        port = urlsplit(self.url).port
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(
                        _program("mariadbd"),
                        "--no-defaults",
                        f"--datadir={self.folder}/data",
                        f"--port={port}",
                    ),
                    *(f"--socket={self.folder}/socket", f"--pid-file={self.folder}/pid", *SETTINGS),
                    *(("--user=mysql",) if os.getuid() == 0 else ()),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        for _ in range(600):
            try:
                self.sql(None, "SELECT 1")
                return
            except Exception:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        raise RuntimeError((self.folder / "log").read_text(errors="replace")[-4000:])

    def crash(self) -> None:
        """Ends the server as a power cut does: it recovers from its logs at the next start."""
        if self.process is None:
            missing("a MariaDB server of our own to restart (HEADRACE_TEST_MARIADB is somebody else's)")
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/libexec") or name


def mariadb_server() -> MariaDB:
    """A server with a row binlog, started for the caller, who stops it with `remove`; or skips."""
    if url := os.environ.get("HEADRACE_TEST_MARIADB"):
        return MariaDB(url.rstrip("/"))
    if not Path(_program("mariadbd")).exists():
        missing("MariaDB server (apt-get install mariadb-server; or set HEADRACE_TEST_MARIADB)")
    folder = Path(tempfile.mkdtemp(prefix="headrace-mariadb-"))
    server = MariaDB(f"mysql://root@127.0.0.1:{free_port()}", folder)
    try:
        user = ["--user=mysql"] if os.getuid() == 0 else []
        if user:
            shutil.chown(folder, "mysql", "mysql")
        done = subprocess.run(
            [
                *("mariadb-install-db", "--no-defaults", f"--datadir={folder}/data", *user),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
            ],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        server.start()
    except BaseException:
        remove(server)
        raise
    return server


def remove(server: MariaDB) -> None:
    """Stops a server that `mariadb_server` started, and deletes it."""
    if server.folder is None:
        server.sql(None, *(f"DROP DATABASE IF EXISTS {name}" for name in server.made), "SELECT 1")
        return
    if server.process is not None and server.process.poll() is None:
        server.crash()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """One MariaDB server for all tests of a session."""
    server = mariadb_server()
    yield server
    remove(server)
