"""A project: a checked pipeline, where it lies, and the connectors that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core import Source, Target
from ..errors import ConfigError
from . import references, registry
from .checks import problems
from .explain import Shown, report, settings_problems, target_problems
from .following import following
from .pipeline import PipelineConfig, SourceSpec
from .problem import Path as KeyPath
from .problem import suggest


@dataclass(frozen=True)
class Project:
    """A pipeline that has passed every check which needs no data; nothing runs without one."""

    config: PipelineConfig = field(repr=False)
    root: Path
    """The folder of the pipeline file; relative paths start here."""
    file: Path | None = None
    env: str | None = None
    resolved: Mapping[KeyPath, references.Resolved] = field(default_factory=dict, repr=False)
    shown: Shown = field(default_factory=Shown, repr=False)
    """Which line each part of the definition stands in, for errors found later."""

    @classmethod
    def of(cls, config: PipelineConfig, root: Path | str = ".") -> Project:
        """A project from models written in Python; raises `ConfigError` with every problem."""
        root = Path(root).resolve()
        found = [*problems(config), *settings_problems(config.sources, root), *target_problems(config, root)]
        config, more = following(config, config.sources, root)
        found += more
        project = cls(config.by_id(), root)
        if found:
            raise report(found, project.shown, {})
        return project

    @property
    def lake(self) -> Path:
        return (self.root / Path(self.config.lake).expanduser()).resolve()

    @property
    def public(self) -> dict[str, Any]:
        """The whole configuration as JSON values, secrets shown as their references or `***`."""
        dumped = self.config.model_dump(mode="json", by_alias=True)
        shown: dict[str, Any] = references.public(dumped, self.resolved)
        return shown

    @property
    def fingerprint(self) -> str:
        """sha256 of `public`: equal for equal definitions, however they are written; free of secrets."""
        text = json.dumps(self.public, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def secrets(self) -> frozenset[str]:
        """Values that must never be seen, for whoever writes logs."""
        return references.secrets(self.config.model_dump(mode="json", by_alias=True), self.resolved)

    def source_spec(self, name: str) -> SourceSpec:
        if name not in self.config.sources:
            hint = suggest(name, self.config.sources, "sources")
            raise ConfigError(f"source `{name}` is not defined", hint=hint)
        return self.config.sources[name]

    def source(self, name: str) -> Source:
        """The connector of source `name`, with its settings checked."""
        spec = self.source_spec(name)
        made: Source = registry.connector(spec.type).model_validate(
            {**spec.settings, "name": name, "root": str(self.root)}
        )
        return made

    def target(self, name: str) -> Target:
        """The connector of target `name`, with its settings checked."""
        if name not in self.config.targets:
            hint = suggest(name, self.config.targets, "targets")
            raise ConfigError(f"target `{name}` is not defined", hint=hint)
        spec = self.config.targets[name]
        made: Target = registry.connector(spec.type, "target").model_validate(
            {**spec.settings, "name": name, "root": str(self.root)}
        )
        return made

    def stream(self, name: str) -> str:
        """The stable id of source `name`'s land stream: renaming its key does not change a given id."""
        return self.source_spec(name).id or name
