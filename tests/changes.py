"""Tables of changes for tests: batches of events go through the engine as the run loop sends them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from headrace.core import DataFile, Landed, Outcome, RawInput, TableAt, Write, Written
from headrace.engines.duckdb import DuckEngine
from headrace.run.refine import ledger_of, parts_of
from headrace.spec.pipeline import TableSpec
from headrace.sql import TableStep, compile_table
from headrace.testing.engine import NOW, rows_of

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Event:
    """One change as its source tells it; `values` are those of columns that were sent, keys among them."""

    op: str
    sequence: str | None
    values: Mapping[str, Any]
    unchanged: Sequence[str] = ()

    def line(self) -> dict[str, Any]:
        """As a flat line, the change's own columns beside the others."""
        meta = {"_op": self.op, "_sequence": self.sequence, "_tx": "7"}
        second = int((self.sequence or "0")[:16], 16) % 60
        meta["_committed"] = None if self.op == "r" else f"2026-01-01T00:00:{second:02}Z"
        if self.unchanged:
            meta["_unchanged"] = ",".join(self.unchanged)
        return {**meta, **self.values}


def step_of(text: str, name: str = "t") -> TableStep:
    return compile_table(name, TableSpec.model_validate(yaml.safe_load(text)))


def raw_lines(folder: Path, lines: Iterable[Mapping[str, Any] | str], **form: Any) -> RawInput:
    """A landed file of JSON lines, each later than all before."""
    number = next(_numbers)
    path = folder / f"{number:08}.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    known: dict[str, Any] = {
        "type": "jsonl",
        "compression": None,
        "encoding": "utf-8",
        "newline": "\n",
        "lines": len(texts),
    }
    known |= {"nul": False, "final_newline": True, "keys": [], "changes": True, **form}
    arrived = f"2026-01-01T00:00:00.{number % 1_000_000:06}Z"
    landed = Landed(path.name, path.name, path.stat().st_size, "", None, known, {}, arrived)
    return RawInput("s", [(number, landed, path)])


@dataclass
class Lake:
    """One table of changes with its quarantine and history, refined batch by batch as the run loop does."""

    engine: DuckEngine
    step: TableStep
    folder: Path
    tables: dict[str, TableAt] = field(default_factory=dict)
    epoch: int = 0
    raw: list[RawInput] = field(default_factory=list)

    def at(self, name: str) -> TableAt:
        return self.tables.get(name, TableAt(name, -1, (), {}))

    def land(self, lines: Iterable[Mapping[str, Any] | str], **form: Any) -> dict[str, int]:
        """Refines one more file; returns the ledger, which balances."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.raw.append(raw_lines(self.folder, lines, **form))
        return self.refine([self.raw[-1]])

    def refine(self, raw: Sequence[RawInput], *, rebuild: bool = False) -> dict[str, int]:
        self.epoch += 1
        silver, quarantine = (f"{layer}.{self.step.table}" for layer in ("silver", "quarantine"))
        inputs: dict[str, Any] = {"raw": raw, "target": None}
        if not rebuild and self.at(silver).version >= 0:
            inputs |= {"target": self.at(silver), "waiting": self.at(quarantine)}
        outcome = self.engine.run(self.step, inputs, epoch=self.epoch, now=NOW)
        written: dict[str, Written] = {}
        for write, frame in parts_of(self.step, outcome, "rebuild" if rebuild else "increment"):
            written[write.table] = self._write(write, frame)
        ledger = ledger_of(outcome, written[silver])
        ledger.check(self.step.table)
        self.outcome = outcome
        return {name: count for name, count in asdict(ledger).items() if count}

    outcome: Outcome | None = None

    def _write(self, write: Write, frame: Any) -> Written:
        old = self.at(write.table)
        change = self.engine.rewrite(old, write, frame, self.folder / f"{write.table}-{self.epoch}")
        gone = {file.path for file in change.remove}
        files: list[DataFile] = [file for file in old.files if file.path not in gone] + list(change.add)
        self.tables[write.table] = TableAt(
            write.table, old.version + 1, files, change.columns, write.partition_by
        )
        return change.written

    def rows(self, name: str = "") -> list[dict[str, Any]]:
        """All rows of a table of the lake as they are stored: `silver` if not named."""
        at = self.at(name or f"silver.{self.step.table}")
        if not at.files:
            return []
        import duckdb

        with duckdb.connect() as con:
            con.execute("SET TimeZone = 'UTC'")
            return rows_of(
                con.sql(
                    "SELECT * FROM read_parquet($1, union_by_name=true)",
                    params=[[str(f.path) for f in at.files]],
                )
            )

    def content(self) -> list[str]:
        """What silver and quarantine say, whatever the order in which they learned it."""
        audit = ("_file", "_line", "_source", "_ingested_at", "_epoch")
        found = []
        for name in sorted(self.tables):
            skip = audit if not name.startswith("quarantine") else (*audit, "raw")
            for row in self.rows(name):
                found.append(repr((name, sorted((k, str(v)) for k, v in row.items() if k not in skip))))
        return sorted(found)

    def quarantined(self) -> list[tuple[str | None, str]]:
        """(key, rules) of every bad row."""
        rows = self.rows(f"quarantine.{self.step.table}")
        return sorted((row.get("key"), row["rules"]) for row in rows)


def shown(lake: Lake, *columns: str) -> list[tuple[Any, ...]]:
    """Rows of silver that are not deleted."""
    return sorted(tuple(row[c] for c in columns) for row in lake.rows() if not row["_deleted"])
