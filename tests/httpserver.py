"""A server on loopback whose answers are functions, and which misbehaves on demand."""

from __future__ import annotations

import json
import multiprocessing
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Got:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass
class Reply:
    status: int = 200
    body: bytes | str | Any = b""
    """Bytes and text as they are; anything else as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = 0
    """So many bytes of the body are announced and not sent."""
    drip: float = 0.0
    """Seconds between single bytes of the body."""
    hang: float = 0.0
    """Seconds before anything is sent."""

    def raw(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


Answerer = Callable[[Got], Reply]


@dataclass
class Server:
    url: str
    port: int
    answer: Answerer
    got: list[Got] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(answer: Answerer, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server that answers with `answer`, which may be replaced, and remembers what it got."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            got = Got(self.command, parts.path, query, headers, body)
            server.got.append(got)
            self.send(server.answer(got))

        do_POST = do_GET

        def send(self, reply: Reply) -> None:
            server.stopping.wait(reply.hang)
            raw = reply.raw()
            self.send_response(reply.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            sent = raw[: len(raw) - reply.cut]
            if reply.drip:
                for place in range(len(sent)):
                    if server.stopping.wait(reply.drip):
                        break
                    self.wfile.write(sent[place : place + 1])
            else:
                self.wfile.write(sent)
            if reply.cut:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def handle(self) -> None:
            with suppress(OSError):  # the client gave up, as it should
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    if tls:
        httpd.socket = tls.wrap_socket(httpd.socket, server_side=True)
    port = httpd.server_address[1]
    server = Server(f"http{'s' if tls else ''}://127.0.0.1:{port}", port, answer)
    thread = threading.Thread(target=lambda: httpd.serve_forever(0.02), name="test server", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join(5)


@contextmanager
def serving_apart(answer: Answerer) -> Iterator[Server]:
    """The same in a process of its own, for tests that count this one's threads and sockets."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def work() -> None:
        with serving(answer) as server:
            theirs.send((server.url, server.port))
            theirs.recv()

    process = context.Process(target=work, daemon=True)
    process.start()
    try:
        yield Server(*ours.recv(), answer)
    finally:
        ours.send(None)
        process.join(5)
        process.kill()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails if the block takes longer: nothing may hang."""
    started = time.monotonic()
    yield
    taken = time.monotonic() - started
    assert taken < seconds, f"took {taken:.1f} s"
