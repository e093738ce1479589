"""What changed in silver between two runs, row by row and column by column, and what caused it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .. import redact
from ..core import TableAt
from ..errors import ConfigError
from ..spec.pipeline import TableSpec
from ..spec.problem import suggest
from ..spec.project import Project
from ..store.delta import Table
from ..store.records import Done, LandLog, RefineLog
from .cause import Cause, causes, stream_causes
from .compare import AUDIT, Ask, Comparison, Example, Schemas, compare
from .opened import open_storage
from .parts import lands_of, part
from .points import Point, point
from .windows import step_of

HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class TableDiff:
    """One table between two epochs; an epoch or version of -1 is before its first."""

    table: str
    epochs: tuple[int, int]
    versions: tuple[int, int]
    columns_added: Sequence[str] = ()
    columns_removed: Sequence[str] = ()
    columns_retyped: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    comparison: Comparison = field(default_factory=Comparison)
    causes: Sequence[Cause] = ()

    @property
    def same(self) -> bool:
        """Whether a reader finds no difference."""
        columns = bool(self.columns_added or self.columns_removed or self.columns_retyped)
        return not columns and not self.comparison.differs


@dataclass(frozen=True, slots=True)
class RunDiff:
    first: str
    second: str
    tables: Sequence[TableDiff]
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON scalars, lists and objects only; the keys are the field names."""
        document = asdict(self)
        for table, told in zip(self.tables, document["tables"], strict=True):
            told["same"] = table.same
        return document


def diff(
    project: Project, first: str, second: str, *, table: str | None = None, examples: int = 3
) -> RunDiff:
    """Rows and columns of silver that differ between two runs, epochs or moments; personal data is masked.

    Raises `ConfigError` if a run is not known, or if a version's files have been vacuumed.
    """
    redact.register(project.secrets)
    known = [*project.config.tables, *project.config.streams]
    if table is not None and table not in known:
        raise ConfigError(f"table `{table}` is not defined", hint=suggest(table, known, "tables"))
    if not project.lake.exists():
        raise ConfigError(f"there is no lake at {project.lake} yet", hint="`headrace run` makes it")
    storage = open_storage(project)
    names = [table] if table else known
    logs = {name: RefineLog(storage, name) for name in names}
    points = [point(project, asked, list(logs.values())) for asked in (first, second)]
    lands = {name: LandLog(storage, project.stream(name)) for name in project.config.sources}
    tables = [_table(project, log, lands, points, examples) for log in logs.values()]
    notes = [item.note for item in points if item.note]
    return RunDiff(first, second, [item for item in tables if item], notes)


def _table(
    project: Project,
    log: RefineLog,
    lands: Mapping[str, LandLog],
    points: Sequence[Point],
    examples: int,
) -> TableDiff | None:
    before, after = (item.of(log) for item in points)
    if after is None and before is None:
        return None
    if after is None:
        raise ConfigError(
            f"table `{log.table}` was not there yet at `{points[1].asked}`", hint="give the earlier run first"
        )
    first, last = _version(before, log.table), _version(after, log.table)
    epochs = (before.epoch if before else -1, after.epoch)
    if before and before.epoch == after.epoch:
        return TableDiff(log.table, epochs, (first, last))
    store = Table(project.lake / "silver" / log.table, f"silver.{log.table}")
    silver = f"silver.{log.table}"
    if before and before.outputs[silver]["id"] != after.outputs[silver]["id"]:
        raise ConfigError(
            f"table `{log.table}` was made anew between epochs {before.epoch} and {after.epoch}",
            hint="what it was before is lost: compare runs on one side of that",
        )
    old, new = _at(store, first), _at(store, last)
    if log.table in project.config.streams:
        keys, hidden = _of_stream(project, log, before, after)
        found = stream_causes(log, before, after)
    else:
        spec = TableSpec.model_validate(log.planned(after.epoch).spec)
        past = TableSpec.model_validate(log.planned(before.epoch).spec) if before else spec
        lands = {**lands, **lands_of(spec, lands.__getitem__)} if {*spec.source} <= {*lands} else lands
        hidden = {name for one in (past, spec) for name, column in one.contract.columns.items() if column.pii}
        keys = _keys(past, spec, new)
        found = causes(log, lands, before, after)
    told = compare(_ask(project), old, new, keys, examples)
    return TableDiff(
        log.table,
        epochs,
        (first, last),
        [name for name in _columns(new) if name not in old.columns] if old.columns else [],
        [name for name in _columns(old) if name not in new.columns],
        {
            name: (kind, new.columns[name])
            for name, kind in old.columns.items()
            if name in new.columns and new.columns[name] != kind
        },
        replace(told, examples=[_masked(item, hidden) for item in told.examples]),
        found,
    )


def _of_stream(
    project: Project, log: RefineLog, before: Done | None, after: Done
) -> tuple[Sequence[str], set[str]]:
    """The key of both versions of the windows, none if they differ, and columns that may be personal."""
    given = project.config.streams[log.table].given
    columns = project.config.tables[given].contract.columns
    private = {name for name, item in columns.items() if item.pii}
    steps = [step_of(log.planned(done.epoch)) for done in (before, after) if done]
    hidden: set[str] = set()
    for step in steps:
        hidden |= private.intersection(step.spec.group_by)
        hidden |= {item.name for item in step.measures if private.intersection(step.columns_of(item))}
    specs = [step.spec for step in steps]
    same = len({tuple(spec.keys) for spec in specs}) == 1
    return (specs[-1].keys if same else ()), hidden


def _version(done: Done | None, table: str) -> int:
    return int(done.outputs[f"silver.{table}"]["version"]) if done else -1


def _at(store: Table, version: int) -> TableAt:
    """The table at a version, whose files must still be there."""
    at = store.at(version)
    gone = [file.path.name for file in at.files if not file.path.exists()]
    if gone:
        raise ConfigError(
            f"table `{store.name}`: {len(gone)} files of version {version} are gone (vacuumed)",
            hint="compare later runs: files live 30 days after a version that does without them",
        )
    return at


def _columns(at: TableAt) -> list[str]:
    return [name for name in at.columns if name not in AUDIT]


def _keys(past: TableSpec, spec: TableSpec, new: TableAt) -> Sequence[str]:
    """The key of both versions; none if they have different ones, or take all columns."""
    same = past.keys == spec.keys and spec.keys != ["*"] and all(name in new.columns for name in spec.keys)
    return spec.keys if same else ()


def _ask(project: Project) -> Ask:
    query = part("engines", "duckdb").query

    def ask(schemas: Schemas, sql: str) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        names, rows = query(schemas, sql, memory=project.config.memory)
        return names, rows

    return ask


def _masked(example: Example, hidden: set[str]) -> Example:
    """`example` without personal data; that a value was missing may be seen."""

    def mask(name: str, value: Any) -> Any:
        return HIDDEN if name in hidden and value is not None else value

    key = {name: mask(name, value) for name, value in example.key.items()}
    values = {name: (mask(name, old), mask(name, new)) for name, (old, new) in example.values.items()}
    return Example(example.kind, key, values)
