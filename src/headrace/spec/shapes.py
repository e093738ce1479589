"""What a profile of data tells an inference: which shapes the values of a column have, and how many each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """What the full data says of one column; counts are rows, texts are trimmed."""

    name: str
    """The header."""
    rows: int
    nulls: int
    """Missing or blank."""
    distinct: int
    unique: bool = False
    """Every row has its own value, and none is missing."""
    min_length: int = 0
    max_length: int = 0
    untrimmed: int = 0
    """Rows with blanks around the value."""
    shapes: Mapping[str, int] = field(default_factory=dict)
    """integer, whole_decimal (17850.0), decimal, exponent, percent, thousands (1,234.5), comma (1.234,5),
    comma_or_thousands (1,234), currency (beside the former), true_false, yes_no, date, timestamp (ISO), json,
    and strptime patterns such as %d/%m/%Y; each value has one shape, but for day-first and month-first."""
    digits: tuple[int, int] = (0, 0)
    """Most digits before and after the decimal point."""
    low: str | None = None
    high: str | None = None
    """Least and greatest number, exact."""
    leading_zeros: int = 0
    """Numbers such as 007: they are names."""
    spans: Mapping[str, int] = field(default_factory=dict)
    """Days from the first to the last date, by strptime pattern."""
    words: Mapping[str, int] = field(default_factory=dict)
    """Texts that may mean "missing", such as N/A."""
    odd: Sequence[tuple[str, int]] = ()
    """The most frequent values without any of the shapes, then exponents among plain numbers."""
    top: Sequence[tuple[str, int]] = ()
    """The most frequent values."""
    looks: Mapping[str, float] = field(default_factory=dict)
    """Share of different values that look like an email, phone, iban, card, ip, uuid."""


def swapped(pattern: str) -> str:
    """Month-first for day-first, and back.

    >>> swapped("%d/%m/%Y %H:%M"), swapped("%Y-%m-%d")
    ('%m/%d/%Y %H:%M', '%Y-%m-%d')
    """
    return re.sub(r"^%([dm])(.)%([dm])", r"%\3\2%\1", pattern)
