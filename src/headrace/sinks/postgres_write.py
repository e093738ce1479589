"""How rows get into a table of PostgreSQL: COPY into a table beside it, then a few statements.

A table that is not there yet is filled under another name and gets its own in the end.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from ..core import GONE, Write, Written
from ..drivers.postgres import Connection
from ..errors import ConfigError, Fenced
from .target import DELETED, counts_sql, done, fitting, ident, matches, sent_columns, stale, written

if TYPE_CHECKING:
    from .postgres import Postgres

CHUNK = 1 << 20
TYPES = {
    "boolean": "boolean",
    "integer": "integer",
    "bigint": "bigint",
    "double": "double precision",
    "date": "date",
    "timestamp": "timestamp with time zone",
    "text": "text",
    "json": "json",
}
_WORDS = {native: word for word, native in TYPES.items()} | {"character varying": "text"}


@dataclass(frozen=True, slots=True)
class Load:
    """Rows for one table, as lines of CSV."""

    write: Write
    columns: Mapping[str, str]
    file: BinaryIO
    """Open from the start: whoever clears the scratch in the meantime takes nothing away."""
    rows: int


@dataclass(frozen=True, slots=True)
class Filled:
    """Rows that the server has, in a table that nobody else sees yet."""

    target: Postgres
    load: Load
    stage: str
    fresh: str = ""
    """Set where the stage is to become the table itself."""
    sent: int = 0

    @property
    def soft(self) -> bool:
        return self.target.deletes == "soft"

    @property
    def columns(self) -> dict[str, str]:
        """The table's own columns by type word."""
        return own_columns(self.load, soft=self.soft)

    @property
    def table(self) -> str:
        return f"{ident(self.target.schema_)}.{ident(self.load.write.table)}"

    def merged(self, con: Connection, version: int) -> Written:
        """Makes the rows part of the table; raises `Unbalanced` unless each of them is accounted for."""
        write = self.load.write
        held = columns_of(con, self.target.schema_, write.table)
        if self.fresh:
            if held:
                raise Fenced(
                    f"target {self.target.name}: table `{write.table}` was made by somebody else just now",
                    hint="nothing was written; run again",
                )
            _run(con, f"ALTER TABLE {self.stage} RENAME TO {ident(write.table)}")
            return written(write, version, self.sent, (self.load.rows, 0, 0, 0, 0))
        self._shape(con, held)
        indexed = bool(write.keys) and self._indexed(con)
        replace = write.mode == "replace"
        ((empty,),) = _rows(con, f"SELECT NOT EXISTS (SELECT FROM {self.table})")
        names = ", ".join(map(ident, self.columns))
        fill = f"INSERT INTO {self.table} AS t ({names}) SELECT {names} FROM {self.stage} s"
        fill += f" WHERE NOT s.{GONE}"
        if write.mode == "append" or not write.keys or empty or (replace and not indexed):
            removed = _run(con, f"DELETE FROM {self.table}") if replace else 0
            self._index(con, indexed)
            inserted = _run(con, fill)
            rest = self.sent - inserted if GONE in self.load.columns else 0
            return written(write, version, self.sent, (inserted, 0, rest, 0, 0), removed)
        self._index(con, indexed)
        return self._merge(con, fill, version)

    def _merge(self, con: Connection, fill: str, version: int) -> Written:
        write = self.load.write
        _run(con, f"ANALYZE {self.stage}")
        empty = " OR ".join(f"{ident(key)} IS NULL" for key in write.keys)
        ((nulls,),) = _rows(con, f"SELECT EXISTS (SELECT FROM {self.stage} WHERE {empty})")
        match = matches(write.keys, "t", "s", nulls=nulls)
        over = f"t.{DELETED} IS NOT DISTINCT FROM true" if self.soft else "false"
        older = stale(write.sequence, "t", "s")
        conditions = {
            "here": "t.ctid IS NOT NULL",
            "gone": f"s.{GONE}",
            "older": f"(t.ctid IS NOT NULL AND {older})",
            "differs": f"({self._differs('s')})",
            "over": f"({over})",
        }
        ((*counts,),) = _rows(
            con, counts_sql(conditions, f"{self.stage} s LEFT JOIN {self.table} t ON {match}")
        )
        mark = f"UPDATE {self.table} t SET {DELETED} = true" if self.soft else f"DELETE FROM {self.table} t"
        removed = 0
        if write.mode == "replace":
            absent = f"NOT EXISTS (SELECT FROM {self.stage} s WHERE {match}) AND NOT ({over})"
            removed = _run(con, f"{mark} WHERE {absent}")
        source = "FROM" if self.soft else "USING"
        gone = f"s.{GONE} AND {match} AND NOT {older} AND NOT ({over})"
        done(write, "deleted", counts[3], _run(con, f"{mark} {source} {self.stage} s WHERE {gone}"))
        keys = ", ".join(map(ident, write.keys))
        said = [name for name in self.columns if name not in write.keys]
        sets = ", ".join(f"{ident(name)} = excluded.{ident(name)}" for name in said)
        newer = f"NOT {stale(write.sequence, 't', 'excluded')} AND ({self._differs('excluded')})"
        act = f"DO UPDATE SET {sets} WHERE {newer}" if said else "DO NOTHING"
        done(write, "written", counts[0] + counts[1], _run(con, f"{fill} ON CONFLICT ({keys}) {act}"))
        return written(write, version, self.sent, counts, removed)

    def _differs(self, other: str) -> str:
        def text(name: str, kind: str, side: str) -> str:
            return f"{side}.{ident(name)}" + ("::text" if kind == "json" else "")

        keys = self.load.write.keys
        parts = [
            f"{text(name, kind, 't')} IS DISTINCT FROM {text(name, kind, other)}"
            for name, kind in self.columns.items()
            if name not in keys
        ]
        return " OR ".join(parts) or "false"

    def _shape(self, con: Connection, held: Mapping[str, str | None]) -> None:
        """Gives the table the columns and types that it lacks; raises `ConfigError` where it cannot."""
        for name, kind in fitting(self.target.name, self.load.write.table, held, self.columns).items():
            using = f"{ident(name)}::{native(kind)}"
            _run(con, f"ALTER TABLE {self.table} ALTER {ident(name)} TYPE {native(kind)} USING {using}")
        for name, kind in self.columns.items():
            if name not in held:
                _run(con, f"ALTER TABLE {self.table} ADD COLUMN {ident(name)} {native(kind)}")

    def _indexed(self, con: Connection) -> bool:
        """Whether a unique index of the table has exactly the keys."""
        rows = con.execute(
            "SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a "
            "ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) "
            "WHERE i.indrelid = %s::regclass AND i.indisunique AND i.indpred IS NULL "
            "AND i.indexprs IS NULL GROUP BY i.indexrelid",
            [self.table],
        ).fetchall()
        return any(set(names) == set(self.load.write.keys) for (names,) in rows)

    def _index(self, con: Connection, indexed: bool) -> None:
        keys = self.load.write.keys
        if indexed or not keys or self.load.write.mode == "append":
            return
        for (name,) in con.execute(
            "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE i.indrelid = %s::regclass AND starts_with(c.relname, 'headrace_')",
            [self.table],
        ).fetchall():
            _run(con, f"DROP INDEX {ident(self.target.schema_)}.{ident(name)}")  # of keys that it had before
        _run(con, index_sql(con, self.table, keys))


def filled(con: Connection, target: Postgres, load: Load, place: int) -> Filled:
    """Sends the rows of `load` to the server; nobody sees them, and no table is locked."""
    write, soft = load.write, target.deletes == "soft"
    columns = own_columns(load, soft=soft)
    listed = ", ".join(f"{ident(name)} {native(kind)}" for name, kind in columns.items())
    names = ", ".join(map(ident, load.columns))
    if not columns_of(con, target.schema_, write.table) and GONE not in load.columns:
        fresh = f"headrace_load_{uuid.uuid4().hex}"
        stage = f"{ident(target.schema_)}.{fresh}"
        marked = listed + " DEFAULT false" if soft and DELETED not in load.columns else listed
        _run(con, f"CREATE TABLE {stage} ({marked})")
        sent = _copy(con, f"COPY {stage} ({names}) FROM STDIN (FORMAT csv)", load.file)
        if soft and DELETED not in load.columns:
            _run(con, f"ALTER TABLE {stage} ALTER {DELETED} DROP DEFAULT")
        if write.keys and write.mode != "append":
            _run(con, index_sql(con, stage, write.keys))
        return Filled(target, load, stage, fresh, sent)
    if not columns_of(con, target.schema_, write.table):
        _run(con, f"CREATE TABLE {ident(target.schema_)}.{ident(write.table)} ({listed})")
    stage = f"headrace_stage_{place}"
    marked = listed + " DEFAULT false" if soft and DELETED not in load.columns else listed
    _run(con, f"CREATE TEMP TABLE {stage} ({marked}, {GONE} boolean DEFAULT false) ON COMMIT DROP")
    sent = _copy(con, f"COPY pg_temp.{stage} ({names}) FROM STDIN (FORMAT csv)", load.file)
    return Filled(target, load, f"pg_temp.{stage}", sent=sent)


def own_columns(load: Load, *, soft: bool) -> dict[str, str]:
    """The columns that a table gets; the last one of a table with soft deletes says which rows are gone."""
    columns = {name: load.columns[name] for name in sent_columns(load.columns)}
    return columns if not soft or DELETED in columns else {**columns, DELETED: "boolean"}


def columns_of(con: Connection, schema: str, table: str) -> dict[str, str | None]:
    """Columns by type word, None where no word says the same; none if there is no such table.

    Raises `ConfigError` where something else than a table has the name.
    """
    rows = con.execute(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), c.relkind::text FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid "
        "AND a.attnum > 0 AND NOT a.attisdropped WHERE n.nspname = %s AND c.relname = %s ORDER BY a.attnum",
        [schema, table],
    ).fetchall()
    if rows and rows[0][2] not in "rp":
        raise ConfigError(
            f"`{schema}.{table}` is no table there", hint="give the silver table or the schema another name"
        )
    return {name: _word(kind) for name, kind, _ in rows}


def _word(kind: str) -> str | None:
    if match := re.fullmatch(r"numeric\((\d+),(\d+)\)", kind):
        return f"decimal({match[1]},{match[2]})"
    return _WORDS.get(kind)


def native(word: str) -> str:
    """PostgreSQL's type that holds exactly what a type word says.

    >>> native("decimal(12,2)"), native("timestamp")
    ('numeric(12,2)', 'timestamp with time zone')
    """
    return TYPES.get(word) or word.replace("decimal", "numeric")


def index_sql(con: Connection, table: str, keys: Sequence[str]) -> str:
    """A unique index by which rows are found; where the server can, NULL is a value like others."""
    name = "headrace_" + hashlib.sha256("\0".join([table, *keys]).encode()).hexdigest()[:24]
    nulls = " NULLS NOT DISTINCT" if con.info.server_version >= 150_000 else ""
    return f"CREATE UNIQUE INDEX {name} ON {table} ({', '.join(map(ident, keys))}){nulls}"


def _copy(con: Connection, statement: str, file: BinaryIO) -> int:
    with con.cursor() as cursor:
        with cursor.copy(statement) as copy:
            while chunk := file.read(CHUNK):
                copy.write(chunk)
        return cursor.rowcount


def _run(con: Connection, statement: str) -> int:
    return con.execute(statement).rowcount


def _rows(con: Connection, query: str) -> list[tuple[Any, ...]]:
    return con.execute(query).fetchall()
