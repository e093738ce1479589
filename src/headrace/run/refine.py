"""The refine loop: a plan fixes the inputs, an engine computes, outputs commit in order, done is recorded.

Every epoch is a pure function of its plan. Killed anywhere, the next run either finishes the epoch under its
own plan (its first output has committed) or plans anew under a new number; no row is applied twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ..core import Commit, Frame, Input, Landed, Outcome, RawInput, TableAt, Write, Written
from ..errors import Corrupt, Fenced, Stopped
from ..failpoints import reach
from ..spec.pipeline import TableSpec
from ..sql import TableStep, compile_table
from ..store.base import newest
from ..store.forgotten import newest as erased
from ..store.hold import held
from ..store.records import Done, Plan, RefineLog, utc
from .corrected import corrections_of
from .origin import Objects, Origin, origin
from .planned import next_plan
from .portions import portion
from .refinery import CORRECTIONS, Refined, Refinery, TableWriter
from .report import Event, Ledger, TableReport
from .restored import resume
from .trail import check_heads, check_trail

Mode = Literal["increment", "rebuild", "onto base", "again"]
AGAIN = 3
"""How often one epoch is computed anew because maintenance has rewritten files that it was to change."""


def refine(work: Refinery, *, rebuild: str | None = None, only: Sequence[str] = ()) -> TableReport:
    """Refines what has landed since the last done epoch, exactly once; nothing new is a visible no-op.

    `rebuild`, a reason, computes the table anew from all of bronze; `only`, keys of older objects that it has
    passed over, takes these instead of new ones. Raises `Fenced` if another run is ahead,
    `Stopped` if a stop rule broke and `Unbalanced` if a row is unaccounted for; nothing is visible then.
    """
    started = time.monotonic()
    log = RefineLog(work.storage, work.name)
    writer = work.sink.open(work.outputs(work.spec), work.stream)
    verify(work, log, writer)
    doubt = next((plan for plan in log.open_plans() if plan.next == writer.epoch), None)
    if doubt and doubt.mode == "restore":
        resume(work.storage, doubt, log)
        return refine(work, rebuild=rebuild, only=only)
    if doubt:
        high = {source: to for source, (_, to) in doubt.inputs.items()}
        check_heads(work.streams, {**high, CORRECTIONS: doubt.corrections[1]}, doubt)
    hold = None if doubt else held(work.storage, work.name)
    planned = portion(work, log, only, next_plan) if only and not (doubt or hold) else None
    plan = None if hold else doubt or (planned if only else next_plan(work, log, rebuild))
    if plan is None:
        last = log.last
        snapshot = writer.snapshots[f"silver.{work.name}"]
        epoch = last.epoch if last else 0
        seconds = time.monotonic() - started
        return TableReport(
            work.name,
            epoch,
            snapshot.at.version,
            seconds=seconds,
            path=str(snapshot.path),
            noop=True,
            held=f"held since {hold['time'][:19]}Z: {hold['reason']}" if hold else "",
        )
    start = origin(work, plan)
    if doubt is None:
        log.plan(plan)
    reach("refine.planned")
    if doubt is None and newest(work.storage) != plan.base:
        # an expiry that comes now sees the plan and deletes nothing that it needs; this one did not
        raise Fenced(
            f"table `{work.name}`: bronze expired while epoch {plan.next} was planned", hint="run again"
        )
    if doubt is None and erased(work.storage) != plan.forgotten:
        raise Fenced(
            f"table `{work.name}`: a subject was erased while epoch {plan.next} was planned", hint="run again"
        )
    done, writer = _finished(work, plan, start, log, writer, finishing=doubt is not None)
    report = TableReport(
        work.name,
        done.epoch,
        done.outputs[f"silver.{work.name}"]["version"],
        Ledger(**done.ledger),
        done.by_rule,
        done.warned,
        done.checks,
        time.monotonic() - started,
        str(writer.snapshots[f"silver.{work.name}"].path),
        rebuilt=plan.reason if plan.mode == "rebuild" else None,
        told=done.told,
    )
    # its plan was another run's; what has landed since, or a rebuild asked for now, is not in it
    return report if doubt is None else report.then(refine(work, rebuild=rebuild))


def _finished(
    work: Refinery, plan: Plan, start: Origin, log: RefineLog, writer: TableWriter, *, finishing: bool
) -> tuple[Done, TableWriter]:
    """Executes the plan; if maintenance has moved a table in the meantime, again on top of that."""
    number = log.next_number()
    for left in range(AGAIN, -1, -1):
        try:
            return _execute(work, plan, start, log, writer, finishing=finishing), writer
        except Fenced:
            log.refresh()
            ahead = log.epoch != plan.prev or log.next_number() != plan.next + 1
            moved = work.sink.open(work.outputs(work.spec), work.stream)
            if ahead or not left or not maintained(writer, moved):
                raise
            verify(work, log, moved)
            writer, finishing = moved, moved.epoch == plan.next
        except Exception as error:
            log.refresh()
            if log.epoch == plan.prev and log.next_number() == number:
                raise
            # what failed may be a file that the other run has replaced since: that one decides, not the file
            raise Fenced(
                f"table `{work.name}`: another run has taken over from epoch {plan.next}: "
                f"{str(error).splitlines()[0]}",
                hint="nothing of this epoch was added by this run; run again",
            ) from error
    raise AssertionError("the last round returns or raises")


def maintained(before: TableWriter, now: TableWriter) -> bool:
    """Whether some table has a commit on top of what the writer saw that is no epoch of its stream."""
    for name, old in before.snapshots.items():
        new = now.snapshots[name]
        if new.txn == old.txn and new.at.version > old.at.version:
            return True
    return False


def verify(work: Refined, log: RefineLog, writer: TableWriter) -> None:
    """Refuses to go on over a foreign commit, a restored or replaced table, or a lost log entry."""
    epochs = {0 if log.last is None else log.last.epoch, *(plan.next for plan in log.open_plans())}
    for name, snapshot in writer.snapshots.items():
        known = (log.last.outputs if log.last else {}).get(name)
        hint = f"`headrace restore {work.name} --from-records` makes it what the last run had left"
        if known is None:
            if snapshot.at.version >= 0 and snapshot.txn not in epochs:
                raise Fenced(f"table `{name}` exists, but not from this lake's records", hint=hint)
            continue
        if snapshot.table_id != known["id"] or snapshot.at.version < known["version"]:
            raise Fenced(
                f"table `{name}` is not the one of epoch {log.epoch}: restored or replaced", hint=hint
            )
        if snapshot.txn not in epochs:
            raise Fenced(f"table `{name}` is at epoch {snapshot.txn}, the records at {log.epoch}", hint=hint)
        table = writer.tables[name]
        if table.digest(known["version"]) != known["log"]:
            raise Corrupt(
                f"table `{name}`: the log entry of version {known['version']} was changed", hint=hint
            )
        if others := table.foreign(known["version"], snapshot.at.version):
            raise Fenced(f"table `{name}`: version {others[0]} was committed by somebody else", hint=hint)
    check_trail(log, writer.tables, erased(work.storage))
    if last := log.last:
        for source, land in work.streams.items():
            if source in last.inputs and land.epoch < last.inputs[source]:
                land.refresh()  # another run has landed and refined more since this one looked
        check_heads(work.streams, {**last.inputs, CORRECTIONS: last.corrections}, last)


def _execute(
    work: Refinery, plan: Plan, start: Origin, log: RefineLog, writer: TableWriter, *, finishing: bool
) -> Done:
    spec = TableSpec.model_validate(plan.spec)
    step = compile_table(work.name, spec, plan.evolved)
    work.listener(Event(f"refine:{work.name}", "start", message=plan.reason))
    rebuild = plan.mode == "rebuild"
    silver = f"silver.{work.name}"
    inputs = inputs_of(work, start.objects, plan.references, plan.corrections)
    if plan.again:
        inputs["requarantine"] = writer.snapshots[f"quarantine.{work.name}"].at
    elif not rebuild and "corrections" in inputs:
        inputs["quarantine"] = writer.snapshots[f"quarantine.{work.name}"].at
    if spec.changes and not rebuild and log.last:
        # as the last epoch left it: this one's own output may have been committed before a crash
        name = f"quarantine.{work.name}"
        inputs["waiting"] = work.sink.table(name).at(log.last.outputs[name]["version"])
    # a rebuild knows nothing of the table that it replaces
    inputs["target"] = _existing(start.at(silver) if rebuild else writer.snapshots[silver].at)
    outcome = work.engine.run(step, inputs, epoch=plan.next, now=plan.now)
    reach("refine.computed")
    broken = [check for check in outcome.checks if not check.passed and check.severity == "stop"]
    if broken and not finishing:
        rules = "; ".join(f"{check.name}: {check.value}" for check in broken)
        raise Stopped(
            f"table `{work.name}`: {rules}",
            hint="nothing was written; fix the data or the expectation, then run again",
        )
    ledger = Ledger()

    def approve(written: Sequence[Written]) -> None:
        nonlocal ledger
        ledger = ledger_of(outcome, written[1])
        ledger.check(work.name)
        reach("refine.written")

    mode: Mode = (
        "onto base" if start.base else "rebuild" if rebuild else "again" if plan.again else "increment"
    )
    parts = parts_of(step, outcome, mode)
    bases = {write.table: start.base.at(write.table) for write, _ in parts[1:]} if start.base else {}
    results = writer.write(parts, Commit(work.stream, plan.prev, plan.next), approve, bases)
    reach("refine.outputs")
    done = Done(
        table=work.name,
        epoch=plan.next,
        fingerprint=plan.fingerprint,
        inputs={source: high for source, (_, high) in plan.inputs.items()},
        evolved=plan.evolved,
        outputs={item.table: identity(writer, item) for item in results},
        references=plan.references,
        ledger=asdict(ledger),
        by_rule=dict(outcome.by_rule),
        warned=dict(outcome.warned),
        checks=[asdict(check) for check in outcome.checks],
        now=plan.now,
        time=utc(),
        mode=plan.mode,
        files=dict(outcome.files),
        told=outcome.told,
        corrections=plan.corrections[1],
        forgotten=plan.forgotten,
        run_id=work.run_id,
        heads=plan.heads,
    )
    log.finish(done)
    reach("refine.done")
    return done


def inputs_of(
    work: Refinery,
    objects: Objects,
    references: Mapping[str, int],
    corrections: tuple[int, int] | None = None,
) -> dict[str, Input | Sequence[RawInput] | None]:
    """What the engine reads: objects and corrections, all checked by their hashes, and tables referred to."""
    files: dict[str, list[tuple[int, Landed, Path]]] = {source: [] for source in work.lands}
    for source, (epoch, item) in objects:
        fresh = item.key in work.lands[source].fresh
        files[source].append((epoch, item, work.storage.checked(item, work.scratch, fresh=fresh)))
    inputs: dict[str, Input | Sequence[RawInput] | None] = {
        "raw": [RawInput(source, found) for source, found in files.items()]
    }
    if given := corrections_of(work, corrections):
        inputs["corrections"] = given
    for name, version in references.items():
        inputs[f"ref:{name}"] = work.sink.table(f"silver.{name}").at(version)
    return inputs


def _existing(at: TableAt | None) -> TableAt | None:
    return at if at and at.version >= 0 else None


def parts_of(step: TableStep, outcome: Outcome, mode: Mode) -> list[tuple[Write, Frame]]:
    """What goes where, in commit order; a rebuild replaces all of it."""
    silver = f"silver.{step.table}"
    rebuild = mode == "rebuild"
    onto = step.mode if mode == "increment" else "merge" if step.keys else "append"
    deleted = "_deleted" if step.deletes else None
    adds = mode == "increment" and not outcome.corrected  # corrected rows leave quarantine
    parts = [
        (
            Write(f"quarantine.{step.table}", "append" if adds else "replace"),
            outcome.frames["quarantine"],
        ),
        (
            Write(
                silver,
                "replace" if rebuild else onto,
                step.keys,
                step.sequence,
                deleted,
                step.partition_by,
            ),
            outcome.frames["rows"],
        ),
    ]
    if step.history:
        order = step.sequence if step.spec.changes else ()
        write = Write(f"{silver}_history", "replace" if rebuild else "merge", step.versions, order)
        parts.append((write, outcome.frames["history"]))
    return parts


def ledger_of(outcome: Outcome, silver: Written) -> Ledger:
    return Ledger(
        read=outcome.read,
        inserted=silver.inserted,
        updated=silver.updated,
        unchanged=silver.unchanged,
        deleted=silver.deleted,
        deduplicated=outcome.deduplicated + silver.stale,
        quarantined=outcome.quarantined,
        filtered=outcome.filtered,
        late=outcome.late,
        corrected=outcome.corrected,
        superseded=outcome.superseded,
        truncated=outcome.truncated,
        removed=silver.removed,
    )


def identity(writer: TableWriter, written: Written) -> dict[str, Any]:
    """What tells later whether the table is still the one that was written."""
    table = writer.tables[written.table]
    return {
        "id": writer.snapshots[written.table].table_id,
        "version": written.version,
        "log": table.digest(written.version),
    }
