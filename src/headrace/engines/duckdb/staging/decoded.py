"""Formats of which a connector brings the decoder: its texts, frame by frame, in the order of the records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

from arro3.core import RecordBatchReader, Table

from headrace.core import Frame
from headrace.errors import DataError

from .columnar import unreadable
from .header import match, refused
from .parts import Part, Stage, StagedFile, ident
from .read import FAILED

GROUP = "headrace.formats"
TOGETHER = 4
"""Frames that one statement takes in, while the next are decoded: to plan it costs as much as many rows."""
Decode = Callable[[Path, Mapping[str, Any]], tuple[Sequence[str], Iterator[Frame]]]
"""From bytes of one format to column names and frames of text columns so named; NULL is SQL's NULL.

Pure: the same bytes give the same frames. Raises `DataError` for bytes that are not of this format.
"""


def stage_decoded(stage: Stage, files: Sequence[StagedFile]) -> None:
    """Stages each file by its format's decoder; `_line` is the record's number.

    A file that its decoder refuses, or of a format that nothing here reads, is one reject.
    """
    for file in files:
        decode = decoder(str(file.form.get("type")))
        if decode is None:
            reason = f"format `{file.form.get('type')}` cannot be read: nothing that is installed decodes it"
            stage.reject(file, [(1, reason, "file.unreadable")])
            continue
        try:
            _read(stage, file, decode)
        except (DataError, *FAILED) as error:
            unreadable(stage, file, error)


def decoder(kind: str) -> Decode | None:
    """What is registered for `kind` in the entry point group `headrace.formats`."""
    found = next(iter(entry_points(group=GROUP, name=kind)), None)
    return found.load() if found else None


def _read(stage: Stage, file: StagedFile, decode: Decode) -> None:
    names, frames = decode(file.path, file.form)
    fields = match(stage.wanted, list(names))
    if rule := refused(stage.wanted, list(names), fields):
        raise DataError(f"columns {', '.join(names)}: {rule}")
    part = Part(stage.table("decoded"), [file])
    wanted = ", ".join(
        f"{'NULL' if field is None else ident(names[field])}::VARCHAR AS {ident(name)}"
        for name, field in zip(stage.wanted.names, fields, strict=True)
    )
    part.shaped = stage.shape is not None
    rows = 0
    try:
        with ThreadPoolExecutor(1, "decode") as ahead:
            coming = ahead.submit(_some, frames)
            while group := coming.result():
                coming = ahead.submit(_some, frames)
                rows += _take(stage, part, wanted, group, first=not part.delta)
                part.delta = [1]
    except (DataError, *FAILED):
        stage.drop(part)
        raise
    stage.add(part, [rows])


def _some(frames: Iterator[Frame]) -> list[Frame]:
    return list(islice(frames, TOGETHER))


def _take(stage: Stage, part: Part, wanted: str, frames: Sequence[Frame], first: bool) -> int:
    """Appends the rows of `frames` to the part's table, in their order, shaped if that is asked for.

    Frames of one schema as one table: DuckDB reads the batches of a table side by side, but not tables.
    """
    readers = [RecordBatchReader.from_stream(frame) for frame in frames]
    tables = [
        Table.from_batches([batch for reader in run for batch in reader], schema=schema)
        for schema, run in groupby(readers, attrgetter("schema"))
    ]
    views = [f"headrace_frames{place}" for place in range(len(tables))]
    query = " UNION ALL ".join(f"SELECT {wanted} FROM {view}" for view in views)
    if stage.shape is not None:
        query = stage.shape.sql(query, stage.wanted.names, ())
    else:
        listed = ", ".join(f"{ident(name)} AS x{place}" for place, name in enumerate(stage.wanted.names))
        query = f"SELECT {listed} FROM ({query})"
    try:
        for view, table in zip(views, tables, strict=True):
            stage.con.register(view, table)
        into = f"CREATE TEMP TABLE {ident(part.table)} AS" if first else f"INSERT INTO {ident(part.table)}"
        return int(stage.con.execute(f"{into} {query}").fetchall()[0][0])
    finally:
        for view in views:
            stage.con.unregister(view)


__all__ = ["decoder", "stage_decoded"]
