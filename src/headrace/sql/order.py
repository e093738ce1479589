"""Which row of a key stays: a total order over what rows say, never over when or in what thread they came."""

from __future__ import annotations

from headrace.errors import ConfigError

from .step import DIALECTS, TableStep
from .text import name


def order_by(step: TableStep, prefix: str = "") -> str:
    """ORDER BY terms, the winner first: total up to rows that are equal in all content.

    With `latest_by`: those columns, greatest first, then all content columns. Without: what landed last.
    """
    content = [f"{prefix}{name(c)} DESC NULLS LAST" for c in step.columns]
    landed = [f"{prefix}{c} DESC NULLS LAST" for c in ("_ingested_at", "_source", "_file", "_line")]
    if step.sequence:
        first = [f"{prefix}{name(c)} DESC NULLS LAST" for c in step.sequence]
        gone = [f"{prefix}_deleted DESC"] if step.deletes else []
        rest = [term for c, term in zip(step.columns, content, strict=True) if c not in step.sequence]
        return ", ".join([*first, *gone, *rest, *landed])
    return ", ".join([*landed, *content])


def winners_sql(step: TableStep, dialect: str = "duckdb", checked: str = "checked") -> str:
    """SELECT of one row per key from `checked` (all rows of a step without keys); NULL keys are one key."""
    if dialect not in DIALECTS:
        raise ConfigError(f"dialect `{dialect}` is not compiled yet", hint=f"dialects: {', '.join(DIALECTS)}")
    if not step.keys:
        return f"SELECT * FROM {name(checked)}"
    keys = ", ".join(name(k) for k in step.keys)
    return (
        f"SELECT * EXCLUDE (_place) FROM (SELECT *, row_number() OVER (PARTITION BY {keys} "
        f"ORDER BY {order_by(step)}) AS _place FROM {name(checked)}) WHERE _place = 1"
    )
