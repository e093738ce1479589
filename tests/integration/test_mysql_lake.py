"""A MariaDB that changes its mind on the way, followed to silver: the contract's policies decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable
from mariadb_server import MariaDB
from projects import go

pytest.importorskip("pymysql")
pytest.importorskip("numpy")

PIPELINE = """
name: shop
sources:
  my: {{type: mariadb, dsn: "{dsn}", tables: [t]}}
tables:
  t:
    from: my.t
    keys: [id]
    contract:
      nulls: []
      {policy}
      columns: {{id: {{type: integer, required: true}}, n: {{type: integer}}, s: {{}}}}
"""


def project(root: Path, server: MariaDB, database: str, policy: str = "") -> None:
    (root / "pipeline.yml").write_text(PIPELINE.format(dsn=server.dsn(database), policy=policy))


def table(root: Path, name: str, columns: str) -> list[tuple[Any, ...]]:
    path = root / "lake" / name
    files = DeltaTable(str(path)).file_uris() if path.exists() else []
    query = f"select {columns} from read_parquet(?, union_by_name=true) order by all"
    return duckdb.execute(query, [files]).fetchall() if files else []


@pytest.fixture
def database(mariadb: MariaDB, tmp_path: Path) -> str:
    name = mariadb.database()
    mariadb.sql(
        name, "CREATE TABLE t (id int PRIMARY KEY, n int, s varchar(9))", "INSERT INTO t VALUES (1, 1, 'one')"
    )
    project(tmp_path, mariadb, name)
    assert go(tmp_path).status == "success"
    return name


ALTERED = (
    "UPDATE t SET s = 'ONE'",
    "ALTER TABLE t ADD extra decimal(6,2) AFTER id",
    "INSERT INTO t VALUES (2, 2.5, 2, 'two')",
    "UPDATE t SET extra = 1 WHERE id = 1",
)


def test_a_new_column_is_carried_on(mariadb: MariaDB, tmp_path: Path, database: str) -> None:
    mariadb.sql(database, *ALTERED)
    assert go(tmp_path).status == "success"
    assert table(tmp_path, "silver/t", "id, n, s, extra") == [(1, 1, "ONE", "1.00"), (2, 2, "two", "2.50")]
    assert table(tmp_path, "quarantine/t", "*") == []


def test_a_new_column_is_left_out(mariadb: MariaDB, tmp_path: Path, database: str) -> None:
    project(tmp_path, mariadb, database, "on_new_column: freeze")
    mariadb.sql(database, *ALTERED)
    assert go(tmp_path).status == "success"
    assert table(tmp_path, "silver/t", "id, n, s") == [(1, 1, "ONE"), (2, 2, "two")]
    names = duckdb.execute(
        "describe select * from read_parquet(?)", [DeltaTable(str(tmp_path / "lake/silver/t")).file_uris()]
    ).fetchall()
    assert "extra" not in {row[0] for row in names}


def test_rows_with_a_new_column_wait_in_quarantine(mariadb: MariaDB, tmp_path: Path, database: str) -> None:
    project(tmp_path, mariadb, database, "on_new_column: quarantine")
    mariadb.sql(database, *ALTERED)
    go(tmp_path, accept_changes=True)
    # What came before the column is as it should be; what came with it is kept, and told.
    assert table(tmp_path, "silver/t", "id, n, s") == [(1, 1, "ONE")]
    [found] = table(tmp_path, "quarantine/t", "*")
    assert "extra" in str(found)


@pytest.mark.parametrize(("policy", "kept"), [("accept", 2), ("quarantine", 1)])
def test_a_column_that_is_gone(
    mariadb: MariaDB, tmp_path: Path, database: str, policy: str, kept: int
) -> None:
    project(tmp_path, mariadb, database, f"on_missing_column: {policy}")
    mariadb.sql(database, "ALTER TABLE t DROP n", "INSERT INTO t VALUES (2, 'two')")
    go(tmp_path, accept_changes=True)
    assert table(tmp_path, "silver/t", "id, n, s") == [(1, 1, "one"), (2, None, "two")][:kept]
    assert len(table(tmp_path, "quarantine/t", "rules")) == 2 - kept


def test_a_column_of_another_type_is_judged_by_its_values(
    mariadb: MariaDB, tmp_path: Path, database: str
) -> None:
    mariadb.sql(
        database,
        "ALTER TABLE t MODIFY n varchar(9)",
        "INSERT INTO t VALUES (2, '22', 'two'), (3, '2.5', 'three'), (4, 'four', NULL)",
    )
    go(tmp_path)
    assert table(tmp_path, "silver/t", "id, n, s") == [(1, 1, "one"), (2, 22, "two")]
    assert len(table(tmp_path, "quarantine/t", "rules")) == 2


def test_a_table_renamed_away_and_back_is_followed_by_its_name(
    mariadb: MariaDB, tmp_path: Path, database: str
) -> None:
    mariadb.sql(
        database,
        "RENAME TABLE t TO away",
        "INSERT INTO away VALUES (7, 7, 'unseen')",
        "DELETE FROM away WHERE id = 7",
        "RENAME TABLE away TO t",
        "INSERT INTO t VALUES (2, 2, 'two')",
    )
    assert go(tmp_path).status == "success"
    assert table(tmp_path, "silver/t", "id, n, s") == [(1, 1, "one"), (2, 2, "two")]


def test_a_purged_binlog_fails_the_run_and_a_new_id_takes_the_table_in_anew(
    mariadb: MariaDB, tmp_path: Path, database: str
) -> None:
    mariadb.sql(
        database, "INSERT INTO t VALUES (2, 2, 'lost')", "FLUSH BINARY LOGS", "DELETE FROM t WHERE id = 2"
    )
    last = mariadb.sql(database, "SHOW MASTER STATUS")[0][0]
    mariadb.sql(database, f"PURGE BINARY LOGS TO '{last}'")
    report = go(tmp_path)
    assert report.status != "success"
    assert "has no binlog from" in str(report)
    assert "id: <a new name>" in str(report)
    assert table(tmp_path, "silver/t", "id, n, s") == [(1, 1, "one")]
    text = (tmp_path / "pipeline.yml").read_text()
    (tmp_path / "pipeline.yml").write_text(text.replace("tables: [t]", "tables: [t], id: again"))
    mariadb.sql(database, "UPDATE t SET s = 'uno'", "INSERT INTO t VALUES (3, 3, 'three')")
    assert go(tmp_path, accept_changes=True).status == "success"
    found = table(tmp_path, "silver/t", "id, n, s")
    assert found == [(1, 1, "uno"), (3, 3, "three")]
