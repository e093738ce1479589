"""Which field of a file feeds which staged column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.core import CHANGE

from .parts import Wanted
from .strict import fold


@dataclass(frozen=True, slots=True)
class Header:
    width: int
    lines: int
    """Physical lines of the header; 0 without one."""
    names: Sequence[str] | None
    fields: Sequence[int | None]
    """Per staged column the place of its field, None where the file has none."""
    refused: str | None
    """The rule that all records of such a file break, by the contract's policy on drift."""

    @property
    def expressions(self) -> list[str]:
        there = "c{}" if self.width > 1 else "coalesce(c{}, '')"
        return ["NULL::VARCHAR" if f is None else there.format(f) for f in self.fields]


def resolve(wanted: Wanted, form: Mapping[str, Any]) -> Header | None:
    """Finds each staged column's field: first accepted name wins, case as the contract says.

    Without a header line fields have the names that the source gives, or are called `column1`, `column2`, …;
    if no column asks for such a name and there are as many fields as columns, they are taken in the
    contract's order. None if nothing is known.
    """
    header: Sequence[str] | None = form.get("header")
    width = len(header) if header is not None else int(form.get("columns") or 0)
    if not width:
        return None
    given = form.get("names") or [f"column{i + 1}" for i in range(width)]
    names = [str(n) for n in (header if header is not None else given)]
    called = named(names)
    found = match(wanted, called)
    if header is None and all(f is None for f in found) and len(wanted.columns) == width:
        found = [*range(width), *([None] * (len(wanted.names) - width))]
    lines = 0 if header is None else 1 + sum(n.count("\n") for n in names)
    return Header(width, lines, names if header is not None else None, found, refused(wanted, called, found))


def named(names: Sequence[str]) -> list[str]:
    """A field without a name is called after its place.

    >>> named(["id", "", "name"])
    ['id', 'column2', 'name']
    """
    return [name if name.strip() else f"column{place + 1}" for place, name in enumerate(names)]


def match(wanted: Wanted, names: Sequence[str]) -> list[int | None]:
    exact = {name: i for i, name in reversed(list(enumerate(names)))}
    loose = {fold(name): i for i, name in reversed(list(enumerate(names)))}

    def field(accepted: Sequence[str]) -> int | None:
        for name in accepted:
            if name in exact:
                return exact[name]
            if wanted.case == "ignore" and fold(name) in loose:
                return loose[fold(name)]
        return None

    extras = [name for name in wanted.names if name not in wanted.columns]
    return [
        *(field(accepted or [c]) for c, accepted in wanted.columns.items()),
        *(field([e]) for e in extras),
    ]


def _reaches(wanted: Wanted, names: Sequence[str]) -> bool:
    """Whether a path of the contract leads into one of the fields."""
    roots = {name.partition(".")[0] for path in wanted.columns.values() for name in path if "." in name}
    return not roots.isdisjoint(names)


def _twice(wanted: Wanted, names: Sequence[str], found: Sequence[int | None]) -> bool:
    """Whether a field has the name of one that is read, so that its values would vanish."""
    alike = fold if wanted.case == "ignore" else str
    used = {f for f in found if f is not None}
    read = {alike(names[f]) for f in used}
    return any(alike(name) in read for place, name in enumerate(names) if place not in used)


def refused(wanted: Wanted, names: Sequence[str], found: Sequence[int | None]) -> str | None:
    own = found[: wanted.contract]
    if own and all(f is None for f in own) and not _reaches(wanted, names):
        return "header.no_column"
    if _twice(wanted, names, found):
        return "header.duplicate_column"
    if wanted.on_missing == "quarantine" and any(f is None for f in own):
        return "header.missing_column"
    if wanted.on_new == "quarantine":
        used = {f for f in found if f is not None}
        accepted = {fold(n) for c, names_ in wanted.columns.items() for n in (names_ or [c])} | {*CHANGE}
        unknown = (i for i, n in enumerate(names) if i not in used and fold(n) not in accepted)
        if next(unknown, None) is not None:
            return "header.unknown_column"
    return None
