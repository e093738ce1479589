"""Changes in envelopes, one JSON object per line: each becomes a row of its table, with what it is beside it.

The reader of JSON lines takes the parts out of each envelope (new row, old row, key), every value as it is
written; one statement then chooses among them. A line that is no envelope goes to quarantine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from headrace.core import CHANGE

from ..raw import BROKEN, as_text, open_plain, raw_lines
from . import debezium, extended
from .json import stage_jsonl
from .parts import Part, Stage, StagedFile, Wanted, ident, text
from .strict import NOT_OBJECT, Path, Paths, fold

OPS = "'r', 'c', 'u', 'd', 't'"
UNKNOWN, NEW, MISSING = "envelope.unknown", "header.unknown_column", "header.missing_column"
FIRST = 1 << 20  # bytes of a first line that tell what a file is like


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an envelope has its parts, as paths; `meta` by the names that the SQL below uses."""

    after: Path
    before: Path
    key: Path | None
    meta: Mapping[str, Path]


HEADRACE = Layout(
    ("after",),
    ("before",),
    ("key",),
    {name: (name,) for name in ("op", "sequence", "committed", "tx", "unchanged")},
)


def stage_envelopes(stage: Stage, files: Sequence[StagedFile]) -> None:
    """Stages files of JSON lines whose format names an `envelope`."""
    groups: dict[tuple[str, bool, bool], list[StagedFile]] = {}
    for file in files:
        kind = str(file.form.get("envelope"))
        form = (kind, kind == "debezium" and _wrapped(file), bool(file.form.get("extended")))
        groups.setdefault(form, []).append(file)
    for (kind, wrapped, _), group in groups.items():
        if kind == "headrace":
            _stage(stage, group, HEADRACE)
        elif kind == "debezium":
            _stage(stage, group, Layout(*debezium.layout(wrapped)))
        else:
            for file in group:
                known = f"envelope `{kind}` is not known; envelopes: headrace, debezium"
                stage.reject(file, [(1, known, "file.unreadable")])


def _wrapped(file: StagedFile) -> bool:
    """Whether its envelopes lie under `payload`, beside their schema."""
    if "wrapped" in file.form:
        return bool(file.form["wrapped"])
    try:
        with closing(open_plain(file.path, file.form.get("compression"))) as stream:
            first = json.loads(stream.readline(FIRST))
    except (*BROKEN, ValueError):
        return False
    return isinstance(first, dict) and "payload" in first and "op" not in first


def _stage(stage: Stage, files: Sequence[StagedFile], layout: Layout) -> None:
    names = [name for name in stage.wanted.names if name not in CHANGE]
    keys = list(dict.fromkeys(str(key) for file in files for key in file.form.get("keys") or ()))
    columns: dict[str, list[Path]] = {}
    for place, name in enumerate(names):
        paths = _paths(stage.wanted, name, keys)
        for part, root in (("a", layout.after), ("b", layout.before), ("k", layout.key)):
            if root is not None:
                columns[f"{part}{place}"] = [(*root, *path) for path in paths]
    columns |= {name: [path] for name, path in layout.meta.items()}
    wrapped = bool(files[0].form.get("extended"))
    parts = {"a": layout.after, "b": layout.before, "k": layout.key} if wrapped else {}
    columns |= {f"whole_{part}": [root] for part, root in parts.items() if root is not None}
    strict = "quarantine" in (stage.wanted.on_new, stage.wanted.on_missing)
    columns |= {"whole": [layout.after]} if strict else {}
    # Debezium writes some numbers as structs, Extended JSON wraps values: these are no nested values.
    flat = {} if wrapped or "schema" in columns else _flat(stage.wanted, names, list(columns))
    inner = Stage(
        stage.con,
        stage.table("envelope"),
        Wanted(dict.fromkeys(columns, ()), (), "exact", "evolve", "accept"),
        stage.scratch,
    )
    stage_jsonl(inner, files, Paths(list(columns.values()), len(columns), False, False, flat))
    _pass_rejects(stage, inner, files, tombstones=layout is not HEADRACE)
    selects = [inner.select(part) for part in inner.parts]
    if not selects:
        return
    opened, places = stage.table("opened"), stage.table("places")
    stage.con.execute(
        f"CREATE TEMP TABLE {ident(places)} AS SELECT unnest(?::INTEGER[]) AS _place, "
        "unnest(?::VARCHAR[]) AS s, "
        "unnest(?::VARCHAR[]) AS f, unnest(?::VARCHAR[])::TIMESTAMPTZ AS t",
        [
            [f.place for f in files],
            [f.source for f in files],
            [f.landed.name for f in files],
            [f.arrived for f in files],
        ],
    )
    chosen = "o.*"
    if wrapped:
        within = [_paths(stage.wanted, name, keys) for name in names]
        chosen = extended.opened(stage.wanted, names, within, "".join(parts))
    stage.con.execute(
        f"CREATE TEMP TABLE {ident(opened)} AS SELECT {chosen}, p._place "
        f"FROM ({' UNION ALL '.join(selects)}) o "
        f"JOIN {ident(places)} p "
        "ON p.s = o._source AND p.f = o._file AND p.t IS NOT DISTINCT FROM o._ingested_at"
    )
    for done in inner.parts:
        inner.drop(done)
    values, change = _rows(stage, opened, [_heads(stage.wanted, n, keys) for n in names], layout)
    strictly = _strict(stage.wanted, names) + (f"ELSE {extended.NESTED} " if wrapped else "")
    _publish(stage, files, opened, values, change, strictly)
    stage.con.execute(f"DROP TABLE {ident(places)}")
    stage.con.execute(f"DROP TABLE {ident(opened)}")


def _paths(wanted: Wanted, name: str, keys: Sequence[str]) -> list[Path]:
    """Where a row may have a column, first match wins; a key may itself have a dot."""
    found: list[Path] = []
    for accepted in wanted.columns.get(name) or [name]:
        head, *rest = accepted.split(".")
        found += [(accepted,)] if rest and accepted in keys else []
        found.append((head, *rest))
        if wanted.case == "ignore":
            found += [(key,) for key in keys if fold(key) == fold(accepted)]
            found += [(key, *rest) for key in keys if rest and fold(key) == fold(head)]
    return list(dict.fromkeys(found))


def _flat(wanted: Wanted, names: Sequence[str], columns: Sequence[str]) -> dict[int, str]:
    flat = {place: name for place, name in enumerate(names) if name in wanted.flat}
    return {
        at: flat[int(column[1:])]
        for at, column in enumerate(columns)
        if column[0] in "ab" and column[1:].isdigit() and int(column[1:]) in flat
    }


def _pass_rejects(stage: Stage, inner: Stage, files: Sequence[StagedFile], *, tombstones: bool) -> None:
    """What is no JSON object is rejected here as it was there; Kafka's tombstones (`null`) are no records."""
    inner.flush()
    by_place = {file.place: file for file in files}
    found = stage.con.execute(
        f"SELECT place, line, raw, rule FROM {ident(inner.raw_rejects)} ORDER BY place, line"
    ).fetchall()
    for place, line, raw, rule in found:
        if tombstones and rule == NOT_OBJECT and raw.strip() == "null":
            continue
        rule = UNKNOWN if rule == "header.no_column" else rule
        stage.reject(by_place[place], [(line, raw, rule)])
    stage.con.execute(f"DROP TABLE {ident(inner.raw_rejects)}")


def _heads(wanted: Wanted, name: str, keys: Sequence[str]) -> list[str]:
    """What a column may be called at the source."""
    return [path[0] for path in _paths(wanted, name, keys) if len(path) == 1] or [name]


def _rows(
    stage: Stage, opened: str, heads: Sequence[Sequence[str]], layout: Layout
) -> tuple[Sequence[str], dict[str, str]]:
    """SQL of the columns' texts and of the change's own columns, over table `opened`."""
    if layout is not HEADRACE:
        return debezium.rows(stage.con, opened, heads)
    values = []
    for i, names in enumerate(heads):
        # an old value that is told is as good as one that the target would give
        kept = f"CASE WHEN unchanged IS NULL THEN a{i} ELSE coalesce(a{i}, CASE WHEN {{}} THEN b{i} END) END"
        kept = kept.format(" OR ".join(f"contains(unchanged, {text(json.dumps(each))})" for each in names))
        values.append(f"CASE op WHEN 'd' THEN coalesce(b{i}, k{i}) WHEN 't' THEN NULL ELSE {kept} END")
    listed = "list_transform(from_json(unchanged, '[\"VARCHAR\"]'), lambda x: replace(x, ',', chr(31)))"
    listed = f"array_to_string({listed}, ',')"
    return values, {
        "_op": "op",
        "_sequence": "sequence",
        "_committed": "committed",
        "_tx": "tx",
        "_unchanged": f"CASE WHEN op IN ('c', 'u', 'r') THEN nullif({listed}, '') END",
    }


def _publish(
    stage: Stage,
    files: Sequence[StagedFile],
    opened: str,
    values: Sequence[str],
    change: dict[str, str],
    strictly: str,
) -> None:
    """Takes good rows over into the stage, and the others as rejects with their lines."""
    names = [name for name in stage.wanted.names if name not in CHANGE]
    con = stage.con
    verdict = f"CASE WHEN coalesce(op NOT IN ({OPS}), true) THEN {text(UNKNOWN)} {strictly}END"
    judged = f"SELECT *, {verdict} AS _wrong FROM {ident(opened)} WHERE op IS DISTINCT FROM 'm'"
    several = len(files) > 1
    part = Part(
        stage.table("changes"), files, lines=True, carried=["_l"], paths=[str(f.place) for f in files]
    )
    part.carried += ["_f"] if several else []
    texts = dict(zip(names, values, strict=True)) | change
    selected = [f"({texts[name]}) AS x{i}" for i, name in enumerate(stage.wanted.names)]
    selected += ["_line AS _l", *(["_place::VARCHAR AS _f"] if several else [])]
    good = f"SELECT {', '.join(selected)} FROM ({judged}) WHERE _wrong IS NULL"
    stage.keep(part, good, [str(file.path) for file in files])
    rows = dict(
        con.execute(
            f"SELECT _place, count(*) FROM ({judged}) WHERE _wrong IS NULL GROUP BY _place"
        ).fetchall()
    )
    stage.add(part, [int(rows.get(file.place, 0)) for file in files])
    bad = con.execute(
        f"SELECT _place, list(_line ORDER BY _line), list(_wrong ORDER BY _line) FROM ({judged}) "
        "WHERE _wrong IS NOT NULL GROUP BY _place ORDER BY _place"
    ).fetchall()
    by_place = {file.place: file for file in files}
    for place, at, rules in bad:
        file = by_place[place]
        raws = raw_lines(file.path, file.form, [(line, 1) for line in at])
        told = [as_text(raw, file.encoding) for raw in raws]
        stage.reject(file, zip(at, told, rules, strict=True))


def _strict(wanted: Wanted, names: Sequence[str]) -> str:
    """WHEN … THEN …: rows with fields too many or too few, where the contract says so."""
    lower = "lower(trim(k))" if wanted.case == "ignore" else "k"
    keys = f"list_transform(json_keys(whole), lambda k: {lower})"
    told = wanted.case == "ignore"

    def heads(name: str) -> list[str]:
        each = [part for a in wanted.columns.get(name) or [name] for part in (a, a.partition(".")[0])]
        return list(dict.fromkeys(fold(part) if told else part for part in each))

    whens = ""
    if wanted.on_new == "quarantine":
        known = ", ".join(text(head) for name in names for head in heads(name))
        whens += f"WHEN whole IS NOT NULL AND NOT list_has_all([{known}], {keys}) THEN {text(NEW)} "
    if wanted.on_missing == "quarantine":
        own = [name for name in names if name in wanted.columns and name not in wanted.evolved]
        lacks = " OR ".join(f"NOT list_has_any([{', '.join(map(text, heads(n)))}], {keys})" for n in own)
        whens += f"WHEN whole IS NOT NULL AND op IN ('r', 'c') AND ({lacks}) THEN {text(MISSING)} "
    return whens
