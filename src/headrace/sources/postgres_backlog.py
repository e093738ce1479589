"""The changes that wait in a replication slot, up to a given LSN, asked for by a statement.

A stream sends, and wakes up, for each row; a statement is answered several times as fast. The server puts the
answer together before it sends any of it, in its memory and then in temporary files; so no statement asks for
more than `PIECE` bytes of its log, and where that is still too much, the stream takes over.
Asking takes nothing from the slot: the slot is moved on once what has come is durable.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import pq

from ..drivers.postgres import Connection
from .pgoutput_stream import selected
from .postgres_intake import Cut
from .postgres_server import come, ident, literal, lsn_text, wait
from .postgres_slot import Patience
from .postgres_stream import ROUND, Stream

PIECE = 1 << 30
"""Of the log. For every piece the server begins where the oldest transaction that was open began."""
_MAGIC = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"
_HEAD = 6
"""Bytes of a row of COPY before its only column: how many columns, how long."""
_END = 2
"""Bytes of what comes after all rows."""
_NO_ROOM = (psycopg.errors.ConfigurationLimitExceeded, psycopg.errors.DiskFull, psycopg.errors.OutOfMemory)
_size, _data = itemgetter(0), itemgetter(1)


@dataclass(slots=True)
class Backlog:
    """Reads the slot of `stream` up to LSN `until`; where that cannot be done, starts the stream itself."""

    stream: Stream
    until: int
    con: Connection | None = None
    confirmed: int = 0
    _moved: int = 0
    """Where the slot is."""

    def start(self) -> None:
        self.con = self.stream.server.connect()
        self.confirmed = self._moved = self.stream.intake.at

    def confirm(self, at: int) -> None:
        """Everything before LSN `at` is durable here; the server is told before it is asked for more."""
        self.confirmed = max(self.confirmed, at)
        if self.stream.con is not None:
            self.stream.confirm(at)

    def batches(self, idle: float) -> Iterator[Cut | None]:
        """Batches until everything before LSN `until` has come; the caller confirms."""
        assert self.con is not None
        server, slot, intake = self.stream.server, self.stream.slot, self.stream.intake
        patience = Patience(server, slot)
        try:
            with server.talking(f"read slot {slot}"):
                while intake.at < self.until:
                    error = yield from self._answered(self.con, min(intake.at + PIECE, self.until))
                    if isinstance(error, _NO_ROOM):
                        self.con.close()
                        self.stream.start()
                        yield from self.stream.batches(idle, self.until)
                        return
                    if error is not None:
                        patience.wait(error)
                    self._move(self.con)
        finally:
            intake.close()

    def _answered(self, con: Connection, stop: int) -> Generator[Cut, None, psycopg.Error | None]:
        """All that commits before LSN `stop`, in batches; or nothing, and the server's error."""
        options = f"'proto_version', '1', 'publication_names', {literal(ident(self.stream.publication))}"
        slot, upto = literal(self.stream.slot), literal(lsn_text(stop))
        query = f"SELECT data FROM pg_logical_slot_peek_binary_changes({slot}, {upto}, NULL, {options})"
        con.pgconn.send_query(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode())
        if (error := _result(con.pgconn)) is not None:
            return error
        head, ended = len(_MAGIC), False
        while not ended:
            data, lengths, ended = _more(con.pgconn)
            if head and lengths:  # the first row comes behind the magic
                data, head, lengths[0] = data[head:], 0, lengths[0] - head
                del lengths[: not lengths[0]]
            if lengths and lengths[-1] == _END:
                lengths.pop()
            if lengths:
                for item in self.stream.intake.take(selected(data, lengths, _HEAD)):
                    assert not isinstance(item, bytes)
                    yield item
        if (error := _result(con.pgconn)) is not None:
            if head:
                return error
            raise error
        yield self.stream.intake.cut(max(stop, self.stream.intake.place.end))
        return None

    def _move(self, con: Connection) -> None:
        """Tells the server what is durable here."""
        if self.confirmed > self._moved:
            place = [self.stream.slot, lsn_text(self.confirmed)]
            con.execute("select pg_replication_slot_advance(%s, %s::pg_lsn)", place)
            self._moved = self.confirmed

    def close(self) -> None:
        """Ends what the server still puts together, and gives back the connections."""
        self.stream.close()
        con, self.con = self.con, None
        if con is not None:
            if not con.closed and con.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                con.cancel()
            con.close()


def _more(pgconn: Any) -> tuple[bytes, array[int], bool]:
    """Rows that have come, back to back, at least one or the end; their sizes; whether there are no more."""
    pieces: list[bytes] = []
    lengths, size, ended = array("I"), 0, False
    while not ended and size < ROUND:
        if came := come(pgconn):
            ended = came[-1][0] < 0
            pieces.append(b"".join(map(_data, came)))
            lengths.extend(map(_size, came[:-1] if ended else came))
            size += len(pieces[-1])
        else:
            wait(pgconn)
    return b"".join(pieces), lengths, ended


def _result(pgconn: Any) -> psycopg.Error | None:
    """Waits until a statement has begun to answer, or has ended; its error."""
    while True:
        while pgconn.is_busy():
            wait(pgconn)
        result = pgconn.get_result()
        if result is None or result.status == pq.ExecStatus.COPY_OUT:
            return None
        if result.status == pq.ExecStatus.FATAL_ERROR:
            error = psycopg.errors.error_from_result(result)
            return _result(pgconn) or error
