"""GraphQL: all pages of a connection, and never partial data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from httpserver import Got, Reply, Server, serving, serving_apart

from headrace.errors import ConfigError, HeadraceError, SystemFault, TransientError
from headrace.sources.graphql import GraphQL
from headrace.testing.source import Ledger, check_source, read_all

QUERY = """
query ($after: String, $since: String, $first: Int) {
  shop { orders(first: $first, after: $after, since: $since) {
    edges { node { id at } } pageInfo { hasNextPage endCursor } } }
}"""


def answer(got: Got) -> Reply:
    asked = json.loads(got.body)
    assert asked["query"] == QUERY
    variables = asked["variables"]
    start, size = int(variables.get("after") or 0), variables["first"]
    nodes = [{"id": n, "at": n} for n in range(25) if n >= int(variables.get("since", 0))]
    part = nodes[start : start + size]
    more = start + size < len(nodes)
    info = {"hasNextPage": more, "endCursor": str(start + size) if part else None}
    edges = [{"node": node, "cursor": "x"} for node in part]
    return Reply(body={"data": {"shop": {"orders": {"edges": edges, "pageInfo": info}}}})


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(answer) as found:
        yield found


def source(server: Server, **settings: Any) -> GraphQL:
    query = {
        "query": QUERY,
        "connection": "shop.orders",
        "variables": {"first": 10},
        **settings.pop("query", {}),
    }
    base = {"name": "api", "root": "/", "url": f"{server.url}/graphql", "allow_private": ["127.0.0.1"]}
    return GraphQL.model_validate({**base, "retry_base": 0, "queries": {"orders": query}, **settings})


def ids(made: GraphQL, ledger: Ledger | None = None) -> list[int]:
    return [node["id"] for body in bodies(made, ledger) for node in nodes(body)]


def nodes(body: Any) -> list[Any]:
    return [edge["node"] for edge in body["data"]["shop"]["orders"]["edges"]]


def bodies(made: GraphQL, ledger: Ledger | None = None) -> list[Any]:
    reader: Any = made.read("api", None, ledger or Ledger())
    return [json.loads(raw.open().read()) for batch in reader for raw in batch.data]


def test_every_page_once(server: Server) -> None:
    assert ids(source(server)) == list(range(25))
    (batch,) = list(source(server).read("api", None, Ledger()))
    assert batch
    assert [raw.table for raw in batch.data] == ["orders"] * 3
    form = batch.data[0].inspector().result()
    assert form["records"] == ["data", "shop", "orders", "edges", "*", "node"]
    assert form["keys"] == ["id", "at"]


def test_what_every_source_promises() -> None:
    with serving_apart(answer) as apart:
        assert check_source(lambda: source(apart, batch_bytes=1)) == 3


def test_incremental_by_variable(server: Server) -> None:
    incremental = {"param": "since", "field": "at", "overlap": 2}
    made = source(server, query={"incremental": incremental})
    ledger = Ledger()
    steps = read_all(made, "api", ledger=ledger)
    assert read_all(made, "api", start=steps[-1].end, ledger=ledger) == []
    assert json.loads(server.got[-1].body)["variables"] == {"first": 10, "since": "22"}


def errors(*codes: str | None) -> list[dict[str, Any]]:
    return [
        {"message": f"bad {code}", "extensions": {"code": code}} if code else {"message": "bad"}
        for code in codes
    ]


@pytest.mark.parametrize(
    ("found", "expected", "calls"),
    [
        (errors("THROTTLED"), TransientError, 4),
        (errors("THROTTLED", "INTERNAL"), SystemFault, 1),
        (errors("UNAUTHENTICATED"), ConfigError, 1),
        (errors("GRAPHQL_VALIDATION_FAILED", "THROTTLED"), ConfigError, 1),
        (errors(None), SystemFault, 1),
        ("what", SystemFault, 1),
        ([{"message": "denied", "type": "FORBIDDEN"}], ConfigError, 1),
    ],
)
def test_errors_in_a_success(server: Server, found: Any, expected: type[HeadraceError], calls: int) -> None:
    """The data beside errors may be partial: it never lands."""

    def partial(got: Got) -> Reply:
        body = json.loads(answer(got).raw())
        return Reply(body={**body, "errors": found})

    server.answer = partial
    with pytest.raises(expected):
        bodies(source(server))
    assert len(server.got) == calls


def test_a_throttled_query_is_asked_again(server: Server) -> None:
    server.answer = lambda got: (
        answer(got) if len(server.got) % 2 == 0 else Reply(body={"errors": errors("THROTTLED")})
    )
    assert ids(source(server)) == list(range(25))


@pytest.mark.parametrize(
    ("connection", "expected", "message"),
    [
        (None, SystemFault, "nothing at"),
        ({"edges": []}, ConfigError, "pageInfo"),
        ({"edges": [], "pageInfo": {"hasNextPage": True}}, SystemFault, "endCursor"),
        ({"edges": [], "pageInfo": {"hasNextPage": "yes", "endCursor": "1"}}, ConfigError, "pageInfo"),
    ],
)
def test_connections_that_are_none(
    server: Server, connection: Any, expected: type[HeadraceError], message: str
) -> None:
    server.answer = lambda _: Reply(body={"data": {"shop": {"orders": connection}}})
    with pytest.raises(expected, match=message):
        bodies(source(server))


def test_a_cursor_that_stands_still(server: Server) -> None:
    info = {"hasNextPage": True, "endCursor": "1"}
    server.answer = lambda _: Reply(body={"data": {"shop": {"orders": {"edges": [], "pageInfo": info}}}})
    with pytest.raises(SystemFault, match="no new endCursor"):
        bodies(source(server))


def test_a_query_without_its_cursor_is_refused(server: Server) -> None:
    with pytest.raises(ValueError, match=r"no variable \$after"):
        source(server, query={"query": "{ shop { orders { id } } }"})
