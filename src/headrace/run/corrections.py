"""Corrections of quarantined rows: landed in bronze like any batch, and applied by the next refinement.

A correction is one object of the land stream `corrections.<table>`: a line of JSON for each row, with its
origin, all of its fields, which of them changed, the text as it came, and who, when and why. One exclusively
created record is its commit. Nothing else is written here: `headrace run` refines the rows like any others.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core import Landed, RawInput
from ..errors import ConfigError
from ..failpoints import reach
from ..spec.problem import suggest
from ..spec.project import Project
from ..sql import TableStep, compile_table
from ..sql.fix import MASK, BadRows, Fix, Proposal, Sample, compile_fix
from ..store.records import Done, LandLog, RefineLog, utc
from ..store.storage import LocalStorage, scratch_folder
from .corrected import corrections_of
from .opened import open_storage
from .parts import lands_of, refinery
from .refinery import Refinery
from .report import silent

BLOCK = 1 << 20
SCRATCH = ".corrections"
Rows = tuple[Sequence[str], Sequence[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Correction:
    """What was corrected, or would be: `number` is that of the landed correction, None if nothing landed."""

    table: str
    number: int | None = None
    chosen: int = 0
    rows: int = 0
    same: int = 0
    unparsed: int = 0
    still: Mapping[str, int] = field(default_factory=dict)
    """Rule → rows that break it also as corrected."""
    bad: int = 0
    """Rows that go to quarantine again."""
    sample: Sequence[Sample] = ()


@dataclass(frozen=True)
class _Bench:
    """One table with all that a correction needs."""

    work: Refinery
    step: TableStep
    log: LandLog
    bad: BadRows

    @property
    def engine(self) -> Any:
        return self.work.engine

    @property
    def private(self) -> list[str]:
        columns = self.step.spec.contract.columns
        return [name for name in self.step.inputs if name in columns and columns[name].pii]


def fix(
    project: Project,
    table: str,
    *,
    rule: str | None = None,
    where: str | None = None,
    sets: Sequence[str] = (),
    statement: str | None = None,
    reason: str = "",
    dry_run: bool = False,
) -> Correction:
    """Lands new values for quarantined rows that break `rule` and for which `where` holds.

    `sets` are `column = expression` over the fields as texts, `statement` is an update without its table. The
    same correction again is a no-op. Raises `ConfigError` where the SQL is wrong, `DataError` where it fails.
    """
    with _bench(project, table) as bench:
        compiled = compile_fix(bench.step, rule=rule, where=where, sets=sets, statement=statement)
        if not compiled.assign:
            raise ConfigError("nothing is set", hint='say what to change: `--set "column = expression"`')
        return _land(bench, compiled, compiled.text, reason, dry_run)


def replay(
    project: Project, table: str, *, rule: str | None = None, reason: str = "", dry_run: bool = False
) -> Correction:
    """Puts quarantined rows through refinement again as they are; what is bad for its text alone stays.

    For rows whose verdict depends on something else, such as a reference that has arrived since.
    """
    with _bench(project, table) as bench:
        return _land(bench, Fix(rule), "replay", reason, dry_run)


def fix_from(
    project: Project, table: str, file: Path, edits: Landed, *, reason: str = "", dry_run: bool = False
) -> Correction:
    """Lands what was edited in an export of quarantine; `edits` is the file as it was inspected.

    Raises `Refused`, with the line, for rows that are not in quarantine, there twice, or unreadable.
    """
    how = f"file {file.name} sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"
    with _bench(project, table) as bench:
        given = RawInput("edits", [(0, edits, file)])
        return _land(bench, Fix(text=how), how, reason, dry_run, given)


def export(project: Project, table: str, out: Path, *, rule: str | None = None, reveal: bool = False) -> int:
    """Writes quarantined rows to `out` for editing, and returns their number.

    Personal data is masked unless `reveal`; a value that comes back still showing the mask is left alone.
    """
    with _bench(project, table) as bench:
        try:
            found: int = bench.engine.export(
                bench.step, bench.bad, rule, out, [] if reveal else bench.private
            )
        except OSError as error:
            raise ConfigError(f"`{out}` cannot be written: {error}") from error
        return found


def fixes(project: Project, table: str) -> Rows:
    """Every correction of a table's rows: who, when, why, what, and how many of its rows still apply.

    Literals in those that name personal data are masked.
    """
    columns = ("number", "when", "who", "what", "why", "rows", "apply", "state")
    with _bench(project, table) as bench:
        live = {place: item.arrived for place, item in bench.bad.landed.items()}
        rows = bench.engine.history(bench.bad.earlier, live)
        private = re.compile("|".join(rf"\b{name}\b" for name in bench.private) or r"(?!)")
        return columns, [
            (
                *row[:3],
                re.sub(r"'(?:[^']|'')*'", f"'{MASK}'", row[3]) if private.search(row[3]) else row[3],
                *row[4:],
                "refined" if row[0] <= bench.bad.done else "waits for `headrace run`",
            )
            for row in rows
        ]


@contextmanager
def _bench(project: Project, table: str) -> Iterator[_Bench]:
    tables = project.config.tables
    if table not in tables:
        raise ConfigError(f"table `{table}` is not defined", hint=suggest(table, tables, "tables"))
    if not project.lake.exists():
        raise ConfigError(f"there is no lake at {project.lake} yet", hint="`headrace run` makes it")
    spec = tables[table]
    if spec.effective_mode == "replace":
        raise ConfigError(
            f"table `{table}` is replaced by each delivery: its rows are not corrected one by one",
            hint="correct the data where it comes from and deliver it again",
        )
    storage = open_storage(project)
    last = RefineLog(storage, table).last
    if last is None:
        raise ConfigError(f"table `{table}` has never been refined", hint="`headrace run` first")
    lands = lands_of(spec, lambda source: LandLog(storage, project.stream(source)))
    with (
        _scratch(project.lake) as scratch,
        refinery(project, table, storage, lands, scratch, silent) as work,
    ):
        yield _at_work(work, last)


def _at_work(work: Refinery, last: Done) -> _Bench:
    assert work.corrections is not None
    lands = work.lands.items()
    landed = {(source, item.name): item for source, land in lands for item in land.newest().values()}
    earlier = corrections_of(work) or RawInput(work.corrections.stream, [])
    quarantine = work.sink.table(f"quarantine.{work.name}").snapshot("").at
    step = compile_table(work.name, work.spec, last.evolved)
    return _Bench(work, step, work.corrections, BadRows(quarantine, earlier, last.corrections, landed))


def arrived(work: Refinery, last: Done, rule: str, reason: str, *, dry_run: bool = False) -> int:
    """Replays the rows in quarantine that broke `rule` and would pass all rules now; how many they are.

    Rows that would not pass stay where they are, and none goes that is under way already.
    """
    bench = _at_work(work, last)
    if bench.bad.quarantine.version < 0:
        return 0
    now, out = utc(), work.scratch / f"{uuid.uuid4().hex}.jsonl"
    note = {"by": "headrace", "at": now, "reason": reason, "how": "replay"}
    work.scratch.mkdir(parents=True, exist_ok=True)
    found: Proposal = bench.engine.propose(bench.step, bench.bad, Fix(rule), out, note, now=now)
    if not found.rows:
        return 0
    _, bad = _foreseen(bench, out, found.longest, now)
    good = found.rows - bad
    if good and not dry_run:
        passed = out.with_suffix(".passed.jsonl")
        bench.engine.passed(RawInput("corrections", [(0, _proposed(out, found.longest), out)]), passed)
        _commit(bench, passed, replace(found, rows=good), note)
    return good


@contextmanager
def _scratch(lake: Path) -> Iterator[Path]:
    """A folder in the lake, since rows may hold what must not lie about elsewhere."""
    top = lake / SCRATCH
    with scratch_folder(top) as folder:
        yield folder
    if top.exists() and not any(top.iterdir()):
        top.rmdir()


def _land(
    bench: _Bench, fix: Fix, how: str, reason: str, dry_run: bool, edits: RawInput | None = None
) -> Correction:
    now = utc()
    note = {"by": _who(), "at": now, "reason": reason, "how": how}
    out = bench.work.scratch / f"{uuid.uuid4().hex}.jsonl"
    found: Proposal = bench.engine.propose(
        bench.step, bench.bad, fix, out, note, edits=edits, private=bench.private, now=now
    )
    table = bench.work.name
    if not found.rows:
        return Correction(table, None, found.chosen, 0, found.same, found.unparsed)
    still, bad = _foreseen(bench, out, found.longest, now)
    number = None if dry_run else _commit(bench, out, found, note)
    return Correction(
        table, number, found.chosen, found.rows, found.same, found.unparsed, still, bad, found.sample
    )


def _proposed(out: Path, longest: int) -> Landed:
    """The file of corrections as if it had landed."""
    return Landed(out.name, out.name, out.stat().st_size, "", None, {"longest": longest})


def _foreseen(bench: _Bench, out: Path, longest: int, now: str) -> tuple[Mapping[str, int], int]:
    """The verdicts that the corrected rows would get, by the rules as they are."""
    work, step = bench.work, bench.step
    inputs: dict[str, Any] = {
        "raw": [],
        "corrections": RawInput("corrections", [(0, _proposed(out, longest), out)]),
        "quarantine": bench.bad.quarantine,
        "target": None,
    }
    for reference in step.references:
        inputs[f"ref:{reference.table}"] = work.sink.table(f"silver.{reference.table}").snapshot("").at
    outcome = work.engine.run(step, inputs, epoch=0, now=now)
    return outcome.by_rule, outcome.quarantined


def _commit(bench: _Bench, out: Path, found: Proposal, note: Mapping[str, str]) -> int:
    log, storage, writer = bench.log, bench.work.storage, uuid.uuid4().hex
    if log.epoch < 0:
        log.append(None, (), writer)
    kind = note["how"].partition(" ")[0]
    name = f"{uuid.uuid4().hex}.jsonl"
    key = f"bronze/{log.stream}/{datetime.now(UTC):year=%Y/month=%m/day=%d}/{name}"
    digest, size = hashlib.sha256(), out.stat().st_size

    def chunks() -> Iterator[bytes]:
        with out.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                yield block

    storage.write(key, chunks())
    storage.sync([key])
    reach("land.synced")
    cipher = storage.cipher if isinstance(storage, LocalStorage) else None
    form = {"type": "corrections", "kind": kind, "longest": found.longest}
    item = Landed(
        key, name, size, digest.hexdigest(), found.rows, form, {}, "", cipher.current if cipher else None
    )
    record = log.append(None, [item], writer)
    reach("land.record")
    return record.epoch


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
