"""Random work on a real MariaDB: whenever nobody writes, one run makes the target equal to the source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis.stateful import rule
from mariadb_server import MariaDB
from workload import CONTRACTS, Words, Workload, each_kind, run_machine, tables

pytest.importorskip("pymysql")
pytest.importorskip("numpy")

BIG = "case when seq % 3 = 0 then repeat(md5(concat('{seed}', seq)), 90) when seq % 3 = 1 then '' end"
SEQ = "from (select seq from seq_0_to_20000 where seq between {low} and {low} + {count}) i"
WORDS = Words(
    create=(
        "create table plain (id integer primary key, n integer, s text, big longtext)",
        "create table wide (a varchar(5) character set latin1, b integer, v decimal(30,6), big longtext, "
        "primary key (a, b))",
    ),
    insert={
        "plain": f"insert into plain (id, n, s, big) select seq, {{seed}}, 'ß{{seed}}', {BIG} {SEQ}",
        "wide": "insert into wide (a, b, v, big) "
        f"select char(97 + seq % 5), seq, seq + 0.{{seed}}, {BIG} {SEQ}",
    },
    update={
        "plain": [
            "s = md5(concat(s, {seed}))",
            "n = null",
            "big = repeat('{seed}', 3000)",
            "s = '', big = null",
        ],
        "wide": ["v = -v - 1", "v = null", "big = repeat('{seed}', 3000)", "v = 0, big = ''"],
    },
    skip=lambda insert: insert.replace("insert into", "insert ignore into"),
    merge=lambda insert, _, column: f"{insert} on duplicate key update {column} = values({column})",
    rename="update wide set a = char(97 + (ascii(a) - 96) % 5){touch} where b between {low} and {high} "
    "and (select count(*) from (select a, b from wide) w where w.b = wide.b) = 1",
    truncate=lambda tables: [f"truncate {table}" for table in tables.split(", ")],
    added=(
        # An update that changes nothing is in no binlog: values are never the defaults.
        ("text default 'x' first", lambda _: "'y'"),
        ("integer unsigned default 0", str),
        ("enum('one', 'two')", lambda seed: "'one'" if seed % 2 else "null"),
    ),
)


class MariaWorkload(Workload):
    words = WORDS
    mariadb: MariaDB

    def made(self) -> Path:
        self.database = self.mariadb.database()
        root = self.folder / self.database
        root.mkdir()
        return root

    def dropped(self) -> None:
        self.mariadb.sql(None, f"DROP DATABASE {self.database}")

    def write(self) -> None:
        again = "-".join(map(str, self.again.values())) if any(self.again.values()) else ""
        said = f'type: mariadb, dsn: "{self.mariadb.dsn(self.database)}", tables: [plain, wide]'
        said += f', resnapshot: "{again}", chunk_rows: 40, batch_bytes: 100000'
        text = f"name: workload\nsources:\n  my: {{{said}}}{CONTRACTS.format(source='my')}"
        (self.root / "pipeline.yml").write_text(text)

    def run(self, *statements: str) -> None:
        with closing(self.mariadb.connect(self.database)) as con, con.cursor() as cursor:
            con.begin()
            for statement in statements:
                cursor.execute(statement)
            con.commit()

    @contextmanager
    def writer(self) -> Iterator[Any]:
        with closing(self.mariadb.connect(self.database)) as con, con.cursor() as cursor:
            yield cursor.execute

    def source(self, table: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
        cells = ", ".join(f"cast({name} as char)" for name in columns)
        return self.mariadb.sql(self.database, f"select {cells} from {table}")

    @rule()
    def widen_column(self) -> None:
        self.run("alter table plain modify n bigint", f"update plain set n = {2**40} where id < 5")

    @rule(table=tables)
    def rebuild(self, table: str) -> None:
        """Rows are copied, and the server gives the table another number."""
        self.run(f"alter table {table} engine = InnoDB, force")

    @rule()
    def rotate(self) -> None:
        self.run("flush binary logs")

    @rule(table=tables)
    def trade_places(self, table: str) -> None:
        """The table is replaced by a copy under its name, as online schema changes do."""
        self.run(
            f"create table new_{table} like {table}",
            f"insert into new_{table} select * from {table}",
            f"rename table {table} to old_{table}, new_{table} to {table}",
            f"drop table old_{table}",
        )


@pytest.fixture
def bound(mariadb: MariaDB, tmp_path: Path) -> type[MariaWorkload]:
    return type("Bound", (MariaWorkload,), {"mariadb": mariadb, "folder": tmp_path})


def test_each_kind_of_work_by_itself(bound: type[MariaWorkload]) -> None:
    work = bound()
    try:
        each_kind(work, before=lambda t: work.rebuild(table=t), after=lambda t: work.trade_places(table=t))
        work.rotate()
        work.widen_column()
    finally:
        work.teardown()


def test_target_equals_source_at_every_quiet_point(bound: type[MariaWorkload]) -> None:
    run_machine(bound)
