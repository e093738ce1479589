"""The checked SELECT: staged texts in, typed columns and every broken rule out; pure in each row.

Levels, innermost first: raw texts, cleaned texts, plain casts, typed columns, derived columns, tests,
verdicts, masks. Verdict texts are built only for rows that are not wholly good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from headrace.errors import ConfigError
from headrace.spec.contract import Column, Severity

from .casts import bound, native
from .changes import OPS, as_before, inputs_of, typed, unknowable
from .language import render
from .masks import masked
from .step import AUDIT, DIALECTS, TableStep
from .text import case, full_match, listed, literal, name


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
    step: TableStep,
    dialect: str = "duckdb",
    staged: str = "staged",
    broken: str = "_broken",
    *,
    carried: bool = False,
) -> str:
    """SELECT of the final typed columns, the audit columns and the verdicts, for every row of `staged`.

    `_broken`, `_warned`, `_stopped` hold rule ids, each ended by `;` (none: ''); `_filtered` rows are none
    of this table's; `step.beside` follows, and `_unchanged` where rows are changes. A cast that failed gives
    NULL and `<column>.type`. The session needs TimeZone UTC and the variable `headrace_now`.

    Of a change that lacks values (`_unchanged`) only its key is judged, unless they were `carried` over:
    then `staged` has beside the texts, for every final column c, `lack$c`, `lost$c` (nobody knows it any
    more) and `old$c`, the value as it is stored; `_lost`, whether any is; and of columns to be encrypted
    `stored$c`, whether they are.
    """
    if dialect not in DIALECTS:
        raise ConfigError(f"dialect `{dialect}` is not compiled yet", hint=f"dialects: {', '.join(DIALECTS)}")
    sql = _levels(step, dialect, name(staged), carried)
    tests = _spared(step, row_tests(step, dialect)) if carried else row_tests(step, dialect)
    if tests:
        flags = ", ".join(f"{test.sql} AS {name(f'good${test.rule}')}" for test in tests)
        sql = f"SELECT *, {flags} FROM ({sql})"
    verdicts = {**_verdicts(step, tests, broken, carried), "_filtered": _filtered(step, carried)}
    verdicts |= {each: each for each in step.beside}
    if step.spec.changes:
        verdicts["_unchanged"] = "NULL::VARCHAR" if carried else "_unchanged"
        if step.keep:  # it was of this table, and is no more
            verdicts["_deleted"] = f"_deleted OR ({_left_out(step, carried)} AND _op = 'u')"
    columns = [name(c) for c in step.columns]
    stored = [name(f"stored${c}") for c in step.encrypted] if carried else []
    carry = [name(f"lack${c}") for c in step.columns] + stored if carried else []
    sql = f"SELECT {', '.join([*columns, *carry, *AUDIT, *_named(verdicts)])} FROM ({sql})"
    masks = {
        c: col.mask for c, col in step.spec.contract.columns.items() if col.mask and col.mask != "encrypt"
    }
    if not (masks or step.blanks or carried):
        return sql
    shown = [f"{_stored(step, c, masks.get(c), carried)} AS {name(c)}" for c in step.columns]
    return f"SELECT {', '.join([*shown, *stored, *AUDIT, *verdicts])} FROM ({sql})"


def _stored(step: TableStep, c: str, mask: str | None, carried: bool) -> str:
    """A column as it goes into the table: masked, and gone with the row where deletes are hard."""
    value = masked(c, mask)
    if carried and mask:
        value = case((name(f"lack${c}"), name(c)), otherwise=value)
    return case(("NOT _deleted", value)) if c in step.blanks else value


def _filtered(step: TableStep, carried: bool) -> str:
    changes, filtered = step.spec.changes, []
    if step.keep:
        filtered.append(_left_out(step, carried) + (" AND _op IS DISTINCT FROM 'u'" if changes else ""))
    if changes and changes.truncate == "ignore":
        filtered.append("coalesce(_op = 't', false)")
    return " OR ".join(f"({each})" for each in filtered) or "false"


def unspoken(step: TableStep) -> set[str]:
    """Those of `_warned`, `_stopped` and `_filtered` that no row of this step can have."""
    severities = {test.severity for test in row_tests(step)}
    found = {column for column, word in (("_warned", "warn"), ("_stopped", "stop")) if word not in severities}
    return found | ({"_filtered"} if _filtered(step, carried=False) == "false" else set())


def _named(columns: Mapping[str, str]) -> list[str]:
    return [f"{sql} AS {column}" for column, sql in columns.items()]


def _levels(step: TableStep, dialect: str, staged: str, carried: bool = False) -> str:
    """Typed and derived columns by name, staged texts as `raw$c`; `_deleted` and `_kept` if asked."""
    raw = [f"{name(c)} AS {name(f'raw${c}')}" for c in step.inputs]
    if carried:
        raw += [name(f"{what}${c}") for c in step.columns for what in ("lack", "lost", "old")] + ["_lost"]
        raw += [name(f"stored${c}") for c in step.encrypted]
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
    given = {c: cast.value for c, cast in step.casts.items()}
    given |= {c: name(f"raw${c}") for c in step.evolved}
    values = [f"{_carried(c, value, carried)} AS {name(c)}" for c, value in given.items()] + typed(step)
    if values:
        sql = f"SELECT *, {', '.join(values)} FROM ({sql})"
    for c, expression in step.derived.items():
        calculated = name(f"calc${c}")
        sql = f"SELECT *, {render(expression, dialect).sql} AS {calculated} FROM ({sql})"
        value = _carried(c, _fitted(calculated, native(step.columns[c])), carried)
        sql = f"SELECT *, {value} AS {name(c)} FROM ({sql})"
    if step.deletes:
        gone = ["coalesce(_op IN ('d', 't'), false)"] if step.spec.changes else []
        if step.delete_when:
            gone.append(f"{render(step.delete_when, dialect).sql} IS TRUE")
        sql = f'SELECT *, ({" OR ".join(gone)}) AS "_deleted" FROM ({sql})'
    if step.keep:
        kept = f"{render(step.keep, dialect).sql} IS TRUE"
        sql = f'SELECT *, ({kept}) AS "_kept" FROM ({sql})'
    return sql


def _carried(c: str, value: str, carried: bool) -> str:
    return case((name(f"lack${c}"), name(f"old${c}")), otherwise=value) if carried else value


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
    if step.spec.changes:
        known = f"_op IS NULL OR _op IN ({listed(OPS)})"
        tests.append(RowTest("_op.values", "quarantine", known, True, "_op"))
        placed = "_op IS DISTINCT FROM 't' OR coalesce(_sequence, '') <> ''"
        tests.append(RowTest("_sequence.required", "quarantine", placed, True, "_op"))
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


def _spared(step: TableStep, tests: list[RowTest]) -> list[RowTest]:
    """The tests of rows whose missing values were carried over: what is as before was judged before."""
    unsaid = unknowable(step)
    found = [
        RowTest(f"{c}.unchanged", "quarantine", f"NOT ({lost})", True, c)
        for c in step.columns
        if c not in step.derived and c not in step.keys
        for lost in [" OR ".join(filter(None, [name(f"lost${c}"), unsaid.get(c)]))]
    ]
    for test in tests:
        used = [test.column] if test.column else step.rules[test.rule].columns
        found.append(replace(test, good=f"_lost OR {as_before(step, used)} OR ({test.good})"))
    return found


def _column_tests(step: TableStep, c: str, column: Column, dialect: str) -> list[RowTest]:
    value, severity = name(c), column.severity
    # A value that cannot be kept is never only a warning: the row would go on without it.
    failed: Severity = "stop" if severity == "stop" else "quarantine"
    tests: list[RowTest] = []
    if typed := _typed_well(step, c, dialect):
        tests.append(RowTest(f"{c}.type", failed, typed, True, c))
    changes = step.spec.changes
    needed = (c in step.keys and step.spec.keys != ["*"]) or (changes and c in changes.sequence_by)
    if column.required or needed:
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


def _verdicts(step: TableStep, tests: list[RowTest], broken: str, carried: bool) -> dict[str, str]:
    """One text per severity; for a row that deletes, only its keys count; for one left out, nothing does."""
    changes = step.spec.changes
    known = (*step.keys, *(changes.sequence_by if changes else ()))
    keys = [t for t in tests if t.column in known and t.rule.endswith((".type", ".required", ".partition"))]
    keys += [t for t in tests if t.column == "_op"]
    verdicts = {}
    for column, severity in ((broken, "quarantine"), ("_warned", "warn"), ("_stopped", "stop")):
        every = [t for t in tests if t.severity == severity]
        verdict = _verdict(every)
        if step.deletes and every:
            only_keys = _verdict([t for t in keys if t.severity == severity])
            lacks = " OR _unchanged IS NOT NULL" if changes and not carried else ""
            verdict = case((f"_deleted{lacks}", only_keys), otherwise=verdict)
            if changes:
                alone = _verdict([t for t in every if t.column == "_op"])
                verdict = case(("_op = 't'", alone), otherwise=verdict)
        if step.keep and every:
            left = case(("_op = 'u'", only_keys), otherwise="''") if changes else "''"
            verdict = case((_left_out(step, carried), left), otherwise=verdict)
        verdicts[column] = verdict
    return verdicts


def _verdict(tests: list[RowTest]) -> str:
    if not tests:
        return "''"
    flags = [(name(f"good${t.rule}"), literal(f"{t.rule};")) for t in tests]
    named = [f"CASE WHEN {good} THEN '' ELSE {rule} END" for good, rule in flags]
    return case((" AND ".join(good for good, _ in flags), "''"), otherwise=f"({' || '.join(named)})")


def _left_out(step: TableStep, carried: bool = False) -> str:
    """True for rows that the filter leaves out.

    A row whose filter columns could not be read is judged instead: nobody knows whether it belongs here.
    """
    needed = inputs_of(step, step.keep.columns if step.keep else ())
    readable = [
        name(f"good${t.rule}") for t in row_tests(step) if t.rule.endswith(".type") and t.column in needed
    ]
    left_out = ['NOT "_kept"', *readable, *(["NOT _deleted"] if step.deletes else [])]
    if step.spec.changes:
        left_out.append("NOT _lost" if carried else "_unchanged IS NULL")
    return f"({' AND '.join(left_out)})"
