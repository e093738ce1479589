"""What differs between two definitions of one column; when in doubt, it is breaking."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from pydantic import BaseModel

from .contract import Column

_RANK = ("warn", "quarantine", "stop")
_DIGITS = {"integer": 10, "bigint": 19}
ALTERS = "values that are in the table change"


@dataclass(frozen=True, slots=True)
class Difference:
    how: str
    breaks: str = ""
    """Why it is breaking; empty if it is not."""
    values: bool = False
    rows: bool = False


def column_changes(name: str, old: Column, new: Column) -> Iterator[Difference]:
    """All differences but those in words for people."""
    if old.type != new.type:
        why = "" if widens(old.type, new.type) else "it does not hold all that it held, as it held it"
        yield Difference(f"{old.type} → {new.type}", why, values=True, rows=bool(why))
    yield from _source(name, old, new)
    for setting in ("derive", "timezone", "clean"):
        before, after = getattr(old, setting), getattr(new, setting)
        if before != after:
            yield Difference(f"{setting} {said(before)} → {said(after)}", ALTERS, values=True, rows=True)
    yield from _map(old, new)
    if old.default != new.default:
        only_more = old.default is None and old.required
        how = f"default {said(old.default)} → {said(new.default)}"
        yield Difference(how, "" if only_more else ALTERS, values=True, rows=True)
    yield from _privacy(old, new)
    yield from _checks(old, new)


def widens(old: str, new: str) -> bool:
    """Whether every value of `old` is one of `new`, exactly, and is still a number to its readers.

    >>> widens("integer", "bigint"), widens("decimal(10,2)", "decimal(12,4)")
    (True, True)
    >>> widens("decimal(10,2)", "decimal(10,4)"), widens("bigint", "double"), widens("integer", "text")
    (False, False, False)
    """
    if (old, new) in (("integer", "bigint"), ("integer", "double")):
        return True
    wide = _decimal(new)
    if wide is None:
        return False
    if old in _DIGITS:
        return wide[0] >= _DIGITS[old]
    narrow = _decimal(old)
    return narrow is not None and wide[0] >= narrow[0] and wide[1] >= narrow[1]


def stricter(severity: str) -> str:
    """Why a check that refuses more is breaking."""
    return "a run that went through may stop" if severity == "stop" else "rows may go to quarantine"


def _decimal(word: str) -> tuple[int, int] | None:
    """Digits before and after the point."""
    match = re.fullmatch(r"decimal\((\d+),(\d+)\)", word)
    return (int(match[1]) - int(match[2]), int(match[2])) if match else None


def _source(name: str, old: Column, new: Column) -> Iterator[Difference]:
    before, after = old.source or [name], new.source or [name]
    if before != after and not (old.derive or new.derive):
        appended = after[: len(before)] == before
        how = f"from {said(before)} → {said(after)}"
        yield Difference(how, "" if appended else ALTERS, values=True, rows=not appended)
    if old.formats != new.formats:
        appended = new.formats[: len(old.formats)] == old.formats
        why = "" if appended else "values that were read may be read otherwise, or not at all"
        how = f"formats {said(old.formats)} → {said(new.formats)}"
        yield Difference(how, why, values=not appended, rows=True)


def _map(old: Column, new: Column) -> Iterator[Difference]:
    if old.map == new.map:
        return
    kept = all(new.map.get(text) == value for text, value in old.map.items())
    refused = old.values is not None and not {*new.map} - {*old.map} & {str(v) for v in old.values}
    why = "" if kept and refused else ALTERS
    yield Difference(f"map {said(old.map)} → {said(new.map)}", why, values=bool(why), rows=True)


def _privacy(old: Column, new: Column) -> Iterator[Difference]:
    if old.mask != new.mask:
        why = "what is stored is not what was stored"
        yield Difference(f"mask {said(old.mask)} → {said(new.mask)}", why, values=True)
    if old.pii != new.pii:
        why = "" if new.pii else "it is shown in clear wherever people look"
        yield Difference(f"pii {said(old.pii)} → {said(new.pii)}", why)


def _checks(old: Column, new: Column) -> Iterator[Difference]:
    refuses = "" if new.severity == "warn" else stricter(new.severity)
    for setting in ("required", "values", "min", "max", "max_length", "pattern", "references", "on_missing"):
        before, after = getattr(old, setting), getattr(new, setting)
        if before != after:
            more = _refuses_more(setting, before, after)
            how = f"{setting} {said(before)} → {said(after)}"
            yield Difference(how, refuses if more else "", rows=True)
    if old.severity != new.severity:
        up = _RANK.index(new.severity) > _RANK.index(old.severity)
        how = f"severity {old.severity} → {new.severity}"
        yield Difference(how, refuses if up else "", rows=True)


def _refuses_more(setting: str, before: Any, after: Any) -> bool:
    """Whether a value that passed may not pass any more."""
    if setting in ("required", "on_missing"):
        return bool(after is True or after == "quarantine")
    if after is None:
        return False
    if before is None or setting in ("pattern", "references"):
        return True
    if setting == "values":
        return not {str(value) for value in before} <= {str(value) for value in after}
    low, high = (before, after) if setting == "min" else (after, before)
    try:
        return Decimal(str(low)) < Decimal(str(high))
    except InvalidOperation:
        return str(low) < str(high)


def said(value: Any) -> str:
    """A setting on one line, as people write it; an absent one is `none`."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"`{value}`" if isinstance(value, str) else str(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else said(value)
