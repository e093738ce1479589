"""Windows of a stream: exactly those that changed rows reach are computed anew, from all of their rows.

Both versions of the table are there, as lists of files: rows of files that only one of them has are what may
have changed. So nothing is kept between two epochs that could be lost, and a window is right whatever reached
it: rows that came late, corrections, deletes, a restore.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ...core import DataFile, Outcome, TableAt
from ...errors import ConfigError, DataError
from ...sql.windows import (
    WindowStep,
    aggregated_sql,
    ends_first_sql,
    placed_sql,
    refuse_types,
    rows_sql,
    sessions_sql,
    windows_sql,
)
from ...store.intact import check_bytes, check_sizes
from .frame import DuckFrame, Session, ident, native, one, table_sql, word
from .stats import overlaps

RANGES = 200
"""Stretches of time that files are chosen by; more are taken for one."""
GONE = "_gone"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Span = tuple[int, int]
"""From a moment up to before another one, in microseconds."""


def windows(
    session: Session,
    step: WindowStep,
    tables: tuple[TableAt | None, TableAt],
    target: TableAt | None,
    epoch: int,
) -> Outcome:
    """What changes in the windows when their table goes from one version to the other; None is no version.

    Frame `windows` holds rows to merge by the stream's keys, those to go marked by `_gone`; without a first
    version it holds all rows and no mark. `read` counts the frame's rows, `late` rows of the table that came
    into, or left, a window that was closed; `warned` rows that are in no window. Raises `DataError` if a
    calculation fails in some row.
    """
    before, now = tables
    session.clear()
    work = _Work(session, step, now, epoch, *types_of(session, step))
    check_sizes(now.table, now.files)
    work = replace(work, watermark=_watermark(work, now))
    if before is None or target is None:
        check_bytes(now.table, now.files)
        untimed = work.untimed(now, now.files)
        return _outcome(work, work.whole(now), 0, untimed)
    added = _without(now.files, before.files)
    removed = _without(before.files, now.files)
    check_bytes(now.table, [*added, *removed])
    untimed = max(work.untimed(now, added) - work.untimed(before, removed), 0)
    work.news((now, added), (before, removed))
    passed = _watermark(work, before)
    if step.spec.window.kind == "session":
        late = _sessions(work, now, target, passed)
    else:
        late = _placed(work, now, target, passed)
    moved = _moved(work, target) if work.watermark != passed else ""
    return _outcome(work, _merged(work, moved), late, untimed)


@dataclass(frozen=True, slots=True)
class _Work:
    session: Session
    step: WindowStep
    now: TableAt
    epoch: int
    arguments: Mapping[str, str]
    """`_x0` … → type word."""
    columns: Mapping[str, str]
    """Of the windows table, name → type word."""
    watermark: int | None = None

    @property
    def natives(self) -> dict[str, str]:
        return {name: native(kind) for name, kind in self.columns.items()}

    @property
    def groups(self) -> str:
        """The groups as the end of a select list."""
        return "".join(f", {ident(name)}" for name in self.step.spec.group_by)

    def same(self, one: str, other: str, *more: str) -> str:
        """SQL: rows `one` and `other` are of one group, and of one value of each column of `more`."""
        parts = [f"{one}.{ident(n)} IS NOT DISTINCT FROM {other}.{ident(n)}" for n in self.step.spec.group_by]
        return " AND ".join([*(f"{one}.{name} = {other}.{name}" for name in more), *parts]) or "true"

    def make(self, name: str, sql: str) -> None:
        self.session.con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {sql}")

    def visible(self, at: TableAt, files: Sequence[DataFile]) -> str:
        """SQL of the rows of some files that a reader of the table sees, with the columns that count."""
        names = ", ".join(ident(name) for name in self.step.read)
        table = table_sql(at, [str(file.path) for file in files])
        return f"SELECT {names} FROM ({table}) WHERE {_seen(at)}"

    def rows(self, at: TableAt, files: Sequence[DataFile]) -> str:
        return f"SELECT * FROM ({rows_sql(self.step, self.visible(at, files))}) WHERE _t IS NOT NULL"

    def untimed(self, at: TableAt, files: Sequence[DataFile]) -> int:
        """Rows that count but say no time, so that they are in no window."""
        time = self.step.spec.window.time
        if not files or all(file.nulls.get(time) == 0 and time in file.high for file in files):
            return 0
        rows = rows_sql(self.step, self.visible(at, files))
        return int(one(self.session.con, f"SELECT count(*) FROM ({rows}) WHERE _t IS NULL")[0])

    def finished(self, placed: str) -> str:
        """SQL of rows of the windows table, from rows that know their window."""
        grouped = aggregated_sql(self.step, placed, self.arguments)
        return windows_sql(self.step, grouped, self.natives, self.watermark, self.epoch)

    def placed(self, rows: str) -> str:
        session = self.step.spec.window.kind == "session"
        return sessions_sql(self.step, rows) if session else placed_sql(self.step, rows)

    def whole(self, now: TableAt) -> str:
        self.make("fresh", self.finished(self.placed(self.rows(now, now.files))))
        return f"SELECT {', '.join(ident(name) for name in self.columns)} FROM fresh"

    def news(
        self, added: tuple[TableAt, Sequence[DataFile]], removed: tuple[TableAt, Sequence[DataFile]]
    ) -> None:
        """Table `news`: rows that one version has more often than the other, and how much more (`_n`).

        Files that were only rewritten cancel out: what counts of a row is what the stream reads of it.
        """
        new = f"SELECT *, 1::BIGINT AS _n FROM ({self.rows(*added)})"
        if removed[1]:
            old = f"SELECT *, -1::BIGINT AS _n FROM ({self.rows(*removed)})"
            names = f"_t{self.groups}{''.join(f', {name}' for name in self.arguments)}, _f"
            new = (
                f"SELECT {names}, sum(_n)::BIGINT AS _n FROM ({new} UNION ALL {old}) "
                f"GROUP BY {names} HAVING sum(_n) <> 0"
            )
        self.make("news", new)

    def near(self, at: TableAt, spans: Sequence[Span], column: str) -> list[DataFile]:
        """Files of a table that may have rows whose `column` lies in one of the spans; whole, as written."""
        kind = at.columns[column]
        wanted = [(_moment(kind, low), _moment(kind, high), 0) for low, high in spans]
        near = [
            file
            for file in at.files
            if any(overlaps(kind, _bounded(file, column), column, span) for span in wanted)
        ]
        check_bytes(at.table, near)
        return near


def types_of(session: Session, step: WindowStep) -> tuple[dict[str, str], dict[str, str]]:
    """Types of the arguments and of the windows table; raises ConfigError for what cannot be computed."""
    import duckdb

    listed = ", ".join(f"NULL::{native(kind)} AS {ident(name)}" for name, kind in step.columns.items())
    rows = rows_sql(step, f"SELECT {listed} WHERE false")
    try:
        arguments = {name: kind for name, kind in _described(session, rows).items() if name.startswith("_x")}
        refuse_types(step, arguments)
        placed = f"SELECT *, _t AS _w, _t AS _e FROM ({rows})"
        made = windows_sql(step, aggregated_sql(step, placed, arguments), None, None, 0)
        columns = {name: kind for name, kind in _described(session, made).items() if name != "_f"}
    except duckdb.Error as error:
        told = str(error).split("\n\nLINE")[0].split("\n")[0]
        raise ConfigError(
            f"stream `{step.name}`: its SQL does not fit the types of `{step.spec.given}`: {told}",
            hint="compare the types in the contract's `columns` with what `select` and `where` do",
            where=step.where,
        ) from error
    return arguments, columns


def _described(session: Session, sql: str) -> dict[str, str]:
    return {row[0]: word(row[1]) for row in session.con.execute(f"DESCRIBE {sql}").fetchall()}


def _seen(at: TableAt) -> str:
    """SQL: a row of the files is one that readers of the table see."""
    if at.following and at.following.soft:
        return f"{ident(at.following.keys[0])} IS NOT NULL"
    return "NOT coalesce(_deleted, false)" if "_deleted" in at.columns else "true"


def _without(files: Sequence[DataFile], others: Sequence[DataFile]) -> list[DataFile]:
    known = {file.path for file in others}
    return [file for file in files if file.path not in known]


def _moment(kind: str, micros: int) -> Any:
    """A value to compare bounds with; beyond the calendar one that cannot be, so that nothing is left out."""
    try:
        moment = EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return "beyond"
    return moment.date() if kind == "date" else moment


def _bounded(file: DataFile, column: str) -> DataFile:
    """The file with bounds of a column that its folder tells."""
    value = file.partition.get(column)
    return replace(file, low={column: value}, high={column: value}) if value is not None else file


def _watermark(work: _Work, at: TableAt) -> int | None:
    """The greatest time of the table less the lateness, in µs; None if no row has a time.

    Files are read from the one with the greatest bound on, until no other can hold more.
    """
    column = work.step.spec.window.time
    kind = at.columns.get(column, "")
    files = [_bounded(file, column) for file in at.files]
    unknown = [file for file in files if column not in file.high]
    known = sorted((f for f in files if column in f.high), key=lambda f: str(f.high[column]), reverse=True)
    best: int | None = None
    top: Any = date.max if kind == "date" else datetime.max.replace(tzinfo=UTC)
    for chosen in [unknown, *([file] for file in known)]:
        if not chosen:
            continue
        if best is not None and not any(
            overlaps(kind, file, column, (_moment(kind, best), top, 0)) for file in chosen
        ):
            continue
        newest = one(
            work.session.con,
            f"SELECT max(epoch_us(CAST({ident(column)} AS TIMESTAMPTZ))) FROM ({work.visible(at, chosen)})",
        )[0]
        best = max((moment for moment in (best, newest) if moment is not None), default=None)
    return None if best is None else best - work.step.spec.window.waits


def _spans(work: _Work, relation: str) -> list[Span]:
    """The stretches of time that `relation` (`lo`, `hi`) covers, those that touch put together."""
    before = "max(hi) OVER (ORDER BY lo, hi ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    marked = (
        f"SELECT *, coalesce(lo > {before}, true)::INT AS b FROM (SELECT DISTINCT lo, hi FROM {relation})"
    )
    numbered = f"SELECT *, sum(b) OVER (ORDER BY lo, hi) AS s FROM ({marked})"
    found = work.session.con.execute(
        f"SELECT min(lo), max(hi) FROM ({numbered}) GROUP BY s ORDER BY 1"
    ).fetchall()
    if len(found) > RANGES:
        return [(found[0][0], max(hi for _, hi in found))]
    return [(low, high) for low, high in found]


def _placed(work: _Work, now: TableAt, target: TableAt, passed: int | None) -> int:
    """Tables `fresh` (windows that changed rows reach) and `old` (what they were); how many were late."""
    step = work.step
    work.make("reached", f"SELECT DISTINCT _w, _e{work.groups} FROM ({placed_sql(step, 'FROM news')})")
    spans = _spans(work, "(SELECT _w AS lo, _e AS hi FROM reached)")
    rows = work.rows(now, work.near(now, spans, step.spec.window.time))
    if spans:
        rows = f"SELECT * FROM ({rows}) WHERE _t >= {spans[0][0]} AND _t < {spans[-1][1]}"
    placed = (
        f"SELECT r.* FROM ({placed_sql(step, rows)}) r SEMI JOIN reached t ON {work.same('r', 't', '_w')}"
    )
    work.make("fresh", work.finished(placed))
    stored = f"SELECT *, epoch_us(window_start) AS _w FROM ({_stored(work, target, spans)})"
    work.make("old", f"SELECT s.* FROM ({stored}) s SEMI JOIN reached t ON {work.same('s', 't', '_w')}")
    if passed is None:
        return 0
    late = f"SELECT coalesce(sum(abs(_n)), 0) FROM news WHERE {ends_first_sql(step)} <= {passed}"
    return int(one(work.session.con, late)[0])


def _stored(work: _Work, target: TableAt, spans: Sequence[Span] | None = None) -> str:
    files = target.files if spans is None else work.near(target, spans, "window_start")
    return table_sql(target, [str(file.path) for file in files])


def _sessions(work: _Work, now: TableAt, target: TableAt, passed: int | None) -> int:
    """The same for sessions: each changed row, with the old sessions that it touches, is a region.

    What lies outside of all regions is as it was; within one, sessions are put together anew.
    """
    step, gap = work.step, work.step.spec.window.size
    groups = f"SELECT DISTINCT 0 AS _z{work.groups} FROM news"
    work.make("ids", f"SELECT row_number() OVER () AS _g{work.groups} FROM ({groups})")
    work.make("points", f"SELECT i._g, n._t, n._n FROM news n JOIN ids i ON {work.same('n', 'i')}")
    times = "_g, epoch_us(window_start) AS _w, epoch_us(window_end) AS _e"
    known = f"SELECT s.*, {times} FROM ({_stored(work, target)}) s JOIN ids i ON {work.same('s', 'i')}"
    # of a session the newest point before its end tells whether any point touches it
    work.make(
        "old",
        f"SELECT s.* FROM ({known}) s ASOF JOIN (SELECT DISTINCT _g, _t FROM points) p "
        f"ON s._g = p._g AND s._e > p._t WHERE p._t + {gap} > s._w",
    )
    pieces = f"SELECT _g, _t AS lo, _t + {gap} AS hi FROM points UNION SELECT _g, _w, _e FROM old"
    begun = "max(hi) OVER (PARTITION BY _g ORDER BY lo, hi ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    marked = f"SELECT *, coalesce(lo >= {begun}, true)::INT AS b FROM ({pieces})"
    numbered = f"SELECT *, sum(b) OVER (PARTITION BY _g ORDER BY lo, hi) AS s FROM ({marked})"
    work.make("reached", f"SELECT _g, min(lo) AS lo, max(hi) AS hi FROM ({numbered}) GROUP BY _g, s")
    spans = _spans(work, "reached")
    rows = work.rows(now, work.near(now, spans, step.spec.window.time))
    mine = f"SELECT r.*, i._g FROM ({rows}) r JOIN ids i ON {work.same('r', 'i')}"
    inside = (
        f"SELECT r.* EXCLUDE (_g), t.lo AS _region FROM ({mine}) r ASOF JOIN reached t "
        "ON r._g = t._g AND r._t >= t.lo WHERE r._t < t.hi"
    )
    work.make("fresh", work.finished(sessions_sql(step, inside, "_region")))
    if passed is None:
        return 0
    # sessions of a group end in their order: the first that ends after a point is closed if any of its is
    late = (
        "SELECT coalesce(sum(abs(p._n)), 0) FROM points p ASOF LEFT JOIN "
        "(SELECT * FROM old WHERE closed) s ON p._g = s._g AND p._t < s._e "
        f"WHERE p._t + {gap} <= {passed} OR coalesce(s._w < p._t + {gap}, false)"
    )
    return int(one(work.session.con, late)[0])


def _moved(work: _Work, target: TableAt) -> str:
    """SQL of windows that nothing but the watermark has changed: they are closed now, or open again."""
    closed = "false" if work.watermark is None else f"epoch_us(s.window_end) <= {work.watermark}"
    return (
        f"SELECT s.* REPLACE (NOT s.closed AS closed, {work.epoch}::BIGINT AS _epoch), false AS {GONE} "
        f"FROM ({_stored(work, target)}) s ANTI JOIN old o ON {work.same('s', 'o', 'window_start')} "
        f"WHERE s.closed <> ({closed})"
    )


def _merged(work: _Work, moved: str) -> str:
    """SQL of all that changes: windows anew, windows that go, and those that only close."""
    names = ", ".join(ident(name) for name in work.columns)
    parts = [f"SELECT {names}, false AS {GONE} FROM fresh"]
    keys = ", ".join(f"o.{ident(name)}" for name in work.step.spec.keys)
    parts.append(
        f"SELECT {keys}, true AS {GONE} FROM old o ANTI JOIN fresh f ON {work.same('o', 'f', 'window_start')}"
    )
    return " UNION ALL BY NAME ".join([*parts, *([moved] if moved else [])])


def _outcome(work: _Work, sql: str, late: int, untimed: int) -> Outcome:
    con, step = work.session.con, work.step
    failed, windows_ = one(con, "SELECT min(_f), count(_f) FROM fresh")
    if failed is not None:
        raise DataError(
            f"stream `{step.name}`: `{failed}` cannot be computed for rows of {windows_:,} windows",
            hint="nothing was written; a number is too large for its type, or a text is none: see `where`",
        )
    work.make("outcome", sql)
    (count,) = one(con, "SELECT count(*) FROM outcome")
    columns = dict(work.columns) | ({GONE: "boolean"} if f"AS {GONE}" in sql else {})
    listed = ", ".join(f"{ident(name)}::{native(kind)} AS {ident(name)}" for name, kind in columns.items())
    frame = DuckFrame(work.session, f"SELECT {listed} FROM outcome", columns, count, one_per_key=True)
    warned = {f"no {step.spec.window.time}": untimed} if untimed else {}
    return Outcome({"windows": frame}, count, 0, 0, 0, late=late, warned=warned)
