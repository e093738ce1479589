"""Delta tables: delta-rs reads them, and one exclusive creation of the next log entry commits to them.

A commit goes on top of exactly the version whose `txn` was read, so that a paused or stale writer can never
add a row: its version is taken. (delta-rs accepts an already used txn version, retries on top of others'
commits, and never syncs; see docs/decisions/0002-delta-commits.md.) Protocol: Delta Transaction Log
Protocol, reader 1, writer 2.
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import DataFile, TableAt
from ..errors import ConfigError, Corrupt, Fenced
from .delta_commit import ENGINE, Change, Snapshot, actions
from .storage import create_exclusive, sync_files

if TYPE_CHECKING:
    from deltalake import DeltaTable

CHECKPOINT_EVERY = 20
_WORDS = {
    "boolean": "boolean",
    "integer": "integer",
    "long": "bigint",
    "double": "double",
    "date": "date",
    "timestamp": "timestamp",
    "string": "text",
    "short": "integer",
    "byte": "integer",
    "float": "double",
}


class Table:
    """One Delta table on a local path, written by us alone."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self._handle: DeltaTable | None = None

    def _load(self) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            if self._handle is None:
                self._handle = DeltaTable(str(self.path))
            else:
                self._handle.update_incremental()
        except TableNotFoundError:
            return None
        except (DeltaError, OSError, ValueError) as error:
            raise self._unreadable(error) from error
        return self._handle

    def _unreadable(self, error: Exception) -> Corrupt:
        table = self.name.partition(".")[2].removesuffix("_history")
        return Corrupt(
            f"table `{self.name}`: its Delta log cannot be read: {str(error).splitlines()[0]}",
            hint=f"`headrace restore {table} --from-records` computes it anew from bronze; `headrace doctor"
            " --verify` names what is damaged",
        )

    def snapshot(self, stream: str) -> Snapshot:
        """The newest version, with the epoch that `stream` has reached in it."""
        handle = self._load()
        if handle is None:
            return Snapshot(self.path, TableAt(self.name, -1, (), {}), None, 0)
        return self._snapshot(handle, stream)

    def at(self, version: int) -> TableAt:
        """The table as it was at `version`; -1 is the empty table before the first."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        if version < 0:
            return TableAt(self.name, -1, (), {})
        if self._handle is not None and self._handle.version() == version:
            return self._snapshot(self._handle, "").at
        try:
            return self._snapshot(DeltaTable(str(self.path), version=version), "").at
        except (DeltaError, OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _snapshot(self, handle: DeltaTable, stream: str) -> Snapshot:
        meta = handle.metadata()
        protocol = handle.protocol()
        if protocol.min_reader_version > 1:
            raise ConfigError(
                f"table `{self.name}` needs Delta reader version {protocol.min_reader_version}"
                f" ({', '.join(protocol.reader_features or [])})",
                hint="Headrace reads tables without deletion vectors and column mapping",
            )
        columns = {item["name"]: _word(item) for item in json.loads(handle.schema().to_json())["fields"]}
        at = TableAt(
            self.name,
            handle.version(),
            _files(handle, self.path, meta.partition_columns),
            columns,
            tuple(meta.partition_columns),
        )
        txn = handle.transaction_version(stream)
        return Snapshot(self.path, at, str(meta.id), 0 if txn is None else txn, dict(meta.configuration))

    def entry(self, version: int) -> list[dict[str, Any]]:
        """The actions of one log entry; raises `Corrupt` where it is missing or broken."""
        path = self._entry_path(version)
        try:
            return [json.loads(line) for line in path.read_text().splitlines() if line]
        except (OSError, ValueError) as error:
            raise Corrupt(f"table `{self.name}`: log entry {path.name} cannot be read: {error}") from error

    def digest(self, version: int) -> str:
        try:
            return hashlib.sha256(self._entry_path(version).read_bytes()).hexdigest()
        except OSError as error:
            raise Corrupt(f"table `{self.name}`: log entry {version} is gone: {error}") from error

    def _entry_path(self, version: int) -> Path:
        return self.path / "_delta_log" / f"{version:020}.json"

    def applied(self, stream: str, epoch: int, newest: int) -> tuple[int, dict[str, Any]]:
        """(version, note) of the commit by which `stream` reached `epoch`; the note is what we wrote."""
        for version in range(newest, -1, -1):
            actions = self.entry(version)
            if any(a.get("txn", {}).get("appId") == stream and a["txn"]["version"] == epoch for a in actions):
                info = next(a["commitInfo"] for a in actions if "commitInfo" in a)
                return version, json.loads(info["headrace"])
        raise Corrupt(f"table `{self.name}`: no commit of `{stream}` epoch {epoch} although its txn says so")

    def foreign(self, since: int, upto: int) -> list[int]:
        """Versions in (since, upto] that somebody else committed."""
        found = []
        for version in range(since + 1, upto + 1):
            info: dict[str, Any] = next(
                (a["commitInfo"] for a in self.entry(version) if "commitInfo" in a), {}
            )
            if not str(info.get("engineInfo", "")).startswith(ENGINE):
                found.append(version)
        return found

    def has(self, version: int) -> bool:
        """Whether the log has an entry for `version`."""
        return self._entry_path(version).is_file()

    def checkpoint(self) -> int:
        """The version of the newest checkpoint, from which readers start; -1 for none."""
        found = (self.path / "_delta_log").glob("*.checkpoint.parquet")
        return max((int(path.name[:20]) for path in found), default=-1)

    def file(self, path: str) -> Path:
        """Where a file lies that the log calls `path`."""
        return self.path / urllib.parse.unquote(path)

    def forget_bounds(self, upto: int, value: str) -> int:
        """Takes statistics out of log entries before `upto` that name `value`; how many. Checkpoints go."""
        wanted = value.casefold()
        changed = 0
        for version in range(upto):
            path = self._entry_path(version)
            actions = self.entry(version)
            if not any(wanted in str(a["add"].get("stats", "")).casefold() for a in actions if "add" in a):
                continue
            for action in actions:
                if "add" in action and "stats" in action["add"]:
                    rows = json.loads(action["add"]["stats"]).get("numRecords")
                    action["add"]["stats"] = json.dumps({"numRecords": rows})
            temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
            temporary.write_text(
                "".join(json.dumps(action, separators=(",", ":")) + "\n" for action in actions)
            )
            sync_files([temporary], self.path)
            temporary.replace(path)
            changed += 1
        if changed:
            for path in (self.path / "_delta_log").glob("*checkpoint*"):
                path.unlink()
            self._handle = None
        return changed

    def removed(self, newest: int) -> dict[Path, datetime]:
        """When each file left the table, by the log; files that came back since are among them, too."""
        found: dict[Path, datetime] = {}
        for version in range(newest, -1, -1):
            for action in self.entry(version):
                if "remove" in action:
                    path = self.file(action["remove"]["path"])
                    moment = datetime.fromtimestamp(action["remove"]["deletionTimestamp"] / 1000, UTC)
                    found.setdefault(path, moment)
        return found

    def commit(self, change: Change) -> int:
        """Makes the change durable as the next version and returns that, or raises `Fenced` without a trace.

        Data files, their folders, the log entry and its folder are synced before this returns.
        """
        base, commit = change.base, change.commit
        if commit and base.txn != commit.prev:
            raise Fenced(
                f"table `{self.name}`: stream `{commit.stream}` is at epoch {base.txn}, not {commit.prev}",
                hint="another writer has moved it; nothing was written; run again",
            )
        self.path.mkdir(parents=True, exist_ok=True)
        sync_files((item.path for item in change.add), self.path)
        version = base.at.version + 1
        data = "".join(
            json.dumps(action, separators=(",", ":")) + "\n" for action in actions(change)
        ).encode()
        if not create_exclusive(self._entry_path(version), data) and not self._is_ours(version, data):
            raise Fenced(
                f"table `{self.name}`: another writer committed version {version} first",
                hint="nothing of this write is visible; run again",
            )
        if version and version % CHECKPOINT_EVERY == 0:
            self._checkpoint(version)
        return version

    def _checkpoint(self, version: int) -> None:
        """Makes a shortcut for readers; the log says the same without it, so a failure is none of the commit.

        It is synced: of a checkpoint whose name survives a power cut, the bytes must, too.
        """
        from deltalake.exceptions import DeltaError

        with suppress(Corrupt, DeltaError, OSError, ValueError):
            handle = self._load()
            if handle is not None:
                handle.create_checkpoint()
            log = self.path / "_delta_log"
            sync_files([log / f"{version:020}.checkpoint.parquet", log / "_last_checkpoint"], self.path)

    def _is_ours(self, version: int, data: bytes) -> bool:
        """An exclusive creation whose answer was lost: the entry holds our own random transaction id."""
        try:
            return self._entry_path(version).read_bytes() == data
        except OSError:
            return False


def _word(item: Mapping[str, Any]) -> str:
    kind = item["type"]
    if item.get("metadata", {}).get("headrace.type") == "json":
        return "json"
    if isinstance(kind, str) and kind.startswith("decimal"):
        return kind
    if not isinstance(kind, str) or kind not in _WORDS:
        raise ConfigError(
            f"column `{item['name']}` has Delta type {kind}",
            hint="Headrace reads scalar columns; cast it upstream",
        )
    return _WORDS[kind]


def _files(handle: DeltaTable, root: Path, partition_by: Sequence[str]) -> tuple[DataFile, ...]:
    batch = handle.get_add_actions(flatten=True)
    names = batch.schema.names
    columns = {name: batch.column(place).to_pylist() for place, name in enumerate(names)}
    found = []
    for row in range(batch.num_rows):

        def pick(prefix: str, row: int = row) -> dict[str, Any]:
            return {
                name.removeprefix(prefix): columns[name][row]
                for name in names
                if name.startswith(prefix) and columns[name][row] is not None
            }

        found.append(
            DataFile(
                root / urllib.parse.unquote(columns["path"][row]),
                columns["num_records"][row],
                columns["size_bytes"][row],
                {name: _text(columns[f"partition.{name}"][row]) for name in partition_by},
                pick("min."),
                pick("max."),
                pick("null_count."),
            )
        )
    return tuple(found)


def _text(value: Any) -> str | None:
    """A partition value as Delta spells it."""
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="microseconds").replace("+00:00", "")
    return str(value)


__all__ = ["CHECKPOINT_EVERY", "Change", "Snapshot", "Table"]
