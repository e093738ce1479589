"""What differs between two definitions of a stream, and whether it breaks what readers of windows rely on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .change import Change
from .change_column import said
from .window import StreamSpec

_SETTINGS: Mapping[str, str] = {
    "given": "its rows are others",
    "window": "windows lie otherwise",
    "group_by": "other rows are put together",
    "where": "other rows count",
}


def stream_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """All differences between two definitions, as plans keep them: `stream`, `columns` and `soft`."""
    before, after = (StreamSpec.model_validate(item["stream"]) for item in (old, new))
    found = [*_columns(before, after), *_settings(before, after)]
    for name, kind in old["columns"].items():
        if (now := new["columns"].get(name)) and now != kind:
            how = f"{kind} → {now} in `{after.given}`"
            found.append(Change(f"column `{name}`", how, "values and types may differ", ("*",), rows=True))
    if old["soft"] != new["soft"]:
        how = f"deleted rows of `{after.given}` " + ("count" if new["soft"] else "do not count")
        found.append(Change("from", how, "other rows count", ("*",), rows=True))
    return found


def _columns(old: StreamSpec, new: StreamSpec) -> Iterator[Change]:
    for name, sql in old.select.items():
        what = f"column `{name}`"
        if name not in new.select:
            yield Change(what, "removed", "readers ask for it", (name,))
        elif new.select[name] != sql:
            yield Change(what, f"`{sql}` → `{new.select[name]}`", "its values are others", (name,))
    for name, sql in new.select.items():
        if name not in old.select:
            yield Change(f"column `{name}`", f"added, `{sql}`", "", (name,))


def _settings(old: StreamSpec, new: StreamSpec) -> Iterator[Change]:
    for setting, why in _SETTINGS.items():
        before, after = getattr(old, setting), getattr(new, setting)
        if before == after:
            continue
        what = {"given": "from"}.get(setting, setting)
        if setting != "window":
            yield Change(what, f"{said(before)} → {said(after)}", why, ("*",), rows=True)
            continue
        first, last = (item.model_dump(exclude_defaults=True) for item in (before, after))
        for key in {**first, **last}:
            if first.get(key) != last.get(key):
                how = f"{said(first.get(key))} → {said(last.get(key))}"
                only = key == "lateness"  # which moves nothing but what counts as closed
                yield Change(
                    f"window {key}", how, "" if only else why, ("closed",) if only else ("*",), rows=not only
                )
