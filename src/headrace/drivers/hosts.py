"""Which hosts are this machine: what goes to any other one is encrypted unless somebody says not to."""

from __future__ import annotations

import ipaddress


def local(host: str) -> bool:
    """Whether `host` is loopback, a socket in the file system, or nothing, which drivers take for that.

    >>> [local(host) for host in ("127.0.0.1", "localhost", "/run/postgresql", "", "10.0.0.1", "db.example")]
    [True, True, True, True, False, False]
    """
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
