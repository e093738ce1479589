"""The publication and the replication slot of a source: made and checked, or refused with the SQL to run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from ..drivers.postgres import Connection
from ..errors import ConfigError, Gap, TransientError
from .postgres_server import Server, ident, lsn, lsn_text
from .postgres_tables import Table, published

SEGMENT = 16 << 20
"""WAL is recycled by segments: moving the position by less than one would free nothing."""
_PUBLISHED = "select schemaname, tablename, {extra} from pg_publication_tables where pubname = %s"
_LONGEST = (
    "select pid, usename, extract(epoch from now() - xact_start)::bigint from pg_stat_activity "
    "where backend_xid is not null and pid <> pg_backend_pid() order by xact_start limit 1"
)


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot as the server shows it."""

    name: str
    plugin: str
    database: str
    active_pid: int | None
    confirmed: int
    """Changes before this LSN are gone for readers of the slot."""
    wal_status: str
    retained: int
    """Bytes of WAL that the server keeps for it."""


@dataclass(slots=True)
class Patience:
    """Waits some seconds for a predecessor that the server believes alive."""

    server: Server
    slot: str
    until: float = field(init=False)

    def __post_init__(self) -> None:
        self.until = time.monotonic() + min(self.server.timeout, 20.0)

    def wait(self, error: psycopg.Error) -> None:
        """Returns after a moment if somebody else has the slot; raises other errors, and that one at last."""
        held = error.sqlstate == "55006"
        if not held or time.monotonic() > self.until:
            hint = "is another run of this pipeline at work?" if held else None
            raise self.server.explain(error, f"read slot {self.slot}", hint)
        time.sleep(0.2)


def check_tables(server: Server, con: Connection, tables: Mapping[str, Table]) -> None:
    """Raises `ConfigError` where a change of a table could not be had, before anything is made."""
    if server.rows(con, "show wal_level") != [("logical",)]:
        raise ConfigError(
            f"source {server.name}: the server has no logical WAL, so changes cannot be read",
            hint="ALTER SYSTEM SET wal_level = 'logical'; then restart the server (or use `mode: watermark`)",
        )
    for table in tables.values():
        if not table.logged:
            raise ConfigError(
                f"source {server.name}: {table.full} is unlogged: its changes are in no WAL",
                hint=f"ALTER TABLE {table.sql} SET LOGGED; or leave it out of `tables`",
            )
        if not table.updatable:
            raise ConfigError(
                f"source {server.name}: {table.full} has no primary key: once it is published, PostgreSQL "
                "refuses updates and deletes of it",
                hint=f"ALTER TABLE {table.sql} REPLICA IDENTITY FULL; (or add a primary key)",
            )


def check_publication(
    server: Server, con: Connection, name: str, tables: Mapping[str, Table]
) -> dict[str, Table]:
    """The tables as publication `name` shows them; makes it, or adds what it lacks.

    Tables that are no longer read stay in it. Raises `ConfigError` with the SQL if this role may not do that.
    """
    options = server.rows(
        con,
        "select puballtables, pubinsert and pubupdate and pubdelete and pubtruncate, "
        "coalesce((to_jsonb(p) ->> 'pubviaroot')::bool, false) from pg_publication p where pubname = %s",
        [name],
    )
    version = con.info.server_version
    root = ", publish_via_partition_root = true" if version >= 130000 else ""
    if not options:
        every = ", ".join(table.sql for table in tables.values())
        ours = f"WITH (publish = 'insert, update, delete, truncate'{root})"
        _make(server, con, f"CREATE PUBLICATION {ident(name)} FOR TABLE {every} {ours}")
        options = [(False, True, bool(root))]
    (_, all_kinds, via_root), *_ = options
    if not all_kinds:
        raise ConfigError(
            f"source {server.name}: publication {name} leaves out kinds of changes",
            hint=f"ALTER PUBLICATION {ident(name)} SET (publish = 'insert, update, delete, truncate');",
        )
    if not via_root and any(table.kind == "p" for table in tables.values()):
        raise ConfigError(
            f"source {server.name}: publication {name} shows partitions, not the tables that they form",
            hint=f"ALTER PUBLICATION {ident(name)} SET (publish_via_partition_root = true);",
        )
    shown = _published(server, con, name)
    lacking = [table for full, table in tables.items() if full not in shown]
    if lacking:
        more = ", ".join(table.sql for table in lacking)
        _make(server, con, f"ALTER PUBLICATION {ident(name)} ADD TABLE {more}")
        shown = _published(server, con, name)
    found = {full: published(table, *shown[full]) for full, table in tables.items()}
    for full, table in found.items():
        if missing := [key for key in table.primary if key not in table.columns]:
            raise ConfigError(
                f"source {server.name}: publication {name} leaves out key column `{missing[0]}` of {full}",
                hint=f"publish all columns of the key of {full}",
            )
    return found


def find_slot(server: Server, con: Connection, name: str) -> Slot | None:
    rows = server.rows(
        con,
        "select plugin::text, database::text, active_pid, confirmed_flush_lsn::text, "
        "coalesce(to_jsonb(s) ->> 'wal_status', ''), coalesce(pg_wal_lsn_diff("
        "case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, "
        "restart_lsn), 0)::bigint from pg_replication_slots s where slot_name = %s",
        [name],
    )
    if not rows:
        return None
    plugin, database, pid, confirmed, status, retained = rows[0]
    return Slot(name, plugin, database or "", pid, lsn(confirmed or "0/0"), status, retained)


def make_slot(server: Server, con: Connection, name: str) -> int:
    """Makes slot `name`; the LSN from which its changes are complete. Waits for transactions that are open.

    Without a snapshot: every chunk of a snapshot brings one of its own.
    """
    try:
        rows = server.rows(
            con, "select lsn::text from pg_create_logical_replication_slot(%s, 'pgoutput')", [name]
        )
    except TransientError as error:
        raise open_transaction(server, con, error) from None
    except ConfigError as error:
        error.hint = f"ALTER ROLE {ident(con.info.user)} REPLICATION; (run it as a superuser)"
        raise
    return lsn(rows[0][0])


def check_slot(slot: Slot | None, name: str, database: str, at: int) -> None:
    """Raises `Gap` unless slot `name` still has all changes from LSN `at` on; None means that it is gone."""
    remedy = (
        "what changed since cannot be had from the log any more; to accept that, raise `restart:` of this "
        "source by one: a new slot is made and every table is read again, rows that are gone included"
    )
    if slot is None:
        raise Gap(f"replication slot {name} is gone; the last change that landed is before {lsn_text(at)}",
                  hint=remedy)  # fmt: skip
    if slot.plugin != "pgoutput" or slot.database != database:
        raise ConfigError(
            f"replication slot {name} is for {slot.plugin} in database {slot.database}",
            hint="give this source a slot of its own: `slot: another_name`",
        )
    if slot.wal_status == "lost":
        raise Gap(
            f"replication slot {name} was invalidated: the server has removed WAL that it still needed",
            hint=f"{remedy}; raise max_slot_wal_keep_size on the server, or run more often",
        )
    if slot.confirmed > at:
        raise Gap(
            f"replication slot {name} stands at {lsn_text(slot.confirmed)}, bronze at {lsn_text(at)}: "
            "somebody else has read from the slot, or this lake is an older copy",
            hint=remedy,
        )


def check_timeline(server: Server, old: int, new: int, at: int) -> None:
    """Raises `Gap` if the server left timeline `old` before LSN `at`: what landed since never happened.

    `new` is -1 where the server's log is not even that far.
    """
    if old == new:
        return
    content = ""
    if new > 0:
        with server.connect(replication=True) as con:
            content = server.command(con, f"TIMELINE_HISTORY {new}")[0][1] or ""
    for line in content.splitlines():
        number, _, rest = line.partition("\t")
        if number.strip() == str(old) and lsn(rest.split("\t")[0]) >= at:
            return
    raise Gap(
        f"source {server.name}: the server was restored or failed over to a state before {lsn_text(at)}, "
        "up to which changes have landed",
        hint="what was lost there stays in bronze; to take the server as it is now, raise `restart:` by one",
    )


def open_transaction(server: Server, con: Connection, error: TransientError) -> TransientError:
    """The error with what is being waited for: a slot begins when all transactions before it have ended."""
    found = server.rows(con, _LONGEST)
    if found:
        pid, user, seconds = found[0]
        error.hint = (
            f"a slot waits for the transactions that are open: process {pid} of {user} has been in one for "
            f"{seconds} s (SELECT pg_terminate_backend({pid}) ends it)"
        )
    return error


def _published(
    server: Server, con: Connection, name: str
) -> dict[str, tuple[Sequence[str] | None, str | None]]:
    extra = "attnames::text[], rowfilter" if con.info.server_version >= 150000 else "null, null"
    rows = server.rows(con, _PUBLISHED.format(extra=extra), [name])
    return {f"{schema}.{table}": (columns, rows_) for schema, table, columns, rows_ in rows}


def _make(server: Server, con: Connection, statement: str) -> None:
    try:
        con.execute(f"set lock_timeout = {int(server.timeout * 1000)}")
        con.execute(statement.encode())
        con.execute("set lock_timeout = 0")
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"source {server.name}: {error.diag.message_primary}",
            hint=f"run this as the tables' owner: {statement};",
        ) from None
    except psycopg.errors.DuplicateObject:
        return  # another run was faster; what it made is checked next
    except psycopg.Error as error:
        raise server.explain(error, statement.split(" FOR ")[0], f"run it yourself: {statement};") from None
