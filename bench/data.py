"""The bench's big input: sales lines with known dirt, 24 columns, 230 bytes a row; one seed, one file.

python bench/data.py sales.csv --rows 5000000
"""

from __future__ import annotations

import argparse
from pathlib import Path

COLUMNS = """
    (100000000 + n * 7 % {rows})::varchar as order_id,
    case when r1 < 0.004 then 'yesterday' when r1 < 0.2 then strftime(day, '%d/%m/%Y') else day::varchar end
        as order_date,
    (day + interval (n % 86400) second)::timestamp::varchar as updated_at,
    'S' || lpad((n % 400)::varchar, 4, '0') as store_id,
    case when r2 < 0.05 then '  Store ' || (n % 400) || ' ' else 'Store ' || (n % 400) end as store_name,
    ['north', 'south', 'east', 'WEST', 'West'][1 + n % 5] as region,
    ['web', 'store', 'phone', 'app'][1 + n % 4] as channel,
    case when r3 < 0.006 then null else 'C' || (n * 31 % 900000) end as customer_id,
    'Customer ' || (n * 31 % 900000) as customer_name,
    case when r4 < 0.003 then 'no mail' else 'c' || (n * 31 % 900000) || '@example.org' end as email,
    '+49 30 ' || (1000000 + n % 9000000) as phone,
    ['Berlin', 'München', 'Köln', 'Leipzig', 'Graz', 'Zürich'][1 + n % 6] as city,
    ['consumer', 'business', 'reseller'][1 + n % 3] as segment,
    'P' || (n * 13 % 20000) as product_id,
    'Product, "large" ' || (n * 13 % 20000) as product_name,
    ['tools', 'garden', 'home', 'toys'][1 + n % 4] as category,
    case when r5 < 0.004 then 'n/a' when r5 < 0.006 then '-1.00'
        else ((n * 97 % 99900 + 100) / 100)::decimal(12,2)::varchar end as unit_price,
    case when r6 < 0.003 then '1.5' when r6 < 0.006 then '0' else (1 + n % 9)::varchar end as quantity,
    ((n % 20) / 100)::decimal(4,2)::varchar as discount,
    ((n % 3) * 0.095)::decimal(5,3)::varchar as tax_rate,
    ['EUR', 'CHF', 'USD'][1 + n % 3] as currency,
    case when r7 < 0.004 then 'barter' else ['card', 'cash', 'invoice'][1 + n % 3] end as payment,
    ['paid', 'open', 'shipped', 'returned'][1 + n % 4] as status,
    case when n % 50 = 0 then 'deliver to the neighbour, "if open"' else '' end as note
"""


def make(path: Path, rows: int, seed: int = 7) -> None:
    """Writes the file: 3% of the orders come twice (a later version), about 4% of the rows break a rule."""
    import duckdb

    con = duckdb.connect()
    con.execute("set preserve_insertion_order = true")
    dice = ", ".join(f"(hash(n, {seed}, {i}) % 1000000) / 1000000.0 as r{i}" for i in range(1, 8))
    again = f"select 1, range * 33 from range({rows} // 33)"
    extra = f"select 0 as again, range as n from range({rows}) union all {again}"
    columns = COLUMNS.replace("{rows}", "100000007").replace(
        "(day + interval (n % 86400) second)", "(day + interval (n % 86400 + again * 100000) second)"
    )
    con.execute(
        f"copy (select {columns} from (select *, date '2024-01-01' + (n % 700)::int as day, {dice}"
        f" from ({extra})))"
        f" to '{path}' (header true)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=7)
    made = parser.parse_args()
    make(made.path, made.rows, made.seed)
    print(f"{made.path}: {made.path.stat().st_size / 1e9:.2f} GB")
