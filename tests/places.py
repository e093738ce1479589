"""Servers on loopback that files come from: an S3 store, FTP(S) and SFTP servers, and a line that breaks."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

USER, PASSWORD = "ann", "correct horse"


@dataclass
class Store:
    """A bucket `bucket` of a moto server."""

    endpoint: str
    client: Any

    @property
    def access(self) -> dict[str, Any]:
        return {
            "endpoint": self.endpoint,
            "access_key_id": "AKIAEXAMPLE",
            "secret_access_key": "secret-example",
        }

    def put(self, key: str, data: bytes | str = b"a,b\n1,2\n") -> None:
        body = data.encode() if isinstance(data, str) else data
        self.client.put_object(Bucket="bucket", Key=key, Body=body)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket="bucket", Key=key)


@contextmanager
def s3() -> Iterator[Store]:
    pytest.importorskip("moto.server")
    with _served("s3") as said, _client(said["endpoint"]) as client:
        client.create_bucket(Bucket="bucket")
        yield Store(said["endpoint"], client)


@contextmanager
def queue_of(store: Store, hidden: int) -> Iterator[tuple[Any, str, str]]:
    """A client of SQS, and the URL and the name of a queue whose taken messages stay hidden for so long."""
    with _client(store.endpoint, "sqs") as client:
        made = client.create_queue(QueueName="bell", Attributes={"VisibilityTimeout": str(hidden)})
        url = made["QueueUrl"]
        names = client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        yield client, url, names["Attributes"]["QueueArn"]
        client.delete_queue(QueueUrl=url)


@contextmanager
def _client(endpoint: str, service: str = "s3") -> Iterator[Any]:
    session = pytest.importorskip("botocore.session")
    client = session.get_session().create_client(
        service,
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id="AKIAEXAMPLE",
        aws_secret_access_key="secret-example",
    )
    yield client
    client.close()


@contextmanager
def _moto() -> Iterator[dict[str, Any]]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield {"endpoint": f"http://{host}:{port}"}
    finally:
        server.stop()


@contextmanager
def _served(kind: str, **settings: Any) -> Iterator[dict[str, Any]]:
    """A server in a process of its own, whose threads and sockets are not taken for those of a client."""
    command = [sys.executable, __file__, kind, json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            said = child.stdout.readline()
            assert said, f"the {kind} server does not start"
            yield json.loads(said)
        finally:
            child.stdin.close()
            child.wait(timeout=20)


@dataclass
class Line:
    """A TCP line to a server that breaks: once for each number of bytes in `cuts`, counted from the server.

    With `clean`, the connection is closed as if all had been said; without, it is reset.
    """

    host: str
    to: int
    cuts: list[int] = field(default_factory=list)
    clean: bool = False
    connections: int = 0
    socket: socket.socket = field(default_factory=socket.socket)

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def serve(self) -> None:
        while True:
            try:
                near, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            try:
                far = socket.create_connection((self.host, self.to))
            except OSError:
                near.close()
                continue
            cut = self.cuts.pop(0) if self.cuts else -1
            threading.Thread(target=self._pump, args=(near, far, -1), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, cut), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, cut: int) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(65536):
                if 0 <= cut < passed + len(data):
                    target.sendall(data[: cut - passed])
                    if not self.clean:
                        target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    break
                target.sendall(data)
                passed += len(data)
        for end in (source, target):
            with suppress(OSError):
                if cut >= 0 and not self.clean and end is target:
                    end.shutdown(socket.SHUT_RD)  # wakes the other pump, whose wait would keep it open
                    end.close()
                else:
                    end.shutdown(socket.SHUT_RDWR)


@contextmanager
def line(to: int, host: str = "127.0.0.1", **settings: Any) -> Iterator[Line]:
    made = Line(host, to, **settings)
    made.socket.bind(("127.0.0.1", 0))
    made.socket.listen()
    threading.Thread(target=made.serve, daemon=True).start()
    try:
        yield made
    finally:
        made.socket.shutdown(socket.SHUT_RDWR)
        made.socket.close()


@dataclass
class Server:
    """An FTP(S) or SFTP server over the folder `root`."""

    port: int
    root: Path
    certificate: Path | None = None
    host_key: str = ""
    client_key: str = ""

    def put(self, name: str, data: str = "a,b\n1,2\n", age: float = 60) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode())
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))
        return path


def certificate(folder: Path, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """A throwaway certificate for `host` and its key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "cert.pem", folder / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return public, private


@contextmanager
def ftp(root: Path, **settings: bool) -> Iterator[Server]:
    """pyftpdlib's server; with `tls` (or `implicit`) it refuses whatever is not encrypted."""
    pytest.importorskip("pyftpdlib")
    with _served("ftp", root=str(root), **settings) as said:
        certificate = Path(said["certificate"]) if said["certificate"] else None
        yield Server(said["port"], root / "home", certificate)


@contextmanager
def sftp(root: Path) -> Iterator[Server]:
    """asyncssh's server, of another make than the client; it knows one user, by password and by key."""
    pytest.importorskip("asyncssh")
    with _served("sftp", root=str(root)) as said:
        yield Server(said["port"], root / "home", None, said["host_key"], said["client_key"])


@contextmanager
def _ftp(root: str, tls: bool = False, implicit: bool = False, mlsd: bool = True) -> Iterator[dict[str, Any]]:
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
    from pyftpdlib.servers import FTPServer

    logging.getLogger("pyftpdlib").setLevel(logging.ERROR)
    folder, tls = Path(root), tls or implicit
    home = folder / "home"
    home.mkdir()
    authorizer = DummyAuthorizer()
    authorizer.add_user(USER, PASSWORD, str(home), perm="elr")
    settings: dict[str, Any] = {"authorizer": authorizer, "use_encoding": "utf8"}
    public = None
    if tls:
        public, private = certificate(folder)
        settings |= {"certfile": str(public), "keyfile": str(private)}
        settings |= {"tls_control_required": True, "tls_data_required": True}
    base: Any = TLS_FTPHandler if tls else FTPHandler
    if implicit:

        class Implicit(TLS_FTPHandler):
            def handle(self) -> None:
                self.secure_connection(self.ssl_context)
                super().handle()

        base = Implicit
    if not mlsd:
        known = FTPHandler.proto_cmds
        settings["proto_cmds"] = {name: what for name, what in known.items() if name[:3] != "MLS"}
    handler = type("Handler", (base,), settings)
    server = FTPServer(("127.0.0.1", 0), handler)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            server.ioloop.loop(timeout=0.05, blocking=False)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield {"port": server.address[1], "certificate": str(public) if public else ""}
    finally:
        stop.set()
        thread.join()
        server.close_all()


@contextmanager
def _sftp(root: str) -> Iterator[dict[str, Any]]:
    import asyncssh

    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    home = Path(root) / "home"
    home.mkdir()
    host, client = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))

    class Door(asyncssh.SSHServer):  # type: ignore[misc]
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, user: str, password: str) -> bool:
            return (user, password) == (USER, PASSWORD)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Any:
        return await asyncssh.create_server(
            Door,
            "127.0.0.1",
            0,
            server_host_keys=[host],
            authorized_client_keys=asyncssh.import_authorized_keys(client.export_public_key().decode()),
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(home)),
        )

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield {
            "port": server.get_port(),
            "host_key": host.export_public_key().decode().strip(),
            "client_key": client.export_private_key().decode(),
        }
    finally:

        async def end() -> None:
            server.close()
            await asyncio.sleep(0.05)

        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def web(root: Path, *, tls: bool = False, tags: bool = True) -> Iterator[Server]:
    """A web server over a folder: index pages, ranges, and with `tags` ETag and Last-Modified."""
    with _served("web", root=str(root), tls=tls, tags=tags) as said:
        yield Server(said["port"], root / "home", Path(said["certificate"]) if tls else None)


@contextmanager
def _web(root: str, tls: bool, tags: bool) -> Iterator[dict[str, Any]]:
    import ssl
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    home = Path(root) / "home"
    home.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(home))

        def log_message(self, *_: object) -> None:
            pass

        def send_head(self) -> Any:
            path = Path(self.translate_path(self.path))
            if not path.is_file():
                return super().send_head()
            status, size, at = path.stat(), path.stat().st_size, 0
            if asked := self.headers.get("Range"):
                at = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if at else 200)
            self.send_header("Content-Length", str(size - at))
            if tags:
                self.send_header("ETag", f'"{status.st_mtime_ns:x}-{size:x}"')
                self.send_header("Last-Modified", self.date_time_string(int(status.st_mtime)))
            if at:
                self.send_header("Content-Range", f"bytes {at}-{size - 1}/{size}")
            self.end_headers()
            file = path.open("rb")
            file.seek(at)
            return file

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    public = ""
    if tls:
        made = certificate(Path(root))
        public = str(made[0])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*made)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"port": server.server_port, "certificate": public}
    server.shutdown()


if __name__ == "__main__":
    kinds: dict[str, Any] = {"s3": _moto, "ftp": _ftp, "sftp": _sftp, "web": _web}
    with kinds[sys.argv[1]](**json.loads(sys.argv[2])) as facts:
        print(json.dumps(facts), flush=True)
        sys.stdin.read()
