"""One contract column from its staged text to its typed value: exact, or NULL and reported.

A column passes through levels of nested SELECTs: `texts` (each level from the one before: cleaning, codes,
currency signs, separators), `fast` (a plain TRY_CAST) and `value`. A value that casts and prints back as the
same text needs no look at its shape: that is most values, and costs a third of a regular expression.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from headrace.errors import ConfigError
from headrace.spec.contract import Column

from . import dates, numeric
from .text import both, case, full_match, listed, literal, name, padded, trimmed, visible
from .zones import to_utc

Branches = list[tuple[str, str]]

NUMERIC_FORMATS = ("currency", "percent", "decimal_comma", "thousands")


@dataclass(frozen=True, slots=True)
class Cast:
    """SQL of one column; levels are named `raw$c` (staged), `text1$c`…, `fast$c`, then `c` itself."""

    texts: tuple[str, ...]
    fast: str | None
    value: str
    missing: str
    """True where no value was given; meant for rows whose `value` is NULL."""
    always: bool = False
    """True if every given text is a value (plain text): then nothing can fail."""


def native(kind: str) -> str:
    """DuckDB's type for a contract type."""
    return {"text": "VARCHAR", "json": "VARCHAR", "timestamp": "TIMESTAMPTZ"}.get(kind, kind.upper())


def cast_of(column: str, spec: Column, nulls: list[str]) -> Cast:
    """The cast of `column`; raises ConfigError where a format does not go with the type."""
    _check_formats(column, spec)
    raw = name(f"raw${column}")
    missing = f"({raw} IS NULL OR {trimmed(raw)} IN ({listed(nulls)}))" if nulls else f"({raw} IS NULL)"
    texts, mapped = _texts(column, spec, raw, missing, nulls)
    text = name(f"text{len(texts)}${column}") if texts else raw
    if texts:
        missing = f"({name(f'text{mapped}${column}')} IS NULL)"
    always = False
    if spec.type == "text":
        # Where only digits or letters stay and none are there, a value would silently become a missing one.
        emptied = bool({"digits", "alnum"} & set(spec.clean))
        fast, value = None, f"nullif({text}, '')" if emptied else text if texts else _plain_text(raw, nulls)
        always = not emptied
    else:
        fast, value = _typed(column, spec, text, [] if texts else nulls)
    if spec.default is not None:
        value = f"coalesce({value}, CASE WHEN {missing} THEN {default(column, spec)} END)"
        missing = "false"
    return Cast(tuple(texts), fast, value, missing, always)


def default(c: str, column: Column) -> str:
    """The column's default in its type; raises ConfigError if it does not fit there exactly."""
    value = column.default
    if column.type == "boolean" and not isinstance(value, str):
        return "true" if value else "false"
    constant = bound(c, column, "" if value is None else value)
    found = re.fullmatch(r"decimal\((\d+),(\d+)\)", column.type)
    whole = column.type in ("integer", "bigint") and Decimal(str(value)) % 1
    if whole or (found and Decimal(str(value)).scaleb(int(found[2])) % 1):
        raise ConfigError(
            f"column `{c}`: default `{value}` is no {column.type}", hint="it may not lose a digit"
        )
    return f"CAST({constant} AS {native(column.type)})"


def _check_formats(column: str, spec: Column) -> None:
    kind = spec.type.partition("(")[0]
    allowed = {
        "integer": ("whole_decimal", "thousands", "decimal_comma", "currency"),
        "bigint": ("whole_decimal", "thousands", "decimal_comma", "currency"),
        "decimal": (*NUMERIC_FORMATS, "whole_decimal"),
        "double": (*NUMERIC_FORMATS, "whole_decimal"),
        "boolean": ("yes_no",),
    }.get(kind, ())
    for given in spec.formats:
        if kind in ("date", "timestamp") and "%" in given:
            dates.check_format(given)
        elif given not in allowed:
            takes = ", ".join(allowed) or ("strptime patterns" if kind in ("date", "timestamp") else "none")
            raise ConfigError(
                f"column `{column}`: format `{given}` does not go with type {spec.type}",
                hint=f"formats of {kind}: {takes}",
            )


def _texts(column: str, spec: Column, raw: str, missing: str, nulls: list[str]) -> tuple[list[str], int]:
    """(levels of text, the level at which NULL means that no value was given)."""
    money, grouped = "currency" in spec.formats, {"decimal_comma", "thousands"} & set(spec.formats)
    if not (spec.clean or spec.map or money or grouped):
        return [], 0
    strip = spec.type != "text" or spec.clean
    texts = [case((missing, "NULL"), otherwise=raw)]
    if strip:
        # Trimming every text costs five times as much as seeing that there is nothing to trim.
        bare, inner = [
            case((f"{text} IN ({listed(nulls)})", "NULL"), otherwise=text) if nulls else text
            for text in (raw, trimmed(raw))
        ]
        texts = [case((visible(raw), bare), (padded(raw), inner), otherwise=bare)]

    def latest() -> str:
        return name(f"text{len(texts)}${column}")

    for word in spec.clean:
        if word != "trim":
            texts.append(_cleaned(word, latest()))
    if spec.map:
        codes = [
            (f"{latest()} = {literal(k)}", "NULL" if v in nulls else literal(v)) for k, v in spec.map.items()
        ]
        texts.append(case(*codes, otherwise=latest()))
    mapped = len(texts)
    if money:
        texts.append(numeric.without_currency(latest()))
    if grouped:
        texts.append(numeric.plain_separators(latest(), spec.formats))
    return texts, mapped


def _cleaned(word: str, text: str) -> str:
    if word in ("lower", "upper"):
        return f"{word}({text})"
    if word == "squeeze":
        return f"regexp_replace({text}, '\\s+', ' ', 'g')"
    if word == "title":
        word_up = "lambda w: upper(substr(w, 1, 1)) || substr(w, 2)"
        return f"array_to_string(list_transform(string_split(lower({text}), ' '), {word_up}), ' ')"
    kept = {"digits": "0-9", "alnum": "\\p{L}\\p{N}"}[word]
    return f"regexp_replace({text}, '[^{kept}]', '', 'g')"


def _plain_text(raw: str, nulls: list[str]) -> str:
    """The text as it came. Most texts start with no space and no null word: those need no second look."""
    if not nulls:
        return raw
    quick = [f"{raw} >= '!'", f"{raw} < chr(160)"]
    foreign = [
        f"{raw} > chr(160)",
        f"NOT starts_with({raw}, chr(160))",
        f"NOT starts_with({raw}, chr(65279))",
    ]
    words = [f"NOT starts_with({raw}, {literal(n)})" for n in nulls if n]
    return case(
        (both([*quick, *words]), raw),
        (f"{raw} = ''", "NULL" if "" in nulls else raw),
        (both([*foreign, *words]), raw),
        (f"{trimmed(raw)} IN ({listed(nulls)})", "NULL"),
        otherwise=raw,
    )


def _typed(column: str, spec: Column, text: str, nulls: list[str]) -> tuple[str | None, str]:
    """(the plain cast, the value): `nulls` may be left out where `text` has none."""
    words = [n for n in nulls if n]
    if spec.type not in ("boolean", "double", "json"):
        # Only a null word with a digit could be taken for a number or a date.
        words = [n for n in words if any(c.isdigit() for c in n)]
    fast, quick = _fast(column, spec, text)
    parse = _parser(spec)
    branches = [(f"{text} IN ({listed(words)})", "NULL")] if words else []
    branches += [*quick, (f"{text} IS NULL OR {text} = ''", "NULL"), *parse(text)]
    stripped = [(f"{trimmed(text)} IN ({listed(words)})", "NULL")] if words else []
    branches.append((padded(text), case(*stripped, *parse(trimmed(text)))))
    return fast, case(*branches)


def _fast(column: str, spec: Column, text: str) -> tuple[str | None, Branches]:
    """A cast that most values pass, and the branches that take it where it is exact.

    A failed cast costs ten times a good one: beside other formats, only what looks like ISO is tried.
    """
    good, kind, base = name(f"fast${column}"), native(spec.type), spec.type.partition("(")[0]
    same = f"CAST({good} AS VARCHAR) = {text}"
    if base in ("integer", "bigint") or (base == "decimal" and "decimal_comma" not in spec.formats):
        return f"TRY_CAST({text} AS {kind})", [(same, good)]
    if base == "double":
        return f"TRY_CAST({text} AS DOUBLE)", [
            (f"{full_match(text, numeric.DOUBLE)} AND isfinite({good})", good)
        ]
    if base == "date" and dates.takes_iso(spec.formats):
        cast = f"TRY_CAST({text} AS DATE)"
        if spec.formats:
            cast = case((f"{text} LIKE '____-__-__'", cast))
        return cast, [(f"length({text}) = 10 AND {same}", good)]
    if base == "timestamp" and not spec.formats:
        instant = to_utc(good, spec.timezone or "UTC")
        # The text of an instant in UTC, as databases write it: its cast is that instant, whatever the zone.
        utc = f"length({text}) BETWEEN 22 AND 29 AND substr({text}, 5, 1) = '-' AND ends_with({text}, '+00')"
        printed = f"CAST({good} AS VARCHAR) || '+00' = {text}"
        return f"TRY_CAST({text} AS TIMESTAMP)", [
            (f"length({text}) = 19 AND {same}", instant),
            (f"{utc} AND {printed}", to_utc(good, "UTC")),
        ]
    if base == "boolean":
        return None, [(f"{text} = 'true'", "true"), (f"{text} = 'false'", "false")]
    return None, []


def _parser(spec: Column) -> Callable[[str], Branches]:
    kind, base = native(spec.type), spec.type.partition("(")[0]
    formats, zone = list(spec.formats), spec.timezone or "UTC"
    if base in ("integer", "bigint"):
        return lambda t: numeric.integer(t, kind, formats)
    if base == "decimal":
        return lambda t: numeric.decimal(t, kind, formats)
    if base == "double":
        return lambda t: numeric.double(t, formats)
    if base == "date":
        return lambda t: dates.date(t, formats)
    if base == "timestamp":
        return lambda t: dates.timestamp(t, formats, zone)
    if base == "boolean":
        return lambda t: boolean(t, "yes_no" in formats)
    return json


def boolean(text: str, yes_no: bool) -> Branches:
    """true/t/1 and false/f/0 in any case; with `yes_no` also yes/y/on and no/n/off."""
    true, false = ["true", "t", "1"], ["false", "f", "0"]
    if yes_no:
        true, false = [*true, "yes", "y", "on"], [*false, "no", "n", "off"]
    lowered = f"lower({text})"
    return [(f"{lowered} IN ({listed(true)})", "true"), (f"{lowered} IN ({listed(false)})", "false")]


def json(text: str) -> Branches:
    """The text if it is JSON by RFC 8259; DuckDB alone also takes `[1,]`, NaN and Infinity."""
    bare = f"regexp_replace({text}, {literal(_JSON_WORD)}, '0', 'g')"
    return [(f"json_valid({text}) AND NOT regexp_matches({bare}, {literal(_JSON_ODD)})", trimmed(text))]


_JSON_WORD = r'"(?:[^"\\]|\\.)*"|\b(?:true|false|null)\b'
_JSON_ODD = r",\s*[\]}]|[A-DF-Za-df-z/']"


def bound(c: str, column: Column, value: str | int | float) -> str:
    """A constant of the contract as SQL in the column's type; raises ConfigError if it is none."""
    base = column.type.partition("(")[0]
    try:
        if base in ("integer", "bigint", "decimal", "double"):
            number = Decimal(str(value))
            if not number.is_finite():
                raise ValueError
            return f"{number:f}"
        if base == "date":
            return f"DATE {literal(date.fromisoformat(str(value)).isoformat())}"
        if base == "timestamp":
            moment = datetime.fromisoformat(str(value))
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=ZoneInfo(column.timezone or "UTC"))
            return f"TIMESTAMPTZ {literal(moment.astimezone(UTC).isoformat(' '))}"
    except (ValueError, ArithmeticError):
        raise ConfigError(
            f"column `{c}`: `{value}` is no {column.type}",
            hint="min, max and values are written as the column's type, dates as 2026-01-31",
        ) from None
    return literal(str(value))
