"""A hand-written polars script: cast, 11 rules, quarantine, dedup, Delta; lazy, staged in Parquet."""

import sys
from pathlib import Path

import polars as pl

source, into = sys.argv[1], Path(sys.argv[2])
raw = pl.scan_csv(source, infer_schema=False).with_row_index("_line", 2)
text = pl.col
day = pl.coalesce(
    text("order_date").str.to_date("%Y-%m-%d", strict=False),
    text("order_date").str.to_date("%d/%m/%Y", strict=False),
)
typed = raw.with_columns(
    order_id=text("order_id").cast(pl.Int64, strict=False),
    order_date=day,
    updated_at=text("updated_at").str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False),
    store_name=text("store_name").str.strip_chars(),
    region=text("region").str.to_lowercase(),
    unit_price=text("unit_price").cast(pl.Decimal(12, 2), strict=False),
    quantity=text("quantity").cast(pl.Int32, strict=False),
    discount=text("discount").cast(pl.Decimal(5, 2), strict=False),
    tax_rate=text("tax_rate").cast(pl.Decimal(6, 3), strict=False),
)
rules = {
    "order_id": text("order_id").is_not_null(),
    "order_date": text("order_date").is_not_null() & (text("order_date") >= pl.date(2024, 1, 1)),
    "updated_at": text("updated_at").is_not_null() & (text("updated_at") >= text("order_date")),
    "store_id": text("store_id").str.contains("^S[0-9]{4}$"),
    "channel": text("channel").is_in(["web", "store", "phone", "app"]),
    "customer_id": text("customer_id").is_not_null(),
    "price": text("unit_price").is_not_null() & (text("unit_price") > 0),
    "quantity": text("quantity").is_between(1, 1000),
    "email": text("email").str.contains("@", literal=True),
    "codes": text("currency").is_in(["EUR", "CHF", "USD"])
    & text("payment").is_in(["card", "cash", "invoice"]),
    "total": text("unit_price") * text("quantity") <= 100000,
}
checked = typed.with_columns(
    _good=pl.all_horizontal([rule.fill_null(value=False) for rule in rules.values()])
)
staged = into / "staged.parquet"
checked.sink_parquet(staged)
pl.scan_parquet(staged).filter(~pl.col("_good")).sink_parquet(into / "quarantine.parquet")
good = pl.scan_parquet(staged).filter(pl.col("_good"))
winners = (
    good.select("order_id", "updated_at", "_line")
    .sort("updated_at", "_line")
    .group_by("order_id")
    .agg(pl.col("_line").last())
)
result = good.join(winners.select("_line"), on="_line", how="semi").drop("_good").collect(engine="streaming")
result.write_delta(str(into / "silver"))
print(result.height)
