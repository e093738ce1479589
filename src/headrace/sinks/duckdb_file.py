"""A DuckDB file as a target: tables change and the record of how far they are moves, in one transaction."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ..core import GONE, Commit, Frame, Held, Write, Written
from ..errors import Busy, ConfigError, HeadraceError, SystemFault, TransientError
from ..failpoints import reach
from .target import (
    COMMITS,
    DELETED,
    Settings,
    counts_sql,
    done,
    due,
    fitting,
    held_of,
    ident,
    matches,
    noted,
    sent_columns,
    stale,
    written,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TYPES = {
    "boolean": "BOOLEAN",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "double": "DOUBLE",
    "date": "DATE",
    "timestamp": "TIMESTAMP WITH TIME ZONE",
    "text": "VARCHAR",
    "json": "JSON",
}
_WORDS = {native: word for word, native in TYPES.items()}
_one_at_a_time = threading.Lock()
"""Tasks of one process take turns: transactions on one file in two threads would conflict."""


class DuckDB(Settings):
    """Tables in a DuckDB file that anybody opens; while it is written, other processes cannot."""

    type: Literal["duckdb"] = "duckdb"
    path: str = Field(min_length=1)
    """The file, relative to the pipeline file; made if need be."""
    schema_: str = Field("main", alias="schema", pattern=r"[^\x00]+")

    @cached_property
    def file(self) -> Path:
        return (self.root / Path(self.path).expanduser()).resolve()

    def sink(self, engine: Any) -> DuckDBSink:
        return DuckDBSink(self, engine)

    def holds(self) -> Mapping[str, Held]:
        if not self.file.exists():
            return {}
        with self.opened(read_only=True) as con:
            return _holds(self, con)

    def check(self) -> str:
        if not self.file.exists():
            return f"{self.file} (comes with the first run)"
        with self.opened(read_only=True) as con:
            return f"{self.file}, {len(_holds(self, con)):,} tables published"

    @contextmanager
    def opened(self, *, read_only: bool = False) -> Iterator[DuckDBPyConnection]:
        """The file, open; raises `Busy` while another process has it."""
        import duckdb

        if not read_only:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time:
            try:
                with duckdb.connect(str(self.file), read_only=read_only) as con:
                    con.execute("SET TimeZone = 'UTC'")
                    yield con
            except duckdb.Error as error:
                raise self._explained(error) from error

    def _explained(self, error: Exception) -> HeadraceError:
        import duckdb

        said = str(error).splitlines()[0]
        message = f"target {self.name}: {said}"
        if "Could not set lock" in said or "Conflicting lock" in said:
            return Busy(message, hint="another process has the file open; close it there, or run again later")
        if isinstance(error, duckdb.TransactionException):
            return TransientError(message)
        if isinstance(error, (duckdb.ConstraintException, duckdb.ConversionException)):
            return ConfigError(message, hint="the table there has a constraint of its own")
        if isinstance(error, duckdb.IOException):
            return SystemFault(message, hint=f"is {self.file} a DuckDB file, and is there room on the disk?")
        return SystemFault(message)


@dataclass(frozen=True, slots=True)
class DuckDBSink:
    target: DuckDB
    engine: Any

    def open(self, tables: Sequence[str], stream: str) -> DuckDBWriter:
        found: Mapping[str, Held] = {}
        exists = False
        if self.target.file.exists():
            with self.target.opened() as con:
                found = _holds(self.target, con)
                exists = any(_columns(self.target, con, table) for table in tables)
        known = held_of(found, stream, tables, exists)
        return DuckDBWriter(self.target, self.engine, stream, known)


@dataclass(slots=True)
class DuckDBWriter:
    target: DuckDB
    engine: Any
    stream: str
    held: Held

    @property
    def epoch(self) -> int:
        return self.held.epoch

    def write(
        self, parts: Sequence[tuple[Write, Frame]], commit: Commit, note: Mapping[str, Any] | None = None
    ) -> Sequence[Written]:
        """Applies `parts` in one transaction, exactly once for `commit`, or raises `Fenced`."""
        frames = [(write, self.engine.typed(frame)) for write, frame in parts]
        text = noted({**(note or {}), "table": parts[0][0].table})
        reach("publish.computed")
        results: list[Written] = []
        with self.target.opened() as con:
            _prepare(self.target, con)
            con.execute("BEGIN")
            try:
                if not self._due(con, commit, text):
                    con.execute("ROLLBACK")
                    return [Written(write.table, commit.next, skipped=True) for write, _ in parts]
                results = [self._apply(con, write, frame, commit) for write, frame in frames]
                self._move(con, commit, text, results)
                reach("publish.merged")
                con.execute("COMMIT")
            except BaseException:
                with suppress(Exception):  # the transaction may be over already
                    con.execute("ROLLBACK")
                raise
        reach("publish.committed")
        return results

    def _due(self, con: DuckDBPyConnection, commit: Commit, note: str) -> bool:
        where = _name(self.target, COMMITS)
        row = con.execute(f"SELECT epoch, note FROM {where} WHERE stream = ?", [commit.stream]).fetchall()
        epoch, known = row[0] if row else (0, "{}")
        return due(self.target.name, commit, note, epoch, known)

    def _move(self, con: DuckDBPyConnection, commit: Commit, note: str, results: Sequence[Written]) -> None:
        where = _name(self.target, COMMITS)
        con.execute(f"DELETE FROM {where} WHERE stream = ?", [commit.stream])
        counts = [sum(getattr(r, kind) for r in results) for kind in ("inserted", "updated", "deleted")]
        con.execute(
            f"INSERT INTO {where} VALUES (?, ?, ?, ?, ?, ?, ?, now())",
            [commit.stream, commit.next, results[0].table, note, *counts],
        )
        self.held = Held(commit.next, {}, True)

    def _apply(self, con: DuckDBPyConnection, write: Write, frame: Any, commit: Commit) -> Written:
        columns = sent_columns(frame.columns)
        kinds = {name: frame.columns[name] for name in columns}
        con.register("headrace_frame", frame)
        listed = ", ".join(f"{ident(name)}::{_native(kinds[name])} AS {ident(name)}" for name in columns)
        gone = GONE if GONE in frame.columns else "false"
        stage = "temp.headrace_stage"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE headrace_stage AS SELECT {listed}, {gone} AS {GONE} "
            "FROM headrace_frame"
        )
        con.unregister("headrace_frame")
        ((sent,),) = con.execute(f"SELECT count(*) FROM {stage}").fetchall()
        soft = self.target.deletes == "soft"
        if soft and DELETED not in kinds:
            con.execute(f"ALTER TABLE {stage} ADD COLUMN {DELETED} BOOLEAN DEFAULT false")
            columns, kinds = [*columns, DELETED], {**kinds, DELETED: "boolean"}
        self._shape(con, write, kinds)
        table = _name(self.target, write.table)
        ((before,),) = con.execute(f"SELECT count(*) FROM {table}").fetchall()
        names = ", ".join(map(ident, columns))
        fill = f"INSERT INTO {table} ({names}) SELECT {names} FROM {stage} s WHERE NOT s.{GONE}"
        if write.mode == "append" or not write.keys or not before:
            removed = before if write.mode == "replace" else 0
            if removed:
                con.execute(f"DELETE FROM {table}")
            inserted = _changed(con, fill)
            counts = (inserted, 0, sent - inserted if GONE in frame.columns else 0, 0, 0)
            return written(write, commit.next, sent, counts, removed)
        match = matches(write.keys, "t", "s")
        older = stale(write.sequence, "t", "s")
        said = [name for name in columns if name not in write.keys]
        differs = " OR ".join(f"t.{ident(n)} IS DISTINCT FROM s.{ident(n)}" for n in said) or "false"
        over = f"t.{DELETED} IS NOT DISTINCT FROM true" if soft else "false"
        conditions = {
            "here": "t.rowid IS NOT NULL",
            "gone": f"s.{GONE}",
            "older": f"(t.rowid IS NOT NULL AND {older})",
            "differs": f"({differs})",
            "over": f"({over})",
        }
        joined = f"{stage} s LEFT JOIN {table} t ON {match}"
        counts = con.execute(counts_sql(conditions, joined)).fetchall()[0]
        removed = 0
        mark = f"UPDATE {table} t SET {DELETED} = true" if soft else f"DELETE FROM {table} t"
        if write.mode == "replace":
            absent = f"NOT EXISTS (SELECT 1 FROM {stage} s WHERE {match}) AND NOT ({over})"
            removed = _changed(con, f"{mark} WHERE {absent}")
        source = "FROM" if soft else "USING"
        rows = _changed(
            con, f"{mark} {source} {stage} s WHERE s.{GONE} AND {match} AND NOT {older} AND NOT ({over})"
        )
        done(write, "deleted", counts[3], rows)
        con.execute(
            f"DELETE FROM {stage} s USING {table} t WHERE {match} AND ({older} OR NOT ({differs})) "
            f"AND NOT s.{GONE}"
        )
        con.execute(f"DELETE FROM {table} t USING {stage} s WHERE {match} AND NOT s.{GONE}")
        done(write, "written", counts[0] + counts[1], _changed(con, fill))
        return written(write, commit.next, sent, counts, removed)

    def _shape(self, con: DuckDBPyConnection, write: Write, kinds: Mapping[str, str]) -> None:
        """Makes the table, or gives it the columns and types that it lacks."""
        held = _columns(self.target, con, write.table)
        table = _name(self.target, write.table)
        if not held:
            listed = ", ".join(f"{ident(name)} {_native(kind)}" for name, kind in kinds.items())
            con.execute(f"CREATE TABLE {table} ({listed})")
            return
        for name, kind in fitting(self.target.name, write.table, held, kinds).items():
            con.execute(f"ALTER TABLE {table} ALTER {ident(name)} TYPE {_native(kind)}")
        for name, kind in kinds.items():
            if name not in held:
                con.execute(f"ALTER TABLE {table} ADD COLUMN {ident(name)} {_native(kind)}")


def _native(word: str) -> str:
    return TYPES.get(word) or word.upper()


def _name(target: DuckDB, table: str) -> str:
    return f"{ident(target.schema_)}.{ident(table)}"


def _changed(con: DuckDBPyConnection, sql: str) -> int:
    return int(con.execute(sql).fetchall()[0][0])


def _prepare(target: DuckDB, con: DuckDBPyConnection) -> None:
    con.execute(f"CREATE SCHEMA IF NOT EXISTS {ident(target.schema_)}")
    con.execute(
        f"CREATE TABLE IF NOT EXISTS {_name(target, COMMITS)} (stream VARCHAR, epoch BIGINT, "
        "table_name VARCHAR, note VARCHAR, inserted BIGINT, updated BIGINT, deleted BIGINT, "
        "published_at TIMESTAMPTZ)"
    )


def _columns(target: DuckDB, con: DuckDBPyConnection, table: str) -> dict[str, str | None]:
    """Columns by type word, None where no word says the same; none if there is no table."""
    rows = con.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
        "AND schema_name = ? AND table_name = ? ORDER BY column_index",
        [target.schema_, table],
    ).fetchall()
    return {
        name: _WORDS.get(kind) or (kind.lower() if kind.startswith("DECIMAL(") else None)
        for name, kind in rows
    }


def _holds(target: DuckDB, con: DuckDBPyConnection) -> dict[str, Held]:
    import json

    if not _columns(target, con, COMMITS):
        return {}
    rows = con.execute(f"SELECT stream, epoch, note FROM {_name(target, COMMITS)}").fetchall()
    return {stream: Held(epoch, json.loads(note), True) for stream, epoch, note in rows}
