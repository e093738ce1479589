"""Bounds in Delta statistics: they may be loose, never wrong."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core import DataFile, TableAt, Write
from headrace.engines.duckdb import DuckEngine
from headrace.engines.duckdb.frame import DuckFrame, text, word
from headrace.engines.duckdb.stats import lower, overlaps, upper
from headrace.errors import ConfigError
from headrace.spec.widen import wider

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@given(value=any_text)
def test_text_bounds_enclose_the_value(value: str) -> None:
    low, high = lower("text", value), upper("text", value)
    assert isinstance(low, str)
    assert low.encode() <= value.encode()
    assert high is None or value.encode() <= str(high).encode()
    assert len(low) <= 32


def test_stats_of_written_files_enclose_their_values(tmp_path: Path) -> None:
    select = (
        "SELECT 7::INTEGER AS i, 1.50::DECIMAL(12,2) AS d, 12345678901234567.89::DECIMAL(20,2) AS big, "
        "'nan'::DOUBLE AS nan, 2.5::DOUBLE AS x, DATE '2020-02-29' AS day, "
        "TIMESTAMPTZ '2020-02-29 01:02:03.000004+00' AS at_, NULL::VARCHAR AS none, repeat('é', 50) AS long, "
        "true AS yes, 'inf'::DOUBLE AS inf, DATE '12020-01-01' AS far"
    )
    kinds = ["integer", "decimal(12,2)", "decimal(20,2)", "double", "double", "date", "timestamp", "text"]
    kinds += ["text", "boolean", "double", "date"]
    names = ["i", "d", "big", "nan", "x", "day", "at_", "none", "long", "yes", "inf", "far"]
    columns = dict(zip(names, kinds, strict=True))
    with DuckEngine(tmp_path / "s") as engine:
        frame = DuckFrame(engine.session, select, columns, 1)
        file = engine.rewrite(TableAt("t", -1, [], {}), Write("t", "append"), frame, tmp_path / "t").add[0]
    assert file.low == {
        "i": 7,
        "d": 1.5,
        "x": 2.5,
        "day": "2020-02-29",
        "at_": "2020-02-29T01:02:03.000004Z",
        "long": "é" * 32,
    }
    assert file.high == file.low | {"long": "é" * 32 + "\U0010ffff"}
    assert file.nulls["none"] == 1
    assert file.rows == 1
    assert file.bytes == file.path.stat().st_size
    assert file.path.name.startswith("part-")
    assert file.path.name.endswith(".snappy.parquet")


@given(values=st.lists(any_text, min_size=1, max_size=5), wanted=any_text)
@settings(max_examples=30, deadline=None)
def test_a_file_that_holds_a_text_is_never_pruned(values: list[str], wanted: str) -> None:
    ordered = sorted([*values, wanted], key=str.encode)
    low, high = lower("text", ordered[0]), upper("text", ordered[-1])
    file = DataFile(Path("x"), 1, 1, {}, {"c": low}, {"c": high} if high is not None else {}, {"c": 0})
    assert overlaps("text", file, "c", (wanted, wanted, 0))


@pytest.mark.parametrize(
    ("kind", "low", "high", "span", "expected"),
    [
        ("integer", 1, 5, (6, 9, 0), False),
        ("integer", 1, 5, (5, 9, 0), True),
        (
            "decimal(12,2)",
            1.5,
            2.5,
            (Decimal("2.51"), Decimal("3"), 0),
            False,
        ),
        ("text", "a", "b", ("c", "d", 0), False),
        ("text", "a", "b", ("c", "d", 1), False),
        (
            "timestamp",
            "2020-01-01T00:00:00Z",
            "2020-01-01T00:00:00.123Z",
            ("2020-01-01T00:00:00.123456Z",) * 2 + (0,),
            True,
        ),
        ("date", "2020-01-01", "not a date", (date(2021, 1, 1),) * 2 + (0,), True),
    ],
)
def test_overlap(
    kind: str, low: object, high: object, span: tuple[object, object, int], expected: bool
) -> None:
    file = DataFile(Path("x"), 3, 1, {}, {"c": low}, {"c": high}, {"c": 0})
    assert overlaps(kind, file, "c", span) is expected


def test_missing_statistics_and_nulls_prune_nothing() -> None:
    bare = DataFile(Path("x"), 3, 1)
    assert overlaps("integer", bare, "c", (1, 2, 0))
    assert overlaps("integer", bare, "c", (None, None, 4))
    nulls = DataFile(Path("x"), 3, 1, {}, {}, {}, {"c": 3})
    assert not overlaps("integer", nulls, "c", (1, 2, 0))
    assert overlaps("integer", nulls, "c", (1, 2, 1))


def test_wider_types_hold_both() -> None:
    assert wider("decimal(10,4)", "decimal(12,2)") == "decimal(14,4)"
    assert wider("double", "integer") == "double"
    assert wider("json", "text") == "text"
    with pytest.raises(ConfigError):
        wider("decimal(38,0)", "decimal(38,10)", "amount")
    with pytest.raises(ConfigError):
        wider("boolean", "integer")


def test_words_for_native_types() -> None:
    assert [word(t) for t in ("DECIMAL(12,2)", "UBIGINT", "STRUCT(a INTEGER)", "INTEGER[]", "FLOAT")] == [
        "decimal(12,2)",
        "decimal(20,0)",
        "json",
        "json",
        "double",
    ]
    with pytest.raises(ConfigError, match="BLOB"):
        word("BLOB")
    assert text("it's") == "'it''s'"
