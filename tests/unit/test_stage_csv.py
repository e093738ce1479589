"""Delimited text: every line is a row, part of one, or a reject, on the line where it stands."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.core import Landed, RawInput
from headrace.engines.duckdb.staging import csv as module
from headrace.engines.duckdb.staging.lines import place
from headrace.engines.duckdb.staging.stage import stage
from tests.staging import ARRIVED, run

PLAIN = {
    "type": "csv", "compression": None, "encoding": "utf-8", "delimiter": ",", "quote": '"', "escape": '"',
    "header": ["a", "b", "c"], "skip": 0, "newline": "\n", "quoted": True, "nul": False, "row_end": "",
    "footer_lines": 0,
}  # fmt: skip


CON = duckdb.connect(config={"threads": 2})


def told(tmp_path: Path, data: bytes, *, wanted=("a", "b", "c"), con=None, name="f.csv", **form):
    """Stages bytes with a dialect that is said, not detected."""
    path = tmp_path / name
    path.write_bytes(data)
    end = b"\r" if form.get("newline") == "\r" else b"\n"
    lines = data.count(end) + (not data.endswith(end) if data else 0)
    landed = Landed("k", name, len(data), "", None, {**PLAIN, "lines": lines, **form}, arrived=ARRIVED)
    con = con or CON
    done = stage(
        con, [RawInput("s", [(1, landed, path)])], {c: [c] for c in wanted}, scratch=tmp_path / "scratch"
    )
    chosen = ", ".join(f'"{c}"' for c in wanted)
    rows = con.execute(f"SELECT {chosen}, _line FROM {done.relation} ORDER BY _line").fetchall()
    rejects = con.execute(f"SELECT _line, _raw, _rule FROM {done.rejects} ORDER BY 1").fetchall()
    assert done.records == {"k": len(rows) + len(rejects)}
    return rows, rejects


def test_ragged_rows_are_rejects_with_their_raw_line_and_others_stay(tmp_path):
    rows, rejects = told(tmp_path, b"a,b,c\n1,2,3\n4,5\n6,7,8,9\n10,11,12\n")
    assert rows == [("1", "2", "3", 2), ("10", "11", "12", 5)]
    assert rejects == [(3, "4,5", "csv.missing_columns"), (4, "6,7,8,9", "csv.too_many_columns")]


def test_an_empty_field_is_an_empty_text_quoted_or_not(tmp_path):
    rows, _ = told(tmp_path, b'a,b,c\n1,,""\n')
    assert rows == [("1", "", "", 2)]


def test_lines_count_quoted_newlines_blank_lines_and_rejects(tmp_path):
    data = b'a,b,c\n\n1,"x\n\ny",3\n4,5\n\n\n6,"p\nq\nr\ns",8\n9,"10\n11",12,13\n14,15,16\n\n'
    rows, rejects = told(tmp_path, data)
    assert rows == [("1", "x\n\ny", "3", 3), ("6", "p\nq\nr\ns", "8", 9), ("14", "15", "16", 15)]
    assert rejects == [
        (6, "4,5", "csv.missing_columns"),
        (13, '9,"10\n11",12,13', "csv.too_many_columns"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_reject_after_blank_lines_is_on_its_own_line(tmp_path, end):
    data = end.join(["a,b,c", "1,1,x", "", "2,2", "", "", '3,"4', '5",6,7', "8,9,10", ""]).encode()
    rows, rejects = told(tmp_path, data, newline=end)
    assert rows == [("1", "1", "x", 2), ("8", "9", "10", 9)]
    assert rejects == [
        (4, "2,2", "csv.missing_columns"),
        (7, f'3,"4{end}5",6,7', "csv.too_many_columns"),
    ]


def test_an_unterminated_quote_costs_one_line(tmp_path):
    data = b'a,b,c\n1,2,3\n4,"5,6\n7,8,9\n8,9,10\n1,"q",2\n11,12,13\n'
    rows, rejects = told(tmp_path, data)
    assert [r[-1] for r in rows] == [2, 4, 5, 6, 7]
    assert rows[3] == ("1", "q", "2", 6)
    assert rejects == [(3, '4,"5,6', "csv.unterminated_quote")]


def test_an_unterminated_quote_may_swallow_megabytes_and_still_costs_one_line(tmp_path):
    body = [f"{i},text {i},{'y' * (i % 50)}\n" for i in range(200_000)]
    body[1_000] = 'x,"unterminated,5\n'
    body[150_000] = '"y,6,7\n'
    rows, rejects = told(tmp_path, ("a,b,c\n" + "".join(body)).encode())
    assert len(rows) == 199_998
    assert all(line == int(a) + 2 for a, _, _, line in rows)
    assert rejects == [
        (1_002, 'x,"unterminated,5', "csv.unterminated_quote"),
        (150_002, '"y,6,7', "csv.unterminated_quote"),
    ]


def test_many_unterminated_quotes_fall_back_to_the_slow_reader(tmp_path):
    body = "".join(f'{i},"broken,{i}\n{i},good,{i}\n{i},"multi\nline",{i}\n' for i in range(100))
    rows, rejects = told(tmp_path, f"a,b,c\n{body}".encode())
    assert len(rows) == 200
    assert {r[1] for r in rows} == {"good", "multi\nline"}
    assert [line for line, _, _ in rejects] == [2 + 4 * i for i in range(100)]
    assert {rule for _, _, rule in rejects} == {"csv.unterminated_quote"}


def test_a_quote_that_closes_before_the_end_of_its_field_is_a_reject(tmp_path):
    rows, rejects = told(tmp_path, b'a,b,c\n7,"8"x,9\n4,5"x"6,6\n')
    assert rows == [("4", '5"x"6', "6", 3)]
    assert rejects == [(2, '7,"8"x,9', "csv.unterminated_quote")]


def test_a_repeated_header_is_no_row_but_a_row_that_spells_it_otherwise_is(tmp_path):
    rows, rejects = told(tmp_path, b'a,b,c\n1,2,3\na,b,c\n4,5,6\n"a",b,c\n', wanted=("b",))
    assert rows == [("2", 2), ("5", 4), ("b", 5)]
    assert rejects == [(3, "a,b,c", "csv.repeated_header")]


def test_footer_lines_are_rejects_whatever_their_shape(tmp_path):
    rows, rejects = told(tmp_path, b"a,b,c\n1,2,3\nTotal,,3\nThe end\n", footer_lines=2)
    assert rows == [("1", "2", "3", 2)]
    assert rejects == [(3, "Total,,3", "csv.footer"), (4, "The end", "csv.footer")]


def test_invalid_utf8_in_a_utf8_file_is_a_reject_that_shows_its_bytes(tmp_path):
    rows, rejects = told(tmp_path, b"a,b,c\n1,\xff\xc3,3\n4,\xc3\xa9,6\n")
    assert rows == [("4", "é", "6", 3)]
    assert rejects == [(2, "1,\\xff\\xc3,3", "csv.encoding")]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_all_line_ends_with_other_ends_inside_quotes(tmp_path, newline):
    data = newline.join(["a,b,c", '1,"x\ny\rz",3', "4,5", "", "6,7,8", ""]).encode()
    rows, rejects = told(tmp_path, data, newline=newline)
    assert [r[:3] for r in rows] == [("1", "x\ny\rz", "3"), ("6", "7", "8")]
    inside = 0 if newline == "\r\n" else 1
    extra = 1 if newline == "\r\n" else inside
    assert [r[3] for r in rows] == [2, 5 + extra]
    assert rejects == [(3 + extra, "4,5", "csv.missing_columns")]


def test_mixed_line_ends_change_no_value(tmp_path):
    rows, rejects = told(tmp_path, b'a,b,c\n1,2,3\r\n4,"x\r\ny",6\n7,8\r\n9,1\r0,11\n')
    assert rows == [("1", "2", "3", 2), ("4", "x\r\ny", "6", 3), ("9", "1\r0", "11", 6)]
    assert rejects == [(5, "7,8", "csv.missing_columns")]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "windows-1252"])
def test_other_encodings_come_out_as_the_same_text(tmp_path, encoding):
    text = 'a,b,c\r\n1,"é\r\n€",3\r\nü,5\r\n6,ÿ,8\r\n'
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    path = tmp_path / "x.csv"
    path.write_bytes(mark + text.encode(encoding))
    result = run([path])
    assert result.values == [("1", "é\r\n€", "3"), ("6", "ÿ", "8")]
    assert result.lines == [2, 5]
    assert result.rejects == [("x.csv", 4, "ü,5", "csv.missing_columns")]


def test_a_file_of_mixed_encodings_decodes_line_by_line_or_rejects(tmp_path):
    data = "a,b,c\n1,é€,3\n".encode() + b"4,\xe9,6\n7,\x81,9\n"
    rows, rejects = told(tmp_path, data, encoding="mixed")
    assert rows == [("1", "é€", "3", 2), ("4", "é", "6", 3)]
    assert rejects == [(4, "7,\\x81,9", "csv.encoding")]


def test_nul_bytes_are_rejects_and_shown(tmp_path):
    rows, rejects = told(tmp_path, b"a,b,c\n1,\0,3\n4,5,6\n", nul=True)
    assert rows == [("4", "5", "6", 3)]
    assert rejects == [(2, "1,\\x00,3", "csv.nul_byte")]


def test_rows_with_an_end_mark_of_their_own_hold_newlines_and_quotes(tmp_path):
    data = b'1+|x "y"+|3&|\n4+|5\n6+|"7&|\n1+|2&|\n'
    form = {"delimiter": "+|", "row_end": "&|", "quote": None, "escape": None, "header": None, "columns": 3}
    rows, rejects = told(tmp_path, data, **form)
    assert rows == [("1", 'x "y"', "3", 1), ("4", "5\n6", '"7', 2)]
    assert rejects == [(4, "1+|2&|", "csv.missing_columns")]


def test_a_backslash_escapes_where_the_dialect_says_so(tmp_path):
    rows, _ = told(tmp_path, b'a,b,c\n1,"2\\"x",3\n4,"\\"\n",6\n', escape="\\")
    assert rows == [("1", '2"x', "3", 2), ("4", '"\n', "6", 3)]


def test_a_line_longer_than_two_megabytes_is_a_row_like_others(tmp_path):
    rows, rejects = told(tmp_path, b"a,b,c\n1,2," + b"x" * 3_000_000 + b"\n4,5,6\n")
    assert [(a, b, len(c), line) for a, b, c, line in rows] == [("1", "2", 3_000_000, 2), ("4", "5", 1, 3)]
    assert rejects == []


@pytest.mark.parametrize("data", [b"a,b,c\n", b"a,b,c", b"a,b,c\n\n\n"])
def test_a_header_alone_has_no_records(tmp_path, data):
    assert told(tmp_path, data) == ([], [])


def test_one_column_keeps_its_blank_lines(tmp_path):
    rows, _ = told(tmp_path, b'a\n1\n\n"x\n\ny"\n4\n', header=["a"], wanted=("a",))
    assert rows == [("1", 2), ("", 3), ("x\n\ny", 4), ("4", 7)]


def test_a_broken_gzip_gives_the_rows_before_the_break_and_one_reject(tmp_path):
    data = gzip.compress(("a,b,c\n" + "".join(f"{i},{i * 7919 % 10007},x\n" for i in range(50_000))).encode())
    path = tmp_path / "x.csv"
    path.write_bytes(data[: len(data) // 2])
    form = {**PLAIN, "compression": "gzip", "lines": 50_001}
    con = duckdb.connect()
    landed = Landed("k", "x.csv", 1, "", None, form, arrived=ARRIVED)
    done = stage(con, [RawInput("s", [(1, landed, path)])], {"a": ["a"]}, scratch=tmp_path / "scratch")
    rows = con.execute(f"SELECT a, _line FROM {done.relation} ORDER BY _line").fetchall()
    assert len(rows) > 1_000
    assert rows == [(str(i), i + 2) for i in range(len(rows))]
    ((line, rule),) = con.execute(f"SELECT _line, _rule FROM {done.rejects}").fetchall()
    assert (line, rule) == (len(rows) + 2, "file.unreadable")


def test_compressed_files_are_read_alike(tmp_path):
    data = b'a,b,c\n1,2,3\n4,5\n6,"x\ny",8\n'
    (tmp_path / "1.csv.gz").write_bytes(gzip.compress(data))
    with zipfile.ZipFile(tmp_path / "2.zip", "w") as archive:
        archive.writestr("inner.csv", data)
    (tmp_path / "3.csv").write_bytes(data)
    result = run([tmp_path / "1.csv.gz", tmp_path / "2.zip", tmp_path / "3.csv"])
    assert result.values == [("1", "2", "3"), ("6", "x\ny", "8")] * 3
    assert result.lines == [2, 4] * 3
    assert [r[:3] for r in result.rejects] == [(n, 3, "4,5") for n in ("1.csv.gz", "2.zip", "3.csv")]


def test_several_files_that_are_read_from_clean_copies_keep_their_rows(tmp_path):
    data = 'a,b,c\n1,é,3\n4,5\n6,"x\ny",8\n9,"open,1\nü,1,2\n'
    (tmp_path / "1.csv").write_bytes(("\ufeff" + data).encode("utf-16-le"))
    (tmp_path / "2.csv").write_bytes(data.encode("windows-1252"))
    for name in ("3.zip", "4.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("inner.csv", data.replace(",1\n", "\n").replace('"open', "open"))
    result = run([tmp_path / n for n in ("1.csv", "2.csv", "3.zip", "4.zip")])
    assert result.values == [("1", "é", "3"), ("6", "x\ny", "8"), ("ü", "1", "2")] * 4
    assert result.lines == [2, 4, 7] * 4
    assert [r[:2] for r in result.rejects] == [
        (name, line) for name in ("1.csv", "2.csv", "3.zip", "4.zip") for line in (3, 6)
    ]


def test_headers_are_matched_by_policy_and_reordered(tmp_path):
    (tmp_path / "1.csv").write_text("id,Name,amount\n1,x,2\n")
    (tmp_path / "2.csv").write_text("Betrag;NAME ;id;new\n3;y;4;n\n")
    paths = [tmp_path / "1.csv", tmp_path / "2.csv"]
    columns = {"id": ["id"], "name": ["name"], "amount": ["amount", "betrag"]}
    assert run(paths, columns).values == [("1", "x", "2"), ("4", "y", "3")]
    assert run(paths, columns, extras=["new"]).values == [("1", "x", "2", None), ("4", "y", "3", "n")]
    assert run(paths, columns, case="exact").values == [("1", None, "2"), ("4", None, None)]
    refused = run(paths, columns, on_new="quarantine")
    assert refused.values == [("1", "x", "2")]
    assert refused.rejects == [("2.csv", 2, "3;y;4;n", "header.unknown_column")]
    refused = run(paths, {**columns, "new": ["new"]}, on_missing="quarantine")
    assert refused.rejects == [("1.csv", 2, "1,x,2", "header.missing_column")]


@pytest.mark.parametrize(
    ("name", "data"), [("1.csv", "foo,bar\n1,2\n"), ("1.txt", "\x8e1f\n\x8f2\n"), ("1.jsonl", '{"foo":1}\n')]
)
def test_a_file_without_any_column_of_the_contract_gives_no_rows_of_nothing(tmp_path, name, data):
    (tmp_path / name).write_text(data, encoding="utf-8")
    result = run([tmp_path / name], {"id": ["id"], "name": ["name"], "c": ["foo"]}, evolved=["c"])
    assert result.rows == []
    last = data.count("\n")
    assert result.rejects == [(name, last, data.split("\n")[last - 1], "header.no_column")]


def test_an_evolved_column_is_none_that_a_file_must_have(tmp_path):
    (tmp_path / "1.csv").write_text("id,name\n1,x\n")
    columns = {"id": ["id"], "name": ["name"], "new": ["New"]}
    assert run([tmp_path / "1.csv"], columns, evolved=["new"], on_missing="quarantine").values == [
        ("1", "x", None)
    ]


@pytest.mark.parametrize("header", ["id,amt,amt,name", "id,AMT,amt,name", "id,amt,Amt ,name"])
def test_two_fields_of_one_name_are_not_one_column_whose_other_values_vanish(tmp_path, header):
    (tmp_path / "1.csv").write_text(f"{header}\n1,2,3,x\n")
    columns = {"id": ["id"], "amt": ["amt"], "name": ["name"]}
    assert run([tmp_path / "1.csv"], columns).rejects == [("1.csv", 2, "1,2,3,x", "header.duplicate_column")]
    both = {"id": ["id"], "one": header.split(",")[1:2], "two": header.split(",")[2:3]}
    if len(set(header.split(","))) == 4:
        assert run([tmp_path / "1.csv"], columns, case="exact").values == [
            ("1", "3" if "AMT" in header else "2", "x")
        ]
        assert run([tmp_path / "1.csv"], both).values == [("1", "2", "3")]


def test_a_field_without_a_name_is_called_after_its_place(tmp_path):
    (tmp_path / "1.csv").write_text("id,,name, \n1,2,x,4\n")
    columns = {"id": ["id"], "name": ["name"]}
    extra = {"column2": ["column2"], "column4": ["column4"]}
    evolved = run([tmp_path / "1.csv"], {**columns, **extra}, evolved=list(extra), header=True)
    assert evolved.values == [("1", "x", "2", "4")]
    assert run([tmp_path / "1.csv"], columns, on_new="freeze", header=True).values == [("1", "x")]
    refused = run([tmp_path / "1.csv"], columns, on_new="quarantine", header=True)
    assert refused.rejects == [("1.csv", 2, "1,2,x,4", "header.unknown_column")]


def test_many_files_of_one_header_keep_their_own_lines(tmp_path):
    paths = []
    for i in range(60):
        extra = {
            0: "",
            1: f'{i},"two\nlines",z\n',
            2: "too,few\n",
            3: "\n",
            4: "a,b,c\n",
            5: f'{i},"open,z\n',
        }
        paths.append(tmp_path / f"{i:02}.csv")
        paths[-1].write_text(f"a,b,c\n{extra[i % 6]}" + "".join(f"{i},{j},x\n" for j in range(i % 4)))
    columns = {"a": ["a"], "b": ["b"], "c": ["c"]}
    result = run(paths, columns, header=None, delimiter=",", quote='"')
    first = {0: 2, 1: 4, 2: 3, 3: 3, 4: 3, 5: 3}
    for a, b, c, file, line in result.rows:
        i = int(a)
        assert file == f"{i:02}.csv"
        assert line == (2 if c == "z" else first[i % 6] + int(b))
    assert len(result.rows) == sum(i % 4 for i in range(60)) + 10
    rules = {2: "csv.missing_columns", 4: "csv.repeated_header", 5: "csv.unterminated_quote"}
    assert [(f, line, rule) for f, line, _, rule in result.rejects] == [
        (f"{i:02}.csv", 2, rules[i % 6]) for i in range(60) if i % 6 in rules
    ]


def test_more_headers_than_a_view_can_hold_become_a_table(tmp_path):
    paths = []
    for i in range(15):
        paths.append(tmp_path / f"{i:02}.csv")
        paths[-1].write_text(f"id,c{i}\n{i},x\n")
    assert run(paths, {"id": ["id"], "last": ["c14"]}).values == [(str(i), None) for i in range(14)] + [
        ("14", "x")
    ]


def test_thousands_of_shifts_join_instead_of_nesting(tmp_path):
    count = 6_000
    rows, _ = told(tmp_path, b"a,b,c\n" + b"".join(b'%d,"x\ny",z\n%d,y,z\n' % (i, i) for i in range(count)))
    assert [line for *_, line in rows] == [line for i in range(count) for line in (2 + 3 * i, 4 + 3 * i)]


def test_a_second_call_replaces_the_first(tmp_path):
    con = duckdb.connect()
    told(tmp_path, b"a,b,c\n1,2,3\n", con=con)
    before = con.execute("SELECT count(*) FROM duckdb_tables()").fetchall()
    rows, _ = told(tmp_path, b"a,b,c\n4,5,6\n", con=con)
    assert rows == [("4", "5", "6", 2)]
    assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == before


def test_a_count_of_lines_that_does_not_fit_is_not_believed(tmp_path):
    for lines in (None, 99):
        rows, _ = told(tmp_path, b'a,b,c\n1,"x\ny",3\n4,5,6\n', lines=lines)
        assert [r[-1] for r in rows] == [2, 4]


def test_ordinary_dirt_does_not_need_the_slow_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "read_slowly", None)
    data = b'a,b,c\n1,"x\ny",3\n4,5\n\n"6\n\n",7,8\n9\n"p\nq",r,s\n1,"2,3\n\n4,5,6\n7,8,9,10\n"a",b,"c\n"\n'
    rows, rejects = told(tmp_path, data)
    assert [line for *_, line in rows] == [2, 6, 10, 14, 16]
    assert [line for line, _, _ in rejects] == [4, 9, 12, 15]


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16-le", "mixed"])
def test_text_that_decodes_as_a_whole_is_read_fast(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(module, "read_slowly", None)
    head, body = "a,b,c\n", 'é,2,3\n4,"ü\nü",6\n7,8\na,b,c\n9,"1\n1,é,3\n'
    data = head.encode() + "é€,ü,x\n".encode() + body.encode("windows-1252")
    expected = [("é€", "ü", "x", 2)]
    if encoding != "mixed":
        data, expected = ("\ufeff" * (encoding != "windows-1252") + head + body).encode(encoding), []
    after = len(expected)
    rows, rejects = told(tmp_path, data, encoding=encoding)
    expected += [("é", "2", "3", 2 + after), ("4", "ü\nü", "6", 3 + after), ("1", "é", "3", 8 + after)]
    assert rows == expected
    assert rejects == [
        (5 + after, "7,8", "csv.missing_columns"),
        (6 + after, "a,b,c", "csv.repeated_header"),
        (7 + after, '9,"1', "csv.unterminated_quote"),
    ]
    assert list((tmp_path / "scratch").glob("*.csv")) == []


def test_lines_that_nothing_explains_are_not_placed():
    assert place(2, 5, 4, (), (), ()) == [(0, 2)]
    assert place(2, 6, 4, (), (), ()) is None
    assert place(2, 6, 4, (), (), ((3, 1),)) == [(0, 2), (4, 7)]
    assert place(2, 9, 4, [(3, 2)], [2, 4, 9], ()) == [(0, 5), (4, 10)]
    assert place(2, 9, 4, [(3, 2)], [2, 9], ((0, 1),)) is None


DIALECTS = st.tuples(st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
CELL = st.text(st.sampled_from("ab1é€,;|\t\"\n\r '\\"), max_size=6)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=8), DIALECTS)
def test_what_a_csv_writer_writes_comes_back_exactly_with_its_line(tmp_path, table, dialect):
    delimiter, newline, all_quoted = dialect
    # A space beside a quote is eaten by many readers, and by ours: it is no part of this promise.
    table = [tuple(cell.strip(" ") for cell in row) for row in table]
    out = io.StringIO()
    # The writer of Python 3.11 leaves a carriage return unquoted, which then belongs to the line end.
    all_quoted = all_quoted or any("\r" in cell for row in table for cell in row)
    quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(out, delimiter=delimiter, lineterminator=newline, quoting=quoting)
    writer.writerow("abc")
    expected = []
    for row in table:
        line = out.getvalue().count("\n") + 1
        writer.writerow(row)
        expected.append((*row, line))
    header = ("a", "b", "c")
    expected = [r for r in expected if r[:3] != header]
    rows, rejects = told(tmp_path, out.getvalue().encode(), delimiter=delimiter, newline=newline)
    assert rows == expected
    assert all(rule == "csv.repeated_header" for _, _, rule in rejects)


LINE = st.sampled_from(
    [
        "1,2,3",
        "x,y,z",
        "4,5",
        "6,7,8,9",
        "",
        '"p\nq",r,s',
        '"open,1,2',
        'a"b,c,d',
        '"x"y,1,2',
        "a,b,c",
        '"",,',
        "é,ü,€",
    ]
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINE, max_size=12), st.booleans())
@example(['"open,1,2', "1,2,3", '"p\nq",r,s'], True)
def test_no_line_is_lost_or_counted_twice(tmp_path, lines, final):
    text = "\n".join(["a,b,c", *lines]) + ("\n" if final else "")
    rows, rejects = told(tmp_path, text.encode())
    physical = text.split("\n")
    covered = [1]
    for *values, line in rows:
        covered += range(line, line + 1 + sum(v.count("\n") for v in values))
        assert values[0].split("\n")[0] in physical[line - 1]
    for line, raw, _ in rejects:
        assert raw == "\n".join(physical[line - 1 : line + raw.count("\n")])
        covered += range(line, line + 1 + raw.count("\n"))
    blank = [i for i, p in enumerate(physical, 1) if not p and i not in covered]
    assert sorted(covered + blank) == list(range(1, len(physical) + 1))


def test_one_bad_file_does_not_stop_the_group(tmp_path, monkeypatch):
    paths = []
    for i in range(5):
        paths.append(tmp_path / f"{i}.csv")
        paths[-1].write_bytes(b"a,b,c\n1,2,3\n" + (b"4,5\r,6\n" if i == 3 else b"4,5,6\n"))
    slow = []
    real = module.read_slowly
    monkeypatch.setattr(
        module, "read_slowly", lambda s, f, h, r="": (slow.append(f.landed.name), real(s, f, h, r))
    )
    result = run(paths, ["a", "b", "c"], header=None, delimiter=",", quote='"')
    assert slow == ["3.csv"]
    assert result.values == ([("1", "2", "3"), ("4", "5", "6")] * 3 + [("1", "2", "3"), ("4", "5\r", "6")]
                             + [("1", "2", "3"), ("4", "5", "6")])  # fmt: skip
