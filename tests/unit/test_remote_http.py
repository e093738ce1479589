"""Files of web servers land as those of a folder do; against a real server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from places import Server, line, web

from headrace.core import Batch
from headrace.errors import ConfigError, HeadraceError, TransientError
from headrace.sources.files import Files
from headrace.testing.source import Ledger, check_source, read_all

pytest.importorskip("httpx")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with web(tmp_path) as served:
        yield served


def files(server: Server, path: str | list[str] = "/in/*.csv", port: int = 0, **settings: Any) -> Files:
    scheme = "https" if server.certificate else "http"
    paths = [path] if isinstance(path, str) else path
    urls = [f"{scheme}://127.0.0.1:{port or server.port}{each}" for each in paths]
    access = {"allow_private": True, **settings.pop("access", {})}
    return Files.model_validate({"name": "in", "root": "/tmp", "path": urls, "access": access, **settings})


def names(source: Files, ledger: Ledger | None = None) -> list[str]:
    steps = read_all(source, "in", ledger=ledger)
    return [item.name.split("/", 3)[3] for step in steps for item in step.files]


def test_single_urls_and_index_pages(server: Server) -> None:
    for name in ("in/b.csv", "in/a b+ü#1.csv", "in/c.txt", "in/deep/d.csv", "in/.hidden.csv", "up.csv"):
        server.put(name, f"a\n{name}\n")
    ledger = Ledger()
    assert names(files(server), ledger) == ["in/a%20b%2B%C3%BC%231.csv", "in/b.csv"]
    assert names(files(server), ledger) == []
    server.put("in/b.csv", "a\nin/b.CSV\n", age=20)
    assert names(files(server, "/in/**/*.csv"), ledger) == ["in/b.csv", "in/deep/d.csv"]
    assert names(files(server, ["/up.csv", "/in/b.csv"])) == ["in/b.csv", "up.csv"]
    with pytest.raises(ConfigError, match="does not exist"):
        names(files(server, "/nowhere.csv"))
    with pytest.raises(ConfigError, match="is a folder"):
        names(files(server, "/in/"))


def test_an_index_leads_nowhere_else(server: Server) -> None:
    server.put("in/a.csv")
    server.put("up.csv")
    server.put("in/index.html", (
        '<a href="a.csv">a</a> <a href="../up.csv">up</a> <a href="/up.csv">up</a> '
        '<a href="http://127.0.0.1:1/in/b.csv">b</a> <a href="//169.254.169.254/in/c.csv">c</a> '
        '<a href="%2e%2e%2fup.csv">d</a> <a href="x/../../up.csv">e</a> <a>no</a> <a href="#">f</a>'
    ))  # fmt: skip
    assert names(files(server, "/in/**")) == ["in/a.csv"]


def test_private_addresses_need_leave(server: Server) -> None:
    server.put("in/a.csv")
    with pytest.raises(HeadraceError, match=r"127\.0\.0\.1"):
        names(files(server, "/in/a.csv", access={"allow_private": False}))


def test_a_file_that_changes_under_the_reader_does_not_land(server: Server) -> None:
    server.put("in/a.csv")
    server.put("in/b.csv")
    reader = files(server).read("in", None, Ledger())
    batch = next(reader)
    assert isinstance(batch, Batch)
    with batch.data[0].open() as stream:
        stream.read()
        server.put("in/a.csv", age=10)
    with pytest.raises(TransientError, match="changed"):
        batch.data[0].verify()
    server.put("in/b.csv", age=5)
    with pytest.raises(TransientError, match="changed"):
        batch.data[1].open().read()
    reader.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("clean", [False, True])
def test_a_transfer_that_breaks_goes_on_where_it_broke(server: Server, clean: bool) -> None:
    text = "a,b\n" + "1,2\n" * 500_000
    server.put("in/a.csv", text)
    with line(server.port, cuts=[300_000, 400_000], clean=clean) as wire:
        ledger = Ledger()
        assert len(names(files(server, "/in/a.csv", port=wire.port), ledger)) == 1
    assert next(iter(ledger.landed.values())).bytes == len(text)
    with line(server.port, cuts=[300_000] * 20, clean=clean) as wire, pytest.raises(TransientError):
        names(files(server, "/in/a.csv", port=wire.port))


def test_without_tags_a_file_is_read_again_and_lands_only_if_it_differs(tmp_path: Path) -> None:
    with web(tmp_path, tags=False) as server:
        server.put("in/a.csv")
        ledger = Ledger()
        assert names(files(server), ledger) == ["in/a.csv"]
        assert names(files(server), ledger) == []
        server.put("in/a.csv", "a,b\n1,3\n")
        assert names(files(server), ledger) == ["in/a.csv"]


def test_certificates_are_verified(tmp_path: Path) -> None:
    with ExitStack() as held:
        server = held.enter_context(web(tmp_path, tls=True))
        server.put("in/a.csv")
        with pytest.raises(HeadraceError, match="certificate"):
            names(files(server))
        assert names(files(server, access={"ca": str(server.certificate)})) == ["in/a.csv"]


def test_secrets_of_a_query_are_no_part_of_a_name(server: Server) -> None:
    server.put("in/a.csv")
    [step] = read_all(files(server, "/in/a.csv?token=hunter2&day=7"), "in")
    assert "hunter2" not in step.files[0].name
    assert step.files[0].name.endswith("day=7")


@pytest.mark.parametrize("settings", [{}, {"batch": 2}, {"order": "mtime", "batch": 3}])
def test_conformance(server: Server, settings: dict[str, Any]) -> None:
    for number in range(5):
        server.put(f"in/{number}.csv", f"a,b\n{number},2\n", age=60 + number)
    assert check_source(lambda: files(server, **settings)) >= 1
