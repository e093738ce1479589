"""Parquet, Avro, Excel and plain text: exact text of typed values, broken files apart."""

from __future__ import annotations

import gzip
import zipfile
from datetime import date, datetime, timezone
from decimal import Decimal

import duckdb
import pytest

from headrace.core import Landed, RawInput
from headrace.engines.duckdb.staging.sheets import as_text
from headrace.engines.duckdb.staging.stage import stage
from tests.staging import ARRIVED, run


def typed(tmp_path, kind, *paths, columns, **options):
    """Stages files of a said type, as the inspector may not know their columns."""
    con = duckdb.connect()
    files = []
    for i, path in enumerate(paths):
        compression = "gzip" if path.suffix == ".gz" else None
        form = {"type": kind, "compression": compression}
        landed = Landed(f"k{i}", path.name, path.stat().st_size, "", None, form, arrived=ARRIVED)
        files.append((1, landed, path))
    done = stage(con, [RawInput("s", files)], columns, scratch=tmp_path / "scratch", **options)
    data = "* EXCLUDE (_source, _ingested_at, _file, _line), _file, _line"
    rows = con.execute(f"SELECT {data} FROM {done.relation} ORDER BY _file, _line").fetchall()
    rejects = con.execute(f"SELECT _file, _line, _rule, _raw FROM {done.rejects} ORDER BY 1, 2").fetchall()
    assert sum(done.records.values()) == len(rows) + len(rejects)
    return rows, rejects


def test_parquet_values_become_exact_text(tmp_path):
    path = tmp_path / "x.parquet"
    duckdb.execute(
        f"""COPY (SELECT 1.10::DECIMAL(10,2) AS d, 12345678901234567890123.45::DECIMAL(38,2) AS big,
        0.1::DOUBLE AS f, 1e22::DOUBLE AS e, 7::BIGINT AS i, DATE '2020-02-29' AS day,
        TIMESTAMP '2020-01-01 10:00:00.123456' AS ts,
        TIMESTAMPTZ '2020-01-01 10:00:00+02' AS tz, true AS b, 'x'::BLOB AS raw, '\\xFF'::BLOB AS bin,
        [1, NULL] AS l, {{'x': 1.10::DECIMAL(5,2), 'y': {{'z': 'q'}}}} AS s, NULL::INTEGER AS n, '' AS empty)
        TO '{path}' (FORMAT parquet)"""
    )
    names = ["d", "big", "f", "e", "i", "day", "ts", "tz", "b", "raw", "bin", "l", "s.y.z", "n", "empty"]
    ((*values, _, line),), rejects = typed(tmp_path, "parquet", path, columns={n: [n] for n in names})
    assert dict(zip(names, values, strict=True)) == {
        "d": "1.10", "big": "12345678901234567890123.45", "f": "0.1", "e": "1e+22", "i": "7",
        "day": "2020-02-29", "ts": "2020-01-01T10:00:00.123456", "tz": "2020-01-01T08:00:00Z",
        "b": "true", "raw": "x", "bin": "\\xFF", "l": "[1,null]", "s.y.z": "q", "n": None, "empty": "",
    }  # fmt: skip
    assert (line, rejects) == (1, [])


def test_parquet_files_of_different_schemas_with_a_broken_one_between(tmp_path):
    a, b, c, d, e = (tmp_path / f"{n}.parquet" for n in "abcde")
    duckdb.execute(f"COPY (SELECT i AS id, 'x' AS Name FROM range(3000) t(i)) TO '{a}'")
    duckdb.execute(f"COPY (SELECT i AS id, 'y' AS Name FROM range(3000, 3003) t(i)) TO '{b}'")
    duckdb.execute(f"COPY (SELECT 'z' AS name, 9999 AS id, 1 AS new) TO '{d}'")
    c.write_bytes(a.read_bytes()[:-20])
    whole = a.read_bytes()
    e.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    columns = {"id": ["id"], "name": ["name"]}
    rows, rejects = typed(tmp_path, "parquet", a, b, c, d, e, columns=columns)
    good = [(str(i), "x", "a.parquet", i + 1) for i in range(3000)]
    good += [(str(3000 + i), "y", "b.parquet", i + 1) for i in range(3)] + [("9999", "z", "d.parquet", 1)]
    assert rows == good
    assert [r[:3] for r in rejects] == [
        ("c.parquet", 1, "file.unreadable"),
        ("e.parquet", 1, "file.unreadable"),
    ]
    _, rejects = typed(tmp_path, "parquet", b, d, columns=columns, on_new="quarantine")
    assert rejects == [("d.parquet", 1, "header.unknown_column", '{"name":"z","id":9999,"new":1}')]


def test_a_packed_parquet_file_is_unpacked(tmp_path):
    path, packed = tmp_path / "x.parquet", tmp_path / "x.parquet.gz"
    duckdb.execute(f"COPY (SELECT 1 AS id) TO '{path}'")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    rows, _ = typed(tmp_path, "parquet", packed, columns={"id": ["id"]})
    assert rows == [("1", "x.parquet.gz", 1)]


def test_avro_with_logical_types_and_a_cut_file(tmp_path):
    fastavro = pytest.importorskip("fastavro")
    fields = [
        {"name": "id", "type": "long"},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {
            "name": "who",
            "type": {"type": "record", "name": "w", "fields": [{"name": "n", "type": ["null", "string"]}]},
        },
    ]
    schema = {"type": "record", "name": "r", "fields": fields}
    at = datetime(2020, 1, 1, 10, tzinfo=timezone.utc)  # noqa: UP017
    records = [
        {
            "id": i,
            "price": Decimal(i) + Decimal("0.10"),
            "at": at,
            "day": date(2020, 1, 1),
            "who": {"n": None if i else "x"},
        }
        for i in range(500)
    ]
    path, cut = tmp_path / "a.avro", tmp_path / "b.avro"
    with path.open("wb") as out:
        fastavro.writer(out, schema, records, sync_interval=1_000)
    cut.write_bytes(path.read_bytes()[:-300])
    columns = {c: [c] for c in ("id", "price", "at", "day", "who.n", "who")}
    rows, rejects = typed(tmp_path, "avro", path, cut, columns=columns)
    assert rows[0][:6] == ("0", "0.10", "2020-01-01T10:00:00Z", "2020-01-01", "x", '{"n":"x"}')
    whole = [r for r in rows if r[6] == "a.avro"]
    assert [(r[0], r[7]) for r in whole] == [(str(i), i + 1) for i in range(500)]
    kept = len(rows) - 500
    assert 0 < kept < 500
    assert [r[:3] for r in rejects] == [("b.avro", kept + 1, "file.unreadable")]


@pytest.mark.parametrize("kind", ["parquet", "avro"])
def test_an_object_or_array_does_not_pass_for_a_text(tmp_path, kind):
    paths = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path in paths:
        _nested(path, kind)
    columns = {"id": ["id"], "tags": ["tags"], "inner": ["s.b"]}
    rows, rejects = typed(tmp_path, kind, *paths, columns=columns, flat=["id", "tags", "inner"])
    assert rows == [("3", None, None, path.name, 3) for path in paths]
    found = [(name, line, rule) for name, line, rule, _ in rejects]
    assert found == [(p.name, line, f"{c}.type") for p in paths for line, c in ((1, "tags"), (2, "inner"))]
    assert "tags" in rejects[0][3], "the record is there as text"
    rows, rejects = typed(tmp_path, kind, paths[0], columns=columns)
    assert [row[1:3] for row in rows] == [('["a"]', None), (None, '{"c":1}'), (None, None)]
    assert rejects == []


@pytest.mark.parametrize("kind", ["parquet", "avro"])
def test_numbers_within_structs_and_lists_keep_every_digit(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    amount, share, big = "12345678901234567.89", "0.10000000000000000001", 9007199254740993
    if kind == "parquet":
        duckdb.execute(
            f"COPY (SELECT {{'amount': {amount}::DECIMAL(19,2), 'in': {{'share': {share}::DECIMAL(38,20)}}, "
            f"'big': {big}::BIGINT, 'day': DATE '2026-01-02', 'at': TIMESTAMP '2026-01-02 03:04:05', "
            f"'list': [{amount}::DECIMAL(19,2)]}} AS s UNION ALL SELECT NULL) TO '{path}'"
        )
    else:
        fastavro = pytest.importorskip("fastavro")
        wide = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 20}
        money = {**wide, "precision": 19, "scale": 2}
        within = {"type": "record", "name": "i", "fields": [{"name": "share", "type": wide}]}
        fields = {
            "amount": money,
            "in": within,
            "big": "long",
            "day": {"type": "int", "logicalType": "date"},
            "at": {"type": "long", "logicalType": "local-timestamp-micros"},
            "list": {"type": "array", "items": money},
        }
        struct = {
            "type": "record",
            "name": "s",
            "fields": [{"name": name, "type": each} for name, each in fields.items()],
        }
        schema = {"type": "record", "name": "r", "fields": [{"name": "s", "type": ["null", struct]}]}
        first = {
            "amount": Decimal(amount),
            "in": {"share": Decimal(share)},
            "big": big,
            "day": date(2026, 1, 2),
            "at": datetime(2026, 1, 2, 3, 4, 5),
            "list": [Decimal(amount)],
        }
        with path.open("wb") as out:
            fastavro.writer(out, schema, [{"s": first}, {"s": None}])
    paths = ["s.amount", "s.in.share", "s.big", "s.day", "s.at", "s.none", "s.list"]
    rows, rejects = typed(tmp_path, kind, path, columns={c: [c] for c in paths})
    assert rejects == []
    day = ("2026-01-02", "2026-01-02T03:04:05")
    assert [row[:-3] for row in rows] == [(amount, share, str(big), *day, None), (None,) * 6]
    assert amount in rows[0][6]
    if kind == "parquet":
        rows, _ = typed(tmp_path, kind, path, columns={c: [c] for c in ("s.list.0", "s.list.1")})
        assert [row[:2] for row in rows] == [(amount, None), (None, None)]


def _nested(path, kind):
    """Three records: a list in `tags`, an object in `s.b`, neither."""
    if kind == "parquet":
        none = "NULL::STRUCT(b STRUCT(c INTEGER))"
        rows = f"(1, ['a'], {none}), (2, NULL, {{'b': {{'c': 1}}}}), (3, NULL, NULL)"
        duckdb.execute(f"COPY (SELECT * FROM (VALUES {rows}) t(id, tags, s)) TO '{path}'")
        return
    fastavro = pytest.importorskip("fastavro")
    inner = {"type": "record", "name": "b", "fields": [{"name": "c", "type": "int"}]}
    outer = {"type": "record", "name": "s", "fields": [{"name": "b", "type": inner}]}
    fields = [
        {"name": "id", "type": "int"},
        {"name": "tags", "type": ["null", {"type": "array", "items": "string"}]},
        {"name": "s", "type": ["null", outer]},
    ]
    records = [
        {"id": 1, "tags": ["a"], "s": None},
        {"id": 2, "tags": None, "s": {"b": {"c": 1}}},
        {"id": 3, "tags": None, "s": None},
    ]
    with path.open("wb") as out:
        fastavro.writer(out, {"type": "record", "name": "r", "fields": fields}, records)


def test_excel_by_its_first_filled_row(tmp_path):
    pytest.importorskip("python_calamine")
    path = tmp_path / "x.xlsx"
    _workbook(path, [[], ["id", "name", "day"], [1, "x", 2.5], [], [17850, "", True]])
    rows, rejects = typed(tmp_path, "xlsx", path, columns={"id": ["ID"], "name": ["name"], "day": ["day"]})
    assert rows == [("1", "x", "2.5", "x.xlsx", 3), ("17850", "", "true", "x.xlsx", 5)]
    assert rejects == []
    path.write_bytes(path.read_bytes()[:300])
    _, rejects = typed(tmp_path, "xlsx", path, columns={"id": ["id"]})
    assert [r[:3] for r in rejects] == [("x.xlsx", 1, "file.unreadable")]


def test_plain_text_has_one_column(tmp_path):
    path = tmp_path / "x.log"
    path.write_bytes(b'one "line\n\nthree,x\t"\n')
    assert run([path], ["line"], format="text").rows == [
        ('one "line', "x.log", 1), ("", "x.log", 2), ('three,x\t"', "x.log", 3),
    ]  # fmt: skip


def test_an_unknown_format_and_an_empty_file_take_nobody_down(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"")
    assert typed(tmp_path, "empty", path, columns={"a": ["a"]}) == ([], [])
    _, ((_, line, rule, reason),) = typed(tmp_path, "orc", path, columns={"a": ["a"]})
    assert (line, rule) == (1, "file.unreadable")
    assert "`orc` cannot be read" in reason


def test_spelling_of_values():
    assert as_text(1.5) == "1.5"
    assert as_text(1e300) == "1e+300"
    assert as_text({"a": [Decimal("1.10"), b"\xff", None, True, 2]}) == '{"a":["1.10","\\\\xFF",null,true,2]}'


def _workbook(path, rows):
    """The smallest workbook: one sheet with inline texts."""

    def cell(value):
        if isinstance(value, bool):
            return f'<c t="b"><v>{int(value)}</v></c>'
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>'
        return f"<c><v>{value}</v></c>"

    sheet = "".join(f'<row r="{i}">{"".join(map(cell, row))}</row>' for i, row in enumerate(rows, 1) if row)
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = 'xmlns="http://schemas.openxmlformats.org/package/2006'

    def related(kind, target):
        link = f'<Relationship Id="r1" Type="{office}/{kind}" Target="{target}"/>'
        return f'<Relationships {package}/relationships">{link}</Relationships>'

    default = '<Default Extension="xml" ContentType="application/xml"/>'
    sheets = f'<sheets xmlns:r="{office}"><sheet name="s" sheetId="1" r:id="r1"/></sheets>'
    parts = {
        "[Content_Types].xml": f'<Types {package}/content-types">{default}</Types>',
        "_rels/.rels": related("officeDocument", "xl/workbook.xml"),
        "xl/workbook.xml": f"<workbook {main}>{sheets}</workbook>",
        "xl/_rels/workbook.xml.rels": related("worksheet", "worksheets/sheet1.xml"),
        "xl/worksheets/sheet1.xml": f"<worksheet {main}><sheetData>{sheet}</sheetData></worksheet>",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
