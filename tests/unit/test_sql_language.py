"""What users may write in SQL, what is refused, and that the refusal says how to put it right."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from headrace.errors import ConfigError
from headrace.spec.pipeline import TableSpec
from headrace.sql import checked_sql, compile_table, expectations, lineage, order_by, winners_sql
from headrace.sql.language import FUNCTIONS, columns_of, parse, render
from headrace.sql.zones import change_hours
from tests.unit.test_sql_golden import connect

COLUMNS = ["order_id", "quantity", "unit_price", "Country", "placed"]


def table(columns: dict[str, Any], **rest: Any) -> TableSpec:
    contract = {k: rest.pop(k) for k in ("rules", "expect", "filter", "nulls") if k in rest}
    return TableSpec.model_validate({"from": "s", "contract": {"columns": columns, **contract}, **rest})


@pytest.mark.parametrize(
    ("sql", "says", "hint"),
    [
        ("quantty > 0", "column `quantty` is unknown", "did you mean `quantity`?"),
        ("sales.quantity > 0", "is unknown", "without a table name"),
        ("quantity > (select max(quantity) from t)", "subqueries", "references"),
        ("quantity in (select 1)", "subqueries", "references"),
        ("exists (select 1)", "subqueries", "references"),
        ("select 1", "subqueries", "references"),
        ("row_number() over () = 1", "window functions", "expect"),
        ("sum(quantity) > 1", "`sum` is an aggregate", "expect"),
        ("count(*) > 1", "aggregate", "expect"),
        ("random() < 0.5", "another value each time", "replay"),
        ("uuid() is not null", "another value each time", "replay"),
        ("current_time > placed", "another value each time", "now()"),
        ("getvariable('headrace_pii_key') = 'x'", "another value each time", "replay"),
        ("uper(Country) = 'DE'", "function `uper` is not known", "did you mean `upper`?"),
        ("read_csv('/etc/passwd') is null", "is not known", "functions:"),
        ("sleep_ms(10)", "is not known", "functions:"),
        ("quantity >", "is not SQL", "write one SQL expression"),
        ("quantity > 0; drop table t", "is not one expression", "write one SQL expression"),
        ("drop table t", "not an expression", "write one SQL expression"),
        ("*", "not an expression", "write one SQL expression"),
        ("quantity as q", "not an expression", "write one SQL expression"),
        ("[quantity][1] > 0", "", ""),
        ("{'a': quantity} is null", "", ""),
        ("cast(quantity as uuid) is null", "type `UUID`", "cast to boolean"),
        ("quantity::blob is null", "type", "cast to boolean"),
        ("$1 > 0", "outside the SQL", "write one SQL expression"),
        ("quantity // 2 > 0", "outside the SQL", "write one SQL expression"),
        ("Country collate nocase = 'x'", "not known", "functions:"),
        ("", "not one expression", "write one SQL expression"),
    ],
)
def test_what_is_outside_the_subset_is_refused_with_the_fix(sql: str, says: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(sql, COLUMNS, "rule `r`", "contracts/sales.yml:12")
    message = str(caught.value)
    assert message.startswith("contracts/sales.yml:12: rule `r`: ")
    assert says in message
    assert hint in (caught.value.hint or "")
    assert caught.value.hint


def test_columns_are_found_in_any_case_and_in_order() -> None:
    found = parse("UNIT_PRICE > 1 and country = 'DE' or unit_price is null", COLUMNS, "rule")
    assert columns_of(found) == ("unit_price", "Country")


def test_lineage_goes_through_derived_columns() -> None:
    spec = table(
        {
            "n": {"type": "integer", "from": ["qty", "quantity"]},
            "p": {"type": "decimal(10,2)"},
            "amount": {"type": "decimal(12,2)", "derive": "n * p"},
            "tax": {"type": "decimal(14,4)", "derive": "amount * 0.19"},
        }
    )
    step = compile_table("t", spec, evolved=["extra"])
    assert dict(lineage(step)) == {
        "n": ("qty", "quantity"),
        "p": ("p",),
        "amount": ("qty", "quantity", "p"),
        "tax": ("qty", "quantity", "p"),
        "extra": ("extra",),
    }
    assert step.columns["extra"] == "text"


@pytest.mark.parametrize(
    ("columns", "rest", "says"),
    [
        ({"a": {"derive": "b"}, "b": {"derive": "a"}}, {}, "need each other"),
        ({"a": {"type": "integer", "formats": ["percent"]}}, {}, "`percent` does not go with type integer"),
        ({"a": {"type": "date", "formats": ["%d/%m"]}}, {}, "no full date"),
        ({"a": {"type": "date", "formats": ["%d/%m/%Y %Q"]}}, {}, "`%Q` is not supported"),
        ({"a": {"type": "timestamp", "formats": ["%d/%m/%Y %I:%M"]}}, {}, "which half of the day"),
        ({"a": {"type": "date", "formats": ["currency"]}}, {}, "does not go with type date"),
        ({"a": {"pattern": "("}}, {}, "no regular expression"),
        ({"a": {"pattern": "(?=x)y"}}, {}, "looks around"),
        ({"a": {"type": "integer", "min": "abc"}}, {}, "`abc` is no integer"),
        ({"a": {"type": "date", "max": "31.12.2024"}}, {}, "is no date"),
        ({"a": {"type": "integer"}}, {"rules": {"r": {"check": "b > 0"}}}, "table `t`, rule `r`: column `b`"),
        ({"a": {"type": "integer"}}, {"filter": "b > 0"}, "table `t`, filter: column `b`"),
        ({"a": {"type": "integer"}}, {"keys": "a", "delete_when": "b"}, "table `t`, delete_when: column `b`"),
        ({"a": {"type": "integer"}}, {"expect": [{"unique": "b"}]}, "table `t`, expect: column `b`"),
        ({"a": {"type": "decimal(5,2)", "default": 0.125}}, {}, "default `0.125` is no decimal(5,2)"),
        ({"a": {"type": "integer", "default": 1.5}}, {}, "default `1.5` is no integer"),
        ({"a": {"pii": "x", "mask": "encrypt", "references": "o.k"}}, {}, "cannot be checked"),
        (
            {"a": {"pii": "x", "mask": "hash"}, "b": {"derive": "upper(a)"}},
            {},
            "column `b` is derived from `a`, which is masked",
        ),
        (
            {"a": {"pii": "x", "mask": "hash"}, "b": {"derive": "a", "pii": "x"}, "c": {"derive": "b"}},
            {},
            "column `c` is derived from `a`, which is masked",
        ),
    ],
)
def test_a_wrong_contract_does_not_compile(columns: dict[str, Any], rest: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match="table `t`") as caught:
        compile_table("t", table(columns, **rest), where="p.yml:3")
    assert says in str(caught.value)
    assert caught.value.hint
    assert caught.value.where == "p.yml:3"


def test_an_evolved_header_takes_no_name_that_is_used() -> None:
    step = compile_table("t", table({"a": {}}), evolved=["A", "_LINE", "_broken", "a"])
    assert dict(step.inputs) == {
        "a": ("a",),
        "a_2": ("A",),
        "line": ("_LINE",),
        "broken": ("_broken",),
        "a_3": ("a",),
    }


def test_an_unknown_dialect_is_refused() -> None:
    step = compile_table("t", table({"a": {}}))
    for compiled in (checked_sql, winners_sql):
        with pytest.raises(ConfigError, match="dialect `spark`"):
            compiled(step, "spark")
    with pytest.raises(ConfigError, match="dialect `spark`"):
        expectations(step, "spark", "rows")


def test_names_and_texts_cannot_leave_their_quotes() -> None:
    odd = "a\"b'c"
    column = {"values": ["x'); drop table staged; --"], "map": {"'": "''"}, "default": "'", "pattern": "'+"}
    step = compile_table("t", table({"v": column}), evolved=[odd])
    con = connect()
    audit = "_source INT, _file INT, _line INT, _ingested_at INT"
    con.execute(f"CREATE TEMP TABLE staged (v VARCHAR, a_b_c VARCHAR, {audit})")
    con.execute("INSERT INTO staged VALUES ('''', 'e', 1, 1, 1, 1)")
    assert con.execute(checked_sql(step)).fetchall()[0][:2] == ("''", "e")


def test_the_same_contract_gives_the_same_sql() -> None:
    spec = table({"a": {"type": "integer", "min": 1}, "b": {"derive": "upper('x')"}}, keys="a")
    assert checked_sql(compile_table("t", spec)) == checked_sql(compile_table("t", spec))


def test_the_winner_does_not_depend_on_arrival() -> None:
    spec = table({"k": {"type": "integer"}, "seen": {"type": "date"}, "v": {}}, keys="k", latest_by="seen")
    step = compile_table("t", spec)
    con = connect()
    audit = "'s' _source, 'f' _file, {} _line, TIMESTAMPTZ '2026-01-01' _ingested_at"
    rows = [
        (1, "'2024-01-01'", "'a'"),
        (1, "'2024-01-02'", "'b'"),
        (1, "'2024-01-02'", "'c'"),
        (1, "NULL", "'z'"),
        ("NULL", "'2024-01-01'", "'n'"),
        ("NULL", "'2023-01-01'", "'m'"),
    ]
    for order in (rows, rows[::-1]):
        selects = [
            f"SELECT {k}::INT k, {at}::DATE seen, {v} v, {audit.format(n)}"
            for n, (k, at, v) in enumerate(order)
        ]
        con.execute("CREATE OR REPLACE TEMP TABLE checked AS " + " UNION ALL ".join(selects))
        assert sorted(str(r[2]) for r in con.execute(winners_sql(step)).fetchall()) == ["c", "n"]


def test_without_latest_by_the_last_landed_stays() -> None:
    step = compile_table("t", table({"k": {"type": "integer"}, "v": {}}, keys="k"))
    con = connect()
    con.execute(
        """CREATE TEMP TABLE checked AS SELECT 1 k, v, 's' _source, 'f' _file, line _line, seen _ingested_at
        FROM (VALUES ('old', 9, TIMESTAMPTZ '2026-01-01'), ('new', 1, TIMESTAMPTZ '2026-01-02'),
        ('newest', 2, TIMESTAMPTZ '2026-01-02')) t(v, line, seen)"""
    )
    assert [r[1] for r in con.execute(winners_sql(step)).fetchall()] == ["newest"]
    assert order_by(step).startswith("_ingested_at DESC")


def test_expectations_judge_sets() -> None:
    expect = [
        {"unique": ["k"]},
        {"unique": ["k", "v"], "severity": "warn"},
        {"rows": [1, 3]},
        {"rows": [None, 2]},
        {"sum": "v", "between": ["0.3", "0.3"]},
        {"sum": "v", "between": [None, 0.2]},
        {"fresh": "seen", "within": "2d"},
        {"fresh": "seen", "within": "1h"},
    ]
    columns = {"k": {"type": "integer"}, "v": {"type": "decimal(5,2)"}, "seen": {"type": "timestamp"}}
    step = compile_table("t", table(columns, expect=expect))
    con = connect()
    con.execute(
        """CREATE TEMP TABLE rows AS SELECT * FROM (VALUES
        (1, 0.1::DECIMAL(5,2), TIMESTAMPTZ '2026-06-14 12:00'),
        (1, 0.15, TIMESTAMPTZ '2026-06-14 11:00'),
        (2, 0.05, NULL)) t(k, v, seen)"""
    )
    compiled = expectations(step, "duckdb", "rows")
    found = [(e.name, e.severity, *con.execute(e.sql).fetchall()[0]) for e in compiled]
    newest = "newest 2026-06-14 12:00:00+00"
    assert found == [
        ("unique(k)", "stop", False, "1 values more than once"),
        ("unique(k, v)", "warn", True, "0 values more than once"),
        ("rows", "stop", True, "3 rows"),
        ("rows", "stop", False, "3 rows"),
        ("sum(v)", "stop", True, "0.30"),
        ("sum(v)", "stop", False, "0.30"),
        ("fresh(seen)", "stop", True, newest),
        ("fresh(seen)", "stop", False, newest),
    ]
    con.execute("DELETE FROM rows")
    passed = [con.execute(e.sql).fetchall()[0][0] for e in compiled]
    assert passed == [True, True, False, True, False, False, False, False]


def test_a_batch_overflow_hidden_in_common_parts_breaks_only_its_row() -> None:
    rules = {"low": {"check": "a * a > 0 and a * a < 100"}, "sum": {"check": "a * a + 1 < 100"}}
    step = compile_table("t", table({"a": {"type": "integer"}}, rules=rules))
    con = connect()
    con.execute(
        "CREATE TEMP TABLE staged AS SELECT v a, 's' _source, 'f' _file, 1 _line, now() _ingested_at "
        "FROM (VALUES ('2'), ('2147483647')) t(v)"
    )
    got = con.execute(f"SELECT a, _broken FROM ({checked_sql(step)}) ORDER BY a").fetchall()
    assert got == [(2, ""), (2147483647, "low;sum;")]


@pytest.mark.parametrize("sign", ["=", "<>", "<", "<=", ">", ">="])
def test_a_date_beside_a_timestamp_is_its_midnight_in_utc(sign: str) -> None:
    rules = {"first": {"check": f"d {sign} t"}, "second": {"check": f"NOT (t {sign} d)"}}
    columns = {"d": {"type": "date"}, "t": {"type": "timestamp"}}
    con = connect()
    con.execute(
        "CREATE TEMP TABLE staged AS SELECT d, t, 's' _source, 'f' _file, 1 _line, now() _ingested_at FROM "
        "(VALUES ('2024-03-31', '2024-03-30 23:59:59.999999'), ('2024-03-31', '2024-03-31 00:00'), "
        "('2024-03-31', '2024-03-31 02:00:00+02'), ('0001-01-01', '9999-12-31 23:59'), "
        "('2024-03-31', '')) v(d, t)"
    )
    sql = checked_sql(compile_table("t", table(columns, rules=rules)))
    assert 'make_timestamptz(epoch_us(TRY_CAST("d"' in sql
    # what DuckDB makes of it where it knows nothing of the columns
    plain = f"d::TIMESTAMPTZ {sign} t AS first, NOT (t {sign} d::TIMESTAMPTZ) AS second"
    found = con.execute(f"SELECT _broken, {plain} FROM ({sql})").fetchall()
    assert len(found) == 5
    for broken, first, second in found:
        assert broken == ("" if first else "first;") + ("" if second else "second;")


def test_zones_without_changes_need_no_care() -> None:
    assert change_hours("Asia/Kolkata") == ()
    assert set(change_hours("Europe/Berlin") or ()) <= {0, 1, 2, 3, 4}
    assert change_hours("Mars/Olympus") is None


EXAMPLES = {
    "abs(n)": 7,
    "ceil(f)": 3.0,
    "coalesce(null, t)": "aXb-c",
    "concat(t, '!')": "aXb-c!",
    "md5(t)": hashlib.md5(b"aXb-c").hexdigest(),
    "contains(t, 'X')": True,
    "date_diff('day', d, date '2024-03-01')": 1,
    "day(d)": 29,
    "dayofweek(d)": 4,
    "ends_with(t, 'c')": True,
    "extract(month from d)": 2,
    "floor(f)": 2.0,
    "greatest(n, 0)": 0,
    "hour(s)": 10,
    "least(n, 0)": -7,
    "left(t, 2)": "aX",
    "length(t)": 5,
    "lower(t)": "axb-c",
    "ltrim('  x')": "x",
    "minute(s)": 20,
    "month(d)": 2,
    "now() > s": True,
    "nullif(n, -7)": None,
    "quarter(d)": 1,
    "regexp_extract(t, '[A-Z]')": "X",
    "regexp_full_match(t, 'a.*c')": True,
    "regexp_matches(t, 'b')": True,
    "regexp_replace(t, '[a-z]', '_', 'g')": "_X_-_",
    "replace(t, 'X', '')": "ab-c",
    "right(t, 1)": "c",
    "round(f, 1)": 2.3,
    "rtrim('x ')": "x",
    "split_part(t, '-', 2)": "c",
    "starts_with(t, 'a')": True,
    "strpos(t, 'b')": 3,
    "substr(t, 2, 2)": "Xb",
    "trim(' x ')": "x",
    "upper(t)": "AXB-C",
    "year(d)": 2024,
    "sha256('')": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "case when n < 0 then 'neg' else 'pos' end": "neg",
    "n / 2": -3.5,
    "n % 4": -3,
    "-n": 7,
    "n between -8 and 0": True,
    "t like 'a%'": True,
    "t ilike 'AX%'": True,
    "t in ('x', 'aXb-c')": True,
    "t is distinct from null": True,
    "not (n > 0)": True,
    "cast(f as decimal(5,1)) = 2.3": True,
    "d + interval '1 day' = date '2024-03-01'": True,
    "current_date = date '2026-06-15'": True,
    "try_cast(t as integer)": None,
    "n * n - 9": 40,
}


def test_every_word_of_the_language_runs() -> None:
    con = connect()
    con.execute(
        "CREATE TEMP TABLE t AS SELECT -7 n, 2.26::DOUBLE f, 'aXb-c' t, DATE '2024-02-29' d, "
        "TIMESTAMPTZ '2024-02-29 10:20:30+00' s"
    )
    for sql, want in EXAMPLES.items():
        rendered = render(parse(sql, ["n", "f", "t", "d", "s"], "rule"), "duckdb")
        assert con.execute(f"SELECT {rendered.sql} FROM t").fetchall() == [(want,)], sql
        failures = " OR ".join(rendered.failures) or "false"
        assert con.execute(f"SELECT {failures} FROM t").fetchall() == [(False,)], sql
    assert all(any(function in sql for sql in EXAMPLES) for function in FUNCTIONS)
