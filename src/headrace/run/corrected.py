"""The land stream of a table's corrections, as its refinement reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core import RawInput
from ..store.records import Done, LandLog
from ..store.storage import Storage

if TYPE_CHECKING:
    from .refinery import Refinery


def corrections_log(storage: Storage, table: str) -> LandLog:
    """The commits of corrections of `table`'s bad rows."""
    return LandLog(storage, f"corrections.{table}")


def corrections_of(work: Refinery, between: tuple[int, int] | None = None) -> RawInput | None:
    """Corrections that landed in (from, to], checked against their hashes; without a range all of them."""
    land = work.corrections
    if land is None:
        return None
    low, high = between or (-1, land.epoch)
    found = [
        (epoch, item, work.storage.checked(item, work.scratch, fresh=item.key in land.fresh))
        for epoch, item in land.objects(low, high)
    ]
    return RawInput(land.stream, found) if found else None


def wait(land: LandLog | None, last: Done | None) -> bool:
    """True if corrections have landed that `last` has not seen; an empty commit (a sweep's) is none."""
    return land is not None and bool(land.objects(last.corrections if last else -1, land.epoch))


def pending(work: Refinery, last: Done | None) -> tuple[int, int]:
    """The range of corrections that `last` has not seen."""
    return (last.corrections if last else -1), (work.corrections.epoch if work.corrections else -1)


def whole_table(work: Refinery, last: Done | None) -> str | None:
    """Why corrections that wait need a rebuild; None if there are none, or they are of rows in quarantine.

    A row that is good already cannot be taken out of its tables by itself.
    """
    given = corrections_of(work, pending(work, last))
    if given is None:
        return None
    quarantine = work.sink.table(f"quarantine.{work.name}").snapshot("").at
    others = work.engine.strays(quarantine, given)
    return f"corrections of {others:,} rows that are not in quarantine" if others or last is None else None
