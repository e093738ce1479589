"""Random work on a real PostgreSQL: whenever nobody writes, one run makes the target equal to the source.

Short in `make test`; 1,000 steps with HEADRACE_PROVE=full (`make prove`).
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from projects import go

pytest.importorskip("psycopg")
pytest.importorskip("numpy")

from services import Database, Postgres

from headrace.sources import postgres as source

FULL = os.environ.get("HEADRACE_PROVE") == "full"
EXAMPLES, STEPS = (25, 40) if FULL else (3, 30)
KEYS = {"plain": ("id",), "wide": ("a", "b")}
COLUMNS = {"plain": ["id", "n", "s", "big"], "wide": ["a", "b", "v", "big"]}

CREATE = (
    "create table plain (id integer primary key, n integer, s text, big text)",
    "create table wide (a text, b integer, v numeric, big text, primary key (a, b))",
    # Out of line and not compressed, so that an update of another column does not send it.
    "alter table plain alter big set storage external",
    "alter table wide alter big set storage external",
    "alter table wide replica identity full",
)
BIG = "case when i % 3 = 0 then repeat(md5('{seed}' || i), 90) when i % 3 = 1 then '' end"
INSERT = {
    "plain": f"insert into plain (id, n, s, big) select i, {{seed}}, 's{{seed}}', {BIG} "
    "from generate_series({low}, {low} + {count}) i",
    "wide": f"insert into wide (a, b, v, big) select chr(97 + i % 5), i, i + 0.{{seed}}, {BIG} "
    "from generate_series({low}, {low} + {count}) i",
}
ID = {"plain": "id", "wide": "b"}
UPDATE = {
    "plain": ["s = md5(s || {seed})", "n = null", "big = repeat('{seed}', 3000)", "s = '', big = null"],
    "wide": ["v = v + 1", "v = 'NaN'", "big = repeat('{seed}', 3000)", "v = null, big = ''"],
}

tables = st.sampled_from(["plain", "wide"])
seeds = st.integers(1, 9999)
lows = st.integers(0, 120)
counts = st.integers(0, 30)


class Workload(RuleBasedStateMachine):
    """What writers do; `checks` compares. `postgres` and `folder` come with the test."""

    postgres: Postgres
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.database: Database = self.postgres.database()
        self.root = self.folder / self.database.name
        self.root.mkdir()
        self.again = dict.fromkeys(KEYS, 0)
        self.added: dict[str, list[str]] = {name: [] for name in KEYS}
        self.names = 0
        self.full = True
        self.database.sql(*CREATE)
        self.write()

    def write(self) -> None:
        again = ", ".join(f"{name}: {number}" for name, number in self.again.items() if number)
        (self.root / "pipeline.yml").write_text(
            f"""
name: workload
sources:
  pg: {{type: postgres, dsn: "{self.database.dsn}", tables: [plain, wide], resnapshot: {{{again}}}}}
tables:
  plain:
    from: pg.plain
    keys: [id]
    contract:
      nulls: []
      columns: {{id: {{type: integer, required: true}}, n: {{type: bigint}}, s: {{}}, big: {{}}}}
  wide:
    from: pg.wide
    keys: [a, b]
    contract:
      nulls: []
      columns: {{a: {{required: true}}, b: {{type: integer, required: true}}, v: {{}}, big: {{}}}}
"""
        )

    def run(self, *statements: str) -> None:
        """One transaction."""
        with self.database.connect() as con:
            for statement in statements:
                con.execute(statement)

    # What writers do

    @initialize(seed=seeds)
    def begin(self, seed: int) -> None:
        self.run(*(INSERT[name].format(seed=seed, low=0, count=50) for name in KEYS))

    @rule(table=tables, seed=seeds, low=lows, count=counts, update=st.booleans())
    def insert(self, table: str, seed: int, low: int, count: int, update: bool) -> None:
        column = UPDATE[table][0].split(" = ")[0]
        instead = f"({', '.join(KEYS[table])}) do update set {column} = excluded.{column}"
        conflict = instead if update else "do nothing"
        self.run(f"{INSERT[table].format(seed=seed, low=low, count=count)} on conflict {conflict}")

    @rule(table=tables, what=st.integers(0, 3), seed=seeds, low=lows, count=counts)
    def update(self, table: str, what: int, seed: int, low: int, count: int) -> None:
        change = UPDATE[table][what].format(seed=seed)
        self.run(f"update {table} set {change} where {ID[table]} between {low} and {low + count}")

    @rule(table=tables, low=lows, count=counts)
    def delete(self, table: str, low: int, count: int) -> None:
        self.run(f"delete from {table} where {ID[table]} between {low} and {low + count}")

    @rule(table=tables, low=lows, count=counts)
    def swap(self, table: str, low: int, count: int) -> None:
        """Keys are mirrored in their range, by way of keys that nobody else has."""
        key = ID[table]
        # Where the old row is not sent, a large value that stays would be unknown under the new key.
        touch = "" if table == "wide" and self.full else ", big = big || ''"
        aside = f"update {table} set {key} = -1 - {key}{touch} where {key} between {low} and {low + count}"
        back = f"update {table} set {key} = {2 * low + count + 1} + {key}{touch} where {key} < 0"
        self.run(aside, back)

    @rule(low=lows, count=counts)
    def rename(self, low: int, count: int) -> None:
        """A part of a composite key changes."""
        touch = "" if self.full else ", big = big || ''"
        alone = "not exists (select from wide w where w.b = wide.b and w.a <> wide.a)"
        where = f"b between {low} and {low + count} and {alone}"
        self.run(f"update wide set a = chr(97 + (ascii(a) - 96) % 5){touch} where {where}")

    @rule(tables=st.sampled_from(["plain", "wide", "plain, wide"]), seed=seeds, refill=st.booleans())
    def truncate(self, tables: str, seed: int, refill: bool) -> None:
        filling = [INSERT[name].format(seed=seed, low=0, count=20) for name in tables.split(", ")]
        self.run(f"truncate {tables}", *(filling if refill else []))

    @rule(table=tables, seed=seeds, low=lows, count=counts)
    def rewrite(self, table: str, seed: int, low: int, count: int) -> None:
        """The same keys come, change, go and come again, in one transaction."""
        where = f"where {ID[table]} between {low} and {low + count}"
        insert = INSERT[table].format(seed=seed, low=low, count=count)
        change = f"update {table} set {UPDATE[table][0].format(seed=seed)} {where}"
        self.run(f"delete from {table} {where}", insert, change, f"delete from {table} {where}", insert)

    @rule(seed=seeds)
    def large_transaction(self, seed: int) -> None:
        self.run(
            INSERT["plain"].format(seed=seed, low=10_000, count=3_000) + " on conflict do nothing",
            f"update plain set n = {seed} where id >= 10000",
            "delete from plain where id >= 10000 and id % 100 > 2",
            INSERT["wide"].format(seed=seed, low=10_000, count=1_000) + " on conflict do nothing",
            "update wide set v = v * 2 where b >= 10000",
            "delete from wide where b >= 10050",
        )

    @rule(table=tables, seed=seeds, low=lows)
    def roll_back(self, table: str, seed: int, low: int) -> None:
        """A part of one transaction, and all of another."""
        insert = f"{INSERT[table].format(seed=seed, low=low, count=9)} on conflict do nothing"
        gone = f"delete from {table} where {ID[table]} < {low}"
        self.run("savepoint one", gone, "rollback to one", insert, "savepoint two", insert, "release two")
        self.run(gone, "rollback")

    # What owners do

    @rule(table=tables, seed=seeds)
    def add_column(self, table: str, seed: int) -> None:
        """The rows are updated as well: that they have the default from now on is told by no change."""
        self.names += 1
        name = f"extra_{self.names}"
        self.added[table].append(name)
        kind = ["text", "integer", "timestamptz"][seed % 3]
        value = ["'x'", str(seed), "'2026-01-01 00:00+00'"][seed % 3]
        self.run(
            f"alter table {table} add {name} {kind} default {value}", f"update {table} set {name} = {value}"
        )

    @rule(table=tables)
    def drop_column(self, table: str) -> None:
        if self.added[table]:
            self.run(f"alter table {table} drop {self.added[table].pop(0)}")

    @rule()
    def widen_column(self) -> None:
        self.run("alter table plain alter n type bigint", f"update plain set n = {2**40} where id < 5")

    @rule()
    def change_identity(self) -> None:
        self.full = not self.full
        self.run(f"alter table wide replica identity {'full' if self.full else 'default'}")

    @rule(table=tables)
    def move_file(self, table: str) -> None:
        """Rows get other places in another file."""
        self.database.sql(f"vacuum full {table}")

    # What the pipeline does

    @rule(table=tables)
    def snapshot_again(self, table: str) -> None:
        self.again[table] += 1
        self.write()

    @rule()
    def settle(self) -> None:
        report = go(self.root)
        assert report.status == "success", report
        for name in KEYS:
            self.compare(name)

    @rule(seed=seeds)
    def run_while_others_write(self, seed: int) -> None:
        stop, failed = threading.Event(), []

        def write() -> None:
            number = 0
            try:
                with self.database.connect(autocommit=True) as con:
                    while not stop.is_set() or number < 10:
                        number += 1
                        for name in KEYS:
                            low = (seed * number) % 120
                            insert = INSERT[name].format(seed=seed, low=low, count=3)
                            con.execute(f"{insert} on conflict do nothing")
                            change = UPDATE[name][number % 4].format(seed=number)
                            con.execute(f"update {name} set {change} where {ID[name]} % 7 = {number % 7}")
                            con.execute(f"delete from {name} where {ID[name]} % 31 = {number % 31}")
            except BaseException as error:
                failed.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert go(self.root).status == "success"
        finally:
            stop.set()
            writer.join()
        assert not failed, failed[0]

    def compare(self, table: str) -> None:
        columns = [*COLUMNS[table], *self.added[table]]
        cells = ", ".join(f"{name}::text" for name in columns)
        expected = set(self.database.sql("set timezone = 'UTC'", f"select {cells} from {table}"))
        found = self.silver(table, columns)
        assert len(found) == len(set(found))
        brief = [[str(cell)[:40] for cell in row] for row in [*(expected - {*found}), *({*found} - expected)]]
        assert set(found) == expected, sorted(brief)[:10]
        assert self.quarantined(table) == []

    def silver(self, table: str, columns: list[str]) -> list[tuple[Any, ...]]:
        files = DeltaTable(str(self.root / "lake" / "silver" / table)).file_uris()
        if not files:
            return []
        with duckdb.connect() as con:
            query = "from read_parquet(?, union_by_name = true)"
            there = {row[0] for row in con.execute(f"describe {query}", [files]).fetchall()}
            # A column that has been added and of which no row was ever seen is not in silver yet.
            cells = [f'"{name}"::varchar' if name in there else "null" for name in columns]
            return con.execute(f"select {', '.join(cells)} {query} where not _deleted", [files]).fetchall()

    def quarantined(self, table: str) -> list[tuple[Any, ...]]:
        folder = self.root / "lake" / "quarantine" / table
        files = DeltaTable(str(folder)).file_uris() if folder.exists() else []
        return duckdb.execute("from read_parquet(?)", [files]).fetchall() if files else []

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.postgres.drop(self.database)
            shutil.rmtree(self.root)


@pytest.fixture
def bound(postgres: Postgres, tmp_path: Path) -> type[Workload]:
    return type("Bound", (Workload,), {"postgres": postgres, "folder": tmp_path})


def test_each_kind_of_work_by_itself(bound: type[Workload]) -> None:
    work = bound()
    try:
        work.begin(seed=1)
        work.settle()
        work.large_transaction(seed=2)
        work.settle()
        for table in KEYS:
            work.insert(table=table, seed=3, low=40, count=20, update=True)
            for what in range(4):
                work.update(table=table, what=what, seed=4, low=12 * what, count=15)
            work.swap(table=table, low=10, count=9)
            work.settle()
            work.snapshot_again(table=table)
            work.delete(table=table, low=30, count=5)
            work.rewrite(table=table, seed=5, low=35, count=9)
            work.settle()
            work.update(table=table, what=0, seed=6, low=0, count=90)
            work.add_column(table=table, seed=7)
            work.settle()
            work.change_identity()
            work.drop_column(table=table)
            work.update(table=table, what=1, seed=8, low=0, count=60)
            work.roll_back(table=table, seed=9, low=20)
            work.rename(low=0, count=60)
            work.move_file(table=table)
            work.settle()
        work.widen_column()
        work.truncate(tables="plain, wide", seed=10, refill=True)
        work.run_while_others_write(seed=11)
    finally:
        work.teardown()


def test_what_changes_between_slot_and_snapshot_is_of_no_account(
    bound: type[Workload], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream tells such a change without its large values; the snapshot, which is later, has them."""
    work = bound()
    real = source.consistent_snapshot

    def late(*arguments: Any) -> Any:
        work.run("update plain set n = 77", "delete from plain where id = 7", "update wide set v = 7")
        return real(*arguments)

    try:
        work.begin(seed=1)
        monkeypatch.setattr(source, "consistent_snapshot", late)
        work.settle()
    finally:
        monkeypatch.undo()
        work.teardown()


def test_target_equals_source_at_every_quiet_point(bound: type[Workload]) -> None:
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
