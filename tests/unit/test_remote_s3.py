"""Files of an object store land as those of a folder do; against a store that speaks S3 on loopback."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import Store, line, s3
from pydantic import ValidationError

from headrace.core import Batch
from headrace.errors import ConfigError, Refused, TransientError
from headrace.sources import remote_s3, rising
from headrace.sources.files import Files
from headrace.sources.remote import Unreachable
from headrace.testing.source import Ledger, check_source, read_all


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with s3() as store:
        yield store


@pytest.fixture
def store(server: Store) -> Store:
    for page in server.client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
        for item in page.get("Contents", ()):
            server.delete(item["Key"])
    return server


def files(store: Store, path: str | list[str] = "s3://bucket/in/*.csv", **settings: Any) -> Files:
    access = {**store.access, **settings.pop("access", {})}
    return Files.model_validate({"name": "in", "root": "/tmp", "path": path, "access": access, **settings})


def names(source: Files, ledger: Ledger | None = None) -> list[str]:
    steps = read_all(source, "in", ledger=ledger)
    return [item.name.removeprefix("s3://bucket/") for step in steps for item in step.files]


def test_new_and_changed_objects_land_once(store: Store) -> None:
    for name in ("in/b.csv", "in/a.csv", "in/c.txt", "in/deep/d.csv", "in/.hidden.csv", "in/e.csv.part"):
        store.put(name, f"a\n{name}\n")
    ledger = Ledger()
    assert names(files(store), ledger) == ["in/a.csv", "in/b.csv"]
    assert names(files(store), ledger) == []
    store.put("in/a.csv", "a\nnew\n")
    store.put("in/b.csv", "a\nin/b.csv\n")  # the same bytes under a new time
    store.put("in/0.csv")
    assert names(files(store), ledger) == ["in/0.csv", "in/a.csv"]
    assert ledger.landed["s3://bucket/in/a.csv"].bytes == len("a\nnew\n")
    assert ledger.notes == []


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("s3://bucket/in/**/*.csv", ["in/a.csv", "in/x/b.csv", "in/x/y/c.csv"]),
        ("s3://bucket/in/*/*.csv", ["in/x/b.csv"]),
        ("s3://bucket/in", ["in/a.csv", "in/x/b.csv", "in/x/y/c.csv", "in/x/y/d.json"]),
        ("s3://bucket/in/x/", ["in/x/b.csv", "in/x/y/c.csv", "in/x/y/d.json"]),
        ("s3://bucket", ["in/a.csv", "in/x/b.csv", "in/x/y/c.csv", "in/x/y/d.json", "in2.csv"]),
        ("s3://bucket/in*.csv", ["in2.csv"]),
        ("s3://bucket/in/a.csv", ["in/a.csv"]),
        ("s3://bucket/in/[ab].csv", ["in/a.csv"]),
        (["s3://bucket/in/x/*.csv", "s3://bucket/in/**/*.csv"], ["in/a.csv", "in/x/b.csv", "in/x/y/c.csv"]),
        ("s3://bucket/none/*.csv", []),
    ],
)
def test_globs(store: Store, path: str | list[str], wanted: list[str]) -> None:
    for name in ("in/a.csv", "in/x/b.csv", "in/x/y/c.csv", "in/x/y/d.json", "in2.csv"):
        store.put(name, "[1]" if name.endswith("json") else f"a\n{name}\n")
    store.put("in/folder/", b"")  # what consoles make for a folder
    assert names(files(store, path)) == wanted


def test_odd_keys_are_read_as_they_are_and_none_leads_elsewhere(store: Store) -> None:
    odd = ["in//double.csv", "in/a b+c%20&=?#;.csv", "in/ünï.csv", "in/back\\slash.csv"]
    for key in odd:
        store.put(key, f"key\n{key}\n")
    ledger = Ledger()
    assert names(files(store, "s3://bucket/in/**"), ledger) == sorted(odd)


@pytest.mark.parametrize("key", ["in/../up.csv", "in/./here.csv", "in/new\nline.csv"])
def test_unfit_keys_are_refused_and_hold_up_nothing(
    store: Store, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("in/a.csv")
    pages = store.client.get_paginator("list_objects_v2").paginate(Bucket="bucket")
    [real] = [item for page in pages for item in page["Contents"]]

    class Client:
        """Lists what moto would not take."""

        def get_paginator(self, _: str) -> Any:
            return self

        def paginate(self, **_: Any) -> Any:
            return [{"Contents": [{**real, "Key": key}]}, {"Contents": [real]}]

        def get_object(self, **request: Any) -> Any:
            return store.client.get_object(**request)

        def close(self) -> None:
            pass

    monkeypatch.setattr(remote_s3, "_connected", lambda _: Client())
    ledger = Ledger()
    assert names(files(store, "s3://bucket/in/**"), ledger) == ["in/a.csv"]
    assert [kind for kind, _, _ in ledger.notes] == ["refused"]


def test_an_object_that_is_replaced_or_deleted_after_the_listing_does_not_land(store: Store) -> None:
    store.put("in/a.csv", "a\nold\n")
    store.put("in/b.csv", "a\nold\n")
    reader = files(store).read("in", None, Ledger())
    batch = next(reader)
    assert isinstance(batch, Batch)
    store.put("in/a.csv", "a\nnew\n")
    store.delete("in/b.csv")
    with pytest.raises(TransientError, match="changed while"):
        batch.data[0].open().read()
    with pytest.raises(TransientError, match="is gone"):
        batch.data[1].open().read()


def test_a_broken_transfer_goes_on_where_it_broke(store: Store) -> None:
    big = "a,b\n" + "1,2\n" * 500_000
    store.put("in/big.csv", big)
    with line(int(store.endpoint.rsplit(":", 1)[1]), cuts=[-1, 700_000, 900_000]) as wire:
        source = files(store, access={"endpoint": f"http://127.0.0.1:{wire.port}"})
        ledger = Ledger()
        assert names(source, ledger) == ["in/big.csv"]
    assert wire.cuts == []
    assert ledger.landed["s3://bucket/in/big.csv"].bytes == len(big)


@pytest.mark.parametrize("clean", [False, True])
def test_a_transfer_that_breaks_always_does_not_land(store: Store, clean: bool) -> None:
    store.put("in/a.csv", "a,b\n" + "1,2\n" * 100_000)
    with line(int(store.endpoint.rsplit(":", 1)[1]), cuts=[-1, *[20_000] * 20], clean=clean) as wire:
        source = files(store, access={"endpoint": f"http://127.0.0.1:{wire.port}"})
        with pytest.raises(TransientError, match="broke off at byte"):
            read_all(source, "in")


def test_a_store_that_is_away_is_one_error_and_not_one_for_each_file(store: Store) -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        read_all(files(store, access={"endpoint": "http://127.0.0.1:9"}), "in")


def test_what_is_wrong_with_the_configuration_is_said(store: Store) -> None:
    with pytest.raises(ConfigError, match="no such bucket"):
        read_all(files(store, "s3://nowhere/*.csv"), "in")
    for path, message in (
        ("s3://", "no URL"),
        ("gopher://x/y", "is not known"),
        ("sftp://u:hunter2@h/x", "password stands in the URL"),
    ):
        with pytest.raises(ValidationError, match=message) as caught:
            files(store, path)
        said = "".join(item["msg"] for item in caught.value.errors())
        assert "hunter2" not in said
    for settings in ({"relist": 1, "vanished": "warn"}, {"relist": 1, "order": "mtime"}):
        with pytest.raises(ValidationError, match="relist"):
            files(store, **settings)
    with pytest.raises(ValidationError, match="relist"):
        files(store, "in/*.csv", relist=1)


def test_policies_are_those_of_folders(store: Store) -> None:
    store.put("in/a.csv", "a\n1\n")
    store.put("in/b.csv", b"")
    store.put("in/c.csv", gzip.compress(b"a\n1\n2\n")[:-4])
    ledger = Ledger()
    assert names(files(store), ledger) == ["in/a.csv"]
    assert sorted(name[-5:] for kind, name, _ in ledger.notes if kind == "refused") == ["b.csv", "c.csv"]
    ledger.notes.clear()
    store.put("in/a.csv", "a\n2\n")
    source = files(store, changed="refuse", empty="accept", truncated="accept")
    assert names(source, ledger) == ["in/b.csv", "in/c.csv"]
    assert "landed with other content" in ledger.notes[0][2]
    store.delete("in/a.csv")
    with pytest.raises(Refused, match="are gone"):
        names(files(store, vanished="refuse"), ledger)
    assert names(files(store, settle=3600), Ledger()) == []


def test_local_and_remote_paths_go_together_in_one_order(store: Store, tmp_path: Path) -> None:
    store.put("in/a.csv")
    (tmp_path / "z.csv").write_text("a,b\n1,2\n")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    source = Files.model_validate(
        {"name": "in", "root": str(tmp_path), "path": ["*.csv", "s3://bucket/in/*"], "access": store.access}
    )
    assert names(source) == ["a.csv", "in/a.csv", "z.csv"]


@pytest.mark.parametrize(
    "settings",
    [{}, {"batch": 3}, {"batch_bytes": 30}, {"order": "mtime", "batch": 1}, {"relist": 1, "batch": 2}],
)
def test_conformance(store: Store, settings: dict[str, Any]) -> None:
    for number in range(7):
        store.put(f"in/{number}.csv", f"a,b\n{number},2\n")
    store.put("in/refused.csv", b"")
    assert check_source(lambda: files(store, **settings)) >= 1


def test_a_rising_listing_asks_only_for_what_comes_after(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rising, "OVERLAP", 3)
    asked: list[str] = []
    entries = remote_s3.S3.entries

    def told(self: Any, pattern: str, after: str = "") -> Any:
        asked.append(after)
        return entries(self, pattern, after)

    monkeypatch.setattr(remote_s3.S3, "entries", told)
    for number in range(10):
        store.put(f"in/{number:02}.csv", f"a\n{number}\n")
    ledger, position = Ledger(), None

    def run() -> list[str]:
        nonlocal position
        steps = read_all(files(store, relist=24, batch=4), "in", start=position, ledger=ledger)
        position = steps[-1].end if steps else position
        return [item.name[-6:] for step in steps for item in step.files]

    assert len(run()) == 10
    assert run() == []
    store.put("in/10.csv", "a\n10\n")
    store.put("in/08a.csv", "a\n8\n")  # an upload that was overtaken
    assert run() == ["08a.csv"[-6:], "10.csv"]
    assert asked == ["", "in/06.csv", "in/06.csv"]
    store.put("in/00a.csv", "a\n0\n")  # under a name that has long been passed
    assert run() == []
    assert position is not None
    position = {**position, "listed": position["listed"] - 25 * 3600}
    assert run() == ["00a.csv"[-6:]]
    assert asked[-1] == ""
    assert run() == []
    assert asked[-1] != ""


def test_a_rising_listing_does_not_pass_a_file_that_did_not_land(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rising, "OVERLAP", 0)
    for number in range(6):
        store.put(f"in/{number}.csv", f"a\n{number}\n" if number != 2 else "")
    ledger = Ledger()
    steps = read_all(files(store, relist=24, batch=2), "in", ledger=ledger)
    assert steps[-1].end["after"] == "in/1.csv"
    store.put("in/2.csv", "a\n2\n")
    steps = read_all(files(store, relist=24, batch=2), "in", start=steps[-1].end, ledger=ledger)
    assert [item.name for step in steps for item in step.files] == ["s3://bucket/in/2.csv"]
    assert steps[-1].end["after"] == "in/5.csv"
