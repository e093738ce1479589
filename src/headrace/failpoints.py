"""Named places where a test may kill, fail or pause the program. Costs one dictionary look-up when off.

`HEADRACE_FAILPOINTS="land.record=kill;refine.done=error@3;sink.commit=pause"`: the action is taken the
first time (or, with `@n`, the n-th time) that the place is reached. `kill` is SIGKILL to ourselves: no
handler, no buffer flushed, as in a power cut of the process. `pause` is SIGSTOP.
"""

from __future__ import annotations

import os
import signal
from threading import Lock, get_ident

from .errors import SystemFault

PLACES = (
    "land.copied",
    "land.synced",
    "land.record",
    "land.acknowledged",
    "refine.planned",
    "refine.computed",
    "refine.written",
    "sink.files",
    "sink.commit",
    "refine.outputs",
    "refine.done",
    "publish.computed",
    "publish.merged",
    "publish.committed",
    "gold.built",
    "gold.published",
    "expire.based",
    "expire.record",
    "expire.deleted",
    "maintain.files",
    "maintain.commit",
    "maintain.fenced",
    "maintain.deleted",
    "maintain.checkpoint",
    "restore.planned",
    "restore.commit",
    "restore.done",
    "backup.copied",
    "backup.records",
    "forget.rewritten",
    "forget.record",
    "forget.table",
    "forget.deleted",
)
"""Every place: those of a run in its order, then those of what is done to a lake besides."""


def _parse(text: str) -> dict[str, tuple[str, int]]:
    armed: dict[str, tuple[str, int]] = {}
    for item in filter(None, text.split(";")):
        name, _, action = item.partition("=")
        action, _, nth = action.partition("@")
        if name not in PLACES or action not in ("kill", "error", "pause"):
            raise ValueError(f"failpoint `{item}`: known places are {', '.join(PLACES)}")
        armed[name] = (action, int(nth or 1))
    return armed


_armed = _parse(os.environ.get("HEADRACE_FAILPOINTS", ""))
_lock = Lock()


def reach(place: str) -> None:
    """Does what is armed for `place`, once; nothing if it is not armed."""
    if place not in _armed:
        return
    with _lock:
        action, left = _armed[place]
        if left > 1:
            _armed[place] = (action, left - 1)
            return
        del _armed[place]
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "pause":
        # To this thread, which so goes no step further: one that is sent to the process may stop another
        # thread first, and leave this one its time to commit.
        signal.pthread_kill(get_ident(), signal.SIGSTOP)
    else:
        raise SystemFault(f"failpoint {place}: injected error")
