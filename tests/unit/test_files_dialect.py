"""The dialect of a CSV file is found from its text alone."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.sources.dialect import Given, footer_lines, parse, sniff

SharedData = Callable[[str], Path]


def lines_of(text: str) -> list[str]:
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


@pytest.mark.parametrize(
    ("text", "delimiter", "header"),
    [
        ("a,b,c\n1,2,3\n", ",", ("a", "b", "c")),
        ("a;b\n1,5;2,5\n3,25;4,5\n", ";", ("a", "b")),
        ("a\tb\n1\t2\n", "\t", ("a", "b")),
        ("name|note\nx|a, b, c\ny|d, e, f\n", "|", ("name", "note")),
        ("id||name\n1||x\n2||y\n", "||", ("id", "name")),
        ("id|~|name|~|day\n1|~|x|~|2020-01-01\n2|~|y|~|2020-01-02\n", "|~|", ("id", "name", "day")),
        ("a^b^c\n1^2^3\n4^5^6\n", "^", ("a", "b", "c")),
        ("1,2,x\n3,4,y\n", ",", None),
        ("x,2020-01-01\ny,2020-01-02\n", ",", None),
        ("country,2010,2011\nfr,1.5,2.5\nde,1.25,2\n", ",", ("country", "2010", "2011")),
        ("city,country\nParis,France\nRome,Italy\n", ",", ("city", "country")),
        ("red,green\ngreen,red\nred,red\n", ",", None),
        ("when\n2020-01-01 10:00:00\n2020-01-01 11:30:00\n", ",", ("when",)),
        ("yes\nno\nyes\nno\n", ",", None),
        ("state\nyes\nno\nyes\n", ",", ("state",)),
        ('"hello\nworld","5"\n"what,\n brings, you here\n","6"\n', ",", None),
        ("price\n1,50\n2,75\n", ";", ("price",)),
    ],
)
def test_delimiter_and_header(text: str, delimiter: str, header: tuple[str, ...] | None) -> None:
    found = sniff(text, "\n", complete=True)
    assert (found.delimiter, found.header) == (delimiter, header)


def test_quotes_and_escapes() -> None:
    assert sniff('a,b\n"x, y",1\n', "\n", complete=True).quote == '"'
    assert sniff("a,b\n'x, y',1\n'z',2\n", "\n", complete=True).quote == "'"
    assert sniff('a\tb\n5" pipe\t1\n6" pipe\t2\n', "\n", complete=True).quote is None
    assert sniff('a,b\n"say \\"hi\\" now",1\n"x",2\n', "\n", complete=True).escape == "\\"
    assert sniff('a,b\n"say ""hi"" now",1\n"c:\\",2\n', "\n", complete=True).escape == '"'


def test_title_lines_are_skipped_and_counted_as_they_lie() -> None:
    found = sniff("Monthly report\n\nstore,day,sum\ns1,2020-01-01,5\ns2,2020-01-01,6\n", "\n", complete=True)
    assert (found.skip, found.header) == (2, ("store", "day", "sum"))
    padded = sniff("Report,,\nstore,day,sum\ns1,2020-01-01,5\ns2,2020-01-01,6\n", "\n", complete=True)
    assert (padded.skip, padded.header) == (1, ("store", "day", "sum"))
    remarks = sniff("# made by x, y and z\na,b\n1,2\n3,4\n", "\n", complete=True)
    assert (remarks.skip, remarks.header) == (1, ("a", "b"))


@pytest.mark.parametrize(
    ("end", "footer"),
    [
        ("Total,,,123\n", 1),
        ("\nTotal:,,,123\n", 1),
        ("Grand Total,,,1\n(3 rows)\n", 2),
        ("# end\n\n", 2),
        ("Gesamt,,,5", 1),
        ("Total Cereal,kellogg,4,5\n", 0),
        ("Total,kellogg,4,5\n", 0),
        ("x,,,\n", 0),
        ("", 0),
    ],
)
def test_only_sure_footers_are_footers(end: str, footer: int) -> None:
    text = "name,maker,n,sum\n" + "flakes,acme,1,2\n" * 5 + end
    assert footer_lines(lines_of(text), sniff(text, "\n", complete=True)) == footer


def test_one_broken_quote_does_not_change_what_a_file_is() -> None:
    rows = [f'{i},"name, {i}",{i * 2}' for i in range(200)]
    rows[5] = '5,"name never closed,10'
    found = sniff("id,name,n\n" + "\n".join(rows) + "\n", "\n", complete=True)
    assert (found.delimiter, found.quote, found.columns) == (",", '"', 3)
    assert found.header == ("id", "name", "n")
    assert found.regular > 0.9


def test_what_the_user_says_is_not_found_out() -> None:
    given_ = Given(delimiter=";", quote="", header=False, skip=1)
    found = sniff('x\n"a";"b"\nc;d\n', "\n", complete=True, given=given_)
    assert (found.delimiter, found.quote, found.header, found.skip) == (";", None, None, 1)
    assert sniff("1,2\n3,4\n", "\n", complete=True, given=Given(header=True)).header == ("1", "2")


def test_csv_spectrum(shared_data: SharedData) -> None:
    folder = shared_data("csv_small") / "csv-spectrum"
    for path in sorted((folder / "csvs").glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            text = file.read()
        found = sniff(text, "\n", complete=True)
        rows = parse(lines_of(text), found)
        assert found.header is not None, path.name
        got = [dict(zip(found.header, row, strict=True)) for row in rows[1:]]
        want = json.loads((folder / "json" / f"{path.stem}.json").read_text("utf-8"))
        want = [{k: str(v).replace("\r\n", "\n") for k, v in row.items()} for row in want]
        assert got == want, path.name


def test_adventureworks(shared_data: SharedData) -> None:
    folder = shared_data("adventureworks_po")
    with (folder / "columns.csv").open(newline="", encoding="utf-8") as file:
        described = list(csv.DictReader(file))
    paths = [path for path in sorted(folder.glob("*.csv")) if path.stem != "columns"]
    assert len(paths) == 35
    for path in paths:
        text = path.read_text("utf-8")[: 256 * 1024]
        found = sniff(text, "\n", complete=path.stat().st_size < 256 * 1024)
        columns = sum(row["file"] == path.stem for row in described)
        long = text.split("\n", 1)[0].count("+|") > 0
        assert (found.columns, found.header) == (columns, None), path.name
        assert (found.delimiter, found.row_end) == (("+|", "&|") if long else ("\t", "")), path.name


def test_real_tables(shared_data: SharedData) -> None:
    """All whole real sets here are comma-separated with a header."""
    for name in ("complete_journey", "raha_pairs"):
        paths = sorted(shared_data(name).rglob("*.csv"))
        assert len(paths) >= 8
        for path in paths:
            with path.open(newline="", encoding="utf-8") as file:
                text = file.read(256 * 1024)
            found = sniff(text, "\n", complete=path.stat().st_size < 256 * 1024)
            header = tuple(next(csv.reader(io.StringIO(text))))
            assert (found.delimiter, found.header) == (",", header), path


CLEVER = {  # judged by eye: delimiter, header there, title lines
    "ff6197151fe44d6eeba4cf34668d9220.csv": (",", True, 0),
    "ffa3b397f9314a50ed6c94ac653e5261.csv": (";", True, 0),
    "fe8e89c66ba6beb6de6ac9fbc9d8a623.csv": (",", False, 0),
    "fd9e666fc4309279b58831c785c3cace.csv": (";", True, 0),
    "ff35b00ddd244db0826a2b5796ed2b83.csv": (",", True, 0),
    "ff748e6d00f4b44478f0f30b806cb3f5.csv": (",", True, 0),
    "fffbde3238d4251c2353d79c9ab12361.csv": (",", True, 0),
    "feeea85c86bfe72f4aadfecb4ccc6df0.csv": (",", True, 0),
    "ff843119aa5c629b6433c86d251a1ffc.csv": ("\t", True, 0),
    "ffe14370b4c707103a3674ef4bc345a6.csv": (",", True, 1),
    "ff6cc43861c1309d6d87b056b5b06d09.csv": (",", False, 0),
}


def test_files_of_the_clevercsv_corpus(shared_data: SharedData) -> None:
    path = shared_data("csv_small") / "clevercsv/tests/test_unit/data/abstraction_testcases.json.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        cases = {case["name"]: case["content"] for case in map(json.loads, file)}
    right = 0
    for name, (delimiter, header, skip) in CLEVER.items():
        found = sniff(cases[name], "\n", complete=True)
        right += (found.delimiter, found.header is not None, found.skip) == (delimiter, header, skip)
    assert right == len(CLEVER)


CELL = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=12
)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=400), st.sampled_from(["\n", "\r"]), st.booleans())
def test_never_raises(text: str, newline: str, complete: bool) -> None:
    found = sniff(text, newline, complete=complete)
    assert found.columns >= 1
    assert 0 <= found.skip <= text.count(newline) + 1
    assert 0 <= footer_lines(text.split(newline), found) <= text.count(newline) + 1


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(",;\t|"),
    st.integers(2, 6),
    st.lists(st.lists(CELL, min_size=6, max_size=6), min_size=5, max_size=20),
)
def test_what_csv_writes_is_found_again(delimiter: str, width: int, cells: list[list[str]]) -> None:
    """Fully quoted tables leave no doubt: delimiter, header, and every cell come back."""
    rows = [[str(number), *row[: width - 1]] for number, row in enumerate(cells)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    header = [f"column {i}" for i in range(width)]
    writer.writerows([header, *rows])
    found = sniff(buffer.getvalue(), "\n", complete=True)
    assert (found.delimiter, found.quote, found.header) == (delimiter, '"', tuple(header))
    assert parse(lines_of(buffer.getvalue()), found) == [header, *rows]
