"""Rows of the catalog: what ran, when, and how it went. Plain data; times are aware and in UTC."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Literal

RunStatus = Literal["running", "success", "failed", "incomplete"]
TaskStatus = Literal["running", "success", "failed", "skipped"]
Verdict = Literal["pass", "warn", "fail"]
ChangeType = Literal["INSERT", "UPDATE", "DELETE"]


def new_run_id(now: datetime | None = None) -> str:
    """An id that sorts by time: UTC to the second, and randomness against those of the same second.

    >>> new_run_id(datetime(2026, 11, 20, 18, 30, tzinfo=UTC))[:16]
    '20261120T183000-'
    """
    now = now or datetime.now(UTC)
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """Totals of a run over all its tables, in rows, except where a name says otherwise."""

    records_read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    deduplicated: int = 0
    quarantined: int = 0
    filtered: int = 0
    late: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    lag_bytes: int = 0
    lag_seconds: float = 0.0
    """How far what landed is behind the log of a database; of several, the farthest."""
    retained_bytes: int = 0
    """Log that a database keeps for its slot; of several, the most."""

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> RunMetrics:
        """Metrics from JSON; a number that this version does not know is left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in (values or {}).items() if name in known})


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """One run of a pipeline. `status` stays `running` until it ends, or is found dead by the next run."""

    run_id: str
    pipeline_name: str
    start_time: datetime
    end_time: datetime | None = None
    status: RunStatus = "running"
    metrics: RunMetrics = field(default_factory=RunMetrics)
    env: str = ""
    error: str | None = None
    fingerprint: str = ""
    """The `PipelineVersion` that ran."""
    host: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class TaskExecution:
    """One task of a run; `task_id` is its name in the graph."""

    task_id: str
    run_id: str
    start_time: datetime | None = None
    """None if it was skipped."""
    end_time: datetime | None = None
    status: TaskStatus = "running"
    error_message: str | None = None
    error_class: str | None = None
    retry_count: int = 0


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """Where every row that one run read for one table has gone."""

    run_id: str
    table_name: str
    epoch: int = 0
    version: int = -1
    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    deduplicated: int = 0
    quarantined: int = 0
    filtered: int = 0
    late: int = 0
    removed: int = 0
    """Rows that a rebuild dropped; they were not read, so no part of the balance."""
    seconds: float = 0.0
    corrected: int = 0
    """Rows that came from corrections."""
    superseded: int = 0
    """Records that were read and in whose place a correction stands."""
    truncated: int = 0
    """Rows that a truncation deleted; they were not read."""

    @property
    def balanced(self) -> bool:
        kept = self.inserted + self.updated + self.unchanged + self.deleted
        left = self.deduplicated + self.quarantined + self.filtered + self.late + self.superseded
        return self.read + self.corrected + self.truncated == kept + left


@dataclass(frozen=True, slots=True)
class DataQualityResult:
    """The verdict of one test (a rule, an expectation, a dbt test) over one table in one run."""

    table_name: str
    test_name: str
    result: Verdict
    row_count: int
    failed_rows: int
    execution_time: datetime
    run_id: str


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """Rows of a source that a run found new, changed or gone."""

    source_id: str
    table_name: str
    change_type: ChangeType
    timestamp: datetime
    affected_rows: int
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class CircuitBreakerState:
    """A circuit breaker between two processes; `opened_at` is None while it is closed."""

    name: str
    failures: int = 0
    opened_at: float | None = None
    """Epoch seconds."""
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class PipelineVersion:
    """A configuration that has run: without secrets, known by its fingerprint."""

    pipeline_name: str
    fingerprint: str
    config: Mapping[str, Any]
    first_seen: datetime

    @classmethod
    def of(cls, pipeline: str, config: Mapping[str, Any], now: datetime | None = None) -> PipelineVersion:
        """The version of a JSON-like `config`, which must be fit for records: secrets by reference or masked.

        The order of keys makes no difference to the fingerprint.

        >>> a, b = ({"name": "sales", "lake": "l"}, {"lake": "l", "name": "sales"})
        >>> PipelineVersion.of("sales", a).fingerprint == PipelineVersion.of("sales", b).fingerprint
        True
        """
        text = json.dumps(config, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return cls(pipeline, digest, json.loads(text), now or datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class FileSignature:
    """What a file looked like when its hash was last known."""

    stream: str
    name: str
    signature: Mapping[str, Any]
    sha256: str
