"""New objects are known from the queue that their bucket tells; against servers of S3 and SQS on loopback."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from places import Store, queue_of, s3
from projects import go, headrace, rows
from pydantic import ValidationError

from headrace.core import Batch, Landed
from headrace.errors import ConfigError
from headrace.run.land import land
from headrace.sources import remote_s3, remote_sqs
from headrace.sources.files import Files
from headrace.sources.remote import Opening, Unreachable, parse
from headrace.store.records import LandLog
from headrace.store.storage import LocalStorage
from headrace.testing.source import Ledger, check_source, read_all


@dataclass
class Bell:
    """A bucket whose new objects are told to a queue."""

    store: Store
    client: Any
    url: str

    def waiting(self) -> int:
        """Messages in the queue, those that a reader took and kept included."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def ring(self, body: Any) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self.client.send_message(QueueUrl=self.url, MessageBody=text)

    def files(self, path: str = "s3://bucket/in/**/*.csv", **settings: Any) -> Files:
        given = {"name": "in", "root": "/tmp", "path": path, "access": self.store.access, "events": self.url}
        return Files.model_validate({**given, **settings})


def record(key: str, etag: str = "x", size: int = 8, kind: str = "ObjectCreated:Put") -> dict[str, Any]:
    s3 = {"bucket": {"name": "bucket"}, "object": {"key": quote_plus(key), "eTag": etag, "size": size}}
    return {"eventSource": "aws:s3", "eventName": kind, "s3": s3}


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with s3() as store:
        yield store


@pytest.fixture
def bell(server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bell]:
    monkeypatch.setattr(remote_sqs, "WAIT", 0)
    server.client.put_bucket_notification_configuration(Bucket="bucket", NotificationConfiguration={})
    for page in server.client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
        for item in page.get("Contents", ()):
            server.delete(item["Key"])
    with queue_of(server, hidden=0) as (client, url, arn):
        server.client.put_bucket_notification_configuration(
            Bucket="bucket",
            NotificationConfiguration={
                "QueueConfigurations": [
                    {"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
                ]
            },
        )
        yield Bell(server, client, url)


Make = Callable[..., "Reader"]


class Forgetful:
    """No cache of signatures (`run.land.Signatures`)."""

    def signatures(self, _: str) -> dict[str, Any]:
        return {}

    def remember(self, *_: Any) -> None:
        pass


@dataclass
class Reader:
    """Runs one after the other, by the lander."""

    bell: Bell
    settings: dict[str, Any]
    log: LandLog
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Of the last run."""

    def run(self) -> list[str]:
        before = self.log.epoch
        done = land(self.bell.files(**self.settings), "in", self.log, Forgetful(), lambda _: None)
        self.refused = list(done.refused)
        records = [one for one in self.log.records if one.epoch > max(before, 0)]
        return [item.name.removeprefix("s3://bucket/") for one in records for item in one.objects]

    def landed(self, key: str) -> Landed:
        return self.log.newest()[f"s3://bucket/{key}"]


@pytest.fixture
def make(bell: Bell, tmp_path: Path) -> Make:
    def reader(**settings: Any) -> Reader:
        return Reader(bell, settings, LandLog(LocalStorage(tmp_path / "lake"), "in"))

    return reader


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The listings that are made of the bucket."""
    made: list[str] = []
    entries = remote_s3.S3.entries

    def told(self: Any, pattern: str, after: str = "") -> Any:
        made.append(pattern)
        return entries(self, pattern, after)

    monkeypatch.setattr(remote_s3.S3, "entries", told)
    return made


def test_new_objects_are_known_without_a_listing(bell: Bell, make: Make, listings: list[str]) -> None:
    bell.store.put("in/old.csv")
    runs = make()
    assert runs.run() == ["in/old.csv"]
    assert len(listings) == 1
    assert bell.waiting() == 0
    assert runs.run() == []
    odd = ["in/a b+c%20&=?#;.csv", "in/deep/ünï.csv"]
    for key in (*odd, "in/other.txt", "elsewhere.csv", "in/.hidden.csv"):
        bell.store.put(key, f"a\n{key}\n")
    assert sorted(runs.run()) == odd
    assert bell.waiting() == 0
    bell.store.put("in/old.csv", "a\nnew\n")  # changed
    bell.store.put("in/gone.csv")
    bell.store.delete("in/gone.csv")
    assert runs.run() == ["in/old.csv"]
    assert runs.landed("in/old.csv").bytes == len("a\nnew\n")
    assert bell.waiting() == 0
    assert len(listings) == 1
    assert runs.refused == []


def test_a_message_stays_until_its_object_is_durable(bell: Bell, make: Make) -> None:
    runs = make()
    runs.run()
    bell.store.put("in/a.csv")
    with closing(bell.files().read("in", runs.log.end, Ledger())) as batches:  # type: ignore[type-var]
        batch = next(batches)
        assert isinstance(batch, Batch)
        with batch.data[0].open() as stream:
            stream.read()
        assert bell.waiting() == 1  # killed here: copied, and not committed
    assert bell.waiting() == 1
    assert runs.run() == ["in/a.csv"]
    assert bell.waiting() == 0


def test_duplicates_and_messages_out_of_order_do_no_harm(bell: Bell, make: Make, listings: list[str]) -> None:
    runs = make(batch=2)
    runs.run()
    bell.store.put("in/a.csv", "a\n1\n")
    bell.store.put("in/a.csv", "a\n22\n")
    for key in ("in/a.csv", "in/b.csv", "in/a.csv", "in/gone.csv"):
        bell.ring(
            {"Records": [record(key, "of an older version"), record("in/a.csv", kind="ObjectRemoved:X")]}
        )
    bell.store.put("in/b.csv", "a\n3\n")
    assert sorted(runs.run()) == ["in/a.csv", "in/b.csv"]
    assert [runs.landed(f"in/{name}.csv").bytes for name in "ab"] == [len("a\n22\n"), len("a\n3\n")]
    tag = runs.landed("in/a.csv").signature["etag"]
    bell.ring({"Records": [record("in/a.csv", tag.strip('"'), len("a\n22\n"))]})
    bell.ring({"Records": [record("in/a.csv", "again, of an older version")]})
    assert runs.run() == []
    assert bell.waiting() == 0
    assert len(listings) == 1


def test_other_ways_of_telling(bell: Bell, make: Make) -> None:
    runs = make()
    runs.run()
    bell.store.client.put_bucket_notification_configuration(Bucket="bucket", NotificationConfiguration={})
    for name in ("sns", "bridge", "minio"):
        bell.store.put(f"in/{name} +.csv", f"a\n{name}\n")
    bell.ring({"Type": "Notification", "Message": json.dumps({"Records": [record("in/sns +.csv")]})})
    detail = {"bucket": {"name": "bucket"}, "object": {"key": "in/bridge +.csv", "size": 9, "etag": "x"}}
    bell.ring({"source": "aws.s3", "detail-type": "Object Created", "detail": detail})
    bell.ring({"source": "aws.s3", "detail-type": "Object Deleted", "detail": detail})
    bell.ring({"Records": [record("in/minio +.csv", kind="s3:ObjectCreated:Put")]})
    bell.ring({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "bucket"})
    assert sorted(runs.run()) == ["in/bridge +.csv", "in/minio +.csv", "in/sns +.csv"]
    assert bell.waiting() == 0


POISON: list[tuple[Any, str]] = [
    ("not json", "no JSON"),
    ("[1]", "no object"),
    ("[" * 60_000, "no JSON"),
    ({"Records": [{"eventName": "ObjectCreated:Put"}]}, "has not the form"),
    ({"Records": "x"}, "has not the form"),
    ({"hello": 1}, "has not the form"),
    ({"Records": [json.loads(json.dumps(record("in/a.csv")).replace("in%2Fa", "%ff"))]}, "utf-8"),
    ({"Records": [json.loads(json.dumps(record("x")).replace('"bucket"}', '"other"}'))]}, "'other'"),
]


def test_what_is_no_message_is_told_and_stays(bell: Bell, make: Make) -> None:
    runs = make()
    runs.run()
    for body, _ in POISON:
        bell.ring(body)
    bell.ring({"Records": [{**record("in/a.csv"), "eventName": 7}]})  # says nothing of ours
    bell.store.put("in/good.csv")
    assert runs.run() == ["in/good.csv"]
    assert bell.waiting() == len(POISON)
    assert len(runs.refused) == len(POISON)
    for _, why in POISON:
        assert any(why in said and "dead-letter" in said for _, said in runs.refused), why
    assert all(name.startswith(bell.url) for name, _ in runs.refused)
    for _ in range(3):
        assert runs.run() == []
    assert all(re.search(r"delivered \d+ times", said) for _, said in runs.refused)


def test_an_object_that_does_not_land_keeps_its_message(
    bell: Bell, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = make()
    runs.run()
    bell.store.put("in/empty.csv", b"")
    bell.store.put("in/good.csv")
    assert runs.run() == ["in/good.csv"]
    assert [name[-9:] for name, _ in runs.refused] == ["empty.csv"]
    assert bell.waiting() == 1
    bell.store.put("in/empty.csv", "a\n1\n")
    assert runs.run() == ["in/empty.csv"]
    assert bell.waiting() == 0

    bell.store.put("in/changing.csv", "a\n1\n")
    bodies = remote_s3.S3._body

    def replaced(self: Any, entry: Any, at: int) -> Any:
        bell.store.put("in/changing.csv", "a\n2\n")
        monkeypatch.setattr(remote_s3.S3, "_body", bodies)
        return bodies(self, entry, at)

    monkeypatch.setattr(remote_s3.S3, "_body", replaced)
    assert runs.run() == []
    assert [name[-12:] for name, _ in runs.refused] == ["changing.csv"]
    assert bell.waiting() == 2
    assert runs.run() == ["in/changing.csv"]
    assert bell.waiting() == 0


def test_listings_close_the_gaps_that_lost_messages_leave(
    bell: Bell, make: Make, listings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = make(relist=2)
    runs.run()
    bell.store.put("in/a.csv")
    bell.client.purge_queue(QueueUrl=bell.url)
    assert runs.run() == []
    assert len(listings) == 1
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 2 * 3600)
    assert runs.run() == ["in/a.csv"]
    assert len(listings) == 2
    assert runs.run() == []
    assert len(listings) == 2


def test_a_listing_of_which_something_did_not_come_is_made_again(
    bell: Bell, make: Make, listings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bell.store.put("in/a.csv")
    bell.store.put("in/b.csv")
    bell.client.purge_queue(QueueUrl=bell.url)
    bodies = remote_s3.S3._body

    def broken(self: Any, entry: Any, at: int) -> Any:
        if entry.name.endswith("b.csv"):
            raise OSError("broke off")
        return bodies(self, entry, at)

    monkeypatch.setattr(remote_s3.S3, "_body", broken)
    runs = make()
    assert runs.run() == ["in/a.csv"]
    assert runs.run() == []
    monkeypatch.setattr(remote_s3.S3, "_body", bodies)
    assert runs.run() == ["in/b.csv"]
    assert len(listings) == 3
    assert runs.run() == []
    assert len(listings) == 3


def test_conformance(bell: Bell) -> None:
    for number in range(7):
        bell.store.put(f"in/{number}.csv", f"a,b\n{number},2\n")
    assert check_source(lambda: bell.files(batch=2)) >= 4


def test_what_is_wrong_with_the_configuration_is_said(bell: Bell) -> None:
    for url, wrong, said in (
        (bell.url + "x", ConfigError, "no such queue"),
        ("http://127.0.0.1:9/1/q", Unreachable, "does not answer"),
    ):
        with pytest.raises(wrong, match=said):
            read_all(bell.files(events=url), "in")
    for settings, said in (
        ({"events": "arn:aws:sqs:x"}, "URL of a queue"),
        ({"path": ["s3://bucket/a", "s3://bucket/b"]}, "one path"),
        ({"path": "in/*.csv"}, "one path"),
        ({"vanished": "warn"}, "leave out"),
        ({"settle": 3}, "leave out"),
    ):
        with pytest.raises(ValidationError, match=said):
            bell.files(**settings)


def test_keys_that_a_path_means(bell: Bell) -> None:
    place = remote_s3.place(Opening(parse("s3://bucket/x")[0], bell.files().access))
    for path, key, meant in (
        ("/in/*.csv", "in/a.csv", True),
        ("/in/*.csv", "in/x/a.csv", False),
        ("/in", "in", True),
        ("/in", "in/a/b.csv", True),
        ("/in", "into/a.csv", False),
        ("/in/", "in/a/b.csv", True),
        ("/", "any/thing", True),
        ("/in/*.csv", "in/", False),
    ):
        assert place.chosen(path)(key) is meant, (path, key)


def project(bell: Bell, root: Path) -> None:
    access = json.dumps(bell.store.access)
    (root / "pipeline.yml").write_text(
        f"name: shop\nsources:\n  orders: {{type: files, path: 's3://bucket/in/*.csv', events: '{bell.url}', "
        f"access: {access}}}\ntables:\n  orders:\n    from: orders\n    keys: [id]\n    contract:\n"
        "      columns:\n        id: {type: integer, required: true}\n"
    )


def test_a_pipeline_runs_by_it(bell: Bell, tmp_path: Path) -> None:
    project(bell, tmp_path)
    bell.store.put("in/1.csv", "id\n1\n2\n")
    assert go(tmp_path).status == "success"
    bell.store.put("in/2.csv", "id\n3\n")
    go(tmp_path)
    assert {value for row in rows(tmp_path, "silver.orders") for value in row} >= {1, 2, 3}
    assert go(tmp_path).sources[0].new_files == 0
    assert bell.waiting() == 0


@pytest.mark.parametrize(
    ("place", "news"),
    [("land.copied", 1), ("land.synced", 1), ("land.record", 0), ("land.acknowledged", 0)],
)
def test_killed_around_the_commit_nothing_is_lost_or_doubled(
    bell: Bell, tmp_path: Path, place: str, news: int
) -> None:
    project(bell, tmp_path)
    go(tmp_path)
    bell.store.put("in/1.csv", "id\n1\n2\n")
    killed = headrace(tmp_path, "run", env={"HEADRACE_FAILPOINTS": f"{place}=kill"})
    assert killed.returncode == -9
    assert bell.waiting() == 1
    report = go(tmp_path)
    assert report.sources[0].new_files == news
    assert [table.ledger.read for table in report.tables] == [2]
    assert len(rows(tmp_path, "silver.orders")) == 2
    assert bell.waiting() == 0
