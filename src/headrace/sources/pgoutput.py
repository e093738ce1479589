"""Changes of a PostgreSQL table out of raw pgoutput messages, column by column instead of row by row.

The messages are those of the logical replication protocol, version 1, text format (PostgreSQL's manual,
"Logical Replication Message Formats"); `pgoutput_file` says how they lie in a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import Frame, unsent
from ..errors import DataError
from .arrow_texts import (
    TextFrame,
    Texts,
    chosen,
    digits,
    fixed,
    hexadecimal,
    np,
    numbers,
    padded,
    same,
    texts,
)
from .pgoutput_file import Block, read_blocks

if TYPE_CHECKING:
    from .arrow_texts import Flags, Ints, Octets

META = ("_op", "_sequence", "_committed", "_tx", "_unchanged")
INSERT, UPDATE, DELETE, TRUNCATE = b"IUDT"
NEW, KEY, OLD = b"NKO"
SENT, NULL, UNCHANGED = b"tnu"
KINDS = {INSERT: "an insert", UPDATE: "an update", DELETE: "a delete", TRUNCATE: "a truncate"}
EPOCH = np.datetime64("2000-01-01T00:00:00", "us")
FIRST, LAST = -63_082_281_600_000_000, 252_455_615_999_999_999
"""The years 1 to 9999 in microseconds from PostgreSQL's epoch."""


@dataclass(frozen=True, slots=True)
class Relation:
    """What an object's format says of its table."""

    oid: int
    names: tuple[str, ...]
    keys: tuple[int, ...]
    """Places of the columns whose values tell a key change; if none, every update counts as one."""


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of a block, and the number of the first one in the file, for errors."""

    buffer: Octets
    kind: Octets
    start: Ints
    end: Ints
    first: int


@dataclass(frozen=True, slots=True)
class Tuples:
    """The cells of many tuples: arrays by column and tuple, and one column more, which is what is sent."""

    of: Ints
    """The message that holds each tuple, ascending."""
    kind: Octets
    start: Ints
    length: Ints
    end: Ints
    """By tuple: where it ends."""


@dataclass(frozen=True, slots=True)
class Events:
    """What happened, in order."""

    message: Ints
    op: Octets
    second: Flags
    """The new row of a key change: its other event is the delete of the old row, just before it."""
    cells: Ints
    """Which tuple has the values: of the new ones, then the old ones, then one of NULLs."""


def decode(path: Path, form: Mapping[str, Any]) -> tuple[Sequence[str], Iterator[Frame]]:
    """Every change in `path`, in order, with its values exactly as PostgreSQL sent them; a frame for a block.

    Columns, all text: the table's, then `_op` (c, u, d, t), `_sequence`, `_committed`, `_tx`, `_unchanged`.
    A key change is two rows, `d` of the old row and `u` of the new one. What an old tuple of the replica
    identity does not hold is NULL. The value of an unchanged TOAST column comes from the old tuple, or else
    the column is named in `_unchanged`. Raises `DataError` for bytes that are no such messages.
    """
    relation = _relation(form)
    return [*relation.names, *META], _frames(path, relation)


def _relation(form: Mapping[str, Any]) -> Relation:
    said = form["relation"]
    names = tuple(str(column["name"]) for column in said["columns"])
    if taken := [name for name in META if name in names]:
        raise DataError(
            f"{said['schema']}.{said['table']}: column `{taken[0]}` has a name that change events use",
            hint=f'ALTER TABLE … RENAME COLUMN "{taken[0]}" TO …, or leave it out of the publication',
        )
    # Only a full old tuple holds more than the replica identity: there, the primary key tells.
    told = said["keys"] if said["identity"] == "f" else [c["name"] for c in said["columns"] if c["key"]]
    return Relation(int(said["oid"]), names, tuple(names.index(name) for name in told))


def _frames(path: Path, relation: Relation) -> Iterator[Frame]:
    first = 1
    with path.open("rb") as file:
        for block in read_blocks(file):
            yield _frame(block, relation, first)
            first += block.count


def _frame(block: Block, relation: Relation, first: int) -> Frame:
    messages = _messages(block, relation, first)
    new, old = _tuples(messages, relation)
    _, older, newer = np.intersect1d(old.of, new.of, assume_unique=True, return_indices=True)
    moved = _moved(messages.buffer, relation, (old, older), (new, newer))
    _fill_in(old, older, new, newer)
    events = _events(messages, new, old, older[moved])
    columns = dict(zip(relation.names, _columns(messages, new, old, events), strict=True))
    return TextFrame(columns | _places(block, events) | _unchanged(relation, new, events), len(events.op))


def _messages(block: Block, relation: Relation, first: int) -> Messages:
    buffer = padded(block.messages)
    length = np.frombuffer(block.length, "<u4").astype(np.int64)
    end = np.cumsum(length)
    start = end - length
    messages = Messages(buffer, buffer[start], start, end, first)
    whole = np.arange(block.count)
    _refuse(messages, whole, (length < 6) | ~_any_of(messages.kind, *KINDS), "is none of a table's changes")
    number, truncate = numbers(buffer, ">u4")[start + 1], messages.kind == TRUNCATE
    _refuse(messages, whole, ~truncate & (number != relation.oid), f"is not of relation {relation.oid}")
    short = length != 6 + 4 * number.astype(np.int64)
    _refuse(messages, whole, truncate & short, "is not as long as the tables that it counts")
    return messages


def _tuples(messages: Messages, relation: Relation) -> tuple[Tuples, Tuples]:
    """The new and the old tuples; every message that has any ends with the last value of its last one."""
    kind, marker = messages.kind, messages.buffer[messages.start + 5]
    keyed = _any_of(marker, KEY, OLD)
    deleted = np.flatnonzero(kind == DELETE)
    _refuse(messages, deleted, ~keyed[deleted], "has no old row")
    at = messages.start + 5
    old = _walk(messages, np.flatnonzero(keyed & _any_of(kind, UPDATE, DELETE)), at, relation)
    at[old.of] = old.end
    written = np.flatnonzero(_any_of(kind, INSERT, UPDATE))
    _refuse(messages, written, messages.buffer[at[written]] != NEW, "has no new row")
    new = _walk(messages, written, at, relation)
    at[new.of] = new.end
    _refuse(messages, new.of, at[new.of] != messages.end[new.of], "goes on after its last value")
    _refuse(messages, deleted, at[deleted] != messages.end[deleted], "goes on after its last value")
    return new, old


def _walk(messages: Messages, of: Ints, marker: Ints, relation: Relation) -> Tuples:
    """The tuples that begin after `marker` (by message) in the messages `of`, each inside its message."""
    buffer, end, at = messages.buffer, messages.end[of], marker[of] + 1
    count = numbers(buffer, ">u2")[at]
    _refuse(messages, of, count != len(relation.names), f"does not have {len(relation.names)} columns")
    shape = (len(relation.names), len(of))
    found = Tuples(of, np.empty(shape, np.uint8), np.empty(shape, np.int64), np.zeros(shape, np.int64), at)
    lengths = numbers(buffer, ">u4")
    at += 2
    for column, name in enumerate(relation.names):
        _refuse(messages, of, at >= end, f"ends before column `{name}`")
        kind = buffer[at]
        _refuse(messages, of, ~_any_of(kind, SENT, NULL, UNCHANGED), f"has no text in column `{name}`")
        sent = kind == SENT
        np.multiply(lengths[at + 1], sent, out=found.length[column])
        found.kind[column] = kind
        np.add(at, 5, out=found.start[column])
        at += found.length[column]
        at += np.where(sent, 5, 1)
        # Checked here, so that no place that is read lies beyond the message and the padding behind all.
        _refuse(messages, of, at > end, f"ends within column `{name}`")
    return found


def _moved(
    buffer: Octets, relation: Relation, before: tuple[Tuples, Ints], after: tuple[Tuples, Ints]
) -> Flags:
    """Which updates have another key than their old row; one that is unchanged TOAST is the same."""
    (old, older), (new, newer) = before, after
    moved = np.full(len(older), not relation.keys)
    for column in relation.keys:
        was, now = old.kind[column, older], new.kind[column, newer]
        moved |= (was != now) & (now != UNCHANGED)
        alike = np.flatnonzero(~moved & (now == SENT))
        was_at, now_at = older[alike], newer[alike]
        one = (old.start[column, was_at], old.length[column, was_at])
        moved[alike] = ~same(buffer, one, (new.start[column, now_at], new.length[column, now_at]))
    return moved


def _fill_in(old: Tuples, older: Ints, new: Tuples, newer: Ints) -> None:
    """Gives unchanged cells of new tuples the value that their old tuple has, where it has one."""
    for column in range(len(new.kind)):
        lacks = new.kind[column, newer] == UNCHANGED
        lacks &= old.kind[column, older] == SENT
        if lacks.any():
            into, source = newer[lacks], older[lacks]
            for name in ("kind", "start", "length"):
                getattr(new, name)[column, into] = getattr(old, name)[column, source]


def _events(messages: Messages, new: Tuples, old: Tuples, moved: Ints) -> Events:
    """One for each message, and one more for each of `moved`, which are old tuples of key changes."""
    gone = np.union1d(np.flatnonzero(messages.kind[old.of] == DELETE), moved)
    emptied = np.flatnonzero(messages.kind == TRUNCATE)
    if len(gone) + len(emptied):
        order = np.concatenate((new.of * 2 + 1, old.of[gone] * 2, emptied * 2))
        by = np.argsort(order, kind="stable")
        nothing = np.full(len(emptied), len(new.of) + len(old.of))
        cells = np.concatenate((np.arange(len(new.of)), gone + len(new.of), nothing))[by]
        message, row = np.divmod(order[by], 2)
    else:
        message = cells = np.arange(len(new.of))
        row = np.ones(len(new.of), np.int64)
    ops = np.zeros(256, np.uint8)
    ops[[INSERT, UPDATE, DELETE, TRUNCATE]] = np.frombuffer(b"cudt", np.uint8)
    kind = messages.kind[message]
    op = np.where((kind == UPDATE) & (row == 0), ord("d"), ops[kind]).astype(np.uint8)
    twice = np.zeros(len(messages.kind), np.bool_)
    twice[old.of[moved]] = True
    return Events(message, op, twice[message] & (row == 1), cells)


def _columns(messages: Messages, new: Tuples, old: Tuples, events: Events) -> Iterator[Texts]:
    for column in range(len(new.kind)):
        if len(old.of) or len(events.cells) != len(new.of):
            kind = np.concatenate((new.kind[column], old.kind[column], [np.uint8(NULL)]))[events.cells]
            start = np.concatenate((new.start[column], old.start[column], [0]))[events.cells]
            length = np.concatenate((new.length[column], old.length[column], [0]))[events.cells]
        else:
            kind, start, length = new.kind[column], new.start[column], new.length[column]
        sent = kind == SENT
        try:
            yield texts(messages.buffer, start, length, None if sent.all() else sent)
        except DataError as error:
            raise DataError(f"messages from {messages.first} on: {error.message}", hint=error.hint) from error


def _places(block: Block, events: Events) -> dict[str, Texts]:
    """`_op`, `_sequence`, `_committed`, `_tx`; what a transaction's events share is written once for them."""
    lsn = np.frombuffer(block.lsn, "<u8")
    committed = np.frombuffer(block.committed, "<i8")
    xid = np.frombuffer(block.xid, "<u4")
    begins = np.ones(block.count, np.bool_)
    begins[1:] = (lsn[1:] != lsn[:-1]) | (committed[1:] != committed[:-1]) | (xid[1:] != xid[:-1])
    first = np.flatnonzero(begins)
    transaction = (np.cumsum(begins) - 1)[events.message]
    ordinal = np.frombuffer(block.ordinal, "<u4").astype(np.int64)[events.message] + events.second

    slash = np.full((len(ordinal), 1), ord("/"), np.uint8)
    sequence = np.concatenate((hexadecimal(lsn[first])[transaction], slash, digits(ordinal, 10)), axis=1)
    figures = digits(xid[first].astype(np.int64), 10)
    used = 10 - np.minimum((figures == ord("0")).cumprod(axis=1).sum(axis=1), 9)
    places = np.arange(1, len(first) + 1) * 10 - used
    return {
        "_op": fixed(events.op.reshape(-1, 1)),
        "_sequence": fixed(sequence),
        "_committed": fixed(_times(committed[first])[transaction]),
        "_tx": texts(figures.reshape(-1), places[transaction], used[transaction]),
    }


def _times(micros: Ints) -> Octets:
    """`2026-11-20T22:17:47.123456Z` for each."""
    if len(micros) and not FIRST <= micros.min() <= micros.max() <= LAST:
        raise DataError(f"commit time {micros.max()} is none of the years 1 to 9999")
    written = np.datetime_as_string(EPOCH + micros.astype("timedelta64[us]")).astype("S27")
    cells = written.view(np.uint8).reshape(-1, 27).copy()
    cells[:, 26] = ord("Z")
    return cells


def _unchanged(relation: Relation, new: Tuples, events: Events) -> dict[str, Texts]:
    """Names of the columns whose value was not sent, for each event; NULL if all were."""
    lacking = new.kind == UNCHANGED
    which = np.zeros(max(len(new.of), int(events.cells.max(initial=-1)) + 1), np.int64)
    values: list[str | None] = [None]
    rows = np.flatnonzero(lacking.any(axis=0))
    if len(rows):
        patterns, code = np.unique(lacking[:, rows], axis=1, return_inverse=True)
        which[rows] = code.reshape(-1) + 1
        named = [np.flatnonzero(pattern) for pattern in patterns.T]
        values += [",".join(unsent(relation.names[column]) for column in columns) for columns in named]
    return {"_unchanged": chosen(values, which[events.cells])}


def _any_of(kind: Octets, *values: int) -> Flags:
    flags: Flags = kind == values[0]
    for value in values[1:]:
        flags |= kind == value
    return flags


def _refuse(messages: Messages, of: Ints, bad: Flags, what: str) -> None:
    if bad.any():
        place = int(of[np.argmax(bad)])
        kind = KINDS.get(int(messages.kind[place]), f"of type {bytes(messages.kind[place : place + 1])!r}")
        size = messages.end[place] - messages.start[place]
        raise DataError(
            f"message {messages.first + place} ({kind}, {size} bytes) {what}",
            hint="its object in bronze is damaged, or was written for another relation",
        )
