"""Where trials happen: a replica, its lake before and after a clean run, and processes that may be hurt."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import failpoints
from ...errors import ConfigError, HeadraceError
from ...gold.pins import pin, pinned
from ...run.golden import gold_file
from ...spec.project import Project
from ..mutant import LAKE, SHADOW, TRACE, VARIABLE
from .content import Content, contents, differences, ledgers, unbalanced
from .replica import Replica, replicate

OK, INCOMPLETE, STOPPED = 0, 3, 4
Outcome = tuple[str, list[str]]
"""Of one trial: what was done, and what was wrong then."""
CANNOT = "a table cannot be read"
GRACE = 60.0
"""Seconds that any run may take, however short the clean one was."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended. A negative code is the signal that ended it."""

    code: int
    report: Mapping[str, Any] | None
    err: str
    seconds: float

    def __str__(self) -> str:
        last = self.err.strip().splitlines()[-1:] or ["no message"]
        return f"exit code {self.code} ({last[0][:300]})"


@dataclass
class Running:
    """A process of ours, and where it writes."""

    process: subprocess.Popen[bytes]
    out: Path
    started: float

    def stop(self) -> bool:
        """Pauses it; False if it has ended before."""
        self.process.send_signal(signal.SIGSTOP)
        return self.paused(5)

    def paused(self, seconds: float) -> bool:
        """True once it has stopped (SIGSTOP, by whoever); False if it ends or the time is over."""
        end = time.monotonic() + seconds
        while self.process.returncode is None and time.monotonic() < end:
            pid, status = os.waitpid(self.process.pid, os.WUNTRACED | os.WNOHANG)
            if pid and os.WIFSTOPPED(status):
                return True
            if pid:
                self.process.returncode = os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return False

    def resume(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()

    def end(self, seconds: float) -> Ended:
        """Waits for it; one that takes longer is killed, and says so."""
        late = ""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            late = f"no end after {seconds:.0f} s: killed"
            self.process.kill()
            self.process.wait()
        took = time.monotonic() - self.started
        err = self.out.with_suffix(".err").read_text(errors="replace") + late
        return Ended(self.process.returncode or 0, report_of(self.out.read_text()), err, took)


@dataclass
class Lab:
    """A replica with what a clean run makes of it; each trial starts over from the lake `before`."""

    replica: Replica
    project: Project
    scratch: Path
    before: Path
    """The lake once a part of the inputs had been taken in."""
    code: int = OK
    """The exit code of the clean run."""
    length: float = 0.0
    """Seconds of a clean run."""
    wanted: dict[str, Content] = field(default_factory=dict)
    ledgers: dict[str, dict[str, int]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    """Columns of gold that differ between two clean runs."""
    size: tuple[int, int] = (0, 0)
    """Bytes on disk of the lake before and after a clean run."""
    places: Counter[str] = field(default_factory=Counter)
    """How often a clean run reaches each failpoint."""
    chosen: tuple[str, ...] = failpoints.PLACES
    """The failpoints to try."""
    mutants: tuple[str, ...] = ()
    runs: int = 0
    _live: list[Running] = field(default_factory=list)

    @property
    def lake(self) -> Path:
        return self.replica.lake

    @property
    def patience(self) -> float:
        return max(GRACE, 20 * self.length)

    def fresh(self) -> None:
        """The lake is as it was before the clean run, for a new trial."""
        shutil.rmtree(self.lake, ignore_errors=True)
        copy_lake(self.before, self.lake)
        self.keep_pins()

    def keep_pins(self) -> None:
        """The note of what gold was built from names an inode; a copied file has another one."""
        here = gold_file(self.project)
        known = pinned(self.before / here.relative_to(self.lake)) if here.exists() else None
        if known:
            pin(here, known)

    def start(self, fail: str = "", alter: Sequence[str] = (), **variables: str) -> Running:
        """Starts `headrace run` on the replica, as the user would, with failpoints and alterations."""
        self.runs += 1
        out = self.scratch / f"run-{self.runs}.out"
        environment = {
            **os.environ,
            "HEADRACE_FAILPOINTS": fail,
            "HEADRACE_ENV": self.replica.env,
            **variables,
        }
        environment.pop(VARIABLE, None)
        with out.open("wb") as stdout, out.with_suffix(".err").open("wb") as stderr:
            process = subprocess.Popen(
                self.command(alter), cwd=self.replica.root, env=environment, stdout=stdout, stderr=stderr
            )
        running = Running(process, out, time.monotonic())
        self._live.append(running)
        return running

    def command(self, alter: Sequence[str] = ()) -> list[str]:
        altered = [*alter, *self.mutants]
        wrapper = [".testing.mutant", ",".join(altered), "--"] if altered else [""]
        head = [sys.executable, "-m", f"headrace{wrapper[0]}", *wrapper[1:]]
        return [*head, "run", str(self.replica.file), "--json"]

    def run(self, fail: str = "", alter: Sequence[str] = (), **variables: str) -> Ended:
        return self.start(fail, alter, **variables).end(self.patience)

    def judge(self, ended: Ended) -> list[str]:
        """What is wrong with how a run ended: no clear error, or an exit code that lies."""
        problems = []
        if "Traceback (most recent call last)" in ended.err:
            problems.append(f"a traceback instead of a clear error: {ended}")
        if ended.code > 0 and not (ended.err.strip() or ended.report):
            problems.append(f"exit code {ended.code} without a word")
        if ended.code == OK:
            found = self.compare()
            problems += [f"exit code 0, but {problem}" for problem in found]
        return problems

    def compare(self) -> list[str]:
        """How the lake differs from the clean run's; none if it does not."""
        try:
            return differences(contents(self.project, self.ignored), self.wanted)
        except (HeadraceError, OSError) as error:
            return [f"{str(error).splitlines()[0]}: {CANNOT}"]
        except Exception as error:  # DuckDB's own, which the product's packages keep to themselves
            return [f"{type(error).__name__}: {str(error).splitlines()[0]}: {CANNOT}"]

    def readable(self) -> list[str]:
        """What a reader who comes now cannot read; what he can may be of any moment."""
        return [problem for problem in self.compare() if problem.endswith(CANNOT)]

    def recover(self) -> list[str]:
        """Runs once more, undisturbed: what is wrong then with the exit code, tables, ledgers or scratch."""
        ended = self.run()
        if ended.code != self.code:
            return [f"the next run does not complete: {_why(ended)}"]
        problems = self.compare()
        try:
            problems += unbalanced(self.project, contents(self.project, self.ignored))
            for name, total in ledgers(self.project).items():
                wanted = self.ledgers[name].get("read", 0)
                if total.get("read", 0) != wanted:
                    problems.append(f"{name}: {total.get('read', 0):,} rows were read, {wanted:,} have come")
        except HeadraceError as error:
            problems.append(f"the records cannot be read: {str(error).splitlines()[0]}")
        left = [path.name for path in (self.lake / ".scratch").glob("*")]
        return problems + ([f"{len(left)} scratch folders are left"] if left else [])

    def close(self) -> None:
        """Ends every process that is still there, also paused ones."""
        for running in self._live:
            running.kill()
            if running.process.returncode is None:
                running.process.wait()
        self._live.clear()


def report_of(out: str) -> Mapping[str, Any] | None:
    """The document that `headrace run --json` printed, if it came so far."""
    try:
        report: Mapping[str, Any] = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None
    return report


def _why(ended: Ended) -> str:
    """The first error that a run's report or stderr names."""
    report = ended.report or {}
    parts = [*report.get("sources", ()), *report.get("tables", ()), report.get("gold") or {}]
    told = [str(part["error"]).splitlines()[0] for part in parts if part.get("error")]
    return f"exit code {ended.code}: {told[0] if told else ended}"


def copy_lake(source: Path, target: Path) -> None:
    """A lake that may be hurt: immutable files are linked, all others copied."""
    if not source.exists():
        return
    for folder, _, names in os.walk(source):
        there = target / Path(folder).relative_to(source)
        there.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".parquet" or "bronze" in path.relative_to(source).parts[:1]:
                os.link(path, there / name)
            else:
                shutil.copy2(path, there / name)


@contextmanager
def laboratory(project: Project, scratch: Path, mutants: Sequence[str] = ()) -> Iterator[Lab]:
    """A lab for `project` under `scratch`, with the clean runs done; its processes are gone when it closes.

    Raises `ConfigError` if the pipeline does not run cleanly, or gives other tables the second time.
    """
    replica = replicate(project, scratch)
    replica.held.mkdir(exist_ok=True)
    lab = Lab(replica, replica.load(), scratch, scratch / "before", mutants=tuple(mutants))
    try:
        _begin(lab)
        _witness(lab)
        yield lab
    finally:
        lab.close()


def _begin(lab: Lab) -> None:
    """Takes in the first half of each folder of inputs, so that trials meet a lake with a past."""
    late: list[str] = []
    folders: dict[str, list[str]] = {}
    for name in lab.replica.inputs:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    for names in folders.values():
        names = [name for name in names if name not in lab.replica.first]
        late += names[len(names) // 2 :]
    lab.replica.hold(late)
    if lab.replica.here:
        _must(lab.run(), "with the first half of its data", (OK, INCOMPLETE, STOPPED))
        lab.lake.rename(lab.before)
    lab.replica.place(late)


def _witness(lab: Lab) -> None:
    lab.fresh()
    ended = _must(lab.run(), "undisturbed", (OK, INCOMPLETE))
    lab.code = ended.code
    lab.wanted = contents(lab.project)
    lab.ledgers = ledgers(lab.project)
    lab.size = (_pages(lab.before), _pages(lab.lake))
    if problems := unbalanced(lab.project, lab.wanted):
        raise ConfigError(f"the clean run is not balanced: {'; '.join(problems)}", hint="please report it")
    lab.fresh()
    trace = lab.scratch / "places"
    trace.touch()
    again = _must(lab.run(alter=["trace"], **{TRACE: str(trace)}), "a second time", (lab.code,))
    lab.places = Counter(trace.read_text().split())
    lab.length = (ended.seconds + again.seconds) / 2
    second = contents(lab.project)
    others = [second]
    if lab.project.config.gold:
        # gold may hold the number of an epoch under any name: see what a skipped number changes
        lab.fresh()
        lab.run("refine.planned=kill")
        if lab.run().code == lab.code:
            others.append(contents(lab.project))
    lab.ignored = _varying(lab.wanted, others)
    if problems := differences(_silver(second), _silver(lab.wanted)):
        raise ConfigError(
            f"two clean runs differ: {'; '.join(problems)}",
            hint="a table must follow from its inputs alone: look for random(), now() or a step's own state",
        )
    if lab.ignored:
        lab.wanted = {**contents(lab.project, lab.ignored), **_silver(lab.wanted)}


def _varying(first: Mapping[str, Content], others: Sequence[Mapping[str, Content]]) -> tuple[str, ...]:
    """Columns of gold that are not the same in all of them."""
    found = {
        f"{name}.{column}"
        for other in others
        for name, content in other.items()
        for column, digest in content.columns.items()
        if name.startswith("gold.") and name in first and first[name].columns.get(column) != digest
    }
    return tuple(sorted(found))


def _silver(found: Mapping[str, Content]) -> dict[str, Content]:
    return {name: content for name, content in found.items() if not name.startswith("gold.")}


def _pages(root: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in root.rglob("*") if path.is_file())


def _must(ended: Ended, how: str, codes: Sequence[int]) -> Ended:
    if ended.code in codes:
        return ended
    told = re.sub(r"\s+", " ", _why(ended))
    raise ConfigError(
        f"the pipeline does not run {how}: {told}", hint="make `headrace run` succeed on this data first"
    )


def power_variables(lab: Lab, shadow: Path) -> dict[str, str]:
    """What the helper `power` needs to know."""
    shutil.rmtree(shadow, ignore_errors=True)
    return {SHADOW: str(shadow), LAKE: str(lab.lake)}
