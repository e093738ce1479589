"""Column lineage of a SELECT: which columns of which tables its values, and its choice of rows, depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

Origin = tuple[str, str]
"""(table as it is called in `tables`, column)."""
CLAUSES = ("where", "joins", "group", "having", "qualify", "distinct", "limit")
"""What decides which rows there are. An order alone decides nothing."""


@dataclass(frozen=True, slots=True)
class Traced:
    """Where a query's output comes from."""

    columns: Mapping[str, frozenset[Origin]] = field(default_factory=dict)
    """Output column → the columns whose values it is made of, in order of the output."""
    rows: frozenset[Origin] = frozenset()
    """Columns that filters, joins, groups and the like look at."""
    tables: frozenset[str] = frozenset()
    unknown: str = ""
    """What could not be traced and why; empty if all could."""


def trace(sql: str, tables: Mapping[str, Sequence[str]], dialect: str = "duckdb") -> Traced:
    """The lineage of one SELECT over `tables`: full name (`db.schema.table`) → its columns.

    Never raises: what cannot be told is said in `unknown`, and the rest is there as far as it goes.
    """
    try:
        tree = sqlglot.parse_one(sql, read=dialect)
        used = frozenset(filter(None, (named(table, tables) for table in tree.find_all(exp.Table))))
        qualified = qualify(
            tree,
            dialect=dialect,
            schema=_schema(tables),
            validate_qualify_columns=False,
            identify=False,
        )
        root = build_scope(qualified)
    except Exception as error:  # sqlglot raises whatever it stumbles over
        return Traced(unknown=f"its SQL could not be read ({str(error).splitlines()[0]})")
    if root is None:
        return Traced(tables=used, unknown="it is not a SELECT")
    tracer = _Tracer(tables, list(_opaque(tree)))
    columns = tracer.columns(root)
    rows = frozenset(origin for scope in root.traverse() for origin in tracer.rows(scope))
    return Traced(columns, rows, used, _told(tracer.lost))


def _opaque(tree: exp.Expr) -> Iterator[str]:
    """What makes columns in ways that are not followed."""
    if tree.find(exp.Pivot):
        yield "a pivot's columns"
    if any(node.find(exp.Column) for node in tree.find_all(exp.Unnest, exp.Lateral)):
        yield "an unnest's columns"


def named(table: exp.Table, tables: Mapping[str, object]) -> str:
    """The name of `tables` that a table in the SQL means; empty if it means none."""
    parts = [part.name.lower() for part in table.parts]
    for name in tables:
        if name.lower().split(".")[-len(parts) :] == parts:
            return name
    return ""


def _schema(tables: Mapping[str, Sequence[str]]) -> dict[str, object]:
    found: dict[str, Any] = {}
    for name, columns in tables.items():
        database, schema, table = name.split(".")
        if not columns:  # not known: then nothing is taken for granted
            continue
        found.setdefault(database, {}).setdefault(schema, {})[table] = dict.fromkeys(columns, "unknown")
    return found


@dataclass
class _Tracer:
    tables: Mapping[str, Sequence[str]]
    lost: list[str] = field(default_factory=list)
    _known: dict[int, dict[str, frozenset[Origin]]] = field(default_factory=dict)
    _open: set[int] = field(default_factory=set)
    """Scopes that are being looked at: a recursive query meets itself."""

    def columns(self, scope: Scope) -> dict[str, frozenset[Origin]]:
        """Output column → origins; a recursive query adds nothing to itself."""
        place = id(scope)
        if place not in self._known:
            self._known[place] = {}
            self._open.add(place)
            self._known[place] = self._union(scope) if scope.set_operation_scopes else self._select(scope)
            self._open.discard(place)
        return self._known[place]

    def _union(self, scope: Scope) -> dict[str, frozenset[Origin]]:
        """By position, under the names of the first."""
        first, *others = (self.columns(part) for part in scope.set_operation_scopes)
        found = dict(first)
        for other in others:
            for name, more in zip(first, other.values(), strict=False):
                found[name] |= more
        return found

    def _select(self, scope: Scope) -> dict[str, frozenset[Origin]]:
        found: dict[str, frozenset[Origin]] = {}
        for item in getattr(scope.expression, "selects", []):
            if item.is_star:
                self.lost.append(f"`{item.sql('duckdb')}`")
            found[item.alias_or_name] = frozenset(self._origins(item, scope))
        return found

    def rows(self, scope: Scope) -> Iterator[Origin]:
        """Origins of what this one SELECT decides its rows by."""
        for clause in CLAUSES:
            given = scope.expression.args.get(clause)
            for node in given if isinstance(given, list) else [given] if given else []:
                if isinstance(node, exp.Join):
                    parts = [node.args.get("on"), *(node.args.get("using") or [])]
                    for part in parts:
                        yield from self._origins(part, scope) if part is not None else ()
                else:
                    yield from self._origins(node, scope)

    def _origins(self, node: exp.Expression, scope: Scope) -> Iterator[Origin]:
        for column in node.find_all(exp.Column):
            owner = _owner(column, scope)
            source = owner.sources.get(column.table) if owner else None
            if isinstance(source, Scope):
                known = self.columns(source)
                if column.name not in known and id(source) not in self._open:
                    self.lost.append(f"`{column.sql('duckdb')}`")
                yield from known.get(column.name, ())
            elif isinstance(source, exp.Table):
                name = named(source, self.tables)
                if name:
                    yield name, column.name
            elif not column.table:
                self.lost.append(f"`{column.name}`")


def _owner(column: exp.Column, scope: Scope) -> Scope | None:
    """Where the column's table has its meaning: in a subquery of the expression, here, or further out."""
    for inner in scope.subquery_scopes:
        if any(column is own for own in inner.columns):
            return _owner(column, inner)
    around: Scope | None = scope
    while around is not None and column.table not in around.sources:
        around = around.parent
    return around


def _told(lost: Sequence[str]) -> str:
    names = list(dict.fromkeys(lost))
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"it cannot be told where {', '.join(names[:3])}{more} come from"
