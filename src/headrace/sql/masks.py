"""How personal data is stored: masked after the rules have seen it and before anything else does."""

from __future__ import annotations

from .text import case, full_match, name

KEY = "CAST(getvariable('headrace_pii_key') AS VARCHAR)"
"""The engine must set this variable to the secret as text: without it every hash would be NULL."""


def masked(column: str, mask: str | None) -> str:
    """SQL of the stored form; under `hash` equal values stay equal; missing ones stay missing."""
    value = name(column)
    if mask == "hash":
        return f"sha256({KEY} || sha256({KEY} || {value}))"
    if mask == "redact":
        return case((f"{value} IS NOT NULL", "'***'"))
    if mask == "partial":
        email = f"substr({value}, 1, 1) || '***' || substr({value}, strpos({value}, '@'))"
        return case(
            (full_match(value, "[^@ ]+@[^@ ]+"), email),
            (f"length({value}) > 8", f"'***' || right({value}, 4)"),
            (f"{value} IS NOT NULL", "'***'"),
        )
    return value
