"""One table and all that its refinement needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..core import Commit, Engine, Frame, TableAt, Write, Written
from ..spec.change import essence
from ..spec.pipeline import TableSpec
from ..store.delta import Snapshot, Table
from ..store.records import LandLog
from ..store.storage import Storage
from .report import Listener

CORRECTIONS = " corrections"
"""What the land stream of corrections is called among those of sources, which have no such name."""


class TableWriter(Protocol):
    """What refine needs of a sink's writer beyond core.Writer."""

    tables: Mapping[str, Table]
    snapshots: Mapping[str, Snapshot]

    @property
    def epoch(self) -> int: ...

    def write(
        self,
        parts: Sequence[tuple[Write, Frame]],
        commit: Commit,
        approve: Any = None,
        bases: Mapping[str, TableAt] | None = None,
    ) -> Sequence[Written]: ...


class TableSink(Protocol):
    def open(self, tables: Sequence[str], stream: str) -> TableWriter: ...
    def table(self, name: str) -> Table: ...


class Refined(Protocol):
    """What is written by one refine stream: a table, or the windows of a stream."""

    @property
    def name(self) -> str: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def streams(self) -> Mapping[str, LandLog]: ...


@dataclass(frozen=True)
class Refinery:
    """One table and all that its refinement needs. `lands` are the logs of its sources, by source name."""

    name: str
    spec: TableSpec
    lands: Mapping[str, LandLog]
    storage: Storage
    engine: Engine
    sink: TableSink
    scratch: Path
    listener: Listener
    code: str = ""
    """Hash of the project's Python steps."""
    versions: Mapping[str, str] = field(default_factory=dict)
    corrections: LandLog | None = None
    """The land stream of corrections of this table's bad rows."""
    run_id: str = ""
    again: str = ""
    """Of a backfill that refines objects once more: which window, and how far it has come."""

    @property
    def streams(self) -> dict[str, LandLog]:
        """All land streams that are read."""
        return {**self.lands, **({CORRECTIONS: self.corrections} if self.corrections else {})}

    @property
    def stream(self) -> str:
        return f"headrace:{self.name}"

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.spec, self.code)

    def outputs(self, spec: TableSpec) -> list[str]:
        """All tables of this stream in commit order; the first decides whether an epoch must be finished."""
        history = [f"silver.{self.name}_history"] if spec.history else []
        return [f"quarantine.{self.name}", f"silver.{self.name}", *history]


def fingerprint_of(spec: TableSpec, code: str) -> str:
    """Equal for equal settings and code, whatever their words say: a change computes the table anew."""
    text = json.dumps(essence(spec), sort_keys=True) + code
    return hashlib.sha256(text.encode()).hexdigest()
