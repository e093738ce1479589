"""The full load of a table: how near Headrace comes to PostgreSQL's bare COPY, beside dlt and ingestr.

    python bench/postgres.py [--rows 5000000] [--runs 1] [--peers .venv-bench/bin/python]
                             [--ingestr .venv-ingestr/bin/ingestr]

The limit is `psql -c "copy orders to stdout"` into a file, and a sync of it. Headrace reads the table into
bronze, checks every value by its contract, compares keys, writes silver and syncs both: by `mode: snapshot`
all at once, by `mode: cdc` so that changes can follow; `landed` is the first half of that, bronze alone. dlt
writes Parquet and ingestr a DuckDB file, unchecked and not synced. `--peers` names a Python with dlt, psycopg
and connectorx (bench/requirements.txt); ingestr needs its own. A peer that does not run is told of.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from database import CONTRACT, HERE, Measure, create, measure, server, table

PIPELINE = """
name: bench
sources:
  pg: {{type: postgres, dsn: "{dsn}", tables: [orders], mode: {mode}}}
tables:
  orders:
    from: pg.orders
    keys: [id]
    contract:
{contract}"""
LIMIT = "COPY TO"
BACKENDS = ("connectorx", "pyarrow", "sqlalchemy")
SMALL = 1_000_000
"""Beyond so many rows dlt's backend of dictionaries is left out: it takes minutes."""


def once(rows: int, peers: str | None, ingestr: str | None) -> dict[str, Measure]:
    found: dict[str, Measure] = {}
    with server() as database, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        create(database, rows)
        root = Path(folder)
        copy = f"{database.server.bin}/psql '{database.dsn}' -qc 'copy orders to stdout' >"
        measure(["sh", "-c", f"{copy} /dev/null"], root)  # warms the cache, for all alike
        found[LIMIT] = measure(["sh", "-c", f"{copy} limit && sync limit"], root)
        run = [sys.executable, "-m", "headrace", "run", "--quiet"]
        landed = made(root / "landed", database.dsn, "snapshot")
        found["headrace, landed"] = measure([*run, "--select", "pg"], landed)
        for mode in ("snapshot", "cdc"):
            project = made(root / mode, database.dsn, mode)
            found[f"headrace, {mode}"] = measure(run, project)
            loaded = count(project)
            assert loaded == rows, f"{loaded} of {rows} rows"
        for backend in BACKENDS if peers else ():
            if backend == "sqlalchemy" and rows > SMALL:
                continue
            into = root / backend
            into.mkdir()
            script = [str(peers), str(HERE / "peers" / "dlt_postgres.py"), database.dsn, "orders", backend]
            peer(found, f"dlt, {backend}", [*script, str(into)], into)
        if ingestr:
            goes = [
                ingestr,
                "ingest",
                "--yes",
                "--source-uri",
                database.dsn,
                "--source-table",
                "public.orders",
            ]
            goes += ["--dest-uri", f"duckdb:///{root}/ingestr.duckdb", "--dest-table", "raw.orders"]
            peer(found, "ingestr", goes, root)
    return found


def made(project: Path, dsn: str, mode: str) -> Path:
    project.mkdir()
    (project / "pipeline.yml").write_text(PIPELINE.format(dsn=dsn, mode=mode, contract=CONTRACT))
    return project


def peer(found: dict[str, Measure], name: str, command: list[str], folder: Path) -> None:
    """A peer that does not run here costs only its own line."""
    try:
        found[name] = measure(command, folder, {"INGESTR_DISABLE_TELEMETRY": "true"})
    except RuntimeError as error:
        print(f"{name} does not run: {str(error)[-300:]}", file=sys.stderr)


def count(project: Path) -> int:
    from deltalake import DeltaTable

    return DeltaTable(str(project / "lake" / "silver" / "orders")).count()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--peers")
    parser.add_argument("--ingestr")
    asked = parser.parse_args()
    runs = [once(asked.rows, asked.peers, asked.ingestr) for _ in range(asked.runs)]
    middle = statistics.median
    found = {
        name: Measure(
            middle(r[name].wall for r in runs),
            middle(r[name].cpu for r in runs),
            max(r[name].peak for r in runs),
        )
        for name in runs[0]
        if all(name in r for r in runs)
    }
    print(f"\n{asked.rows:,} rows, {os.cpu_count()} cores, median of {asked.runs}\n")
    table(found, asked.rows, LIMIT)


if __name__ == "__main__":
    main()
