"""A breaking change of a table's definition takes effect only after somebody has accepted it.

An acceptance is one exclusively created record in the lake: from which definition to which. It holds for that
change alone; whoever runs the pipeline next, on whichever machine, may make it.
"""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..spec.change import Change, beside, changes
from ..spec.change_stream import stream_changes
from ..spec.pipeline import TableSpec
from ..spec.project import Project
from ..store.records import Done, RefineLog, seal, utc
from ..store.storage import Storage
from .parts import code_of
from .refinery import fingerprint_of
from .windows import definition_of
from .windows import fingerprint_of as fingerprint_of_stream

FOLDER = "_headrace/accept"


@dataclass(frozen=True, slots=True)
class Redefined:
    """A table whose definition is not the one under which it was computed last."""

    table: str
    before: str
    """Fingerprint of the table as it is."""
    after: str
    changes: Sequence[Change]
    accepted: bool = False

    @property
    def breaking(self) -> list[Change]:
        return [change for change in self.changes if change.breaking]

    @property
    def refused(self) -> bool:
        """Whether `headrace run` refuses it as it stands."""
        return bool(self.breaking) and not self.accepted


def redefined(project: Project, storage: Storage, table: str) -> Redefined | None:
    """What has changed in the definition of `table` since its last epoch; None for nothing, or no epoch."""
    log = RefineLog(storage, table)
    if log.last is None:
        return None
    if table in project.config.streams:
        return _stream(project, storage, log, log.last)
    spec = project.config.tables[table]
    code = code_of(project, spec)
    after = fingerprint_of(spec, code)
    if log.last.fingerprint == after:
        return None
    found = between(log, log.last, spec, code)
    accepted = storage.list(FOLDER).count(_key(table, log.last.fingerprint, after)) > 0
    return Redefined(table, log.last.fingerprint, after, found, accepted)


def _stream(project: Project, storage: Storage, log: RefineLog, last: Done) -> Redefined | None:
    spec = project.config.streams[log.table]
    new = definition_of(log.table, spec, project.config.tables[spec.given])
    after = fingerprint_of_stream(new)
    if after == last.fingerprint:
        return None
    found = stream_changes(log.planned(last.epoch).spec, new)
    accepted = storage.list(FOLDER).count(_key(log.table, last.fingerprint, after)) > 0
    return Redefined(log.table, last.fingerprint, after, found, accepted)


def between(log: RefineLog, done: Done, spec: TableSpec, code: str) -> list[Change]:
    """The differences from the definition of a done epoch to `spec` with `code` beside it."""
    plan = log.planned(done.epoch)
    old = TableSpec.model_validate(plan.spec)
    found = changes(old, spec, plan.evolved)
    other = beside(old, spec) if plan.engine.get("steps", code) != code else None
    return [*found, other] if other else found


def accept(storage: Storage, change: Redefined) -> None:
    """Makes the acceptance durable; accepting again changes nothing."""
    body = {
        "table": change.table,
        "from": change.before,
        "to": change.after,
        "changes": [str(item) for item in change.changes],
        "time": utc(),
        "by": user(),
    }
    storage.create(_key(change.table, change.before, change.after), seal(body, ""))


def require(project: Project, storage: Storage, tables: Sequence[str], *, accepting: bool) -> None:
    """Raises `ConfigError` for a breaking change that nobody has accepted; `accepting` accepts them all."""
    found = [change for table in tables if (change := redefined(project, storage, table))]
    refused = [change for change in found if change.refused]
    if accepting:
        for change in refused:
            accept(storage, change)
    elif refused:
        raise _refusal(refused)


def _refusal(refused: Sequence[Redefined]) -> ConfigError:
    told = "".join(f"\n  {change.table}: {item}" for change in refused for item in change.breaking)
    names = ", ".join(f"`{change.table}`" for change in refused)
    some = "table" if len(refused) == 1 else "tables"
    return ConfigError(
        f"breaking changes of {some} {names}, which nobody has accepted; nothing was run:{told}",
        hint="`headrace plan` shows what they do; `headrace plan --accept` accepts them, as does"
        " `headrace run --accept-changes`",
    )


def _key(table: str, before: str, after: str) -> str:
    return f"{FOLDER}/{table}/{after}/from-{before}.json"


def user() -> str:
    """Who is at work here, as far as the system can tell."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
