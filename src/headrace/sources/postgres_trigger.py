"""Mode `trigger`: changes are written to `headrace.changes` by triggers, and drained by whole transactions.

For servers without a logical log. The audit rows have an id, drawn while the writer holds the lock of its
row, so ids of one key rise in the order of its changes; and the id of their transaction. Ids become visible
out of order, as transactions commit. So what is drained is never "above the last id", but all transactions
from the last horizon to the oldest one that still runs: all of them have ended, so nothing can come late.

The first snapshot is preceded by a record of which transactions it is to contain (`base`); exactly the others
are drained. Rows of the snapshot have the sequence 0, below every change. Chunks may be read under later
snapshots than `base`: a row that they show changed is drained as well, and wins.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg

from ..core import Batch, Position, RawFile, Reading
from ..drivers.postgres import Connection
from ..errors import ConfigError, Gap
from .postgres_server import Server, ident, literal
from .postgres_snapshot import (
    Readers,
    csv_file,
    next_place,
    plan,
    query_of,
    read_chunks,
    sequence,
    shared_snapshot,
)
from .postgres_tables import Table, find_tables

if TYPE_CHECKING:
    from .postgres import Postgres

INSTALL = """
create schema if not exists headrace;
create table if not exists headrace.changes (
  id bigint generated always as identity primary key,
  tx xid8 not null default pg_current_xact_id(),
  at timestamptz not null default now(),
  relation text not null,
  op text not null,
  row jsonb
);
create index if not exists changes_tx on headrace.changes (relation, tx);
create table if not exists headrace.readers (name text, relation text, tx xid8, primary key (name, relation));
create or replace function headrace.capture() returns trigger language plpgsql security definer
  set search_path = pg_catalog, pg_temp set datestyle = 'ISO' set intervalstyle = 'postgres'
  set extra_float_digits = 3 set bytea_output = 'hex' set timezone = 'UTC' set lc_monetary = 'C' as $$
declare
  source text := tg_table_schema || '.' || tg_table_name;
  before jsonb;
  after jsonb;
  moved boolean := tg_nargs = 0;
begin
  if tg_op = 'TRUNCATE' then
    insert into headrace.changes (relation, op) values (source, 't');
    return null;
  end if;
  if tg_op <> 'INSERT' then before := to_jsonb(old); end if;
  if tg_op <> 'DELETE' then after := to_jsonb(new); end if;
  if tg_op = 'UPDATE' then
    for place in 0 .. tg_nargs - 1 loop
      moved := moved or before -> tg_argv[place] is distinct from after -> tg_argv[place];
    end loop;
  end if;
  if tg_op = 'DELETE' or (tg_op = 'UPDATE' and moved) then
    insert into headrace.changes (relation, op, row) values (source, 'd', before);
  end if;
  if tg_op <> 'DELETE' then
    insert into headrace.changes (relation, op, row)
    values (source, case when tg_op = 'UPDATE' and not moved then 'u' else 'c' end, after);
  end if;
  return null;
end $$;
"""
_INSTALLED = """
select c.relname from pg_trigger t join pg_class c on c.oid = t.tgrelid
where t.tgname in ('headrace_rows', 'headrace_truncate') and t.tgenabled in ('O', 'A') and t.tgrelid = %s
"""


def script(table: Table) -> str:
    """The SQL that makes changes of `table` be captured; to be run by its owner, as often as one likes."""
    keys = ", ".join(literal(key) for key in table.primary)
    return f"""{INSTALL}
drop trigger if exists headrace_rows on {table.sql};
create trigger headrace_rows after insert or update or delete on {table.sql}
  for each row execute function headrace.capture({keys});
drop trigger if exists headrace_truncate on {table.sql};
create trigger headrace_truncate after truncate on {table.sql}
  for each statement execute function headrace.capture();
"""


def read_trigger(source: Postgres, server: Server, start: Position | None, ctx: Reading) -> Iterator[Batch]:
    """Chunks of tables that are new, then all transactions that have ended since, one batch a drain."""
    del ctx
    with closing(server.connect()) as con:
        tables = find_tables(server, con, source.tables, "r")
        states: dict[str, Any] = dict((start or {}).get("tables", {}))
        for table in tables.values():
            _check(server, con, source.name, table, states.get(table.full))
        for table in tables.values():
            state = states.get(table.full)
            if state is None or state["oid"] != table.oid:
                base = server.rows(con, "select pg_current_snapshot()::text")[0][0]
                state = {"oid": table.oid, "base": base, "from": base.split(":")[0], "done": False}
                states = {**states, table.full: state}
                _release(server, con, source.name, {table.full: state})  # nobody deletes what is to come
                yield Batch([], {"tables": states})  # from here on `base` is what the snapshot is measured by
        _release(server, con, source.name, states)
        for table in tables.values():
            while not states[table.full]["done"]:
                for batch in _snapshot(source, server, con, table, states):
                    states = dict(batch.end["tables"])
                    yield batch
        with shared_snapshot(server, 1) as readers:
            files, states = _drained(readers, tables, states)
            if files:
                yield Batch(files, {"tables": states})
        if files:
            _release(server, con, source.name, states)


def _check(server: Server, con: Connection, name: str, table: Table, state: Mapping[str, Any] | None) -> None:
    """Installs the triggers of a new table; raises `Gap` where those of a known one are gone."""
    there = len(server.rows(con, _INSTALLED, [table.oid]))
    if state is not None and state["oid"] == table.oid:
        if there == 2:
            _check_kept(server, con, name, table, state)
            return
        raise Gap(
            f"source {server.name}: the triggers of {table.full} are gone or disabled: changes were missed",
            hint="enable them and read the tables anew: give this source a new `id:`, and new tables",
        )
    if there == 2:
        return
    statement = script(table)
    try:
        con.execute(f"set lock_timeout = {int(server.timeout * 1000)}")
        con.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"source {server.name}: {error.diag.message_primary}",
            hint=f"run this as the owner of {table.full}:\n{statement}",
        ) from None
    except psycopg.Error as error:
        raise server.explain(error, f"install triggers on {table.full}") from None


def _check_kept(server: Server, con: Connection, name: str, table: Table, state: Mapping[str, Any]) -> None:
    query = "select tx::text from headrace.readers where name = %s and relation = %s"
    landed = server.rows(con, query, [name, table.full])
    if not landed or int(landed[0][0]) > int(state["from"]):
        raise Gap(
            f"source {name}: changes of {table.full} after transaction {state['from']} were deleted from "
            "headrace.changes: this lake is an older copy, or somebody else reads under the same name",
            hint="give this source a name of its own, or a new `id:` and new tables",
        )


def _snapshot(
    source: Postgres, server: Server, con: Connection, table: Table, states: Mapping[str, Any]
) -> Iterator[Batch]:
    state = dict(states[table.full])
    chunks = plan(server, con, table, state, source.chunk_mb << 20)
    extra = {"_op": "r", "_sequence": sequence(0)}
    until = time.monotonic() + source.session_minutes * 60
    with (
        shared_snapshot(server, source.parallel) as readers,
        closing(
            read_chunks(readers, chunks, lambda chunk: query_of(chunk, extra, table.columns), until)
        ) as reading,
    ):
        for chunk, spool in reading:
            name = f"{table.full}/snapshot-{state['from']}-{chunk.file}-{chunk.start:010d}"
            state = next_place(chunk, state)
            yield Batch([csv_file(name, spool, table.shown)], {"tables": {**states, table.full: state}})


def _drained(
    readers: Readers, tables: Mapping[str, Table], states: Mapping[str, Any]
) -> tuple[list[RawFile], dict[str, Any]]:
    """The changes of all transactions from each table's horizon to the oldest that runs now."""
    horizon = readers.look("select pg_snapshot_xmin(pg_current_snapshot())::text")[0][0]
    files, found = [], dict(states)
    for table in tables.values():
        state = dict(states[table.full])
        where = (
            f"c.relation = {literal(table.full)} and c.tx >= {literal(state['from'])}::xid8 "
            f"and c.tx < {literal(horizon)}::xid8"
        )
        if state.get("base"):
            where += f" and not pg_visible_in_snapshot(c.tx, {literal(state['base'])}::pg_snapshot)"
        wanted = ", ".join(f"r.{ident(name)}" for name in table.columns)
        query = (
            f"COPY (SELECT {wanted}, c.op AS _op, lpad(upper(to_hex(c.id)), 16, '0') || '/0000000001' "
            "AS _sequence, to_char(c.at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') "
            "AS _committed, c.tx::text AS _tx FROM headrace.changes c "
            f"CROSS JOIN LATERAL jsonb_populate_record(null::{table.sql}, coalesce(c.row, '{{}}')) r "
            f"WHERE {where} ORDER BY c.id) TO STDOUT (FORMAT csv, HEADER, FORCE_QUOTE *)"
        )
        if not readers.look(f"select exists (select from headrace.changes c where {where})")[0][0]:
            continue
        spool, _ = readers.copy(query, table.oid).result()
        files.append(csv_file(f"{table.full}/{int(state['from']):020d}-{horizon}", spool, table.shown))
        state["from"] = horizon
        if state.get("base") and int(horizon) >= int(state["base"].split(":")[1]):
            state["base"] = ""
        found[table.full] = state
    return files, found


def _release(server: Server, con: Connection, name: str, states: Mapping[str, Any]) -> None:
    """Tells how far this reader has landed; what every reader has landed is deleted."""
    for full, state in states.items():
        server.rows(
            con,
            "insert into headrace.readers values (%s, %s, %s::xid8) "
            "on conflict (name, relation) do update set tx = excluded.tx",
            [name, full, state["from"]],
        )
        server.rows(
            con,
            "delete from headrace.changes where relation = %s and tx < "
            "(select min(tx) from headrace.readers where relation = %s)",
            [full, full],
        )
