"""The checked SELECT: staged texts in, typed columns and every broken rule out; pure in each row.

Levels, innermost first: raw texts, cleaned texts, plain casts, typed columns, derived columns, tests,
verdicts, masks. Verdict texts are built only for rows that are not wholly good.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from headrace.errors import ConfigError
from headrace.spec.contract import Column, Severity

from .casts import bound, native
from .language import render
from .masks import masked
from .step import AUDIT, DIALECTS, TableStep
from .text import case, full_match, literal, name


@dataclass(frozen=True, slots=True)
class RowTest:
    """One rule on one row. `good` is false for rows that break it; `strict` tests are also broken by NULL."""

    rule: str
    severity: Severity
    good: str
    strict: bool
    column: str | None = None

    @property
    def sql(self) -> str:
        """True or false, never NULL."""
        return f"({self.good}) IS {'TRUE' if self.strict else 'NOT FALSE'}"


def checked_sql(
    step: TableStep, dialect: str = "duckdb", staged: str = "staged", broken: str = "_broken"
) -> str:
    """SELECT of the final typed columns, the audit columns and the verdicts, for every row of `staged`.

    `_broken`, `_warned`, `_stopped` hold rule ids, each ended by `;` (none: ''); `_filtered` rows are none
    of this table's; `_deleted` exists where the step deletes. A cast that failed gives NULL and
    `<column>.type`. The session needs TimeZone UTC and the variable `headrace_now`.
    """
    if dialect not in DIALECTS:
        raise ConfigError(f"dialect `{dialect}` is not compiled yet", hint=f"dialects: {', '.join(DIALECTS)}")
    sql = _levels(step, dialect, name(staged))
    tests = row_tests(step, dialect)
    if tests:
        flags = ", ".join(f"{test.sql} AS {name(f'good${test.rule}')}" for test in tests)
        sql = f"SELECT *, {flags} FROM ({sql})"
    verdicts = {**_verdicts(step, tests, broken), "_filtered": f"NOT {_kept(step)}" if step.keep else "false"}
    if step.deletes:
        verdicts["_deleted"] = "_deleted"
    columns = [name(c) for c in step.columns]
    sql = f"SELECT {', '.join([*columns, *AUDIT, *_named(verdicts)])} FROM ({sql})"
    masks = {
        c: col.mask for c, col in step.spec.contract.columns.items() if col.mask and col.mask != "encrypt"
    }
    if not masks:
        return sql
    shown = [f"{masked(c, masks[c])} AS {name(c)}" if c in masks else name(c) for c in step.columns]
    return f"SELECT {', '.join([*shown, *AUDIT, *verdicts])} FROM ({sql})"


def _named(columns: Mapping[str, str]) -> list[str]:
    return [f"{sql} AS {column}" for column, sql in columns.items()]


def _levels(step: TableStep, dialect: str, staged: str) -> str:
    """Typed and derived columns by name, staged texts as `raw$c`; `_deleted` and `_kept` if asked."""
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
        calculated = name(f"calc${c}")
        sql = f"SELECT *, {render(expression, dialect).sql} AS {calculated} FROM ({sql})"
        sql = f"SELECT *, {_fitted(calculated, native(step.columns[c]))} AS {name(c)} FROM ({sql})"
    if step.delete_when:
        gone = f"{render(step.delete_when, dialect).sql} IS TRUE"
        sql = f'SELECT *, ({gone}) AS "_deleted" FROM ({sql})'
    if step.keep:
        kept = f"{render(step.keep, dialect).sql} IS TRUE"
        sql = f'SELECT *, ({kept}) AS "_kept" FROM ({sql})'
    return sql


def _fitted(value: str, kind: str) -> str:
    """A calculated value in its declared type if it is the same value there, else NULL."""
    typed = f"TRY_CAST({value} AS {kind})"
    if kind == "VARCHAR":
        return typed
    same = f"isfinite({typed})" if kind == "DOUBLE" else f"TRY({typed} = {value})"
    return case((same, typed))


def row_tests(step: TableStep, dialect: str = "duckdb") -> list[RowTest]:
    """Every test of a row, in the order in which broken rules are reported."""
    tests: list[RowTest] = []
    for c, column in step.spec.contract.columns.items():
        tests += _column_tests(step, c, column, dialect)
    for reference in step.references:
        if reference.on_missing == "quarantine":
            stored = masked(reference.column, step.spec.contract.columns[reference.column].mask)
            keys = f"SELECT {name(reference.key)} FROM {name(f'ref_{reference.table}')}"
            # NULL among no keys at all would be false, and no longer unknown.
            missing = f"{name(reference.column)} IS NULL"
            known = f"{missing} OR {stored} IN ({keys} WHERE {name(reference.key)} IS NOT NULL)"
            tests.append(
                RowTest(f"{reference.column}.reference", reference.severity, known, False, reference.column)
            )
    for c in step.partition_by:
        if step.columns[c] == "text":  # to Delta an empty partition value is none: it would be read as NULL
            told = f"{name(c)} IS NULL OR {name(c)} <> ''"
            tests.append(RowTest(f"{c}.partition", "quarantine", told, True, c))
    for rule, spec in step.spec.contract.rules.items():
        tests.append(RowTest(rule, spec.severity, render(step.rules[rule], dialect).sql, True))
    return tests


def _column_tests(step: TableStep, c: str, column: Column, dialect: str) -> list[RowTest]:
    value, severity = name(c), column.severity
    # A value that cannot be kept is never only a warning: the row would go on without it.
    failed: Severity = "stop" if severity == "stop" else "quarantine"
    tests: list[RowTest] = []
    if typed := _typed_well(step, c, dialect):
        tests.append(RowTest(f"{c}.type", failed, typed, True, c))
    if column.required or (c in step.keys and step.spec.keys != ["*"]):
        given = f"{value} IS NOT NULL"
        if c in step.casts:
            # CASE, since OR would trim every text to learn what only failed casts need to know.
            given = case((given, "true"), otherwise=f"NOT {step.casts[c].missing}")
        tests.append(RowTest(f"{c}.required", severity if column.required else "quarantine", given, True, c))
    if column.min is not None:
        tests.append(RowTest(f"{c}.min", severity, f"{value} >= {bound(c, column, column.min)}", False, c))
    if column.max is not None:
        tests.append(RowTest(f"{c}.max", severity, f"{value} <= {bound(c, column, column.max)}", False, c))
    if column.values is not None:
        allowed = ", ".join(bound(c, column, v) for v in column.values)
        tests.append(
            RowTest(f"{c}.values", severity, f"{value} IN ({allowed})" if allowed else "false", False, c)
        )
    if column.pattern is not None:
        text = value if column.type == "text" or c not in step.casts else name(f"raw${c}")
        tests.append(RowTest(f"{c}.pattern", severity, full_match(text, column.pattern), False, c))
    if column.max_length is not None:
        tests.append(
            RowTest(f"{c}.max_length", severity, f"length({value}) <= {column.max_length}", False, c)
        )
    return tests


def _typed_well(step: TableStep, c: str, dialect: str) -> str | None:
    value = name(c)
    if c in step.derived:
        failed = [f"{name(f'calc${c}')} IS NOT NULL", *render(step.derived[c], dialect).failures]
        return case((f"{value} IS NOT NULL", "true"), otherwise=f"NOT ({' OR '.join(failed)})")
    cast = step.casts[c]
    if cast.always:
        return None
    return case((f"{value} IS NOT NULL OR {name(f'raw${c}')} IS NULL", "true"), otherwise=cast.missing)


def _verdicts(step: TableStep, tests: list[RowTest], broken: str) -> dict[str, str]:
    """One text per severity; for a row that deletes, only its keys count; for one left out, nothing does."""
    keys = [t for t in tests if t.column in step.keys and t.rule.endswith((".type", ".required"))]
    verdicts = {}
    for column, severity in ((broken, "quarantine"), ("_warned", "warn"), ("_stopped", "stop")):
        every = [t for t in tests if t.severity == severity]
        verdict = _verdict(every)
        if step.deletes and every:
            only_keys = _verdict([t for t in keys if t.severity == severity])
            verdict = case(("_deleted", only_keys), otherwise=verdict)
        if step.keep and every:
            verdict = case((f"NOT {_kept(step)}", "''"), otherwise=verdict)
        verdicts[column] = verdict
    return verdicts


def _verdict(tests: list[RowTest]) -> str:
    if not tests:
        return "''"
    flags = [(name(f"good${t.rule}"), literal(f"{t.rule};")) for t in tests]
    named = [f"CASE WHEN {good} THEN '' ELSE {rule} END" for good, rule in flags]
    return case((" AND ".join(good for good, _ in flags), "''"), otherwise=f"({' || '.join(named)})")


def _kept(step: TableStep) -> str:
    """False for rows that the filter leaves out.

    A row whose filter columns could not be read is judged instead: nobody knows whether it belongs here.
    """
    needed = inputs_of(step, step.keep.columns if step.keep else ())
    readable = [
        name(f"good${t.rule}") for t in row_tests(step) if t.rule.endswith(".type") and t.column in needed
    ]
    left_out = ['NOT "_kept"', *readable, *(["NOT _deleted"] if step.deletes else [])]
    return f"(NOT ({' AND '.join(left_out)}))"


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
