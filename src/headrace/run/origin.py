"""What an epoch starts from where bronze is gone: a base that stands for it, or a refusal with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core import Landed, TableAt
from ..errors import ConfigError, Corrupt
from ..store.base import Base, Expired, expired, ways
from ..store.records import LandLog, Plan
from .portions import picked

if TYPE_CHECKING:
    from .refinery import Refinery

Objects = Sequence[tuple[str, tuple[int, Landed]]]
"""(source, (land epoch, object))."""
ADOPT = "accept it: `headrace plan --adopt {table}`"


@dataclass(frozen=True, slots=True)
class Origin:
    """The objects to read, and for a rebuild from a base each output's rows of the objects that are gone."""

    objects: Objects
    base: Base | None = None

    def at(self, output: str) -> TableAt | None:
        return self.base.at(output) if self.base else None


def chosen(lands: Mapping[str, LandLog], inputs: Mapping[str, tuple[int, int]]) -> Objects:
    """The objects of the ranges in bronze order, gone ones too, without versions that a newer replaced."""
    found: list[tuple[str, tuple[int, Landed]]] = []
    for source, (low, high) in inputs.items():
        newest = {item.name: (epoch, item) for epoch, item in lands[source].objects(low, high)}
        found += [(source, pair) for pair in sorted(newest.values(), key=lambda pair: pair[1].arrived)]
    return found


def origin(work: Refinery, plan: Plan) -> Origin:
    """All that `plan` reads; raises `ConfigError` if what it needs of bronze is gone and no base holds it."""
    objects = picked(work.lands, plan.only) if plan.only else chosen(work.lands, plan.inputs)
    if not plan.base:
        return Origin(objects)
    state = expired(work.storage, plan.base)
    base = state.bases.get(work.name)

    def lacks(source: str, epoch: int, item: Landed) -> bool:
        return state.lacks(work.lands[source].stream, epoch, item)

    left = [(source, (epoch, item)) for source, (epoch, item) in objects if not lacks(source, epoch, item)]
    covered = set(base.streams if base else ())
    lost = [
        (source, (epoch, item))
        for source, (epoch, item) in objects
        if lacks(source, epoch, item) and work.lands[source].stream not in covered
    ]
    if base and plan.mode == "rebuild" and not base.fits(plan.fingerprint):
        raise _changed(work, state)
    if lost:
        raise _lost(work, lost, left, known=bool(plan.prev))
    if plan.mode != "rebuild" and plan.prev and len(left) < len(objects):
        raise _replayed(work, state, len(objects) - len(left))
    if base is None or not base.objects or plan.mode != "rebuild":
        return Origin(left)
    if names := _replaced(work, state, base, left):
        raise _new_version(work, state, names)
    _check(work, base)
    return Origin(left, base)


def _check(work: Refinery, base: Base) -> None:
    for output in base.outputs.values():
        for file in output.files:
            if not file.path.is_file() or file.path.stat().st_size != file.bytes:
                raise Corrupt(
                    f"table `{work.name}`: {file.path} of its base is missing or not the size it had",
                    hint="restore it from a backup: bronze from which its rows came is gone",
                )


def _replaced(work: Refinery, state: Expired, base: Base, left: Objects) -> list[str]:
    """Names of which an older version is in the base: its rows cannot be taken out again."""
    older: dict[str, str] = {}
    for source, (epoch, newest) in left:
        land = work.lands[source]
        if land.stream not in state.gone or epoch <= base.accepts.get(land.stream, -1):
            continue
        older |= {
            item.key: newest.name
            for past, item in land.objects(-1, min(epoch - 1, state.gone[land.stream].upto))
            if item.name == newest.name and state.lacks(land.stream, past, item)
        }
    if not older:
        return []
    how = ways(work.storage, state.number)
    return sorted({name for key, name in older.items() if how.get(key) == "base"})


def _changed(work: Refinery, state: Expired) -> ConfigError:
    return ConfigError(
        f"table `{work.name}`: its settings changed, but bronze from which its oldest rows came is gone since"
        f" {state.time[:10]} (retention): they cannot be computed anew",
        hint="undo the change; or, if those rows may stay as they are and the change apply to the rest, "
        + ADOPT.format(table=work.name),
    )


def _lost(work: Refinery, lost: Objects, left: Objects, *, known: bool) -> ConfigError:
    first = min((item.arrived[:10] for _, (_, item) in left), default="the next file on")
    sources = ", ".join(f"`{name}`" for name in sorted({source for source, _ in lost}))
    told = f"{len(lost)} objects of {sources} are gone from bronze (retention); it begins with {first}"
    if known:
        return ConfigError(
            f"table `{work.name}` has no base that stands for them: {told}",
            hint="restore them from a backup, or define the table anew under another name",
        )
    return ConfigError(
        f"new table `{work.name}` cannot be filled from the beginning: {told}",
        hint="set `start: now`; or, to begin with what is left, " + ADOPT.format(table=work.name),
    )


def _replayed(work: Refinery, state: Expired, count: int) -> ConfigError:
    return ConfigError(
        f"table `{work.name}` was set back to before {count} objects that are gone from bronze since"
        f" {state.time[:10]} (retention): they cannot be refined one by one again",
        hint=f"`headrace run --rebuild {work.name}` computes the table from its base and all that is left",
    )


def _new_version(work: Refinery, state: Expired, names: Sequence[str]) -> ConfigError:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return ConfigError(
        f"table `{work.name}`: a new version of {names[0]}{more} has landed, but the old one is gone from"
        f" bronze since {state.time[:10]} (retention): its rows cannot be taken back",
        hint="if the new rows may be added to the old ones (equal keys are merged), let a run land it, then "
        + ADOPT.format(table=work.name),
    )
