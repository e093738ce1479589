"""Headers that a contract does not know, for the policy `evolve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..spec.pipeline import TableSpec


def unknown_headers(spec: TableSpec, format: Mapping[str, Any]) -> list[str]:
    """Header names (or top-level JSON keys) of a landed file that feed no column, in their order."""
    fold = str.lower if spec.contract.header_case == "ignore" else str
    known: set[str] = set()
    for name, column in spec.contract.columns.items():
        for source in [name] if not column.source else column.source:
            known |= {fold(source), fold(source.partition(".")[0])}
        known.add(fold(name))
    headers = format.get("header") or format.get("keys") or []
    return [header for header in headers if header and fold(header.strip()) not in known]
