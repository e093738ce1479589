"""The same job in PySpark, local[2]: python spark_dirty.py FILE OUT [JARS].

The file is copied, hashed and synced; rows are cast and judged by the rules; a bad row goes to quarantine
with its fields as they came and all rules that it broke; one row per key stays. With the folder JARS of Delta
for Spark (bench/pom.xml) both tables are Delta, without it they are Parquet.
"""

import hashlib
import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F

source, into, jars = sys.argv[1], sys.argv[2], (sys.argv[3:] or [""])[0]
landed = Path(into) / "landed.csv"
digest = hashlib.sha256()
with Path(source).open("rb") as old, landed.open("wb") as new:
    while chunk := old.read(1 << 20):
        digest.update(chunk)
        new.write(chunk)
    new.flush()
    os.fsync(new.fileno())

builder = (
    SparkSession.builder.master("local[2]")
    .config("spark.driver.memory", "4g")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.shuffle.partitions", "8")
    .config("spark.local.dir", into)
    .config("spark.sql.ansi.enabled", "false")
    .config("spark.sql.warehouse.dir", into)
)
if jars:
    builder = (
        builder.config("spark.jars", ",".join(str(path) for path in Path(jars).glob("*.jar")))
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    )
form = "delta" if jars else "parquet"
spark = builder.getOrCreate()
c = F.col
raw = spark.read.csv(str(landed), header=True, inferSchema=False, escape='"', multiLine=False)
raw = raw.withColumn("_fields", F.struct(*raw.columns))
typed = (
    raw.withColumn("order_id", c("order_id").cast("bigint"))
    .withColumn(
        "order_date", F.coalesce(F.to_date("order_date", "yyyy-MM-dd"), F.to_date("order_date", "dd/MM/yyyy"))
    )
    .withColumn("updated_at", c("updated_at").cast("timestamp"))
    .withColumn("store_name", F.trim("store_name"))
    .withColumn("region", F.lower("region"))
    .withColumn("unit_price", c("unit_price").cast("decimal(12,2)"))
    .withColumn("quantity", F.when(c("quantity").rlike("^[0-9]+$"), c("quantity").cast("int")))
    .withColumn("discount", c("discount").cast("decimal(5,2)"))
    .withColumn("tax_rate", c("tax_rate").cast("decimal(6,3)"))
)
rules = {
    "order_id": c("order_id").isNotNull(),
    "order_date": c("order_date") >= "2024-01-01",
    "updated_at": c("updated_at") >= c("order_date"),
    "store_id": c("store_id").rlike("^S[0-9]{4}$"),
    "channel": c("channel").isin("web", "store", "phone", "app"),
    "customer_id": c("customer_id").isNotNull(),
    "price": c("unit_price") > 0,
    "quantity": c("quantity").between(1, 1000),
    "email": c("email").contains("@"),
    "codes": c("currency").isin("EUR", "CHF", "USD") & c("payment").isin("card", "cash", "invoice"),
    "total": c("unit_price") * c("quantity") <= 100000,
}
broken = [F.when(~F.coalesce(good, F.lit(False)), F.lit(name)) for name, good in rules.items()]
checked = typed.withColumn("_rules", F.concat_ws(";", *broken))
fields = F.when(c("_rules") != "", F.to_json("_fields"))
checked.withColumn("_fields", fields).write.parquet(f"{into}/staged")
staged = spark.read.parquet(f"{into}/staged")
bad = staged.where("_rules <> ''").select("_rules", "_fields")
bad.write.format(form).save(f"{into}/quarantine")
order = Window.partitionBy("order_id").orderBy(c("updated_at").desc())
winners = (staged.where("_rules = ''").withColumn("_n", F.row_number().over(order)).where("_n = 1")).drop(
    "_n", "_rules", "_fields"
)
winners.write.format(form).save(f"{into}/silver")
spark.stop()
print(*(sum(1 for _ in Path(into, table).glob("*.parquet")) for table in ("silver", "quarantine")), "files")
