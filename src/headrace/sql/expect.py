"""Set rules: what must hold for a table as it would be, judged before anything is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Literal

from headrace.errors import ConfigError
from headrace.spec.contract import Expect

from .language import NOW
from .step import DIALECTS, TableStep
from .text import both, name


@dataclass(frozen=True, slots=True)
class Expectation:
    """`sql` gives one row: passed BOOLEAN, value VARCHAR (what was measured)."""

    name: str
    severity: Literal["warn", "stop"]
    sql: str


def expectations(step: TableStep, dialect: str, relation: str) -> list[Expectation]:
    """The contract's `expect` over `relation`; a sum or newest value of no rows does not pass."""
    if dialect not in DIALECTS:
        raise ConfigError(f"dialect `{dialect}` is not compiled yet", hint=f"dialects: {', '.join(DIALECTS)}")
    return [_compiled(expect, name(relation)) for expect in step.spec.contract.expect]


def _compiled(expect: Expect, relation: str) -> Expectation:
    if expect.unique is not None:
        columns = ", ".join(name(c) for c in expect.unique)
        sql = (
            f"SELECT count(*) = 0 AS passed, count(*) || ' values more than once' AS value "
            f"FROM (SELECT {columns} FROM {relation} GROUP BY {columns} HAVING count(*) > 1)"
        )
        return Expectation(f"unique({', '.join(expect.unique)})", expect.severity, sql)
    if expect.rows is not None:
        enough = _between("count(*)", *expect.rows)
        sql = f"SELECT {enough} AS passed, count(*) || ' rows' AS value FROM {relation}"
        return Expectation("rows", expect.severity, sql)
    if expect.sum is not None:
        total, (low, high) = f"sum({name(expect.sum)})", expect.between or (None, None)
        sql = (
            f"SELECT coalesce({_between(total, low, high)}, false) AS passed, "
            f"coalesce(CAST({total} AS VARCHAR), 'no rows') AS value FROM {relation}"
        )
        return Expectation(f"sum({expect.sum})", expect.severity, sql)
    column = expect.fresh or ""
    newest = f"CAST(max({name(column)}) AS TIMESTAMPTZ)"
    oldest = f"{NOW} - INTERVAL '{int(duration(expect.within or '').total_seconds())} seconds'"
    sql = (
        f"SELECT coalesce({newest} >= {oldest}, false) AS passed, "
        f"coalesce('newest ' || CAST({newest} AS VARCHAR), 'no rows') AS value FROM {relation}"
    )
    return Expectation(f"fresh({column})", expect.severity, sql)


def _between(value: str, low: str | int | float | None, high: str | int | float | None) -> str:
    parts = [f"{value} >= {Decimal(str(low)):f}"] if low is not None else []
    parts += [f"{value} <= {Decimal(str(high)):f}"] if high is not None else []
    return both(parts)


def duration(text: str) -> timedelta:
    """`90s`, `15m`, `2h`, `1d`, `2w` as a timedelta; raises ConfigError for other text."""
    found = re.fullmatch(r"(\d+)\s*([smhdw])", text.strip())
    if not found:
        raise ConfigError(f"`{text}` is no duration", hint="write a number and s, m, h, d or w, such as 2d")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[found[2]]
    return timedelta(**{unit: int(found[1])})
