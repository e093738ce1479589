"""The land loop: bytes become immutable objects of bronze, and one record is their commit.

Copy and hash, sync, create the record; only then is the source resumed, which is its acknowledgement. Killed
anywhere, a batch is in bronze wholly or not at all; objects without a record are orphans that nobody reads.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol, cast

from ..core import Landed, RawFile, Source
from ..errors import Refused, TransientError
from ..failpoints import reach
from ..store.records import LandLog
from ..store.storage import LocalStorage
from .report import Event, Listener, SourceReport

CHUNK = 256 << 10
"""So little at a time stays in the processor's cache while it is read, inspected, hashed and written."""
HASHED = 4
"""So many chunks are hashed at a time, in a thread beside: a hand-over costs as much as hashing one."""


class Signatures(Protocol):
    """A cache, free to forget: what a file looked like when its hash was last known."""

    def signatures(self, stream: str) -> Mapping[str, tuple[Mapping[str, Any], str]]: ...

    def remember(self, stream: str, seen: Mapping[str, tuple[Mapping[str, Any], str]]) -> None: ...


@dataclass
class LandReading:
    """What the source may ask (core.Reading), answered from the stream's own commits."""

    newest: dict[str, Landed]
    cache: Mapping[str, tuple[Mapping[str, Any], str]]
    follow: bool = False
    notes: list[tuple[str, str, str]] = field(default_factory=list)
    lag: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def seen(self, name: str) -> Landed | None:
        landed = self.newest.get(name)
        if landed and name in self.cache:
            signature, sha256 = self.cache[name]
            if sha256 == landed.sha256:
                return replace(landed, signature=signature)
        return landed

    def names(self) -> Sequence[str]:
        return list(self.newest)

    def measure(self, name: str, values: Mapping[str, Any]) -> None:
        """How far the source's log is ahead of what has landed."""
        self.lag[name] = values

    def note(self, kind: str, name: str, message: str) -> None:
        self.notes.append((kind, name, message))


@dataclass
class _Tally:
    new: int = 0
    changed: int = 0
    bytes: int = 0
    rows: int = 0


def land(source: Source, name: str, log: LandLog, signatures: Signatures, listener: Listener) -> SourceReport:
    """Lands all that `source` has now; what was committed before an error stays.

    Raises what the source raises.

    The report counts files and bytes of new commits, and names what was refused or has vanished.
    """
    started = time.monotonic()
    writer = uuid.uuid4().hex
    if log.epoch < 0:
        log.append(None, (), writer)
    reading = LandReading(log.newest(), signatures.signatures(log.stream))
    tally = _Tally()
    touched: dict[str, tuple[Mapping[str, Any], str]] = {}
    for stream in source.streams():
        # Closed at once after an error: a slot or a connection must be free when the call is made again.
        with closing(cast(Any, source.read(stream, log.end, reading))) as batches:
            for batch in batches:
                if batch is None:
                    continue
                objects = list(_copied(batch.data, log, reading, touched, name, listener))
                if not objects and (batch.data or batch.end == log.end):
                    continue
                if not objects:
                    log.append(batch.end, (), writer)  # nothing came, but the position moves
                else:
                    log.storage.sync(item.key for item in objects)
                    reach("land.synced")
                    for item in objects:
                        old = reading.newest.get(item.name)
                        tally.changed += old is not None
                        tally.new += old is None
                        tally.bytes += item.bytes
                        tally.rows += item.rows or 0
                    record = log.append(batch.end, objects, writer)
                    reach("land.record")
                    reading.newest.update({item.name: item for item in record.objects})
                reach("land.acknowledged")
    if touched:
        signatures.remember(log.stream, touched)
    return SourceReport(
        name,
        tally.new,
        tally.changed,
        tally.bytes,
        tally.rows,
        [(item, message) for kind, item, message in reading.notes if kind in ("refused", "unstable")],
        [item for kind, item, _ in reading.notes if kind == "vanished"],
        time.monotonic() - started,
        remarks=[message for kind, _, message in reading.notes if kind == "ignored"],
        lag=reading.lag,
    )


def _copied(
    files: Sequence[RawFile],
    log: LandLog,
    reading: LandReading,
    touched: dict[str, tuple[Mapping[str, Any], str]],
    task: str,
    listener: Listener,
) -> Iterator[Landed]:
    total = sum(file.size for file in files)
    done = 0
    day = datetime.now(UTC)
    with ThreadPoolExecutor(1, "sha256") as hasher:
        for file in files:
            try:
                landed = _copy(file, log, day, hasher)
            except (Refused, TransientError) as error:
                kind = "refused" if isinstance(error, Refused) else "unstable"
                reading.note(kind, file.name, str(error))
                continue
            done += file.size
            listener(Event(f"land:{task}", "progress", done, total, "B", file.name))
            old = reading.newest.get(file.name)
            if old and old.sha256 == landed.sha256:
                log.storage.delete([landed.key])
                touched[file.name] = (file.signature, landed.sha256)
                continue
            reach("land.copied")
            yield landed


def _copy(file: RawFile, log: LandLog, day: datetime, hasher: ThreadPoolExecutor) -> Landed:
    """Byte for byte into a uniquely named object, hashed and inspected; an error leaves nothing."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", file.name.rsplit("/", 1)[-1])[-100:]
    folder = f"year={day:%Y}/month={day:%m}/day={day:%d}" + (f"/hour={day:%H}" if file.records else "")
    key = f"bronze/{log.stream}/{folder}/{uuid.uuid4().hex}-{safe}"
    inspector = file.inspector()
    digest = hashlib.sha256()
    size = 0

    def hashed(chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            digest.update(chunk)

    def chunks() -> Iterator[bytes]:
        nonlocal size
        group: list[bytes] = []
        busy: Future[None] | None = None
        with file.open() as stream:
            while chunk := stream.read(CHUNK):
                size += len(chunk)
                inspector.feed(chunk)
                group.append(chunk)
                if len(group) == HASHED:
                    if busy:
                        busy.result()
                    busy, group = hasher.submit(hashed, group), []
                yield chunk
        if busy:
            busy.result()
        hashed(group)

    log.storage.write(key, chunks())
    try:
        file.verify()
        found = dict(inspector.result())
    except BaseException:
        log.storage.delete([key])
        raise
    cipher = log.storage.cipher if isinstance(log.storage, LocalStorage) else None
    return Landed(
        key,
        file.name,
        size,
        digest.hexdigest(),
        found.get("rows"),
        found,
        file.signature,
        "",
        cipher.current if cipher else None,
        table=file.table,
    )
