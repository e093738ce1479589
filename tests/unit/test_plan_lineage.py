"""Lineage through SQL and through a chain of models: what is touched, and what is said not to be known."""

from __future__ import annotations

import pytest

from headrace.gold.dbt import SILVER, Compiled
from headrace.gold.lineage import Model, Touched, resolve, touched
from headrace.spec.pipeline import TableSpec
from headrace.sql import compile_table
from headrace.sql.lineage import dependents
from headrace.sql.lineage_query import Traced, trace

SALES, STORES = "s.silver.sales", "s.silver.stores"
TABLES = {SALES: ["order_id", "amount", "day", "customer", "store", "tags"], STORES: ["store", "name"]}


def told(traced: Traced) -> dict[str, list[str]]:
    """Output column → the columns it is made of, without their tables."""
    return {name: sorted(column for _, column in origins) for name, origins in traced.columns.items()}


QUERIES: list[tuple[str, dict[str, list[str]], list[str]]] = [
    (f"select order_id, amount * 2 as twice from {SALES} where day > '2026-01-01'",
     {"order_id": ["order_id"], "twice": ["amount"]}, ["day"]),
    (f"with v as (select * from {SALES}) select amount, min(day) over (partition by store) as first from v",
     {"amount": ["amount"], "first": ["day", "store"]}, []),
    (f"select a.order_id, b.name from {SALES} a join {STORES} b on a.store = b.store union all select -1, "
     f"day from {SALES}", {"order_id": ["order_id"], "name": ["day", "name"]}, ["store", "store"]),
    (f"select count(*) as n, (select max(name) from {STORES} t where t.store = s.store) as top from {SALES} "
     "s group by day", {"n": [], "top": ["name", "store", "store"]}, ["day", "store", "store"]),
    (f"select s.* exclude (tags, day) from {SALES} s",
     {name: [name] for name in ("order_id", "amount", "customer", "store")}, []),
    (f"select ORDER_ID as A from {SALES.upper()}", {"a": ["order_id"]}, []),
    (f"with recursive r as (select order_id, 1 as d from {SALES} union all select order_id, d + 1 from r "
     "where d < 3) select * from r", {"order_id": ["order_id"], "d": []}, []),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "columns", "rows"), QUERIES)
def test_values_and_rows_have_their_origins(sql: str, columns: dict[str, list[str]], rows: list[str]) -> None:
    found = trace(sql, TABLES)
    assert found.unknown == ""
    assert told(found) == columns
    assert sorted(column for _, column in found.rows) == rows


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("selec from", "could not be read"),
        ("insert into x values (1)", "not a SELECT"),
        ("select * from elsewhere.x.t", "`*`"),
        (f"select foo, order_id from {SALES}, elsewhere.x.t", "`foo`"),
        (f"select * from {SALES} pivot (sum(amount) for store in ('a', 'b'))", "pivot"),
        (f"select order_id, u.tag from {SALES}, unnest(tags) as u(tag)", "unnest"),
    ],
)
def test_what_cannot_be_told_is_said(sql: str, why: str) -> None:
    assert why in trace(sql, TABLES).unknown


def _model(name: str, sql: str, *needs: str, silver: tuple[str, ...] = ()) -> Compiled:
    return Compiled(name, f"g.main.{name}", sql, [f"g.main.{other}" for other in needs], silver)


def chain() -> list[Model]:
    source = f'"{SILVER}"."silver"."sales"'
    return resolve(
        [
            _model("stg", f"select order_id, amount as net, customer from {source} where day is not null"),
            _model("fact", 'select order_id, net * 2 as gross from "g"."main"."stg"', "stg"),
            _model("dim", 'select distinct customer from "g"."main"."stg"', "stg"),
            _model("learned", "", "stg"),
            _model("after", 'select * from "g"."main"."learned"', "learned"),
            _model("other", f'select name from "{SILVER}"."silver"."stores"'),
        ],
        {"sales": TABLES[SALES], "stores": TABLES[STORES]},
    )


def reached(*columns: str, rows: bool = False) -> dict[str, Touched]:
    return {item.model: item for item in touched(chain(), "sales", columns, rows=rows)}


def test_a_column_is_followed_through_models_under_other_names() -> None:
    found = reached("amount")
    assert list(found["stg"].columns) == ["net"]
    assert list(found["fact"].columns) == ["gross"]
    assert "dim" not in found
    assert "other" not in found
    assert not found["fact"].rows


def test_a_filter_passes_on_to_all_that_read_it() -> None:
    found = reached("day")
    assert {name for name, item in found.items() if item.rows} == {"stg", "fact", "dim"}
    assert not any(item.columns for item in found.values())


def test_other_rows_reach_every_model_over_the_table() -> None:
    assert set(reached(rows=True)) == {"stg", "fact", "dim", "learned", "after"}
    assert list(reached("*")["fact"].columns) == ["order_id", "gross"]


def test_a_model_that_is_no_sql_counts_as_touched_and_says_why() -> None:
    found = reached("amount")
    assert found["learned"].unknown == "it is not written in SQL"
    assert "`*`" in found["after"].unknown


def test_derived_columns_follow_those_that_they_read() -> None:
    columns = {
        "price": {"type": "decimal(8,2)"},
        "quantity": {"type": "integer"},
        "total": {"type": "decimal(12,2)", "derive": "net * 1.2"},
        "net": {"type": "decimal(12,2)", "derive": "price * quantity"},
        "name": {},
    }
    step = compile_table("t", TableSpec.model_validate({"from": "s", "contract": {"columns": columns}}))
    assert dependents(step, ["price"]) == ("price", "total", "net")
    assert dependents(step, ["name", "gone"]) == ("name", "gone")
