"""What corrections change: quarantined rows with new values of their fields, as lines of JSON for bronze."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from ...core import RawInput
from ...errors import ConfigError, DataError
from ...sql import TableStep
from ...sql.fix import MASK, PLACE, BadRows, Fix, Proposal, Sample
from ...sql.language import render
from .corrections import LINE, OBJECT, ORIGIN, field, newest_into, same_origin
from .edits import edit, reparse
from .frame import Session, casts, count, ident, one, table_sql, text
from .quarantine import QUARANTINE

if TYPE_CHECKING:
    from .engine import DuckEngine

SAMPLE = 20
STAMP = "strftime(_ingested_at, '%Y-%m-%dT%H:%M:%S.%fZ')"


def bad_rows(
    session: Session, step: TableStep, bad: BadRows, rule: str | None, *, good_too: bool = False
) -> None:
    """Makes table `bad`: rows of quarantine, each field as its newest correction left it.

    `good_too` adds records that were corrected before and are good now.
    """
    con = session.con
    newest_into(con, bad.earlier, "earlier")
    quarantine = table_sql(bad.quarantine) if bad.quarantine.version >= 0 else ""
    if quarantine:
        listed = casts(QUARANTINE, bad.quarantine.columns)
        quarantine = f"SELECT {listed} FROM ({quarantine})"
    else:
        quarantine = f"SELECT {casts(QUARANTINE, {})} WHERE false"
    con.execute(f"CREATE TEMP VIEW quarantined AS {quarantine}")
    columns = [
        f"CASE WHEN q.fields IS NULL OR list_contains(c.changed, {text(name)}) "
        f"THEN {field(name, 'c.fields')} ELSE {field(name, 'q.fields')} END AS {ident(name)}"
        for name in step.inputs
    ]
    origin = [f"q.{name}" for name in ORIGIN]
    known = ["coalesce(c.changed, []) AS _changed", "c.how AS _how", "coalesce(c.number, -1) AS _number"]
    only = f" WHERE list_contains(string_split(q.rules, ';'), {text(rule)})" if rule else ""
    parsed = "(q.fields IS NOT NULL OR c.fields IS NOT NULL) AND NOT contains(q.rules, 'file.unreadable')"
    alone = f"count(*) OVER (PARTITION BY {', '.join(origin)}) = 1"
    sql = (
        f"SELECT {', '.join(origin)}, q.rules AS _rules, q.raw AS _raw, {parsed} AND {alone} AS _parsed, "
        f"{', '.join([*known, *columns])} FROM quarantined q LEFT JOIN earlier c "
        f"ON {same_origin('c', 'q')}{only}"
    )
    if good_too:
        again = ", ".join(f"{field(name, 'c.fields')} AS {ident(name)}" for name in step.inputs)
        there = f"SELECT 1 FROM quarantined q WHERE {same_origin('q', 'c')}"
        origin = [f"c.{name}" for name in ORIGIN]
        sql += (
            f" UNION ALL SELECT {', '.join(origin)}, '' , c.raw, true, c.changed, c.how, c.number, {again} "
            f"FROM earlier c WHERE NOT EXISTS ({there})"
        )
    con.execute(f"CREATE TEMP TABLE bad AS {sql}")


def propose(
    engine: DuckEngine,
    step: TableStep,
    bad: BadRows,
    fix: Fix,
    out: Path,
    note: Mapping[str, str],
    *,
    edits: RawInput | None = None,
    private: Sequence[str] = (),
    now: str = "",
) -> Proposal:
    """Writes the corrections to `out`, a line of JSON each, and counts every row that was chosen.

    Without assignments and `edits`, rows go through again as they are. `note` is who, when and why. Raises
    DataError where a value cannot be computed or an edit does not fit, ConfigError where SQL does not.
    """
    session = engine.session
    session.clear()
    session.set("headrace_now", now)
    con = session.con
    bad_rows(session, step, bad, fix.rule, good_too=edits is not None)
    names = list(step.inputs)
    if edits is not None:
        edit(engine, step, edits, private)
    else:
        _assign(session, fix, names)
    if "_raw" in fix.assign or edits is not None:
        reparse(engine, step, bad.landed)
    replay = edits is None and not fix.assign
    changes = [f"CASE WHEN {ident('new ' + n)} IS DISTINCT FROM {ident(n)} THEN {text(n)} END" for n in names]
    con.execute(
        f"CREATE TEMP TABLE proposed AS SELECT *, list_filter([{', '.join(changes)}], "
        "lambda c: c IS NOT NULL) AS _now FROM wanted"
    )
    waiting = f"_number > {bad.done}"
    same = waiting if replay else f"len(_now) = 0 OR _how IS NOT DISTINCT FROM {text(note['how'])}"
    able = "_parsed OR _given"
    go = f"({able}) AND NOT ({same})"
    chosen, rows, alike = one(
        con,
        f"SELECT count(*), count(*) FILTER ({go}), count(*) FILTER (({able}) AND ({same})) FROM proposed",
    )
    if rows:
        _write(session, names, go, out, note)
    return Proposal(
        int(chosen), int(rows), int(alike), int(chosen - rows - alike), _longest(out) if rows else 0,
        _sample(session, names, go),
    )  # fmt: skip


def _assign(session: Session, fix: Fix, names: Sequence[str]) -> None:
    """Makes table `wanted`: the chosen rows, each field also as `new <field>`."""
    con = session.con
    where = f" WHERE {render(fix.where, session.dialect).sql}" if fix.where else ""
    assigned = {name: render(each, session.dialect) for name, each in fix.assign.items()}
    new = [f"({assigned[n].sql})::VARCHAR" if n in assigned else ident(n) for n in names]
    listed = [f"{sql} AS {ident('new ' + n)}" for sql, n in zip(new, names, strict=True)]
    raw = f"({assigned['_raw'].sql})::VARCHAR" if "_raw" in assigned else "_raw"
    try:
        for name, each in assigned.items():
            if each.failures:
                _refuse_failed(con, where, name, fix, " OR ".join(each.failures))
        con.execute(
            f"CREATE TEMP TABLE wanted AS SELECT *, {', '.join(listed)}, {raw} AS _new_raw, false AS _given "
            f"FROM bad{where}"
        )
    except duckdb.Error as error:
        raise ConfigError(
            f"the correction cannot be computed: {str(error).partition(chr(10))[0]}",
            hint="fields are texts, as they came: `try_cast(amount as decimal(12,2))` makes a number of one",
        ) from error


def _refuse_failed(con: duckdb.DuckDBPyConnection, where: str, name: str, fix: Fix, failed: str) -> None:
    needed = f"({failed})" + ("" if name == "_raw" else " AND _parsed")
    among = f"bad{where}{' AND ' if where else ' WHERE '}{needed}"
    rows = count(con, among)
    if rows:
        file, line = one(con, f"SELECT _file, _line FROM {among} ORDER BY ALL LIMIT 1")
        raise DataError(
            f"`{name} = {fix.assign[name].text}` fails for {rows:,} rows, first {file}:{line}",
            hint="nothing was changed; choose the rows that it fits with `--where`, or use try_cast",
        )


def _write(session: Session, names: Sequence[str], go: str, out: Path, note: Mapping[str, str]) -> None:
    packed = ", ".join(f"{ident(n)} := {ident('new ' + n)}" for n in names)
    values = {
        "_ingested_at": STAMP,
        "fields": f"to_json(struct_pack({packed}))",
        "changed": "list_sort(list_distinct(list_concat(_changed, _now)))",
        "raw": "_raw",
        **{name: text(note.get(name, "")) for name in ("by", "at", "reason", "how")},
    }
    listed = ", ".join(f"{values.get(name, name)} AS {ident(name)}" for name in LINE)
    session.con.execute(
        f"COPY (SELECT {listed} FROM proposed WHERE {go} ORDER BY _source, _file, _line) "
        f"TO {text(str(out))} (FORMAT json)"
    )


def _longest(path: Path) -> int:
    if path.stat().st_size <= OBJECT:
        return path.stat().st_size
    with path.open("rb") as lines:
        return max(len(line) for line in lines)


def _sample(session: Session, names: Sequence[str], go: str) -> list[Sample]:
    listed = ", ".join([*(ident(n) for n in names), *(ident("new " + n) for n in names)])
    rows: list[tuple[Any, ...]] = session.con.execute(
        f"SELECT _file, _line, _rules, _now, {listed} FROM proposed WHERE {go} "
        f"ORDER BY _file, _line LIMIT {SAMPLE}"
    ).fetchall()
    found = []
    for file, line, rules, changed, *values in rows:
        old = dict(zip(names, values[: len(names)], strict=True))
        new = dict(zip(names, values[len(names) :], strict=True))
        found.append(Sample(file, line, rules, {n: old[n] for n in changed}, {n: new[n] for n in changed}))
    return found


def export(
    session: Session, step: TableStep, bad: BadRows, rule: str | None, out: Path, hidden: Sequence[str]
) -> int:
    """Writes rows of quarantine for editing, as CSV, or JSON lines if `out` ends so; returns their number.

    The fields `hidden`, and with any of them the raw text, show a mask.
    """
    session.clear()
    bad_rows(session, step, bad, rule)
    mask = text(MASK)
    values = {name: f"CASE WHEN {ident(name)} <> '' THEN {mask} ELSE {ident(name)} END" for name in hidden}
    values |= {"_ingested_at": STAMP, **({"_raw": mask} if hidden else {})}
    listed = ", ".join(f"{values.get(name, ident(name))} AS {ident(name)}" for name in (*PLACE, *step.inputs))
    form = "FORMAT json" if out.suffix in (".jsonl", ".ndjson") else "FORMAT csv, HEADER"
    session.con.execute(
        f"COPY (SELECT {listed} FROM bad ORDER BY _source, _file, _line) TO {text(str(out))} ({form})"
    )
    return count(session.con, "bad")
