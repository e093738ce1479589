"""The metadata database: what ran, how it went, and what need not be looked at again.

Nothing here decides what data is right: the lake's own records do. The catalog may be deleted at any time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

import sqlalchemy as sa

from .. import redact
from . import schema
from .database import Database, Step, Taken
from .models import (
    ChangeEvent,
    CircuitBreakerState,
    DataQualityResult,
    FileSignature,
    LedgerEntry,
    PipelineRun,
    PipelineVersion,
    RunMetrics,
    TaskExecution,
    new_run_id,
)

Record = (
    PipelineRun
    | TaskExecution
    | LedgerEntry
    | DataQualityResult
    | ChangeEvent
    | CircuitBreakerState
    | PipelineVersion
    | FileSignature
)
R = TypeVar("R", bound=Record)

_TABLES: Mapping[type[Any], sa.Table] = {
    PipelineRun: schema.RUNS,
    TaskExecution: schema.TASKS,
    LedgerEntry: schema.LEDGER,
    DataQualityResult: schema.QUALITY,
    ChangeEvent: schema.CHANGES,
    CircuitBreakerState: schema.BREAKERS,
    PipelineVersion: schema.VERSIONS,
    FileSignature: schema.SIGNATURES,
}
_SPOKEN = ("error", "error_message", "last_error")
"""Texts that others wrote, where a password may stand."""

_BORN = datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Each call is one transaction, safe among threads and processes; writing a row again replaces it.

    Raises `Busy` if another process holds the database too long, `SystemFault` if it cannot be written.
    """

    database: Database

    @classmethod
    def open(cls, where: str | Path) -> Catalog:
        """The catalog at a path (SQLite) or SQLAlchemy URL, made or brought up to date if need be.

        A broken SQLite file is moved aside with a warning. Raises `ConfigError` if a newer version wrote it.
        """
        return cls(Database.open(where))

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.database.close()

    # Runs

    def start_run(
        self,
        pipeline: str,
        *,
        env: str = "",
        version: PipelineVersion | None = None,
        run_id: str | None = None,
    ) -> PipelineRun:
        """A new run, `running` from now; its earlier runs whose process is gone become `failed`."""
        now = datetime.now(UTC)
        self._bury(pipeline, now)
        if version and not any(version.fingerprint == known.fingerprint for known in self.versions(pipeline)):
            self.record([version])
        run = PipelineRun(
            run_id or new_run_id(now),
            pipeline,
            now,
            env=env,
            fingerprint=version.fingerprint if version else "",
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        for _ in range(9):
            try:
                self.database.write([(schema.RUNS.insert(), [_values(run)])])
                return run
            except Taken:
                if run_id:
                    raise
                run = replace(run, run_id=new_run_id(now))
        raise Taken(f"no free run id at {now}")

    def finish_run(
        self,
        run: PipelineRun,
        status: Literal["success", "failed", "incomplete"],
        *,
        metrics: RunMetrics | None = None,
        error: str | None = None,
    ) -> PipelineRun:
        """`run` as it ended, written whole: it is complete even if the catalog was lost meanwhile."""
        ended = replace(
            run, end_time=datetime.now(UTC), status=status, metrics=metrics or run.metrics, error=error
        )
        self.record([ended])
        return ended

    def run(self, run_id: str) -> PipelineRun | None:
        found = self._select(PipelineRun, schema.RUNS.c.run_id == run_id)
        return found[0] if found else None

    def runs(self, limit: int | None = 20, pipeline: str | None = None) -> list[PipelineRun]:
        """The newest runs, newest first; all of them if `limit` is None."""
        table = schema.RUNS
        only = [table.c.pipeline_name == pipeline] if pipeline else []
        newest = (table.c.start_time.desc(), table.c.run_id.desc())
        return self._select(PipelineRun, *only, order=newest, limit=limit)

    # What a run did

    def task(self, *executions: TaskExecution) -> None:
        self.record(executions)

    def tasks(self, run_id: str) -> list[TaskExecution]:
        """The tasks of a run in the order in which they started; skipped ones last."""
        table = schema.TASKS
        order = (table.c.start_time.is_(None), table.c.start_time, table.c.task_id)
        return self._select(TaskExecution, table.c.run_id == run_id, order=order)

    def ledger(self, *entries: LedgerEntry) -> None:
        self.record(entries)

    def ledgers(self, run_id: str) -> list[LedgerEntry]:
        table = schema.LEDGER
        return self._select(LedgerEntry, table.c.run_id == run_id, order=(table.c.table_name,))

    def quality(self, results: Iterable[DataQualityResult]) -> None:
        """Keeps the results; of several with the same run, table and test, the last."""
        self.record(results)

    def quality_results(self, run_id: str) -> list[DataQualityResult]:
        table = schema.QUALITY
        order = (table.c.table_name, table.c.test_name)
        return self._select(DataQualityResult, table.c.run_id == run_id, order=order)

    def quality_trend(self, table: str, rule: str | None = None, days: int = 30) -> list[DataQualityResult]:
        """Results for `table` (of one rule) over the last `days`, oldest first."""
        columns = schema.QUALITY.c
        since = datetime.now(UTC) - timedelta(days=days)
        only = [columns.table_name == table, columns.execution_time >= since]
        if rule is not None:
            only.append(columns.test_name == rule)
        order = (columns.execution_time, columns.run_id, columns.test_name)
        return self._select(DataQualityResult, *only, order=order)

    def changes(self, events: Iterable[ChangeEvent]) -> None:
        self.record(events)

    def change_events(self, source_id: str, limit: int = 100) -> list[ChangeEvent]:
        """The newest changes of a source, newest first."""
        columns = schema.CHANGES.c
        order = (columns.timestamp.desc(), columns.table_name, columns.change_type)
        return self._select(ChangeEvent, columns.source_id == source_id, order=order, limit=limit)

    # What is kept from run to run

    def breaker(self, name: str) -> CircuitBreakerState:
        """The circuit's state; closed if it was never kept."""
        found = self._select(CircuitBreakerState, schema.BREAKERS.c.name == name)
        return found[0] if found else CircuitBreakerState(name)

    def keep_breaker(self, name: str, state: Mapping[str, Any]) -> None:
        """Keeps what `CircuitBreaker.state` gave: failures, opened_at, last_error."""
        self.record([CircuitBreakerState(name, **state)])

    def versions(self, pipeline: str) -> list[PipelineVersion]:
        """All configurations that have run, in the order of their first appearance."""
        columns = schema.VERSIONS.c
        order = (columns.first_seen, columns.fingerprint)
        return self._select(PipelineVersion, columns.pipeline_name == pipeline, order=order)

    def signatures(self, stream: str) -> dict[str, tuple[Mapping[str, Any], str]]:
        """File name → (signature, sha256) as last remembered."""
        found = self._select(FileSignature, schema.SIGNATURES.c.stream == stream)
        return {item.name: (item.signature, item.sha256) for item in found}

    def remember(self, stream: str, seen: Mapping[str, tuple[Mapping[str, Any], str]]) -> None:
        """Keeps file name → (signature, sha256) for later runs."""
        self.record(FileSignature(stream, name, *what) for name, what in seen.items())

    # Everything at once

    def record(self, records: Iterable[Record]) -> None:
        """Writes rows of any kinds in one transaction; a row of the same key is replaced, the last one stays.

        This is also how a lost catalog is filled again from the records of the lake.
        """
        kinds: dict[type[Any], dict[tuple[Any, ...], dict[str, Any]]] = {}
        for item in records:
            values = _values(item)
            key = tuple(values[column.name] for column in _TABLES[type(item)].primary_key)
            kinds.setdefault(type(item), {})[key] = values
        steps: list[Step] = []
        for kind, rows in kinds.items():
            table, batch = _TABLES[kind], list(rows.values())
            match = [column == sa.bindparam(f"old_{column.name}") for column in table.primary_key]
            old = [{f"old_{c.name}": row[c.name] for c in table.primary_key} for row in batch]
            # No two databases share an upsert statement; delete and insert in one transaction is one.
            steps += [(table.delete().where(*match), old), (table.insert(), batch)]
        if steps:
            self.database.write(steps, again=3)

    def forget_before(self, when: datetime) -> int:
        """Deletes runs that started before `when`, with all that belongs to them; how many."""
        runs = schema.RUNS
        gone = [
            row.run_id for row in self.database.read(sa.select(runs.c.run_id).where(runs.c.start_time < when))
        ]
        tables = (schema.TASKS, schema.LEDGER, schema.QUALITY, schema.CHANGES, runs)
        keys = [{"gone": run_id} for run_id in gone]
        self.database.write(
            [(table.delete().where(table.c.run_id == sa.bindparam("gone")), keys) for table in tables]
        )
        return len(gone)

    def _bury(self, pipeline: str, now: datetime) -> None:
        columns = schema.RUNS.c
        running = self._select(PipelineRun, columns.status == "running", columns.pipeline_name == pipeline)
        self.record(
            replace(run, status="failed", end_time=now, error="its process ended without a word")
            for run in running
            if _dead(run)
        )

    def _select(
        self,
        kind: type[R],
        *only: sa.ColumnElement[bool],
        order: Sequence[sa.ColumnElement[Any]] = (),
        limit: int | None = None,
    ) -> list[R]:
        statement = sa.select(_TABLES[kind]).where(*only).order_by(*order).limit(limit)
        return [_record(kind, row) for row in self.database.read(statement)]


def _values(record: Record) -> dict[str, Any]:
    values = {item.name: getattr(record, item.name) for item in fields(record)}
    if isinstance(record, PipelineRun):
        values["metrics"] = asdict(record.metrics)
    for name in _SPOKEN:
        if values.get(name):
            values[name] = redact.text(values[name])
    return values


def _record(kind: type[R], row: sa.Row[Any]) -> R:
    values = dict(row._mapping)
    if kind is PipelineRun:
        values["metrics"] = RunMetrics.of(values["metrics"])
    make: Callable[..., R] = kind
    return make(**values)


def _dead(run: PipelineRun) -> bool:
    """Whether the run's process is surely gone; on another machine, one cannot know."""
    if run.host != socket.gethostname() or not run.pid:
        return False
    if run.pid == os.getpid():
        return run.start_time < _BORN  # an earlier process had our number
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
