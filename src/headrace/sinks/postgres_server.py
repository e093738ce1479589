"""Connections of a target to PostgreSQL: verified TLS, limits on waiting, errors by what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from ..drivers.postgres import Connection, connect, parameters, refused, said
from ..errors import Busy, ConfigError, DataError, HeadraceError, SystemFault, TransientError


@dataclass(slots=True)
class Server:
    """How to reach one database; nobody waits in it for longer than `timeout`."""

    url: str = field(repr=False)
    name: str
    """Of the target, for messages."""
    timeout: float = 60.0
    params: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        hint = "such as ${WAREHOUSE} with WAREHOUSE=postgresql://user:password@host:5432/database"
        self.params = parameters(self.url, f"target {self.name}: `url`", hint)

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """A connection, closed afterwards: what has not been committed is undone.

        A writer that is paused in the middle loses its transaction after `timeout`, and with it all locks.
        """
        limit = int(self.timeout * 1000)
        settings = {
            "timezone": "UTC",
            "datestyle": "ISO",
            "client_encoding": "UTF8",
            "lock_timeout": limit,
            "idle_in_transaction_session_timeout": limit,
            "statement_timeout": 0,
        }
        try:
            with closing(connect(self.params, settings, self.name)) as con:
                yield con
        except psycopg.Error as error:
            raise self.explained(error) from error

    def explained(self, error: psycopg.Error) -> HeadraceError:
        """The driver's error by class, with what to do."""
        state, told = said(error)
        message = f"target {self.name}: {told}" + (f" ({state})" if state else "")
        hint = error.diag.message_hint
        if state in ("55P03", "25P03"):
            busy = "another run publishes there, or somebody holds a lock; run again later"
            return Busy(message, hint=busy)
        if state in ("53100", "53200"):
            return SystemFault(message, hint=hint or "make room on the server")
        if state[:2] in ("08", "53", "40") or state[:3] == "57P" or state in ("57014", "55006"):
            return TransientError(message, hint=hint)
        if state == "42501":
            return ConfigError(message, hint="docs/targets.md says what to grant")
        if state == "54000":
            return ConfigError(message, hint="a key is too long for an index; use shorter `keys`")
        if state[:2] == "2B":
            return ConfigError(message, hint=hint or "something there depends on the column; drop that first")
        if state[:2] in ("22", "23"):
            return DataError(message, hint=hint or "the table there has a constraint of its own")
        if state[:2] in ("28", "3D", "42", "3F", "0A") or state == "55000":
            return ConfigError(message, hint=hint or "correct the target's settings, or its rights")
        if (access := refused(error)) is not None:
            if access:
                return ConfigError(message, hint=hint or "correct `url`, or what the server lets in")
            return TransientError(message, hint=hint or "is the server up, and reachable from here?")
        return SystemFault(message, hint=hint)
