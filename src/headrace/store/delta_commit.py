"""One commit to a Delta table: what it changes, and the actions of its log entry by the Delta protocol."""

from __future__ import annotations

import json
import time
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from ..core import Commit, DataFile, TableAt

ENGINE = "headrace"
_TYPES = {"bigint": "long", "text": "string", "json": "string"}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A table as of one version; version -1 is a table that does not exist yet."""

    path: Path
    at: TableAt
    table_id: str | None
    txn: int
    """Last epoch that our stream committed; 0 for none."""
    configuration: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    base: Snapshot
    commit: Commit | None
    """None for maintenance: the epoch stays as it is."""
    operation: str
    columns: Mapping[str, str]
    partition_by: Sequence[str] = ()
    add: Sequence[DataFile] = ()
    remove: Sequence[DataFile] = ()
    note: Mapping[str, Any] = field(default_factory=dict)
    """What the commit says of itself, so that a helper who finds it applied knows its counts."""
    same_rows: bool = False
    """True where only the layout of the files changes: readers of changes have nothing to read."""


def actions(change: Change) -> list[dict[str, Any]]:
    now = int(time.time() * 1000)
    root = change.base.path
    actions: list[dict[str, Any]] = [
        {
            "commitInfo": {
                "timestamp": now,
                "operation": change.operation,
                "operationParameters": {},
                "readVersion": change.base.at.version,
                "isBlindAppend": not change.remove,
                "engineInfo": ENGINE,
                "txnId": str(uuid.uuid4()),
                "headrace": json.dumps(change.note, default=str),
            }
        }
    ]
    if change.base.at.version < 0:
        actions.append({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}})
    before = change.base.at
    if (dict(change.columns), list(change.partition_by)) != (dict(before.columns), list(before.partition_by)):
        actions.append({"metaData": _metadata(change, now)})
    if commit := change.commit:
        actions.append({"txn": {"appId": commit.stream, "version": commit.next, "lastUpdated": now}})
    for item in change.remove:
        actions.append(
            {
                "remove": {
                    "path": _relative(item.path, root),
                    "deletionTimestamp": now,
                    "dataChange": not change.same_rows,
                    "extendedFileMetadata": True,
                    "partitionValues": dict(item.partition),
                    "size": item.bytes,
                }
            }
        )
    for item in change.add:
        actions.append(
            {
                "add": {
                    "path": _relative(item.path, root),
                    "partitionValues": dict(item.partition),
                    "size": item.bytes,
                    "modificationTime": now,
                    "dataChange": not change.same_rows,
                    "stats": json.dumps(
                        {
                            "numRecords": item.rows,
                            "minValues": dict(item.low),
                            "maxValues": dict(item.high),
                            "nullCount": dict(item.nulls),
                        },
                        default=_scalar,
                    ),
                }
            }
        )
    return actions


def _metadata(change: Change, now: int) -> dict[str, Any]:
    fields = [
        {
            "name": name,
            "type": _TYPES.get(word, word),
            "nullable": True,
            "metadata": {"headrace.type": "json"} if word == "json" else {},
        }
        for name, word in change.columns.items()
    ]
    configuration = {
        "delta.logRetentionDuration": "interval 30 days",
        "delta.deletedFileRetentionDuration": "interval 30 days",
    }
    return {
        "id": change.base.table_id or str(uuid.uuid4()),
        "name": change.base.at.table,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "partitionColumns": list(change.partition_by),
        "configuration": {**configuration, **change.base.configuration},
        "createdTime": now,
    }


def _relative(path: Path, root: Path) -> str:
    return urllib.parse.quote(path.relative_to(root).as_posix(), safe="/=-_.~")


def _scalar(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in Delta statistics")
