"""Tables by SQL, from real databases to silver: exact values, rows that move between chunks, rows that go."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mariadb_server import MariaDB
from projects import go, rows
from services import Database

from headrace.errors import ConfigError
from headrace.sources.sql import Sql
from headrace.testing.source import Ledger, check_source

PIPELINE = """
name: shop
sources:
  shop: {type: sql, url: "sqlite:///shop.db", chunk: 10, tables: [orders, people]}
tables:
  orders:
    from: shop.orders
    keys: [id]
    contract:
      columns: {id: {type: integer, required: true}, amount: {type: "decimal(10,2)"}, note: {type: text}}
  people:
    from: shop.people
    keys: [id]
    contract: {columns: {id: {type: integer, required: true}, name: {type: text}}}
"""


def landed(source: Sql) -> list[dict[str, Any]]:
    found = []
    for batch in source.read("db", None, Ledger()):
        for file in batch.data if batch else ():
            with file.open() as stream:
                found += [json.loads(line) for line in stream.read().splitlines()]
    return found


def source(url: str, **settings: Any) -> Sql:
    return Sql.model_validate({"name": "db", "root": "/tmp", "url": url, **settings})


def lite(root: Path, *statements: str) -> None:
    with closing(sqlite3.connect(root / "shop.db")) as con:
        for statement in statements:
            con.execute(statement)
        con.commit()


def values(root: Path, table: str, *names: str) -> list[tuple[Any, ...]]:
    import duckdb
    from deltalake import DeltaTable

    files = DeltaTable(str(root / "lake" / "silver" / table)).file_uris()
    with duckdb.connect() as con:
        query = f"select {', '.join(names)} from read_parquet(?, union_by_name=true) order by all"
        return con.execute(query, [files]).fetchall() if files else []


def test_a_whole_table_is_mirrored_through_inserts_before_it_and_deletes(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    lite(
        tmp_path,
        "create table orders (id integer primary key, amount text, note text)",
        "create table people (id integer primary key, name text)",
        "insert into people values (1, 'Ann')",
    )
    lite(tmp_path, *(f"insert into orders values ({n}, '{n}.50', 'n{n}')" for n in range(100, 135)))
    assert go(tmp_path).status == "success"
    assert [row[0] for row in values(tmp_path, "orders", "id")] == list(range(100, 135))
    assert values(tmp_path, "people", "id", "name") == [(1, "Ann")]
    before = rows(tmp_path, "silver.orders")
    lands = sorted((tmp_path / "lake/_headrace/land/shop").iterdir())
    assert go(tmp_path).status == "success"
    assert rows(tmp_path, "silver.orders") == before
    assert sorted((tmp_path / "lake/_headrace/land/shop").iterdir()) == lands  # no news writes nothing
    lite(
        tmp_path,
        "insert into orders values (1, '0.01', null), (2, '0.02', '')",  # every later chunk shifts
        "delete from orders where id between 110 and 125",
        "update orders set amount = '7' where id = 134",
    )
    assert go(tmp_path).status == "success"
    wanted = [1, 2, *range(100, 110), *range(126, 135)]
    assert [row[0] for row in values(tmp_path, "orders", "id")] == wanted
    amounts = values(tmp_path, "orders", "id", "cast(amount as varchar)")
    assert amounts[:2] == [(1, "0.01"), (2, "0.02")]
    assert str(values(tmp_path, "orders", "id", "amount")[-1][1]) == "7.00"


def test_postgresql(database: Database) -> None:
    url = database.dsn.replace("postgresql://", "postgresql+psycopg://")
    database.sql(
        'create schema "Odd Schema"',
        'create table "Odd Schema"."Or""der" (id bigint, part int, amount numeric(38, 9), at timestamptz, '
        "data bytea, doc jsonb, tags text[], primary key (part, id))",
        'insert into "Odd Schema"."Or""der" select n, n % 3, n + 0.123456789, '
        "timestamptz '2026-01-01 00:00:00+00' + n * interval '1 second', '\\x00ff', '{\"a\": [1]}', "
        "array['x', null] from generate_series(1, 50) n",
    )
    tables = {"orders": {"table": 'Odd Schema.Or"der'}}
    found = landed(source(url, tables=tables, chunk=7))
    assert sorted(row["id"] for row in found) == list(range(1, 51))
    first = next(row for row in found if row["id"] == 1)
    assert (first["amount"], first["data"], first["doc"], first["tags"]) == (
        "1.123456789", "00ff", {"a": [1]}, ["x", None],
    )  # fmt: skip
    assert first["at"].startswith("2026-01-01 00:00:01")
    marked = {"orders": {**tables["orders"], "watermark": "at", "overlap": 10}}
    assert len(landed(source(url, tables=marked, chunk=7))) == 50
    for settings in (tables, marked):
        assert check_source(lambda: source(url, tables=settings, chunk=20)) >= 3  # noqa: B023
    with pytest.raises(ConfigError, match="no table"):
        landed(source(url, tables=["nowhere"]))


def test_mariadb(mariadb: MariaDB) -> None:
    name = mariadb.database()
    mariadb.sql(
        name,
        "create table `or``der` (id bigint unsigned primary key, amount decimal(30, 10), at datetime(6), "
        "data blob, note text, span time)",
        "insert into `or``der` values (18446744073709551615, 1.5, '2026-01-02 03:04:05.000006', x'00ff', "
        "null, '-01:30:00'), (1, -0.0000000001, '2026-01-01 00:00:00', '', '', '838:59:59')",
    )
    url = mariadb.dsn(name).replace("mysql://", "mysql+pymysql://").replace("mariadb://", "mysql+pymysql://")
    found = landed(source(url, tables={"orders": {"table": "or`der"}}, chunk=1))
    assert [row["id"] for row in found] == [1, 18446744073709551615]
    assert found[0]["amount"] == "-0.0000000001"
    assert (found[0]["note"], found[1]["note"], found[1]["data"]) == ("", None, "00ff")
    assert found[1]["at"] == "2026-01-02 03:04:05.000006"
    marked = {"orders": {"table": "or`der", "watermark": "at"}}
    assert check_source(lambda: source(url, tables=marked, chunk=1)) == 2
