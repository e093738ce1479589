"""Bounds of a column as Delta statistics hold them: never tighter than the values, absent when unsure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from ...core import DataFile

LONGEST = 32
"""Characters of a text bound; more would only make the log larger."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)\+00")

Bound = int | float | str


AS_THEY_CAME = ("raw", "fields")
"""Columns of a quarantine: nobody looks for their bounds, which would show whole records in Delta's log."""


def unbounded(table: str) -> Sequence[str]:
    """Columns of `table` of which the log may hold no bounds."""
    return AS_THEY_CAME if table.startswith("quarantine.") else ()


def data_file(
    row: Sequence[Any], columns: Mapping[str, str], partition_by: Sequence[str], hidden: Sequence[str] = ()
) -> DataFile:
    """The file that one row of COPY … RETURN_STATS describes; of `hidden` columns it has no bounds."""
    path, rows, size, _, statistics, keys = row[:6]
    low: dict[str, Bound] = {}
    high: dict[str, Bound] = {}
    nulls: dict[str, int] = {}
    for quoted, facts in statistics.items():
        name = quoted[1:-1].replace('""', '"')
        kind = columns.get(name)
        if kind is None:
            continue
        if facts.get("null_count") is not None:
            nulls[name] = int(facts["null_count"])
        if name in hidden:
            continue
        if int(facts.get("nan_count") or 0) or facts.get("has_nan") == "true":
            continue
        least, greatest = lower(kind, facts.get("min")), upper(kind, facts.get("max"))
        if least is not None:
            low[name] = least
        if greatest is not None and facts.get("max_is_exact") == "true":
            high[name] = greatest
    values = {name: partition_value(columns[name], (keys or {}).get(name)) for name in partition_by}
    return DataFile(Path(path), int(rows), int(size), values, low, high, nulls)


def partition_value(kind: str, value: str | None) -> str | None:
    """The value as Delta's log spells it."""
    if value is None or value == "NULL":
        return None
    match = _STAMP.fullmatch(value) if kind == "timestamp" else None
    return f"{match[1]} {match[2]}" if match else value


def lower(kind: str, value: str | None) -> Bound | None:
    """The greatest bound that surely is not above `value`.

    >>> lower("integer", "7"), lower("decimal(12,2)", "1.50"), lower("timestamp", "2020-01-01 00:00:00+00")
    (7, 1.5, '2020-01-01T00:00:00Z')
    """
    if value is None:
        return None
    if kind == "text":
        return value[:LONGEST]
    return _scalar(kind, value)


def upper(kind: str, value: str | None) -> Bound | None:
    """The least bound that surely is not below `value`; a long text has none unless it can be rounded up."""
    if value is None:
        return None
    if kind != "text" or len(value) <= LONGEST:
        return value if kind == "text" else _scalar(kind, value)
    # any text that starts like `value` sorts before its prefix followed by the greatest character
    return None if value[LONGEST] == "\U0010ffff" else value[:LONGEST] + "\U0010ffff"


def _scalar(kind: str, value: str) -> Bound | None:
    if kind in ("integer", "bigint"):
        return int(value)
    if kind.startswith("decimal"):
        number = Decimal(value)
        if number == number.to_integral_value() and kind.endswith(",0)"):
            return int(number)
        # JSON numbers are doubles to most readers; beyond 15 digits they would lie
        return float(number) if len(number.as_tuple().digits) <= 15 else None
    if kind == "double":
        number_ = float(value)
        return number_ if number_ == number_ and abs(number_) != float("inf") else None
    if kind == "date":
        return value if _DATE.fullmatch(value) else None
    if kind == "timestamp":
        match = _STAMP.fullmatch(value)
        return f"{match[1]}T{match[2]}Z" if match else None
    return None


def overlaps(kind: str, file: DataFile, name: str, span: tuple[Any, Any, int]) -> bool:
    """Whether `file` may hold a value of column `name` within `span` (least, greatest, how many NULLs)."""
    least, greatest, missing = span
    if missing and file.nulls.get(name, 1):
        return True
    if least is None:
        return bool(missing) and bool(file.nulls.get(name, 1))
    low, high = file.low.get(name), file.high.get(name)
    if file.nulls.get(name) == file.rows:
        return False
    try:
        return not (
            (high is not None and _key(kind, least) > _key(kind, high, slack=True))
            or (low is not None and _key(kind, greatest) < _key(kind, low))
        )
    except (ValueError, TypeError):
        return True  # a bound that cannot be read prunes nothing


def _key(kind: str, value: Any, *, slack: bool = False) -> Any:
    """Something comparable. Other writers cut timestamps to milliseconds, so an upper bound gets one more."""
    if kind in ("integer", "bigint"):
        return int(value)
    if kind.startswith("decimal") or kind == "double":
        return Decimal(repr(value) if isinstance(value, float) else str(value))
    if kind == "date":
        return value if isinstance(value, date) else date.fromisoformat(value)
    if kind == "timestamp":
        stamp = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        stamp = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
        return stamp + timedelta(milliseconds=1) if slack else stamp
    if kind == "text":
        return str(value)
    raise ValueError(kind)
