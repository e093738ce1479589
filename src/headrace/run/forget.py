"""Erasure of one subject from every layer: bronze, bases, tables and their old versions, gold.

Bronze objects that hold the subject are written anew without its records; one exclusively created record says
which took the place of which, without saying who. From then on every reader sees the new objects, and tables
are computed anew from them by the same refinement as ever. Killed anywhere, the next call does the rest.
"""

from __future__ import annotations

import getpass
import hashlib
import secrets
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ..core import Landed, TableAt
from ..errors import Busy, ConfigError
from ..failpoints import reach
from ..spec.project import Project
from ..store import forgotten
from ..store.base import DATA, Base, Expired, expired
from ..store.base import commit as commit_base
from ..store.delta import Table
from ..store.records import LandLog, RefineLog, utc
from ..store.storage import LocalStorage, scratch_folder, sync_files
from .alone import alone
from .compact import maintenance, outputs
from .corrected import corrections_log
from .golden import build_gold, gold_file
from .maintain import SCRATCH
from .opened import open_storage
from .parts import lands_of, part, refinery
from .refine import refine
from .report import Step, silent
from .runner import references
from .sweep import data_files
from .windows import refine_windows, windowing


@dataclass(frozen=True)
class Request:
    """Who is to be forgotten, and where."""

    project: Project
    storage: LocalStorage
    column: str
    value: str
    tables: Sequence[str]
    """Those that have the column."""
    scratch: Path
    engine: Any

    def names(self, stream_of: str) -> list[str]:
        """Every name that the column has in files of a source."""
        found = [self.column]
        for name in self.tables:
            spec = self.project.config.tables[name]
            if stream_of in spec.source:
                found += spec.contract.columns[self.column].source
        return list(dict.fromkeys(found))


def forget(
    project: Project,
    column: str,
    value: str,
    *,
    table: str | None = None,
    reason: str = "",
    dry_run: bool = False,
) -> Iterator[Step]:
    """Erases all records whose `column` is `value` from the lake; no rebuild can bring them back.

    Fields of bronze are compared without regard to case and outer blanks. `dry_run` counts only. Raises
    `Busy` while a run is at work or an epoch is unfinished, `ConfigError` where records cannot be taken out.
    """
    if not value.strip():
        raise ConfigError(
            "there is no value to look for", hint="such as `headrace forget email=ann@example.org`"
        )
    config = project.config
    tables = [
        name
        for name, spec in config.tables.items()
        if column in spec.contract.columns and table in (None, name)
    ]
    if not tables:
        raise ConfigError(f"no table has a column `{column}`", hint=f"tables: {', '.join(config.tables)}")
    storage = open_storage(project)
    with ExitStack() as stack:
        stack.enter_context(alone(project.lake))
        stack.enter_context(alone(project.lake, "maintenance"))
        for name in (*config.tables, *config.streams):
            if plans := RefineLog(storage, name).open_plans():
                raise Busy(
                    f"table `{name}`: epoch {plans[-1].next} is not finished", hint="`headrace run` first"
                )
        scratch = stack.enter_context(scratch_folder(project.lake / SCRATCH))
        key = config.pii_key.encode() if config.pii_key else None
        engine = stack.enter_context(part("engines", "duckdb")(scratch, config.memory, pii_key=key))
        work = Request(project, storage, column, value, tables, scratch, engine)
        replaced, records = _rewritten(work, dry_run=dry_run)
        yield Step("erase from bronze", records, 0, f"records in {len(replaced)} objects")
        if unseen := _unseen(work):
            why = f"{unseen} objects of formats that cannot be taken apart were not searched"
            yield Step("search bronze", note=why, skipped=True)
        if dry_run:
            return
        storage.sync(item["key"] for item in replaced.values())
        reach("forget.rewritten")
        bases, gone = _bases(work)
        unused = _unused(work, bases) if gone else _unused(work, expired(storage).bases)
        if replaced or gone:
            salt = secrets.token_hex(16)
            forgotten.commit(storage, _erasure(work, replaced, records, salt, reason))
            reach("forget.record")
        if gone or unused:  # after the record: found again if we are killed here
            _swap(work, bases, unused)
            yield Step("erase from bases", gone, 0, "rows")
        yield from _cleaned(work)


def _erasure(
    work: Request, replaced: Mapping[str, Mapping[str, Any]], records: int, salt: str, reason: str
) -> forgotten.Erasure:
    who = "somebody"
    with suppress(KeyError, OSError):
        who = getpass.getuser()
    return forgotten.Erasure(
        forgotten.newest(work.storage) + 1,
        utc(),
        who,
        reason,
        salt,
        hashlib.sha256(f"{salt}{work.column}={work.value}".encode()).hexdigest(),
        [work.column],
        work.tables,
        records,
        uuid.uuid4().hex,
        replaced,
    )


def _logs(work: Request) -> Iterator[tuple[str, LandLog]]:
    """(source, log) of every land stream that feeds the tables, corrections included."""
    sources = {source: None for name in work.tables for source in work.project.config.tables[name].source}
    for source in sources:
        yield source, LandLog(work.storage, work.project.stream(source))
    for name in work.tables:
        yield work.project.config.tables[name].source[0], corrections_log(work.storage, name)


def _rewritten(work: Request, *, dry_run: bool) -> tuple[dict[str, dict[str, Any]], int]:
    """New objects in the place of those that hold the subject; nothing refers to them yet."""
    state = expired(work.storage)
    found: dict[str, dict[str, Any]] = {}
    records = 0
    for source, log in _logs(work):
        names = work.names(source)
        for epoch, item in log.objects(-1, log.epoch):
            if state.lacks(log.stream, epoch, item):
                continue
            path = work.storage.checked(item, work.scratch)
            clean = work.scratch / f"{uuid.uuid4().hex}.clean"
            try:
                count, form = work.engine.erase(path, item.format, names, work.value, clean)
            except ConfigError as error:
                raise ConfigError(error.message, hint=error.hint, where=f"{item.name} ({item.key})") from None
            if count:
                records += count
                found[item.key] = {} if dry_run else _stored(work.storage, item, clean, (count, form))
    return found, records


def _unseen(work: Request) -> int:
    """How many objects there are in whose bytes a value cannot be seen."""
    state = expired(work.storage)
    return sum(
        item.format.get("type") not in work.engine.searched
        for _, log in _logs(work)
        for epoch, item in log.objects(-1, log.epoch)
        if not state.lacks(log.stream, epoch, item)
    )


def _stored(
    storage: LocalStorage, item: Landed, clean: Path, erased: tuple[int, Mapping[str, Any]]
) -> dict[str, Any]:
    count, form = erased[0], dict(erased[1])
    folder, _, name = item.key.rpartition("/")
    key = f"{folder}/{uuid.uuid4().hex}-{name.partition('-')[2] or name}"
    if form.get("type") != item.format.get("type"):
        key += f".{form['type']}"
    data = clean.read_bytes()
    storage.write(key, [data])
    clean.unlink()
    rows = None if item.rows is None else item.rows - count
    if "rows" in form and form["rows"] is not None:
        form["rows"] -= count
    return {
        "key": key,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "rows": rows,
        "format": form,
        "key_id": storage.cipher.current if storage.cipher else None,
    }


def _bases(work: Request) -> tuple[dict[str, Base], int]:
    """The bases of expired bronze without the subject, and how many rows go; nothing refers to them yet."""
    state = expired(work.storage)
    into = work.storage.path(f"{DATA}/{uuid.uuid4().hex}")
    bases: dict[str, Base] = dict(state.bases)
    gone = 0
    for name in set(work.tables) & set(state.bases):
        changed: dict[str, TableAt] = dict(state.bases[name].outputs)
        for output, at in changed.items():
            new = work.engine.kept_rows(at, at.files, into / output, f"({_is(work, name)}) IS NOT TRUE")
            lost = sum(file.rows for file in at.files) - sum(file.rows for file in new)
            if lost:
                changed[output] = replace(at, files=new)
                sync_files((file.path for file in new), work.storage.root)
                gone += lost
        bases[name] = replace(state.bases[name], outputs=changed)
    if not gone:
        shutil.rmtree(into, ignore_errors=True)
    return bases, gone


def _unused(work: Request, bases: Mapping[str, Base]) -> set[str]:
    """Keys of files that are of none of `bases`: what an expiry or erasure that was killed has left, too."""
    kept = {file.path for base in bases.values() for at in base.outputs.values() for file in at.files}
    return {key for key in work.storage.list(DATA) if work.storage.path(key) not in kept}


def _swap(work: Request, bases: dict[str, Base], unused: set[str]) -> None:
    """Makes new bases those of the lake, by one record, and deletes all other files of bases.

    Raises `Busy`, with nothing deleted, if an epoch has been planned since: it may read the old ones.
    """
    state = expired(work.storage)
    record = Expired(0, utc(), state.gone, bases, {}, uuid.uuid4().hex)
    commit_base(work.storage, state, record)
    for name in work.project.config.tables:
        if plans := RefineLog(work.storage, name).open_plans():
            raise Busy(
                f"table `{name}`: epoch {plans[-1].next} was planned in the meantime",
                hint="`headrace run`, then `headrace forget` again: it does the rest",
            )
    work.storage.delete(unused)


def _is(work: Request, table: str) -> str:
    """SQL: the column of a table holds the subject, clear or hashed."""
    mask = work.project.config.tables[table].contract.columns[work.column].mask
    value = work.value.strip().replace("'", "''")
    quoted = f'"{work.column}"'
    clear = f"lower(trim({quoted}::VARCHAR)) = lower('{value}')"
    if mask is None:
        return clear
    if mask == "hash":
        from ..sql.masks import masked

        work.engine.session.set("headrace_pii_key", work.engine.secret())
        hashed = f"(SELECT {masked(work.column, mask)} FROM (SELECT '{value}' AS {quoted}))"
        return f"{clear} OR {quoted} = {hashed}"
    raise ConfigError(
        f"table `{table}`: rows of expired bronze hold `{work.column}` masked by {mask}",
        hint="forget by another column of the same records",
    )


def _cleaned(work: Request) -> Iterator[Step]:
    """Tables anew from what bronze is now; then nothing of before is left."""
    config = work.project.config
    needs = {name: [n for n in references(spec) if n != name] for name, spec in config.tables.items()}
    for name in TopologicalSorter(needs).static_order():
        log = RefineLog(work.storage, name)
        lands = lands_of(
            config.tables[name], lambda source: LandLog(work.storage, work.project.stream(source))
        )
        if log.last is None or log.last.forgotten >= forgotten.newest(work.storage):
            continue
        with refinery(work.project, name, work.storage, lands, work.scratch / name, silent) as refining:
            report = refine(refining)
        rows = report.ledger.inserted
        yield Step(f"rebuild silver.{name}", rows, 0, f"rows; epoch {report.epoch}")
        reach("forget.table")
    for name in config.streams:
        if (last := RefineLog(work.storage, name).last) is None:
            continue
        if last.forgotten < forgotten.newest(work.storage):
            with windowing(work.project, name, work.storage, work.scratch / name, silent) as windows:
                report = refine_windows(windows)
            yield Step(f"rebuild silver.{name}", report.ledger.read, 0, f"windows; epoch {report.epoch}")
            reach("forget.table")
    stamp = f"_headrace/purged/{forgotten.newest(work.storage):012d}.json"
    if not forgotten.newest(work.storage) or work.storage.path(stamp).exists():
        return
    for key in forgotten.erased_keys(work.storage):
        if work.storage.path(key).exists():
            work.storage.delete([key])
            reach("forget.deleted")
    for name in (*config.tables, *config.streams):
        for table in outputs(work.storage, name):
            yield from _purged(work, table)
    gold = gold_file(work.project)
    if config.gold and gold.exists():
        gold.unlink()
        report_ = build_gold(work.project, work.storage)
        yield Step("gold", 1, 0, "built anew" if report_.passed else f"must be built anew: {report_.error}")
    work.storage.create(stamp, b"{}")


def _purged(work: Request, table: Table) -> Iterator[Step]:
    """Files of older versions go at once, and bounds of columns that name the subject go from the old log."""
    snapshot = table.snapshot("")
    live = {file.path for file in snapshot.at.files}
    old = [path for path, _ in data_files(table.path) if path not in live]
    if old:
        table.commit(maintenance(snapshot, "erase"))
        reach("maintain.fenced")
        for path in old:
            path.unlink(missing_ok=True)
        yield Step(f"erase from {table.name}", len(old), 0, "files of older versions")
    if count := table.forget_bounds(snapshot.at.version, work.value.strip()):
        yield Step(f"erase from the log of {table.name}", count, 0, "entries")
