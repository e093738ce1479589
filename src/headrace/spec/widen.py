"""Types that hold more: what a column becomes when values of another type come."""

from __future__ import annotations

import re

from ..errors import ConfigError


def wider(one: str, other: str, column: str = "") -> str:
    """The type that holds every value of both exactly; raises ConfigError if there is none.

    >>> wider("integer", "decimal(12,2)"), wider("integer", "bigint"), wider("date", "text")
    ('decimal(12,2)', 'bigint', 'text')
    >>> wider("bigint", "decimal(12,2)")
    'decimal(21,2)'
    """
    if one == other:
        return one
    pair = {one, other}
    if pair & {"text", "json"}:
        return "text"
    if pair == {"integer", "bigint"}:
        return "bigint"
    if pair == {"date", "timestamp"}:
        return "timestamp"
    shapes = [_digits(each) for each in (one, other)]
    if "double" in pair and any(shapes):
        return "double"
    first, second = shapes
    if first and second:
        whole, fraction = max(first[0], second[0]), max(first[1], second[1])
        if whole + fraction <= 38:
            return f"decimal({whole + fraction},{fraction})"
    raise ConfigError(
        f"column `{column}` is {one} in the table and {other} in the new rows; no type holds both exactly",
        hint=f"keep `{column}` as {one}, or give the new meaning a new column name",
    )


def _digits(type_word: str) -> tuple[int, int] | None:
    """Whole and fraction digits of an exact number type."""
    match = re.fullmatch(r"decimal\((\d+),(\d+)\)", type_word)
    if match:
        return int(match[1]) - int(match[2]), int(match[2])
    return {"integer": (10, 0), "bigint": (19, 0)}.get(type_word)
