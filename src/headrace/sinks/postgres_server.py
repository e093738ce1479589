"""Connections of a target to PostgreSQL: verified TLS, limits on waiting, errors by what to do."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..errors import Busy, ConfigError, DataError, HeadraceError, SystemFault, TransientError

Connection = psycopg.Connection[tuple[Any, ...]]

_ACCESS = re.compile(
    r"authentication failed|no pg_hba\.conf entry|does not exist|not permitted|permission denied"
    r"|certificate|does not support SSL|no password supplied|invalid (port|connection|sslmode|URI)",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Server:
    """How to reach one database; nobody waits in it for longer than `timeout`."""

    url: str = field(repr=False)
    name: str
    """Of the target, for messages."""
    timeout: float = 60.0
    params: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        try:
            self.params = _secured(conninfo_to_dict(self.url))
        except psycopg.ProgrammingError:
            # The driver's message may repeat the string, and with it a password.
            raise ConfigError(
                f"target {self.name}: `url` is no connection string of PostgreSQL",
                hint="such as ${WAREHOUSE} with WAREHOUSE=postgresql://user:password@host:5432/database",
            ) from None

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
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        params = {
            "connect_timeout": "15",
            "keepalives_idle": "30",
            "keepalives_interval": "10",
            "keepalives_count": "3",
            "tcp_user_timeout": "60000",
            "application_name": f"headrace {self.name}",
            **self.params,
            "options": f"{self.params.get('options') or ''} {options}".strip(),
        }
        try:
            with closing(psycopg.connect(make_conninfo("", **params))) as con:
                yield con
        except psycopg.Error as error:
            raise self.explained(error) from error

    def explained(self, error: psycopg.Error) -> HeadraceError:
        """The driver's error by class, with what to do."""
        state = error.sqlstate or ""
        text = (error.diag.message_primary or str(error)).strip().splitlines()
        said = " ".join(text) or type(error).__name__
        message = f"target {self.name}: {said}" + (f" ({state})" if state else "")
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
        if not state and isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            if _ACCESS.search(said):
                return ConfigError(message, hint=hint or "correct `url`, or what the server lets in")
            return TransientError(message, hint=hint or "is the server up, and reachable from here?")
        return SystemFault(message, hint=hint)


def _secured(params: Mapping[str, Any]) -> dict[str, Any]:
    """What leaves this machine is encrypted to a server that proves its name, or goes as `url` says."""
    found = dict(params)
    hosts = str(found.get("hostaddr") or found.get("host") or os.environ.get("PGHOST") or "").split(",")
    if all(_local(host) for host in hosts) or found.get("sslmode") or os.environ.get("PGSSLMODE"):
        return found
    found["sslmode"] = "verify-full"
    if not found.get("sslrootcert") and not os.environ.get("PGSSLROOTCERT"):
        found["sslrootcert"] = "system"
    return found


def _local(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
