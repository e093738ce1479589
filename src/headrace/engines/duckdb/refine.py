"""One refinement: staged texts become typed winners, quarantine and history, and every row is counted.

What it costs decides the order. A first pass evaluates all casts and rules but keeps only a hash of the
key, the row's place, and a note where something is odd. The few rows that are broken or whose key hash occurs
twice are looked at again, exactly. The winners are never stored: they are the staged rows minus the places
that lost, typed anew while they are copied into the table, when the rules are no longer evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...core import Check, Input, Outcome, RawInput, TableAt
from ...errors import ConfigError
from ...sql import TableStep, checked_sql, expectations, order_by
from .frame import AUDIT, DuckFrame, Session, count, fresh, ident, one, table_sql
from .masks import encrypt_into
from .python_steps import IDENTITY, run_steps
from .quarantine import QUARANTINE, fill, names_of
from .stage import Staged, stage

if TYPE_CHECKING:
    from .engine import DuckEngine

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
    contract = step.spec.contract
    staged = stage(
        session.con,
        raw,
        step.inputs,
        case=contract.header_case,
        on_new=contract.on_new_column,
        on_missing=contract.on_missing_column,
        into=fresh("staged"),
        scratch=engine.scratch,
    )
    for name, value in inputs.items():
        if name.startswith("ref:") and isinstance(value, TableAt):
            _reference(session, name.removeprefix("ref:"), value)
    target = inputs.get("target")
    at = target if isinstance(target, TableAt) else None
    return _Refinement(session, step, staged, epoch, at, place_sql(raw)).outcome(engine, raw)


def raw_inputs(value: Input | Sequence[RawInput] | None) -> list[RawInput]:
    """The input `raw`, whether it is one source or several."""
    if value is None:
        return []
    found = [value] if isinstance(value, RawInput) else value
    if not isinstance(found, Sequence) or not all(isinstance(each, RawInput) for each in found):
        raise ConfigError("input `raw` is a sequence of RawInput", hint="land frames first, then refine them")
    return [each for each in found if isinstance(each, RawInput)]


def _reference(session: Session, table: str, at: TableAt) -> None:
    """The rows that a foreign key may point to; tombstones are none."""
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
    """Where rows are read from: the staged texts, or what the Python steps made of them."""
    processed: bool = False

    def outcome(self, engine: DuckEngine, raw: Sequence[RawInput]) -> Outcome:
        con = self.session.con
        self.base = self.staged.relation
        self._note()
        dropped = self._python_steps(engine) if self.step.spec.steps else 0
        self._find_rivals()
        self._lift()
        quarantined = fill(self.session, self.staged, raw, "odd", self.epoch)
        for column in self.step.encrypted:
            encrypt_into(self.session, f"SELECT {ident(column)} FROM ({self._typed('good')})", column, engine)
        deduplicated = self._deduplicate()
        rows = self._frame("kept", self._good() - deduplicated, one_per_key=bool(self.step.keys))
        frames = {
            "rows": rows,
            "quarantine": DuckFrame(self.session, "SELECT * FROM quarantine", QUARANTINE, quarantined),
        }
        if self.step.history:
            frames["history"] = self._frame("versions", count(con, "versions"), one_per_key=True)
        return Outcome(
            frames=frames,
            read=sum(self.staged.records.values()),
            deduplicated=deduplicated,
            quarantined=quarantined,
            filtered=count(con, "notes WHERE filtered") + dropped,
            by_rule=names_of(con, "SELECT rules FROM quarantine"),
            warned=self._broken("warned", "warn"),
            checks=[*self._stops(), *self._expectations(rows)],
            files=dict(self.staged.records),
        )

    # what is odd -----------------------------------------------------------------------------------------

    def _note(self) -> None:
        """Tables `narrow` (each staged row's place, key hash, note), `notes` (of odd rows), `gone` (bad rows).

        A note is one text, not a struct: nearly all rows have none, and that must cost next to nothing.
        """
        con = self.session.con
        keys = ", ".join(ident(key) for key in self.step.keys)
        gone = "_broken <> '' OR _stopped <> '' OR _filtered"
        h = f"CASE WHEN {gone} THEN NULL ELSE hash({keys}) END" if keys else "NULL::UTINYINT"
        parts = "concat_ws(chr(31), _broken || _stopped, _stopped, _warned, _filtered)"
        con.execute(
            f"CREATE TEMP TABLE narrow AS SELECT _line AS l, {self.place} AS f, {h} AS h, "
            f"CASE WHEN {gone} OR _warned <> '' THEN {parts} END AS note FROM ({self._typed(self.base)})"
        )
        part = "split_part(note, chr(31), {})"
        con.execute(
            f"CREATE TEMP TABLE notes AS SELECT l, f, {part.format(1)} AS broken, "
            f"{part.format(2)} AS stopped, {part.format(3)} AS warned, {part.format(4)} = 'true' AS filtered "
            "FROM narrow WHERE note IS NOT NULL"
        )
        con.execute(
            "CREATE TEMP TABLE gone AS SELECT l, f, broken AS rules FROM notes WHERE broken <> '' OR filtered"
        )
        self._view("good", "gone")

    def _find_rivals(self) -> None:
        """Table `rivals`: places of rows whose key hash is not theirs alone."""
        keys = ", ".join(ident(key) for key in self.step.keys)
        places = "SELECT l, f, h FROM narrow WHERE h IS NOT NULL"
        if self.processed:
            places = f"SELECT _line AS l, {self.place} AS f, hash({keys}) AS h FROM {self.base}"
        twice = f"SELECT h FROM ({places}) GROUP BY h HAVING count(*) > 1"
        found = (
            f"SELECT l, f FROM ({places}) WHERE h IN ({twice})" if keys else "SELECT l, f FROM gone LIMIT 0"
        )
        self.session.con.execute(f"CREATE TEMP TABLE rivals AS {found}")

    def _lift(self) -> None:
        """Views `odd` (broken rows as they were staged) and `rival`, out of one look at the wide rows."""
        con = self.session.con
        wanted = "SELECT l, f, rules FROM gone WHERE rules <> ''"
        if not self.processed:
            wanted += " UNION ALL SELECT l, f, NULL FROM rivals"
        con.execute(
            f"CREATE TEMP TABLE lifted AS SELECT s.*, w.rules FROM {self.staged.relation} s "
            f"JOIN ({wanted}) w ON s._line = w.l AND {self.place} = w.f"
        )
        con.execute("CREATE TEMP VIEW odd AS SELECT * FROM lifted WHERE rules IS NOT NULL")
        if not self.processed:
            con.execute("CREATE TEMP VIEW rival AS SELECT * EXCLUDE (rules) FROM lifted WHERE rules IS NULL")
            return
        con.execute(
            f"CREATE TEMP TABLE rival AS SELECT s.* FROM {self.base} s "
            f"JOIN rivals r ON s._line = r.l AND {self.place} = r.f"
        )

    def _good(self) -> int:
        """Rows that are neither broken nor left out."""
        con = self.session.con
        return count(con, self.base) if self.processed else count(con, "narrow") - count(con, "gone")

    def _view(self, name: str, without: str) -> None:
        """A view of the base without the places listed in `without`."""
        lost = f"SELECT 1 FROM {without} g WHERE g.l = s._line AND g.f = {self.place}"
        any_lost = count(self.session.con, without)
        where = f" WHERE NOT EXISTS ({lost})" if any_lost else ""
        self.session.con.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM {self.base} s{where}")

    def _typed(self, relation: str) -> str:
        """SQL of `relation`, a part of the base, in final types and masks."""
        if self.processed:
            return f"SELECT * FROM {relation}"
        return checked_sql(self.step, self.session.dialect, relation)

    # user code -------------------------------------------------------------------------------------------

    def _python_steps(self, engine: DuckEngine) -> int:
        """Puts good rows through the project's functions; what they refuse is `gone`. Returns drops."""
        con, columns = self.session.con, dict(self.step.columns)
        if self.step.deletes:
            columns["_deleted"] = "boolean"
        listed = ", ".join(ident(name) for name in (*columns, *IDENTITY))
        con.execute(f"CREATE TEMP TABLE stepping AS SELECT {listed} FROM ({self._typed('good')})")
        steps = self.step.spec.steps
        self.base, dropped = run_steps(self.session, steps, engine.project, "stepping", columns)
        self.processed = True
        con.execute(
            f"INSERT INTO gone SELECT _line, {self.place}, string_agg(rule || ';', '' ORDER BY rule) "
            "FROM flagged WHERE severity <> 'warn' GROUP BY ALL"
        )
        self._view("good", "gone")
        return dropped

    # winners ---------------------------------------------------------------------------------------------

    def _deduplicate(self) -> int:
        """View `kept`: one row per key. View `versions`: every distinct row. Returns how many are not kept.

        Only rivals are compared, and those exactly: a hash that two keys share costs time, never a row.
        """
        con = self.session.con
        con.execute(f"CREATE TEMP TABLE contest AS {self._final('rival')}")
        lost = self._losers(self.step.keys) if self.step.keys else "SELECT l, f FROM rivals"
        con.execute(f"CREATE TEMP TABLE losers AS SELECT l, f FROM gone UNION ALL {lost}")
        self._view("kept", "losers")
        if self.step.history:
            same = self._losers(list(self.step.columns))
            con.execute(f"CREATE TEMP TABLE copies AS SELECT l, f FROM gone UNION ALL {same}")
            self._view("versions", "copies")
        return count(con, f"({lost})")

    def _losers(self, keys: Sequence[str]) -> str:
        listed = ", ".join(ident(key) for key in keys)
        return (
            f"SELECT l, f FROM (SELECT _line AS l, {self.place} AS f, "
            f"row_number() OVER (PARTITION BY {listed} ORDER BY {order_by(self.step)}) AS nth "
            "FROM contest) WHERE nth > 1"
        )

    def _final(self, relation: str) -> str:
        """SQL of `relation` with all columns of the silver table."""
        columns = [
            f"e{i}.cipher AS {ident(name)}" if name in self.step.encrypted else f"t.{ident(name)}"
            for i, name in enumerate(self.step.columns)
        ]
        joins = [
            f" LEFT JOIN {ident('cipher_' + name)} e{i} ON e{i}.plain = t.{ident(name)}"
            for i, name in enumerate(self.step.columns)
            if name in self.step.encrypted
        ]
        audit = [f"{self.epoch}::BIGINT AS _epoch" if name == "_epoch" else f"t.{name}" for name in AUDIT]
        deleted = ["t._deleted"] if self.step.deletes else []
        listed = ", ".join([*columns, *audit, *deleted])
        return f"SELECT {listed} FROM ({self._typed(relation)}) t{''.join(joins)}"

    def _frame(self, view: str, rows: int, *, one_per_key: bool) -> DuckFrame:
        columns = dict(self.step.columns) | AUDIT | ({"_deleted": "boolean"} if self.step.deletes else {})
        return DuckFrame(self.session, self._final(view), columns, rows, one_per_key)

    # verdicts --------------------------------------------------------------------------------------------

    def _broken(self, note: str, severity: str) -> dict[str, int]:
        """Rule → rows that broke it, for rules that do not put a row into quarantine by themselves."""
        among = "" if severity == "stop" else " AND broken = ''"
        rules = f"SELECT {note} FROM notes WHERE {note} <> ''{among}"
        if self.processed:
            rules += f" UNION ALL SELECT rule FROM flagged WHERE severity = '{severity}'"
        return names_of(self.session.con, rules)

    def _stops(self) -> list[Check]:
        """Rules with severity `stop` that rows broke."""
        broken = self._broken("stopped", "stop")
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
        for rule, here, there in zip(expected, new, after, strict=True):
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
