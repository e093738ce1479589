"""From files to a `Project`, or to one error that names every problem with its line and its fix."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import ConfigError
from .checks import problems as check
from .document import Document, Mark, Unreadable, read
from .explain import Shown, explain, report, settings_problems, target_problems
from .following import following
from .pipeline import PipelineConfig, SourceSpec
from .problem import Path as KeyPath
from .problem import Problem, suggest
from .project import Project
from .references import Resolved, Surroundings, resolve

FILE = "pipeline.yml"
T = TypeVar("T")


@dataclass
class _Definition:
    """What was read so far: the merged document, where its parts stand, and what is wrong with it."""

    value: dict[str, Any]
    marks: dict[KeyPath, Mark]
    found: list[Problem] = field(default_factory=list)
    resolved: dict[KeyPath, Resolved] = field(default_factory=dict)

    def error(self) -> ConfigError:
        return report(self.found, Shown(self.marks), self.resolved)


def load(path: Path | str = ".", env: str | None = None, environ: Mapping[str, str] = os.environ) -> Project:
    """The project at `path` (a pipeline file, or a folder with `pipeline.yml`) for environment `env`.

    Nothing in it is wrong that can be known without data: else raises one `ConfigError` with all problems.
    `env` defaults to HEADRACE_ENV; without either the file counts as it stands.
    """
    file = _find(Path(path))
    called = file.name if Path(path).is_dir() or Path(path).is_absolute() else str(path)
    env = env or environ.get("HEADRACE_ENV") or None
    definition = _read(file, called)
    _overlay(definition, file, env)
    around = Surroundings(environ, file.parent)
    _inline_contracts(definition, around)
    definition.value, definition.resolved, unresolved = resolve(definition.value, around)
    definition.found += unresolved
    config = _validate(definition)
    unsettled = {p.at for p in unresolved}
    more = list(check(config)) if config else []
    more += settings_problems(_sources(definition.value), file.parent)
    if config:
        more += target_problems(config, file.parent)
        config, changing = following(config, _sources(definition.value), file.parent)
        more += changing
    definition.found += [p for p in more if p.at not in unsettled]
    if definition.found or not config:
        raise definition.error()
    ids = {name: source.id or name for name, source in config.sources.items()}

    shown = Shown(_under_ids(definition.marks, ids))
    return Project(config.by_id(), file.parent, file, env, _under_ids(definition.resolved, ids), shown)


def _under_ids(facts: Mapping[KeyPath, T], ids: Mapping[str, str]) -> dict[KeyPath, T]:
    """What is known of places in the file, with sources called by their ids."""
    named = {}
    for at, fact in facts.items():
        inside = at[:1] == ("sources",) and len(at) > 1
        named[("sources", ids.get(str(at[1]), at[1]), *at[2:]) if inside else at] = fact
    return named


def _find(path: Path) -> Path:
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        where = f"`{path}` has no {FILE}" if path.is_dir() else f"`{path}` does not exist"
        raise ConfigError(where, hint="make a project with `headrace init`, or name the pipeline file")
    return file.resolve()


def _read(file: Path, shown: str) -> _Definition:
    try:
        document = read(file, shown)
    except Unreadable as error:
        raise ConfigError(error.message, hint=error.hint, where=str(error.mark)) from None
    if not isinstance(document.value, dict):
        hint = "start with `name: …`"
        if file.suffix not in (".yml", ".yaml"):
            hint = f"is this data? `headrace init NAME --from {shown}` makes a pipeline for it"
        raise ConfigError("a pipeline is `key: value` lines", hint=hint, where=f"{shown}:1")
    if "columns" in document.value and not {"sources", "tables"} & set(document.value):
        hint = f"name the pipeline file whose table says `contract: {file.name}`, or its folder"
        raise ConfigError("this is a contract, not a pipeline", hint=hint, where=f"{shown}:1")
    return _Definition(document.value, dict(document.marks))


def _overlay(definition: _Definition, file: Path, env: str | None) -> None:
    """Lays the chosen environment over the base, deeply; an empty value takes a key away."""
    inline = definition.value.pop("environments", None)
    if inline is not None and not (
        isinstance(inline, dict) and all(isinstance(part, dict) for part in inline.values())
    ):
        at: KeyPath = ("environments",)
        definition.found.append(
            Problem(
                at, "`environments` has names with settings below", "such as `{prod: {lake: /data/lake}}`"
            )
        )
        raise definition.error()
    inline = inline or {}
    beside = {
        other.name[len(file.stem) + 1 : -len(file.suffix)]: other
        for other in sorted(file.parent.glob(f"{file.stem}.*{file.suffix}"))
    }
    if env is None:
        return
    known = sorted({*inline, *beside})
    if env not in known:
        hint = suggest(env, known, "environments") if known else f"add `environments: {{{env}: …}}`"
        raise ConfigError(f"environment `{env}` is not defined", hint=hint, where=file.name)
    if env in inline:
        under = ("environments", env)
        marks = {at[2:]: mark for at, mark in definition.marks.items() if at[:2] == under}
        _merge(definition, Document(inline[env], marks))
    if env in beside:
        over = _read(beside[env], beside[env].name)
        _merge(definition, Document(over.value, over.marks))


def _merge(definition: _Definition, over: Document) -> None:
    marks = definition.marks

    def merge(base: dict[str, Any], changes: dict[str, Any], at: KeyPath) -> None:
        for key, value in changes.items():
            place = (*at, key)
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                merge(base[key], value, place)
                continue
            for old in [mark for mark in marks if mark[: len(place)] == place]:
                del marks[old]
            if value is None:
                base.pop(key, None)
                continue
            base[key] = value
            marks.update({m: mark for m, mark in over.marks.items() if m[: len(place)] == place})

    merge(definition.value, over.value, ())


def _inline_contracts(definition: _Definition, around: Surroundings) -> None:
    """Puts the files that `contract:` names in their place, each value still knowing its own line."""
    tables = definition.value.get("tables")
    for name, table in tables.items() if isinstance(tables, dict) else ():
        if not isinstance(table, dict) or not isinstance(table.get("contract"), str):
            continue
        at: KeyPath = ("tables", name, "contract")
        path, _, unresolved = resolve(table["contract"], around)
        try:
            if unresolved:
                raise _Outside(unresolved[0].message, unresolved[0].hint)
            document = _contract(path, around.root)
        except Unreadable as error:
            definition.marks[at] = error.mark
            definition.found.append(Problem(at, error.message, error.hint))
        except _Outside as error:
            definition.found.append(Problem(at, *error.args))
        else:
            table["contract"] = document.value
            definition.marks.update({(*at, *place): mark for place, mark in document.marks.items()})


class _Outside(Exception):
    """A contract that is not to be had: message and hint."""


def _contract(path: str, root: Path) -> Document:
    shown = str(PurePosixPath(path))
    file = (root / path).resolve()
    if not file.is_relative_to(root.resolve()):
        raise _Outside(
            f"contract `{path}` lies outside the project", "contracts live beside the pipeline file"
        )
    if not file.is_file():
        others = [str(p.relative_to(root)) for p in sorted(root.glob("**/*.yml")) if p.name != FILE][:20]
        hint = suggest(path, others, "YAML files here") if others else f"write it: `{path}` beside {FILE}"
        raise _Outside(f"contract `{path}` does not exist", hint)
    document = read(file, shown)
    if not isinstance(document.value, dict):
        raise Unreadable(Mark(shown, 1), "a contract is `key: value` lines", "start with `columns:`")
    return document


def _validate(definition: _Definition) -> PipelineConfig | None:
    """The config, if its shape is right; else all that is wrong with it is noted."""
    broken = {p.at[1] for p in definition.found if p.at[:1] == ("tables",) and p.at[2:] == ("contract",)}
    value = dict(definition.value)
    if broken:
        value["tables"] = {name: table for name, table in value["tables"].items() if name not in broken}
    noted = {p.at for p in definition.found}
    try:
        return PipelineConfig.model_validate(value)
    except ValidationError as error:
        found = explain(error, PipelineConfig, value)
        # Without the tables that could not be read, what others say of them is not to be trusted.
        whole = any(detail["loc"] == () and detail["type"] == "headrace" for detail in error.errors())
        if not (broken and whole):
            definition.found += [p for p in found if p.at not in noted]
        if not whole:
            definition.found += _unknown_sources(value)
        return None


def _unknown_sources(value: dict[str, Any]) -> list[Problem]:
    """Sources that tables name but nobody defines, while the shape of something else is still wrong."""
    sources, tables = value.get("sources"), value.get("tables")
    if not isinstance(sources, dict) or not isinstance(tables, dict):
        return []
    found = []
    for name, table in tables.items():
        named = table.get("from") if isinstance(table, dict) else None
        for source in [named] if isinstance(named, str) else named if isinstance(named, list) else []:
            if isinstance(source, str) and source not in sources:
                message = f"from: source `{source}` is not defined"
                found.append(Problem(("tables", name, "from"), message, suggest(source, sources, "sources")))
    return found


def _sources(value: dict[str, Any]) -> dict[str, SourceSpec]:
    """The sources whose own shape is right; what is wrong with the others has been noted."""
    good: dict[str, SourceSpec] = {}
    sources = value.get("sources")
    for name, source in sources.items() if isinstance(sources, dict) else ():
        try:
            good[name] = SourceSpec.model_validate(source)
        except ValidationError:
            continue
    return good
