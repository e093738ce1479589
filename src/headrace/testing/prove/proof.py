"""The proof: all trials of a pipeline, one verdict, and a report that says how to repeat it."""

from __future__ import annotations

import json
import platform
import random
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ... import __version__, failpoints
from ...errors import ConfigError
from ...spec.project import Project
from .lab import Lab, laboratory
from .trials import KINDS, Kind, scaled

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What to prove and how hard. `only` names kinds of trials; all of them without it."""

    seed: int
    kills: int | None = None
    quick: bool = False
    only: Sequence[str] = ()
    mutants: Sequence[str] = ()
    at: Sequence[str] = ()
    """Failpoints to try; all of them without it."""
    first: bool = False
    """Stop at the first trial that does not hold."""

    def __post_init__(self) -> None:
        for place in self.at:
            if place not in failpoints.PLACES:
                known = ", ".join(failpoints.PLACES)
                raise ConfigError(f"no failpoint is called `{place}`", hint=f"failpoints: {known}")

    def kinds(self) -> list[Kind]:
        known = {kind.name: kind for kind in KINDS}
        for name in self.only:
            if name not in known:
                raise ConfigError(f"no kind of trial is called `{name}`", hint=f"kinds: {', '.join(known)}")
        chosen = [kind for kind in KINDS if not self.only or kind.name in self.only]
        return [scaled(kind, quick=self.quick, kills=self.kills) for kind in chosen]


@dataclass(frozen=True, slots=True)
class Trial:
    kind: str
    what: str
    problems: Sequence[str]
    seconds: float


@dataclass(frozen=True, slots=True)
class Proof:
    """All that a proof did and found; `holds` only if every trial did and there was at least one."""

    pipeline: str
    fingerprint: str
    command: str
    seed: int
    started: str
    seconds: float
    versions: Mapping[str, str]
    data: Mapping[str, int]
    notes: Sequence[str]
    tables: Mapping[str, Mapping[str, Any]]
    places: Mapping[str, int]
    promises: Mapping[str, str]
    trials: Sequence[Trial] = field(default_factory=tuple)

    @property
    def holds(self) -> bool:
        return bool(self.trials) and not any(trial.problems for trial in self.trials)

    def counts(self) -> dict[str, tuple[int, int, float]]:
        """Kind → trials, those that held, seconds."""
        found: dict[str, tuple[int, int, float]] = {}
        for trial in self.trials:
            count, held, seconds = found.get(trial.kind, (0, 0, 0.0))
            found[trial.kind] = (count + 1, held + (not trial.problems), seconds + trial.seconds)
        return found

    def to_json(self) -> dict[str, Any]:
        return {"holds": self.holds, **asdict(self)}


def prove(project: Project, scratch: Path, wish: Wish, tell: Tell, command: str) -> Proof:
    """Runs all trials on a copy of `project` under `scratch`; its own lake and data are only read.

    Raises `ConfigError` if the pipeline does not run cleanly when nothing disturbs it.
    """
    clock, started = time.monotonic(), datetime.now(UTC)
    kinds = wish.kinds()
    tell("clean runs")
    with laboratory(project, scratch, wish.mutants) as lab:
        rows = sum(content.rows for content in lab.wanted.values())
        tell(f"clean run: {lab.length:.1f} s, {rows:,} rows in {len(lab.wanted)} tables")
        trials: list[Trial] = []
        if wish.at:
            lab.chosen = tuple(wish.at)
        for kind in kinds:
            trials += _tried(lab, kind, wish, tell)
            if wish.first and any(trial.problems for trial in trials):
                break
        return Proof(
            project.config.name,
            project.fingerprint,
            command,
            wish.seed,
            started.isoformat(timespec="seconds"),
            time.monotonic() - clock,
            _versions(),
            _data(lab),
            _notes(lab, wish),
            {name: {"rows": content.rows, "hash": content.digest} for name, content in lab.wanted.items()},
            {place: lab.places[place] for place in failpoints.PLACES},
            {kind.name: kind.promise for kind in kinds},
            trials,
        )


def _tried(lab: Lab, kind: Kind, wish: Wish, tell: Tell) -> list[Trial]:
    # each kind has dice of its own, so that it can be repeated alone
    dice = random.Random(f"{wish.seed} {kind.name}")
    trials: list[Trial] = []
    clock = time.monotonic()
    for what, problems in kind.trials(lab, kind.many, dice):
        now = time.monotonic()
        trials.append(Trial(kind.name, what, problems, now - clock))
        clock = now
        for problem in problems:
            tell(f"{kind.name}: {what}: {problem}")
        if problems and wish.first:
            break
    held = sum(not trial.problems for trial in trials)
    seconds = sum(trial.seconds for trial in trials)
    tell(f"{kind.name}: {held} of {len(trials)} held   {seconds:.1f} s")
    return trials


def _data(lab: Lab) -> dict[str, int]:
    paths = [lab.replica.root / name for name in lab.replica.inputs]
    rows = sum(total.get("read", 0) for total in lab.ledgers.values())
    return {"files": len(paths), "bytes": sum(path.stat().st_size for path in paths), "rows": rows}


def _notes(lab: Lab, wish: Wish) -> list[str]:
    notes = []
    if lab.code:
        notes.append(
            f"the clean run ends with exit code {lab.code} (files were refused): so must every other"
        )
    if lab.replica.first:
        notes.append(f"{len(lab.replica.first)} files that others refer to were there from the start")
    if lab.replica.ordered:
        told = ", ".join(lab.replica.ordered)
        notes.append(f"files came in their own order: without `latest_by`, the last one wins in {told}")
    if lab.replica.targets:
        told = ", ".join(lab.replica.targets)
        notes.append(f"external targets were left alone, and nothing was published to them: {told}")
    if lab.ignored:
        told = ", ".join(lab.ignored)
        notes.append(f"not compared, as they tell the time or the number of an epoch: {told}")
    if unreached := [place for place in failpoints.PLACES if not lab.places[place]]:
        notes.append(f"failpoints that are not on this pipeline's way: {', '.join(unreached)}")
    if wish.mutants:
        notes.append(f"SEEDED FAULTS: {', '.join(wish.mutants)}")
    return notes


def _versions() -> dict[str, str]:
    found = {"headrace": __version__, "python": platform.python_version(), "system": platform.platform()}
    for package in ("duckdb", "deltalake", "dbt-core", "dbt-duckdb"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def verdict_lines(proof: Proof) -> list[str]:
    """One line per kind of trial, aligned, and the verdict."""
    counts = proof.counts()
    width = max((len(kind) for kind in counts), default=0)
    lines = []
    for kind, (count, held, _) in counts.items():
        verdict = "ok  " if held == count else "FAIL"
        lines.append(f"{kind:<{width}}  {held:>4} of {count:<4} {verdict}  {proof.promises[kind]}")
    total, held = len(proof.trials), sum(not trial.problems for trial in proof.trials)
    verdict = "holds" if proof.holds else "DOES NOT HOLD"
    return [
        *lines,
        f"{proof.pipeline} {verdict}: {held} of {total} trials, seed {proof.seed}, {proof.seconds:.0f} s",
    ]


def markdown(proof: Proof) -> str:
    """The report for a change review; the JSON beside it has every trial."""
    data, versions = proof.data, ", ".join(f"{name} {value}" for name, value in proof.versions.items())
    lines = [
        f"# Proof of `{proof.pipeline}`: {'holds' if proof.holds else 'DOES NOT HOLD'}",
        "",
        f"{proof.started}, {proof.seconds:.0f} s. Repeat it: `{proof.command}`",
        "",
        f"Definition `{proof.fingerprint[:16]}`; {data['files']:,} files, {data['bytes']:,} bytes,"
        f" {data['rows']:,} rows. {versions}.",
        "",
        "| trial | held | of | seconds | what it shows |",
        "|---|---:|---:|---:|---|",
    ]
    for kind, (count, held, seconds) in proof.counts().items():
        lines.append(f"| {kind} | {held} | {count} | {seconds:.0f} | {proof.promises[kind]} |")
    lines += [
        "",
        "Each trial starts from the same lake, is followed by one run that is left alone, and holds if",
    ]
    lines += ["every table then has the content below, every ledger balances, and no exit code lied."]
    lines += ["", "| table | rows | hash of its rows |", "|---|---:|---|"]
    lines += [f"| {name} | {item['rows']:,} | `{item['hash']}` |" for name, item in proof.tables.items()]
    reached = {place: count for place, count in proof.places.items() if count}
    lines += ["", f"Failpoints reached by a clean run: {', '.join(f'{p} {n}' for p, n in reached.items())}."]
    lines += ["", *(f"- {note}" for note in proof.notes)] if proof.notes else []
    bad = [trial for trial in proof.trials if trial.problems]
    if bad:
        lines += ["", "## What did not hold", ""]
        lines += [f"- {trial.kind}: {trial.what}: {'; '.join(trial.problems)}" for trial in bad]
    return "\n".join(lines) + "\n"


def write(proof: Proof, path: Path) -> tuple[Path, Path]:
    """Writes the report as Markdown and JSON side by side; returns both paths."""
    page, data = path.with_suffix(".md"), path.with_suffix(".json")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(markdown(proof))
    data.write_text(json.dumps(proof.to_json(), indent=1, default=str) + "\n")
    return page, data


def command_of(path: Path, wish: Wish) -> str:
    """The command that repeats a proof."""
    words = ["headrace", "prove", str(path), "--seed", str(wish.seed)]
    words += ["--kills", str(wish.kills)] if wish.kills is not None else []
    words += ["--quick"] if wish.quick else []
    words += ["--first"] if wish.first else []
    words += [word for name in wish.only for word in ("--only", name)]
    words += [word for place in wish.at for word in ("--at", place)]
    head = f"HEADRACE_MUTANT={','.join(wish.mutants)} " if wish.mutants else ""
    return head + shlex.join(words)
