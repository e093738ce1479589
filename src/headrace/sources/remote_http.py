"""Files of web servers: single URLs, or what an index page links to below itself; never from another host."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urljoin, urlsplit

from .. import redact
from ..errors import ConfigError, Refused
from .listing import Entry, expression, gone, unstable
from .remote import Opening, Transfer, missing
from .remote_tree import unfit

try:
    import httpcore
    import httpx

    from .http import Answer, Client, Http, Request, Transient
except ImportError as error:
    raise missing("http", "httpx") from error

_MAGIC = re.compile(r"[*\[]")
"""A question mark begins a query here."""
_AS_IT_IS = {"Accept-Encoding": "identity"}
_LOST = (
    OSError,
    Transient,
    httpx.HTTPError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
)
_GONE = (404, 410)
_NO_HEAD = (405, 501)


@dataclass
class Web:
    """Files of one host, known by their ETag, Last-Modified and length where the server tells them."""

    opening: Opening
    settle: float = 0.0
    _client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None:
            access = self.opening.access
            settings: dict[str, Any] = {
                "headers": dict(access.headers),
                "timeout": access.timeout,
                "total_timeout": 86_400,
                "max_bytes": 1 << 50,
                "allow_private": access.allow_private,
                "ca_file": str(self.opening.file(access.ca)) if access.ca else None,
                "retry_base": 0.2,
            }
            if access.password is not None:
                user = access.user or self.opening.at.user or ""
                settings["auth"] = {"type": "basic", "user": user, "password": access.password}
            self._client = Client(Http.model_validate(settings))
        return self._client

    def entries(self, pattern: str, after: str = "") -> Iterator[Entry]:  # noqa: ARG002  (none begins later)
        path, mark, query = pattern.partition("?")
        found = _MAGIC.search(path)
        if not found:
            if path.endswith("/"):
                raise ConfigError(
                    f"{self.opening.at.base}{path} is a folder",
                    hint=f"say which files its index links to: {path}*.csv",
                )
            entry = self._looked(path + mark + query)
            if entry is None:
                raise FileNotFoundError(path)
            yield entry
            return
        base = path[: path.rindex("/", 0, found.start()) + 1]
        yield from sorted(self._crawled(base, path[len(base) :]), key=lambda entry: entry.name)

    def _crawled(self, base: str, rest: str) -> Iterator[Entry]:
        parts = rest.split("/")
        matches = re.compile(expression(parts), re.DOTALL).fullmatch
        deep = None if "**" in parts else len(parts)
        pending, known = [("", "")], {""}
        while pending:
            folder, written = pending.pop()
            for link in self._links(base + written):
                name = unquote(link.rstrip("/"))
                relative = folder + name + ("/" if link.endswith("/") else "")
                if relative in known or unfit(name):
                    continue
                known.add(relative)
                if any(fnmatchcase(name, hidden) for hidden in self.opening.ignore):
                    continue
                if link.endswith("/"):
                    if deep is None or relative.count("/") < deep:
                        pending.append((relative, written + link))
                elif matches(relative) and (entry := self._looked(base + written + link)):
                    yield entry

    def _links(self, folder: str) -> Iterator[str]:
        """Names right in `folder` that its index links to, as they are written in URLs."""
        here = self.opening.at.base + folder
        answer = self.client.fetch(Request(here), expect=_GONE)
        if answer.status in _GONE:
            raise FileNotFoundError(folder)
        text = answer.body.decode("utf-8", "replace")
        if "html" in str(answer.headers.get("content-type", "")):
            reader = _Links()
            reader.feed(text)
            links = reader.found
        else:
            links = text.split()
        for link in links:
            url = urljoin(here, link)
            if url.startswith(here) and urlsplit(url).path != folder:
                name = urlsplit(url[len(here) :]).path
                if re.fullmatch(r"[^/]+/?", name):
                    yield name

    def _looked(self, path: str) -> Entry | None:
        url = self.opening.at.base + path
        request = Request(url, method="HEAD", headers=_AS_IT_IS)
        answer = self.client.fetch(request, expect=(*_GONE, *_NO_HEAD))
        if answer.status in _NO_HEAD:
            with self.client.stream(Request(url, headers=_AS_IT_IS), expect=_GONE) as (begun, _):
                answer = begun
        if answer.status in _GONE:
            return None
        size, signature = _signature(answer)
        modified = _time(answer.headers.get("last-modified"))
        return Entry(redact.text(url), Path(), size, signature, modified, key=path, place=self)

    def open(self, entry: Entry) -> BinaryIO:
        if "size" not in entry.signature:
            return self._spooled(entry)
        return cast(BinaryIO, Transfer(entry, lambda at: self._body(entry, at), _LOST))

    def _body(self, entry: Entry, at: int) -> BinaryIO:
        marks = {name for name in ("etag", "modified") if name in entry.signature}
        if at and not marks:
            raise Refused(
                f"{entry.name} broke off", hint="the server tells no versions: nothing can be resumed"
            )
        headers = {**_AS_IT_IS, **({"Range": f"bytes={at}-"} if at else {})}
        held = ExitStack()
        try:
            request = Request(self.opening.at.base + entry.key, headers=headers)
            answer, chunks = held.enter_context(self.client.stream(request, expect=(*_GONE, 416)))
            if answer.status in _GONE:
                raise gone(entry)
            now = _signature(answer)[1]
            same = all(now.get(name) == entry.signature[name] for name in marks)
            if at:
                wanted = f"bytes {at}-{entry.size - 1}/{entry.size}"
                same = same and answer.status == 206 and answer.headers.get("content-range") == wanted
            elif answer.headers.get("content-encoding") is None:
                same = same and now.get("size") == entry.size
            if not same:
                raise unstable(entry)
        except BaseException:
            held.close()
            raise
        return cast(BinaryIO, _Body(held, chunks))

    def _spooled(self, entry: Entry) -> BinaryIO:
        """A body whose length is told only by its end, which HTTP marks: a broken one raises."""
        spool = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  (whoever reads it closes it)
        try:
            request = Request(self.opening.at.base + entry.key, headers=_AS_IT_IS)
            with self.client.stream(request, expect=_GONE) as (answer, chunks):
                if answer.status in _GONE:
                    raise gone(entry)
                shutil.copyfileobj(cast(Any, _Body(ExitStack(), chunks)), spool, 1 << 20)
        except BaseException:
            spool.close()
            raise
        spool.seek(0)
        return spool

    def verify(self, entry: Entry) -> None:
        if not {"etag", "modified"} & set(entry.signature):
            return
        now = self._looked(entry.key)
        if now is None:
            raise gone(entry)
        if now.signature != entry.signature:
            raise unstable(entry)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def place(opening: Opening) -> Web:
    return Web(opening)


@dataclass
class _Body(io.RawIOBase):
    held: ExitStack
    chunks: Iterator[bytes]
    rest: bytes = b""

    def read(self, size: int = -1) -> bytes:
        if not self.rest:
            self.rest = next(self.chunks, b"")
        size = len(self.rest) if size < 0 else size
        part, self.rest = self.rest[:size], self.rest[size:]
        return part

    def close(self) -> None:
        self.held.close()
        super().close()


class _Links(HTMLParser):
    """Where the `<a href>` of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _signature(answer: Answer) -> tuple[int, dict[str, Any]]:
    headers: Mapping[str, str] = answer.headers
    found: dict[str, Any] = {}
    if headers.get("etag"):
        found["etag"] = headers["etag"]
    if headers.get("last-modified"):
        found["modified"] = headers["last-modified"]
    length = headers.get("content-length", "")
    size = int(length) if length.isdigit() and headers.get("content-encoding") is None else 0
    if length.isdigit() and headers.get("content-encoding") is None:
        found["size"] = size
    if not {"etag", "modified"} & set(found):
        found["seen"] = datetime.now().isoformat()  # nothing tells whether it changes: it is read each time
    return size, found


def _time(text: str | None) -> float:
    try:
        return parsedate_to_datetime(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0
