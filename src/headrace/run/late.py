"""Late references: rows quarantined for want of what they refer to are taken up once that has come."""

from __future__ import annotations

import json
from contextlib import suppress

from ..store.hold import held
from ..store.records import Done, RefineLog
from .corrections import arrived
from .planned import next_plan
from .refinery import Refinery
from .report import Event


def take_up(work: Refinery, *, dry_run: bool = False) -> int:
    """Lands replays of rows whose reference has arrived since they were judged; how many rows.

    The replay is a correction like one that a person lands: durable, refined exactly once, and counted as
    corrected. Only rows that pass all rules now are replayed. Nothing is looked at unless a table that is
    referred to has changed, nor where the table is held, unfinished, replaced by each delivery, computed anew
    or fed by changes.
    """
    log = RefineLog(work.storage, work.name)
    last = log.last
    rules = {
        f"{column}.reference": spec.references.partition(".")[0]
        for column, spec in work.spec.contract.columns.items()
        if spec.references and spec.on_missing == "quarantine" and spec.severity == "quarantine"
    }
    if not rules or last is None or work.spec.effective_mode == "replace" or work.spec.changes:
        return 0
    now = {name: work.sink.table(f"silver.{name}").snapshot("").at.version for name in set(rules.values())}
    moved = {rule: name for rule, name in rules.items() if now[name] != last.references.get(name)}
    if not moved or _looked(work, last, now) or log.open_plans() or held(work.storage, work.name):
        return 0
    due = next_plan(work, log, None)
    if due and due.mode == "rebuild":
        return 0
    rows = 0
    for rule, name in moved.items():
        rows += arrived(work, last, rule, f"{name} has changed", dry_run=dry_run)
    if dry_run:
        return rows
    if rows:
        told = f"{rows:,} rows go through the rules again: what they refer to has arrived"
        work.listener(Event(f"refine:{work.name}", "note", message=told))
    else:
        _note(work, last, now)
    return rows


def _looked(work: Refinery, last: Done, versions: dict[str, int]) -> bool:
    """Whether this was looked at before, and nothing had arrived: a note that may be lost."""
    with suppress(OSError, ValueError):
        found = json.loads((work.storage.root / _key(work)).read_text())
        return bool(found == {"epoch": last.epoch, "versions": versions})
    return False


def _note(work: Refinery, last: Done, versions: dict[str, int]) -> None:
    path = work.storage.root / _key(work)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"epoch": last.epoch, "versions": versions}))


def _key(work: Refinery) -> str:
    return f"_headrace/late/{work.name}.json"
