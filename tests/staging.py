"""Files on disk, inspected as the files source does it, and staged: what most tests of staging start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from headrace.core import Landed, RawInput
from headrace.engines.duckdb.staging.stage import stage
from headrace.sources.how import How
from headrace.sources.inspect import FileInspector

ACCEPT = {"empty": "accept", "truncated": "accept"}
ARRIVED = "2026-01-02T03:04:05Z"


@dataclass
class Result:
    con: duckdb.DuckDBPyConnection
    records: Mapping[str, int]
    rows: list[tuple[Any, ...]]
    """The data columns, then file and line, ordered by file and line."""
    rejects: list[tuple[str, int, str, str]]
    """(file, line, raw, rule), in order."""

    @property
    def values(self) -> list[tuple[Any, ...]]:
        return [row[:-2] for row in self.rows]

    @property
    def lines(self) -> list[int]:
        return [row[-1] for row in self.rows]

    @property
    def rules(self) -> list[tuple[int, str]]:
        return [(line, rule) for _, line, _, rule in self.rejects]


def inspect(path: Path, **how: Any) -> Mapping[str, Any]:
    inspector = FileInspector(path.name, How(**{**ACCEPT, **how}))
    with path.open("rb") as stream:
        while block := stream.read(100_000):
            inspector.feed(block)
    return inspector.result()


def landed(path: Path, number: int = 0, **how: Any) -> tuple[int, Landed, Path]:
    form = inspect(path, **how)
    return 1, Landed(f"key{number}", path.name, path.stat().st_size, "", None, form, arrived=ARRIVED), path


def names_of(form: Mapping[str, Any]) -> list[str]:
    names = form.get("header") or form.get("names") or form.get("keys")
    names = [str(n) for n in names or [f"column{i + 1}" for i in range(form.get("columns") or 0)]]
    return list({n.casefold(): n for n in names if n}.values())


def run(
    paths: Sequence[Path], columns: Mapping[str, Sequence[str]] | Sequence[str] | None = None, **options: Any
) -> Result:
    """Stages the files; options of `stage` by name, others go to the inspection."""
    keywords = ("extras", "evolved", "flat", "case", "on_new", "on_missing")
    staging = {k: options.pop(k) for k in keywords if k in options}
    con = options.pop("con", None) or duckdb.connect(config={"threads": 2})
    files = [landed(path, i, **options) for i, path in enumerate(paths)]
    if columns is None:
        columns = list({n.casefold(): n for _, item, _ in files for n in names_of(item.format)}.values())
    wanted = columns if isinstance(columns, Mapping) else {c: [c] for c in columns}
    done = stage(con, [RawInput("s", files)], wanted, scratch=paths[0].parent / "scratch", **staging)
    data = "* EXCLUDE (_source, _ingested_at, _file, _line), _file, _line"
    rows = con.execute(f"SELECT {data} FROM {done.relation} ORDER BY _file, _line").fetchall()
    rejects = con.execute(
        f"SELECT _file, _line, _raw, _rule FROM {done.rejects} ORDER BY _file, _line, _rule"
    ).fetchall()
    assert sum(done.records.values()) == len(rows) + len(rejects)
    return Result(con, done.records, rows, rejects)
