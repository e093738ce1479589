"""Records of one subject are blanked out of a file; all other bytes and line numbers stay as they are."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from headrace.errors import ConfigError

from .raw import line_end, lines, open_plain

LONGEST = 1_000
"""Lines of a record; a longer one is an unclosed quote, and then lines are judged by their text alone."""


def erase(path: Path, form: Mapping[str, Any], names: Sequence[str], value: str, to: Path) -> int:
    """Copies the plain bytes of `path` to `to` without the records whose field `names` is `value`; how many.

    Fields are compared without regard to case and outer blanks. A record that cannot be split into the
    columns of its file goes if its text holds the value anywhere. Nothing is written if no record is found.
    Raises `ConfigError` for formats in which a record cannot be blanked out.
    """
    end = line_end(form)
    with closing(open_plain(path, form.get("compression"))) as stream:
        physical = list(lines(stream, end))
    wanted = value.strip().casefold()
    encoding = str(form.get("encoding") or "utf-8")
    texts = [line.decode(encoding, "replace") for line in physical]
    if not any(wanted in text.casefold() for text in texts):
        return 0
    kind = form.get("type")
    if kind == "csv" and int(form.get("columns") or 0) > 1:
        found = list(_csv(texts, form, names, wanted))
    elif kind in ("jsonl", "corrections"):
        found = list(_json(texts, names, wanted))
    else:
        raise ConfigError(
            f"the value is in a file of type `{kind}`, from which single records cannot be taken",
            hint="records are erased from CSV of several columns and from JSON lines; nothing was changed",
        )
    gone = {place for first, last in found for place in range(first, last)}
    if gone:
        with to.open("wb") as out:
            for place, line in enumerate(physical):
                out.write((end if line.endswith(end) else b"") if place in gone else line)
    return len(found)


def _csv(
    texts: Sequence[str], form: Mapping[str, Any], names: Sequence[str], wanted: str
) -> Iterator[tuple[int, int]]:
    """(first, end) of the lines of each record that goes."""
    header = [str(name).strip().casefold() for name in form.get("header") or form.get("names") or []]
    places = [header.index(name.casefold()) for name in names if name.casefold() in header]
    skip = int(form.get("skip") or 0)
    quote = str(form.get("quote") or "") or None
    escape = str(form.get("escape") or "")
    reader = csv.reader(
        iter(texts[skip:]),
        delimiter=str(form.get("delimiter") or ","),
        quotechar=quote,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        escapechar=escape if escape and escape != quote else None,
    )
    csv.field_size_limit(1 << 30)
    first = 0
    heading = form.get("header") is not None
    for fields in reader:
        last = reader.line_num
        if heading:
            heading, first = False, last
            continue
        if last - first > LONGEST:
            yield from _by_text(texts, skip + first, wanted)
            return
        told = [field.strip().casefold() for field in fields]
        split = len(fields) == int(form.get("columns") or 0) and places
        if wanted in ([told[place] for place in places] if split else told) or (
            not split and any(wanted in field for field in told)
        ):
            yield skip + first, skip + last
        first = last


def _by_text(texts: Sequence[str], first: int, wanted: str) -> Iterator[tuple[int, int]]:
    for place in range(first, len(texts)):
        if wanted in texts[place].casefold():
            yield place, place + 1


def _json(texts: Sequence[str], names: Sequence[str], wanted: str) -> Iterator[tuple[int, int]]:
    for place, text in enumerate(texts):
        try:
            record = json.loads(text)
        except ValueError:
            record = None
        if record is None:
            gone = wanted in text.casefold()
        else:
            told = [str(item).strip().casefold() for name in names for item in _at(record, name)]
            gone = wanted in told or _in_raw(record, wanted)
        if gone:
            yield place, place + 1


def _in_raw(record: Any, wanted: str) -> bool:
    """Whether a correction stands for a record whose raw text has the value as a word: that one goes, too."""
    if not isinstance(record, dict) or not {"_file", "_line", "raw"} <= set(record):
        return False
    word = rf"(?<![\w.@+-]){re.escape(wanted)}(?![\w@+-])"
    return re.search(word, str(record["raw"]).casefold()) is not None


def _at(record: Any, path: str) -> Iterator[Any]:
    """The value at `path`, whole or by its parts, and in the fields of a correction."""
    if isinstance(record, dict):
        fields = record.get("fields")
        if isinstance(fields, str) and fields.startswith("{"):
            fields = json.loads(fields)
        if isinstance(fields, dict):
            yield from _at(fields, path)
        if path in record:
            yield record[path]
            return
        head, _, rest = path.partition(".")
        if rest and head in record:
            yield from _at(record[head], rest)
