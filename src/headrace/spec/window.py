"""A stream: windows of time over a silver table, each the exact function of the rows that fall into it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, model_validator

from .contract import Contract, Model, Names
from .problem import Problem, nearest, refuse, suggest

UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
UNITS |= {"d": 24 * UNITS["h"], "w": 7 * 24 * UNITS["h"]}
"""Microseconds."""
OVERLAPS = 1_000
"""Windows that one row may fall into."""
OWN = ("window_start", "window_end", "closed")
"""Columns that every windows table has, beside its own."""
_DURATION = re.compile(r"([1-9][0-9]*)(ms|s|m|h|d|w)")
Kind = Literal["tumbling", "sliding", "session"]


def microseconds(duration: str) -> int:
    """A duration as the definition writes it, in microseconds; `0s` is none.

    >>> microseconds("1m"), microseconds("90d"), microseconds("0s")
    (60000000, 7776000000000, 0)
    """
    match = _DURATION.fullmatch(duration)
    return int(match[1]) * UNITS[match[2]] if match else 0


def _text(value: Any) -> Any:
    """YAML reads a plain 0 as a number."""
    return "0s" if value == 0 and value is not False else value


Duration = Annotated[str, BeforeValidator(_text)]


class Window(Model):
    """Which windows a row falls into; one of `tumbling`, `sliding` and `session` says how they lie."""

    tumbling: Duration | None = None
    """Side by side, each this long, such as 1m; they begin at multiples of it since a Monday, UTC."""
    sliding: Duration | None = None
    """Each this long; a new one begins `every` so often."""
    every: Duration | None = None
    session: Duration | None = None
    """As long as rows of a group come less than this apart."""
    time: str
    """The column of the table that says when: a timestamp or date."""
    lateness: Duration = "0s"
    """How long after its end a window waits for rows before it counts as closed; rows are never refused."""

    @model_validator(mode="after")
    def _possible(self) -> Window:
        refuse(self._problems())
        return self

    def _problems(self) -> Iterator[Problem]:
        chosen = [name for name in ("tumbling", "sliding", "session") if getattr(self, name) is not None]
        if len(chosen) != 1:
            how = "none" if not chosen else " and ".join(f"`{name}`" for name in chosen)
            hint = "such as `{tumbling: 1m, time: ts}`, `{sliding: 10m, every: 1m, …}`, `{session: 30m, …}`"
            yield Problem((), f"a window is one of tumbling, sliding and session, not {how}", hint)
            return
        for name in ("tumbling", "sliding", "every", "session", "lateness"):
            value = getattr(self, name)
            if value is None or (name == "lateness" and value == "0s"):
                continue
            if not _DURATION.fullmatch(value):
                hint = "a number and ms, s, m, h, d or w, such as 30s or 1h"
                yield Problem((name,), f"{name} `{value}` is no duration", hint)
        if (self.sliding is None) != (self.every is None):
            hint = "such as `{sliding: 10m, every: 1m, time: …}`"
            yield Problem((), "`sliding` and `every` go together", hint)
        elif self.sliding and self.every and microseconds(self.sliding) and microseconds(self.every):
            size, step = microseconds(self.sliding), microseconds(self.every)
            if step > size:
                hint = "a row between two windows would be in none: make `every` at most `sliding`"
                yield Problem(("every",), f"every `{self.every}` is longer than `{self.sliding}`", hint)
            elif size > step * OVERLAPS:
                message = f"each row would fall into {-(-size // step):,} windows"
                yield Problem(("every",), message, f"at most {OVERLAPS:,}: make `every` longer")

    @property
    def kind(self) -> Kind:
        return "tumbling" if self.tumbling else "sliding" if self.sliding else "session"

    @property
    def size(self) -> int:
        """Length of a window, or the gap that ends a session, in microseconds."""
        return microseconds(self.tumbling or self.sliding or self.session or "")

    @property
    def waits(self) -> int:
        """The lateness in microseconds."""
        return microseconds(self.lateness)

    @property
    def step(self) -> int:
        """From the beginning of one window to that of the next, in microseconds."""
        return microseconds(self.every) if self.every else self.size


class StreamSpec(Model):
    """`silver.<name>`: one row for each window and group that has rows."""

    given: str = Field(alias="from")
    """A table of the pipeline."""
    window: Window
    group_by: Names = Field(default_factory=list)
    """Columns of the table; each combination of their values has windows of its own."""
    where: str | None = None
    """SQL over the table's columns: only rows for which it is true count."""
    select: dict[str, str] = Field(min_length=1)
    """Column → SQL over aggregates of the table's columns, such as `sum(amount)`."""
    to: Names = Field(default_factory=lambda: ["table"])
    """Targets that the windows are published to; `table` is `silver.<name>`, which there always is."""

    @property
    def keys(self) -> list[str]:
        """What identifies a window of a group."""
        return ["window_start", *self.group_by]


class Table(Protocol):
    """What a stream needs to know of the table that it is from."""

    @property
    def contract(self) -> Contract: ...


def stream_problems(
    name: str, stream: StreamSpec, tables: Mapping[str, Table], streams: Mapping[str, StreamSpec]
) -> Iterator[Problem]:
    """What does not fit between a stream and the tables; its SQL is checked by who compiles it."""
    if name in tables:
        yield Problem((), f"`{name}` is the name of a table, too", "give the stream a name of its own")
    elif name.endswith("_history") and name.removesuffix("_history") in tables:
        yield Problem((), f"`{name}` is the name of a table's history", "rename this stream")
    if stream.given not in tables:
        hint = suggest(stream.given, tables, "tables")
        if stream.given in streams:
            hint = "a stream is made from a table: gold may build on its windows"
        yield Problem(("from",), f"from: table `{stream.given}` is not defined", hint)
        return
    columns = tables[stream.given].contract.columns
    time = stream.window.time
    if time not in columns:
        message = f"time: `{time}` is not a column of `{stream.given}`"
        yield Problem(("window", "time"), message, suggest(time, columns, "columns"))
    elif columns[time].type not in ("timestamp", "date") or columns[time].mask:
        moments = [one for one, column in columns.items() if column.type in ("timestamp", "date")]
        message = f"time: column `{time}` is {columns[time].type}, which says no time"
        yield Problem(("window", "time"), message, suggest(time, moments, "timestamps and dates"))
    for place, column in enumerate(stream.group_by):
        if column not in columns:
            message = f"group_by: `{column}` is not a column of `{stream.given}`"
            yield Problem(("group_by", place), message, suggest(column, columns, "columns"))
        elif columns[column].type in ("json", "double"):
            message = f"group_by: column `{column}` is {columns[column].type}, which does not serve for that"
            yield Problem(("group_by", place), message, "name another column")
    yield from _names(stream)


def _names(stream: StreamSpec) -> Iterator[Problem]:
    """Columns of the windows table have one name each, and none of ours."""
    seen = {name: name for name in OWN}
    for what, names in (("group_by", stream.group_by), ("select", list(stream.select))):
        for place, name in enumerate(names):
            at = (what, place if what == "group_by" else name)
            if name.startswith("_") or not name:
                yield Problem(at, f"{what}: names that begin with `_` are ours", "call it otherwise")
            elif other := seen.get(name.lower()):
                clash = "ours" if other in OWN else "there already"
                yield Problem(at, f"{what}: column `{name}` is {clash}", "call it otherwise")
            seen[name.lower()] = name


def undefined(name: str, streams: Mapping[str, object], tables: Mapping[str, object]) -> str:
    """A hint for a name that is neither a table nor a stream."""
    known = [*tables, *streams]
    near = nearest(name, known)
    return (f"did you mean `{near}`? " if near else "") + f"tables and streams: {', '.join(known)}"
