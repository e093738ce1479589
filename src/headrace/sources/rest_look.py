"""From one response of an API to the settings under which all of it is read, and what is left to be said."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpcore

from .. import redact
from ..errors import ConfigError, Refused
from .http import Answer, Client, Request
from .http_guard import Allowed, resolve
from .paging import next_link
from .rest import Rest, parsed

_DEEP = 4
_NAMED = re.compile(r"[\w@$-]+")
"""Keys that a path can name, and that may be shown."""
_NEXT = re.compile(r"next(_?(url|link|page|href))?", re.IGNORECASE)
_CURSOR = re.compile(r"(next|continuation|after|end)?_?-?(cursor|(page_?)?token)", re.IGNORECASE)
_TOTAL = re.compile(r"total(_?(count|results|records|items))?|count", re.IGNORECASE)


@dataclass(frozen=True)
class Look:
    """What one response shows."""

    settings: Mapping[str, Any]
    """Of a source of type `rest`."""
    body: bytes = field(repr=False)
    form: Mapping[str, Any]
    """The body's format, as it would land."""
    notes: list[str]


def look(url: str) -> Look:
    """Settings for `url` under which its response gives records; nothing else is called.

    An address that is not public may be called, since it was named; the settings then say so. Raises by class
    what the call raises, `ConfigError` for a URL that holds a secret, `Refused` where there are no records.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise ConfigError(
            "--from was given no URL of a server", hint="such as https://api.example.com/orders"
        )
    if parts.username or redact.suspicious(f"?{parts.query}"):
        raise ConfigError(
            "the URL seems to hold a secret, which would be written into the pipeline",
            hint="save a response, take `--from response.json`, and give the secret as `auth:` by reference",
        )
    bare = urlunsplit(parts._replace(query="", fragment=""))
    settings: dict[str, Any] = {"type": "rest", "url": bare}
    if params := dict(parse_qsl(parts.query, keep_blank_values=True)):
        settings["params"] = params
    if _private(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)):
        settings["allow_private"] = [parts.hostname]
    given = {"name": "look", "root": Path.cwd()}
    with Client(Rest.model_validate({**given, **settings})) as client:
        answer = client.fetch(
            Request(bare, list(params.items()), headers={"Accept": "application/json, */*"})
        )
    notes: list[str] = []
    settings |= _read(answer, notes)
    work = Rest.model_validate({**given, **settings}).works()[0]
    page = work.page(answer)
    if not page.records:
        raise Refused(f"{bare} gave no records", hint="ask for some: a contract is proposed from values")
    file = work.file("look", page)
    inspector = file.inspector()
    inspector.feed(answer.body)
    return Look(settings, answer.body, dict(inspector.result()), notes)


def _private(host: str, port: int) -> bool:
    try:
        return not all(Allowed()(host, address) for address in resolve(host, port, 10.0))
    except (httpcore.ConnectError, httpcore.ConnectTimeout):
        return False  # the call will say it better


def _read(answer: Answer, notes: list[str]) -> dict[str, Any]:
    """Format, place of the records and pages, as far as the response says."""
    kind = answer.headers.get("content-type", "").lower()
    start = answer.body.lstrip()[:1]
    lines = "ndjson" in kind or "jsonl" in kind or "json-seq" in kind
    if "csv" in kind or (start not in (b"{", b"[", b"<") and "json" not in kind):
        return {"format": "csv", **_linked(answer, notes)}
    if lines or (start == b"{" and _is_lines(answer.body)):
        return {"format": "jsonl", **_linked(answer, notes)}
    document = parsed(answer.body, kind, answer.url)
    if isinstance(document, list):
        return _linked(answer, notes)
    lists = [(path, value) for path, value in _walk(document) if _records(value)]
    if not lists:
        return _linked(answer, notes)
    path, records = max(lists, key=lambda found: len(found[1]))
    settings: dict[str, Any] = {"records": path}
    if next_link(answer.headers.get("link", "")):
        return {**settings, "pagination": {"type": "link"}}
    outside = [(where, value) for where, value in _walk(document) if not where.startswith(f"{path}.")]
    for where, value in outside:
        name = where.rpartition(".")[2]
        if _NEXT.fullmatch(name) and isinstance(value, str) and value.startswith(("http", "/", "?")):
            return {**settings, "pagination": {"type": "url", "next": where}}
    for where, value in outside:
        name = where.rpartition(".")[2]
        if _CURSOR.fullmatch(name) and isinstance(value, str) and value:
            notes.append(
                f"pages: `{where}` looks like a cursor; only the first page is read until the source says "
                f"`pagination: {{type: cursor, next: {where}, param: …}}`"
            )
            return settings
        if _TOTAL.fullmatch(name) and _more(value, len(records)):
            notes.append(
                f"pages: `{where}` says {value}, and {len(records)} came; only these are read until the "
                f"source says `pagination: {{type: page, total: {where}}}`, or `type: offset`"
            )
            return settings
    return {**settings, **_linked(answer, notes)}


def _linked(answer: Answer, notes: list[str]) -> dict[str, Any]:
    if next_link(answer.headers.get("link", "")):
        return {"pagination": {"type": "link"}}
    notes.append("pages: the response names no next page; if there are more, say how in `pagination`")
    return {}


def _more(value: Any, came: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > came


def _records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _walk(document: Any, path: str = "", deep: int = _DEEP) -> Iterator[tuple[str, Any]]:
    """All values that a path of names reaches, the outer ones first."""
    if not isinstance(document, dict) or not deep:
        return
    named = {key: value for key, value in document.items() if _NAMED.fullmatch(key)}
    for key, value in named.items():
        yield f"{path}{key}", value
    for key, value in named.items():
        yield from _walk(value, f"{path}{key}.", deep - 1)


def _is_lines(body: bytes) -> bool:
    first = body.lstrip().split(b"\n", 1)
    try:
        json.loads(first[0])
    except ValueError:
        return False
    return len(first) > 1 and bool(first[1].strip())
