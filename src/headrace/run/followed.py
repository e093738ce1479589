"""How readers see the tables of a lake whose rows are changes."""

from __future__ import annotations

from dataclasses import replace

from ..core import Following, TableAt
from ..spec.pipeline import TableSpec


def followed(spec: TableSpec, output: str, at: TableAt) -> TableAt:
    """`at`, the table `output` of the lake (`silver.orders_history`), with how it is to be read."""
    changes = spec.changes
    if changes is None or not output.startswith("silver."):
        return at
    since = "_committed"
    if len(changes.sequence_by) == 1:
        (column,) = changes.sequence_by
        since = column if spec.contract.columns[column].type in ("date", "timestamp") else since
    following = Following(
        spec.keys,
        (*changes.sequence_by, "_sequence"),
        since,
        soft=changes.deletes == "soft",
        history=spec.history and output.endswith("_history"),
    )
    return replace(at, following=following)
