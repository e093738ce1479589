"""Other people's hard files: each is read as its corpus says, and none takes the process or others down."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from headrace.errors import Refused
from tests.staging import inspect, run

Shared = Callable[[str], Path]
FORMAT_RULES = {"json.malformed", "json.encoding", "file.unreadable"}


def test_csv_spectrum_gives_the_published_values(shared_data: Shared, tmp_path: Path) -> None:
    folder = shared_data("csv_small") / "csv-spectrum"
    paths = sorted((folder / "csvs").glob("*.csv"))
    assert len(paths) == 11
    for path in paths:
        expected = json.loads((folder / "json" / f"{path.stem}.json").read_text("utf-8"))
        copy = tmp_path / path.name
        data = path.read_bytes()
        # The snapshot's CRLF files have lost their carriage returns; their JSON has not.
        lost = path.stem.endswith("_crlf") and b"\r" not in data
        copy.write_bytes(data.replace(b"\n", b"\r\n") if lost else data)
        columns = list(expected[0])
        result = run([copy], columns)
        got = [dict(zip(columns, row, strict=True)) for row in result.values]
        assert (path.stem, got, result.rejects) == (path.stem, expected, [])


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_test_suite(shared_data: Shared, tmp_path: Path, kind: str) -> None:
    paths = sorted((shared_data("json_test_suite") / "test_parsing").glob("*.json"))
    assert len(paths) == 318
    con = duckdb.connect()
    wrong, seen = [], dict.fromkeys("yni", 0)
    for path in paths:
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        try:
            result = run([copy], ["a"], con=con, format=kind)
            refused = any(rule in FORMAT_RULES for *_, rule in result.rejects)
        except Refused:  # by the source, before it landed
            refused = True
        outcome = path.name[0]
        seen[outcome] += 1
        # One value over several lines is no JSON Lines; a file without lines has no record to refuse.
        lines = len(path.read_bytes().strip(b"\xef\xbb\xbf \r\n").splitlines())
        if lines == 0 or (kind == "jsonl" and lines != 1):
            continue
        if refused != (outcome == "n") and outcome != "i":
            wrong.append(path.name)
    assert seen == {"y": 95, "n": 188, "i": 35}
    assert wrong == []


def test_json_transformations_keep_big_numbers_and_refuse_double_keys(
    shared_data: Shared, tmp_path: Path
) -> None:
    folder = shared_data("json_test_suite") / "test_transform"
    exact = {
        "number_1.000000000000000005.json": "1.000000000000000005",
        "number_1000000000000000.json": "1000000000000000",
        "number_10000000000000000999.json": "10000000000000000999",
        "number_1e-999.json": "1E-999",
        "number_1e6.json": "1E6",
    }
    for name, text in exact.items():
        number = (folder / name).read_text().strip()[1:-1]
        (tmp_path / "x.jsonl").write_text(f'{{"a": {number}}}\n')
        assert (name, run([tmp_path / "x.jsonl"], ["a"], format="jsonl").values) == (name, [(text,)])
    doubles = sorted(folder.glob("object_same_key_*.json"))
    assert len(doubles) == 3
    for path in doubles:
        (tmp_path / "x.json").write_bytes(path.read_bytes())
        assert [r for *_, r in run([tmp_path / "x.json"], ["a"], format="json").rejects] == [
            "json.duplicate_key"
        ]


def test_bad_parquet_files_are_rejects_and_good_ones_beside_them_come(
    shared_data: Shared, tmp_path: Path
) -> None:
    paths = sorted((shared_data("parquet_testing") / "bad_data").glob("*.parquet"))
    assert len(paths) == 8
    good = tmp_path / "good.parquet"
    duckdb.execute(f"COPY (SELECT 42 AS id) TO '{good}'")
    forms = [p for p in paths if _lands(p)]
    columns = ["id", *dict.fromkeys(name for path in forms for name in _columns(path))]
    result = run([_copy(p, tmp_path) for p in forms] + [good], columns)
    assert [(r[0], r[-2]) for r in result.rows if r[0] is not None] == [("42", "good.parquet")]
    unreadable = {file for file, _, _, rule in result.rejects if rule == "file.unreadable"}
    assert {"ARROW-GH-41317.parquet", "ARROW-GH-45185.parquet", "ARROW-GH-47662.parquet"} <= unreadable | {
        p.name for p in paths if p not in forms
    }


def test_parquet_testing_data_is_read_or_refused_file_by_file(shared_data: Shared, tmp_path: Path) -> None:
    paths = sorted((shared_data("parquet_testing") / "data").glob("*.parquet"))
    result = run([_copy(p, tmp_path) for p in paths if _lands(p)], ["id", "int_col", "double_col", "value"])
    unreadable = {file for file, _, _, rule in result.rejects if rule == "file.unreadable"}
    assert len(paths) > 60
    assert unreadable <= {
        "byte_stream_split_extended.gzip.parquet",  # DuckDB 2.0 has no such encoding for these types
        "map_no_value.parquet",  # no map by the specification
        "large_string_map.brotli.parquet",  # a text of 2 GB: more than the memory limit
    }
    plain = [r for r in result.rows if r[4] == "alltypes_plain.parquet"]
    assert [(r[0], r[1], r[2], r[5]) for r in plain][:2] == [("4", "0", "0.0", 1), ("5", "1", "10.1", 2)]
    decimals = [Decimal(r[3]) for r in result.rows if r[4] == "int32_decimal.parquet"]
    assert decimals == [Decimal(i) for i in range(1, 25)]
    assert all(
        r[3] == f"{i}.00"
        for i, r in enumerate([r for r in result.rows if r[4] == "int32_decimal.parquet"], 1)
    )


def test_avro_samples(shared_data: Shared, tmp_path: Path) -> None:
    pytest.importorskip("fastavro")
    folder = shared_data("avro_test") / "share" / "test" / "data"
    weather = sorted(folder.glob("weather*.avro"))
    assert len(weather) == 5
    columns = ["station", "time", "temp"]
    by_file: dict[str, list[tuple[str, ...]]] = {}
    result = run([_copy(p, tmp_path) for p in weather], columns)
    for *values, file, _ in result.rows:
        by_file.setdefault(file, []).append(tuple(values))
    assert result.rejects == []
    expected = [
        json.loads(line) for line in (folder / "weather.json").read_text().splitlines() if line.strip()
    ]
    plain = [tuple(str(r[c]) for c in columns) for r in expected]
    assert by_file["weather.avro"] == by_file["weather-snappy.avro"] == by_file["weather-zstd.avro"] == plain
    assert sorted(by_file["weather-sorted.avro"]) == sorted(plain)


def test_raha_pairs_come_out_as_the_csv_module_reads_them(shared_data: Shared, tmp_path: Path) -> None:
    sizes = {"beers": 2410, "flights": 2376, "hospital": 1000, "rayyan": 1000}
    for name, size in sizes.items():
        for kind in ("dirty", "clean"):
            path = shared_data("raha_pairs") / name / f"{kind}.csv"
            with path.open(encoding="utf-8-sig", newline="") as file:
                header, *expected = (tuple(row) for row in csv.reader(file))
            result = run([_copy(path, tmp_path)], header)
            assert (name, len(result.rows), result.rejects) == (name, size, [])
            assert result.values == expected


def test_adventureworks_with_its_odd_delimiters(shared_data: Shared, tmp_path: Path) -> None:
    folder = shared_data("adventureworks_po")
    with (folder / "columns.csv").open(encoding="utf-8") as file:
        columns: dict[str, list[str]] = {}
        for row in csv.DictReader(file):
            columns.setdefault(row["file"], []).append(row["column"])
    counts, sums = {}, {}
    for path in sorted(folder.glob("*.csv")):
        if path.stem == "columns":
            continue
        result = run([_copy(path, tmp_path)], columns[path.stem])
        assert (path.name, result.rejects) == (path.name, [])
        counts[path.stem] = len(result.rows)
        for i, name in enumerate(columns[path.stem]):
            if path.stem.startswith("PurchaseOrder") and name in (
                "SubTotal",
                "TaxAmt",
                "Freight",
                "TotalDue",
                "LineTotal",
            ):
                sums[name] = sum((Decimal(row[i]) for row in result.values), Decimal(0))
    assert len(counts) == 35
    assert (counts["PurchaseOrderHeader"], counts["PurchaseOrderDetail"], counts["Vendor"]) == (
        4012,
        8845,
        104,
    )
    truth = {"SubTotal": "63791994.8380", "LineTotal": "63791994.8380", "TaxAmt": "5103359.5740"}
    truth |= {"Freight": "1583978.2263", "TotalDue": "70479332.6383"}
    assert sums == {name: Decimal(value) for name, value in truth.items()}


def test_the_whole_duckdb_corpus_is_accounted_for(shared_data: Shared, tmp_path: Path) -> None:
    """No file crashes or hangs; `run` asserts that rows and rejects add up to what was read."""
    paths = [p for p in sorted((shared_data("csv_small") / "duckdb").rglob("*")) if p.is_file()]
    small = [p for p in paths if p.stat().st_size < 100_000][::3]
    assert len(small) > 250
    con = duckdb.connect()
    read = 0
    for number, path in enumerate(small):
        copy = tmp_path / f"{number}{path.suffix}"
        copy.write_bytes(path.read_bytes())
        try:
            read += len(run([copy], con=con).records)
        except Refused:
            continue
        finally:
            copy.unlink()
    assert read > 250


def test_online_retail_day_by_day_lines(shared_data: Shared, tmp_path: Path) -> None:
    path = shared_data("online_retail") / "online_retail.csv.gz"
    columns = {"invoice": ["InvoiceNo"], "code": ["StockCode"], "customer": ["CustomerID"]}
    result = run([_copy(path, tmp_path)], columns)
    assert (len(result.rows), result.rejects) == (541_909, [])
    assert result.lines == list(range(2, 541_911))
    assert sum(not row[2] for row in result.rows) == 135_080


def _copy(path: Path, to: Path) -> Path:
    copy = to / path.name
    copy.write_bytes(path.read_bytes())
    return copy


def _lands(path: Path) -> bool:
    try:
        inspect(path)
    except Refused:
        return False
    return True


def _columns(path: Path) -> list[str]:
    try:
        return [
            name
            for name, *_ in duckdb.execute("DESCRIBE SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
        ]
    except duckdb.Error:
        return []
