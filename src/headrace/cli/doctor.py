"""`headrace doctor`: looks, changes nothing, and gives each finding its fix."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .. import __version__
from ..errors import HeadraceError

if TYPE_CHECKING:
    from ..spec.project import Project
    from ..store.storage import LocalStorage

EXTRAS = {
    "gold": ("dbt-core", "dbt-duckdb"),
    "crypto": ("cryptography",),
    "formats": ("fastavro", "zstandard", "python-calamine"),
    "s3": ("botocore",),
    "sftp": ("paramiko",),
    "vault": ("hvac",),
    "aws": ("botocore",),
    "gcp": ("google-cloud-secret-manager",),
    "postgres": ("psycopg",),
}
PARTS = (
    "duckdb",
    "deltalake",
    "headrace.run.runner",
    "headrace.engines.duckdb",
    "headrace.sinks.delta",
    "headrace.sources.files",
)
LOW, VERY_LOW = 5 << 30, 500 << 20
"""Bytes of free disk below which a run may, and will, fail."""


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    level: Literal["ok", "warn", "fail"]
    message: str
    hint: str = ""


def examine(path: Path, env: str | None) -> list[Finding]:
    """All findings: of the installation, and of the project at `path` if there is one."""
    findings = [*_installation()]
    if not path.exists() or (path.is_dir() and not (path / "pipeline.yml").exists()):
        hint = "go to a project's folder or give --path; `headrace init` makes one"
        return [*findings, Finding("project", "warn", f"no pipeline.yml in {path.resolve()}", hint)]
    from ..spec.load import load

    try:
        project = load(path, env)
    except HeadraceError as error:
        first, *rest = str(error).splitlines()
        return [*findings, Finding("project", "fail", first, "\n".join(rest).removeprefix("hint: "))]
    findings.append(Finding("project", "ok", f"{project.config.name} ({project.file or project.root})"))
    return [*findings, *_writable(project), *_disk(project), *_lake(project), *_targets(project)]


def report(findings: list[Finding], *, as_json: bool) -> str:
    if as_json:
        return json.dumps([asdict(finding) for finding in findings])
    width = max(len(finding.what) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4}  {finding.what:<{width}}  {finding.message}")
        lines += [f"      {'':<{width}}  hint: {finding.hint}"] if finding.hint else []
    return "\n".join(lines)


def _installation() -> Iterator[Finding]:
    yield Finding("headrace", "ok", __version__)
    yield Finding("python", "ok", platform.python_version())
    for name in ("duckdb", "deltalake"):
        if known := _version(name):
            yield Finding(name, "ok", known)
        else:
            yield Finding(name, "fail", "not installed", "pip install headrace")
    yield _runnable()
    for extra, packages in EXTRAS.items():
        found = {package: _version(package) for package in packages}
        missing = [package for package, known in found.items() if known is None]
        if missing:
            hint = f"if you need it: pip install 'headrace[{extra}]'"
            yield Finding(f"extra {extra}", "warn", f"{', '.join(missing)} not installed", hint)
        else:
            told = ", ".join(f"{package} {known}" for package, known in found.items())
            yield Finding(f"extra {extra}", "ok", told)


def _runnable() -> Finding:
    """Whether all that a run needs can be imported: a package may be there and yet not work."""
    for module in PARTS:
        try:
            import_module(module)
        except Exception as error:  # a broken package fails in ways of its own
            first = (str(error).splitlines() or [""])[0]
            told = f"{module} cannot be imported: {type(error).__name__}: {first}"
            return Finding("runner", "fail", told, "pip install --force-reinstall headrace")
    return Finding("runner", "ok", "can be imported, with its engine and tables")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _writable(project: Project) -> Iterator[Finding]:
    place = _existing(project.lake)
    if not os.access(place, os.W_OK | os.X_OK):
        hint = "change its owner, or `lake:` in the pipeline"
        yield Finding("lake", "fail", f"{place} cannot be written", hint)
    elif project.lake.exists():
        yield Finding("lake", "ok", str(project.lake))
    else:
        yield Finding("lake", "ok", f"{project.lake} (comes with the first run)")


def _disk(project: Project) -> Iterator[Finding]:
    free = shutil.disk_usage(_existing(project.lake)).free
    told = f"{free / (1 << 30):,.1f} GiB free"
    level: Literal["ok", "warn", "fail"] = "ok" if free >= LOW else "warn" if free >= VERY_LOW else "fail"
    yield Finding("disk", level, told, "" if level == "ok" else f"make room where {project.lake} lies")


def _lake(project: Project) -> Iterator[Finding]:
    """What lies in the lake; a missing one is no fault, and nothing is made or mended here."""
    if not (project.lake / "_headrace" / "format.json").exists():
        return
    from ..run.opened import open_storage

    try:
        storage = open_storage(project)
    except HeadraceError as error:
        yield _failed("format", error)
        return
    yield Finding("format", "ok", "known to this version")
    for name in project.config.sources:
        yield _checked(f"source {name}", partial(_landed, project, storage, name))
    for name in (*project.config.tables, *project.config.streams):
        yield _checked(f"table {name}", partial(_refined, project, storage, name))
    yield from _leftovers(project)
    yield from _catalog(project)


def _targets(project: Project) -> Iterator[Finding]:
    """Whether each target answers, and lets us do what publishing needs; nothing is made there."""

    def ask(name: str) -> Finding:
        return Finding(f"target {name}", "ok", project.target(name).check())

    for name in project.config.targets:
        yield _checked(f"target {name}", partial(ask, name))


def _checked(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except HeadraceError as error:
        return _failed(what, error)


def _failed(what: str, error: HeadraceError) -> Finding:
    where = f"{error.where}: " if error.where else ""
    return Finding(what, "fail", where + error.message, error.hint or "")


def _landed(project: Project, storage: LocalStorage, name: str) -> Finding:
    from ..store.base import expired
    from ..store.records import LandLog

    log = LandLog(storage, project.stream(name))
    gone = expired(storage)
    objects = [item for epoch, item in log.objects(-1, log.epoch) if not gone.lacks(log.stream, epoch, item)]
    lost = [item for item in objects if not storage.path(item.key).exists()]
    if lost:
        told = f"{len(lost)} of {len(objects)} objects of bronze are gone, such as {lost[0].key}"
        return Finding(f"source {name}", "fail", told, "restore them from a backup")
    size = sum(item.bytes for item in objects) / 1e6
    return Finding(f"source {name}", "ok", f"{len(objects):,} objects, {size:,.1f} MB, records are whole")


def _refined(project: Project, storage: LocalStorage, name: str) -> Finding:
    from ..store.delta import Table
    from ..store.records import RefineLog

    what, log = f"table {name}", RefineLog(storage, name)
    table = Table(project.lake / "silver" / name, f"silver.{name}")
    silver = table.snapshot(f"headrace:{name}")
    told = f"epoch {log.epoch}, version {silver.at.version}" if log.last else "not refined yet"
    hint = "docs/operations.md, When a table is refused"
    known = int(log.last.outputs[f"silver.{name}"]["version"]) if log.last else -1
    if log.last and (others := table.foreign(known, silver.at.version)):
        return Finding(what, "fail", f"{told}; version {others[0]} was committed by somebody else", hint)
    if plans := log.open_plans():
        cure = "headrace run finishes it, or plans anew"
        return Finding(what, "warn", f"{told}; epoch {plans[-1].next} was planned and not finished", cure)
    if silver.txn != log.epoch:
        return Finding(what, "fail", f"{told}, but the table is at epoch {silver.txn}", hint)
    return Finding(what, "ok", told)


def _leftovers(project: Project) -> Iterator[Finding]:
    scratch = project.lake / ".scratch"
    left = list(scratch.iterdir()) if scratch.exists() else []
    if left:
        size = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file()) / 1e6
        hint = "a run at work needs them; the next run removes those of a killed one"
        yield Finding("scratch", "warn", f"{len(left)} folders, {size:,.1f} MB", hint)


def _catalog(project: Project) -> Iterator[Finding]:
    from ..catalog.database import frozen

    path = project.lake / "catalog.db"
    if project.config.catalog is None:
        if not path.exists():
            yield Finding("catalog", "ok", "none yet; the next run makes it")
            return
        try:
            uri = f"{path.as_uri()}?mode=ro{'&immutable=1' if frozen(path) else ''}"
            with closing(sqlite3.connect(uri, uri=True)) as database:
                (verdict,) = database.execute("PRAGMA quick_check").fetchone()
        except sqlite3.DatabaseError as error:
            verdict = str(error)
        if verdict != "ok":
            hint = "nothing is lost: the next run moves it aside and makes a new one"
            yield Finding("catalog", "warn", f"{path}: {verdict}", hint)
            return
        yield Finding("catalog", "ok", f"{path.stat().st_size / 1e6:,.1f} MB")
        return
    from ..run.opened import open_catalog

    def ask() -> Finding:
        with open_catalog(project) as catalog:
            return Finding("catalog", "ok", f"answers; {len(catalog.runs(1000))} of the latest runs")

    yield _checked("catalog", ask)
