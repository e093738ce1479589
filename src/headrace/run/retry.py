"""Calls again what failed for a passing reason, and nothing else."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from ..errors import classify

T = TypeVar("T")

LONGEST = 3600.0
"""Seconds: no single wait is longer, whatever the exponent or a server's `Retry-After` says."""


def delay(attempt: int, base: float, error: BaseException | None = None) -> float:
    """Seconds before retry `attempt` (from 0): base * 2^attempt + jitter in [0, base].

    An error's `retry_after` (seconds) is a lower bound: what a server asks for is honoured.
    """
    seconds = base * 2.0 ** min(attempt, 64) + random.uniform(0, base)
    asked = getattr(error, "retry_after", None)
    if isinstance(asked, (int, float)) and not isinstance(asked, bool) and not math.isnan(asked):
        seconds = max(seconds, float(asked))
    return min(seconds, LONGEST)


def retry(
    call: Callable[[], T],
    *,
    attempts: int = 3,
    base: float = 1.0,
    wait: Callable[[float], bool] | None = None,
    notify: Callable[[int, float, BaseException], None] | None = None,
) -> T:
    """Returns what `call` returns, or raises its last error; only transient errors are tried again.

    `attempts` counts the retries after the first call. `wait(seconds)` sleeps and is true if the work
    should stop instead of going on: `threading.Event.wait` is just that. `notify(attempt, seconds,
    error)` is told before each wait.

    >>> calls = []
    >>> def flaky():
    ...     calls.append(1)
    ...     if len(calls) < 3:
    ...         raise TimeoutError("no answer")
    ...     return "landed"
    >>> retry(flaky, base=0)
    'landed'
    >>> len(calls)
    3
    """
    wait = wait or Event().wait
    for attempt in range(attempts + 1):
        try:
            return call()
        except Exception as error:
            if classify(error) != "transient":
                raise
            if attempt == attempts:
                if attempts:
                    error.add_note(f"gave up after {attempts} retries")
                raise
            seconds = delay(attempt, base, error)
            if notify:
                notify(attempt + 1, seconds, error)
            if wait(seconds):
                error.add_note(f"stopped before retry {attempt + 1} of {attempts}")
                raise
    raise ValueError(f"attempts is 0 or more, not {attempts}")
