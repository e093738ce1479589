"""Which gold models and columns depend on which columns of silver, from dbt's compiled SQL.

Models are traced one after the other, from silver on; what cannot be traced is said, and counts as touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..sql.lineage_query import Origin, Traced, trace
from .dbt import SILVER, Compiled, Publish, compiled


@dataclass(frozen=True, slots=True)
class Model:
    """One model, resolved down to silver: origins are (silver table, column), in lower case."""

    name: str
    columns: Mapping[str, frozenset[Origin]] = field(default_factory=dict)
    rows: frozenset[Origin] = frozenset()
    """What decides which rows it has."""
    tables: frozenset[str] = frozenset()
    """Silver tables that it reads, directly or through other models."""
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class Touched:
    """A model that a change of a silver table reaches."""

    model: str
    columns: Sequence[str] = ()
    """Whose values can change."""
    rows: bool = False
    """Whether other rows can be in it."""
    unknown: str = ""
    """What cannot be told, and why."""


def models(project: Path, name: str, publish: Publish, silver: Mapping[str, Sequence[str]]) -> list[Model]:
    """The dbt project's models, each after those that it reads; `silver` is table → columns.

    Compiles the project in a scratch folder: neither the gold file nor its build is touched. Raises what
    `compiled` raises.
    """
    return resolve(compiled(project, name, publish), silver)


def resolve(nodes: Sequence[Compiled], silver: Mapping[str, Sequence[str]]) -> list[Model]:
    """Models down to silver; `nodes` are in an order in which each needs only earlier ones."""
    known = {f"{SILVER}.silver.{table}": columns for table, columns in silver.items()}
    names = {f"{SILVER}.silver.{table}": table for table in silver}
    found: dict[str, Model] = {}
    for node in nodes:
        traced = trace(node.sql, known) if node.sql else Traced(unknown="it is not written in SQL")
        model = _down(node.name, traced, names, found)
        if not traced.columns:
            upstream = [found[other] for other in node.needs if other in found]
            tables = model.tables.union(node.silver, *(other.tables for other in upstream))
            model = replace(model, tables=tables)
        found[node.relation] = model
        known[node.relation] = [] if traced.unknown else list(traced.columns)
    return list(found.values())


def _down(name: str, traced: Traced, names: Mapping[str, str], found: Mapping[str, Model]) -> Model:
    """`traced` with every model that it reads replaced by what that one reads."""

    def origins(given: Iterable[Origin]) -> frozenset[Origin]:
        down: set[Origin] = set()
        for relation, column in given:
            if relation in names:
                down.add((names[relation], column.lower()))
            elif relation in found:
                down |= found[relation].columns.get(column, frozenset())
        return frozenset(down)

    read = [found[relation] for relation in traced.tables if relation in found]
    tables = {names[relation] for relation in traced.tables if relation in names}
    unclear = sorted(model.name for model in read if model.unknown)
    why = traced.unknown or (f"it reads {', '.join(f'`{other}`' for other in unclear)}" if unclear else "")
    return Model(
        name,
        {column: origins(given) for column, given in traced.columns.items()},
        origins(traced.rows).union(*(model.rows for model in read)),
        frozenset(tables).union(*(model.tables for model in read)),
        why,
    )


def touched(found: Sequence[Model], table: str, columns: Iterable[str], *, rows: bool) -> list[Touched]:
    """The models that a change of `columns` (`*` for all) of silver `table` reaches.

    `rows` says that other rows may be in the table: then every model over it may have other rows as well.
    """
    changed = {column.lower() for column in columns}

    def meets(origins: Iterable[Origin]) -> bool:
        return any(origin == table and (column in changed or "*" in changed) for origin, column in origins)

    reached = []
    for model in found:
        if table not in model.tables:
            continue
        values = [column for column, origins in model.columns.items() if meets(origins)]
        other_rows = rows or meets(model.rows)
        if values or other_rows or model.unknown:
            reached.append(Touched(model.name, values, other_rows, model.unknown))
    return reached
