"""Mode `watermark`: rows whose column is at least the last value seen, less an overlap.

Rows that share the last value may come later, so they are read again; the table's keys make that harmless.
The position holds the last value, and the number and a hash of the rows that stood in the window then:
nothing grows, and while that window is as it was nothing lands. What is not seen: deletes, rows without a
value, and rows that a long transaction commits with a value from before the overlap (modes `cdc` and
`trigger` see them).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core import Batch, Position, Reading
from ..drivers.postgres import Connection
from ..errors import ConfigError
from .postgres_full import lazily
from .postgres_server import Server, ident, literal
from .postgres_snapshot import Chunk, Readers, plan, query_of, read_chunks, shared_snapshot
from .postgres_tables import Table, find_tables

if TYPE_CHECKING:
    from .postgres import Postgres

_TYPE = (
    "select format_type(atttypid, atttypmod), typcategory::text "
    "from pg_attribute join pg_type t on t.oid = atttypid"
)


def read_watermark(source: Postgres, server: Server, start: Position | None, ctx: Reading) -> Iterator[Batch]:
    """One batch a table with news, all tables as of the same moment."""
    del ctx
    with closing(server.connect()) as con:
        tables = find_tables(server, con, source.tables, "rpvmf")
        columns = {full: _column(source, server, con, table) for full, table in tables.items()}
        first = {full: plan(server, con, table, {}, source.chunk_mb << 20) for full, table in tables.items()}
        states = dict((start or {}).get("tables", {}))
        with shared_snapshot(server, source.parallel) as readers:
            for full, table in tables.items():
                column, kind = columns[full]
                old = states.get(full)
                window = _window(column, kind, old, _of(source.overlap, table))
                if old and _signature(readers, table, window) == old["seen"]:
                    continue
                last = readers.look(f"select max({ident(column)})::text from {table.sql}")[0][0]
                if last is None:
                    continue
                new = {"last": last, "kind": kind}
                new["seen"] = _signature(
                    readers, table, _window(column, kind, new, _of(source.overlap, table))
                )
                states = {**states, full: new}
                whole = replace(first[full][0], start=0, stop=None, table=replace(table, filter=window))
                chunks = [_unranged(whole)] if old else first[full]
                mark = json.dumps([old and old["seen"], new], sort_keys=True).encode()
                prefix = f"{full}/{hashlib.sha256(mark).hexdigest()[:20]}"
                names = {chunk: f"{prefix}-{place:06d}" for place, chunk in enumerate(chunks)}
                with closing(
                    read_chunks(readers, chunks, lambda c: query_of(c, {}, c.table.columns), float("inf"))
                ) as reading:
                    yield Batch(lazily(reading, names), {"tables": states})


def _unranged(chunk: Chunk) -> Chunk:
    """All rows of the table, of whatever partition; its index on the column serves the window."""
    table = chunk.table
    return replace(chunk, leaf=replace(chunk.leaf, sql=table.sql, kind="v"))


def _window(column: str, kind: str, state: dict[str, Any] | None, overlap: str) -> str:
    """SQL: the rows that may be new; all of them at first."""
    if state is None:
        return ""
    bound = f"{literal(state['last'])}::{kind}"
    if overlap:
        what = (
            f"{literal(overlap)}::interval"
            if kind.startswith(("date", "time"))
            else f"{literal(overlap)}::numeric"
        )
        bound = f"({bound} - {what})"
    return f"{ident(column)} >= {bound}"


def _signature(readers: Readers, table: Table, window: str) -> list[str]:
    """Number of rows in the window, and a hash of them that knows no order."""
    wanted = ", ".join(ident(name) for name in table.columns)
    rows = f"select {wanted} from {table.sql} where {window or 'true'}"
    query = f"select count(*)::text, coalesce(sum(hashtextextended(w::text, 0)), 0)::text from ({rows}) w"
    return [str(value) for value in readers.look(query)[0]]


def _column(source: Postgres, server: Server, con: Connection, table: Table) -> tuple[str, str]:
    """The table's watermark column and its type; raises `ConfigError` if it has none that can be ordered."""
    name = _of(source.watermark, table)
    if name not in table.columns:
        raise ConfigError(
            f"source {source.name}: watermark: {table.full} has no column `{name}`",
            hint=f"its columns are {', '.join(table.columns[:12])}; "
            f"by table it is written `watermark: {{{table.shown}: updated_at}}`",
        )
    rows = server.rows(con, f"{_TYPE} where attrelid = %s and attname = %s", [table.oid, name])
    kind, category = rows[0]
    if category not in ("D", "N", "S") and kind not in ("xid8", "pg_lsn"):
        raise ConfigError(
            f"source {source.name}: watermark: column `{name}` of {table.full} is {kind}",
            hint="name a number, a timestamp or a date that grows with every write",
        )
    return name, str(kind)


def _of(setting: str | dict[str, str], table: Table) -> str:
    return setting if isinstance(setting, str) else setting.get(table.shown, "")
