"""`headrace doctor`: looks, changes nothing, and gives each finding its fix."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .. import __version__
from ..errors import HeadraceError

if TYPE_CHECKING:
    from ..spec.project import Project

EXTRAS = {
    "gold": ("dbt-core", "dbt-duckdb"),
    "crypto": ("cryptography",),
    "formats": ("fastavro", "zstandard", "python-calamine"),
}
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
    return [*findings, *_writable(project), *_disk(project), *_lake(project)]


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
    for extra, packages in EXTRAS.items():
        found = {package: _version(package) for package in packages}
        missing = [package for package, known in found.items() if known is None]
        if missing:
            hint = f"if you need it: pip install 'headrace[{extra}]'"
            yield Finding(f"extra {extra}", "warn", f"{', '.join(missing)} not installed", hint)
        else:
            told = ", ".join(f"{package} {known}" for package, known in found.items())
            yield Finding(f"extra {extra}", "ok", told)


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
    if not project.lake.exists():
        return
    from ..run.inspect import health

    for item in health(project):
        yield Finding(item.what, item.level, item.message, item.hint)
