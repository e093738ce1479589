"""What must fit together in a definition beyond single fields; SQL in it is checked by who compiles it."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from .contract import FORMAT_WORDS, FORMATS, Column, Contract, Expect
from .pipeline import PipelineConfig, Step, TableSpec
from .problem import Problem, nearest, suggest
from .values import EXAMPLES, family, literal
from .window import stream_problems

_NUMBERS = ("integer", "bigint", "decimal", "double")
_MOMENTS = ("date", "timestamp")
_FORMAT_TYPES = {
    "currency": _NUMBERS,
    "percent": ("decimal", "double"),
    "decimal_comma": _NUMBERS,
    "thousands": _NUMBERS,
    "whole_decimal": _NUMBERS,
    "yes_no": ("boolean",),
}
_DIRECTIVES = set("YymdHIMSfjbBaApz%")
_DURATION = re.compile(r"[1-9][0-9]*(ms|s|m|h|d|w)")
_SIZE = re.compile(r"[1-9][0-9]*(\.[0-9]+)? ?([KMGT]i?B)", re.IGNORECASE)
_CRON = re.compile(r"[0-9*/,\-A-Za-z]+")


def problems(config: PipelineConfig) -> Iterator[Problem]:
    """Everything that cannot work in `config`; empty for a definition that can run."""
    yield from _settings(config)
    yield from _streams(config)
    yield from _cycles(config)
    for name, table in config.tables.items():
        yield from (p.under("tables", name) for p in _table(config, name, table))
        yield from (p.under("tables", name, "contract") for p in contract_problems(table.contract))
    for name, stream in config.streams.items():
        found = stream_problems(name, stream, config.tables, config.streams)
        yield from (p.under("streams", name) for p in found)


def contract_problems(contract: Contract) -> Iterator[Problem]:
    """Everything that cannot work in one contract, whichever table it is for."""
    for name, column in contract.columns.items():
        yield from (p.under("columns", name) for p in _column(column))
    yield from _headers(contract)
    for place, expect in enumerate(contract.expect):
        yield from (p.under("expect", place) for p in _expect(expect, contract))


def _settings(config: PipelineConfig) -> Iterator[Problem]:
    durations: tuple[tuple[tuple[str, ...], str | None], ...] = (
        (("retention", "bronze"), config.retention.bronze),
        (("retention", "silver"), config.retention.silver),
        (("monitoring", "freshness"), config.monitoring.freshness),
    )
    for at, duration in durations:
        if duration is not None:
            yield from (p.under(*at) for p in _duration(at[-1], duration))
    if not _SIZE.fullmatch(config.memory):
        yield Problem(("memory",), f"memory `{config.memory}` is no size", "such as 512MB or 2GB")
    if config.schedule is not None and not _is_cron(config.schedule):
        message = f"schedule `{config.schedule}` is no cron expression"
        hint = (
            'five fields: minute hour day month weekday, such as "*/15 * * * *", or @hourly, @daily, @weekly'
        )
        yield Problem(("schedule",), message, hint)
    encryption = config.encryption
    if encryption and encryption.key not in encryption.keys:
        message = f"encryption: key `{encryption.key}` is not among `keys`"
        yield Problem(("encryption", "key"), message, suggest(encryption.key, encryption.keys, "keys"))


def _duration(name: str, text: str) -> Iterator[Problem]:
    if not _DURATION.fullmatch(text):
        yield Problem(
            (), f"{name} `{text}` is no duration", "a number and s, m, h, d or w, such as 30m or 90d"
        )


def _is_cron(text: str) -> bool:
    if text in ("@hourly", "@daily", "@weekly", "@monthly", "@yearly"):
        return True
    fields = text.split()
    limits = (59, 23, 31, 12, 7)
    return len(fields) == 5 and all(
        _CRON.fullmatch(field) and all(int(number) <= limit for number in re.findall(r"(?<!/)\b\d+", field))
        for field, limit in zip(fields, limits, strict=True)
    )


def _streams(config: PipelineConfig) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for name, source in config.sources.items():
        stream = source.id or name
        at = ("sources", name, "id")
        if not re.fullmatch(r"[a-z][a-z0-9_\-]*", stream):
            yield Problem(at, f"id `{stream}`: lower case letters, digits, - and _", "such as `orders`")
        other = taken.setdefault(stream, name)
        if other != name:
            hint = "ids say which landed data is whose: give each source its own"
            yield Problem(at, f"id `{stream}` is already that of source `{other}`", hint)


def _cycles(config: PipelineConfig) -> Iterator[Problem]:
    needs = {
        name: {c.references.partition(".")[0] for c in table.contract.columns.values() if c.references}
        - {name}
        for name, table in config.tables.items()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        hint = "one of the tables must be first: leave out a `references`, and test it in gold"
        yield Problem(("tables", cycle[0]), f"references go in a circle: {' → '.join(reversed(cycle))}", hint)


def _table(config: PipelineConfig, name: str, table: TableSpec) -> Iterator[Problem]:
    columns = table.contract.columns
    if name.endswith("_history") and name.removesuffix("_history") in config.tables:
        other = name.removesuffix("_history")
        if config.tables[other].history:
            yield Problem((), f"`{name}` is the name of table `{other}`'s history", "rename this table")
    for what, names, kinds in (
        ("keys", table.keys, ("json",)),
        ("latest_by", table.latest_by, ("json", "boolean")),
        ("partition_by", table.partition_by, ("json", "double")),
    ):
        for place, column in enumerate(names):
            if column in columns and family(columns[column].type) in kinds:
                message = (
                    f"{what}: column `{column}` is {columns[column].type}, which does not serve for that"
                )
                yield Problem((what, place), message, "name another column")
    for column, spec in columns.items():
        other, _, key = (spec.references or "").partition(".")
        if other == name:
            message = f"references: `{spec.references}` is of the table itself, which is not complete yet"
            hint = "leave `references` out, and test it in gold, where all rows are there"
            yield Problem(("contract", "columns", column, "references"), message, hint)
        target = config.tables[other].contract.columns.get(key) if other in config.tables else None
        if target and not _comparable(spec.type, target.type):
            message = (
                f"references: {spec.type} cannot be compared with `{spec.references}`, which is {target.type}"
            )
            at = ("contract", "columns", column, "references")
            yield Problem(at, message, f"set `type: {target.type}`")
    for place, step in enumerate(table.steps):
        yield from (p.under("steps", place) for p in _step(step))


def _comparable(left: str, right: str) -> bool:
    kinds = {family(left), family(right)}
    return len(kinds) == 1 or kinds <= set(_NUMBERS)


def _step(step: Step) -> Iterator[Problem]:
    function = step.processor or step.validator or ""
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", function):
        at = ("processor",) if step.processor else ("validator",)
        yield Problem(at, f"`{function}` is not `module:function`", "such as `steps:add_region`")


def _column(column: Column) -> Iterator[Problem]:
    kind = family(column.type)
    yield from _literals(column)
    yield from _formats(column, kind)
    for what in ("pattern", "max_length"):
        if getattr(column, what) is not None and kind != "text":
            yield Problem((what,), f"`{what}` needs a text column, not {column.type}", "use `min` and `max`")
    for what in ("min", "max"):
        if getattr(column, what) is not None and kind in ("text", "json", "boolean"):
            hint = "give the column a type, or use `pattern`, `values` or `max_length`"
            yield Problem((what,), f"`{what}` needs a number, date or timestamp, not {column.type}", hint)
    if column.max_length is not None and column.max_length < 1:
        yield Problem(("max_length",), f"max_length {column.max_length} is below 1", "leave it out")
    if column.pattern is not None:
        yield from _pattern(column.pattern)
    if column.timezone is not None:
        yield from _timezone(column, kind)
    if column.derive and (column.formats or column.map):
        what = "formats" if column.formats else "map"
        yield Problem((what,), f"a derived column has no `{what}`", "do it in the SQL of `derive`")


def _literals(column: Column) -> Iterator[Problem]:
    read: dict[str, Any] = {}
    given: dict[tuple[str | int, ...], Any] = {
        ("default",): column.default,
        ("example",): column.example,
        ("min",): column.min,
        ("max",): column.max,
        **{("values", place): value for place, value in enumerate(column.values or ())},
    }
    skipped = ("text", "json", "boolean")
    for at, value in given.items():
        if value is None or (at[0] in ("min", "max") and family(column.type) in skipped):
            continue
        try:
            read[str(at[0])] = literal(column.type, value)
        except ValueError as error:
            quoted = f'put it in quotes: "{value}"' if family(column.type) == "text" else None
            hint = quoted or f"{column.type} values look like {EXAMPLES[family(column.type)]}"
            yield Problem(at, f"{at[0]}: {error}", hint)
    if "min" in read and "max" in read and read["min"] > read["max"]:
        message = f"min {column.min} is greater than max {column.max}"
        yield Problem(("min",), message, "swap them")
    for what, greater, less in (("min", "min", "default"), ("max", "default", "max")):
        if greater in read and less in read and read[greater] > read[less]:
            message = f"default {column.default} breaks {what} {getattr(column, what)}"
            yield Problem(("default",), message, "every row without a value would be quarantined")
    if column.values == []:
        yield Problem(("values",), "no value is allowed", "list the values, or leave `values` out")
    elif column.values is not None and column.default is not None and column.default not in column.values:
        yield Problem(("default",), f"default `{column.default}` is not among `values`", "add it to `values`")


def _formats(column: Column, kind: str) -> Iterator[Problem]:
    for place, text in enumerate(column.formats):
        at = ("formats", place)
        if text in FORMAT_WORDS:
            if kind not in _FORMAT_TYPES[text]:
                good = ", ".join(_FORMAT_TYPES[text])
                yield Problem(at, f"format `{text}` is not for {column.type}", f"`{text}` is for {good}")
            continue
        if "%" not in text:
            near = nearest(text, FORMAT_WORDS)
            hint = (f"did you mean `{near}`? " if near else "") + f"Formats: {FORMATS}"
            yield Problem(at, f"format `{text}` is not known", hint)
        elif kind not in _MOMENTS:
            yield Problem(at, f"format `{text}` is not for {column.type}", "set `type: date` or `timestamp`")
        else:
            yield from (p.under(*at) for p in _strptime(text))


def _strptime(text: str) -> Iterator[Problem]:
    directives = re.findall(r"%(.?)", text)
    for directive in directives:
        if directive not in _DIRECTIVES:
            yield Problem(
                (), f"format `{text}`: %{directive} is not known", "such as %d/%m/%Y or %Y-%m-%d %H:%M:%S"
            )
    have = set(directives)
    whole = have & set("yY") and ("j" in have or (have & set("mbB") and "d" in have))
    if not whole and have <= _DIRECTIVES:
        hint = "year (%Y or %y), month (%m or %b) and day (%d)"
        yield Problem((), f"format `{text}` does not make a whole date", hint)


def _pattern(text: str) -> Iterator[Problem]:
    if re.search(r"\(\?(=|!|<=|<!)|\\[1-9]", text):
        hint = "say the same as a row rule with several conditions"
        yield Problem(("pattern",), "pattern: RE2 has neither look-around nor back-references", hint)
        return
    try:
        re.compile(re.sub(r"\\[pPzQE]|\[\[:\w+:\]\]", "x", text))
    except re.error as error:
        message = f"pattern `{text}` is no regular expression: {error.msg}"
        at = f" at character {error.pos + 1}" if error.pos is not None else ""
        hint = "close what is open, and write `\\` before a character that stands for itself"
        yield Problem(("pattern",), f"{message}{at}", hint)


def _timezone(column: Column, kind: str) -> Iterator[Problem]:
    if kind != "timestamp":
        yield Problem(("timezone",), f"`timezone` is not for {column.type}", "set `type: timestamp`")
    try:
        zoneinfo.ZoneInfo(column.timezone or "")
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        zones = sorted(zoneinfo.available_timezones())
        near = nearest(column.timezone or "", zones)
        hint = f"did you mean `{near}`?" if near else "an IANA name, such as Europe/Berlin or UTC"
        if zones:
            yield Problem(("timezone",), f"time zone `{column.timezone}` is not known", hint)


def _headers(contract: Contract) -> Iterator[Problem]:
    """Two columns that want the same header: the second would silently get the first one's values."""
    taken: dict[str, str] = {}
    for name, column in contract.columns.items():
        if column.derive:
            continue
        for header in column.source or [name]:
            folded = header.casefold() if contract.header_case == "ignore" else header
            other = taken.setdefault(folded, name)
            if other != name:
                at = ("columns", name, "from") if column.source else ("columns", name)
                message = f"header `{header}` already feeds column `{other}`"
                yield Problem(
                    at, message, f"make `{name}` a derived column (`derive: {other}`), or rename it"
                )


def _expect(expect: Expect, contract: Contract) -> Iterator[Problem]:
    named: Mapping[str, list[str]] = {
        "unique": expect.unique or [],
        "sum": [expect.sum] if expect.sum else [],
        "fresh": [expect.fresh] if expect.fresh else [],
    }
    kinds = {"sum": _NUMBERS, "fresh": _MOMENTS}
    for what, columns in named.items():
        for column in columns:
            if column not in contract.columns:
                message = f"{what}: `{column}` is not a column of the contract"
                yield Problem((what,), message, suggest(column, contract.columns, "columns"))
            elif what in kinds and family(contract.columns[column].type) not in kinds[what]:
                good = "number" if what == "sum" else "date or timestamp"
                message = f"{what}: column `{column}` is {contract.columns[column].type}, not a {good}"
                yield Problem((what,), message, "name another column, or change its type")
    if expect.within is not None:
        yield from (p.under("within") for p in _duration("within", expect.within))
    if expect.rows and None not in expect.rows and expect.rows[0] > expect.rows[1]:  # type: ignore[operator]
        yield Problem(("rows",), f"rows: {expect.rows[0]} is greater than {expect.rows[1]}", "[min, max]")
    if expect.between is not None and expect.sum in contract.columns:
        yield from _between(expect.between)


def _between(between: tuple[str | int | float | None, ...]) -> Iterator[Problem]:
    try:
        low, high = (None if end is None else literal("decimal(38,10)", end) for end in between)
    except ValueError as error:
        yield Problem(("between",), f"between: {error}", "[min, max] of the sum, such as [0, 1000000]")
        return
    if low is not None and high is not None and low > high:
        yield Problem(("between",), f"between: {low} is greater than {high}", "[min, max]")
