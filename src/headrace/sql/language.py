"""The SQL that users may write: a subset that means the same on every engine.

Expressions are parsed once, checked against the columns and a list of constructs, and kept as a tree. What
is not on the list is refused before anything runs: nothing can read another relation or depend on the clock.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp

from headrace.errors import ConfigError

FUNCTIONS = (
    "abs", "ceil", "coalesce", "concat", "contains", "date_diff", "day", "dayofweek", "ends_with", "extract",
    "floor", "greatest", "hour", "least", "left", "length", "lower", "ltrim", "md5", "minute", "month", "now",
    "nullif", "quarter", "regexp_extract", "regexp_full_match", "regexp_matches", "regexp_replace", "replace",
    "right", "round", "rtrim", "sha256", "split_part", "starts_with", "strpos", "substr", "trim", "upper",
    "year",
)  # fmt: skip

_ALLOWED: tuple[type[exp.Expr], ...] = (
    exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Paren, exp.Tuple, exp.Var,
    exp.And, exp.Or, exp.Not, exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is, exp.In, exp.Between,
    exp.Like, exp.ILike, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod,
    exp.Neg, exp.DPipe, exp.Case, exp.If, exp.Cast, exp.TryCast, exp.DataType, exp.DataTypeParam,
    exp.Interval,
    exp.Abs, exp.Ceil, exp.Coalesce, exp.Concat, exp.Contains, exp.CurrentDate, exp.CurrentTimestamp,
    exp.DateDiff, exp.Day, exp.DayOfWeek, exp.EndsWith, exp.Extract, exp.Floor, exp.Greatest, exp.Hour,
    exp.Least, exp.Left, exp.Length, exp.Lower, exp.MD5, exp.Minute, exp.Month, exp.Nullif, exp.Quarter,
    exp.RegexpExtract, exp.RegexpFullMatch, exp.RegexpLike, exp.RegexpReplace, exp.Replace, exp.Right,
    exp.Round, exp.SHA2, exp.SplitPart, exp.StartsWith, exp.StrPosition, exp.Substring, exp.Trim, exp.Upper,
    exp.Year,
)  # fmt: skip

_CHANGING = {
    "random", "rand", "uuid", "gen_random_uuid", "uuidv4", "uuidv7", "nextval", "currval", "setseed",
    "clock_timestamp", "current_time", "localtime", "localtimestamp", "transaction_timestamp", "getvariable",
    "get_current_time", "get_current_timestamp", "current_setting", "txid_current", "version",
}  # fmt: skip

_NOW = {"now", "today", "current_date", "current_timestamp"}

_TYPES = {
    exp.DataType.Type.BOOLEAN, exp.DataType.Type.INT, exp.DataType.Type.BIGINT, exp.DataType.Type.DECIMAL,
    exp.DataType.Type.DOUBLE, exp.DataType.Type.DATE, exp.DataType.Type.TIMESTAMP,
    exp.DataType.Type.TIMESTAMPTZ, exp.DataType.Type.VARCHAR, exp.DataType.Type.TEXT,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked user expression; `tree` is never changed, `columns` are in the contract's spelling."""

    text: str
    tree: Any
    columns: tuple[str, ...]


def parse(text: str, columns: Collection[str], what: str, where: str | None = None) -> Expression:
    """Checks one scalar expression over `columns`; raises ConfigError for anything outside the subset.

    Where `columns` says their types too (name → the contract's word), `render` makes use of them.
    """
    try:
        trees = sqlglot.parse(text, read="duckdb")
    except sqlglot.errors.SqlglotError as error:
        first = (getattr(error, "errors", None) or [{}])[0]
        detail = first.get("description") or str(error).splitlines()[0]
        raise ConfigError(f"{what}: `{text}` is not SQL: {detail}", hint=_SHAPE, where=where) from None
    if len(trees) != 1 or trees[0] is None:
        raise ConfigError(f"{what}: `{text}` is not one expression", hint=_SHAPE, where=where)
    tree = trees[0]
    known = {c.lower(): c for c in columns}
    used: dict[str, None] = {}
    for node in tree.walk():
        _refuse_unknown(node, text, what, where)
        if isinstance(node, exp.Column):
            used[_column(node, known, text, what, where)] = None
    types = columns if isinstance(columns, Mapping) else {}
    return Expression(text, _normal(tree, known, types), tuple(used))


_SHAPE = "write one SQL expression over the contract's columns, such as `quantity > 0 and price is not null`"


def columns_of(expression: Expression) -> tuple[str, ...]:
    """The columns that `expression` reads, in the order of their first use."""
    return expression.columns


def _refuse_unknown(node: exp.Expr, text: str, what: str, where: str | None) -> None:
    problem, hint = "", ""
    if isinstance(node, (exp.Subquery, exp.Select, exp.Exists, exp.SetOperation)):
        problem, hint = (
            "subqueries are not allowed",
            "rows are checked one by one; use `references` for other tables",
        )
    elif isinstance(node, exp.Window):
        problem, hint = (
            "window functions are not allowed",
            "rows are checked one by one; use `expect` for sets",
        )
    elif isinstance(node, exp.AggFunc):
        problem = f"`{node.sql_name().lower()}` is an aggregate"
        hint = "rows are checked one by one; use `expect` (unique, rows, sum, fresh) for sets"
    elif isinstance(
        node, (exp.Query, exp.DDL, exp.DML, exp.Command, exp.Drop, exp.Alias, exp.Star, exp.Lambda)
    ):
        problem, hint = f"`{node.sql('duckdb')}` is not an expression over one row", _SHAPE
    elif isinstance(node, (exp.Cast, exp.TryCast)) and node.to.this not in _TYPES:
        problem = f"type `{node.to.sql('duckdb')}` is not one of ours"
        hint = "cast to boolean, integer, bigint, decimal(p,s), double, date, timestamp or text"
    elif isinstance(node, exp.Func) and not isinstance(node, (exp.Cast, exp.And, exp.Or, exp.Case, exp.If)):
        called = _called(node)
        if called in _CHANGING:
            problem = f"`{called}` gives another value each time"
            hint = "a replay must give the same rows; `now()` is the time of the run's plan"
        elif not isinstance(node, _ALLOWED) and called not in _NOW:
            close = difflib.get_close_matches(called, FUNCTIONS, 1)
            problem = f"function `{called}` is not known"
            hint = f"did you mean `{close[0]}`? " if close else ""
            hint += "functions: " + ", ".join(FUNCTIONS)
    elif not isinstance(node, _ALLOWED):
        problem, hint = f"`{node.sql('duckdb')}` is outside the SQL that all engines share", _SHAPE
    if problem:
        raise ConfigError(f"{what}: {problem}, in `{text}`", hint=hint, where=where)


def _called(node: exp.Func) -> str:
    return (node.name if isinstance(node, exp.Anonymous) else node.sql_name()).lower()


def _column(node: exp.Column, known: Mapping[str, str], text: str, what: str, where: str | None) -> str:
    found = known.get(node.name.lower())
    if found and not node.table:
        return found
    close = difflib.get_close_matches(node.name.lower(), known, 1)
    hint = f"did you mean `{known[close[0]]}`? " if close else ""
    hint += (
        f"columns: {', '.join(known.values())}" if not node.table else "write the column without a table name"
    )
    raise ConfigError(
        f"{what}: column `{node.sql('duckdb')}` is unknown, in `{text}`", hint=hint, where=where
    )


def _normal(tree: exp.Expr, known: Mapping[str, str], types: Mapping[str, str]) -> exp.Expr:
    """The tree with one meaning everywhere: exact column names, division in doubles, by zero NULL."""

    def change(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Column):
            name = known[node.name.lower()]
            column = exp.column(exp.to_identifier(name, quoted=True))
            if types.get(name) in _MOMENTS:
                column.type = _MOMENTS[types[name]]
            return column
        if isinstance(node, exp.Div):
            left, right = exp.cast(node.this, "double"), exp.cast(node.expression, "double")
            return exp.Paren(this=exp.Div(this=left, expression=_nonzero(right), typed=False, safe=False))
        if isinstance(node, exp.Mod):
            return exp.Mod(this=node.this, expression=_nonzero(node.expression))
        return node

    return tree.copy().transform(change)


_MOMENTS = {"date": exp.DataType.Type.DATE, "timestamp": exp.DataType.Type.TIMESTAMPTZ}
_COMPARED = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)


def _nonzero(node: exp.Expr) -> exp.Expr:
    return exp.Nullif(this=node, expression=exp.Literal.number(0))


NOW = "CAST(getvariable('headrace_now') AS TIMESTAMPTZ)"
"""The plan's clock: the engine sets the variable, and TimeZone to UTC, before it runs a step."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """`sql` never raises: a calculation or cast that fails is NULL, and then one of `failures` is true."""

    sql: str
    failures: tuple[str, ...]


def render(expression: Expression, dialect: str) -> Rendered:
    """SQL of `expression` in `dialect`; the clock is the plan's.

    Each calculation has a TRY of its own: around the whole expression it would not hold, because DuckDB moves
    what two expressions share out of both.
    """
    tree = exp.Paren(this=expression.tree.copy())
    failures = []
    for node in reversed(list(tree.walk())):
        if isinstance(node, _COMPARED):
            _compare_instants(node)
        if isinstance(node, (exp.Add, exp.Sub, exp.Mul, exp.Mod, exp.Neg, exp.Abs)):
            guarded: exp.Expr = exp.Try(this=node.copy())
        elif isinstance(node, exp.Cast) and not isinstance(node, exp.TryCast) and not node.this.is_string:
            guarded = exp.TryCast(**{k: v.copy() for k, v in node.args.items() if isinstance(v, exp.Expr)})
        else:
            if isinstance(node, exp.CurrentTimestamp) or (
                isinstance(node, exp.Anonymous) and _called(node) == "now"
            ):
                node.replace(exp.Anonymous(this="headrace_now"))
            elif isinstance(node, exp.CurrentDate):
                node.replace(exp.Anonymous(this="headrace_today"))
            continue
        operands = [
            a for a in (node.args.get("this"), node.args.get("expression")) if isinstance(a, exp.Expr)
        ]
        given = " AND ".join(
            f"{_sql(a, dialect)} IS NOT NULL" for a in operands if not isinstance(a, exp.Interval)
        )
        failures.append(f"({_sql(guarded, dialect)} IS NULL AND {given or 'true'})")
        node.replace(guarded)
    return Rendered(_sql(tree, dialect), tuple(failures))


def _compare_instants(node: exp.Binary) -> None:
    """A date beside a timestamp is its midnight in UTC: DuckDB would ask the calendar, ten times as long."""
    for one, other in ((node.left, node.right), (node.right, node.left)):
        if one.is_type(exp.DataType.Type.DATE) and other.is_type(exp.DataType.Type.TIMESTAMPTZ):
            midnight = exp.func("epoch_us", exp.TryCast(this=one.copy(), to=exp.DataType.build("timestamp")))
            one.replace(exp.func("make_timestamptz", midnight))


def _sql(node: exp.Expr, dialect: str) -> str:
    sql: str = exp.Paren(this=node.copy()).sql(dialect=dialect, normalize_functions=False)
    return sql.replace("headrace_now()", NOW).replace("headrace_today()", f"CAST({NOW} AS DATE)")
