"""Publishing: a target's copy of a silver table becomes what the table is, whatever has happened to either.

The target says which version of the lake it has. What differs between that and the newest done version is
sent and applied in one transaction, which moves the target's own record. So corrections, rebuilds, restores
and deletes reach it like any other change. Where the version that it has cannot be read, all rows are sent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..core import GONE, Commit, Frame, Held, TableAt, TargetWriter, Write, Written
from ..errors import ConfigError, Corrupt, Fenced
from ..spec.pipeline import TableSpec
from ..spec.project import Project
from ..spec.window import StreamSpec
from ..store.delta import Table
from ..store.intact import check_sizes
from ..store.records import Done, RefineLog
from ..store.storage import Storage
from .followed import followed
from .report import LoadResult


@dataclass(frozen=True)
class Publication:
    """One silver table (with its history) on its way to one target."""

    project: Project
    storage: Storage
    engine: Any
    target: str
    table: str


@dataclass(frozen=True, slots=True)
class State:
    """One table of the lake as its last done epoch has left it."""

    at: TableAt
    keys: Sequence[str]
    done: Done
    identity: Mapping[str, Any]
    """Id, version and sha256 of its log entry."""

    @property
    def note(self) -> dict[str, Any]:
        """What the target remembers: which state it has, and of what shape its table is."""
        hidden = {"id": self.identity["id"], "version": self.at.version, "log": self.identity["log"]}
        return {**hidden, "epoch": self.done.epoch, "columns": dict(self.at.columns), "keys": list(self.keys)}


def publish(work: Publication) -> list[LoadResult]:
    """Brings a target up to the last done epoch of a table, exactly once; up to date is a visible no-op.

    Raises `Fenced` if another publisher is ahead, `ConfigError` if a table there is not ours.
    """
    log = RefineLog(work.storage, work.table)
    if log.last is None:
        return []
    spec = log.planned(log.epoch).spec
    silver = f"silver.{work.table}"
    outputs = [name for name in log.last.outputs if name in (silver, f"{silver}_history")]
    return [_publish(work, _state(work.project, log.last, spec, name)) for name in outputs]


def stream_of(project: Project, table: str) -> str:
    """What a target calls the stream of a table of this pipeline."""
    return f"{project.config.name}.{table}"


def _state(project: Project, done: Done, planned: Mapping[str, Any], output: str) -> State:
    """What the epoch has left; `planned` is the spec in its plan, of a table or of a stream."""
    identity = done.outputs[output]
    at = _table(project, output).at(int(identity["version"]))
    check_sizes(output, at.files)
    if "stream" in planned:
        return State(at, StreamSpec.model_validate(planned["stream"]).keys, done, identity)
    spec = TableSpec.model_validate(planned)
    at = followed(spec, output, at)
    keys: Sequence[str] = () if spec.keys == ["*"] else spec.keys
    if output != f"silver.{done.table}":
        # of a version of a row that was not a change all that it says is its key
        keys = (*spec.keys, *spec.changes.sequence_by, "_sequence") if spec.changes else ()
    return State(at, keys, done, identity)


def _table(project: Project, output: str) -> Table:
    return Table(project.lake.joinpath(*output.split(".")), output)


def _publish(work: Publication, state: State) -> LoadResult:
    started = time.monotonic()
    target = work.project.target(work.target)
    name = state.at.table.partition(".")[2]
    writer = target.sink(work.engine).open([name], stream_of(work.project, name))
    known = LoadResult(work.target, name, writer.epoch, state.done.epoch, state.at.version)
    held = writer.held
    if held.epoch and held.exists and target.mode == "merge" and _same(held, state):
        return replace(known, noop=True, seconds=time.monotonic() - started)
    _check_owned(work, name, held, adopt=target.adopt)
    base, reason = _base(work.project, held, state, reload=target.mode == "reload")
    frame = work.engine.changed(base, state.at, state.keys) if base else None
    if base and frame is None:
        reason = "rows without a key are gone"
    write = _write(name, state, frame)
    if frame is None:
        frame = work.engine.visible(state.at)
    (done,) = _sent(writer, write, frame, state)
    mode: Literal["append", "merge", "reload"] = "reload" if write.mode == "replace" else write.mode
    return replace(
        known,
        publication=writer.held.epoch,
        mode=mode,
        reason=reason,
        sent=frame.rows,
        inserted=done.inserted,
        updated=done.updated,
        unchanged=done.unchanged,
        deleted=done.deleted,
        removed=done.removed,
        seconds=time.monotonic() - started,
    )


def _write(name: str, state: State, frame: Frame | None) -> Write:
    if frame is None:
        return Write(name, "replace", state.keys)
    return Write(name, "merge" if state.keys else "append", state.keys, delete_when=GONE)


def _sent(writer: TargetWriter, write: Write, frame: Frame, state: State) -> Sequence[Written]:
    commit = Commit(writer.stream, writer.epoch, writer.epoch + 1)
    return writer.write([(write, frame)], commit, state.note)


def _same(held: Held, state: State) -> bool:
    """Whether the target has this very version: its log entry is no other's."""
    return all(held.note.get(name) == state.note[name] for name in ("id", "version", "log", "keys"))


def _check_owned(work: Publication, name: str, held: Held, *, adopt: bool) -> None:
    if adopt:
        return
    where = str(work.project.shown.where(("targets", work.target)) or "") or None
    if held.others:
        raise ConfigError(
            f"target `{work.target}`: table `{name}` is published by `{held.others[0]}`",
            hint="give one of both another `schema`; `adopt: true` takes it over",
            where=where,
        )
    if held.exists and not held.epoch:
        raise ConfigError(
            f"target `{work.target}`: table `{name}` is there already, and Headrace has not made it",
            hint="give the target a `schema` of its own; with `adopt: true` the table's rows are replaced",
            where=where,
        )


def _base(project: Project, held: Held, state: State, *, reload: bool) -> tuple[TableAt | None, str]:
    """The version that the target has, if changes can be told from there; else None, and why not."""
    if not held.epoch:
        return None, "first load"
    if not held.exists:
        return None, "its table is gone"
    if reload:
        return None, "mode: reload"
    if held.note.get("id") != state.identity["id"]:
        return None, "the table was made anew"
    if held.note.get("keys") != list(state.keys) or held.note.get("columns") != dict(state.at.columns):
        return None, "its columns or keys have changed"
    version = int(held.note["version"])
    if version > state.at.version:
        return None, "it is ahead of the lake"
    table = _table(project, state.at.table)
    try:
        if table.digest(version) != held.note["log"]:
            return None, "the lake's log is another one"
        at = table.at(version)
    except (Corrupt, Fenced):
        return None, f"version {version} cannot be read any more"
    if not all(file.path.is_file() for file in at.files):
        return None, f"files of version {version} are gone"
    return replace(at, following=state.at.following), ""
