"""No connection reaches an address that was not allowed: names are resolved, judged and dialled at once.

A check of a URL's text is worth little: `0x7f.1` and `2130706433` are 127.0.0.1, a name can resolve to
anything, and to something else a second later. So an address is judged, and that
address is dialled.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from ..errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Which addresses beyond the public ones may be reached.

    `private` opens private and loopback ranges, but never link-local ones, where clouds keep their metadata:
    these, like anything else, must stand in `listed` (networks, addresses or host names).
    """

    private: bool = False
    listed: tuple[str, ...] = ()

    def __call__(self, host: str, address: str) -> bool:
        """Whether a connection to `address`, which `host` resolved to, is allowed.

        >>> Allowed()("example.com", "93.184.215.14"), Allowed()("rebind.example", "::ffff:127.0.0.1")
        (True, False)
        >>> Allowed(True)("localhost", "127.0.0.1"), Allowed(True)("x", "169.254.169.254")
        (True, False)
        >>> Allowed(listed=("10.1.0.0/16",))("erp", "10.1.2.3"), Allowed(listed=("erp",))("crm", "10.1.2.3")
        (True, False)
        """
        found = list(_meant(ipaddress.ip_address(address.partition("%")[0])))
        if host.casefold() in (name.casefold() for name in self.listed):
            return True
        return all(self._may(one) for one in found)

    def _may(self, address: Address) -> bool:
        if any(_within(address, name) for name in self.listed):
            return True
        if address.is_global and not address.is_multicast:
            return True
        return self.private and _inner(address)


def _meant(address: Address) -> Iterable[Address]:
    """The address, and any IPv4 address that it carries a packet to."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            yield address.ipv4_mapped
            return
        if address.sixtofour:
            yield address.sixtofour
        if address.teredo:
            yield from address.teredo
        if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
            if address in _NAT64:
                return
    yield address


def _inner(address: Address) -> bool:
    if address.is_loopback:
        return True
    odd = address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved
    return address.is_private and not odd


def _within(address: Address, name: str) -> bool:
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


class Deadline(threading.local):
    """When the call that this thread makes must be over, on the monotonic clock."""

    at: float | None = None

    def cap(self, timeout: float | None) -> float | None:
        """`timeout`, or less if less is left; raises `httpcore.ReadTimeout` if nothing is."""
        if self.at is None:
            return timeout
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the whole call took too long")
        return left if timeout is None else min(timeout, left)


class GuardedBackend(httpcore.NetworkBackend):
    """Dials only what `allowed` allows; every wait on the network ends at the caller's deadline."""

    def __init__(self, allowed: Allowed, deadline: Deadline) -> None:
        self.allowed, self.deadline = allowed, deadline
        self.inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = resolve(host, port, self.deadline.cap(timeout))
        refused = [address for address in addresses if not self.allowed(host, address)]
        if refused:
            raise ConfigError(
                f"{host} is {refused[0]}, which is no public address: not connected",
                hint=f"if it is meant to be reached, say `allow_private: [{_suggested(host, refused[0])}]`",
            )
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                stream = self.inner.connect_tcp(
                    address, port, self.deadline.cap(timeout), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self.deadline)
        raise failure

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        raise httpcore.ConnectError("no sockets of the file system")


class _Stream(httpcore.NetworkStream):
    """A stream of which every wait ends at the deadline: a byte a minute does not extend it."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self.inner, self.deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.inner.read(max_bytes, self.deadline.cap(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.inner.write(buffer, self.deadline.cap(timeout))

    def close(self) -> None:
        self.inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        inner = self.inner.start_tls(ssl_context, server_hostname, self.deadline.cap(timeout))
        return _Stream(inner, self.deadline)

    def get_extra_info(self, info: str) -> Any:
        return self.inner.get_extra_info(info)


class GuardedTransport(httpx.BaseTransport):
    """httpx over a pool of httpcore whose connections are guarded."""

    def __init__(self, pool: httpcore.ConnectionPool) -> None:
        self.pool = pool

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = self.pool.handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.read(),
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions
        )

    def close(self) -> None:
        self.pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self.answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self.answer.iter_stream()

    def close(self) -> None:
        self.answer.close()


def resolve(host: str, port: int, timeout: float | None) -> Sequence[str]:
    """All addresses of `host`, in the resolver's order, within `timeout` seconds."""
    found: list[str] = []
    failed: list[Exception] = []

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(answer[4][0]) for answer in answers))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    try:
        return [str(ipaddress.ip_address(host.strip("[]")))]
    except ValueError:
        pass
    worker = threading.Thread(target=look_up, name=f"resolve {host}", daemon=True)
    worker.start()
    worker.join(timeout)
    if worker.is_alive():
        raise httpcore.ConnectTimeout(f"the name {host} was not resolved in time")
    if failed:
        raise httpcore.ConnectError(f"the name {host} cannot be resolved: {failed[0]}") from failed[0]
    return found


def _suggested(host: str, address: str) -> str:
    return address if host == address or ipaddress.ip_address(address).is_link_local else host
