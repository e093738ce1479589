"""What the user's configuration asks of an inspection, and what an inspection finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Kind = Literal["auto", "csv", "jsonl", "json", "parquet", "avro", "xlsx", "text"]
OrRefuse = Literal["refuse", "accept"]
Envelope = Literal["headrace", "debezium"]


@dataclass(frozen=True, slots=True)
class How:
    """Overrides of what would be detected, and the policies for suspicious files."""

    format: Kind = "auto"
    delimiter: str | None = None
    quote: str | None = None
    """"" means that nothing quotes."""
    encoding: str | None = None
    header: bool | tuple[str, ...] | None = None
    """A tuple names the columns of a file that has no header line."""
    skip: int | None = None
    footer: int | None = None
    empty: OrRefuse = "refuse"
    truncated: OrRefuse = "refuse"
    shrunk: OrRefuse = "refuse"
    min_ratio: float = 0.1
    envelope: Envelope | None = None
    """The records are changes, each in such an envelope."""


@dataclass(frozen=True, slots=True)
class Found:
    format: Mapping[str, Any]
    rows: int | None
    """Records, where they could be counted without a parser."""
    empty: bool
    """No record at all, whatever else the file holds."""
    cut: str | None = None
    """Why the file is surely cut off in the middle of a record."""


class Scan(Protocol):
    """Learns about one kind of content from its bytes, fed in order."""

    def feed(self, data: bytes) -> None: ...

    def finish(self) -> Found: ...
