"""The parts a run is built of, by name: entry points, so that nothing here knows a connector."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Literal

from ..errors import ConfigError


def part(kind: Literal["engines", "sinks"], name: str) -> Any:
    """What is registered as `name` in the entry point group `headrace.<kind>`."""
    found = entry_points(group=f"headrace.{kind}", name=name)
    if not found:
        known = ", ".join(sorted(point.name for point in entry_points(group=f"headrace.{kind}")))
        raise ConfigError(f"{kind[:-1]} `{name}` is not known", hint=f"{kind}: {known or 'none installed'}")
    return next(iter(found)).load()
