"""A stream compiled: which windows a row falls into, and exact aggregates that no order of rows changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import sqlglot
from sqlglot import exp

from headrace.errors import ConfigError
from headrace.spec.window import StreamSpec

from .language import Expression, parse, render
from .text import name as quoted

Kind = Literal["count", "distinct", "sum", "avg", "min", "max", "first", "last"]
AGGREGATES: Mapping[type[exp.Expr], Kind] = {
    exp.Count: "count",
    exp.Sum: "sum",
    exp.Avg: "avg",
    exp.Min: "min",
    exp.Max: "max",
    exp.First: "first",
    exp.Last: "last",
}
KNOWN = "count(*), count(x), count(distinct x), sum, avg, min, max, first, last"
NUMBERS = ("integer", "bigint", "decimal")
NOW_WORDS = ("now", "today", "current_date", "current_timestamp")
DIGITS = 6
"""Decimal places that an average has beyond those of its values."""
Where = Callable[[tuple[str | int, ...]], str | None]
"""From a place in the stream's definition to its file and line."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One aggregate call: of the step's argument with that number, or of rows."""

    kind: Kind
    argument: int | None
    text: str


@dataclass(frozen=True, slots=True)
class Measure:
    """One selected column: an expression over aggregates, which it calls `_a0`, `_a1` …"""

    name: str
    outer: Expression
    where: str | None


@dataclass(frozen=True, slots=True)
class WindowStep:
    """One stream, checked; immutable, and the same for the same definition."""

    name: str
    spec: StreamSpec
    columns: Mapping[str, str]
    """The table's columns, name → type word."""
    keep: Expression | None
    arguments: tuple[Expression, ...]
    aggregates: tuple[Aggregate, ...]
    measures: tuple[Measure, ...]
    where: str | None

    @property
    def output(self) -> str:
        return f"silver.{self.name}"

    @property
    def read(self) -> tuple[str, ...]:
        """Columns of the table that decide what the windows are."""
        used = [self.spec.window.time, *self.spec.group_by]
        for expression in (*self.arguments, *([self.keep] if self.keep else [])):
            used += expression.columns
        return tuple(dict.fromkeys(used))

    def columns_of(self, measure: Measure) -> set[str]:
        """Columns of the table that a measure is made of."""
        used = {self.aggregates[int(name[2:])].argument for name in measure.outer.columns}
        return {column for place in used if place is not None for column in self.arguments[place].columns}


def compile_stream(
    name: str, spec: StreamSpec, columns: Mapping[str, str], at: Where | None = None
) -> WindowStep:
    """Checks a stream's SQL against `columns`, name → type word; raises ConfigError with file and line."""
    at = at or (lambda _: None)
    keep = None
    if spec.where is not None:
        what, where = f"stream `{name}`, where", at(("where",))
        keep = _timeless(parse(spec.where, columns, what, where), what, where)
    found = _Found({}, [], [])
    measures = []
    for column, text in spec.select.items():
        where = at(("select", column))
        measures.append(
            Measure(column, _outer(f"stream `{name}`, {column}", text, columns, where, found), where)
        )
    return WindowStep(
        name, spec, columns, keep, tuple(found.arguments), tuple(found.aggregates), tuple(measures), at(())
    )


@dataclass(frozen=True, slots=True)
class _Found:
    numbers: dict[str, int]
    arguments: list[Expression]
    aggregates: list[Aggregate]


def _outer(what: str, text: str, columns: Mapping[str, str], where: str | None, found: _Found) -> Expression:
    shape = "write SQL over aggregates, such as `sum(amount)` or `count(distinct customer)`"
    try:
        trees = sqlglot.parse(text, read="duckdb")
    except sqlglot.errors.SqlglotError as error:
        first = (getattr(error, "errors", None) or [{}])[0]
        detail = first.get("description") or str(error).splitlines()[0]
        raise ConfigError(f"{what}: `{text}` is not SQL: {detail}", hint=shape, where=where) from None
    if len(trees) != 1 or trees[0] is None:
        raise ConfigError(f"{what}: `{text}` is not one expression", hint=shape, where=where)
    if trees[0].find(exp.Window):
        hint = "a window of the stream is the only one: sum, count … over its rows"
        raise ConfigError(f"{what}: window functions are not possible, in `{text}`", hint=hint, where=where)
    names: set[str] = set()

    def change(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.AggFunc):
            return node
        aggregate = _aggregate(node, what, text, columns, where, found)
        found.aggregates.append(aggregate)
        names.add(f"_a{len(found.aggregates) - 1}")
        return exp.column(f"_a{len(found.aggregates) - 1}")

    tree = trees[0].transform(change)
    for column in tree.find_all(exp.Column):
        if column.name not in names:
            hint = f"write min({column.name}) or last({column.name}), or add it to `group_by`"
            raise ConfigError(
                f"{what}: column `{column.name}` is outside of an aggregate, in `{text}`",
                hint=hint,
                where=where,
            )
    if not names:
        raise ConfigError(f"{what}: `{text}` has no aggregate", hint=f"aggregates: {KNOWN}", where=where)
    try:
        return _timeless(parse(tree.sql(dialect="duckdb"), names, what, where), what, where)
    except ConfigError as error:  # it speaks of `_a0` where people wrote an aggregate

        def told(match: re.Match[str]) -> str:
            return found.aggregates[int(match[1])].text

        message = re.sub(r"\b_a(\d+)\b", told, error.message)
        raise ConfigError(message, hint=error.hint, where=where) from None


def _aggregate(
    node: exp.AggFunc, what: str, text: str, columns: Mapping[str, str], where: str | None, found: _Found
) -> Aggregate:
    kind = AGGREGATES.get(type(node))
    inner = node.this
    if kind == "count" and isinstance(inner, exp.Distinct) and len(inner.expressions) == 1:
        kind, inner = "distinct", inner.expressions[0]
    within = inner.sql("duckdb") if isinstance(inner, exp.Expr) else "*"
    shown = f"{node.sql_name().lower()}({within})"
    if kind is None or node.expressions or isinstance(inner, exp.Distinct):
        raise ConfigError(
            f"{what}: `{shown}` is not possible, in `{text}`", hint=f"aggregates: {KNOWN}", where=where
        )
    if kind == "count" and (inner is None or isinstance(inner, exp.Star)):
        return Aggregate(kind, None, shown)
    argument = _timeless(parse(inner.sql(dialect="duckdb"), columns, what, where), what, where)
    number = found.numbers.setdefault(argument.tree.sql(), len(found.arguments))
    if number == len(found.arguments):
        found.arguments.append(argument)
    return Aggregate(kind, number, shown)


def _timeless(expression: Expression, what: str, where: str | None) -> Expression:
    """The expression, if it says the same whenever it is asked."""
    for node in expression.tree.walk():
        called = node.name.lower() if isinstance(node, exp.Anonymous) else ""
        if isinstance(node, (exp.CurrentDate, exp.CurrentTimestamp)) or called in NOW_WORDS:
            hint = "a window is a function of its rows alone: compare with another column"
            raise ConfigError(
                f"{what}: the time of the run has no place in `{expression.text}`", hint=hint, where=where
            )
    return expression


# SQL -----------------------------------------------------------------------------------------------------

ORIGIN = 4 * 86_400_000_000
"""A Monday, midnight UTC, in microseconds since 1970: weeks begin with it, and so all windows."""


def rows_sql(step: WindowStep, relation: str) -> str:
    """Rows that count, of `relation`: `_t` (µs), the groups, the arguments as `_x0` …, and `_f`.

    `_f` names the expression that failed in a row; such a row passes, so that it can be told.
    """
    parts = [f"epoch_us(CAST({quoted(step.spec.window.time)} AS TIMESTAMPTZ)) AS _t"]
    parts += [quoted(column) for column in step.spec.group_by]
    failed = []
    for number, argument in enumerate(step.arguments):
        made = render(argument, "duckdb")
        parts.append(f"{made.sql} AS _x{number}")
        failed += [(failure, argument.text) for failure in made.failures]
    keep = "true"
    if step.keep is not None:
        made = render(step.keep, "duckdb")
        wrong = " OR ".join(made.failures)
        keep = f"(coalesce({made.sql}, false)" + (f" OR coalesce({wrong}, false))" if wrong else ")")
        failed = [(failure, step.keep.text) for failure in made.failures] + failed
    parts.append(f"{_first_of(failed)} AS _f")
    return f"SELECT {', '.join(parts)} FROM ({relation}) WHERE {keep}"


def _first_of(failed: list[tuple[str, str]]) -> str:
    if not failed:
        return "NULL::VARCHAR"
    whens = " ".join("WHEN {} THEN '{}'".format(one, text.replace("'", "''")) for one, text in failed)
    return f"CASE {whens} END"


def start_sql(step: WindowStep, time: str = "_t") -> str:
    """The beginning (µs) of the newest window that holds the time."""
    every = step.spec.window.step
    return f"({time} - ((({time} - {ORIGIN}) % {every}) + {every}) % {every})"


def ends_first_sql(step: WindowStep, time: str = "_t") -> str:
    """The end (µs) of the first window to end that holds the time."""
    size, every = step.spec.window.size, step.spec.window.step
    return f"({start_sql(step, f'({time} - {size})')} + {every} + {size})"


def placed_sql(step: WindowStep, rows: str) -> str:
    """`rows`, each once for every window that holds it, with the window as `_w` and `_e` (µs)."""
    size, every = step.spec.window.size, step.spec.window.step
    start = start_sql(step)
    if size == every:
        return f"SELECT *, {start} AS _w, {start} + {size} AS _e FROM ({rows})"
    first = f"{start} - {(-(-size // every) - 1) * every}"
    series = f"SELECT *, unnest(generate_series({first}, {start}, {every})) AS _w FROM ({rows})"
    return f"SELECT *, _w + {size} AS _e FROM ({series}) WHERE _w + {size} > _t"


def sessions_sql(step: WindowStep, rows: str, within: str = "") -> str:
    """`rows` with the session that each belongs to as `_w` and `_e` (µs); sessions stay `within` a column."""
    gap = step.spec.window.size
    by = ", ".join([*map(quoted, step.spec.group_by), *([within] if within else [])])
    over = f"PARTITION BY {by} ORDER BY _t" if by else "ORDER BY _t"
    same = f"PARTITION BY {by}, _s" if by else "PARTITION BY _s"
    begun = f"SELECT *, CASE WHEN _t - lag(_t) OVER ({over}) < {gap} THEN 0 ELSE 1 END AS _b FROM ({rows})"
    numbered = f"SELECT *, sum(_b) OVER ({over}) AS _s FROM ({begun})"
    return f"SELECT *, min(_t) OVER ({same}) AS _w, max(_t) OVER ({same}) + {gap} AS _e FROM ({numbered})"


def aggregated_sql(step: WindowStep, placed: str, types: Mapping[str, str]) -> str:
    """One row for each window and group of `placed`: `_w`, `_e`, the groups, `_a0` …, and `_f`."""
    groups = ["_w", "_e", *map(quoted, step.spec.group_by)]
    made = [f"{aggregate_sql(item, types)} AS _a{number}" for number, item in enumerate(step.aggregates)]
    return f"SELECT {', '.join([*groups, *made])}, min(_f) AS _f FROM ({placed}) GROUP BY {', '.join(groups)}"


def aggregate_sql(aggregate: Aggregate, types: Mapping[str, str]) -> str:
    """SQL of one aggregate: the same for the same bag of rows, in whatever order and by how many threads."""
    if aggregate.argument is None:
        return "count(*)"
    column = f"_x{aggregate.argument}"
    kind, word = aggregate.kind, types[column]
    value = f"({column} + 0.0::DOUBLE)" if word == "double" else column  # of two zeros the one without a sign
    if kind == "count":
        return f"count({column})"
    if kind == "distinct":
        return f"count(DISTINCT {value})"
    if kind in ("min", "max"):
        return f"{kind}({value})"
    if kind in ("first", "last"):
        pick = "min" if kind == "first" else "max"
        return f"({pick}(struct_pack(t := _t, v := {value})) FILTER ({column} IS NOT NULL)).v"
    return f"sum({column})" if kind == "sum" else _average(column, word)


def refuse_types(step: WindowStep, types: Mapping[str, str]) -> None:
    """Raises ConfigError for a sum whose outcome would depend on the order of its rows, or makes no sense."""
    for measure in step.measures:
        for name in measure.outer.columns:
            aggregate = step.aggregates[int(name[2:])]
            word = types.get(f"_x{aggregate.argument}", "")
            if aggregate.kind not in ("sum", "avg") or word.partition("(")[0] in NUMBERS:
                continue
            hint = "sums are of integer, bigint and decimal columns"
            if word == "double":
                argument = step.arguments[aggregate.argument or 0].text
                hint = f"name how exact it is to be: `{aggregate.kind}(cast({argument} as decimal(18,4)))`"
            raise ConfigError(
                f"stream `{step.name}`, {measure.name}: `{aggregate.text}` is of type {word}"
                + (", whose sum depends on the order of the rows" if word == "double" else ""),
                hint=hint,
                where=measure.where,
            )


def _average(column: str, word: str) -> str:
    """The exact sum by the count, to DIGITS places more than the values have, half away from zero."""
    precision, scale = {"integer": (10, 0), "bigint": (19, 0)}.get(word) or _shape(word)
    digits = max(min(DIGITS, 38 - precision), 0)
    # by text, once for each window: no decimal type holds the sum and the digits that come behind it
    total = f"CAST(replace(CAST(sum({column}) AS VARCHAR), '.', '') AS HUGEINT)"
    count = f"count({column})"
    half = f"CAST((2 * abs({total}) * {10**digits} + {count}) // (2 * {count}) AS VARCHAR)"
    places = scale + digits
    sign = f"CASE WHEN sum({column}) < 0 THEN '-' ELSE '' END"
    if not places:
        return f"CAST({sign} || {half} AS DECIMAL(38,0))"
    padded = f"(repeat('0', greatest({places + 1} - length({half}), 0)) || {half})"
    whole = f"left({padded}, length({padded}) - {places})"
    return f"CAST({sign} || {whole} || '.' || right({padded}, {places}) AS DECIMAL(38,{places}))"


def _shape(word: str) -> tuple[int, int]:
    precision, _, scale = word.removeprefix("decimal(").removesuffix(")").partition(",")
    return int(precision), int(scale)


def windows_sql(
    step: WindowStep, aggregated: str, types: Mapping[str, str] | None, watermark: int | None, epoch: int
) -> str:
    """Rows of the windows table from `aggregated`, and `_f`; `types` are those of the selected columns."""
    closed = "false" if watermark is None else f"_e <= {watermark}"
    parts = [
        "make_timestamp(_w)::TIMESTAMPTZ AS window_start",
        "make_timestamp(_e)::TIMESTAMPTZ AS window_end",
    ]
    parts += [quoted(column) for column in step.spec.group_by]
    failed = []
    for measure in step.measures:
        made = render(measure.outer, "duckdb")
        cast = f"CAST({made.sql} AS {types[measure.name]})" if types else made.sql
        parts.append(f"{cast} AS {quoted(measure.name)}")
        failed += [(failure, step.spec.select[measure.name]) for failure in made.failures]
    parts += [f"{closed} AS closed", f"{epoch}::BIGINT AS _epoch", f"coalesce(_f, {_first_of(failed)}) AS _f"]
    return f"SELECT {', '.join(parts)} FROM ({aggregated})"
