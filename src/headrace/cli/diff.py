"""`headrace diff`: what changed in silver between two runs, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..run.compare import Comparison, Example
    from ..run.diff import RunDiff, TableDiff

WIDE = 6
"""Values of an example that a line shows."""


def diff(
    first: Annotated[str, typer.Argument(metavar="RUN1", help="A run id, an epoch or a time.")],
    second: Annotated[str, typer.Argument(metavar="RUN2", help="The later one.")],
    table: Annotated[str | None, typer.Option("--table", "-t", help="Only this silver table.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Examples of each kind.")] = 3,
    path: Annotated[
        Path, typer.Option("--path", "-p", help="Pipeline file, or a folder with pipeline.yml.")
    ] = Path(),
    env: Annotated[
        str | None, typer.Option("--env", "-e", help="Environment overlay; default $HEADRACE_ENV.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One machine-readable document on stdout.")] = False,
) -> None:
    """Show which rows and columns of silver changed between two runs, and what caused it.

    Personal data is masked.
    """
    import json

    from .. import redact
    from ..run.diff import diff as compare
    from ..spec.load import load
    from .output import cell

    found = compare(load(path, env), first, second, table=table, examples=limit)
    if as_json:
        typer.echo(json.dumps(found.to_json(), default=cell))
        return
    for line in diff_lines(found):
        typer.echo(redact.text(line))


def diff_lines(found: RunDiff) -> list[str]:
    """One line per table, then what differs and why."""
    lines = [f"note  {note}" for note in found.notes]
    for table in found.tables:
        lines += _table(table)
    return lines or ["no table was there yet"]


def _table(table: TableDiff) -> Iterator[str]:
    before, after = ("none" if epoch < 0 else str(epoch) for epoch in table.epochs)
    if table.epochs[0] == table.epochs[1]:
        yield f"table {table.table}  the same epoch, {after}"
        return
    yield f"table {table.table}  epoch {before} → {after}: {_counts(table)}"
    yield from (f"  + column {name}" for name in table.columns_added)
    yield from (f"  - column {name}" for name in table.columns_removed)
    yield from (f"  ~ column {name}: {old} → {new}" for name, (old, new) in table.columns_retyped.items())
    compared = table.comparison
    if compared.columns:
        told = ", ".join(f"{name} in {count:,}" for name, count in compared.columns.items())
        yield f"  changed rows by column: {told}"
    if compared.files:
        told = ", ".join(f"{name} {count:,}" for name, count in compared.files.items())
        yield f"  rows by file: {told}"
    yield from (f"  {_example(item)}" for item in compared.examples)
    for cause in table.causes:
        yield f"  {cause.kind}: {cause.what}"
        yield from (f"    {detail}" for detail in cause.details)
    if not table.causes and not table.same:
        yield "  nothing that the records know of differs: was the table changed by another program?"


def _counts(table: TableDiff) -> str:
    compared: Comparison = table.comparison
    if table.same:
        return f"no difference in {compared.rows_after:,} rows"
    kinds = {"added": compared.added, "removed": compared.removed, "changed": compared.changed}
    told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count) or "no row differs"
    return f"{told} ({compared.rows_before:,} → {compared.rows_after:,} rows)"


def _example(item: Example) -> str:
    sign = {"added": "+", "removed": "-", "changed": "~"}[item.kind]
    key = ", ".join(f"{name}={_shown(value)}" for name, value in item.key.items())
    pairs = list(item.values.items())[:WIDE]
    if item.kind == "changed":
        told = ", ".join(f"{name} {_shown(old)} → {_shown(new)}" for name, (old, new) in pairs)
    else:
        side = 0 if item.kind == "removed" else 1
        told = ", ".join(f"{name}={_shown(both[side])}" for name, both in pairs)
    more = ", …" if len(item.values) > WIDE else ""
    return f"{sign} " + ": ".join(filter(None, [key, told + more]))


def _shown(value: Any) -> str:
    from .output import cell

    text = cell(value)
    return "none" if value is None else text if len(text) <= 40 else f"{text[:39]}…"
