"""Portions of bronze that a table has passed over (`start: now`), as epochs of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core import Landed
from ..errors import ConfigError
from ..spec.pipeline import TableSpec
from ..store.records import LandLog, Plan, RefineLog
from .evolve import unknown_headers

if TYPE_CHECKING:
    from .refinery import Refinery

NextPlan = Callable[["Refinery", RefineLog, str | None], Plan | None]


def portion(work: Refinery, log: RefineLog, keys: Sequence[str], next_plan: NextPlan) -> Plan | None:
    """The epoch that refines the objects of `keys` and nothing else; None if all of them are refined.

    With `work.again` it refines also those that are, with the corrections that have been refined by then.
    Raises `ConfigError` where the table has to be computed anew: that takes all of bronze anyway.
    """
    last = log.last
    if last is None:
        raise ConfigError(f"table `{work.name}` has never been refined", hint="`headrace run` first")
    due = next_plan(work, log, None)
    if due and due.mode == "rebuild":
        raise ConfigError(
            f"table `{work.name}` is to be computed anew: {due.reason}",
            hint="`headrace run` does, from all of bronze: then there is nothing to backfill",
        )
    done, upto = refined(log)
    found = [
        (source, epoch, item)
        for source, (epoch, item) in picked(work.lands, keys)
        if work.again or (item.key not in done and epoch > upto.get(source, -1))
    ]
    plan = next_plan(work, log, "backfill")
    if not found or plan is None:
        return None
    evolved = list(last.evolved)
    for *_, item in found:
        evolved += unknown_headers(work.spec, item.format, evolved)
    return replace(
        plan,
        mode="increment",
        inputs={source: (last.inputs.get(source, -1),) * 2 for source in work.lands},
        evolved=evolved,
        corrections=(-1 if work.again else last.corrections, last.corrections),
        only=[item.key for *_, item in found],
        again=bool(work.again),
        reason=work.again or plan.reason,
    )


def again(spec: TableSpec, log: RefineLog, lands: Mapping[str, LandLog]) -> list[str] | None:
    """Keys of the objects that a rebuild reads where that is not all of bronze, without replaced versions.

    A table with `start: now` reads again what it has read, and what is new; one that each delivery replaces
    reads the newest delivery only.
    """
    last = log.last
    if last is None or (spec.start == "beginning" and spec.effective_mode != "replace"):
        return None
    fresh = [
        item
        for source, land in lands.items()
        for _, item in land.objects(last.inputs.get(source, -1), land.epoch)
    ]
    if spec.effective_mode == "replace":
        wanted = {item.key for item in fresh} or set(_delivered(log))
    else:
        wanted = {item.key for item in fresh} | refined(log)[0]
    newest = {item.key for land in lands.values() for item in land.newest().values()}
    return [item.key for _, (_, item) in picked(lands, [*wanted]) if {item.key, *item.was} & newest]


def _delivered(log: RefineLog) -> Mapping[str, int]:
    """Objects of the newest epoch that read any."""
    return next((done.files for done in reversed(log.done) if done.files), {})


def picked(lands: Mapping[str, LandLog], keys: Sequence[str]) -> list[tuple[str, tuple[int, Landed]]]:
    """(source, (land epoch, object)) of these objects, in bronze order."""
    wanted = set(keys)
    return [
        (source, (epoch, item))
        for source, land in lands.items()
        for epoch, item in land.objects(-1, land.epoch)
        if item.key in wanted
    ]


def refined(log: RefineLog) -> tuple[set[str], dict[str, int]]:
    """Keys of objects whose rows are in the table, and per source the epoch up to which all of them are."""
    keys: set[str] = set()
    epochs = [done.epoch for done in log.done]
    epoch = log.epoch
    while epoch:
        done = log.finished(epoch)
        if done.mode == "restore":
            epoch = log.planned(epoch).restores
            continue
        keys |= set(done.files)
        if done.mode == "rebuild":
            plan = log.planned(epoch)
            whole = not plan.only and all(low < 0 for low, _ in plan.inputs.values())
            return keys, dict(done.inputs) if whole else {}
        epoch = max((number for number in epochs if number < epoch), default=0)
    return keys, {}
