"""Connections to PostgreSQL: always the same text for the same value, verified TLS, errors by what to do."""

from __future__ import annotations

import select
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, BinaryIO, cast

import psycopg
from psycopg import pq

from ..drivers.postgres import Connection, connect, parameters, refused, said
from ..errors import ConfigError, HeadraceError, SystemFault, TransientError

SETTINGS = {
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "timezone": "UTC",
    "lc_monetary": "C",
    "xmloption": "content",
    "quote_all_identifiers": "off",
    "client_encoding": "UTF8",
    "synchronize_seqscans": "off",
    "row_security": "off",
    "idle_in_transaction_session_timeout": "0",
    "statement_timeout": "0",
}
"""What a value looks like as text depends on these, so snapshots and streams have them alike; a scan always
starts at the first block, so that the same table gives the same bytes; a policy that would hide rows of a
snapshot, whose changes the stream would show, is an error."""

_BUFFER = 1 << 20
_MESSAGES = 4096
"""Most messages that are taken at a time."""
_data = itemgetter(1)
_WAIT = 30.0
"""Seconds without a byte after which the connection is looked at again."""


@dataclass(slots=True)
class Server:
    """How to reach one database; knows nothing of what is in it."""

    dsn: str = field(repr=False)
    name: str
    """Of the source, for messages."""
    timeout: float = 60.0
    """Seconds for statements that only look or prepare; copying has no limit."""
    params: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        hint = "such as ${PG_DSN} with PG_DSN=postgresql://user:password@host:5432/database"
        self.params = parameters(self.dsn, f"source {self.name}: `dsn`", hint)

    @property
    def database(self) -> str:
        return str(self.params.get("dbname") or self.params.get("user") or "")

    def connect(self, *, replication: bool = False) -> Connection:
        """A connection in autocommit mode with `SETTINGS`; to be closed by the caller."""
        # A batch may take long to land, and the reader is silent meanwhile.
        settings = {**SETTINGS, "wal_sender_timeout": "600000"} if replication else SETTINGS
        with self.talking("connect"):
            return connect(self.params, settings, self.name, autocommit=True, replication=replication)

    @contextmanager
    def talking(self, doing: str, hint: str | None = None) -> Iterator[None]:
        """Errors of the driver within come out by class, with where and what."""
        try:
            yield
        except psycopg.Error as error:
            raise self.explain(error, doing, hint) from None

    def explain(self, error: psycopg.Error, doing: str, hint: str | None = None) -> HeadraceError:
        state, told = said(error)
        message = f"source {self.name}: {doing}: {told}" + (f" ({state})" if state else "")
        if error.diag.message_hint:
            hint = hint or error.diag.message_hint
        if state == "53400":
            more = "raise max_replication_slots and max_wal_senders on the server, or drop what nobody reads"
            return ConfigError(message, hint=more)
        if state[:2] in ("08", "53", "40") or state[:3] == "57P" or state in ("55P03", "57014", "55006"):
            return TransientError(message, hint=hint)
        if state[:2] in ("28", "3D", "42", "3F", "0A") or state in ("55000", "22023"):
            return ConfigError(message, hint=hint or "correct the source's settings, or its rights")
        if (access := refused(error)) is not None:
            if access:
                return ConfigError(message, hint=hint or "correct `dsn`, or what the server lets in")
            return TransientError(message, hint=hint or "is the server up, and reachable from here?")
        return SystemFault(message, hint=hint)

    def rows(self, con: Connection, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a small query, within `timeout`."""
        with self.talking("look"):
            con.execute(f"set statement_timeout = {int(self.timeout * 1000)}")
            try:
                done = con.execute(cast(Any, query), values or None)
                return done.fetchall() if done.description else []
            finally:
                if not con.closed and con.info.transaction_status != pq.TransactionStatus.INERROR:
                    con.execute("set statement_timeout = 0")

    def command(self, con: Connection, command: str, hint: str | None = None) -> list[list[str | None]]:
        """A replication command's rows as text, within `timeout`; there is no other protocol for them."""
        timer = threading.Timer(self.timeout, con.cancel)  # `statement_timeout` does not hold for them
        timer.daemon = True
        timer.start()
        try:
            return self._command(con, command, hint)
        finally:
            timer.cancel()
            timer.join()

    def _command(self, con: Connection, command: str, hint: str | None) -> list[list[str | None]]:
        with self.talking(command.split(" ", 1)[0], hint):
            result = con.pgconn.exec_(command.encode())
            if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                raise psycopg.errors.error_from_result(result)
            return [
                [
                    None if (v := result.get_value(row, place)) is None else v.decode()
                    for place in range(result.nfields)
                ]
                for row in range(result.ntuples)
            ]

    def copy(self, con: Connection, query: str) -> Spool:
        """All bytes of `COPY (query) TO STDOUT`, in a file without a name that the system deletes for us.

        It is whole or there is none: bytes go on to bronze only after the server has said that all are sent.
        """
        spool = Spool()
        try:
            with self.talking("copy"):
                result = con.pgconn.exec_(query.encode())
                if result.status != pq.ExecStatus.COPY_OUT:
                    raise psycopg.errors.error_from_result(result)
                for data in messages(con.pgconn):
                    spool.file.write(data)
                result = cast(Any, con.pgconn.get_result())
                spool.rows = result.command_tuples or 0
                done = result.status
                while con.pgconn.get_result() is not None:
                    pass
                if done != pq.ExecStatus.COMMAND_OK:
                    raise psycopg.errors.error_from_result(result)
        except BaseException:
            spool.file.close()
            raise
        spool.size = spool.file.tell()
        return spool


def _nameless() -> BinaryIO:
    return cast(BinaryIO, tempfile.TemporaryFile(buffering=_BUFFER))


@dataclass(slots=True)
class Spool:
    """Bytes on their way to bronze; the file has no name, so that nothing is left of a killed process."""

    file: BinaryIO = field(default_factory=_nameless)
    rows: int = 0
    size: int = 0

    def open(self) -> BinaryIO:
        """The bytes from the start, once: closing the stream gives the space back."""
        self.file.seek(0)
        return self.file


def come(pgconn: Any, most: int = _MESSAGES) -> list[tuple[int, memoryview]]:
    """(size, data) of messages of a COPY that have come, at most `most`; the size is -1 where it ends.

    Fetched by the interpreter's own loops: there is one message for each row.
    """
    found: list[tuple[int, memoryview]] = []
    try:
        found.extend(islice(iter(partial(pgconn.get_copy_data, 1), (0, b"")), most))
    except psycopg.OperationalError:
        if not found or found[-1][0] >= 0:  # behind the end there is nothing to ask for
            raise
    return found


def messages(pgconn: Any) -> Iterator[bytes]:
    """What a COPY OUT sends, many messages at a time."""
    while True:
        found = come(pgconn)
        ended = bool(found) and found[-1][0] < 0
        if found:
            yield b"".join(map(_data, found))
        if ended:
            return
        if len(found) < _MESSAGES:
            wait(pgconn)


def wait(pgconn: Any, seconds: float = _WAIT) -> bool:
    """Waits for bytes of the server and takes them in; False if none came. Raises the driver's error."""
    ready, _, _ = select.select([pgconn.socket], [], [], seconds)
    if ready:
        pgconn.consume_input()
    return bool(ready)


def ident(name: str) -> str:
    """An identifier as SQL, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL, whatever is in it and however the server reads backslashes."""
    quoted = "'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
    return f" E{quoted}" if "\\" in text else quoted


def lsn(text: str) -> int:
    """
    >>> lsn("16/B374D848")
    97500059720
    """
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def lsn_text(value: int) -> str:
    """
    >>> lsn_text(97500059720)
    '16/B374D848'
    """
    return f"{value >> 32:X}/{value & 0xFFFFFFFF:X}"
