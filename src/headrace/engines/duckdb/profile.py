"""What a staged all-text relation holds, column by column, counted over the full data.

Each column is first reduced to its different values with their counts: shapes are then looked at once per
value. A sample only decides which shapes are worth counting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from headrace.spec.infer import ColumnProfile, key_candidates
from headrace.spec.shapes import swapped
from headrace.spec.words import NULL_WORDS, look
from headrace.sql.dates import shape

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SAMPLE = 1_000
PLAUSIBLE = 0.2
"""The share of the sampled values that must have a shape for it to be counted."""

_TRUE_FALSE = ("true", "false", "t", "f")
_YES_NO = ("yes", "no", "y", "n", "on", "off")
_CODES = "USD|EUR|GBP|JPY|CNY|CHF|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|INR|BRL|MXN|ZAR|KRW|SGD|HKD|TRY|AED|ILS"
_MONEY = rf"\$|€|£|¥|{_CODES}"
_PLAIN = r"([0-9]+\.?[0-9]*|\.[0-9]+)"
_NUMBERS = {
    "integer": "[+-]?[0-9]+",
    "whole_decimal": r"[+-]?[0-9]+\.0*",
    "decimal": rf"[+-]?{_PLAIN}",
    "exponent": rf"[+-]?{_PLAIN}[eE][+-]?[0-9]+",
    "percent": rf"[+-]?{_PLAIN} ?%",
    "comma_or_thousands": "[+-]?[1-9][0-9]{0,2},[0-9]{3}",
    "thousands": r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?",
    "comma": r"[+-]?([0-9]{1,3}([. ][0-9]{3})+|[0-9]+),[0-9]*|[+-]?[0-9]{1,3}(\.[0-9]{3}){2,}",
}
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?"
_ISO_DATE = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_ISO_STAMP = rf"{_ISO_DATE}[ T]{_CLOCK} ?(Z|[+-](0[0-9]|1[0-5])(:?[0-5][0-9])?)?"
_DATED = re.compile(
    r"(?:(?P<ymd>\d{4}(?P<s1>[-/.])\d{1,2}(?P=s1)\d{1,2})"
    r"|(?P<dmy>\d{1,2}(?P<s2>[-/.])\d{1,2}(?P=s2)(?P<y2>\d{4}|\d{2}))"
    r"|(?P<dby>\d{1,2}(?P<s3>[ -])(?P<m3>[A-Za-z]{3,9})(?P=s3)(?P<y3>\d{4}|\d{2}))"
    r"|(?P<bdy>(?P<m4>[A-Za-z]{3,9}) \d{1,2}(?P<c4>,?) \d{4})"
    r"|(?P<compact>(?:19|20)\d{6}))"
    r"(?:(?P<t>[ T])(?P<h>\d{1,2}):\d{2}(?P<sec>:\d{2})?(?P<ap> ?[AaPp][Mm])?)?"
)


def profile(con: DuckDBPyConnection, relation: str, columns: Sequence[str]) -> list[ColumnProfile]:
    """A profile of each of `columns`, all text, of `relation`; every count is exact, over all rows."""
    # The connection itself and no cursor of it: temporary relations are seen by nobody else.
    try:
        return [_column(con, relation, column) for column in columns]
    finally:
        con.execute("DROP TABLE IF EXISTS temp.profile_values")


def composite_keys(
    con: DuckDBPyConnection, relation: str, profiles: Sequence[ColumnProfile]
) -> list[tuple[str, ...]]:
    """The smallest sets of two or three identifying columns that no two rows share; none for few rows, where
    that means nothing, or where one column will do."""
    rows = profiles[0].rows if profiles else 0
    candidates = sorted(key_candidates(profiles), key=lambda n: [p.name for p in profiles].index(n))[:6]
    if rows < 1_000 or any(p.unique for p in profiles if p.name in candidates):
        return []
    distinct = {p.name: p.distinct for p in profiles}
    for size in (2, 3):
        found = []
        for headers in combinations(candidates, size):
            space = 1
            for header in headers:
                space *= distinct[header]
            if space >= rows and _is_unique(con, relation, headers, rows):
                found.append(headers)
        if found:
            return found
    return []


def _is_unique(con: DuckDBPyConnection, relation: str, headers: Iterable[str], rows: int) -> bool:
    listed = ", ".join(f"trim({_name(header)})" for header in headers)
    return bool(_row(con, f"SELECT count(*) = {rows} FROM (SELECT DISTINCT {listed} FROM {relation})")[0])


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(map(_text, values))


def _row(con: DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return con.execute(query).fetchall()[0]


def _pairs(con: DuckDBPyConnection, query: str) -> list[tuple[str, int]]:
    return [(str(text), int(count)) for text, count in con.execute(query).fetchall()]


def _column(con: DuckDBPyConnection, relation: str, column: str) -> ColumnProfile:
    c = _name(column)
    con.execute(
        "CREATE OR REPLACE TEMP TABLE profile_values AS"
        f" SELECT trim({c}) AS t, count(*)::BIGINT AS n, count(*) FILTER ({c} <> trim({c}))::BIGINT AS padded"
        f" FROM {relation} GROUP BY 1"
    )
    rows, nulls, padded, distinct, shortest, longest = _row(
        con,
        "SELECT coalesce(sum(n), 0)::BIGINT, coalesce(sum(n) FILTER (coalesce(t, '') = ''), 0)::BIGINT,"
        " coalesce(sum(padded) FILTER (t <> ''), 0)::BIGINT, count(*) FILTER (t <> ''),"
        " coalesce(min(length(t)) FILTER (t <> ''), 0), coalesce(max(length(t)), 0) FROM profile_values",
    )
    values = "SELECT t, n FROM profile_values WHERE t <> ''"
    words = dict(_pairs(con, f"{values} AND t IN ({_listed(NULL_WORDS)})"))
    values += f" AND t NOT IN ({_listed(NULL_WORDS)})" if words else ""
    texts = [t for t, _ in con.execute(f"{values} ORDER BY hash(t), t LIMIT {SAMPLE}").fetchall()]
    found = _Shapes(con, values, texts)
    found.count()
    return ColumnProfile(
        name=column,
        rows=rows,
        nulls=nulls,
        distinct=distinct,
        unique=distinct == rows and rows > 0,
        min_length=shortest,
        max_length=longest,
        untrimmed=padded,
        shapes=found.shapes,
        digits=found.digits,
        low=found.low,
        high=found.high,
        leading_zeros=found.leading_zeros,
        spans=found.spans,
        words=words,
        odd=found.odd,
        top=_pairs(con, f"{values} ORDER BY n DESC, t LIMIT 12"),
        looks=_looks(texts),
    )


def _looks(texts: Sequence[str]) -> dict[str, float]:
    counts: dict[str, int] = {}
    for text in texts:
        if kind := look(text):
            counts[kind] = counts.get(kind, 0) + 1
    return {kind: count / len(texts) for kind, count in counts.items()}


class _Shapes:
    """Counts the shapes that the sample makes plausible; one query per family."""

    def __init__(self, con: DuckDBPyConnection, values: str, texts: Sequence[str]) -> None:
        self.con, self.values, self.texts = con, values, texts
        self.shapes: dict[str, int] = {}
        self.digits = (0, 0)
        self.low: str | None = None
        self.high: str | None = None
        self.leading_zeros = 0
        self.spans: dict[str, int] = {}
        self.odd: list[tuple[str, int]] = []

    def count(self) -> None:
        if not self.texts:
            return
        patterns = self._patterns()
        lowered = {text.lower() for text in self.texts}
        if len(self.texts) < 12 and len(lowered & {*_TRUE_FALSE, *_YES_NO}) >= PLAUSIBLE * len(lowered):
            self._booleans()
        elif patterns or self._plausible(_ISO_STAMP) or self._plausible(_ISO_DATE):
            self._moments(patterns)
            if "%Y%m%d" in patterns:
                self._numbers(money=False)
        elif self._plausible(rf"[-+(]? ?({_MONEY})?.{{0,2}}[0-9.,  ]+([eE][-+]?[0-9]+)?[ %)]*({_MONEY})?\)?"):
            self._numbers(money=any(re.search(_MONEY, text) for text in self.texts))
        elif self._plausible(r"(?s)\{.*\}|\[.*\]"):
            self._tally("CASE WHEN json_valid(t) AND t[1] IN ('{', '[') THEN 'json' END")

    def _plausible(self, pattern: str) -> bool:
        compiled = re.compile(pattern)
        return sum(bool(compiled.fullmatch(t)) for t in self.texts) >= PLAUSIBLE * len(self.texts)

    def _tally(self, kind: str) -> None:
        counted = f"SELECT ({kind}) AS kind, t, n FROM ({self.values})"
        for name, count in self.con.execute(
            f"SELECT kind, sum(n)::BIGINT FROM ({counted}) WHERE kind IS NOT NULL GROUP BY 1"
        ).fetchall():
            self.shapes[name] = count
        self.odd = _pairs(
            self.con, f"SELECT t, n FROM ({counted}) WHERE kind IS NULL ORDER BY n DESC, t LIMIT 5"
        )

    def _booleans(self) -> None:
        both = f"lower(t) IN ({_listed(_TRUE_FALSE)})"
        self._tally(
            f"CASE WHEN {both} THEN 'true_false' WHEN lower(t) IN ({_listed(_YES_NO)}) THEN 'yes_no' END"
        )

    def _patterns(self) -> list[str]:
        """strptime patterns that the sample makes plausible; both orders where it could be either."""
        counts: dict[str, int] = {}
        for text in self.texts:
            for pattern in _readings(text):
                counts[pattern] = counts.get(pattern, 0) + 1
        dated = sum(bool(_DATED.fullmatch(text)) for text in self.texts)
        return sorted(counts) if dated >= PLAUSIBLE * len(self.texts) else []

    def _moments(self, patterns: Sequence[str]) -> None:
        iso = (
            f"CASE WHEN regexp_full_match(t, '{_ISO_DATE}') AND try_cast(t AS DATE) IS NOT NULL THEN 'date'"
            f" WHEN regexp_full_match(t, '{_ISO_STAMP}') AND try_cast(t[:10] AS DATE) IS NOT NULL"
            " THEN 'timestamp'"
        )
        read = {
            p: f"regexp_full_match(t, {_text(shape(p))}) AND try_strptime(t, {_text(p)}) IS NOT NULL"
            for p in patterns
        }
        whens = [f" WHEN {condition} THEN {_text(p)}" for p, condition in read.items()]
        self._tally(f"{iso}{''.join(whens)} END")
        for pattern in patterns:
            if swapped(pattern) != pattern:
                self._both_orders(pattern, read[pattern])

    def _both_orders(self, pattern: str, condition: str) -> None:
        moment = f"try_strptime(t, {_text(pattern)})"
        count, span = _row(
            self.con,
            f"SELECT coalesce(sum(n), 0)::BIGINT, date_diff('day', min({moment}), max({moment}))"
            f" FROM ({self.values}) WHERE {condition}",
        )
        self.shapes[pattern] = count
        self.spans[pattern] = span or 0

    def _numbers(self, money: bool) -> None:
        values = self.values
        if money:
            bare = f"trim(regexp_replace(t, '{_MONEY}', ''))"
            bare = f"regexp_replace({bare}, '^\\((.*)\\)$', '-\\1')"
            values = f"SELECT replace({bare}, '- ', '-') AS u, t, n FROM ({values})"
        else:
            values = f"SELECT t AS u, t, n FROM ({values})"
        whens = " ".join(f"WHEN regexp_full_match(u, '{p}') THEN '{kind}'" for kind, p in _NUMBERS.items())
        kinds = f"SELECT CASE {whens} END AS kind, u, t, n FROM ({values})"
        # The plain spelling, from which digits are counted and bounds taken.
        plain = (
            "CASE WHEN kind = 'comma' THEN replace(replace(replace(u, '.', ''), ' ', ''), ',', '.')"
            " WHEN kind IN ('thousands', 'comma_or_thousands') THEN replace(u, ',', '')"
            " WHEN kind = 'percent' THEN rtrim(u, ' %') ELSE u END"
        )
        table = f"SELECT kind, t, n, {plain} AS v FROM ({kinds})"
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE profile_numbers AS {table}")
        for kind, count in _pairs(
            self.con, "SELECT kind, sum(n)::BIGINT FROM profile_numbers WHERE kind IS NOT NULL GROUP BY 1"
        ):
            self.shapes[kind] = count
        rare = "kind IS NULL OR kind = 'exponent'"
        self.odd = _pairs(
            self.con,
            f"SELECT t, n FROM profile_numbers WHERE {rare} ORDER BY kind NULLS FIRST, n DESC, t LIMIT 5",
        )
        whole, places, low, high, zeros, signed = _row(
            self.con,
            "SELECT coalesce(max(length(ltrim(split_part(v, '.', 1), '+-0'))), 0),"
            " coalesce(max(length(split_part(v, '.', 2))) FILTER (kind NOT IN ('whole_decimal', 'exponent')),"
            " 0),"
            " arg_min(v, try_cast(v AS DOUBLE)), arg_max(v, try_cast(v AS DOUBLE)),"
            " coalesce(sum(n) FILTER (regexp_matches(v, '^[+-]?0[0-9]')), 0)::BIGINT,"
            f" coalesce(sum(n) FILTER (regexp_matches(t, '{_MONEY}')), 0)::BIGINT"
            " FROM profile_numbers WHERE kind IS NOT NULL",
        )
        self.con.execute("DROP TABLE profile_numbers")
        self.digits, self.low, self.high, self.leading_zeros = (whole, places), low, high, zeros
        if money and signed:
            self.shapes["currency"] = signed


def _readings(text: str) -> Iterator[str]:
    """The strptime patterns that could read `text`, beyond ISO.

    >>> list(_readings("31/12/2026 8:05")), list(_readings("5 Jan 26")), list(_readings("2026-01-31"))
    (['%d/%m/%Y %H:%M', '%m/%d/%Y %H:%M'], ['%d %b %y'], [])
    """
    found = _DATED.fullmatch(text)
    if not found or re.fullmatch(rf"{_ISO_STAMP}|{_ISO_DATE}", text):
        return
    clock = ""
    if found["h"]:
        hour = "%I" if found["ap"] else "%H"
        half = "" if not found["ap"] else " %p" if " " in found["ap"] else "%p"
        clock = f"{found['t']}{hour}:%M{':%S' if found['sec'] else ''}{half}"
    if found["ymd"]:
        yield f"%Y{found['s1']}%m{found['s1']}%d{clock}"
    elif found["dmy"]:
        sep, year = found["s2"], "%Y" if len(found["y2"]) == 4 else "%y"
        yield f"%d{sep}%m{sep}{year}{clock}"
        yield f"%m{sep}%d{sep}{year}{clock}"
    elif found["dby"]:
        sep, year = found["s3"], "%Y" if len(found["y3"]) == 4 else "%y"
        yield f"%d{sep}{_month(found['m3'])}{sep}{year}{clock}"
    elif found["bdy"]:
        yield f"{_month(found['m4'])} %d{found['c4']} %Y{clock}"
    elif not clock:
        yield "%Y%m%d"


def _month(text: str) -> str:
    return "%b" if len(text) == 3 else "%B"
