"""Column lineage: which inputs each final column is made of."""

from __future__ import annotations

from collections.abc import Mapping

from .checked import inputs_of
from .step import TableStep


def lineage(step: TableStep) -> Mapping[str, tuple[str, ...]]:
    """Final column → the header names or paths that it may come from, also through derived columns."""
    found = {}
    for column in step.columns:
        staged = [c for c in step.inputs if c in inputs_of(step, [column])]
        found[column] = tuple(header for c in staged for header in step.inputs[c])
    return found
