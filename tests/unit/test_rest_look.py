"""`headrace init --from URL`: one response becomes a project that loads all that the API has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpserver import Got, Reply, Server, serving
from projects import go

from headrace.cli.start import create
from headrace.errors import ConfigError, HeadraceError, Refused
from headrace.sources.rest_look import look
from headrace.spec.load import load

ONE: dict[str, Any] = {}
ROWS = [{"id": n, "amount": f"{n}.25", "at": f"2026-01-01T00:00:{n % 60:02}Z"} for n in range(250)]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda _: Reply(404)) as found:
        yield found


def page(got: Got) -> int:
    return int(got.query.get("page", "1"))


def by_link(got: Got) -> Reply:
    found = ROWS[100 * (page(got) - 1) : 100 * page(got)]
    more = {"Link": f'<{got.path}?page={page(got) + 1}>; rel="next"'} if page(got) < 3 else {}
    return Reply(body={"data": {"orders": found, "shops": [{"id": 1}]}}, headers=more)


def by_url(got: Got) -> Reply:
    found = ROWS[100 * (page(got) - 1) : 100 * page(got)]
    after = f"{got.path}?page={page(got) + 1}" if page(got) < 3 else None
    return Reply(body={"results": found, "links": {"next": after}, "count": 250})


def lines(_: Got) -> Reply:
    kind = {"Content-Type": "application/x-ndjson"}
    return Reply(body="".join(f"{json.dumps(row)}\n" for row in ROWS), headers=kind)


def table(_: Got) -> Reply:
    body = "id,amount,at\n" + "".join(f"{row['id']},{row['amount']},{row['at']}\n" for row in ROWS)
    return Reply(body=body, headers={"Content-Type": "text/csv; charset=utf-8"})


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (by_link, {"records": "data.orders", "pagination": {"type": "link"}}),
        (by_url, {"records": "results", "pagination": {"type": "url", "next": "links.next"}}),
        (lines, {"format": "jsonl"}),
        (table, {"format": "csv"}),
        (lambda _: Reply(body=ROWS), {}),
        (lambda _: Reply(body={"id": 7, "amount": "1.25", "at": "2026-01-01T00:00:00Z"}), ONE),
    ],
)
def test_the_project_loads_all_that_there_is(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, wanted: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    server.answer = answer
    said = create(None, f"{server.url}/v1/orders?status=all")
    assert said[0].startswith("made orders/ with pipeline.yml")
    spec = load(tmp_path / "orders").config
    found = spec.sources["orders_rest"].settings
    assert {
        key: value for key, value in found.items() if key not in ("url", "params", "allow_private")
    } == wanted
    assert found["params"] == {"status": "all"}
    assert found["allow_private"] == ["127.0.0.1"]  # it was named, so it may be called
    columns = spec.tables["orders"].contract.columns
    assert set(columns) == {"id", "amount", "at"}
    assert str(columns["at"].type) == "timestamp"
    [done] = go(tmp_path / "orders").tables
    assert done.ledger.read == (1 if wanted is ONE else 250)
    assert done.ledger.quarantined == 0


def test_what_is_not_known_of_the_pages_is_said(server: Server) -> None:
    server.answer = lambda _: Reply(body={"items": ROWS[:100], "meta": {"next_cursor": "abc"}})
    [note] = look(f"{server.url}/orders").notes
    assert "cursor, next: meta.next_cursor" in note
    server.answer = lambda _: Reply(body={"items": ROWS[:100], "meta": {"total": 250}})
    [note] = look(f"{server.url}/orders").notes
    assert "says 250, and 100 came" in note
    server.answer = lambda _: Reply(body=ROWS)
    [note] = look(f"{server.url}/orders").notes
    assert "names no next page" in note


def test_no_secret_is_written_and_nothing_else_is_called(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (f"{server.url}/orders?api_key=hunter2", f"http://ann:hunter2@127.0.0.1:{server.port}/orders"):
        with pytest.raises(ConfigError, match="hold a secret") as caught:
            create(None, url)
        assert "hunter2" not in str(caught.value)
    assert server.got == []
    server.answer = lambda _: Reply(302, headers={"Location": "http://169.254.169.254/latest/meta-data"})
    with pytest.raises(ConfigError, match="no public address"):
        create(None, f"{server.url}/orders")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (Reply(body=[]), Refused, "no records"),
        (Reply(401, body="who?"), ConfigError, "401"),
        (
            Reply(body="<html>log in</html>", headers={"Content-Type": "text/html"}),
            HeadraceError,
            "for people",
        ),
    ],
)
def test_what_gives_no_contract_makes_no_folder(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Reply,
    error: type[HeadraceError],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    server.answer = lambda _: answer
    with pytest.raises(error, match=said):
        create("shop", f"{server.url}/orders")
    with pytest.raises(ConfigError, match="not s3://"):
        create("shop", "s3://bucket/a.csv")
    assert list(tmp_path.iterdir()) == []
