"""One refinement: staged texts become typed winners, quarantine and history, and every row is counted.

What it costs decides the order. Casts and rules run once, while the files are read (see `shape`). Keys are
then compared by their hashes; only rows whose hash occurs twice are looked at again, exactly. The winners are
never stored: they are the typed rows minus the places that lost, copied into the table in one stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...core import Check, Input, Outcome, RawInput, TableAt
from ...errors import ConfigError
from ...sql import TableStep, expectations, order_by
from .changes import Settling, retried_sql
from .corrections import Corrected, correct
from .frame import AUDIT, DuckFrame, Session, count, fresh, ident, one, table_sql
from .masks import encrypt_into
from .python_steps import IDENTITY, run_steps
from .quarantine import CHANGE_OF, QUARANTINE, fill, names_of, whole
from .repeated import find_repeated
from .shape import shape_of
from .staging.stage import Staged, stage
from .truncate import reached, told

if TYPE_CHECKING:
    from .engine import DuckEngine

LANDED = ("_ingested_at", "_source", "_file", "_line")
"""The order in which rows landed; it is total."""
Inputs = Mapping[str, Input | Sequence[RawInput] | None]


def place_sql(raw: Sequence[RawInput]) -> str:
    """SQL of the file that a row came from, in eight bytes; with `_line` it identifies the row in this run.

    It is computed for every row, several times: one file needs none, and the time only where names repeat.
    """
    names = [(each.source, landed.name) for each in raw for _, landed, _ in each.files]
    if len(names) <= 1:
        return "0::UTINYINT"
    if len(set(names)) == len(names):
        return "hash(_source, _file)"
    return "hash(_source, _file, _ingested_at)"


def refine(engine: DuckEngine, step: TableStep, inputs: Inputs, *, epoch: int, now: str) -> Outcome:
    """All outputs of `step` over `inputs`; each row read is in one frame or one count, and only one."""
    session = engine.session
    session.clear()
    session.set("headrace_now", now)
    session.set("headrace_pii_key", engine.secret())
    session.con.execute(
        "SET preserve_insertion_order = true"
    )  # rowids of staged files must follow their lines
    raw = raw_inputs(inputs.get("raw"))
    for name, value in inputs.items():
        if name.startswith("ref:") and isinstance(value, TableAt):
            _reference(session, step, name.removeprefix("ref:"), value)
    contract = step.spec.contract
    staged = stage(
        session.con,
        raw,
        step.inputs,
        evolved=step.optional,
        flat=[name for name, column in contract.columns.items() if column.type == "text"],
        json=[name for name, column in contract.columns.items() if column.type == "json"],
        case=contract.header_case,
        on_new=contract.on_new_column,
        on_missing=contract.on_missing_column,
        into=fresh("staged"),
        scratch=engine.scratch,
        shape=shape_of(step, session.dialect, engine.large),
    )
    target = inputs.get("target")
    at = target if isinstance(target, TableAt) else None
    place, given, before = place_sql(raw), inputs.get("corrections"), inputs.get("quarantine")
    waiting = inputs.get("waiting")
    waiting = waiting if isinstance(waiting, TableAt) and waiting.files else None
    again = retried_sql(waiting, staged.relation, step) if waiting else ""
    if again and not isinstance(given, RawInput) and count(session.con, f"({again})"):
        given, before = RawInput("", ()), waiting
    if not isinstance(given, RawInput):
        work = _Refinement(session, step, staged, epoch, at, place, waiting=waiting)
        return work.outcome(engine, raw)
    quarantine = before if isinstance(before, TableAt) else None
    corrected = correct(engine, step, staged, raw, given, quarantine, again)
    place = "hash(_source, _file, _ingested_at)"
    work = _Refinement(
        session, step, corrected.staged, epoch, at, place, corrected=corrected, waiting=waiting
    )
    outcome = work.outcome(engine, raw)
    if quarantine is None:
        return outcome
    bad = whole(session, outcome.frames["quarantine"], quarantine, corrected)
    return replace(outcome, frames={**outcome.frames, "quarantine": bad})


def raw_inputs(value: Input | Sequence[RawInput] | None) -> list[RawInput]:
    """The input `raw`, whether it is one source or several."""
    if value is None:
        return []
    found = [value] if isinstance(value, RawInput) else value
    if not isinstance(found, Sequence) or not all(isinstance(each, RawInput) for each in found):
        raise ConfigError("input `raw` is a sequence of RawInput", hint="land frames first, then refine them")
    return [each for each in found if isinstance(each, RawInput)]


def _reference(session: Session, step: TableStep, table: str, at: TableAt) -> None:
    """The rows that a foreign key may point to; tombstones are none, and a table without data has none."""
    if not at.columns:
        keys = {each.key: step.columns[each.column] for each in step.references if each.table == table}
        at = replace(at, columns=keys)
    alive = " WHERE NOT coalesce(_deleted, false)" if "_deleted" in at.columns else ""
    session.con.execute(
        f"CREATE OR REPLACE TEMP VIEW {ident('ref_' + table)} AS SELECT * FROM ({table_sql(at)}){alive}"
    )


@dataclass(slots=True)
class _Refinement:
    session: Session
    step: TableStep
    staged: Staged
    epoch: int
    target: TableAt | None
    place: str
    base: str = ""
    """Where rows are read from: the staged ones, or what the Python steps made of them."""
    stepped: bool = False
    stored: bool = False
    """Whether some values come from the table, as they are stored there."""
    corrected: Corrected | None = None
    waiting: TableAt | None = None
    """Quarantine as it was before, of a table of changes."""
    truncated: int = 0
    verdicts: Mapping[str, int] = field(default_factory=dict)
    """How many staged rows are good, filtered, warned of, and break a `stop` rule."""

    def outcome(self, engine: DuckEngine, raw: Sequence[RawInput]) -> Outcome:
        con = self.session.con
        settling = Settling(self.session, self.step, self.staged, self.target, self.waiting)
        self.stored = settling.needed
        self.staged = settling.settled() if self.stored else self.staged
        self.base = self.staged.relation
        self._sort_out()
        dropped = self._python_steps(engine) if self.step.spec.steps else 0
        fixed = self.corrected
        quarantined = fill(
            self.session,
            self.staged,
            raw,
            "odd",
            self.epoch,
            engine.scratch,
            corrections=fixed.table if fixed else None,
            keyed=self.step.spec.changes is not None,
        )
        for column in self.step.encrypted:
            clear = f" WHERE {ident('stored$' + column)} IS NOT TRUE" if self.stored else ""
            encrypt_into(self.session, f"SELECT {ident(column)} FROM good{clear}", column, engine)
        deduplicated = self._deduplicate() if self.step.keys else 0
        rows = self._frame("kept" if deduplicated else "good", self._good() - deduplicated)
        if self.step.spec.changes:
            rows, self.truncated = reached(self.session, self.step, rows, self.base, self.target, self.epoch)
        columns = QUARANTINE | (CHANGE_OF if self.step.spec.changes else {})
        frames = {
            "rows": rows,
            "quarantine": DuckFrame(self.session, "SELECT * FROM quarantine", columns, quarantined),
        }
        if self.step.history:
            frames["history"] = self._history(deduplicated)
        return Outcome(
            frames=frames,
            read=sum(self.staged.records.values()),
            deduplicated=deduplicated,
            quarantined=quarantined,
            corrected=fixed.rows if fixed else 0,
            superseded=fixed.superseded if fixed else 0,
            truncated=self.truncated,
            filtered=self.verdicts["filtered"] + dropped,
            by_rule=names_of(con, "SELECT rules FROM quarantine"),
            warned=self._broken("_warned", "warn", " AND _rules IS NULL"),
            checks=[*self._stops(), *self._expectations(rows)],
            files=dict(self.staged.records),
            told=told(con, self.base) if self.step.spec.changes else {},
        )

    # what is odd -----------------------------------------------------------------------------------------

    def _sort_out(self) -> None:
        """View `good`: rows that are neither broken nor left out. View `odd`: broken ones."""
        con = self.session.con
        con.execute(
            f"CREATE TEMP VIEW good AS SELECT * FROM {self.base} WHERE _rules IS NULL AND NOT _filtered"
        )
        key = ", _key AS key, _sequence AS sequence" if self.step.spec.changes else ""
        con.execute(
            f"CREATE TEMP VIEW odd AS SELECT {', '.join(IDENTITY)}, _rules AS rules, _fields AS fields{key} "
            f"FROM {self.base} WHERE _rules IS NOT NULL"
        )
        found = one(
            con,
            "SELECT count(*) FILTER (_rules IS NULL AND NOT _filtered), count(*) FILTER (_filtered), "
            f"count(_warned), count(_stopped) FROM {self.base}",
        )
        self.verdicts = dict(zip(("good", "filtered", "_warned", "_stopped"), found, strict=True))

    def _good(self) -> int:
        return count(self.session.con, self.base) if self.stepped else self.verdicts["good"]

    # user code -------------------------------------------------------------------------------------------

    def _python_steps(self, engine: DuckEngine) -> int:
        """Puts good rows through the project's functions; what they refuse is `odd`. Returns drops."""
        con, columns = self.session.con, dict(self.step.columns)
        if self.step.deletes:
            columns["_deleted"] = "boolean"
        listed = ", ".join(ident(name) for name in (*columns, *IDENTITY))
        con.execute(f"CREATE TEMP TABLE stepping AS SELECT {listed} FROM good")
        self.base, dropped = run_steps(self.session, self.step.spec, engine.project, "stepping", columns)
        self.stepped = True
        con.execute(f"CREATE OR REPLACE TEMP VIEW good AS SELECT * FROM {self.base}")
        same = " AND ".join(f"f.{name} IS NOT DISTINCT FROM t.{name}" for name in IDENTITY)
        con.execute(
            f"CREATE OR REPLACE TEMP VIEW odd AS SELECT {', '.join(IDENTITY)}, _rules AS rules, "
            f"_fields AS fields FROM {self.staged.relation} WHERE _rules IS NOT NULL UNION ALL "
            f"SELECT {', '.join('t.' + name for name in IDENTITY)}, "
            "string_agg(f.rule || ';', '' ORDER BY f.rule), "
            f"any_value(t._fields) FROM {self.staged.relation} t JOIN flagged f ON {same} "
            "WHERE f.severity <> 'warn' GROUP BY ALL"
        )
        return dropped

    # winners ---------------------------------------------------------------------------------------------

    def _deduplicate(self) -> int:
        """Views `kept`: one row per key; `versions`: every distinct row. Returns how many are not kept.

        Only rows whose key hash is not theirs alone are compared, and those exactly: a hash that two keys
        share costs time, never a row.
        """
        con = self.session.con
        keys = ", ".join(ident(key) for key in self.step.keys)
        if not find_repeated(con, "good", self.step.keys, self._good()):
            return 0
        con.execute(
            f"CREATE TEMP VIEW rival AS SELECT * FROM good WHERE hash({keys}) IN (SELECT h FROM twice)"
        )
        lost = self._contest_of_places() or self._contest_of_content("rival")
        con.execute(f"CREATE TEMP TABLE losers AS {lost}")
        self._view("kept", "losers")
        if self.step.history:
            copies = self._losers("content", self.step.versions, order_by(self.step))
            con.execute(f"CREATE TEMP TABLE copies AS {copies}")
            self._view("versions", "copies")
        return count(con, "losers")

    def _contest_of_content(self, rivals: str) -> str:
        """Losers among `rivals`, compared in everything that they say."""
        self.session.con.execute(f"CREATE TEMP TABLE content AS {self._final(rivals)}")
        return self._losers("content", self.step.keys, order_by(self.step))

    def _contest_of_places(self) -> str | None:
        """Losers, where order and places name the winners; content is read only to end ties that matter.

        Versions of one sequence that hash alike are taken to be alike: the last of them stays, as of any.
        """
        if self.step.history:
            return None
        con = self.session.con
        gone = ["_deleted"] if self.step.deletes and self.step.sequence else []
        order = [f"{ident(name)} DESC NULLS LAST" for name in (*self.step.sequence, *gone, *LANDED)]
        names = dict.fromkeys([*self.step.keys, *self.step.sequence, *gone])
        listed = ", ".join(ident(name) for name in names)
        rows = f"SELECT {listed}, {', '.join(IDENTITY)} FROM rival"
        con.execute(f"CREATE TEMP TABLE contest AS {rows}")
        lost = self._losers("contest", self.step.keys, ", ".join(order))
        ties = f"SELECT 1 FROM contest GROUP BY {listed} HAVING count(*) > 1 LIMIT 1"
        if not self.step.sequence or not count(con, f"({ties})"):
            return lost
        keys = ", ".join(ident(key) for key in self.step.keys)
        content = ", ".join(ident(name) for name in self.step.columns)
        con.execute(
            f"CREATE TEMP TABLE disputed AS SELECT DISTINCT hash({keys}) AS h FROM "
            f"(SELECT {listed}, hash({content}) AS _said FROM rival) GROUP BY {listed} "
            "HAVING min(_said) <> max(_said)"
        )
        if not count(con, "disputed"):
            return lost
        disputed = f"hash({keys}) IN (SELECT h FROM disputed)"
        con.execute(f"CREATE TEMP VIEW disputing AS SELECT * FROM rival WHERE {disputed}")
        con.execute(f"DELETE FROM contest WHERE {disputed}")
        return f"{lost} UNION ALL {self._contest_of_content('disputing')}"

    def _view(self, name: str, without: str) -> None:
        """A view of the good rows without the places listed in `without`."""
        lost = f"SELECT 1 FROM {without} g WHERE g.l = s._line AND g.f = {self.place}"
        self.session.con.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM good s WHERE NOT EXISTS ({lost})")

    def _history(self, deduplicated: int) -> DuckFrame:
        """Every distinct version; where no key came twice, these are the rows."""
        view = "versions" if deduplicated else "good"
        copies = count(self.session.con, "copies") if deduplicated else 0
        return self._frame(view, self._good() - copies)

    def _losers(self, contest: str, keys: Sequence[str], order: str) -> str:
        listed = ", ".join(ident(key) for key in keys)
        return (
            f"SELECT l, f FROM (SELECT _line AS l, {self.place} AS f, "
            f"row_number() OVER (PARTITION BY {listed} ORDER BY {order}) AS nth "
            f"FROM {contest}) WHERE nth > 1"
        )

    def _final(self, relation: str) -> str:
        """SQL of `relation` with all columns of the silver table."""

        def sealed(i: int, name: str) -> str:
            if not self.stored:
                return f"e{i}.cipher AS {ident(name)}"
            carried = f"t.{ident('stored$' + name)}"
            return f"CASE WHEN {carried} THEN t.{ident(name)} ELSE e{i}.cipher END AS {ident(name)}"

        columns = [
            sealed(i, name) if name in self.step.encrypted else f"t.{ident(name)}"
            for i, name in enumerate(self.step.columns)
        ]
        joins = [
            f" LEFT JOIN {ident('cipher_' + name)} e{i} ON e{i}.plain = t.{ident(name)}"
            for i, name in enumerate(self.step.columns)
            if name in self.step.encrypted
        ]
        audit = [f"{self.epoch}::BIGINT AS _epoch" if name == "_epoch" else f"t.{name}" for name in AUDIT]
        beside = [f"t.{name}" for name in self.step.beside]
        listed = ", ".join([*columns, *audit, *beside])
        return f"SELECT {listed} FROM {relation} t{''.join(joins)}"

    def _frame(self, view: str, rows: int) -> DuckFrame:
        columns = dict(self.step.columns) | AUDIT | self.step.beside
        return DuckFrame(self.session, self._final(view), columns, rows, one_per_key=bool(self.step.keys))

    # verdicts --------------------------------------------------------------------------------------------

    def _broken(self, verdict: str, severity: str, among: str = "") -> dict[str, int]:
        """Rule → rows that broke it, for rules that do not put a row into quarantine by themselves."""
        rules = f"SELECT {verdict} FROM {self.staged.relation} WHERE {verdict} IS NOT NULL{among}"
        if self.stepped:
            rules += f" UNION ALL SELECT rule FROM flagged WHERE severity = '{severity}'"
        elif not self.verdicts[verdict]:
            return {}
        return names_of(self.session.con, rules)

    def _stops(self) -> list[Check]:
        """Rules with severity `stop` that rows broke."""
        broken = self._broken("_stopped", "stop")
        return [Check(rule, False, "stop", f"{rows:,} rows") for rule, rows in broken.items()]

    def _expectations(self, rows: DuckFrame) -> list[Check]:
        """The contract's set rules: `rows` over this epoch, all others over the table as it would be."""
        expected = self.step.spec.contract.expect
        if not expected:
            return []
        con = self.session.con
        con.execute(f"CREATE TEMP TABLE fresh_rows AS {rows.sql}")
        con.execute(f"CREATE OR REPLACE TEMP VIEW table_after AS {self._after()}")
        new = expectations(self.step, self.session.dialect, "fresh_rows")
        after = expectations(self.step, self.session.dialect, "table_after")
        checks = []
        fixes_only = self.corrected is not None and not any(self.staged.records.values())
        for rule, here, there in zip(expected, new, after, strict=True):
            if rule.rows is not None and fixes_only:
                continue  # a bound on what is delivered says nothing of what is put right afterwards
            use = here if rule.rows is not None else there
            passed, value = one(con, use.sql)
            checks.append(Check(use.name, bool(passed), use.severity, str(value)))
        return checks

    def _after(self) -> str:
        """SQL of the table as it would be: rows of untouched keys, and the winner of each touched one."""
        alive = " WHERE NOT coalesce(_deleted, false)" if self.step.deletes else ""
        new = "SELECT * FROM fresh_rows"
        if self.target is None or self.step.mode == "replace":
            return new + alive
        old = f"SELECT * FROM ({table_sql(self.target)})"
        if self.step.mode == "append" or not self.step.keys:
            return f"SELECT * FROM ({old} UNION ALL BY NAME {new}){alive}"
        same = " AND ".join(f"n.{ident(key)} IS NOT DISTINCT FROM o.{ident(key)}" for key in self.step.keys)
        touched = f"EXISTS (SELECT 1 FROM fresh_rows n WHERE {same})"
        keys = ", ".join(ident(key) for key in self.step.keys)
        contest = (
            f"SELECT * FROM (SELECT * FROM ({old}) o WHERE {touched} UNION ALL BY NAME {new}) "
            f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order_by(self.step)}) = 1"
        )
        untouched = f"SELECT * FROM ({old}) o WHERE NOT {touched}"
        return f"SELECT * FROM ({untouched} UNION ALL BY NAME {contest}){alive}"


__all__ = ["raw_inputs", "refine"]
