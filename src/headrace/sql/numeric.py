"""Numbers from text with no digit lost: every accepted spelling has one value, everything else has none."""

from __future__ import annotations

import re

from .text import case, full_match

Branches = list[tuple[str, str]]

_UNSIGNED = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
DOUBLE = rf"[+-]?{_UNSIGNED}(?:[eE][+-]?[0-9]+)?"
_CODES = "USD|EUR|GBP|JPY|CNY|CHF|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|INR|BRL|MXN|ZAR|KRW|SGD|HKD|TRY|AED|ILS"
_SYMBOL = rf"(?:\$|€|£|¥|{_CODES})"
_AMOUNT = r"[0-9.](?:[0-9., \x{a0}]*[0-9.])?(?: ?%)?"
_MONEY = (
    rf"[+-]? ?{_SYMBOL} ?{_AMOUNT}|{_SYMBOL} ?[+-]{_AMOUNT}|[+-]?{_AMOUNT}[ \x{{a0}}]?{_SYMBOL}"
    rf"|\((?:{_SYMBOL} ?)?{_AMOUNT}(?:[ \x{{a0}}]?{_SYMBOL})?\)"
)
_COMMA = r"[+-]?(?:[0-9]{1,3}(?:[. \x{a0}][0-9]{3})+|[0-9]+)(?:,[0-9]*)?(?: ?%)?"
_GROUPED = r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?(?: ?%)?"
_EITHER = r"[+-]?[0-9]{1,3}[.,][0-9]{3}(?: ?%)?"


def without_currency(text: str) -> str:
    """`$1.50`, `1.50 EUR`, `(1.50)` → `1.50`, `1.50`, `-1.50`; other text stays as it is."""
    sign = f"CASE WHEN contains({text}, '-') OR starts_with({text}, '(') THEN '-' ELSE '' END"
    return case((full_match(text, _MONEY), f"{sign} || regexp_extract({text}, '{_AMOUNT}')"), otherwise=text)


def plain_separators(text: str, formats: list[str]) -> str:
    """`1.234,56` (decimal_comma) or `1,234.56` (thousands) → `1234.56`.

    With `decimal_comma`, `1.234` is 1234; with both formats, what could be either becomes NULL.
    """
    comma, grouped = "decimal_comma" in formats, "thousands" in formats
    branches: list[tuple[str, str]] = []
    if comma and grouped:
        branches.append((full_match(text, _EITHER), "NULL"))
    if grouped:
        branches.append((full_match(text, _GROUPED), f"replace({text}, ',', '')"))
    if comma:
        plain = f"replace(replace(replace(replace({text}, '.', ''), ' ', ''), chr(160), ''), ',', '.')"
        branches.append((full_match(text, _COMMA), plain))
    return case(*branches, otherwise=text)


def integer(text: str, kind: str, formats: list[str]) -> Branches:
    """`kind` is INTEGER or BIGINT; out of range is NULL."""
    branches = [(full_match(text, "[+-]?[0-9]+"), f"TRY_CAST({text} AS {kind})")]
    if {"whole_decimal", "thousands", "decimal_comma"} & set(formats):
        whole = f"TRY_CAST(split_part({text}, '.', 1) AS {kind})"
        branches.append((full_match(text, r"[+-]?[0-9]+\.0*"), whole))
    return branches


def decimal(text: str, kind: str, formats: list[str]) -> Branches:
    """`kind` is DECIMAL(p,s); a digit other than 0 beyond s decimals is NULL."""
    found = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind)
    scale = int(found[2]) if found else 0
    branches = [(full_match(text, _exact(scale)), f"TRY_CAST({text} AS {kind})")]
    if "percent" in formats:
        # By way of 38 digits, since zeros that the exponent removes count as digits of a narrower type.
        shifted = f"TRY_CAST(TRY_CAST(rtrim({text}, ' %') || 'e-2' AS DECIMAL(38,{scale})) AS {kind})"
        branches.append((full_match(text, f"(?:{_exact(scale - 2)}) ?%"), shifted))
    return branches


def double(text: str, formats: list[str]) -> Branches:
    """Nearest double of a finite number; `inf`, `nan` and overflow are NULL."""
    branches = [(full_match(text, DOUBLE), _finite(text))]
    if "percent" in formats:
        branches.append(
            (full_match(text, rf"[+-]?{_UNSIGNED} ?%"), _finite(f"(rtrim({text}, ' %') || 'e-2')"))
        )
    return branches


def _exact(scale: int) -> str:
    """The shape of numbers with no digit but 0 beyond `scale` decimals (before the point if negative)."""
    if scale >= 0:
        return (
            rf"[+-]?(?:[0-9]+(?:\.[0-9]{{0,{scale}}}0*)?|\.[0-9]{{1,{max(scale, 1)}}}0*)"
            if scale
            else (r"[+-]?(?:[0-9]+(?:\.0*)?|\.0+)")
        )
    return rf"[+-]?(?:[0-9]*0{{{-scale}}}|0+)(?:\.0*)?"


def _finite(text: str) -> str:
    number = f"TRY_CAST({text} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"
