"""Writes what a run did into the catalog; the lake needs none of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..catalog.models import (
    ChangeEvent,
    ChangeType,
    DataQualityResult,
    LedgerEntry,
    PipelineRun,
    PipelineVersion,
    RunMetrics,
    TaskExecution,
    Verdict,
)
from ..spec.project import Project
from .graph import TaskResult
from .report import LoadResult, RunReport, TableReport

if TYPE_CHECKING:
    from ..catalog.catalog import Catalog


def begin(catalog: Catalog, project: Project) -> PipelineRun:
    """Records that a run has started."""
    version = PipelineVersion(project.config.name, project.fingerprint, project.public, datetime.now(UTC))
    return catalog.start_run(project.config.name, env=project.env or "", version=version)


def abort(catalog: Catalog, run: PipelineRun, error: BaseException) -> None:
    catalog.finish_run(run, "failed", error=f"{type(error).__name__}: {error}")


def end(catalog: Catalog, run: PipelineRun, report: RunReport, results: Mapping[str, TaskResult]) -> None:
    """Records all that the report says: tasks, ledgers, verdicts, changes, and the run's end."""
    now = datetime.now(UTC)
    catalog.task(*(_task(run.run_id, result) for result in results.values()))
    catalog.ledger(
        *(_entry(run.run_id, table) for table in report.tables if not table.error and not table.noop)
    )
    catalog.ledger(*(_load(run.run_id, load) for load in report.loads if not load.error and not load.noop))
    verdicts = [item for table in report.tables for item in _verdicts(run.run_id, table, now)]
    catalog.quality([*verdicts, *_gold_verdicts(run.run_id, report, now)])
    catalog.changes(_changes(run.run_id, report, now))
    errors = [source.error for source in report.sources if source.error]
    errors += [table.error for table in report.tables if table.error]
    errors += [load.error for load in report.loads if load.error]
    if report.gold and report.gold.error:
        errors.append(report.gold.error)
    catalog.finish_run(run, report.status, metrics=metrics(report), error="\n".join(errors) or None)


def _changes(run_id: str, report: RunReport, now: datetime) -> Iterator[ChangeEvent]:
    """Of a source of changes the rows that it told, table by table; of others the files that are new."""
    telling = {source for table in report.tables for source in table.told}
    for source in report.sources:
        found: dict[ChangeType, int] = {
            "INSERT": source.new_files,
            "UPDATE": source.changed,
            "DELETE": len(source.vanished),
        }
        for kind, count in found.items():
            if count and source.name not in telling:
                yield ChangeEvent(source.name, source.name, kind, now, count, run_id)
    for table in report.tables:
        if not table.rebuilt:
            yield from told_changes(run_id, table.name, table.told, now)


def told_changes(
    run_id: str, table: str, told: Mapping[str, Mapping[str, int]], now: datetime
) -> Iterator[ChangeEvent]:
    """What sources told of one table. A truncation is one change, however many rows it reached."""
    kinds: Mapping[ChangeType, str] = {"INSERT": "rc", "UPDATE": "u", "DELETE": "dt"}
    for source, counts in told.items():
        for kind, words in kinds.items():
            if rows := sum(counts.get(word, 0) for word in words):
                yield ChangeEvent(source, table, kind, now, rows, run_id)


def metrics(report: RunReport) -> RunMetrics:
    """Totals over all tables and sources; windows are made of rows that their tables count."""
    total: dict[str, float] = {}
    for table in (table for table in report.tables if not table.windows):
        for name, count in asdict(table.ledger).items():
            total[name] = total.get(name, 0) + count
    total["records_read"] = total.pop("read", 0)
    total["files"] = sum(source.new_files + source.changed for source in report.sources)
    total["bytes"] = sum(source.bytes for source in report.sources)
    total["seconds"] = report.seconds
    lags = [lag for source in report.sources for lag in source.lag.values()]
    for name, word in (("lag_bytes", "bytes"), ("lag_seconds", "seconds"), ("retained_bytes",) * 2):
        total[name] = max((lag[word] for lag in lags), default=0)
    return RunMetrics.of(total)


def _task(run_id: str, result: TaskResult) -> TaskExecution:
    return TaskExecution(
        result.name,
        run_id,
        result.started,
        result.ended,
        result.status,
        str(result.error) if result.error else result.reason or None,
        result.error_class,
        result.retry_count,
    )


def _entry(run_id: str, table: TableReport) -> LedgerEntry:
    return LedgerEntry(
        run_id, table.name, table.epoch, table.version, **asdict(table.ledger), seconds=table.seconds
    )


def _load(run_id: str, load: LoadResult) -> LedgerEntry:
    """A publication's ledger: every row that was sent to the target, under the name `target.table`."""
    return LedgerEntry(
        run_id,
        load.name,
        load.epoch,
        load.version,
        read=load.sent,
        inserted=load.inserted,
        updated=load.updated,
        unchanged=load.unchanged,
        deleted=load.deleted,
        removed=load.removed,
        seconds=load.seconds,
    )


def _verdicts(run_id: str, table: TableReport, now: datetime) -> Iterator[DataQualityResult]:
    read = table.ledger.read
    for rule, rows in table.by_rule.items():
        yield DataQualityResult(table.name, rule, "fail", read, rows, now, run_id)
    for rule, rows in table.warned.items():
        yield DataQualityResult(table.name, rule, "warn", read, rows, now, run_id)
    for check in table.checks:
        bad: Verdict = "warn" if check["severity"] == "warn" else "fail"
        verdict: Verdict = "pass" if check["passed"] else bad
        yield DataQualityResult(table.name, str(check["name"]), verdict, read, 0, now, run_id)


def _gold_verdicts(run_id: str, report: RunReport, now: datetime) -> Iterator[DataQualityResult]:
    for node in report.gold.nodes if report.gold else ():
        if node["kind"] == "test":
            known: dict[str, Verdict] = {"pass": "pass", "warn": "warn"}
            verdict = known.get(str(node["status"]), "fail")
            failures = int(node.get("failures") or 0)
            yield DataQualityResult("gold", str(node["name"]), verdict, 0, failures, now, run_id)
