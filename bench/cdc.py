"""The drain of a backlog of changes: how near Headrace comes to a reader that only receives.

    python bench/cdc.py [--changes 1000000] [--rows 100000] [--runs 1]

All read the same backlog of inserts, updates and deletes in transactions of 1,000 rows, each from a slot of
its own: `pg_recvlogical` into a file that keeps nothing; a bare reader in Python that receives and
discards; one that decodes message by message and keeps nothing; one that also keeps the newest row of each
key; Headrace as far as these go: it lands the messages durably and decodes them; and `headrace run`, which
also checks them and merges them into silver. Then the decoder by itself, on the objects in bronze.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from database import CONTRACT, HERE, ROW, Database, Measure, create, drains, measure, server

from headrace.run.land import land
from headrace.run.opened import open_catalog, open_storage
from headrace.run.report import silent
from headrace.sources.pgoutput import decode
from headrace.spec.load import load
from headrace.store.records import LandLog
from headrace.store.storage import LocalStorage

PIPELINE = """
name: bench
sources:
  pg: {{type: postgres, dsn: "{dsn}", tables: [orders], slot: {slot}, publication: headrace_pg}}
tables:
  orders:
    from: pg.orders
    keys: [id]
    contract:
{contract}"""
RECEIVE, BARE, ROWS, KEPT = "pg_recvlogical", "bare reader", "row by row", "row by row, newest kept"
LANDED, OURS = "headrace, landed and decoded", "headrace run"
LAND = "import sys; sys.path.insert(0, sys.argv[1]); import cdc; cdc.land_and_decode()"


def backlog(database: Database, rows: int, changes: int) -> None:
    """Of ten transactions five insert, four update and one deletes 1,000 rows."""
    with database.connect(autocommit=True) as con:
        inserted, updated, deleted = rows, 0, 0
        for number in range(changes // 1000):
            if number % 10 < 5:
                span = f"generate_series({inserted + 1}::bigint, {inserted + 1000}) i"
                con.execute(f"insert into orders select {ROW} from {span}")
                inserted += 1000
            elif number % 10 < 9:
                first = updated % (rows // 2) + rows // 2
                updated += 1000
                where = f"id > {first} and id <= {first + 1000}"
                con.execute(f"update orders set amount = amount + 1, status = 'paid' where {where}")
            else:
                con.execute(f"delete from orders where id > {deleted} and id <= {deleted + 1000}")
                deleted += 1000


def once(rows: int, changes: int) -> tuple[dict[str, Measure], float]:
    """Every contender's measure, and the decoder's CPU seconds."""
    with server() as database, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        root, other = Path(folder, "run"), Path(folder, "land")
        create(database, rows)
        run = [sys.executable, "-m", "headrace", "run", "--quiet"]
        for place in (root, other):
            place.mkdir()
            text = PIPELINE.format(dsn=database.dsn, contract=CONTRACT, slot=f"headrace_{place.name}")
            (place / "pipeline.yml").write_text(text)
            measure(run, place)
        for slot in ("receive", "bare", "rows", "kept"):
            database.sql(f"select pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        backlog(database, rows, changes)
        database.sql("checkpoint")
        lsn = database.sql("select pg_current_wal_flush_lsn()::text")[0][0]
        reader = [sys.executable, str(HERE / "peers" / "pgoutput_reader.py"), database.dsn]
        rest = ["headrace_pg", lsn]
        receive = [f"{database.server.bin}/pg_recvlogical", "-d", database.dsn, "--slot=receive", "--start"]
        receive += ["-o", "proto_version=1", "-o", "publication_names=headrace_pg", f"--endpos={lsn}"]
        # The slot that is read first must not also be the one that warms the page cache with the WAL.
        database.sql(f"select count(*) from pg_logical_slot_peek_binary_changes('receive', '{lsn}', null, "
                     "'proto_version', '1', 'publication_names', 'headrace_pg')")  # fmt: skip
        found = {RECEIVE: measure([*receive, "-f", "-"], root, out=Path(os.devnull))}
        found[BARE] = measure([*reader, "bare", *rest], root)
        found[ROWS] = measure([*reader, "rows", *rest, "--decode"], root)
        found[KEPT] = measure([*reader, "kept", *rest, "--decode", "--keep", str(root / "kept")], root)
        found[LANDED] = measure([sys.executable, "-c", LAND, str(HERE)], other)
        found[OURS] = measure(run, root)
        count = "select count(*)::int, sum(amount)::text from orders"
        assert database.sql(count)[0] == silver(root), "the target is not the source"
        return found, decoding(root, "pg", "pgoutput", decode)


def land_and_decode() -> None:
    """What waits for the project in this folder, durably in bronze and as Arrow."""
    project = load(Path.cwd())
    with open_catalog(project) as catalog:
        log = LandLog(open_storage(project), "pg")
        start = log.epoch
        land(project.source("pg"), "pg", log, catalog, silent)
    for _, item in log.objects(start, log.epoch):
        for frame in decode(log.storage.path(item.key), item.format)[1]:
            frame.__arrow_c_stream__()


def silver(root: Path) -> tuple[int, str]:
    import duckdb
    from deltalake import DeltaTable

    files = DeltaTable(str(root / "lake" / "silver" / "orders")).file_uris()
    query = "select count(*)::int, sum(amount)::varchar from read_parquet(?) where not _deleted"
    (row,) = duckdb.execute(query, [files]).fetchall()
    return row


def decoding(root: Path, stream: str, kind: str, decode: Any) -> float:
    """CPU seconds to decode, as Arrow, all that landed of a stream in objects of one format."""
    storage = LocalStorage(load(root).lake)
    log = LandLog(storage, stream)
    log.refresh()
    objects = [item for _, item in log.objects(0, log.epoch) if item.format["type"] == kind]
    started = time.process_time()
    for item in objects:
        for _ in decode(storage.path(item.key), item.format)[1]:
            pass
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=100_000, help="in the table before")
    parser.add_argument("--runs", type=int, default=1)
    asked = parser.parse_args()
    drains([once(asked.rows, asked.changes) for _ in range(asked.runs)], asked.changes, BARE)


if __name__ == "__main__":
    main()
