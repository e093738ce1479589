"""What the next run will do, told before it takes effect. Looks only; a lake that is not there stays away.

Each table's next epoch is planned by the very code that a run plans it with, over bronze as if what waits at
the sources had landed; only nothing is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .. import redact
from ..errors import HeadraceError
from ..gold.lineage import Touched
from ..gold.pins import fingerprint, pinned
from ..spec.change import Change
from ..spec.pipeline import TableSpec
from ..spec.project import Project
from ..store.hold import held
from ..store.records import LandLog, Plan, RefineLog
from ..store.storage import LocalStorage
from .accept import Redefined, accept, redefined
from .cost import Cost, cost
from .golden import gold_file
from .impact import Gold, changed_columns, gold_models, reached, referring
from .opened import open_storage
from .origin import origin
from .parts import lands_of, refinery
from .pending import Waiting, as_if_landed, waiting
from .planned import next_plan
from .refine import verify
from .refinery import Refinery, TableWriter
from .report import silent
from .runner import check
from .windows import Windowing, next_windows, windowing

Action = Literal["no change", "increment", "rebuild", "finish", "held", "cannot"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A table of the lake that the epoch will change, as it is now."""

    table: str
    version: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TablePlan:
    name: str
    action: Action
    reason: str = ""
    changes: Sequence[Change] = ()
    accepted: bool = False
    """Whether somebody has accepted the breaking changes."""
    columns: Sequence[str] = ()
    """Columns whose values the changes can alter, derived ones included; `*` for all."""
    gold: Sequence[Touched] = ()
    gold_unknown: str = ""
    referring: Sequence[str] = ()
    """Columns of other tables that are checked against it: judged anew for new rows only."""
    stored: Sequence[Stored] = ()
    cost: Cost = field(default_factory=Cost)

    @property
    def breaking(self) -> list[Change]:
        return [change for change in self.changes if change.breaking]

    @property
    def refused(self) -> bool:
        """Whether `headrace run` refuses it as it stands."""
        return bool(self.breaking) and not self.accepted


@dataclass(frozen=True, slots=True)
class PipelinePlan:
    pipeline: str
    sources: Sequence[Waiting]
    tables: Sequence[TablePlan]
    gold: str = ""
    """Why gold will be built; empty if it will not."""
    targets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Target → tables that will be published to it."""

    @property
    def refused(self) -> bool:
        """Whether `headrace run` refuses some table as things stand."""
        return any(table.refused or table.action == "cannot" for table in self.tables)

    def to_json(self) -> dict[str, Any]:
        """JSON scalars, lists and objects only; the keys are the field names."""
        document = asdict(replace(self, sources=[replace(item, files=()) for item in self.sources]))
        for source in document["sources"]:
            del source["files"]
        for table, told in zip(self.tables, document["tables"], strict=True):
            told["refused"] = table.refused
            for change, item in zip(table.changes, told["changes"], strict=True):
                item["breaking"] = change.breaking
        return {**document, "refused": self.refused}


def plan(project: Project, *, accepting: bool = False) -> PipelinePlan:
    """What the next run will do; `accepting` records that the breaking changes in it may be made.

    Raises `ConfigError` for a definition that cannot run. What is wrong with single sources and tables is in
    the answer.
    """
    redact.register(project.secrets)
    check(project)
    with (
        _lake(project) as (looked_at, storage),
        tempfile.TemporaryDirectory(prefix="headrace-plan-") as scratch,
    ):
        lands = {name: LandLog(storage, project.stream(name)) for name in project.config.sources}
        sources = [waiting(looked_at, name, land) for name, land in lands.items()]
        for source in sources:
            as_if_landed(lands[source.name], source.files)
        names = (*project.config.tables, *project.config.streams)
        changed = {name: redefined(looked_at, storage, name) for name in names}
        if accepting:
            for name, change in changed.items():
                if change and change.refused:
                    accept(storage, change)
                    changed[name] = replace(change, accepted=True)
        gold = gold_models(looked_at, storage) if any(changed.values()) else Gold()
        tables = []
        for name, spec in project.config.tables.items():
            own = lands_of(spec, lands.__getitem__)
            with refinery(looked_at, name, storage, own, Path(scratch), silent) as work:
                tables.append(_table(looked_at, work, changed[name], gold))
        for name in project.config.streams:
            with windowing(looked_at, name, storage, Path(scratch) / name, silent) as windows:
                tables.append(_stream(windows, changed[name], gold, tables))
        targets = _targets(looked_at, tables)
        return PipelinePlan(project.config.name, sources, tables, _gold(looked_at, tables), targets)


@contextmanager
def _lake(project: Project) -> Iterator[tuple[Project, LocalStorage]]:
    """The project and its lake; where there is none yet, an empty one that goes away again."""
    if project.lake.exists():
        yield project, open_storage(project)
        return
    with tempfile.TemporaryDirectory(prefix="headrace-plan-") as folder:
        config = project.config.model_copy(update={"lake": folder})
        looked_at = replace(project, config=config)
        yield looked_at, open_storage(looked_at)


def _table(project: Project, work: Refinery, change: Redefined | None, gold: Gold) -> TablePlan:
    log = RefineLog(work.storage, work.name)
    told = TablePlan(work.name, "no change")
    if change:
        told = replace(_changed(project, log, change, gold), accepted=change.accepted)
    try:
        writer = work.sink.open(work.outputs(work.spec), work.stream)
        verify(work, log, writer)
        return _epoch(work, log, writer, told)
    except HeadraceError as error:
        return replace(told, action="cannot", reason=str(error))


def _stream(work: Windowing, change: Redefined | None, gold: Gold, tables: Sequence[TablePlan]) -> TablePlan:
    """What happens to the windows; what is yet to come of their table is not known to the row."""
    log = RefineLog(work.storage, work.name)
    told = TablePlan(work.name, "no change")
    if change:
        columns = tuple(dict.fromkeys(column for item in change.changes for column in item.columns))
        columns = ("*",) if "*" in columns else columns
        rows = any(item.rows for item in change.changes)
        touched = reached(gold, work.name, columns, rows=rows)
        told = TablePlan(
            work.name, "rebuild", "", change.changes, change.accepted, columns, touched, gold.unknown
        )
    (given,) = [table for table in tables if table.name == work.spec.given]
    try:
        writer = work.sink.open([work.output], work.stream)
        verify(work, log, writer)
        doubt = next((plan for plan in log.open_plans() if plan.next == writer.epoch), None)
        found = doubt or next_windows(work, log, None)
    except HeadraceError as error:
        return replace(told, action="cannot", reason=str(error))
    if not doubt and (hold := held(work.storage, work.name)):
        return replace(told, action="held", reason=f"held since {hold['time'][:19]}Z: {hold['reason']}")
    action: Action = "no change"
    if doubt or found:
        action = "finish" if doubt else "rebuild" if found and found.mode == "rebuild" else "increment"
    elif given.action in ("increment", "rebuild", "finish"):
        action = "increment"
    if action == "no change":
        return told
    reason = f"epoch {found.next} was interrupted" if doubt and found else found.reason if found else ""
    after = given.action in ("increment", "rebuild", "finish")
    reason = "; ".join(filter(None, [reason, f"after table {given.name}" if after else ""]))
    return replace(told, action=action, reason=reason, stored=list(_stored(writer)))


def _changed(project: Project, log: RefineLog, change: Redefined, gold: Gold) -> TablePlan:
    last = log.planned(log.epoch)
    old, new = TableSpec.model_validate(last.spec), project.config.tables[change.table]
    columns = changed_columns(change.table, old, new, change.changes, last.evolved)
    rows = any(item.rows for item in change.changes)
    return TablePlan(
        change.table,
        "rebuild",
        changes=change.changes,
        columns=columns,
        gold=reached(gold, change.table, columns, rows=rows),
        gold_unknown=gold.unknown,
        referring=referring(project, change.table, columns, rows=rows),
    )


def _epoch(work: Refinery, log: RefineLog, writer: TableWriter, told: TablePlan) -> TablePlan:
    doubt = next((plan for plan in log.open_plans() if plan.next == writer.epoch), None)
    hold = None if doubt else held(work.storage, work.name)
    if hold:
        return replace(told, action="held", reason=f"held since {hold['time'][:19]}Z: {hold['reason']}")
    found = doubt or next_plan(work, log, None)
    if found is None:
        return replace(told, action="no change")
    objects = origin(work, found).objects if found.mode != "restore" else []
    action: Action = "finish" if doubt else "rebuild" if found.mode == "rebuild" else "increment"
    return replace(
        told,
        action=action,
        reason=f"epoch {found.next} was interrupted" if doubt else _reason(found, log),
        stored=list(_stored(writer)),
        cost=cost(objects, log, work.lands),
    )


def _reason(found: Plan, log: RefineLog) -> str:
    return found.reason if log.last else "first load"


def _stored(writer: TableWriter) -> Iterator[Stored]:
    for name, snapshot in writer.snapshots.items():
        at = snapshot.at
        if at.version >= 0:
            rows, size = sum(file.rows for file in at.files), sum(file.bytes for file in at.files)
            yield Stored(name, at.version, rows, size)


def _targets(project: Project, tables: Sequence[TablePlan]) -> dict[str, list[str]]:
    """Target → the tables that it gets anew or changed; nobody asks the targets themselves."""
    moving = [table.name for table in tables if table.action in ("increment", "rebuild", "finish")]
    found = {
        target: [name for name in moving if target in project.config.published[name]]
        for target in project.config.targets
    }
    return {target: names for target, names in found.items() if names}


def _gold(project: Project, tables: Sequence[TablePlan]) -> str:
    if project.config.gold is None:
        return ""
    moving = [table.name for table in tables if table.action in ("increment", "rebuild", "finish")]
    if moving:
        return f"silver changes: {', '.join(moving)}"
    built = pinned(gold_file(project))
    if built is None:
        return "it is not built yet"
    same = built.project == fingerprint(project.root / project.config.gold.dbt, {})
    return "" if same else "the dbt project changed"
