"""Parquet: typed columns become exact text. A file that cannot be read is one reject, never a crash.

Decimals, whole numbers and text come as they are; doubles in the shortest spelling that gives them back;
dates and timestamps in ISO 8601 (UTC with `Z` where the file says so); nested values as JSON.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

from ..raw import BROKEN, open_plain
from .header import Header, match, refused
from .parts import Part, Stage, StagedFile, ident, text
from .read import FAILED
from .slow import UNREADABLE

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
    verdict = text(header.refused) if header.refused else _nested(columns, header, stage)
    if verdict:
        record = f"to_json({{{', '.join(f'{text(n)}: {ident(n)}' for n, _ in columns)}}})::VARCHAR"
        select += [f"{verdict} AS r", f"CASE WHEN {verdict} IS NOT NULL THEN {record} END AS j"]
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
    good = []
    for index, file in enumerate(group):
        first, count = rows.get(str(file.path), (0, 0))
        part.delta[index] = 1 - first
        good.append(count - (_refuse(stage, part, file, (first, count)) if verdict and count else 0))
    stage.add(part, good)


def _refuse(stage: Stage, part: Part, file: StagedFile, span: tuple[int, int]) -> int:
    """Rejects the records of a file that have a verdict; how many."""
    first, count = span
    among = f"rowid BETWEEN {first} AND {first + count - 1} AND r IS NOT NULL"
    found = stage.con.execute(f"SELECT rowid, j, r FROM {ident(part.table)} WHERE {among}").fetchall()
    for row, _, _ in found:
        part.drop_rows(row, 1)
    stage.reject(file, ((row - first + 1, j, rule) for row, j, rule in found))
    return len(found)


def _nested(columns: Columns, header: Header, stage: Stage) -> str:
    """SQL of the rule that a record breaks by a nested value where a column takes none; "" if none can."""
    cases = []
    for place, name in enumerate(stage.wanted.names):
        if name not in stage.wanted.flat:
            continue
        field = header.fields[place]
        if field is not None and is_nested(columns[field][1]):
            cases.append(f"WHEN {ident(columns[field][0])} IS NOT NULL THEN {text(name + '.type')}")
        elif field is None and (inner := _path(columns, place, stage)):
            if inner.rest:
                kind = f"json_type(to_json({inner.sql}), {text(inner.rest)})"
                cases.append(f"WHEN {kind} IN ('OBJECT', 'ARRAY') THEN {text(name + '.type')}")
            elif is_nested(inner.kind):
                cases.append(f"WHEN {inner.sql} IS NOT NULL THEN {text(name + '.type')}")
    return f"CASE {' '.join(cases)} END" if cases else ""


def _field(columns: Columns, field: int | None, place: int, stage: Stage) -> str:
    if field is not None:
        name, kind = columns[field]
        return scalar_text(ident(name), kind)
    if inner := _path(columns, place, stage):
        if inner.rest:
            return f"json_extract_string(to_json({inner.sql}), {text(inner.rest)})"
        return scalar_text(inner.sql, inner.kind)
    return "NULL::VARCHAR"


class _Inner(NamedTuple):
    """What a path leads to, of its own type; `rest` is the pointer on from there, where no type is known."""

    sql: str
    kind: str
    rest: str = ""


def _path(columns: Columns, place: int, stage: Stage) -> _Inner | None:
    """What the first of a staged column's paths that enters a struct leads to.

    A value is taken out of structs and lists as it is: out of their JSON, numbers would come as doubles.
    """
    column = stage.wanted.names[place]
    kinds = dict(columns)
    for path in stage.wanted.columns.get(column) or [column]:
        root, *steps = path.split(".")
        if steps and kinds.get(root, "").startswith("STRUCT("):
            return _entered(ident(root), kinds[root], steps)
    return None


def _entered(sql: str, kind: str, steps: list[str]) -> _Inner:
    import duckdb

    if not steps:
        return _Inner(sql, kind)
    step, *others = steps
    of = duckdb.sqltype(kind)
    inside = dict(of.children) if of.id in ("struct", "list") else {}
    if of.id == "struct" and step in inside:
        return _entered(f"struct_extract({sql}, {text(step)})", str(inside[step]), others)
    if of.id == "list" and step.isdecimal():
        return _entered(f"list_extract({sql}, {int(step) + 1})", str(inside["child"]), others)
    return _Inner(sql, kind, "".join("/" + each.replace("~", "~0").replace("/", "~1") for each in steps))


def is_nested(kind: str) -> bool:
    """Whether values of a type of DuckDB's are objects or arrays."""
    return kind.endswith("]") or kind.startswith(("STRUCT", "MAP", "UNION"))


def scalar_text(column: str, kind: str) -> str:
    """SQL of a column's exact text."""
    if kind == "VARCHAR":
        return column
    if kind == "BLOB":  # old writers did not mark text; what is none is shown in hexadecimal
        return f"coalesce(try(decode({column})), {column}::VARCHAR)"
    if is_nested(kind):
        return f"to_json({column})::VARCHAR"
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"replace(timezone('UTC', {column})::VARCHAR, ' ', 'T') || 'Z'"
    if kind.startswith("TIMESTAMP"):
        return f"replace({column}::VARCHAR, ' ', 'T')"
    return f"{column}::VARCHAR"
