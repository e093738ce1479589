"""Tables of SQLite and DuckDB land exactly, by keys, once; with watermarks nothing late is missed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pytest
from pydantic import ValidationError

from headrace.core import Batch
from headrace.errors import ConfigError, HeadraceError
from headrace.sources.sql import Sql
from headrace.sources.sql_rows import exact, given, kept, line
from headrace.testing.source import Ledger, check_source

ODD = 'odd "name"; drop table t; --'


class Shop:
    """A database with a table of orders, in SQLite or DuckDB."""

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.kind = root, kind
        self.path = root / f"shop.{kind}"

    def run(self, *statements: str) -> None:
        if self.kind == "duckdb":
            with closing(duckdb.connect(str(self.path))) as con:
                for statement in statements:
                    con.execute(statement)
            return
        with closing(sqlite3.connect(self.path)) as lite:
            for statement in statements:
                lite.execute(statement)
            lite.commit()

    def source(self, **settings: Any) -> Sql:
        return Sql.model_validate(
            {
                "name": "shop",
                "root": str(self.root),
                "url": f"{self.kind}:///shop.{self.kind}",
                "tables": ["orders"],
                **settings,
            }
        )


@pytest.fixture(params=["sqlite", "duckdb"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    made = Shop(tmp_path, request.param)
    made.run("create table orders (id integer primary key, name text, seq integer)")
    return made


class Reader:
    """Reads as a lander does, with positions that go through JSON."""

    def __init__(self) -> None:
        self.ledger, self.position = Ledger(), None
        self.commits = 0

    def run(self, source: Sql, most: int = 1000) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        reader = source.read("shop", self.position, self.ledger)
        for batch in reader:
            assert isinstance(batch, Batch)
            for file in batch.data:
                with file.open() as stream:
                    data = stream.read()
                found += [json.loads(text) for text in data.splitlines()]
                self.ledger.landed[file.name] = _landed(file, data)
            self.position = json.loads(json.dumps(batch.end))
            self.commits += 1
            if self.commits == most:
                break
        reader.close()  # type: ignore[attr-defined]
        return found


def _landed(file: Any, data: bytes) -> Any:
    import hashlib

    from headrace.core import Landed

    return Landed(file.name, file.name, len(data), hashlib.sha256(data).hexdigest(), None, {})


def fill(shop: Shop, rows: range, at: int = 0) -> None:
    values = ", ".join(f"({n}, 'n{n}', {n + at})" for n in rows)
    shop.run(f"insert into orders values {values}")


def test_a_whole_table_lands_once_and_then_only_chunks_that_differ(shop: Shop) -> None:
    fill(shop, range(25))
    reader = Reader()
    assert [row["id"] for row in reader.run(shop.source(chunk=10))] == list(range(25))
    assert sorted(reader.ledger.landed) == [f"orders/00000{n}" for n in (1, 2, 3)]
    commits = reader.commits
    assert reader.run(shop.source(chunk=10)) == []
    assert reader.commits <= commits + 1  # only the end, which the lander knows already
    shop.run("update orders set name = 'new' where id = 12", "delete from orders where id > 19")
    changed = reader.run(shop.source(chunk=10))
    assert [row["id"] for row in changed] == list(range(10, 20))
    assert reader.ledger.landed["orders/000003"].bytes == 0  # its rows are gone from the table
    assert reader.run(shop.source(chunk=10)) == []


def test_a_killed_read_goes_on_with_the_next_chunk(shop: Shop) -> None:
    fill(shop, range(25))
    reader = Reader()
    assert [row["id"] for row in reader.run(shop.source(chunk=10), most=1)] == list(range(10))
    assert [row["id"] for row in reader.run(shop.source(chunk=10))] == list(range(10, 25))


@pytest.mark.parametrize(
    "settings", [{}, {"chunk": 3}, {"chunk": 4, "tables": {"orders": {"watermark": "seq"}}}]
)
def test_conformance(shop: Shop, settings: dict[str, Any]) -> None:
    fill(shop, range(10))
    assert check_source(lambda: shop.source(**settings)) >= 1


def test_a_watermark_reads_on_and_state_does_not_grow(shop: Shop) -> None:
    tables = {"orders": {"watermark": "seq"}}
    fill(shop, range(10))
    shop.run("insert into orders values (990, 'never', null)")
    reader = Reader()
    assert len(reader.run(shop.source(tables=tables, chunk=4))) == 10
    size = len(json.dumps(reader.position))
    assert reader.run(shop.source(tables=tables)) == []
    fill(shop, range(10, 300))
    assert [row["id"] for row in reader.run(shop.source(tables=tables))] == list(range(10, 300))
    assert len(json.dumps(reader.position)) <= size + 6


def test_rows_with_the_same_watermark_as_the_last_one_are_not_missed(shop: Shop) -> None:
    tables = {"orders": {"watermark": "seq"}}
    shop.run("insert into orders values (5, 'a', 7), (6, 'b', 7)")
    reader = Reader()
    assert len(reader.run(shop.source(tables=tables))) == 2
    shop.run("insert into orders values (2, 'late', 7)")
    assert [row["id"] for row in reader.run(shop.source(tables=tables))] == [2, 5, 6]
    shop.run("update orders set name = 'changed' where id = 5")
    assert {"id": 5, "name": "changed", "seq": 7} in reader.run(shop.source(tables=tables))
    assert reader.run(shop.source(tables=tables)) == []


def test_an_overlap_catches_what_was_committed_late(shop: Shop) -> None:
    tables = {"orders": {"watermark": "seq", "overlap": 5}}
    shop.run("insert into orders values (1, 'a', 90), (2, 'b', 100)")
    reader = Reader()
    assert len(reader.run(shop.source(tables=tables))) == 2
    shop.run("insert into orders values (3, 'late', 95), (4, 'too late', 94)")
    assert [row["id"] for row in reader.run(shop.source(tables=tables))] == [3, 2]
    assert reader.run(shop.source(tables=tables)) == []
    shop.run("insert into orders values (9, 'next', 101)")
    assert [row["id"] for row in reader.run(shop.source(tables=tables))] == [9]


def test_times_as_watermarks(shop: Shop) -> None:
    kind = "text" if shop.kind == "sqlite" else "timestamp"
    shop.run(f"create table t (id integer primary key, seq {kind})")
    shop.run("insert into t values (1, '2026-01-01 00:00:00'), (2, '2026-01-01 00:10:00')")
    tables = {"t": {"watermark": "seq", "overlap": 60}}
    reader = Reader()
    found = reader.run(shop.source(tables=tables))
    assert [row["seq"] for row in found] == ["2026-01-01 00:00:00", "2026-01-01 00:10:00"]
    shop.run("insert into t values (3, '2026-01-01 00:09:30'), (4, '2026-01-01 00:10:01')")
    assert [row["id"] for row in reader.run(shop.source(tables=tables))] == [3, 2, 4]
    assert reader.run(shop.source(tables=tables)) == []


def test_names_are_quoted_and_never_read_as_sql(shop: Shop) -> None:
    quoted = '"' + ODD.replace('"', '""') + '"'
    shop.run(f'create table {quoted} ({quoted} integer primary key, "select" text, "a.b%s:c?" text)')
    shop.run(f"insert into {quoted} values (1, 'x', 'y'), (2, null, '')")
    reader = Reader()
    found = reader.run(shop.source(tables={"t": {"table": ODD}}, chunk=1))
    assert found == [
        {ODD: 1, "select": "x", "a.b%s:c?": "y"},
        {ODD: 2, "select": None, "a.b%s:c?": ""},
    ]


def test_several_tables_are_told_apart_and_one_without_a_key_lands_whole(shop: Shop) -> None:
    fill(shop, range(3))
    shop.run("create table notes (text text)", "insert into notes values ('b'), ('a')")
    [first, second] = [
        file
        for batch in shop.source(tables=["orders", "notes"]).read("shop", None, Ledger())
        if batch
        for file in batch.data
    ]
    assert (first.table, second.table) == ("orders", "notes")
    assert sorted(second.open().read().splitlines()) == [b'{"text": "a"}', b'{"text": "b"}']


def test_duckdb_types_are_exact(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "duckdb")
    shop.run(
        "create table orders as select 1 as id, 12345678901234567890.123456789::decimal(38,9) as d, "
        "170141183460469231731687303715884105727::hugeint as h, 0.1::double as f, 'nan'::double as n, "
        "'infinity'::double as i, timestamp '2026-01-02 03:04:05.000006' as t, date '0001-01-01' as day, "
        "'\\x00\\xff'::blob as b, true as yes, interval 90 minutes as span, [1, null] as list, "
        "{'a': 1} as struct, uuid '00000000-0000-0000-0000-000000000001' as u"
    )
    [row] = Reader().run(shop.source())
    assert row["d"] == "12345678901234567890.123456789"
    assert row["h"] == 170141183460469231731687303715884105727
    assert (row["f"], row["n"], row["i"]) == (0.1, "NaN", "Infinity")
    assert (row["t"], row["day"]) == ("2026-01-02 03:04:05.000006", "0001-01-01")
    assert (row["b"], row["yes"], row["list"]) == ("00ff", True, [1, None])
    assert row["struct"] == {"a": 1}
    assert row["u"] == "00000000-0000-0000-0000-000000000001"
    assert row["span"] == "5400000000 microseconds"


@pytest.mark.parametrize(
    "value",
    [
        Decimal("1.50"),
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        datetime(2026, 1, 2).date(),
        UUID(int=7),
        b"\x00\xff",
        "text",
        12345678901234567890,
        1.5,
    ],
)
def test_keys_survive_json(value: Any) -> None:
    again = given(json.loads(json.dumps(kept(value))))
    assert (again, type(again)) == (value, type(value))


def test_odd_values() -> None:
    assert line(["a", "b"], [float("inf"), "\ud800"]) == b'{"a": "Infinity", "b": "\\ud800"}\n'
    assert exact(Decimal("NaN")) == "NaN"
    with pytest.raises(ConfigError, match="are no key"):
        kept([1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tables": ["nowhere"]}, "no table `nowhere`"),
        ({"tables": {"orders": {"columns": ["id", "nope"]}}}, "no column `nope`"),
        ({"tables": {"notes": {"watermark": "seq"}}}, "no primary key"),
        ({"url": "sqlite:///away.db"}, "no database file"),
        ({"url": "nonsense"}, "cannot be read"),
        ({"url": "oracle+nothing://u:hunter2@h/d"}, "driver"),
    ],
)
def test_mistakes_are_named(shop: Shop, settings: dict[str, Any], message: str) -> None:
    shop.run("create table notes (seq integer)")
    with pytest.raises(HeadraceError, match=message) as caught:
        Reader().run(shop.source(**settings))
    assert "hunter2" not in str(caught.value)


def test_settings_must_fit() -> None:
    base = {"name": "x", "root": "/tmp", "url": "sqlite:///x"}
    for tables in ({}, {"a": {"mode": "watermark"}}, {"a": {"overlap": 3}}, {"a": {"watermarks": "x"}}):
        with pytest.raises(ValidationError):
            Sql.model_validate({**base, "tables": tables})
