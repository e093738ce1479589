"""A table whose own files are lost or damaged begins anew: from bronze, with what is left set aside."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, HeadraceError
from ..failpoints import reach
from ..spec.pipeline import TableSpec
from ..spec.project import Project
from ..sql import compile_table
from ..store.base import newest
from ..store.delta import Change, Table
from ..store.intact import check_bytes
from ..store.records import LandLog, Plan, RefineLog
from ..store.storage import LocalStorage, scratch_folder
from .accept import require
from .origin import origin
from .parts import lands_of, refinery
from .portions import again
from .refine import inputs_of, refine
from .refinery import Refinery
from .report import Step, silent
from .restored import resume, rewound, table_of
from .windows import refine_windows, windowing

ASIDE = ".damaged"
"""The folder of the lake into which damaged tables are moved; nothing reads it."""


def renew(project: Project, storage: LocalStorage, log: RefineLog, reason: str) -> Step:
    """Makes all outputs of a table anew from bronze, whatever has become of their files.

    An epoch makes them empty, the next one computes them; what cannot be read is moved to `.damaged`. Raises
    `ConfigError` before anything is changed if bronze does not suffice, or a breaking change is not accepted.
    """
    name = log.table
    spec = project.config.tables[name]
    require(project, storage, [name], accepting=False)
    lands = lands_of(spec, lambda source: LandLog(storage, project.stream(source)))
    with (
        scratch_folder(project.lake / ".scratch") as scratch,
        refinery(project, name, storage, lands, scratch, silent) as work,
    ):
        _possible(work, log)
        plan = _emptied(storage, log, reason)
        log.plan(plan)
        reach("restore.planned")
        aside = [path for output in plan.versions if (path := _set_aside(storage, log, plan, output))]
        resume(storage, plan, log)
        report = refine(work, rebuild="its files were lost or damaged")
    told = f"rows, computed anew from bronze; now epoch {report.epoch}"
    if aside:
        told += f"; what was damaged lies in {aside[0].parent}"
    return Step(f"restore silver.{name}", report.ledger.inserted, 0, told)


def renew_windows(project: Project, storage: LocalStorage, log: RefineLog, reason: str) -> Step:
    """The same for a stream: its windows are made anew from its table, whose files must be whole."""
    name = log.table
    require(project, storage, [name], accepting=False)
    with (
        scratch_folder(project.lake / ".scratch") as scratch,
        windowing(project, name, storage, scratch, silent) as work,
    ):
        source = work.sink.table(work.source).snapshot("").at
        check_bytes(work.source, source.files)
        plan = _emptied(storage, log, reason)
        log.plan(plan)
        reach("restore.planned")
        aside = _set_aside(storage, log, plan, work.output)
        resume(storage, plan, log)
        report = refine_windows(work)
    told = f"windows, computed anew from {work.source}; now epoch {report.epoch}"
    return Step(
        f"restore {work.output}",
        report.ledger.inserted,
        0,
        told + (f"; what was damaged lies in {aside}" if aside else ""),
    )


def _possible(work: Refinery, log: RefineLog) -> None:
    """Raises what a rebuild would raise because bronze from which the rows came is gone or damaged."""
    kept = again(work.spec, log, work.lands)
    plan = replace(
        log.planned(log.epoch),
        mode="rebuild",
        fingerprint=work.fingerprint,
        inputs={source: (-1, land.epoch) for source, land in work.lands.items()},
        base=newest(work.storage),
        only=kept or (),
    )
    fixed = work.corrections.epoch if work.corrections else -1
    inputs_of(work, origin(work, plan).objects, {}, (-1, fixed))


def _emptied(storage: LocalStorage, log: RefineLog, reason: str) -> Plan:
    last = log.last
    if last is None:
        raise ConfigError(f"table `{log.table}` has never been refined", hint="`headrace run` first")
    plan = rewound(storage, log, last, dict.fromkeys(last.outputs, -1), reason)
    return replace(plan, fingerprint="")  # of no definition: the next epoch computes the table anew


def _set_aside(storage: LocalStorage, log: RefineLog, plan: Plan, output: str) -> Path | None:
    """Puts an empty table in the place of one whose log is not the one of the records; where that is now."""
    table = table_of(storage, output)
    assert log.last is not None
    if _sound(table, log.last.outputs[output]):
        return None
    aside: Path | None = None
    if table.path.exists():
        aside = storage.path(f"{ASIDE}/{plan.table}-{plan.next}/{output}")
        aside.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(table.path, aside)
    columns = _first_column(plan, output)  # the others follow with the rows
    fresh = table_of(storage, output)
    fresh.commit(Change(fresh.snapshot(""), None, "CREATE TABLE", columns, note={"renewed": plan.next}))
    return aside


def _first_column(plan: Plan, output: str) -> dict[str, str]:
    if "stream" in plan.spec:
        return {"window_start": "timestamp"}
    if output.startswith("quarantine."):
        return {"_file": "text"}
    columns = compile_table(plan.table, TableSpec.model_validate(plan.spec), plan.evolved).columns
    return dict([next(iter(columns.items()))])


def _sound(table: Table, known: Mapping[str, Any]) -> bool:
    """Whether the table's log can be gone on with: it is readable, and the one that the records know."""
    try:
        snapshot = table.snapshot("")
        same = snapshot.table_id == known["id"] and snapshot.at.version >= known["version"]
        return bool(same and table.digest(known["version"]) == known["log"])
    except HeadraceError:
        return False
