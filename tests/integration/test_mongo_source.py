"""The MongoDB source against a server: every change, every mode, and every way in which it must stop."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from mongo import Shop
from mongo_server import stand_in

from headrace.core import Position
from headrace.errors import ConfigError, Gap, HeadraceError, TransientError
from headrace.sources.mongo import MongoDB
from headrace.sources.mongo_server import Server
from headrace.testing.source import Ledger, read_all

Line = dict[str, Any]


def lines(content: bytes, form: Mapping[str, Any]) -> list[Any]:
    if form["type"] == "empty":
        return []
    assert form["envelope"] == "headrace"
    assert form["extended"] is True
    return [json.loads(line) for line in content.splitlines()]


def source(shop: Shop, *collections: str, **settings: Any) -> MongoDB:
    return MongoDB(name="m", dsn=shop.dsn, collections=list(collections) or ["orders"], **settings)


def read(made: MongoDB, start: Position | None = None, **ledger: Any) -> tuple[list[Any], Position]:
    """Every line from a position on, and the position after it."""
    steps = read_all(made, "m", rows=lines, start=start, ledger=Ledger(**ledger), most=10_000)
    end = steps[-1].end if steps else start
    assert end is not None
    return [line for step in steps for line in step.items], json.loads(json.dumps(end))


def state(found: Sequence[Line]) -> dict[str, Any]:
    """What is there after all changes, by `_id` as text; the later one wins, whichever comes first."""
    newest: dict[str, Line] = {}
    truncated = max((line["sequence"] for line in found if line["op"] == "t"), default="")
    for line in found:
        if line["op"] in ("t", "m"):
            continue
        key = json.dumps((line.get("key") or line["after"])["_id"])
        if key not in newest or newest[key]["sequence"] <= line["sequence"]:
            newest[key] = line
    return {k: v["after"] for k, v in newest.items() if v["op"] != "d" and v["sequence"] > truncated}


def truth(shop: Shop, collection: str = "orders") -> dict[str, Any]:
    """The same, by the driver's own reading and writing."""
    options = bson.json_util.CANONICAL_JSON_OPTIONS.with_options(
        datetime_conversion=bson.DatetimeConversion.DATETIME_MS
    )
    every = shop.db[collection].find()
    told = [json.loads(bson.json_util.dumps(each, json_options=options)) for each in every]
    return {json.dumps(each["_id"]): each for each in told}


def test_every_change_comes_once_and_in_order(mongo_shop: Shop) -> None:
    orders = mongo_shop.db.orders
    orders.insert_many([{"_id": n, "n": n} for n in range(4)])
    first, end = read(source(mongo_shop))
    assert state(first) == truth(mongo_shop)
    orders.insert_one({"_id": 9, "tags": ["a"]})
    orders.update_one({"_id": 1}, {"$set": {"address.city": "Bonn"}, "$unset": {"n": ""}})
    orders.replace_one({"_id": 2}, {"new": True})
    orders.delete_one({"_id": 3})
    found, end = read(source(mongo_shop), end)
    assert [(line["op"], line["key"]["_id"]) for line in found] == [
        ("c", {"$numberInt": "9"}),
        ("u", {"$numberInt": "1"}),
        ("u", {"$numberInt": "2"}),
        ("d", {"$numberInt": "3"}),
    ]
    assert found[1]["after"] == {"_id": {"$numberInt": "1"}, "address": {"city": "Bonn"}}
    assert "after" not in found[3]
    assert [line["sequence"] for line in found] == sorted(line["sequence"] for line in found)
    assert state([*first, *found]) == truth(mongo_shop)
    committed = datetime.datetime.fromisoformat(found[0]["committed"])
    assert abs((committed - datetime.datetime.now(datetime.UTC)).total_seconds()) < 120
    assert read(source(mongo_shop), end)[0] == []


def test_the_changes_of_a_transaction_are_told_together(mongo_shop: Shop) -> None:
    mongo_shop.db.orders.insert_one({"_id": 0})
    _, end = read(source(mongo_shop, chunk_mb=0.0001))
    with mongo_shop.client.start_session() as session, session.start_transaction():
        for n in range(1, 20):
            mongo_shop.db.orders.insert_one({"_id": n, "x": "y" * 50}, session=session)
    mongo_shop.db.orders.delete_one({"_id": 5})
    steps = read_all(source(mongo_shop, chunk_mb=0.0001), "m", rows=lines, start=end)
    assert [len(step.items) for step in steps] == [19, 1]
    assert len({line["tx"] for line in steps[0].items}) == 1  # type: ignore[index]
    assert len({line["sequence"] for line in steps[0].items}) == 19  # type: ignore[index]
    assert "tx" not in steps[1].items[0]  # type: ignore[operator]


def test_a_token_moves_on_while_nothing_changes(mongo_shop: Shop) -> None:
    mongo_shop.db.orders.insert_one({"_id": 0})
    _, end = read(source(mongo_shop))
    assert end["token"] == ""
    old = {**end, "seen": f"{int(end['seen'][:8], 16) - 601:08X}00000001"}
    found, moved = read(source(mongo_shop), old)
    assert (found, moved["token"] != "", moved["seen"] >= end["seen"]) == ([], True, True)
    assert read(source(mongo_shop), moved) == ([], moved)
    mongo_shop.db.orders.insert_one({"_id": 1})
    assert [line["key"] for line in read(source(mongo_shop), moved)[0]] == [{"_id": {"$numberInt": "1"}}]


def test_documents_that_change_while_they_are_read(mongo_shop: Shop) -> None:
    """Between any two chunks of the snapshot documents come, change and go; the stream starts before it."""
    orders = mongo_shop.db.orders
    orders.insert_many([{"_id": n, "n": 0, "x": "y" * 200} for n in range(200)])
    found: list[Any] = []
    made = source(mongo_shop, chunk_mb=0.004)
    batches = 0
    for step in made.read("m", None, Ledger()):
        assert step is not None
        for file in step.data:
            with file.open() as stream:
                found += [json.loads(line) for line in stream.read().splitlines()]
        batches += 1
        if batches < 12:
            orders.update_one({"_id": batches}, {"$inc": {"n": 1}})  # already read
            orders.update_one({"_id": 199 - batches}, {"$inc": {"n": 1}})  # not yet
            orders.delete_many({"_id": {"$in": [20 + batches, 150 + batches]}})
            orders.insert_many([{"_id": 1000 + batches}, {"_id": -batches}])
    assert batches > 10
    assert state(found) == truth(mongo_shop)


def test_a_snapshot_goes_on_after_any_id(mongo_shop: Shop) -> None:
    """Ids of every type, in the server's order, one chunk each: from each of them the rest comes."""
    ids: list[Any] = [
        *(MinKey(), float("nan"), float("-inf"), -5, 0, 1.5, Int64(2**60), Decimal128("1E+30"), "", "a", "é"),
        *({"a": 1}, {"b": [1]}, b"ab", Binary(b"a" * 16, 4), ObjectId(), False, True),
        *(datetime.datetime(1960, 1, 1), datetime.datetime(2024, 1, 1), Timestamp(5, 6), MaxKey()),
    ]  # fmt: skip
    mongo_shop.db.orders.insert_many([{"_id": each} for each in ids])
    made = source(mongo_shop, chunk_mb=0.00001)
    steps = read_all(made, "m", rows=lines)
    chunks = [step for step in steps if step.items]
    assert len(chunks) >= len(ids)
    whole = [line for step in chunks for line in step.items if line["op"] == "r"]  # type: ignore[index]
    assert len(whole) == len(ids)
    for number, step in enumerate(chunks[:-1]):
        rest = read(made, step.end)[0]
        assert [line for line in rest if line["op"] == "r"] == whole[number + 1 :], step.items


def test_a_collection_is_read_again_while_changes_go_on(mongo_shop: Shop) -> None:
    orders = mongo_shop.db.orders
    orders.insert_many([{"_id": n} for n in range(10)])
    found, end = read(source(mongo_shop))
    orders.insert_one({"_id": 77})
    more, end = read(source(mongo_shop, resnapshot={"orders": 1}), end)
    assert [line["op"] for line in more].count("r") == 11
    assert [line["op"] for line in more].count("t") == 1
    assert state([*found, *more]) == truth(mongo_shop)
    assert read(source(mongo_shop, resnapshot={"orders": 1}), end)[0] == []


def test_images_tell_every_version(mongo_shop: Shop) -> None:
    with pytest.raises(ConfigError, match="no collection `orders`"):
        read(source(mongo_shop))
    mongo_shop.db.create_collection("orders")
    with pytest.raises(ConfigError, match="keeps none") as told:
        read(source(mongo_shop, images=True))
    assert "collMod" in str(told.value)
    mongo_shop.db.command("collMod", "orders", changeStreamPreAndPostImages={"enabled": True})
    _, end = read(source(mongo_shop, images=True))
    mongo_shop.db.orders.insert_one({"_id": 1, "n": 0})
    for n in range(3):
        mongo_shop.db.orders.update_one({"_id": 1}, {"$set": {"n": n + 1}})
    mongo_shop.db.orders.delete_one({"_id": 1})
    exact, _ = read(source(mongo_shop, images=True), end)
    values = [(line.get("before", {}).get("n"), line.get("after", {}).get("n")) for line in exact]
    told_values = [tuple(v and int(v["$numberInt"]) for v in pair) for pair in values]
    assert told_values == [(None, 0), (0, 1), (1, 2), (2, 3), (3, None)]


def test_an_update_of_a_document_that_is_gone_is_no_row(mongo_shop: Shop) -> None:
    orders = mongo_shop.db.orders
    orders.insert_one({"_id": 1, "n": 0})
    found, end = read(source(mongo_shop))
    orders.update_one({"_id": 1}, {"$set": {"n": 5}})
    orders.delete_one({"_id": 1})
    more, _ = read(source(mongo_shop), end)
    assert [line["op"] for line in more] == ["m", "d"]
    assert more[0]["update"]["updatedFields"] == {"n": {"$numberInt": "5"}}
    assert state([*found, *more]) == {} == truth(mongo_shop)


# What stops it


def test_a_token_that_the_oplog_no_longer_has(mongo_shop: Shop) -> None:
    orders = mongo_shop.db.orders
    orders.insert_many([{"_id": n} for n in range(5)])
    found, start = read(source(mongo_shop))
    orders.insert_one({"_id": 50})
    some, end = read(source(mongo_shop), start)
    orders.delete_one({"_id": 2})
    mongo_shop.server.forget()
    orders.insert_one({"_id": 60})
    for lost in (end, start):
        with pytest.raises(Gap, match="may no longer be in the oplog") as told:
            read(source(mongo_shop), lost)
        assert "raise `restart`" in str(told.value)
    again, _ = read(source(mongo_shop, restart=1), end)
    assert state([*found, *some, *again]) == truth(mongo_shop)


def test_a_drop_stops_after_what_came_before(mongo_shop: Shop) -> None:
    db = mongo_shop.db
    db.orders.insert_many([{"_id": n} for n in range(5)])
    db.items.insert_one({"_id": 1})
    found, end = read(source(mongo_shop, "orders", "items"))
    following = source(mongo_shop, "orders", "items").read("m", end, Ledger(follow=True))
    assert next(following) is None
    db.items.insert_one({"_id": 2})
    db.drop_collection("orders")
    db.items.insert_one({"_id": 3})
    landed = next(batch for batch in following if batch is not None)
    assert [file.table for file in landed.data] == ["items"]
    with pytest.raises(Gap, match=r"drop of .*\.orders") as told:
        next(following)
    assert "resnapshot: {orders: …}" in str(told.value)
    end = json.loads(json.dumps(landed.end))
    with pytest.raises(ConfigError, match="no collection `orders`"):
        read(source(mongo_shop, "orders", "items"), end)
    db.orders.insert_many([{"_id": n} for n in (3, 4, 5)])
    with pytest.raises(Gap, match="orders is another collection"):
        read(source(mongo_shop, "orders", "items"), end)
    again, end = read(source(mongo_shop, "orders", "items", resnapshot={"orders": 1}), end)
    told_orders = [line for line in [*found, *again] if line not in found or "items" not in str(line)]
    assert "3" in str(again)
    assert {k for k, v in state(told_orders).items()} >= set(truth(mongo_shop))
    assert read(source(mongo_shop, "orders", "items", resnapshot={"orders": 1}), end)[0] == []


def test_a_collection_that_takes_the_place_of_another_stops(mongo_shop: Shop) -> None:
    db = mongo_shop.db
    db.orders.insert_one({"_id": 1})
    _, end = read(source(mongo_shop))
    following = source(mongo_shop).read("m", end, Ledger(follow=True))
    assert next(following) is None
    db.orders.rename("old")
    with pytest.raises(Gap, match=r"rename of .*\.orders to old"):
        next(following)


def test_a_database_that_is_dropped_stops(mongo_shop: Shop) -> None:
    mongo_shop.db.orders.insert_one({"_id": 1})
    mongo_shop.db.items.insert_one({"_id": 1})
    _, end = read(source(mongo_shop, "items"))
    following = source(mongo_shop, "items").read("m", end, Ledger(follow=True))
    assert next(following) is None
    mongo_shop.client.drop_database(mongo_shop.name)
    with pytest.raises(Gap, match="drop"):
        next(following)


def test_another_server_stops(mongo_shop: Shop) -> None:
    mongo_shop.db.orders.insert_one({"_id": 1})
    _, end = read(source(mongo_shop))
    ahead = {**end, "at": "FFFFFFFF00000001"}
    with pytest.raises(Gap, match="behind FFFFFFFF00000001") as told:
        read(source(mongo_shop), ahead)
    assert "another server or was restored" in str(told.value)


def test_a_server_without_replica_set_has_snapshots_only() -> None:
    server = stand_in(alone=True)
    try:
        made = MongoDB(name="m", dsn=server.dsn("shop"), collections=["orders"])
        with pytest.raises(ConfigError, match="replica set") as told:
            next(made.read("m", None, Ledger()))
        assert "rs.initiate()" in str(told.value)
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("command", "code", "name", "wanted"),
    [
        ("listCollections", 13, "Unauthorized", ConfigError),
        ("find", 18, "AuthenticationFailed", ConfigError),
        ("aggregate", 40573, "Location40573", ConfigError),
        ("aggregate", 10334, "BSONObjectTooLarge", ConfigError),
        ("aggregate", 280, "ChangeStreamFatalError", Gap),
        ("getMore", 286, "ChangeStreamHistoryLost", Gap),
        ("find", 50, "MaxTimeMSExpired", TransientError),
        ("aggregate", 91, "ShutdownInProgress", TransientError),
    ],
)
def test_errors_have_a_class(
    mongo_shop: Shop, command: str, code: int, name: str, wanted: type[HeadraceError]
) -> None:
    mongo_shop.db.orders.insert_many([{"_id": n} for n in range(200)])
    mongo_shop.server.fail(command, code, name, 2)  # the driver tries some again by itself
    with pytest.raises(wanted):
        read(source(mongo_shop))
    mongo_shop.server.fail(command, code, name, 0)


def test_nothing_hangs_where_nobody_answers() -> None:
    made = MongoDB(name="m", dsn="mongodb://127.0.0.1:1/shop", collections=["orders"], timeout=0.5)
    with pytest.raises(TransientError, match="is the server up"):
        next(made.read("m", None, Ledger()))


@pytest.mark.parametrize(
    ("dsn", "wanted"),
    [
        ("mysql://h/d", "no URL of a MongoDB database"),
        ("mongodb://h:27017/", "names no database"),
        ("mongodb://us:er:s3cret@h/d", "cannot be read"),
        ("mongodb://h:99999/d", "cannot be read"),
    ],
)
def test_a_dsn_that_will_not_do(dsn: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted) as told:
        Server(dsn, "m")
    assert "s3cret" not in str(told.value)


def test_bytes_that_leave_the_machine_are_encrypted() -> None:
    assert Server("mongodb://db.example/shop", "m").tls is True
    assert Server("mongodb://db.example/shop?tls=false", "m").tls is None
    assert Server("mongodb://127.0.0.1,localhost:27018/shop", "m").tls is None


# Without changes


def test_a_snapshot_is_a_version_of_the_one_before(mongo_shop: Shop) -> None:
    orders = mongo_shop.db.orders
    orders.insert_many([{"_id": n} for n in range(150)])
    made, ledger = source(mongo_shop, mode="snapshot"), Ledger()
    steps = read_all(made, "m", ledger=ledger)
    assert [(file.name, file.rows) for step in steps for file in step.files] == [("orders.jsonl", 150)]
    assert [step.files for step in read_all(made, "m", ledger=ledger)] == [[]]
    orders.delete_many({"_id": {"$gt": 9}})
    assert [step.files for step in read_all(made, "m", ledger=ledger)] == [[]]
    assert "had 150 documents and has 10" in ledger.notes[-1][2]
    orders.delete_many({"_id": {"$gte": 0}})
    read_all(made, "m", ledger=ledger)
    assert "is empty" in ledger.notes[-1][2]
    right = source(mongo_shop, mode="snapshot", empty="accept")
    assert [file.rows for step in read_all(right, "m", ledger=ledger) for file in step.files] == [0]


def test_a_watermark_sees_equal_values_that_come_late(mongo_shop: Shop) -> None:
    orders = mongo_shop.db.orders
    at = datetime.datetime(2024, 1, 1)
    orders.insert_many([{"_id": n, "at": at + datetime.timedelta(seconds=n)} for n in range(10)])
    made = source(mongo_shop, mode="watermark", watermark="at", overlap=2)
    found, end = read(made)
    assert len(found) == 10
    assert read(made, end)[0] == []
    orders.insert_one({"_id": 50, "at": at + datetime.timedelta(seconds=9)})
    orders.insert_one({"_id": 51, "at": at + datetime.timedelta(seconds=7, milliseconds=500)})
    orders.insert_one({"_id": 52, "at": at})  # before the overlap: not seen
    found, end = read(made, end)
    assert [line["after"]["_id"]["$numberInt"] for line in found] == ["7", "8", "9", "50", "51"]
    assert read(made, end)[0] == []
    with pytest.raises(ConfigError, match="no `watermark` for orders"):
        read(source(mongo_shop, mode="watermark", watermark={"items": "at"}))
