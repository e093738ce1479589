"""Edited exports of quarantine, and new raw texts parsed as their files are: every misfit has its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core import Landed, RawInput
from ...errors import Refused
from ...sql import TableStep
from ...sql.fix import MASK, PLACE
from .corrections import ORIGIN, same_origin
from .frame import fresh, ident, text
from .staging.stage import stage

if TYPE_CHECKING:
    from .engine import DuckEngine

SHOWN = 5
"""Problems that one message names."""
TEXTS = {"csv": "csv", "jsonl": "jsonl", "json": "jsonl"}
"""Formats whose records are texts, and how one of them by itself is read."""


def edit(engine: DuckEngine, step: TableStep, edits: RawInput, private: Sequence[str]) -> None:
    """Makes table `wanted`: each edited row of `bad`, its fields also as `new <field>`.

    A field that is left out, null, or shows the mask of personal data stays as it is. Raises `Refused`,
    naming lines of the edited file, for a row that cannot be read, is of no bad record, or is there twice.
    """
    con = engine.session.con
    ((_, item, path),) = edits.files
    given = _headers(step, item, path)
    staged = stage(
        con,
        [edits],
        {f"given {name}": [name] for name in given},
        case="exact",
        into=fresh("edits"),
        scratch=engine.scratch,
    )
    problems = [
        (line, f"cannot be read ({rule}): {raw[:80]}")
        for line, rule, raw in con.execute(f"SELECT _line, _rule, _raw FROM {staged.rejects}").fetchall()
    ]
    casts = {"_line": "BIGINT", "_ingested_at": "TIMESTAMPTZ"}
    origin = [f'try_cast("given {name}" AS {casts.get(name, "VARCHAR")}) AS {name}' for name in ORIGIN]
    con.execute(
        f"CREATE TEMP TABLE edited AS SELECT {', '.join(origin)}, _line AS _at, "
        f"{', '.join(ident(f'given {name}') for name in given)} FROM {staged.relation}"
    )
    new = {name: ident(name) for name in step.inputs} | {"_raw": "_raw"}
    for name in given:
        if name in new:
            new[name] = _edited(name, hidden=name in private or (name == "_raw" and bool(private)))
    fields = [f"{new[name]} AS {ident('new ' + name)}" for name in step.inputs]
    touched = " OR ".join(f"{ident('new ' + n)} IS DISTINCT FROM {ident(n)}" for n in step.inputs)
    listed = ", ".join([*fields, f"{new['_raw']} AS _new_raw", "e._at"])
    con.execute(
        f"CREATE TEMP TABLE wanted AS SELECT *, ({touched}) AS _given FROM "
        f"(SELECT b.*, {listed} FROM edited e JOIN bad b ON {same_origin('e', 'b')})"
    )
    problems += _misfits(engine, step)
    if problems:
        raise refused(path.name, problems)


def _headers(step: TableStep, item: Landed, path: Path) -> list[str]:
    given = [str(name) for name in item.format.get("header") or item.format.get("keys") or ()]
    place = f"{path.name}:1"
    if missing := [name for name in ORIGIN if name not in given]:
        raise Refused(
            f"there is no column `{missing[0]}`",
            where=place,
            hint=f"it says whose row it is: start from `headrace quarantine export {step.table}`",
        )
    if others := [name for name in given if name not in (*PLACE, *step.inputs)]:
        raise Refused(
            f"`{others[0]}` is no field that table `{step.table}` takes from its sources",
            where=place,
            hint=f"fields: {', '.join(step.inputs)}",
        )
    return given


def _edited(name: str, *, hidden: bool) -> str:
    old, new = f"b.{ident(name)}", f"e.{ident('given ' + name)}"
    same = [f"{new} IS NULL", f"({new} = '' AND {old} IS NULL)"]
    if name == "_raw":
        same.append(f"{new} = ''")
    if hidden:
        same.append(f"{new} = {text(MASK)}")
    return f"CASE WHEN {' OR '.join(same)} THEN {old} ELSE {new} END"


def _misfits(engine: DuckEngine, step: TableStep) -> list[tuple[int, str]]:
    """(line of the edited file, what is wrong with it)."""
    con = engine.session.con
    there = f"SELECT 1 FROM bad b WHERE {same_origin('b', 'e')}"
    checks = {
        "`_line` is a number and `_ingested_at` a time, as exported": "edited e WHERE e._line IS NULL OR "
        "(e._ingested_at IS NULL AND e.\"given _ingested_at\" <> '')",
        f"no such row in quarantine.{step.table}: it was put right, or its file has a newer version": (
            f"edited e WHERE e._line IS NOT NULL AND NOT EXISTS ({there})"
        ),
        "this row is there twice": "(SELECT *, count(*) OVER (PARTITION BY "
        f"{', '.join(ORIGIN)}) AS n FROM edited) e WHERE n > 1",
        "`_raw` and a field were both edited: edit one, the other one follows": (
            "wanted e WHERE _given AND _new_raw IS DISTINCT FROM _raw"
        ),
        "a file that cannot be read has no rows to correct: deliver it again": (
            "wanted e WHERE contains(_rules, 'file.unreadable') "
            "AND (_given OR _new_raw IS DISTINCT FROM _raw)"
        ),
    }
    return [
        (line, what)
        for what, among in checks.items()
        for (line,) in con.execute(
            f"SELECT DISTINCT e._at FROM {among} ORDER BY ALL LIMIT {SHOWN}"
        ).fetchall()
    ]


def refused(name: str, problems: Sequence[tuple[int, str]]) -> Refused:
    """The first few problems, each with its place."""
    first, *others = sorted(problems)[:SHOWN]
    more = "".join(f"\n{name}:{line}: {what}" for line, what in others)
    if len(problems) > SHOWN:
        more += f"\nand {len(problems) - SHOWN:,} more"
    return Refused(f"{first[1]}{more}", where=f"{name}:{first[0]}", hint="nothing was changed")


def reparse(engine: DuckEngine, step: TableStep, landed: Mapping[tuple[str, str], Landed]) -> None:
    """Fills in the new fields of rows of `wanted` whose raw text is a new one, read as their file was.

    Raises `Refused` for a text that is not exactly one record of its file's format.
    """
    con = engine.session.con
    changed = con.execute(
        "SELECT rowid, _source, _file, _line, _new_raw FROM wanted WHERE _new_raw IS DISTINCT FROM _raw "
        "ORDER BY _source, _file, _line"
    ).fetchall()
    files: dict[tuple[str, str], list[tuple[int, int, str | None]]] = {}
    for row, source, file, line, raw in changed:
        files.setdefault((source, file), []).append((row, line, raw))
    for (source, file), records in files.items():
        _reparse(engine, step, landed.get((source, file)), file, records)


def _reparse(
    engine: DuckEngine,
    step: TableStep,
    item: Landed | None,
    file: str,
    records: Sequence[tuple[int, int, str | None]],
) -> None:
    con = engine.session.con
    kind = TEXTS.get(str(item.format.get("type"))) if item else None
    if item is None or kind is None:
        raise Refused("its records are no texts", where=file, hint="edit the fields instead of `_raw`")
    form, head = _form(item.format, kind)
    lines, starts, at = list(head), {}, 1 + len(head)
    for row, line, raw in records:
        if not raw:
            raise Refused("the new raw text is empty", where=f"{file}:{line}", hint="nothing was changed")
        starts[at] = (row, line)
        lines.append(raw)
        at += 1 + raw.count("\n")
    path = engine.scratch / f"{fresh('raw')}.{kind}"
    path.write_text("".join(f"{each}\n" for each in lines), encoding="utf-8", newline="")
    size = path.stat().st_size
    landed = Landed(path.name, file, size, "", None, {**form, "lines": at - 1})
    contract = step.spec.contract
    staged = stage(
        con,
        [RawInput("", [(0, landed, path)])],
        step.inputs,
        evolved=step.optional,
        case=contract.header_case,
        on_new=contract.on_new_column,
        on_missing=contract.on_missing_column,
        into=fresh("reparsed"),
        scratch=engine.scratch,
    )

    def of(at: int) -> int:
        """The line in the file that landed, for a line of ours."""
        return starts[max((start for start in starts if start <= at), default=min(starts))][1]

    problems = [
        (of(at), f"the new raw text is {rule}")
        for at, rule in con.execute(f"SELECT _line, _rule FROM {staged.rejects}").fetchall()
    ]
    read = {at for (at,) in con.execute(f"SELECT _line FROM {staged.relation}").fetchall()}
    if not problems:
        odd = read.symmetric_difference(starts)
        problems = [(of(at), "the new raw text is not one record") for at in odd]
    if problems:
        raise refused(file, problems)
    con.execute(
        "CREATE OR REPLACE TEMP TABLE starts AS SELECT unnest(?::BIGINT[]) AS l, unnest(?::BIGINT[]) AS r",
        [list(starts), [row for row, _ in starts.values()]],
    )
    new = ", ".join(f"{ident('new ' + name)} = s.{ident(name)}" for name in step.inputs)
    con.execute(
        f"UPDATE wanted SET {new}, _given = true FROM {staged.relation} s JOIN starts t ON t.l = s._line "
        "WHERE wanted.rowid = t.r"
    )


def _form(form: Mapping[str, Any], kind: str) -> tuple[dict[str, Any], list[str]]:
    """How a file of only these records is read, and its first lines."""
    plain = {**form, "type": kind, "compression": None, "encoding": "utf-8", "newline": "\n"}
    plain |= {"skip": 0, "footer_lines": 0, "bom": False, "records": None}
    header = form.get("header")
    if kind != "csv" or header is None:
        return plain, []
    quote = str(form.get("quote") or "")
    names = [quote + str(name).replace(quote, quote * 2) + quote if quote else str(name) for name in header]
    head = str(form.get("delimiter") or ",").join(names)
    return plain, head.split("\n")
