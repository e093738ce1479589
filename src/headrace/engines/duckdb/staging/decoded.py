"""Formats of which a connector brings the decoder: its texts, frame by frame, in the order of the records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from headrace.core import Frame
from headrace.errors import DataError

from .columnar import unreadable
from .header import match, refused
from .parts import Part, Stage, StagedFile, ident
from .read import FAILED

GROUP = "headrace.formats"
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
    part = Part(stage.table("decoded"), [file], delta=[1])
    wanted = ", ".join(
        f"{'NULL' if field is None else ident(names[field])}::VARCHAR AS x{place}"
        for place, field in enumerate(fields)
    )
    stage.con.execute(
        f"CREATE TEMP TABLE {ident(part.table)} "
        f"({', '.join(f'x{place} VARCHAR' for place in range(len(fields)))})"
    )
    rows = 0
    try:
        for frame in frames:
            stage.con.register("headrace_frame", frame)
            query = f"INSERT INTO {ident(part.table)} SELECT {wanted} FROM headrace_frame"
            rows += stage.con.execute(query).fetchall()[0][0]
            stage.con.unregister("headrace_frame")
    except (DataError, *FAILED):
        stage.drop(part)
        raise
    stage.add(part, [rows])


__all__ = ["decoder", "stage_decoded"]
