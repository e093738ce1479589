"""What only MySQL 8 does, by its documented formats, against a stand-in that speaks its protocol."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from binlog_made import (
    BINARY,
    Made,
    Opaque,
    binary_json,
    event,
    gtid,
    payload,
    query,
    row,
    rows_event,
    table_map,
    told,
)
from hypothesis import given
from hypothesis import strategies as st
from mysql_rows import Ctx, taken, texts
from mysql_stand_in import StandIn, serving

pytest.importorskip("pymysql")
pytest.importorskip("numpy")

from headrace.core import Position
from headrace.errors import ConfigError, DataError, Gap
from headrace.sources.binlog_json import json_text
from headrace.sources.mysql import MySQL
from headrace.sources.mysql_gtid import Gtids, encoded

QUERY, XID, TABLE_MAP, GTID, ANONYMOUS, XA_PREPARE, PARTIAL, PAYLOAD, TAGGED = (
    2,
    16,
    19,
    33,
    34,
    38,
    39,
    40,
    42,
)
WRITE, UPDATE, DELETE = 30, 31, 32
UUID, OTHER = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "aaaaaaaa-71ca-11e1-9e33-c80aa9429562"
COLUMNS = [Made("id", 3), Made("doc", 245, b"\4"), Made("name", 15, struct.pack("<H", 80))]
LISTED = [("id", "int", None, 1), ("doc", "json", None, 0), ("name", "varchar", "utf8mb4", 0)]
WHEN = 1_700_000_000
"""2023-11-14T22:13:20Z"""


@pytest.fixture
def made() -> Iterator[StandIn]:
    with serving(
        StandIn(uuid=UUID, columns={"t": LISTED}, tables={"t": []}, executed=f"{UUID}:1-5")
    ) as found:
        found.begin()
        yield found


def source(made: StandIn, folder: Path, **settings: Any) -> MySQL:
    dsn = f"mysql://root@127.0.0.1:{made.port}/shop"
    return MySQL(name="my", root=folder, dsn=dsn, tables=["t"], **settings)


def read(source: MySQL, start: Position | None = None) -> tuple[list[dict[str, Any]], Position]:
    found: list[dict[str, Any]] = []
    end = start
    for batch in source.read("my", start, Ctx()):
        assert batch is not None
        for file in batch.data:
            found += list(texts(*taken(file), source.root))
        end = batch.end
    assert end is not None
    return found, end


def cells(number: int, doc: Any, name: str) -> bytes:
    value = binary_json(doc)
    return row([struct.pack("<i", number), struct.pack("<I", len(value)) + value, told(name.encode())])


def described(number: int = 9) -> tuple[int, bytes]:
    return TABLE_MAP, table_map(number, "shop", "t", COLUMNS, keys=[0])


def transaction(number: int, *events: tuple[int, bytes], uuid: str = UUID) -> list[tuple[int, int, bytes]]:
    listed = [(GTID, gtid(uuid, number)), (QUERY, query("shop", "BEGIN")), *events, (XID, bytes(8))]
    return [(kind, WHEN, body) for kind, body in listed]


def compressed(
    number: int, *events: tuple[int, bytes], level: int | None = 3
) -> list[tuple[int, int, bytes]]:
    inner = [(QUERY, query("shop", "BEGIN")), *events, (XID, bytes(8))]
    plain = [event(kind, body, WHEN, 0, checked=False) for kind, body in inner]
    if level is None:
        body = payload(plain, 255)
    else:
        # The server ends a frame where it likes.
        frames = [zstandard.compress(each, level) for each in (plain[0], b"".join(plain[1:]))]
        body = payload(plain, 0, b"".join(frames))
    return [(GTID, WHEN, gtid(UUID, number)), (PAYLOAD, WHEN, body)]


def writes(*rows: bytes) -> tuple[int, bytes]:
    return WRITE, rows_event(9, WRITE, 3, rows)


DOC = {"b": [1, -2, 70000, 2**40, 2**64 - 1], "a": None, "long key": {"é": True, "x": 1.5}}
TEXT = (
    '{"a": null, "b": [1, -2, 70000, 1099511627776, 18446744073709551615], "long key": {"x": 1.5, "é": true}}'
)


def test_a_snapshot_and_changes_meet_and_json_is_the_text_that_the_server_prints(
    made: StandIn, tmp_path: Path
) -> None:
    made.tables = {"t": [("1", TEXT, "one")]}
    rows, end = read(source(made, tmp_path))
    assert [(r["id"], r["doc"], r["name"], r["_op"]) for r in rows] == [("1", TEXT, "one", "r")]
    locked, begun, place, freed = (
        next(n for n, sql in enumerate(made.asked) if sql.startswith(word) and n > 8)
        for word in ("FLUSH TABLES WITH READ LOCK", "START TRANSACTION", "SHOW MASTER STATUS", "UNLOCK")
    )
    assert locked < begun < place < freed
    assert end["gtid"] == f"{UUID}:1-5"
    made.binlog += transaction(
        6,
        described(),
        writes(cells(2, DOC, "two"), cells(3, "text", "")),
        (UPDATE, rows_event(9, UPDATE, 3, [cells(1, 0, "one"), cells(1, DOC, "ONE")])),
        (DELETE, rows_event(9, DELETE, 3, [cells(3, "text", "")])),
    )
    changes, after = read(source(made, tmp_path), end)
    assert [(r["_op"], r["id"], r["doc"], r["name"]) for r in changes] == [
        ("c", "2", TEXT, "two"),
        ("c", "3", '"text"', ""),
        ("u", "1", TEXT, "ONE"),
        ("d", "3", '"text"', ""),
    ]
    assert {(r["_tx"], r["_committed"]) for r in changes} == {(f"{UUID}:6", "2023-11-14T22:13:20Z")}
    assert after["gtid"] == f"{UUID}:1-6"
    assert all(r["_sequence"] > rows[0]["_sequence"] for r in changes)
    assert read(source(made, tmp_path), after) == ([], after)


@pytest.mark.parametrize("level", [None, 1, 19])
def test_compressed_transactions_are_read_as_if_they_were_not(
    made: StandIn, tmp_path: Path, level: int | None
) -> None:
    _, end = read(source(made, tmp_path))
    work = [described(), writes(cells(1, 1, "a"), cells(2, 2, "b")), writes(cells(3, 3, "c"))]
    again = [described(), (UPDATE, rows_event(9, UPDATE, 3, [cells(1, 1, "a"), cells(1, 1, "z")]))]
    plain = StandIn(uuid=UUID, columns=made.columns, tables=made.tables, executed=made.executed)
    plain.begin()
    made.binlog += (
        compressed(6, *work, level=level) + transaction(7, *again) + compressed(8, *again, level=level)
    )
    plain.binlog += transaction(6, *work) + transaction(7, *again) + transaction(8, *again)
    rows, after = read(source(made, tmp_path), end)
    with serving(plain):
        wanted, _ = read(source(plain, tmp_path), end)
    told_of = ("_op", "id", "doc", "name", "_tx", "_committed")
    assert [[r[n] for n in told_of] for r in rows] == [[r[n] for n in told_of] for r in wanted]
    order = [r["_sequence"] for r in rows]
    assert order == sorted(set(order))
    # A snapshot where a transaction ends wins over it, and loses against the next one.
    assert (after["pos"], after["gtid"]) == (made.ends[-1], f"{UUID}:1-8")
    assert order[2] < f"0000/00000007/{made.ends[2]:012d}/{0:010d}" < order[3]
    assert read(source(made, tmp_path), after) == ([], after)


def test_a_batch_ends_with_a_compressed_transaction_and_the_next_read_begins_behind_it(
    made: StandIn, tmp_path: Path
) -> None:
    _, end = read(source(made, tmp_path))
    for n in range(5):
        made.binlog += compressed(6 + n, described(), writes(cells(n, n, "n" * 50)))
    whole, last = read(source(made, tmp_path), end)
    small = source(made, tmp_path, batch_bytes=1)
    parts = []
    at: Position | None = end
    while True:
        batch = next(iter(small.read("my", at, Ctx())))
        assert batch is not None
        if not batch.data:
            break
        parts += [r for file in batch.data for r in texts(*taken(file), tmp_path)]
        at = batch.end
    assert (parts, at) == (whole, last)


def test_a_damaged_payload_is_said(made: StandIn, tmp_path: Path) -> None:
    _, end = read(source(made, tmp_path))
    [first, (kind, seconds, body)] = compressed(6, described(), writes(cells(1, 1, "a")), level=None)
    made.binlog += [first, (kind, seconds, body[:-5])]
    with pytest.raises(DataError, match="cut off"):
        read(source(made, tmp_path), end)
    made.binlog[-1] = (kind, seconds, payload([b"x"], 7))
    with pytest.raises(DataError, match="unknown algorithm"):
        read(source(made, tmp_path), end)


def test_another_server_goes_on_behind_the_transactions_that_were_read(made: StandIn, tmp_path: Path) -> None:
    made.executed = f"{UUID}:1-5,\n{OTHER}:1-3"
    made.binlog += transaction(5, described(), writes(cells(1, 1, "a")))
    _, end = read(source(made, tmp_path))
    made.binlog += transaction(6, described(), writes(cells(2, 2, "b")))
    rows, end = read(source(made, tmp_path), end)
    assert end["gtid"] == f"{UUID}:1-6,{OTHER}:1-3"
    replica = StandIn(uuid=OTHER, columns=made.columns, tables=made.tables, file="replica.000001")
    replica.begin()
    replica.binlog += transaction(7, described(), writes(cells(3, 3, "c")))
    with serving(replica):
        more, after = read(source(replica, tmp_path), end)
    [(command, asked)] = replica.dumps
    flags, _, named, position, size = struct.unpack_from("<HIIQI", asked)
    assert (command, flags, named, position) == (0x1E, 5, 0, 4)
    one = bytes.fromhex(UUID.replace("-", "")) + struct.pack("<QQQ", 1, 1, 7)
    two = bytes.fromhex(OTHER.replace("-", "")) + struct.pack("<QQQ", 1, 1, 4)
    assert asked[22:] == struct.pack("<Q", 2) + one + two
    assert size == len(asked) - 22
    assert [r["id"] for r in more] == ["3"]
    assert more[0]["_sequence"] > rows[-1]["_sequence"]
    assert (after["server"], after["generation"], after["gtid"]) == (OTHER, 1, f"{UUID}:1-7,{OTHER}:1-3")


@pytest.mark.parametrize("kind", [ANONYMOUS, TAGGED])
def test_a_transaction_without_an_id_binds_to_the_server(made: StandIn, tmp_path: Path, kind: int) -> None:
    _, end = read(source(made, tmp_path))
    [_, *rest] = transaction(6, described(), writes(cells(1, 1, "a")))
    made.binlog += [(kind, WHEN, bytes(42)), *rest, *transaction(7, described(), writes(cells(2, 2, "b")))]
    rows, after = read(source(made, tmp_path), end)
    assert [(r["id"], r["_tx"]) for r in rows] == [("1", None), ("2", f"{UUID}:7")]
    assert after["gtid"] == ""
    made.uuid = OTHER
    with pytest.raises(Gap, match="a place that only that one knows") as error:
        read(source(made, tmp_path), after)
    assert "id: <a new name>" in str(error.value)


def test_partial_updates_of_json_are_refused_with_the_cure(made: StandIn, tmp_path: Path) -> None:
    made.settings["binlog_row_value_options"] = "PARTIAL_JSON"
    with pytest.raises(ConfigError, match="binlog_row_value_options") as error:
        read(source(made, tmp_path))
    assert "SET GLOBAL binlog_row_value_options = ''" in str(error.value)
    made.settings["binlog_row_value_options"] = ""
    _, end = read(source(made, tmp_path))
    made.binlog += transaction(6, described(), (PARTIAL, rows_event(9, UPDATE, 3, [])))
    with pytest.raises(ConfigError, match="only the parts of JSON values that changed"):
        read(source(made, tmp_path), end)


def test_older_servers_do_not_know_partial_updates(made: StandIn, tmp_path: Path) -> None:
    del made.settings["binlog_row_value_options"]
    assert read(source(made, tmp_path))[0] == []


def test_a_newer_server_is_asked_in_its_own_words(made: StandIn, tmp_path: Path) -> None:
    made.version = "8.4.2"
    read(source(made, tmp_path))
    assert any("SHOW BINARY LOG STATUS" in sql for sql in made.asked)
    assert not any("SHOW MASTER STATUS" in sql for sql in made.asked)


def test_a_purged_binlog_stops_loudly(made: StandIn, tmp_path: Path) -> None:
    _, end = read(source(made, tmp_path))
    made.purged = True
    with pytest.raises(
        Gap, match=r"has no binlog from binlog.000007:\d+ on: Could not find first log"
    ) as error:
        read(source(made, tmp_path), end)
    assert "binlog_expire_logs_seconds" in str(error.value)


def test_two_phases_as_mysql_writes_them(made: StandIn, tmp_path: Path) -> None:
    _, end = read(source(made, tmp_path))
    xid = struct.pack("<BIII", 0, 1, 1, 0) + b"a"
    begun = [
        (GTID, gtid(UUID, 6)),
        (QUERY, query("shop", "XA START X'61',X'',1")),
        described(),
        writes(cells(1, 1, "a")),
        (QUERY, query("shop", "XA END X'61',X'',1")),
        (XA_PREPARE, xid),
    ]
    now = int(time.time())
    made.binlog += [(kind, now, body) for kind, body in begun]
    assert read(source(made, tmp_path), end) == ([], end)
    done = [(GTID, gtid(UUID, 7)), (QUERY, query("shop", "XA COMMIT X'61',X'',1"))]
    made.binlog += [(kind, now, body) for kind, body in done]
    rows, after = read(source(made, tmp_path), end)
    assert [(r["id"], r["_tx"]) for r in rows] == [("1", f"{UUID}:7")]
    assert after["gtid"] == f"{UUID}:1-7"


def test_sets_of_transactions() -> None:
    known = Gtids.of(f"{UUID}:1-3:5:7-9", mariadb=False)
    for number in (4, 10, 12):
        known.add(f"{UUID}:{number}")
    assert known.text == f"{UUID}:1-5:7-10:12"
    assert Gtids.of(known.text, mariadb=False) == known
    assert not Gtids.of(f"{UUID}:tag:1-3", mariadb=False)
    assert encoded({}) == bytes(8)


@given(st.permutations(range(1, 30)).flatmap(lambda order: st.integers(0, 29).map(lambda n: order[:n])))
def test_a_set_holds_what_was_added(numbers: list[int]) -> None:
    known = Gtids.of("a:100", mariadb=False)
    for number in numbers:
        known.add(f"a:{number}")
    found = {n for a, b in known.spans["a"] for n in range(a, b + 1)}
    assert found == {*numbers, 100}
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(known.spans["a"]))


PACKED_TIME = (((838 << 12) | (59 << 6) | 58) << 24) + 7
PACKED_DAY = ((((2024 * 13 + 2) << 5 | 29) << 17) | (23 << 12) | (5 << 6) | 9) << 24


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "{}"),
        ([], "[]"),
        (None, "null"),
        ([True, False, None], "[true, false, null]"),
        ([0, -1, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, -(2**63), 2**64 - 1],
         "[0, -1, 32767, -32768, 65535, 2147483647, -2147483648, 4294967295, -9223372036854775808, "
         "18446744073709551615]"),
        ([1.0, 0.1, -2.5, 1e15, 1e16, 1e-5, 1e300, -0.0],
         "[1.0, 0.1, -2.5, 1e15, 1e16, 0.00001, 1e300, -0.0]"),
        ("\"\\\b\f\n\r\t\x01/é😀", '"\\"\\\\\\b\\f\\n\\r\\t\\u0001/é😀"'),
        ("x" * 200, '"' + "x" * 200 + '"'),
        ({"bb": 1, "a": 2, "c": {"": []}, "ab": 3}, '{"a": 2, "c": {"": []}, "ab": 3, "bb": 1}'),
        (Opaque(246, b"\x0a\x02" + bytes.fromhex("8000000c22")), "12.34"),
        (Opaque(11, struct.pack("<q", PACKED_TIME)), '"838:59:58.000007"'),
        (Opaque(11, struct.pack("<q", -PACKED_TIME)), '"-838:59:58.000007"'),
        (Opaque(10, struct.pack("<q", PACKED_DAY)), '"2024-02-29"'),
        (Opaque(12, struct.pack("<q", PACKED_DAY)), '"2024-02-29 23:05:09.000000"'),
        (Opaque(7, struct.pack("<q", PACKED_DAY + 5)), '"2024-02-29 23:05:09.000005"'),
        (Opaque(253, b"text"), '"text"'),
        (Opaque(15, b"\0\xff"), '"base64:type15:AP8="'),
        (Opaque(252, b"a" * 60), '"base64:type252:' + "YWFh" * 19 + "\\n" + "YWFh" + '"'),
    ],
)  # fmt: skip
def test_binary_json_is_printed_as_the_server_does(value: Any, text: str, large: bool) -> None:
    assert json_text(binary_json(value, large=large)) == text
    assert json_text(binary_json([value, {"k": value}], large=large)) == f'[{text}, {{"k": {text}}}]'


def test_no_json_at_all_is_null_and_damage_is_said() -> None:
    assert json_text(b"") == "null"
    whole = binary_json({"key": ["value", 70000, 1.5], "other": "x" * 300})
    for size in range(1, len(whole)):
        with pytest.raises(DataError, match="damaged"):
            json_text(whole[:size])
    with pytest.raises(DataError, match="damaged"):
        json_text(b"\x0e")
    # A container that holds itself.
    with pytest.raises(DataError, match="damaged"):
        json_text(b"\2" + struct.pack("<HHBH", 1, 7, 2, 0))


def test_binary_text_in_a_row_is_hexadecimal(made: StandIn, tmp_path: Path) -> None:
    columns = [Made("id", 3), Made("raw", 15, struct.pack("<H", 20), collation=BINARY)]
    made.columns = {"t": [("id", "int", None, 1), ("raw", "varbinary", None, 0)]}
    _, end = read(source(made, tmp_path))
    cell = row([struct.pack("<i", 1), told(b"\0\xff")])
    made.binlog += transaction(
        6,
        (TABLE_MAP, table_map(9, "shop", "t", columns, keys=[0])),
        (WRITE, rows_event(9, WRITE, 2, [cell])),
    )
    rows, _ = read(source(made, tmp_path), end)
    assert [r["raw"] for r in rows] == ["\\x00ff"]
