"""Progress of long work: bars with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, Task
    from rich.text import Text

    from ..run.report import Event

Listener = Callable[["Event"], None]

EVERY = 10.0
"""Seconds between two lines about the same task, off a terminal."""


@contextmanager
def progress(*, quiet: bool, out: TextIO | None = None) -> Iterator[Listener]:
    """A listener for the runner; writes to stderr, so that stdout holds the result alone."""
    out = out or sys.stderr
    if quiet:
        yield lambda _event: None
    elif out.isatty():
        with _bars(out) as listener:
            yield listener
    else:
        yield plain(out)


def plain(out: TextIO, clock: Callable[[], float] = time.monotonic) -> Listener:
    """One line for a retry, a note, and long work now and then; short work says nothing."""
    told: dict[str, tuple[float, float]] = {}
    lock = Lock()

    def listen(event: Event) -> None:
        now = clock()
        with lock:
            started, last = told.setdefault(event.task, (now, now))
            if event.kind in ("retry", "note"):
                print(f"{event.task}: {event.message}", file=out, flush=True)
            elif event.kind == "progress" and now - last >= EVERY:
                told[event.task] = (started, now)
                print(f"{event.task}: {amount(event, now - started)}", file=out, flush=True)
            elif event.kind == "end":
                told.pop(event.task, None)

    return listen


def amount(event: Event, seconds: float) -> str:
    """How much is done, how fast, and how long the rest will take if it goes on like this."""
    rate = event.done / seconds if seconds > 0 else 0.0
    parts = [f"{event.done:,}" + (f" of {event.total:,}" if event.total else "") + f" {event.unit}".rstrip()]
    if rate:
        parts.append(f"{rate:,.0f} {event.unit}/s".replace(" /s", "/s"))
    if event.total and rate:
        parts.append(f"{max(event.total - event.done, 0) / rate:.0f} s left")
    return ", ".join(parts)


@contextmanager
def _bars(out: TextIO) -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            unit = task.fields.get("unit", "")
            return Text(f"{int(task.completed):,} {unit}" + (f"  {speed:,.0f}/s" if speed else ""))

    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(file=out),
        transient=True,
    )
    with bars:
        yield _listen(bars)


def _listen(bars: Progress) -> Listener:
    tasks: dict[str, int] = {}
    lock = Lock()

    def listen(event: Event) -> None:
        from rich.progress import TaskID

        with lock:
            if event.task not in tasks:
                tasks[event.task] = bars.add_task(event.task, total=event.total, unit=event.unit)
            task = TaskID(tasks[event.task])
            if event.kind in ("retry", "note"):
                bars.console.print(f"{event.task}: {event.message}", markup=False, highlight=False)
            elif event.kind == "end":
                bars.remove_task(TaskID(tasks.pop(event.task)))
            else:
                bars.update(task, completed=event.done, total=event.total, unit=event.unit)

    return listen
