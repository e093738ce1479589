"""What people and machines read: pure functions from results to text."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from ..run.report import GoldReport, LoadResult, RunReport, TableReport

SHOWN = 1000
"""Rows that a table on a terminal holds; csv and json give all."""


def _said_once(reason: str, name: str) -> str:
    """`reason` without the name at its start, which stands before it already."""
    return reason.removeprefix(f"{name}: ").removeprefix(f"{name} ")


def run_lines(report: RunReport) -> list[str]:
    """One line per table that counts every row, then one per thing that went wrong."""
    looked = bool(report.sources)
    lines = _table_lines([item for item in report.tables if not item.error], looked=looked)
    if report.gold is not None and not report.gold.noop:
        lines += _gold_lines(report.gold)
    lines += [line for load in report.loads if (line := _load_line(load))]
    for source in report.sources:
        for name, reason in source.refused:
            lines.append(f"refused  {source.name}: {name}: {_said_once(reason, name)}")
        lines += [f"vanished  {source.name}: {name}" for name in source.vanished]
        lines += [f"note  {remark}" for remark in source.remarks]
        if source.error:
            lines.append(f"failed  source {source.name}: {_said_once(source.error, f'source {source.name}')}")
    for item in report.tables:
        lines += [f"failed  table {item.name}: {item.error}"] if item.error else []
        if item.late:
            rows = "row" if item.late == 1 else "rows"
            lines.append(f"late  {item.name}: {item.late:,} {rows} in windows that were closed; corrected")
        lines += [f"rebuilt  {item.name}: {item.rebuilt}"] if item.rebuilt else []
        lines += [f"warned  {item.name}: {rule}  {rows:,} rows" for rule, rows in sorted(item.warned.items())]
        for check in item.checks:
            if not check["passed"]:
                verdict = "warned" if check["severity"] == "warn" else "stopped"
                lines.append(f"{verdict}  {item.name}: {check['name']}: {check['value']}")
    if report.error and not any(report.error in line for line in lines):
        lines.append(f"failed  {report.error}")
    return lines


def where_to_look(report: RunReport, here: Path) -> list[str]:
    """The paths and next commands, for what this run wrote."""
    good = [item for item in report.tables if not item.error]
    lines = [("silver", _relative(Path(item.path), here)) for item in good if item.path]
    if report.gold is not None and report.gold.passed and report.gold.path:
        lines.append(("gold", _relative(Path(report.gold.path), here)))
    if good:
        largest = max(good, key=lambda item: 0 if item.windows else item.ledger.read)
        lines.append(("look", f'headrace query "select * from silver.{largest.name} limit 10"'))
    bad = sum(item.ledger.quarantined for item in good)
    if bad:
        lines.append(("quarantine", f"headrace quarantine list    ({bad:,} rows of this run)"))
    return _columns(lines)


def _table_lines(tables: Sequence[TableReport], *, looked: bool) -> list[str]:
    """`sales  read 12 = loaded 10 + unchanged 2   0.3 s`, aligned below one another.

    Where no source was asked, nobody has `looked` whether there are new files.
    """
    name = max((len(item.name) for item in tables), default=0)
    digits = max((len(f"{item.ledger.read:,}") for item in tables if not item.noop), default=0)
    told = {item.name: _terms(item) for item in tables if not item.noop}
    width = max(map(len, told.values()), default=0)
    word = max((len(_counted(item)) for item in tables if not item.noop), default=0)
    lines = []
    for item in tables:
        if item.held:
            lines.append(f"{item.name:<{name}}  {item.held} (`headrace restore {item.name} --release`)")
        elif item.noop and item.windows:
            lines.append(f"{item.name:<{name}}  nothing new in {item.windows}")
        elif item.noop:
            none = "0 new files" if looked else f"new files: not looked for (`-s +{item.name}` does)"
            lines.append(f"{item.name:<{name}}  {none}")
        else:
            fixed = f" + corrected {item.ledger.corrected:,}" if item.ledger.corrected else ""
            fixed += f" + truncated {item.ledger.truncated:,}" if item.ledger.truncated else ""
            counts = (
                f"{_counted(item):<{word}} {item.ledger.read:>{digits},}{fixed} = {told[item.name]:<{width}}"
            )
            lines.append(f"{item.name:<{name}}  {counts}   {item.seconds:.1f} s")
    return lines


def _counted(item: TableReport) -> str:
    return "windows" if item.windows else "read"


def _terms(item: TableReport) -> str:
    ledger = item.ledger
    if item.windows:
        words = ("inserted", "updated", "unchanged", "deleted")
        return " + ".join(f"{w} {getattr(ledger, w):,}" for w in words if getattr(ledger, w)) or "0"
    detail = f" ({ledger.inserted:,} new, {ledger.updated:,} updated)" if ledger.updated else ""
    terms = [f"loaded {ledger.loaded:,}{detail}"] if ledger.loaded else []
    for word in ("unchanged", "deleted", "deduplicated", "quarantined", "filtered", "late", "superseded"):
        count = getattr(ledger, word)
        terms += [f"{word} {count:,}"] if count else []
    dropped = f"; in place of {ledger.removed:,} old rows" if ledger.removed else ""
    return (" + ".join(terms) or "0") + dropped


def _gold_lines(gold: GoldReport) -> list[str]:
    if gold.error:
        lines = [f"failed  gold: {gold.error}"]
    else:
        kinds = Counter(node["kind"] for node in gold.nodes)
        told = ", ".join(f"{kinds[kind]} {kind}s" for kind in ("model", "test") if kinds[kind])
        lines = [f"gold  {told}   {gold.seconds:.1f} s"]
    for node in gold.nodes:
        if node["status"] not in ("success", "pass", "skipped", "no-op"):
            lines.append(f"{node['status']}  gold {node['name']}: {node['message']}")
    return lines


def _load_line(load: LoadResult) -> str:
    """`published  warehouse.orders  12 new, 3 updated, 1 deleted   0.1 s`, or what went wrong."""
    if load.error:
        word = "not published" if load.error.startswith("skipped: ") else "failed  target"
        return f"{word} {load.name}: {load.error}"
    if load.noop:
        return ""
    counts = {"new": load.inserted, "updated": load.updated, "unchanged": load.unchanged}
    counts |= {"deleted": load.deleted, "taken away": load.removed}
    told = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count) or "nothing changed"
    why = f" ({load.reason})" if load.reason else ""
    return f"published  {load.name}  {told}{why}   {load.seconds:.1f} s"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], out: TextIO | None = None) -> None:
    """An aligned table of at most `SHOWN` rows; says so if there are more."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = out or sys.stdout
    shown = list(islice(iter(rows), SHOWN + 1))
    numeric = [all(_is_number(row[i]) for row in shown) for i in range(len(columns))]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for name, right in zip(columns, numeric, strict=True):
        grid.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in shown[:SHOWN]:
        grid.add_row(*[Text(cell(value)) for value in row])
    if out.isatty():
        Console(file=out, highlight=False).print(grid)
    else:
        # Nothing is folded: another program may read it by line.
        text = StringIO()
        Console(file=text, width=100_000, highlight=False).print(grid)
        out.writelines(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())
    if len(shown) > SHOWN:
        print(f"first {SHOWN:,} rows; --format csv or json gives all", file=sys.stderr)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float, Decimal)) and not isinstance(value, bool))


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]], out: TextIO | None = None) -> None:
    """RFC 4180 with LF; a missing value is an empty field."""
    writer = csv.writer(out or sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([cell(value) for value in row])


def as_json(columns: Sequence[str], rows: Iterable[Sequence[Any]], out: TextIO | None = None) -> None:
    """One JSON array of objects, a row a line; decimals keep every digit."""
    out = out or sys.stdout
    names = [json.dumps(name) for name in columns]
    out.write("[")
    for number, row in enumerate(rows):
        pairs = (f"{name}: {_literal(value)}" for name, value in zip(names, row, strict=True))
        out.write((",\n " if number else "") + "{" + ", ".join(pairs) + "}")
    out.write("]\n")


FORMATS: dict[str, Callable[..., None]] = {"table": table, "csv": as_csv, "json": as_json}


def cell(value: Any) -> str:
    """A value as text: exact decimals, ISO dates, UTC times with Z, nothing for a missing value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat(sep=" ").replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (list, dict)):
        return json.dumps(value, default=cell, ensure_ascii=False)
    return str(value)


def _literal(value: Any) -> str:
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, float) and not math.isfinite(value):
        return "null"
    if isinstance(value, datetime):
        return json.dumps(value.isoformat().replace("+00:00", "Z"))
    return json.dumps(value, default=cell, ensure_ascii=False)


def _relative(path: Path, here: Path) -> str:
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {text}" for name, text in rows]
