"""Tables follow changes by themselves where their source is one of changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from ..errors import ConfigError
from . import registry
from .pipeline import Changes, PipelineConfig, SourceSpec, TableSpec
from .problem import Problem


def following(
    config: PipelineConfig, sources: Mapping[str, SourceSpec], root: Path
) -> tuple[PipelineConfig, list[Problem]]:
    """`config` with `changes` on each table that reads a source of changes, and what does not fit there.

    Connectors say so by their attribute `changes`; of one whose settings are wrong nothing is known.
    """
    telling = {name for name, spec in sources.items() if _tells(name, spec, root)}
    tables: dict[str, TableSpec] = {}
    found: list[Problem] = []
    for name, table in config.tables.items():
        if table.changes is None and telling & set(table.source):
            table = table.model_copy(update={"changes": Changes()})
            found += [problem.under("tables", name) for problem in table.change_problems()]
        tables[name] = table
    return config.model_copy(update={"tables": tables}), found


def _tells(name: str, spec: SourceSpec, root: Path) -> bool:
    try:
        made = registry.connector(spec.type).model_validate(
            {**spec.settings, "name": name, "root": str(root)}
        )
    except (ConfigError, ValidationError):
        return False
    return bool(getattr(made, "changes", False))
