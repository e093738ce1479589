"""From an API to silver: every record, its types exact, and a server that comes and goes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpserver import Got, Reply, Server, serving, within

from tests.projects import go, headrace, rows

PIPELINE = """
name: shop
retry: {attempts: 0}
sources:
  api:
    type: rest
    url: ${API_URL}
    allow_private: [127.0.0.1]
    auth: {type: bearer, token: "${API_TOKEN}"}
    attempts: 1
    retry_base: 0.01
    timeout: 2
    records: data.items
    pagination: {type: page, total: data.total}
    parallel: 3
    endpoints:
      orders: {path: orders, incremental: {param: since, field: at, overlap: 5s}}
      shops: shops
tables:
  orders:
    from: api.orders
    keys: [id]
    latest_by: at
    contract:
      columns:
        id:     {type: integer, required: true}
        amount: {type: "decimal(20,6)"}
        city:   {type: text, from: ship.city}
        at:     {type: timestamp}
  shops:
    from: api.shops
    keys: [id]
    contract: {columns: {id: {type: integer}, name: {type: text}}}
"""
TOKEN = "canary-7f3a9b"


class Shop:
    def __init__(self) -> None:
        self.orders = [self.order(n) for n in range(230)]
        self.shops = [{"id": n, "name": f"s{n}"} for n in range(12)]
        self.down: Reply | None = None

    @staticmethod
    def order(n: int, **more: Any) -> dict[str, Any]:
        at = f"2026-01-01T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}Z"
        return {"id": n, "amount": n / 8, "ship": {"city": f"c{n % 5}"}, "at": at, **more}

    def __call__(self, got: Got) -> Reply:
        if self.down:
            return self.down
        if got.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(401, body=f"who is {dict(got.headers)}")
        found = {"/v1/orders": self.orders, "/v1/shops": self.shops}[got.path]
        found = [record for record in found if str(record.get("at", "")) >= got.query.get("since", "")]
        page = int(got.query["page"])
        part = found[(page - 1) * 20 : page * 20]
        return Reply(body={"data": {"items": part, "total": len(found)}})


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Shop, Server, Path]]:
    shop = Shop()
    with serving(shop) as server:
        monkeypatch.setenv("API_URL", f"{server.url}/v1")
        monkeypatch.setenv("API_TOKEN", TOKEN)
        (tmp_path / "pipeline.yml").write_text(PIPELINE)
        yield shop, server, tmp_path


def orders(root: Path) -> dict[int, tuple[str, str]]:
    """id → (amount, city), as text."""
    names = ["_file", "_line", "_source", "amount", "at", "city", "id"]
    found = [dict(zip(names, row, strict=True)) for row in rows(root, "silver.orders")]
    assert len({row["id"] for row in found}) == len(found)
    return {int(row["id"]): (str(row["amount"]), str(row["city"])) for row in found}


def expected(shop: Shop) -> dict[int, tuple[str, str]]:
    return {o["id"]: (f"{o['amount']:.6f}", o["ship"]["city"]) for o in shop.orders}


def test_all_of_it_arrives_and_again_nothing_does(shop: tuple[Shop, Server, Path]) -> None:
    api, _, root = shop
    report = go(root)
    assert report.status == "success"
    assert orders(root) == expected(api)
    assert len(rows(root, "silver.shops")) == 12
    assert rows(root, "quarantine.orders") == []
    again = go(root)
    assert [source.new_files for source in again.sources] == [0]
    assert all(table.noop for table in again.tables)
    moved = Shop.order(229, amount=0.125, ship={"city": "moved"}, at="2026-01-01T02:00:00Z")
    api.orders = [*api.orders[:229], Shop.order(230), moved]
    assert go(root).status == "success"
    assert orders(root) == expected(api)


def test_it_goes_on_where_the_server_broke_off(shop: tuple[Shop, Server, Path]) -> None:
    api, server, root = shop
    text = PIPELINE.replace("parallel: 3", "batch_bytes: 1000")
    (root / "pipeline.yml").write_text(text)
    real = server.answer
    server.answer = lambda got: Reply(503) if len(server.got) > 5 else real(got)
    assert go(root).status == "incomplete"
    half = orders(root)
    assert 0 < len(half) < 230
    server.answer = real
    server.got.clear()
    assert go(root).status == "success"
    assert orders(root) == expected(api)
    pages = [got.query["page"] for got in server.got if got.path == "/v1/orders"]
    assert pages[0] != "1", "what has landed is not asked for again"


def test_the_breaker_opens_and_recovers(shop: tuple[Shop, Server, Path]) -> None:
    api, server, root = shop
    api.down = Reply(500)
    for _ in range(5):
        assert go(root).status == "incomplete"
    calls = len(server.got)
    report = go(root)
    assert "not called" in str(report.sources[0].error)
    assert len(server.got) == calls
    api.down = None
    assert "not called" in str(go(root).sources[0].error)
    catalog = sqlite3.connect(root / "lake/catalog.db")
    table = next(
        name
        for (name,) in catalog.execute("SELECT name FROM sqlite_master WHERE type='table'")
        if "breaker" in name
    )
    catalog.execute(f"UPDATE {table} SET opened_at = opened_at - 3600")  # an hour passes
    catalog.commit()
    catalog.close()
    assert go(root).status == "success"
    assert orders(root) == expected(api)


def test_a_server_that_hangs_holds_nobody(shop: tuple[Shop, Server, Path]) -> None:
    api, _, root = shop
    (root / "pipeline.yml").write_text(PIPELINE.replace("timeout: 2", "timeout: 0.3"))
    api.down = Reply(hang=60)
    with within(10):
        assert go(root).status == "incomplete"


def test_no_trace_of_the_credentials(shop: tuple[Shop, Server, Path]) -> None:
    api, _, root = shop
    outputs = []
    for reply in (
        None,
        Reply(401, body=f"you sent {TOKEN}"),
        Reply(500, body=TOKEN),
        Reply(302, headers={"Location": "/x"}),
    ):
        api.down = reply
        done = headrace(root, "run", "--json")
        outputs.append(done.stdout + done.stderr)
    outputs.append(headrace(root, "status").stdout)
    assert not [text for text in outputs if TOKEN in text]
    written = [path for path in root.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert written == []
