"""Views over pinned files, and queries that can only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.core import TableAt, Write
from headrace.engines.duckdb import DuckEngine
from headrace.engines.duckdb.frame import DuckFrame
from headrace.engines.duckdb.views import publish, query
from headrace.errors import ConfigError

COLUMNS = {"id": "integer", "day": "date", "_deleted": "boolean"}
SELECT = (
    "SELECT i::INTEGER AS id, DATE '2020-01-01' + i::INTEGER AS day, i = 3 AS _deleted FROM range(5) t(i)"
)


@pytest.fixture
def table(tmp_path: Path) -> TableAt:
    with DuckEngine(tmp_path / "s") as engine:
        frame = DuckFrame(engine.session, SELECT, COLUMNS, 5)
        write = Write("t", "append", partition_by=["day"])
        change = engine.rewrite(TableAt("t", -1, [], {}), write, frame, tmp_path / "it's" / "t")
    return TableAt("t", 0, change.add, change.columns, ["day"])


def test_published_views_hide_tombstones_but_histories_keep_them(table: TableAt, tmp_path: Path) -> None:
    import duckdb

    path = tmp_path / "gold.duckdb"
    publish(path, {"silver": {"t": table, "t_history": table, "old": "SELECT 1 AS x"}})
    publish(path, {"silver": {"t": table, "t_history": table}})
    with duckdb.connect(str(path), read_only=True) as con:
        assert con.execute("SELECT count(*), min(day)::VARCHAR FROM silver.t").fetchall() == [
            (4, "2020-01-01")
        ]
        assert con.execute("SELECT count(*) FILTER (_deleted) FROM silver.t_history").fetchall() == [(1,)]
        views = con.execute("SELECT view_name FROM duckdb_views() WHERE schema_name = 'silver'").fetchall()
    assert sorted(views) == [("t",), ("t_history",)]


def test_query_gives_names_and_rows(table: TableAt, tmp_path: Path) -> None:
    import duckdb

    with duckdb.connect(str(tmp_path / "g.duckdb")) as con:
        con.execute("CREATE TABLE facts AS SELECT 7 AS n")
    names, rows = query(
        {"silver": {"t": table}},
        "SELECT id, n FROM silver.t, gold.facts ORDER BY id",
        attach={"gold": tmp_path / "g.duckdb"},
        scratch=tmp_path / "spill",
    )
    assert (names, list(rows)) == (["id", "n"], [(0, 7), (1, 7), (2, 7), (4, 7)])


def test_an_empty_table_has_its_columns() -> None:
    names, rows = query({"silver": {"t": TableAt("t", 0, [], {"id": "integer"})}}, "SELECT * FROM silver.t")
    assert (names, list(rows)) == (["id"], [])
    with pytest.raises(ConfigError, match="no columns yet"):
        query({"silver": {"t": TableAt("t", -1, [], {})}}, "SELECT 1")


@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW silver.t",
        "CREATE TABLE x AS SELECT 1",
        "COPY (SELECT 1) TO '{0}/out.csv'",
        "SELECT * FROM read_csv('{0}/secret.csv')",
        "SELECT * FROM '{0}/secret.csv'",
        "SELECT * FROM read_text('{0}/secret.csv')",
        "SELECT * FROM glob('{0}/*')",
        "ATTACH '{0}/x.duckdb'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "PRAGMA database_list",
        "SELECT 1; DROP VIEW silver.t",
        "SELECT FROM WHERE",
        "SELECT * FROM silver.nope",
        "",
    ],
)
def test_query_can_only_read_the_lake(table: TableAt, tmp_path: Path, sql: str) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError):
        list(query({"silver": {"t": table}}, sql.format(tmp_path))[1])
    assert sorted(tmp_path.iterdir()) == before


def test_a_wrong_name_lists_the_tables(table: TableAt) -> None:
    with pytest.raises(ConfigError) as caught:
        query({"silver": {"t": table}}, "SELECT * FROM silver.tt")
    assert caught.value.hint == "tables: silver.t"


@pytest.mark.parametrize("rows", [1, 100_000])
def test_an_error_on_the_way_is_one_of_ours(rows: int) -> None:
    sql = f"SELECT CASE WHEN i = {rows - 1} THEN error('x' || i) END FROM range({rows}) t(i)"
    with pytest.raises(ConfigError, match=f"x{rows - 1}"):
        list(query({}, sql)[1])
