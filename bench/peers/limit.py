"""The limit: DuckDB's bare COPY of the CSV to Parquet, plus a plain copy and fsync of the file."""

import os
import shutil
import sys
from pathlib import Path

import duckdb

source, into = sys.argv[1], Path(sys.argv[2])
files = sorted(Path(source).glob("*.csv")) if Path(source).is_dir() else [Path(source)]
for file in files:
    shutil.copyfile(file, into / file.name)
    with (into / file.name).open("rb") as copy:
        os.fsync(copy.fileno())
where = str(Path(source) / "*.csv") if Path(source).is_dir() else source
duckdb.connect().execute(f"copy (select * from read_csv('{where}')) to '{into}/out.parquet'")
