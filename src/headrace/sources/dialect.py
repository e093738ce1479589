"""Finds a CSV file's dialect, header, title lines and totals from a sample of its text.

The idea is CleverCSV's (consistency of the row pattern times share of values among cells), made cheap:
quoted parts are cut out once, all delimiters are counted in what remains, and cells are looked at only
where more than one delimiter gives a regular table.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from .cells import data_like, has_header, is_remark, is_total, plausible, titles

SINGLE = ",\t;|^~\x01\x1f\xa7\xac:#*& "
"""Delimiters tried, best first where two are equally good."""
_USUAL = ",;\t|"
_PAIRED = "|:~^#$@&"
_SAMPLE_LINES = 200
_JUDGED_ROWS = 40
_MAX_SPAN = 200
"""Lines that one quoted field may span in a sample; more is taken for a broken quote."""


@dataclass(frozen=True, slots=True)
class Dialect:
    delimiter: str
    quote: str | None
    escape: str | None
    row_end: str = ""
    """What ends a row before its newline, such as `&|`."""
    columns: int = 1
    """Fields of the usual row."""
    regular: float = 1.0
    """Share of sampled rows with that many fields."""
    skip: int = 0
    """Physical lines before the header, or before the first row where there is none."""
    header: tuple[str, ...] | None = None
    rows: int = 0
    """Records in the sample, the header not counted."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the user said about the dialect; None is for us to find out."""

    delimiter: str | None = None
    quote: str | None = None
    header: bool | None = None
    skip: int | None = None


def sniff(text: str, newline: str, *, complete: bool, given: Given | None = None) -> Dialect:
    """The dialect that makes `text` most like a table; never raises, whatever the text.

    `complete` says that the sample is the whole file; otherwise its last, cut line is left out.
    """
    given = given or Given()
    lines = text.split(newline)
    if newline == "\n":
        lines = [line.removesuffix("\r") for line in lines]
    if lines and (lines[-1] == "" or (not complete and len(lines) > 1)):
        lines.pop()
    lines = lines[:_SAMPLE_LINES]
    ended = _row_end(lines) if given.delimiter is None or len(given.delimiter) > 1 else None
    if ended:
        return _finish(lines, ended, given)
    if given.delimiter:
        return _finish(lines, _with_quote(lines, given.delimiter, given), given)
    marks = _candidates(lines)
    plain = [
        _Candidate.of(lines, mark, given) for mark in marks if mark in _USUAL and not _one_column(lines, mark)
    ]
    clear = [one for one in plain if one.columns > 2 and one.regular > 0.98]
    if len(clear) == 1 and all(len(mark) == 1 for mark in marks):
        return _finish(lines, clear[0].dialect, given)
    rare = [
        _Candidate.of(lines, mark, given)
        for mark in marks
        if mark not in _USUAL and not _one_column(lines, mark)
    ]
    best = _best(lines, [one for mark in marks for one in (*plain, *rare) if one.dialect.delimiter == mark])
    return _finish(lines, best or _with_quote(lines, _weak_choice(lines), given), given)


@dataclass(frozen=True, slots=True)
class _Candidate:
    dialect: Dialect
    columns: int
    regular: float

    @classmethod
    def of(cls, lines: Sequence[str], mark: str, given: Given) -> _Candidate:
        found = _with_quote(lines, mark, given)
        bare = _bare(lines, mark, found.quote)
        return cls(found, *_mode(Counter(line.count(mark) + 1 for line in bare), len(bare)))


def _best(lines: Sequence[str], candidates: Sequence[_Candidate]) -> Dialect | None:
    """The candidate whose table is most regular and most like values; None if there is no table."""
    likely = [one for one in candidates if one.columns > 1 and one.regular >= 0.5] or candidates
    likely = [one for one in likely if one.dialect.delimiter != " "] or likely
    best: tuple[float, Dialect] | None = None
    for one in likely:
        columns, regular, quality = one.columns, one.regular, 1.0
        if len(likely) > 1:
            rows = [row for _, row in islice(_records(lines, one.dialect), _JUDGED_ROWS)]
            columns, regular = _mode(Counter(len(row) for row in rows), len(rows))
            first = len(rows[0]) if rows else columns
            quality = plausible(rows) * (1 if first == columns else 0.75 if first > 1 else 0.25)
        score = regular**2 * (1 - 1 / columns if columns > 1 else 0.01) * quality
        if best is None or score > best[0] * 1.0001:
            best = (score, one.dialect)
    return best[1] if best is not None and best[0] >= 0.05 else None


def parse(lines: Sequence[str], dialect: Dialect) -> list[list[str]]:
    """Records of `lines` in `dialect`; a quote that is never closed ends with its own line."""
    return [row for _, row in _records(lines, dialect)]


def count_records(lines: Sequence[str], dialect: Dialect) -> int:
    """How many records `parse` would return."""
    if dialect.row_end or (dialect.quote and any(dialect.quote in line for line in lines)):
        return sum(1 for _ in _records(lines, dialect))
    return sum(1 for line in lines if line.strip(" "))


def open_quote(lines: Sequence[str], dialect: Dialect) -> int | None:
    """Index of the line with the last quote that stays open, or None: everything closes."""
    last = None
    index = 0
    while index < len(lines):
        span = _span(lines, index, dialect)
        if span is None:
            last = index
        index += span or 1
    return last


def footer_lines(lines: Sequence[str], dialect: Dialect) -> int:
    """Trailing physical lines that are surely totals or remarks; 0 when in doubt."""
    last = len(lines)
    while last and not lines[last - 1].strip(dialect.delimiter + " \t"):
        last -= 1
    first = last
    while first and first > last - 8 and dialect.columns > 1:
        row = parse([lines[first - 1]], dialect)
        cells = [cell.strip() for cell in row[0]] if row else []
        filled = [cell for cell in cells if cell]
        blank = not filled
        lone = len(filled) == 1 and (dialect.columns > 2 or len(cells) == 1) and is_remark(filled[0])
        empties = dialect.columns - len(filled)
        total = bool(filled) and is_total(filled[0]) and (2 * empties >= dialect.columns or not cells[0])
        if not (blank or lone or total):
            break
        first -= 1
    while first < last and not lines[first].strip(dialect.delimiter + " \t"):
        first += 1
    return len(lines) - first if first < last else 0


def _one_column(lines: Sequence[str], mark: str) -> bool:
    """Whether `mark` only cuts values in two: times at their colons, or numbers below a header without it."""
    rows = [line.strip() for line in lines if line.strip()]
    body = rows[1:] or rows
    if (mark in ",;\t|" and mark in rows[0]) or not any(mark in row for row in body):
        return False
    if not any(data_like(row.strip('"')) for row in body[:5]):
        return False
    return sum(data_like(row.strip('"')) for row in body) >= 0.8 * len(body)


def _candidates(lines: Sequence[str]) -> list[str]:
    text = "\n".join(lines)
    marks = [mark for mark in SINGLE if mark in text and (mark != " " or len(lines) > 2)]
    for mark in _PAIRED:
        if mark * 2 in text and text.count(mark) == 2 * text.count(mark * 2):
            marks = [mark * 2, *(other for other in marks if other != mark)]
    return _long_marks(lines) + marks


def _long_marks(lines: Sequence[str]) -> list[str]:
    """Delimiters of two or three different signs, such as `+|` and `|~|`, best first."""
    signs: Counter[str] = Counter()
    for line in lines:
        for run in re.findall(r"[|~^+*#@!%;:&$§¬]{2,}", line):
            for size in (2, 3):
                signs.update(run[at : at + size] for at in range(len(run) - size + 1))
    wanted = max(len(lines) // 2, 1)
    good = [
        (count, mark)
        for mark, count in signs.items()
        if count >= wanted and len(set(mark)) > 1 and all(line.count(mark) for line in lines[:5] if line)
    ]
    good = [
        (c, m) for c, m in good if not any(m in longer and many == c for many, longer in good if longer != m)
    ]
    return [mark for _, mark in sorted(good, key=lambda item: (-item[0], item[1]))[:3]]


def _row_end(lines: Sequence[str]) -> Dialect | None:
    """Rows that end with signs of their own, as bulk exports write them where fields hold newlines."""
    tails = Counter(match[0] for line in lines if (match := re.search(r"[|&~^+*#@$%§¬]{2,3}$", line)))
    for tail, count in tails.most_common(3):
        text = "\n".join(lines)
        rows = [row for row in text.split(tail + "\n") if row.strip()]
        if count < 2 or not rows:
            continue
        rows[-1] = rows[-1].removesuffix(tail)
        for mark in [*_long_marks(rows[:_SAMPLE_LINES]), "|"]:
            fields = Counter(row.count(mark) + 1 for row in rows)
            columns, many = fields.most_common(1)[0]
            if mark not in tail and columns > 1 and many >= 0.9 * len(rows):
                return Dialect(mark, None, None, row_end=tail, columns=columns)
    return None


def _with_quote(lines: Sequence[str], mark: str, given: Given) -> Dialect:
    """Which sign quotes fields between `mark`s, and what escapes it."""
    text = "\n".join(lines)
    edge = re.escape(mark)

    def proper(sign: str) -> int:
        return sum(1 for _ in re.finditer(_enclosed(mark, sign), text, re.M))

    quote: str | None
    if given.quote is not None:
        quote = given.quote or None
    elif '"' in text and (proper('"') or (mark in ",;" and re.search(rf'(?:^|{edge}) ?"', text, re.M))):
        quote = '"'
    elif "'" in text and '"' not in text and (good := proper("'")) >= 2 and 4 * good >= text.count("'"):
        quote = "'"
    else:
        quote = '"' if '"' not in text and len(mark) == 1 else None
    escape = quote
    if quote and "\\" + quote in text:
        inner = len(re.findall(rf"\\{quote}(?!{edge}|$)", text, re.M))
        if inner > len(re.findall(rf"(?<!{edge}){quote}{quote}(?!{edge}|$)", text, re.M)):
            escape = "\\"
    return Dialect(mark, quote, escape)


def _enclosed(mark: str, sign: str) -> str:
    """A quoted field; it may span lines. What is not closed before a delimiter is no quoted field."""
    edge = re.escape(mark)
    return rf"(^|{edge}) ?{sign}(?:\\{sign}|{sign}{sign}|[^{sign}]){{0,5000}}{sign} ?(?={edge}|$)"


def _bare(lines: Sequence[str], mark: str, quote: str | None) -> list[str]:
    """The lines without their quoted fields; a quoted newline joins lines."""
    text = "\n".join(lines)
    if quote and quote in text:
        text = re.sub(_enclosed(mark, quote), r"\1q", text, flags=re.M)
    return [line for line in text.split("\n") if line.strip()]


def _mode(counts: Counter[int], total: int) -> tuple[int, float]:
    if not total:
        return 1, 0.0
    columns, many = max(counts.items(), key=lambda item: (item[1], item[0]))
    return columns, many / total


def _weak_choice(lines: Sequence[str]) -> str:
    """Nothing is regular: the delimiter of the first line that has one, or a table of one column."""
    heads = [line for line in lines if line.strip()]
    for mark in ",;\t|":
        if heads and mark in heads[0] and sum(mark in line for line in heads) >= 0.8 * len(heads):
            return mark
    return next((mark for mark in ",;\t|\x1f" if not any(mark in line for line in heads)), ",")


def _span(lines: Sequence[str], start: int, dialect: Dialect) -> int | None:
    """Physical lines of the record that starts at `start`; None if its quote never closes."""
    quote = dialect.quote
    if not quote or quote not in lines[start] or dialect.row_end:
        return 1
    text = lines[start]
    count = _quotes(text, dialect)
    if count % 2 == 0 or not re.search(rf"(?:^|{re.escape(dialect.delimiter)}) ?{quote}", text):
        return 1
    for more in range(1, min(_MAX_SPAN, len(lines) - start)):
        count += _quotes(lines[start + more], dialect)
        if count % 2 == 0:
            return more + 1
    return None


def _quotes(line: str, dialect: Dialect) -> int:
    quote = dialect.quote or '"'
    return line.count(quote) - (line.count("\\" + quote) if dialect.escape == "\\" else 0)


def _records(lines: Sequence[str], dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """(index of its first line, fields) of each record; blank lines are none."""
    if dialect.row_end:
        at = 0
        for row in "\n".join(lines).split(dialect.row_end + "\n"):
            if row.strip():
                yield at, row.removesuffix(dialect.row_end).split(dialect.delimiter)
            at += row.count("\n") + 1
        return
    index = 0
    while index < len(lines):
        span = _span(lines, index, dialect) or 1
        text = "\n".join(lines[index : index + span])
        if text.strip(" "):
            yield index, _fields(text, dialect)
        index += span


def _fields(text: str, dialect: Dialect) -> list[str]:
    quote, mark = dialect.quote, dialect.delimiter
    if not quote or quote not in text:
        return text.split(mark)
    if len(mark) > 1:
        pieces = re.split(
            rf"{re.escape(mark)}(?=(?:[^{quote}]*{quote}[^{quote}]*{quote})*[^{quote}]*$)", text
        )
        return [p[1:-1].replace(quote * 2, quote) if p[:1] == quote == p[-1:] else p for p in pieces]
    try:
        escape = dialect.escape if dialect.escape != quote else None
        reader = csv.reader(
            [text], delimiter=mark, quotechar=quote, doublequote=escape is None, escapechar=escape
        )
        return next(reader, [])
    except csv.Error:
        return text.split(mark)


def _finish(lines: Sequence[str], dialect: Dialect, given: Given) -> Dialect:
    """Adds columns, title lines and header to a dialect."""
    base = given.skip or 0
    records = list(_records(lines[base:], dialect))
    lengths = Counter(len(row) for _, row in records)
    columns, regular = _mode(lengths, len(records))
    first = 0
    # Below a rare sign a line without it is rather a header than a title.
    titled = dialect.delimiter in _USUAL or len(dialect.delimiter) > 1
    if given.skip is None and columns > 1 and titled:
        first = titles(records, columns)
    rows = [row for _, row in records[first:]]
    skip = base + (records[first][0] if first < len(records) and given.skip is None else 0)
    named = given.header if given.header is not None else bool(rows) and has_header(rows, columns)
    header = tuple(rows[0]) if named and rows else None
    return Dialect(
        delimiter=dialect.delimiter,
        quote=dialect.quote,
        escape=dialect.escape,
        row_end=dialect.row_end,
        columns=columns,
        regular=regular,
        skip=skip,
        header=header,
        rows=len(rows) - (header is not None),
    )
