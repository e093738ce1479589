"""One run at a time per lake, by leases that expire: a convenience, never trusted for correctness.

Commits compare and set, so two runs that both believe to hold a lease cannot double a row; one of them is
`Fenced`. A lease is the file `_headrace/run.lock`: its text says whose it is, its modification time when it
was renewed. Beside it the kernel's flock is held, which a process gives back however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

from ..errors import Busy

TERM = 60.0
"""Seconds for which a lease holds after it was renewed; it is renewed three times as often."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds a lake, and until when."""

    id: str
    what: str
    host: str
    machine: str
    """The running kernel: all processes below it see one another's flocks."""
    pid: int
    since: str
    run_id: str = ""
    term: float = TERM
    renewed: float = 0.0
    """Seconds since 1970 by the file system's clock; so that of the holder's machine does not count."""

    def live(self, now: float) -> bool:
        """Whether it was renewed within its term of `now`, on either side: a clock may have jumped back."""
        return abs(now - self.renewed) <= self.term

    def __str__(self) -> str:
        run = f", {self.run_id}" if self.run_id else ""
        return f"pid {self.pid} on {self.host} since {self.since}{run}"

    @property
    def expiry(self) -> str:
        """When it was renewed and when it expires, in words."""
        times = (datetime.fromtimestamp(at, UTC) for at in (self.renewed, self.renewed + self.term))
        return "lease renewed {:%H:%M:%S}Z, expires {:%H:%M:%S}Z".format(*times)


class Held:
    """A lease that is ours, as long as nobody has taken it over; a thread renews it."""

    def __init__(self, path: Path, lease: Lease) -> None:
        self.path, self.lease = path, lease
        self.lost: Lease | None = None
        """Who has taken it over; that can be only after it had expired."""
        self._over = Event()
        self._thread = Thread(target=self._keep, name="headrace-lease", daemon=True)
        self._write()
        self._thread.start()

    def tell(self, run_id: str) -> None:
        """Names the run to whoever finds the lake busy."""
        self.lease = replace(self.lease, run_id=run_id)
        if self._ours():
            self._write()

    def end(self) -> None:
        """Gives it back, unless it is somebody else's by now."""
        self._over.set()
        self._thread.join()
        with suppress(OSError):
            if self._ours():
                os.truncate(self.path, 0)

    def _keep(self) -> None:
        while not self._over.wait(self.lease.term / 3):
            with suppress(OSError):  # a lease that cannot be renewed expires, no more
                if not self._ours():
                    return
                os.utime(self.path)

    def _ours(self) -> bool:
        found = read(self.path)
        if found and found.id != self.lease.id:
            self.lost = found
        return found is not None and found.id == self.lease.id

    def _write(self) -> None:
        """In place, for the flock is on this very file; on a full disk there is a flock and no lease."""
        text = json.dumps(asdict(replace(self.lease, renewed=0.0))).encode()
        with suppress(OSError):
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                os.pwrite(handle, text, 0)
                os.ftruncate(handle, len(text))
            finally:
                os.close(handle)


@contextmanager
def alone(lake: Path, what: str = "run") -> Iterator[Held]:
    """Holds the lake's lease, or raises `Busy` at once, with its owner's name and its expiry.

    A process of this machine that is gone holds nothing: its flock tells. One of another machine, where flock
    may not be shared, holds its lease until it expires; then whoever comes takes it over. An owner that was
    only slow finds that out when it commits.
    """
    path = lake_lease(lake, what)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            raise busy(what, lake, read(path)) from None
        except OSError:  # a file system without them
            locked = False
        old = read(path)
        gone = old is not None and locked and old.machine == machine()
        if old and not gone and old.live(_now(path.parent)):
            raise busy(what, lake, old)
        now = datetime.now(UTC)
        lease = Lease(
            uuid.uuid4().hex,
            what,
            socket.gethostname(),
            machine(),
            os.getpid(),
            f"{now:%Y-%m-%d %H:%M:%S}Z",
            term=TERM,
        )
        held = Held(path, lease)
        try:
            yield held
        finally:
            held.end()


def lake_lease(lake: Path, what: str = "run") -> Path:
    return lake / "_headrace" / f"{what}.lock"


def busy(what: str, lake: Path, owner: Lease | None) -> Busy:
    """The loser's words: who holds what, until when, and what that means."""
    if owner is None:
        return Busy(f"another {what} is at work on {lake}: another process", hint="wait for it")
    hint = f"wait for it, or look at `headrace status`; a killed {what} holds no lock"
    if owner.machine != machine():
        hint = f"wait for it; if that machine is gone, the lease ends by itself: {owner.expiry}"
    return Busy(f"another {what} is at work on {lake}: {owner} ({owner.expiry})", hint=hint)


def read(path: Path) -> Lease | None:
    """The lease that a file holds; None where nobody holds it, or it cannot be read."""
    try:
        lease = Lease(**json.loads(path.read_text()))
        return replace(lease, renewed=path.stat().st_mtime)
    except (OSError, ValueError, TypeError):
        return None


def machine() -> str:
    """The same for all processes that see one another's flocks; unknown ones see nobody's."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _now(folder: Path) -> float:
    """The time by the clock that stamps files here: on a network file system it is the server's."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return datetime.now(UTC).timestamp()
