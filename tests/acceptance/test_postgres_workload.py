"""Random work on a real PostgreSQL: whenever nobody writes, one run makes the target equal to the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis.stateful import rule
from workload import CONTRACTS, Words, Workload, each_kind, run_machine, tables

pytest.importorskip("psycopg")
pytest.importorskip("numpy")

from services import Database, Postgres

from headrace.sources import postgres as source

BIG = "case when i % 3 = 0 then repeat(md5('{seed}' || i), 90) when i % 3 = 1 then '' end"
WORDS = Words(
    create=(
        "create table plain (id integer primary key, n integer, s text, big text)",
        "create table wide (a text, b integer, v numeric, big text, primary key (a, b))",
        # Out of line and not compressed, so that an update of another column does not send it.
        "alter table plain alter big set storage external",
        "alter table wide alter big set storage external",
        "alter table wide replica identity full",
    ),
    insert={
        "plain": f"insert into plain (id, n, s, big) select i, {{seed}}, 's{{seed}}', {BIG} "
        "from generate_series({low}, {low} + {count}) i",
        "wide": f"insert into wide (a, b, v, big) select chr(97 + i % 5), i, i + 0.{{seed}}, {BIG} "
        "from generate_series({low}, {low} + {count}) i",
    },
    update={
        "plain": ["s = md5(s || {seed})", "n = null", "big = repeat('{seed}', 3000)", "s = '', big = null"],
        "wide": ["v = v + 1", "v = 'NaN'", "big = repeat('{seed}', 3000)", "v = null, big = ''"],
    },
    skip="{} on conflict do nothing".format,
    merge=lambda insert, table, column: (
        f"{insert} on conflict ({'id' if table == 'plain' else 'a, b'}) do update "
        f"set {column} = excluded.{column}"
    ),
    rename="update wide set a = chr(97 + (ascii(a) - 96) % 5){touch} where b between {low} and {high} "
    "and not exists (select from wide w where w.b = wide.b and w.a <> wide.a)",
    truncate=lambda tables: [f"truncate {tables}"],
    added=(
        ("text default 'x'", lambda _: "'x'"),
        ("integer default 7", str),
        ("timestamptz", lambda _: "'2026-01-01 00:00+00'"),
    ),
)


class PostgresWorkload(Workload):
    words = WORDS
    postgres: Postgres

    def made(self) -> Path:
        self.database: Database = self.postgres.database()
        self.full = True
        root = self.folder / self.database.name
        root.mkdir()
        return root

    def dropped(self) -> None:
        self.postgres.drop(self.database)

    def write(self) -> None:
        again = ", ".join(f"{name}: {number}" for name, number in self.again.items() if number)
        said = f'type: postgres, dsn: "{self.database.dsn}", tables: [plain, wide], resnapshot: {{{again}}}'
        text = f"name: workload\nsources:\n  pg: {{{said}}}{CONTRACTS.format(source='pg')}"
        (self.root / "pipeline.yml").write_text(text)

    def run(self, *statements: str) -> None:
        with self.database.connect() as con:
            for statement in statements:
                con.execute(statement)

    @contextmanager
    def writer(self) -> Iterator[Any]:
        with self.database.connect(autocommit=True) as con:
            yield con.execute

    def source(self, table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        cells = ", ".join(f"{name}::text" for name in columns)
        return self.database.sql("set timezone = 'UTC'", f"select {cells} from {table}")

    def touch(self, table: str) -> str:
        """Where the old row is not sent, a large value that stays would be unknown under the new key."""
        return "" if table == "wide" and self.full else ", big = big || ''"

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


@pytest.fixture
def bound(postgres: Postgres, tmp_path: Path) -> type[PostgresWorkload]:
    return type("Bound", (PostgresWorkload,), {"postgres": postgres, "folder": tmp_path})


def test_each_kind_of_work_by_itself(bound: type[PostgresWorkload]) -> None:
    work = bound()
    try:
        each_kind(work, before=lambda _: work.change_identity(), after=lambda t: work.move_file(table=t))
        work.widen_column()
    finally:
        work.teardown()


def test_what_changes_between_slot_and_snapshot_is_of_no_account(
    bound: type[PostgresWorkload], monkeypatch: pytest.MonkeyPatch
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


def test_target_equals_source_at_every_quiet_point(bound: type[PostgresWorkload]) -> None:
    run_machine(bound)
