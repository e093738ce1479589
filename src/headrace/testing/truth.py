"""What the generated files must become: counts, states and histories, worked out row by row in plain Python.

It shares no code with the engine or the dbt models: where they agree, two independent ways agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from .storefiles import Row

BEGINNING = datetime(1900, 1, 1)
"""The first version of a dimension member is valid since ever: facts before its first sight belong to it."""

TRACKED: Mapping[str, Sequence[str]] = {
    "product": ("product_name", "product_category", "unit_price"),
    "store": ("store_name", "store_region"),
    "customer": ("customer_name", "customer_city", "customer_segment"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One record of a file and what must become of it."""

    text: str
    fate: Literal["good", "filtered", "bad"]
    row: Row | None = None
    rules: tuple[str, ...] = ()
    """Broken rules if bad, warnings if good."""


@dataclass(slots=True)
class State:
    """What silver holds after some runs."""

    rows: dict[str, Row] = field(default_factory=dict)
    history: dict[tuple[str, datetime], Row] = field(default_factory=dict)
    products: set[str] = field(default_factory=set)
    """Registered product ids."""


def apply(state: State, lines: Iterable[Line]) -> Counter[str]:
    """Moves `state` as one run would, and returns that run's ledger, which balances."""
    ledger: Counter[str] = Counter()
    winners: dict[str, Row] = {}
    for line in lines:
        ledger["read"] += 1
        if line.fate != "good":
            ledger["quarantined" if line.fate == "bad" else "filtered"] += 1
            continue
        row = line.row or {}
        state.history[row["order_id"], row["updated_at"]] = row
        rival = winners.get(row["order_id"])
        if rival is not None:
            ledger["deduplicated"] += 1
        if rival is None or row["updated_at"] > rival["updated_at"]:
            winners[row["order_id"]] = row
    for key, row in winners.items():
        old = state.rows.get(key)
        if old is None:
            ledger["inserted"] += 1
        elif row["updated_at"] > old["updated_at"]:
            ledger["updated"] += 1
        else:
            ledger["unchanged" if row["updated_at"] == old["updated_at"] else "deduplicated"] += 1
            continue
        state.rows[key] = row
    return ledger


def timelines(state: State, dimension: str) -> dict[str, list[tuple[datetime, Row]]]:
    """Member → its versions (valid from, attributes), oldest first; adjacent versions differ."""
    key, tracked = f"{dimension}_id", TRACKED[dimension]
    seen: dict[str, dict[datetime, Row]] = {}
    for observed, row in sorted(
        _sightings(state, dimension), key=lambda o: (o[1]["updated_at"], o[1]["order_id"])
    ):
        if row[key] is not None and (dimension != "product" or row[key] in state.products):
            seen.setdefault(row[key], {})[observed] = row
    made: dict[str, list[tuple[datetime, Row]]] = {}
    for member, sightings in sorted(seen.items()):
        versions: list[tuple[datetime, Row]] = []
        known: Row = dict.fromkeys(tracked)
        for observed in sorted(sightings):
            known = {
                n: known[n] if sightings[observed][n] is None else sightings[observed][n] for n in tracked
            }
            if not versions or versions[-1][1] != known:
                versions.append((observed if versions else BEGINNING, known))
        made[member] = versions
    return made


def _sightings(state: State, dimension: str) -> Iterable[tuple[datetime, Row]]:
    """A product looks as the latest version of an order says, at order time, since a correction corrects it.

    Stores and customers are written as they are when the order is (re-)sent, so every version is a sighting:
    the first at order time, later ones when they were updated.
    """
    if dimension == "product":
        return [(row["order_ts"], row) for row in state.rows.values()]
    first: dict[str, datetime] = {}
    for order, updated in state.history:
        first[order] = min(first.get(order, updated), updated)
    return [
        (row["order_ts"] if updated == first[order] else updated, row)
        for (order, updated), row in state.history.items()
    ]


def _version_at(versions: Sequence[tuple[datetime, Row]] | None, time: datetime) -> str:
    found = [since for since, _ in versions or () if since <= time]
    return found[-1].isoformat() if found else "-1"


def summary(state: State) -> dict[str, Any]:
    """Silver's state as JSON: rows, versions, and exact sums by store and month."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for row in state.rows.values():
        months = groups.setdefault(row["store_id"], {})
        cell = months.setdefault(f"{row['order_ts']:%Y-%m}", {"rows": 0, "total_amount": Decimal("0.00")})
        cell["rows"] += 1
        cell["total_amount"] += row["total_amount"]
    return {
        "sales": len(state.rows),
        "sales_history": len(state.history),
        "total_amount": str(sum((r["total_amount"] for r in state.rows.values()), Decimal("0.00"))),
        "by_store_month": {
            store: {
                month: {**cell, "total_amount": str(cell["total_amount"])}
                for month, cell in sorted(m.items())
            }
            for store, m in sorted(groups.items())
        },
    }


def gold(state: State) -> dict[str, Any]:
    """The star schema as JSON: versions of every member, and how many facts belong to each version."""
    made: dict[str, Any] = {"fact_sales": len(state.rows), "dimensions": {}}
    for dimension in TRACKED:
        lines = timelines(state, dimension)
        facts: dict[str, Counter[str]] = {}
        unknown = 0
        for row in state.rows.values():
            member = row[f"{dimension}_id"]
            version = _version_at(lines.get(member), row["order_ts"])
            if version == "-1":
                unknown += 1
            else:
                facts.setdefault(member, Counter())[version] += 1
        made["dimensions"][dimension] = {
            "members": len(lines),
            "versions": sum(map(len, lines.values())),
            "unknown": unknown,
            "timelines": {
                member: [
                    {
                        "valid_from": since.isoformat(),
                        "facts": facts.get(member, Counter())[since.isoformat()],
                        **{name: None if value is None else str(value) for name, value in look.items()},
                    }
                    for since, look in versions
                ]
                for member, versions in lines.items()
            },
        }
    return made
