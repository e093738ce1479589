"""Connectors by their `type`: entry points of the group `headrace.sources`; nothing above names one."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..errors import ConfigError, MissingExtra
from .problem import suggest

GROUP = "headrace.sources"


@cache
def _known() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def connector(kind: str) -> type[Any]:
    """The connector class of `kind`, a pydantic model that is a `core.Source`.

    Raises `ConfigError` for an unknown kind and `MissingExtra` if its driver is not installed.
    """
    known = _known()
    if kind not in known:
        raise ConfigError(f"source type `{kind}` is not known", hint=suggest(kind, sorted(known), "types"))
    point = known[kind]
    try:
        loaded: type[Any] = point.load()
    except ModuleNotFoundError as error:
        driver = (error.name or "").partition(".")[0]
        if driver == point.module.partition(".")[0]:
            raise
        extra = point.extras[0] if point.extras else kind
        package = point.dist.name if point.dist else "headrace"
        raise MissingExtra(
            f"source type `{kind}` needs `{driver}`, which is not installed",
            hint=f"pip install '{package}[{extra}]'",
        ) from error
    return loaded
