"""The MongoDB source: it can stop after any batch and go on from there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from mongo import Shop

from headrace.core import Batch, Position, Reading
from headrace.sources.mongo import MongoDB
from headrace.testing.source import check_source, read_all


@dataclass
class From:
    """The source as if it had never been read beyond `base`: what is read first has the server's time."""

    source: MongoDB
    base: Position

    def streams(self) -> Sequence[str]:
        return self.source.streams()

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        return self.source.read(stream, start or self.base, ctx)


def lines(content: bytes, form: Mapping[str, Any]) -> list[object]:
    assert form["rows"] == content.count(b"\n")
    return [json.loads(line) for line in content.splitlines()]


@pytest.fixture
def shop(mongo_shop: Shop) -> Shop:
    mongo_shop.db.orders.insert_many([{"_id": n, "what": f"w{n}"} for n in range(500)])
    mongo_shop.db.items.insert_many([{"_id": f"i{n}", "n": n} for n in range(20)])
    return mongo_shop


@pytest.mark.parametrize(
    "settings", [{"mode": "snapshot"}, {"mode": "watermark", "watermark": {"orders": "_id", "items": "n"}}]
)
def test_full_and_incremental(shop: Shop, settings: dict[str, Any]) -> None:
    source = MongoDB(name="m", dsn=shop.dsn, collections=["orders", "items"], **settings)
    assert check_source(lambda: source) == 2


def test_changes_with_their_snapshot(shop: Shop) -> None:
    source = MongoDB(name="m", dsn=shop.dsn, collections=["orders", "items"], chunk_mb=0.005)
    base = json.loads(json.dumps(next(iter(source.read("m", None, _Reading()))).end))  # type: ignore[union-attr]
    for n in range(30):
        shop.db.orders.replace_one({"_id": n}, {"what": "again"})
        shop.db.items.update_one({"_id": "i3"}, {"$inc": {"n": 1}})
        shop.db.orders.delete_one({"_id": n + 100})
    with shop.client.start_session() as session, session.start_transaction():
        for n in range(60):
            shop.db.orders.insert_one({"_id": 1000 + n, "what": "of one transaction" * 10}, session=session)
    lost = {"m": {**base, "at": "0000000100000001"}} if shop.server.ours else {}
    looked = check_source(lambda: From(source, base), rows=lines, lost=lost)
    assert looked > 12
    ends = [step.end["at"] for step in read_all(source, "m", start=base)]
    assert len(set(ends)) > 3


@dataclass
class _Reading:
    follow: bool = False

    def seen(self, name: str) -> None:
        del name

    def names(self) -> Sequence[str]:
        return []
