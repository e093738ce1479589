"""What a lake holds, as hashes that know nothing of the order of rows, of files, or of when they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...run.golden import gold_file
from ...run.opened import open_storage
from ...spec.project import Project
from ...store.delta import Table
from ...store.records import Done, RefineLog

AUDIT = ("_epoch", "_ingested_at")
"""Columns that say when, not what: they differ from run to run."""
ORIGIN = ("_source", "_file", "_line")
"""Where a row was seen. Of sightings equal in all else, a keyed table names the one that came last."""


@dataclass(frozen=True, slots=True)
class Content:
    """One table: rows, a hash of the bag of rows, and one of each column alone."""

    rows: int
    digest: str
    columns: Mapping[str, str] = field(default_factory=dict)


def contents(project: Project, ignored: Sequence[str] = ()) -> dict[str, Content]:
    """Every silver, quarantine, history and gold table of a lake by its name; what is not there is left out.

    `ignored` names columns (`gold.fact.loaded_at`) that are no part of the comparison.
    """
    import duckdb

    found: dict[str, Content] = {}
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        for name, table in project.config.tables.items():
            history = [f"silver.{name}_history"] if table.history else []
            for output in (f"silver.{name}", f"quarantine.{name}", *history):
                at = Table(project.lake.joinpath(*output.split(".")), output).snapshot("").at
                if at.version < 0:
                    continue
                keyed = table.key_columns and output.startswith("silver.")
                beside = [*ignored, *(f"{output}.{column}" for column in ORIGIN if keyed)]
                files = [str(file.path) for file in at.files]
                read = f"read_parquet({files!r}, union_by_name=true)"
                found[output] = _content(con, read, beside, output) if files else Content(0, "")
        for name in project.config.streams:
            output = f"silver.{name}"
            at = Table(project.lake / "silver" / name, output).snapshot("").at
            if at.version >= 0:
                read = f"read_parquet({[str(file.path) for file in at.files]!r}, union_by_name=true)"
                found[output] = _content(con, read, ignored, output) if at.files else Content(0, "")
    if gold_file(project).exists():
        found |= _gold(gold_file(project), ignored)
    return found


def _gold(path: Path, ignored: Sequence[str]) -> dict[str, Content]:
    import duckdb

    with duckdb.connect(str(path), read_only=True) as con:
        con.execute("SET TimeZone = 'UTC'")
        tables = con.execute(
            "select schema_name, table_name from duckdb_tables() where not internal and not temporary "
            "and database_name = current_database() and table_name <> '_headrace' order by all"
        ).fetchall()
        return {
            f"gold.{name}": _content(con, f'"{schema}"."{name}"', ignored, f"gold.{name}")
            for schema, name in tables
        }


def _content(con: Any, relation: str, ignored: Sequence[str], table: str) -> Content:
    described = con.execute(f"describe select * from {relation}").fetchall()
    names = sorted(row[0] for row in described)
    names = [name for name in names if name not in AUDIT and f"{table}.{name}" not in ignored]
    texts = [f'"{name}"::varchar'.replace("\0", "") for name in names]
    whole = f"hash({', '.join(texts)})" if texts else "0::ubigint"
    singles = [f"sum(hash({text}))::varchar" for text in texts]
    row = con.execute(
        f"select count(*), sum({whole})::varchar, bit_xor({whole})::varchar"
        f"{''.join(', ' + single for single in singles)} from {relation}"
    ).fetchone()
    count, total, mixed, *columns = row
    return Content(count, f"{total}:{mixed}" if count else "", dict(zip(names, columns, strict=True)))


def differences(found: Mapping[str, Content], wanted: Mapping[str, Content]) -> list[str]:
    """One line per table that is not what it should be; none if all is as in the clean run."""
    lines = []
    for name in sorted({*found, *wanted}):
        one, other = found.get(name), wanted.get(name)
        if one is None or other is None:
            lines.append(f"{name} is {'missing' if one is None else 'not in the clean run'}")
        elif one.rows != other.rows:
            lines.append(f"{name} has {one.rows:,} rows, the clean run {other.rows:,}")
        elif one.digest != other.digest:
            columns = [key for key in other.columns if one.columns.get(key) != other.columns[key]]
            lines.append(f"{name} differs in {', '.join(columns) or 'the combination of its columns'}")
    return lines


def ledgers(project: Project) -> dict[str, dict[str, int]]:
    """Per table, summed since its last rebuild: what its done records say was read and where it went."""
    storage = open_storage(project)
    found = {}
    for name in (*project.config.tables, *project.config.streams):
        total: dict[str, int] = {}
        for done in RefineLog(storage, name).done:
            if done.mode == "rebuild":
                total = {}
            for word, count in done.ledger.items():
                total[word] = total.get(word, 0) + count
        found[name] = total
    return found


def unbalanced(project: Project, held: Mapping[str, Content]) -> list[str]:
    """What does not add up: within each done record, and between the records and the quarantine's rows."""
    storage = open_storage(project)
    lines = []
    for name in (*project.config.tables, *project.config.streams):
        for done in RefineLog(storage, name).done:
            read, accounted = done.ledger["read"] + done.ledger.get("corrected", 0), _accounted(done)
            if read != accounted:
                lines.append(f"{name}, epoch {done.epoch}: read {read:,}, accounted for {accounted:,}")
    for name, total in ledgers(project).items():
        bad = held.get(f"quarantine.{name}")
        if total and bad is not None and bad.rows != total.get("quarantined", 0):
            told = f"its ledgers {total.get('quarantined', 0):,}"
            lines.append(f"quarantine.{name} has {bad.rows:,} rows, {told}")
    return lines


def _accounted(done: Done) -> int:
    return sum(count for word, count in done.ledger.items() if word not in ("read", "corrected", "removed"))
