"""One run of a pipeline: land, refine and build, as a graph of tasks; what happened goes to the catalog.

The lake decides what is true; the catalog only remembers. A run does not start without it, but what a run has
committed stays committed and is reported, also when the catalog is lost in the middle.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import redact
from ..core import Engine
from ..errors import ConfigError, Fenced, HeadraceError
from ..spec.pipeline import TableSpec
from ..spec.project import Project
from ..spec.window import undefined
from ..sql import compile_table
from ..sql.windows import compile_stream
from ..store.records import LandLog, RefineLog
from ..store.storage import LocalStorage, scratch_folder
from . import history
from .accept import require
from .alone import alone as _alone
from .breaker import CircuitBreaker
from .golden import build_gold
from .graph import Task, TaskResult, execute, select
from .land import land
from .opened import open_catalog, open_storage
from .parts import engine_of, lands_of, part, refinery
from .publish import Publication, publish
from .refine import refine
from .report import (
    Event,
    GoldReport,
    Listener,
    LoadResult,
    RunReport,
    SourceReport,
    Status,
    TableReport,
    silent,
)
from .retention import Keeper, due, tend
from .windows import definition_of, fingerprint_of, refine_windows, windowing

if TYPE_CHECKING:
    from ..catalog.catalog import Catalog


@dataclass(frozen=True)
class Plant:
    """What all tasks of a run share. Logs of land streams are read once and handed on."""

    project: Project
    storage: LocalStorage
    catalog: Catalog
    scratch: Path
    listener: Listener
    rebuild: Sequence[str] = ()
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lands: dict[str, LandLog] = field(default_factory=dict)
    again: str = ""
    run_ids: list[str] = field(default_factory=list)
    """The id of this run, once it has begun."""
    engines: dict[str, Engine] = field(default_factory=dict)
    """Of the tables that are being refined now."""

    def land_log(self, source: str) -> LandLog:
        if source not in self.lands:
            self.lands[source] = LandLog(self.storage, self.project.stream(source))
        return self.lands[source]


def run(
    project: Project,
    *,
    select: Sequence[str] = (),
    listener: Listener | None = None,
    rebuild: Sequence[str] = (),
    only: Mapping[str, Sequence[str]] | None = None,
    again: str = "",
    accept_changes: bool = False,
) -> RunReport:
    """Runs the pipeline once. Data errors are in the report; only configuration errors and `Busy` are raised.

    `select` takes part of the graph (`sales+`, `+gold`); `rebuild` names tables to compute anew from bronze;
    `only` names, by table, older objects to refine in place of new ones; `again`, a reason, those also that
    have been refined.
    A breaking change of a table that nobody has accepted is refused, unless `accept_changes` accepts it now.
    """
    started = time.monotonic()
    redact.register(project.secrets)
    check(project, rebuild)
    storage = open_storage(project)
    with _alone(project.lake) as lease, open_catalog(project) as catalog:
        shutil.rmtree(project.lake / ".scratch", ignore_errors=True)
        with scratch_folder(project.lake / ".scratch") as scratch:
            plant = Plant(
                project, storage, catalog, scratch, listener or silent, rebuild, only or {}, again=again
            )
            tasks = _tasks(plant, select)
            refined = [task.name.partition(":")[2] for task in tasks if task.name.startswith("refine:")]
            require(project, storage, refined, accepting=accept_changes)
            record = history.begin(catalog, project)
            plant.run_ids.append(record.run_id)
            if lease:
                lease.tell(record.run_id)
            try:
                results = execute(tasks, project.config.parallel, plant.listener)
            except BaseException as error:
                history.abort(catalog, record, error)
                raise
            report = _report(project, record.run_id, results, time.monotonic() - started)
            try:
                history.end(catalog, record, report, results)
            except HeadraceError as error:
                plant.listener(Event("run", "note", message=f"not in the history: {error}"))
            if lease and lease.lost:
                message = f"this run stood still, and another one took over: {lease.lost}"
                plant.listener(Event("run", "note", message=message))
            elif report.status != "failed":
                _tend(plant)
    return report


def check(project: Project, rebuild: Sequence[str] = ()) -> None:
    """Compiles every contract and binds those that have not run yet: no mistake waits for the data."""
    for name in rebuild:
        if name not in project.config.tables and name not in project.config.streams:
            hint = undefined(name, project.config.streams, project.config.tables)
            raise ConfigError(f"rebuild: table `{name}` is not defined", hint=hint)
    tables = project.config.tables
    where = {name: str(project.shown.where(("tables", name, "contract"))) for name in tables}
    steps = {name: compile_table(name, spec, where=where[name]) for name, spec in tables.items()}
    changed = {name: where[name] for name in tables if not _has_run(project, name)}
    if changed:
        part("engines", "duckdb").validate(steps, changed)
    _check_streams(project)


def _check_streams(project: Project) -> None:
    config, found = project.config, []
    for name, stream in config.streams.items():
        contract = config.tables[stream.given].contract
        columns = {column: item.type for column, item in contract.columns.items()}
        step = compile_stream(name, stream, columns, partial(_where, project, name))
        known = RefineLog(LocalStorage(project.lake), name).last if project.lake.exists() else None
        definition = definition_of(name, stream, config.tables[stream.given])
        if known is None or known.fingerprint != fingerprint_of(definition):
            found.append(step)
    if found:
        part("engines", "duckdb").validate_windows(found)


def _where(project: Project, stream: str, at: tuple[str | int, ...]) -> str | None:
    mark = project.shown.where(("streams", stream, *at))
    return str(mark) if mark else None


def _has_run(project: Project, table: str) -> bool:
    """Whether the last epoch of `table` had the spec that it has now."""
    if not project.lake.exists():
        return False
    log = RefineLog(LocalStorage(project.lake), table)
    spec = project.config.tables[table].model_dump(mode="json", by_alias=True)
    return log.last is not None and log.planned(log.epoch).spec == spec


def _tasks(plant: Plant, patterns: Sequence[str]) -> list[Task]:
    config = plant.project.config
    attempts, base = config.retry.attempts, config.retry.base
    tasks = [
        Task(f"land:{name}", (), partial(_land, plant, name), optional=True, attempts=attempts, base=base)
        for name in config.sources
    ]
    for name, spec in config.tables.items():
        needs = [f"land:{source}" for source in spec.source]
        needs += [f"refine:{table}" for table in references(spec) if table != name]
        tasks.append(
            Task(
                f"refine:{name}",
                tuple(needs),
                partial(_refine, plant, name),
                attempts=attempts,
                base=base,
                cancel=partial(_interrupt, plant, name),
            )
        )
    for name, stream in config.streams.items():
        tasks.append(
            Task(
                f"refine:{name}",
                (f"refine:{stream.given}",),
                partial(_windows, plant, name),
                attempts=attempts,
                base=base,
                cancel=partial(_interrupt, plant, name),
            )
        )
    for name, targets in config.published.items():
        tasks += [
            Task(
                f"publish:{target}.{name}",
                (f"refine:{name}",),
                partial(_publish, plant, target, name),
                attempts=attempts,
                base=base,
                cancel=partial(_interrupt, plant, f"{target}.{name}"),
            )
            for target in targets
        ]
    if config.gold:
        needs = [f"refine:{name}" for name in (*config.tables, *config.streams)]
        tasks.append(Task("gold", tuple(needs), partial(_gold, plant), attempts=attempts, base=base))
    return select(tasks, patterns)


def references(spec: TableSpec) -> list[str]:
    """Tables that `spec` has foreign keys to."""
    found = {
        column.references.partition(".")[0] for column in spec.contract.columns.values() if column.references
    }
    return sorted(found)


def _breaker(plant: Plant, what: str) -> CircuitBreaker:
    known = plant.catalog.breaker(what)
    breaker = CircuitBreaker(name=known.name, on_change=partial(plant.catalog.keep_breaker, known.name))
    breaker.restore(asdict(known))
    return breaker


def _land(plant: Plant, name: str) -> SourceReport:
    breaker = _breaker(plant, f"source {name}")
    source = plant.project.source(name)
    return breaker.call(lambda: land(source, name, plant.land_log(name), plant.catalog, plant.listener))


def _refine(plant: Plant, name: str) -> TableReport:
    lands = lands_of(plant.project.config.tables[name], plant.land_log)
    with refinery(plant.project, name, plant.storage, lands, plant.scratch / name, plant.listener) as work:
        plant.engines[name] = work.engine
        try:
            work = replace(work, run_id=plant.run_ids[0], again=plant.again)
            if not plant.only and name not in plant.rebuild:
                from .late import take_up  # which knows of corrections, and they of runs

                take_up(work)
            return refine(
                work, rebuild="asked for" if name in plant.rebuild else None, only=plant.only.get(name, ())
            )
        except Fenced:
            raise
        except Exception as error:
            if plant.scratch.exists():
                raise
            raise Fenced(
                f"table `{name}`: another run took over while this one stood still, and cleared its scratch: "
                f"{str(error).splitlines()[0]}",
                hint="nothing of this epoch was written by this run; run again",
            ) from error
        finally:
            del plant.engines[name]


def _windows(plant: Plant, name: str) -> TableReport:
    with windowing(plant.project, name, plant.storage, plant.scratch / name, plant.listener) as work:
        plant.engines[name] = work.engine
        try:
            work = replace(work, run_id=plant.run_ids[0])
            return refine_windows(work, rebuild="asked for" if name in plant.rebuild else None)
        finally:
            del plant.engines[name]


def _interrupt(plant: Plant, name: str) -> None:
    """Ends the query that refines table `name`, if one runs: nothing of its epoch has been committed."""
    if engine := plant.engines.get(name):
        engine.interrupt()


def _publish(plant: Plant, target: str, table: str) -> list[LoadResult]:
    """Publishes the table and its history; a target that is down is not called again and again."""
    task = f"{target}.{table}"
    breaker = _breaker(plant, f"target {target}")
    with engine_of(plant.project, plant.scratch / "publish" / task) as engine:
        plant.engines[task] = engine
        try:
            work = Publication(plant.project, plant.storage, engine, target, table)
            return breaker.call(lambda: publish(work))
        finally:
            del plant.engines[task]


def _gold(plant: Plant) -> GoldReport:
    return build_gold(plant.project, plant.storage)


def _tend(plant: Plant) -> None:
    """Lets old bronze expire; what goes wrong here is told, and changes nothing of what the run has done."""
    now = datetime.now(UTC)
    if not due(plant.storage, now):
        return
    try:
        lands = {source: plant.land_log(source) for source in plant.project.config.sources}
        found = tend(Keeper(plant.project, plant.storage, lands, plant.scratch, plant.listener, now))
        message = str(found) if found.objects else ""
    except Exception as error:
        message = f"nothing expired: {error}"
    if message:
        plant.listener(Event("retention", "note", message=message))


def _report(project: Project, run_id: str, results: Mapping[str, TaskResult], seconds: float) -> RunReport:
    sources: list[SourceReport] = []
    tables: list[TableReport] = []
    loads: list[LoadResult] = []
    gold: GoldReport | None = None
    for task, result in results.items():
        kind, _, name = task.partition(":")
        value, error_class = result.value, result.error_class
        if kind == "land":
            done = (
                value
                if isinstance(value, SourceReport)
                else SourceReport(name, error=_why(result), error_class=error_class)
            )
            sources.append(done)
        elif kind == "refine":
            stream = project.config.streams.get(name)
            failed = TableReport(
                name,
                windows=stream.given if stream else "",
                seconds=result.seconds,
                error=_why(result),
                error_class=error_class,
                error_type=type(result.error).__name__ if result.error else None,
            )
            tables.append(value if isinstance(value, TableReport) else failed)
        elif kind == "publish":
            target, _, table = name.partition(".")
            loads += (
                value
                if isinstance(value, list)
                else [
                    LoadResult(
                        target,
                        table,
                        seconds=result.seconds,
                        error=_why(result),
                        error_class=error_class,
                    )
                ]
            )
        else:
            failed_gold = GoldReport(
                "", passed=False, seconds=result.seconds, error=_why(result), error_class=error_class
            )
            gold = value if isinstance(value, GoldReport) else failed_gold
    sources.sort(key=lambda item: [*project.config.sources].index(item.name))
    tables.sort(key=lambda item: [*project.config.tables, *project.config.streams].index(item.name))
    status = _status(sources, tables, gold)
    if status == "success" and any(load.error for load in loads):
        status = "incomplete"
    return RunReport(run_id, project.config.name, status, seconds, sources, tables, gold, loads=loads)


def _why(result: TaskResult) -> str:
    return str(result.error) if result.error else f"skipped: {result.reason}"


def _status(
    sources: Sequence[SourceReport], tables: Sequence[TableReport], gold: GoldReport | None
) -> Status:
    """Failed if a table or gold did; incomplete if a source failed or refused a file, or a table is held."""
    if any(table.error for table in tables) or (gold and (gold.error or not gold.passed)):
        return "failed"
    if any(source.error or source.refused for source in sources) or any(table.held for table in tables):
        return "incomplete"
    return "success"
