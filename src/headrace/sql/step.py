"""A table's contract compiled: what engines and tests need, checked once, before anything runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from headrace.core import CHANGE
from headrace.errors import ConfigError
from headrace.spec.contract import Contract, Severity
from headrace.spec.pipeline import TableSpec
from headrace.spec.words import RESERVED, column_names

from .casts import Cast, bound, cast_of
from .language import Expression, parse

DIALECTS = ("duckdb",)
AUDIT = ("_source", "_file", "_line", "_ingested_at")
CHANGED = {"_op": "text", "_sequence": "text", "_committed": "timestamp"}
"""What a table of changes keeps of the change that made a row, beside `_deleted`."""


@dataclass(frozen=True, slots=True)
class Reference:
    """`column` must be among `key` of silver `table`, which the engine offers as relation `ref_<table>`."""

    column: str
    table: str
    key: str
    on_missing: Literal["quarantine", "accept"]
    severity: Severity


@dataclass(frozen=True, slots=True)
class TableStep:
    """One silver table's refinement; immutable, and the same for the same contract."""

    table: str
    spec: TableSpec
    columns: Mapping[str, str]
    """Final columns in order (the contract's, then evolved ones as text), name → type word."""
    inputs: Mapping[str, tuple[str, ...]]
    """Staged text column → accepted header names or JSON paths, first match wins."""
    references: tuple[Reference, ...]
    keys: tuple[str, ...]
    sequence: tuple[str, ...]
    mode: Literal["append", "merge", "replace"]
    partition_by: tuple[str, ...]
    history: bool
    deletes: bool
    evolved: tuple[str, ...]
    encrypted: tuple[str, ...]
    """Columns that leave `checked_sql` in clear text: the engine encrypts them before anything is written."""
    casts: Mapping[str, Cast]
    derived: Mapping[str, Expression]
    """In an order in which each needs only earlier ones."""
    rules: Mapping[str, Expression]
    keep: Expression | None
    """The contract's `filter`."""
    delete_when: Expression | None
    """Or `apply_as_deletes`, where the rows are changes."""

    @property
    def optional(self) -> tuple[str, ...]:
        """Inputs beyond the contract, which a file need not have."""
        return (*(CHANGE if self.spec.changes else ()), *self.evolved)

    @property
    def beside(self) -> dict[str, str]:
        """Columns that the table has beside its own and those of its rows' origin, name → type word."""
        return ({"_deleted": "boolean"} if self.deletes else {}) | (CHANGED if self.spec.changes else {})

    @property
    def versions(self) -> tuple[str, ...]:
        """Columns that tell two versions of a key apart: all that a row says, or which change made it."""
        return (*self.keys, *self.sequence) if self.spec.changes else tuple(self.columns)

    @property
    def blanks(self) -> tuple[str, ...]:
        """Columns of which a deleted row keeps nothing."""
        changes = self.spec.changes
        if changes is None or changes.deletes == "soft":
            return ()
        return tuple(c for c in self.columns if c not in (*self.keys, *changes.sequence_by))


def compile_table(
    name: str, spec: TableSpec, evolved: Sequence[str] = (), where: str | None = None
) -> TableStep:
    """Checks all SQL, formats and patterns; raises ConfigError with the fix for the first that is wrong.

    `evolved` are headers beyond the contract: each becomes a text column of a plain name.
    """
    contract, columns = spec.contract, spec.contract.columns
    extra = {c: (header,) for c, header in zip(column_names(evolved, columns), evolved, strict=True)}
    final = {**{c: column.type for c, column in columns.items()}, **dict.fromkeys(extra, "text")}

    def checked(text: str, what: str) -> Expression:
        return parse(text, final, f"table `{name}`, {what}", where)

    _check_names(name, final, where)
    given = {c: column for c, column in columns.items() if not column.derive}
    try:
        casts = {c: cast_of(c, column, contract.nulls) for c, column in given.items()}
        for c, column in columns.items():
            _check_pattern(c, column.pattern)
            for constant in (column.min, column.max, *(column.values or [])):
                if constant is not None:
                    bound(c, column, constant)
    except ConfigError as error:
        raise ConfigError(f"table `{name}`: {error.message}", hint=error.hint, where=where) from None
    derived = {c: checked(col.derive, f"derive of `{c}`") for c, col in columns.items() if col.derive}
    _check_expected(name, contract, final, where)
    masked = {c: column.mask for c, column in columns.items() if column.mask}
    ordered = _ordered(derived, name, where)
    _check_derived(name, contract, ordered, where)
    references = []
    for c, column in columns.items():
        if column.references:
            table, _, key = column.references.partition(".")
            references.append(Reference(c, table, key, column.on_missing, column.severity))
            if masked.get(c) == "encrypt" and column.on_missing == "quarantine":
                raise ConfigError(
                    f"table `{name}`: column `{c}` is encrypted, so `references` cannot be checked",
                    hint="use `mask: hash`, which gives the same value in both tables",
                    where=where,
                )
    changes = spec.changes
    when, what = (
        (changes.apply_as_deletes, "apply_as_deletes") if changes else (spec.delete_when, "delete_when")
    )
    told = {each: (each,) for each in CHANGE} if changes else {}
    return TableStep(
        table=name,
        spec=spec,
        columns=final,
        inputs={c: tuple(column.source) or (c,) for c, column in given.items()} | told | extra,
        references=tuple(references),
        keys=tuple(spec.key_columns) + (tuple(extra) if spec.keys == ["*"] else ()),
        sequence=(*changes.sequence_by, "_sequence") if changes else tuple(spec.latest_by),
        mode=spec.effective_mode,
        partition_by=tuple(spec.partition_by),
        history=spec.history,
        deletes=bool(changes or when),
        evolved=tuple(extra),
        encrypted=tuple(c for c, mask in masked.items() if mask == "encrypt"),
        casts=casts,
        derived=ordered,
        rules={rule: checked(r.check, f"rule `{rule}`") for rule, r in contract.rules.items()},
        keep=checked(contract.filter, "filter") if contract.filter else None,
        delete_when=checked(when, what) if when else None,
    )


def _check_names(table: str, columns: Mapping[str, str], where: str | None) -> None:
    seen = {
        c: c for c in (*AUDIT, "_broken", "_warned", "_stopped", "_filtered", "_deleted", "_kept", "_epoch")
    }
    for column in columns:
        if column.lower() in RESERVED:
            raise ConfigError(
                f"table `{table}`: column `{column}` has the name that the engine gives to a row's own place",
                hint=f"call it otherwise: `{column}_2: {{from: {column}}}`",
                where=where,
            )
        if other := seen.get(column.lower()):
            raise ConfigError(
                f"table `{table}`: columns `{column}` and `{other}` have one name in SQL",
                hint=f"name the header under `from` of a column with a name of its own: `from: {column}`",
                where=where,
            )
        seen[column.lower()] = column


def _check_expected(name: str, contract: Contract, columns: Mapping[str, str], where: str | None) -> None:
    for expect in contract.expect:
        for column in [*(expect.unique or []), expect.sum, expect.fresh]:
            if column is not None and column not in columns:
                raise ConfigError(
                    f"table `{name}`, expect: column `{column}` is unknown",
                    hint=unknown(column, list(columns)),
                    where=where,
                )


def _ordered(derived: Mapping[str, Expression], table: str, where: str | None) -> dict[str, Expression]:
    done: dict[str, Expression] = {}
    while len(done) < len(derived):
        ready = [
            c
            for c, e in derived.items()
            if c not in done and all(used in done for used in e.columns if used in derived)
        ]
        if not ready:
            cycle = ", ".join(f"`{c}`" for c in derived if c not in done)
            raise ConfigError(
                f"table `{table}`: derived columns {cycle} need each other",
                hint="derive each from columns of the source",
                where=where,
            )
        done.update((c, derived[c]) for c in ready)
    return done


def _check_derived(
    table: str, contract: Contract, derived: Mapping[str, Expression], where: str | None
) -> None:
    """A mask covers its own column alone: what is made of the clear value must say what it is, too."""
    comes_from = {c: c for c, column in contract.columns.items() if column.mask}
    for c, expression in derived.items():
        source = next((comes_from[used] for used in expression.columns if used in comes_from), None)
        if source is None:
            continue
        comes_from.setdefault(c, source)
        if not contract.columns[c].pii:
            raise ConfigError(
                f"table `{table}`: column `{c}` is derived from `{source}`, which is masked, "
                "and would store what it is made of in clear",
                hint=f"give `{c}` a `pii` of its own, and a `mask` unless it tells nothing of a person",
                where=where,
            )


def _check_pattern(column: str, pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"column `{column}`: pattern `{pattern}` is no regular expression: {error}",
            hint="the whole text must match; escape special characters with a backslash",
        ) from None
    if re.search(r"\(\?(?:[=!]|<[=!])|\\[1-9]", pattern):
        raise ConfigError(
            f"column `{column}`: pattern `{pattern}` looks around or back",
            hint="patterns are RE2: no (?=…), (?!…), (?<=…), \\1; write a row rule instead",
        )


def unknown(word: str, known: Sequence[str]) -> str:
    """A hint with the nearest of `known`."""
    close = difflib.get_close_matches(word, known, 1)
    return (f"did you mean `{close[0]}`? " if close else "") + "known: " + ", ".join(known)
