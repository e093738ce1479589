"""Webhooks: what is forged, replayed or too large is not taken; what is acknowledged is there, once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import random
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.errors import Gap
from headrace.sources.webhook import Webhook
from headrace.sources.webhook_app import Receiver, Receivers
from headrace.sources.webhook_spool import Event, Full, Spool
from headrace.sources.webhook_verify import Rejected, Verify
from headrace.testing.source import check_gap, check_source, read_all

SECRET = "whsec-not-a-real-one"


def source(root: Path, **settings: Any) -> Webhook:
    base = {"name": "events", "root": str(root), "verify": {"scheme": "github", "secrets": SECRET}}
    return Webhook.model_validate({**base, **settings})


def sign(text: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()


def github(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {"content-type": "application/json", "x-hub-signature-256": f"sha256={sign(body, secret)}"}


def stripe(body: bytes, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    stamp = int(time.time() if at is None else at)
    signature = sign(f"{stamp}.".encode() + body, secret)
    return {"content-type": "application/json", "stripe-signature": f"t={stamp},v0=00,v1={signature}"}


@asynccontextmanager
async def receiving(made: Webhook) -> AsyncIterator[Receivers]:
    receiver = Receiver(made)
    receiver.writer.start()
    try:
        yield Receivers({made.route: receiver})
    finally:
        await asyncio.to_thread(receiver.writer.stop)


async def post(
    app: Receivers,
    body: bytes,
    headers: Mapping[str, str],
    path: str = "/events",
    chunk: int = 1 << 20,
    **scope: Any,
) -> tuple[int, Any]:
    """(status, body) of a request that comes in chunks."""
    chunks = [body[n : n + chunk] for n in range(0, len(body), chunk)] or [b""]
    sent: list[Any] = []

    async def receive() -> Any:
        if chunks:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}
        return await asyncio.sleep(3600)

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": "POST", "path": path, "headers": pairs, **scope}, receive, send)
    return sent[0]["status"], {**json.loads(sent[1]["body"]), "headers": dict(sent[0]["headers"])}


def stored(made: Webhook) -> list[dict[str, Any]]:
    if not made.spool_path.exists():
        return []
    con = sqlite3.connect(made.spool_path)
    lines = [row[0] for row in con.execute("SELECT line FROM events ORDER BY seq")]
    con.close()
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    return [json.loads(line) for line in lines]


def send(made: Webhook, *requests: tuple[bytes, Mapping[str, str]], **options: Any) -> list[int]:
    async def work() -> list[int]:
        async with receiving(made) as app:
            return [(await post(app, body, headers, **options))[0] for body, headers in requests]

    return asyncio.run(work())


def test_a_signed_event_is_kept_as_it_came(tmp_path: Path) -> None:
    made = source(tmp_path, headers=["X-Tenant"])
    body = b'{\r\n  "n": 1.50, "text": "a\\nb \xc3\xa9",\n  "big": 12345678901234567890\n}\n'
    headers = {
        **github(body),
        "x-github-event": "push",
        "x-tenant": "t1",
        "x-github-delivery": "d1",
        "cookie": "c",
    }
    assert send(made, (body, headers)) == [200]
    (event,) = stored(made)
    assert event["id"] == "d1"
    assert event["body"] == json.loads(body)
    assert event["headers"] == {
        "content-type": "application/json",
        "x-github-event": "push",
        "x-tenant": "t1",
    }
    line = sqlite3.connect(made.spool_path).execute("SELECT line FROM events").fetchone()[0]
    assert b'"n": 1.50' in line, "numbers stay as they were written"


# Known answers of the senders' own documentation, not of our code.


def test_githubs_own_example() -> None:
    body = b"Hello, World!"
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    verify = Verify.model_validate({"scheme": "github", "secrets": "It's a Secret to Everybody"})
    assert verify.check({"x-hub-signature-256": f"sha256={digest}"}, body, 0)
    with pytest.raises(Rejected):
        verify.check({"x-hub-signature-256": f"sha256={digest}"}, b"Hello, World?", 0)


def test_the_standard_webhooks_example() -> None:
    verify = Verify.model_validate(
        {"scheme": "standard", "secrets": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    )
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,bm9wZQ== v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    body = b'{"test": 2432232314}'
    assert verify.check(headers, body, 1614265330 + 299)
    for late in (301, -301):
        with pytest.raises(Rejected, match="too old"):
            verify.check(headers, body, 1614265330 + late)
    with pytest.raises(Rejected, match="wrong"):
        verify.check({**headers, "webhook-id": "msg_other"}, body, 1614265330)


def test_slacks_own_example() -> None:
    verify = Verify.model_validate({"scheme": "slack", "secrets": "8f742231b10e8888abcd99yyyzzz85a5"})
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        "x-slack-request-timestamp": "1531420618",
        "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    }
    assert verify.check(headers, body, 1531420618)


def test_the_general_scheme() -> None:
    verify = Verify.model_validate(
        {
            "scheme": "hmac", "secrets": [SECRET], "header": "X-Sig", "prefix": "v2:", "encoding": "base64",
            "timestamp_header": "X-Time", "signed": "{timestamp}|{body}",
        }
    )  # fmt: skip
    digest = base64.b64encode(hmac.new(SECRET.encode(), b"100|{}", "sha256").digest()).decode()
    assert verify.check({"x-sig": f"v2:{digest}", "x-time": "100"}, b"{}", 100)
    for time_ in ("101", "", "1e2", "²", "-100", " "):
        with pytest.raises(Rejected):
            verify.check({"x-sig": f"v2:{digest}", "x-time": time_}, b"{}", 100)


def test_secrets_rotate(tmp_path: Path) -> None:
    made = source(tmp_path, verify={"scheme": "github", "secrets": ["new-secret-1", "old-secret-1"]})
    bodies = [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    secrets = ["old-secret-1", "new-secret-1", "gone-secret-1"]
    requests = [(body, github(body, secret)) for body, secret in zip(bodies, secrets, strict=True)]
    assert send(made, *requests) == [200, 200, 401]


def test_a_token(tmp_path: Path) -> None:
    verify = {"scheme": "token", "secrets": "a-long-token", "header": "Authorization", "prefix": "Bearer "}
    made = source(tmp_path, verify=verify, idempotency_key="header:X-Id")
    headers = {"content-type": "application/json", "x-id": "1"}
    good, bad = {"authorization": "Bearer a-long-token"}, {"authorization": "Bearer a-long-tokem"}
    assert send(made, (b"{}", headers | good), (b"{}", headers | bad), (b"{}", headers)) == [200, 401, 401]
    assert send(made, (b"{}", headers | good)) == [200]
    assert len(stored(made)) == 1


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b'{"a":1}', 401),
        ({"x-hub-signature-256": "sha256="}, b'{"a":1}', 401),
        ({"x-hub-signature-256": "sha256=zz"}, b'{"a":1}', 401),
        ({"x-hub-signature-256": sign(b'{"a":1}')}, b'{"a":1}', 401),
        ({"x-hub-signature-256": "sha1=" + sign(b'{"a":1}')}, b'{"a":1}', 401),
        ({"content-type": "text/plain"}, b'{"a":1}', 415),
        ({"content-type": ""}, b'{"a":1}', 415),
        ({"content-length": "2000"}, b"{}", 413),
        ({"content-encoding": "gzip"}, b"{}", 415),
    ],
)
def test_what_is_not_taken(tmp_path: Path, headers: dict[str, str], body: bytes, status: int) -> None:
    made = source(tmp_path, max_body=1000)
    assert send(made, (body, {"content-type": "application/json", **headers})) == [status]
    assert stored(made) == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"NaN", b'{"a": Infinity}', b"\xff{}", b'"\n"', b"[" * 100_000, b"{} {}"]
)
def test_signed_bodies_that_are_not_json(tmp_path: Path, body: bytes) -> None:
    made = source(tmp_path)
    assert send(made, (body, github(body))) == [400]
    assert stored(made) == []


def test_large_bodies_are_not_read_to_their_end(tmp_path: Path) -> None:
    made = source(tmp_path, max_body=1000)
    body = b'"' + b"x" * 5000 + b'"'
    assert send(made, (body, github(body)), chunk=100) == [413]
    exact = b'"' + b"x" * 998 + b'"'
    assert send(made, (exact, github(exact)), chunk=7) == [200]


def test_slow_bodies_are_not_waited_for(tmp_path: Path) -> None:
    made = source(tmp_path, body_timeout=0.05)

    async def work() -> int:
        async with receiving(made) as app:

            async def receive() -> Any:
                await asyncio.sleep(0.02)
                return {"type": "http.request", "body": b"x", "more_body": True}

            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            pairs = [(b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": "/events", "headers": pairs}
            await asyncio.wait_for(app(scope, receive, send), 2)
            return int(sent[0]["status"])

    assert asyncio.run(work()) == 408


def test_paths_and_methods(tmp_path: Path) -> None:
    made = source(tmp_path, path="/hooks/pay")
    assert send(made, (b"{}", github(b"{}"))) == [404]
    assert send(made, (b"{}", github(b"{}")), path="/hooks/pay", method="GET") == [405]
    assert send(made, (b"", {}), path="/healthz") == [200]
    assert send(made, (b"{}", github(b"{}")), path="/hooks/pay") == [200]


def test_a_replay_is_known_by_what_was_signed(tmp_path: Path) -> None:
    """GitHub's delivery id is not signed: who caught a request may change it, and nothing else."""
    made = source(tmp_path)
    body = b'{"n": 1}'
    requests = [(body, {**github(body), "x-github-delivery": str(n)}) for n in range(50)]
    assert send(made, *requests) == [200] * 50
    assert [event["id"] for event in stored(made)] == ["0"]


def test_a_sender_that_signs_anew_is_known_by_its_key(tmp_path: Path) -> None:
    made = source(tmp_path, verify={"scheme": "stripe", "secrets": SECRET})
    body = b'{"id": "evt_1", "n": 1}'
    now = time.time()
    assert send(made, *[(body, stripe(body, now - n)) for n in range(20)]) == [200] * 20
    assert send(made, (body, stripe(body, now - 301)), (body, stripe(body, now + 400))) == [401, 401]
    assert len(stored(made)) == 1


def test_it_is_known_after_a_restart_and_after_it_has_landed(tmp_path: Path) -> None:
    made = source(tmp_path)
    request = (b'{"n": 1}', github(b'{"n": 1}'))
    assert send(made, request) == [200]
    assert [step.end["seq"] for step in read_all(made, "events")] == [1]
    assert send(made, request) == [200]
    assert stored(made) == []


def test_names_are_forgotten_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool.open(tmp_path / "s.db")
    event = Event([b"a", b"b"], b"{}\n")
    assert spool.append([event, event, Event([b"b"], b"{}\n")], 60) == [True, False, False]
    now = time.time()
    monkeypatch.setattr("headrace.sources.webhook_spool.time.time", lambda: now + 61)
    assert spool.append([event], 60) == [True]
    monkeypatch.setattr("headrace.sources.webhook_spool.time.time", lambda: now + 200)
    spool.append([Event([b"c"], b"{}\n")], 60)
    assert spool.con.execute("SELECT name FROM names").fetchall() == [(b"c",)]
    spool.close()


def test_a_key_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    made = source(tmp_path, idempotency_key="body:event.id")
    bodies = [b'{"event": {"id": 7}}', b'{"event": {}}', b'{"event": {"id": {}}}', b"[]"]
    assert send(made, *[(body, github(body)) for body in bodies]) == [200, 400, 400, 400]
    assert [event["id"] for event in stored(made)] == ["7"]


def test_ten_thousand_attacks(tmp_path: Path) -> None:
    """Forged, replayed, stale, cut, oversized: not one is stored, and the good ones are, once each."""
    made = source(tmp_path, verify={"scheme": "stripe", "secrets": SECRET}, max_body=2000)
    dice = random.Random(7)
    good = [json.dumps({"id": f"evt_{n}", "n": n}).encode() for n in range(100)]
    caught = [(body, stripe(body)) for body in good]

    def attack(number: int) -> tuple[bytes, dict[str, str], set[int]]:
        body, headers = dice.choice(caught)
        fresh = json.dumps({"id": f"evil_{number}"}).encode()
        signature = headers["stripe-signature"]
        old = time.time() - dice.choice([301, 4000, 10**9, -400, -(10**6)])
        kinds: list[tuple[bytes, dict[str, str], set[int]]] = [
            (body, headers, {200}),  # replayed: known, and not stored again
            (fresh, headers, {401}),  # another body under a caught signature
            (fresh, stripe(fresh, secret="guess-" + str(number)), {401}),
            (fresh, {"content-type": "application/json"}, {401}),
            (fresh, stripe(fresh, old), {401}),
            (fresh, headers | {"stripe-signature": signature.replace("v1=", "v0=")}, {401}),
            (fresh, stripe(fresh) | {"stripe-signature": "t=,v1="}, {401}),
            (body + b" ", headers, {401}),
            (body[:-1], headers, {401}),
            (body, headers | {"stripe-signature": signature.replace("t=1", "t=2")}, {401}),
            (b'"' + b"x" * dice.randrange(2000, 50_000) + b'"', headers, {413}),
            (fresh, stripe(fresh) | {"content-type": dice.choice(["text/html", "", "multipart/x"])}, {415}),
        ]
        flipped = bytearray(body)
        flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        kinds.append((bytes(flipped), headers, {401}))
        return dice.choice(kinds)

    async def work() -> int:
        wrong = 0
        async with receiving(made) as app:
            for body, headers in caught:
                assert (await post(app, body, headers))[0] == 200
            for start in range(0, 10_000, 500):
                attacks = [attack(start + n) for n in range(500)]
                answers = await asyncio.gather(*[post(app, body, headers) for body, headers, _ in attacks])
                for (_, _, expected), (status, said) in zip(attacks, answers, strict=True):
                    wrong += status not in expected or said.get("status") == "stored"
        return wrong

    assert asyncio.run(work()) == 0
    assert [event["body"] for event in stored(made)] == [json.loads(body) for body in good]


def test_a_burst_shares_its_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = source(tmp_path)
    append = Spool.append

    def slow(spool: Spool, *given: Any) -> Any:  # as a disk is; a busy machine may be slower than its disk
        time.sleep(0.05)
        return append(spool, *given)

    monkeypatch.setattr(Spool, "append", slow)

    async def work() -> dict[str, int]:
        async with receiving(made) as app:
            bodies = [json.dumps({"n": n}).encode() for n in range(2000)]
            answers = await asyncio.gather(*[post(app, body, github(body)) for body in bodies])
            assert {status for status, _ in answers} == {200}
            return app.by_path["/events"].writer.counts

    counts = asyncio.run(work())
    assert counts["stored"] == 2000
    assert counts["commits"] < 500
    assert len(stored(made)) == 2000


def test_a_full_disk_asks_for_patience_and_recovers(tmp_path: Path) -> None:
    made = source(tmp_path, spool_max=300_000)
    bodies = [json.dumps({"n": n, "pad": "x" * 5000}).encode() for n in range(100)]

    async def work() -> list[tuple[int, Any]]:
        async with receiving(made) as app:
            found = [await post(app, body, github(body)) for body in bodies]
            kept = sum(status == 200 for status, _ in found)
            assert 10 < kept < 100
            assert [event["body"]["n"] for event in stored(made)] == [
                n for n, (status, _) in enumerate(found) if status == 200
            ]
            refused = next(answer for status, answer in found if status != 200)
            assert refused["headers"][b"retry-after"] == b"10"
            read_all(made, "events")  # lands, and makes room
            again = [await post(app, body, github(body)) for body in bodies[kept : kept + 10]]
            return [*found, *again]

    answers = asyncio.run(work())
    assert {status for status, _ in answers} == {200, 503}
    assert [status for status, _ in answers[-10:]] == [200] * 10


def test_a_disk_that_fails_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = source(tmp_path)
    real = Spool.append
    failures = iter([OSError(5, "Input/output error"), Full("full")])

    def failing(self: Spool, *arguments: Any) -> list[bool]:
        error = next(failures, None)
        if error:
            raise error
        return real(self, *arguments)

    monkeypatch.setattr(Spool, "append", failing)
    request = (b"{}", github(b"{}"))
    assert send(made, request, request, request) == [503, 503, 200]
    assert len(stored(made)) == 1


def test_what_every_source_promises(tmp_path: Path) -> None:
    made = source(tmp_path / "a", batch_bytes=500)
    bodies = [json.dumps({"n": n}).encode() for n in range(40)]
    send(made, *[(body, github(body)) for body in bodies])
    copies = iter(range(10_000))

    def make() -> Webhook:
        """What lands leaves the spool: each reader gets the same one again."""
        root = tmp_path / f"copy{next(copies)}"
        shutil.copytree(tmp_path / "a", root)
        return source(root, batch_bytes=500)

    assert check_source(make) >= 8
    lines = b"".join(
        raw.open().read()
        for batch in make().read("events", None, type("L", (), {"follow": False})())
        if batch
        for raw in batch.data
    )
    assert [json.loads(line)["body"] for line in lines.splitlines()] == [json.loads(body) for body in bodies]


def test_gaps_are_loud(tmp_path: Path) -> None:
    made = source(tmp_path)
    send(made, *[(body, github(body)) for body in (b"[1]", b"[2]", b"[3]")])
    end = read_all(made, "events")[-1].end
    check_gap(lambda: made, "events", {**end, "seq": 1})  # a lake from a backup: 2 and 3 are nowhere
    (tmp_path / "spool/events.db").unlink()
    for left in (tmp_path / "spool").iterdir():
        left.unlink()
    send(made, (b"[4]", github(b"[4]")))
    with pytest.raises(Gap, match="another spool") as caught:
        list(made.read("events", end, None))  # type: ignore[arg-type]
    new = str(caught.value).partition("accept_spool: ")[2].partition("`")[0]
    accepted = source(tmp_path, accept_spool=new)
    assert [step.end for step in read_all(accepted, "events", start=end)] == [{"spool": new, "seq": 1}]


def test_nothing_received_is_nothing_landed(tmp_path: Path) -> None:
    assert read_all(source(tmp_path), "events") == []
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"verify": {"scheme": "github"}}, "needs `secrets`"),
        ({"verify": {"scheme": "github", "secrets": "short"}}, "guessed"),
        ({"verify": {"scheme": "hmac", "secrets": SECRET, "signed": "{timestamp}"}}, "anybody"),
        ({"verify": {"scheme": "hmac", "secrets": SECRET, "timestamp_header": "X-T"}}, "clock"),
        ({"idempotency_key": "X-Id"}, "is not like"),
        ({"path": "hooks"}, "is not like"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(tmp_path, **settings)
