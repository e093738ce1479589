"""Reads all pages of an endpoint once: resumable after every batch, and every record at least once.

A sweep is one pass over the pages. Pages land byte for byte, under names that no other page ever had. A sweep
that finds what an earlier one found lands nothing, so that reading again is a visible no-op.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..core import RawFile, Reading
from ..errors import SystemFault, TransientError
from .http import Answer, Client, Request
from .incremental import MOST_HASHES, Incremental, Watermark, fingerprint, spread
from .paging import Page, Paged, State

BATCH_PAGES = 500
BATCH_SECONDS = 30.0
RESTARTS = 3
STALE = (400, 404, 410, 422)
"""What servers answer to a cursor that they no longer know."""


class Endpoint(Protocol):
    """What an API's connector knows of one of its endpoints."""

    @property
    def table(self) -> str: ...
    @property
    def where(self) -> str:
        """Names it in messages."""
        ...

    @property
    def paging(self) -> Paged: ...
    @property
    def incremental(self) -> Incremental | None: ...
    @property
    def atomic(self) -> bool: ...
    @property
    def batch_bytes(self) -> int: ...
    @property
    def parallel(self) -> int: ...
    @property
    def hashes(self) -> int:
        """How many the position may keep for it."""
        ...

    def request(self, at: State, since: str | None) -> Request: ...

    def page(self, answer: Answer) -> Page:
        """The response, parsed; raises by class what is no page of records."""
        ...

    def following(self, at: State, page: Page) -> State | None:
        """Where the page after `page` is; holds no secret, since it is kept."""
        ...

    def file(self, name: str, page: Page) -> RawFile: ...


@dataclass(frozen=True, slots=True)
class Place:
    """The position of one endpoint."""

    sweep: int = 0
    """The sweep under way, or the last one that landed something."""
    pages: int = 0
    """So many of its pages have landed."""
    at: State | None = None
    """Where its next page is; None if it is over."""
    since: str | None = None
    high: str | None = None
    hashes: Mapping[str, Any] = field(default_factory=dict)
    """Records near the greatest value: `known` from before this sweep, `recent` from it; null if too many."""
    anchor: str | None = None
    """Fingerprint of the last record of the page before."""
    total: int | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> Place:
        return cls(**stored) if stored else cls()

    def json(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in shown.items() if value not in (None, {})}


class _Shifted(Exception):
    """The collection changed in such a way that a record may have slipped between two pages."""


@dataclass
class _Pass:
    """One sweep as it goes: what it holds back, and where it stands."""

    work: Endpoint
    ctx: Reading
    place: Place
    mark: Watermark | None
    last: Place | None
    """The sweep before, while this one has found nothing else than that; it is compared page by page."""
    held: list[RawFile] = field(default_factory=list)
    size: int = 0
    landed: int = 0
    since: float = field(default_factory=time.monotonic)

    def take(self, page: Page, following: State | None) -> None:
        """Notes a page, and holds its bytes if they are to land."""
        work, place = self.work, self.place
        self._check(page)
        news = self.mark.take(page.records) if self.mark else bool(page.records) or place.pages == 0
        pages = place.pages
        if news:
            if self.last and not self._as_before(pages, page):
                self.last = None
            self.held.append(work.file(name_of(work, place.sweep, pages), page))
            self.size += len(page.body)
            pages += 1
        again = following is not None and following.get("again")
        self.place = replace(
            place,
            pages=pages,
            at=following,
            high=self.mark.high if self.mark else None,
            anchor=fingerprint(page.records[-1]) if again and page.records else None,
            total=work.paging.total_of(page),
        )

    def _check(self, page: Page) -> None:
        anchor, before = self.place.anchor, self.place.total
        if anchor and not any(fingerprint(record) == anchor for record in page.records):
            raise _Shifted
        now = self.work.paging.total_of(page)
        if before is not None and now is not None and now < before:
            raise _Shifted

    def _as_before(self, number: int, page: Page) -> bool:
        assert self.last is not None
        before = self.ctx.seen(name_of(self.work, self.last.sweep, number))
        return before is not None and before.sha256 == hashlib.sha256(page.body).hexdigest()

    def full(self) -> bool:
        """Whether what is held should land now, rather than with more."""
        if not self.held or self.last or self.work.atomic:
            return False
        late = time.monotonic() - self.since > BATCH_SECONDS
        return late or self.size >= self.work.batch_bytes or len(self.held) >= BATCH_PAGES

    def flush(self) -> tuple[list[RawFile], dict[str, Any]]:
        """What lands now, and the position after it."""
        files, self.held, self.size = self.held, [], 0
        self.landed += len(files)
        self.since = time.monotonic()
        if self.mark:
            recent = self.mark.recent()
            kept = {"recent": recent} if self.place.at is None else {**self.place.hashes, "recent": recent}
            self.place = replace(self.place, hashes=kept)
        return files, self.place.json()

    def restart(self) -> None:
        """Begins the pass anew. What has landed stays: pages that come again say the same or better."""
        pages = self.place.pages - len(self.held)
        self.held, self.size, self.last = [], 0, None
        self.place = replace(self.place, pages=pages, at={}, anchor=None, total=None)


def sweep(
    work: Endpoint, client: Client, stored: Mapping[str, Any] | None, ctx: Reading
) -> Iterator[tuple[list[RawFile], dict[str, Any]]]:
    """Yields files to land with the position after them; nothing if there is no news.

    Goes on in the middle of a sweep that broke off. Raises `TransientError` if the pages change faster than
    they can be read.
    """
    before = Place.of(stored)
    run = _begun(work, before, ctx)
    resumed = before.at is not None
    pool = ThreadPoolExecutor(work.parallel, f"pages of {work.table}") if work.parallel > 1 else None
    try:
        for attempt in range(RESTARTS + 1):
            try:
                for page, following in _walk(work, client, run.place, pool, resumed and not attempt):
                    run.take(page, following)
                    if run.full() and following is not None:
                        yield run.flush()
                break
            except _Shifted:
                run.restart()
        else:
            raise TransientError(
                f"{work.where}: records went while it was read, {RESTARTS + 1} times in a row",
                hint="read it when it is quieter, or by `cursor` pages if the API has them",
            )
        if run.mark and run.mark.odd and (note := getattr(ctx, "note", None)):
            field = run.mark.incremental.field
            message = f"{work.where}: {run.mark.odd} records have a `{field}` that is yet to come"
            note("ignored", work.table, f"{message}; they land, but do not move what is asked for next")
        same = run.last is not None and run.place.pages == run.last.pages
        if not same and (run.held or run.landed or resumed):
            yield run.flush()
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def _begun(work: Endpoint, before: Place, ctx: Reading) -> _Pass:
    incremental = work.incremental
    if before.at is not None:  # a sweep broke off
        mark = _mark(work, before, "known")
        if mark and incremental:
            recent = before.hashes.get("recent", [])
            mark.lost = recent is None
            mark.seen = dict.fromkeys(recent or [], mark.high or "")
        return _Pass(work, ctx, before, mark, None)
    mark = _mark(work, before, "recent")
    since = None
    if incremental:
        since = incremental.lowered(before.high) if before.high is not None else incremental.start
    known = before.hashes.get("recent", [])
    place = Place(before.sweep + 1, 0, {}, since, before.high, {"known": known} if incremental else {})
    compared = before if before.sweep and not incremental else None
    return _Pass(work, ctx, place, mark, compared)


def _mark(work: Endpoint, before: Place, name: str) -> Watermark | None:
    if work.incremental is None:
        return None
    return Watermark(work.incremental, work.hashes, before.high, spread(before.hashes, name))


def _walk(
    work: Endpoint, client: Client, place: Place, pool: ThreadPoolExecutor | None, stale: bool
) -> Iterator[tuple[Page, State | None]]:
    """Pages in order, each with where the next one is; those known ahead are fetched side by side."""
    at = place.at
    guard = _Loop(work.where)
    ahead: deque[tuple[State, Future[Page]]] = deque()
    planned: Iterator[State] = iter(())
    fetch: Callable[[State], Page] = lambda where: _fetched(work, client, where, place.since)  # noqa: E731
    try:
        while at is not None:
            if ahead and ahead[0][0] == at:
                page = ahead.popleft()[1].result()
            else:
                _dropped(ahead)
                page = _fetched(work, client, at, place.since, stale and at is place.at)
                planned = iter(work.paging.ahead(at, page)) if pool else iter(())
            while pool and len(ahead) < work.parallel and (following := next(planned, None)) is not None:
                ahead.append((following, pool.submit(fetch, following)))
            nxt = work.following(at, page)
            guard.check(nxt)
            yield page, nxt
            at = nxt
    finally:
        _dropped(ahead)


def _dropped(ahead: deque[tuple[State, Future[Page]]]) -> None:
    for _, future in ahead:
        future.cancel()
    ahead.clear()


def _fetched(work: Endpoint, client: Client, at: State, since: str | None, stale: bool = False) -> Page:
    expect = STALE if stale and at.keys() & {"cursor", "url"} else ()

    def parse(answer: Answer) -> Page:
        if answer.status in expect:
            raise _Shifted
        return work.page(answer)

    return client.read(work.request(at, since), parse, expect)


@dataclass
class _Loop:
    """Brent's: a server whose pages lead in a circle is noticed, at the cost of one remembered place."""

    where: str
    mark: State | None = None
    steps: int = 0
    power: int = 1

    def check(self, following: State | None) -> None:
        if following is not None and following == self.mark:
            raise SystemFault(
                f"{self.where}: its pages lead in a circle after {self.steps + 1}",
                hint="is `pagination` right? The server gave the same next page twice",
            )
        self.steps += 1
        if self.steps == self.power:
            self.mark, self.power, self.steps = following, self.power * 2, 0


def name_of(work: Endpoint, number: int, page: int) -> str:
    return f"{work.table or 'pages'}/{number:06}-{page:06}"


def share(endpoints: int) -> int:
    """How many hashes one of so many endpoints may keep in their common position."""
    return MOST_HASHES // max(endpoints, 1)
