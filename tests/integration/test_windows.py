"""Windows are the exact function of their table: whatever came, late, corrected, deleted, restored."""

from __future__ import annotations

import shutil
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

from headrace.errors import ConfigError
from headrace.run.forget import forget
from headrace.run.maintain import maintain
from headrace.run.restore import Point, let_go, restore
from headrace.spec.load import load
from tests.projects import go, headrace, put

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


def few(root: Path) -> Path:
    """Two files, so that windows of the first are closed by the second."""
    put(root, "1.csv", [line(row(n, n * 10, f"{n}.50")) for n in range(12)], HEADER)
    put(root, "2.csv", [line(row(100, 1000, "7.00"))], HEADER)
    assert go(root).status == "success"
    exact(root)
    return root


def told(report: Any, name: str) -> Any:
    (found,) = [item for item in report.tables if item.name == name]
    return found


def test_a_late_row_is_told_and_corrects_the_closed_window(tmp_path: Path) -> None:
    root = few(make(tmp_path))
    before = {item[0]: item for item in actual(root)["minutes"]}
    assert before[START][-1] is True
    put(root, "3.csv", [line(row(200, 30, "1000.00")), line(row(201, 1001, "1.00"))], HEADER)
    report = go(root)
    after = {item[0]: item for item in exact(root)["minutes"]}
    assert after[START][3] == before[START][3] + 1000
    minutes = told(report, "minutes")
    assert minutes.late == 1
    assert (minutes.ledger.read, minutes.ledger.updated, minutes.ledger.inserted) == (2, 2, 0)
    assert told(report, "sliding").late == told(report, "visits").late == 1


def test_windows_without_rows_go_and_sessions_join_and_part(tmp_path: Path) -> None:
    root = make(tmp_path)
    put(root, "1.csv", [line(row(1, 0)), line(row(2, 80)), line(row(3, 600))], HEADER)
    assert go(root).status == "success"
    assert [(item[0], item[3]) for item in exact(root)["visits"]] == [
        (START, 1),
        (START + timedelta(seconds=80), 1),
        (START + timedelta(seconds=600), 1),
    ]
    put(root, "2.csv", [line(row(4, 40))], HEADER)
    joined = go(root)
    assert [item[3] for item in exact(root)["visits"]] == [3, 1]
    ledger = told(joined, "visits").ledger
    assert (ledger.read, ledger.updated, ledger.deleted) == (2, 1, 1)
    put(root, "3.csv", [line(row(4, 40, status="deleted", version=2))], HEADER)
    go(root)
    assert [item[3] for item in exact(root)["visits"]] == [1, 1, 1]
    put(root, "4.csv", [line(row(n, 0, status="deleted", version=9)) for n in (1, 2, 3)], HEADER)
    assert go(root).status == "success"
    assert exact(root) == {"minutes": [], "sliding": [], "visits": []}


def test_a_correction_reaches_a_closed_window(tmp_path: Path) -> None:
    root = make(tmp_path / "p")
    put(root, "1.csv", [line(row(1, 0)), line(row(2, 1, "-5.00"))], HEADER)
    put(root, "2.csv", [line(row(100, 1000))], HEADER)
    go(root)
    assert exact(root)["minutes"][0][4] == 1
    fixed = headrace(root, "quarantine", "fix", "sales", "--rule", "amount.min", "--set", "amount = '5.00'")
    assert fixed.returncode == 0, fixed.stdout + fixed.stderr
    report = go(root)
    found = exact(root)["minutes"]
    assert (found[0][3], found[0][4], found[0][-1]) == (Decimal("6.00"), 2, True)
    assert told(report, "minutes").late == 1
    clean = make(tmp_path / "clean")
    put(clean, "1.csv", [line(row(1, 0)), line(row(2, 1, "5.00"))], HEADER)
    put(clean, "2.csv", [line(row(100, 1000))], HEADER)
    go(clean)
    assert actual(root) == actual(clean)


def test_compaction_and_vacuum_change_no_window(tmp_path: Path) -> None:
    """Vacuum keeps the files that the windows were made from, though the table does without them."""
    root = make(tmp_path)
    for n in range(9):
        put(root, f"{n}.csv", [line(row(n, n * 20))], HEADER)
        go(root, select=["land:sales", "refine:sales"])
    go(root)
    before = actual(root)
    put(root, "more.csv", [line(row(n, n * 20, "2.00", version=2)) for n in range(3)], HEADER)
    go(root, select=["land:sales", "refine:sales"])
    steps = [str(step) for step in maintain(load(root), now=datetime.now(UTC) + timedelta(days=90))]
    assert any("compact silver.sales" in step for step in steps) or len(stored(root, "sales")) == 9, steps
    assert actual(root) == before
    report = go(root)
    assert told(report, "minutes").rebuilt is None, "the version that it had read was kept"
    assert told(report, "minutes").ledger.updated == 1
    exact(root)


def test_where_the_old_version_is_gone_windows_are_computed_whole(tmp_path: Path) -> None:
    root = few(make(tmp_path))
    path = root / "lake" / "silver" / "sales"
    old = {Path(file.removeprefix("file://")).name for file in DeltaTable(str(path)).file_uris()}
    put(root, "3.csv", [line(row(1, 5, version=2)), line(row(100, 1000, version=2))], HEADER)
    go(root, select=["land:sales", "refine:sales"])
    live = {Path(file.removeprefix("file://")).name for file in DeltaTable(str(path)).file_uris()}
    assert old - live
    for name in old - live:
        (path / name).unlink()
    report = go(root)
    assert "vacuum" in (told(report, "minutes").rebuilt or "")
    exact(root)


def test_a_restored_table_takes_its_windows_along_and_back(tmp_path: Path) -> None:
    root = make(tmp_path)
    put(root, "1.csv", [line(row(1, 0)), line(row(2, 500))], HEADER)
    go(root)
    first = actual(root)
    put(root, "2.csv", [line(row(1, 100, "9.00", version=2)), line(row(3, 20))], HEADER)
    go(root)
    second = exact(root)
    assert first != second
    restore(load(root), "sales", Point(epoch=1), hold=True)
    assert go(root).status == "incomplete"
    assert actual(root) == first
    let_go(load(root), "sales")
    assert go(root).status == "success"
    assert actual(root) == second


def test_a_stream_is_restored_rebuilt_and_renewed(tmp_path: Path) -> None:
    root = few(make(tmp_path))
    wanted = actual(root)
    put(root, "3.csv", [line(row(1, 5, "55.00", version=2))], HEADER)
    go(root)
    now = exact(root)
    restore(load(root), "minutes", Point(epoch=1))
    assert actual(root)["minutes"] == wanted["minutes"]
    go(root)
    assert actual(root) == now
    report = go(root, rebuild=["minutes"])
    assert told(report, "minutes").rebuilt == "asked for"
    assert told(report, "minutes").ledger.unchanged == len(now["minutes"])
    assert actual(root) == now
    shutil.rmtree(root / "lake" / "silver" / "visits")
    broken = told(go(root), "visits")
    assert "--from-records" in (broken.error or "") or broken.error
    restore(load(root), "visits", Point())
    assert go(root).status == "success"
    assert actual(root) == now


def test_a_changed_definition_is_planned_refused_and_then_computed_whole(tmp_path: Path) -> None:
    root = few(make(tmp_path))
    text = (root / "pipeline.yml").read_text()
    (root / "pipeline.yml").write_text(text.replace("lateness: 30s", "lateness: 2h"))
    planned = headrace(root, "plan")
    assert planned.returncode == 0, planned.stdout
    assert "table minutes  rebuild" in planned.stdout
    assert "window lateness: `30s` → `2h`" in planned.stdout
    report = go(root)
    assert "definition changed" in (told(report, "minutes").rebuilt or "")
    assert not any(item[-1] for item in actual(root)["minutes"])
    (root / "pipeline.yml").write_text(text.replace("      least: min(amount)\n", ""))
    assert "breaking" in headrace(root, "plan").stdout
    with pytest.raises(ConfigError, match="least"):
        go(root)
    assert go(root, accept_changes=True).status == "success"
    assert "least" not in stored(root, "minutes")[0]


def test_what_people_see_of_a_stream(tmp_path: Path) -> None:
    root = few(make(tmp_path))
    asked = headrace(
        root, "query", "select count(*) as n from silver.minutes where closed", "--format", "json"
    )
    assert '"n": 2' in asked.stdout, asked.stdout + asked.stderr
    status = headrace(root, "status").stdout
    assert "minutes" in status
    doctor = headrace(root, "doctor").stdout
    assert "table visits" in doctor
    put(root, "3.csv", [line(row(1, 5, "55.00", version=2))], HEADER)
    run = headrace(root, "run").stdout
    assert "late  minutes: 2 rows in windows that were closed; corrected" in run
    assert "minutes  windows 1 = updated 1" in run
    diff = headrace(root, "diff", "1", "2", "--table", "minutes").stdout
    assert "silver.sales: version" in diff
    assert "revenue" in diff
    again = headrace(root, "run").stdout
    assert "minutes  nothing new in sales" in again
    before = headrace(root, "status", "--json").stdout
    (root / "lake" / "catalog.db").unlink()
    assert headrace(root, "doctor", "--rebuild").returncode == 0
    assert headrace(root, "status", "--json").stdout.count('"epoch"') == before.count('"epoch"')


def test_an_erased_subject_leaves_windows_and_their_old_files(tmp_path: Path) -> None:
    root = make(tmp_path)
    put(root, "1.csv", [line(row(1, 0, store="ann")), line(row(2, 10, store="bob"))], HEADER)
    go(root)
    put(root, "2.csv", [line(row(3, 20, store="ann"))], HEADER)
    go(root)
    assert [str(step) for step in forget(load(root), "store", "ann")]
    assert {item[2] for item in exact(root)["minutes"]} == {"bob"}
    held = b"".join(path.read_bytes() for path in (root / "lake" / "silver").rglob("*") if path.is_file())
    assert b"ann" not in held
    assert go(root).status == "success"
    assert headrace(root, "doctor", "--verify").returncode == 0


REFUSED = {
    "sum(price)": "column `price`",
    "amount": "outside of an aggregate",
    "1 + 1": "has no aggregate",
    "sum(amount / 2)": "depends on the order",
    "stddev(amount)": "aggregates: count",
    "sum(distinct amount)": "is not possible",
    "max(now())": "time of the run",
    "sum(amount) over ()": "window functions",
    "sum(status)": "is of type text",
    "first(random())": "another value each time",
    "sum(amount": "is not SQL",
    "(select 1)": "has no aggregate",
}


@pytest.mark.parametrize("sql", REFUSED)
def test_sql_that_is_not_exact_is_refused_with_its_line(tmp_path: Path, sql: str) -> None:
    root = make(tmp_path, PIPELINE.replace("      revenue: sum(amount)\n", f'      revenue: "{sql}"\n'))
    put(root, "1.csv", [line(row(1, 0))], HEADER)
    with pytest.raises(ConfigError) as error:
        go(root)
    assert REFUSED[sql] in str(error.value)
    assert str(error.value).startswith("pipeline.yml:26: "), str(error.value)
    assert not (root / "lake" / "silver").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("from: sales\n    window: {tumbling", "from: sails\n    window: {tumbling", "table `sails`"),
        ("tumbling: 1m", "tumbling: 1 minute", "is no duration"),
        ("tumbling: 1m", "tumbling: 1m, session: 3m", "one of tumbling, sliding and session"),
        ("every: 40s", "every: 2h", "longer than"),
        ("every: 40s", "every: 1ms", "windows"),
        (", every: 40s", "", "go together"),
        ("time: at, lateness: 30s", "time: amount", "says no time"),
        ("group_by: [store]", "group_by: [shop]", "`shop` is not a column"),
        ("orders: count(*)", "closed: count(*)", "is ours"),
        ("  minutes:", "  sales:", "name of a table"),
        ("group_by: [store]", "group_by: [store]\n    frobnicate: 1", "frobnicate"),
    ],
)
def test_definitions_that_cannot_work_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PIPELINE
    root = make(tmp_path, PIPELINE.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        load(root)
    assert message in str(error.value)
    assert "pipeline.yml:" in str(error.value)


def test_a_calculation_that_fails_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    pipeline = PIPELINE.replace("revenue: sum(amount)", "revenue: sum(cast(status as integer))", 1)
    root = make(tmp_path, pipeline)
    put(root, "1.csv", [line(row(1, 0, status="7")), line(row(2, 0, status="x"))], HEADER)
    report = go(root)
    failed = told(report, "minutes")
    assert "cannot be computed" in (failed.error or "")
    assert failed.error_class == "data"
    assert stored(root, "sales")
    assert not (root / "lake" / "silver" / "minutes" / "_delta_log").exists()


def test_rows_without_a_time_are_told(tmp_path: Path) -> None:
    pipeline = PIPELINE.replace("at:      {type: timestamp, required: true}", "at:      {type: timestamp}")
    root = make(tmp_path, pipeline)
    put(root, "1.csv", [line(row(1, 0)), "2,a,1.00,,paid,1"], HEADER)
    report = go(root)
    assert told(report, "minutes").warned == {"no at": 1}
    assert sum(item[4] for item in actual(root)["minutes"]) == 1


def test_dates_weeks_and_averages(tmp_path: Path) -> None:
    """A week begins with Monday; averages are rounded half away from zero, exactly."""
    root = make(
        tmp_path,
        """
name: shop
sources: {sales: {type: files, path: data/*.csv}}
tables:
  sales:
    from: sales
    contract:
      columns:
        day: {type: date, required: true}
        n: {type: integer}
        x: {type: double}
        p: {type: "decimal(4,2)"}
streams:
  weeks:
    from: sales
    window: {tumbling: 1w, time: day}
    select:
      mean: avg(n)
      low: min(x)
      n: count(x)
      share: sum(n) / count(*)
      q: avg(p)
      d: count(distinct x)
""",
    )
    put(
        root,
        "1.csv",
        ["2026-03-01,1,0.0,-0.05", "2026-03-02,1,-0.0,-0.01", "2026-03-08,1,2.5,0"],
        "day,n,x,p",
    )
    put(root, "2.csv", ["2026-03-05,0,,"], "day,n,x,p")
    assert go(root).status == "success"
    first, second = sorted(stored(root, "weeks"), key=lambda item: item["window_start"])
    assert first["window_start"] == datetime(2026, 2, 23, tzinfo=UTC)
    assert second["window_start"] == datetime(2026, 3, 2, tzinfo=UTC)
    assert (second["mean"], second["q"]) == (Decimal("0.666667"), Decimal("-0.00500000"))
    assert (first["q"], first["mean"]) == (Decimal("-0.05000000"), Decimal(1))
    assert (second["n"], second["share"], second["d"]) == (2, 2 / 3, 2)
    assert str(first["low"]) == "0.0"
    assert (first["closed"], second["closed"]) == (True, False)
