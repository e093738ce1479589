"""Random work on a database that the pipeline follows: whenever nobody writes, one run makes both equal.

What writers, owners and the pipeline do is here; a database's own SQL, and what only its users can do, is in
its own test. Short in `make test`; 1,000 steps with HEADRACE_PROVE=full (`make prove`).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from projects import go

FULL = os.environ.get("HEADRACE_PROVE") == "full"
EXAMPLES, STEPS = (25, 40) if FULL else (3, 30)
KEYS = {"plain": ("id",), "wide": ("a", "b")}
COLUMNS = {"plain": ["id", "n", "s", "big"], "wide": ["a", "b", "v", "big"]}
ID = {"plain": "id", "wide": "b"}
CONTRACTS = """
tables:
  plain:
    from: {source}.plain
    keys: [id]
    contract:
      nulls: []
      columns: {{id: {{type: integer, required: true}}, n: {{type: bigint}}, s: {{}}, big: {{}}}}
  wide:
    from: {source}.wide
    keys: [a, b]
    contract:
      nulls: []
      columns: {{a: {{required: true}}, b: {{type: integer, required: true}}, v: {{}}, big: {{}}}}
"""

tables = st.sampled_from(["plain", "wide"])
seeds = st.integers(1, 9999)
lows = st.integers(0, 120)
counts = st.integers(0, 30)


@dataclass(frozen=True)
class Words:
    """The database's own SQL for what all of them can do."""

    create: Sequence[str]
    insert: Mapping[str, str]
    """Rows `low` to `low + count` of a table, whose keys must be free."""
    update: Mapping[str, Sequence[str]]
    """Four ways to change a row; the first sets one column."""
    skip: Callable[[str], str]
    """An insert that leaves rows alone whose key is taken."""
    merge: Callable[[str, str, str], str]
    """(insert, table, column): an insert that sets the column of rows whose key is taken."""
    rename: str
    """`a` of `wide` becomes the next letter, where that key is free."""
    truncate: Callable[[str], Sequence[str]]
    added: Sequence[tuple[str, Callable[[int], str]]]
    """Three types of new columns, and a value of each."""


class Workload(RuleBasedStateMachine):
    """What writers do; `settle` compares. `words` and `folder` come with the test."""

    words: Words
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.root = self.made()
        self.again = dict.fromkeys(KEYS, 0)
        self.added: dict[str, list[str]] = {name: [] for name in KEYS}
        self.names = 0
        for statement in self.words.create:
            self.run(statement)
        self.write()

    # What a database brings

    def made(self) -> Path:
        """Makes the database, and an empty folder for the project."""
        raise NotImplementedError

    def dropped(self) -> None:
        raise NotImplementedError

    def write(self) -> None:
        """Writes the project's definition."""
        raise NotImplementedError

    def run(self, *statements: str) -> None:
        """One transaction."""
        raise NotImplementedError

    def writer(self) -> Any:
        """A connection in autocommit mode, to be closed, and its way to execute a statement."""
        raise NotImplementedError

    def source(self, table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        """Rows as text, spelt as silver has them."""
        raise NotImplementedError

    def touch(self, table: str) -> str:
        """What an update of the table's keys must set beside, so that large values are sent."""
        assert table in KEYS
        return ""

    def insertion(self, table: str, seed: int, low: int, count: int) -> str:
        return self.words.insert[table].format(seed=seed, low=low, count=count)

    # What writers do

    @initialize(seed=seeds)
    def begin(self, seed: int) -> None:
        self.run(*(self.insertion(name, seed, 0, 50) for name in KEYS))

    @rule(table=tables, seed=seeds, low=lows, count=counts, update=st.booleans())
    def insert(self, table: str, seed: int, low: int, count: int, update: bool) -> None:
        column = self.words.update[table][0].split(" = ")[0]
        insert = self.insertion(table, seed, low, count)
        self.run(self.words.merge(insert, table, column) if update else self.words.skip(insert))

    @rule(table=tables, what=st.integers(0, 3), seed=seeds, low=lows, count=counts)
    def update(self, table: str, what: int, seed: int, low: int, count: int) -> None:
        change = self.words.update[table][what].format(seed=seed)
        self.run(f"update {table} set {change} where {ID[table]} between {low} and {low + count}")

    @rule(table=tables, low=lows, count=counts)
    def delete(self, table: str, low: int, count: int) -> None:
        self.run(f"delete from {table} where {ID[table]} between {low} and {low + count}")

    @rule(table=tables, low=lows, count=counts)
    def swap(self, table: str, low: int, count: int) -> None:
        """Keys are mirrored in their range, by way of keys that nobody else has."""
        key, touch = ID[table], self.touch(table)
        aside = f"update {table} set {key} = -1 - {key}{touch} where {key} between {low} and {low + count}"
        back = f"update {table} set {key} = {2 * low + count + 1} + {key}{touch} where {key} < 0"
        self.run(aside, back)

    @rule(low=lows, count=counts)
    def rename(self, low: int, count: int) -> None:
        """A part of a composite key changes."""
        touch = self.touch("wide")
        self.run(self.words.rename.format(low=low, high=low + count, touch=touch))

    @rule(tables=st.sampled_from(["plain", "wide", "plain, wide"]), seed=seeds, refill=st.booleans())
    def truncate(self, tables: str, seed: int, refill: bool) -> None:
        filling = [self.insertion(name, seed, 0, 20) for name in tables.split(", ")]
        self.run(*self.words.truncate(tables), *(filling if refill else []))

    @rule(table=tables, seed=seeds, low=lows, count=counts)
    def rewrite(self, table: str, seed: int, low: int, count: int) -> None:
        """The same keys come, change, go and come again, in one transaction."""
        where = f"where {ID[table]} between {low} and {low + count}"
        insert = self.insertion(table, seed, low, count)
        change = f"update {table} set {self.words.update[table][0].format(seed=seed)} {where}"
        self.run(f"delete from {table} {where}", insert, change, f"delete from {table} {where}", insert)

    @rule(seed=seeds)
    def large_transaction(self, seed: int) -> None:
        self.run(
            self.words.skip(self.insertion("plain", seed, 10_000, 3_000)),
            f"update plain set n = {seed} where id >= 10000",
            "delete from plain where id >= 10000 and id % 100 > 2",
            self.words.skip(self.insertion("wide", seed, 10_000, 1_000)),
            "update wide set v = v * 2 where b >= 10000",
            "delete from wide where b >= 10050",
        )

    @rule(table=tables, seed=seeds, low=lows)
    def roll_back(self, table: str, seed: int, low: int) -> None:
        """A part of one transaction, and all of another."""
        insert = self.words.skip(self.insertion(table, seed, low, 9))
        gone = f"delete from {table} where {ID[table]} < {low}"
        self.run("savepoint one", gone, "rollback to one", insert, "savepoint two", insert)
        self.run(gone, "rollback")

    # What owners do

    @rule(table=tables, seed=seeds)
    def add_column(self, table: str, seed: int) -> None:
        """The rows are updated as well: that they have the default from now on is told by no change."""
        self.names += 1
        name = f"extra_{self.names}"
        self.added[table].append(name)
        kind, value = self.words.added[seed % 3]
        self.run(f"alter table {table} add {name} {kind}", f"update {table} set {name} = {value(seed)}")

    @rule(table=tables)
    def drop_column(self, table: str) -> None:
        if self.added[table]:
            self.run(f"alter table {table} drop {self.added[table].pop(0)}")

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
                with self.writer() as execute:
                    while not stop.is_set() or number < 10:
                        number += 1
                        for name in KEYS:
                            insert = self.insertion(name, seed, (seed * number) % 120, 3)
                            execute(self.words.skip(insert))
                            change = self.words.update[name][number % 4].format(seed=number)
                            execute(f"update {name} set {change} where {ID[name]} % 7 = {number % 7}")
                            execute(f"delete from {name} where {ID[name]} % 31 = {number % 31}")
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
        expected = set(self.source(table, columns))
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
            self.dropped()
            shutil.rmtree(self.root)


def each_kind(work: Workload, *, before: Callable[[str], None], after: Callable[[str], None]) -> None:
    """Every rule at least once, in an order in which each finds work to do; `before` and `after` are the
    database's own, by table, at a place in the middle and at the end."""
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
        before(table)
        work.drop_column(table=table)
        work.update(table=table, what=1, seed=8, low=0, count=60)
        work.roll_back(table=table, seed=9, low=20)
        work.rename(low=0, count=60)
        after(table)
        work.settle()
    work.truncate(tables="plain, wide", seed=10, refill=True)
    work.run_while_others_write(seed=11)


def run_machine(machine: type[Workload]) -> None:
    run_state_machine_as_test(
        machine,
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
