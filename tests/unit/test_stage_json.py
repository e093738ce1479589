"""JSON: values as they stand in the source, strict by the letter, and bad records apart."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.core import Landed, RawInput
from headrace.engines.duckdb.staging import json as module
from headrace.engines.duckdb.staging.stage import stage
from headrace.engines.duckdb.staging.strict import Paths, Text, documents, judge
from tests.staging import run

ABC = {"a": ["a"], "b": ["b"], "c": ["c.d", "c"]}


def lines(tmp_path: Path, *texts: str | bytes, columns=ABC, **options):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(t.encode() if isinstance(t, str) else t for t in texts) + b"\n")
    return run([path], columns, format="jsonl", **options)


def document(tmp_path: Path, text: str | bytes, columns=ABC, **options):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return run([path], columns, format="json", **options)


def test_numbers_keep_their_spelling(tmp_path):
    texts = [
        "1.10",
        "12345678901234567.89",
        "1e5",
        "1E-7",
        "100",
        "-0.0",
        "123456789012345678901234567890",
        "0.10e1",
    ]
    result = lines(tmp_path, *(f'{{"a":{t},"b":"{t}"}}' for t in texts))
    assert result.values == [(t, t, None) for t in texts]
    assert result.lines == list(range(1, len(texts) + 1))


def test_an_object_or_array_does_not_pass_for_a_text(tmp_path):
    texts = ['{"a":{"x":1},"b":2}', '{"a":"{\\"x\\":1}"}', '{"a":[1]}', '{"a":"[","b":{"y":1}}', '{"a":" x"}']
    result = lines(tmp_path, *texts, flat=["a"])
    assert result.rejects == [("x.jsonl", 1, texts[0], "a.type"), ("x.jsonl", 3, texts[2], "a.type")]
    assert result.values == [('{"x":1}', None, None), ("[", '{"y":1}', None), (" x", None, None)]
    again = document(tmp_path, f"[{','.join(texts)}]", flat=["a"])
    assert (again.values, [r[3] for r in again.rejects]) == (result.values, ["a.type"] * 2)


def test_a_key_that_comes_again_deeper_does_not_lend_its_spelling(tmp_path):
    result = lines(
        tmp_path,
        '{"c":{"a":2.50,"d":3.10},"a":2.5}',
        '{"c":{"a":1.50},"a":1.500}',
        r'{"b":"\"a\":1.50","a":1.5}',
        '{"c":{"a":1.50},"a":"1.5"}',
        r'{"\u0061":1.50}',
    )
    assert [a for a, _, _ in result.values] == ["2.5", "1.500", "1.5", "1.5", "1.50"]
    assert result.values[0][2] == "3.10"
    assert result.rejects == []


def test_values_become_text_without_loss(tmp_path):
    result = lines(
        tmp_path,
        r'{"a":"x\ny\u00e9","b":true,"c":null}',
        '{"a":{"x":[1.50, 2, "p q", null]},"b":[ ],"c":{"d":{"e":1.10}}}',
        '{"a":"","b":false}',
    )
    assert result.values == [
        ("x\nyé", "true", None),
        ('{"x":[1.50,2,"p q",null]}', "[]", '{"e":1.10}'),
        ("", "false", None),
    ]


def test_every_flaw_has_its_rule_and_blank_lines_are_no_records(tmp_path):
    result = lines(
        tmp_path,
        '{"a":1}', "", '{"a":1', "[1]", "5", '{"a":1,"a":2}', '{"a":NaN}', b'{"a":"\xff"}',
        '{"a":1,}', '{"a":-Infinity}', '{"a":"\t"}', '{"c":{"d":1,"d":2}}', "null", '{"a":01}',
        '{"a":1}{"b":2}', "  ", '{"b":"NaN, inf,]"}',
        encoding="utf-8",
    )  # fmt: skip
    assert result.lines == [1, 17]
    bad = "json.malformed"
    assert result.rules == [
        (3, bad), (4, "json.not_an_object"), (5, "json.not_an_object"), (6, "json.duplicate_key"), (7, bad),
        (8, "json.encoding"), (9, bad), (10, bad), (11, bad), (12, "json.duplicate_key"),
        (13, "json.not_an_object"), (14, bad), (15, bad),
    ]  # fmt: skip
    assert result.rejects[5][2] == '{"a":"\\xff"}'


def test_top_level_keys_match_by_policy_and_dots_may_be_part_of_a_key(tmp_path):
    texts = ('{"Amount":1,"c.d":2,"new":3}',)
    columns = {"amount": ["amount"], "cd": ["c.d"]}
    assert lines(tmp_path, *texts, columns=columns).values == [("1", "2")]
    assert lines(tmp_path, *texts, columns=columns, case="exact").values == [(None, "2")]
    assert lines(tmp_path, *texts, columns=columns, extras=["new"]).values == [("1", "2", "3")]


@pytest.mark.parametrize("as_document", [False, True])
def test_keys_that_differ_only_in_case_never_lend_one_value_for_another(tmp_path, as_document):
    usual = ['{"id":1,"x":0}'] * 600  # more than an inspection looks at
    texts = [
        '{"id":1,"x":0}', '{"Id":2,"id":3,"x":0}', '{"ID":4,"x":0}', '{"Id":null,"iD":5,"x":0}',
        '{"x":0,"id ":6}', '{"id":7,"id":8}', '{"id":9,"X":1,"other":1,"OTHER":2}',
    ]  # fmt: skip
    columns = {"id": ["id"], "x": ["x"]}
    if as_document:
        result = document(tmp_path, "[" + ",".join(usual + texts) + "]", columns=columns)
    else:
        result = lines(tmp_path, *usual, *texts, columns=columns)
    assert result.values[600:] == [("1", "0"), ("4", "0"), ("6", "0"), ("9", "1")]
    assert result.rules == [
        (602, "json.duplicate_key"),
        (604, "json.duplicate_key"),
        (606, "json.duplicate_key"),
    ]
    exact = lines(tmp_path, *texts, columns=columns, case="exact")
    assert exact.values[1] == ("3", "0"), "where case matters they are different columns"
    assert [rule for rule in exact.rules if rule[0] != 6] == []


def test_drift_policies_hold_per_record(tmp_path):
    texts = ('{"a":1,"b":2,"c":3}', '{"a":1,"b":null,"c":3,"z":4}', '{"a":1,"b":2}')
    assert lines(tmp_path, *texts, on_new="quarantine").rules == [(2, "header.unknown_column")]
    assert lines(tmp_path, *texts, on_missing="quarantine").rules == [(3, "header.missing_column")]


def test_a_line_of_three_megabytes_and_a_deep_one_are_records(tmp_path):
    deep = '{"a":' * 50_000 + "1" + "}" * 50_000
    result = lines(tmp_path, '{"a":"%s"}' % ("x" * 3_000_000), '{"a":1}', deep)
    assert [len(a) for a, _, _ in result.values[:2]] == [3_000_000, 1]
    assert len(result.rows) + len(result.rejects) == 3


def test_files_of_other_encodings_and_line_ends(tmp_path):
    text = '{"a":"é"}\r\n\r\n{"a":1.10}\r\n{"a"\r\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path = tmp_path / f"{encoding}.jsonl"
        path.write_bytes(text.encode(encoding))
        result = run([path], {"a": ["a"]}, format="jsonl")
        assert result.rows == [("é", path.name, 1), ("1.10", path.name, 3)]
        assert result.rejects == [(path.name, 4, '{"a"', "json.malformed")]


def test_many_files_keep_their_lines(tmp_path):
    paths = []
    for i in range(20):
        paths.append(tmp_path / f"{i:02}.jsonl")
        paths[-1].write_text(
            "\n" * (i % 3) + "".join(f'{{"a":{i},"b":{j}}}\n' for j in range(i % 4)) + "{\n" * (i % 2)
        )
    result = run(paths, ["a", "b"], format="jsonl")
    assert result.rows == [
        (str(i), str(j), f"{i:02}.jsonl", j + 1 + i % 3) for i in range(20) for j in range(i % 4)
    ]
    assert [(f, line) for f, line, _, _ in result.rejects] == [
        (f"{i:02}.jsonl", i % 3 + i % 4 + 1) for i in range(1, 20, 2)
    ]


ELEMENTS = '[{"a":1.10},\n {"a":2, "b":[1.0]},5,\n{"a":3}]'
EXPECTED = [("1.10", None, None, 1), ("2", "[1.0]", None, 2), ("3", None, None, 4)]


@pytest.mark.parametrize("by", ["duckdb", "python"])
def test_an_array_has_a_record_per_element(tmp_path, monkeypatch, by):
    monkeypatch.setattr(module, "ARRAY_FROM", 0 if by == "duckdb" else 1 << 40)
    result = document(tmp_path, ELEMENTS)
    assert [(*r[:3], r[4]) for r in result.rows] == EXPECTED
    assert result.rejects == [("x.json", 3, "5", "json.not_an_object")]


def test_what_follows_a_break_in_a_document_is_one_reject(tmp_path, monkeypatch):
    for limit in (0, 1 << 40):
        monkeypatch.setattr(module, "ARRAY_FROM", limit)
        result = document(tmp_path, '[{"a":1}, {"a":2} {"a":3}]')
        assert [a for a, _, _ in result.values] == ["1", "2"]
        assert result.rejects == [("x.json", 3, '{"a":3}]', "json.malformed")]


@pytest.mark.parametrize(
    ("text", "values", "rejects"),
    [
        ('{"a":1.10}', ["1.10"], []),
        (' {"a":1.10}\n', ["1.10"], []),
        ('{"a":1.10}x', [], [(1, "json.malformed")]),
        ('{"n":{"x":[1]},"records":[{"a":1},{"a":2}],"m":2}', ["1", "2"], []),
        ('{"records":[{"a":1},{"a":2}],"m":}', [], [(1, "json.malformed")]),
        ("[]", [], []),
        ("[", [], [(1, "json.malformed")]),
        ("7", [], [(1, "json.not_an_object")]),
    ],
)
def test_documents_of_other_shapes(tmp_path, text, values, rejects):
    result = document(tmp_path, text, columns=["a"])
    assert [a for (a,) in result.values] == values
    assert result.rules == rejects


def test_a_document_is_read_in_blocks_of_any_size():
    text = '{"n":[1,{"x":"]"}], "records" : [{"a":"é\\"}"}, 12.50 , [true,null]] ,"z":1}'
    expected = ['{"a":"é\\"}"}', "12.50", "[true,null]"]
    for size in range(1, 12):
        blocks = iter([text[i : i + size] for i in range(0, len(text), size)])
        assert list(documents(Text(blocks), "records")) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(max_size=5)
    | st.decimals(-(10**9), 10**9, places=3).map(lambda d: float(d)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON), min_size=1, max_size=6), st.booleans()
)
def test_the_fast_way_and_the_strict_way_agree(tmp_path, records, compact):
    separators = (",", ":") if compact else None
    texts = [json.dumps(r, separators=separators, ensure_ascii=compact) for r in records]
    paths = Paths([[("a",)], [("b",)], [("c", "d"), ("c",)]], 3, False, False)
    result = lines(tmp_path, *texts)
    assert result.rules == [(n, "header.no_column") for n, r in enumerate(records, 1) if not r]
    texts = [t for t, r in zip(texts, records, strict=True) if r]

    def plain(values):
        # Containers may differ in how a text inside them is escaped, not in what they say.
        return [
            v if v is None or v[:1] not in ("{", "[") else (json.loads(v) if _is_json(v) else v)
            for v in values
        ]

    assert [plain(v) for v in result.values] == [plain(judge(t, paths)[0]) for t in texts]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("body", "path", "found"),
    [
        ('{"data": {"items": [{"a": 1.50}, {"a": "x"}], "n": 2}}', ["data", "items"], ["1.50", "x"]),
        ('{"edges": [{"node": {"a": 1}}, {"node": {"a": 2}}]}', ["edges", "*", "node"], ["1", "2"]),
        ('{"d": [{"r": [{"a": 1}]}, {"r": [{"a": 2}, {"a": 3}]}]}', ["d", "*", "r"], ["1", "2", "3"]),
        ('{"data": {"a": 7}}', ["data"], ["7"]),
        ('{"data": null}', ["data"], []),
        ('{"data.items": [{"a": 0}], "data": {"items": [{"a": 1}]}}', ["data", "items"], ["1"]),
    ],
)  # fmt: skip
def test_records_lie_at_the_end_of_a_path(
    tmp_path: Path, body: str, path: list[str], found: list[str]
) -> None:
    """What a source of pages says; a single text names one key, as the inspection of a file finds it."""
    page = tmp_path / "page.json"
    page.write_text(body)
    form = {"type": "json", "encoding": "utf-8", "records": path, "keys": ["a"]}
    landed = Landed("k", "page", len(body), "", None, form, arrived="2026-01-01T00:00:00Z")
    con = duckdb.connect()
    done = stage(con, [RawInput("s", [(1, landed, page)])], {"a": ["a"]}, scratch=tmp_path / "scratch")
    rows = con.execute(f"SELECT a, _line FROM {done.relation} ORDER BY _line").fetchall()
    assert rows == [(value, line) for line, value in enumerate(found, 1)]
    assert con.execute(f"SELECT count(*) FROM {done.rejects}").fetchall() == [(0,)]


PAGES = [
    '{"d": [{"a": 1.50, "b": "x"}, {"a": 2}, {"a": "\\u00e9", "b": null}]}',
    '{"d": []}',
    '{"d": [{"a": 3, "a": 4}, 7, {"b": {"c": 1}}, {"a": NaN}]}',
    '{"d": [{"a": 5},\n  {"a":\n 6}]}',
    '{"d": [{"a": 7}, {"a": 8}',
    '{"d": [{"a": 9}]} and more',
    '{"n": 1}',
    '{"d": [{"a": 12345678901234567890123, "b": 1e-7}, {"a": "line\\nbreak"}]}',
    '{"d": [{"A": "case"}, {"a": "\\ud800"}]}',
    '{"d": [{"a": ""}, {"a": " "}, {}, {"b": true}]}',
]


@pytest.mark.parametrize("columns", [{"a": ["a"], "b": ["b"]}, {"a": ["a"], "c": ["b.c"]}])
def test_pages_laid_out_as_lines_say_what_their_documents_say(
    tmp_path: Path, columns: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for number, body in enumerate(PAGES * 3):
        page = tmp_path / f"{number}.json"
        page.write_text(body)
        form = {"type": "json", "encoding": "utf-8", "records": ["d"], "keys": ["a", "b"]}
        item = Landed(
            f"k{number}", f"page{number}", len(body), "", None, form, arrived="2026-01-01T00:00:00Z"
        )
        files.append((1, item, page))

    def found(fast: bool) -> tuple[list[object], list[object], object]:
        if not fast:
            monkeypatch.setattr(module, "laid_out", lambda *_: None)
        con = duckdb.connect()
        done = stage(con, [RawInput("s", files)], columns, scratch=tmp_path / f"scratch{fast}")
        names = ", ".join(columns)
        rows = con.execute(f"SELECT {names}, _file, _line FROM {done.relation} ORDER BY ALL").fetchall()
        bad = con.execute(f"SELECT _file, _line, _raw, _rule FROM {done.rejects} ORDER BY ALL").fetchall()
        return rows, bad, done.records

    fast, slow = found(True), found(False)
    assert fast == slow
    assert len(slow[0]) > 30
    assert len(slow[1]) > 10
