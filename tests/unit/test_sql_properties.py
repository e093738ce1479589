"""Casts against Python's own parsers: what is accepted is the same value, and garbage never is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.spec.pipeline import TableSpec
from headrace.sql import checked_sql, compile_table
from tests.unit.test_sql_golden import connect

CON = connect()
AUDIT = "_source VARCHAR, _file VARCHAR, _line BIGINT, _ingested_at TIMESTAMPTZ"
CON.execute(f"CREATE TEMP TABLE staged (v VARCHAR, {AUDIT})")
QUICK = settings(max_examples=60, deadline=None)


def cast(texts: Sequence[str], con: duckdb.DuckDBPyConnection = CON, **column: Any) -> list[tuple[Any, bool]]:
    """(value, accepted) of each text, cast as one column of a contract."""
    spec = TableSpec.model_validate({"from": "s", "contract": {"columns": {"v": column}}})
    con.execute("DELETE FROM staged")
    con.execute(
        "INSERT INTO staged SELECT v, 's', 'f', ordinality, NULL FROM unnest(?) WITH ORDINALITY u(v)",
        [list(texts)],
    )
    rows = con.execute(
        f"SELECT v, _broken = '' FROM ({checked_sql(compile_table('t', spec))}) ORDER BY _line"
    )
    return [(value, good) for value, good in rows.fetchall()]


def text_of(alphabet: str, size: int = 12) -> st.SearchStrategy[list[str]]:
    return st.lists(st.text(alphabet, max_size=size), min_size=1, max_size=200)


SPACES = " \t\n\r\v\f\u00a0\ufeff"


@given(
    st.lists(
        st.tuples(st.text(SPACES, max_size=3), st.text(max_size=3), st.text(SPACES, max_size=3)).map("".join),
        min_size=1,
        max_size=200,
    )
)
@QUICK
def test_a_text_loses_its_white_space_and_nothing_else(texts: list[str]) -> None:
    marks = [
        "e\u0301 ",
        " \u0301e",
        "a\u00a0\u0301",
        "\u0600 ",
        "a\u200d ",
        "\r\na",
        "a\r\n",
        "~ ",
        " ~",
        "!",
    ]
    given_ = [text.replace("\0", "") for text in [*texts, *marks]]
    for text, (value, good) in zip(given_, cast(given_, type="text", clean=["trim"]), strict=True):
        assert (value, good) == (text.strip(SPACES) or None, True), text


def python_decimal(text: str, digits: int, scale: int) -> Decimal | None:
    """The number, if `text` is plain and fits without losing a digit."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text, re.ASCII):
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    shifted = number.scaleb(scale)
    return number if shifted == shifted.to_integral_value() and abs(shifted) < 10**digits else None


@given(text_of("0123456789+-._eExX, \t\u00a0"))
@QUICK
def test_an_integer_is_what_python_reads_from_digits(texts: list[str]) -> None:
    for text, (value, good) in zip(texts, cast(texts, type="integer"), strict=True):
        bare = text.strip(SPACES)
        exact = int(bare) if re.fullmatch(r"[+-]?\d+", bare, re.ASCII) else None
        fits = exact is not None and -(2**31) <= exact < 2**31
        assert (value, good) == (exact if fits else None, fits or not bare), text


@given(
    text_of("0123456789+-._eE,% \n", 14),
    st.integers(1, 18).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, p))),
)
@QUICK
def test_a_decimal_loses_no_digit(texts: list[str], size: tuple[int, int]) -> None:
    found = cast(texts, type=f"decimal({size[0]},{size[1]})")
    for text, (value, good) in zip(texts, found, strict=True):
        bare = text.strip(SPACES)
        exact = python_decimal(bare, *size)
        assert value == exact, text
        assert good == (exact is not None or not bare), text


@given(st.lists(st.decimals(-(10**9), 10**9, places=4, allow_nan=False), min_size=1, max_size=100))
@QUICK
def test_every_spelling_of_a_decimal_comes_back(numbers: list[Decimal]) -> None:
    german = [f"{n:,}".translate(str.maketrans(",.", ".,")) for n in numbers]
    dollars = [f"${n:,}" if n >= 0 else f"(${-n:,})" for n in numbers]
    euros = [g + " €" for g in german]
    percent = [f"{n * 100:f}%" for n in numbers]
    for texts, formats in (
        ([f"{n:,}" for n in numbers], ["thousands"]),
        (german, ["decimal_comma"]),
        (dollars, ["currency", "thousands"]),
        (euros, ["currency", "decimal_comma"]),
        (percent, ["percent"]),
        ([str(n) for n in numbers], ["currency", "percent"]),
    ):
        assert cast(texts, type="decimal(18,4)", formats=formats) == [(n, True) for n in numbers], formats


@given(text_of("0123456789.,$€()+- %USDER", 12))
@QUICK
def test_formats_never_change_the_digits(texts: list[str]) -> None:
    found = cast(texts, type="decimal(18,6)", formats=["currency", "thousands"])
    for text, (value, _) in zip(texts, found, strict=True):
        if value is not None:
            digits = re.sub(r"[^0-9.]", "", text)
            assert abs(value) == Decimal(digits), text
            assert value <= 0 or not re.search(r"[-(]", text), text


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=100))
@QUICK
def test_a_finite_double_comes_back(numbers: list[float]) -> None:
    assert [v for v, _ in cast([repr(n) for n in numbers], type="double")] == numbers


@given(text_of("0123456789+-.eE_infaNxX ", 9))
@QUICK
def test_a_double_is_finite_and_what_python_reads(texts: list[str]) -> None:
    for text, (value, _) in zip(texts, cast(texts, type="double"), strict=True):
        bare = text.strip(SPACES)
        plain = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", bare, re.ASCII)
        exact = float(bare) if plain else math.inf
        assert value == (exact if math.isfinite(exact) else None), text


DATE_FORMATS = [
    "%Y-%m-%d",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%Y%m%d",
    "%d %b %Y",
    "%B %d, %Y",
    "%d-%m-%y",
    "%Y/%j",
]


@pytest.mark.parametrize("pattern", DATE_FORMATS)
@given(days=st.lists(st.dates(date(1970, 1, 1), date(2068, 12, 31)), min_size=1, max_size=60))
@settings(max_examples=15, deadline=None)
def test_dates_come_back_in_every_format(pattern: str, days: list[date]) -> None:
    assert cast([d.strftime(pattern) for d in days], type="date", formats=[pattern]) == [
        (d, True) for d in days
    ]


@pytest.mark.parametrize("pattern", ["%Y-%m-%d", "%d/%m/%Y", "%m-%d-%y", "%Y%m%d", "%d.%m.%Y %H:%M"])
@given(texts=text_of("0123456789/-.: +", 16))
@settings(max_examples=25, deadline=None)
def test_an_accepted_date_is_what_python_reads(pattern: str, texts: list[str]) -> None:
    for text, (value, _) in zip(texts, cast(texts, type="date", formats=[pattern]), strict=True):
        if value is not None:
            bare = text.strip(SPACES)
            iso = re.fullmatch(r"\d{4}-\d\d-\d\d([ T]00:00(:00(\.0+)?)?)?", bare)
            assert value == (
                date.fromisoformat(bare[:10]) if iso else datetime.strptime(bare, pattern).date()
            ), text


@given(
    texts=text_of("0123456789-:T.Z+ ", 27),
    near=st.lists(st.datetimes(datetime(1, 1, 2)), min_size=1, max_size=50),
)
@QUICK
def test_an_accepted_timestamp_is_what_python_reads(texts: list[str], near: list[datetime]) -> None:
    texts = [*texts, *map(str, near), *(t.isoformat() + "Z" for t in near)]
    found = cast(texts, type="timestamp")
    assert all(good for _, good in found[-2 * len(near) :])
    for text, (value, _) in zip(texts, found, strict=True):
        if value is not None:
            read = datetime.fromisoformat(text.strip(SPACES))
            assert value == (read if read.tzinfo else read.replace(tzinfo=UTC)), text


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kolkata", "America/St_Johns"]
)
@given(st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2037, 1, 1)), min_size=1, max_size=80), st.data())
@settings(max_examples=15, deadline=None)
def test_local_times_are_what_python_says_and_gaps_are_refused(
    zone: str, times: list[datetime], data: st.DataObject
) -> None:
    tz = ZoneInfo(zone)
    near = [t for year in (1985, 1999, 2016, 2024) for t in _changes(tz, year)]
    shifts = st.lists(st.sampled_from(near or times), max_size=40)
    minutes = st.integers(-200, 200)
    times = [t.replace(microsecond=0) for t in times] + [
        t + timedelta(minutes=data.draw(minutes)) for t in data.draw(shifts)
    ]
    for local, (value, good) in zip(
        times, cast([str(t) for t in times], type="timestamp", timezone=zone), strict=True
    ):
        first = local.replace(tzinfo=tz, fold=0)
        exists = first.astimezone(UTC).astimezone(tz).replace(tzinfo=None) == local
        assert (value, good) == (first.astimezone(UTC) if exists else None, exists), local


def _changes(tz: ZoneInfo, year: int) -> list[datetime]:
    start = datetime(year, 1, 1, tzinfo=UTC)
    hours = [start + timedelta(hours=h) for h in range(0, 366 * 24)]
    local = [h.astimezone(tz) for h in hours]
    return [b.replace(tzinfo=None) for a, b in pairwise(local) if a.utcoffset() != b.utcoffset()]


KINDS: list[Callable[[], dict[str, Any]]] = [
    lambda: {"type": "integer", "formats": ["whole_decimal", "thousands", "currency"]},
    lambda: {"type": "decimal(10,2)", "formats": ["currency", "percent", "decimal_comma"]},
    lambda: {"type": "date", "formats": ["%d/%m/%Y", "%b %d %Y"]},
    lambda: {"type": "timestamp", "timezone": "Europe/Berlin", "formats": ["%m/%d/%Y %H:%M"]},
    lambda: {"type": "boolean", "formats": ["yes_no"]},
    lambda: {"type": "json"},
]


@pytest.mark.parametrize("kind", range(len(KINDS)))
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), min_size=1, max_size=80
    )
)
@settings(max_examples=25, deadline=None)
def test_any_text_is_a_value_or_missing_or_broken(kind: int, texts: list[str]) -> None:
    for text, (value, good) in zip(texts, cast(texts, **KINDS[kind]()), strict=True):
        missing = text.strip(SPACES) == ""
        assert good == (value is not None or missing), text
        assert not (missing and value is not None), text
