"""Bases: what objects of bronze contribute to a table, computed as a rebuild would and kept as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..core import Frame, Outcome, TableAt, Write, Written
from ..spec.pipeline import TableSpec
from ..sql import compile_table
from ..store.base import Base, expired, newest
from ..store.records import RefineLog, utc
from ..store.storage import sync_files
from .origin import Objects, chosen
from .refine import inputs_of, ledger_of, parts_of
from .refinery import Refinery


def covering(base: Base | None, fingerprint: str, spec: TableSpec, streams: Sequence[str]) -> Base:
    """`base`, or an empty one, that answers for `streams` too; nothing of them is in it yet."""
    if base is None or not base.objects:
        accepts = base.accepts if base else {}
        return Base(fingerprint, sorted(streams), spec.key_columns, spec.partition_by, {}, accepts)
    return replace(base, streams=sorted({*base.streams, *streams}))


def grown(
    work: Refinery, log: RefineLog, base: Base | None, objects: Objects, into: Path
) -> tuple[Base | None, set[str]]:
    """`base` with the rows of `objects` in it, durable; or None and the keys of objects that leave bad rows.

    Nothing that is there is changed: new files lie under `into`. Raises `Unbalanced` if a row is unaccounted
    for, and `Corrupt` if an object is not what landed.
    """
    last = log.last
    assert last is not None
    contract = work.spec.contract.model_copy(update={"expect": []})  # expectations are of the whole table
    step = compile_table(work.name, work.spec.model_copy(update={"contract": contract}), last.evolved)
    references = {
        reference.table: work.sink.table(f"silver.{reference.table}").snapshot("").at.version
        for reference in step.references
    }

    if work.spec.changes and (late := _behind(work, objects)):
        return None, late

    def run(some: Objects) -> Outcome:
        inputs = inputs_of(work, some, references, (-1, last.corrections))
        if work.spec.changes and base:  # what a change leaves out, and what a truncation reaches
            inputs["target"] = base.at(f"silver.{work.name}")
        return work.engine.run(step, inputs, epoch=last.epoch, now=utc())

    outcome = run(objects)
    if outcome.quarantined:
        # good once, bad now: a row that they refer to is gone, say
        bad = {pair[1].key for source, pair in objects if run([(source, pair)]).quarantined}
        return None, bad or {item.key for _, (_, item) in objects}
    known = covering(base, work.fingerprint, work.spec, [land.stream for land in work.lands.values()])
    outputs: dict[str, TableAt] = dict(known.outputs)
    written: list[Written] = []
    for write, frame in parts_of(step, outcome, "onto base")[1:]:
        outputs[write.table], done = _applied(work, known.at(write.table), write, frame, into / write.table)
        written.append(done)
    ledger_of(outcome, written[0]).check(work.name)
    new = [file.path for at in outputs.values() for file in at.files if file.path.is_relative_to(into)]
    sync_files(new, work.storage.root)
    return replace(known, outputs=outputs, objects=known.objects + len(objects)), set()


def _behind(work: Refinery, objects: Objects) -> set[str]:
    """Keys of objects that came after one that stays: a change may rest on the one before it."""
    state = expired(work.storage, newest(work.storage))
    going = {item.key for _, (_, item) in objects}
    every = chosen(work.lands, {source: (-1, land.epoch) for source, land in work.lands.items()})
    stay = [
        item.arrived
        for source, (epoch, item) in every
        if item.key not in going and not state.lacks(work.lands[source].stream, epoch, item)
    ]
    return {item.key for _, (_, item) in objects if stay and item.arrived > min(stay)}


def _applied(work: Refinery, at: TableAt, write: Write, frame: Frame, into: Path) -> tuple[TableAt, Written]:
    change = work.engine.rewrite(at, write, frame, into)
    going = {file.path for file in change.remove}
    files = [*(file for file in at.files if file.path not in going), *change.add]
    after = TableAt(write.table, at.version + 1, files, change.columns, tuple(write.partition_by))
    return after, change.written
