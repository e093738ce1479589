"""The same rows in every format that the files source takes become the same table."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import go, rows

NAMES = ("id", "name", "amount")
ROWS = [(n, f"näme {n}", f"{n}.25") for n in range(1, 41)]
PIPELINE = """
name: t
sources: {s: {type: files, path: data/*}}
tables:
  t:
    from: s
    keys: [id]
    contract:
      columns:
        id: {type: integer, required: true}
        name: {type: text, required: true}
        amount: {type: "decimal(8,2)", required: true}
"""


def csv() -> bytes:
    return "".join(",".join(map(str, row)) + "\n" for row in [NAMES, *ROWS]).encode()


def zipped(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def zstd() -> bytes:
    return bytes(pytest.importorskip("zstandard").compress(csv()))


def dicts() -> list[dict[str, object]]:
    return [dict(zip(NAMES, row, strict=True)) for row in ROWS]


def jsonl() -> bytes:
    return "".join(json.dumps(row) + "\n" for row in dicts()).encode()


def parquet() -> bytes:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(dicts()), out)
    return out.getvalue()


def avro() -> bytes:
    fastavro = pytest.importorskip("fastavro")
    fields = [{"name": name, "type": "int" if name == "id" else "string"} for name in NAMES]
    out = io.BytesIO()
    fastavro.writer(out, {"type": "record", "name": "r", "fields": fields}, dicts(), codec="deflate")
    return out.getvalue()


def workbook() -> bytes:
    pytest.importorskip("python_calamine")

    def cell(place: str, value: object) -> str:
        return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'

    def line(at: int, row: tuple[object, ...]) -> str:
        cells = (cell(f"{letter}{at}", value) for letter, value in zip("ABC", row, strict=True))
        return f'<row r="{at}">{"".join(cells)}</row>'

    lines = [line(at, row) for at, row in enumerate([NAMES, *ROWS], 1)]
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    kinds = f"{package}/relationships"
    one = f'<Relationship Id="r1" Type="{office}/%s" Target="%s"/>'
    link = f'<Relationships xmlns="{kinds}">{one}</Relationships>'
    sheet = '<sheets><sheet name="S" sheetId="1" r:id="r1"/></sheets>'
    book = f'<workbook xmlns="{main}" xmlns:r="{office}">{sheet}</workbook>'
    data = f"<sheetData>{''.join(lines)}</sheetData>"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"/>',
        "_rels/.rels": link % ("officeDocument", "xl/workbook.xml"),
        "xl/workbook.xml": book,
        "xl/_rels/workbook.xml.rels": link % ("worksheet", "worksheets/sheet1.xml"),
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}">{data}</worksheet>',
    }
    return zipped(*((name, text.encode()) for name, text in parts.items()))


FORMATS: dict[str, Callable[[], bytes]] = {
    "a.csv": csv,
    "a.csv.gz": lambda: gzip.compress(csv()),
    "a.csv.zst": zstd,
    "a.zip": lambda: zipped(("in/a.csv", csv())),
    "a.jsonl": jsonl,
    "a.jsonl.gz": lambda: gzip.compress(jsonl()),
    "a.json": lambda: json.dumps(dicts()).encode(),
    "a.json.zip": lambda: zipped(("a.json", json.dumps(dicts()).encode())),
    "a.parquet": parquet,
    "a.avro": avro,
    "a.xlsx": workbook,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_table(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "pipeline.yml").write_text(PIPELINE)
    (tmp_path / "data" / name).write_bytes(FORMATS[name]())
    report = go(tmp_path)
    assert report.status == "success"
    [table] = report.tables
    assert (table.ledger.read, table.ledger.quarantined) == (len(ROWS), 0)
    found = {tuple(str(value) for value in row if value is not None) for row in rows(tmp_path, "silver.t")}
    for row in ROWS:
        assert any(set(map(str, row)) <= set(one) for one in found), row
