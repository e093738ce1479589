"""Landed files of any format become one relation of text columns, each row with its file and line.

Every record of the input is either one row of the relation or one row of its rejects, never both and never
neither; `Staged.records` counts them. Nothing is cast, trimmed or guessed here: an empty field is an empty
text, and NULL means that the file has no such field (or a JSON null).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb

from headrace.core import RawInput
from headrace.spec.contract import Drift

from .columnar import stage_parquet
from .csv import dialect, stage_csv
from .decoded import stage_decoded
from .envelope import stage_envelopes
from .json import stage_json, stage_jsonl
from .parts import Part, Shape, Stage, StagedFile, Wanted, ident
from .sheets import stage_avro, stage_text, stage_xlsx

AUDIT = ("_source", "_file", "_ingested_at", "_line")
NO_AUDIT = (
    "''::VARCHAR AS _source",
    "'' AS _file",
    "NULL::TIMESTAMPTZ AS _ingested_at",
    "0::BIGINT AS _line",
)
UNION = 12  # so many parts make a view; more are copied into one table


@dataclass(frozen=True, slots=True)
class Staged:
    """Names of the staged rows (view or table) and of their rejects (table), and the count per bronze key."""

    relation: str
    rejects: str
    records: Mapping[str, int]


Reader = Callable[[Stage, Sequence[StagedFile]], None]


def stage(
    con: duckdb.DuckDBPyConnection,
    inputs: Sequence[RawInput],
    columns: Mapping[str, Sequence[str]],
    *,
    extras: Sequence[str] = (),
    evolved: Sequence[str] = (),
    flat: Sequence[str] = (),
    json: Sequence[str] = (),
    case: Literal["ignore", "exact"] = "ignore",
    on_new: Drift = "evolve",
    on_missing: Literal["accept", "quarantine"] = "accept",
    into: str | None = None,
    scratch: Path,
    shape: Shape | None = None,
) -> Staged:
    """Reads every record of `inputs` exactly once; a bad record or file never stops the others.

    `columns` maps staged columns to accepted header names or JSON paths (`evolved` are the last of these, if
    beyond the contract); `extras` are headers to carry under their own name. The relation has these as
    VARCHAR, then `_source`, `_file`, `_ingested_at`, `_line`. A record with an object or array for one of
    `flat` is a reject.
    `json` are columns that take JSON as it is, also where it wraps a value (Extended JSON).
    With `shape`, its columns stand in place of the texts, made while the files are read.
    `into` names the relation, as nothing was named before; without it, that of the last call without it goes.
    """
    if into is None:  # only then: looking into the catalog is dear where inputs are small
        into = "staged"
        _clear(con, into)
    run = Stage(
        con, into, Wanted(columns, extras, case, on_new, on_missing, evolved, flat, json), scratch, shape
    )
    files = [
        StagedFile(place, source, landed, Path(path))
        for place, (source, landed, path) in enumerate(
            (raw.source, landed, path) for raw in inputs for _, landed, path in raw.files
        )
    ]
    groups: dict[tuple[Any, ...], list[StagedFile]] = {}
    for file in files:
        groups.setdefault(_group(file.form), []).append(file)
    for key, group in groups.items():
        _READERS.get(key[0], stage_decoded)(run, group)
    _publish(run)
    _publish_rejects(run, files)
    records: dict[str, int] = {}
    for file in files:
        records[file.landed.key] = records.get(file.landed.key, 0) + run.counts.get(file.place, 0)
    return Staged(into, run.rejects, records)


def _group(form: Mapping[str, Any]) -> tuple[Any, ...]:
    kind = form.get("type")
    if kind == "csv":
        return (kind, *dialect(form))
    return ("envelope",) if kind == "jsonl" and form.get("envelope") else (kind,)


def _nothing(run: Stage, files: Sequence[StagedFile]) -> None:
    """A file without bytes has no records."""


_READERS: Mapping[str, Reader] = {
    "csv": stage_csv,
    "jsonl": stage_jsonl,
    "envelope": stage_envelopes,
    "json": stage_json,
    "parquet": stage_parquet,
    "avro": stage_avro,
    "xlsx": stage_xlsx,
    "text": stage_text,
    "empty": _nothing,
}


def _clear(con: duckdb.DuckDBPyConnection, into: str) -> None:
    found = con.execute(
        "SELECT table_name, table_type FROM information_schema.tables WHERE table_catalog = 'temp' "
        "AND (table_name IN (?, ?) OR starts_with(table_name, ?))",
        [into, f"{into}_rejects", f"{into}__"],
    ).fetchall()
    for name, kind in sorted(found, key=lambda f: f[1] != "VIEW"):
        con.execute(f"DROP {'VIEW' if kind == 'VIEW' else 'TABLE'} IF EXISTS temp.{ident(name)}")


def _shaped(run: Stage, part: Part) -> str:
    """SQL of a part's rows in the relation's columns; what its reader did not shape is shaped here."""
    select = run.select(part)
    if run.shape is None or part.shaped:
        return select
    table = run.table("shaped")
    run.store(table, _shape(run, select), sum(file.landed.bytes for file in part.files))
    return f"SELECT {', '.join(ident(n) for n in [*run.shape.columns, *AUDIT])} FROM {ident(table)}"


def _shape(run: Stage, select: str) -> str:
    assert run.shape is not None
    return run.shape.sql(select, run.wanted.names, AUDIT)


def _publish(run: Stage) -> None:
    selects = [_shaped(run, part) for part in run.parts]
    if not selects and run.shape is not None:
        nothing = [f"NULL::VARCHAR AS {ident(n)}" for n in run.wanted.names]
        selects = [_shape(run, f"SELECT {', '.join([*nothing, *NO_AUDIT])} WHERE false")]
    if not selects:
        columns = [f"NULL::VARCHAR AS {ident(n)}" for n in run.wanted.names]
        selects = [f"SELECT {', '.join([*columns, *NO_AUDIT])} WHERE false"]
    if len(selects) <= UNION:
        run.con.execute(f"CREATE OR REPLACE TEMP VIEW {ident(run.into)} AS {' UNION ALL '.join(selects)}")
        return
    run.con.execute(f"CREATE OR REPLACE TEMP TABLE {ident(run.into)} AS {selects[0]}")
    for select, part in zip(selects[1:], run.parts[1:], strict=True):
        run.con.execute(f"INSERT INTO {ident(run.into)} {select}")
        run.drop(part)


def _publish_rejects(run: Stage, files: Sequence[StagedFile]) -> None:
    run.flush()
    lookup = f"{run.into}__inputs"
    run.con.execute(
        f"CREATE TEMP TABLE {ident(lookup)} AS SELECT unnest(?::INTEGER[]) AS place, "
        "unnest(?::VARCHAR[]) AS source, unnest(?::VARCHAR[]) AS name, "
        "unnest(?::VARCHAR[])::TIMESTAMPTZ AS arrived",
        [
            [f.place for f in files],
            [f.source for f in files],
            [f.landed.name for f in files],
            [f.arrived for f in files],
        ],
    )
    raw = f"{run.into}__rejected"
    run.con.execute(
        f"CREATE OR REPLACE TEMP TABLE {ident(run.rejects)} AS SELECT f.source AS _source, f.name AS _file, "
        f"r.line AS _line, f.arrived AS _ingested_at, r.raw AS _raw, r.rule AS _rule "
        f"FROM {ident(raw)} r JOIN {ident(lookup)} f USING (place)"
    )
    run.con.execute(f"DROP TABLE {ident(lookup)}")
    run.con.execute(f"DROP TABLE {ident(raw)}")
