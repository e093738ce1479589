"""The guarded client, against a server that throttles, fails, redirects, truncates, hangs and explodes."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpcore
import pytest
from httpserver import Got, Reply, Server, serving, within

from headrace.errors import ConfigError, HeadraceError, Refused, SystemFault, TransientError
from headrace.sources import http, http_guard
from headrace.sources.http import Client, Http, Request
from headrace.sources.http_guard import Allowed
from headrace.sources.http_limits import Bucket

LOCAL: dict[str, Any] = {"allow_private": ["127.0.0.1"], "retry_base": 0.0, "timeout": 5}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda got: Reply(body={"path": got.path})) as found:
        yield found


def fetch(url: str, waits: list[float] | None = None, **settings: Any) -> bytes:
    waited = waits if waits is not None else []
    with Client(Http.model_validate({**LOCAL, **settings}), waited.append) as client:
        return client.fetch(Request(url)).body


def test_a_body_comes_whole(server: Server) -> None:
    assert json.loads(fetch(f"{server.url}/a?x=1")) == {"path": "/a"}
    assert server.got[0].query == {"x": "1"}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ],
)
def test_no_spelling_of_loopback_is_reached(server: Server, host: str) -> None:
    with pytest.raises(ConfigError, match=r"no public address|InvalidURL"):
        fetch(f"http://{host}:{server.port}/", allow_private=False)
    assert not server.got


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "::ffff:10.0.0.1",
        "::10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "ff02::1", "192.0.2.1", "198.18.0.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not Allowed()("name.example", address)
    assert Allowed(listed=("name.example",))("name.example", address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert Allowed()("name.example", address)


def test_private_ranges_by_permission_never_open_metadata() -> None:
    assert Allowed(True)("x", "10.1.2.3")
    assert Allowed(True)("x", "::1")
    assert not Allowed(True)("x", "169.254.169.254")
    assert not Allowed(True)("x", "fe80::1")
    assert Allowed(listed=("169.254.169.254",))("x", "169.254.169.254")
    assert not Allowed(listed=("10.0.0.0/8",))("x", "192.168.0.1")


def test_a_name_that_rebinds_is_judged_where_it_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each resolution is judged, and what was judged is dialled: a second answer is never asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: str, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return real("93.184.215.14" if len(asked) == 1 else "127.0.0.1", *rest, **more)

    dialled: list[str] = []

    def connect(_: object, host: str, *__: object) -> Any:
        dialled.append(host)
        raise httpcore.ConnectError("not in a test")

    monkeypatch.setattr(http_guard.socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    with Client(Http(attempts=0)) as client:
        with pytest.raises(TransientError):
            client.fetch(Request("http://rebind.example/"))
        assert (asked, dialled) == (["rebind.example"], ["93.184.215.14"])
        with pytest.raises(ConfigError, match="no public address"):
            client.fetch(Request("http://rebind.example/"))
    assert dialled == ["93.184.215.14"]


def test_one_forbidden_address_among_good_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, 1, 6, "", (a, 80)) for a in ("93.184.215.14", "10.0.0.1")]
    monkeypatch.setattr(http_guard.socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(ConfigError, match=r"10\.0\.0\.1"):
        fetch("http://mixed.example/")


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data/", "http://[::1]:1/", "http://10.0.0.1/"]
)
def test_redirects_are_judged_too(server: Server, target: str) -> None:
    server.answer = lambda _: Reply(302, headers={"Location": target})
    with within(5), pytest.raises(ConfigError, match="no public address"):
        fetch(server.url)


@pytest.mark.parametrize("checked", [True, False])
def test_no_tls_before_1_2_is_spoken(checked: bool) -> None:
    assert http._tls(Http(verify_tls=checked)).minimum_version >= ssl.TLSVersion.TLSv1_2


def test_redirects_end(server: Server) -> None:
    server.answer = lambda _: Reply(302, headers={"Location": "/again"})
    with pytest.raises(SystemFault, match="more than 5 redirects"):
        fetch(server.url)
    assert len(server.got) == 6


@pytest.mark.parametrize("scheme", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/"])
def test_other_schemes_are_refused(server: Server, scheme: str) -> None:
    with pytest.raises(ConfigError, match="no http"):
        fetch(scheme)
    server.answer = lambda _: Reply(301, headers={"Location": scheme})
    with pytest.raises(SystemFault, match="not encrypted"):
        fetch(server.url)


AUTHS: list[dict[str, Any]] = [
    {"type": "bearer", "token": "canary-1234"},
    {"type": "basic", "user": "u", "password": "canary-1234"},
    {"type": "api_key", "api_key": "canary-1234"},
    {"type": "api_key", "api_key": "canary-1234", "place": "query", "key_name": "key"},
]


@pytest.mark.parametrize("auth", AUTHS, ids=lambda a: f"{a['type']}-{a.get('place', '')}")
def test_credentials_stay_with_their_origin(server: Server, auth: dict[str, Any]) -> None:
    def carries(got: Got) -> bool:
        told = "".join([*got.headers.values(), *got.query.values()])
        return "canary-1234" in told or "dTpjYW5hcnktMTIzNA==" in told

    with serving(lambda _: Reply(body=b"there")) as other:
        server.answer = lambda got: (
            Reply(302, headers={"Location": "/b"})
            if got.path == "/a"
            else Reply(307, headers={"Location": other.url})
        )
        assert fetch(f"{server.url}/a", auth=auth, headers={"X-Tenant": "canary-1234"}) == b"there"
    assert [carries(got) for got in server.got] == [True, True]
    assert [carries(got) for got in other.got] == [False]
    assert "x-tenant" not in other.got[0].headers


@pytest.mark.parametrize("auth", AUTHS, ids=lambda a: f"{a['type']}-{a.get('place', '')}")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 501])
def test_errors_never_show_credentials(server: Server, auth: dict[str, Any], status: int) -> None:
    server.answer = lambda got: Reply(status, body=f"bad: {dict(got.headers)} {dict(got.query)}")
    with pytest.raises(HeadraceError) as caught:
        fetch(f"{server.url}/x?token=canary-5678", auth=auth, attempts=0)
    for error in (caught.value, caught.value.__cause__):
        assert "canary" not in f"{error}{error!r}"
    assert "dTpjYW5hcnktMTIzNA" not in str(caught.value)


def test_credentials_that_cannot_be_a_header_are_not_shown(server: Server) -> None:
    with pytest.raises(ConfigError) as caught:
        fetch(server.url, auth={"type": "bearer", "token": "canary\r\nX: y"})
    assert "canary" not in str(caught.value)
    with pytest.raises(ConfigError, match="holds credentials") as caught:
        fetch(f"http://u:canary@127.0.0.1:{server.port}/")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "expected", "calls"),
    [
        (429, TransientError, 3), (500, TransientError, 3), (503, TransientError, 3),
        (408, TransientError, 3),
        (400, ConfigError, 1), (401, ConfigError, 1), (403, ConfigError, 1), (404, ConfigError, 1),
        (501, SystemFault, 1), (304, SystemFault, 1),
    ],
)  # fmt: skip
def test_the_class_decides(server: Server, status: int, expected: type[HeadraceError], calls: int) -> None:
    server.answer = lambda _: Reply(status, body=b"" if status == 304 else b"no")
    with pytest.raises(expected, match=str(status)) as caught:
        fetch(server.url, attempts=2)
    assert type(caught.value).error_class == expected.error_class
    assert len(server.got) == calls


def test_it_comes_back(server: Server) -> None:
    server.answer = lambda _: Reply(503) if len(server.got) < 4 else Reply(body=b"ok")
    waits: list[float] = []
    assert fetch(server.url, waits, retry_base=0.01) == b"ok"
    assert [0.01 * 2**n <= wait <= 0.01 * (2**n + 1) for n, wait in enumerate(waits)] == [True] * 3


@pytest.mark.parametrize("status", [429, 503, 403])
def test_patience_is_what_the_server_asks_for(server: Server, status: int) -> None:
    def date() -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)

    asks = [
        {"Retry-After": "7"},
        {"Retry-After": date()},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "5"},
    ]
    server.answer = lambda _: (
        Reply(status, headers=asks[len(server.got) - 1]) if len(server.got) < 4 else Reply()
    )
    waits: list[float] = []
    fetch(server.url, waits)
    assert waits[0] == 7
    assert 18 <= waits[1] <= 20
    assert waits[2] == 5


def test_too_much_patience_is_for_the_run_to_decide(server: Server) -> None:
    server.answer = lambda _: Reply(429, headers={"Retry-After": "3600"})
    with pytest.raises(TransientError) as caught:
        fetch(server.url)
    assert caught.value.retry_after == 3600  # type: ignore[attr-defined]
    assert len(server.got) == 1


@pytest.mark.parametrize("reply", [Reply(body=b"x" * 1000, cut=10), Reply(body=b"x" * 1000, cut=1000)])
def test_a_truncated_body_is_no_body(server: Server, reply: Reply) -> None:
    server.answer = lambda _: reply if len(server.got) < 2 else Reply(body=b"whole")
    assert fetch(server.url) == b"whole"
    server.answer = lambda _: reply
    with pytest.raises(TransientError, match="broke off"):
        fetch(server.url)


@pytest.mark.parametrize(
    "settings",
    [{"timeout": 0.2, "total_timeout": 60}, {"timeout": 60, "total_timeout": 0.3}],
    ids=["wait", "whole"],
)
@pytest.mark.parametrize("reply", [Reply(hang=30), Reply(body=b"x" * 100, drip=0.1)], ids=["hangs", "drips"])
def test_nothing_hangs(server: Server, settings: dict[str, float], reply: Reply) -> None:
    if settings["timeout"] < 1 and reply.drip:
        settings = {**settings, "total_timeout": 0.3}
    server.answer = lambda _: reply
    with within(4), pytest.raises(TransientError, match="no answer in time"):
        fetch(server.url, attempts=0, **settings)


def test_headers_that_drip_do_not_hold_it() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not stop.wait(0.05):
                try:
                    connection.sendall(b"X-A: b\r\n")
                except OSError:
                    return

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        with within(4), pytest.raises(TransientError, match="in time"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/", attempts=0, total_timeout=0.5)
    finally:
        stop.set()
        thread.join(5)
        listener.close()


def test_a_name_that_does_not_resolve_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_guard.socket, "getaddrinfo", lambda *_, **__: time.sleep(1) or [])
    with within(0.9), pytest.raises(TransientError, match="in time"):
        fetch("http://slow.example/", attempts=0, timeout=0.2)


def test_limits_of_size(server: Server) -> None:
    server.answer = lambda _: Reply(body=b"x" * 5000)
    assert len(fetch(server.url, max_bytes=5000)) == 5000
    with pytest.raises(Refused, match="over 4,999 bytes"):
        fetch(server.url, max_bytes=4999)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate"])
def test_packed_bodies(server: Server, encoding: str) -> None:
    def packed(data: bytes) -> bytes:
        if encoding == "gzip":
            return gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :])
        pack = zlib.compressobj(wbits=15 if encoding == "deflate" else -15)
        return pack.compress(data) + pack.flush()

    header = {"Content-Encoding": encoding.removeprefix("raw ")}
    data = json.dumps(list(range(50_000))).encode()
    server.answer = lambda _: Reply(body=packed(data), headers=header)
    assert fetch(server.url) == data
    bomb = packed(bytes(50_000_000))
    server.answer = lambda _: Reply(body=bomb, headers=header)
    with pytest.raises(Refused, match="over 1,000,000"):
        fetch(server.url, max_bytes="1MB")
    server.answer = lambda _: Reply(body=packed(data)[:-9], headers=header)
    with pytest.raises(TransientError, match="cut off"):
        fetch(server.url, attempts=0)


def test_a_packing_that_nobody_asked_for(server: Server) -> None:
    server.answer = lambda _: Reply(body=b"x", headers={"Content-Encoding": "br"})
    with pytest.raises(SystemFault, match="nobody asked"):
        fetch(server.url)


def test_the_rate_holds_over_threads() -> None:
    waits: list[float] = []
    bucket = Bucket.of("10/s", waits.append)
    threads = [threading.Thread(target=bucket.take) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A second's worth goes at once; the other 20 wait a tenth of a second longer each than the one before.
    assert len(waits) == 20
    assert sorted(waits)[-1] == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("rate", ["fast", "0/s", "-1/s", "10/fortnight"])
def test_a_rate_that_is_none(rate: str) -> None:
    with pytest.raises(ValueError, match="is not like"):
        Http(rate=rate)


def oauth(server: Server, **more: Any) -> dict[str, Any]:
    return {
        "type": "oauth2",
        "token_url": f"{server.url}/token",
        "client_id": "me",
        "client_secret": "canary-secret",
        **more,
    }


@pytest.mark.parametrize("place", ["header", "body"])
def test_oauth2_client_credentials(server: Server, place: str) -> None:
    tokens = iter(["one", "two"])

    def answer(got: Got) -> Reply:
        if got.path == "/token":
            return Reply(body={"access_token": next(tokens), "expires_in": 3600})
        fresh = got.headers["authorization"] == "Bearer two" or len(server.got) < 4
        return Reply(body=b"ok") if fresh else Reply(401)

    server.answer = answer
    settings = Http.model_validate({**LOCAL, "auth": oauth(server, client_in=place, scope="read")})
    with Client(settings) as client:
        # Two calls share a token; the third is refused (revoked) and made again with a new one.
        assert [client.fetch(Request(f"{server.url}/data")).body for _ in range(3)] == [b"ok"] * 3
    asked = [got for got in server.got if got.path == "/token"]
    assert len(asked) == 2
    assert b"grant_type=client_credentials" in asked[0].body
    assert (b"canary-secret" in asked[0].body) == (place == "body")
    assert ("authorization" in asked[0].headers) == (place == "header")


def test_oauth2_refresh_token_rotates(server: Server) -> None:
    def answer(got: Got) -> Reply:
        if got.path == "/token":
            number = sum(g.path == "/token" for g in server.got)
            return Reply(body={"access_token": f"a{number}", "expires_in": 0, "refresh_token": f"r{number}"})
        return Reply(body=got.headers["authorization"])

    server.answer = answer
    with Client(Http.model_validate({**LOCAL, "auth": oauth(server, refresh_token="r0")})) as client:
        client.authority.clock = iter(range(0, 1000, 100)).__next__
        assert [client.fetch(Request(server.url)).body for _ in range(2)] == [b"Bearer a1", b"Bearer a2"]
    assert [
        b"refresh_token=r%d" % n in got.body
        for n, got in enumerate(g for g in server.got if g.path == "/token")
    ] == [True, True]


@pytest.mark.parametrize("status", [400, 401, 302])
def test_oauth2_that_is_refused_says_so_without_the_secret(server: Server, status: int) -> None:
    server.answer = lambda got: Reply(
        status, body=got.body + str(got.headers).encode(), headers={"Location": "/"}
    )
    with pytest.raises(ConfigError) as caught:
        fetch(server.url, auth=oauth(server, client_in="body"))
    assert "/token" in str(caught.value)
    assert "canary-secret" not in str(caught.value)


def test_a_certificate_that_nobody_signed(tls_server: tuple[Server, str]) -> None:
    server, ca = tls_server
    with pytest.raises(ConfigError, match="not trusted") as caught:
        fetch(server.url)
    assert "ca_file" in str(caught.value)
    assert json.loads(fetch(server.url, ca_file=ca)) == {"tls": True}
    assert json.loads(fetch(server.url, verify_tls=False)) == {"tls": True}


@pytest.fixture
def tls_server(tmp_path: Any) -> Iterator[tuple[Server, str]]:
    import ipaddress
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "cert.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with serving(lambda _: Reply(body={"tls": True}), context) as found:
        yield found, str(path)


def test_a_token_server_is_judged_like_any_other(server: Server) -> None:
    auth = oauth(server, token_url="http://169.254.169.254/token")
    with pytest.raises(ConfigError, match=r"169\.254\.169\.254 is 169\.254\.169\.254"):
        fetch(server.url, auth=auth)
    assert not server.got


def test_no_proxy_of_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Reply(body=b"a proxy")) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert json.loads(fetch(f"{server.url}/a")) == {"path": "/a"}


def test_a_key_in_a_header_of_ones_own_is_not_shown(server: Server) -> None:
    server.answer = lambda got: Reply(400, body=f"what is {got.headers['x-api-key']}")
    with pytest.raises(ConfigError, match=r"what is \*\*\*"):
        fetch(server.url, headers={"X-Api-Key": "canary-77"})


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"\x00" * 1000, b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc", b"HTTP/1.1 999 \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"y" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::x/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://xn--/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
    ],
)  # fmt: skip
def test_answers_that_are_none_have_a_class(answer: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        with within(4), pytest.raises(HeadraceError):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/", attempts=0, timeout=1)
    finally:
        listener.close()
        thread.join(5)


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://a b/", "http://xn--/", "http://[::x]/", "//x", ""]
)
def test_urls_that_are_none_have_a_class(url: str) -> None:
    with pytest.raises(HeadraceError):
        fetch(url, attempts=0)
