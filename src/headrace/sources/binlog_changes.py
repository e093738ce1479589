"""Changes of a table out of row events of the binlog, column by column instead of row by row.

Where a row begins is known only when the one before it has been walked; so all events of a block are walked
side by side, the first row of each, then the second of each. What the values say is `binlog_columns`' part.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import CHANGE, Frame
from ..errors import DataError
from .arrow_texts import (
    PADDING,
    TextFrame,
    Texts,
    digits,
    fixed,
    moments,
    np,
    numbers,
    same,
    side_by_side,
    texts,
)
from .binlog import DELETE, PACKED, SECOND, TRUNCATED, UPDATE, WRITE, Block, blocks
from .binlog_columns import Cells, Width, column, width
from .binlog_values import BINARY, BLOB_COMPRESSED, VARCHAR_COMPRESSED, Field, table_map

if TYPE_CHECKING:
    from .arrow_texts import Flags, Ints, Octets

UNTOLD = (BLOB_COMPRESSED, VARCHAR_COMPRESSED)
"""Types of columns whose character set the binlog does not tell."""
NARROW = 24
"""Fewer events than these are walked one by one."""
KNOWN = (*WRITE, *UPDATE, *DELETE, TRUNCATED)
MOST_FILES, MOST_BYTES = 10**8, 10**12
HINT = "its object in bronze is damaged, or was written for another table"


@dataclass(frozen=True, slots=True)
class Table:
    fields: Sequence[Field]
    widths: Sequence[Width]
    identity: Sequence[int]
    """Places of the primary key's columns; without one every update is two events."""
    shown: Mapping[str, str]
    generation: int

    @property
    def fixed(self) -> int:
        """No row has more bytes than these, beside its values of varying length."""
        return sum(max(each.size, each.prefix) for each in self.widths) + (len(self.fields) + 7) // 8


@dataclass(frozen=True, slots=True)
class Events:
    """The events of a block: places in `buffer`, numbers of each."""

    buffer: Octets
    kind: Octets
    first: Ints
    """Where the first row begins."""
    end: Ints


@dataclass(frozen=True, slots=True)
class Images:
    """Rows before or after a change, in the order of the binlog; arrays by column and row."""

    event: Ints
    start: Ints
    length: Ints
    null: Flags


def changes(path: Path, form: Mapping[str, Any]) -> tuple[Sequence[str], Iterator[Frame]]:
    """As `binlog.decode`."""
    told = table_map(bytes.fromhex(form["table_map"]), form["charsets"], mariadb=bool(form["mariadb"]))
    shown: Mapping[str, str] = form.get("shown") or {}
    names = [each.name for each in told.fields]
    if taken := [name for name in CHANGE if name in names]:
        raise DataError(
            f"{told.schema}.{told.table}: column `{taken[0]}` has a name that change events use",
            hint=f"ALTER TABLE … RENAME COLUMN `{taken[0]}` TO …",
        )
    fields = [
        replace(each, charset=shown.get(each.name, BINARY)) if each.kind in UNTOLD else each
        for each in told.fields
    ]
    identity = [names.index(key) for key in told.keys]
    table = Table(fields, [width(each) for each in fields], identity, shown, int(form["generation"]))
    return [*names, *CHANGE], _frames(path, table)


def _frames(path: Path, table: Table) -> Iterator[Frame]:
    last = (-1, -1, 0)
    for block in blocks(path):
        events = _events(block, table)
        images = _images(events, table)
        op, rows = _changes(events, images, table)
        ordinal, last = _ordinals(block, images.event[rows], last)
        columns = {
            each.name: column(
                each,
                Cells(events.buffer, images.start[n][rows], images.length[n][rows], ~images.null[n][rows]),
                table.shown.get(each.name, ""),
            )
            for n, each in enumerate(table.fields)
        }
        places = _places(block, events.buffer, images.event[rows], ordinal, table.generation)
        yield TextFrame({**columns, "_op": fixed(op.reshape(-1, 1)), **places}, len(op))


def _events(block: Block, table: Table) -> Events:
    """What the heads of the events say; raises `DataError` for one that is not of this table."""
    data, kind = block.data, np.array(block.kind, np.uint8)
    if not np.isin(kind, KNOWN).all():
        raise DataError(f"an event of type {kind[~np.isin(kind, KNOWN)][0]} is no row event", hint=HINT)
    if max(block.file) >= MOST_FILES or max(block.position) >= MOST_BYTES:
        raise DataError(f"binlog file {max(block.file)}, position {max(block.position)}", hint=HINT)
    start, end = np.array(block.body, np.int64), np.array(block.end, np.int64)
    if packed := [n for n, each in enumerate(block.kind) if each in PACKED]:
        data, start, end = _unpacked(block, packed, start, end, len(table.fields))
    buffer = np.zeros(len(data) + PADDING + table.fixed, np.uint8)
    buffer[: len(data)] = np.frombuffer(data, np.uint8)
    second, rows = np.isin(kind, SECOND), kind != TRUNCATED
    # The table's number and flags; in version 2 the length of what is told beside, with its own two bytes.
    more = numbers(buffer, "<u2")[start + 8].astype(np.int64)
    count = len(table.fields)
    at = np.minimum(start + 8 + np.where(second, np.maximum(more, 2), 0), end)
    told = bytes([count]) if count < 251 else b"\xfc" + count.to_bytes(2, "little")
    for n, byte in enumerate(told):
        _refuse(rows & (buffer[at + n] != byte), f"does not have the table's {count} columns")
    at += len(told)
    size = (count + 7) // 8
    twice = np.isin(kind, UPDATE)
    for n in range(2 * size):
        full = 255 if n % size < size - 1 else (1 << (count - 8 * (size - 1))) - 1
        lacks = (buffer[at + n] & full) != full
        if (rows & lacks & (twice if n >= size else True)).any():
            raise DataError("a row event without all columns: set `binlog_row_image=FULL` on the server")
    at += np.where(twice, 2 * size, size)
    _refuse(rows & (at > end), "ends within its head")
    return Events(buffer, kind, np.where(rows, at, end), end)


def _unpacked(
    block: Block, packed: Sequence[int], start: Ints, end: Ints, columns: int
) -> tuple[bytes, Ints, Ints]:
    """MariaDB's `log_bin_compress`: the rows of an event, behind its head, are compressed."""
    parts, at = [block.data], len(block.data)
    size = (1 if columns < 251 else 3) + (columns + 7) // 8
    for n in packed:
        body = block.data[block.body[n] : block.end[n]]
        head = 8 + (int.from_bytes(body[8:10], "little") if block.kind[n] in SECOND else 0) + size
        head += (columns + 7) // 8 if block.kind[n] in UPDATE else 0
        told = body[head] if head < len(body) else 0
        if told & 0xF0 != 0x80:
            raise DataError("a row event is compressed by an unknown algorithm", hint=HINT)
        try:
            rows = zlib.decompress(body[head + 1 + (told & 7) :])
        except zlib.error as error:
            raise DataError(f"a compressed row event is damaged: {error}", hint=HINT) from None
        parts += [body[:head], rows]
        start[n], end[n] = at, at + head + len(rows)
        at = int(end[n])
    return b"".join(parts), start, end


def _images(events: Events, table: Table) -> Images:
    """All rows of all events; a TRUNCATE has one, of NULLs."""
    emptied = np.flatnonzero(events.kind == TRUNCATED)
    columns = len(table.fields)
    nothing = np.zeros((columns, len(emptied)), np.int64)
    found = [Images(emptied, nothing, nothing, np.ones((columns, len(emptied)), np.bool_))]
    at, active = events.first.copy(), np.flatnonzero(events.first < events.end)
    while len(active) >= NARROW:
        found.append(_walk(events, table, active, at))
        active = active[at[active] < events.end[active]]
    found += [_alone(events, table, int(event), int(at[event])) for event in active]
    event = np.concatenate([each.event for each in found])
    order = np.argsort(event, kind="stable")
    start, length = (
        np.concatenate([getattr(each, name) for each in found], axis=1)[:, order]
        for name in ("start", "length")
    )
    null = np.concatenate([each.null for each in found], axis=1)[:, order]
    return Images(event[order], start, length, null)


def _walk(events: Events, table: Table, active: Ints, at: Ints) -> Images:
    """The next row of each of the events `active`, which begins at `at`; moves that to where it ends."""
    buffer, end = events.buffer, events.end[active]
    begin = at[active]
    place = begin + (len(table.fields) + 7) // 8
    shape = (len(table.fields), len(active))
    start, length, null = np.empty(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for n, each in enumerate(table.widths):
        if n % 8 == 0:
            bits = buffer[begin + n // 8]
            any_null = bool(bits.any())
        if any_null:
            np.not_equal(bits & (1 << n % 8), 0, out=null[n])
        here = ~null[n] if any_null and null[n].any() else None
        start[n] = place
        if each.prefix:
            start[n] += each.prefix
            size = _prefix(buffer, place, each.prefix)
            length[n] = size if here is None else size * here
            place += length[n] + each.prefix if here is None else (size + each.prefix) * here
            _refuse(place > end, "ends within a value")
        else:
            length[n] = each.size if here is None else each.size * here
            place += each.size if here is None else length[n]
    _refuse(place > end, "ends within a row")
    at[active] = place
    return Images(active, start, length, null)


def _prefix(buffer: Octets, at: Ints, size: int) -> Ints:
    if size == 1:
        return buffer[at].astype(np.int64)
    found = numbers(buffer, "<u2" if size == 2 else "<u4")[at].astype(np.int64)
    return found & 0xFFFFFF if size == 3 else found


def _alone(events: Events, table: Table, event: int, at: int) -> Images:
    """The rows that are left of one event; the same as `_walk`, a row at a time."""
    data = events.buffer[at : int(events.end[event]) + PADDING + table.fixed].tobytes()
    last, offset, size = int(events.end[event]) - at, at, (len(table.fields) + 7) // 8
    widths = [(1 << n, each.size, each.prefix) for n, each in enumerate(table.widths)]
    starts: list[int] = []
    lengths: list[int] = []
    nulls: list[bool] = []
    place = 0
    while place < last:
        bits = int.from_bytes(data[place : place + size], "little")
        place += size
        for bit, length, prefix in widths:
            null = bits & bit != 0
            if null:
                length = 0
            elif prefix:
                length = int.from_bytes(data[place : place + prefix], "little")
                place += prefix
            starts.append(place + offset)
            lengths.append(length)
            nulls.append(null)
            place += length
        if place > last:
            raise DataError("a row event ends within a row", hint=HINT)
    shape = (-1, len(table.fields))
    begin, size_of = (np.array(each, np.int64).reshape(shape).T for each in (starts, lengths))
    return Images(np.full(begin.shape[1], event), begin, size_of, np.array(nulls).reshape(shape).T)


def _changes(events: Events, images: Images, table: Table) -> tuple[Octets, Ints]:
    """(operation, image) of each change; of an update that keeps its key the new row alone is one."""
    kind = events.kind[images.event]
    op = np.zeros(256, np.uint8)
    for letter, kinds in ((b"c", WRITE), (b"d", DELETE), (b"t", (TRUNCATED,))):
        op[list(kinds)] = letter[0]
    found = op[kind]
    updated = np.flatnonzero(np.isin(kind, UPDATE))
    if not len(updated):
        return found, np.arange(len(found))
    before, after = updated[::2], updated[1::2]
    if len(updated) % 2 or (images.event[before] != images.event[after]).any():
        raise DataError("an update event has a row without its new one", hint=HINT)
    kept = np.full(len(after), bool(table.identity))
    for n in table.identity:
        places = (images.start[n], images.length[n])
        kept &= same(events.buffer, *((p[0][w], p[1][w]) for p, w in ((places, before), (places, after))))
    found[before] = ord("d")
    found[after] = np.where(kept, ord("u"), ord("c"))
    whole = np.ones(len(found), np.bool_)
    whole[before[kept]] = False
    return found[whole], np.flatnonzero(whole)


def _ordinals(block: Block, event: Ints, last: tuple[int, int, int]) -> tuple[Ints, tuple[int, int, int]]:
    """The place of each change, from 1, among those that end at one position of the binlog.

    `last` is (file, position, ordinal) of the change before; events of a compressed transaction share theirs.
    """
    file, position = (np.array(each, np.int64)[event] for each in (block.file, block.position))
    if not len(event):
        return event, last
    begins = np.ones(len(event), np.bool_)
    begins[1:] = (file[1:] != file[:-1]) | (position[1:] != position[:-1])
    first = np.flatnonzero(begins)
    ordinal = np.arange(1, len(event) + 1) - first[np.cumsum(begins) - 1]
    if (int(file[0]), int(position[0])) == last[:2]:
        ordinal[: first[1] if len(first) > 1 else None] += last[2]
    return ordinal, (int(file[-1]), int(position[-1]), int(ordinal[-1]))


def _places(block: Block, buffer: Octets, event: Ints, ordinal: Ints, generation: int) -> dict[str, Texts]:
    """`_sequence`, `_committed`, `_tx` and `_unchanged` of each change."""
    file, position = np.array(block.file, np.int64), np.array(block.position, np.int64)
    server = digits(np.full(len(file), generation), 4)
    place = side_by_side(server, "/", digits(file, 8), "/", digits(position, 12), "/")
    year, month, day, hour, minute, second = moments(np.array(block.seconds, np.int64))
    committed = side_by_side(year, "-", month, "-", day, "T", hour, ":", minute, ":", second, "Z")
    start = np.array(block.name, np.int64)[event]
    length = np.array(block.body, np.int64)[event] - start
    rows = len(event)
    return {
        "_sequence": fixed(np.concatenate((place[event], digits(ordinal, 10)), axis=1)),
        "_committed": fixed(committed[event]),
        "_tx": texts(buffer, start, length, length > 0),
        "_unchanged": Texts(np.zeros(rows + 1, np.int64), np.zeros(0, np.uint8), np.zeros(rows, np.bool_)),
    }


def _refuse(bad: Flags, what: str) -> None:
    if bad.any():
        raise DataError(f"a row event {what}", hint=HINT)
