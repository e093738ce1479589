"""Changes that lack values get them from the change before, or wait for it in quarantine.

A change may leave out what it did not touch (unchanged TOAST), and a delete may know its key alone. What such
a row lacks is taken from the last change of its key that said it: of this batch, or the row of the table. If
that one is not known, was refused, or the row was gone in between, the change goes into quarantine with the
rule `<column>.unchanged`, where it waits: a later batch that brings the missing row takes it along.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...core import TableAt
from ...sql import TableStep, checked_sql
from ...sql.changes import key_sql, lacking
from .corrections import field, same_origin
from .frame import Session, casts, count, fresh, ident, native, one, table_sql
from .python_steps import IDENTITY
from .staging.stage import Staged
from .truncate import is_soft, truncations

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PARTIAL = "_rules IS NULL AND _unchanged IS NOT NULL AND NOT _deleted"
"""Rows that were not judged yet, since values are missing."""
BARE = "_rules IS NULL AND _deleted AND _op IS DISTINCT FROM 't'"
"""Rows that only say that their key is gone."""


def waits_sql(rules: str = "rules") -> str:
    """SQL: a quarantined row lacks values that may still come, and nothing else is wrong with it."""
    return f"regexp_full_match({rules}, '[^;]+\\.unchanged(;[^;]+\\.unchanged)*')"


def retried_sql(waiting: TableAt, batch: str, step: TableStep) -> str:
    """SQL of quarantined rows, as corrections that change nothing, which a row of `batch` may complete."""
    come = f"SELECT {key_sql(step.keys)} FROM {batch} WHERE _rules IS NULL AND NOT _filtered AND NOT _deleted"
    return (
        f"SELECT {', '.join('q.' + name for name in ('_source', '_file', '_line', '_ingested_at'))}, "
        "q.fields::JSON AS fields, "
        "CASE WHEN q.correction IS NULL THEN [] ELSE ['*'] END::VARCHAR[] AS changed, "
        'q.raw, NULL::VARCHAR AS "by", NULL::VARCHAR AS "at", NULL::VARCHAR AS reason, NULL::VARCHAR AS how, '
        f"coalesce(q.correction, 0)::BIGINT AS number FROM ({table_sql(waiting)}) q "
        f"WHERE {waits_sql('q.rules')} AND q.key IN ({come})"
    )


@dataclass(frozen=True, slots=True)
class Settling:
    """What the values of a batch's incomplete changes are taken from."""

    session: Session
    step: TableStep
    staged: Staged
    target: TableAt | None
    waiting: TableAt | None
    """Quarantine as it was before: a value that was refused is not known."""

    @property
    def needed(self) -> bool:
        """Whether something is missing."""
        if self.step.spec.changes is None:
            return False
        found = f"SELECT count(*) FILTER ({PARTIAL}), count(*) FILTER ({BARE}) FROM {self.staged.relation}"
        partial, bare = one(self.con, found)
        return bool(partial or (is_soft(self.step) and bare))

    def settled(self) -> Staged:
        """The rows with nothing missing, or with the rule that says so."""
        base, soft = self.staged.relation, is_soft(self.step)
        needy = f"({PARTIAL}) OR ({BARE})" if soft else PARTIAL
        self._events(needy)
        self._complete()
        into = fresh("settled")
        parts = [f"SELECT * FROM {base} WHERE NOT coalesce({needy}, false)", "SELECT * FROM completed"]
        if soft:
            parts.append(self._bare_sql())
        self.con.execute(f"CREATE TEMP VIEW {into} AS {' UNION ALL BY NAME '.join(parts)}")
        return replace(self.staged, relation=into)

    @property
    def con(self) -> DuckDBPyConnection:
        return self.session.con

    @property
    def values(self) -> list[str]:
        return [c for c in self.step.columns if c not in self.step.keys]

    def _same(self, left: str, right: str) -> str:
        return " AND ".join(f"{left}.{ident(k)} = {right}.{ident(k)}" for k in self.step.keys)

    # what happened to the keys in question -----------------------------------------------------------------

    def _events(self, needy: str) -> None:
        """Table `events`: everything known of the keys of needy rows, each value with whether it was said.

        `_ok`: the row was there, with these values; `_told`: they are good enough for a row that is gone.
        """
        con, step, base = self.con, self.step, self.staged.relation
        keys = ", ".join(ident(key) for key in step.keys)
        con.execute(f"CREATE TEMP TABLE needy AS SELECT DISTINCT {keys} FROM {base} WHERE {needy}")
        con.execute(
            "CREATE TEMP TABLE changing AS SELECT row_number() OVER () AS _id, "
            f"coalesce({PARTIAL}, false) AS _partial, coalesce({BARE}, false) AS _bare, b.* FROM {base} b "
            f"WHERE EXISTS (SELECT 1 FROM needy n WHERE {self._same('n', 'b')})"
        )
        rows = f"SELECT _id, _fields, {', '.join(IDENTITY)} FROM changing WHERE _unchanged IS NOT NULL"
        con.execute(f"CREATE TEMP TABLE lacks AS {self._lacks_sql(rows, '_fields')}")
        own = ", ".join(f"c.{ident(name)}" for name in self._known)
        good = "c._rules IS NULL AND NOT c._filtered AND NOT c._deleted"
        said = f"SELECT c._id, {own}, {self._said('l')}, {good} AS _ok, {good} AS _told, false AS _stored, "
        parts = [f"{said} 2 AS _rank FROM changing c LEFT JOIN lacks l ON l._id = c._id", *self._before()]
        con.execute(f"CREATE TEMP TABLE events AS {' UNION ALL BY NAME '.join(parts)}")

    @property
    def _known(self) -> list[str]:
        return list(dict.fromkeys([*self.step.keys, *self.step.sequence, *self.values]))

    def _lacks_sql(self, rows: str, fields: str) -> str:
        """`rows` with their texts, and for each final column whether it is as before."""
        texts = ", ".join(f"{field(name, fields)} AS {ident(name)}" for name in self.step.inputs)
        flags = ", ".join(f"{lack} AS {ident('lack$' + c)}" for c, lack in lacking(self.step).items())
        return f"SELECT *, {flags} FROM (SELECT *, {texts} FROM ({rows}))"

    def _said(self, lacks: str = "") -> str:
        def flag(c: str) -> str:
            return f"NOT coalesce({lacks}.{ident('lack$' + c)}, false)" if lacks else "true"

        return ", ".join(f"{flag(c)} AS {ident('has$' + c)}" for c in self.values) or "true AS _has"

    def _before(self) -> list[str]:
        """What was known before this batch, and when all keys were gone."""
        step, parts = self.step, []
        if self.target is not None and self.target.files:
            old = casts({**step.columns, **step.beside}, self.target.columns)
            nothing = " AND ".join(f"{ident(c)} IS NULL" for c in self.values) or "true"
            gone = "coalesce(_deleted, false)"
            parts.append(
                f"SELECT NULL::BIGINT AS _id, {', '.join(map(ident, self._known))}, {self._said()}, "
                f"NOT {gone} AS _ok, NOT ({gone} AND {nothing}) AS _told, true AS _stored, 1 AS _rank "
                f"FROM (SELECT {old} FROM ({table_sql(self.target)})) b "
                f"WHERE EXISTS (SELECT 1 FROM needy n WHERE {self._same('n', 'b')})"
            )
        changes = step.spec.changes
        if changes is None or changes.sequence_by:
            return parts
        unknown = "false AS _ok, false AS _told, false AS _stored"
        keys = ", ".join(f"n.{ident(key)}" for key in step.keys)
        if self.waiting is not None and self.waiting.files:
            again = f"SELECT 1 FROM changing c WHERE {same_origin('c', 'q')}"
            rows = self._lacks_sql(
                f"SELECT fields, key AS _key, sequence AS _at FROM ({table_sql(self.waiting)}) q "
                f"WHERE key IS NOT NULL AND NOT EXISTS ({again})",
                "fields",
            )
            parts.append(
                f"SELECT NULL::BIGINT AS _id, {keys}, q._at AS _sequence, {self._said('q')}, {unknown}, "
                f"0 AS _rank FROM ({rows}) q "
                f"JOIN (SELECT *, {key_sql(step.keys)} AS k FROM needy) n ON n.k = q._key"
            )
        # A snapshot's rows have the sequence of the truncation that ends what it did not find: they stay.
        parts += [
            f"SELECT NULL::BIGINT AS _id, {keys}, t._sequence, {self._said()}, {unknown}, -1 AS _rank "
            f"FROM needy n, ({sql}) t"
            for sql in truncations(step, self.staged.relation, self.target)
        ]
        return parts

    # what was missing --------------------------------------------------------------------------------------

    def _last(self, c: str, when: str) -> str:
        """The last time that a column was said before a row, as a struct."""
        step = self.step
        keys = ", ".join(ident(key) for key in step.keys)
        order = ", ".join(f"{ident(name)} ASC NULLS FIRST" for name in step.sequence)
        said = f"CASE WHEN {ident('has$' + c)} AND {when} THEN "
        said += f"struct_pack(v := {ident(c)}, ok := _ok, stored := _stored) END"
        window = f"PARTITION BY {keys} ORDER BY {order}, _rank, _id "
        window += "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
        return f"last_value({said} IGNORE NULLS) OVER ({window}) AS {ident('last$' + c)}"

    def _complete(self) -> None:
        """Table `completed`: the partial rows, judged with what they lack taken from before.

        A row that is refused takes those with it that rest on it: so it is done until no more fall.
        """
        con, fallen = self.con, 0
        lasts = ", ".join(self._last(c, "true") for c in self.values)
        con.execute(f"CREATE TEMP VIEW befores AS SELECT _id, {lasts} FROM events")
        con.execute(f"CREATE TEMP VIEW carried AS {self._carried_sql()}")
        bad = f"SELECT c._id FROM completed s JOIN changing c ON {same_origin('c', 's')} "
        bad += "WHERE s._rules IS NOT NULL OR s._filtered OR s._deleted"
        while True:
            con.execute(f"CREATE OR REPLACE TEMP TABLE completed AS {self._judged_sql()}")
            number = count(con, f"({bad})")
            if number == fallen:
                return
            fallen = number
            con.execute(f"UPDATE events SET _ok = false, _told = false WHERE _id IN ({bad})")

    def _carried_sql(self) -> str:
        """The texts of partial rows with `old$c`, `lost$c` and `stored$c`, and `_lost`."""
        step, columns, lost = self.step, [], []
        for c, kind in step.columns.items():
            last = f"b.{ident('last$' + c)}"
            if c in step.keys:
                columns += [f"NULL::{native(kind)} AS {ident('old$' + c)}", f"false AS {ident('lost$' + c)}"]
                continue
            gone = f"(l.{ident('lack$' + c)} AND NOT coalesce({last}.ok, false) AND s._id IS NULL)"
            gone = "false" if c in step.derived else gone
            lost.append(gone)
            columns += [f"{last}.v AS {ident('old$' + c)}", f"{gone} AS {ident('lost$' + c)}"]
            columns.append(
                f"l.{ident('lack$' + c)} AND coalesce({last}.stored, false) AS {ident('stored$' + c)}"
            )
        # A change that comes after a later one is of no account but for a history: it need not be complete.
        # So it is with the table's rows, and with whole ones of this batch, as of a first snapshot.
        whole = "t._ok AND t._id IN (SELECT _id FROM changing WHERE NOT _partial)"
        later = f"(t._rank = 1 OR ({whole})) AND {self._same('t', 'e')} AND {self._older('e', 't')}"
        stale = "SELECT _id FROM events WHERE false"
        if not step.history:
            stale = "SELECT e._id FROM events e WHERE e._rank = 2 "
            stale += f"AND EXISTS (SELECT 1 FROM events t WHERE {later})"
        return (
            f"SELECT l.*, {', '.join(columns)}, ({' OR '.join(lost) or 'false'}) AS _lost FROM lacks l "
            "JOIN changing c ON c._id = l._id AND c._partial JOIN befores b ON b._id = l._id "
            f"LEFT JOIN ({stale}) s ON s._id = l._id"
        )

    def _judged_sql(self) -> str:
        step = self.step
        shown = [ident(name) for name in step.columns]
        shown += ["nullif(_broken || _stopped, '') AS _rules", "nullif(_stopped, '') AS _stopped"]
        shown += ["nullif(_warned, '') AS _warned", "_filtered"]
        shown += [ident("stored$" + c) for c in step.encrypted]
        shown += [*step.beside, "_unchanged", *IDENTITY]
        key = f"CASE WHEN _broken <> '' OR _stopped <> '' THEN {key_sql(step.keys)} END AS _key"
        checked = checked_sql(step, self.session.dialect, "carried", carried=True)
        return (
            "SELECT j.*, CASE WHEN j._rules IS NOT NULL THEN c._fields END AS _fields "
            f"FROM (SELECT {', '.join([*shown, key])} FROM ({checked})) j "
            f"JOIN changing c ON {same_origin('c', 'j')}"
        )

    def _older(self, one: str, other: str) -> str:
        """SQL: row `one` is the older of two, by the table's order; NULL is least."""
        terms, equal = [], "true"
        for name in self.step.sequence:
            a, b = f"{one}.{ident(name)}", f"{other}.{ident(name)}"
            terms.append(f"({equal} AND (({a} IS NULL AND {b} IS NOT NULL) OR coalesce({a} < {b}, false)))")
            equal += f" AND {a} IS NOT DISTINCT FROM {b}"
        return f"({' OR '.join(terms)})"

    def _bare_sql(self) -> str:
        """Deletes with the last known values, where they do not tell them themselves."""
        lasts = ", ".join(["_id", *(self._last(c, "_told") for c in self.values)])
        self.con.execute(f"CREATE TEMP VIEW lasts AS SELECT {lasts} FROM events")
        shown = [f"coalesce(c.{ident(n)}, l.{ident('last$' + n)}.v) AS {ident(n)}" for n in self.values]
        replaced = f" REPLACE ({', '.join(shown)})" if shown else ""
        return (
            f"SELECT c.* EXCLUDE (_id, _partial, _bare){replaced} FROM changing c "
            "JOIN lasts l ON l._id = c._id WHERE c._bare"
        )
