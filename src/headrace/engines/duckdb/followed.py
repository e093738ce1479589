"""How readers see a table of changes: rows as they are, versions with their validity, keys that are stale."""

from __future__ import annotations

from ...core import Following, TableAt
from ...sql.changes import key_sql
from .frame import ident, table_sql, text

HIDDEN = "***"


def followed_sql(table: TableAt, how: Following) -> str:
    """SQL of what a reader sees of `table`, whose rows are changes.

    Of a table the rows that are there (also those that were, if deletes are soft); of a history versions with
    `_valid_from`, `_valid_to` and `_current`, in which a delete or truncation is an end.
    """
    if how.history:
        return _versions_sql(table, how)
    sql, first = table_sql(table), ident(how.keys[0])
    if how.soft:
        return f"SELECT * FROM ({sql}) WHERE {first} IS NOT NULL"
    return f"SELECT * EXCLUDE (_deleted) FROM ({sql}) WHERE NOT coalesce(_deleted, false)"


def _versions_sql(table: TableAt, how: Following) -> str:
    keys = ", ".join(ident(key) for key in how.keys)
    # a snapshot's rows have the sequence of the truncation that ends what it did not find
    order = ", ".join([*(f"{ident(name)} ASC NULLS FIRST" for name in how.sequence), "_op = 't' DESC"])
    marker = f"{ident(how.keys[0])} IS NULL AND _op = 't'"
    own = [n for n in table.columns if not n.startswith("_") and n not in how.keys]
    said = f"hash({', '.join(map(ident, own))})" if own else "hash(0)"
    since = ident(how.since)
    ended = "_sequence, _committed" if how.since == "_committed" else f"_sequence, _committed, {since}"
    events = (
        f"SELECT * FROM versions WHERE NOT coalesce({marker}, false) UNION ALL BY NAME "
        f"SELECT k.*, t.*, 't' AS _op, true AS _deleted FROM (SELECT DISTINCT {keys} FROM versions "
        f"WHERE NOT coalesce({marker}, false)) k, (SELECT {ended} FROM versions WHERE {marker}) t"
    )
    window = f"(PARTITION BY {keys} ORDER BY {order})"
    # a row that is read again in a snapshot, and is as it was, is no new version
    news = (
        f"SELECT * FROM events QUALIFY NOT coalesce(_op = 'r' AND {said} = lag({said}) OVER {window} "
        f"AND NOT lag(_deleted) OVER {window}, false)"
    )
    shown = ", ".join(ident(name) for name in table.columns if name != "_deleted")
    return (
        f"WITH versions AS ({table_sql(table)}), events AS ({events}), news AS ({news}), "
        f"spans AS (SELECT *, lead({since}) OVER {window} AS _valid_to, "
        f"lead(true) OVER {window} IS NULL AS _current FROM news) "
        f"SELECT {shown}, {since} AS _valid_from, _valid_to, _current FROM spans WHERE NOT _deleted"
    )


def stale_sql(quarantine: TableAt, silver: TableAt, *, hidden: bool = False) -> str:
    """SQL of the keys of which silver does not show the newest change, because that is in quarantine.

    `key` (a JSON array of texts), `sequence` and `rules` of the newest such change, how many there are, and
    `since`, the change that silver shows (NULL: none).
    """
    how = silver.following
    if how is None or "key" not in quarantine.columns:
        nothing = "NULL::VARCHAR AS key, NULL::VARCHAR AS sequence, NULL::VARCHAR AS rules"
        return f"SELECT {nothing}, 0::BIGINT AS changes, NULL::VARCHAR AS since WHERE false"
    ordered = tuple(how.sequence) == ("_sequence",)
    at, there = ("sequence", "_sequence") if ordered else ("_ingested_at", "_ingested_at")
    gone = f"SELECT max({there}) FROM here WHERE {ident(how.keys[0])} IS NULL AND _op = 't'"
    key = text(HIDDEN) if hidden else "q.key"
    return (
        f"WITH here AS ({table_sql(silver)}), bad AS ({table_sql(quarantine)}), "
        f"known AS (SELECT {key_sql(how.keys)} AS key, {there} AS at, _sequence FROM here) "
        f"SELECT {key} AS key, max(q.sequence) AS sequence, arg_max(q.rules, q.{at}) AS rules, "
        "count(*) AS changes, any_value(k._sequence) AS since FROM bad q LEFT JOIN known k ON k.key = q.key "
        f"WHERE q.key IS NOT NULL AND coalesce(q.{at} > k.at, true) AND coalesce(q.{at} >= ({gone}), true) "
        "GROUP BY q.key"
    )
