"""What an epoch will read, and about how long that takes, judged by the epochs before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from ..core import Landed
from ..store.records import Done, LandLog, RefineLog
from .origin import Objects

EPOCHS = 20
"""How many of the latest epochs tell the speed."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of bronze that is to be read; None where it cannot be told."""

    files: int = 0
    bytes: int = 0
    rows: int | None = 0
    """Records; of files that were never refined estimated from their bytes."""
    seconds: float | None = None
    rate: float | None = None
    """Rows per second of the largest of the latest epochs."""


def cost(objects: Objects, log: RefineLog, lands: Mapping[str, LandLog]) -> Cost:
    """The cost of refining `objects` into the table of `log`."""
    items = [item for _, (_, item) in objects]
    past = log.done
    found = Cost(len(items), sum(item.bytes for item in items), _rows(items, past, lands))
    return _timed(found, past[-EPOCHS:])


def _rows(items: list[Landed], past: list[Done], lands: Mapping[str, LandLog]) -> int | None:
    counted = {key: count for done in past for key, count in done.files.items()}
    known = {item.key: counted.get(item.key, item.rows) for item in items}
    rows = sum(count for count in known.values() if count is not None)
    guessed = sum(item.bytes for item in items if known[item.key] is None)
    if not guessed:
        return rows
    read = [
        item for land in lands.values() for _, item in land.objects(-1, land.epoch) if item.key in counted
    ]
    size = sum(item.bytes for item in read)
    if not size:
        return None
    return rows + round(guessed * sum(counted[item.key] for item in read) / size)


def _timed(found: Cost, past: list[Done]) -> Cost:
    speeds = [(done.ledger.get("read", 0), _seconds(done)) for done in past]
    speeds = [(read, seconds) for read, seconds in speeds if read and seconds > 0]
    if not speeds or found.rows is None:
        return found
    read, seconds = max(speeds)
    least = min(seconds for _, seconds in speeds)  # what even the smallest epoch takes
    rate = read / seconds
    return replace(found, seconds=round(max(least, found.rows / rate), 1), rate=round(rate))


def _seconds(done: Done) -> float:
    """From its plan to its record: of an epoch that another run finished later, too much."""
    return (datetime.fromisoformat(done.time) - datetime.fromisoformat(done.now)).total_seconds()
