"""Takes webhooks: a request that gets 200 is on disk, once; all others leave no trace.

A bare ASGI application. Requests that come at the same time share one transaction, so one sync to disk.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

from ..errors import HeadraceError
from .paging import value_at
from .webhook import Webhook
from .webhook_spool import Event, Full, Spool
from .webhook_verify import Headers, Rejected

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Waiting = tuple[Event, "asyncio.Future[bool]"]
MOST_WAITING = 5000
"""Requests whose events wait for the disk; beyond this, senders are told to come back."""
_TOGETHER = 1000
_PATIENCE = b"10"
"""Seconds that a sender is asked to wait when there is no room."""


@dataclass
class Writer:
    """A thread of its own that commits what waits, all of it together."""

    source: Webhook
    waiting: queue.SimpleQueue[Waiting | None] = field(default_factory=queue.SimpleQueue)
    thread: threading.Thread | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"stored": 0, "duplicates": 0, "commits": 0})

    def start(self) -> None:
        spool = Spool.open(self.source.spool_path, self.source.spool_max)
        self.thread = threading.Thread(
            target=self._work, args=[spool], name=f"spool {self.source.name}", daemon=True
        )
        self.thread.start()

    def stop(self) -> None:
        """Returns when all that waits is on disk."""
        self.waiting.put(None)
        if self.thread:
            self.thread.join()

    async def append(self, event: Event) -> bool:
        """Whether the event was new; it is on disk. Raises `Full`."""
        if self.waiting.qsize() > MOST_WAITING:
            raise Full("too many events wait for the disk")
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiting.put((event, done))
        return await done

    def _work(self, spool: Spool) -> None:
        try:
            while (first := self.waiting.get()) is not None:
                group = [first]
                while len(group) < _TOGETHER and not self.waiting.empty():
                    item = self.waiting.get()
                    if item is None:
                        self.waiting.put(None)
                        break
                    group.append(item)
                self._commit(spool, group)
        finally:
            spool.close()

    def _commit(self, spool: Spool, group: Sequence[Waiting]) -> None:
        loop = group[0][1].get_loop()
        try:
            fresh = spool.append([event for event, _ in group], self.source.remember)
        except Exception as error:  # whatever it is: senders are told to come again, and it goes on
            problem = error if isinstance(error, HeadraceError) else Full(f"not stored: {error}")
            loop.call_soon_threadsafe(_fail, [done for _, done in group], problem)
            return
        self.counts["stored"] += sum(fresh)
        self.counts["duplicates"] += len(fresh) - sum(fresh)
        self.counts["commits"] += 1
        loop.call_soon_threadsafe(_tell, [done for _, done in group], fresh)


def _tell(waiting: Sequence[asyncio.Future[bool]], fresh: Sequence[bool]) -> None:
    for done, new in zip(waiting, fresh, strict=True):
        if not done.done():
            done.set_result(new)


def _fail(waiting: Sequence[asyncio.Future[bool]], error: HeadraceError) -> None:
    for done in waiting:
        if not done.done():
            done.set_exception(error)


@dataclass
class Receiver:
    """The ASGI application of one source."""

    source: Webhook
    writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self.writer = Writer(self.source)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        try:
            if scope["method"] != "POST":
                raise Rejected(405, "send a POST")
            event = await self._event(headers, receive)
            fresh = await self.writer.append(event)
        except Rejected as error:
            await answer(send, error.status, {"error": error.reason})
        except HeadraceError:
            await answer(send, 503, {"error": "no room for it now"}, [(b"retry-after", _PATIENCE)])
        else:
            await answer(send, 200, {"status": "stored" if fresh else "duplicate"})

    async def _event(self, headers: Headers, receive: Receive) -> Event:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in self.source.content_types:
            raise Rejected(415, f"content type `{kind[:100]}` is not taken")
        try:
            async with asyncio.timeout(self.source.body_timeout):
                body = await self._body(headers, receive)
        except TimeoutError:
            raise Rejected(408, "the body did not come in time") from None
        signed = self.source.verify.check(headers, body, time.time())
        text, parsed = _json(body) if kind.endswith("json") else _text(body)
        name = self._name(headers, parsed)
        names = [_hash(b"id:" + name.encode())] if name else []
        names += [_hash(b"signed:" + signed)] if signed else []
        kept = {h.lower() for h in (*self.source.headers, *self.source.verify.described.kept, "content-type")}
        event = {
            "id": name,
            "received": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "headers": {key: headers[key] for key in sorted(kept) if key in headers},
        }
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":"))[:-1].encode() + b',"body":' + text
        return Event(names, line + b"}\n")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        most = self.source.max_body
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            raise Rejected(413, f"over {most:,} bytes")
        if headers.get("content-encoding", "identity") != "identity":
            raise Rejected(415, "packed bodies are not taken")
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Rejected(400, "the sender went away")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise Rejected(413, f"over {most:,} bytes")
            if not message.get("more_body"):
                return b"".join(parts)

    def _name(self, headers: Headers, parsed: Any) -> str | None:
        place = self.source.idempotency_key or self.source.verify.described.id
        if place is None:
            return None
        kind, _, where = place.partition(":")
        found = headers.get(where.lower()) if kind == "header" else value_at(parsed, where)
        if found is None or found == "" or isinstance(found, (dict, list)):
            if self.source.idempotency_key:
                raise Rejected(400, f"there is no idempotency key at {place}")
            return None
        return str(found)


def _json(body: bytes) -> tuple[bytes, Any]:
    """The body on one line, every value as it came: valid JSON has line breaks between values only."""
    try:
        parsed = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Rejected(400, "the body is not JSON in UTF-8") from None
    return body.replace(b"\r", b" ").replace(b"\n", b" ").strip(), parsed


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _text(body: bytes) -> tuple[bytes, Any]:
    try:
        return json.dumps(body.decode("utf-8"), ensure_ascii=False).encode(), None
    except UnicodeDecodeError:
        raise Rejected(400, "the body is not text in UTF-8") from None


def _hash(name: bytes) -> bytes:
    return hashlib.sha256(name).digest()[:16]


async def answer(
    send: Send, status: int, body: Mapping[str, Any], headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    raw = json.dumps(body).encode()
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode()), *headers]
    if status == 413:  # what is left of the body is not read
        own.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": raw})


@dataclass
class Receivers:
    """The ASGI application of all webhook sources: by path; `/healthz` says whether it is up."""

    by_path: Mapping[str, Receiver]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            receiver = self.by_path.get(scope["path"])
            if receiver:
                await receiver(scope, receive, send)
            elif scope["path"] == "/healthz":
                await answer(send, 200, {"status": "up"})
            else:
                await answer(send, 404, {"error": "nothing is received here"})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    for receiver in self.by_path.values():
                        receiver.writer.start()
                except HeadraceError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                for receiver in self.by_path.values():
                    await asyncio.to_thread(receiver.writer.stop)
                await send({"type": "lifespan.shutdown.complete"})
                return
