"""Records of one subject leave a file without lines; the others become lines of JSON with the same numbers.

From Parquet, Avro, Excel and JSON documents a record cannot be blanked out. So the others are written as
lines of JSON, each at its own number, with the texts that staging reads from the file; a blank line is none.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from headrace.core import Landed
from headrace.errors import ConfigError, MissingExtra

from .raw import BROKEN, open_plain
from .staging.columnar import is_nested, scalar_text
from .staging.header import named
from .staging.json import blocks
from .staging.parts import StagedFile, ident, text
from .staging.read import FAILED
from .staging.sheets import NESTED, as_text, avro_records, nested_json, xlsx_records
from .staging.strict import Text, documents

Lines = Iterator[tuple[int, str]]
PORTION = 10_000


def erase_records(
    path: Path, form: Mapping[str, Any], theirs: Callable[[str], bool], to: Path
) -> tuple[int, Mapping[str, Any]]:
    """Writes the records of `path` that are not `theirs` as JSON lines; how many went, and the new format.

    Nothing is written if none is. Raises `ConfigError` where the file cannot be read to its end.
    """
    gone = {number for number, line in _lines(path, form) if theirs(line)}
    if not gone:
        return 0, form
    at = 1
    keys: dict[str, None] = {}
    with to.open("w", encoding="utf-8", newline="\n") as out:
        for number, line in _lines(path, form):
            out.write("\n" * (number - at))
            out.write("\n" if number in gone else line + "\n")
            at = number + 1
            if len(keys) < 1_000 and number not in gone:
                keys.update(dict.fromkeys(_keys(line)))
    known = {"type": "jsonl", "encoding": "utf-8", "newline": "\n", "compression": None, "keys": list(keys)}
    return len(gone), {**known, "rows": form.get("rows")}


def _keys(line: str) -> Sequence[str]:
    try:
        record = json.loads(line)
    except ValueError:
        return ()
    return list(record) if isinstance(record, dict) else ()


def _lines(path: Path, form: Mapping[str, Any]) -> Lines:
    """(number, JSON text without line breaks) of each record."""
    last = 0
    try:
        for last, line in READERS[str(form.get("type"))](path, form):
            yield last, re.sub(r"[\r\n]", " ", line)
    except MissingExtra:
        raise
    except (*BROKEN, *FAILED, RecursionError) as error:
        raise ConfigError(
            f"it cannot be searched: it breaks after record {last}: {str(error).partition(chr(10))[0]}",
            hint="deliver it again whole, or without the subject; nothing was changed",
        ) from error


def _json(path: Path, form: Mapping[str, Any]) -> Lines:
    with closing(open_plain(path, form.get("compression"))) as stream:
        source = Text(blocks(stream, str(form.get("encoding") or "utf-8")))
        yield from enumerate(documents(source, form.get("records")), 1)


def _parquet(path: Path, form: Mapping[str, Any]) -> Lines:
    import duckdb

    with tempfile.TemporaryDirectory(dir=path.parent) as folder, duckdb.connect() as con:
        if form.get("compression") is not None:
            plain = Path(folder) / "plain.parquet"
            with closing(open_plain(path, form.get("compression"))) as stream, plain.open("wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)
            path = plain
        found = f"read_parquet({text(str(path))}, hive_partitioning=false)"
        columns = con.execute(f"DESCRIBE SELECT * FROM {found}").fetchall()
        values = [
            f"{text(name)}: {ident(name) if is_nested(kind) else scalar_text(ident(name), kind)}"
            for name, kind, *_ in columns
        ]
        rows = con.execute(f"SELECT to_json({{{', '.join(values)}}})::VARCHAR FROM {found}")
        number = 0
        while portion := rows.fetchmany(PORTION):
            for (line,) in portion:
                number += 1
                yield number, line


def _sheet(read: Callable[[StagedFile], tuple[list[str], Iterator[tuple[int, Sequence[Any]]]]]) -> Any:
    def lines(path: Path, form: Mapping[str, Any]) -> Lines:
        names, records = read(StagedFile(0, "", Landed("", path.name, 0, "", None, form), path))
        names = named(names)
        for number, values in records:
            pairs = zip(names, values, strict=False)
            yield number, "{" + ",".join(f"{json.dumps(name)}:{_value(value)}" for name, value in pairs) + "}"

    return lines


def _value(value: Any) -> str:
    return nested_json(value) if isinstance(value, NESTED) else json.dumps(as_text(value), ensure_ascii=False)


READERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Lines]] = {
    "json": _json,
    "parquet": _parquet,
    "avro": _sheet(avro_records),
    "xlsx": _sheet(xlsx_records),
}
"""By type of file."""
