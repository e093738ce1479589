"""What cells look like: values, words, totals, remarks; and so which rows are titles or a header."""

from __future__ import annotations

import re
from collections.abc import Sequence

_JUDGED_ROWS = 100

_NUMBER = (
    r"[-+(]?\s?[$€£¥]?\s?(?:\d{1,3}(?:[ ,.'\u00a0]\d{3})+|\d+)?"
    r"(?:[.,]\d+)?(?:[eE][-+]?\d+)?\s?[%)$€£¥]?-?"
)
_DATE = r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2}[- ][A-Za-z]{3,9}[- ]\d{2,4}"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?: ?[AaPp]\.?[Mm]\.?)?(?: ?Z|[-+]\d{2}:?\d{2})?"
_DATA = re.compile(
    rf"(?=.*\d){_NUMBER}|(?:{_DATE})(?:[T ]+{_CLOCK})?|{_CLOCK}"
    r"|[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}|(?:\d{1,3}\.){3}\d{1,3}"
    r"|[\w.+-]+@[\w-]+\.[\w.]+|https?://\S+|(?i:true|false)"
)
_NOTHING = frozenset(("", "NA", "N/A", "n/a", "NULL", "null", "NaN", "nan", "None", "\\N", "-", "?"))
_WORDS = re.compile(r"[^\W_]['\u2019\w .\-/()+&%*:@!?#$=<>\[\]{}\"]*")
_YEAR = re.compile(r"(?:19|20)\d\d")
_TOTAL = re.compile(
    r"\W*(?:grand |sub[- ]?|sum |overall )?(?:totals?|sum|summe|gesamt(?:summe)?|insgesamt|totale|somma|suma)"
    r"(?: general| général)?\W*",
    re.I,
)
_REMARK = re.compile(
    r"\W*\d+ (?:rows?|records?|lines?)\b.*|\W*(?:end of (?:file|report|data)|eof|end|generated|exported|"
    r"created|source|notes?|footnote|record count|row count|trailer)\b.*|(?:#|--|\*\*|==).*",
    re.I,
)


def titles(records: Sequence[tuple[int, Sequence[str]]], columns: int) -> int:
    """Records before the header: titles, remarks, and rows padded with delimiters."""
    for index, (_, row) in enumerate(records[:30]):
        filled = [cell for cell in row if cell.strip()]
        remark = bool(row) and row[0].lstrip().startswith("#")
        if remark and len(row) == columns:
            rest = [row for _, row in records[index + 1 : index + 1 + _JUDGED_ROWS]]
            remark = row[0].startswith("# ") and bool(rest) and has_header(rest, columns)
        if remark or (len(filled) <= 1 and columns > 2) or (len(row) == 1 and columns > 1):
            continue
        return index if all(len(row) == columns for _, row in records[index + 1 : index + 2]) else 0
    return 0


def data_like(cell: str) -> bool:
    return bool(_DATA.fullmatch(cell.strip()))


def has_header(rows: Sequence[Sequence[str]], columns: int) -> bool:
    """Whether the first row names the columns: no values in it, and unlike what is below it."""
    first = [cell.strip() for cell in rows[0]]
    # A whole header repeated below is one; a single word repeated is a value.
    body = [row for row in rows[1:_JUDGED_ROWS] if len(row) == 1 or list(row) != list(rows[0])]
    filled = [cell for cell in first if cell]
    if not filled or 2 * len(filled) < len(first):
        return False
    values = [cell for cell in filled if data_like(cell)]
    if values:
        years = all(_YEAR.fullmatch(cell) for cell in values) and len(set(values)) == len(values) > 1
        if not (years and len(values) < len(filled)):
            return False
    names = [cell.casefold() for cell in filled]
    below: list[list[str]] = [[] for _ in first]
    for row in body:
        for column, cell in zip(below, row, strict=False):
            if cell.strip() not in _NOTHING:
                column.append(cell.strip())
    for name, column in zip(first, below, strict=True):
        if name and not data_like(name) and column and sum(map(data_like, column)) >= 0.8 * len(column):
            return True
    if len(set(names)) < len(names):
        return False
    repeated = sum(name in column for name, column in zip(first, below, strict=True) if name)
    return repeated == 0 and all(len(name) <= 80 for name in filled) and (len(first) == columns or not body)


def plausible(rows: Sequence[Sequence[str]]) -> float:
    cells = [cell.strip() for row in rows for cell in row]
    good = sum(cell in _NOTHING or bool(_DATA.fullmatch(cell) or _WORDS.fullmatch(cell)) for cell in cells)
    return good / len(cells) if cells else 0.0


def is_total(cell: str) -> bool:
    return _TOTAL.fullmatch(cell) is not None


def is_remark(cell: str) -> bool:
    return _REMARK.fullmatch(cell) is not None
