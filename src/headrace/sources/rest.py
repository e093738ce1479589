"""REST: every page of every endpoint lands byte for byte, and none is missed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..core import Batch, Position, RawFile, Reading
from ..errors import ConfigError, HeadraceError, SystemFault, TransientError
from .how import How
from .http import Answer, Client, Http, Request, show
from .http_limits import Bytes
from .incremental import Incremental
from .inspect import FileInspector
from .paging import NoPages, Page, Paging, State
from .raw import delimited, known
from .sweep import Endpoint, share, sweep

Format = Literal["json", "jsonl", "csv"]
_ACCEPT = {"json": "application/json", "jsonl": "application/x-ndjson, */*", "csv": "text/csv"}


def _path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class EndpointSpec(BaseModel):
    """What differs from the source's own settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """Relative to the source's `url`."""
    params: dict[str, str | int | bool] = Field(default_factory=dict)
    format: Format | None = None
    records: str | None = None
    pagination: Paging | None = None
    incremental: Incremental | None = None
    atomic: bool | None = None


class Rest(Http):
    """Pages of JSON, JSON Lines or CSV from one or more endpoints; each endpoint is a table of the source."""

    type: Literal["rest"] = "rest"
    name: str
    root: Path
    url: str
    endpoints: dict[str, Annotated[EndpointSpec, BeforeValidator(_path)]] = Field(default_factory=dict)
    """By table; without any, `url` is the one endpoint."""
    params: dict[str, str | int | bool] = Field(default_factory=dict)
    format: Format = "json"
    records: str | None = None
    """Path to the records in a JSON body: `data.items`; `edges.*.node` takes something of every element."""
    pagination: Paging = NoPages()
    incremental: Incremental | None = None
    atomic: bool = False
    """Whether a pass over an endpoint lands in one commit or not at all."""
    parallel: int = Field(1, ge=1, le=16)
    """Pages fetched at once, where the pages are known ahead (`page` and `offset` with a total)."""
    batch_bytes: Bytes = 16_000_000
    """Most bytes of pages in one commit, about."""

    @model_validator(mode="after")
    def _possible(self) -> Rest:
        if not urlsplit(self.url).scheme.startswith("http"):
            raise ValueError(f"url `{show(self.url)}` does not begin with https:// or http://")
        for work in self.works():
            if work.format != "json" and (work.records or work.paging.type in ("cursor", "url", "last")):
                raise ValueError(f"`{work.format}` has no `records` path and no cursor in its body")
            if work.format == "csv" and work.incremental:
                raise ValueError("`incremental` needs JSON or JSON Lines")
        return self

    def streams(self) -> Sequence[str]:
        """One stream; its position has one place for each endpoint."""
        return [self.name]

    def works(self) -> list[Work]:
        """The endpoints, each with all its settings."""
        specs = self.endpoints or {"": EndpointSpec(path="")}
        return [
            Work(
                source=self,
                table=table,
                url=urljoin(self.url.rstrip("/") + "/", spec.path) if spec.path else self.url,
                params={**self.params, **spec.params},
                format=spec.format or self.format,
                records=_steps(spec.records or self.records),
                paging=spec.pagination or self.pagination,
                incremental=spec.incremental or self.incremental,
                atomic=self.atomic if spec.atomic is None else spec.atomic,
                hashes=share(len(specs)),
            )
            for table, spec in specs.items()
        ]

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        """Yields the pages with news of each endpoint; an endpoint that fails does not hold up the others.

        Raises the first error at the end, what passes at once: the run comes back to it.
        """
        if stream != self.name:
            raise ConfigError(f"source {self.name} has no stream {stream}", hint=f"its stream is {self.name}")
        with Client(self) as client:
            yield from drained(self.works(), client, start, ctx)


def drained(
    works: Sequence[Endpoint], client: Client, start: Position | None, ctx: Reading
) -> Iterator[Batch | None]:
    """Batches of all endpoints, whose places are one position; again and again where the reading follows."""
    places = dict((start or {}).get("endpoints", {}))
    while True:
        news, failed = False, None
        for work in works:
            try:
                for files, place in sweep(work, client, places.get(work.table), ctx):
                    news, places = True, {**places, work.table: place}
                    yield Batch(files, {"endpoints": places})
            except TransientError:
                raise
            except HeadraceError as error:
                failed = failed or error
        if failed:
            raise failed
        if not ctx.follow:
            return
        if not news:
            yield None


@dataclass(frozen=True)
class Work:
    """One endpoint with all its settings (`sweep.Endpoint`)."""

    source: Rest
    table: str
    url: str
    params: Mapping[str, str | int | bool]
    format: Format
    records: tuple[str, ...]
    paging: Paging
    incremental: Incremental | None
    atomic: bool
    hashes: int

    @property
    def where(self) -> str:
        return f"source {self.source.name}: {show(self.url)}"

    @property
    def batch_bytes(self) -> int:
        return self.source.batch_bytes

    @property
    def parallel(self) -> int:
        return self.source.parallel

    def request(self, at: State, since: str | None) -> Request:
        headers = {"Accept": _ACCEPT[self.format]}
        if "url" in at:
            return Request(str(at["url"]), (), headers=headers)
        given = [(key, _written(value)) for key, value in self.params.items()]
        if self.incremental and since is not None:
            given.append((self.incremental.param, self.incremental.asked(since)))
        return Request(self.url, [*given, *self.paging.params(at)], headers=headers)

    def page(self, answer: Answer) -> Page:
        document: Any = None
        records: list[Any]
        where = show(answer.url)
        if self.format == "json":
            kind = answer.headers.get("content-type", "")
            if not answer.body.strip():  # such as 204 No Content
                return Page(answer.url, answer.headers, None, [], b"")
            document = parsed(answer.body, kind, where)
            records = selected(document, self.records, where)
            self._paged(document, where)
        elif self.format == "jsonl":
            lines = [line for line in answer.body.split(b"\n") if line.strip()]
            needed = self.incremental is not None or self.paging.type == "offset"
            records = [parsed(line, "", where) for line in lines] if needed else lines
        else:
            records = [line for line in answer.body.splitlines() if line.strip()][1:]
        return Page(answer.url, answer.headers, document, records, answer.body)

    def following(self, at: State, page: Page) -> State | None:
        """Where the next page is; a link as an absolute URL of the same server, without our key in it."""
        following = self.paging.after(at, page)
        if following is None or "url" not in following:
            return following
        return {"url": _own(urljoin(page.url, str(following["url"])), self.url, self._keys(), self.where)}

    def file(self, name: str, page: Page) -> RawFile:
        if self.format == "csv":
            return delimited(name, page.body, table=self.table)
        if self.format == "jsonl":
            how = How("jsonl", empty="accept", truncated="accept")
            raw = known(name, page.body, {}, self.table)
            return replace(raw, inspector=lambda: FileInspector(name, how))
        if not page.body:
            return known(name, b"", {"type": "empty", "rows": 0}, self.table)
        keys = dict.fromkeys(key for record in page.records if isinstance(record, dict) for key in record)
        form: dict[str, Any] = {
            "type": "json",
            "encoding": "utf-8",
            "keys": list(keys),
            "rows": len(page.records),
        }
        if self.records:
            form["records"] = list(self.records)
        return known(name, page.body, form, self.table)

    def _keys(self) -> frozenset[str]:
        auth = self.source.auth
        return frozenset([auth.key_name] if auth and auth.type == "api_key" and auth.place == "query" else [])

    def _paged(self, document: Any, where: str) -> None:
        """An object that is taken for one record has no empty page: its pages would never end."""
        if self.records or isinstance(document, list) or self.paging.type not in ("page", "offset", "last"):
            return
        members = document.items() if isinstance(document, dict) else ()
        lists = [key for key, value in members if isinstance(value, list)]
        raise ConfigError(
            f"{where}: the pages are objects, and where the records lie in them is not said",
            hint=f"`records: {lists[0]}`" if lists else "set `records` to the path of the list",
        )


def _steps(path: str | None) -> tuple[str, ...]:
    return tuple(path.split(".")) if path else ()


def _written(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def selected(document: Any, path: Sequence[str], where: str) -> list[Any]:
    """The records at `path`, as refinement will find them; raises `SystemFault` if nothing is there."""
    found = [document]
    for place, step in enumerate(path):
        if step == "*":
            found = [item for each in found if isinstance(each, list) for item in each]
            continue
        for each in found:
            if not isinstance(each, dict) or step not in each:
                there = ", ".join(list(each)[:10]) if isinstance(each, dict) else type(each).__name__
                raise SystemFault(
                    f"{where}: nothing at `{'.'.join(path[: place + 1])}` in the body; there is: {there}",
                    hint="correct `records`, or is this an error that the server calls a success?",
                )
        found = [each[step] for each in found]
    records: list[Any] = []
    for each in found:
        records += each if isinstance(each, list) else [] if each is None and path else [each]
    return records


def parsed(body: bytes, kind: str, where: str) -> Any:
    try:
        return json.loads(body, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        if "html" in kind.lower() or body.lstrip()[:1] == b"<":
            raise SystemFault(
                f"{where} answered a page for people, not JSON", hint="is it a login or maintenance page?"
            ) from None
        raise TransientError(f"{where} answered broken JSON: {error}", hint="was it cut off?") from None


def _own(url: str, base: str, keys: frozenset[str], where: str) -> str:
    """`url` if it is of `base`'s server; a proxy that forgot that it speaks TLS is forgiven."""
    found, own = urlsplit(url), urlsplit(base)
    if (found.scheme, own.scheme) == ("http", "https") and found.hostname == own.hostname:
        found = found._replace(scheme="https", netloc=own.netloc)
    if (found.scheme, found.hostname, found.port) != (own.scheme, own.hostname, own.port):
        raise SystemFault(
            f"{where}: its next page is of another server, {show(url)}",
            hint="credentials are not sent there; make it a source of its own if it is right",
        )
    if not keys:
        return urlunsplit(found)
    kept = [(key, value) for key, value in parse_qsl(found.query, keep_blank_values=True) if key not in keys]
    return urlunsplit(found._replace(query=urlencode(kept)))
