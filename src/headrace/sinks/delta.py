"""Delta Lake as a sink: every output table takes a commit exactly once, in a fixed order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..core import Commit, DataFile, Engine, Frame, Rewrite, TableAt, Write, Written
from ..errors import Corrupt
from ..failpoints import reach
from ..store.delta import Change, Snapshot, Table
from ..store.intact import check_sizes, new_name

Approve = Callable[[Sequence[Written]], None]


@dataclass(frozen=True, slots=True)
class DeltaSink:
    """Tables under `root`, by their dotted names: `silver.sales` lies in silver/sales."""

    root: Path
    engine: Engine

    def open(self, tables: Sequence[str], stream: str) -> DeltaWriter:
        return DeltaWriter(self, {name: self.table(name) for name in tables}, stream)

    def table(self, name: str) -> Table:
        return Table(self.root.joinpath(*name.split(".")), name)


class DeltaWriter:
    """The writer of one stream; holds the snapshots that its commits go on top of."""

    def __init__(self, sink: DeltaSink, tables: dict[str, Table], stream: str) -> None:
        self.sink = sink
        self.stream = stream
        self.tables = tables
        self.snapshots: dict[str, Snapshot] = {name: table.snapshot(stream) for name, table in tables.items()}

    @property
    def epoch(self) -> int:
        """What the first output has reached: it decides whether an epoch in doubt is finished."""
        return next(iter(self.snapshots.values())).txn

    def write(
        self,
        parts: Sequence[tuple[Write, Frame]],
        commit: Commit,
        approve: Approve | None = None,
        bases: Mapping[str, TableAt] | None = None,
    ) -> Sequence[Written]:
        """Applies `parts` in order, each exactly once for `commit`, or raises `Fenced`.

        All new files are written, and `approve` sees the counts and may refuse, before the first commit.
        Where one cannot be written, or is refused, none of them is left. A table among `bases` becomes
        its base with the frame applied to that; what it held before goes.
        """
        pending: list[tuple[Write, Rewrite | None, Written]] = []
        try:
            for write, frame in parts:
                snapshot = self.snapshots[write.table]
                if snapshot.txn == commit.next:
                    pending.append((write, None, self._applied(write, commit)))
                    continue
                base = (bases or {}).get(write.table)
                rewrite = self._rewrite(write, frame, snapshot, base)
                pending.append((write, rewrite, rewrite.written))
            reach("sink.files")
            if approve:
                approve([written for *_, written in pending])
        except BaseException:
            for _, change, _ in pending:
                for file in change.add if change else ():
                    file.path.unlink(missing_ok=True)  # no log can name them: their names are of this call
            raise
        done = []
        for write, change, written in pending:
            if change is not None:
                version = self._commit(write, change, commit)
                written = replace(written, version=version)
                reach("sink.commit")
            done.append(written)
        return done

    def _rewrite(self, write: Write, frame: Frame, snapshot: Snapshot, base: TableAt | None) -> Rewrite:
        snapshot.path.mkdir(parents=True, exist_ok=True)
        if write.mode != "replace":
            check_sizes(write.table, snapshot.at.files)
        if base is None:
            return self.sink.engine.rewrite(snapshot.at, write, frame, snapshot.path)
        change = self.sink.engine.rewrite(base, write, frame, snapshot.path)
        going = {file.path for file in change.remove}
        kept = [
            linked(file, snapshot.path, len(write.partition_by))
            for file in base.files
            if file.path not in going
        ]
        removed = sum(file.rows for file in snapshot.at.files)
        return Rewrite(
            [*kept, *change.add], snapshot.at.files, replace(change.written, removed=removed), change.columns
        )

    def _applied(self, write: Write, commit: Commit) -> Written:
        table, snapshot = self.tables[write.table], self.snapshots[write.table]
        version, note = table.applied(self.stream, commit.next, snapshot.at.version)
        if "written" not in note:
            raise Corrupt(f"table `{write.table}`: commit {version} lost its counts")
        return Written(**{**note["written"], "version": version, "skipped": True})

    def _commit(self, write: Write, rewrite: Rewrite, commit: Commit) -> int:
        snapshot = self.snapshots[write.table]
        change = Change(
            snapshot,
            commit,
            {"append": "WRITE", "merge": "MERGE", "replace": "WRITE"}[write.mode],
            rewrite.columns,
            write.partition_by,
            rewrite.add,
            rewrite.remove,
            {"written": asdict(rewrite.written)},
        )
        version = self.tables[write.table].commit(change)
        self.snapshots[write.table] = self.tables[write.table].snapshot(self.stream)
        return version


def linked(file: DataFile, root: Path, depth: int) -> DataFile:
    """The file under a new name below `root`, in the same `depth` partition folders; bytes are shared."""
    path = root.joinpath(*file.path.parts[-1 - depth : -1], new_name(file.path))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file.path, path)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file.path, path)
    return replace(file, path=path)
