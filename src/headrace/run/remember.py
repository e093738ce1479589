"""Fills a lost catalog again from the records of the lake: runs, ledgers, verdicts and changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from ..catalog.catalog import Catalog, Record
from ..catalog.models import ChangeEvent, DataQualityResult, LedgerEntry, PipelineRun, RunMetrics, Verdict
from ..spec.project import Project
from ..store.records import Done, LandLog, RefineLog
from ..store.storage import LocalStorage
from .history import told_changes

Epochs = Sequence[tuple[str, Done]]


def remember(project: Project, storage: LocalStorage, catalog: Catalog) -> int:
    """Records every run of which the lake knows and the catalog does not; how many. Safe to repeat.

    Only runs that refined something have left a trace; records of an older Headrace count as a run each.
    """
    config = project.config
    logs = {name: RefineLog(storage, name) for name in (*config.tables, *config.streams)}
    runs: dict[str, list[tuple[str, Done]]] = {}
    for name, log in logs.items():
        for done in log.done:
            if done.mode != "restore":
                runs.setdefault(done.run_id or _own_id(name, done), []).append((name, done))
    found: list[Record] = []
    lost = 0
    for run_id, epochs in runs.items():
        if catalog.run(run_id) is None:
            found += [_run(project, run_id, epochs), *_entries(run_id, epochs), *_verdicts(run_id, epochs)]
            found += _changes(project, storage, logs, run_id, epochs)
            lost += 1
    catalog.record(found)
    return lost


def _own_id(name: str, done: Done) -> str:
    tail = hashlib.sha256(f"{name} {done.epoch}".encode()).hexdigest()[:4]
    return f"{_when(done.now):%Y%m%dT%H%M%S}-{tail}"


def _when(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _run(project: Project, run_id: str, epochs: Epochs) -> PipelineRun:
    total: dict[str, float] = {}
    for name, done in epochs:
        for word, count in done.ledger.items() if name in project.config.tables else ():
            total[word] = total.get(word, 0) + count
    started, ended = min(_when(done.now) for _, done in epochs), max(_when(done.time) for _, done in epochs)
    total["records_read"] = total.pop("read", 0)
    total["seconds"] = (ended - started).total_seconds()
    pipeline, env = project.config.name, project.env or ""
    return PipelineRun(run_id, pipeline, started, ended, "success", RunMetrics.of(total), env)


def _entries(run_id: str, epochs: Epochs) -> Iterator[LedgerEntry]:
    known = set(LedgerEntry.__dataclass_fields__)
    for name, done in epochs:
        counts = {word: count for word, count in done.ledger.items() if word in known}
        version = int(done.outputs[f"silver.{name}"]["version"])
        seconds = (_when(done.time) - _when(done.now)).total_seconds()
        yield LedgerEntry(run_id, name, done.epoch, version, **counts, seconds=seconds)


def _verdicts(run_id: str, epochs: Epochs) -> Iterator[DataQualityResult]:
    for name, done in epochs:
        read, now = done.ledger.get("read", 0), _when(done.time)
        for rule, rows in done.by_rule.items():
            yield DataQualityResult(name, rule, "fail", read, rows, now, run_id)
        for rule, rows in done.warned.items():
            yield DataQualityResult(name, rule, "warn", read, rows, now, run_id)
        for check in done.checks:
            bad: Verdict = "warn" if check["severity"] == "warn" else "fail"
            verdict: Verdict = "pass" if check["passed"] else bad
            yield DataQualityResult(name, str(check["name"]), verdict, read, 0, now, run_id)


def _changes(
    project: Project, storage: LocalStorage, logs: dict[str, RefineLog], run_id: str, epochs: Epochs
) -> Iterator[ChangeEvent]:
    """Changes that the epochs of a run were told of, or files that they were the first to read."""
    telling = {source for _, done in epochs for source in done.told}
    for name, done in epochs:
        if done.mode == "increment":
            yield from told_changes(run_id, name, done.told, _when(done.time))
    spans: dict[str, tuple[int, int]] = {}
    for name, done in epochs:
        plan = logs[name].planned(done.epoch)
        for source, (low, high) in plan.inputs.items():
            if plan.mode == "increment" and source in project.config.sources and source not in telling:
                before = spans.get(source, (low, high))
                spans[source] = (min(low, before[0]), max(high, before[1]))
    for source, (low, high) in spans.items():
        log = LandLog(storage, project.stream(source))
        old = {item.name for _, item in log.objects(-1, low)}
        names = {item.name for _, item in log.objects(low, high)}
        now = max(_when(done.time) for _, done in epochs)
        if names - old:
            yield ChangeEvent(source, source, "INSERT", now, len(names - old), run_id)
        if names & old:
            yield ChangeEvent(source, source, "UPDATE", now, len(names & old), run_id)
