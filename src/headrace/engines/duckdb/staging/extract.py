"""The SQL that takes paths out of JSON texts, each value as it stands in the source, or flags the record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from .parts import text
from .strict import Path, Paths

GOOD, JUDGE, BLANK = 0, 1, 2
_SIMPLE = re.compile(r"[^\"\\\x00-\x1f]+")
_SPACE = "chr(32) || chr(9) || chr(10) || chr(13)"


def pointer(path: Path) -> str:
    """RFC 6901, so that a key may hold any character.

    >>> pointer(("a", "b/c"))
    '/a/b~1c'
    """
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)


def extraction(paths: Paths, json: str, several: bool, usual: Mapping[Path, Sequence[str]]) -> str:
    """Selects x0, x1, … , `_k` (GOOD, JUDGE, BLANK) and `_j` (the text to judge) from `{source}`.

    `json` is the text's expression over the source; `usual` gives keys that most records have, in order.
    """
    every, parents = paths.all, paths.parents
    f = ", _f" if several else ""
    pointers = ", ".join(text(pointer(p)) for p in every)
    inner = f"SELECT {json} AS j{', filename AS _f' if several else ''} FROM {{source}}"
    read = f"try(json_keys(j)) AS k, try(json_extract_string(j, [{pointers}])) AS v"
    if parents:
        read += f", try(json_keys(j, [{', '.join(text(pointer(p)) for p in parents)}])) AS kk"
    inner = f"SELECT j, {read}{f} FROM ({inner})"
    values = ", ".join(f"v[{i + 1}] AS s{i}" for i in range(len(every)))
    inner = f"SELECT *, {values} FROM ({inner})"
    exact = ", ".join(f"{_exact(f's{i}', path[-1])} AS e{i}" for i, path in enumerate(every))
    inner = f"SELECT *, {exact} FROM ({inner})"
    place = {path: i for i, path in enumerate(every)}
    columns = [[f"e{place[p]}" for p in column] for column in paths.columns]
    selected = ", ".join(f"coalesce({', '.join(c)}) AS x{i}" for i, c in enumerate(columns))
    kind = (
        f"CASE WHEN k IS NULL THEN CASE WHEN trim(j, {_SPACE}) = '' THEN {BLANK} ELSE {JUDGE} END "
        f"WHEN {_doubt(paths, usual)} THEN {JUDGE} ELSE {GOOD} END"
    )
    inner = f"SELECT {selected}, ({kind})::TINYINT AS kind, j{f} FROM ({inner})"
    return f"SELECT * EXCLUDE (kind, j), kind AS _k, CASE WHEN kind = {JUDGE} THEN j END AS _j FROM ({inner})"


# What DuckDB takes and RFC 8259 does not: a comma before a closing bracket, NaN and Infinity in any case.
# Plain searches first: a regular expression over every record would cost as much as all the rest.
_LENIENT = (
    "contains(j, ',}') OR contains(j, ',]') OR contains(j, ', }') OR contains(j, ', ]')",
    "CASE WHEN contains(j, ',  ') OR contains(j, chr(9)) OR contains(j, chr(10)) OR contains(j, chr(13)) "
    r"THEN regexp_matches(j, ',\s*[\]}]') ELSE false END",
    "CASE WHEN contains(lower(j), 'nan') OR contains(lower(j), 'inf') "
    r"THEN regexp_matches(j, '[:\[,]\s*-?(?i:nan|inf)') ELSE false END",
)


def _doubt(paths: Paths, usual: Mapping[Path, Sequence[str]]) -> str:
    doubts = [
        "v IS NULL",
        f"CASE WHEN ascii(j) = 123 THEN false ELSE NOT starts_with(ltrim(j, {_SPACE}), '{{') END",
        _twice("k", usual.get((), ())),
        *_respelt(paths),
        *_LENIENT,
        *(_twice(f"kk[{i + 1}]", usual.get(path, ())) for i, path in enumerate(paths.parents)),
        *(f"(s{i} IS NOT NULL AND e{i} IS NULL)" for i in range(len(paths.all))),
    ]
    if own := list(dict.fromkeys(path for column in paths.columns[: paths.contract] for path in column)):
        place = {path: i for i, path in enumerate(paths.all)}
        doubts.append("(" + " AND ".join(f"s{place[path]} IS NULL" for path in own) + ")")
    place = {path: i for i, path in enumerate(paths.all)}
    nested = dict.fromkeys(path for column in paths.flat for path in paths.columns[column])
    doubts += [f"coalesce(ascii(s{place[path]}) IN (91, 123), false)" for path in nested]
    if paths.refuse_new:
        doubts.append(f"NOT list_has_all([{', '.join(map(text, paths.roots))}], k)")
    if paths.refuse_missing:
        place = {path: i for i, path in enumerate(paths.all)}
        for column in paths.columns[: paths.contract]:
            doubts.append("(" + " AND ".join(f"s{place[p]} IS NULL" for p in column) + ")")
    return " OR ".join(doubts)


def _twice(keys: str, usual: Sequence[str]) -> str:
    """Whether a key comes twice; comparing with what is usual costs a tenth of looking."""
    found = f"coalesce(list_unique({keys}) <> len({keys}), false)"
    if not usual or len(set(usual)) != len(usual):
        return found
    return f"CASE WHEN {keys} = [{', '.join(map(text, usual))}] THEN false ELSE {found} END"


def _respelt(paths: Paths) -> list[str]:
    """Whether a key is spelt as none of the paths, or two mean the same; nothing where case matters."""
    if not paths.folds:
        return []
    meant = dict.fromkeys(root.strip().lower() for root in paths.roots)
    keys = f"list_filter(k, lambda x: list_contains({_list(meant)}, lower(trim(x))))"
    folded = f"list_transform({keys}, lambda x: lower(trim(x)))"
    found = (
        f"coalesce(NOT list_has_all({_list(paths.roots)}, {keys}) "
        f"OR list_unique({folded}) <> len({keys}), false)"
    )
    return [f"CASE WHEN list_has_all({_list(paths.plain)}, k) THEN false ELSE {found} END"]


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(map(text, values))}]::VARCHAR[]"


def _exact(s: str, key: str) -> str:
    """`s`, or what stands in the source for a number that went through a double; NULL in doubt."""
    number = (
        f"ascii({s}) < 58 AND (contains({s}, '.') OR contains({s}, 'e')) "
        f"AND try_cast({s} AS DOUBLE) IS NOT NULL"
    )
    container = rf"ascii({s}) IN (91, 123) AND regexp_matches({s}, '[0-9][.eE]')"
    dense = "regexp_replace({}, '\\s', '', 'g')"
    inner = f"CASE WHEN contains(j, {s}) OR contains({dense.format('j')}, {dense.format(s)}) THEN {s} END"
    return f"CASE WHEN {number} THEN {_number(s, key)} WHEN {container} THEN {inner} ELSE {s} END"


def _number(s: str, key: str) -> str:
    as_string = f"contains(j, '\"' || {s} || '\"')"
    if not _SIMPLE.fullmatch(key) or key.isdigit():
        return f"CASE WHEN {as_string} THEN {s} END"
    # A quoted key after one of these characters and before a colon and a number is a member's key: inside a
    # string its quotes would be escaped, and an escaped quote has a backslash before it.
    quoted = text(f'"{key}"')
    pattern = text(rf'[{{,\s]"{re.escape(key)}"\s*:\s*(-?[0-9][0-9.eE+\-]*)')
    first = f"regexp_extract(j, {pattern}, 1)"
    equal = f"try_cast({{}} AS DOUBLE) = try_cast({s} AS DOUBLE)"
    every = f"list_distinct(list_filter(regexp_extract_all(j, {pattern}, 1), lambda t: {equal.format('t')}))"
    twice = f"contains(substr(j, strpos(j, {quoted}) + {len(key) + 2}), {quoted})"
    return (
        f"CASE WHEN {twice} THEN CASE WHEN NOT {as_string} AND len({every}) = 1 THEN {every}[1] END "
        f"WHEN {first} <> '' THEN CASE WHEN {equal.format(first)} THEN {first} END "
        f"WHEN {as_string} THEN {s} END"
    )
