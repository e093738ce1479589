"""Many messages of a log of changes at a time: what each is, of which table and in which transaction.

Looking at every message by itself would cost more than receiving it. Import this only to read changes: it
needs numpy.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .arrow_texts import np, numbers, padded

if TYPE_CHECKING:
    from .arrow_texts import Flags, Ints, Octets

INSERT, UPDATE, DELETE, TRUNCATE, BEGIN, COMMIT, RELATION = b"IUDTBCR"
XLOG, KEEPALIVE = b"wk"
STREAMED = 25
"""Bytes before a message of the stream: type, two LSNs, the server's clock."""
Transaction = tuple[int, int, int]
"""Commit LSN, commit time, id."""


@dataclass(frozen=True, slots=True)
class Received:
    """Messages as they came, each behind its head, back to back; where they are, and of what kind."""

    buffer: Octets
    start: Ints
    """Of the message itself."""
    length: Ints
    """Without the head."""
    kind: Octets
    head: int
    """Bytes before each message."""

    def __getitem__(self, place: int) -> bytes:
        """A message without its head; a keepalive as it came."""
        start = int(self.start[place])
        return self.buffer[start : start + int(self.length[place])].tobytes()

    def size(self, first: int, stop: int) -> int:
        """Bytes of messages `first` to `stop`."""
        return int(self.length[first:stop].sum())


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the stream a reader is."""

    open: Transaction | None = None
    """The transaction that is being read."""
    ordinal: int = 0
    """Of the last change in it, counted in twos."""
    end: int = 0
    """Where the last transaction that was read ended."""


@dataclass(frozen=True, slots=True)
class Share:
    """The changes of one table in a part of the stream."""

    oid: int
    messages: bytes
    """Without their heads, back to back."""
    lengths: array[int]
    ordinals: array[int]
    runs: list[tuple[int, int, int, int]]
    """(commit LSN, commit time, xid, how many messages) of each transaction, in order."""


def streamed(data: bytes, lengths: array[int]) -> Received:
    """All messages of `data`, of which there is at least one, as a stream of changes sends them."""
    buffer, start, length = _placed(data, lengths)
    xlog = buffer[start] == XLOG
    kind = np.where(xlog, buffer[start + STREAMED], np.uint8(KEEPALIVE))
    head = np.where(xlog, STREAMED, 0)
    return Received(buffer, start + head, length - head, kind, STREAMED)


def selected(data: bytes, lengths: array[int], head: int) -> Received:
    """All messages of `data`, of which there is at least one, each behind `head` bytes of a row."""
    buffer, start, length = _placed(data, lengths)
    return Received(buffer, start + head, length - head, buffer[start + head], head)


def _placed(data: bytes, lengths: array[int]) -> tuple[Octets, Ints, Ints]:
    length = np.frombuffer(lengths, np.uint32).astype(np.int64)
    return padded(memoryview(data), STREAMED + 32), np.cumsum(length) - length, length


def others(found: Received) -> list[int]:
    """Places of the messages that are neither changes of rows nor begin or end a transaction."""
    return np.flatnonzero(~_any_of(found.kind, INSERT, UPDATE, DELETE, BEGIN, COMMIT)).tolist()


def ends(found: Received, first: int, stop: int) -> int:
    """The place behind the first end of a transaction among messages `first` to `stop`; `stop` if none is."""
    there = np.flatnonzero(found.kind[first:stop] == COMMIT)
    return first + int(there[0]) + 1 if len(there) else stop


def shares(found: Received, first: int, stop: int, place: Place, since: int) -> tuple[list[Share], Place]:
    """The row changes among messages `first` to `stop` by table, and the place after them.

    Transactions that commit below LSN `since` have landed: they are passed over.
    """
    kind, start = found.kind[first:stop], found.start[first:stop]
    begin = kind == BEGIN
    changed = _any_of(kind, INSERT, UPDATE, DELETE)
    opened = place.open or (0, 0, 0)
    began, count = np.flatnonzero(begin), np.cumsum(changed)
    lsn, time, xid = (
        np.concatenate([np.array([before], form), numbers(found.buffer, f">{form}")[start[began] + at]])
        for before, form, at in zip(opened, ("u8", "i8", "u4"), (1, 9, 17), strict=True)
    )
    nth = np.cumsum(begin)
    before = np.concatenate([np.array([-(place.ordinal // 2)]), count[began]])
    ordinal = 2 * (count - before[nth])
    relation = numbers(found.buffer, ">u4")[start + 1]
    fresh = changed & (lsn >= since)[nth]
    result = []
    for oid in np.unique(relation[fresh]).tolist():
        mine = fresh & (relation == oid)
        of, many = np.unique(nth[mine], return_counts=True)
        runs = [*zip(lsn[of].tolist(), time[of].tolist(), xid[of].tolist(), many.tolist(), strict=True)]
        body = _bodies(found, first, stop, mine)
        lengths, ordinals = found.length[first:stop][mine], ordinal[mine]
        result.append(Share(int(oid), body, _array(lengths), _array(ordinals), runs))
    ended = np.flatnonzero(kind == COMMIT)
    end = int(numbers(found.buffer, ">u8")[start[ended] + 10].max(initial=0))
    last = int(began[-1]) if len(began) else -1
    now: Transaction | None = (int(lsn[-1]), int(time[-1]), int(xid[-1]))
    if (len(ended) and ended[-1] > last) or (not len(began) and place.open is None):
        now = None
    final = int(ordinal[-1]) if len(ordinal) else place.ordinal
    return result, Place(now, final, max(place.end, end))


def _bodies(found: Received, first: int, stop: int, mine: Flags) -> bytes:
    """The chosen ones of messages `first` to `stop`, without their heads, back to back."""
    start, length = found.start[first:stop] - found.head, found.length[first:stop] + found.head
    begin, end = int(start[0]), int(start[-1] + length[-1])
    kept = np.repeat(mine, length)
    kept[(start[mine] - begin)[:, None] + np.arange(found.head)] = False
    return found.buffer[begin:end][kept].tobytes()


def _array(values: Ints) -> array[int]:
    return array("I", values.astype(np.uint32).tobytes())


def _any_of(kind: Octets, *values: int) -> Flags:
    flags: Flags = kind == values[0]
    for value in values[1:]:
        flags |= kind == value
    return flags
