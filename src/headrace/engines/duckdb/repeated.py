"""Which keys occur more than once, by their hashes, in memory that does not grow with the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .frame import count, ident

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

PASS = 5_000_000
"""Hashes of about so many rows are counted at a time; more would fill the engine's memory, and then the disk.

A pass reads the key columns of all rows, which costs a fiftieth of a refinement."""


def find_repeated(con: DuckDBPyConnection, relation: str, keys: Sequence[str], rows: int) -> int:
    """Makes table `twice` of the hashes that more than one of the `rows` of `relation` has; their number."""
    listed = ", ".join(ident(key) for key in keys)
    passes = 1 + rows // PASS
    for nth in range(passes):
        some = f" WHERE h % {passes} = {nth}" if passes > 1 else ""
        con.execute(
            f"{'INSERT INTO twice' if nth else 'CREATE TEMP TABLE twice AS'} SELECT h FROM "
            f"(SELECT hash({listed}) AS h FROM {relation}){some} GROUP BY h HAVING count(*) > 1"
        )
    return count(con, "twice")
