"""The drain of a backlog of a MariaDB's changes: how near Headrace comes to a reader that only receives.

    python bench/cdc_mariadb.py [--changes 1000000] [--rows 100000] [--runs 1] [--each 1000]

All read the same binlog of inserts, updates and deletes in transactions of `--each` rows: `mariadb-binlog`,
which copies it; a bare reader in Python that receives and discards; one that decodes row by row; and
`headrace run`, which lands the events durably, decodes them and merges them into silver. Then the decoder by
itself, on the objects in bronze.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from cdc import decoding, silver
from database import CONTRACT, HERE, Measure, drains, measure

from headrace.sources.binlog import decode

sys.path.insert(0, str(HERE.parent / "tests"))

from mariadb_server import MariaDB, mariadb_server, remove

PIPELINE = """
name: bench
sources:
  my: {{type: mariadb, dsn: "{dsn}", tables: [orders]}}
tables:
  orders:
    from: my.orders
    keys: [id]
    contract:
{contract}"""
CREATE = """create table orders (id bigint primary key, customer int,
  status enum('open', 'paid', 'sent', 'returned'), amount decimal(12,2), placed_at timestamp null,
  paid boolean, country varchar(2), note varchar(60))"""
ROW = """seq, seq * 7919 % 100000, 1 + seq % 4, (seq * 31 % 1000000) / 100.0,
  timestamp '2026-01-01 00:00:00' + interval seq * 7 second, seq % 3 = 0,
  elt(1 + seq % 5, 'DE', 'FR', 'US', 'JP', 'BR'), if(seq % 4 > 0, concat('note ', md5(seq)), null)"""
COPY, BARE, ROWS, OURS = "mariadb-binlog", "bare reader", "row by row", "headrace run"


@contextmanager
def server() -> Iterator[tuple[MariaDB, str]]:
    """A server, and an empty database in it; stopped and deleted afterwards."""
    made = mariadb_server()
    try:
        made.sql(None, "SET GLOBAL sync_binlog = 0, innodb_flush_log_at_trx_commit = 2")
        yield made, made.database()
    finally:
        remove(made)


def backlog(made: MariaDB, database: str, rows: int, changes: int, each: int) -> None:
    """Of ten transactions five insert, four update and one deletes `each` rows."""
    inserted, updated, deleted = rows, 0, 0
    with made.connect(database) as con, con.cursor() as cursor:
        for number in range(changes // each):
            if number % 10 < 5:
                span = f"seq_{inserted + 1}_to_{inserted + each}"
                cursor.execute(f"insert into orders select {ROW} from {span}")
                inserted += each
            elif number % 10 < 9:
                first = updated % (rows // 2) + rows // 2
                updated += each
                where = f"id > {first} and id <= {first + each}"
                cursor.execute(f"update orders set amount = amount + 1, status = 'paid' where {where}")
            else:
                cursor.execute(f"delete from orders where id > {deleted} and id <= {deleted + each}")
                deleted += each


def place(made: MariaDB) -> tuple[str, str]:
    file, position = made.sql(None, "show master status")[0][:2]
    return str(file), str(position)


def once(rows: int, changes: int, each: int) -> tuple[dict[str, Measure], float]:
    """Every contender's measure, and the decoder's CPU seconds."""
    with server() as (made, database), tempfile.TemporaryDirectory(prefix="bench-") as folder:
        root = Path(folder)
        made.sql(database, CREATE, f"insert into orders select {ROW} from seq_1_to_{rows}")
        (root / "pipeline.yml").write_text(PIPELINE.format(dsn=made.dsn(database), contract=CONTRACT))
        run = [sys.executable, "-m", "headrace", "run", "--quiet"]
        measure(run, root)
        begin = place(made)
        backlog(made, database, rows, changes, each)
        end = place(made)
        at = urlsplit(made.url)
        told = [str(at.hostname), str(at.port), *begin, *end]
        reader = [sys.executable, str(HERE / "peers" / "binlog_reader.py"), *told]
        copy = [
            "mariadb-binlog",
            "--no-defaults",
            f"--host={at.hostname}",
            f"--port={at.port}",
            "--user=root",
        ]
        copy += [
            "--read-from-remote-server",
            "--raw",
            f"--start-position={begin[1]}",
            "--to-last-log",
            begin[0],
        ]
        measure([*reader], root)  # whoever is first must not be the one that warms the page cache
        found = {COPY: measure(copy, root), BARE: measure(reader, root)}
        found[ROWS] = measure([*reader, "--decode"], root)
        found[OURS] = measure(run, root)
        wanted = made.sql(database, "select cast(count(*) as int), cast(sum(amount) as char) from orders")[0]
        assert wanted == silver(root), "the target is not the source"
        return found, decoding(root, "my", "binlog", decode)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=100_000, help="in the table before")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--each", type=int, default=1000, help="changes of a transaction")
    asked = parser.parse_args()
    runs = [once(asked.rows, asked.changes, asked.each) for _ in range(asked.runs)]
    drains(runs, asked.changes, BARE)


if __name__ == "__main__":
    main()
