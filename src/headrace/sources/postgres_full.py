"""Mode `snapshot`: all rows every time, as of one moment; what did not change does not land again.

A table's chunks are versions of the same objects from run to run, so that a chunk without a change is dropped
by its hash, and a changed one takes back the rows of its former version. All chunks of a table land in one
commit: readers never see half of one moment and half of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, BinaryIO

from ..core import Batch, Position, RawFile, Reading
from .postgres_server import Server, Spool
from .postgres_snapshot import Chunk, Readers, plan, query_of, read_chunks, shared_snapshot
from .postgres_tables import Table, find_tables
from .raw import delimited

if TYPE_CHECKING:
    from .postgres import Postgres

Reader = Iterator[tuple[Chunk, Spool]]


def read_full(source: Postgres, server: Server, start: Position | None, ctx: Reading) -> Iterator[Batch]:
    """One batch a table. One that is suspiciously empty or small is noted as refused and left as it was."""
    with closing(server.connect()) as con:
        tables = find_tables(server, con, source.tables, "rpvmf")
        chunks = {full: plan(server, con, table, {}, source.chunk_mb << 20) for full, table in tables.items()}
        end = dict(start or {"snapshot": "ledger"})
        with shared_snapshot(server, source.parallel) as readers:
            for full, table in tables.items():
                before = rows_before(table, ctx)
                if before and (why := _suspicious(source, table, readers, sum(before.values()))):
                    note: Callable[[str, str, str], None] = getattr(ctx, "note", lambda *_: None)
                    note("refused", full, why)
                    continue
                names = {chunk: f"{full}/{chunk.leaf.oid}-{chunk.start:010d}" for chunk in chunks[full]}
                with closing(
                    read_chunks(
                        readers, chunks[full], lambda c: query_of(c, {}, c.table.columns), float("inf")
                    )
                ) as reading:
                    files = lazily(reading, names)
                    gone = [name for name, rows in before.items() if rows and name not in names.values()]
                    yield Batch([*files, *(_emptied(name, table) for name in gone)], end)


def lazily(reading: Reader, names: Mapping[Chunk, str]) -> list[RawFile]:
    """The chunks as files that are read when the lander opens them, which it does in their order."""

    def opened(chunk: Chunk, more: dict[str, Any]) -> BinaryIO:
        found = next(reading, None)
        if found is None or found[0] != chunk:
            # Not a TransientError, which would leave out this file alone: the batch is whole or not at all.
            raise ConnectionError(f"{chunk.table.full} got another file while it was read; run again")
        more["rows"] = found[1].rows  # known now; the format is asked for when all is read
        return found[1].open()

    def file(chunk: Chunk) -> RawFile:
        more: dict[str, Any] = {"nulls": "unquoted"}
        return delimited(names[chunk], lambda: opened(chunk, more), more=more, table=chunk.table.shown)

    return [file(chunk) for chunk in names]


def rows_before(table: Table, ctx: Reading) -> dict[str, int]:
    """Landed objects of the table, and how many rows each has."""
    found = {}
    for name in ctx.names():
        if name.startswith(f"{table.full}/") and (landed := ctx.seen(name)):
            found[name] = landed.rows or 0
    return found


def _suspicious(source: Postgres, table: Table, readers: Readers, before: int) -> str | None:
    count = int(readers.look(f"select count(*) from {table.sql}")[0][0])
    if not count and before and source.empty == "refuse":
        fix = "if that is right, set `empty: accept` on this source for one run"
        return f"{table.full} had {before:,} rows and is empty\nhint: {fix}"
    if before > 100 and 0 < count < before * source.min_ratio:
        fix = f"if that is right, set `min_ratio: {count / before:.3f}` on this source for one run"
        return f"{table.full} had {before:,} rows and has {count:,}\nhint: {fix}"
    return None


def _emptied(name: str, table: Table) -> RawFile:
    """A version without rows takes back those of the former one."""
    head = ",".join('"' + column.replace('"', '""') + '"' for column in table.columns)
    more = {"nulls": "unquoted", "rows": 0}
    return delimited(name, f"{head}\n".encode(), more=more, table=table.shown)
