"""What a changed definition reaches beyond its own table: gold models, other tables, stored state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core import TableAt
from ..errors import HeadraceError
from ..gold.lineage import Model, Touched, models, touched
from ..spec.change import Change
from ..spec.pipeline import TableSpec
from ..spec.project import Project
from ..sql import compile_table
from ..sql.lineage import dependents
from ..store.storage import Storage
from .golden import silver_tables
from .parts import part


@dataclass(frozen=True, slots=True)
class Gold:
    """The project's gold models; or why they are not known."""

    models: Sequence[Model] = ()
    unknown: str = ""


def gold_models(project: Project, storage: Storage) -> Gold:
    """The lineage of the dbt project over silver as it is and as it is defined to be."""
    config = project.config.gold
    if config is None:
        return Gold()
    tables = {name: at for name, (at, _) in silver_tables(project, storage).items()}
    columns = {name: _columns(project, name, at) for name, at in tables.items()}

    def publish(path: Path) -> None:
        part("engines", "duckdb").publish(path, {"silver": tables})

    try:
        return Gold(models(project.root / config.dbt, project.config.name, publish, columns))
    except HeadraceError as error:
        return Gold(unknown=f"which gold models depend on it is not known: {error.message}")


def _columns(project: Project, name: str, at: TableAt) -> list[str]:
    spec = project.config.tables.get(name) or project.config.tables.get(name.removesuffix("_history"))
    new = spec.contract.columns if spec else ()
    return list(dict.fromkeys([*at.columns, *new]))


def changed_columns(
    table: str, old: TableSpec, new: TableSpec, changes: Sequence[Change], evolved: Sequence[str]
) -> tuple[str, ...]:
    """All columns whose values the changes can alter, derived ones included; `*` if that is all of them."""
    named = {column for change in changes for column in change.columns}
    if "*" in named:
        return ("*",)
    found: dict[str, None] = {}
    for spec in (old, new):
        found |= dict.fromkeys(dependents(compile_table(table, spec, evolved), named))
    return tuple(found)


def reached(gold: Gold, table: str, columns: Sequence[str], *, rows: bool) -> list[Touched]:
    """The gold models that the change reaches, through the table or its history."""
    found: dict[str, Touched] = {}
    for name in (table, f"{table}_history"):
        for item in touched(gold.models, name, columns, rows=rows):
            before = found.get(item.model)
            if before:
                both = [*before.columns, *(c for c in item.columns if c not in before.columns)]
                item = Touched(item.model, both, before.rows or item.rows, before.unknown or item.unknown)
            found[item.model] = item
    order = [model.name for model in gold.models]
    return sorted(found.values(), key=lambda item: order.index(item.model))


def referring(project: Project, table: str, columns: Sequence[str], *, rows: bool) -> list[str]:
    """Columns of other tables that are checked against a column which changes, as `table.column`."""
    return [
        f"{name}.{column}"
        for name, spec in project.config.tables.items()
        for column, item in spec.contract.columns.items()
        if item.references
        and name != table
        and item.references.partition(".")[0] == table
        and (rows or "*" in columns or item.references.partition(".")[2] in columns)
    ]
