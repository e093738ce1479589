"""Five years of changes of real data through a real PostgreSQL, while pipeline and server are killed.

A short form belongs to `make test`; in full with HEADRACE_PROVE=full (`make prove`).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from projects import go, rows
from psycopg import sql
from services import Database, Postgres, postgres_server, remove

from headrace.run.report import RunReport

FULL = os.environ.get("HEADRACE_PROVE") == "full"
TABLES = ("countries", "frequencies", "navaids", "regions")
SEED = 20211102


@dataclass
class Airports:
    """The data set: rows of the first and the last dump, and what happened in between."""

    folder: Path
    columns: dict[str, list[str]] = field(default_factory=dict)

    def dump(self, name: str) -> list[list[str]]:
        raw = (self.folder / name).read_bytes()
        text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
        return list(csv.reader(io.StringIO(text)))

    def first(self, table: str) -> list[list[str]]:
        head, *body = self.dump(f"{table}_snapshot_first.csv.gz")
        self.columns[table] = head
        return body

    def last(self, table: str) -> list[tuple[str, ...]]:
        head, *body = self.dump(f"{table}_snapshot_last.csv.gz")
        order = sorted(range(len(head)), key=lambda place: head[place])
        return sorted(tuple(row[place] for place in order) for row in body)

    def events(self) -> list[dict[str, Any]]:
        """Of all tables, in the order of their time."""
        found = []
        for table in TABLES:
            lines = gzip.decompress((self.folder / f"{table}_changes.jsonl.gz").read_bytes()).splitlines()
            found += [json.loads(line) for line in lines]
        return sorted(found, key=lambda event: (event["ts"], event["table"], event["seq"]))

    def truth(self, table: str) -> dict[str, Any]:
        truth: dict[str, Any] = json.loads((self.folder / f"{table}_TRUTH.json").read_text())
        return truth


@pytest.fixture
def airports(shared_data: Callable[[str], Path]) -> Airports:
    return Airports(shared_data("cdc_ourairports"))


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server of our own: it is crashed on the way."""
    made = postgres_server()
    yield made
    remove(made)


def create(con: psycopg.Connection[Any], airports: Airports) -> None:
    for table in TABLES:
        body = airports.first(table)
        head = airports.columns[table]
        kinds = [
            sql.SQL("{} bigint primary key" if c == "id" else "{} text").format(sql.Identifier(c))
            for c in head
        ]
        con.execute(sql.SQL("create table {} ({})").format(sql.Identifier(table), sql.SQL(", ").join(kinds)))
        with con.cursor().copy(sql.SQL("copy {} from stdin").format(sql.Identifier(table))) as copy:
            for row in body:
                copy.write_row(row)
    con.execute("create table applied (n int not null)")
    con.execute("insert into applied values (0)")


def apply(con: psycopg.Connection[Any], event: Mapping[str, Any]) -> None:
    """One change event as a statement."""
    table, after = sql.Identifier(event["table"]), event["after"]
    if event["op"] == "c":
        names = sql.SQL(", ").join(map(sql.Identifier, after))
        marks = sql.SQL(", ").join([sql.Placeholder()] * len(after))
        con.execute(
            sql.SQL("insert into {} ({}) values ({})").format(table, names, marks), list(after.values())
        )
    elif event["op"] == "u":
        pairs = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(c)) for c in after)
        done = con.execute(
            sql.SQL("update {} set {} where id = %s").format(table, pairs), [*after.values(), event["id"]]
        )
        assert done.rowcount == 1
    else:
        assert con.execute(sql.SQL("delete from {} where id = %s").format(table), [event["id"]]).rowcount == 1


@dataclass
class Writer:
    """Applies events in transactions of 1 to 40, up to `limit`; goes on where it was after a crash."""

    dsn: str
    events: Sequence[Mapping[str, Any]]
    limit: int = 0
    failed: BaseException | None = None
    reconnects: int = 0
    _stop: bool = False

    def run(self) -> None:
        try:
            while not self._stop:
                try:
                    with psycopg.connect(self.dsn, autocommit=True) as con:
                        self._apply(con)
                except psycopg.OperationalError:
                    self.reconnects += 1
                    time.sleep(0.1)
        except BaseException as error:
            self.failed = error

    def _apply(self, con: psycopg.Connection[Any]) -> None:
        chance = random.Random(SEED)
        while not self._stop:
            row = con.execute("select n from applied").fetchone()
            assert row is not None
            at = int(row[0])
            upto = min(at + chance.choice([1, 1, 2, 5, 40]), self.limit)
            if upto <= at:
                time.sleep(0.01)
                continue
            with con.transaction():
                for event in self.events[at:upto]:
                    apply(con, event)
                con.execute("update applied set n = %s", [upto])
            time.sleep(chance.random() * 0.01)

    def stop(self) -> None:
        self._stop = True


def pipeline(root: Path, airports: Airports, *, mode: str = "cdc", extra: str = "") -> None:
    tables = []
    for table in TABLES:
        columns = "".join(
            f"        {c}: {{type: {'bigint, required: true' if c == 'id' else 'text'}}}\n"
            for c in airports.columns[table]
        )
        more = "    history: true\n    changes: {}\n" if mode == "cdc" else ""
        tables.append(
            f"  {table}:\n    from: pg.{table}\n    keys: [id]\n{more}"
            f"    contract:\n      nulls: []\n      columns:\n{columns}"
        )
    root.mkdir(exist_ok=True)
    (root / "pipeline.yml").write_text(
        "name: airports\nsources:\n"
        f"  pg: {{type: postgres, dsn: '${{PG_DSN}}', tables: [{', '.join(TABLES)}], mode: {mode}{extra}}}\n"
        f"tables:\n{''.join(tables)}"
    )


def silver(root: Path, table: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Live rows as texts, columns in the order of their names; NULL and the empty text are kept apart."""
    import duckdb
    from deltalake import DeltaTable

    files = DeltaTable(str(root / "lake" / "silver" / table)).file_uris()
    names = ", ".join(f'"{c}"::varchar' for c in sorted(columns))
    described = duckdb.execute(
        "describe select * from read_parquet(?, union_by_name=true)", [files]
    ).fetchall()
    live = "not _deleted" if "_deleted" in {row[0] for row in described} else "true"
    query = f"select {names} from read_parquet(?, union_by_name=true) where {live}"
    return sorted(duckdb.execute(query, [files]).fetchall())


def settle(root: Path) -> RunReport:
    """Runs until nothing is new."""
    for _ in range(6):
        report = go(root)
        assert report.error is None, report
        assert not [source for source in report.sources if source.error], report
        if not any(source.new_files for source in report.sources):
            return report
    raise AssertionError("every run finds something new")


def test_the_source_of_truth_survives_kills_of_pipeline_and_server(
    airports: Airports, server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills, crashes = (50, 6) if FULL else (4, 1)
    chance = random.Random(SEED)
    database = server.database()
    monkeypatch.setenv("PG_DSN", database.dsn)
    with database.connect(autocommit=True) as con:
        create(con, airports)
    pipeline(tmp_path, airports, extra=", chunk_mb: 1")
    for _ in range(kills // 2):  # while the first snapshot is taken and refined
        _killed(_start(tmp_path), chance.uniform(0.4, 2.5))
    settle(tmp_path)
    writer = Writer(database.dsn, airports.events())
    thread = threading.Thread(target=writer.run)
    thread.start()
    try:
        killed = _hurt(server, tmp_path, writer, kills=kills, crashes=crashes, chance=chance)
        writer.limit = len(writer.events)
        _wait_for(database, len(writer.events), writer)
    finally:
        writer.stop()
        thread.join()
    assert writer.failed is None
    settle(tmp_path)
    assert killed >= kills
    assert writer.reconnects >= crashes
    for table in TABLES:
        assert silver(tmp_path, table, airports.columns[table]) == airports.last(table), table
        truth = airports.truth(table)
        versions = len(rows(tmp_path, f"silver.{table}_history"))
        assert versions == truth["scd2_rows_total"] + truth["ops"].get("d", 0), table


def _hurt(
    server: Postgres, root: Path, writer: Writer, *, kills: int, crashes: int, chance: random.Random
) -> int:
    """Kills runs at random moments, and the server in some of them, while the writer writes on."""
    killed = tries = 0
    crash_at = set(chance.sample(range(kills), crashes))
    while killed < kills:
        tries += 1
        assert tries < kills * 6, f"only {killed} of {tries} runs could be killed"
        writer.limit = len(writer.events) * (killed + 1) // kills
        process = _start(root)
        if killed in crash_at:
            crash_at.discard(killed)
            time.sleep(chance.uniform(0.3, 2.0))
            server.restart("immediate")
        killed += _killed(process, chance.uniform(0.5, 3.5))
    return killed


def _start(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "headrace", "run"],
        cwd=root, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _killed(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it was still at work after `seconds`; then it is killed."""
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return True
    finally:
        process.wait()


def _wait_for(database: Database, count: int, writer: Writer) -> None:
    until = time.monotonic() + 120
    while database.sql("select n from applied") != [(count,)]:
        assert writer.failed is None
        assert time.monotonic() < until, "the writer does not get on"
        time.sleep(0.1)


@pytest.mark.parametrize("bad", ["2025-01-31_2f3ee01.csv.gz", "2022-09-13_004c250.csv"])
def test_a_dump_without_rows_deletes_nothing(
    airports: Airports, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    monkeypatch.setenv("PG_DSN", database.dsn)
    with database.connect(autocommit=True) as con:
        create(con, airports)
        pipeline(tmp_path, airports, mode="snapshot")
        settle(tmp_path)
        before = {table: silver(tmp_path, table, airports.columns[table]) for table in TABLES}
        struck = [table for table in TABLES if (airports.folder / f"{table}_BAD_{bad}").exists()]
        for table in struck:
            con.execute(sql.SQL("truncate {}").format(sql.Identifier(table)))
            assert (
                len(airports.dump(f"{table}_BAD_{bad}")) <= 1
            )  # a header at most: that is what was published
    report = go(tmp_path)
    assert struck
    refused = [name for source in report.sources for name, _ in source.refused]
    assert refused == [f"public.{table}" for table in struck]
    assert {table: silver(tmp_path, table, airports.columns[table]) for table in TABLES} == before
