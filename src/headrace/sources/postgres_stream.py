"""The stream of changes of a replication slot, followed for as long as it is wanted.

An LSN is confirmed on the line after the batch that ends there has been yielded, which is when it is durable.
"""

from __future__ import annotations

import struct
import time
from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import pq

from ..drivers.postgres import Connection
from ..errors import TransientError
from .pgoutput_stream import Received, streamed
from .postgres_intake import Cut, Intake
from .postgres_server import Server, come, ident, literal, lsn_text, wait
from .postgres_slot import SEGMENT, Patience

ROUND = 1 << 20
GATHER = 0.05
NAP = 0.002
"""So many bytes are taken in together, or what comes in so many seconds, with naps between."""
_size, _data = itemgetter(0), itemgetter(1)
_EPOCH = 946_684_800.0


@dataclass(slots=True)
class Stream:
    """Reads one slot into `intake`."""

    server: Server
    slot: str
    publication: str
    intake: Intake
    con: Connection | None = None
    confirmed: int = 0
    _ended: bool = False

    def start(self) -> None:
        """Starts the stream; waits some seconds for a predecessor that the server believes alive."""
        con = self.server.connect(replication=True)
        at = self.intake.at
        try:
            command = (
                f"START_REPLICATION SLOT {ident(self.slot)} LOGICAL {lsn_text(at)} "
                f"(proto_version '1', publication_names {literal(ident(self.publication))})"
            )
            patience = Patience(self.server, self.slot)
            while (result := con.pgconn.exec_(command.encode())).status != pq.ExecStatus.COPY_BOTH:
                patience.wait(psycopg.errors.error_from_result(result))
        except BaseException:
            con.close()
            raise
        con.pgconn.nonblocking = 1
        self.con, self.confirmed = con, at
        with self.server.talking(f"read slot {self.slot}"):
            self._tell(ask=True)

    def confirm(self, at: int) -> None:
        """Tells the server that everything before LSN `at` is durable here."""
        self.confirmed = max(self.confirmed, at)
        with self.server.talking("confirm"):
            self._tell()

    def batches(self, idle: float, until: int | None = None) -> Iterator[Cut | None]:
        """Batches until everything before LSN `until` has come; None when idle.

        Without `until` for ever: what has come is handed out when nothing came for `idle` seconds. The caller
        confirms.
        """
        try:
            with self.server.talking(f"read slot {self.slot}"):
                yield from self._batches(idle, until)
        finally:
            self.intake.close()

    def _batches(self, idle: float, until: int | None) -> Iterator[Cut | None]:
        assert self.con is not None
        intake = self.intake
        while True:
            if until is not None and intake.place.end >= until and intake.place.open is None:
                yield intake.cut(intake.place.end)
                return
            found = self._received(self.con.pgconn, idle)
            if found is None:
                self._tell(ask=True)
                if until is None and intake.place.open is None:
                    yield intake.cut(intake.place.end) if intake.began else None
                continue
            for item in intake.take(found, follow=until is None):
                if not isinstance(item, bytes):
                    yield item
                    continue
                read = self._alive(item)
                if intake.place.open is not None:
                    continue
                intake.reached = max(intake.reached, read, intake.place.end)
                if read - intake.at >= SEGMENT if until is None else read >= until:
                    yield intake.cut(max(read, intake.place.end, intake.at))
                    if until is not None:
                        return

    def _received(self, pgconn: Any, idle: float) -> Received | None:
        """What has come, at least something; None if nothing came for `idle` seconds.

        The server sends each message by itself: who is woken for each does little else.
        """
        pieces, lengths, size, until = [], array("I"), 0, 0.0
        while not self._ended and size < ROUND:
            # Nothing is kept of single messages: the interpreter would look for cycles among them.
            if came := come(pgconn):
                self._ended = came[-1][0] < 0
                pieces.append(b"".join(map(_data, came)))
                size += len(pieces[-1])
                lengths.extend(map(_size, came[:-1] if self._ended else came))
                until = until or time.monotonic() + GATHER
            del came
            if self._ended or wait(pgconn, 0 if lengths else idle):
                continue
            if not lengths:
                return None
            if time.monotonic() > until:
                break
            time.sleep(NAP)
        if lengths:
            return streamed(b"".join(pieces), lengths)
        result = pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
        raise TransientError(f"source {self.server.name}: the server ended the stream of changes")

    def _alive(self, message: bytes) -> int:
        """Answers if the server asks; how far it has read."""
        if message[17]:
            self._tell()
        return int.from_bytes(message[1:9], "big")

    def _tell(self, *, ask: bool = False) -> None:
        """Standby status: received and durable up to `confirmed`; `ask` how far the server has read."""
        if self.con is None or self.con.closed:
            return
        clock = int((time.time() - _EPOCH) * 1_000_000)
        status = struct.pack(">cQQQqB", b"r", self.confirmed, self.confirmed, self.confirmed, clock, ask)
        pgconn = self.con.pgconn
        pgconn.put_copy_data(status)
        while pgconn.flush():
            wait(pgconn, 1.0)

    def close(self) -> None:
        """Ends the stream so that the server has taken in the last confirmation, or just closes it."""
        con, self.con = self.con, None
        if con is None:
            return
        with closing(con):
            try:
                con.pgconn.put_copy_end()
                until = time.monotonic() + 5.0
                con.pgconn.flush()
                while time.monotonic() < until:
                    size, _ = con.pgconn.get_copy_data(1)
                    if size < 0:
                        break
                    if size == 0:
                        wait(con.pgconn, 0.5)
            except psycopg.Error:
                pass  # the connection was lost: what is durable here is confirmed by the next run
