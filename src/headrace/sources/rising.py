"""A listing goes on where it stopped, where names come in rising order: a million keys are not listed again.

The position holds the key after which the next run lists. It stays 1,000 keys (one page) behind the last one,
for uploads that overtook one another, and before any file that has not landed yet; it moves only past what a
commit has made durable. A full listing comes first, and again after `relist` hours: it finds what came under
older names, and what has changed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..core import Position, Reading
from .listing import Entry

OVERLAP = 1000
_MOST = 50_000
"""Listed files that wait for one commit."""


@dataclass
class Mark:
    """The key before which everything has been dealt with."""

    after: str
    keys: deque[str] = field(default_factory=lambda: deque(maxlen=OVERLAP + 1))
    held: bool = False

    def passed(self, entry: Entry, ctx: Reading) -> None:
        self.held = self.held or (not entry.unfit and ctx.seen(entry.name) is None)
        if not self.held:
            self.keys.append(entry.key)
            if len(self.keys) > OVERLAP:
                self.after = self.keys[0]


@dataclass(frozen=True, slots=True)
class Limits:
    files: int
    """Of one commit, as `bytes`."""
    bytes: int
    relist: float
    """Hours from one full listing to the next."""


def batches(
    listed: Callable[[str], Iterable[Entry]],
    wanted: Callable[[Entry], bool],
    ctx: Reading,
    start: Position | None,
    limits: Limits,
) -> Iterator[tuple[list[Entry], Position]]:
    """(files to land, position) in the order of keys; resumed when they are durable."""
    began = int(time.time())
    before = dict(start or {})
    complete = before.get("listed")
    full = complete is not None and began - complete >= limits.relist * 3600
    mark = Mark("" if full else str(before.get("after", "")))
    if full or complete is None:
        complete, ends = before.get("listed"), began
    else:
        ends = complete

    def position(at: int | None) -> Position:
        place: dict[str, Any] = {"files": "ledger", "after": mark.after}
        return place if at is None else {**place, "listed": at}

    group: list[Entry] = []
    waiting: list[Entry] = []
    size = 0
    for entry in listed(mark.after):
        if wanted(entry):
            group.append(entry)
            size += entry.size
        if not group:
            mark.passed(entry, ctx)
            continue
        waiting.append(entry)
        if len(group) >= limits.files or size >= limits.bytes or len(waiting) >= _MOST:
            yield group, position(complete)
            for done in waiting:
                mark.passed(done, ctx)
            group, waiting, size = [], [], 0
    if group:
        yield group, position(complete)
        for done in waiting:
            mark.passed(done, ctx)
    if dict(last := position(ends)) != before:
        yield [], last
