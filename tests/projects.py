"""Small pipelines for tests, and what their lakes hold."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from headrace.run.report import RunReport
from headrace.run.runner import run
from headrace.spec.load import load

PIPELINE = """
name: shop
sources:
  orders: {type: files, path: data/*.csv}
tables:
  orders:
    from: orders
    keys: [order_id]
    latest_by: updated_at
    history: true
    contract:
      columns:
        order_id:   {type: integer, required: true}
        customer:   {type: text, clean: [trim]}
        amount:     {type: "decimal(10,2)", min: 0}
        updated_at: {type: timestamp}
      rules:
        known_customer: {check: "customer <> 'nobody'"}
"""
HEADER = "order_id,customer,amount,updated_at"
AUDIT = ("_epoch", "_ingested_at")


def make(root: Path, files: Mapping[str, Sequence[str]] | None = None, pipeline: str = PIPELINE) -> Path:
    """A project folder with CSV files of the given lines (the header is added)."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "pipeline.yml").write_text(pipeline)
    for name, lines in (files or {}).items():
        put(root, name, lines)
    return root


def put(root: Path, name: str, lines: Sequence[str], header: str = HEADER) -> None:
    (root / "data" / name).write_text("\n".join([header, *lines]) + "\n")


def day(number: int, rows: int = 40) -> list[str]:
    """Lines of one day: some good, some re-delivered from the day before, some bad."""
    lines = []
    for n in range(rows):
        order = number * 30 + n  # a quarter overlaps with the next day
        lines.append(
            f"{order},c{order % 7},{order % 50}.{n % 10}0,2026-01-{1 + number % 28:02}T10:00:{n % 60:02}"
        )
    lines[3] = f"{number * 30 + 3},nobody,1.00,2026-01-01T00:00:00"
    lines[5] = f"x{number},c1,1.00,2026-01-01T00:00:00"
    lines[7] = lines[6]
    return lines


def go(root: Path, **options: Any) -> RunReport:
    return run(load(root), **options)


def rows(root: Path, table: str) -> list[tuple[Any, ...]]:
    """All rows of a lake's table without those audit columns that differ from run to run, sorted."""
    path = root / "lake" / table.replace(".", "/")
    try:
        files = DeltaTable(str(path)).file_uris()
    except TableNotFoundError:
        return []
    if not files:
        return []
    con = duckdb.connect()
    names = [
        row[0]
        for row in con.execute(
            "describe select * from read_parquet(?, union_by_name=true)", [files]
        ).fetchall()
    ]
    kept = ", ".join(f'"{name}"' for name in sorted(names) if name not in AUDIT)
    return con.execute(
        f"select {kept} from read_parquet(?, union_by_name=true) order by all", [files]
    ).fetchall()


def content(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of the shop pipeline."""
    return {
        name: rows(root, name) for name in ("silver.orders", "silver.orders_history", "quarantine.orders")
    }


def headrace(
    root: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "headrace", *arguments],
        cwd=root,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass
class Cli:
    """The command line in a folder, with what its project finds in the environment."""

    folder: Path
    env: Mapping[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "headrace", *arguments],
            cwd=self.folder,
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
        return out

    def rows(self, sql: str) -> list[list[str]]:
        return list(csv.reader(io.StringIO(self.run("query", sql, "--format", "csv"))))[1:]
