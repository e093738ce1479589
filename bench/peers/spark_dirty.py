"""The same in PySpark, local[2]; Parquet out."""

import sys

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F

source, into = sys.argv[1], sys.argv[2]
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.driver.memory", "4g")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.shuffle.partitions", "8")
    .config("spark.local.dir", into)
    .config("spark.sql.ansi.enabled", "false")
    .getOrCreate()
)
c = F.col
raw = spark.read.csv(source, header=True, inferSchema=False, escape='"', multiLine=False)
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
good = (
    c("order_id").isNotNull()
    & (c("order_date") >= "2024-01-01")
    & (c("updated_at") >= c("order_date"))
    & c("store_id").rlike("^S[0-9]{4}$")
    & c("channel").isin("web", "store", "phone", "app")
    & c("customer_id").isNotNull()
    & (c("unit_price") > 0)
    & c("quantity").between(1, 1000)
    & c("email").contains("@")
    & c("currency").isin("EUR", "CHF", "USD")
    & c("payment").isin("card", "cash", "invoice")
    & (c("unit_price") * c("quantity") <= 100000)
)
checked = typed.withColumn("_good", F.coalesce(good, F.lit(False)))
checked.write.parquet(f"{into}/staged")
staged = spark.read.parquet(f"{into}/staged")
staged.where(~c("_good")).write.parquet(f"{into}/quarantine")
order = Window.partitionBy("order_id").orderBy(c("updated_at").desc())
winners = (
    staged.where(c("_good")).withColumn("_n", F.row_number().over(order)).where("_n = 1").drop("_n", "_good")
)
winners.write.parquet(f"{into}/silver")
print(spark.read.parquet(f"{into}/silver").count())
spark.stop()
