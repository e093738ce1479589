"""What a table's next epoch will be made of: the range of bronze, the versions read, and why."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from ..store.base import newest
from ..store.records import Plan, RefineLog, utc
from .corrected import pending, wait, whole_table
from .evolve import unknown_headers
from .origin import chosen
from .portions import again, picked
from .refinery import CORRECTIONS, Refinery
from .trail import heads_of


def next_plan(work: Refinery, log: RefineLog, rebuild: str | None) -> Plan | None:
    """The next epoch as it would be planned now, or None if there is nothing to do."""
    last = log.last
    heads = {source: land.epoch for source, land in work.lands.items()}
    done = dict(last.inputs) if last else dict.fromkeys(heads, -1)
    if last is None and work.spec.start == "now":
        done = dict(heads)
    reason = rebuild
    if last and last.fingerprint != work.fingerprint:
        changed = "the contract or table settings changed"
        reason = reason or (changed if last.fingerprint else "its files were lost or damaged")
    if last and not reason and work.spec.effective_mode != "replace" and (names := _replaced(work, done)):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        reason = f"a new version of {names[0]}{more}"
    if last and last.forgotten < forgotten_of(work):
        reason = reason or "a subject was erased from bronze"
    since, fixed = pending(work, last)
    reason = reason or whole_table(work, last)
    fresh = any(work.lands[source].objects(done.get(source, -1), head) for source, head in heads.items())
    fixes = wait(work.corrections, last)
    if not fresh and not fixes and not reason and (last or work.spec.start == "beginning"):
        return None
    base = {source: -1 if reason else done.get(source, -1) for source in heads}
    inputs = {source: (base[source], head) for source, head in heads.items()}
    only: Sequence[str] = ()
    if reason and last and (kept := again(work.spec, log, work.lands)) is not None:
        only = kept
        inputs = inputs if only else {source: (head, head) for source, head in heads.items()}
    evolved = [] if reason or last is None else list(last.evolved)
    for _, (_, item) in picked(work.lands, only) if only else chosen(work.lands, inputs):
        evolved += unknown_headers(work.spec, item.format, evolved)
    tables = {
        spec.references.partition(".")[0] for spec in work.spec.contract.columns.values() if spec.references
    }
    return Plan(
        table=work.name,
        prev=log.epoch,
        next=log.next_number(),
        mode="rebuild" if reason else "increment",
        inputs=inputs,
        references={
            name: work.sink.table(f"silver.{name}").snapshot("").at.version for name in sorted(tables)
        },
        spec=work.spec.model_dump(mode="json", by_alias=True),
        fingerprint=work.fingerprint,
        evolved=evolved,
        engine=dict(work.versions),
        now=utc(),
        reason=reason or ("new objects" if fresh or not fixes else "corrections"),
        writer=uuid.uuid4().hex,
        corrections=(-1 if reason else since, fixed),
        base=newest(work.storage),
        forgotten=forgotten_of(work),
        heads=heads_of(work.streams, {**heads, CORRECTIONS: fixed}),
        only=only,
    )


def forgotten_of(work: Refinery) -> int:
    """The newest erasure that all logs of this table know of."""
    return min(land.forgotten for land in [*work.lands.values(), *filter(None, [work.corrections])])


def _replaced(work: Refinery, done: Mapping[str, int]) -> list[str]:
    """Names already refined of which a newer version has landed since."""
    found = []
    for source, land in work.lands.items():
        old = {item.name for _, item in land.objects(-1, done.get(source, -1))}
        found += [item.name for _, item in land.objects(done.get(source, -1), land.epoch) if item.name in old]
    return found
