"""Runs a command of Headrace with a seeded fault, so that `headrace prove` can be seen to fail.

    python -m headrace.testing.mutant no-fsync -- run .

The faults are put in from outside: the product has no switch for them. `HEADRACE_MUTANT=NAME headrace prove`
tries a whole proof on one. Beside the mutants there are helpers, which change nothing that is promised:
`no-lock` (the run lock is a convenience), `elsewhere`, `trace` and `power`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

VARIABLE = "HEADRACE_MUTANT"
TRACE = "HEADRACE_PROVE_TRACE"
"""A file to which `trace` writes each place that is reached, one a line."""
SHADOW = "HEADRACE_PROVE_SHADOW"
LAKE = "HEADRACE_PROVE_LAKE"


def record_before_objects() -> None:
    """The land record is there before the objects that it names."""
    from ..run import land
    from ..store.storage import LocalStorage

    write, reach = LocalStorage.write, _reach
    waiting: list[tuple[LocalStorage, str, list[bytes]]] = []

    def later(self: LocalStorage, key: str, chunks: Iterable[bytes]) -> None:
        waiting.append((self, key, list(chunks)))

    def reached(place: str) -> None:
        reach(place)
        if place == "land.record":
            for storage, key, chunks in waiting:
                write(storage, key, chunks)
            waiting.clear()

    _set(LocalStorage, "write", later)
    _set(LocalStorage, "sync", lambda _self, _keys: None)
    _set(land, "reach", reached)


def position_before_commit() -> None:
    """The source notes files as read when it offers them, as systems with a separate checkpoint do."""
    from ..sources.files import Files

    news = Files._news

    def offered(self: Files, ctx: Any) -> list[Any]:
        note = self.root / "lake" / f".seen-{self.name}"
        seen = set(note.read_text().splitlines()) if note.exists() else set()
        fresh = [entry for entry in news(self, ctx) if entry.name not in seen]
        note.write_text("".join(f"{name}\n" for name in sorted(seen | {entry.name for entry in fresh})))
        return fresh

    _set(Files, "_news", offered)


def record_before_sync() -> None:
    """The land record is durable before the objects that it names are."""
    from ..run import land
    from ..store.storage import LocalStorage

    sync, reach = LocalStorage.sync, _reach
    waiting: list[tuple[LocalStorage, list[str]]] = []

    def reached(place: str) -> None:
        reach(place)
        if place == "land.record":
            for storage, keys in waiting:
                sync(storage, keys)
            waiting.clear()

    _set(LocalStorage, "sync", lambda self, keys: waiting.append((self, list(keys))))
    _set(land, "reach", reached)


def reused_epoch() -> None:
    """The number of an abandoned plan is given out again."""
    from ..store.records import RefineLog

    _set(RefineLog, "next_number", lambda self: self.epoch + 1)


def plan_overwritten() -> None:
    """A plan is written, not created: the later of two runs replaces that of the earlier one."""
    from ..store import records
    from ..store.records import RefineLog

    plan = RefineLog.plan

    def write(self: RefineLog, made: Any) -> None:
        folder = Path(self.storage.root) / "_headrace" / "refine" / self.table
        for path in folder.glob(f"plan-{made.next:012d}.json"):
            path.unlink()
        plan(self, made)

    reused_epoch()
    _set(records.RefineLog, "plan", write)


def commit_by_path() -> None:
    """A commit goes on top of whatever version is newest, as a writer without a handle does."""
    from ..store.delta import Table

    commit = Table.commit

    def on_top(self: Table, change: Any) -> int:
        newest = self.snapshot(change.commit.stream)
        return commit(self, replace(change, base=replace(newest, txn=change.commit.prev)))

    _set(Table, "commit", on_top)


def no_txn_check() -> None:
    """Whether the table already has the epoch is not looked at."""
    from ..sinks.delta import DeltaWriter

    write = DeltaWriter.write

    def blind(self: DeltaWriter, parts: Any, commit: Any, *rest: Any, **more: Any) -> Any:
        for name, snapshot in self.snapshots.items():
            self.snapshots[name] = replace(snapshot, txn=commit.prev)
        return write(self, parts, commit, *rest, **more)

    _set(DeltaWriter, "write", blind)


def ledger_unchecked() -> None:
    """Who finishes an epoch does not know what its commits had counted, and nobody adds it up."""
    from ..core import Written
    from ..run.report import Ledger
    from ..sinks.delta import DeltaWriter

    applied = DeltaWriter._applied

    def forgetful(self: DeltaWriter, write: Any, commit: Any) -> Written:
        known = applied(self, write, commit)
        return Written(known.table, known.version, skipped=True)

    _set(DeltaWriter, "_applied", forgetful)
    _set(Ledger, "check", lambda _self, _table: None)


def scratch_left() -> None:
    """Scratch folders stay, of this run and of killed ones."""
    import shutil

    remove = shutil.rmtree

    def spare(path: Any, *rest: Any, **more: Any) -> None:
        if ".scratch" not in str(path):
            remove(path, *rest, **more)

    _set(shutil, "rmtree", spare)


def no_fsync() -> None:
    """Nothing is ever synced."""
    from .powercut import forget_syncs

    forget_syncs()


def gold_in_place() -> None:
    """The gold file is overwritten where it is, not replaced by a rename."""
    from ..gold import dbt

    def overwrite(new: Path, real: Path) -> None:
        data = new.read_bytes()
        with real.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            _reach("gold.built")
            file.write(data[len(data) // 2 :])
        new.unlink()

    _set(dbt, "_replace", overwrite)
    _set(dbt, "reach", lambda place: None if place == "gold.built" else _reach(place))


def exit_zero() -> None:
    """A run that failed says that all is well."""
    from ..cli import app

    _set(app, "verdict", lambda _report: 0)


MUTANTS: dict[str, Callable[[], None]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        record_before_objects,
        position_before_commit,
        record_before_sync,
        reused_epoch,
        plan_overwritten,
        commit_by_path,
        no_txn_check,
        ledger_unchecked,
        scratch_left,
        no_fsync,
        gold_in_place,
        exit_zero,
    )
}
"""Each must make a proof fail; tests/acceptance/test_prove.py sees to it."""


def _no_lock() -> None:
    """As on another machine: nothing tells two runs of one another."""
    import contextlib

    from ..run import runner

    _set(runner, "_alone", lambda _lake: contextlib.nullcontext())


def _elsewhere() -> None:
    """As on another machine that shares the lake, but no flock: leases alone tell of one another."""
    from types import SimpleNamespace

    from ..run import alone

    def flock(_file: Any, _how: int) -> None:
        raise OSError("no locks available")

    _set(alone, "fcntl", SimpleNamespace(flock=flock, LOCK_EX=0, LOCK_NB=0))
    _set(alone, "machine", lambda: "elsewhere")


def _trace() -> None:
    from .. import failpoints

    reach, lock, path = failpoints.reach, threading.Lock(), Path(os.environ[TRACE])

    def traced(place: str) -> None:
        with lock, path.open("a") as file:
            file.write(f"{place}\n")
        reach(place)

    failpoints.reach = traced


def _power() -> None:
    from .powercut import record

    record(Path(os.environ[SHADOW]), Path(os.environ[LAKE]))


HELPERS: dict[str, Callable[[], None]] = {
    "trace": _trace,
    "no-lock": _no_lock,
    "elsewhere": _elsewhere,
    "power": _power,
}


def _reach(place: str) -> None:
    from ..failpoints import reach

    reach(place)


def _set(place: Any, name: str, value: Any) -> None:
    """Replaces what is there; a fault that no longer fits the product must not pass unnoticed."""
    if not hasattr(place, name):
        raise AttributeError(f"mutant: {place!r} has no `{name}` any more: bring the mutant up to date")
    setattr(place, name, value)


def alter(names: Sequence[str]) -> None:
    """Puts the named faults and helpers into this process; `trace` first, for it must come before imports."""
    known = {**HELPERS, **MUTANTS}
    order = ["trace", "power", *MUTANTS, "no-lock", "elsewhere"]
    for name in names:
        if name not in known:
            raise SystemExit(f"no mutant is called `{name}`: {', '.join(known)}")
    for name in sorted(names, key=order.index):
        known[name]()


def main(arguments: Sequence[str]) -> int:
    """`NAME[,NAME…] -- COMMAND …`: the exit code of the command."""
    names, _, *command = arguments
    alter([name for name in names.split(",") if name])
    from ..cli import main as headrace

    return headrace(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
