"""Real changes of OurAirports through a real MariaDB, while the pipeline is killed and the server crashes."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mariadb_server import MariaDB, mariadb_server, remove
from projects import Cli

FULL = os.environ.get("HEADRACE_PROVE") == "full"
TABLES = ("countries", "regions", "navaids", "frequencies") if FULL else ("countries", "navaids")
KILLS, CRASHES = (50, 5) if FULL else (6, 1)
SEED = int(os.environ.get("HEADRACE_SEED", "20261120"))


def cells(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@dataclass
class Airports:
    """The tables of a database as they were first, and the changes that made them what they were last."""

    folder: Path
    server: MariaDB
    database: str
    done: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list)

    def create(self) -> None:
        with self.server.connect(self.database) as con, con.cursor() as cursor:
            for table in TABLES:
                rows = cells(self.folder / f"{table}_snapshot_first.csv.gz")
                columns = ", ".join(f"`{name}` text" for name in rows[0] if name != "id")
                cursor.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, {columns})")
                marks = ", ".join(["%s"] * len(rows[0]))
                cursor.executemany(
                    f"INSERT INTO {table} VALUES ({marks})", [list(row.values()) for row in rows]
                )

    def transactions(self, chance: random.Random) -> Iterator[list[tuple[str, Mapping[str, Any]]]]:
        """The changes of all tables in the order of each, in transactions of one to thirty."""
        events: list[tuple[str, str, Mapping[str, Any]]] = []
        for table in TABLES:
            with gzip.open(self.folder / f"{table}_changes.jsonl.gz", "rt", encoding="utf-8") as stream:
                events += [(event["ts"], table, event) for event in map(json.loads, stream)]
        events.sort(key=lambda event: (event[0], event[1], event[2]["seq"]))
        at = 0
        while at < len(events):
            size = chance.choice((1, 1, 2, 5, 30))
            yield [(table, event) for _, table, event in events[at : at + size]]
            at += size

    def replay(self, pause: float) -> None:
        """Applies the transactions; one whose server crashes is applied again unless it had committed."""
        try:
            self.server.sql(self.database, "CREATE TABLE applied (n int PRIMARY KEY)")
            for number, group in enumerate(self.transactions(random.Random(SEED))):
                while not self._applied(number, group):
                    time.sleep(0.2)
                time.sleep(pause)
        except BaseException as error:
            self.errors.append(error)
        finally:
            self.done.set()

    def _applied(self, number: int, group: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
        import pymysql

        try:
            with self.server.connect(self.database) as con, con.cursor() as cursor:
                if cursor.execute("SELECT 1 FROM applied WHERE n = %s", (number,)):
                    return True
                con.begin()
                for table, event in group:
                    change(cursor, table, event)
                cursor.execute("INSERT INTO applied VALUES (%s)", (number,))
                con.commit()
        except pymysql.err.OperationalError:
            return False
        return True


def change(cursor: Any, table: str, event: Mapping[str, Any]) -> None:
    after = event["after"]
    if event["op"] == "c":
        names = ", ".join(f"`{name}`" for name in after)
        marks = ", ".join(["%s"] * len(after))
        assert cursor.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(after.values())) == 1
    elif event["op"] == "u":
        names = ", ".join(f"`{name}` = %s" for name in after)
        cursor.execute(f"UPDATE {table} SET {names} WHERE id = %s", [*after.values(), event["id"]])
    else:
        assert cursor.execute(f"DELETE FROM {table} WHERE id = %s", (event["id"],)) == 1


def project(folder: Path, airports: Airports) -> None:
    tables = {}
    for table in TABLES:
        names = list(cells(airports.folder / f"{table}_snapshot_first.csv.gz")[0])
        columns = {name: {"type": "bigint" if name == "id" else "text"} for name in names}
        contract = {"columns": columns, "nulls": []}
        tables[table] = {
            "from": f"world.{table}",
            "keys": ["id"],
            "history": True,
            "contract": contract,
        }
    definition = {
        "name": "airports",
        "sources": {
            "world": {
                "type": "mariadb",
                "dsn": "${WORLD}",
                "tables": list(TABLES),
                "chunk_rows": 4000,
                "batch_bytes": 20_000,
            }
        },
        "tables": tables,
    }
    (folder / "pipeline.yml").write_text(json.dumps(definition))


@pytest.fixture
def server() -> Iterator[MariaDB]:
    """A server of its own: it is going to crash."""
    if os.environ.get("HEADRACE_TEST_MARIADB"):
        pytest.skip("HEADRACE_TEST_MARIADB is somebody else's server, which is not to crash")
    made = mariadb_server()
    yield made
    remove(made)


def test_killed_and_crashed_and_still_the_same(
    tmp_path: Path, shared_data: Callable[[str], Path], server: MariaDB
) -> None:
    airports = Airports(shared_data("cdc_ourairports"), server, server.database())
    airports.create()
    project(tmp_path, airports)
    cli = Cli(tmp_path, {"WORLD": server.dsn(airports.database)})
    chance = random.Random(SEED)
    print(f"HEADRACE_SEED={SEED}")
    cli.run("run")
    replay = threading.Thread(target=airports.replay, args=(0.02 if FULL else 0.01,))
    replay.start()
    kills = crashes = 0
    crash_at = sorted(chance.sample(range(KILLS), CRASHES))
    try:
        while kills < KILLS or not airports.done.is_set():
            process = cli.start("run", "--quiet")
            if kills < KILLS:
                try:
                    process.wait(chance.uniform(0.5, 4.0))
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills += 1
                    if crashes < CRASHES and kills > crash_at[crashes]:
                        crashes += 1
                        server.crash()
                        server.start()
            process.communicate()
    finally:
        replay.join()
    assert not airports.errors, airports.errors
    assert (kills, crashes) == (KILLS, CRASHES)
    cli.run("run")
    assert "0 new" in cli.run("run")
    for table in TABLES:
        wanted = cells(airports.folder / f"{table}_snapshot_last.csv.gz")
        names = list(wanted[0])
        listed = ", ".join(f'"{name}"' for name in names)
        found = cli.rows(f"SELECT {listed} FROM silver.{table} ORDER BY id")
        assert found == sorted((list(row.values()) for row in wanted), key=lambda row: int(row[0])), table
        truth = json.loads((airports.folder / f"{table}_TRUTH.json").read_text())
        history = cli.rows(f"SELECT count(*), count(*) FILTER (_current) FROM silver.{table}_history")
        assert history == [[str(truth["scd2_rows_total"]), str(truth["scd2_open_rows"])]], table
