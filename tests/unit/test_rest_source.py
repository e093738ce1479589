"""Every record once, whatever the server does between two pages: REST against a server that misbehaves."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from httpserver import Got, Reply, Server, serving, serving_apart, within

from headrace.core import Landed
from headrace.errors import ConfigError, HeadraceError, SystemFault, TransientError
from headrace.sources.paging import next_link
from headrace.sources.rest import Rest, selected
from headrace.testing.source import Ledger, check_source, read_all


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda _: Reply(404)) as found:
        yield found


def source(server: Server, **settings: Any) -> Rest:
    base = {"name": "api", "root": "/", "url": f"{server.url}/v1/orders", "allow_private": ["127.0.0.1"]}
    return Rest.model_validate({**base, "timeout": 5, "retry_base": 0, **settings})


class Reader:
    """Lands what a source gives and keeps the bytes, as bronze does; goes on from where it stopped."""

    def __init__(self, make: Callable[[], Rest]) -> None:
        self.make, self.ledger = make, Ledger()
        self.position: Mapping[str, Any] | None = None
        self.files: list[tuple[str, str, bytes, Mapping[str, Any]]] = []

    def read(self, most: int | None = None) -> int:
        """Lands everything, or `most` batches and no more; returns how many files came."""
        count = 0
        reader: Any = self.make().read("api", self.position, self.ledger)
        for number, batch in enumerate(reader):
            for raw in batch.data:
                assert raw.name not in self.ledger.landed, "a name came twice"
                body = raw.open().read()
                inspector = raw.inspector()
                inspector.feed(body)
                form = inspector.result()
                import hashlib

                sha256 = hashlib.sha256(body).hexdigest()
                landed = Landed("", raw.name, len(body), sha256, None, form, table=raw.table)
                self.ledger.landed[raw.name] = landed
                self.files.append((raw.table, raw.name, body, form))
                count += 1
            self.position = json.loads(json.dumps(batch.end))
            if most is not None and number + 1 == most:
                reader.close()
                break
        return count

    def records(self, path: Sequence[str] = ("items",), table: str = "") -> list[Any]:
        return [
            record
            for name, _, body, _ in self.files
            if name == table
            for record in selected(json.loads(body), path, "")
        ]

    def ids(self, path: Sequence[str] = ("items",)) -> list[int]:
        return [record["id"] for record in self.records(path)]


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": n, "at": f"2026-01-01T00:{n // 60:02}:{n % 60:02}Z"} for n in range(count)]


class Api:
    """A collection behind every kind of paging, which a test may change between two requests."""

    def __init__(self, server: Server, data: list[dict[str, Any]], size: int = 10) -> None:
        self.server, self.data, self.size = server, data, size
        self.before: Callable[[int], Reply | None] = lambda _: None
        """Called with the number of the request (from 1); may change the data, or answer in its place."""
        server.answer = self.answer

    def answer(self, got: Got) -> Reply:
        instead = self.before(len(self.server.got))
        if instead is not None:
            return instead
        found = [r for r in self.data if r["at"] >= got.query.get("since", "")]
        query, total = got.query, len(found)
        if "offset" in query:
            start = int(query["offset"])
            return Reply(
                body={"items": found[start : start + min(int(query["limit"]), self.size)], "total": total}
            )
        if "after" in query or "keyset" in query:
            found = [r for r in found if r["id"] > int(query.get("after", -1))]
            return Reply(body={"items": found[: self.size], "more": len(found) > self.size})
        number = int(query.get("page", query.get("cursor", "1").removeprefix("c")))
        part = found[(number - 1) * self.size : number * self.size]
        more = number * self.size < total
        url = f"{got.path}?page={number + 1}"
        body = {
            "items": part,
            "total": total,
            "pages": -(-total // self.size),
            "meta": {"next": f"c{number + 1}" if more else None},
            "next": url if more else None,
        }
        return Reply(body=body, headers={"Link": f'<{url}>; rel="next"'} if more else {})


PAGINGS: list[dict[str, Any]] = [
    {"type": "page"},
    {"type": "page", "total": "total"},
    {"type": "page", "pages": "pages"},
    {"type": "offset"},
    {"type": "offset", "total": "total", "size": 7},
    {"type": "offset", "overlap": 0},
    {"type": "offset", "overlap": 3},
    {"type": "cursor", "next": "meta.next"},
    {"type": "last", "param": "after", "more": "more"},
    {"type": "last", "param": "after"},
    {"type": "link"},
    {"type": "url"},
]
paged = pytest.mark.parametrize("paging", PAGINGS, ids=lambda p: "-".join(str(v) for v in p.values()))


@paged
@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 35])
def test_every_record_comes(server: Server, paging: dict[str, Any], count: int) -> None:
    Api(server, rows(count))
    params = {"keyset": 1} if paging["type"] == "last" else {}
    reader = Reader(lambda: source(server, records="items", pagination=paging, params=params))
    reader.read()
    ids = reader.ids()
    assert sorted(set(ids)) == list(range(count))
    if paging["type"] != "offset" or paging.get("overlap") == 0:
        assert len(ids) == count
    assert reader.read() == 0, "a read without news lands nothing"


@paged
def test_what_every_source_promises(server: Server, paging: dict[str, Any]) -> None:
    api = Api(server, rows(35))
    params = {"keyset": 1} if paging["type"] == "last" else {}

    def make() -> Rest:
        return source(apart, records="items", pagination=paging, params=params, batch_bytes=500)

    with serving_apart(api.answer) as apart:
        assert check_source(make) >= 2


@pytest.mark.parametrize("parallel", [1, 4])
def test_bodies_land_byte_for_byte_with_their_selector(server: Server, parallel: int) -> None:
    body = b' {"meta": {"n": 1.50},\n "data": {"items": [ {"id": 1, "x": 1e400}, {"id": 2} ] } }\n'
    server.answer = lambda _: Reply(body=body)
    reader = Reader(lambda: source(server, records="data.items", parallel=parallel))
    assert reader.read() == 1
    _, name, landed, form = reader.files[0]
    assert landed == body
    assert name == "pages/000001-000000"
    assert form == {
        "type": "json", "encoding": "utf-8", "keys": ["id", "x"], "rows": 2, "records": ["data", "items"]
    }  # fmt: skip


@pytest.mark.parametrize(
    "paging", [PAGINGS[1], PAGINGS[2], PAGINGS[4]], ids=["page-total", "pages", "offset"]
)
def test_pages_side_by_side(server: Server, paging: dict[str, Any]) -> None:
    api = Api(server, rows(95))
    busy, most, lock = 0, 0, threading.Lock()

    def before(_: int) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        server.stopping.wait(0.05)
        with lock:
            busy -= 1

    api.before = before
    reader = Reader(lambda: source(server, records="items", pagination=paging, parallel=4))
    reader.read()
    assert sorted(set(reader.ids())) == list(range(95))
    assert 2 <= most <= 4
    names = [name for _, name, _, _ in reader.files]
    assert names == sorted(names)
    assert reader.ids() == sorted(reader.ids()), "they land in their order"


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("gone", [1, 5, 12])
def test_offsets_under_which_records_vanish(server: Server, gone: int, parallel: int) -> None:
    """Without the overlap, as many records as vanished would be skipped, and nobody would know."""
    api = Api(server, rows(60))

    def before(request: int) -> None:
        if request == 3:
            del api.data[:gone]

    api.before = before
    paging = {"type": "offset", "total": "total"} if parallel > 1 else {"type": "offset"}
    reader = Reader(lambda: source(server, records="items", pagination=paging, parallel=parallel))
    reader.read()
    assert set(range(60)) - set(range(gone)) <= set(reader.ids())


def test_pages_whose_total_shrinks_are_read_again(server: Server) -> None:
    api = Api(server, rows(60))

    def before(request: int) -> None:
        if request == 3:
            del api.data[:4]

    api.before = before
    reader = Reader(
        lambda: source(
            server, records="items", pagination={"type": "page", "total": "total"}, batch_bytes=500
        )
    )
    reader.read()
    assert set(range(4, 60)) <= set(reader.ids())


@pytest.mark.parametrize("paging", [{"type": "page", "total": "total"}, {"type": "offset"}])
def test_records_that_come_in_front_are_no_loss(server: Server, paging: dict[str, Any]) -> None:
    api = Api(server, rows(40))

    def before(request: int) -> None:
        if request in (2, 4):
            api.data[:0] = [{"id": 1000 + request, "at": "x"}]

    api.before = before
    reader = Reader(lambda: source(server, records="items", pagination=paging))
    reader.read()
    assert set(range(12)) <= set(reader.ids())
    reader.read()
    assert {1002, 1004} <= set(reader.ids()), "the next read has what came in front"


def test_pages_that_never_rest_are_an_error_and_not_a_loss(server: Server) -> None:
    api = Api(server, rows(100))

    def before(request: int) -> None:
        if request % 3 == 0:
            del api.data[:1]

    api.before = before
    with pytest.raises(TransientError, match="4 times in a row"):
        Reader(lambda: source(server, records="items", pagination={"type": "offset"})).read()


INCREMENTAL = {"param": "since", "field": "at", "overlap": "10s"}


@paged
def test_only_what_changed(server: Server, paging: dict[str, Any]) -> None:
    if paging["type"] in ("link", "url"):
        pytest.skip("this server's links do not keep the parameters")
    api = Api(server, rows(30))
    params = {"keyset": 1} if paging["type"] == "last" else {}
    reader = Reader(
        lambda: source(server, records="items", pagination=paging, params=params, incremental=INCREMENTAL)
    )
    reader.read()
    assert set(reader.ids()) == set(range(30))
    assert "since" not in server.got[0].query
    server.got.clear()
    assert reader.read() == 0, "what the overlap gives again is known"
    assert server.got[0].query["since"] == "2026-01-01T00:00:19Z"
    api.data += rows(33)[30:]
    before = len(reader.ids())
    assert reader.read() >= 1
    assert set(reader.ids()[before:]) >= {30, 31, 32}
    assert reader.read() == 0
    # A late one: its time is before the greatest seen, within the overlap.
    api.data.append({"id": 99, "at": "2026-01-01T00:00:25Z"})
    if paging["type"] != "last":
        api.data.sort(key=lambda r: r["at"])
    assert reader.read() >= 1
    assert 99 in reader.ids()


def test_ties_of_the_greatest_value(server: Server) -> None:
    api = Api(server, [{"id": 1, "at": "5"}, {"id": 2, "at": "5"}])
    settings = {"records": "items", "incremental": {"param": "since", "field": "at", "overlap": 0}}
    reader = Reader(lambda: source(server, **settings))
    reader.read()
    api.data.append({"id": 3, "at": "5"})
    assert reader.read() == 1
    assert reader.ids() == [1, 2, 1, 2, 3]
    assert reader.read() == 0


def test_a_changed_record_in_the_overlap_is_news(server: Server) -> None:
    api = Api(server, rows(5))
    reader = Reader(lambda: source(server, records="items", incremental=INCREMENTAL))
    reader.read()
    api.data[4] = {**api.data[4], "state": "paid"}
    assert reader.read() == 1
    assert reader.records()[-1]["state"] == "paid"


@pytest.mark.parametrize("stray", ["2999-12-31T00:00:00Z", "n/a", "", None, 9999999999])
def test_a_stray_value_hides_nothing_that_comes_later(server: Server, stray: Any) -> None:
    data = [*rows(5), {"id": 77, "at": stray}]
    server.answer = lambda _: Reply(body={"items": data})
    reader = Reader(lambda: source(server, records="items", incremental=INCREMENTAL))
    reader.read()
    assert 77 in reader.ids()
    reader.read()
    assert server.got[-1].query["since"] == "2025-12-31T23:59:54Z"
    notes = [message for _, _, message in reader.ledger.notes]
    assert any("yet to come" in message for message in notes) == (str(stray)[:4] in ("2999", "9999"))


@pytest.mark.parametrize(
    ("value", "since"),
    [
        (1767225600, "1767225590"),
        (1767225600123, "1767225590123"),
        (4711, "4711"),
        ("2026-01-02", "2026-01-01"),
    ],
)
def test_values_of_other_kinds(server: Server, value: Any, since: str) -> None:
    server.answer = lambda _: Reply(body=[{"id": 1, "at": value}])
    reader = Reader(lambda: source(server, incremental=INCREMENTAL))
    assert [reader.read(), reader.read()] == [1, 0]
    assert server.got[-1].query["since"] == since


def test_a_position_stays_small_with_a_million_ties(server: Server) -> None:
    Api(server, [{"id": n, "at": "2026-01-01"} for n in range(3000)], size=5000)
    reader = Reader(lambda: source(server, records="items", incremental=INCREMENTAL))
    assert reader.read() == 1
    assert len(json.dumps(reader.position)) < 1000
    assert reader.read() == 1, "too many to know: they land again, and their keys make them one"
    assert len(json.dumps(reader.position)) < 1000


def test_killed_between_any_two_batches_it_goes_on(server: Server) -> None:
    Api(server, rows(50))
    for paging in PAGINGS:
        params = {"keyset": 1} if paging["type"] == "last" else {}
        extra = {} if paging["type"] in ("link", "url") else {"incremental": INCREMENTAL}
        reader = Reader(
            lambda: source(server, records="items", pagination=paging, params=params, batch_bytes=1, **extra)  # noqa: B023
        )
        server.got.clear()
        while reader.read(most=1):
            pass
        assert sorted(set(reader.ids())) == list(range(50)), paging
        if paging["type"] == "cursor":
            assert len(server.got) <= 5 + 6 + 1, "pages that have landed are not asked for again"


def test_a_cursor_that_ran_out_begins_the_pass_anew(server: Server) -> None:
    api = Api(server, rows(40))
    reader = Reader(
        lambda: source(
            server, records="items", pagination={"type": "cursor", "next": "meta.next"}, batch_bytes=1
        )
    )
    reader.read(most=2)
    server.got.clear()
    api.before = lambda request: Reply(410, body="cursor expired") if request == 1 else None
    reader.read()
    assert "cursor" in server.got[0].query
    assert "cursor" not in server.got[1].query
    assert sorted(set(reader.ids())) == list(range(40))


@pytest.mark.parametrize(
    "paging",
    [{"type": "cursor", "next": "n"}, {"type": "url", "next": "u"}, {"type": "link"}],
    ids=lambda p: p["type"],
)
def test_pages_in_a_circle(server: Server, paging: dict[str, Any]) -> None:
    def answer(got: Got) -> Reply:
        following = int(got.query.get("cursor", "0")) % 7 + 1
        url = f"/v1/orders?cursor={following}"
        body = {"items": [{"id": 1}], "n": str(following), "u": url}
        return Reply(body=body, headers={"Link": f'<{url}>; rel="next"'})

    server.answer = answer
    with within(10), pytest.raises(SystemFault, match="circle"):
        Reader(lambda: source(server, records="items", pagination=paging)).read()


def test_a_server_that_fails_and_throttles_now_and_then(server: Server) -> None:
    api = Api(server, rows(60))
    misdeeds = {
        2: Reply(500), 3: Reply(429, headers={"Retry-After": "0"}), 5: Reply(body=b'{"items": [{"id"', cut=0),
        6: Reply(body=b"x" * 50, cut=20), 8: Reply(503), 9: Reply(hang=2),
    }  # fmt: skip
    api.before = misdeeds.get
    reader = Reader(lambda: source(server, records="items", pagination={"type": "page"}, timeout=0.3))
    with within(20):
        reader.read()
    assert reader.ids() == list(range(60))


def test_a_server_that_stays_down_loses_nothing(server: Server) -> None:
    api = Api(server, rows(60))
    reader = Reader(lambda: source(server, records="items", pagination={"type": "page"}, batch_bytes=1))
    api.before = lambda request: Reply(500) if request > 3 else None
    with pytest.raises(TransientError):
        reader.read()
    assert reader.ids() == list(range(30))
    api.before = lambda _: None
    reader.read()
    assert reader.ids() == list(range(60))


def test_a_pass_that_lands_whole_or_not_at_all(server: Server) -> None:
    api = Api(server, rows(60))
    reader = Reader(
        lambda: source(server, records="items", pagination={"type": "page"}, batch_bytes=1, atomic=True)
    )
    api.before = lambda request: Reply(500) if request > 3 else None
    with pytest.raises(TransientError):
        reader.read()
    assert reader.files == []
    api.before = lambda _: None
    assert reader.read(most=1) == 6


def test_endpoints_are_tables_with_places_of_their_own(server: Server) -> None:
    def answer(got: Got) -> Reply:
        if got.path == "/v1/broken":
            return Reply(404, body="gone")
        return Reply(body=[{"id": got.path}])

    server.answer = answer
    reader = Reader(
        lambda: source(
            server,
            url=f"{server.url}/v1/",
            endpoints={"broken": "broken", "shops": "shops", "sales": {"path": "sales"}},
        )
    )
    with pytest.raises(ConfigError, match="404"):
        reader.read()
    assert [(table, name) for table, name, _, _ in reader.files] == [
        ("shops", "shops/000001-000000"),
        ("sales", "sales/000001-000000"),
    ]
    with pytest.raises(ConfigError):
        reader.read()
    assert len(reader.files) == 2, "the good ones had no news"


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (
            Reply(body="<html>Maintenance</html>", headers={"Content-Type": "text/html"}),
            SystemFault,
            "for people",
        ),
        (Reply(body={"error": "no such shop"}), SystemFault, "nothing at `items` .* error"),
        (Reply(body=[1, 2]), SystemFault, "nothing at `items`"),
        (Reply(body="{"), TransientError, "broken JSON"),
    ],
)
def test_what_is_no_page_never_lands(
    server: Server, reply: Reply, error: type[HeadraceError], message: str
) -> None:
    server.answer = lambda _: reply
    reader = Reader(lambda: source(server, records="items", attempts=1))
    with pytest.raises(error, match=message):
        reader.read()
    assert not reader.files


def test_pages_of_objects_need_a_path(server: Server) -> None:
    server.answer = lambda _: Reply(body={"data": [{"id": 1}]})
    with pytest.raises(ConfigError) as caught:
        Reader(lambda: source(server, pagination={"type": "page"})).read()
    assert "records: data" in str(caught.value)


def test_a_next_page_elsewhere_is_refused(server: Server) -> None:
    server.answer = lambda _: Reply(body={"items": [{"id": 1}], "next": "http://169.254.169.254/latest"})
    with pytest.raises(SystemFault, match="another server"):
        Reader(lambda: source(server, records="items", pagination={"type": "url"})).read()


def test_a_key_that_comes_back_in_a_link_is_not_kept(server: Server) -> None:
    def answer(got: Got) -> Reply:
        assert got.query["key"] == "canary-9"
        number = int(got.query.get("page", 1))
        url = f"{server.url}/v1/orders?page={number + 1}&key=canary-9"
        return Reply(body={"items": [{"id": number}], "next": url if number < 3 else None})

    server.answer = answer
    auth = {"type": "api_key", "api_key": "canary-9", "place": "query", "key_name": "key"}
    reader = Reader(
        lambda: source(server, records="items", pagination={"type": "url"}, auth=auth, batch_bytes=1)
    )
    while reader.read(most=1):
        assert "canary" not in json.dumps(reader.position)
    assert reader.ids() == [1, 2, 3]
    assert "canary" not in repr(reader.make())


@pytest.mark.parametrize("body", [b'{"id":1}\n{"id":2}\n', b""])
def test_json_lines(server: Server, body: bytes) -> None:
    def answer(got: Got) -> Reply:
        return Reply(body=body if got.query["page"] == "1" else b"")

    server.answer = answer
    reader = Reader(lambda: source(server, format="jsonl", pagination={"type": "page"}))
    reader.read()
    assert reader.files[0][2] == body
    assert reader.files[0][3]["type"] == ("jsonl" if body else "empty")
    assert reader.read() == 0


def test_csv(server: Server) -> None:
    def answer(got: Got) -> Reply:
        return Reply(body="id,name\n1,a\n2,b\n" if got.query["page"] == "1" else "id,name\n")

    server.answer = answer
    reader = Reader(lambda: source(server, format="csv", pagination={"type": "page"}))
    assert reader.read() == 1
    assert reader.files[0][3]["type"] == "csv"
    assert reader.files[0][3]["header"] == ["id", "name"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "api.example.com"}, "does not begin with"),
        ({"format": "csv", "records": "a"}, "no `records` path"),
        ({"format": "csv", "pagination": {"type": "cursor", "next": "n"}}, "no cursor"),
        ({"pagination": {"type": "pages"}}, "pages"),
        ({"incremental": {"param": "a", "field": "b", "overlap": "soon"}}, "overlap"),
        ({"bogus": 1}, "bogus"),
    ],
)
def test_settings_that_cannot_be(server: Server, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(server, **settings)


def test_link_headers() -> None:
    assert next_link('<https://a/?x=1,2>; rel=next, <https://a/>; rel="last"') == "https://a/?x=1,2"
    assert next_link('<https://a/>; rel="prev"') is None
    assert next_link("") is None


def test_following_comes_again(server: Server) -> None:
    api = Api(server, rows(3))
    ledger = Ledger(follow=True)
    reader: Any = source(server, records="items", incremental=INCREMENTAL).read("api", None, ledger)
    assert [raw.name for raw in next(reader).data] == ["pages/000001-000000"]
    assert next(reader) is None
    api.data += rows(4)[3:]
    assert [raw.name for raw in next(reader).data] == ["pages/000002-000000"]
    reader.close()


def test_read_all_agrees(server: Server) -> None:
    Api(server, rows(12))
    steps = read_all(source(server, records="items", pagination={"type": "page"}), "api")
    assert [len(step.items) for step in steps] == [2]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_comes_and_goes_what_stays_is_read(server: Server, seed: int) -> None:
    """Records come and go anywhere, between any two requests; those that stayed are all read."""
    dice = random.Random(seed)
    api = Api(server, rows(80))
    stay = {record["id"] for record in api.data}
    kinds: list[dict[str, Any]] = [
        {"type": "offset"},
        {"type": "offset", "total": "total", "overlap": 2},
        {"type": "last", "param": "after"},
    ]
    paging = dice.choice(kinds)
    changes = dice.randrange(4)
    after = {dice.randrange(2, 9) for _ in range(changes)}

    def before(request: int) -> None:
        if request not in after:
            return
        for _ in range(dice.randrange(1, 5)):
            if dice.random() < 0.6:
                stay.discard(api.data.pop(dice.randrange(len(api.data)))["id"])
            elif paging["type"] == "offset":
                new = {"id": 1000 + dice.randrange(10**6), "at": "2026-01-01T00:00:00Z"}
                api.data.insert(dice.randrange(len(api.data)), new)

    api.before = before
    settings = {"records": "items", "pagination": paging, "batch_bytes": dice.choice([1, 10**6])}
    parallel = dice.choice([1, 3]) if "total" in paging else 1
    reader = Reader(
        lambda: source(
            server, **settings, parallel=parallel, params={"keyset": 1} if paging["type"] == "last" else {}
        )
    )
    if settings["batch_bytes"] == 1 and dice.random() < 0.5:
        while reader.read(most=1):  # and killed after each batch besides
            pass
    else:
        reader.read()
    assert stay <= set(reader.ids())
