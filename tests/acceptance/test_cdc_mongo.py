"""Random writes to a MongoDB while the pipeline that follows them is killed again and again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bson import Decimal128, Int64
from mongo import Shop
from projects import Cli
from pymongo import MongoClient

FULL = os.environ.get("HEADRACE_PROVE") == "full"
KILLS = 50 if FULL else 10
SEED = int(os.environ.get("HEADRACE_SEED", "20261128"))
CONTRACT = {
    "nulls": [],
    "columns": {
        "id": {"from": "_id", "type": "integer"},
        "n": {"type": "bigint"},
        "price": {"type": "decimal(12,2)"},
        "city": {"from": "address.city"},
        "tags": {"type": "json"},
    },
}


@dataclass
class Writer:
    """Writes at random, and knows how many versions of documents that makes."""

    dsn: str
    database: str
    stop: threading.Event = field(default_factory=threading.Event)
    versions: dict[str, int] = field(default_factory=lambda: {"orders": 0, "items": 0})
    errors: list[BaseException] = field(default_factory=list)

    def run(self) -> None:
        chance = random.Random(SEED)
        try:
            with MongoClient[Any](self.dsn) as client:
                while not self.stop.is_set():
                    self.write(client, chance)
                    time.sleep(0.01)
        except BaseException as error:
            self.errors.append(error)

    def write(self, client: MongoClient[Any], chance: random.Random) -> None:
        name = chance.choice(("orders", "items"))
        collection, ident = client[self.database][name], chance.randrange(60)
        what = chance.random()
        done = 1
        if what < 0.35:
            change = {"$set": {"n": Int64(chance.getrandbits(62)), "address.city": chance.choice("abc") * 5}}
            done = collection.update_one({"_id": ident}, change).modified_count
        elif what < 0.5:
            collection.delete_one({"_id": ident})
            done = 0
        elif what < 0.6:
            done = collection.update_one({"_id": ident}, {"$unset": {"price": "", "tags": ""}}).modified_count
        elif what < 0.7:
            with client.start_session() as session, session.start_transaction():
                first = 1000 + chance.getrandbits(30)
                for n in range(done := chance.randrange(1, 20)):
                    collection.insert_one(document(first + n, chance), session=session)
        else:
            collection.replace_one({"_id": ident}, document(ident, chance), upsert=True)
        self.versions[name] += done


def document(ident: int, chance: random.Random) -> dict[str, Any]:
    return {
        "_id": ident,
        "n": Int64(chance.getrandbits(62)),
        "price": Decimal128(f"{chance.randrange(10**8)}.{chance.randrange(100):02}"),
        "address": {"city": chance.choice(("Bonn", "", '{"$oid":"no"}', "Zürich\n"))},
        "tags": [{"n": chance.randrange(5)}] * chance.randrange(3),
    }


def project(folder: Path) -> None:
    source = {"type": "mongodb", "dsn": "${SHOP}", "collections": ["orders", "items"], "images": True}
    table = {"keys": ["id"], "history": True, "contract": CONTRACT}
    definition = {
        "name": "shop",
        "sources": {"shop": {**source, "chunk_mb": 0.01}},
        "tables": {
            "orders": {**table, "from": "shop.orders", "changes": {"deletes": "soft"}},
            "items": {**table, "from": "shop.items"},
        },
    }
    (folder / "pipeline.yml").write_text(json.dumps(definition))


def wanted(shop: Shop, name: str) -> list[list[str]]:
    """The collection's documents as the table's columns, told by the driver."""

    def row(each: dict[str, Any]) -> list[str]:
        tags = each.get("tags")
        told = "" if tags is None else json.dumps([{"n": {"$numberInt": str(t["n"])}} for t in tags])
        city = each.get("address", {}).get("city", "")
        price = str(each["price"]) if "price" in each else ""
        return [str(each["_id"]), str(each["n"]), price, city, told.replace(" ", "")]

    return sorted(row(each) for each in shop.db[name].find())


def test_killed_while_following_and_still_the_same(tmp_path: Path, mongo_shop: Shop) -> None:
    chance = random.Random(SEED)
    print(f"HEADRACE_SEED={SEED}")
    for name in ("orders", "items"):
        mongo_shop.db.create_collection(name, changeStreamPreAndPostImages={"enabled": True})
        mongo_shop.db[name].insert_many([document(n, chance) for n in range(60)])
    project(tmp_path)
    cli = Cli(tmp_path, {"SHOP": mongo_shop.dsn})
    cli.run("run")
    writer = Writer(mongo_shop.dsn, mongo_shop.name)
    thread = threading.Thread(target=writer.run)
    thread.start()
    kills = 0
    try:
        while kills < KILLS:
            process = cli.start("run", "--quiet")
            try:
                process.wait(chance.uniform(0.5, 6.0))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            process.communicate()
    finally:
        writer.stop.set()
        thread.join()
    assert not writer.errors, writer.errors
    cli.run("run")
    assert "0 new" in cli.run("run")
    columns = "id::text as id, n::text, price::text, city, tags"
    for name in ("orders", "items"):
        shown = "where not _deleted" if name == "orders" else ""
        assert sorted(cli.rows(f"select {columns} from silver.{name} {shown}")) == wanted(mongo_shop, name)
        shown_versions, current = cli.rows(
            f"select count(*), count(*) filter (_current) from silver.{name}_history"
        )[0]
        assert int(shown_versions) == 60 + writer.versions[name]
        assert int(current) >= len(wanted(mongo_shop, name))
    assert int(cli.rows("select count(*) from silver.orders where _deleted")[0][0]) > 0
