"""Documents of a collection in the order of their `_id`, from any of them on, as envelopes of JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import bson
from bson import DatetimeMS, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from pymongo.client_session import ClientSession
from pymongo.database import Database

from ..core import RawFile
from .mongo_json import OPTIONS, RAW, document, split
from .mongo_server import Raw, Server
from .raw import known

BATCH = 10_000
"""Most documents in one answer; it ends at 16 MB anyway."""
TYPES: Sequence[tuple[tuple[type, ...], Sequence[str]]] = (
    ((MinKey,), ("minKey",)),
    ((type(None),), ("null",)),
    ((int, Int64, float, Decimal128), ("int", "long", "double", "decimal")),
    ((str,), ("string", "symbol")),
    ((dict,), ("object",)),
    ((bytes, bson.Binary), ("binData",)),
    ((ObjectId,), ("objectId",)),
    ((bool,), ("bool",)),
    ((DatetimeMS,), ("date",)),
    ((Timestamp,), ("timestamp",)),
    ((MaxKey,), ("maxKey",)),
)
"""Types that an `_id` may have, in the server's order. A comparison finds values of one type alone."""


@dataclass(slots=True)
class Lines:
    """Envelopes of one collection, as they will lie in bronze."""

    table: str
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    keys: dict[str, None] = field(default_factory=dict)
    """Top-level fields, so that a table can take up new ones."""

    def add(self, line: bytes) -> None:
        self.parts.append(line)
        self.size += len(line)

    def told(self, raw: bytes) -> bytes:
        """The document as Extended JSON; its fields are remembered."""
        return document(raw, self.keys)

    def read(self, raw: bytes, sequence: str = "") -> None:
        """Adds a document as it was found."""
        place = f',"sequence":"{sequence}"' if sequence else ""
        self.add(f'{{"op":"r"{place},"after":'.encode() + self.told(raw) + b"}\n")

    def file(self, name: str) -> RawFile:
        return known(name, b"".join(self.parts), form(len(self.parts), list(self.keys)), self.table)


def form(rows: int, keys: Sequence[str]) -> dict[str, Any]:
    if not rows:
        return {"type": "empty", "rows": 0, "lines": 0}
    facts = {"type": "jsonl", "envelope": "headrace", "extended": True, "changes": True}
    return {**facts, "rows": rows, "keys": list(keys)}


def id_of(raw: bytes) -> bytes:
    """`{_id: …}` of a document, as BSON."""
    return bson.encode({"_id": bson.decode(raw, RAW)["_id"]})


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the documents of a database's collections."""

    server: Server
    database: Database[Raw]
    session: ClientSession

    def documents(self, name: str, after: bytes | None) -> Iterator[bytes]:
        """Every document after the one with this `_id` (all without), in the order of `_id`, as BSON.

        One that is there all the time comes once; as of some moment since the session's operation time.
        """
        for chosen in ranges(after):
            yield from self.matching(name, chosen)

    def matching(self, name: str, chosen: Mapping[str, Any]) -> Iterator[bytes]:
        with self.server.talking(f"read {name}"):
            cursor = self.database[name].find_raw_batches(
                chosen, sort=[("_id", 1)], batch_size=BATCH, session=self.session
            )
        try:
            while True:
                with self.server.talking(f"read {name}"):
                    batch = next(cursor, None)
                if batch is None:
                    return
                yield from split(batch)
        finally:
            cursor.close()


def ranges(after: bytes | None) -> list[dict[str, Any]]:
    """Filters that together, one after the other, match every `_id` beyond `after`."""
    if after is None:
        return [{}]
    last = bson.decode(after, OPTIONS)["_id"]
    place = next(at for at, (types, _) in enumerate(TYPES) if type(last) in types)
    bound: dict[str, Any] = {"$gt": last}
    if last != last or (isinstance(last, Decimal128) and last.to_decimal().is_nan()):
        bound = {"$gte": float("-inf")}  # NaN is the least number, and compares with none
    later = [name for _, names in TYPES[place + 1 :] for name in names]
    same = [] if isinstance(last, MinKey | MaxKey | type(None)) else [{"_id": bound}]
    return [*same, *([{"_id": {"$type": later}}] if later else [])]
