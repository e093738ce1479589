"""What a file is, and whether it may land, is learnt from its bytes as they pass."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core import Landed
from headrace.errors import Refused
from headrace.sources import unpack
from headrace.sources.how import How
from headrace.sources.inspect import FileInspector, Past, has_rows
from headrace.sources.text import SAMPLE, TAIL, TextScan

SharedData = Callable[[str], Path]
TABLE = "id,name,day\n" + "".join(f"{i},name {i},2024-01-{i % 28 + 1:02d}\n" for i in range(300))


def look(
    data: bytes,
    name: str = "a.csv",
    *,
    how: How | None = None,
    past: Past | None = None,
    chunk: int = 1 << 20,
) -> Mapping[str, Any]:
    inspector = FileInspector(name, how, past)
    for at in range(0, len(data), chunk):
        inspector.feed(data[at : at + chunk])
    return inspector.result()


def landed(rows: int | None, format: Mapping[str, Any] | None = None) -> Landed:
    return Landed("k", "a.csv", 10, "0" * 64, rows, format or {})


def test_the_facts_of_a_plain_file() -> None:
    assert look(TABLE.encode()) == {
        "type": "csv",
        "compression": None,
        "encoding": "utf-8",
        "delimiter": ",",
        "quote": '"',
        "escape": '"',
        "header": ["id", "name", "day"],
        "columns": 3,
        "skip": 0,
        "newline": "\n",
        "mixed_newlines": False,
        "lines": 301,
        "quoted": False,
        "nul": False,
        "final_newline": True,
        "row_end": "",
        "footer_lines": 0,
        "rows": 300,
    }


@pytest.mark.parametrize(
    ("encoded", "encoding"),
    [
        (TABLE.replace("name 7,", "né 7,").encode(), "utf-8"),
        (b"\xef\xbb\xbf" + TABLE.encode(), "utf-8-sig"),
        (b"\xff\xfe" + TABLE.encode("utf-16-le"), "utf-16-le"),
        (b"\xfe\xff" + TABLE.encode("utf-16-be"), "utf-16-be"),
        (TABLE.encode("utf-16-le"), "utf-16-le"),
        (TABLE.replace("name 7,", "né 7,").encode("windows-1252"), "windows-1252"),
        (TABLE.replace("name 7,", "né 7,").encode().replace(b"name 9,", b"n\xe9 9,"), "mixed"),
        (TABLE.replace("name 9,", "né 9,").encode().replace(b"name 7,", b"n\xe9 7,"), "mixed"),
    ],
)
@pytest.mark.parametrize("chunk", [1 << 20, 1001])
def test_encodings(encoded: bytes, encoding: str, chunk: int) -> None:
    found = look(encoded, chunk=chunk)
    assert found["encoding"] == encoding
    assert (found["header"], found["lines"], found["rows"]) == (["id", "name", "day"], 301, 300)


@pytest.mark.parametrize("where", ["sample", "later", "both"])
def test_mixed_encodings_wherever_the_odd_lines_are(where: str) -> None:
    lines = [f"{i},plain text {i}" for i in range(60_000)]
    raw = [line.encode() for line in lines]
    first, second = {"sample": (10, 50_000), "later": (40_000, 50_000), "both": (10, 20)}[where]
    raw[first] = b"1,caf\xc3\xa9"
    raw[second] = b"1,caf\xe9"
    assert look(b"id,text\n" + b"\n".join(raw) + b"\n")["encoding"] == "mixed"
    raw[first] = b"1,cafe"
    assert look(b"id,text\n" + b"\n".join(raw) + b"\n")["encoding"] == "windows-1252"


def test_newlines_and_nul() -> None:
    assert look(TABLE.replace("\n", "\r\n").encode())["newline"] == "\r\n"
    assert look(TABLE.replace("\n", "\r").encode())["newline"] == "\r"
    assert look(TABLE.replace("\n", "\r").encode())["lines"] == 301
    assert look(TABLE.replace("\n", "\r\n", 5).encode())["mixed_newlines"]
    assert look(TABLE.removesuffix("\n").encode())["lines"] == 301
    assert not look(TABLE.removesuffix("\n").encode())["final_newline"]
    assert look(TABLE.replace("name 8", "na\0me").encode())["nul"]


@pytest.mark.parametrize("chunk", [1 << 18, 70_001])
@pytest.mark.parametrize("ended", [True, False])
def test_lines_are_counted_however_long_they_are(chunk: int, ended: bool) -> None:
    """Long lines, then short ones, then long ones again: where newlines are sparse they are looked for."""
    parts = [
        f"{i},{'x' * width}" for width, n in ((300, 4_000), (1, 200_000), (900, 2_000)) for i in range(n)
    ]
    text = "id,text\n" + "\n".join(parts) + "\n" * ended
    assert look(text.encode(), chunk=chunk)["lines"] == len(parts) + 1


def test_quotes_that_come_after_the_sample() -> None:
    plain = "id,name\n" + "".join(f"{i},some plain name\n" for i in range(40_000))
    late = look((plain + '7,"a, b"\n').encode())
    assert (late["quote"], late["quoted"]) == ('"', True)
    inches = look((plain + '7,5" pipe\n8,6" pipe\n').encode())
    assert (inches["quote"], inches["quoted"]) == (None, True)
    both = look((plain + '7,5" pipe\n' + "8,plain\n" * 300_000 + '9,"a, b"\n').encode())
    assert both["quote"] == '"'
    tabs = plain.replace(",", "\t")
    assert look((tabs + '7\t"a\tb"\n').encode())["quote"] == '"'
    songs = '7\t"Heroes" (song)\n8\t"Weird Al" Y\n9\t"Heroes"\n'
    assert look((tabs + songs).encode())["quote"] is None
    assert look((songs + tabs).encode())["quote"] is None


@pytest.mark.parametrize("chunk", [1, 5_003, TAIL, 3 * TAIL])
def test_the_end_is_known_however_the_text_comes(chunk: int) -> None:
    data = b"".join(b"%d,text\n" % n for n in range(5_000 if chunk == 1 else 70_000))
    scan = TextScan(How(), "csv")
    for at in range(0, len(data), chunk):
        scan.feed(data[at : at + chunk])
    scan.finish()
    assert scan.tail == data[-TAIL:]
    assert scan.final_newline


@pytest.mark.parametrize("chunk", [1 << 20, 97])
def test_compressions(chunk: int) -> None:
    zstandard = pytest.importorskip("zstandard")
    plain = TABLE.encode()
    wanted = {key: value for key, value in look(plain).items() if key != "compression"}
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.csv", plain)
    for kind, packed in {
        "gzip": gzip.compress(plain[:1000]) + gzip.compress(plain[1000:]) + b"\0" * 7,
        "zstd": zstandard.compress(plain[:1000]) + zstandard.compress(plain[1000:]),
        "zip": zipped.getvalue(),
    }.items():
        found = dict(look(packed, "a.csv.x", chunk=chunk))
        assert found.pop("compression") == kind
        found.pop("member", None)
        assert found == wanted


def test_zstd_in_all_its_ways(tmp_path: Path) -> None:
    """Also by what reads it later: every way that lands gives the same bytes there."""
    zstandard = pytest.importorskip("zstandard")
    from headrace.engines.duckdb.raw import open_plain

    plain = TABLE.encode()
    skipped = b"\x5f\x2a\x4d\x18\x04\0\0\0abcd"
    bare = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compressobj()
    for packed in (
        skipped + zstandard.compress(plain),
        zstandard.compress(plain) + skipped,
        zstandard.compress(plain[:999]) + skipped + zstandard.compress(b"") + zstandard.compress(plain[999:]),
        bare.compress(plain) + bare.flush(),
    ):
        found = look(packed, "a.csv.zst", chunk=61)
        assert (found["compression"], found["rows"]) == ("zstd", 300)
        (tmp_path / "a").write_bytes(packed)
        with open_plain(tmp_path / "a", "zstd") as stream:
            assert stream.read() == plain
    wide = zstandard.ZstdCompressionParameters(window_log=30, write_content_size=False)
    long = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    with pytest.raises(Refused, match="window is over 128 MB"):
        look(long.compress(plain) + long.flush(), "a.csv.zst")
    samples = [f"{n},name {n}\n".encode() * 20 for n in range(2000)]
    words = zstandard.train_dictionary(2000, samples)
    with pytest.raises(Refused, match="needs a dictionary"):
        look(zstandard.ZstdCompressor(dict_data=words).compress(plain), "a.csv.zst")


def test_stored_zip_members_and_streamed_ones() -> None:
    class Unseekable(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation

        def tell(self) -> int:
            raise io.UnsupportedOperation

    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w") as archive:
        archive.writestr("a.csv", TABLE)
        archive.writestr("__MACOSX/._a.csv", b"\0\1\2")
    streamed = Unseekable()
    with zipfile.ZipFile(streamed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", TABLE)
    for packed in (stored.getvalue(), streamed.getvalue()):
        assert look(packed, "a.zip", chunk=313)["rows"] == 300


def zipped(*members: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members:
            archive.writestr(name, text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (zipped(("a.csv", TABLE), ("b.csv", TABLE)), "several members"),
        (zipped(("../a.csv", TABLE)), "leave its folder"),
        (zipped(("/etc/a.csv", TABLE)), "leave its folder"),
        (zipped(("a.csv", TABLE))[:-60], "zip"),
        (zipped(("a.csv", TABLE)).replace(b"a.csv", b"b.csv", 1), "does not match"),
        (gzip.compress(TABLE.encode())[:-20], "cut off"),
        (gzip.compress(TABLE.encode())[:-6] + b"abcdef", "corrupt"),
        (b"BZh91AY" + b"x" * 600, "bzip2"),
        (b"7z\xbc\xaf\x27\x1c" + b"x" * 600, "7-Zip"),
        (b"\0" * 257 + b"ustar\x0000" + b"\0" * 600, "tar archive"),
        (bytes(range(1, 9)) * 200, "not text"),
    ],
)
def test_archives_and_binaries_that_must_not_land(data: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        look(data, "in/a.csv")
    assert caught.value.message.startswith("in/a.csv: ")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"-----BEGIN PGP MESSAGE-----\n\nhQEMA1\n-----END PGP MESSAGE-----\n"),
        ("a.csv.gpg", b"\x85\x01\x0c\x03" + bytes(range(256)) * 4),
        ("a.csv.pgp", b"\xc1\xc0\x4c\x03" + bytes(range(256)) * 4),
    ],
)
def test_what_is_encrypted_is_called_so(name: str, data: bytes) -> None:
    with pytest.raises(Refused, match="encrypted by PGP"):
        look(data, name)


def test_bombs_are_refused_while_they_unpack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "_BOMB_BYTES", 4 << 20)
    bomb = gzip.compress(b"a,b\n" * (4 << 20))
    with pytest.raises(Refused, match="times its size"):
        look(bomb, "a.csv.gz")
    ordinary = gzip.compress("\n".join(str(i * 7919) for i in range(800_000)).encode())
    assert look(ordinary, "a.csv.gz")["lines"] == 800_000


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("300,name", "2 of 3 fields"),
        ('300,"name and', "never closed"),
        ('300,"name\nand more\nand more', "never closed"),
        ('300,"name\nand more\n', "never closed"),
    ],
)
def test_files_cut_off_in_the_middle_of_a_record(end: str, why: str) -> None:
    text = TABLE.replace("name 5,", '"name, 5",') + end
    with pytest.raises(Refused, match=why):
        look(text.encode())
    assert look(text.encode(), how=How(truncated="accept"))["type"] == "csv"
    large = TABLE.replace("name 5,", '"name, 5",') + "1,x,2024-01-01\n" * 40_000 + end
    with pytest.raises(Refused, match=why):
        look(large.encode())


@pytest.mark.parametrize(
    "end",
    [
        "300,name,2024-01-01",  # only the newline is missing
        '300,"name",2024-01-01',
        '300,"name\nand more",2024-01-01',
        "Total,,300",
        "(300 rows)",
    ],
)
def test_whole_files_without_a_last_newline_land(end: str) -> None:
    assert look((TABLE + end).encode())["type"] == "csv"


def test_a_broken_quote_in_the_middle_is_a_bad_row_and_no_cut_file() -> None:
    text = TABLE.replace("name 5,", '"name, 5",').replace("100,name 100", '100,"name 100')
    assert look(text.encode())["header"] == ["id", "name", "day"]


def test_half_a_character_at_the_end_is_a_cut_file() -> None:
    text = TABLE.replace("name 7,", "né 7,").encode()
    with pytest.raises(Refused, match="character"):
        look(text + b"300,caf\xc3")
    assert look(TABLE.encode() + b"300,x,caf\xe9")["encoding"] == "windows-1252"
    with pytest.raises(Refused, match="character"):
        look(b"\xff\xfe" + TABLE.encode("utf-16-le")[:-1])


def test_empty_files() -> None:
    for data in (b"", gzip.compress(b""), b"\xef\xbb\xbf", b"\n\n"):
        with pytest.raises(Refused, match="empty") as caught:
            look(data)
        assert "empty: accept" in str(caught.value)
    assert look(b"", how=How(empty="accept"))["rows"] == 0


def test_a_header_alone_is_refused_where_rows_are_usual() -> None:
    header = b"id,name,day\n"
    assert look(header)["header"] == ["id", "name", "day"]
    assert look(header)["rows"] == 0
    with pytest.raises(Refused, match="no rows"):
        look(header, past=Past(rows_usual=lambda: True))
    with pytest.raises(Refused, match="no rows"):
        look(header, past=Past(previous=landed(5)))
    assert look(header, past=Past(previous=landed(0)))["rows"] == 0
    assert look(header, how=How(empty="accept"), past=Past(rows_usual=lambda: True))["rows"] == 0
    with pytest.raises(Refused, match="no rows"):
        look(b"[]", "a.json", past=Past(rows_usual=lambda: True))


def test_a_new_version_that_shrank_is_refused() -> None:
    small = "\n".join(TABLE.split("\n")[:11]).encode() + b"\n"
    with pytest.raises(Refused, match="shrank from 1,000 to 10 rows"):
        look(small, past=Past(previous=landed(1000, {"rows": 1000})))
    assert look(small, past=Past(previous=landed(100, {"rows": 100})))["rows"] == 10
    assert look(small, past=Past(previous=landed(105, {"rows": 105})), how=How(min_ratio=0.05))["rows"] == 10
    assert (
        look(small, past=Past(previous=landed(1000, {"rows": 1000})), how=How(shrunk="accept"))["rows"] == 10
    )


def test_rows_are_reported_only_where_there_are_some() -> None:
    told: list[int] = []
    look(b"id,name\n", past=Past(report_rows=lambda: told.append(1)))
    assert told == []
    look(TABLE.encode(), past=Past(report_rows=lambda: told.append(1)))
    assert told == [1]
    assert has_rows(landed(1))
    assert not has_rows(landed(0))
    assert has_rows(landed(None, {"lines": 2, "header": ["a"], "skip": 0}))
    assert not has_rows(landed(None, {"lines": 3, "header": ["a"], "skip": 2}))


def test_real_incidents_are_refused(shared_data: SharedData) -> None:
    folder = shared_data("cdc_ourairports")
    bad = sorted(folder.glob("*_BAD_*"))
    assert len(bad) == 5
    for path in bad:
        table = path.name.split("_")[0]
        good = look((folder / f"{table}_snapshot_first.csv.gz").read_bytes(), "x.csv.gz")
        before = landed(None, json.loads(json.dumps(good)))
        with pytest.raises(Refused, match=r"empty|no rows"):
            look(path.read_bytes(), path.name, past=Past(previous=before))


@pytest.mark.parametrize(
    ("name", "text", "kind", "keys", "rows"),
    [
        ("a.jsonl", '{"a": 1, "b": {"c": 2}}\n{"a": 2, "d": 3}\n', "jsonl", ["a", "b", "d"], 2),
        ("a.json", '[{"a": 1}, {"b": 2}]', "json", ["a", "b"], 2),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "jsonl", ["a"], 2),
        ("a.json", '{\n "a": 1\n}', "json", ["a"], 1),
        ("a.txt", '[\n{"a": 1}\n]', "json", ["a"], 1),
        ("a", '{"records": [{"x": 1}, {"y": 2}], "next": null}', "json", ["x", "y"], 2),
    ],
)
def test_json(name: str, text: str, kind: str, keys: list[str], rows: int) -> None:
    found = look(text.encode(), name)
    assert (found["type"], found["keys"], found["rows"]) == (kind, keys, rows)
    if "records" in text:
        assert found["records"] == "records"


def test_large_json_is_known_by_its_start_and_its_end() -> None:
    items = ", ".join(json.dumps({"id": i, "text": "x" * 50}) for i in range(20_000))
    assert look(f"[{items}]".encode(), "a.json")["keys"] == ["id", "text"]
    found = look(f'{{"records": [{items}]}}'.encode(), "a.json")
    assert (found["keys"], found["records"]) == (["id", "text"], "records")
    for cut in (f"[{items}", f'{{"records": [{items}'):
        with pytest.raises(Refused, match="do not close"):
            look(cut.encode(), "a.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", '{"a": 1}\n{"a": "x'), ("a.jsonl", '{"a": 1}\n{"a": [1, 2'), ("a.json", '[{"a": 1}, {"a"')],
)
def test_json_that_is_cut_off(name: str, text: str) -> None:
    with pytest.raises(Refused, match=r"half a record|do not close"):
        look(text.encode(), name)
    assert look(text.encode(), name, how=How(truncated="accept"))["type"] in ("json", "jsonl")


def test_malformed_json_lands_for_quarantine(shared_data: SharedData) -> None:
    """Cut files aside, what is in a document is not for the inspector to refuse; and nothing crashes it."""
    folder = shared_data("json_test_suite") / "test_parsing"
    paths = sorted(folder.glob("*.json"))
    assert len(paths) == 318
    for path in paths:
        data = path.read_bytes()
        found = look(data, path.name, how=How(format="json", truncated="accept", empty="accept"))
        assert found["type"] in ("json", "empty")
        if path.name.startswith("y_"):
            assert look(data, path.name, how=How(format="json"))["type"] == "json"


def test_parquet(shared_data: SharedData) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    data = shared_data("parquet_testing") / "data"
    checked = 0
    for path in sorted(data.glob("*.parquet")):
        try:
            meta = pq.ParquetFile(path).metadata
        except Exception:
            continue
        found = look(path.read_bytes(), path.name)
        schema = meta.schema.to_arrow_schema() if path.name == "alltypes_plain.parquet" else None
        assert found["rows"] == meta.num_rows, path.name
        if schema is not None:
            assert found["header"] == schema.names
        checked += 1
    assert checked > 40
    whole = (data / "alltypes_plain.parquet").read_bytes()
    with pytest.raises(Refused, match="footer"):
        look(whole[:-8], "a.parquet")
    with pytest.raises(Refused, match="not a Parquet file"):
        look(TABLE.encode(), "a.parquet")


def test_broken_parquet_never_crashes(shared_data: SharedData) -> None:
    for path in sorted((shared_data("parquet_testing") / "bad_data").glob("*.parquet")):
        assert look(path.read_bytes(), path.name, how=How(truncated="accept"))["type"] == "parquet"


def test_avro(shared_data: SharedData) -> None:
    fastavro = pytest.importorskip("fastavro")
    folder = shared_data("avro_test") / "share/test/data"
    odd = look((folder / "syncInMeta.avro").read_bytes(), "a.avro")
    assert odd["header"] == ["ID", "First", "Last", "Phone", "Age"]
    paths = sorted(folder.glob("weather*.avro"))
    assert len(paths) >= 4
    counted = 0
    for path in paths:
        found = look(path.read_bytes(), path.name, chunk=101)
        with path.open("rb") as file:
            blocks = fastavro.block_reader(file)
            names = [field["name"] for field in blocks.writer_schema["fields"]]
            try:
                rows = sum(block.num_records for block in blocks)
                counted += 1
            except ValueError:  # a codec that is not installed here
                rows = found["rows"]
        assert (found["type"], found["header"], found["rows"]) == ("avro", names, rows)
        with pytest.raises(Refused, match="cut off"):
            look(path.read_bytes()[:-5], path.name)
    assert counted >= 3
    damaged = bytearray((folder / "weather.avro").read_bytes())
    damaged[-3] ^= 255
    with pytest.raises(Refused, match="mark"):
        look(bytes(damaged), "a.avro")


def test_excel() -> None:
    book = (
        '<workbook xmlns="x"><sheets><sheet name="Sales &amp; more" sheetId="1"/><sheet name="B"/></sheets>'
    )
    data = zipped(("[Content_Types].xml", "<Types/>"), ("_rels/.rels", "<r/>"), ("xl/workbook.xml", book))
    found = look(data, "a.xlsx", chunk=50)
    assert (found["type"], found["sheets"]) == ("xlsx", ["Sales & more", "B"])
    with pytest.raises(Refused, match="zip"):
        look(data[:-30], "a.xlsx")
    with pytest.raises(Refused, match="Excel"):
        look(b"\xd0\xcf\x11\xe0 an old workbook", "a.xlsx")


@pytest.mark.parametrize("chunk", [7, 1 << 20])
@pytest.mark.parametrize(
    ("cells", "fits"),
    [
        ('<row r="2"><c r="A2"><v>1</v></c><c r="B2" s="3"/></row>', True),
        ('<row r="1048576"><c r="XFD1048576" s="1"/></row>', True),  # a format alone takes no room
        ('<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>', False),
        ('<row><c a=">" r="XFD1048576"><v>1</v></c></row>', False),
        ("<x:row r='1048576'><x:c><v>1</v></x:c></x:row>" + "<c><v>1</v></c>" * 300, False),
        ('<row r="900000"><c r="A900000"><v>1</v></c></row>', True),
    ],
)
def test_a_sheet_that_would_fill_the_memory_is_refused(cells: str, fits: bool, chunk: int) -> None:
    """Readers of workbooks take room for all cells up to the last one: 512 GB for a file of 1.5 KB."""
    sheet = f'<worksheet><sheetData><row r="1"><c r="A1"><v>7</v></c></row>{cells}</sheetData></worksheet>'
    data = zipped(
        ("[Content_Types].xml", "<Types/>"),
        ("xl/workbook.xml", '<workbook><sheets><sheet name="S"/></sheets></workbook>'),
        ("xl/worksheets/sheet1.xml", sheet),
    )
    if fits:
        assert look(data, "a.xlsx", chunk=chunk)["compression"] is None
    else:
        with pytest.raises(Refused, match="reaches to row"):
            look(data, "a.xlsx", chunk=chunk)


def test_overrides() -> None:
    data = b'"x"\tsome\n1;2\n3;4\nTOTAL;6\n'
    how = How(
        format="csv", delimiter=";", quote="", header=("a", "b"), skip=1, footer=1, encoding="windows-1252"
    )
    found = look(data, "a.bin", how=how)
    assert (found["delimiter"], found["quote"], found["header"]) == (";", None, None)
    assert (found["names"], found["skip"], found["footer_lines"]) == (["a", "b"], 1, 1)
    assert (found["encoding"], found["rows"]) == ("windows-1252", 2)


def test_plain_text_is_a_table_of_its_lines() -> None:
    for found in (
        look(b'some "line\nother, line\n', "a", how=How(format="text")),
        look(b'some "line\nother, line\n', "a.log"),
    ):
        assert (found["type"], found["names"], found["columns"], found["rows"]) == ("csv", ["line"], 1, 2)
        assert (found["header"], found["quote"], found["skip"], found["footer_lines"]) == (None, None, 0, 0)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=2000), st.integers(1, 700), st.sampled_from(["a.csv", "a.json", "a", "a.jsonl"]))
def test_no_bytes_crash_it_and_chunks_do_not_matter(data: bytes, chunk: int, name: str) -> None:
    def outcome(size: int) -> object:
        try:
            return look(data, name, chunk=size)
        except Refused as error:
            return str(error)

    assert outcome(chunk) == outcome(1 << 20)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(['"', ",", "\n", "\\", "é", "x", '"\n', '","', "\t", "\r\n"])),
    st.integers(1, 30),
)
def test_chunks_do_not_matter_behind_the_sample_either(end: list[str], chunk: int) -> None:
    for mark in (",", "\t", "||"):
        row = f"1{mark}plain\n"
        whole = (f"id{mark}name\n" + row * (SAMPLE // len(row) + 40) + "".join(end)).encode()
        outcomes = []
        for size in (1 << 20, chunk):
            inspector = FileInspector("a.csv", How(truncated="accept"))
            inspector.feed(whole[:SAMPLE])
            for at in range(SAMPLE, len(whole), size):
                inspector.feed(whole[at : at + size])
            outcomes.append(inspector.result())
        assert outcomes[0] == outcomes[1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_archives_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([zipped(("a.csv", TABLE)), gzip.compress(TABLE.encode())]))
    damaged = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        found = look(bytes(damaged), "a.csv")
    except Refused:
        return
    if found.get("compression") == "gzip":
        assert struct.unpack("<I", whole[-8:-4])[0] == zlib.crc32(TABLE.encode())
        assert found["rows"] == 300
