"""Modes `snapshot` and `watermark`: documents as they are, without their changes.

A snapshot is a new version of what landed before; equal bytes do not land again. A watermark reads from the
greatest value seen, less an overlap, for values that come twice: the position holds that value, and the
number and a hash of the documents in the window. Deletes are seen by snapshots alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO

import bson
from bson import DatetimeMS, Decimal128, Int64, ObjectId

from ..core import Batch, Landed, Position, RawFile, Reading
from ..errors import ConfigError, Refused
from .inspect import has_rows
from .mongo_json import OPTIONS
from .mongo_snapshot import Lines, Reader, form
from .raw import pieces

if TYPE_CHECKING:
    from .mongo import MongoDB

PIECE = 1 << 20


def read_full(
    source: MongoDB, reader: Reader, names: Sequence[str], start: Position | None, ctx: Reading
) -> Iterator[Batch]:
    """One batch a collection; one that is suspiciously empty or small is refused and left as it was."""
    for name in names:
        file = f"{name}.jsonl"
        judge = Judge(file, ctx.seen(file), source.empty == "refuse", source.min_ratio)
        yield Batch([_Streamed(name, judge).file(file, reader, {})], dict(start or {"snapshot": "ledger"}))


def read_watermark(
    source: MongoDB, reader: Reader, names: Sequence[str], start: Position | None, ctx: Reading
) -> Iterator[Batch]:
    """One batch a collection with news."""
    del ctx
    states = dict((start or {}).get("collections", {}))
    for name in names:
        by = source.watermark if isinstance(source.watermark, str) else source.watermark.get(name, "")
        if not by:
            raise ConfigError(
                f"source {source.name}: no `watermark` for {name}",
                hint=f"by collection it is written `watermark: {{{name}: updated_at}}`",
            )
        old = states.get(name)
        window = _window(by, old, source.overlap)
        if old and _signature(reader, name, window) == old["seen"]:
            continue
        last = _greatest(source, reader, name, by)
        if last is None:
            continue
        new: dict[str, Any] = {"last": bson.encode({"v": last}).hex()}
        # What is written between this look and the reading below differs from it, and is read again.
        new["seen"] = _signature(reader, name, _window(by, new, source.overlap))
        states = {**states, name: new}
        mark = hashlib.sha256(json.dumps([old and old["seen"], new]).encode()).hexdigest()[:20]
        yield Batch([_Streamed(name).file(f"{name}/{mark}.jsonl", reader, window)], {"collections": states})


@dataclass(frozen=True, slots=True)
class Judge:
    """Whether a collection may land, after what landed before."""

    name: str
    previous: Landed | None
    refuse_empty: bool
    min_ratio: float

    def check(self, rows: int) -> None:
        if self.previous is None:
            return
        before = int(self.previous.format.get("rows") or 0)
        if not rows and self.refuse_empty and has_rows(self.previous):
            fix = "if that is right, set `empty: accept` on this source for one run"
            raise Refused(f"{self.name} had {before:,} documents and is empty", hint=fix)
        if before > 100 and 0 < rows < before * self.min_ratio:
            fix = f"if that is right, set `min_ratio: {rows / before:.3f}` on this source for one run"
            raise Refused(f"{self.name} had {before:,} documents and has {rows:,}", hint=fix)


@dataclass(slots=True)
class _Streamed:
    """A file of lines that are made while it is read, and its own inspector, which knows when it is."""

    table: str
    judge: Judge | None = None
    rows: int = 0
    keys: dict[str, None] = field(default_factory=dict)

    def file(self, name: str, reader: Reader, chosen: Mapping[str, Any]) -> RawFile:
        def opened() -> BinaryIO:
            self.rows = 0
            return pieces(self._lines(reader.matching(self.table, chosen)))

        return RawFile(name, 0, opened, lambda: None, lambda: self, table=self.table)

    def _lines(self, documents: Iterable[bytes]) -> Iterator[bytes]:
        lines = Lines(self.table, keys=self.keys)
        for raw in documents:
            lines.read(raw)
            self.rows += 1
            if lines.size >= PIECE:
                yield b"".join(lines.parts)
                lines = Lines(self.table, keys=self.keys)
        if lines.parts:
            yield b"".join(lines.parts)

    def feed(self, chunk: bytes) -> None:
        pass

    def result(self) -> Mapping[str, Any]:
        if self.judge:
            self.judge.check(self.rows)
        return form(self.rows, list(self.keys))


def _window(by: str, state: Mapping[str, Any] | None, overlap: float) -> dict[str, Any]:
    """The documents that may be new; all of them at first."""
    if state is None:
        return {}
    last = bson.decode(bytes.fromhex(state["last"]), OPTIONS)["v"]
    return {by: {"$gte": _less(last, overlap)}}


def _less(value: Any, overlap: float) -> Any:
    if not overlap:
        return value
    if isinstance(value, DatetimeMS):
        return DatetimeMS(int(value) - int(overlap * 1000))
    if isinstance(value, Decimal128):
        return Decimal128(value.to_decimal() - Decimal(str(overlap)))
    if isinstance(value, int | float):
        return value - overlap
    if isinstance(value, ObjectId):
        seconds = max(0, int.from_bytes(value.binary[:4], "big") - int(overlap))
        return ObjectId(seconds.to_bytes(4, "big") + bytes(8))
    raise ConfigError(
        f"`overlap` means nothing for a value of type {type(value).__name__}",
        hint="leave it out, or name a watermark that is a date, a number or an ObjectId",
    )


def _signature(reader: Reader, name: str, window: Mapping[str, Any]) -> list[str]:
    """Number of documents in the window, and a hash of them that knows no order."""
    count = total = 0
    for raw in reader.matching(name, window):
        count += 1
        total += int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")
    return [str(count), f"{total % (1 << 64):016x}"]


def _greatest(source: MongoDB, reader: Reader, name: str, by: str) -> Any:
    """The greatest value of a field, or None if no document has one that can be ordered."""
    with reader.server.talking(f"read {name}"):
        found = reader.database[name].find_one({by: {"$ne": None}}, sort=[(by, -1)], session=reader.session)
    if found is None:
        return None
    value: Any = bson.decode(found.raw, OPTIONS)
    for step in by.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    if not isinstance(value, int | Int64 | float | Decimal128 | str | ObjectId | DatetimeMS | bson.Timestamp):
        raise ConfigError(
            f"source {source.name}: watermark: `{by}` of {name} is no single value",
            hint="name a field with a date, a number or an ObjectId that grows with every write",
        )
    return value
