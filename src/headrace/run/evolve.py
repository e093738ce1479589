"""Headers that a contract does not know, for the policy `evolve`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core import CHANGE
from ..spec.pipeline import TableSpec


def unknown_headers(spec: TableSpec, format: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Headers (or top-level JSON keys) of a landed file that feed no column and are not `known`, in order.

    None unless the contract lets the table evolve.
    """
    if spec.contract.on_new_column != "evolve":
        return []
    fold = str.lower if spec.contract.header_case == "ignore" else str
    taken = {fold(header.strip()) for header in known}
    for name, column in spec.contract.columns.items():
        for source in [name] if not column.source else column.source:
            taken |= {fold(source), fold(source.partition(".")[0])}
        taken.add(fold(name))
    headers = [str(header) for header in format.get("header") or format.get("keys") or []]
    if format.get("header"):  # a field without a name is called after its place, as staging does
        headers = [name if name.strip() else f"column{place + 1}" for place, name in enumerate(headers)]
    if format.get("changes"):
        headers = [name for name in headers if name not in CHANGE]
    new = []
    for name in headers:
        if name and fold(name.strip()) not in taken:
            taken.add(fold(name.strip()))  # a second spelling of it is no column of its own
            new.append(name)
    return new
