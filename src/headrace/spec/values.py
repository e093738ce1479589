"""Literals of a contract (`default`, `min`, `values` …) read exactly as the column's type would hold them."""

from __future__ import annotations

import datetime
import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

_INTEGER = re.compile(r"[-+]?[0-9]+")
_RANGES = {"integer": 2**31, "bigint": 2**63}
EXAMPLES = {
    "boolean": "true",
    "integer": "42",
    "bigint": "42",
    "decimal": "12.50",
    "double": "0.5",
    "date": "2026-01-31",
    "timestamp": "2026-01-31T18:30:00Z",
    "text": '"text"',
    "json": "'{\"a\": 1}'",
}


def family(type_: str) -> str:
    """The type word without its parameters.

    >>> family("decimal(12,2)")
    'decimal'
    """
    return type_.partition("(")[0]


def literal(type_: str, value: Any) -> Any:
    """`value` as a comparable Python object of the column's type; raises `ValueError` if it does not fit.

    >>> literal("decimal(5,2)", "1.5"), literal("date", "2026-01-31").year
    (Decimal('1.5'), 2026)
    >>> literal("integer", 1.5)
    Traceback (most recent call last):
    ValueError: 1.5 is no integer
    """
    kind = family(type_)
    if isinstance(value, bool) != (kind == "boolean") and not isinstance(value, str):
        raise ValueError(f"{json.dumps(value)} is no {type_}")
    if kind in ("text", "json"):
        return _text(value, kind)
    text = str(value).strip()
    if kind == "boolean":
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text} is no {type_}")
        return text.lower() == "true"
    if kind in _RANGES:
        return _integer(text, kind)
    if kind == "decimal":
        return _decimal(text, type_)
    if kind == "double":
        return _double(text)
    return _moment(text, kind)


def _text(value: Any, kind: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{json.dumps(value)} is not {kind}")
    if kind == "json":
        try:
            json.loads(value)
        except ValueError:
            raise ValueError(f"`{value}` is no valid JSON") from None
    return value


def _integer(text: str, kind: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{text} is no {kind}")
    number = int(text)
    if not -_RANGES[kind] <= number < _RANGES[kind]:
        raise ValueError(f"{text} is out of range for {kind}")
    return number


def _decimal(text: str, type_: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text} is no {type_}") from None
    if not number.is_finite():
        raise ValueError(f"{text} is no {type_}")
    precision, scale = (int(part) for part in type_[8:-1].split(","))
    if number != round(number, scale) or abs(number) >= 10 ** (precision - scale):
        raise ValueError(f"{text} does not fit into {type_}")
    return number


def _double(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text} is no double") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is not finite")
    return number


def _moment(text: str, kind: str) -> datetime.date | datetime.datetime:
    try:
        if kind == "date":
            return datetime.date.fromisoformat(text)
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`{text}` is no {kind}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
