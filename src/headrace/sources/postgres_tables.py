"""Which tables of a database a source reads, and what PostgreSQL says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..drivers.postgres import Connection
from ..errors import ConfigError
from .postgres_server import Server, ident

OLDEST = 120000

_TABLES = """
select c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relreplident::text, c.relpersistence::text,
  array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0
        and not a.attisdropped order by a.attnum),
  array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0
        and not a.attisdropped and a.attgenerated <> '' order by a.attnum),
  array(select a.attname::text from pg_index i cross join unnest(i.indkey) with ordinality k(attnum, place)
        join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary order by k.place),
  has_table_privilege(c.oid, 'select') or has_any_column_privilege(c.oid, 'select'),
  exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
  and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
order by 2, 3
"""
_LEAVES = """
select c.oid::bigint, n.nspname, c.relname, c.relkind::text
from pg_partition_tree(%s) t join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace
where t.isleaf order by 1
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table, view or partitioned table, as the catalog describes it now."""

    oid: int
    schema: str
    name: str
    kind: str
    """r table, p partitioned, v view, m materialised view, f foreign."""
    identity: str
    """d default (primary key), n nothing, f full, i index."""
    logged: bool
    columns: tuple[str, ...]
    generated: frozenset[str]
    primary: tuple[str, ...]
    readable: bool
    identified: bool
    """Has the index that `identity` i names."""
    filter: str = ""
    """Of its publication, as SQL; a snapshot reads the same rows."""

    @property
    def full(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def shown(self) -> str:
        """What a pipeline calls it after the source's name: `pg.orders`, `pg.sales.orders`."""
        return self.name if self.schema == "public" else self.full

    @property
    def sql(self) -> str:
        return f"{ident(self.schema)}.{ident(self.name)}"

    @property
    def replicated(self) -> tuple[str, ...]:
        """Columns that a stream of changes has: generated ones are not sent."""
        return tuple(name for name in self.columns if name not in self.generated)

    @property
    def updatable(self) -> bool:
        """Whether updates and deletes can be published; without, PostgreSQL refuses them to its writers."""
        by_key = self.identity == "d" and bool(self.primary)
        return by_key or self.identity == "f" or (self.identity == "i" and self.identified)


@dataclass(frozen=True, slots=True)
class Leaf:
    """What has blocks: a table, or one partition."""

    oid: int
    sql: str
    kind: str


def find_tables(server: Server, con: Connection, patterns: Sequence[str], kinds: str) -> dict[str, Table]:
    """Tables by their full name that match any of `patterns`; raises `ConfigError` for one that matches none.

    A pattern without a dot is of schema `public`; `*` and `?` stand for any letters.
    """
    if con.info.server_version < OLDEST:
        raise ConfigError(
            f"source {server.name}: the server is PostgreSQL {con.info.server_version // 10000}",
            hint="12 is the oldest that is known to work",
        )
    known = {}
    for row in server.rows(con, _TABLES):
        oid, schema, name, kind, identity, persistence, columns, generated, primary, readable, index = row
        table = Table(
            oid, schema, name, kind, identity, persistence == "p", tuple(columns), frozenset(generated),
            tuple(primary), readable, index,
        )  # fmt: skip
        if table.full in known:
            raise ConfigError(
                f"source {server.name}: two tables are called {table.full}: their names hold dots",
                hint="rename one of them, or its schema",
            )
        known[table.full] = table
    found: dict[str, Table] = {}
    for pattern in patterns:
        whole = pattern if "." in pattern else f"public.{pattern}"
        matching = [t for full, t in known.items() if fnmatchcase(full, whole)]
        usable = [t for t in matching if t.kind in kinds]
        if not usable:
            raise _unmatched(server, pattern, matching, known)
        found.update((table.full, table) for table in usable)
    for table in found.values():
        if not table.readable:
            user = con.info.user
            raise ConfigError(
                f"source {server.name}: role {user} may not read {table.full}",
                hint=f"GRANT USAGE ON SCHEMA {ident(table.schema)} TO {ident(user)}; "
                f"GRANT SELECT ON {table.sql} TO {ident(user)};",
            )
    return found


def leaves(server: Server, con: Connection, table: Table) -> list[Leaf]:
    """What is read block by block, in a fixed order: the table itself, or all of its partitions by oid."""
    if table.kind != "p":
        return [Leaf(table.oid, table.sql, table.kind)]
    rows = server.rows(con, _LEAVES, [table.oid])
    return [Leaf(oid, f"{ident(schema)}.{ident(name)}", kind) for oid, schema, name, kind in rows]


def published(table: Table, columns: Sequence[str] | None, row_filter: str | None) -> Table:
    """The table as far as its publication shows it."""
    if columns is not None:
        wanted = set(columns)
        table = replace(table, columns=tuple(name for name in table.columns if name in wanted))
    return replace(table, filter=row_filter or "")


def _unmatched(
    server: Server, pattern: str, matching: Sequence[Table], known: Mapping[str, Table]
) -> ConfigError:
    if matching:
        table = matching[0]
        return ConfigError(
            f"source {server.name}: tables: {table.full} is no table with changes of its own",
            hint="read views and foreign tables with `mode: snapshot`",
        )
    some = ", ".join(list(known)[:5]) or "none at all"
    return ConfigError(
        f"source {server.name}: tables: `{pattern}` matches nothing in database {server.database}",
        hint=f"a name without a schema is in `public`; there are: {some}",
    )
