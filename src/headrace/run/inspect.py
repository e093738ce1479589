"""What people ask of a lake: tables, runs, quarantine, and any SELECT. Reads only, and never blocks a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..catalog.recent import recent
from ..core import TableAt
from ..errors import ConfigError, HeadraceError
from ..spec.problem import suggest
from ..spec.project import Project
from ..store.delta import Table
from ..store.intact import check_sizes
from ..store.records import Done, LandLog, RefineLog
from ..store.storage import LocalStorage
from .followed import followed
from .golden import gold_file
from .opened import open_catalog, open_storage
from .parts import part
from .publish import stream_of

Rows = tuple[Sequence[str], Iterable[Sequence[Any]]]
HIDDEN = "***"
TREND = 5
"""Epochs that a trend shows."""
_LEDGER = ("path", "bytes", "sha256", "rows", "position", "format", "arrived", "epoch", "object")
_RUNS = ("run_id", "pipeline", "status", "started", "seconds", "read", "loaded", "quarantined", "error")
_LAG = ("lag_bytes", "lag_seconds", "retained_bytes")
"""How far a run was behind the log of its databases, and how much of it they kept."""


def query(project: Project, sql: str) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """Columns and rows of one SELECT over bronze.*, silver.*, quarantine.*, gold.* and runs; it cannot write.

    `bronze.<source>` is the ledger of what landed; a quarantine shows no personal data, nor the raw text that
    may hold it. Raises `ConfigError` for anything that is not a SELECT.
    """
    private = {name: sorted(names) for name in project.config.tables if (names := _private(project, name))}
    return _ask(project, sql, {"quarantine": private})


def _private(project: Project, table: str) -> set[str]:
    """Columns of `table` that hold personal data."""
    columns = project.config.tables[table].contract.columns
    return {name for name, column in columns.items() if column.pii}


def _ask(
    project: Project, sql: str, private: Mapping[str, Mapping[str, Sequence[str]]]
) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    storage = _lake(project)
    schemas: dict[str, dict[str, TableAt | str]] = {"silver": {}, "quarantine": {}, "bronze": {}}
    for output, at in _outputs(project):
        check_sizes(output, at.files)
        schema, _, name = output.partition(".")
        schemas[schema][name] = at
    schemas["quarantine"] |= _stale(project, schemas, private)
    records = {key: rows for name in project.config.tables for key, rows in _records(storage, name)}
    for source in project.config.sources:
        landed = _landed(LandLog(storage, project.stream(source)), records)
        schemas["bronze"][source] = _values(_LEDGER, landed)
    schemas["main"] = {"runs": _values((*_RUNS, *_LAG), _runs(project, None))}
    gold = gold_file(project)
    attach = {"gold": gold} if gold.exists() else {}
    ask = part("engines", "duckdb").query
    columns, rows = ask(schemas, sql, attach=attach, memory=project.config.memory, private=private)
    return columns, rows


def tables(project: Project) -> Rows:
    """One row per silver table and stream: rows, version, epoch, when it was refined last, its quarantine.

    Where tables follow changes, also how many of its keys are `stale`: their newest change is in quarantine.
    """
    _lake(project)
    sizes = {output: sum(file.rows for file in at.files) for output, at in _outputs(project)}
    found = []
    for name in (*project.config.tables, *project.config.streams):
        last = RefineLog(open_storage(project), name).last
        silver = (last.outputs if last else {}).get(f"silver.{name}", {})
        found.append(
            (
                name,
                sizes.get(f"silver.{name}", 0),
                sizes.get(f"quarantine.{name}", 0) if name in project.config.tables else None,
                last.epoch if last else 0,
                silver.get("version", -1),
                last.time if last else None,
            )
        )
    names = ("table", "rows", "quarantined", "epoch", "version", "refined")
    follows = [name for name, spec in project.config.tables.items() if spec.changes]
    if not follows:
        return names, found
    sizes = {name: f"quarantine.{name}" in sizes and _count_stale(project, name) for name in follows}
    return (*names[:3], "stale", *names[3:]), [(*r[:3], int(sizes.get(r[0], 0)), *r[3:]) for r in found]


def targets(project: Project) -> Rows:
    """One row per table of each target: its epoch there and in the lake, as the target itself says.

    A target that cannot be asked has the reason in `remark`.
    """
    found: list[tuple[Any, ...]] = []
    for target in project.config.targets:
        names = [name for name, targets in project.config.published.items() if target in targets]
        try:
            holds, error = project.target(target).holds(), ""
        except HeadraceError as problem:
            holds, error = {}, problem.message
        for name in names:
            last = RefineLog(_lake(project), name).last
            held = holds.get(stream_of(project, name))
            there = held.note.get("epoch", 0) if held else 0
            behind = bool(last) and (not held or held.note.get("log") != _log(last, name))
            remark = error or ("behind: the next run publishes it" if behind else "")
            found.append((target, name, there, last.epoch if last else 0, remark))
    return ("target", "table", "epoch there", "epoch", "remark"), found


def _log(done: Done | None, name: str) -> str:
    return str(done.outputs[f"silver.{name}"]["log"]) if done else ""


def _count_stale(project: Project, name: str) -> int:
    _, rows = query(project, f'select count(*) from quarantine."{name}_stale"')
    return next(int(row[0]) for row in rows)


def recent_runs(project: Project, limit: int | None) -> Rows:
    """The newest runs first; all of them if `limit` is None. How far they were behind, if any was."""
    rows, width = _runs(project, limit), len(_RUNS)
    if not any(any(row[width:]) for row in rows):
        return _RUNS, [row[:width] for row in rows]
    return (*_RUNS[:-1], *_LAG, _RUNS[-1]), [
        (*row[: width - 1], *row[width:], row[width - 1]) for row in rows
    ]


def _runs(project: Project, limit: int | None) -> list[tuple[Any, ...]]:
    _lake(project)
    runs = None if project.config.catalog else recent(project.lake / "catalog.db", project.config.name, limit)
    if runs is None:
        with open_catalog(project) as catalog:
            runs = catalog.runs(limit, project.config.name)
    return [
        (
            run.run_id,
            run.pipeline_name,
            run.status,
            f"{run.start_time:%Y-%m-%d %H:%M:%S}",
            round(run.metrics.seconds, 1),
            run.metrics.records_read,
            run.metrics.inserted + run.metrics.updated,
            run.metrics.quarantined,
            run.error,
            run.metrics.lag_bytes,
            run.metrics.lag_seconds,
            run.metrics.retained_bytes,
        )
        for run in runs
    ]


def quarantine_rules(project: Project) -> Rows:
    """Bad rows by table and rule, most frequent first; the trend is over the last epochs, oldest first."""
    found: list[tuple[Any, ...]] = []
    storage = _lake(project)
    for name in project.config.tables:
        if f"quarantine.{name}" not in dict(_outputs(project)):
            continue
        epochs = [done.epoch for done in RefineLog(storage, name).done][-TREND:]
        _, rows = query(
            project,
            "select rule, _epoch, count(*), min(_ingested_at), max(_ingested_at) from (select unnest("
            f"string_split(rtrim(rules, ';'), ';')) as rule, * from quarantine.\"{name}\") group by all",
        )
        total: Counter[str] = Counter()
        by_epoch: Counter[tuple[str, int]] = Counter()
        span: dict[str, tuple[datetime, datetime]] = {}
        for rule, epoch, count, first, last in rows:
            total[rule] += count
            by_epoch[rule, epoch] += count
            low, high = span.get(rule, (first, last))
            span[rule] = (min(low, first), max(high, last))
        for rule, count in total.most_common():
            trend = " → ".join(str(by_epoch[rule, epoch]) for epoch in epochs)
            found.append((name, rule, count, *span[rule], trend))
    return ("table", "rule", "rows", "first", "last", "trend"), found


def quarantine_rows(project: Project, table: str, limit: int = 20, rule: str | None = None) -> Rows:
    """Bad rows of a table with file, line, rules and raw text; personal data is masked.

    A record that could not be split into fields is shown only if the contract marks no personal data.
    """
    if table not in project.config.tables:
        raise ConfigError(
            f"table `{table}` is not defined", hint=suggest(table, project.config.tables, "tables")
        )
    columns = ("file", "line", "rules", "raw", "fields", "landed", "epoch")
    _lake(project)
    if f"quarantine.{table}" not in dict(_outputs(project)):
        return columns, []
    chosen = rule.replace("'", "''") if rule else ""
    where = f"where list_contains(string_split(rules, ';'), '{chosen}')" if rule else ""
    _, rows = _ask(
        project,
        f'select _file, _line, rules, raw, fields, _ingested_at, _epoch from quarantine."{table}" {where} '
        f"order by _ingested_at desc, _line limit {int(limit)}",
        {},
    )
    private = _private(project, table)
    return columns, [_masked(row, private) for row in rows]


def _masked(row: Sequence[Any], private: set[str]) -> Sequence[Any]:
    if not private:
        return row
    file, line, rules, raw, fields, *rest = row
    try:
        values: Mapping[str, Any] = json.loads(fields) if fields else {}
    except ValueError:
        values = {}
    if not values:
        return (file, line, rules, HIDDEN, HIDDEN, *rest)
    shown = {name: HIDDEN if name in private and value else value for name, value in values.items()}
    text = str(raw)
    for name in private:
        if value := values.get(name):
            text = text.replace(str(value), HIDDEN).replace(json.dumps(value)[1:-1], HIDDEN)
    return (file, line, rules, text, json.dumps(shown, ensure_ascii=False), *rest)


def _lake(project: Project) -> LocalStorage:
    if not Path(project.lake).exists():
        raise ConfigError(f"there is no lake at {project.lake} yet", hint="`headrace run` makes it")
    return open_storage(project)


def _outputs(project: Project) -> list[tuple[str, TableAt]]:
    """Every table that a done epoch has written, at its newest version."""
    found = []
    for name, spec in project.config.tables.items():
        history = [f"silver.{name}_history"] if spec.history else []
        for output in (f"silver.{name}", f"quarantine.{name}", *history):
            at = Table(project.lake.joinpath(*output.split(".")), output).snapshot("").at
            if at.version >= 0:
                found.append((output, followed(spec, output, at)))
    for name in project.config.streams:
        at = Table(project.lake / "silver" / name, f"silver.{name}").snapshot("").at
        if at.version >= 0:
            found.append((at.table, at))
    return found


def _stale(
    project: Project,
    schemas: Mapping[str, Mapping[str, TableAt | str]],
    private: Mapping[str, Mapping[str, Sequence[str]]],
) -> dict[str, str]:
    """A view `<table>_stale` for each table of changes: keys whose newest change is in quarantine."""
    found = {}
    for name, spec in project.config.tables.items():
        silver, bad = schemas["silver"].get(name), schemas["quarantine"].get(name)
        if spec.changes and isinstance(silver, TableAt) and isinstance(bad, TableAt):
            hidden = not {*spec.keys}.isdisjoint(private.get("quarantine", {}).get(name, ()))
            found[f"{name}_stale"] = part("engines", "duckdb").stale(bad, silver, hidden=hidden)
    return found


def _records(storage: LocalStorage, table: str) -> Iterator[tuple[str, int]]:
    """Bronze key → records that refinement read from it."""
    for done in RefineLog(storage, table).done:
        yield from done.files.items()


def _landed(log: LandLog, records: Mapping[str, int]) -> list[Sequence[Any]]:
    return [
        (
            item.name,
            item.bytes,
            item.sha256,
            records.get(item.key, item.rows),
            json.dumps(record.end),
            json.dumps(dict(item.format)),
            item.arrived,
            record.epoch,
            item.key,
        )
        for record in log.records
        for item in record.objects
    ]


def _values(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """SQL of a relation that holds `rows`; an empty one has the columns all the same."""
    if not rows:
        return f"select {', '.join(f'null as {name}' for name in columns)} where false"
    kinds = {name: _kind(row[place] for row in rows) for place, name in enumerate(columns)}
    # one text of JSON, for the parser takes long over ten thousand rows of literals
    held = _literal(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
    return f"select unnest(from_json({held}, {_literal(json.dumps([kinds]))}), max_depth := 2)"


def _kind(values: Iterable[Any]) -> str:
    found = {type(value) for value in values if value is not None}
    if not found or not found <= {int, float}:
        return "VARCHAR"
    return "DOUBLE" if float in found else "BIGINT"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
