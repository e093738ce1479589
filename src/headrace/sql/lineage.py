"""Column lineage: which inputs each final column is made of, and which columns follow when one changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .changes import inputs_of
from .step import TableStep


def lineage(step: TableStep) -> Mapping[str, tuple[str, ...]]:
    """Final column → the header names or paths that it may come from, also through derived columns."""
    found = {}
    for column in step.columns:
        staged = [c for c in step.inputs if c in inputs_of(step, [column])]
        found[column] = tuple(header for c in staged for header in step.inputs[c])
    return found


def dependents(step: TableStep, columns: Iterable[str]) -> tuple[str, ...]:
    """`columns` and the derived columns that read them, directly or through others, in the table's order."""
    touched = set(columns)
    for column, expression in step.derived.items():  # in an order in which each needs only earlier ones
        if touched & set(expression.columns):
            touched.add(column)
    gone = sorted(touched - set(step.columns))
    return (*(column for column in step.columns if column in touched), *gone)
