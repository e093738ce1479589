"""dlt's default path: rows as dictionaries from the CSV into DuckDB."""

import csv
import os
import sys
from pathlib import Path

source, into = sys.argv[1], sys.argv[2]
os.environ["DLT_DATA_DIR"] = into
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

import dlt  # noqa: E402


@dlt.resource(name="sales", write_disposition="append")
def rows():
    with Path(source).open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


pipeline = dlt.pipeline(
    "bench", pipelines_dir=into, destination=dlt.destinations.duckdb(f"{into}/out.duckdb"), dataset_name="raw"
)
pipeline.run(rows())
print(pipeline.last_trace.last_normalize_info.row_counts)
