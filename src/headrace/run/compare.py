"""Two versions of a table, row by row; files that both have hold the same rows and are not read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from ..core import TableAt

AUDIT = ("_source", "_file", "_line", "_ingested_at", "_epoch", "_deleted", "_op", "_sequence", "_committed")
"""Where a row comes from, and which change made it: not what it says."""
FILES = 10
_NUMBERS = ("integer", "bigint", "double", "decimal")

Schemas = Mapping[str, Mapping[str, TableAt | str]]
Ask = Callable[[Schemas, str], tuple[Sequence[str], Iterable[Sequence[Any]]]]


Kind = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Example:
    """One row that differs; `values` are before and after of the columns that do."""

    kind: Kind
    key: Mapping[str, Any]
    values: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Counts of rows. Without a key that both versions have, a changed row is one removed and one added."""

    by: Sequence[str] = ()
    """The key by which rows were matched; empty where whole rows were."""
    rows_before: int = 0
    rows_after: int = 0
    added: int = 0
    removed: int = 0
    changed: int = 0
    columns: Mapping[str, int] = field(default_factory=dict)
    """Column → changed rows in which its value differs."""
    files: Mapping[str, int] = field(default_factory=dict)
    """File of the source → rows added or changed by it, most first."""
    examples: Sequence[Example] = ()

    @property
    def differs(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True)
class _Sides:
    ask: Ask
    old: TableAt
    new: TableAt
    keys: Sequence[str]

    @property
    def values(self) -> list[str]:
        """Columns of both versions that are compared."""
        outside = {*AUDIT, *self.keys}
        return [name for name in self.new.columns if name in self.old.columns and name not in outside]

    def rows(self, sql: str) -> list[Sequence[Any]]:
        _, found = self.ask({"before": {"t": self.old}, "after": {"t": self.new}}, sql)
        return list(found)

    def differ(self, name: str) -> str:
        """SQL: whether the value of `name` differs; numbers by value, other types by their text."""
        kinds = self.old.columns[name], self.new.columns[name]
        plain = kinds[0] == kinds[1] or all(kind.startswith(_NUMBERS) for kind in kinds)
        one, other = (f"{side}.{_q(name)}" for side in ("b", "a"))
        if not plain:
            one, other = f"cast({one} as varchar)", f"cast({other} as varchar)"
        return f"({one} is distinct from {other})"


def compare(ask: Ask, old: TableAt, new: TableAt, keys: Sequence[str], examples: int = 3) -> Comparison:
    """The differences from `old` to `new`, matched by `keys` (by whole rows without any).

    A key is in a version once, so a row of a file that both versions have differs from none of the others.
    """
    if not old.columns:  # the table was not there
        old = replace(old, columns=dict(new.columns))
    shared = {file.path for file in old.files} & {file.path for file in new.files}
    sides = _Sides(ask, _without(old, shared), _without(new, shared), keys)
    found = _keyed(sides, examples) if keys else _whole(sides, examples)
    ((rows_before, rows_after),) = replace(sides, old=old, new=new).rows(
        'select (select count(*) from "before".t), (select count(*) from "after".t)'
    )
    return replace(found, by=tuple(keys), rows_before=rows_before, rows_after=rows_after)


def _without(table: TableAt, shared: set[Path]) -> TableAt:
    return replace(table, files=[file for file in table.files if file.path not in shared])


def _keyed(sides: _Sides, examples: int) -> Comparison:
    on = " and ".join(f"b.{_q(key)} is not distinct from a.{_q(key)}" for key in sides.keys)
    joined = (
        'from (select *, true as _here from "before".t) b full join '
        f'(select *, true as _here from "after".t) a on {on}'
    )
    differ = {name: sides.differ(name) for name in sides.values}
    kinds = {
        "added": "b._here is null",
        "removed": "a._here is null",
        "changed": f"b._here and a._here and ({' or '.join(differ.values()) or 'false'})",
    }
    counts = [f"count(*) filter ({condition})" for condition in kinds.values()]
    counts += [f"count(*) filter (b._here and a._here and {condition})" for condition in differ.values()]
    ((added, removed, changed, *by_column),) = sides.rows(f"select {', '.join(counts)} {joined}")
    columns = {name: count for name, count in zip(differ, by_column, strict=True) if count}
    return Comparison(
        added=added,
        removed=removed,
        changed=changed,
        columns=dict(sorted(columns.items(), key=lambda item: -item[1])),
        files=_files(sides, f"{joined} where {kinds['added']} or ({kinds['changed']})"),
        examples=[
            example
            for kind, condition in kinds.items()
            for example in _examples(sides, kind, f"{joined} where {condition}", examples)
        ],
    )


def _files(sides: _Sides, rows: str) -> dict[str, int]:
    if "_file" not in sides.new.columns:
        return {}
    found = sides.rows(f"select a._file, count(*) {rows} group by 1 order by 2 desc, 1 limit {FILES}")
    return {str(file): count for file, count in found if file is not None}


def _examples(sides: _Sides, kind: str, rows: str, limit: int) -> Iterator[Example]:
    names = [*sides.keys, *sides.values]
    pairs = ", ".join(f"b.{_q(name)}, a.{_q(name)}" for name in names)
    order = ", ".join(f"coalesce(a.{_q(key)}, b.{_q(key)})" for key in sides.keys)
    differ = ", ".join(["true", *(sides.differ(name) for name in sides.values)])
    for row in sides.rows(f"select {pairs}, {differ} {rows} order by {order} limit {int(limit)}"):
        values = dict(
            zip(
                names, zip(row[0 : 2 * len(names) : 2], row[1 : 2 * len(names) : 2], strict=True), strict=True
            )
        )
        differs = dict(zip(sides.values, row[2 * len(names) + 1 :], strict=True))
        side = 0 if kind == "removed" else 1
        key = {name: values[name][side] for name in sides.keys}
        shown = {name: values[name] for name in sides.values if kind != "changed" or differs[name]}
        yield Example(cast(Kind, kind), key, shown)


def _whole(sides: _Sides, examples: int) -> Comparison:
    """Rows as a multiset over the columns of both versions."""
    names = ", ".join(_q(name) for name in sides.values)
    retyped = [name for name in sides.values if sides.old.columns[name] != sides.new.columns[name]]
    listed = ", ".join(
        f"cast({_q(n)} as varchar) as {_q(n)}" if n in retyped else _q(n) for n in sides.values
    )
    both = f'select {listed}, false as _after from "before".t union all select {listed}, true from "after".t'
    more = "count(*) filter (_after) - count(*) filter (not _after)"
    counted = f"from (select {names}, {more} as _more from ({both}) group by all) where _more <> 0"
    totals = "sum(_more) filter (_more > 0), -sum(_more) filter (_more < 0)"
    ((added, removed),) = sides.rows(f"select {totals} {counted}")
    found = []
    kinds: tuple[tuple[Kind, str], ...] = (("added", ">"), ("removed", "<"))
    for kind, sign in kinds:
        rows = sides.rows(f"select {names} {counted} and _more {sign} 0 order by all limit {int(examples)}")
        for row in rows:
            pairs = [(None, value) if kind == "added" else (value, None) for value in row]
            found.append(Example(kind, {}, dict(zip(sides.values, pairs, strict=True))))
    return Comparison(added=int(added or 0), removed=int(removed or 0), examples=found)


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
