"""What a streamed text turned out to be: CSV, JSON Lines, or one JSON document."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from .dialect import Dialect, count_records, footer_lines, open_quote, parse
from .how import Found

if TYPE_CHECKING:
    from .text import TextScan

_WHOLE = 1200
"""Lines up to which a file is parsed whole, so that its records are counted exactly."""
_PEEK = 200
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.S)


def kind_of(text: str) -> Literal["csv", "jsonl", "json"]:
    """JSON is recognised by a first line (or document) that is an object or an array; the rest is CSV."""
    head = text.lstrip("\ufeff \t\r\n")
    if head[:1] not in ("{", "["):
        return "csv"
    first = head.split("\n", 1)[0].strip()
    whole = _loads(first)
    if isinstance(whole, dict):
        return "jsonl" if "\n" in head.strip() else "json"
    if head[0] == "[":
        return "json" if re.match(r'\[\s*(?:[\[{"\]\d-]|true|false|null|$)', head) else "csv"
    return "json" if re.match(r'\{\s*(?:"(?:[^"\\]|\\.)*"\s*(?::|$)|\}|$)', head) else "csv"


def csv_found(scan: TextScan) -> Found:
    dialect = scan.dialect or Dialect(",", '"', '"')
    tail = _tail_lines(scan)
    footer = scan.how.footer
    if footer is None:
        footer = 0 if dialect.row_end else footer_lines(tail, dialect)
        footer = min(footer, max(scan.lines - dialect.skip - (dialect.header is not None), 0))
    body = scan.lines - dialect.skip - (dialect.header is not None) - footer
    rows: int | None = None
    if scan.complete and scan.lines <= _WHOLE:
        kept = _lines(scan)[dialect.skip : scan.lines - footer]
        rows = max(count_records(kept, dialect) - (dialect.header is not None), 0)
        if dialect.columns == 1 and rows and not all(kept):
            # In a table of one column a blank line may be a missing value.
            rows = None
    names = scan.how.header if isinstance(scan.how.header, tuple) else None
    facts: dict[str, Any] = {
        "delimiter": dialect.delimiter,
        "quote": dialect.quote,
        "escape": dialect.escape,
        "header": list(dialect.header) if dialect.header is not None else None,
        "columns": len(names) if names else dialect.columns,
        "skip": dialect.skip,
        "quoted": scan.quotes > 0,
        "row_end": dialect.row_end,
        "footer_lines": footer,
    }
    if names:
        facts["names"] = list(names)
    cut = _cut(scan) or _csv_cut(scan, dialect, tail, footer)
    return Found({"type": "csv", **_common(scan), **facts, "rows": rows}, rows, rows == 0 or body <= 0, cut)


def jsonl_found(scan: TextScan) -> Found:
    keys: dict[str, None] = {}
    lines = scan.decode(bytes(scan.sample)).split("\n")[:_PEEK]
    for line in lines:
        value = _loads(line)
        if isinstance(value, dict):
            keys.update(dict.fromkeys(value))
    rows = scan.lines
    if scan.complete:
        rows = sum(1 for line in _lines(scan) if line.strip())
    cut = _cut(scan)
    last = scan.decode(scan.tail.rsplit(b"\n", 1)[-1])
    whole = b"\n" in scan.tail or scan.complete
    if not cut and not scan.final_newline and whole and last.strip() and _unclosed(last):
        cut = "its last line is half a record"
    exact = rows if scan.complete else None
    facts = {"type": "jsonl", **_common(scan), "keys": list(keys), "rows": exact}
    if scan.how.envelope:
        facts |= _envelope(scan.how.envelope, [_loads(line) for line in lines])
    return Found(facts, exact, rows == 0, cut)


def _envelope(kind: str, values: Sequence[Any]) -> dict[str, Any]:
    """What holds of changes in envelopes: `keys` are those of the rows in them."""
    found = [value for value in values if isinstance(value, dict)]
    wrapped = any("payload" in value and "op" not in value for value in found)
    inner = [value.get("payload") if wrapped else value for value in found]
    rows = [value.get(part) for value in inner if isinstance(value, dict) for part in ("after", "before")]
    keys = dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row)
    return {"envelope": kind, "changes": True, "wrapped": wrapped, "keys": list(keys)}


def json_found(scan: TextScan) -> Found:
    text = scan.decode(bytes(scan.sample))
    end = scan.decode(scan.tail).rstrip()
    head = text.lstrip("\ufeff \t\r\n")
    value = _loads(text) if scan.complete else None
    path: str | None = None
    match = re.match(r'\{\s*("(?:[^"\\]|\\.)*")\s*:\s*\[', head)
    if isinstance(value, dict):
        lists = [key for key, inner in value.items() if _records(inner)]
        path = lists[0] if len(lists) == 1 else None
    elif match and not scan.complete:
        path = str(_loads(match[1]))
    items = _items(value, path) if value is not None else None
    peek = items if items is not None else _peek(head, match.end() - 1 if match else 0)
    keys = dict.fromkeys(key for item in peek[:_PEEK] if isinstance(item, dict) for key in item)
    cut = _cut(scan)
    if not cut and head and value is None:
        closed = end.endswith({"[": "]", "{": "}"}.get(head[0], "")) and (not match or _closed_after(end))
        if not closed or (scan.complete and _unclosed(head)):
            cut = "its brackets do not close"
    rows = len(items) if items is not None else None
    facts = {"type": "json", **_common(scan), "keys": list(keys), "records": path, "rows": rows}
    return Found(facts, rows, rows == 0 or not head, cut)


def _common(scan: TextScan) -> dict[str, Any]:
    mixed = scan.returns not in (0, scan.newlines) and scan.newlines > 0
    return {
        "encoding": scan.encoding,
        "newline": scan.newline,
        "mixed_newlines": mixed,
        "lines": scan.lines,
        "nul": scan.nul,
        "final_newline": scan.final_newline,
    }


def _cut(scan: TextScan) -> str | None:
    return "it ends in the middle of a character" if scan.cut_character else None


def _csv_cut(scan: TextScan, dialect: Dialect, tail: list[str], footer: int) -> str | None:
    """A broken quote far from the end is a bad row, not a cut file: what follows it is still a table."""
    if dialect.row_end:
        ended = scan.decode(scan.tail).rstrip("\r\n").endswith(dialect.row_end)
        return None if ended or not tail else f"its last row does not end with {dialect.row_end}"
    if dialect.quote and scan.quotes % 2:
        at = open_quote(tail, dialect)
        if at is not None:
            after = parse(tail[at + 1 :], dialect)
            good = sum(len(row) == dialect.columns for row in after)
            if dialect.columns > 1 and 2 * good <= len(after):
                return "its last quote is never closed"
    last = parse(tail[-1:], dialect)
    # The cut line itself does not speak against the others.
    records = dialect.rows + (dialect.header is not None)
    regular = dialect.columns > 1 and records > 2 and dialect.regular * records >= 0.9 * (records - 1)
    if regular and not scan.final_newline and last and not footer and scan.lines - dialect.skip > 1:
        fields = len(last[0])
        opened = dialect.quote and scan.quotes and '"' in "".join(tail[-1:])
        if fields < dialect.columns and not opened and not _closes(tail, dialect):
            return f"its last line has {fields} of {dialect.columns} fields and no newline"
    return None


def _closes(tail: list[str], dialect: Dialect) -> bool:
    """The last line is the end of a record that began on an earlier line."""
    rows = parse(tail[-50:], dialect)
    return bool(rows) and len(rows[-1]) >= dialect.columns


def _tail_lines(scan: TextScan) -> list[str]:
    lines = _cut_lines(scan.decode(scan.tail), scan.newline)
    if scan.size > len(scan.tail):
        lines = lines[1:]
    if lines and lines[-1] == "":
        lines.pop()
    return lines[-_WHOLE:]


def _cut_lines(text: str, newline: str) -> list[str]:
    if newline == "\r":
        return text.split("\r")
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in lines] if newline == "\r\n" or "\r" in text else lines


def _lines(scan: TextScan) -> list[str]:
    lines = _cut_lines(scan.decode(bytes(scan.sample)), scan.newline)
    if lines and lines[-1] == "":
        lines.pop()
    return lines


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _items(value: Any, path: str | None) -> list[Any]:
    if isinstance(value, dict):
        inner = value[path] if path is not None else [value]
        return inner if isinstance(inner, list) else [value]
    return value if isinstance(value, list) else [value]


def _peek(text: str, at: int) -> list[Any]:
    """The first elements of an array that is longer than the sample."""
    decoder = json.JSONDecoder()
    items: list[Any] = []
    at += 1
    while len(items) < _PEEK:
        match = re.compile(r"[\s,]*").match(text, at)
        try:
            value, at = decoder.raw_decode(text, match.end() if match else at)
        except (ValueError, RecursionError):
            break
        items.append(value)
    return items


def _closed_after(end: str) -> bool:
    """Behind the last array of a document that holds its records in one, the document itself closes."""
    rest = _STRING.sub("", end[end.rfind("]") + 1 :])
    return "]" in end and rest.count("}") > rest.count("{")


def _unclosed(text: str) -> bool:
    """Brackets or a string stay open at the end: cut off, rather than malformed."""
    bare = _STRING.sub("", text)
    opened = bare.count("{") + bare.count("[")
    return '"' in bare or opened > bare.count("}") + bare.count("]")
