"""A stream's epochs: a plan fixes two versions of its table, the engine computes, one output commits, done.

The windows of a done epoch are the exact function of the table at the later version. All that an epoch needs
lies in the lake: there is no state beside it that could be lost, or be older than the rows.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import __version__
from ..core import Commit, Engine, Following, TableAt, Write, Written
from ..errors import Corrupt, Fenced
from ..failpoints import reach
from ..spec.pipeline import TableSpec
from ..spec.project import Project
from ..spec.window import StreamSpec
from ..sql.windows import WindowStep, compile_stream
from ..store.delta import Table
from ..store.forgotten import newest as erased
from ..store.hold import held
from ..store.records import Done, LandLog, Plan, RefineLog, utc
from ..store.storage import LocalStorage
from .parts import part
from .refine import AGAIN, identity, maintained, verify
from .refinery import TableSink, TableWriter
from .report import Event, Ledger, Listener, TableReport
from .restored import resume

GONE = "_gone"


@dataclass(frozen=True)
class Windowing:
    """One stream and all that its refinement needs. `table` is the one that it is from."""

    name: str
    spec: StreamSpec
    table: TableSpec
    storage: LocalStorage
    engine: Engine
    sink: TableSink
    scratch: Path
    listener: Listener
    versions: Mapping[str, str] = field(default_factory=dict)
    run_id: str = ""

    @property
    def streams(self) -> dict[str, LandLog]:
        """It reads no land stream."""
        return {}

    @property
    def stream(self) -> str:
        return f"headrace:{self.name}"

    @property
    def output(self) -> str:
        return f"silver.{self.name}"

    @property
    def source(self) -> str:
        return f"silver.{self.spec.given}"

    @cached_property
    def definition(self) -> dict[str, Any]:
        """All that shapes the windows: the stream, the columns that it reads, and which rows readers see."""
        return definition_of(self.name, self.spec, self.table)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.definition)


def definition_of(name: str, spec: StreamSpec, table: TableSpec) -> dict[str, Any]:
    columns = {column: item.type for column, item in table.contract.columns.items()}
    step = compile_stream(name, spec, columns)
    soft = table.changes is not None and table.changes.deletes == "soft"
    return {
        "stream": spec.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "columns": {column: columns[column] for column in step.read},
        "soft": table.keys[0] if soft else "",
    }


def fingerprint_of(definition: Mapping[str, Any]) -> str:
    """Equal for definitions that give equal windows: where it differs they are computed anew."""
    kept = {
        **definition,
        "stream": {key: value for key, value in definition["stream"].items() if key != "to"},
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


@contextmanager
def windowing(
    project: Project, name: str, storage: LocalStorage, scratch: Path, listener: Listener
) -> Iterator[Windowing]:
    """Stream `name` with an engine of its own, which is closed when the block ends."""
    config = project.config
    spec = config.streams[name]
    shares = min(config.parallel, len(config.tables) + len(config.streams))
    with part("engines", "duckdb")(scratch, config.memory, shares=shares) as engine:
        sink = part("sinks", "delta")(project.lake, engine)
        versions = {"headrace": __version__, **engine.versions}
        yield Windowing(
            name, spec, config.tables[spec.given], storage, engine, sink, scratch, listener, versions
        )


def refine_windows(work: Windowing, *, rebuild: str | None = None) -> TableReport:
    """Brings the windows to what their table is now, exactly once; a table that has not moved is a no-op.

    `rebuild`, a reason, computes all of them anew. Raises `Fenced` if another run is ahead, `DataError` if a
    calculation fails and `Unbalanced` if a window is unaccounted for; nothing is visible then.
    """
    started = time.monotonic()
    log = RefineLog(work.storage, work.name)
    writer = work.sink.open([work.output], work.stream)
    verify(work, log, writer)
    doubt = next((plan for plan in log.open_plans() if plan.next == writer.epoch), None)
    if doubt and doubt.mode == "restore":
        resume(work.storage, doubt, log)
        return refine_windows(work, rebuild=rebuild)
    hold = None if doubt else held(work.storage, work.name)
    plan = None if hold else doubt or next_windows(work, log, rebuild)
    if plan is None:
        snapshot = writer.snapshots[work.output]
        return TableReport(
            work.name,
            log.epoch,
            snapshot.at.version,
            seconds=time.monotonic() - started,
            path=str(snapshot.path),
            noop=True,
            held=f"held since {hold['time'][:19]}Z: {hold['reason']}" if hold else "",
            windows=work.spec.given,
        )
    if doubt is None:
        log.plan(plan)
    reach("refine.planned")
    if doubt is None and erased(work.storage) != plan.forgotten:
        raise Fenced(
            f"stream `{work.name}`: a subject was erased while epoch {plan.next} was planned",
            hint="run again",
        )
    done, writer = _finished(work, plan, log, writer, finishing=doubt is not None)
    report = TableReport(
        work.name,
        done.epoch,
        done.outputs[work.output]["version"],
        Ledger(**done.ledger),
        warned=done.warned,
        seconds=time.monotonic() - started,
        path=str(writer.snapshots[work.output].path),
        rebuilt=plan.reason if plan.mode == "rebuild" else None,
        windows=work.spec.given,
        late=done.late,
    )
    return report if doubt is None else report.then(refine_windows(work, rebuild=rebuild))


def next_windows(work: Windowing, log: RefineLog, rebuild: str | None) -> Plan | None:
    """The next epoch as it would be planned now, or None if there is nothing to do."""
    source = RefineLog(work.storage, work.spec.given).last
    if source is None:
        return None
    last, known = log.last, source.outputs[work.source]
    table = work.sink.table(work.source)
    reason = rebuild or (_whole(work, last, table) if last else None)
    high = int(known["version"])
    low = -1 if last is None or reason else int(last.inputs[work.source])
    if low == high or (low >= 0 and _files(table.at(low)) == _files(table.at(high))):
        return None
    if table.digest(high) != known["log"]:
        raise Corrupt(
            f"table `{work.source}`: the log entry of version {high} was changed",
            hint="restore that file of its _delta_log from a backup; nothing was written",
        )
    return Plan(
        table=work.name,
        prev=log.epoch,
        next=log.next_number(),
        mode="rebuild" if reason else "increment",
        inputs={work.source: (low, high)},
        references={work.spec.given: high},
        spec=work.definition,
        fingerprint=work.fingerprint,
        evolved=[],
        engine=dict(work.versions),
        now=utc(),
        reason=reason or f"{work.source} moved to version {high}",
        writer=uuid.uuid4().hex,
        forgotten=erased(work.storage),
        heads={work.source: f"{known['id']}:{known['log']}"},
    )


def _whole(work: Windowing, last: Done, table: Table) -> str | None:
    """Why windows cannot be told from what has changed, if so."""
    if last.fingerprint != work.fingerprint:
        changed = "the stream's definition changed"
        return changed if last.fingerprint else "its files were lost or damaged"
    if last.forgotten < erased(work.storage):
        return "a subject was erased from its table"
    if work.source not in last.inputs:
        return f"it was not from {work.source}"
    version = int(last.inputs[work.source])
    if not table.has(version) or last.heads[work.source] != (
        f"{table.snapshot('').table_id}:{table.digest(version)}"
    ):
        return f"{work.source} is another table than it was"
    if not all(file.path.is_file() for file in table.at(version).files):
        return f"files of version {version} of {work.source} are gone (vacuum)"
    return None


def _files(at: TableAt) -> set[Path]:
    return {file.path for file in at.files}


def step_of(plan: Plan) -> WindowStep:
    """The stream as the plan has it."""
    return compile_stream(plan.table, StreamSpec.model_validate(plan.spec["stream"]), plan.spec["columns"])


def _finished(
    work: Windowing, plan: Plan, log: RefineLog, writer: TableWriter, *, finishing: bool
) -> tuple[Done, TableWriter]:
    """Executes the plan; if maintenance has moved the windows in the meantime, again on top of that."""
    for left in range(AGAIN, -1, -1):
        try:
            return _execute(work, plan, log, writer, finishing=finishing), writer
        except Fenced:
            log.refresh()
            ahead = log.epoch != plan.prev or log.next_number() != plan.next + 1
            moved = work.sink.open([work.output], work.stream)
            if ahead or not left or not maintained(writer, moved):
                raise
            verify(work, log, moved)
            writer, finishing = moved, moved.epoch == plan.next
    raise AssertionError("the last round returns or raises")


def _execute(work: Windowing, plan: Plan, log: RefineLog, writer: TableWriter, *, finishing: bool) -> Done:
    work.listener(Event(f"refine:{work.name}", "start", message=plan.reason))
    step = step_of(plan)
    source = f"silver.{step.spec.given}"
    low, high = plan.inputs[source]
    table = work.sink.table(source)
    before = _seen(table.at(low), plan) if low >= 0 else None
    target = writer.snapshots[work.output].at
    if finishing:  # its output is there already: what it was computed on is the version below
        own = work.sink.table(work.output)
        target = own.at(own.applied(work.stream, plan.next, target.version)[0] - 1)
    if target.version < 0:
        before = None
    outcome = work.engine.windows(step, (before, _seen(table.at(high), plan)), target, plan.next)
    reach("refine.computed")
    ledger = Ledger()

    def approve(written: Sequence[Written]) -> None:
        nonlocal ledger
        (one,) = written
        ledger = Ledger(
            outcome.read, one.inserted, one.updated, one.unchanged, one.deleted, removed=one.removed
        )
        ledger.check(work.name)
        reach("refine.written")

    write = Write(work.output, "merge" if before else "replace", step.spec.keys, delete_when=GONE, purge=True)
    commit = Commit(work.stream, plan.prev, plan.next)
    results = writer.write([(write, outcome.frames["windows"])], commit, approve)
    reach("refine.outputs")
    done = Done(
        table=work.name,
        epoch=plan.next,
        fingerprint=plan.fingerprint,
        inputs={source: high},
        evolved=[],
        outputs={item.table: identity(writer, item) for item in results},
        references=plan.references,
        ledger=asdict(ledger),
        by_rule={},
        warned=dict(outcome.warned),
        checks=[],
        now=plan.now,
        time=utc(),
        mode=plan.mode,
        forgotten=plan.forgotten,
        run_id=work.run_id,
        heads=plan.heads,
        late=outcome.late,
    )
    log.finish(done)
    reach("refine.done")
    return done


def _seen(at: TableAt, plan: Plan) -> TableAt:
    """The table as its readers see it."""
    soft = plan.spec["soft"]
    return replace(at, following=Following([soft], (), soft=True)) if soft else at
