"""Events that were acknowledged are here, once each, until they have landed; many share one sync to disk.

One SQLite file: an event and the names by which it would be recognised again are one transaction, which is on
disk (write-ahead log, `synchronous=FULL`) when `append` returns.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import Corrupt, TransientError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, line BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS names (name BLOB PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS names_at ON names (at);
"""
_FORGET = 5000
"""Names forgotten in one go: nobody waits long for it."""


class Full(TransientError):
    """No room for more; nothing was taken."""


@dataclass(frozen=True, slots=True)
class Event:
    names: Sequence[bytes]
    """Any of them known means that the event is here, or was."""
    line: bytes
    """One line of JSON, with its line end."""


@dataclass
class Spool:
    """Used by one thread at a time; several processes may have one open (a receiver, and the source)."""

    con: sqlite3.Connection
    id: str
    """Tells this spool from one that took its place."""

    @classmethod
    def open(cls, path: Path, most_bytes: int | None = None) -> Spool:
        """The spool at `path`, made if need be; beyond `most_bytes` it is full."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)  # events may hold personal data
        try:
            con = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            con.execute("PRAGMA journal_mode=WAL")
            con.execute("PRAGMA synchronous=FULL")
            con.executescript(_SCHEMA)
            con.execute("INSERT OR IGNORE INTO meta VALUES ('id', ?), ('landed', 0)", [uuid.uuid4().hex])
            if most_bytes is not None:
                size = con.execute("PRAGMA page_size").fetchone()[0]
                con.execute(f"PRAGMA max_page_count={max(int(most_bytes) // size, 64)}")
            name = con.execute("SELECT value FROM meta WHERE name = 'id'").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise _problem(path, error) from error
        return cls(con, str(name))

    def close(self) -> None:
        self.con.close()

    def append(self, events: Sequence[Event], remember: float) -> list[bool]:
        """Whether each was new; all of them are on disk on return, or none is, and `Full` says why.

        Names are known for `remember` seconds.
        """
        now = int(time.time())
        fresh = []
        with self._transaction():
            for event in events:
                marks = ", ".join("?" * len(event.names))
                known = (
                    event.names
                    and self.con.execute(
                        f"SELECT 1 FROM names WHERE name IN ({marks}) AND at >= ? LIMIT 1",
                        [*event.names, now - int(remember)],
                    ).fetchone()
                )
                fresh.append(not known)
                if not known:
                    self.con.execute("INSERT INTO events (line) VALUES (?)", [event.line])
                    rows = [(name, now) for name in event.names]
                    self.con.executemany("INSERT OR REPLACE INTO names VALUES (?, ?)", rows)
            self.con.execute(
                "DELETE FROM names WHERE name IN (SELECT name FROM names WHERE at < ? LIMIT ?)",
                [now - int(remember), _FORGET],
            )
        return fresh

    def read(self, after: int, most_bytes: int) -> tuple[int, int, bytes] | None:
        """(first, last, lines) of what follows `after`, at least one event; None if nothing does."""
        lines: list[bytes] = []
        size, first, last = 0, 0, after
        rows = self.con.execute("SELECT seq, line FROM events WHERE seq > ? ORDER BY seq", [after])
        for seq, line in rows:
            if lines and size + len(line) > most_bytes:
                break
            lines.append(line)
            size += len(line)
            first, last = first or seq, seq
        rows.close()
        return (first, last, b"".join(lines)) if lines else None

    def landed(self) -> int:
        """The last event that has landed and is gone from here."""
        return int(self.con.execute("SELECT value FROM meta WHERE name = 'landed'").fetchone()[0])

    def drop(self, last: int) -> None:
        """Removes what has landed, up to and with `last`; the names stay."""
        with self._transaction():
            self.con.execute("DELETE FROM events WHERE seq <= ?", [last])
            self.con.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'landed'", [last])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self.con.execute("BEGIN IMMEDIATE")
            yield
            self.con.execute("COMMIT")
        except BaseException as error:
            if self.con.in_transaction:
                self.con.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _problem(Path("spool"), error) from error
            raise


def _problem(path: Path, error: sqlite3.Error) -> Full | Corrupt:
    if isinstance(error, sqlite3.OperationalError):
        hint = "land what is here (headrace run), make room, or raise `spool_max`"
        return Full(f"{path}: events cannot be kept now: {error}", hint=hint)
    return Corrupt(f"{path} is no spool: {error}", hint="move it aside and keep it: sqlite3 may recover it")
