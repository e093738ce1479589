"""What differs between two definitions of a table, and whether it breaks what its readers rely on.

Breaking is whatever can take away or alter rows or values that were in the table: a column that goes, a type
that holds less, another key, another mask, a rule that refuses more. When in doubt, it is breaking.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .change_column import column_changes, said, stricter
from .contract import Column, Contract, Expect
from .pipeline import TableSpec
from .words import column_names

_WORDS: dict[str, Any] = {
    "to": True,
    "contract": {
        "description": True,
        "owner": True,
        "columns": {"__all__": {"description", "example"}},
        "rules": {"__all__": {"description"}},
    },
}


def essence(spec: TableSpec) -> dict[str, Any]:
    """The definition without words for people, targets and defaults: equal ones give equal tables.

    So neither a better description nor a new version of Headrace with more settings computes a table anew.
    """
    return spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_WORDS)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; `columns` are the final columns whose values it can alter, `*` stands for all."""

    what: str
    how: str
    breaks: str = ""
    """Why it is breaking; empty if it is not."""
    columns: tuple[str, ...] = ()
    rows: bool = False
    """Whether other rows may be in the table."""

    @property
    def breaking(self) -> bool:
        return bool(self.breaks)

    def __str__(self) -> str:
        return f"{self.what}: {self.how}" + (f" ({self.breaks})" if self.breaks else "")


def changes(old: TableSpec, new: TableSpec, evolved: Sequence[str] = ()) -> list[Change]:
    """All differences from `old` to `new`, columns first; equal definitions have none.

    `evolved` are headers beyond the old contract that had become columns of text.
    """
    found = [*_columns(old, new, evolved), *_rules(old.contract, new.contract)]
    found += [*_expectations(old.contract, new.contract), *_contract(old.contract, new.contract)]
    return [*found, *_table(old, new)]


def renamed(old: Contract, new: Contract) -> dict[str, str]:
    """Old name → new name of columns that go while another comes that is fed by the same headers."""
    gone = [name for name in old.columns if name not in new.columns]
    come = [name for name in new.columns if name not in old.columns]
    found: dict[str, str] = {}
    for before in gone:
        for after in come:
            same = _feeds(before, old.columns[before]) & _feeds(after, new.columns[after])
            if same and after not in found.values():
                found[before] = after
                break
    return found


def _feeds(name: str, column: Column) -> set[str]:
    return {column.derive} if column.derive else set(column.source or [name])


def _columns(old: TableSpec, new: TableSpec, evolved: Sequence[str]) -> Iterator[Change]:
    before, after = old.contract.columns, new.contract.columns
    moved = renamed(old.contract, new.contract)
    extra = dict(zip(column_names(evolved, before), evolved, strict=True))
    for name, column in before.items():
        what = f"column `{name}`"
        if name in moved:
            then = moved[name]
            yield Change(what, f"renamed to `{then}`", "readers ask for the old name", (name, then))
            yield from _altered(then, before[name].model_copy(update={"source": [name]}), after[then], name)
        elif name not in after:
            yield Change(what, "removed", "readers ask for it", (name,))
        else:
            yield from _altered(name, column, after[name], name)
    for name, column in after.items():
        if name not in before and name not in moved.values():
            yield _added(name, column, star=new.keys == ["*"], was_text=name in extra)
    known = {feed.lower() for name, column in after.items() for feed in (*_feeds(name, column), name)}
    keeps = new.contract.on_new_column == "evolve"
    for name, header in extra.items():
        if name not in after and (not keeps or header.strip().lower() in known):
            yield Change(f"column `{name}`", "removed (it had evolved)", "readers ask for it", (name,))


def _altered(name: str, old: Column, new: Column, before: str) -> Iterator[Change]:
    if before != name:  # a renamed column: its feed is what made the two one
        old, new = (column.model_copy(update={"source": []}) for column in (old, new))
    for difference in column_changes(name, old, new):
        columns = (name,) if difference.values else ()
        yield Change(f"column `{name}`", difference.how, difference.breaks, columns, difference.rows)


def _added(name: str, column: Column, *, star: bool, was_text: bool) -> Change:
    how = f"added, {column.type}" + (f", derived from `{column.derive}`" if column.derive else "")
    why = ""
    checks = column.required or any(
        value is not None
        for value in (column.min, column.max, column.pattern, column.values, column.max_length)
    )
    references = column.references and column.on_missing == "quarantine"
    if star:
        why = "keys are all columns: rows that were one may be two"
    elif was_text and column.type != "text":
        why = f"it had evolved as text and is {column.type} now"
    elif (checks or references) and column.severity != "warn":
        why = stricter(column.severity)
    return Change(f"column `{name}`", how, why, (name,), rows=bool(why))


def _rules(old: Contract, new: Contract) -> Iterator[Change]:
    for name in [*old.rules, *(rule for rule in new.rules if rule not in old.rules)]:
        before, after = old.rules.get(name), new.rules.get(name)
        what = f"rule `{name}`"
        if after is None:
            yield Change(what, "removed", rows=before is not None and before.severity != "warn")
        elif before is None:
            yield _rule(what, f"added, `{after.check}`, {after.severity}", after.severity)
        elif before.check != after.check:
            yield _rule(what, f"`{before.check}` → `{after.check}`", after.severity)
        if before and after and before.severity != after.severity:
            how = f"severity {before.severity} → {after.severity}"
            rank = ("warn", "quarantine", "stop")
            up = rank.index(after.severity) > rank.index(before.severity)
            yield Change(what, how, stricter(after.severity) if up else "", rows=True)


def _rule(what: str, how: str, severity: str) -> Change:
    return Change(what, how, "" if severity == "warn" else stricter(severity), rows=severity != "warn")


def _expectations(old: Contract, new: Contract) -> Iterator[Change]:
    for item in old.expect:
        if item not in new.expect:
            yield Change("expect", f"removed, {_expectation(item)}")
    for item in new.expect:
        if item not in old.expect:
            why = "" if item.severity == "warn" else stricter(item.severity)
            yield Change("expect", f"added, {_expectation(item)}", why)


def _contract(old: Contract, new: Contract) -> Iterator[Change]:
    if old.filter != new.filter:
        why = "rows that were in the table may not be of it any more" if new.filter else ""
        yield Change("filter", _arrow(old.filter, new.filter), why, rows=True)
    if old.nulls != new.nulls:
        why = "values become missing, or are there where they were missing"
        yield Change("nulls", _arrow(old.nulls, new.nulls), why, ("*",), rows=True)
    quarantines = "files that loaded may be quarantined"
    for setting, strict in (
        ("on_new_column", "quarantine"),
        ("on_missing_column", "quarantine"),
        ("header_case", "exact"),
    ):
        before, after = getattr(old, setting), getattr(new, setting)
        if before != after:
            yield Change(setting, _arrow(before, after), quarantines if after == strict else "", rows=True)


_SETTINGS: Mapping[str, str] = {
    "keys": "which rows are one changes",
    "latest_by": "another version of a key may win",
    "effective_mode": "rows are put together in another way",
    "delete_when": "other rows are deleted",
    "changes": "rows are changes in another way: which one is newest, or what a delete leaves",
    "steps": "what code does to rows cannot be told from here",
}


def _table(old: TableSpec, new: TableSpec) -> Iterator[Change]:
    if gone := [name for name in old.source if name not in new.source]:
        yield Change("from", f"without {_names(gone)}", "the rows of that source go", rows=True)
    if come := [name for name in new.source if name not in old.source]:
        yield Change("from", f"also {_names(come)}", rows=True)
    for setting, why in _SETTINGS.items():
        before, after = getattr(old, setting), getattr(new, setting)
        if before != after:
            every = ("*",) if setting == "steps" else ()
            what = setting.removeprefix("effective_")
            yield Change(what, _arrow(before, after), why, every, rows=True)
    if old.history != new.history:
        why = "" if new.history else "the earlier versions of rows are not kept any more"
        yield Change("history", _arrow(old.history, new.history), why)
    for setting in ("partition_by", "start"):
        before, after = getattr(old, setting), getattr(new, setting)
        if before != after:
            yield Change(setting, _arrow(before, after))


def beside(old: TableSpec, new: TableSpec) -> Change | None:
    """What differs if both definitions say the same, but not what shapes the table beside them.

    That is the Python files of its steps and the key of its masks; None if one definition has neither,
    or if their own difference says it already.
    """
    steps = bool(old.steps) and old.steps == new.steps
    masked = [name for name in _keyed(old.contract) if name in _keyed(new.contract)]
    if steps and not masked:
        return Change("steps", "the Python code changed", _SETTINGS["steps"], ("*",), rows=True)
    if steps:
        how = "the Python code changed, or the key of masked columns (`pii_key`)"
        return Change("steps", how, _SETTINGS["steps"], ("*",), rows=True)
    if masked and not (old.steps or new.steps):
        how = f"another key masks {_names(masked)}"
        return Change("pii_key", how, "what is stored is not what was stored", tuple(masked))
    return None


def _keyed(contract: Contract) -> list[str]:
    return [name for name, column in contract.columns.items() if column.mask in ("hash", "encrypt")]


def _arrow(old: object, new: object) -> str:
    return f"{said(old)} → {said(new)}"


def _expectation(item: Expect) -> str:
    """One line without what is not set."""
    given = item.model_dump(mode="json", exclude_defaults=True, exclude={"severity"})
    return ", ".join(f"{name} {said(value)}" for name, value in given.items())


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
