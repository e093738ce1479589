"""The MySQL source against a real MariaDB: every type, every change, and every way in which it must stop."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from mariadb_server import MariaDB
from mysql_rows import Ctx, Row, taken, texts

from headrace.core import Batch, Landed, Position
from headrace.errors import ConfigError, DataError, Gap, Refused, SystemFault
from headrace.sources import mysql_stream
from headrace.sources.mysql import MySQL
from headrace.testing.source import check_source


@dataclass
class Shop:
    server: MariaDB
    name: str
    folder: Path

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        return self.server.sql(self.name, *statements)

    def source(self, *tables: str, **settings: Any) -> MySQL:
        return MySQL(
            name="my", root=self.folder, dsn=self.server.dsn(self.name), tables=list(tables), **settings
        )

    def read(self, source: MySQL, start: Position | None = None) -> tuple[list[Row], Position]:
        """All rows from a position on, with the table of each, and where the next read starts."""
        found: list[Row] = []
        end = start
        for batch in source.read("my", start, Ctx()):
            assert batch is not None
            found += [row for file in batch.data for row in self.rows(file)]
            end = batch.end
        assert end is not None
        return found, end

    def rows(self, file: Any) -> Iterator[Row]:
        content, form = taken(file)
        for row in texts(content, form, self.folder):
            yield {"table": file.table, **row}


@pytest.fixture
def shop(mariadb: MariaDB, tmp_path: Path) -> Shop:
    return Shop(mariadb, mariadb.database(), tmp_path)


TYPES: Sequence[tuple[str, Mapping[str, str | None]]] = (
    ("tinyint", {"-128": "-128", "127": "127"}),
    ("tinyint unsigned", {"255": "255"}),
    ("boolean", {"true": "1"}),
    ("smallint", {"-32768": "-32768"}),
    ("smallint unsigned", {"65535": "65535"}),
    ("mediumint", {"-8388608": "-8388608"}),
    ("mediumint unsigned", {"16777215": "16777215"}),
    ("int", {"-2147483648": "-2147483648"}),
    ("int unsigned", {"4294967295": "4294967295"}),
    ("int(8) zerofill", {"42": "42"}),
    ("bigint", {"-9223372036854775808": "-9223372036854775808"}),
    ("bigint unsigned", {"18446744073709551615": "18446744073709551615"}),
    (
        "decimal(65,30)",
        {
            "12345678901234567890123456789012345.123456789012345678901234567890": (
                "12345678901234567890123456789012345.123456789012345678901234567890"
            ),
            "-0.000000000000000000000000000001": "-0.000000000000000000000000000001",
        },
    ),
    ("decimal(10,0)", {"-7": "-7"}),
    ("decimal(9,9)", {"0.123456789": "0.123456789"}),
    ("decimal(5,2) unsigned", {"1.5": "1.50"}),
    ("float", {"1.1": "1.100000023841858", "-1e-30": "-1.0000000031710769e-30"}),
    ("double", {"0.1": "0.1", "1e300": "1e+300", "123456789012345680": "1.2345678901234568e+17"}),
    ("bit(1)", {"b'1'": "1"}),
    ("bit(13)", {"b'1010101010101'": "5461"}),
    ("bit(64)", {f"b'{'1' * 64}'": str(2**64 - 1)}),
    ("year", {"2024": "2024", "0": "0000"}),
    (
        "date",
        {
            "'2024-02-29'": "2024-02-29",
            "'0000-00-00'": "0000-00-00",
            "'2024-00-00'": "2024-00-00",
            "'9999-12-31'": "9999-12-31",
        },
    ),
    ("time", {"'-838:59:59'": "-838:59:59", "'12:00:00'": "12:00:00"}),
    ("time(3)", {"'-00:00:00.100'": "-00:00:00.100", "'23:59:59.999'": "23:59:59.999"}),
    ("time(6)", {"'-12:34:56.000001'": "-12:34:56.000001"}),
    ("datetime", {"'1000-01-01 00:00:00'": "1000-01-01 00:00:00", "'0000-00-00'": "0000-00-00 00:00:00"}),
    ("datetime(2)", {"'2024-02-29 23:59:59.99'": "2024-02-29 23:59:59.99"}),
    ("datetime(6)", {"'9999-12-31 23:59:59.999999'": "9999-12-31 23:59:59.999999"}),
    (
        "timestamp null",
        {"'1970-01-01 00:00:01'": "1970-01-01 00:00:01+00", "'0000-00-00'": "0000-00-00 00:00:00"},
    ),
    ("timestamp(6) null", {"'2038-01-19 03:14:07.999999'": "2038-01-19 03:14:07.999999+00"}),
    ("char(10)", {"'ab  '": "ab", "'é'": "é"}),
    ("char(255)", {"'x'": "x"}),
    ("varchar(20)", {"''": "", "'日本'": "日本"}),
    ("varchar(300)", {"'a\"b,c\\nd'": 'a"b,c\nd', "'NULL'": "NULL"}),
    ("char(5) character set latin1", {"'é'": "é"}),
    ("varchar(5) character set utf16", {"'é'": "é"}),
    ("varchar(9) character set sjis", {"'日本'": "日本"}),
    ("binary(4)", {"x'0100'": "\\x01000000"}),
    ("varbinary(10)", {"x'00ff00'": "\\x00ff00"}),
    ("tinytext", {"'t'": "t"}),
    ("text", {"repeat('long ', 9000)": "long " * 9000}),
    ("mediumtext", {"'m'": "m"}),
    ("longtext", {"'l'": "l"}),
    ("tinyblob", {"x''": "\\x", "x'00'": "\\x00"}),
    ("blob", {"x'deadbeef'": "\\xdeadbeef"}),
    ("mediumblob", {"x'01'": "\\x01"}),
    ("longblob", {"x'02'": "\\x02"}),
    ("enum('a','b,c','')", {"'b,c'": "b,c", "'nothing such'": ""}),
    ("set('x','y','z')", {"'x,z'": "x,z", "''": ""}),
    ("json", {"'{\"a\": [1, 2.50, null]}'": '{"a": [1, 2.50, null]}'}),
    ("point", {"ST_GeomFromText('POINT(1 2)')": "\\x0101000000000000000000f03f0000000000000040"}),
    ("geometry", {"ST_GeomFromText('POINT(1 2)')": "\\x0101000000000000000000f03f0000000000000040"}),
    (
        "linestring",
        {
            "ST_GeomFromText('LINESTRING(0 0,1 1)')": (
                "\\x01020000000200000000000000000000000000000000000000000000000000f03f000000000000f03f"
            )
        },
    ),
    (
        "uuid",
        {
            f"'123e4567-e89b-{v}2d3-a456-426655440000'": f"123e4567-e89b-{v}2d3-a456-426655440000"
            for v in "147"
        },
    ),
    ("inet4", {"'10.0.0.1'": "10.0.0.1"}),
    ("inet6", {"'2001:db8::1'": "2001:db8::1", "'::ffff:1.2.3.4'": "::ffff:1.2.3.4"}),
    ("varchar(100) compressed", {"'cc'": "cc", "repeat('c', 90)": "c" * 90}),
    ("text compressed", {"repeat('ab', 1000)": "ab" * 1000}),
)


def test_a_value_is_the_same_by_snapshot_by_change_and_as_it_was_written(shop: Shop) -> None:
    assert len(TYPES) >= 40
    columns = ", ".join(f"c{number} {kind}" for number, (kind, _) in enumerate(TYPES))
    most = max(len(values) for _, values in TYPES)
    written: list[list[str]] = []
    expected: list[list[str | None]] = []
    for nth in range(most):
        pairs = [list(values.items())[nth % len(values)] for _, values in TYPES]
        written.append([literal for literal, _ in pairs])
        expected.append([text for _, text in pairs])
    written.append(["NULL"] * len(TYPES))
    expected.append([None] * len(TYPES))
    inserts = [f"({number}, {', '.join(row)})" for number, row in enumerate(written)]
    for table in ("snap", "live"):
        shop.sql(f"CREATE TABLE {table} (id int PRIMARY KEY, {columns}) ROW_FORMAT=DYNAMIC")
    shop.sql(f"INSERT INTO snap VALUES {', '.join(inserts)}")
    source = shop.source("snap", "live", chunk_rows=2)
    snapshot, end = shop.read(source)
    shop.sql(f"INSERT INTO live VALUES {', '.join(inserts)}")
    changes, _ = shop.read(source, end)
    for way in (snapshot, changes):
        got = {int(row["id"] or 0): row for row in way}
        assert sorted(got) == list(range(len(written)))
        for number, row in enumerate(expected):
            for (kind, _), at, value in zip(TYPES, range(len(TYPES)), row, strict=True):
                assert got[number][f"c{at}"] == value, (kind, number)


def told(rows: Sequence[Row], *names: str) -> list[tuple[str | None, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_every_kind_of_change_in_order(shop: Shop) -> None:
    shop.sql(
        "CREATE TABLE t (id int PRIMARY KEY, name varchar(20))",
        "CREATE TABLE other (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')",
    )
    source = shop.source("t", chunk_rows=2)
    rows, end = shop.read(source)
    assert told(rows, "id", "name", "_op") == [("1", "one", "r"), ("2", "two", "r"), ("3", "three", "r")]
    shop.sql(
        "INSERT INTO other VALUES (1)",
        "UPDATE t SET name = 'ONE' WHERE id = 1",
        "UPDATE t SET id = 20 WHERE id = 2",
        "DELETE FROM t WHERE id = 3",
        "BEGIN",
        "INSERT INTO t VALUES (4, NULL)",
        "SAVEPOINT a",
        "INSERT INTO t VALUES (5, 'never')",
        "ROLLBACK TO a",
        "INSERT INTO t VALUES (6, '')",
        "COMMIT",
        "BEGIN",
        "INSERT INTO t VALUES (7, 'rolled back')",
        "ROLLBACK",
        "TRUNCATE TABLE t",
        "INSERT INTO t VALUES (8, 'eight')",
    )
    changes, after = shop.read(source, end)
    assert told(changes, "_op", "id", "name") == [
        ("u", "1", "ONE"),
        ("d", "2", "two"),
        ("c", "20", "two"),
        ("d", "3", "three"),
        ("c", "4", None),
        ("c", "6", ""),
        ("t", None, None),
        ("c", "8", "eight"),
    ]
    order = [row["_sequence"] or "" for row in [*rows, *changes]]
    assert order == sorted(order)
    assert len({row["_tx"] for row in changes}) == 6
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["_committed"] or "") for row in changes)
    assert shop.read(source, after) == ([], after)


def test_a_table_that_changes_its_shape_on_the_way(shop: Shop) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY, a int)")
    source = shop.source("t")
    _, end = shop.read(source)
    shop.sql(
        "INSERT INTO t VALUES (1, 10)",
        "ALTER TABLE t ADD b varchar(5) FIRST, CHANGE a renamed bigint",
        "INSERT INTO t VALUES ('x', 2, 5000000000)",
        "ALTER TABLE t DROP b",
        "INSERT INTO t VALUES (3, 30)",
    )
    rows, _ = shop.read(source, end)
    assert told(rows, "id") == [("1",), ("2",), ("3",)]
    assert [(r.get("a"), r.get("b"), r.get("renamed")) for r in rows] == [
        ("10", None, None),
        (None, "x", "5000000000"),
        (None, None, "30"),
    ]


def test_reading_stops_and_goes_on_anywhere(shop: Shop) -> None:
    shop.sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "CREATE TABLE u (a int, b varchar(9), PRIMARY KEY (b, a))",
    )
    shop.sql("INSERT INTO t SELECT seq, repeat('x', seq) FROM seq_1_to_25")
    shop.sql("INSERT INTO u SELECT seq, concat('k', seq % 3) FROM seq_1_to_10")
    first = shop.source("t", "u", chunk_rows=7)
    begin = next(iter(first.read("my", None, Ctx())))
    assert begin is not None
    shop.sql(
        *(f"UPDATE t SET v = 'after {n}' WHERE id = {n}" for n in range(1, 9)), "DELETE FROM u WHERE a > 5"
    )

    def rows(content: bytes, form: Mapping[str, Any]) -> list[object]:
        found = list(texts(content, form, shop.folder))
        # a snapshot that goes on later is consistent with a later position
        return [
            {k: v for k, v in row.items() if k != "_sequence" or row["_op"] != "r"}.items()
            for row in map(dict, found)
        ]

    @dataclass
    class Later:
        inner: MySQL

        def streams(self) -> Sequence[str]:
            return self.inner.streams()

        def read(self, stream: str, start: Position | None, ctx: Any) -> Iterator[Batch | None]:
            yield from self.inner.read(stream, start or begin.end, ctx)

    source = shop.source("t", "u", chunk_rows=7, batch_bytes=200)
    assert check_source(lambda: Later(source), rows=rows) > 6


def test_a_snapshot_is_taken_anew_while_changes_go_on(shop: Shop) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    _, end = shop.read(shop.source("t"))
    shop.sql("INSERT INTO t VALUES (2)")
    rows, after = shop.read(shop.source("t", resnapshot="2026-11-20"), end)
    assert told(rows, "id", "_op") == [("1", "r"), ("2", "r"), ("2", "c")]
    [snapshot] = {row["_sequence"] or "" for row in rows if row["_op"] == "r"}
    assert snapshot > (rows[-1]["_sequence"] or "")
    assert shop.read(shop.source("t", resnapshot="2026-11-20"), after) == ([], after)


def test_a_purged_binlog_stops_loudly(shop: Shop) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY)")
    _, end = shop.read(shop.source("t"))
    shop.sql("FLUSH BINARY LOGS", "INSERT INTO t VALUES (1)", "FLUSH BINARY LOGS")
    last = shop.sql("SHOW MASTER STATUS")[0][0]
    shop.sql(f"PURGE BINARY LOGS TO '{last}'")
    with pytest.raises(Gap, match="has no binlog from"):
        shop.read(shop.source("t"), end)


def test_what_the_server_must_have_is_asked_for(shop: Shop) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY)")
    shop.sql("SET GLOBAL binlog_row_metadata = NO_LOG")
    try:
        with pytest.raises(ConfigError, match="binlog_row_metadata") as error:
            shop.read(shop.source("t"))
        assert "SET GLOBAL binlog_row_metadata = FULL" in str(error.value)
    finally:
        shop.sql("SET GLOBAL binlog_row_metadata = FULL")
    with pytest.raises(ConfigError, match="no table `gone`"):
        shop.read(shop.source("gone"))
    wrong = MySQL(name="my", root=shop.folder, dsn="mysql://nobody:secret@127.0.0.1:1/x", tables=["t"])
    with pytest.raises(Exception, match="connect") as refused:
        shop.read(wrong)
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError, match="no URL of a MySQL database"):
        shop.read(MySQL(name="my", root=shop.folder, dsn="postgres://x", tables=["t"]))


def only(source: MySQL, ctx: Ctx) -> tuple[str, bytes, Mapping[str, Any]]:
    """Name, bytes and format of the one file that there is, read while the source waits."""
    with closing(cast(Any, source.read("my", None, ctx))) as batches:
        [file] = next(batches).data
        return file.name, *taken(file)


def test_whole_tables_and_one_that_lost_its_rows(shop: Shop) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY, v varchar(5))", "INSERT INTO t VALUES (1, NULL), (2, '')")
    source = shop.source("t", mode="snapshot")
    name, content, form = only(source, Ctx())
    assert (name, content) == ("t.csv", b'"id","v"\n"1",\n"2",""\n')
    seen = Ctx(landed={"t.csv": Landed("k", "t.csv", len(content), "", form["rows"], form)})
    shop.sql("DELETE FROM t")
    with pytest.raises(Refused):
        only(source, seen)


def test_transactions_in_two_phases_count_where_they_are_committed(shop: Shop) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY, v varchar(9))", "INSERT INTO t VALUES (1, 'one')")
    source = shop.source("t")
    _, end = shop.read(source)
    with (
        closing(shop.server.connect(shop.name)) as con,
        closing(shop.server.connect(shop.name)) as other,
        con.cursor() as first,
        other.cursor() as second,
    ):
        for name, cursor, row in (("kept", first, 2), ("gone", second, 3)):
            cursor.execute(f"XA START '{name}'")
            cursor.execute(f"INSERT INTO t VALUES ({row}, 'xa'), ({row + 10}, 'xa')")
            cursor.execute(f"XA END '{name}'")
            cursor.execute(f"XA PREPARE '{name}'")
        shop.sql("INSERT INTO t VALUES (4, 'later')")
        # What came after a transaction in doubt waits for it.
        assert shop.read(source, end) == ([], end)
        second.execute("XA ROLLBACK 'gone'")
        assert shop.read(source, end) == ([], end)
        shop.sql("FLUSH BINARY LOGS")
        first.execute("XA COMMIT 'kept'")
        for statement in ("XA START 'once'", "DELETE FROM t WHERE id = 1", "XA END 'once'"):
            first.execute(statement)
        first.execute("XA COMMIT 'once' ONE PHASE")
    rows, after = shop.read(source, end)
    assert sorted(told(rows, "_sequence", "_op", "id"))[:1][0][1:] == ("c", "4")
    assert {row[1:] for row in told(rows, "_sequence", "_op", "id")} == {
        *(("c", "4"), ("c", "2"), ("c", "12"), ("d", "1")),
    }
    order = {row["id"]: row["_sequence"] or "" for row in rows}
    assert order["4"] < order["2"] < order["12"] < order["1"]
    assert shop.read(source, after) == ([], after)


def test_a_transaction_in_two_phases_that_had_begun_before_stops_loudly(shop: Shop) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY)")
    with closing(shop.server.connect(shop.name)) as con, con.cursor() as cursor:
        for word in ("START", "END", "PREPARE"):
            cursor.execute(f"XA {word} 'early'")
            if word == "START":
                cursor.execute("INSERT INTO t VALUES (1)")
        _, end = shop.read(shop.source("t"))
        cursor.execute("XA COMMIT 'early'")
    with pytest.raises(Gap, match="had been prepared before reading began"):
        shop.read(shop.source("t"), end)


def test_a_transaction_in_doubt_for_long_is_told(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY)")
    _, end = shop.read(shop.source("t"))
    with closing(shop.server.connect(shop.name)) as con, con.cursor() as cursor:
        for statement in ("XA START 'x'", "INSERT INTO t VALUES (1)", "XA END 'x'", "XA PREPARE 'x'"):
            cursor.execute(statement)
        monkeypatch.setattr(mysql_stream, "PATIENCE", -1)
        with pytest.raises(SystemFault, match="committed since has to wait"):
            shop.read(shop.source("t"), end)
        cursor.execute("XA ROLLBACK 'x'")
    assert shop.read(shop.source("t"), end)[0] == []


def test_a_change_that_was_written_as_a_statement_stops_loudly(shop: Shop) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY)")
    source = shop.source("t")
    _, end = shop.read(source)
    shop.sql("SET SESSION binlog_format = STATEMENT", "INSERT INTO u VALUES (1)")
    _, end = shop.read(source, end)
    shop.sql("SET SESSION binlog_format = STATEMENT", "INSERT INTO t VALUES (1)")
    with pytest.raises(Gap, match="written as a statement") as error:
        shop.read(source, end)
    assert "binlog_format = ROW" in str(error.value)


def test_row_events_that_the_server_compressed(shop: Shop) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY, v text)")
    _, end = shop.read(shop.source("t"))
    shop.sql("SET GLOBAL log_bin_compress = ON")
    try:
        shop.sql(
            "INSERT INTO t SELECT seq, repeat('word ', seq) FROM seq_1_to_200",
            "UPDATE t SET v = concat(v, 'more') WHERE id > 100",
            "DELETE FROM t WHERE id < 50",
        )
    finally:
        shop.sql("SET GLOBAL log_bin_compress = OFF")
    rows, _ = shop.read(shop.source("t"), end)
    assert len(rows) == 200 + 100 + 49
    last = {row["id"]: None if row["_op"] == "d" else row["v"] for row in rows}
    assert {key: value for key, value in last.items() if value is not None} == {
        str(n): "word " * n + "more" * (n > 100) for n in range(50, 201)
    }


@pytest.mark.parametrize(
    ("name", "wrong", "cure"),
    [
        ("binlog_format", "MIXED", "SET GLOBAL binlog_format = ROW"),
        ("binlog_row_image", "MINIMAL", "SET GLOBAL binlog_row_image = FULL"),
        ("binlog_row_image", "NOBLOB", "SET GLOBAL binlog_row_image = FULL"),
        ("binlog_row_metadata", "MINIMAL", "SET GLOBAL binlog_row_metadata = FULL"),
    ],
)
def test_a_setting_that_loses_changes_is_refused_with_its_cure(
    shop: Shop, name: str, wrong: str, cure: str
) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY)")
    [before] = [value for _, value in shop.sql(f"SHOW GLOBAL VARIABLES LIKE '{name}'")]
    shop.sql(f"SET GLOBAL {name} = {wrong}")
    try:
        with pytest.raises(ConfigError, match=f"`{name}` = .*the server has {wrong}") as error:
            shop.read(shop.source("t"))
        assert cure in str(error.value)
    finally:
        shop.sql(f"SET GLOBAL {name} = {before}")


def test_a_session_that_tells_less_of_its_rows_is_not_believed(shop: Shop) -> None:
    shop.sql("CREATE TABLE t (id int PRIMARY KEY, a int, b int)", "INSERT INTO t VALUES (1, 2, 3)")
    _, end = shop.read(shop.source("t"))
    shop.sql("SET SESSION binlog_row_image = MINIMAL", "UPDATE t SET a = 5")
    with pytest.raises(DataError, match="without all columns"):
        shop.read(shop.source("t"), end)
