"""Every error says what, where and the value, then how to fix it. Its class decides what happens next.

::

    HeadraceError
    ├── TransientError        retry with backoff and jitter
    │   └── Busy              somebody else holds it now
    ├── DataError             quarantine and alert; the rest goes on
    │   ├── Refused           a file or batch that must not land (empty, truncated, changed)
    │   └── Stopped           a `stop` rule broke; nothing of this epoch was written
    ├── SystemFault           circuit breaker
    │   ├── Fenced            another writer moved the stream first; nothing was written
    │   ├── Corrupt           stored bytes do not match their hash, or a record cannot be read
    │   ├── Gap               the source no longer has what comes next; never skipped silently
    │   ├── Unbalanced        the ledger does not add up
    │   └── CircuitOpen       a system failed too often; it was not called
    └── ConfigError           fail before anything runs
        └── MissingExtra      a connector needs an extra that is not installed
"""

from __future__ import annotations

from typing import ClassVar, Literal

ErrorClass = Literal["transient", "data", "system", "configuration"]


class HeadraceError(Exception):
    """Root of all errors that a user can meet; `str()` is the message and, if any, a `hint:` line."""

    error_class: ClassVar[ErrorClass] = "system"

    def __init__(self, message: str, *, hint: str | None = None, where: str | None = None) -> None:
        self.message = message
        self.hint = hint
        self.where = where
        super().__init__(message)

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head}\nhint: {self.hint}" if self.hint else head


class TransientError(HeadraceError):
    error_class = "transient"


class Busy(TransientError):
    pass


class DataError(HeadraceError):
    error_class = "data"


class Refused(DataError):
    pass


class Stopped(DataError):
    pass


class SystemFault(HeadraceError):
    error_class = "system"


class Fenced(SystemFault):
    pass


class Corrupt(SystemFault):
    pass


class Gap(SystemFault):
    pass


class Unbalanced(SystemFault):
    pass


class CircuitOpen(SystemFault):
    pass


class ConfigError(HeadraceError):
    error_class = "configuration"


class MissingExtra(ConfigError):
    pass


def classify(error: BaseException) -> ErrorClass:
    """The class that decides how `error` is handled; unknown errors are `system`, timeouts `transient`."""
    if isinstance(error, HeadraceError):
        return error.error_class
    if isinstance(error, (TimeoutError, ConnectionError, InterruptedError)):
        return "transient"
    return "system"
