"""Debezium's envelope: where its parts are, what orders its changes, and what its typed values mean as text.

Order within a table, by connector: PostgreSQL `source.lsn`, MySQL and MariaDB `source.file`, `pos` and `row`,
SQL Server `change_lsn` and `event_serial_no`, Oracle `scn`, MongoDB and others `source.ts_ms` and `ord`; the
order within a transaction where that is told, then the place in the file. A change that Debezium sends again
has a sequence of its own there, and the same content.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ....core import unsent
from ..frame import fresh
from .parts import ident, text
from .strict import Path

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

UNSENT = "__debezium_unavailable_value"
"""What stands for a value that was not sent; of a binary column, its base64."""
_UNSENT = f"{text(UNSENT)}, {text(base64.b64encode(UNSENT.encode()).decode())}"
_SOURCE = (
    "lsn",
    "file",
    "pos",
    "row",
    "change_lsn",
    "event_serial_no",
    "scn",
    "ord",
    "ts_ms",
    "txId",
    "gtid",
)
_DAYS = ("io.debezium.time.Date", "org.apache.kafka.connect.data.Date")
_MOMENTS = {
    "io.debezium.time.Timestamp": 1000,
    "org.apache.kafka.connect.data.Timestamp": 1000,
    "io.debezium.time.MicroTimestamp": 1,
}
_TIMES = {
    "io.debezium.time.Time": 1000,
    "org.apache.kafka.connect.data.Time": 1000,
    "io.debezium.time.MicroTime": 1,
}
_NANO_MOMENT, _NANO_TIME = "io.debezium.time.NanoTimestamp", "io.debezium.time.NanoTime"
_DECIMAL, _VARIABLE = "org.apache.kafka.connect.data.Decimal", "io.debezium.data.VariableScaleDecimal"
WIDE, BITS = "headrace_wide", 120
"""Numbers of more bits than a HUGEINT can be trusted with: a variable maps their hexadecimals to decimals."""
Meaning = tuple[str, str | None]
"""A type's name, and its scale if it has one."""


def layout(wrapped: bool) -> tuple[Path, Path, None, dict[str, Path]]:
    """Where new row, old row, key and the rest lie; `wrapped`: under `payload`, beside `schema`."""
    root = ("payload",) if wrapped else ()
    meta: dict[str, Path] = {"op": (*root, "op"), "ts_ms": (*root, "ts_ms")}
    meta |= {f"source_{name.lower()}": (*root, "source", name) for name in _SOURCE}
    meta |= {"tx_id": (*root, "transaction", "id"), "tx_order": (*root, "transaction", "total_order")}
    meta["schema"] = ("schema",)
    return (*root, "after"), (*root, "before"), None, meta


def rows(
    con: DuckDBPyConnection, opened: str, heads: Sequence[Sequence[str]]
) -> tuple[list[str], dict[str, str]]:
    """SQL over table `opened` of each column's text and of the change's own columns.

    `heads` are, per column, the names that it may have at the source.
    """
    meanings = _meanings(con, opened)
    _wide_integers(con, opened, heads, meanings)
    values = []
    for i, names in enumerate(heads):
        raw = f"CASE op WHEN 'd' THEN {_sent(f'b{i}')} WHEN 't' THEN NULL "
        raw += f"ELSE CASE WHEN a{i} IN ({_UNSENT}) THEN {_sent(f'b{i}')} ELSE a{i} END END"
        values.append(_meant(raw, names, meanings))
    lacking = ", ".join(
        f"CASE WHEN a{i} IN ({_UNSENT}) THEN {text(unsent(names[0]))} END" for i, names in enumerate(heads)
    )
    ms = "coalesce(source_ts_ms, ts_ms)"
    return values, {
        "_op": "op",
        "_sequence": _sequence(),
        "_committed": f"CASE WHEN op <> 'r' THEN {_moment(ms, 1000)} || 'Z' END",
        "_tx": "coalesce(tx_id, source_gtid, source_txid)",
        "_unchanged": f"CASE WHEN op <> 'd' THEN nullif(concat_ws(',', {lacking}), '') END"
        if lacking
        else "NULL",
    }


def _sent(value: str) -> str:
    return f"CASE WHEN {value} NOT IN ({_UNSENT}) THEN {value} END"


def _sequence() -> str:
    """Text whose order is that of the changes; a snapshot's rows come before later changes."""
    nth = "lpad(CASE WHEN op = 'r' THEN '0' ELSE coalesce(tx_order, _line::VARCHAR) END, 10, '0')"

    def digits(name: str, width: int) -> str:
        return f"lpad(coalesce({name}, '0'), {width}, '0')"

    lsn = "printf('%016X', TRY_CAST(source_lsn AS BIGINT))"
    # binlog.000999 comes before binlog.001000 and binlog.1000000
    file = (
        "regexp_replace(source_file, '[0-9]+$', '') || lpad(regexp_extract(source_file, '[0-9]+$'), 10, '0')"
    )
    return (
        f"CASE WHEN source_lsn IS NOT NULL THEN {lsn} || '/' || {nth} "
        f"WHEN source_file IS NOT NULL THEN {file} || '/' || {digits('source_pos', 20)} || '/' "
        f"|| CASE WHEN op = 'r' THEN '0' ELSE '1' END || {digits('source_row', 10)} "
        "WHEN source_change_lsn IS NOT NULL THEN source_change_lsn || '/' || "
        f"{digits('source_event_serial_no', 10)} "
        f"WHEN source_scn IS NOT NULL THEN {digits('source_scn', 20)} || '/' || {nth} "
        f"ELSE {digits('coalesce(source_ts_ms, ts_ms)', 16)} || '/' "
        f"|| coalesce(lpad(source_ord, 10, '0'), {nth}) END"
    )


# typed values -----------------------------------------------------------------------------------------


def _meanings(con: DuckDBPyConnection, opened: str) -> list[Mapping[str, Meaning]]:
    """Adds `_schema` to `opened`: which of the schemas found in it, listed here by field, a row has."""
    found = con.execute(f"SELECT DISTINCT schema FROM {ident(opened)} WHERE schema IS NOT NULL").fetchall()
    con.execute(f"ALTER TABLE {ident(opened)} ADD COLUMN _schema INTEGER")
    if not found:
        return []
    known = fresh("schemas")
    schemas = sorted(schema for (schema,) in found)
    con.execute(
        f"CREATE TEMP TABLE {known} AS SELECT unnest(?::VARCHAR[]) AS t, unnest(range(?)) AS n",
        [schemas, len(schemas)],
    )
    con.execute(f"UPDATE {ident(opened)} SET _schema = k.n FROM {known} k WHERE k.t = schema")
    con.execute(f"DROP TABLE {known}")
    return [dict(_fields(schema)) for schema in schemas]


def _fields(schema: str) -> Iterator[tuple[str, Meaning]]:
    """Field of the row → what its values mean, where that is more than their JSON type."""
    try:
        parts = json.loads(schema).get("fields") or []
    except (ValueError, AttributeError):
        return
    for part in parts:
        if isinstance(part, dict) and part.get("field") == "after":
            for field in part.get("fields") or []:
                if isinstance(field, dict) and field.get("name"):
                    yield str(field["field"]), (str(field["name"]), _scale(field))


def _scale(field: Mapping[str, Any]) -> str | None:
    scale = (field.get("parameters") or {}).get("scale")
    return None if scale is None else str(int(scale))


def _meant(raw: str, names: Sequence[str], meanings: Sequence[Mapping[str, Meaning]]) -> str:
    """`raw` as text that says what it means under its row's schema."""
    cases = []
    for number, fields in enumerate(meanings):
        meaning = _meaning(names, fields)
        if meaning and (said := _said("v", *meaning)):
            cases.append(f"WHEN _schema = {number} THEN coalesce({said}, v)")
    if not cases:
        return raw
    # a value is named once: it is long, and used many times
    return f"list_transform([{raw}], lambda v: CASE {' '.join(cases)} ELSE v END)[1]"


def _meaning(names: Sequence[str], fields: Mapping[str, Meaning]) -> Meaning | None:
    return next((fields[name] for name in names if name in fields), None)


def _said(v: str, kind: str, scale: str | None) -> str | None:
    number = f"TRY_CAST({v} AS BIGINT)"
    if kind in _DAYS:
        return f"TRY((DATE '1970-01-01' + {number}::INTEGER)::VARCHAR)"
    if kind in _MOMENTS:
        return _moment(v, _MOMENTS[kind])
    if kind == _NANO_MOMENT:
        return f"TRY(make_timestamp_ns({number})::VARCHAR)"
    if kind in _TIMES:
        return _time(f"({number} * {_TIMES[kind] * 1000})")
    if kind == _NANO_TIME:
        return _time(number)
    if kind == _DECIMAL and scale is not None:
        return _decimal(v, scale)
    if kind == _VARIABLE:
        return _decimal(f"json_extract_string({v}, '$.value')", f"json_extract({v}, '$.scale')::INTEGER")
    return None


def _moment(v: str, micros: int) -> str:
    """ISO 8601 without a zone, of a number of units since 1970; `micros` in one unit."""
    made = f"make_timestamp(TRY_CAST({v} AS BIGINT) * {micros})"
    return f"TRY(strftime({made}, '%Y-%m-%dT%H:%M:%S.%f'))"


def _time(nanos: str) -> str:
    """HH:MM:SS.nnnnnnnnn without needless zeros; MySQL's times may be negative, and longer than a day."""
    n = f"abs({nanos})"
    clock = f"printf('%02d:%02d:%02d', {n} // 3600000000000, {n} // 60000000000 % 60, {n} // 1000000000 % 60)"
    rest = f"rtrim(rtrim('.' || lpad(({n} % 1000000000)::VARCHAR, 9, '0'), '0'), '.')"
    return f"TRY(CASE WHEN {nanos} < 0 THEN '-' ELSE '' END || {clock} || {rest})"


def _decimal(v: str, scale: str) -> str:
    """The exact decimal of base64 of a big-endian two's complement; None where `v` is none."""
    bits = f"hex(TRY(from_base64({v})))"
    low = f"TRY_CAST('0x' || {bits} AS HUGEINT)"
    over = f"TRY_CAST('0x1' || repeat('0', length({bits})) AS HUGEINT)"
    signed = f"CASE WHEN {bits} >= '8' THEN {low} - {over} ELSE {low} END"
    wide = f"map_extract_value(getvariable('{WIDE}')::MAP(VARCHAR, VARCHAR), {bits})"
    whole = f"CASE WHEN length({bits}) <= {BITS // 4} THEN ({signed})::VARCHAR ELSE {wide} END"
    plain = f"ltrim({whole}, '-')"
    digits = f"lpad({plain}, greatest(length({plain}), {scale} + 1)::INTEGER, '0')"
    point = f"left({digits}, length({digits}) - {scale}) || '.' || right({digits}, {scale})"
    sign = f"CASE WHEN {whole} LIKE '-%' THEN '-' ELSE '' END"
    zeros = f"repeat('0', greatest(-({scale}), 0))"
    return f"CASE WHEN {scale} > 0 THEN {sign} || {point} ELSE {whole} || {zeros} END"


def _wide_integers(
    con: DuckDBPyConnection,
    opened: str,
    heads: Sequence[Sequence[str]],
    meanings: Sequence[Mapping[str, Meaning]],
) -> None:
    """Sets the variable that knows the decimals of long numbers; few have any."""
    found: set[str] = set()
    for i, names in enumerate(heads):
        kinds = {kind[0] for fields in meanings if (kind := _meaning(names, fields))}
        if not kinds & {_DECIMAL, _VARIABLE}:
            continue
        for column in (f"a{i}", f"b{i}"):
            inner = f"json_extract_string({column}, '$.value')"
            bits = f"hex(TRY(from_base64(CASE WHEN {column} LIKE '{{%' THEN {inner} ELSE {column} END)))"
            rows = f"SELECT DISTINCT {bits} FROM {ident(opened)} WHERE length({bits}) > {BITS // 4}"
            found |= {row[0] for row in con.execute(rows).fetchall()}
    numbers = [str(int.from_bytes(bytes.fromhex(each), "big", signed=True)) for each in sorted(found)]
    con.execute(f"SET VARIABLE {WIDE} = map(?::VARCHAR[], ?::VARCHAR[])", [sorted(found), numbers])
