"""The same in pandas, in chunks of 500,000 rows; Parquet out."""

import sys
from pathlib import Path

import pandas as pd

source, into = sys.argv[1], Path(sys.argv[2])
kept = []
for number, chunk in enumerate(pd.read_csv(source, dtype=str, chunksize=500_000)):
    day = pd.to_datetime(chunk["order_date"], format="%Y-%m-%d", errors="coerce")
    day = day.fillna(pd.to_datetime(chunk["order_date"], format="%d/%m/%Y", errors="coerce"))
    chunk["order_date"] = day
    chunk["updated_at"] = pd.to_datetime(chunk["updated_at"], errors="coerce")
    for name in ("order_id", "unit_price", "quantity", "discount", "tax_rate"):
        chunk[name] = pd.to_numeric(chunk[name], errors="coerce")
    chunk["store_name"] = chunk["store_name"].str.strip()
    chunk["region"] = chunk["region"].str.lower()
    good = (
        chunk["order_id"].notna()
        & (chunk["order_date"] >= "2024-01-01")
        & (chunk["updated_at"] >= chunk["order_date"])
        & chunk["store_id"].str.fullmatch("S[0-9]{4}")
        & chunk["channel"].isin(["web", "store", "phone", "app"])
        & chunk["customer_id"].notna()
        & (chunk["unit_price"] > 0)
        & chunk["quantity"].between(1, 1000)
        & (chunk["quantity"] % 1 == 0)
        & chunk["email"].str.contains("@", regex=False)
        & chunk["currency"].isin(["EUR", "CHF", "USD"])
        & chunk["payment"].isin(["card", "cash", "invoice"])
        & (chunk["unit_price"] * chunk["quantity"] <= 100000)
    )
    chunk[~good].to_parquet(into / f"quarantine{number}.parquet")
    kept.append(chunk[good])
result = pd.concat(kept).sort_values("updated_at", kind="stable").drop_duplicates("order_id", keep="last")
result.to_parquet(into / "silver.parquet")
print(len(result))
