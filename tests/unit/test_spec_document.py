"""YAML as definitions are written: every line known, no traps."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.spec.document import MAX_BYTES, Unreadable, parse, read


def fails(text: str) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        parse(text, "p.yml")
    return caught.value


def test_scalars_are_what_a_reader_takes_them_for() -> None:
    texts = "NO, yes, on, 007, 12:30, 2026-01-31, 1_000, 0x1f, '5'"
    assert parse(f"a: [{texts}, 5, -3, 1.5, .5, 1e3, true, False, ~, null]", "p.yml").value["a"] == [
        *("NO", "yes", "on", "007", "12:30", "2026-01-31", "1_000", "0x1f", "5"),
        *(5, -3, 1.5, 0.5, 1000.0, True, False, None, None),
    ]


def test_keys_are_text() -> None:
    assert parse("1: a\nNO: b\ntrue: c\n", "p.yml").value == {"1": "a", "NO": "b", "true": "c"}


def test_json_is_yaml() -> None:
    value = {"a": ["\U0001f600 é", None, True, 1.5, {"b": {}}]}
    assert parse(json.dumps(value), "p.yml").value == value


def test_every_key_and_entry_has_its_line() -> None:
    document = parse("a:\n  b: 1\n  c:\n    - x\n    - {d: 2,\n       e: 3}\n", "p.yml")
    lines = {at: mark.line for at, mark in document.marks.items()}
    assert lines == {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("a", "c", 0): 4,
        ("a", "c", 1): 5,
        ("a", "c", 1, "d"): 5,
        ("a", "c", 1, "e"): 6,
    }


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "`a` is there twice (first in line 1)"),
        (
            "a: !!python/object/apply:os.system [ls]",
            1,
            "tag `!!python/object/apply:os.system` is not allowed",
        ),
        ("x: 1\na: !secret y", 2, "tag `!secret` is not allowed"),
        ("a: !!binary aGk=", 1, "tag `!!binary` is not allowed"),
        ("a: !!int five", 1, "`five` is no number"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a:\n\t- b", 2, "\\t"),
        ("a: b: c", 1, "mapping values are not allowed"),
        ("a: 1\n[b]: 2", 2, ""),
        ("? [b]\n: 2", 1, "a key must be text"),
        ("a: *b", 1, "undefined alias"),
        ("a: 'b", 1, "end of stream"),
        ("a: 1\nb: \x07", 2, "does not allow"),
        ("# only a comment", 1, "is empty"),
        ("a: &a [*a]", 1, "anchors"),
        ('a: "\\ud83d"', 1, "half a character"),
        ("a: {<<: 3}", 1, "`<<` needs a mapping"),
    ],
)
def test_refused_with_line_and_hint(text: str, line: int, words: str) -> None:
    error = fails(text)
    assert words in error.message
    assert str(error.mark) == f"p.yml:{line}"
    assert error.hint


@pytest.mark.parametrize("bomb", ["[" * 100_000, "{a: " * 100_000, "- " * 5_000])
def test_deep_nesting_is_refused_at_once(bomb: str) -> None:
    start = time.monotonic()
    assert "nested" in fails(bomb).message
    assert time.monotonic() - start < 5


def test_anchors_work_and_their_bombs_do_not() -> None:
    assert parse("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\nc: *x\n", "p.yml").value == {
        "a": {"k": 1, "l": 2},
        "b": {"l": 2, "k": 3},
        "c": {"k": 1, "l": 2},
    }
    layers = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    layers += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert "anchors" in fails("\n".join(layers)).message
    assert "aliases" in fails("a: &a 1\nb: [" + ", ".join(["*a"] * 200) + "]").message


def test_files_must_be_small_utf8_text(tmp_path: Path) -> None:
    file = tmp_path / "p.yml"
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(Unreadable, match="UTF-8") as caught:
        read(file, "p.yml")
    assert caught.value.mark.line == 2
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(Unreadable, match="at most"):
        read(file, "p.yml")
    file.write_bytes("\ufeffa: ü\r\nb: 2\r\n".encode())
    assert read(file, "p.yml").value == {"a": "ü", "b": 2}
    with pytest.raises(Unreadable, match="cannot be read"):
        read(tmp_path, "p.yml")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(Unreadable):
        assert parse(text, "p.yml").marks[()].line >= 1


def test_a_long_file_without_anchors_has_as_many_values_as_it_has() -> None:
    text = "\n".join(f"t{number}: {{a: 1, b: 2, c: 3}}" for number in range(10_000))
    assert len(parse(text, "p.yml").value) == 10_000
