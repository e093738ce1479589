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

from .erase_records import READERS, erase_records
from .raw import line_end, lines, open_plain
from .staging.strict import fold

LONGEST = 1_000
"""Lines of a record; a longer one is an unclosed quote, and then lines are judged by their text alone."""


SEARCHED = ("csv", "jsonl", "corrections", "text", *READERS)
"""Types of files in which a value is found if it is there."""


def erase(
    path: Path, form: Mapping[str, Any], names: Sequence[str], value: str, to: Path
) -> tuple[int, Mapping[str, Any]]:
    """Copies `path` to `to` without the records whose field `names` is `value`; how many, and its new format.

    Fields are compared without regard to case and outer blanks. A record that cannot be split into the
    columns of its file goes if its text holds the value anywhere. Nothing is written if no record is found.
    Raises `ConfigError` for formats in which a record cannot be blanked out.
    """
    wanted = value.strip().casefold()
    if form.get("type") in READERS:
        return erase_records(path, form, lambda line: _theirs(line, names, wanted), to)
    end = line_end(form)
    with closing(open_plain(path, form.get("compression"))) as stream:
        physical = list(lines(stream, end))
    encoding = str(form.get("encoding") or "utf-8")
    texts = [line.decode(encoding, "replace") for line in physical]
    kind = form.get("type")
    escaped = kind in ("jsonl", "corrections") and any("\\" in text for text in texts)
    if not escaped and not any(wanted in text.casefold() for text in texts):
        return 0, form
    if kind == "csv" and int(form.get("columns") or 0) > 1:
        found = list(_csv(texts, form, names, wanted))
    elif kind in ("jsonl", "corrections"):
        found = list(_json(texts, names, wanted))
    else:
        raise ConfigError(
            f"the value is in a file of type `{kind}`, from which single records cannot be taken",
            hint="records are erased from CSV of several columns, JSON, Parquet, Avro and Excel; deliver it"
            " as one of these, or without the subject; nothing was changed",
        )
    gone = {place for first, last in found for place in range(first, last)}
    if gone:
        with to.open("wb") as out:
            for place, line in enumerate(physical):
                out.write((end if line.endswith(end) else b"") if place in gone else line)
    return len(found), {**form, "compression": None}


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
        if _theirs(text, names, wanted):
            yield place, place + 1


def _theirs(line: str, names: Sequence[str], wanted: str) -> bool:
    """Whether a record, as JSON, is the subject's; what is no JSON is if its text holds the value."""
    try:
        record = json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return wanted in line.casefold()
    images = [record, *_images(record)]
    told = [str(item).strip().casefold() for image in images for name in names for item in _at(image, name)]
    return wanted in told or _in_raw(record, wanted)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(made := dict(pairs)) < len(pairs):
        raise ValueError("a key comes twice")
    return made


def _images(record: Any) -> Iterator[Any]:
    """What a change event says of a row, before and after it."""
    if isinstance(record, dict):
        for name in ("payload", "before", "after", "key"):
            if isinstance(inner := record.get(name), dict):
                yield inner
                yield from _images(inner)


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
        whole = [value for key, value in record.items() if fold(key) == fold(path)]
        if whole:
            yield from whole
            return
        head, _, rest = path.partition(".")
        for key, value in record.items():
            if rest and fold(key) == fold(head):
                yield from _at(value, rest)
