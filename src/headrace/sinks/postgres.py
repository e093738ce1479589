"""PostgreSQL as a target: rows change and the record of how far they are moves, in one transaction.

Rows come by COPY; nothing is sent one by one. A commit whose answer was lost is looked up in that record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from pydantic import Field, model_validator

from ..core import Commit, Frame, Held, Write, Written
from ..drivers.postgres import Connection
from ..errors import ConfigError, DataError, TransientError
from ..failpoints import reach
from .target import COMMITS, Settings, due, held_of, ident, noted

if TYPE_CHECKING:
    from .postgres_server import Server

LOOKS = (0.2, 0.5, 1, 2, 4, 8)
"""Seconds between attempts to find out whether a commit has happened whose answer was lost."""


class Postgres(Settings):
    """Tables in one schema of a PostgreSQL database."""

    type: Literal["postgres"] = "postgres"
    url: str = Field(repr=False, min_length=1)
    """`postgresql://user:password@host:5432/database`, by reference: ${WAREHOUSE}."""
    schema_: str = Field("public", alias="schema", pattern=r"[^\x00]+", max_length=63)
    timeout: float = Field(60.0, gt=0)
    """Seconds that a lock, or a silent writer, is waited for."""

    @model_validator(mode="after")
    def _reachable(self) -> Postgres:
        self.server()
        return self

    def server(self) -> Server:
        from .postgres_server import Server

        return Server(self.url, self.name, self.timeout)

    def sink(self, engine: Any) -> PostgresSink:
        return PostgresSink(self, engine)

    def holds(self) -> Mapping[str, Held]:
        with self.server().connected() as con:
            return holds(con, self)

    def check(self) -> str:
        """Says what is there; raises `ConfigError` with what to grant where something is missing."""
        with self.server().connected() as con:
            ((user, has, database),) = con.execute(
                "SELECT current_user, to_regnamespace(%s) IS NOT NULL, current_database()",
                [ident(self.schema_)],
            ).fetchall()
            asked, where, right = (
                ("has_schema_privilege", ident(self.schema_), "USAGE, CREATE ON SCHEMA")
                if has
                else ("has_database_privilege", ident(database), "CREATE, TEMPORARY ON DATABASE")
            )
            ((may,),) = con.execute(
                f"SELECT {asked}(%s, 'CREATE')", [self.schema_ if has else database]
            ).fetchall()
            if not may:
                raise ConfigError(
                    f"target {self.name}: {user} may not make tables in {where}",
                    hint=f"GRANT {right} {where} TO {ident(user)}",
                )
            ((temporary,),) = con.execute(
                "SELECT has_database_privilege(current_database(), 'TEMPORARY')"
            ).fetchall()
            if not temporary:
                raise ConfigError(
                    f"target {self.name}: {user} may not make temporary tables",
                    hint=f"GRANT TEMPORARY ON DATABASE {ident(database)} TO {ident(user)}",
                )
            return f"answers as {user}, {len(holds(con, self)):,} tables published in {self.schema_}"


@dataclass(frozen=True, slots=True)
class PostgresSink:
    target: Postgres
    engine: Any

    def open(self, tables: Sequence[str], stream: str) -> PostgresWriter:
        from .postgres_write import columns_of

        with self.target.server().connected() as con:
            found = holds(con, self.target)
            exists = any(columns_of(con, self.target.schema_, table) for table in tables)
        known = held_of(found, stream, tables, exists)
        return PostgresWriter(self.target, self.engine, stream, known)


@dataclass(slots=True)
class PostgresWriter:
    target: Postgres
    engine: Any
    stream: str
    held: Held

    @property
    def epoch(self) -> int:
        return self.held.epoch

    def write(
        self, parts: Sequence[tuple[Write, Frame]], commit: Commit, note: Mapping[str, Any] | None = None
    ) -> Sequence[Written]:
        """Applies `parts` in one transaction, exactly once for `commit`, or raises `Fenced`.

        Raises `TransientError` where it is not known yet whether a commit has happened: the record tells it.
        """
        from .postgres_write import Load, filled

        text = noted({**(note or {}), "table": parts[0][0].table})
        server = self.target.server()
        with (
            TemporaryDirectory(prefix="publish-", dir=self.engine.scratch) as folder,
            ExitStack() as opened,
        ):
            loads = []
            for place, (write, frame) in enumerate(parts):
                typed = self.engine.typed(frame)
                path = Path(folder) / f"{place}.csv"
                rows = self.engine.lines(typed, path)
                file = opened.enter_context(path.open("rb"))
                loads.append(Load(write, typed.columns, file, rows))
            reach("publish.computed")
            with server.connected() as con:
                prepare(con, self.target)
                try:
                    filling = [filled(con, self.target, load, place) for place, load in enumerate(loads)]
                except psycopg.errors.CharacterNotInRepertoire as error:
                    raise self._with_nul(parts, error) from None
                if not self._due(con, commit, text):
                    return [Written(write.table, commit.next, skipped=True) for write, _ in parts]
                results = [fill.merged(con, commit.next) for fill in filling]
                self._move(con, commit, text, results)
                reach("publish.merged")
                try:
                    con.commit()
                except psycopg.OperationalError as error:
                    self._resolve(server, commit, text, error)
                self.held = Held(commit.next, json.loads(text), True)
        reach("publish.committed")
        return results

    def _with_nul(self, parts: Sequence[tuple[Write, Frame]], error: Exception) -> DataError:
        told = [
            f"column `{name}` of {count:,} rows"
            for _, frame in parts
            for name, count in self.engine.with_nul(frame).items()
        ]
        what = f"{' and '.join(told)} hold the character NUL" if told else str(error).splitlines()[0]
        return DataError(
            f"target {self.target.name}: table `{parts[0][0].table}`: {what}; PostgreSQL has no such text",
            hint="nothing was written; let the contract refuse such rows with a rule, or take NUL out: "
            "`derive: replace(name, chr(0), '')`",
        )

    def _due(self, con: Connection, commit: Commit, note: str) -> bool:
        """Whether this commit is still to be done; from here on nobody else moves the stream."""
        where = _commits(self.target)
        con.execute(
            f"INSERT INTO {where} (stream, epoch, table_name, note) VALUES (%s, 0, '', '{{}}') "
            "ON CONFLICT (stream) DO NOTHING",
            [commit.stream],
        )
        ((epoch, known),) = con.execute(
            f"SELECT epoch, note FROM {where} WHERE stream = %s FOR UPDATE", [commit.stream]
        ).fetchall()
        return due(self.target.name, commit, note, epoch, known)

    def _move(self, con: Connection, commit: Commit, note: str, results: Sequence[Written]) -> None:
        counts = [sum(getattr(r, kind) for r in results) for kind in ("inserted", "updated", "deleted")]
        con.execute(
            f"UPDATE {_commits(self.target)} SET epoch = %s, table_name = %s, note = %s, inserted = %s, "
            "updated = %s, deleted = %s, published_at = now() WHERE stream = %s",
            [commit.next, results[0].table, note, *counts, commit.stream],
        )

    def _resolve(self, server: Server, commit: Commit, note: str, error: Exception) -> None:
        """Returns if the commit whose answer was lost has happened; raises what is to be done if not.

        It asks for the row's lock, and so waits for a transaction that is still about to end.
        """
        for seconds in LOOKS:
            time.sleep(seconds)
            with suppress(TransientError), server.connected() as con:
                rows = con.execute(
                    f"SELECT epoch, note FROM {_commits(self.target)} WHERE stream = %s FOR UPDATE",
                    [commit.stream],
                ).fetchall()
                if rows and rows[0] == (commit.next, note):
                    return
                raise server.explained(error) from error  # type: ignore[arg-type]
        raise TransientError(
            f"target {self.target.name}: the connection was lost in a commit, and cannot be had again",
            hint="whether it has happened is in the target's own record; the next run looks there",
        ) from error


def _commits(target: Postgres) -> str:
    return f"{ident(target.schema_)}.{COMMITS}"


def prepare(con: Connection, target: Postgres) -> None:
    """Makes the schema and the record of streams where they are not there yet."""
    ((has,),) = con.execute("SELECT to_regclass(%s) IS NOT NULL", [_commits(target)]).fetchall()
    if not has:
        con.execute("SELECT pg_advisory_xact_lock(hashtext('headrace'))")  # two at once would collide
        ((schema,),) = con.execute(
            "SELECT to_regnamespace(%s) IS NOT NULL", [ident(target.schema_)]
        ).fetchall()
        if not schema:
            con.execute(f"CREATE SCHEMA {ident(target.schema_)}")
        con.execute(
            f"CREATE TABLE IF NOT EXISTS {_commits(target)} (stream text PRIMARY KEY, epoch bigint NOT NULL, "
            "table_name text NOT NULL, note text NOT NULL, inserted bigint, updated bigint, deleted bigint, "
            "published_at timestamptz)"
        )
    con.commit()


def holds(con: Connection, target: Postgres) -> dict[str, Held]:
    ((has,),) = con.execute("SELECT to_regclass(%s) IS NOT NULL", [_commits(target)]).fetchall()
    if not has:
        return {}
    rows = con.execute(f"SELECT stream, epoch, note FROM {_commits(target)} WHERE epoch > 0").fetchall()
    return {stream: Held(epoch, json.loads(note), True) for stream, epoch, note in rows}
