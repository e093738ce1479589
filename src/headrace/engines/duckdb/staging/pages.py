"""Documents whose source says where the records lie: these one to a line in scratch, for the fast reader."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from ..normalise import is_plain
from ..raw import BROKEN, open_plain
from .parts import Stage, StagedFile
from .read import Reading
from .strict import Broken, Text, documents

TOGETHER = 1000
"""Pages that one reader takes at once."""


def laid_out(stage: Stage, file: StagedFile) -> Reading | None:
    """The records of `file` as lines of a scratch file, each as it stands in the source.

    None where that cannot be: the document is not sound to its end, or a record has lines of its own.
    """
    if not isinstance(file.form.get("records"), list) or not is_plain(file.form):
        return None
    records: list[str] = []
    try:
        with closing(open_plain(file.path, file.form.get("compression"))) as stream:
            source = Text(iter([stream.read().decode("utf-8")]))
        for record in documents(source, file.form["records"]):
            if "\n" in record or "\r" in record:
                return None
            records.append(record)
    except (UnicodeDecodeError, json.JSONDecodeError, Broken, RecursionError, *BROKEN):
        return None
    path: Path = stage.path("page.jsonl")
    path.write_bytes("".join(f"{record}\n" for record in records).encode("utf-8"))
    return Reading(file, path, {"type": "jsonl", "encoding": "utf-8", "lines": len(records)})
