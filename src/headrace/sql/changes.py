"""Rows that are changes: which of their values were not sent, and what can be judged without them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..core import unsent
from .step import TableStep
from .text import literal, name

OPS = ("r", "c", "u", "d", "t")
"""Snapshot read, create, update, delete, truncate: `_op` is one of these, or NULL for a plain row."""


def typed(step: TableStep) -> list[str]:
    """Select items that make the change's own columns from their texts."""
    if step.spec.changes is None:
        return []
    raw = {each: name(f"raw${each}") for each in ("_op", "_sequence", "_committed", "_unchanged")}
    return [
        f"{raw['_op']} AS _op",
        f"{raw['_sequence']} AS _sequence",
        f"TRY_CAST({raw['_committed']} AS TIMESTAMP WITH TIME ZONE) AS _committed",
        f"nullif({raw['_unchanged']}, '') AS _unchanged",
    ]


def key_sql(keys: Sequence[str]) -> str:
    """SQL of a row's key as one text, the same in silver and in quarantine; NULL where a part is missing."""
    missing = " OR ".join(f"{name(key)} IS NULL" for key in keys)
    parts = ", ".join(f"{name(key)}::VARCHAR" for key in keys)
    return f"CASE WHEN NOT ({missing}) THEN to_json([{parts}])::VARCHAR END"


def inputs_of(step: TableStep, columns: Collection[str]) -> set[str]:
    """`columns` and all that they are derived from."""
    found: set[str] = set()
    todo = list(columns)
    while todo:
        c = todo.pop()
        if c not in found:
            found.add(c)
            todo += step.derived[c].columns if c in step.derived else ()
    return found


def given_of(step: TableStep, columns: Collection[str]) -> list[str]:
    """The columns of the source that `columns` are made of, in the table's order."""
    found = inputs_of(step, columns)
    return [c for c in step.columns if c in found and c not in step.derived]


def lacking(step: TableStep) -> dict[str, str]:
    """Final column → SQL over texts and `_unchanged`: whether its value was not sent because it is as before.

    A derived column is as before if all that it is made of is.
    """
    fold = step.spec.contract.header_case == "ignore"
    listed = "',' || _unchanged || ','"
    listed = f"lower({listed})" if fold else listed
    found: dict[str, str] = {}
    for c in step.columns:
        if c in step.derived:
            continue
        heads = dict.fromkeys(part for each in step.inputs[c] for part in (each, each.partition(".")[0]))
        words = dict.fromkeys(unsent(each.lower() if fold else each) for each in heads)
        named = [f"contains({listed}, {literal(f',{word},')})" for word in words]
        found[c] = f"coalesce({name(c)} IS NULL AND ({' OR '.join(named)}), false)"
    for c in step.derived:
        parts = [found[each] for each in given_of(step, [c])]
        found[c] = f"({' AND '.join(parts)})" if parts else "false"
    return {c: found[c] for c in step.columns}


def as_before(step: TableStep, columns: Collection[str]) -> str:
    """SQL, where what a row lacks was carried over: all that `columns` are made of is as it was before."""
    given = given_of(step, columns)
    return "(" + " AND ".join(name(f"lack${c}") for c in given) + ")" if given else "false"


def unknowable(step: TableStep) -> dict[str, str]:
    """Column → SQL: it is as before, but stored masked, and something else is made of it and of new values.

    What needs its clear value cannot be computed or judged.
    """
    masked = [c for c, column in step.spec.contract.columns.items() if column.mask]
    users = [list(e.columns) for e in (*step.derived.values(), *step.rules.values()) if e.columns]
    users += [list(e.columns) for e in (step.keep, step.delete_when) if e and e.columns]
    found = {}
    for c in masked:
        mixed = [f"NOT {as_before(step, used)}" for used in users if c in inputs_of(step, used)]
        if mixed and c not in step.derived:
            found[c] = f"{name(f'lack${c}')} AND ({' OR '.join(mixed)})"
    return found
