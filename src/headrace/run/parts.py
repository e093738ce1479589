"""The parts a run is built of, by name: entry points, so that nothing here knows a connector."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..errors import ConfigError
from ..spec.pipeline import TableSpec
from ..spec.project import Project
from ..store.records import LandLog
from ..store.storage import LocalStorage
from .corrected import corrections_log
from .refinery import Refinery
from .report import Listener


@cache  # every table asks, and a look-up reads the metadata of all installed packages
def part(kind: Literal["engines", "sinks"], name: str) -> Any:
    """What is registered as `name` in the entry point group `headrace.<kind>`."""
    found = entry_points(group=f"headrace.{kind}", name=name)
    if not found:
        known = ", ".join(sorted(point.name for point in entry_points(group=f"headrace.{kind}")))
        raise ConfigError(f"{kind[:-1]} `{name}` is not known", hint=f"{kind}: {known or 'none installed'}")
    return next(iter(found)).load()


def lands_of(spec: TableSpec, log: Callable[[str], LandLog]) -> dict[str, LandLog]:
    """The land streams of a table by source, each telling only of what the table reads."""
    return {source: log(source).of(spec.tables_of(source)) for source in spec.source}


def engine_of(project: Project, scratch: Path) -> Any:
    """An engine of its own for one task; to be closed by whoever asks."""
    config = project.config
    return part("engines", "duckdb")(
        scratch,
        config.memory,
        pii_key=config.pii_key.encode() if config.pii_key else None,
        project=project.root,
        shares=min(config.parallel, len(config.tables) + len(config.streams)),
    )


@contextmanager
def refinery(
    project: Project,
    name: str,
    storage: LocalStorage,
    lands: Mapping[str, LandLog],
    scratch: Path,
    listener: Listener,
) -> Iterator[Refinery]:
    """Table `name` with an engine of its own, which is closed when the block ends."""
    config = project.config
    code = code_of(project, config.tables[name])
    with engine_of(project, scratch) as engine:
        yield Refinery(
            name,
            config.tables[name],
            lands,
            storage,
            engine,
            part("sinks", "delta")(project.lake, engine),
            scratch,
            listener,
            code,
            {"headrace": __version__, **engine.versions, **({"steps": code} if code else {})},
            corrections_log(storage, name),
        )


def code_of(project: Project, spec: TableSpec) -> str:
    """Hash of what shapes the table beside its spec: its Python steps' files, and the key of its masks."""
    parts: list[bytes] = []
    for step in spec.steps:
        module = (step.processor or step.validator or "").partition(":")[0]
        path = project.root.joinpath(*module.split(".")).with_suffix(".py")
        parts.append(path.read_bytes() if path.exists() else module.encode())
    if any(column.mask in ("hash", "encrypt") for column in spec.contract.columns.values()):
        key = (project.config.pii_key or "").encode()
        parts.append(hmac.digest(key, b"headrace: which key masked this table", "sha256"))
    return hashlib.sha256(b"\0".join(parts)).hexdigest() if parts else ""
