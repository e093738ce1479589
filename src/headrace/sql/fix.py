"""A correction of quarantined rows, compiled: which rows, and what their fields become, in the users' SQL.

Fields are texts, as they came: casts are up to the correction. What it may read are the fields that the
contract takes from sources, and where each row comes from (`_source`, `_file`, `_line`, `_rules`, `_raw`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlglot
from sqlglot import exp

from headrace.core import Landed, RawInput, TableAt
from headrace.errors import ConfigError

from .language import Expression, parse
from .step import TableStep, unknown

PLACE = ("_source", "_file", "_line", "_ingested_at", "_rules", "_raw")
"""What is known of a bad row besides its fields; an assignment to `_raw` replaces the whole record."""
MASK = "***"
"""What an export shows in place of personal data; an edit that still shows it leaves the value alone."""
_SHAPE = "such as `--set \"amount = replace(amount, ',', '.')\"`"


@dataclass(frozen=True, slots=True)
class Fix:
    """Rows that break `rule` and for which `where` holds get the values of `assign`."""

    rule: str | None = None
    where: Expression | None = None
    assign: Mapping[str, Expression] = field(default_factory=dict)
    text: str = ""
    """The same for equal corrections; what people read of it."""


def compile_fix(
    step: TableStep,
    *,
    rule: str | None = None,
    where: str | None = None,
    sets: Sequence[str] = (),
    statement: str | None = None,
) -> Fix:
    """Checks all SQL before any row is read; raises ConfigError with the fix for what is wrong.

    `sets` are `column = expression`; `statement` is `set column = expression, … where condition`.
    """
    given = dict(_assignment(text) for text in sets)
    if statement:
        more, condition = _statement(statement)
        if twice := sorted(set(given) & set(more)):
            raise ConfigError(f"`{twice[0]}` is set twice", hint="set each column once")
        if where and condition:
            raise ConfigError(
                "the rows are chosen twice", hint="give the condition once: --where, or in --sql"
            )
        given |= more
        where = where or condition
    known = [*step.inputs, *PLACE]
    assign = {}
    for column, text in given.items():
        target = _target(step, column)
        if target in assign:
            raise ConfigError(f"`{target}` is set twice", hint="set each column once")
        assign[target] = parse(text, known, f"set `{target}`")
    if "_raw" in assign and len(assign) > 1:
        raise ConfigError(
            "`_raw` replaces the whole record",
            hint="set `_raw` alone, or the fields alone: the other one follows",
        )
    chosen = parse(where, known, "where") if where else None
    shown = [f"rule {rule}"] if rule else []
    shown += [f"set {column} = {assign[column].text}" for column in sorted(assign)]
    shown += [f"where {where}"] if where else []
    return Fix(rule, chosen, assign, "; ".join(shown))


def _assignment(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals or not value.strip() or not column.strip():
        raise ConfigError(f"`{text}` is not `column = expression`", hint=_SHAPE)
    return column.strip().strip('"'), value.strip()


def _statement(text: str) -> tuple[dict[str, str], str | None]:
    """Assignments and condition of an update-like text; `update <table>` may be left out."""
    whole = text if text.strip().lower().startswith("update") else f"update t {text}"
    shape = "such as `--sql \"set amount = abs(cast(amount as decimal(12,2))) where amount like '-%'\"`"
    try:
        trees = sqlglot.parse(whole, read="duckdb")
    except sqlglot.errors.SqlglotError as error:
        raise ConfigError(f"`{text}` is not SQL: {str(error).splitlines()[0]}", hint=shape) from None
    tree = trees[0] if len(trees) == 1 else None
    if not isinstance(tree, exp.Update) or tree.args.get("from_") or tree.args.get("returning"):
        raise ConfigError(f"`{text}` is not one update of the rows' own fields", hint=shape)
    found = {}
    for item in tree.expressions:
        if not isinstance(item, exp.EQ) or not isinstance(item.this, exp.Column):
            raise ConfigError(f"`{item.sql('duckdb')}` is not `column = expression`", hint=shape)
        found[item.this.name] = item.expression.sql("duckdb", normalize_functions=False)
    where = tree.args.get("where")
    return found, where.this.sql("duckdb", normalize_functions=False) if where else None


def _target(step: TableStep, column: str) -> str:
    if column == "_raw":
        return column
    names = {name.lower(): name for name in step.inputs}
    if column.lower() in names:
        return names[column.lower()]
    derived = {name.lower(): name for name in step.derived}
    if column.lower() in derived:
        name = derived[column.lower()]
        needs = ", ".join(step.derived[name].columns) or "nothing"
        raise ConfigError(f"`{name}` is derived, from {needs}", hint="correct what it is derived from")
    raise ConfigError(
        f"table `{step.table}` takes no field `{column}` from its sources",
        hint=unknown(column, list(step.inputs)),
    )


@dataclass(frozen=True, slots=True)
class BadRows:
    """Quarantine of one table, and what there is to know of its rows."""

    quarantine: TableAt
    earlier: RawInput
    """All corrections so far."""
    done: int
    """Corrections up to this number have been refined."""
    landed: Mapping[tuple[str, str], Landed]
    """(source, file) → its newest version."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of what a correction would change: `before` and `after` have the changed fields alone."""

    file: str
    line: int
    rules: str
    before: Mapping[str, str | None]
    after: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a correction would do. `rows` are written as lines of JSON; the others stay as they are."""

    chosen: int = 0
    """Rows of quarantine that it is about."""
    rows: int = 0
    same: int = 0
    """Rows that it does not change, or that wait for the same correction already."""
    unparsed: int = 0
    """Records without fields, which an expression over fields cannot correct."""
    longest: int = 0
    """Bytes of the longest line."""
    sample: Sequence[Sample] = ()
