"""What waits at the sources, as far as it can be told without reading; and bronze as if it had landed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core import Landed, RawFile
from ..errors import HeadraceError
from ..spec.project import Project
from ..store.records import LandLog, LandRecord, utc
from .land import LandReading
from .opened import open_catalog


@dataclass(frozen=True, slots=True)
class Waiting:
    """Of one source: what its next read would land."""

    name: str
    new: int = 0
    changed: int = 0
    """Landed names that look different; equal content will not land again."""
    bytes: int = 0
    known: bool = True
    """False for a source that can only be read, not listed."""
    notes: Sequence[str] = ()
    """What would be refused or left alone, and why."""
    error: str = ""
    files: Sequence[RawFile] = field(default=(), repr=False)


def waiting(project: Project, name: str, land: LandLog) -> Waiting:
    """Lists source `name` without landing anything; its errors are in the answer, not raised."""
    reading = LandReading(land.newest(), _signatures(project, land.stream))
    try:
        listing = getattr(project.source(name), "listing", None)
        if listing is None:
            return Waiting(name, known=False)
        files: list[RawFile] = listing(reading)
    except HeadraceError as error:
        return Waiting(name, error=str(error), notes=_notes(reading))
    changed = sum(file.name in reading.newest for file in files)
    size = sum(file.size for file in files)
    return Waiting(name, len(files) - changed, changed, size, True, _notes(reading), files=files)


def _notes(reading: LandReading) -> list[str]:
    return [f"{kind}: {message}" for kind, _, message in reading.notes]


def as_if_landed(land: LandLog, files: Sequence[RawFile]) -> None:
    """Adds the files to `land` in memory, in the order in which they would land; nothing is written."""
    if not files:
        return
    objects = [
        Landed(f"{WILL_LAND}{file.name}", file.name, file.size, "", None, {}, arrived=utc()) for file in files
    ]
    land.records.append(LandRecord(land.stream, land.epoch + 1, land.end, objects, utc(), ""))


WILL_LAND = "(will land) "
"""Before the keys of objects that are not there yet."""


def _signatures(project: Project, stream: str) -> Mapping[str, tuple[Mapping[str, Any], str]]:
    local = project.config.catalog is None
    if local and not Path(project.lake, "catalog.db").exists():
        return {}
    with closing(open_catalog(project)) as catalog:
        return catalog.signatures(stream)
