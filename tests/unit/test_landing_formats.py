"""Formats that their source knows: decoded frames, and delimited text in which NULL is no empty text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from headrace.core import Batch, Frame, Landed, Position, RawInput, Reading
from headrace.engines.duckdb.staging import decoded
from headrace.engines.duckdb.staging.stage import Staged, stage
from headrace.errors import DataError
from headrace.run.land import land
from headrace.run.report import silent
from headrace.sources.raw import delimited, known
from headrace.store.records import LandLog
from headrace.store.storage import LocalStorage


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def staged(
    con: duckdb.DuckDBPyConnection, path: Path, form: Mapping[str, Any], names: Sequence[str]
) -> Staged:
    landed = Landed("k", path.name, path.stat().st_size, "", None, form, arrived="2026-01-01T00:00:00Z")
    inputs = [RawInput("pg", [(1, landed, path)])]
    return stage(con, inputs, {name: [name] for name in names}, scratch=path.parent / "scratch")


def landed(content: bytes, tmp_path: Path) -> tuple[Path, Mapping[str, Any]]:
    raw = delimited("rows.csv", content, more={"nulls": "unquoted"})
    inspector = raw.inspector()
    with raw.open() as stream:
        inspector.feed(stream.read())
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    return path, inspector.result()


@pytest.mark.parametrize("broken", [False, True], ids=["fast", "record by record"])
def test_null_is_what_has_no_quotes(con: duckdb.DuckDBPyConnection, tmp_path: Path, broken: bool) -> None:
    content = b'a,b\n"1",\n"2",""\n"3","x\ny"\n,"NULL"\n'
    if broken:
        content += b'"4","never closed\n'
    path, form = landed(content, tmp_path)
    found = staged(con, path, form, ["a", "b"])
    rows = con.execute(f"SELECT a, b, _line FROM {found.relation} ORDER BY _line").fetchall()
    assert rows == [("1", None, 2), ("2", "", 3), ("3", "x\ny", 4), (None, "NULL", 6)]
    assert found.records == {"k": 5 if broken else 4}


def decode(path: Path, form: Mapping[str, Any]) -> tuple[Sequence[str], Iterator[Frame]]:
    assert form["type"] == "wire"
    if path.read_bytes() != b"good":
        raise DataError(f"{path.name} is not good")
    first = pa.table({"id": ["1", "2"], "_op": ["c", "c"]})
    return ["id", "_op"], iter([first, pa.table({"id": [None], "_op": ["d"]})])


def test_a_connector_brings_its_decoder(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded, "decoder", {"wire": decode}.get)
    path = tmp_path / "public.orders-1"
    path.write_bytes(b"good")
    found = staged(con, path, {"type": "wire"}, ["id", "_op", "gone"])
    rows = con.execute(f"SELECT id, _op, gone, _line FROM {found.relation} ORDER BY _line").fetchall()
    assert rows == [("1", "c", None, 1), ("2", "c", None, 2), (None, "d", None, 3)]
    path.write_bytes(b"bad")
    for kind, reason in (("wire", "is not good"), ("unheard", "nothing that is installed decodes it")):
        found = staged(con, path, {"type": kind}, ["id"])
        [(raw, rule)] = con.execute(f"SELECT _raw, _rule FROM {found.rejects}").fetchall()
        assert reason in raw
        assert rule == "file.unreadable"
        assert found.records == {"k": 1}


def test_known_bytes_say_what_they_are() -> None:
    raw = known("page-1", b"[1, 2]", {"type": "json"}, table="orders")
    assert (raw.size, raw.table, raw.inspector().result()) == (6, "orders", {"type": "json"})
    with raw.open() as stream:
        assert stream.read() == b"[1, 2]"


class Events:
    """A source of two files: one of records, one that was a file before."""

    def streams(self) -> Sequence[str]:
        return ["all"]

    def read(self, _stream: str, start: Position | None, _ctx: Reading) -> Iterator[Batch]:
        if start is None:
            event = known("events/1", b"{}\n", {"type": "jsonl"})
            yield Batch([event, replace(event, name="given.jsonl", records=False)], {"read": 1})


class NoCache:
    def signatures(self, _stream: str) -> Mapping[str, Any]:
        return {}

    def remember(self, _stream: str, _seen: Mapping[str, Any]) -> None:
        raise AssertionError("nothing was read again")


def test_records_lie_in_a_folder_for_each_hour(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    before = datetime.now(UTC)
    log = LandLog(storage, "shop")
    land(Events(), "shop", log, NoCache(), silent)
    after = datetime.now(UTC)
    found = {item.name: item.key for item in log.newest().values()}
    hours = {f"bronze/shop/{moment:year=%Y/month=%m/day=%d/hour=%H}/" for moment in (before, after)}
    assert any(found["events/1"].startswith(hour) for hour in hours)
    assert "hour=" not in found["given.jsonl"]
    assert storage.read(found["events/1"]) == b"{}\n"
