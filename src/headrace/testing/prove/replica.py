"""A copy of a project in a scratch directory: its definition, and the data that it reads; never its lake."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...sources.files import Files
from ...sources.listing import base_of, listed
from ...spec.document import read
from ...spec.load import load
from ...spec.project import Project

SMALL = 1 << 20
"""Bytes: files of the project up to this size are taken for its definition."""
SKIPPED = {"__pycache__", "target", "logs", "node_modules"}
ENV = "prove"


@dataclass(frozen=True)
class Replica:
    """A project that may be hurt. `inputs` are paths relative to `root`, in their order of arrival."""

    root: Path
    file: Path
    env: str
    held: Path
    """Where inputs wait that have not arrived."""
    inputs: Sequence[str]
    first: frozenset[str] = frozenset()
    """Inputs that others refer to: they are there from the start."""
    ordered: Sequence[str] = ()
    """Tables whose outcome depends on the order of arrival, by their own definition."""
    variables: Mapping[str, str] = field(default_factory=dict)
    targets: Sequence[str] = ()
    """External targets of the pipeline, which the copy does without."""

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    def load(self) -> Project:
        return load(self.file, self.env)

    def hold(self, names: Sequence[str]) -> None:
        _move(self.root, self.held, names)

    def place(self, names: Sequence[str]) -> None:
        _move(self.held, self.root, names)

    @property
    def here(self) -> list[str]:
        return [name for name in self.inputs if (self.root / name).exists()]


def _move(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).rename(target / name)


def replicate(project: Project, into: Path) -> Replica:
    """Copies definition and data of `project` to `into`; the copy keeps its lake, catalog and all to itself.

    Sources of other types than files are replaced by files that they have landed. Alerts and targets are left
    out, and waits are cut short. Raises `ConfigError` if there is nothing to read.
    """
    root, file = into / "project", project.file
    if file is None:
        raise ConfigError("prove needs a pipeline file", hint="write the definition as pipeline.yml")
    into.mkdir(parents=True, exist_ok=True)
    overrides: dict[str, Any] = {}
    arrived: dict[str, tuple[int, str]] = {}
    first: set[str] = set()
    referred = _referred(project)
    for name in project.config.sources:
        settings, copies = _copied(project, name, root)
        overrides[name] = settings
        arrived.update((path, arrived.get(path, order)) for path, order in copies.items())
        first |= set(copies) if name in referred else set()
    if not arrived:
        raise ConfigError("the sources have no files: nothing can be proved", hint="give the pipeline data")
    _definition(project, root, set(arrived))
    env = project.env or ENV
    _overlay(project, root / file.name, env, overrides)
    inputs = sorted(arrived, key=lambda path: (path not in first, arrived[path]))
    ordered = [
        name for name, table in project.config.tables.items() if table.key_columns and not table.latest_by
    ]
    ordered = [name for name in ordered if list(project.config.tables[name].keys) != ["*"]]
    return Replica(
        root,
        root / file.name,
        env,
        into / "held",
        inputs,
        frozenset(first),
        ordered,
        targets=list(project.config.targets),
    )


def _referred(project: Project) -> set[str]:
    """Sources of tables that others have foreign keys to."""
    tables = project.config.tables
    wanted = {
        column.references.partition(".")[0]
        for table in tables.values()
        for column in table.contract.columns.values()
        if column.references
    }
    return {source for name in wanted for source in tables[name].source}


def _copied(project: Project, name: str, root: Path) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """What the overlay says of source `name`, and its copied files: path → place in the order of arrival."""
    source = project.source(name)
    if not isinstance(source, Files) or source.remote:
        return _replayed(project, name, root)
    copies: dict[str, tuple[int, str]] = {}
    patterns = []
    for place, pattern in enumerate(source.path):
        base = base_of(source.root, pattern)
        inside = not Path(pattern).is_absolute() and base.is_relative_to(project.root)
        target = base.relative_to(project.root) if inside else Path("inputs", name, str(place))
        whole = Path(os.path.normpath(source.root.absolute() / pattern))
        folder = whole.is_dir()
        patterns.append(
            pattern if inside else (target / (whole.name if folder else whole.relative_to(base))).as_posix()
        )
        (root / target).mkdir(parents=True, exist_ok=True)
        try:
            entries = list(listed(source.root, pattern, source.ignore, follow_links=source.follow_links))
        except FileNotFoundError:
            entries = []
        for entry in entries:
            if entry.escapes and not source.follow_links:
                continue
            path = (target / entry.path.relative_to(base)).as_posix()
            _copy(entry.path, root / path)
            by_time = source.order == "mtime"
            copies[path] = (entry.signature["mtime_ns"] if by_time else 0, entry.name)
    return {"path": patterns, "settle": 0}, copies


def _replayed(project: Project, name: str, root: Path) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """What a source of another type has landed so far, as files."""
    from ...run.opened import open_storage
    from ...store.records import LandLog

    spec = project.source_spec(name)
    hint = "`headrace run` it first: a proof reads what it has landed, not the system itself"
    if not project.lake.exists():
        raise ConfigError(f"source `{name}` ({spec.type}) has landed nothing yet", hint=hint)
    storage = open_storage(project)
    log = LandLog(storage, project.stream(name))
    copies = {}
    for epoch, item in log.objects(-1, log.epoch):
        path = f"inputs/{name}/{epoch:09d}-{item.key.rsplit('/', 1)[-1][33:]}"
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with storage.open(item.key) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        copies[path] = (epoch, path)
    if not copies:
        raise ConfigError(f"source `{name}` ({spec.type}) has landed nothing yet", hint=hint)
    gone = dict.fromkeys(spec.settings)
    return {**gone, "type": "files", "path": [f"inputs/{name}/*"]}, copies


def _copy(source: Path, target: Path) -> None:
    """A copy of its own: a hard link would change the original's times, and its pipeline would notice."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    target.chmod(0o644)


def _definition(project: Project, root: Path, inputs: set[str]) -> None:
    """Copies what the pipeline is defined by: small files, and all of its dbt project."""
    assert project.file is not None
    dbt = (project.root / project.config.gold.dbt).resolve() if project.config.gold else None
    for path in _walk(project.root, project.lake):
        relative = path.relative_to(project.root).as_posix()
        of_dbt = dbt is not None and path.is_relative_to(dbt)
        if relative not in inputs and (of_dbt or path.stat().st_size <= SMALL):
            _copy(path, root / relative)


def _walk(root: Path, lake: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in SKIPPED
            and (here / name).resolve() != lake
            and not (here / name / "pyvenv.cfg").exists()
        ]
        yield from (here / name for name in names if (here / name).is_file())


def _overlay(project: Project, file: Path, env: str, sources: Mapping[str, Any]) -> None:
    """Writes the environment `env` beside the copy: the project's own, and over it what a trial needs."""
    path = file.with_name(f"{file.stem}.{env}{file.suffix}")
    ours: dict[str, Any] = {
        "lake": "lake",
        "catalog": None,
        "schedule": None,
        "monitoring": None,
        "retry": {"attempts": 2, "base": 0.05},
        "sources": dict(sources),
        # what is outside must not learn of trials
        "targets": None,
        "tables": {name: {"to": None} for name, table in project.config.tables.items() if table.to},
        "streams": {name: {"to": None} for name in project.config.streams if project.config.published[name]},
    }
    gold = project.config.gold
    if gold and not (project.root / gold.dbt).resolve().is_relative_to(project.root):
        ours["gold"] = {"dbt": str((project.root / gold.dbt).resolve())}
    theirs = read(path, path.name).value if path.exists() else {}
    path.write_text(json.dumps(_merged(theirs or {}, ours), indent=1))


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result
