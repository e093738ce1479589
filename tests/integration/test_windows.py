"""Windows are the exact function of their table: whatever came, late, corrected, deleted, restored."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.projects import go, put

HEADER = "id,store,amount,at,status,version"
PIPELINE = """
name: shop
sources:
  sales: {type: files, path: data/*.csv}
tables:
  sales:
    from: sales
    keys: [id]
    latest_by: version
    delete_when: status = 'deleted'
    contract:
      columns:
        id:      {type: integer, required: true}
        store:   {type: text}
        amount:  {type: "decimal(10,2)", min: 0}
        at:      {type: timestamp, required: true}
        status:  {type: text}
        version: {type: integer, required: true}
streams:
  minutes:
    from: sales
    window: {tumbling: 1m, time: at, lateness: 30s}
    group_by: [store]
    where: status <> 'cancelled'
    select:
      revenue: sum(amount)
      orders: count(*)
      kinds: count(distinct status)
      mean: avg(amount)
      least: min(amount)
      first_id: first(id)
      last_id: last(id)
  sliding:
    from: sales
    window: {sliding: 90s, every: 40s, time: at, lateness: 1m}
    select: {revenue: sum(amount), orders: count(*)}
  visits:
    from: sales
    window: {session: 45s, time: at, lateness: 20s}
    group_by: [store]
    select: {orders: count(*), revenue: sum(amount), last_status: last(status)}
"""
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
Row = tuple[int, str | None, Decimal | None, datetime, str, int]


def make(root: Path, pipeline: str = PIPELINE) -> Path:
    (root / "data").mkdir(parents=True, exist_ok=True)
    (root / "pipeline.yml").write_text(pipeline)
    return root


def line(row: Row) -> str:
    id_, store, amount, at, status, version = row
    return f"{id_},{store or ''},{'' if amount is None else amount},{at:%Y-%m-%dT%H:%M:%S},{status},{version}"


def stored(root: Path, table: str) -> list[dict[str, Any]]:
    path = root / "lake" / "silver" / table
    files = DeltaTable(str(path)).file_uris()
    if not files:
        return []
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    found = con.execute("select * from read_parquet(?, union_by_name = true)", [files])
    names = [item[0] for item in found.description or []]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def sales(root: Path) -> list[Row]:
    """What readers see of the table, from its files alone."""
    return [
        (r["id"], r["store"], r["amount"], r["at"].astimezone(UTC), r["status"], r["version"])
        for r in stored(root, "sales")
        if not r.get("_deleted")
    ]


def watermark(rows: list[Row], lateness: int) -> datetime:
    return (
        max(row[3] for row in rows) - timedelta(seconds=lateness)
        if rows
        else datetime.min.replace(tzinfo=UTC)
    )


def grouped(rows: Iterator[tuple[Any, Row]]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for key, row in rows:
        found.setdefault(key, []).append(row)
    return found


def total(rows: list[Row]) -> Decimal | None:
    amounts = [row[2] for row in rows if row[2] is not None]
    return sum(amounts, Decimal(0)) if amounts else None


def mean(rows: list[Row]) -> Decimal | None:
    amounts = [row[2] for row in rows if row[2] is not None]
    if not amounts:
        return None
    return (sum(amounts, Decimal(0)) / len(amounts)).quantize(Decimal("0.00000001"), "ROUND_HALF_UP")


def pick(rows: list[Row], column: int, *, last: bool) -> Any:
    """By time, and of one time the least or greatest value."""
    seen = [(row[3], row[column]) for row in rows if row[column] is not None]
    return ((max if last else min)(seen))[1] if seen else None


def expected(rows: list[Row]) -> dict[str, list[tuple[Any, ...]]]:
    """All windows of all rows, by plain Python."""
    minute, late = timedelta(minutes=1), watermark(rows, 30)
    counted = [row for row in rows if row[4] != "cancelled"]
    minutes = grouped((((row[3].replace(second=0, microsecond=0)), row[1]), row) for row in counted)
    found: dict[str, list[tuple[Any, ...]]] = {"minutes": [], "sliding": [], "visits": []}
    for (start, store), own in minutes.items():
        found["minutes"].append(
            (
                start, start + minute, store, total(own), len(own), len({row[4] for row in own}), mean(own),
                min((row[2] for row in own if row[2] is not None), default=None),
                pick(own, 0, last=False), pick(own, 0, last=True), start + minute <= late,
            )
        )  # fmt: skip
    monday = datetime(1970, 1, 5, tzinfo=UTC)
    every, size, late = timedelta(seconds=40), timedelta(seconds=90), watermark(rows, 60)

    def slides() -> Iterator[tuple[datetime, Row]]:
        for row in rows:
            start = monday + (row[3] - monday) // every * every
            while start + size > row[3]:
                yield start, row
                start -= every

    for start, own in grouped(slides()).items():
        found["sliding"].append((start, start + size, total(own), len(own), start + size <= late))
    gap, late = timedelta(seconds=45), watermark(rows, 20)
    for store, own in grouped((row[1], row) for row in rows).items():
        own.sort(key=lambda row: row[3])
        runs: list[list[Row]] = []
        for row in own:
            if runs and row[3] - runs[-1][-1][3] < gap:
                runs[-1].append(row)
            else:
                runs.append([row])
        for run in runs:
            end = run[-1][3] + gap
            found["visits"].append(
                (run[0][3], end, store, len(run), total(run), pick(run, 4, last=True), end <= late)
            )
    return {name: sorted(one, key=str) for name, one in found.items()}


def actual(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    found = {}
    for name in ("minutes", "sliding", "visits"):
        rows = [{k: v for k, v in row.items() if k != "_epoch"} for row in stored(root, name)]
        shown = [
            tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in row.values()) for row in rows
        ]
        found[name] = sorted(shown, key=str)
    return found


def exact(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    found = actual(root)
    assert found == expected(sales(root))
    return found


def row(id_: int, second: int, amount: str = "1.00", store: str | None = "a", **more: Any) -> Row:
    at = START + timedelta(seconds=second)
    return (id_, store, Decimal(amount), at, more.get("status", "paid"), more.get("version", 1))


def test_all_kinds_of_windows_hold_what_python_computes(tmp_path: Path) -> None:
    root = make(tmp_path)
    put(root, "1.csv", [line(row(n, n * 7 % 400, f"{n}.{n % 9}5", "ab"[n % 2])) for n in range(60)], HEADER)
    report = go(root)
    assert report.status == "success", report
    found = exact(root)
    assert len(found["minutes"]) == 14
    assert sum(item[4] for item in found["minutes"]) == 60
    told = {item.name: item for item in report.tables}
    assert told["minutes"].ledger.read == told["minutes"].ledger.inserted == 14
    assert told["minutes"].windows == "sales"
    again = go(root)
    assert [item.noop for item in again.tables] == [True] * 4


OUTCOMES = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 25),
            st.sampled_from(["a", "b", None]),
            st.one_of(st.none(), st.integers(0, 9999)),
            st.integers(0, 600),
            st.sampled_from(["paid", "paid", "open", "cancelled", "deleted"]),
        ),
        min_size=1,
        max_size=12,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=6)
@given(OUTCOMES)
def test_after_every_batch_the_windows_are_those_of_all_rows(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[Any, ...]]]
) -> None:
    """Rows come in any order of time, change, move to other windows and groups, and go."""
    root = make(tmp_path_factory.mktemp("p"))
    for number, batch in enumerate(batches, start=1):
        lines = {
            id_: line(
                (
                    id_,
                    store,
                    None if cents is None else Decimal(cents) / 100,
                    START + timedelta(seconds=second),
                    status,
                    number,
                )
            )
            for id_, store, cents, second, status in batch
        }
        put(root, f"{number}.csv", list(lines.values()), HEADER)
        report = go(root)
        assert report.status == "success", report
        exact(root)
