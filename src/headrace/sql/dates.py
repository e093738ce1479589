"""Dates and timestamps from text: a value fits a format and the calendar, or is NULL.

A parser gives branches (condition, value): the first whose condition is true decides. Formats of one skeleton
(`%d/%m/%Y` and `%m/%d/%Y`) share a branch and are tried in order; no two branches can both be true.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from headrace.errors import ConfigError

from .text import case, full_match, literal
from .zones import to_utc

Branches = list[tuple[str, str]]

_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,6}0*)?)?"
_ISO_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_OFFSET = r"[+-](?:0[0-9]|1[0-5])(?::?[0-5][0-9])?"
_PARTS = {
    "Y": "[0-9]{4}",
    "y": "[0-9]{2}",
    "m": "[0-9]{1,2}",
    "d": "[0-9]{1,2}",
    "H": "[0-9]{1,2}",
    "I": "[0-9]{1,2}",
    "M": "[0-9]{1,2}",
    "S": "[0-9]{1,2}",
    "f": "[0-9]{1,6}",
    "j": "[0-9]{1,3}",
    "b": "[A-Za-z]{3}",
    "B": "[A-Za-z]+",
    "a": "[A-Za-z]{3}",
    "A": "[A-Za-z]+",
    "p": "[AaPp][Mm]",
    "z": "[+-][0-9]{2}(?::?[0-9]{2})?",
    "%": "%",
}


_DIGITS = "YymdHIMSfj"


def _iso(text: str, pattern: str) -> str:
    """The condition of ISO text; year 0, which DuckDB would take for 1 BC, is none."""
    return f"{text} >= '0001' AND {full_match(text, pattern)}"


def _tokens(pattern: str) -> list[str]:
    """`%d` directives and single literal characters; raises ConfigError for a directive we do not know."""
    tokens = re.findall(r"%.?|[^%]", pattern, re.DOTALL)
    for token in tokens:
        if token[0] == "%" and token[1:] not in _PARTS:
            raise ConfigError(
                f"format `{pattern}`: `{token}` is not supported",
                hint="use " + " ".join(f"%{d}" for d in _PARTS),
            )
    return tokens


def shape(pattern: str) -> str:
    """The regular expression that texts of a strptime `pattern` match; %y of 69 to 99 is 19xx, else 20xx."""
    tokens = _tokens(pattern)
    out = ""
    for at, token in enumerate(tokens):
        beside = tokens[max(at - 1, 0) : at] + tokens[at + 1 : at + 2]
        part = _PARTS[token[1]] if token[0] == "%" else re.escape(token) if ord(token) < 128 else token
        # Digits that touch have their full width: 2024013 could be two dates.
        if token[0] == "%" and any((t[0] == "%" and t[1] in _DIGITS) or t.isdigit() for t in beside):
            part = part.replace("{1,", "{")
        out += part
    return out


def check_format(pattern: str) -> None:
    """Raises ConfigError where `pattern` does not fix a whole date."""
    found = {t[1] for t in _tokens(pattern) if t[0] == "%"}
    day = (bool(found & set("d")) and bool(found & set("mbB"))) or "j" in found
    if not (found & set("yY") and day):
        raise ConfigError(f"format `{pattern}` has no full date", hint="it needs a year, a month and a day")
    if "I" in found and "p" not in found:
        raise ConfigError(
            f"format `{pattern}`: %I leaves open which half of the day", hint="add %p, or use %H"
        )


def _skeleton(pattern: str) -> str:
    """Two formats of different skeletons never match the same text."""
    kinds = {**dict.fromkeys(_DIGITS, "0"), **dict.fromkeys("bBaAp", "a"), "z": "+0", "%": "%"}
    plain = "".join(kinds[t[1]] if t[0] == "%" else "0" if t.isdigit() else t for t in _tokens(pattern))
    return re.sub("[A-Za-z]+", "a", re.sub("0+", "0", plain))


def takes_iso(formats: list[str]) -> bool:
    """Whether an ISO date is one: no format claims its shape."""
    return not any(re.fullmatch(shape(f), "2001-02-03") for f in formats)


def date(text: str, formats: list[str]) -> Branches:
    """`formats`, and ISO dates (also with a midnight time) unless a format claims their shape."""
    branches = _by_format(text, formats, lambda moment, _: f"CAST({moment} AS DATE)")
    if takes_iso(formats):
        midnight = rf"{_ISO_DATE}(?:[ T]00:00(?::00(?:\.0+)?)?)?"
        branches.append((_iso(text, midnight), f"TRY_CAST(substr({text}, 1, 10) AS DATE)"))
    return branches


def timestamp(text: str, formats: list[str], zone: str) -> Branches:
    """`formats`, and ISO 8601 with or without an offset; naive times are in `zone`; gives an instant."""
    branches = _by_format(text, formats, lambda at, pattern: at if "%z" in pattern else to_utc(at, zone))
    if not any(re.fullmatch(shape(f), "2001-02-03 04:05:06") for f in formats):
        naive = to_utc(f"TRY_CAST({text} AS TIMESTAMP)", zone)
        branches.append((_iso(text, f"{_ISO_DATE}[ T]{_CLOCK}"), naive))
    offset = f"TRY_CAST(substr({text}, 1, 10) || 'T' || replace(substr({text}, 12), ' ', '') AS TIMESTAMPTZ)"
    branches.append((_iso(text, f"{_ISO_DATE}[ T]{_CLOCK} ?(?:Z|{_OFFSET})"), offset))
    return branches


def _by_format(text: str, formats: list[str], use: Callable[[str, str], str]) -> Branches:
    groups: dict[str, list[str]] = {}
    for pattern in formats:
        groups.setdefault(_skeleton(pattern), []).append(pattern)
    branches = []
    for group in groups.values():
        values = [use(f"try_strptime({text}, {literal(p)})", p) for p in group]
        shapes = [full_match(text, s) for s in dict.fromkeys(shape(p) for p in group)]
        if len(shapes) > 1:
            guarded = zip(group, values, strict=True)
            values = [case((full_match(text, shape(p)), value)) for p, value in guarded]
        value = values[0] if len(values) == 1 else f"coalesce({', '.join(values)})"
        branches.append((" OR ".join(shapes), value))
    return branches
