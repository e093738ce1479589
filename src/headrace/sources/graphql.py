"""GraphQL: every page of a cursor connection lands whole; a response with errors never passes for data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..core import Batch, Position, RawFile, Reading
from ..errors import ConfigError, HeadraceError, SystemFault
from .http import Answer, Client, Http, Request, Transient, show
from .http_limits import Bytes
from .incremental import Incremental
from .paging import Page, Paged, State, value_at
from .raw import known
from .rest import drained, parsed, selected
from .sweep import share

PASSING = {"THROTTLED", "RATE_LIMITED", "RATE_LIMIT", "TOO_MANY_REQUESTS", "TIMEOUT", "SERVICE_UNAVAILABLE"}
OURS = {
    "UNAUTHENTICATED": "check `auth:`",
    "FORBIDDEN": "check what these credentials may read",
    "ACCESS_DENIED": "check what these credentials may read",
    "GRAPHQL_PARSE_FAILED": "correct `query`",
    "GRAPHQL_VALIDATION_FAILED": "correct `query`",
    "BAD_USER_INPUT": "correct `variables`",
}


class Query(BaseModel):
    """One table: a query with one connection, such as `orders(first: $first, after: $after)`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str
    connection: str
    """Path of the connection below `data`."""
    variables: dict[str, Any] = Field(default_factory=dict)
    cursor: str = "after"
    """Variable that takes the cursor."""
    records: str = "edges.*.node"
    """Path in the connection: `edges.*.node` or `nodes`."""
    incremental: Incremental | None = None
    """`param` is a variable."""
    atomic: bool = False


class GraphQL(Http):
    """Connections by the Relay cursor specification; each query is a table of the source."""

    type: Literal["graphql"] = "graphql"
    name: str
    root: Path
    url: str
    queries: dict[str, Query]
    batch_bytes: Bytes = 16_000_000

    @model_validator(mode="after")
    def _possible(self) -> GraphQL:
        if not self.queries:
            raise ValueError("give at least one query under `queries`")
        for table, query in self.queries.items():
            if f"${query.cursor}" not in query.query:
                raise ValueError(f"query of `{table}` has no variable ${query.cursor} for the cursor")
        return self

    def streams(self) -> Sequence[str]:
        """One stream; its position has one place for each query."""
        return [self.name]

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        """Yields the pages with news of each query; a query that fails does not hold up the others."""
        if stream != self.name:
            raise ConfigError(f"source {self.name} has no stream {stream}", hint=f"its stream is {self.name}")
        works = [Work(self, table, query) for table, query in self.queries.items()]
        with Client(self) as client:
            yield from drained(works, client, start, ctx)


class Connection(Paged):
    """`pageInfo { hasNextPage endCursor }`."""

    path: str

    def after(self, at: State, page: Page) -> State | None:
        info = value_at(page.document, f"{self.path}.pageInfo")
        if not isinstance(info, dict) or not isinstance(info.get("hasNextPage"), bool):
            raise ConfigError(
                f"{page.url}: no `pageInfo` with `hasNextPage` at {self.path}",
                hint="ask for `pageInfo { hasNextPage endCursor }` in the connection",
            )
        if not info["hasNextPage"]:
            return None
        cursor = info.get("endCursor")
        if not isinstance(cursor, str) or cursor == at.get("cursor"):
            raise SystemFault(
                f"{page.url}: there is a next page at {self.path}, but no new endCursor",
                hint="ask for `pageInfo { hasNextPage endCursor }` in the connection",
            )
        return {"cursor": cursor}


@dataclass(frozen=True)
class Work:
    """One query (`sweep.Endpoint`)."""

    source: GraphQL
    table: str
    query: Query

    @property
    def where(self) -> str:
        return f"source {self.source.name}: {self.table} of {show(self.source.url)}"

    @property
    def paging(self) -> Connection:
        return Connection(path=f"data.{self.query.connection}")

    @property
    def incremental(self) -> Incremental | None:
        return self.query.incremental

    @property
    def atomic(self) -> bool:
        return self.query.atomic

    @property
    def batch_bytes(self) -> int:
        return self.source.batch_bytes

    @property
    def parallel(self) -> int:
        return 1

    @property
    def hashes(self) -> int:
        return share(len(self.source.queries))

    @property
    def records(self) -> list[str]:
        return ["data", *self.query.connection.split("."), *self.query.records.split(".")]

    def request(self, at: State, since: str | None) -> Request:
        variables = dict(self.query.variables)
        if self.incremental and since is not None:
            variables[self.incremental.param] = self.incremental.asked(since)
        if "cursor" in at:
            variables[self.query.cursor] = at["cursor"]
        body = json.dumps({"query": self.query.query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return Request(self.source.url, method="POST", headers=headers, body=body)

    def page(self, answer: Answer) -> Page:
        document = parsed(answer.body, answer.headers.get("content-type", ""), self.where)
        if not isinstance(document, dict):
            raise SystemFault(f"{self.where} answered no object", hint="is `url` the GraphQL endpoint?")
        if document.get("errors"):
            raise problem(document["errors"], self.where)
        records = selected(document, self.records, self.where)
        return Page(show(answer.url), answer.headers, document, records, answer.body)

    def following(self, at: State, page: Page) -> State | None:
        return self.paging.after(at, page)

    def file(self, name: str, page: Page) -> RawFile:
        keys = dict.fromkeys(key for record in page.records if isinstance(record, dict) for key in record)
        form = {"type": "json", "encoding": "utf-8", "keys": list(keys), "rows": len(page.records)}
        return known(name, page.body, {**form, "records": self.records}, self.table)


def problem(errors: Any, where: str) -> HeadraceError:
    """The class of what a response says went wrong: by its code, and by the worst where there are several."""
    listed = [error for error in errors if isinstance(error, Mapping)] if isinstance(errors, list) else []
    codes = [_code(error) for error in listed]
    said = "; ".join(str(error.get("message", "")).strip()[:200] for error in listed[:3]) or str(errors)[:200]
    more = f" (and {len(listed) - 3} more)" if len(listed) > 3 else ""
    message = f"{where} answered errors: {said}{more}"
    ours = next((OURS[code] for code in codes if code in OURS), None)
    if ours:
        return ConfigError(message, hint=ours)
    if codes and all(code in PASSING for code in codes):
        return Transient(message, hint="it is asked again later")
    return SystemFault(message, hint="nothing of this page lands: what came with the errors may be partial")


def _code(error: Mapping[str, Any]) -> str:
    found = value_at(error, "extensions.code") or error.get("type") or ""
    return str(found).upper()
