"""Why a table differs between two epochs: other code, another configuration, or other input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ..spec.change import beside, changes
from ..spec.change_stream import stream_changes
from ..spec.pipeline import TableSpec
from ..store.records import Done, LandLog, Plan, RefineLog

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Cause:
    kind: Literal["code", "configuration", "input", "operation"]
    """`operation` is what somebody did to the table: a rebuild, a restore."""
    what: str
    details: tuple[str, ...] = ()


def causes(log: RefineLog, lands: Mapping[str, LandLog], before: Done | None, after: Done) -> list[Cause]:
    """All that differs between what the two epochs were computed from."""
    if before is None:
        return [Cause("input", "the table was not there before"), *_inputs(lands, {}, after)]
    first, last = log.planned(before.epoch), log.planned(after.epoch)
    found = [*_code(first, last), *_configuration(before, after, first, last)]
    found += _inputs(lands, before.inputs, after)
    found += _other_input(before, after)
    return [*found, *_operations(log, before, after)]


def stream_causes(log: RefineLog, before: Done | None, after: Done) -> list[Cause]:
    """The same for a stream, whose input is its table."""
    ((table, version),) = after.inputs.items()
    if before is None:
        return [
            Cause("input", "the windows were not there before"),
            Cause("input", f"{table} version {version}"),
        ]
    first, last = log.planned(before.epoch), log.planned(after.epoch)
    found = [
        Cause("code", f"{name} {first.engine.get(name, 'none')} → {last.engine.get(name, 'none')}")
        for name in sorted({*first.engine, *last.engine})
        if first.engine.get(name) != last.engine.get(name)
    ]
    if told := stream_changes(first.spec, last.spec):
        found.append(
            Cause("configuration", "the stream's definition changed", tuple(str(item) for item in told))
        )
    if before.inputs != after.inputs:
        was = before.inputs.get(table, -1)
        found.append(Cause("input", f"{table}: version {was} → {version}"))
    return [*found, *_operations(log, before, after)]


def _code(first: Plan, last: Plan) -> Iterator[Cause]:
    for name in sorted({*first.engine, *last.engine}):
        old, new = first.engine.get(name, "none"), last.engine.get(name, "none")
        if old != new and name == "steps":
            specs = (TableSpec.model_validate(plan.spec) for plan in (first, last))
            if other := beside(*specs):
                yield Cause("code" if other.what == "steps" else "configuration", other.how)
        elif old != new:
            yield Cause("code", f"{name} {old} → {new}")


def _configuration(before: Done, after: Done, first: Plan, last: Plan) -> Iterator[Cause]:
    if before.fingerprint == after.fingerprint:
        return
    old, new = TableSpec.model_validate(first.spec), TableSpec.model_validate(last.spec)
    if found := changes(old, new, first.evolved):
        yield Cause("configuration", "the table's definition changed", tuple(str(item) for item in found))


def _inputs(lands: Mapping[str, LandLog], refined: Mapping[str, int], after: Done) -> Iterator[Cause]:
    for source, high in after.inputs.items():
        low = refined.get(source, -1)
        if source not in lands:
            if high != low:
                yield Cause(
                    "input", f"source {source}, which is not defined any more: commits {low} → {high}"
                )
            continue
        back, span = high < low, (min(low, high), max(low, high))
        items = [item for _, item in lands[source].objects(*span)]
        old = {item.name for _, item in lands[source].objects(-1, span[0])}
        if items:
            verb = "taken back" if back else "landed"
            names = [f"{item.name} (new version)" if item.name in old else item.name for item in items]
            more = [f"and {len(names) - SHOWN:,} more"] if len(names) > SHOWN else []
            files = "1 file" if len(items) == 1 else f"{len(items):,} files"
            yield Cause("input", f"source {source}: {files} {verb}", (*names[:SHOWN], *more))
    for source in sorted(set(refined) - set(after.inputs)):
        yield Cause("input", f"source {source} does not feed the table any more")


def _other_input(before: Done, after: Done) -> Iterator[Cause]:
    if max(before.corrections, 0) != max(after.corrections, 0):
        yield Cause("input", f"corrections {max(before.corrections, 0)} → {max(after.corrections, 0)}")
    for table in sorted({*before.references, *after.references}):
        old, new = before.references.get(table, -1), after.references.get(table, -1)
        if old != new:
            yield Cause("input", f"silver.{table}, which is referred to: version {old} → {new}")


def _operations(log: RefineLog, before: Done, after: Done) -> Iterator[Cause]:
    low, high = sorted((before.epoch, after.epoch))
    for done in log.done:
        if low < done.epoch <= high and done.mode != "increment":
            yield Cause(
                "operation", f"epoch {done.epoch} was a {done.mode}: {log.planned(done.epoch).reason}"
            )
