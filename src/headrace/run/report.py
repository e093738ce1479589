"""What a run tells: plain data, for people (the CLI prints it) and machines (`to_json`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ..errors import Unbalanced

Status = Literal["success", "failed", "incomplete"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in a task; for progress bars and logs, never for decisions."""

    task: str
    kind: Literal["start", "progress", "end", "retry", "note"]
    done: int = 0
    total: int | None = None
    unit: str = ""
    message: str = ""


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """A listener that does not listen."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where every row that was read has gone. Each number is measured by itself, so a sum can be wrong."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    deduplicated: int = 0
    quarantined: int = 0
    filtered: int = 0
    late: int = 0
    corrected: int = 0
    """Rows that came from corrections; they were not read from objects."""
    superseded: int = 0
    """Records that were read and in whose place a correction stands."""
    truncated: int = 0
    """Rows of the table that a truncation deleted; they were not read from objects."""
    removed: int = 0
    """Rows of the previous table that a rebuild dropped; they were not read, so no part of the balance."""

    @property
    def loaded(self) -> int:
        return self.inserted + self.updated

    @property
    def accounted(self) -> int:
        kept = self.inserted + self.updated + self.unchanged + self.deleted
        return kept + self.deduplicated + self.quarantined + self.filtered + self.late + self.superseded

    @property
    def balanced(self) -> bool:
        """True if every row that was read, came from a correction, or was truncated is accounted for once."""
        return self.read + self.corrected + self.truncated == self.accounted

    def check(self, table: str) -> None:
        """Raises `Unbalanced` unless every row that was read is accounted for, exactly once."""
        if not self.balanced:
            raise Unbalanced(
                f"table `{table}`: read {self.read:,} rows and {self.corrected:,} corrections, "
                f"accounted for {self.accounted:,}: {asdict(self)}",
                hint="nothing was written; a defect of Headrace or of a custom step: please report it",
            )


@dataclass(frozen=True, slots=True)
class SourceReport:
    name: str
    new_files: int = 0
    changed: int = 0
    bytes: int = 0
    rows: int = 0
    refused: Sequence[tuple[str, str]] = ()
    vanished: Sequence[str] = ()
    seconds: float = 0.0
    error: str | None = None
    error_class: str | None = None
    remarks: Sequence[str] = ()
    """What people should know though nothing is wrong, such as a glob that matches no file."""
    lag: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of a database's log: slot → `bytes` and `seconds` behind, `retained_bytes`, `wal_status`."""


@dataclass(frozen=True, slots=True)
class TableReport:
    name: str
    epoch: int = 0
    version: int = -1
    ledger: Ledger = field(default_factory=Ledger)
    by_rule: Mapping[str, int] = field(default_factory=dict)
    warned: Mapping[str, int] = field(default_factory=dict)
    checks: Sequence[Mapping[str, Any]] = ()
    seconds: float = 0.0
    path: str = ""
    error: str | None = None
    error_class: str | None = None
    noop: bool = False
    rebuilt: str | None = None
    """Why the table was computed anew from bronze; None for an increment."""
    error_type: str | None = None
    """Name of the error, such as `Unbalanced`."""
    told: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of a table of changes: source → kind of change → how many it told."""
    held: str = ""
    """Since when and why the table is left as it is, whatever has landed."""
    windows: str = ""
    """Of the windows of a stream: the table that they are from. What the ledger counts are windows then."""
    late: int = 0
    """Of a stream: rows that came into, or left, windows that were closed."""

    def then(self, later: TableReport) -> TableReport:
        """Both epochs as one: what was counted is added up, all else is as the later one left it."""
        if later.noop:
            return self
        return replace(
            later,
            ledger=Ledger(**_sum(asdict(self.ledger), asdict(later.ledger))),
            by_rule=_sum(self.by_rule, later.by_rule),
            warned=_sum(self.warned, later.warned),
            seconds=self.seconds + later.seconds,
            rebuilt=later.rebuilt or self.rebuilt,
            late=self.late + later.late,
            told={
                name: _sum(self.told.get(name, {}), later.told.get(name, {}))
                for name in {**self.told, **later.told}
            },
        )


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that maintenance, restore, backup or erasure did, or would do."""

    what: str
    count: int = 0
    bytes: int = 0
    note: str = ""
    skipped: bool = False
    """True if it could not be done now; nothing was changed."""

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.what}: {self.note}"
        size = f" ({self.bytes / 1e6:,.1f} MB)" if self.bytes else ""
        return f"{self.what}: {self.count:,} {self.note}{size}"


@dataclass(frozen=True, slots=True)
class GoldReport:
    path: str
    nodes: Sequence[Mapping[str, Any]] = ()
    passed: bool = True
    seconds: float = 0.0
    error: str | None = None
    error_class: str | None = None
    noop: bool = False


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one publication of a silver table (or history) did to a target, in rows that were sent."""

    target: str
    table: str
    publication: int = 0
    """How often the target's copy has moved."""
    epoch: int = 0
    """The epoch of the table that it has now."""
    version: int = -1
    mode: Literal["append", "merge", "reload", ""] = ""
    reason: str = ""
    """Why all rows were sent, where they were."""
    sent: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    removed: int = 0
    """Rows that a reload took away."""
    seconds: float = 0.0
    noop: bool = False
    error: str | None = None
    error_class: str | None = None

    @property
    def name(self) -> str:
        return f"{self.target}.{self.table}"


@dataclass(frozen=True, slots=True)
class RunReport:
    run_id: str
    pipeline: str
    status: Status
    seconds: float
    sources: Sequence[SourceReport]
    tables: Sequence[TableReport]
    gold: GoldReport | None = None
    error: str | None = None
    loads: Sequence[LoadResult] = ()
    """Publications to external targets."""

    def to_json(self) -> dict[str, Any]:
        """JSON scalars, lists and objects only; the keys are the field names."""
        return asdict(self)
