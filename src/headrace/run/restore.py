"""Restore: a table, its quarantine and its history become again what they were, as a new epoch.

Nothing is rewritten: the commit names the old files. The next run goes on from what had been refined then, so
that what came later is refined again, unless the table is held. Like every epoch it has a plan first, and a
run that finds it half done finishes it.
"""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from datetime import UTC, datetime

from ..errors import ConfigError, Corrupt
from ..failpoints import reach
from ..spec.project import Project
from ..spec.window import undefined
from ..store.hold import hold as hold_at
from ..store.hold import release
from ..store.records import Done, Plan, RefineLog, utc
from ..store.storage import LocalStorage
from .alone import alone
from .opened import open_storage
from .renew import renew, renew_windows
from .report import Step
from .restored import resume, rewound, table_of


@dataclass(frozen=True, slots=True)
class Point:
    """Which state is meant: one of the first three, or the last done epoch."""

    epoch: int | None = None
    version: int | None = None
    time: str | None = None
    """ISO 8601; without an offset, UTC."""

    def of(self, log: RefineLog) -> Done:
        """The done record of this point; raises `ConfigError` naming what there is."""
        if self.epoch is not None:
            found = [item for item in log.done if item.epoch == self.epoch]
        elif self.version is not None:
            silver = f"silver.{log.table}"
            found = [item for item in log.done if item.outputs[silver]["version"] <= self.version]
        elif self.time is not None:
            moment = utc(_moment(self.time))
            found = [item for item in log.done if item.time <= moment]
        else:
            found = log.done
        if not found:
            first = log.done[0] if log.done else None
            since = f"epochs {first.epoch} to {log.epoch}, the first of {first.time}" if first else "none"
            raise ConfigError(f"table `{log.table}` has no such state", hint=f"there are: {since}")
        return found[-1]


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"`{text}` is no time", hint="such as 2026-11-20T18:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def restore(project: Project, table: str, point: Point, *, hold: bool = False, reason: str = "") -> Step:
    """Makes `table` what it was at `point`, also over commits of others; the next run replays from there.

    With `hold` runs leave it there until it is released. The last state is computed anew from bronze where
    its own files do not give it any more. Raises `ConfigError` if the state is not known or cannot be had,
    `Busy` while a run is at work. Nothing is changed then.
    """
    _defined(project, table)
    storage = open_storage(project)
    with alone(project.lake):
        log = RefineLog(storage, table)
        target = point.of(log)
        why = reason or f"restore of epoch {target.epoch} by {_who()}"
        try:
            plan = _planned(storage, log, target, why)
        except (ConfigError, Corrupt):
            if point != Point() or hold:
                raise
            again = renew_windows if table in project.config.streams else renew
            return again(project, storage, log, why)
        if hold:  # first: a run must not go on from there before the hold is known
            hold_at(storage, table, plan.next, plan.reason)
        log.plan(plan)
        reach("restore.planned")
        done = resume(storage, plan, log)
        rows = sum(file.rows for file in table_of(storage, f"silver.{table}").snapshot("").at.files)
    told = f"rows, as of epoch {target.epoch} of {target.time}; now epoch {done.epoch}"
    return Step(f"restore silver.{table}", rows, 0, told + (", held" if hold else ""))


def _defined(project: Project, table: str) -> None:
    tables, streams = project.config.tables, project.config.streams
    if table not in tables and table not in streams:
        raise ConfigError(f"table `{table}` is not defined", hint=undefined(table, streams, tables))


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


def _planned(storage: LocalStorage, log: RefineLog, target: Done, reason: str) -> Plan:
    last = log.last or target
    outputs = {**last.outputs, **target.outputs}  # in commit order; an output that came later becomes empty
    versions: dict[str, int] = {}
    for output in outputs:
        table = table_of(storage, output)
        snapshot = table.snapshot(f"headrace:{log.table}")
        known = target.outputs.get(output)
        if known and snapshot.table_id != known["id"]:
            raise ConfigError(
                f"table `{output}` is not the one of epoch {target.epoch}: another one stands in its place",
                hint=f"`headrace run --rebuild {log.table}` computes it anew from bronze",
            )
        versions[output] = int(known["version"]) if known else -1
        for file in table.at(versions[output]).files:
            if not file.path.is_file() or file.path.stat().st_size != file.bytes:
                raise ConfigError(
                    f"table `{output}`: {file.path.name} of epoch {target.epoch} is gone (vacuum)",
                    hint="restore a later epoch, or recover from a backup",
                )
    return rewound(storage, log, target, versions, reason)


def let_go(project: Project, table: str) -> bool:
    """Ends the hold on `table`, so that the next run goes on; False if nothing held it."""
    _defined(project, table)
    return release(open_storage(project), table)
