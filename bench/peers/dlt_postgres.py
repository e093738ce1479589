"""dlt's sql_database source into Parquet files: python dlt_postgres.py DSN TABLE BACKEND FOLDER."""

import os
import sys

dsn, table, backend, into = sys.argv[1:5]
os.environ["DLT_DATA_DIR"] = into
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

import dlt  # noqa: E402
from dlt.sources.sql_database import sql_table  # noqa: E402

destination = dlt.destinations.filesystem(bucket_url=f"file://{into}/out")
pipeline = dlt.pipeline("bench", pipelines_dir=into, destination=destination, dataset_name="raw")
rows = sql_table(
    dsn, table=table, backend=backend, chunk_size=100_000, reflection_level="full_with_precision"
)
pipeline.run(rows, loader_file_format="parquet")
print(pipeline.last_trace.last_normalize_info.row_counts)
