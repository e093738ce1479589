"""New objects of a bucket are known from its queue, without a listing; a message goes when they have landed.

What a message names is looked at as it is now. So duplicates and messages out of order do no harm, and a
message that comes again after a crash finds what has landed. Messages can be lost: full listings, now and
then, close such gaps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote_plus

from ..core import Inspector, Landed, Position, RawFile
from ..errors import Refused
from .listing import Entry

HOURS = 24.0
"""From one full listing to the next, if nothing else is said."""
_BESIDE = 8
_MANY = 5
"""A message that has come so often is surely not one that will do some day."""


@dataclass(frozen=True, slots=True)
class Message:
    id: str
    body: str
    handle: str
    """Of this delivery: what it is deleted by."""
    times: int = 1
    """How often it has been delivered."""


class Queue(Protocol):
    @property
    def name(self) -> str: ...

    def receive(self) -> Sequence[Message]:
        """Some messages, hidden from others for a while; none after a short wait without any."""
        ...

    def delete(self, messages: Sequence[Message]) -> None:
        """May leave some of them: they come again, and do no harm."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Told:
    """An object that came to be, as a message tells it."""

    key: str
    etag: str
    size: int


def told(body: str, bucket: str) -> list[Told]:
    """What `body` says has come into `bucket`; raises `ValueError` if it is no such message.

    S3's own form, also as SNS wraps it, and EventBridge's; deletions and S3's test message say nothing.

    >>> record = {"s3": {"bucket": {"name": "b"}, "object": {"key": "in/a+b%2B.csv", "eTag": "x", "size": 7}}}
    >>> told(json.dumps({"Records": [{"eventName": "ObjectCreated:Put", **record}]}), "b")
    [Told(key='in/a b+.csv', etag='x', size=7)]
    >>> told(json.dumps({"Records": [{"eventName": "ObjectRemoved:Delete", **record}]}), "b")
    []
    """
    try:
        document = json.loads(body)
        if isinstance(document, dict) and document.get("Type") == "Notification":
            document = json.loads(document["Message"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(document, dict):
        raise ValueError("it is no object")
    if document.get("Event") == "s3:TestEvent":
        return []
    try:
        if document.get("source") == "aws.s3":
            kind, one = document["detail-type"], document["detail"]
            restored = kind == "Object Restore Completed"
            return [_told(one, bucket, "etag", str)] if kind == "Object Created" or restored else []
        return [_told(item["s3"], bucket, "eTag", _plain) for item in document["Records"] if _came(item)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it has not the form of an event of S3 ({type(error).__name__}: {error})") from None


def _came(record: Mapping[str, Any]) -> bool:
    name = str(record["eventName"]).removeprefix("s3:")
    return name.startswith("ObjectCreated:") or name == "ObjectRestore:Completed"


def _told(one: Mapping[str, Any], bucket: str, tag: str, plain: Callable[[str], str]) -> Told:
    if (named := one["bucket"]["name"]) != bucket:
        raise ValueError(f"it is of the bucket {named!r}, not {bucket!r}")
    item = one["object"]
    return Told(plain(item["key"]), str(item.get(tag, "")), int(item.get("size", -1)))


def _plain(key: str) -> str:
    return unquote_plus(key, errors="strict")


@dataclass
class Taken:
    """What became of offered files: landed (or equal to what has landed), refused; else something passed."""

    landed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    def watch(self, file: RawFile) -> RawFile:
        """`file`, whose fate is noted; it counts once the reading is resumed, as it is durable then."""
        return replace(
            file, open=lambda: self._open(file), inspector=lambda: _Watched(file.inspector(), file.name, self)
        )

    def _open(self, file: RawFile) -> BinaryIO:
        try:
            return file.open()
        except Refused:
            self.refused.add(file.name)
            raise

    def clear(self) -> None:
        self.landed.clear()
        self.refused.clear()


@dataclass
class _Watched:
    inner: Inspector
    name: str
    taken: Taken

    def feed(self, chunk: bytes) -> None:
        self.inner.feed(chunk)

    def result(self) -> Mapping[str, Any]:
        try:
            found = self.inner.result()
        except Refused:
            self.taken.refused.add(self.name)
            raise
        self.taken.landed.add(self.name)
        return found


@dataclass
class Watch:
    """A bucket and its queue; what is asked of the place and of the ledger."""

    queue: Queue
    bucket: str
    chosen: Callable[[str], bool]
    """Whether the object of this key is meant."""
    name: Callable[[str], str]
    """What the ledger calls the object of this key."""
    now: Callable[[str], Entry | None]
    """The object as it is; None if it is gone. Raises `Refused`."""
    seen: Callable[[str], Landed | None]
    wanted: Callable[[Entry], bool]
    tell: Callable[[str, str, str], None]
    taken: Taken


@dataclass
class _Held:
    message: Message
    names: set[str]
    stays: bool = False


def batches(
    watch: Watch,
    listed: Callable[[], Iterable[list[Entry]]],
    start: Position | None,
    limits: tuple[int, int, float],
) -> Iterator[tuple[list[Entry], Position]]:
    """(objects to land, position): of a full listing where one is due, then those that the queue tells.

    `limits` are objects and bytes of a commit, and hours from one full listing to the next. A listing of
    which something did not come for a passing reason is made again.
    """
    files, size, hours = limits
    position: Position = dict(start) if start else {"files": "ledger"}
    began = int(time.time())
    if began - float(position.get("listed", 0)) >= (hours or HOURS) * 3600:
        whole, taken = True, watch.taken
        for group in listed():
            taken.clear()
            yield group, position
            whole = whole and {entry.name for entry in group} <= taken.landed | taken.refused
        if whole:
            position = {**position, "listed": began}
            yield [], position
    with ThreadPoolExecutor(_BESIDE, "head") as pool:
        yield from ((group, position) for group in _drained(watch, pool, files, size))


def _drained(watch: Watch, pool: ThreadPoolExecutor, files: int, size: int) -> Iterator[list[Entry]]:
    """Groups of objects, until no message is left that was not looked at; resumed when they are durable."""
    left: set[str] = set()
    more = True
    while more:
        held: dict[str, _Held] = {}
        group: dict[str, Entry] = {}
        while more and len(group) < files and sum(entry.size for entry in group.values()) < size:
            came = [message for message in watch.queue.receive() if message.id not in left]
            fresh = [message for message in came if message.id not in held]
            for again in came:
                if again.id in held:  # its time was over: only the newest delivery can be deleted
                    held[again.id].message = again
            more = bool(fresh)
            _look(watch, pool, fresh, held, group)
        watch.taken.clear()
        if group:
            yield list(group.values())
        done = [one for one in held.values() if not one.stays and one.names <= watch.taken.landed]
        watch.queue.delete([one.message for one in done])
        left.update(set(held) - {one.message.id for one in done})


def _look(
    watch: Watch,
    pool: ThreadPoolExecutor,
    messages: Sequence[Message],
    held: dict[str, _Held],
    group: dict[str, Entry],
) -> None:
    """Adds to `group` what the messages name and has not landed as it is now."""
    asked: list[tuple[_Held, str]] = []
    for message in messages:
        one = held[message.id] = _Held(message, set())
        try:
            items = told(message.body, watch.bucket)
        except ValueError as error:
            one.stays = True
            watch.tell("refused", f"{watch.queue.name}/{message.id}", _poison(watch, message, error))
            continue
        asked += [(one, item.key) for item in items if watch.chosen(item.key) and not _known(watch, item)]
    for (one, key), entry in zip(asked, pool.map(lambda pair: _now(watch, pair[1]), asked), strict=True):
        if isinstance(entry, Refused):
            one.stays = True
            watch.tell("refused", watch.name(key), str(entry))
        elif entry is not None and entry.unfit:
            watch.tell("refused", entry.name, f"{entry.name} {entry.unfit}")
        elif entry is not None and watch.wanted(entry):
            one.names.add(entry.name)
            group[entry.name] = entry


def _now(watch: Watch, key: str) -> Entry | Refused | None:
    try:
        return watch.now(key)
    except Refused as error:
        return error


def _known(watch: Watch, item: Told) -> bool:
    before = watch.seen(watch.name(item.key))
    tag = str(before.signature.get("etag", "")).strip('"') if before else ""
    return bool(before and tag and tag == item.etag and before.signature.get("size") == item.size)


def _poison(watch: Watch, message: Message, error: ValueError) -> str:
    often = f", delivered {message.times} times" if message.times >= _MANY else ""
    return (
        f"message {message.id} of {watch.queue.name} is left there{often}: {error}\n"
        "hint: the queue is for this bucket's notifications alone; with a redrive policy such messages go to "
        "its dead-letter queue"
    )
