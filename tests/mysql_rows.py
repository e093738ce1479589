"""What a MySQL source's files hold, as rows of text, whether they are of a snapshot or of the binlog."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from headrace.core import Landed
from headrace.sources.binlog import decode

Row = dict[str, str | None]
CELL = re.compile(r'(?:"((?:[^"]|"")*)")?(,|\n)')


@dataclass
class Ctx:
    follow: bool = False
    landed: dict[str, Landed] = field(default_factory=dict)

    def seen(self, name: str) -> Landed | None:
        return self.landed.get(name)

    def names(self) -> Sequence[str]:
        return list(self.landed)


def taken(file: Any) -> tuple[bytes, Mapping[str, Any]]:
    inspector = file.inspector()
    with file.open() as stream:
        content = stream.read()
    inspector.feed(content)
    return content, inspector.result()


def texts(content: bytes, form: Mapping[str, Any], folder: Path) -> Iterator[Row]:
    if form["type"] == "csv":
        assert form["nulls"] == "unquoted"
        cells = [
            None if cell[1] is None else cell[1].replace('""', '"')
            for cell in CELL.finditer(content.decode())
        ]
        names = next(csv.reader(io.StringIO(content.decode())))
        for at in range(len(names), len(cells), len(names)):
            yield dict(zip(names, cells[at : at + len(names)], strict=True))
        return
    path = folder / "object"
    path.write_bytes(content)
    names, frames = decode(path, form)
    with duckdb.connect() as con:
        for frame in frames:
            con.register("frame", frame)
            for row in con.execute("SELECT * FROM frame").fetchall():
                yield dict(zip(names, row, strict=True))
