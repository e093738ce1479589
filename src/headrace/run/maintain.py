"""Maintenance of a lake: compaction, vacuum, sweeping, copies of records, retention, history.

Each step is safe beside a running pipeline and may be killed anywhere: it commits on top of exactly what it
has read, and what is in use, or young enough to be, stays. What cannot be done now is left for the next time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from ..errors import Busy, Fenced
from ..failpoints import reach
from ..spec.project import Project
from ..store.delta import Table
from ..store.records import LandLog, RefineLog
from ..store.storage import LocalStorage, scratch_folder
from .alone import alone
from .compact import Copier, compact, outputs
from .opened import open_catalog, open_storage
from .parts import part
from .report import Step
from .retention import expire
from .sweep import leftovers, needed_files, orphans, streams, vacuum, versions_in_use

SCRATCH = ".tending"
"""Scratch of maintenance: the next run clears that of runs only."""
HISTORY = timedelta(days=365)
"""How long runs stay in the catalog."""


@dataclass(frozen=True)
class Upkeep:
    """One maintenance of one lake."""

    project: Project
    storage: LocalStorage
    now: datetime
    dry_run: bool
    engine: Copier | None


def maintain(project: Project, *, dry_run: bool = False, now: datetime | None = None) -> Iterator[Step]:
    """Does all that is worth doing, step by step; `dry_run` only says what that would be.

    Raises `Busy` if another maintenance is at work. A step that others were faster than says so and is left
    for the next time; all other errors end it, and what was done stays.
    """
    storage = open_storage(project)
    with ExitStack() as stack:
        stack.enter_context(alone(project.lake, "maintenance"))
        engine = None
        if not dry_run:
            shutil.rmtree(project.lake / SCRATCH, ignore_errors=True)
            scratch = stack.enter_context(scratch_folder(project.lake / SCRATCH))
            engine = stack.enter_context(part("engines", "duckdb")(scratch, project.config.memory))
        work = Upkeep(project, storage, now or datetime.now(UTC), dry_run, engine)
        yield from _tables(work)
        yield from _bronze(work)
        yield from _history(work)
        if step := leftovers(storage, work.now, dry_run=dry_run):
            yield step


def _tables(work: Upkeep) -> Iterator[Step]:
    config = work.project.config
    logs = {name: RefineLog(work.storage, name) for name in (*config.tables, *config.streams)}
    for name, log in logs.items():
        if plans := log.open_plans():
            why = f"epoch {plans[-1].next} is not finished: a run is at work, or the next one finishes it"
            yield Step(f"tend silver.{name}", note=why, skipped=True)
            continue
        for table in outputs(work.storage, name):
            yield from _tried(f"compact {table.name}", partial(compact, table, work.engine))
            versions = versions_in_use(list(logs.values()), table.name, log)
            yield from _tried(f"vacuum {table.name}", partial(_vacuum, work, table, versions))


def _vacuum(work: Upkeep, table: Table, versions: list[int]) -> Step | None:
    newest = table.snapshot("").at.version
    needed = needed_files(table, {version for version in versions if version < newest})
    return vacuum(table, needed, work.now, dry_run=work.dry_run)


def _bronze(work: Upkeep) -> Iterator[Step]:
    for stream in streams(work.storage):
        log = LandLog(work.storage, stream)
        yield from _tried(f"sweep bronze/{stream}", partial(_orphans, work, log))
        if not work.dry_run and (key := log.checkpoint()):
            reach("maintain.checkpoint")
            size = work.storage.path(key).stat().st_size
            yield Step(f"checkpoint {stream}", log.epoch + 1, size, "records copied into one file")
    yield from _tried("retention of bronze", partial(_expired, work))


def _orphans(work: Upkeep, log: LandLog) -> Step | None:
    if work.dry_run:
        return orphans(log, work.storage, work.now, dry_run=True)
    with alone(work.project.lake):  # else a run that is at work would lose a batch, and land it again
        log.refresh()
        return orphans(log, work.storage, work.now, dry_run=False)


def _expired(work: Upkeep) -> Step | None:
    told = expire(work.project, work.storage, now=work.now, dry_run=work.dry_run)
    if not told.objects and not told.kept:
        return None
    kept = "".join(f", {count} kept: {reason}" for reason, count in told.kept.items())
    return Step("retention of bronze", len(told.objects), told.bytes, f"old objects expired{kept}")


def _history(work: Upkeep) -> Iterator[Step]:
    before = work.now - HISTORY
    path = work.project.lake / "catalog.db"
    if work.project.config.catalog is None and not path.exists():
        return
    with open_catalog(work.project) as catalog:
        if work.dry_run:
            count = sum(run.start_time < before for run in catalog.runs(1_000_000))
        else:
            count = catalog.forget_before(before)
    if count:
        yield Step("history", count, 0, f"runs before {before:%Y-%m-%d} forgotten")


def _tried(what: str, action: Callable[[], Step | None]) -> Iterator[Step]:
    """The step, or why it is left for the next time."""
    try:
        step = action()
    except (Busy, Fenced) as error:
        step = Step(what, note=f"left for the next time: {error.message}", skipped=True)
    if step:
        yield step
