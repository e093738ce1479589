"""Avro and Excel, record by record through a reader of their own; plain text, one record per line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

from headrace.errors import MissingExtra

from ..raw import BROKEN, open_plain
from .columnar import unreadable
from .csv import stage_csv
from .header import match, named, refused
from .parts import Stage, StagedFile, Wanted
from .slow import UNREADABLE, Numbered

Record = tuple[int, Sequence[Any]]
Getter = Callable[[Sequence[Any]], Any]
NESTED = (Mapping, list, tuple)


class BrokenFile(ValueError):
    """A reader could not go on; what it gave before is good."""


def stage_avro(stage: Stage, files: Sequence[StagedFile]) -> None:
    """Stages Avro files; `_line` is the record's number. What follows a broken block is one reject."""
    for file in files:
        _stage_records(stage, file, avro_records)


def stage_xlsx(stage: Stage, files: Sequence[StagedFile]) -> None:
    """Stages the first sheet of each workbook: its first row that is not empty names the columns."""
    for file in files:
        _stage_records(stage, file, xlsx_records)


def stage_text(stage: Stage, files: Sequence[StagedFile]) -> None:
    """Stages plain text: each line is a record with the one column `line`."""
    for file in files:
        form = {**file.form, "header": None, "columns": 1, "names": ["line"], "quote": None, "escape": None}
        form |= {"delimiter": "\x01\x02\x03\x01", "skip": 0, "footer_lines": 0}
        stage_csv(stage, [replace(file, landed=replace(file.landed, format=form))])


def _stage_records(
    stage: Stage, file: StagedFile, read: Callable[[StagedFile], tuple[list[str], Iterator[Record]]]
) -> None:
    rows, number = Numbered(stage, file), 0
    try:
        names, records = read(file)
        names = named(names)
        getters = _getters(stage.wanted, names)
        broken = refused(stage.wanted, names, match(stage.wanted, names)) if names else None
        flat = [(i, name) for i, name in enumerate(stage.wanted.names) if name in stage.wanted.flat]
        for number, values in records:
            found = [get(values) for get in getters]
            nested = (f"{name}.type" for i, name in flat if isinstance(found[i], NESTED))
            if rule := broken or next(nested, None):
                texts = dict(zip(names, map(as_text, values), strict=False))
                stage.reject(file, [(number, json.dumps(texts, ensure_ascii=False), rule)])
            else:
                rows.add(number, [as_text(value) for value in found])
    except BROKEN as error:
        if number:
            stage.reject(file, [(number + 1, str(error) or type(error).__name__, UNREADABLE)])
        else:
            unreadable(stage, file, error)
    rows.finish()


def _getters(wanted: Wanted, names: Sequence[str]) -> list[Getter]:
    def path(accepted: Sequence[str]) -> Getter:
        for name in accepted:
            root, *steps = name.split(".")
            if steps and root in names:
                return _walk(names.index(root), steps)
        return lambda _: None

    fields = match(wanted, names)
    return [
        _walk(f, []) if f is not None else path(wanted.columns.get(c) or [c])
        for c, f in zip(wanted.names, fields, strict=True)
    ]


def _walk(field: int, steps: Sequence[str]) -> Getter:
    def get(values: Sequence[Any]) -> Any:
        value = values[field] if field < len(values) else None
        for step in steps:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value

    return get


def avro_records(file: StagedFile) -> tuple[list[str], Iterator[Record]]:
    """Names of the fields, and each record with its number."""
    try:
        import fastavro
    except ImportError as error:
        raise MissingExtra("reading Avro needs `fastavro`", hint="pip install 'headrace[formats]'") from error

    def records() -> Iterator[Record]:
        with closing(open_plain(file.path, file.form.get("compression"))) as stream:
            reader = _guarded(lambda: fastavro.reader(stream))
            number = 0
            while (record := _guarded(lambda: next(reader, None))) is not None:
                number += 1
                yield number, [record.get(name) for name in names] if isinstance(record, dict) else [record]

    with closing(open_plain(file.path, file.form.get("compression"))) as stream:
        schema: Any = _guarded(lambda: fastavro.reader(stream).writer_schema)
    whole = isinstance(schema, dict) and schema.get("type") == "record"
    names = [str(f["name"]) for f in schema["fields"]] if whole else ["value"]
    return names, records()


def _guarded(call: Callable[[], Any]) -> Any:
    """What `call` gives; broken bytes make decoders raise nearly anything: all of it is the file's."""
    try:
        return call()
    except Exception as error:
        if "you need to install" in str(error):
            raise MissingExtra(f"Avro: {error}", hint="pip install 'headrace[formats]'") from error
        raise BrokenFile(f"{type(error).__name__}: {error}") from error


def xlsx_records(file: StagedFile) -> tuple[list[str], Iterator[Record]]:
    """Names of the columns, and each row with its number in the sheet."""
    try:
        import python_calamine
    except ImportError as error:
        raise MissingExtra(
            "reading Excel needs `python-calamine`", hint="pip install 'headrace[formats]'"
        ) from error

    def sheet() -> Any:
        outer = file.form.get("compression")  # earlier releases noted the workbook's own
        with closing(open_plain(file.path, None if outer == "zip" else outer)) as stream:
            book = python_calamine.CalamineWorkbook.from_filelike(stream)
            return book.get_sheet_by_index(0).to_python(skip_empty_area=False)

    rows = enumerate(_guarded(sheet), 1)
    filled = ((number, row) for number, row in rows if any(cell != "" for cell in row))
    _, header = next(filled, (0, []))
    names = [as_text(cell) or "" for cell in header]
    while names and not names[-1]:
        names.pop()
    return names, filled


def as_text(value: Any) -> str | None:
    """One spelling per value: ISO 8601 (UTC as `Z`), shortest doubles, JSON for nested ones.

    A whole double is spelt as a whole number, because Excel knows no other.

    >>> as_text(17850.0), as_text(datetime(2020, 1, 2, 3, 4, tzinfo=timezone.utc)), as_text([1, None])
    ('17850', '2020-01-02T03:04:00Z', '[1,null]')
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.isoformat()
        return value.astimezone(timezone.utc).replace(tzinfo=None).isoformat() + "Z"  # noqa: UP017
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return "".join(f"\\x{byte:02X}" for byte in value)
    if isinstance(value, NESTED):
        return nested_json(value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}"
    return str(value)


def nested_json(value: Any) -> str:
    """JSON of a nested value, its leaves by `as_text`."""
    if isinstance(value, Mapping):
        return (
            "{"
            + ",".join(f"{json.dumps(str(k), ensure_ascii=False)}:{nested_json(v)}" for k, v in value.items())
            + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(nested_json, value)) + "]"
    if value is None:
        return "null"
    plain = as_text(value)
    return str(plain) if isinstance(value, bool | int | float) else json.dumps(plain, ensure_ascii=False)
