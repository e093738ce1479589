"""Backfill: what landed before a table began (`start: now`), refined in portions beside the live stream.

A table is a function of its bronze and its contract, so there is nothing to fill in where it began at the
beginning: a changed contract computes it anew as a whole, and a bad row is put right by a correction. What
can be missing is what `start: now` passed over. Each portion is one epoch of the table like any other, in a
run of its own: killed between two, the next backfill goes on, since done records name all that was refined.

With `again` a window is refined once more, whether it was or not: rows are merged by their keys, and what
quarantine had of these files is judged anew. A table without keys is refused, since its rows would double.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from ..core import Landed
from ..errors import ConfigError, DataError, HeadraceError, SystemFault, TransientError
from ..spec.problem import suggest
from ..spec.project import Project
from ..store.base import expired
from ..store.records import LandLog, RefineLog
from .opened import open_storage
from .origin import chosen
from .parts import lands_of
from .portions import refined
from .report import Listener, RunReport
from .runner import run

Portion = Sequence[Landed]
_KINDS: dict[str, type[HeadraceError]] = {
    "data": DataError,
    "configuration": ConfigError,
    "transient": TransientError,
}


@dataclass(frozen=True, slots=True)
class Window:
    """Objects of bronze that a backfill is about, newest versions only, and what is left to do."""

    table: str
    files: int
    bytes: int
    refined: int
    """Of `files`, those whose rows the table has taken."""
    gone: int
    """Of `files`, those that retention has taken and that are not refined, or are to be again."""
    ahead: int
    """Of `files`, those that the next run will refine anyway."""
    first: str
    last: str
    """When they arrived."""
    portions: Sequence[Portion]
    again: str = ""
    """What the plans of portions that are refined again are called; empty where they are new."""

    def __str__(self) -> str:
        if not self.files:
            return f"{self.table}  no files in this window"
        span = f"{self.first[:19]} to {self.last[:19]}"
        told = [f"{self.table}  {self.files:,} files ({self.bytes / 1e6:,.1f} MB) arrived {span}"]
        told += [f"{self.refined:,} are refined"] if self.refined else []
        told += [f"{self.ahead:,} will be, by `headrace run`"] if self.ahead else []
        told += [f"{self.gone:,} are gone (retention)"] if self.gone else []
        left = sum(map(len, self.portions))
        told.append(
            f"{left:,} to refine in {len(self.portions):,} portions" if left else "nothing to backfill"
        )
        return "; ".join(told)


def backfill(
    project: Project,
    table: str,
    *,
    files: str | None = None,
    since: str | None = None,
    until: str | None = None,
    portion: int = 1 << 30,
    again: bool = False,
    dry_run: bool = False,
    listener: Listener | None = None,
) -> Iterator[tuple[Window, RunReport | None]]:
    """First what there is to do, then the run of each portion, of about `portion` bytes, once it is durable.

    `files` is a glob over names; `since` and `until` bound the arrival. With `again`, objects that are
    refined are refined again; killed, the same call goes on with those that it has not come to. Raises
    `ConfigError` for a table whose contract has changed since its last run, and whatever stops a portion:
    those before it stay.
    """
    found = window(project, table, files=files, since=since, until=until, portion=portion, again=again)
    yield found, None
    if dry_run:
        return
    for place, items in enumerate(found.portions, 1):
        keys = {table: [item.key for item in items]}
        reason = f"again, {len(found.portions) - place} portions to come: {found.again}" if again else ""
        streams = [name for name, stream in project.config.streams.items() if stream.given == table]
        chosen = [f"refine:{name}" for name in (table, *streams)]
        report = run(project, select=chosen, only=keys, again=reason, listener=listener)
        _check(report, table)
        yield found, report


def _check(report: RunReport, table: str) -> None:
    (done,) = [item for item in report.tables if item.name == table]
    if done.held:
        raise ConfigError(f"table `{table}`: {done.held}", hint=f"headrace restore {table} --release")
    if done.error:
        kind = _KINDS.get(done.error_class or "", SystemFault)
        raise kind(f"table `{table}`: {done.error}", hint="portions before this one stay; run it again")


def window(
    project: Project,
    table: str,
    *,
    files: str | None = None,
    since: str | None = None,
    until: str | None = None,
    portion: int = 1 << 30,
    again: bool = False,
) -> Window:
    """The objects of the window and what has become of each; reads only."""
    if table not in project.config.tables:
        raise ConfigError(
            f"table `{table}` is not defined", hint=suggest(table, project.config.tables, "tables")
        )
    if not project.lake.exists():
        raise ConfigError(f"there is no lake at {project.lake} yet", hint="`headrace run` makes it")
    low, high = (_moment(text) if text else None for text in (since, until))
    storage = open_storage(project)
    log = RefineLog(storage, table)
    last = log.last
    spec = project.config.tables[table]
    lands = lands_of(spec, lambda source: LandLog(storage, project.stream(source)))
    state = expired(storage)
    done_keys, upto = refined(log)
    label = f"files {files or '*'}, from {since or 'the first'} to {until or 'the last'}"
    if again:
        _check_again(project, table)
        done_keys, upto = _begun(log, label), {}
    inside: list[tuple[str, int, Landed]] = [
        (source, epoch, item)
        for source, (epoch, item) in chosen(lands, {name: (-1, land.epoch) for name, land in lands.items()})
        if (files is None or fnmatchcase(item.name, files))
        and (low is None or _moment(item.arrived) >= low)
        and (high is None or _moment(item.arrived) < high)
    ]
    ahead = {
        item.key for source, epoch, item in inside if epoch > (last.inputs if last else {}).get(source, -1)
    }
    done = {
        item.key
        for source, epoch, item in inside
        if item.key not in ahead and (item.key in done_keys or epoch <= upto.get(source, -1))
    }
    rest = [each for each in inside if each[2].key not in ahead | done]
    gone = [item for source, epoch, item in rest if state.lacks(lands[source].stream, epoch, item)]
    left = [item for _, _, item in rest if item not in gone]
    arrived = sorted(item.arrived for *_, item in inside)
    return Window(
        table,
        len(inside),
        sum(item.bytes for *_, item in inside),
        len(done),
        len(gone),
        len(ahead),
        arrived[0] if arrived else "",
        arrived[-1] if arrived else "",
        _portions(left, portion),
        label if again else "",
    )


def _check_again(project: Project, table: str) -> None:
    spec = project.config.tables[table]
    if spec.effective_mode != "merge" or spec.changes:
        what = "is fed by changes" if spec.changes else f"is of mode {spec.effective_mode}"
        raise ConfigError(
            f"table `{table}` {what}: its rows cannot be refined again, they would not be known by a key",
            hint=f"`headrace run --rebuild {table}` computes it anew as a whole",
        )


def _begun(log: RefineLog, label: str) -> set[str]:
    """Keys that a backfill of this window has refined again, if it has not come to its end."""
    keys: set[str] = set()
    for done in log.back():
        plan = log.planned(done.epoch)
        if not (plan.again and plan.reason.endswith(f": {label}")):
            continue
        if plan.reason.startswith("again, 0 "):
            break
        keys |= set(done.files)
    return keys


def _portions(items: Sequence[Landed], size: int) -> list[Portion]:
    """The items in their order, cut where a portion would outgrow `size` bytes; one item is never cut."""
    found: list[list[Landed]] = []
    room = 0
    for item in items:
        if not found or item.bytes > room:
            found.append([])
            room = size
        found[-1].append(item)
        room -= item.bytes
    return list(found)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"`{text}` is no time", hint="such as 2026-01-31 or 2026-01-31T06:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
