"""The types that everything else is written in. Read this first.

Land: a `Source` yields `Batch`es of bytes; the lander makes each durable in bronze with one exclusive commit
record. Refine: an `Engine` computes all outputs of a fixed range of bronze as a pure function; a `Sink`
applies them with a compare-and-set `Commit`. Arrow streams (`Frame`) are the common language.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, runtime_checkable

Position = Mapping[str, Any]
"""Where a read starts. JSON; opaque except to the source that made it."""


@runtime_checkable
class Frame(Protocol):
    """A single-use Arrow stream; any library's."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class Inspector(Protocol):
    """Learns a file's format from its bytes while they are copied; sees each byte once, in order."""

    def feed(self, chunk: bytes) -> None: ...

    def result(self) -> Mapping[str, Any]:
        """The detected format, for the commit record. Raises `DataError` if the file must not land."""
        ...


@dataclass(frozen=True, slots=True)
class RawFile:
    """Bytes as they came. `open` yields them; `verify` raises `TransientError` if they changed since.

    A name that comes again is a new version: the rows of the old one are taken back. So what a source of
    records makes (a page of an API, changes of a table) has a name of its own each time.
    """

    name: str
    size: int
    """Bytes; 0 where that is not known before they are read."""
    open: Callable[[], BinaryIO]
    verify: Callable[[], None]
    inspector: Callable[[], Inspector]
    signature: Mapping[str, Any] = field(default_factory=dict)
    """What tells a later run, without reading, that nothing changed (size, mtime, ctime, inode, etag)."""
    table: str = ""
    """Which of the source's tables the bytes belong to, where it has several: `from: source.table`."""
    records: bool = False
    """The source makes files of records as they come; bronze keeps those of each hour together."""


@dataclass(frozen=True, slots=True)
class Batch:
    data: Sequence[RawFile]
    """Bytes as they came; a source of records encodes them in a format that refinement reads."""
    end: Position
    """Where the next read starts; always a transaction boundary."""


@dataclass(frozen=True, slots=True)
class Landed:
    """An immutable object of bronze, as its commit record describes it."""

    key: str
    """Where it lies in the lake."""
    name: str
    """What the source calls it; a later object of the same name is a new version of it."""
    bytes: int
    sha256: str
    rows: int | None
    """Records that the inspector counted; None where that needs a parser."""
    format: Mapping[str, Any]
    """Type, header, dialect, encoding and line facts, as detected when it landed."""
    signature: Mapping[str, Any] = field(default_factory=dict)
    arrived: str = ""
    """UTC, ISO 8601."""
    key_id: str | None = None
    """The encryption key of its envelope, if it has one."""
    was: Sequence[str] = ()
    """Keys under which it lay before records were erased from it."""
    table: str = ""
    """Which of the source's tables it belongs to, where that has several."""


CHANGE = ("_op", "_sequence", "_committed", "_tx", "_unchanged")
"""What a source of changes tells of each row beside its table's columns; its format says `changes`."""


def unsent(column: str) -> str:
    """The name of `column` in `_unchanged`, a list with `,` between: a comma of its own is U+001F there."""
    return column.replace(",", "\x1f")


class Reading(Protocol):
    """What a source may ask while it reads."""

    follow: bool

    def seen(self, name: str) -> Landed | None:
        """The newest landed version of `name` in this stream: positions must not grow with what was seen."""
        ...

    def names(self) -> Sequence[str]:
        """All names landed in this stream."""
        ...


class Source(Protocol):
    """The generator is the protocol: resuming `read` means that the last batch is durable."""

    def streams(self) -> Sequence[str]: ...

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]: ...


@dataclass(frozen=True, slots=True)
class Commit:
    """`stream` moves from `prev` to `next`, or not at all."""

    stream: str
    prev: int
    next: int


@dataclass(frozen=True, slots=True)
class Write:
    table: str
    mode: Literal["append", "replace", "merge"]
    keys: Sequence[str] = ()
    sequence: Sequence[str] = ()
    """Columns that order two versions of a key, most significant first; the greater one stays."""
    delete_when: str | None = None
    """A boolean column of the frame: true makes the row a tombstone."""
    partition_by: Sequence[str] = ()
    purge: bool = False
    """Rows that `delete_when` marks take the old ones away and leave nothing, not even that column."""


@dataclass(frozen=True, slots=True)
class Written:
    """What one write did, in rows of the frame, and the table version that holds it."""

    table: str
    version: int
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    stale: int = 0
    """Rows whose key already has a higher sequence; the ledger counts them as deduplicated."""
    removed: int = 0
    """Rows of the old table that a replace dropped; they were not read, so no part of the balance."""
    skipped: bool = False
    """True if this commit had been applied before; counts are then those of the done record, not these."""


class Writer(Protocol):
    epoch: int

    def write(self, parts: Sequence[tuple[Write, Frame]], commit: Commit) -> Sequence[Written]:
        """Applies all of `parts`, in their order, each exactly once for `commit`; raises `Fenced`."""
        ...


class Sink(Protocol):
    def open(self, tables: Sequence[str], stream: str) -> Writer:
        """Fences earlier writers of `stream` and owns the tables' handles."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """What an external target has of one stream, by the record that moves in the same transaction."""

    epoch: int
    """0: nothing yet."""
    note: Mapping[str, Any]
    """Which state of the lake it is, as the publisher wrote it with the commit."""
    exists: bool
    """Whether the table is there, whoever has made it."""
    others: Sequence[str] = ()
    """Other streams that have written the same table."""


GONE = "_headrace_gone"
"""The column of a frame for a target that says of a row that its key is gone."""


class TargetWriter(Protocol):
    stream: str
    held: Held

    @property
    def epoch(self) -> int: ...

    def write(
        self,
        parts: Sequence[tuple[Write, Frame]],
        commit: Commit,
        note: Mapping[str, Any] | None = None,
    ) -> Sequence[Written]:
        """As `Writer`, all of `parts` in one transaction. A commit is the same one only if its note is."""
        ...


class TargetSink(Protocol):
    def open(self, tables: Sequence[str], stream: str) -> TargetWriter: ...


class Target(Protocol):
    """An external system that tables are published to; its settings are the connector."""

    mode: Literal["merge", "reload"]
    deletes: Literal["hard", "soft"]
    adopt: bool

    def sink(self, engine: Any) -> TargetSink: ...

    def holds(self) -> Mapping[str, Held]:
        """What is held, by stream; empty where nothing has been published yet."""
        ...

    def check(self) -> str:
        """Says that it can be reached and written, or raises with what to grant."""
        ...


@dataclass(frozen=True, slots=True)
class TableAt:
    """A table at a version: its live files, all readable as one Parquet relation."""

    table: str
    version: int
    files: Sequence[DataFile]
    columns: Mapping[str, str]
    """Name → type, in the contract's words (`decimal(12,2)`)."""
    partition_by: Sequence[str] = ()
    following: Following | None = None
    """Set where its rows are changes: how readers see them."""


@dataclass(frozen=True, slots=True)
class Following:
    """What tells a reader the newest change of each key, and from when until when a version was valid."""

    keys: Sequence[str]
    sequence: Sequence[str]
    """Least significant last; NULL is least."""
    since: str = "_committed"
    """The column that says from when on a version was valid."""
    soft: bool = False
    """Deleted rows are shown."""
    history: bool = False
    """Every version is there, not only the newest."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of a table."""

    path: Path
    rows: int
    bytes: int
    partition: Mapping[str, str | None] = field(default_factory=dict)
    low: Mapping[str, Any] = field(default_factory=dict)
    """Per column lower bounds, JSON scalars as in Delta statistics; a column may be absent."""
    high: Mapping[str, Any] = field(default_factory=dict)
    nulls: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RawInput:
    """Landed files with a readable local path each, in bronze order (epoch, then place in the record)."""

    source: str
    files: Sequence[tuple[int, Landed, Path]]
    """(land epoch, the object, where its plain bytes are)."""


Input = RawInput | TableAt | Frame


@dataclass(frozen=True, slots=True)
class Rewrite:
    """How a table changes: files that go, files that come (already written, not yet durable), and counts."""

    add: Sequence[DataFile]
    remove: Sequence[DataFile]
    written: Written
    columns: Mapping[str, str] = field(default_factory=dict)
    """The table's columns afterwards, in order: the target's, widened where needed, then new ones. Where a
    type differs from the target's, every old file is in `remove`."""


class Engine(Protocol):
    """Computes a step's outputs as a pure function of its inputs; writes nothing outside its scratch."""

    dialect: str

    def run(
        self, step: Any, inputs: Mapping[str, Input | Sequence[RawInput] | None], *, epoch: int, now: str
    ) -> Outcome:
        """Inputs: `raw` (a sequence of RawInput), `ref:<table>` (TableAt), `target` (TableAt or None).

        `corrections` (RawInput) take the places of the records that they name. With `quarantine` (TableAt)
        these are rows of it, refined earlier; without, they are among the records of `raw`.

        `epoch` goes into `_epoch`; `now` (UTC, ISO 8601) is what user SQL sees as the current time.
        """
        ...

    def interrupt(self) -> None:
        """Ends a running call soon, from another thread; it raises, and nothing of it is visible."""
        ...

    def strays(self, quarantine: TableAt, corrections: RawInput) -> int:
        """How many of `corrections` are of records not in `quarantine`: only a rebuild can apply these."""
        ...

    def windows(
        self, step: Any, tables: tuple[TableAt | None, TableAt], target: TableAt | None, epoch: int
    ) -> Outcome:
        """What changes in a stream's windows, now `target`, when their table moves to another version.

        Frame `windows` holds rows to merge by the stream's keys, marked by `_gone` where a window goes;
        without a first version, all windows. `read` counts the frame's rows.
        """
        ...

    def rewrite(self, target: TableAt, write: Write, frame: Frame, into: Path) -> Rewrite:
        """The copy-on-write change that applies `frame` to `target`; new Parquet files lie under `into`."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """The verdict of one expectation over a set of rows."""

    name: str
    passed: bool
    severity: Literal["warn", "stop"]
    value: str
    """What was measured, in words."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a refine step computed; nothing is written yet. Counts are rows of this range of bronze."""

    frames: Mapping[str, Frame]
    """`rows` (one winner per key), `quarantine`, and `history` where the table keeps it."""
    read: int
    deduplicated: int
    quarantined: int
    filtered: int
    late: int = 0
    corrected: int = 0
    """Rows that came from corrections; they are no part of `read`."""
    superseded: int = 0
    """Records among `read` in whose place a correction stands."""
    truncated: int = 0
    """Rows of the table among `rows` that a truncation reached; they were not read."""
    by_rule: Mapping[str, int] = field(default_factory=dict)
    """Rule id → rows that broke it (a row may break several)."""
    warned: Mapping[str, int] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    """Bronze key → records read from it."""
    told: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of a table of changes: source → kind of change (`c`, `u`, `d` …) → how many it told."""
