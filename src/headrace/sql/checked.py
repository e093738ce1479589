"""The checked SELECT: staged texts in, typed columns and every broken rule out; a pure function of each row.

Levels, innermost first: raw texts; cleaned texts; plain casts; typed columns; derived columns; verdicts; masks.
Verdict texts are computed only for rows that are not wholly good, so good rows pay for the tests alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from headrace.errors import ConfigError
from headrace.spec.contract import Column, Severity

from .casts import native
from .language import render
from .masks import masked
from .step import AUDIT, TableStep
from .text import case, full_match, literal, name

DIALECTS = ("duckdb",)


@dataclass(frozen=True, slots=True)
class Test:
    """One rule on one row. `good` is false for rows that break it; `strict` tests are also broken by NULL."""

    rule: str
    severity: Severity
    good: str
    strict: bool
    column: str | None = None


def checked_sql(
    step: TableStep, dialect: str = "duckdb", staged: str = "staged", broken: str = "_broken"
) -> str:
    """SELECT of the final typed columns, the audit columns and the verdicts, for every row of `staged`.

    `_broken`, `_warned`, `_stopped` hold rule ids, each ended by `;` ('' = none); `_filtered` rows are none of
    this table's; `_deleted` exists where the step deletes. A cast that failed gives NULL and `<column>.type`.
    """
    if dialect not in DIALECTS:
        raise ConfigError(f"dialect `{dialect}` is not compiled yet", hint=f"dialects: {', '.join(DIALECTS)}")
    inner = _levels(step, dialect, name(staged))
    deleted = ["_deleted"] if step.deletes else []
    tests = tests_of(step, dialect)
    out = [_verdicts(step, tests, broken)] + (['"_deleted"'] if step.deletes else [])
    columns = [name(c) for c in step.columns]
    inner = f"SELECT {', '.join([*columns, *AUDIT, *out])} FROM ({inner})"
    masks = {
        c: col.mask for c, col in step.spec.contract.columns.items() if col.mask and col.mask != "encrypt"
    }
    if not masks:
        return inner
    shown = [f"{masked(c, masks[c])} AS {name(c)}" if c in masks else name(c) for c in step.columns]
    verdicts = [broken, "_warned", "_stopped", "_filtered", *deleted]
    return f"SELECT {', '.join([*shown, *AUDIT, *verdicts])} FROM ({inner})"


def _levels(step: TableStep, dialect: str, staged: str) -> str:
    """Typed and derived columns under their own names, staged texts as `raw$c`; `_deleted` and `_kept` if asked."""
    raw = [f"{name(c)} AS {name(f'raw${c}')}" for c in step.inputs]
    sql = f"SELECT {', '.join([*raw, *AUDIT])} FROM {staged}"
    for depth in range(max((len(c.texts) for c in step.casts.values()), default=0)):
        added = [
            f"{cast.texts[depth]} AS {name(f'text{depth + 1}${c}')}"
            for c, cast in step.casts.items()
            if depth < len(cast.texts)
        ]
        sql = f"SELECT *, {', '.join(added)} FROM ({sql})"
    if fast := [f"{cast.fast} AS {name(f'fast${c}')}" for c, cast in step.casts.items() if cast.fast]:
        sql = f"SELECT *, {', '.join(fast)} FROM ({sql})"
    values = [f"{cast.value} AS {name(c)}" for c, cast in step.casts.items()]
    values += [f"{name(f'raw${c}')} AS {name(c)}" for c in step.evolved]
    if values:
        sql = f"SELECT *, {', '.join(values)} FROM ({sql})"
    for c, expression in step.derived.items():
        exact = _derived(render(expression, dialect), native(step.columns[c]))
        sql = f"SELECT *, {exact} AS {name(c)} FROM ({sql})"
    if step.delete_when:
        gone = f"TRY({render(step.delete_when, dialect)}) IS TRUE"
        sql = f'SELECT *, ({gone}) AS "_deleted" FROM ({sql})'
    return sql


def _derived(sql: str, kind: str) -> str:
    """The value in its declared type if it is the same value there, else NULL."""
    if kind == "VARCHAR":
        return f"TRY(CAST(({sql}) AS VARCHAR))"
    same = f"TRY_CAST(({sql}) AS {kind}) = ({sql})"
    if kind == "DOUBLE":
        same = f"isfinite(TRY_CAST(({sql}) AS DOUBLE))"
    return f"TRY(CASE WHEN {same} THEN TRY_CAST(({sql}) AS {kind}) END)"


def tests_of(step: TableStep, dialect: str = "duckdb") -> list[Test]:
    """Every test of a row, in the order in which broken rules are reported."""
    tests: list[Test] = []
    for c, column in step.spec.contract.columns.items():
        tests += _column_tests(step, c, column, dialect)
    for reference in step.references:
        if reference.on_missing == "quarantine":
            stored = masked(reference.column, step.spec.contract.columns[reference.column].mask)
            keys = f"SELECT {name(reference.key)} FROM {name(f'ref_{reference.table}')}"
            known = f"{stored} IN ({keys} WHERE {name(reference.key)} IS NOT NULL)"
            tests.append(
                Test(f"{reference.column}.reference", reference.severity, known, False, reference.column)
            )
    for rule, spec in step.spec.contract.rules.items():
        tests.append(Test(rule, spec.severity, f"TRY({render(step.rules[rule], dialect)})", True))
    return tests


def _column_tests(step: TableStep, c: str, column: Column, dialect: str) -> list[Test]:
    value, severity = name(c), column.severity
    # A value that cannot be kept is never only a warning: the row would go on without it.
    failed: Severity = "stop" if severity == "stop" else "quarantine"
    tests: list[Test] = []
    if typed := _typed_well(step, c, dialect):
        tests.append(Test(f"{c}.type", failed, typed, True, c))
    if column.required or (c in step.keys and step.spec.keys != ["*"]):
        missing = (
            f"({value} IS NOT NULL OR NOT {step.casts[c].missing})"
            if c in step.casts
            else f"{value} IS NOT NULL"
        )
        tests.append(Test(f"{c}.required", severity if column.required else "quarantine", missing, True, c))
    if column.min is not None:
        tests.append(Test(f"{c}.min", severity, f"{value} >= {bound(column, column.min)}", False, c))
    if column.max is not None:
        tests.append(Test(f"{c}.max", severity, f"{value} <= {bound(column, column.max)}", False, c))
    if column.values is not None:
        allowed = ", ".join(bound(column, v) for v in column.values)
        tests.append(
            Test(f"{c}.values", severity, f"{value} IN ({allowed})" if allowed else "false", False, c)
        )
    if column.pattern is not None:
        text = value if column.type == "text" or c not in step.casts else name(f"raw${c}")
        tests.append(Test(f"{c}.pattern", severity, full_match(text, column.pattern), False, c))
    if column.max_length is not None:
        tests.append(Test(f"{c}.max_length", severity, f"length({value}) <= {column.max_length}", False, c))
    return tests


def _typed_well(step: TableStep, c: str, dialect: str) -> str | None:
    value = name(c)
    if c in step.derived:
        sql = render(step.derived[c], dialect)
        return case((f"{value} IS NOT NULL", "true"), otherwise=f"(TRY(({sql}) IS NULL) IS TRUE)")
    cast = step.casts[c]
    if cast.always:
        return None
    return case((f"{value} IS NOT NULL OR {name(f'raw${c}')} IS NULL", "true"), otherwise=cast.missing)


def bound(column: Column, value: str | int | float) -> str:
    """A constant of the contract in the column's type."""
    base = column.type.partition("(")[0]
    if base in ("integer", "bigint", "decimal", "double"):
        return f"{Decimal(str(value)):f}"
    if base == "date":
        return f"DATE {literal(date.fromisoformat(str(value)).isoformat())}"
    if base == "timestamp":
        moment = datetime.fromisoformat(str(value))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=ZoneInfo(column.timezone or "UTC"))
        return f"TIMESTAMPTZ {literal(moment.astimezone(UTC).isoformat(' '))}"
    return literal(str(value))


def _verdicts(step: TableStep, tests: list[Test], broken: str) -> str:
    kept = _kept(step, tests)
    keys = [t for t in tests if t.column in step.keys and t.rule.endswith((".type", ".required"))]
    parts = []
    for column, severity in ((broken, "quarantine"), ("_warned", "warn"), ("_stopped", "stop")):
        every = [t for t in tests if t.severity == severity]
        verdict = _verdict(every)
        if step.deletes and every:
            verdict = case(
                ('"_deleted"', _verdict([t for t in keys if t.severity == severity])), otherwise=verdict
            )
        if kept and every:
            verdict = case((f"NOT {kept}", "''"), otherwise=verdict)
        parts.append(f"{verdict} AS {column}")
    parts.append(f"{f'NOT {kept}' if kept else 'false'} AS _filtered")
    return ", ".join(parts)


def _verdict(tests: list[Test]) -> str:
    if not tests:
        return "''"
    strict, lenient = [t for t in tests if t.strict], [t for t in tests if not t.strict]
    good = [f"({t.good})" for t in strict]
    if lenient:
        good.append("(" + " AND ".join(f"({t.good})" for t in lenient) + ") IS NOT FALSE")
    named = []
    for test in tests:
        fine = f"({test.good}) IS {'TRUE' if test.strict else 'NOT FALSE'}"
        named.append(f"CASE WHEN {fine} THEN '' ELSE {literal(test.rule + ';')} END")
    return case((" AND ".join(good), "''"), otherwise=f"({' || '.join(named)})")


def _kept(step: TableStep, tests: list[Test]) -> str | None:
    """False for rows that the filter leaves out; a row whose filter columns cannot be read is judged, not left out."""
    if step.keep is None:
        return None
    needed = inputs_of(step, step.keep.columns)
    readable = [t.good for t in tests if t.rule.endswith(".type") and t.column in needed]
    left_out = [f"TRY({render(step.keep, 'duckdb')}) IS NOT TRUE", *readable]
    if step.deletes:
        left_out.append('NOT "_deleted"')
    return "NOT (" + " AND ".join(f"({c})" for c in left_out) + ")"


def inputs_of(step: TableStep, columns: Collection[str]) -> set[str]:
    """`columns` and all that they are derived from."""
    found: set[str] = set()
    todo = list(columns)
    while todo:
        c = todo.pop()
        if c not in found:
            found.add(c)
            todo += step.derived[c].columns if c in step.derived else ()
    return found
