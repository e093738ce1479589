"""Parquet: typed columns become exact text. A file that cannot be read is one reject, never a crash.

Decimals, whole numbers and text come as they are; doubles in the shortest spelling that gives them back;
dates and timestamps in ISO 8601 (UTC with `Z` where the file says so); nested values as JSON.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from .raw import BROKEN, open_plain
from .stage_header import Header, match, refused
from .stage_parts import Part, Stage, StagedFile, ident, text
from .stage_read import FAILED
from .stage_slow import UNREADABLE

Columns = tuple[tuple[str, str], ...]


def stage_parquet(stage: Stage, files: Sequence[StagedFile]) -> None:
    """Stages files of one schema together; `_line` is the record's number."""
    groups: dict[Columns, list[StagedFile]] = {}
    for file in files:
        plain = _plain(stage, file)
        columns = _columns(stage, plain) if plain else None
        if plain and columns:
            groups.setdefault(columns, []).append(plain)
    for columns, group in groups.items():
        names = [name for name, _ in columns]
        fields = match(stage.wanted, names)
        header = Header(len(names), 0, names, fields, refused(stage.wanted, names, fields))
        _read(stage, group, columns, header)


def unreadable(stage: Stage, file: StagedFile, error: BaseException) -> None:
    """The whole file is one reject; its text is the reason."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    stage.reject(file, [(1, reason.replace(str(file.path), file.landed.name), UNREADABLE)])


def _plain(stage: Stage, file: StagedFile) -> StagedFile | None:
    compression = file.form.get("compression")
    if compression is None:
        return file
    path = stage.path("plain.parquet")
    try:
        with closing(open_plain(file.path, compression)) as stream, path.open("wb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)
    except BROKEN as error:
        unreadable(stage, file, error)
        return None
    return replace(file, path=path)


def _columns(stage: Stage, file: StagedFile) -> Columns | None:
    try:
        query = "DESCRIBE SELECT * FROM read_parquet(?, hive_partitioning=false)"
        found = stage.con.execute(query, [str(file.path)]).fetchall()
    except FAILED as error:
        unreadable(stage, file, error)
        return None
    return tuple((name, kind) for name, kind, *_ in found)


def _read(stage: Stage, group: list[StagedFile], columns: Columns, header: Header) -> None:
    part = Part(stage.table("parquet"), group, delta=[1] * len(group))
    several = len(group) > 1
    select = [f"{_field(columns, f, i, stage)} AS x{i}" for i, f in enumerate(header.fields)]
    select += ["filename AS _f"] if several else []
    if header.refused:
        select.append(f"to_json({{{', '.join(f'{text(n)}: {ident(n)}' for n, _ in columns)}}})::VARCHAR AS j")
    try:
        stage.con.execute(
            f"CREATE TEMP TABLE {ident(part.table)} AS SELECT {', '.join(select)} "
            f"FROM read_parquet(?, hive_partitioning=false{', filename=true' if several else ''})",
            [[str(f.path) for f in group]],
        )
    except FAILED as error:
        stage.drop(part)
        if several:
            _read(stage, group[: len(group) // 2], columns, header)
            _read(stage, group[len(group) // 2 :], columns, header)
        else:
            unreadable(stage, group[0], error)
        return
    key = "_f" if several else text(str(group[0].path))
    query = f"SELECT {key}, min(rowid), count(*) FROM {ident(part.table)} GROUP BY 1"
    rows = {path: (first, count) for path, first, count in stage.con.execute(query).fetchall()}
    for index, file in enumerate(group):
        first, count = rows.get(str(file.path), (0, 0))
        part.delta[index] = 1 - first
        if header.refused and count:
            _refuse(stage, part, file, (first, count), header.refused)
    if header.refused:
        stage.drop(part)
    else:
        stage.add(part, [rows.get(str(f.path), (0, 0))[1] for f in group])


def _refuse(stage: Stage, part: Part, file: StagedFile, span: tuple[int, int], rule: str) -> None:
    first, count = span
    query = f"SELECT rowid, j FROM {ident(part.table)} WHERE rowid BETWEEN {first} AND {first + count - 1}"
    stage.reject(file, ((row - first + 1, j, rule) for row, j in stage.con.execute(query).fetchall()))


def _field(columns: Columns, field: int | None, place: int, stage: Stage) -> str:
    if field is not None:
        name, kind = columns[field]
        return _as_text(ident(name), kind)
    column = stage.wanted.names[place]
    kinds = dict(columns)
    for path in stage.wanted.columns.get(column) or [column]:
        root, *steps = path.split(".")
        if steps and kinds.get(root, "").startswith("STRUCT("):
            pointer = "/" + "/".join(step.replace("~", "~0").replace("/", "~1") for step in steps)
            return f"json_extract_string(to_json({ident(root)}), {text(pointer)})"
    return "NULL::VARCHAR"


def _as_text(column: str, kind: str) -> str:
    if kind == "VARCHAR":
        return column
    if kind == "BLOB":  # old writers did not mark text; what is none is shown in hexadecimal
        return f"coalesce(try(decode({column})), {column}::VARCHAR)"
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION")):
        return f"to_json({column})::VARCHAR"
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"replace(timezone('UTC', {column})::VARCHAR, ' ', 'T') || 'Z'"
    if kind.startswith("TIMESTAMP"):
        return f"replace({column}::VARCHAR, ' ', 'T')"
    return f"{column}::VARCHAR"
