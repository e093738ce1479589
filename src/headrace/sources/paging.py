"""How an API gives its pages: what to ask for next, as a small state in JSON, or that there is no more.

A page that is shorter than asked for ends nothing, since servers cap what they give. Only an empty page, or
the server's own word (a total, no next link, `more: false`), is the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..errors import SystemFault

State = Mapping[str, Any]
Params = list[tuple[str, str]]
_LINK = re.compile(r'<([^>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:"[^"]*"|[^",;\s]+))*)')
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^",;\s]+))', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Page:
    """One response, as far as paging looks at it."""

    url: str
    headers: Mapping[str, str]
    document: Any
    """The parsed body, where it is JSON."""
    records: Sequence[Any]
    body: bytes = field(repr=False, default=b"")


class Paged(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def params(self, at: State) -> Params:  # noqa: ARG002  (what the simple ones need)
        return []

    def after(self, at: State, page: Page) -> State | None:
        """Where the page after `page` is; None if there is none."""
        raise NotImplementedError

    def ahead(self, at: State, page: Page) -> Sequence[State]:  # noqa: ARG002
        """Where the pages after `page` are, as far as it says; they may be asked for at once."""
        return ()

    def total_of(self, page: Page) -> int | None:  # noqa: ARG002
        """How many records the server says that there are."""
        return None


class NoPages(Paged):
    type: Literal["none"] = "none"

    def after(self, at: State, page: Page) -> State | None:  # noqa: ARG002
        return None


class PageNumber(Paged):
    """`?page=1`, `?page=2` …"""

    type: Literal["page"]
    param: str = "page"
    first: int = 1
    size_param: str | None = None
    size: int | None = Field(None, ge=1)
    total: str | None = None
    """Path to the number of all records."""
    pages: str | None = None
    """Path to the number of pages."""
    more: str | None = None
    """Path to whether there is another page."""

    def params(self, at: State) -> Params:
        return [(self.param, str(at.get("page", self.first))), *_size(self.size_param, self.size)]

    def after(self, at: State, page: Page) -> State | None:
        number = int(at.get("page", self.first)) + 1
        last = self._last(page)
        if not page.records or (last is not None and number > last) or _says_no(page, self.more):
            return None
        return {"page": number}

    def ahead(self, at: State, page: Page) -> Sequence[State]:
        number, last = int(at.get("page", self.first)), self._last(page)
        if last is None and self.total and page.records:
            # The first page's length is what the server gives, whatever was asked for.
            count = number_at(page.document, self.total, page.url)
            last = self.first - 1 + -(-count // len(page.records)) if count is not None else None
        return [{"page": n} for n in range(number + 1, (last or number) + 1)]

    def total_of(self, page: Page) -> int | None:
        return number_at(page.document, self.total, page.url) if self.total else None

    def _last(self, page: Page) -> int | None:
        count = number_at(page.document, self.pages, page.url) if self.pages else None
        return None if count is None else self.first - 1 + count


class Offset(Paged):
    """`?offset=0`, `?offset=100` …; pages overlap, so that a record lost between two is noticed."""

    type: Literal["offset"]
    param: str = "offset"
    first: int = 0
    size_param: str | None = "limit"
    size: int | None = Field(100, ge=2)
    total: str | None = None
    more: str | None = None
    overlap: int = Field(1, ge=0)
    """Records of a page that the next one repeats; 0 if the server takes multiples of the size only."""

    def params(self, at: State) -> Params:
        return [(self.param, str(at.get("offset", self.first))), *_size(self.size_param, self.size)]

    def after(self, at: State, page: Page) -> State | None:
        start = int(at.get("offset", self.first))
        fresh = len(page.records) - int(at.get("again", 0))
        count = self.total_of(page)
        reached = start + len(page.records)
        if fresh <= 0 or _says_no(page, self.more) or (count is not None and reached >= self.first + count):
            return None
        return self._state(reached, len(page.records))

    def ahead(self, at: State, page: Page) -> Sequence[State]:
        count, size = self.total_of(page), len(page.records)
        if count is None or size == 0:
            return ()
        reached = int(at.get("offset", self.first)) + size
        step = size - min(self.overlap, size - 1)
        return [self._state(r, size) for r in range(reached, self.first + count, step)]

    def _state(self, reached: int, size: int) -> State:
        again = min(self.overlap, size - 1)
        return {"offset": reached - again, "again": again}

    def total_of(self, page: Page) -> int | None:
        return number_at(page.document, self.total, page.url) if self.total else None


class Cursor(Paged):
    """The body names what to ask for next: a cursor or a page token."""

    type: Literal["cursor"]
    param: str = "cursor"
    next: str
    """Path to the next cursor in the body."""
    more: str | None = None
    size_param: str | None = None
    size: int | None = Field(None, ge=1)

    def params(self, at: State) -> Params:
        given = [(self.param, str(at["cursor"]))] if "cursor" in at else []
        return [*given, *_size(self.size_param, self.size)]

    def after(self, at: State, page: Page) -> State | None:
        found = value_at(page.document, self.next)
        if not page.records and str(found) == at.get("cursor"):
            return None  # some give the last cursor again and again
        return None if found in (None, "", False) or _says_no(page, self.more) else {"cursor": str(found)}


class LastRecord(Paged):
    """The next page begins after the last record of this one (`?starting_after=<id>`)."""

    type: Literal["last"]
    param: str = "starting_after"
    field: str = "id"
    more: str | None = None
    size_param: str | None = None
    size: int | None = Field(None, ge=1)

    def params(self, at: State) -> Params:
        given = [(self.param, str(at["cursor"]))] if "cursor" in at else []
        return [*given, *_size(self.size_param, self.size)]

    def after(self, at: State, page: Page) -> State | None:  # noqa: ARG002
        if not page.records or _says_no(page, self.more):
            return None
        found = value_at(page.records[-1], self.field)
        if found is None:
            raise SystemFault(
                f"{page.url}: the last record has no `{self.field}`", hint="correct `pagination.field`"
            )
        return {"cursor": str(found)}


class LinkHeader(Paged):
    """RFC 8288: `Link: <https://…>; rel="next"`."""

    type: Literal["link"]
    size_param: str | None = None
    size: int | None = Field(None, ge=1)

    def params(self, at: State) -> Params:
        return [] if "url" in at else _size(self.size_param, self.size)

    def after(self, at: State, page: Page) -> State | None:  # noqa: ARG002
        found = next_link(page.headers.get("link", ""))
        return {"url": found} if found else None


class NextUrl(Paged):
    """The body holds the next page's URL."""

    type: Literal["url"]
    next: str = "next"
    """Path to the URL in the body."""
    size_param: str | None = None
    size: int | None = Field(None, ge=1)

    def params(self, at: State) -> Params:
        return [] if "url" in at else _size(self.size_param, self.size)

    def after(self, at: State, page: Page) -> State | None:  # noqa: ARG002
        found = value_at(page.document, self.next)
        return {"url": str(found)} if found else None


Paging = Annotated[
    NoPages | PageNumber | Offset | Cursor | LastRecord | LinkHeader | NextUrl, Field(discriminator="type")
]


def value_at(document: Any, path: str) -> Any:
    """What lies at a dotted path; None if nothing does.

    >>> value_at({"meta": {"next": "x"}, "items": [{"id": 7}]}, "items.0.id")
    7
    """
    for step in path.split("."):
        if isinstance(document, Mapping):
            document = document.get(step)
        elif isinstance(document, list) and step.isdigit() and int(step) < len(document):
            document = document[int(step)]
        else:
            return None
    return document


def number_at(document: Any, path: str, url: str) -> int | None:
    found = value_at(document, path)
    if found is None:
        return None
    try:
        return int(found)
    except (TypeError, ValueError):
        raise SystemFault(f"{url}: `{path}` is {str(found)[:50]!r}, no number") from None


def next_link(header: str) -> str | None:
    """
    >>> next_link('<https://a.example/?p=1>; rel="prev", </?p=3>; title="x"; rel="next last"')
    '/?p=3'
    """
    for target, attributes in _LINK.findall(header):
        rel = _REL.search(attributes)
        if rel and "next" in (rel[1] or rel[2]).lower().split():
            return str(target)
    return None


def _says_no(page: Page, path: str | None) -> bool:
    return path is not None and value_at(page.document, path) in (False, 0, "false", "0", None, "")


def _size(param: str | None, size: int | None) -> Params:
    return [(param, str(size))] if param and size else []
