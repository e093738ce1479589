"""How PostgreSQL is reached: TLS that proves the server, limits on silence, errors told from one another."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..errors import ConfigError
from .hosts import local

Connection = psycopg.Connection[tuple[Any, ...]]

SILENCE = {
    "connect_timeout": "15",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""How long a server may be silent before it is taken for dead; what the user's string says goes first."""
_ACCESS = re.compile(
    r"authentication failed|no pg_hba\.conf entry|does not exist|not permitted|permission denied"
    r"|certificate|does not support SSL|no password supplied|invalid (port|connection|sslmode|URI)",
    re.IGNORECASE,
)


def parameters(text: str, what: str, hint: str) -> dict[str, Any]:
    """The parameters of a connection string or URL, which `what` names in errors.

    What leaves this machine is encrypted to a server that proves its name, or goes as the string says. Raises
    `ConfigError` without a word of the string, which may hold a password.
    """
    try:
        found: dict[str, Any] = dict(conninfo_to_dict(text))
    except psycopg.ProgrammingError:
        raise ConfigError(f"{what} is no connection string of PostgreSQL", hint=hint) from None
    hosts = str(found.get("hostaddr") or found.get("host") or os.environ.get("PGHOST") or "").split(",")
    if all(local(host) for host in hosts) or found.get("sslmode") or os.environ.get("PGSSLMODE"):
        return found
    found["sslmode"] = "verify-full"
    if not found.get("sslrootcert") and not os.environ.get("PGSSLROOTCERT"):
        found["sslrootcert"] = "system"
    return found


def connect(
    params: Mapping[str, Any],
    settings: Mapping[str, object],
    name: str,
    *,
    autocommit: bool = False,
    replication: bool = False,
) -> Connection:
    """A connection called `name`, with the server's `settings`; to be closed by the caller."""
    options = " ".join(f"-c {setting}={value}" for setting, value in settings.items())
    whole = {**SILENCE, "application_name": f"headrace {name}", **params}
    whole["options"] = f"{params.get('options') or ''} {options}".strip()
    if replication:
        whole["replication"] = "database"
    return psycopg.connect(make_conninfo("", **whole), autocommit=autocommit)


def said(error: psycopg.Error) -> tuple[str, str]:
    """(SQLSTATE or "", the first lines of what the server or the driver says, in one)."""
    text = (error.diag.message_primary or str(error)).strip().splitlines()
    return error.sqlstate or "", " ".join(text) or type(error).__name__


def refused(error: psycopg.Error) -> bool | None:
    """True: the server would not have us; False: it was not reached; None: the error is of another kind."""
    if error.sqlstate or not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return None
    return bool(_ACCESS.search(said(error)[1]))
