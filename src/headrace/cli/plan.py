"""`headrace plan`: what the next run will do, as text that people read before they let it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import OK, USAGE

if TYPE_CHECKING:
    from ..gold.lineage import Touched
    from ..run.cost import Cost
    from ..run.pending import Waiting
    from ..run.plan import PipelinePlan, TablePlan
    from ..spec.project import Project

UNITS = ("B", "kB", "MB", "GB", "TB")


def plan(
    path: Annotated[Path, typer.Argument(help="Pipeline file, or a folder with pipeline.yml.")] = Path(),
    accept: Annotated[
        bool, typer.Option("--accept", help="Record that the breaking changes shown may be made.")
    ] = False,
    adopt: Annotated[
        list[str] | None,
        typer.Option("--adopt", help="Keep this table's rows of expired bronze as they are; repeatable."),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with --adopt.")] = "",
    env: Annotated[
        str | None, typer.Option("--env", "-e", help="Environment overlay; default $HEADRACE_ENV.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One machine-readable document on stdout.")] = False,
) -> None:
    """Show what the next run will do, and what a changed definition breaks.

    Nothing is run. The exit code is 2 if `headrace run` would refuse a table.
    """
    import json

    from .. import redact
    from ..run.plan import plan as look
    from ..spec.load import load

    project = load(path, env)
    adopted = [f"table {table}  {_adopted(project, table, reason)}" for table in adopt or ()]
    found = look(project, accepting=accept)
    if as_json:
        typer.echo(redact.text(json.dumps(found.to_json(), default=str)))
    else:
        for line in [*adopted, *plan_lines(found)]:
            typer.echo(redact.text(line))
    raise typer.Exit(USAGE if found.refused else OK)


def _adopted(project: Project, table: str, reason: str) -> str:
    from ..run.opened import open_storage
    from ..run.retention import adopt

    kept = adopt(project, open_storage(project), table, reason=reason)
    return "its rows of expired bronze stay as they are" if kept else "nothing of its bronze has expired"


def plan_lines(found: PipelinePlan) -> list[str]:
    """Sources, tables with what changes in them, gold, and what to do next."""
    lines = [line for source in found.sources for line in _source(source)]
    lines += [line for table in found.tables for line in _table(table)]
    if found.gold:
        lines.append(f"gold  builds: {found.gold}")
    lines += [f"target {name}  receives: {', '.join(tables)}" for name, tables in found.targets.items()]
    refused = [table.name for table in found.tables if table.refused]
    if refused:
        lines += [
            "",
            f"breaking changes of {', '.join(refused)}: `headrace run` refuses them until they are accepted",
            "next: headrace plan --accept, or headrace run --accept-changes",
        ]
    return lines


def _source(source: Waiting) -> Iterator[str]:
    if source.error:
        yield f"source {source.name}  cannot be listed: {source.error}"
    elif not source.known:
        yield f"source {source.name}  what is new is known when it is read"
    elif source.new or source.changed:
        counts = [f"{source.new:,} new" if source.new else "", _changed(source.changed)]
        told = ", ".join(filter(None, counts))
        yield f"source {source.name}  {told} ({_bytes(source.bytes)})"
    else:
        yield f"source {source.name}  0 new files"
    yield from (f"  {note}" for note in source.notes)


def _changed(count: int) -> str:
    return f"{count:,} changed, unless their content is the same" if count else ""


def _table(table: TablePlan) -> Iterator[str]:
    because = f": {table.reason}" if table.reason else ""
    yield f"table {table.name}  {table.action}{because}"
    for change in table.changes:
        mark = "!" if change.breaking else "~"
        why = f"  breaking: {change.breaks}" if change.breaking else ""
        yield f"  {mark} {change.what}: {change.how}{why}"
    if table.breaking and table.accepted:
        yield "    accepted"
    if table.changes and table.columns:
        every = table.columns == ("*",)
        yield "  values  " + ("every column" if every else ", ".join(table.columns))
    yield from (f"  gold    {_touched(item)}" for item in table.gold)
    if table.gold_unknown:
        yield f"  gold    {table.gold_unknown}"
    if table.referring:
        yield f"  also    {', '.join(table.referring)}: checked against it, anew only for new rows"
    if table.action in ("increment", "rebuild", "finish"):
        yield f"  reads   {_cost(table.cost)}"
        for item in table.stored:
            verb = "replaces" if table.action == "rebuild" else "changes"
            yield f"  {verb:<7} {item.table} version {item.version}: {item.rows:,} rows, {_bytes(item.bytes)}"


def _touched(item: Touched) -> str:
    parts = [f"{item.model}: {', '.join(item.columns)}" if item.columns else item.model]
    parts += ["which rows it has"] if item.rows else []
    parts += [item.unknown] if item.unknown else []
    return "; ".join(parts)


def _cost(cost: Cost) -> str:
    files = "1 file" if cost.files == 1 else f"{cost.files:,} files"
    parts = [files, _bytes(cost.bytes)]
    if cost.rows is not None and cost.files:
        parts.append(f"about {cost.rows:,} rows")
    if cost.seconds is not None:
        parts.append(f"about {_duration(cost.seconds)} (at {cost.rate:,.0f} rows/s, as before)")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(size: float, units: Sequence[str] = UNITS) -> str:
    """Three digits are enough.

    >>> _bytes(999), _bytes(48_300_000)
    ('999 B', '48.3 MB')
    """
    if size < 1000 or len(units) == 1:
        return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
    return _bytes(size / 1000, units[1:])
