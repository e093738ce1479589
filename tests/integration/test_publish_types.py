"""Every contract type, with its odd values, is in a target exactly what it is in silver."""

from __future__ import annotations

import json
from pathlib import Path

from projects import go, make
from services import Database
from targets import Place, in_postgres, publishing, silver
from targets import place as place

PIPELINE = """
name: shop
sources:
  orders: {type: files, path: data/*.jsonl}
tables:
  orders:
    from: orders
    keys: ["order"]
    contract:
      columns:
        "order": {type: integer}
        flag: {type: boolean}
        small: {type: integer}
        big: {type: bigint}
        exact: {type: "decimal(38,10)"}
        whole: {type: "decimal(38,0)"}
        real: {type: double}
        day: {type: date}
        moment: {type: timestamp}
        "select": {type: text}
        document: {type: json}
"""
EXTREMES = [
    {},
    {"flag": True, "small": 2**31 - 1, "big": 2**63 - 1, "exact": "1234567890123456789012345678.0123456789"},
    {"flag": False, "small": -(2**31), "big": -(2**63), "exact": "-0.0000000001", "whole": "9" * 38},
    {"real": "1e308", "day": "0001-01-01", "moment": "0001-01-01T00:00:00.000001Z", "whole": "-" + "9" * 38},
    {"real": "-5e-324", "day": "9999-12-31", "moment": "9999-12-31T23:59:59.999999Z"},
    {"real": 0.1 + 0.2, "moment": "2026-03-29T01:30:00+01:00"},
    {"real": "Infinity"},
    {"real": "-Infinity"},
    {"real": "NaN"},
    {"select": "grüße 🌍 \u202e עברית a\u0301"},
    {"select": 'it\'s "quoted", with, commas; and \\ backslashes \\N \\. \\x00'},
    {"select": "two\nlines\r\nand\ttabs\r"},
    {"select": "line\n\\.\nend of data?"},
    {"select": " leading and trailing "},
    {"select": "x" * 100_000},
    {"select": "NULL"},
    {"document": {"b": [1, 2.50, None, "ü"], "a": {"nested": '"\\'}}},
    {"document": [1e2, True]},
]


def lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps({"order": n, **row}) + "\n" for n, row in enumerate(rows))


def test_every_type(tmp_path: Path, place: Place) -> None:
    root = make(tmp_path / "p", {}, publishing(place, PIPELINE))
    (root / "data/a.jsonl").write_text(lines(EXTREMES))
    report = go(root)
    assert report.status == "success", report
    assert report.tables[0].ledger.loaded + report.tables[0].ledger.quarantined == len(EXTREMES)
    assert report.tables[0].ledger.loaded >= len(EXTREMES) - 3, "only what is no number may be refused"
    assert place.rows("orders") == silver(root, "orders")
    (root / "data/b.jsonl").write_text(lines([*EXTREMES[::-1], {"real": 1}]))
    report = go(root)
    assert report.status == "success", report
    assert report.loads[0].mode == "merge"
    assert report.loads[0].updated > 10
    assert place.rows("orders") == silver(root, "orders")
    _, kinds = place.ask(
        "select data_type from information_schema.columns where table_name = 'orders' "
        "order by ordinal_position"
    )
    postgres = "integer,boolean,integer,bigint,numeric,numeric,double precision,date,timestamp with time zone"
    duckdb = (
        "INTEGER,BOOLEAN,INTEGER,BIGINT,DECIMAL(38#10),DECIMAL(38#0),DOUBLE,DATE,TIMESTAMP WITH TIME ZONE"
    )
    expected = {"postgres": f"{postgres},text,json", "duckdb": f"{duckdb},VARCHAR,JSON"}[place.kind]
    assert [kind for (kind,) in kinds[:11]] == [kind.replace("#", ",") for kind in expected.split(",")]


def test_nul_is_refused_by_postgres_and_named(tmp_path: Path, database: Database) -> None:
    place = in_postgres(database)
    root = make(tmp_path / "p", {}, publishing(place, PIPELINE))
    (root / "data/a.jsonl").write_text(lines([{"select": "fine"}]))
    assert go(root).status == "success"
    (root / "data/b.jsonl").write_text(lines([{}, {"select": "a\x00b"}]))
    report = go(root)
    assert report.tables[0].ledger.loaded == 2, "silver has such texts"
    assert report.status == "incomplete"
    told = str(report.loads[0].error)
    assert "column `select` of 1 rows hold the character NUL" in told
    assert report.loads[0].error_class == "data"
    assert len(place.rows("orders")) == 1, "nothing of it is there"
