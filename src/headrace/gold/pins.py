"""What a gold file was built from: the silver versions, the project's files and the variables.

The same facts are in the file itself (table `_headrace`). The note beside it lets a run see that nothing
changed without opening the file; it names the very file that it describes, so a lost or stale note only costs
a rebuild.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Pin = Mapping[str, str | int]
"""Of one silver table: `version`, `epoch`, `id`, as far as known."""

_PARTS = (".sql", ".yml", ".yaml", ".csv", ".md", ".py")
_SKIPPED = {"target", "logs", "dbt_packages", ".git"}


@dataclass(frozen=True, slots=True)
class Pins:
    silver: Mapping[str, Pin]
    project: str
    """Hash of the dbt project's files and the variables."""
    complete: bool = True
    """False if only a part was built (`select`)."""

    def rows(self) -> list[tuple[str, str]]:
        """Names and JSON values, as they stand in `_headrace`."""
        facts: dict[str, Any] = {f"silver.{name}": dict(pin) for name, pin in sorted(self.silver.items())}
        facts |= {"project": self.project, "complete": self.complete}
        return [(name, json.dumps(value, sort_keys=True)) for name, value in facts.items()]


def fingerprint(project: Path, variables: Mapping[str, Any]) -> str:
    """Changes when a file of the project or a variable does, whatever the clock says."""
    digest = hashlib.sha256(json.dumps(dict(variables), sort_keys=True, default=str).encode())
    for folder, folders, names in os.walk(project):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        for name in sorted(names):
            if name.endswith(_PARTS):
                path = Path(folder, name)
                digest.update(f"\0{path.relative_to(project)}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def pinned(database: Path) -> Pins | None:
    """What the gold file was built from; None if there is none, or if its note is not about this file."""
    try:
        note = json.loads(_note(database).read_text())
        if note["file"] != _identity(database):
            return None
        return Pins(note["silver"], note["project"], note["complete"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pin(database: Path, pins: Pins) -> None:
    """Notes what the file that is there now was built from."""
    path = _note(database)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"file": _identity(database), **asdict(pins)}, sort_keys=True))
    draft.replace(path)


def went_back(old: Pins, new: Pins) -> bool:
    """True if a table is another one or older than before: increments would then keep what is gone."""
    for name, before in old.silver.items():
        now = new.silver.get(name, {})
        if before.get("id") != now.get("id"):
            return True
        for number in ("version", "epoch"):
            if int(now.get(number, -1)) < int(before.get(number, -1)):
                return True
    return False


def _note(database: Path) -> Path:
    return database.with_name(f".{database.name}.pins")


def _identity(database: Path) -> list[int]:
    stat = database.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
