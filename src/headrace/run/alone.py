"""One run at a time per lake: a convenience, never trusted for correctness (commits compare and set)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ..errors import Busy

BUSY_HINT = "wait for it, or look at `headrace status`; a killed run holds no lock"


@contextmanager
def alone(lake: Path, what: str = "run") -> Iterator[None]:
    """Holds the lake's lock, or raises `Busy` at once because another process does."""
    path = lake / "_headrace" / f"{what}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise Busy(f"another {what} is at work on {lake}: {holder}", hint=BUSY_HINT) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z\n")
        file.flush()
        yield
