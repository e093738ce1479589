"""Projects that publish to a real PostgreSQL or to a DuckDB file, and what these hold afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from projects import PIPELINE, make
from services import Database

from headrace.run.inspect import query
from headrace.spec.load import load

QUIET = ("_epoch", "_ingested_at")
"""When a row was computed: a target keeps what it was when the row came."""


@dataclass
class Place:
    """A target of tests: what to write in a pipeline, and how to read what it holds."""

    settings: str
    ask: Callable[[str], tuple[Sequence[str], list[tuple[Any, ...]]]]
    schema: str
    kind: str

    def rows(self, table: str, *, leave: Sequence[str] = QUIET) -> list[str]:
        """Every row as text, by column name."""
        names, rows = self.ask(f'select * from {self.schema}."{table}"')
        return shown(names, rows, leave)

    def publications(self) -> dict[str, int]:
        _, rows = self.ask(f"select stream, epoch from {self.schema}.headrace_commits")
        return {str(stream): int(epoch) for stream, epoch in rows}


def shown(names: Sequence[str], rows: Sequence[Sequence[Any]], leave: Sequence[str] = QUIET) -> list[str]:
    order = sorted((name, place) for place, name in enumerate(names) if name not in leave)
    return sorted(repr([(name, plain(row[place])) for name, place in order]) for row in rows)


def plain(value: Any) -> str | None:
    """One spelling for what two drivers give."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (dict, list)):
        raise AssertionError("a driver has parsed JSON")
    return None if value is None else f"{type(value).__name__}:{value}"


def silver(root: Path, table: str, *, leave: Sequence[str] = QUIET) -> list[str]:
    """What a reader of the lake sees."""
    names, rows = query(load(root), f'select * from silver."{table}"')
    return shown(names, list(rows), leave)


def in_duckdb(file: Path, more: str = "") -> Place:
    def ask(sql: str) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
        with duckdb.connect(str(file), read_only=True) as con:
            con.execute("set timezone = 'UTC'")
            found = con.execute(sql)
            return [column[0] for column in found.description or []], found.fetchall()

    return Place(f"{{type: duckdb, path: {file}{more}}}", ask, "main", "duckdb")


def in_postgres(database: Database, more: str = "", schema: str = "shop") -> Place:
    def ask(sql: str) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
        from psycopg.types.json import set_json_loads

        with database.connect() as con:
            set_json_loads(lambda data: bytes(data).decode() if not isinstance(data, str) else data, con)
            con.execute("set timezone = 'UTC'")
            found = con.execute(sql)
            return [column.name for column in found.description or []], found.fetchall()

    settings = f'{{type: postgres, url: "{database.dsn}", schema: {schema}, timeout: 10{more}}}'
    return Place(settings, ask, schema, "postgres")


@pytest.fixture(params=["duckdb", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of target in turn."""
    if request.param == "duckdb":
        return in_duckdb(tmp_path / "out.duckdb")
    return in_postgres(request.getfixturevalue("database"))


def publishing(place: Place, pipeline: str = PIPELINE, table: str = "orders") -> str:
    """`pipeline` with `table` on its way to `place`."""
    return pipeline.replace(f"\n  {table}:\n    from:", f"\n  {table}:\n    to: w\n    from:") + (
        f"targets:\n  w: {place.settings}\n"
    )


def project(root: Path, place: Place, files: dict[str, Sequence[str]], pipeline: str = PIPELINE) -> Path:
    return make(root, files, publishing(place, pipeline))
