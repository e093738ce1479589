"""Stops calling a system that is down, and lets one call through now and then to see if it is back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar

from ..errors import CircuitOpen, classify

T = TypeVar("T")


@dataclass(slots=True)
class CircuitBreaker:
    """Refuses calls after `failure_threshold` failures in a row, until one probe succeeds; thread-safe.

    System errors, and transient ones that outlived their retries, count as failures. A data error shows
    that the system answers, so it counts as a success. A configuration error says nothing of the system.
    The clock is the wall clock because the state outlives the process (`state`, `restore`, `on_change`).
    """

    failure_threshold: int = 5
    recovery_timeout: float = 60.0
    """Seconds that an open circuit refuses calls before it lets one probe through."""
    name: str = ""
    clock: Callable[[], float] = time.time
    on_change: Callable[[Mapping[str, Any]], None] | None = None
    """Is given the new state after each change, so that a later process can `restore` it."""
    _failures: int = field(default=0, init=False)
    _opened: float | None = field(default=None, init=False)
    _reason: str = field(default="", init=False)
    _probing: bool = field(default=False, init=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.failure_threshold < 1 or self.recovery_timeout < 0:
            raise ValueError("failure_threshold is at least 1 and recovery_timeout at least 0 seconds")

    def call(self, func: Callable[[], T]) -> T:
        """Returns what `func` returns; raises `CircuitOpen` without calling it while the circuit is open."""
        with self._lock:
            probe = self._enter()
        try:
            value = func()
        except BaseException as error:
            self._leave(error, probe)
            raise
        self._leave(None, probe)
        return value

    def is_open(self) -> bool:
        """True if a call made now would be refused."""
        with self._lock:
            return self._opened is not None and (self._probing or self._remaining() > 0)

    def reset(self) -> None:
        """Closes the circuit and forgets its failures."""
        with self._lock:
            self._failures, self._opened, self._reason, self._probing = 0, None, "", False
            self._changed()

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON: failures in a row, when it opened (epoch seconds), last error."""
        with self._lock:
            return self._state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up a state that `state` gave, in this process or an earlier one."""
        opened = state.get("opened_at")
        with self._lock:
            self._failures = int(state.get("failures", 0))
            self._opened = None if opened is None else float(opened)
            self._reason = str(state.get("last_error", ""))
            self._probing = False

    def _enter(self) -> bool:
        if self._opened is None:
            return False
        left = self._remaining()
        if self._probing or left > 0:
            when = "a probe is under way" if self._probing else f"next try in {left:.0f} s"
            raise CircuitOpen(
                f"not called: {self._failures} failures in a row, the last was: {self._reason}",
                where=self.name or None,
                hint=f"{when}; repair what the error names, or wait",
            )
        self._probing = True
        return True

    def _leave(self, error: BaseException | None, probe: bool) -> None:
        kind = classify(error) if isinstance(error, Exception) else None
        with self._lock:
            if probe:
                self._probing = False
            elif self._opened is not None:
                return  # a call from before the circuit opened: only a probe tells how things are now
            if error is None or kind == "data":
                if self._failures or self._opened is not None:
                    self._failures, self._opened, self._reason = 0, None, ""
                    self._changed()
            elif kind in ("system", "transient"):
                self._failures += 1
                self._reason = f"{type(error).__name__}: {error}".splitlines()[0]
                if probe or self._failures >= self.failure_threshold:
                    self._opened = self.clock()
                self._changed()

    def _remaining(self) -> float:
        now = self.clock()
        opened = now if self._opened is None else self._opened
        if opened > now:  # the clock was set back: count the timeout from now, never for longer
            self._opened = opened = now
        return opened + self.recovery_timeout - now

    def _state(self) -> dict[str, Any]:
        return {"failures": self._failures, "opened_at": self._opened, "last_error": self._reason}

    def _changed(self) -> None:
        if self.on_change is None:
            return
        try:
            self.on_change(self._state())
        except Exception as error:  # keeping the state is an aid; it must not hide the call's own outcome
            warnings.warn(f"state of circuit `{self.name}` was not kept: {error}", stacklevel=2)
