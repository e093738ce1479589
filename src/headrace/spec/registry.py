"""Connectors by their `type`: entry points, so that nothing above names one."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from ..errors import ConfigError, MissingExtra
from .problem import suggest

Role = Literal["source", "target"]
GROUPS: dict[Role, str] = {"source": "headrace.sources", "target": "headrace.targets"}


@cache
def _known(role: Role) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUPS[role])}


def connector(kind: str, role: Role = "source") -> type[Any]:
    """The connector class of `kind`, a pydantic model that is a `core.Source` or a `core.Target`.

    Raises `ConfigError` for an unknown kind and `MissingExtra` if its driver is not installed.
    """
    known = _known(role)
    if kind not in known:
        raise ConfigError(f"{role} type `{kind}` is not known", hint=suggest(kind, sorted(known), "types"))
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
            f"{role} type `{kind}` needs `{driver}`, which is not installed",
            hint=f"pip install '{package}[{extra}]'",
        ) from error
    return loaded
