"""PostgreSQL's types: the value of a snapshot is that of a change, and both are what is expected, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

pytest.importorskip("psycopg")
pytest.importorskip("numpy")

from services import Database

from headrace.core import Landed, RawInput
from headrace.engines.duckdb.staging.stage import stage
from headrace.sources.postgres import Postgres

Value = str | tuple[str, str]
"""A literal that comes back as it is; or (literal, what comes back)."""


@dataclass
class Case:
    name: str
    type: str
    values: list[Value]
    since: int = 12
    """PostgreSQL's version that has it."""


SETUP = """
create extension hstore; create extension citext; create extension ltree; create extension cube;
create extension isn; create type mood as enum ('sad', 'so so', 'très bien');
create domain price as numeric(12, 3) check (value >= 0); create domain code as text;
create type place as (street text, number integer, seen timestamptz);
create type area as (name text, corners place[]);
create type span as range (subtype = text, collation = "C")
"""
CONTROL = "".join(map(chr, range(1, 32)))
CASES = [
    # numbers
    Case("smallint", "smallint", ["-32768", "32767", "0"]),
    Case("integer", "integer", ["-2147483648", "2147483647", ("007", "7")]),
    Case("bigint", "bigint", ["-9223372036854775808", "9223372036854775807"]),
    Case("numeric", "numeric", ["NaN", "0.00", "-0.000000000000000001", "9" * 200 + "." + "1" * 300,
                                ("1e20", "100000000000000000000"), ("1.50e-3", "0.00150")]),
    Case("numeric_infinite", "numeric", [("infinity", "Infinity"), ("-inf", "-Infinity")], 14),
    Case("numeric_10_2", "numeric(10,2)", ["-12345678.90", ("1.005", "1.01"), "NaN"]),
    Case("numeric_rounded", "numeric(5,-2)", [("12345", "12300")], 15),
    Case("real", "real", ["1.1", "NaN", "Infinity", "-Infinity", "1e-37", "3.4028235e+38", "-0", "1e-45"]),
    Case("double", "double precision", ["0.1", "0.30000000000000004", "5e-324", "1.7976931348623157e+308",
                                        "NaN", "-Infinity", "-0",
                                        ("9007199254740993", "9.007199254740992e+15")]),
    Case("money", "money", ["$1,234,567.89", "-$92,233,720,368,547,758.08", "$0.00"]),
    Case("oid", "oid", ["0", "4294967295"]),
    Case("boolean", "boolean", [("true", "t"), ("no", "f")]),
    # texts
    Case("char_5", "char(5)", [("ab", "ab   "), ("", "     "), "é    "]),
    Case("char_1", '"char"', ["a", ""]),
    Case("bpchar", "bpchar", ["a", ""]),
    Case("varchar", "varchar(20)", ["", "x" * 20, "𝄞 clef"]),
    Case("text", "text", ["", "NULL", "null", "\\N", "\\.", '"', '""', "''", "a,b;c\td", "\\x41", "x" * 1900,
                          "line\nline\r\nline\r", " lead and trail ", "\ufeffbom", "e\u0301 é 😀", CONTROL]),
    Case("name", "name", ["pg_class", "n" * 63]),
    Case("citext", "citext", ["MiXeD"]),
    Case("bytea", "bytea", ["\\x", "\\x00ff5c22", ("\\001\\\\", "\\x015c")]),
    # dates and times
    Case("date", "date", ["2024-02-29", "infinity", "-infinity", "0001-01-01", "4713-01-01 BC",
                          "0001-12-31 BC", "10000-01-01", "5874897-12-31"]),
    Case("time", "time", ["00:00:00", "24:00:00", "12:34:56.123456", "23:59:59.9", ("23:59:60", "24:00:00")]),
    Case("time_0", "time(0)", [("12:34:56.5", "12:34:57")]),
    Case("timetz", "timetz", ["12:34:56.5+05:30", "24:00:00-15:59", "00:00:00+00", "10:00:00-03:00:01"]),
    Case("timestamp", "timestamp", ["2026-11-20 22:17:47.123456", "infinity", "-infinity",
                                    "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999",
                                    "0001-01-01 00:00:00", ("2026-01-01", "2026-01-01 00:00:00")]),
    Case("timestamp_3", "timestamp(3)", [("2026-11-20 22:17:47.1235", "2026-11-20 22:17:47.124")]),
    Case("timestamptz", "timestamptz", [("2026-03-29 03:30:00+02", "2026-03-29 01:30:00+00"),
                                        "infinity", "-infinity", "4714-11-24 00:00:00+00 BC",
                                        ("1850-01-01 00:00:00 Europe/Berlin", "1849-12-31 23:06:32+00"),
                                        "294276-12-31 23:59:59.999999+00"]),
    Case("interval", "interval", ["1 year 2 mons -3 days +04:05:06.789", "-1 years", "00:00:00", "1 mon",
                                  ("P1Y2M3DT4H5M6S", "1 year 2 mons 3 days 04:05:06"), "-00:00:00.000001",
                                  "178000000 years", "2562047788:00:54.775807"]),
    Case("interval_day", "interval day to second(2)", [("3 days 04:05:06.789", "3 days 04:05:06.79")]),
    # documents and identifiers
    Case("json", "json", ['{"a":1,  "a" : 2, "n": 1.10}', "null", '"x"', '["\\u00e9"]', " 1"]),
    Case("jsonb", "jsonb", [('{"b":1,"a" : 2, "b": 1.10}', '{"a": 2, "b": 1.10}'), "null", '"x"',
                            ("[1e3, 0.10]", "[1000, 0.10]"), ('"\\u00e9"', '"é"'), "9" * 40]),
    Case("jsonpath", "jsonpath", ['$."a"']),
    Case("uuid", "uuid", [("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")]),
    Case("xml", "xml", ["<a b=\"1\">é<c/>&lt;</a>", "text", "<a/><b/>"]),
    Case("hstore", "hstore", ['"a"=>"1", "b"=>NULL, "c d"=>"\\"q\\""', ""]),
    Case("ltree", "ltree", ["Top.Science.Astronomy", ""]),
    Case("isbn", "isbn", [("9780393040029", "0-393-04002-X")]),
    Case("tsvector", "tsvector", ["'a':1A 'fat':2B,4C 'o''k'", ""]),
    Case("tsquery", "tsquery", ["'fat' & ( 'rat' | !'cat' ) <-> 'x':*A"]),
    # networks
    Case("inet", "inet", ["192.168.0.1/24", "192.168.0.1", "::1", "2001:db8::ff00:42:8329/64",
                          "::ffff:1.2.3.4"]),
    Case("cidr", "cidr", ["10.0.0.0/8", "192.168.0.1/32", "2001:db8::/32"]),
    Case("macaddr", "macaddr", [("08-00-2B-01-02-03", "08:00:2b:01:02:03")]),
    Case("macaddr8", "macaddr8", [("08002b0102030405", "08:00:2b:01:02:03:04:05")]),
    # bits
    Case("bit_1", "bit", ["1", "0"]),
    Case("bit_5", "bit(5)", ["10101"]),
    Case("varbit", "varbit", ["", "0", "101" * 30]),
    # shapes
    Case("point", "point", ["(1,2.5)", "(-0,1e+300)", "(NaN,Infinity)"]),
    Case("line", "line", ["{1,-1,0}"]),
    Case("lseg", "lseg", ["[(0,0),(1,1)]"]),
    Case("box", "box", ["(1,1),(0,0)"]),
    Case("path", "path", ["[(0,0),(1,1)]", "((0,0),(1,1))"]),
    Case("polygon", "polygon", ["((0,0),(1,1),(1,0))"]),
    Case("circle", "circle", ["<(1,2),3.5>"]),
    Case("cube", "cube", ["(1, 2, 3),(4, 5, 6)"]),
    # ranges
    Case("int4range", "int4range", [("[1,10]", "[1,11)"), "empty", "(,5)", "(,)"]),
    Case("int8range", "int8range", ["[-9223372036854775808,9223372036854775807)"]),
    Case("numrange", "numrange", ["(1.10,2.200]", "[NaN,NaN]"]),
    Case("tsrange", "tsrange", ['["2026-01-01 00:00:00","2026-01-02 00:00:00.5")', "[-infinity,infinity]"]),
    Case("tstzrange", "tstzrange", ['["2026-01-01 00:00:00+00",)']),
    Case("daterange", "daterange", [("[2026-01-01,2026-01-31]", "[2026-01-01,2026-02-01)")]),
    Case("textrange", "span", ['["a, b","c""d")', "[a,b]"]),
    Case("int4multirange", "int4multirange", [("{[1,3),[2,5]}", "{[1,6)}"), "{}"], 14),
    Case("nummultirange", "nummultirange", ["{(,1.5],[2.50,3)}"], 14),
    Case("datemultirange", "datemultirange", ["{[2026-01-01,2026-02-01),[2027-01-01,)}"], 14),
    Case("tstzmultirange", "tstzmultirange", ['{["2026-01-01 00:00:00+00",)}'], 14),
    # types of one's own
    Case("enum", "mood", ["sad", "so so", "très bien"]),
    Case("domain", "price", [("1.5", "1.500"), "NaN"]),
    Case("domain_text", "code", ["", "x"]),
    Case("composite", "place", ['("Main, St",5,"2026-01-01 00:00:00+00")', "(,,)", '("",1,)']),
    Case("nested", "area", ['(x,"{""(a,1,)"",""(\\\\""b,c\\\\"",2,)""}")', "(,{})"]),
    # arrays
    Case("integers", "integer[]", ["{1,NULL,-3}", "{}", "{{1,2},{3,NULL}}", "[0:1]={1,2}"]),
    Case("texts", "text[]", ['{"a,b",NULL,"NULL","","\\"q\\"","\\\\",plain,"{x}"," "}', "{}"]),
    Case("numerics", "numeric[]", ["{NaN,1.50,NULL}"]),
    Case("doubles", "double precision[]", ["{0.1,-Infinity,NaN}"]),
    Case("booleans", "boolean[]", ["{t,f,NULL}"]),
    Case("dates", "date[]", ['{2026-01-01,infinity,"0044-03-15 BC"}']),
    Case("moments", "timestamptz[]", ['{"2026-01-01 00:00:00+00",infinity}']),
    Case("intervals", "interval[]", ['{"1 day",00:00:01}']),
    Case("documents", "jsonb[]", ['{"{\\"a\\": 1}",NULL,"null"}']),
    Case("blobs", "bytea[]", ['{"\\\\x00ff",NULL}']),
    Case("uuids", "uuid[]", ["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"]),
    Case("enums", "mood[]", ['{sad,"so so"}']),
    Case("composites", "place[]", ['{"(a,1,)","(\\"b c\\",,)"}']),
    Case("ranges", "int4range[]", ['{"[1,2)",empty}']),
    Case("varchars", "varchar(3)[]", ["{abc,NULL}"]),
    Case("int2vector", "int2vector", ["1 2 3"]),
    Case("oidvector", "oidvector", ["1 2"]),
    # the system's
    Case("pg_lsn", "pg_lsn", ["16/B374D848", "0/0", "FFFFFFFF/FFFFFFFF"]),
    Case("xid", "xid", ["4294967295"]),
    Case("xid8", "xid8", ["18446744073709551615"], 13),
    Case("pg_snapshot", "pg_snapshot", ["10:20:10,14"], 13),
    Case("tid", "tid", ["(4294967295,65535)"]),
    Case("regtype", "regtype", ["integer", "timestamp with time zone"]),
    Case("regclass", "regclass", ["pg_class"]),
    Case("regconfig", "regconfig", ["english"]),
    Case("refcursor", "refcursor", ["c1"]),
    Case("aclitem", "aclitem", ["postgres=r*w/postgres"]),
]  # fmt: skip
HOSTILE = {
    "datestyle": "'SQL, DMY'",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "0",
    "bytea_output": "escape",
    "timezone": "'Asia/Kolkata'",
    "xmloption": "document",
    "quote_all_identifiers": "on",
}
"""What a database's owner may have set; no value may depend on it."""


class Reading:
    follow = False

    def seen(self, _: str) -> Landed | None:
        return None

    def names(self) -> Sequence[str]:
        return []


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def land(source: Postgres, start: Mapping[str, Any] | None, into: Path) -> tuple[list[Any], dict[str, Any]]:
    """What a run would land: objects with their formats, and the position after them."""
    objects, position = [], dict(start or {})
    for batch in source.read(source.name, start, Reading()):
        assert batch is not None
        position = dict(batch.end)
        for file in batch.data:
            path, inspector = into / f"{len(list(into.iterdir()))}", file.inspector()
            with file.open() as stream:
                data = stream.read()
            path.write_bytes(data)
            inspector.feed(data)
            form = inspector.result()
            item = Landed(path.name, file.name, len(data), "", None, form, arrived="2026-01-01T00:00:00Z")
            objects.append((1, item, path))
    return objects, position


def staged(objects: list[Any], columns: Sequence[str], scratch: Path) -> list[dict[str, Any]]:
    with duckdb.connect() as con:
        done = stage(con, [RawInput("pg", objects)], {c: [c] for c in columns}, scratch=scratch)
        assert con.execute(f"SELECT * FROM {done.rejects}").fetchall() == []
        names = ", ".join(f'"{c}"' for c in columns)
        found = con.execute(f"SELECT {names} FROM {done.relation} ORDER BY id::INTEGER, _sequence").fetchall()
    return [dict(zip(columns, row, strict=True)) for row in found]


@pytest.fixture
def matrix(database: Database) -> tuple[Database, list[Case], Postgres]:
    version = int(database.sql("show server_version_num")[0][0]) // 10_000
    database.sql(*SETUP.split(";"))
    cases = [case for case in CASES if case.since <= version]
    columns = ", ".join(f"{case.name}_ {case.type}" for case in cases)
    database.sql(f"create table matrix (id integer primary key, {columns})")
    for name, value in HOSTILE.items():
        database.sql(f"alter database {database.name} set {name} = {value}")
    return database, cases, Postgres(name="pg", dsn=database.dsn, tables=["matrix"])


def fill(database: Database, cases: Sequence[Case], first: int) -> dict[int, dict[str, str | None]]:
    """Rows from `first` on with the cases' values, one each, and NULL where a case has no more."""
    settings = "set datestyle = 'ISO'; set timezone = 'UTC'; set xmloption = 'content'; set lc_monetary = 'C'"
    expected: dict[int, dict[str, str | None]] = {}
    with database.connect() as con:
        con.execute(settings)
        for place in range(max(len(case.values) for case in cases) + 1):
            row: dict[str, str | None] = {}
            cells = [str(first + place)]
            for case in cases:
                value = case.values[place] if place < len(case.values) else None
                given, wanted = value if isinstance(value, tuple) else (value, value)
                cells.append("NULL" if given is None else f"{literal(given)}::{case.type}")
                row[f"{case.name}_"] = wanted
            con.execute(f"insert into matrix values ({', '.join(cells)})".replace("%", "%%"))
            expected[first + place] = row
    return expected


def test_the_matrix_is_wide_enough() -> None:
    assert len({case.type for case in CASES}) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("identity", ["default", "full"])
def test_snapshot_and_change_give_the_expected_texts(
    matrix: tuple[Database, list[Case], Postgres], tmp_path: Path, identity: str
) -> None:
    database, cases, source = matrix
    database.sql(f"alter table matrix replica identity {identity}")
    (tmp_path / "objects").mkdir()
    columns = ["id", *(f"{case.name}_" for case in cases), "_op", "_sequence", "_unchanged"]

    def compare(objects: list[Any], op: str, expected: Mapping[int, Mapping[str, str | None]]) -> None:
        rows = [row for row in staged(objects, columns, tmp_path / "scratch") if row["_op"] == op]
        assert sorted(int(row["id"]) for row in rows) == sorted(expected)
        for row in rows:
            unsent = (row["_unchanged"] or "").split(",")  # large values, which PostgreSQL sends if changed
            assert unsent == [""] or (op == "u" and identity == "default")
            wanted = expected[int(row["id"])]
            cells = [
                (name, row[name], wanted.get(name))
                for name in columns
                if name.endswith("_") and name not in unsent
            ]
            assert [cell for cell in cells if cell[1] != cell[2]] == []
            assert [row[name] for name in unsent if name] == [None] * len([name for name in unsent if name])

    before = fill(database, cases, 1)
    objects, position = land(source, None, tmp_path / "objects")
    compare(objects, "r", before)

    inserted = fill(database, cases, 101)
    database.sql("update matrix set id = id + 1000 where id < 100", "delete from matrix where id > 1000")
    objects, _ = land(source, position, tmp_path / "objects")
    compare(objects, "c", inserted)
    moved = {number + 1000: row for number, row in before.items()}
    compare(objects, "u", moved)
    nothing: dict[str, str | None] = {}
    known = before | moved
    compare(objects, "d", known if identity == "full" else dict.fromkeys(known, nothing))
