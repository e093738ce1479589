"""Delimited text record by record, for what DuckDB's reader cannot account for: exact, and slow.

A record begins on a line. If its quotes close properly, perhaps some lines further on, it is a record; if
not, this one line is a reject and the next line is tried. So a broken quote costs one line.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..raw import BROKEN, as_text, bare, line_end, lines, open_plain
from .header import Header
from .parts import Part, Stage, StagedFile, ident, text

SPAN_LINES, SPAN_BYTES = 2_000, 4 << 20  # a quoted field does not reach further
OPEN = "open"
UNREADABLE = "file.unreadable"
NEVER = "\ufdd0headrace\ufdd1"
Split = Callable[[str], tuple[list[str | None] | None, str | None]]


@dataclass(frozen=True, slots=True)
class Record:
    line: int
    lines: int
    raw: bytes
    values: list[str | None] | None
    rule: str | None
    """Why there are no values."""


def records(path: Path, form: Mapping[str, Any], width: int) -> Iterator[Record]:
    """All records after the header, in order; blank lines are none. `raw` is the file's own bytes."""
    encoding, end = str(form.get("encoding") or "utf-8"), line_end(form)
    row_end = _encoded(str(form.get("row_end") or ""), encoding)
    quote = _encoded(str(form.get("quote") or ""), encoding)
    split = _splitter(form)
    last = int(form.get("lines") or 0) - int(form.get("footer_lines") or 0)
    ahead: deque[bytes] = deque()
    with closing(open_plain(path, form.get("compression"))) as stream:
        source = lines(stream, end)
        number = sum(1 for _ in islice(source, _before(form)))

        def more() -> bytes | None:
            line = next(source, None)
            if line is not None:
                ahead.append(line)
            return line

        while ahead or more() is not None:
            if not row_end and width > 1 and not ahead[0].strip(b"\r\n\0\xef\xbb\xbf\xfe\xff"):
                count = 1
            else:
                if row_end:
                    count, raw = _to_row_end(ahead, more, row_end, end)
                    values, rule = _parsed(raw.removesuffix(row_end), encoding, split)
                else:
                    count, raw, values, rule = _to_closed_quote(ahead, more, encoding, split, (quote, end))
                if values is not None and len(values) != width:
                    rule = "csv.too_many_columns" if len(values) > width else "csv.missing_columns"
                    values = None
                if form.get("footer_lines") and number >= last:
                    values, rule = None, "csv.footer"
                yield Record(number + 1, count, raw, values, rule)
            number += count
            for _ in range(count):
                ahead.popleft()


More = Callable[[], bytes | None]


def _to_row_end(ahead: deque[bytes], more: More, row_end: bytes, end: bytes) -> tuple[int, bytes]:
    count = 1
    while not bare(ahead[count - 1], end).endswith(row_end):
        if count == len(ahead) and (count >= SPAN_LINES or more() is None):
            break
        count += 1
    count = min(count, len(ahead))
    return count, bare(b"".join(islice(ahead, count)), end)


def _to_closed_quote(
    ahead: deque[bytes], more: More, encoding: str, split: Split, marks: tuple[bytes, bytes]
) -> tuple[int, bytes, list[str | None] | None, str | None]:
    quote, end = marks
    raw = ahead[0]
    values, rule = _parsed(bare(raw, end), encoding, split)
    count = 1
    while rule == OPEN:
        if count == len(ahead) and (len(raw) > SPAN_BYTES or count >= SPAN_LINES or more() is None):
            return 1, bare(ahead[0], end), None, "csv.unterminated_quote"
        line = ahead[count]
        raw += line
        count += 1
        if quote in line:
            values, rule = _parsed(bare(raw, end), encoding, split)
    if values is None and rule == "csv.unterminated_quote":
        return 1, bare(ahead[0], end), None, rule
    return count, bare(raw, end), values, rule


def _before(form: Mapping[str, Any]) -> int:
    header = form.get("header")
    return int(form.get("skip") or 0) + (0 if header is None else 1 + sum(str(n).count("\n") for n in header))


def _encoded(mark: str, encoding: str) -> bytes:
    return mark.encode(encoding) if encoding.startswith("utf-16-") else mark.encode()


def _parsed(raw: bytes, encoding: str, split: Split) -> tuple[list[str | None] | None, str | None]:
    try:
        line = decoded(raw, encoding)
    except UnicodeDecodeError:
        return None, "csv.encoding"
    if "\0" in line:
        return None, "csv.nul_byte"
    return split(line)


def decoded(raw: bytes, encoding: str) -> str:
    """Strict: raises `UnicodeDecodeError` rather than guess; `mixed` is UTF-8, else windows-1252, by line."""
    if encoding == "mixed":
        try:
            return raw.decode("utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError:
            return raw.decode("windows-1252")
    line = raw.decode("utf-8" if encoding == "utf-8-sig" else encoding)
    return line.removeprefix("\ufeff")


def _splitter(form: Mapping[str, Any]) -> Split:
    delimiter, quote = str(form.get("delimiter") or ","), str(form.get("quote") or "")
    if not quote or form.get("row_end"):
        return lambda line: ([*line.split(delimiter)], None)
    nothing = None if form.get("nulls") == "unquoted" else ""
    escape = str(form.get("escape") or quote)
    q, e = re.escape(quote), re.escape(escape)
    inner = rf"[^{q}]*(?:{q}{q}[^{q}]*)*" if escape == quote else rf"[^{q}{e}]*(?:{e}.[^{q}{e}]*)*"
    quoted = re.compile(rf" *{q}({inner}){q} *", re.DOTALL)
    opens = re.compile(rf" *{q}")
    escaped = re.compile(rf"{e}(.)", re.DOTALL)

    def split(line: str) -> tuple[list[str | None] | None, str | None]:
        if quote not in line:
            return [value or nothing for value in line.split(delimiter)], None
        values: list[str | None] = []
        at = 0
        while True:
            found = quoted.match(line, at)
            if found:
                value, at = found[1], found.end()
                if escape in value:
                    value = (
                        value.replace(quote + quote, quote) if escape == quote else escaped.sub(r"\1", value)
                    )
                values.append(value)
            elif opens.match(line, at):
                return None, OPEN
            else:
                to = line.find(delimiter, at)
                to = len(line) if to < 0 else to
                values.append(line[at:to] or nothing)
                at = to
            if at == len(line):
                return values, None
            if not line.startswith(delimiter, at):
                return None, "csv.unterminated_quote"
            at += len(delimiter)

    return split


class Numbered:
    """Rows of one file that were read in Python: written to scratch with their line, then staged."""

    def __init__(self, stage: Stage, file: StagedFile) -> None:
        self.stage, self.file = stage, file
        self.rows = self.longest = 0
        self._path = stage.path("rows.csv")
        self._out = self._path.open("w", encoding="utf-8", newline="", errors="backslashreplace")
        self._write = csv.writer(self._out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow

    def add(self, line: int, values: Sequence[str | None]) -> None:
        self._write([line, *(NEVER if v is None else v for v in values)])
        self.rows += 1
        self.longest = max(self.longest, sum(len(v) for v in values if v is not None))

    def finish(self) -> None:
        """Stages what was added; the scratch file is gone afterwards."""
        self._out.close()
        if self.rows:
            part = Part(self.stage.table("rows"), [self.file], lines=True)
            self._load(part, len(self.stage.wanted.names))
            self.stage.add(part, [self.rows])
        self._path.unlink()

    def _load(self, part: Part, width: int) -> None:
        columns = ", ".join(["'l': 'BIGINT'", *(f"'x{i}': 'VARCHAR'" for i in range(width))])
        size = max(2_000_000, 8 * self.longest + 100_000)
        self.stage.con.execute(
            f"CREATE TEMP TABLE {ident(part.table)} AS SELECT * EXCLUDE (l), l AS _l FROM read_csv(?, "
            f"auto_detect=false, columns={{{columns}}}, header=false, delim=',', quote='\"', escape='\"', "
            f"nullstr={text(NEVER)}, new_line='\\n', max_line_size={size})",
            [str(self._path)],
        )


def read_slowly(stage: Stage, file: StagedFile, header: Header, reason: str = "") -> None:
    """Stages one file by `records`; what follows a break in the file itself is one reject."""
    rows = Numbered(stage, file)
    following = 1
    try:
        for record in records(file.path, file.form, header.width):
            values, rule = record.values, record.rule or header.refused
            if values is not None and rule is None and values == header.names:
                rule = "csv.repeated_header"
            if values is None or rule is not None:
                raw = as_text(record.raw, file.encoding)
                stage.reject(file, [(record.line, raw, rule or "csv.malformed")])
            else:
                rows.add(record.line, [None if f is None else values[f] for f in header.fields])
            following = record.line + record.lines
    except BROKEN as error:
        stage.reject(file, [(following, f"{error or type(error).__name__} {reason}".strip(), UNREADABLE)])
    rows.finish()
