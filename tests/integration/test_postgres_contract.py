"""What a contract makes of PostgreSQL's values: exactly the value, or quarantine, by snapshot and change."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable

pytest.importorskip("psycopg")
pytest.importorskip("numpy")

import projects
from services import Database

TAKEN: dict[tuple[str, str], dict[str, Any]] = {
    ("bigint", "bigint"): {"-9223372036854775808": -(2**63), "9223372036854775807": 2**63 - 1},
    ("numeric", "decimal(20,5)"): {"0.00": "0.00000", "-123456789012345.67891": "-123456789012345.67891"},
    ("numeric", "text"): {"NaN": "NaN", "Infinity": "Infinity", "0.00": "0.00"},
    ("double precision", "double"): {"5e-324": 5e-324, "1.7976931348623157e+308": 1.7976931348623157e308},
    ("money", "decimal(20,2)"): {"-$1,234.50": "-1234.50", "$92,233,720.07": "92233720.07"},
    ("boolean", "boolean"): {"t": True, "f": False},
    ("date", "date"): {"2024-02-29": "2024-02-29", "0001-01-01": "0001-01-01"},
    ("date", "text"): {"infinity": "infinity", "0044-03-15 BC": "0044-03-15 BC"},
    ("timestamp", "timestamp"): {"2026-11-20 22:17:47.123456": "2026-11-20 22:17:47.123456+00:00"},
    ("timestamptz", "timestamp"): {"2026-03-29 03:30:00+02": "2026-03-29 01:30:00+00:00"},
    ("text", "text"): {"": "", "NULL": "NULL", "{1,2}": "{1,2}", '{"a": 1}': '{"a": 1}', " x\r\n": " x\r\n"},
    ("integer[]", "text"): {"{1,NULL,3}": "{1,NULL,3}"},
    ("jsonb", "json"): {'{"a": [1.10, null]}': '{"a": [1.10, null]}', "null": "null"},
    ("json", "json"): {' {"a":1,  "a":2}': '{"a":1,  "a":2}'},
    ("bytea", "text"): {"\\x00ff": "\\x00ff"},
    ("uuid", "text"): {"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
}  # fmt: skip
REFUSED: dict[tuple[str, str], list[str]] = {
    ("numeric", "decimal(20,5)"): ["NaN", "Infinity", "-Infinity", "0.000001", "1234567890123456.0"],
    ("numeric", "bigint"): ["1.5", "9223372036854775808"],
    ("double precision", "double"): ["NaN", "Infinity", "-Infinity"],
    ("date", "date"): ["infinity", "-infinity", "0044-03-15 BC", "5874897-12-31"],
    ("timestamp", "timestamp"): ["infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"],
    ("timestamptz", "timestamp"): ["-infinity", "4713-01-01 00:00:00+00 BC"],
}
KINDS = [*dict.fromkeys([*TAKEN, *REFUSED])]


def project(root: Path, database: Database) -> Path:
    root.mkdir()
    formats = {"money": ", formats: [currency, thousands]"}
    columns = "".join(
        f'        c{i}: {{type: "{type}"{formats.get(kind, "")}}}\n' for i, (kind, type) in enumerate(KINDS)
    )
    (root / "pipeline.yml").write_text(
        f"""
name: types
sources:
  pg: {{type: postgres, dsn: "{database.dsn}", tables: [kinds]}}
tables:
  kinds:
    from: pg.kinds
    keys: [id]
    contract:
      nulls: []
      columns:
        id: {{type: integer, required: true}}
{columns}"""
    )
    return root


def found(root: Path, table: str) -> list[dict[str, Any]]:
    files = DeltaTable(str(root / "lake" / table)).file_uris()
    with duckdb.connect() as con:
        con.execute("set timezone = 'UTC'")
        query = "select * from read_parquet(?, union_by_name = true) order by all"
        cursor = con.execute(query, [files])
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_values_are_taken_exactly_or_quarantined(database: Database, tmp_path: Path) -> None:
    columns = ", ".join(f"c{i} {kind}" for i, (kind, _) in enumerate(KINDS))
    database.sql(f"create table kinds (id integer primary key, {columns})")
    taken: dict[int, tuple[str, Any]] = {}
    refused: dict[int, tuple[str, str]] = {}

    def insert(number: int) -> None:
        for place, kind in enumerate(KINDS):
            for value in [*TAKEN.get(kind, {}), *REFUSED.get(kind, [])]:
                number += 1
                database.sql(f"insert into kinds (id, c{place}) values ({number}, '{value}')")
                if value in TAKEN.get(kind, {}):
                    taken[number] = (f"c{place}", TAKEN[kind][value])
                else:
                    refused[number] = (f"c{place}", value)

    insert(0)
    root = project(tmp_path / "project", database)
    projects.go(root)
    insert(1000)
    projects.go(root)

    cells = [f"c{i}" for i in range(len(KINDS))]
    silver = {
        row["id"]: {c: row[c] for c in cells if row[c] is not None} for row in found(root, "silver/kinds")
    }
    assert set(silver) == set(taken)
    for number, (column, value) in taken.items():
        (only,) = silver[number].items()
        if isinstance(only[1], (Decimal, date)):
            only = (only[0], str(only[1]))
        assert only == (column, value), number
    quarantined = {}
    for row in found(root, "quarantine/kinds"):
        fields = json.loads(row["fields"])
        (cell,) = [(c, fields[c]) for c in cells if fields.get(c) is not None]
        assert row["rules"] == f"{cell[0]}.type"
        quarantined[int(fields["id"])] = cell
    assert quarantined == refused
