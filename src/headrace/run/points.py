"""Which epoch of each table a run left behind: by the catalog, or by the lake's own records without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ..catalog.models import PipelineRun
from ..errors import ConfigError
from ..spec.project import Project
from ..store.records import Done, RefineLog
from .opened import open_catalog


@dataclass(frozen=True, slots=True)
class Point:
    """A run, an epoch or a moment, as it was asked for."""

    asked: str
    epoch: int | None = None
    """Of every table that is looked at; 0 is before the first."""
    run_id: str = ""
    when: datetime | None = None
    """The newest epoch up to here, where no record names the run."""
    note: str = ""

    def of(self, log: RefineLog) -> Done | None:
        """The table's last epoch at this point; None if it had none yet."""
        done = log.done
        if self.epoch is not None:
            found = [item for item in done if item.epoch == self.epoch]
            if not self.epoch:
                return None
            if not found:
                known = ", ".join(str(item.epoch) for item in done[-10:]) or "none"
                raise ConfigError(
                    f"table `{log.table}` has no epoch {self.epoch}", hint=f"its latest epochs: {known}"
                )
            return found[0]
        own = [item for item in done if self.run_id and item.run_id == self.run_id]
        if own:
            return own[-1]
        before = [item for item in done if self.when and moment(item.time) <= self.when]
        return before[-1] if before else None


def moment(text: str) -> datetime:
    """An ISO 8601 time; without an offset it is UTC."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def point(project: Project, asked: str, logs: Sequence[RefineLog]) -> Point:
    """What `asked` means: an epoch number, a run id (or its beginning), or a time.

    Raises `ConfigError` for what is none of these, with the runs that there are.
    """
    if asked.isdigit() and len(asked) < 8:
        return Point(asked, epoch=int(asked))
    runs = _runs(project)
    found = [run for run_id, run in runs.items() if run_id.startswith(asked)]
    if len(found) == 1:
        return Point(asked, run_id=found[0].run_id, when=found[0].end_time or found[0].start_time)
    if len(found) > 1:
        names = ", ".join(run.run_id for run in found[:5])
        raise ConfigError(f"`{asked}` is the beginning of {len(found)} runs", hint=f"such as {names}")
    recorded = sorted({done.run_id for log in logs for done in log.done if done.run_id.startswith(asked)})
    if len(recorded) == 1:
        ends = [moment(done.time) for log in logs for done in log.done if done.run_id == recorded[0]]
        note = f"run {recorded[0]} is not in the catalog; its epochs are, in the lake's records"
        return Point(asked, run_id=recorded[0], when=max(ends), note=note)
    try:
        return Point(asked, when=moment(asked))
    except ValueError:
        known = ", ".join(list(runs)[:5]) or "none"
        raise ConfigError(
            f"`{asked}` is no run, epoch or time", hint=f"latest runs: {known}; `headrace status` lists them"
        ) from None


def _runs(project: Project) -> Mapping[str, PipelineRun]:
    """The newest first."""
    with open_catalog(project) as catalog:
        return {run.run_id: run for run in catalog.runs(10_000, project.config.name)}
