"""Quoting and the cheapest exact text operations, as DuckDB SQL."""

from __future__ import annotations

from collections.abc import Iterable

SPACE = "' \t\n\r\x0b\x0c\u00a0\ufeff'"
"""What `trim` removes: ASCII white space, the no-break space and the byte order mark."""

_EDGE = "[\\s\\v\\x{a0}\\x{feff}]"


def name(column: str) -> str:
    """A quoted identifier."""
    return '"' + column.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A quoted text."""
    return "'" + value.replace("'", "''") + "'"


def listed(values: Iterable[str]) -> str:
    return ", ".join(literal(v) for v in values)


def trimmed(text: str) -> str:
    return f"trim({text}, {SPACE})"


def padded(text: str) -> str:
    """True if `text` has white space at an end; cheaper than trimming and comparing."""
    return f"regexp_matches({text}, '^{_EDGE}|{_EDGE}$')"


def visible(text: str) -> str:
    """True only if no white space is at an end; not of all such texts, but of most, for a third of the cost.

    Both ends are visible ASCII. `reverse` keeps together what is one character to the reader, and white space
    is never part of one that begins with visible ASCII.
    """
    return f"{text} BETWEEN '!' AND '~' AND reverse({text}) BETWEEN '!' AND '~'"


def full_match(text: str, pattern: str) -> str:
    return f"regexp_full_match({text}, {literal(pattern)})"


def case(*branches: tuple[str, str], otherwise: str = "NULL") -> str:
    """CASE WHEN …; the branch taken is the first whose condition is true."""
    if not branches:
        return otherwise
    whens = " ".join(f"WHEN {condition} THEN {value}" for condition, value in branches)
    return f"CASE {whens} ELSE {otherwise} END"


def both(conditions: Iterable[str]) -> str:
    """All of `conditions`; true if there are none."""
    parts = [f"({c})" for c in conditions]
    return " AND ".join(parts) if parts else "true"
