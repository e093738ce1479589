"""The commands as a user types them, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OK, FAILED, USAGE, INCOMPLETE, STOPPED, UNBALANCED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


def headrace(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrace", *args]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    made = headrace("init", "shop", cwd=tmp_path)
    assert made.returncode == OK, made.stderr
    return tmp_path / "shop"


@pytest.fixture
def ran(shop: Path) -> Path:
    done = headrace("run", cwd=shop)
    assert done.returncode == OK, done.stderr
    return shop


def test_init_then_run_counts_every_row_and_says_where_to_look(shop: Path) -> None:
    done = headrace("run", cwd=shop)
    assert done.returncode == OK, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("orders  read 7 = loaded 4 + deduplicated 1 + quarantined 2   ")
    assert "silver      lake/silver/orders" in rest
    assert (shop / "lake/silver/orders/_delta_log").is_dir()
    assert any(line.startswith("quarantine  headrace quarantine list") for line in rest)


def test_a_second_run_is_a_visible_no_op(ran: Path) -> None:
    def state() -> dict[Path, tuple[int, bytes]]:
        files = [path for path in (ran / "lake").rglob("*") if path.is_file()]
        kept = [path for path in files if "catalog" not in path.name and path.name != "run.lock"]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}

    before = state()
    done = headrace("run", cwd=ran)
    assert done.returncode == OK
    assert done.stdout == "orders  0 new files\n"
    assert state() == before


def test_run_json_is_one_document_and_nothing_else(shop: Path) -> None:
    done = headrace("run", "--json", cwd=shop)
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert document["exit_code"] == done.returncode == OK
    assert document["status"] == "success"
    (table,) = document["tables"]
    assert table["ledger"]["read"] == 7
    assert table["by_rule"] == {"quantity.type": 1, "product.required": 1}


def test_quiet_prints_nothing_when_all_is_well(shop: Path) -> None:
    done = headrace("run", "-q", cwd=shop)
    assert (done.returncode, done.stdout, done.stderr) == (OK, "", "")


def test_query_in_three_formats(ran: Path) -> None:
    sql = "select order_id, quantity, amount, ordered_on from silver.orders order by order_id limit 2"
    as_csv = headrace("query", sql, "--format", "csv", cwd=ran)
    assert as_csv.stdout.splitlines() == [
        "order_id,quantity,amount,ordered_on",
        "1001,1,89.90,2026-01-05",
        "1002,12,39.00,2026-01-05",
    ]
    as_json = headrace("query", sql, "--format", "json", cwd=ran)
    assert json.loads(as_json.stdout)[1] == {
        "order_id": 1002,
        "quantity": 12,
        "amount": 39.0,
        "ordered_on": "2026-01-05",
    }
    assert "39.00" in as_json.stdout
    as_table = headrace("query", sql, cwd=ran)
    assert as_table.stdout.split()[:4] == ["order_id", "quantity", "amount", "ordered_on"]
    latest = headrace(
        "query", "select quantity from silver.orders where order_id = 1003", "-f", "csv", cwd=ran
    )
    assert latest.stdout == "quantity\n3\n"


@pytest.mark.parametrize("schema", ["bronze.orders", "quarantine.orders", "runs"])
def test_query_sees_more_than_silver(ran: Path, schema: str) -> None:
    done = headrace("query", f"select count(*) > 0 as some from {schema}", "-f", "csv", cwd=ran)
    assert done.stdout == "some\ntrue\n", done.stderr


@pytest.mark.parametrize(
    "sql",
    [
        "select * from silver.nothing",
        "selec 1",
        "create table x as select 1",
        "drop view silver.orders",
        "copy (select 1) to 'out.csv'",
        "select * from read_csv('/etc/passwd')",
    ],
)
def test_query_refuses_what_is_wrong_or_would_write_or_leave_the_lake(ran: Path, sql: str) -> None:
    done = headrace("query", sql, cwd=ran)
    assert done.returncode == USAGE
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (ran / "out.csv").exists()


def test_quarantine_tells_file_line_rule_and_text(ran: Path) -> None:
    listed = headrace("quarantine", "list", "-f", "json", cwd=ran)
    rules = {row["rule"]: row["rows"] for row in json.loads(listed.stdout)}
    assert rules == {"quantity.type": 1, "product.required": 1}
    shown = headrace("quarantine", "show", "orders", "--rule", "quantity.type", "-f", "json", cwd=ran)
    (row,) = json.loads(shown.stdout)
    assert row["line"] == 6
    assert row["file"].endswith("orders.csv")
    assert "1004,porto,Coffee beans,abc,14.50" in row["raw"]


def test_status_before_and_after_a_run(shop: Path) -> None:
    before = headrace("status", cwd=shop)
    assert before.returncode == USAGE
    assert "hint: `headrace run` makes it" in before.stderr
    headrace("run", cwd=shop)
    document = json.loads(headrace("status", "-f", "json", cwd=shop).stdout)
    assert [table["table"] for table in document["tables"]] == ["orders"]
    assert document["tables"][0]["rows"] == 4
    assert [run["status"] for run in document["runs"]] == ["success"]


def test_doctor_is_content_with_a_good_project_and_finds_a_broken_one(ran: Path, tmp_path: Path) -> None:
    good = headrace("doctor", cwd=ran)
    assert good.returncode == OK, good.stdout
    assert "fail" not in good.stdout
    nowhere = headrace("doctor", "--json", cwd=tmp_path)
    assert [f["level"] for f in json.loads(nowhere.stdout) if f["what"] == "project"] == ["warn"]
    record = sorted((ran / "lake/_headrace/land/orders").iterdir())[-1]
    record.write_bytes(record.read_bytes()[:-20])
    bad = headrace("doctor", cwd=ran)
    assert bad.returncode == FAILED
    assert record.name in bad.stdout
    assert "hint:" in bad.stdout


def test_wrong_configuration_is_2_and_says_file_line_and_fix(shop: Path) -> None:
    contract = shop / "contracts/orders.yml"
    contract.write_text(contract.read_text().replace("type: integer", "type: integr"))
    for command in (["run"], ["status"], ["query", "select 1"], ["run", "--json"]):
        done = headrace(*command, cwd=shop)
        assert done.returncode == USAGE
        assert "contracts/orders.yml:8" in done.stderr
        assert "hint: did you mean `integer`?" in done.stderr
    assert not (shop / "lake").exists()


def test_no_project_here_is_2(tmp_path: Path) -> None:
    done = headrace("run", cwd=tmp_path)
    assert done.returncode == USAGE
    assert "hint:" in done.stderr


def test_a_refused_file_is_3_and_the_rest_is_loaded(shop: Path) -> None:
    (shop / "data/empty.csv").write_bytes(b"")
    done = headrace("run", cwd=shop)
    assert done.returncode == INCOMPLETE
    assert "read 7 = loaded 4" in done.stdout
    assert "refused  orders: " in done.stdout
    assert "empty.csv" in done.stdout


def test_a_stop_rule_is_4_and_writes_nothing(shop: Path) -> None:
    contract = shop / "contracts/orders.yml"
    contract.write_text(contract.read_text().replace("severity: warn", "severity: stop"))
    data = shop / "data/orders.csv"
    data.write_text(data.read_text() + "1007,lyon,Kettle,1,45.00,2999-01-01,2026-01-09T00:00:00Z\n")
    done = headrace("run", cwd=shop)
    assert done.returncode == STOPPED, done.stdout + done.stderr
    assert "not_from_the_future" in done.stdout + done.stderr
    assert headrace("query", "select * from silver.orders", cwd=shop).returncode == USAGE


def test_an_interrupted_run_is_130_and_the_next_one_is_whole(shop: Path) -> None:
    # A pause at a known place makes the moment certain: the process stops itself, gets the signal, goes on.
    command = [sys.executable, "-m", "headrace", "run"]
    environment = {**os.environ, "HEADRACE_FAILPOINTS": "refine.planned=pause"}
    with subprocess.Popen(command, cwd=shop, env=environment, stdout=-1, stderr=-1) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        deadline = time.monotonic() + 60
        while stat.read_text().rpartition(")")[2].split()[0] != "T" and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert told == b"interrupted; run it again, it goes on where it was\n"
    done = headrace("run", cwd=shop)
    assert done.returncode == OK, done.stderr
    counted = headrace("query", "select count(*) as n from silver.orders", "-f", "csv", cwd=shop)
    assert counted.stdout == "n\n4\n"


def test_ctrl_c_before_anything_began_is_no_traceback(shop: Path) -> None:
    code = "import os, signal, sys; sys.setprofile(lambda f, e, a: f.f_code.co_name == '_command' and "
    code += "os.kill(os.getpid(), signal.SIGINT)); from headrace.cli import main; sys.exit(main(['run']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=shop, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        INTERRUPTED,
        "interrupted; run it again, it goes on where it was\n",
    )


def _changed(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        (
            "pipeline.yml",
            "contract:",
            "contrct:",
            "pipeline.yml:13: table `orders`: key `contrct`",
        ),
        (
            "pipeline.yml",
            "[order_id]",
            "7",
            "pipeline.yml:14: table `orders`: `keys` must be a list",
        ),
        ("pipeline.yml", "data/*.csv", "${NOWHERE}/*.csv", "variable `NOWHERE` is not set"),
        ("pipeline.yml", "contracts/orders", "contract/order", "did you mean `contracts/orders.yml`?"),
        ("pipeline.yml", "name: shop", "name: shop\nname: shop", "pipeline.yml:4: key `name` is there twice"),
        ("contracts/orders.yml", "%d.%m.%Y", "DD.MM.YYYY", "format `DD.MM.YYYY` is not known"),
        ("contracts/orders.yml", "clean: [trim, upper]", "pattern: '[A-'", "character set at character 1"),
    ],
)
def test_mistakes_of_a_first_day_say_file_line_and_fix(
    shop: Path, file: str, old: str, new: str, told: str
) -> None:
    _changed(shop / file, old, new)
    done = headrace("run", cwd=shop)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert told in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (shop / "lake").exists()


def test_what_is_no_pipeline_is_told_apart(shop: Path) -> None:
    data = headrace("run", "data/orders.csv", cwd=shop)
    assert (data.returncode, data.stderr.splitlines()) == (
        USAGE,
        [
            "error: data/orders.csv:1: a pipeline is `key: value` lines",
            "hint: is this data? `headrace init NAME --from data/orders.csv` makes a pipeline for it",
        ],
    )
    contract = headrace("run", "contracts/orders.yml", cwd=shop)
    assert contract.returncode == USAGE
    assert contract.stderr.startswith("error: contracts/orders.yml:1: this is a contract, not a pipeline\n")


def test_a_disk_that_cannot_be_written_is_named_with_its_fix(shop: Path) -> None:
    code = """
import errno, os, pathlib, sys
usual = pathlib.Path.open
def opened(self, *args, **more):
    if self.name == "run.lock":
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
    return usual(self, *args, **more)
pathlib.Path.open = opened
from headrace.cli import main
sys.exit(main(["run"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=shop, capture_output=True, text=True)
    assert done.returncode == FAILED
    first, hint = done.stderr.splitlines()
    assert first == f"error: {shop}/lake/_headrace/run.lock: Read-only file system"
    assert hint.startswith("hint: mount it for writing")


def test_nothing_is_proposed_from_a_file_without_rows(tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("id,name\n")
    made = headrace("init", "shop", "--from", "none.csv", cwd=tmp_path)
    assert made.returncode == USAGE
    assert made.stderr.startswith("error: `none.csv`: no rows were found, read as csv\nhint: ")
    assert not (tmp_path / "shop").exists()


def test_init_from_a_file_proposes_a_contract_that_loads_it(tmp_path: Path) -> None:
    lines = ["order_no;customer email;price;sold at;updated_at"]
    lines += [
        f"A-{n:05};c{n % 40}@example.com;{n % 90},{n % 100:02};{1 + n % 28:02}.03.2026;"
        f"2026-04-01T00:{n % 60:02}:00Z"
        for n in range(2_000)
    ]
    (tmp_path / "orders.csv").write_text("\n".join(lines) + "\n")
    made = headrace("init", "shop", "--from", "orders.csv", cwd=tmp_path)
    assert made.returncode == OK, made.stderr
    contract = next((tmp_path / "shop/contracts").iterdir()).read_text()
    assert "pii: email" in contract
    assert "%d.%m.%Y" in contract
    done = headrace("run", cwd=tmp_path / "shop")
    assert done.returncode == OK, done.stdout + done.stderr
    assert "read 2,000 = loaded 2,000 " in done.stdout


def test_columns_that_are_named_like_bronze_folders_keep_their_values(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "in").mkdir()
    for number in (1, 2):
        table = pa.table({"id": [number], "year": [1999], "month": [7], "day": [31], "filename": ["x"]})
        pq.write_table(table, tmp_path / f"in/{number}.parquet")
    assert headrace("init", "shop", "--from", "in/1.parquet", cwd=tmp_path).returncode == OK
    pipeline = tmp_path / "shop/pipeline.yml"
    pipeline.write_text(pipeline.read_text().replace("1.parquet", "*.parquet"))
    done = headrace("run", cwd=tmp_path / "shop")
    assert done.returncode == OK, done.stdout
    (table_name,) = (line.split()[0] for line in done.stdout.splitlines() if "read 2 = loaded 2" in line)
    sql = f'select id, year, month, day, filename from silver."{table_name}" order by id'
    found = headrace("query", sql, "-f", "csv", cwd=tmp_path / "shop")
    assert found.stdout.splitlines()[1:] == ["1,1999,7,31,x", "2,1999,7,31,x"]


def test_a_broken_catalog_is_told_in_one_line(ran: Path) -> None:
    for left in (ran / "lake").glob("catalog.db*"):
        left.unlink()
    (ran / "lake/catalog.db").write_bytes(b"garbage" * 1000)
    told = headrace("status", cwd=ran)
    assert told.returncode == 0, told.stderr
    (line,) = told.stderr.splitlines()
    assert line.startswith("warning: catalog ")
    assert "the history of runs is lost, no data is" in line
