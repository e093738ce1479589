"""What the catalog keeps: runs and what they did, safe among processes, and never in the way.

All of this holds on PostgreSQL too, tried where HEADRACE_TEST_POSTGRES is the URL of a server (with
psycopg) on which databases may be made.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st

from headrace.catalog import Catalog
from headrace.catalog.database import Taken
from headrace.catalog.migrate import downgrade, upgrade
from headrace.catalog.models import (
    ChangeEvent,
    CircuitBreakerState,
    DataQualityResult,
    FileSignature,
    LedgerEntry,
    PipelineRun,
    PipelineVersion,
    RunMetrics,
    TaskExecution,
    new_run_id,
)
from headrace.catalog.schema import METADATA, VERSION
from headrace.errors import SystemFault
from headrace.run.breaker import CircuitBreaker

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


SERVER = os.environ.get("HEADRACE_TEST_POSTGRES")


@pytest.fixture(params=["sqlite", *(["postgresql"] if SERVER else [])])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A path or URL where no catalog is yet."""
    if request.param == "sqlite":
        yield str(tmp_path / "deep" / "catalog.db")
        return
    assert SERVER
    server = sa.create_engine(SERVER, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    name = f"headrace_test_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield sa.make_url(SERVER).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def catalog(where: str) -> Iterator[Catalog]:
    with Catalog.open(where) as catalog:
        yield catalog


def _run(run_id: str, at: datetime = NOON, pipeline: str = "sales") -> PipelineRun:
    return PipelineRun(run_id, pipeline, at)


def test_a_run_from_start_to_end(catalog: Catalog) -> None:
    version = PipelineVersion("sales", "f00d", {"name": "sales", "pii_key": "${K}"}, NOON)
    run = catalog.start_run("sales", env="dev", version=version)
    assert (run.status, run.env, run.fingerprint, run.pid) == ("running", "dev", "f00d", os.getpid())
    assert catalog.run(run.run_id) == run
    metrics = RunMetrics(records_read=541_909, inserted=392_692, quarantined=144_025, seconds=1.5)
    ended = catalog.finish_run(run, "incomplete", metrics=metrics, error="one source failed")
    assert catalog.run(run.run_id) == ended
    assert (ended.status, ended.metrics, ended.error) == ("incomplete", metrics, "one source failed")
    assert ended.end_time is not None
    assert ended.end_time >= ended.start_time
    assert catalog.versions("sales") == [version]
    assert catalog.run("nowhere") is None


def test_a_version_is_kept_once_at_its_first_appearance(catalog: Catalog) -> None:
    first = PipelineVersion("sales", "a", {"n": 1}, NOON)
    catalog.start_run("sales", version=first)
    catalog.start_run("sales", version=replace(first, first_seen=NOON + timedelta(days=1)))
    catalog.start_run("stock", version=replace(first, pipeline_name="stock"))
    catalog.start_run("sales", version=PipelineVersion("sales", "b", {"n": 2}, NOON + timedelta(days=2)))
    assert [(v.fingerprint, v.first_seen) for v in catalog.versions("sales")] == [
        ("a", NOON),
        ("b", NOON + timedelta(days=2)),
    ]
    assert len(catalog.versions("stock")) == 1


def test_another_configuration_is_another_version(catalog: Catalog) -> None:
    configs: list[dict[str, object]] = [{"a": 1, "b": "é"}, {"b": "é", "a": 1}, {"a": 2, "b": "é"}]
    for config in configs:
        catalog.start_run("sales", version=PipelineVersion.of("sales", config))
    assert [version.config for version in catalog.versions("sales")] == [configs[0], configs[2]]


def test_runs_come_newest_first(catalog: Catalog) -> None:
    catalog.record(_run(f"r{n}", NOON + timedelta(minutes=n), "odd" if n % 2 else "even") for n in range(10))
    assert [run.run_id for run in catalog.runs(3)] == ["r9", "r8", "r7"]
    assert [run.run_id for run in catalog.runs(2, "even")] == ["r8", "r6"]


def test_every_kind_of_row_comes_back_as_it_was(catalog: Catalog) -> None:
    task = TaskExecution("refine:sales", "r1", NOON, NOON + timedelta(seconds=2), "failed", "no", "data", 2)
    skipped = TaskExecution("gold", "r1", status="skipped", error_message="`refine:sales` failed")
    first = TaskExecution("land:sales", "r1", NOON - timedelta(seconds=1), NOON, "success")
    catalog.task(skipped, task, first)
    assert catalog.tasks("r1") == [first, task, skipped]

    entry = LedgerEntry("r1", "sales", 3, 7, 10, 1, 2, 1, 1, 1, 2, 1, 1, 5, 0.25)
    catalog.ledger(entry, replace(entry, table_name="b"))
    assert catalog.ledgers("r1") == [replace(entry, table_name="b"), entry]
    assert entry.balanced
    assert not replace(entry, read=11).balanced

    result = DataQualityResult("sales", "qty.min", "warn", 100, 3, NOON, "r1")
    catalog.quality([result])
    assert catalog.quality_results("r1") == [result]

    change = ChangeEvent("orders", "sales", "INSERT", NOON, 12, "r1")
    later = replace(change, change_type="DELETE", timestamp=NOON + timedelta(hours=1))
    catalog.changes([change, later])
    assert catalog.change_events("orders") == [later, change]
    assert catalog.change_events("orders", limit=1) == [later]


def test_writing_again_replaces(catalog: Catalog) -> None:
    catalog.task(TaskExecution("a", "r1", NOON))
    catalog.task(TaskExecution("a", "r1", NOON, NOON, "success"), TaskExecution("b", "r1", NOON))
    catalog.task(
        TaskExecution("b", "r1", NOON, NOON, "failed"), TaskExecution("b", "r1", NOON, NOON, "success")
    )
    assert [(task.task_id, task.status) for task in catalog.tasks("r1")] == [
        ("a", "success"),
        ("b", "success"),
    ]


def test_a_call_writes_all_or_nothing(catalog: Catalog) -> None:
    bad = TaskExecution("b", "r1", NOON, retry_count=None)  # type: ignore[arg-type]
    with pytest.raises(SystemFault):
        catalog.record([_run("r1"), TaskExecution("a", "r1", NOON), bad])
    assert catalog.run("r1") is None
    assert catalog.tasks("r1") == []


def test_the_trend_of_a_rule(catalog: Catalog) -> None:
    now = datetime.now(UTC)
    results = [
        DataQualityResult("sales", rule, "fail", 100, n, now - timedelta(days=n), f"r{n}")
        for n in range(40)
        for rule in ("qty.min", "price.min")
    ]
    catalog.quality(results)
    trend = catalog.quality_trend("sales", "qty.min", days=10)
    assert [point.failed_rows for point in trend] == list(range(9, -1, -1))
    assert len(catalog.quality_trend("sales", days=10)) == 20
    assert catalog.quality_trend("stock", "qty.min") == []


def test_a_breaker_survives_the_process(catalog: Catalog, where: str) -> None:
    assert catalog.breaker("crm") == CircuitBreakerState("crm")
    breaker = CircuitBreaker(1, 60, name="crm", on_change=lambda state: catalog.keep_breaker("crm", state))

    def down() -> None:
        raise SystemFault("connection to postgresql://etl:hunter2@crm/db lost")

    with pytest.raises(SystemFault):
        breaker.call(down)
    with Catalog.open(where) as other:
        kept = other.breaker("crm")
    assert kept.failures == 1
    assert "hunter2" not in kept.last_error
    later = CircuitBreaker(1, 60, name="crm")
    later.restore({"failures": kept.failures, "opened_at": kept.opened_at, "last_error": kept.last_error})
    assert later.is_open()
    breaker.reset()
    assert catalog.breaker("crm") == CircuitBreakerState("crm")


def test_signatures_are_remembered_by_stream(catalog: Catalog) -> None:
    signature = {"size": 10, "mtime_ns": 1_763_640_000_123_456_789, "inode": 2**63}
    catalog.remember("orders", {"a.csv": (signature, "aa"), "b.csv": ({}, "bb")})
    catalog.remember("orders", {"b.csv": ({"size": 1}, "cc")})
    catalog.remember("events", {"a.csv": ({}, "dd")})
    catalog.remember("events", {})
    assert catalog.signatures("orders") == {"a.csv": (signature, "aa"), "b.csv": ({"size": 1}, "cc")}
    assert catalog.signatures("nothing") == {}


def test_ten_thousand_files_are_remembered_in_one_go(catalog: Catalog) -> None:
    seen = {f"data/day={n}/orders.csv": ({"size": n, "mtime_ns": n}, f"{n:064x}") for n in range(10_000)}
    for _ in range(2):
        catalog.remember("orders", seen)
    assert catalog.signatures("orders") == seen


def test_secrets_do_not_reach_error_texts(catalog: Catalog) -> None:
    run = catalog.start_run("sales")
    catalog.finish_run(run, "failed", error="no route to mysql://root:s3cr3t@db:3306/x")
    catalog.task(TaskExecution("land", run.run_id, NOON, error_message="login failed: password=s3cr3t"))
    found = catalog.run(run.run_id)
    assert found is not None
    assert found.error == "no route to mysql://root:***@db:3306/x"
    assert catalog.tasks(run.run_id)[0].error_message == "login failed: password=***"


def test_times_keep_their_instant_and_need_a_zone(catalog: Catalog) -> None:
    tokyo = datetime(2026, 11, 20, 21, tzinfo=timezone(timedelta(hours=9)))
    catalog.record([_run("r1", tokyo)])
    found = catalog.run("r1")
    assert found is not None
    assert (found.start_time, found.start_time.tzinfo) == (NOON, UTC)
    with pytest.raises(Exception, match="no time zone"):
        catalog.record([_run("r2", datetime(2026, 11, 20))])


def test_a_run_whose_process_is_gone_is_failed_by_the_next(catalog: Catalog) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    dead = replace(_run("dead"), host=here, pid=gone.pid)
    reborn = replace(_run("reborn", datetime(2020, 1, 1, tzinfo=UTC)), host=here, pid=os.getpid())
    alive = replace(_run("alive"), host=here, pid=os.getppid())
    elsewhere = replace(_run("elsewhere"), host="another machine", pid=gone.pid)
    other = replace(_run("other", pipeline="stock"), host=here, pid=gone.pid)
    ours = catalog.start_run("sales")
    catalog.record([dead, reborn, alive, elsewhere, other])
    catalog.start_run("sales")
    status = {run.run_id: run.status for run in catalog.runs()}
    assert {name: status[name] for name in ("dead", "reborn", "alive", "elsewhere", "other")} == {
        "dead": "failed",
        "reborn": "failed",
        "alive": "running",
        "elsewhere": "running",
        "other": "running",
    }
    assert status[ours.run_id] == "running"
    buried = catalog.run("dead")
    assert buried is not None
    assert buried.error == "its process ended without a word"


def test_an_unknown_metric_of_another_version_is_left_out() -> None:
    assert RunMetrics.of({"records_read": 3, "of_tomorrow": 1}) == RunMetrics(records_read=3)
    assert RunMetrics.of(None) == RunMetrics()


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)), st.integers(1, 10**9))
def test_run_ids_sort_by_time(at: datetime, seconds: int) -> None:
    early, late = at.replace(tzinfo=UTC), at.replace(tzinfo=UTC) + timedelta(seconds=seconds)
    assert new_run_id(early) < new_run_id(late)


def test_run_ids_of_one_second_are_made_to_differ(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["same", "same", "same", "other"])
    monkeypatch.setattr("headrace.catalog.catalog.new_run_id", lambda _: next(ids))
    assert [catalog.start_run("sales").run_id for _ in range(2)] == ["same", "other"]


def test_a_run_id_given_twice_is_refused(catalog: Catalog) -> None:
    catalog.start_run("sales", run_id="r1")
    with pytest.raises(Taken):
        catalog.start_run("sales", run_id="r1")
    assert [run.run_id for run in catalog.runs()] == ["r1"]


def test_forgetting_takes_all_that_belongs_to_a_run(catalog: Catalog) -> None:
    for name, at in (("old", NOON - timedelta(days=400)), ("new", NOON)):
        catalog.record(
            [
                _run(name, at),
                TaskExecution("a", name, at),
                LedgerEntry(name, "sales"),
                DataQualityResult("sales", "x", "pass", 1, 0, at, name),
                ChangeEvent("orders", "sales", "INSERT", at, 1, name),
            ]
        )
    assert catalog.forget_before(NOON - timedelta(days=365)) == 1
    assert [run.run_id for run in catalog.runs()] == ["new"]
    for rows in (catalog.tasks, catalog.ledgers, catalog.quality_results):
        assert [len(rows(name)) for name in ("old", "new")] == [0, 1]
    assert [change.run_id for change in catalog.change_events("orders")] == ["new"]


def test_ten_thousand_runs_are_no_burden(catalog: Catalog) -> None:
    catalog.record(_run(f"r{n:05}", NOON + timedelta(minutes=n), f"p{n % 7}") for n in range(10_000))
    best = {}
    for what, pipeline in (("all", None), ("one", "p3")):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            assert len(catalog.runs(20, pipeline)) == 20
            times.append(time.perf_counter() - began)
        best[what] = min(times)
    assert max(best.values()) < 0.05, best
    if catalog.database.path:
        with catalog.database.engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "EXPLAIN QUERY PLAN SELECT * FROM pipeline_runs "
                "WHERE pipeline_name = 'p3' ORDER BY start_time DESC LIMIT 20"
            )
            assert any("ix_pipeline_runs_pipeline_name_start_time" in str(row) for row in rows)


def test_threads_share_one_catalog(catalog: Catalog) -> None:
    errors: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for m in range(15):
                run = catalog.start_run(f"p{n}")
                catalog.task(TaskExecution(f"t{m}", run.run_id, NOON))
                catalog.finish_run(run, "success")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    runs = catalog.runs(1000)
    assert len(runs) == 90
    assert {run.status for run in runs} == {"success"}


_WORKER = """
import sys
from datetime import datetime, UTC
from headrace.catalog import Catalog
from headrace.catalog.models import LedgerEntry, TaskExecution
with Catalog.open(sys.argv[1]) as catalog:
    for n in range(25):
        run = catalog.start_run("sales")
        catalog.task(*(TaskExecution(f"t{m}", run.run_id, datetime.now(UTC)) for m in range(10)))
        catalog.ledger(LedgerEntry(run.run_id, "sales", n))
        catalog.keep_breaker("shared", {"failures": n, "opened_at": None, "last_error": ""})
        catalog.finish_run(run, "success")
"""


def test_processes_share_one_catalog_from_its_making(where: str) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", _WORKER, where], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    failures = [text for worker in workers if (text := worker.communicate(timeout=120)[1])]
    assert not failures
    with Catalog.open(where) as catalog:
        runs = catalog.runs(1000)
        assert len(runs) == 100
        assert {run.status for run in runs} == {"success"}
        assert all(len(catalog.tasks(run.run_id)) == 10 for run in runs[::10])
        assert catalog.breaker("shared").failures == 24


def test_migrations_and_metadata_agree_here(where: str) -> None:
    with Catalog.open(where) as catalog, catalog.database.engine.begin() as connection:
        options = {"compare_type": True, "version_table": VERSION.name}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []
        downgrade(connection, "base")
        upgrade(connection)
        assert compare_metadata(context, METADATA) == []


def test_every_record_can_be_replayed(catalog: Catalog, tmp_path: Path) -> None:
    records = [
        _run("r1"),
        TaskExecution("a", "r1", NOON),
        LedgerEntry("r1", "sales", read=2, inserted=2),
        FileSignature("orders", "a.csv", {"size": 1}, "aa"),
    ]
    catalog.record(records)
    catalog.record(records)
    with Catalog.open(tmp_path / "fresh.db") as fresh:
        fresh.record(records)
        assert fresh.runs() == catalog.runs() == [_run("r1")]
        assert fresh.ledgers("r1") == catalog.ledgers("r1")
        assert fresh.signatures("orders") == catalog.signatures("orders")
