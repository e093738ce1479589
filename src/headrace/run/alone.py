"""One run at a time per lake: a convenience, never trusted for correctness (commits compare and set)."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ..errors import Busy

BUSY_HINT = "wait for it, or look at `headrace status`; a killed run holds no lock"


@contextmanager
def alone(lake: Path, what: str = "run") -> Iterator[None]:
    """Holds the lake's lock, or raises `Busy` at once, with the holder's name.

    The kernel takes it back when its process ends, however that ends: it needs no expiry. On another machine
    it may not be seen at all; then two runs are at work, and the slower one is `Fenced` when it commits.
    """
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
        now = datetime.now(UTC)
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {now:%Y-%m-%d %H:%M:%S}Z\n")
        file.flush()
        yield
