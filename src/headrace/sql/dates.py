"""Dates and timestamps from text: a value has the shape of a format and exists in the calendar, or is NULL."""

from __future__ import annotations

import re

from headrace.errors import ConfigError

from .text import case, full_match, literal
from .zones import to_utc

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
    "z": "[+-][0-9]{2}:?(?:[0-9]{2})?",
    "%": "%",
}


def shape(pattern: str) -> str:
    """The regular expression that texts of a strptime `pattern` match; two-digit years: 69–99 are 19xx."""
    out, at = "", 0
    while at < len(pattern):
        if pattern[at] == "%":
            directive = pattern[at + 1 : at + 2]
            if directive not in _PARTS:
                raise ConfigError(
                    f"format `{pattern}`: `%{directive}` is not supported",
                    hint="use " + " ".join(f"%{d}" for d in _PARTS),
                )
            out += _PARTS[directive]
            at += 2
        else:
            out += re.escape(pattern[at]) if ord(pattern[at]) < 128 else pattern[at]
            at += 1
    return out


def date(text: str, formats: list[str]) -> str:
    """ISO dates (also with a midnight time), then `formats` in their order."""
    iso = f"TRY_CAST(substr({text}, 1, 10) AS DATE)"
    # Year 0 reads as 1 BC in DuckDB: ISO text has no such year here.
    branches = [
        (
            full_match(text, rf"{_ISO_DATE}(?:[ T]00:00(?::00(?:\.0+)?)?)?")
            + f" AND NOT starts_with({text}, '0000')",
            iso,
        )
    ]
    attempts = [_parsed(text, f, "CAST({} AS DATE)") for f in formats]
    return _first([case(*branches), *attempts])


def timestamp(text: str, formats: list[str], zone: str) -> str:
    """ISO 8601 with or without an offset, then `formats`; naive times are in `zone`; the result is an instant."""
    year = f" AND NOT starts_with({text}, '0000')"
    naive = f"TRY_CAST({text} AS TIMESTAMP)"
    branches = [
        (full_match(text, f"{_ISO_DATE}[ T]{_CLOCK}") + year, to_utc(naive, zone)),
        (
            full_match(text, f"{_ISO_DATE}[ T]{_CLOCK} ?(?:Z|{_OFFSET})") + year,
            f"TRY_CAST(substr({text}, 1, 10) || 'T' || replace(substr({text}, 12), ' ', '') AS TIMESTAMPTZ)",
        ),
    ]
    attempts = [_parsed(text, f, "{}" if "%z" in f else to_utc("{}", zone)) for f in formats]
    return _first([case(*branches), *attempts])


def _parsed(text: str, pattern: str, use: str) -> str:
    moment = f"try_strptime({text}, {literal(pattern)})"
    return case((full_match(text, shape(pattern)), use.replace("{}", moment)))


def _first(attempts: list[str]) -> str:
    return attempts[0] if len(attempts) == 1 else f"coalesce({', '.join(attempts)})"
