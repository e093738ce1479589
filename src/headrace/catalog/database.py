"""Opens the catalog's database: makes it, brings it up to date, or moves a broken one aside.

SQLite is shared by processes: write-ahead log, one writer at a time (`BEGIN IMMEDIATE`: a transaction that
reads first and writes later could not wait for its turn). Any other SQLAlchemy URL is used as it is.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event, exc

from .. import redact
from ..errors import Busy, ConfigError, HeadraceError, MissingExtra, SystemFault, TransientError
from .schema import METADATA, REVISION, VERSION

T = TypeVar("T")
Step = tuple[sa.Executable, Sequence[Mapping[str, Any]]]
"""A statement and all the parameters that it is executed with."""

WAIT = 20.0
"""Seconds to wait for another process that writes."""

_BROKEN = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_IOERR_SHORT_READ", "SQLITE_READONLY_DBMOVED")
_DUPLICATE = ("SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_UNIQUE")


class Taken(Busy):
    """A row of this key is there already."""


@dataclass(slots=True)
class Database:
    """Transactions on a catalog of this version's schema; a broken or vanished SQLite file is replaced."""

    url: sa.URL
    engine: sa.Engine
    _file: tuple[int, int] | None = None
    """Device and inode of the SQLite file, to notice that it was deleted or replaced under us."""

    @classmethod
    def open(cls, where: str | Path) -> Database:
        """The database at a path (SQLite) or URL. Raises `ConfigError` if a newer Headrace has written it."""
        url = _url(where)
        shown = url.render_as_string(hide_password=True)
        try:
            engine = sa.create_engine(_readable(url), connect_args=_connect_args(url))
        except exc.ArgumentError as error:  # NoSuchModuleError is one
            raise ConfigError(
                f"catalog `{shown}`: {error}",
                hint="give a path, or a URL such as postgresql+psycopg://host/name",
            ) from None
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"catalog `{shown}` needs the package `{error.name}`", hint=f"pip install {error.name}"
            ) from None
        database = cls(url, engine)
        if database.path:
            event.listen(engine, "connect", _on_connect)
            event.listen(engine, "begin", _on_begin)
        database._recovering(database._prepare)
        return database

    @property
    def path(self) -> Path | None:
        """Of the SQLite file; None for a server."""
        return Path(str(self.url.database)) if self.url.get_backend_name() == "sqlite" else None

    def read(self, statement: sa.Select[Any]) -> list[sa.Row[Any]]:
        """All rows of `statement`."""

        def work() -> list[sa.Row[Any]]:
            with self.engine.connect() as connection:
                return list(connection.execute(statement))

        return self._recovering(work)

    def write(self, steps: Sequence[Step], again: int = 0) -> None:
        """All of `steps` in one transaction; raises `Taken` if a key is there after `again` more tries."""

        def work() -> None:
            with self._writing() as connection:
                for statement, rows in steps:
                    if rows:
                        connection.execute(statement, rows)

        try:
            self._recovering(work)
        except Taken:
            if not again:
                raise
            self.write(steps, again - 1)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self.engine.connect().execution_options(headrace_write=True) as connection, connection.begin():
            yield connection

    def _recovering(self, work: Callable[[], T]) -> T:
        """What `work` returns, after a repair if the SQLite file turns out broken, replaced or gone."""
        try:
            if self._file and self._file != self._on_disk():
                self.engine.dispose()
                self._prepare()
            return work()
        except exc.DBAPIError as error:
            if not self._lost(error):
                raise self._explained(error) from error
            reason = str(error.orig)
        try:
            self._repair(reason)
            return work()
        except exc.DBAPIError as error:
            raise self._explained(error) from error

    def _on_disk(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat() if self.path else None
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if found else None

    def _prepare(self) -> None:
        if self.path:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SystemFault(
                    f"catalog `{self.path}`: {error}", hint="put it where a folder can be made"
                ) from error
        with self.engine.connect() as connection:
            found = _version(connection)
        if found is None:
            self._create()
        elif found != REVISION:
            from .migrate import upgrade

            with self._writing() as connection:
                upgrade(connection)
        self._file = self._on_disk()

    def _create(self) -> None:
        try:
            with self._writing() as connection:
                if _version(connection) is None:  # another process may have been first
                    METADATA.create_all(connection)
                    VERSION.create(connection, checkfirst=True)
                    connection.execute(VERSION.insert(), {"version_num": REVISION})
        except exc.DBAPIError:
            # A server lets two processes create at once: one of them fails, and finds the other's work.
            with self.engine.connect() as connection:
                if _version(connection) is None:
                    raise

    def _lost(self, error: exc.DBAPIError) -> bool:
        code = getattr(error.orig, "sqlite_errorname", "")
        return code.startswith(_BROKEN) or (code == "SQLITE_ERROR" and "no such table" in str(error.orig))

    def _repair(self, reason: str) -> None:
        """Moves the file aside unless it is sound by now, and starts a new one; one process at a time."""
        assert self.path
        self.engine.dispose()
        with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _sound(self.path):
                aside = self.path.with_name(f"{self.path.name}.broken-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
                for tail in ("", "-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        Path(f"{self.path}{tail}").rename(f"{aside}{tail}")
                warnings.warn(
                    f"catalog {self.path} is broken ({reason}): moved to {aside.name}, and a new one begun; "
                    "the history of runs is lost, no data is",
                    stacklevel=2,
                )
            self._prepare()

    def _explained(self, error: exc.DBAPIError) -> HeadraceError:
        shown = self.url.render_as_string(hide_password=True)
        message = f"catalog `{self.path or shown}`: {redact.text(str(error.orig)).strip()}"
        code = getattr(error.orig, "sqlite_errorname", "")
        if code in _DUPLICATE or getattr(error.orig, "sqlstate", "") == "23505":
            return Taken(message)
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return Busy(message, hint=f"another process has been writing for over {WAIT:.0f} s; look for it")
        if not self.path and isinstance(error, exc.OperationalError):
            return TransientError(message, hint="is the database server up, and the URL right?")
        hint = "look at the space and rights of its folder; the catalog may be deleted, it holds no data"
        return SystemFault(message, hint=hint if self.path else None)


def _url(where: str | Path) -> sa.URL:
    if isinstance(where, Path) or "://" not in where:
        return sa.URL.create("sqlite", database=str(Path(where).absolute()))
    try:
        url = sa.make_url(where)
    except exc.ArgumentError:
        raise ConfigError(
            f"catalog: `{redact.text(where)}` is no URL", hint="e.g. postgresql+psycopg://user@host/name"
        ) from None
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigError(
            f"catalog: `{where}` lives in memory, where other processes cannot see it", hint="give a path"
        )
    return url


def _readable(url: sa.URL) -> sa.URL:
    """The URL by which a SQLite file can be read where nothing may be written: a disk mounted read-only, say.

    SQLite cannot even read such a file otherwise, for its write-ahead log needs a file of its own beside it.
    Only a log that is still unread forbids it: what is in there would be missing.
    """
    if url.get_backend_name() != "sqlite" or not frozen(path := Path(str(url.database))):
        return url
    return url.set(database=f"file:{quote(str(path))}", query={"uri": "true", "mode": "ro", "immutable": "1"})


def frozen(path: Path) -> bool:
    """Whether the SQLite file at `path` can only be read, and as it lies there, without its log."""
    log = Path(f"{path}-wal")
    if not path.is_file() or (log.exists() and log.stat().st_size):
        return False
    return not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def _connect_args(url: sa.URL) -> dict[str, Any]:
    return {"timeout": WAIT} if url.get_backend_name() == "sqlite" else {}


def _on_connect(connection: Any, record: object) -> None:  # noqa: ARG001 - SQLAlchemy's signature
    connection.isolation_level = None  # transactions begin where SQLAlchemy says, not where sqlite3 guesses
    with suppress(sqlite3.OperationalError):  # locked: whoever holds it is setting the same
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _on_begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("headrace_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION.name):
        return None
    found: str | None = connection.execute(sa.select(VERSION.c.version_num)).scalar()
    return found


def _sound(path: Path) -> bool:
    """Whether SQLite can read the file and all of its tables are there; a file that is not there is sound."""
    if not path.exists():
        return True
    try:
        with closing(sqlite3.connect(path, timeout=WAIT)) as connection:
            checked = connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError:
        return False
    return checked and (VERSION.name not in tables or set(METADATA.tables) <= tables)
