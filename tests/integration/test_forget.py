"""Erasure: one subject is gone from every layer, nobody else is, and no rebuild brings it back."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from headrace import failpoints
from headrace.errors import Busy, ConfigError
from headrace.run.backup import backup
from headrace.run.corrections import fix as correct
from headrace.run.forget import forget
from headrace.run.maintain import maintain
from headrace.run.recover import recover
from headrace.run.report import Step
from headrace.run.retention import expire
from headrace.run.runner import open_storage
from headrace.run.verify import verify
from headrace.spec.load import load
from headrace.store.base import commit as commit_base
from headrace.store.records import RefineLog
from tests.projects import PIPELINE, content, go, headrace, make, put

PLACES = [place for place in failpoints.PLACES if place.startswith("forget")]
ANN, BOB = "ann.unique@example.org", "bob@example.org"


def lines(number: int) -> list[str]:
    """Orders of some people; one of them in quotes over two lines, one broken, one twice."""
    first = number * 10
    return [
        f"{first + 1},{ANN},1.00,2026-01-0{number + 1}T00:00:00",
        f"{first + 2},{BOB},2.00,2026-01-0{number + 1}T00:00:00",
        f'{first + 3}," {ANN.upper()}\n",3.00,2026-01-0{number + 1}T00:00:00',
        f"x{number},{ANN},1.00,never",
        f"{first + 4},{BOB},4.00,2026-01-0{number + 1}T00:00:00,{ANN}",
        f"{first + 2},{BOB},2.00,2026-01-0{number + 1}T00:00:00",
        f"{first + 5},not {ANN},5.00,2026-01-0{number + 1}T00:00:00",
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = make(tmp_path / "p")
    for n in range(3):
        put(root, f"{n}.csv", lines(n))
        assert go(root).status == "success"
    return root


def erase(root: Path, subject: str = ANN, **options: bool) -> dict[str, Step]:
    return {step.what: step for step in forget(load(root), "customer", subject, **options)}


def everywhere(lake: Path, value: str) -> list[str]:
    """Files of the lake that hold the value in clear text, in any case; Parquet is read."""
    import duckdb

    found = []
    for path in sorted(path for path in lake.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data = str(
                duckdb.connect().execute("select * from read_parquet(?)", [str(path)]).fetchall()
            ).encode()
        if value.lower().encode() in data.lower():
            found.append(path.relative_to(lake).as_posix())
    return found


def others(root: Path) -> dict[str, list[tuple[object, ...]]]:
    """What the tables should be without the subject: rows that do not hold it."""
    return {
        name: [row for row in rows if not any(_theirs(str(value)) for value in row)]
        for name, rows in content(root).items()
    }


def _theirs(text: str) -> bool:
    return ANN in text.lower() and f"not {ANN}" not in text.lower()


def test_the_subject_is_gone_and_everybody_else_is_there(root: Path) -> None:
    wanted = others(root)
    assert len(wanted["silver.orders"]) == 6
    steps = erase(root)
    assert steps["erase from bronze"].count == 12
    assert content(root) == wanted, "also the line numbers are as they were"
    left = everywhere(root / "lake", ANN)
    assert all("bronze" in path or "silver" in path for path in left)
    assert all(f"not {ANN}" in text for text in _texts(root / "lake", left)), (
        "only who merely has a similar name"
    )
    assert go(root).tables[0].noop, "files at the source do not land again"
    assert go(root, rebuild=["orders"]).status == "success"
    assert content(root) == wanted
    assert [fault for item in verify(open_storage(load(root))) for fault in item.faults] == []


def _texts(lake: Path, paths: list[str]) -> list[str]:
    kept = [path for path in paths if path.endswith(".csv")]
    for path in kept:
        assert (lake / path).read_text().lower().count(ANN) == 1
    return [(lake / path).read_text() for path in kept]


def test_old_versions_objects_and_bounds_are_gone(root: Path) -> None:
    erase(root, BOB)
    assert everywhere(root / "lake", BOB) == []


def test_the_record_tells_of_it_without_the_subject(root: Path) -> None:
    list(forget(load(root), "customer", BOB, reason="request 17"))
    (path,) = (root / "lake/_headrace/forget").iterdir()
    body = json.loads(path.read_text())["body"]
    assert (body["reason"], body["columns"], body["tables"], body["records"]) == (
        "request 17",
        ["customer"],
        ["orders"],
        9,
    )
    assert len(body["subject"]) == 64
    assert BOB not in path.read_text()


def test_a_second_time_finds_nothing_and_changes_nothing(root: Path) -> None:
    erase(root)
    before = content(root)
    again = erase(root)
    assert list(again) == ["erase from bronze"]
    assert again["erase from bronze"].count == 0
    assert content(root) == before
    erase(root, BOB)
    assert go(root, rebuild=["orders"]).status == "success"
    assert everywhere(root / "lake", BOB) == []


def test_a_dry_run_counts_only(root: Path) -> None:
    before = content(root)
    assert erase(root, dry_run=True)["erase from bronze"].count == 12
    assert content(root) == before
    assert not (root / "lake/_headrace/forget").exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("between", ["forget", "run"])
def test_killed_anywhere_the_next_one_does_the_rest(root: Path, place: str, between: str) -> None:
    wanted = others(root)
    ended = headrace(root, "forget", f"customer={ANN}", env={"HEADRACE_FAILPOINTS": f"{place}=kill"})
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    if between == "run":
        assert go(root).status == "success"
    erase(root)
    assert content(root) == wanted
    assert [fault for item in verify(open_storage(load(root))) for fault in item.faults] == []
    erase(root, f"not {ANN}")
    list(maintain(load(root)))
    # objects that a killed erasure wrote are swept once they are a day old
    known = {path for path in everywhere(root / "lake", ANN) if not path.startswith("bronze/")}
    assert known == set()


def test_backups_forget_too(root: Path, tmp_path: Path) -> None:
    backup(load(root), tmp_path / "b")
    erase(root, BOB)
    backup(load(root), tmp_path / "b")
    assert everywhere(tmp_path / "b", BOB) == []
    recover(tmp_path / "b", tmp_path / "home/lake")
    subprocess.run(
        ["cp", "-a", str(root / "data"), str(root / "pipeline.yml"), str(tmp_path / "home")], check=True
    )
    assert content(tmp_path / "home") == content(root)
    assert go(tmp_path / "home").tables[0].noop


def test_a_hashed_column_and_an_encrypted_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_KEY", "ab" * 32)
    pipeline = PIPELINE.replace(
        "{type: text, clean: [trim]}", "{type: text, clean: [trim], pii: email, mask: hash}"
    )
    keys = 'pii_key: "${LAKE_KEY}"\nencryption: {key: k1, keys: {k1: "${LAKE_KEY}"}}\n'
    root = make(tmp_path / "p", {"0.csv": lines(0)}, pipeline + keys)
    assert go(root).status == "success"
    silver = len(content(root)["silver.orders"])
    assert erase(root)["erase from bronze"].count == 4
    assert len(content(root)["silver.orders"]) == silver - 2
    assert go(root).tables[0].noop


def test_what_cannot_be_taken_apart_is_refused_before_anything_changes(root: Path) -> None:
    (root / "data/notes.txt").write_text(f"a line about {ANN}\nand another\n")
    text = (root / "pipeline.yml").read_text().replace("data/*.csv", '["data/*.csv", "data/*.txt"]')
    (root / "pipeline.yml").write_text(text)
    go(root)
    before = content(root)
    with pytest.raises(ConfigError, match="single records cannot be taken"):
        erase(root)
    assert content(root) == before
    with pytest.raises(ConfigError, match="no table has a column"):
        list(forget(load(root), "nobody", "x"))


RECORDS = [
    {"order_id": 1, "Customer": BOB, "amount": "1.10", "updated_at": "2026-01-01T00:00:00", "tags": ["x"]},
    {"order_id": 2, "Customer": f" {ANN.upper()}", "amount": "2.00", "updated_at": None, "tags": []},
    {"order_id": 3, "Customer": f"not {ANN}", "amount": "x", "updated_at": None, "tags": ["y", "z"]},
    {"order_id": 4, "Customer": ANN, "amount": "x", "updated_at": None, "tags": []},
    {"order_id": 5, "Customer": BOB, "amount": "5.00", "updated_at": "2026-01-05T00:00:00", "tags": []},
]


def _written(folder: Path, form: str) -> None:
    import duckdb

    plain = folder / "r.json"
    plain.write_text(json.dumps(RECORDS, indent=1))
    name = form.removesuffix(".gz")
    if name == "jsonl":
        text = "".join(json.dumps(record).replace("@", "\\u0040") + "\n" for record in RECORDS)
        (folder / "r.jsonl").write_text(text)
    elif name == "envelope.json":
        (folder / "r.envelope.json").write_text(json.dumps({"n": 5, "rows": RECORDS}))
    elif name == "parquet":
        read = f"read_json('{plain}', columns={{order_id: 'INTEGER', Customer: 'VARCHAR', amount: 'VARCHAR', "
        read += "updated_at: 'TIMESTAMP', tags: 'VARCHAR[]'})"
        duckdb.execute(f"COPY (SELECT * FROM {read}) TO '{folder / 'r.parquet'}' (FORMAT parquet)")
    elif name == "avro":
        fastavro = pytest.importorskip("fastavro")
        fields = [{"name": "order_id", "type": "int"}, {"name": "tags", "type": _ARRAY}]
        fields += [{"name": n, "type": ["null", "string"]} for n in ("Customer", "amount", "updated_at")]
        with (folder / "r.avro").open("wb") as out:
            fastavro.writer(out, {"type": "record", "name": "r", "fields": fields}, RECORDS)
    if name != "json":
        plain.unlink()
    if form.endswith(".gz"):
        path = folder / f"r.{name}"
        (folder / f"r.{form}").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


_ARRAY = {"type": "array", "items": "string"}
FORMS = ["json", "json.gz", "jsonl", "jsonl.gz", "envelope.json", "parquet", "parquet.gz", "avro"]


@pytest.mark.parametrize("form", FORMS)
def test_records_leave_files_of_every_format_and_the_others_keep_their_numbers(
    tmp_path: Path, form: str
) -> None:
    pipeline = PIPELINE.replace("data/*.csv", "data/r.*").replace(
        "      rules:", "        tags: {type: json}\n      rules:"
    )
    root = make(tmp_path, pipeline=pipeline)
    _written(root / "data", form)
    assert go(root).status == "success"
    mine = [str(row) for row in content(root)["silver.orders"]]
    assert len(mine) == 3, content(root)["quarantine.orders"]
    before = others(root)
    assert erase(root)["erase from bronze"].count == 2
    assert not erase(root, dry_run=True)["erase from bronze"].count
    assert _but_raw(content(root)) == _but_raw(before)
    assert everywhere(root / "lake", ANN) in ([], everywhere(root / "lake", f"not {ANN}"))
    assert go(root).tables[0].noop
    assert all(not verdict.faults for verdict in verify(open_storage(load(root))))


def _but_raw(tables: dict[str, list[tuple[object, ...]]]) -> dict[str, list[list[str]]]:
    """Without the raw texts of quarantine, which are the lines of the new file now."""
    return {
        name: [[str(v) for v in row if not str(v).startswith("{")] for row in rows]
        for name, rows in tables.items()
    }


def test_a_file_that_cannot_be_read_to_its_end_is_refused(tmp_path: Path) -> None:
    root = make(
        tmp_path, pipeline=PIPELINE.replace("path: data/*.csv", "path: data/*.json, truncated: accept")
    )
    (root / "data/r.json").write_text(json.dumps(RECORDS)[:-150])
    go(root)
    before = content(root)
    with pytest.raises(ConfigError, match=r"data/r.json .*: it cannot be searched: it breaks after record"):
        erase(root)
    assert content(root) == before


def test_corrections_of_the_subjects_rows_go_too(root: Path) -> None:
    sets = ["order_id = '77'", "updated_at = '2026-01-01T00:00:00'"]
    correct(load(root), "orders", sets=sets, rule="order_id.type")
    assert go(root).status == "success"
    wanted = others(root)
    assert len([row for row in content(root)["silver.orders"] if "77" in str(row)]) == 1
    erase(root)
    assert content(root) == wanted
    assert go(root, rebuild=["orders"]).status == "success"
    assert content(root) == wanted
    assert not [path for path in everywhere(root / "lake", ANN) if "corrections" in path]


def test_bases_of_expired_bronze_forget_too(tmp_path: Path) -> None:
    good = [line for place, line in enumerate(lines(0)) if place not in (3, 4)]
    root = make(tmp_path / "p", {"0.csv": good, "1.csv": lines(1)})
    assert go(root).status == "success"
    later = datetime.now(UTC) + timedelta(days=100)
    assert len(expire(load(root), open_storage(load(root)), now=later).objects) == 1
    wanted = others(root)
    steps = erase(root)
    assert steps["erase from bases"].count > 0
    assert content(root) == wanted
    assert go(root, rebuild=["orders"]).status == "success"
    assert content(root) == wanted
    erase(root, f"not {ANN}")
    left = everywhere(root / "lake", ANN)
    assert all(path.startswith("_headrace/expired/") for path in left), "bounds of old bases, see operations"


def test_bases_that_an_epoch_planned_meanwhile_may_read_are_not_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [line for place, line in enumerate(lines(0)) if place not in (3, 4)]
    root = make(tmp_path / "p", {"0.csv": good, "1.csv": lines(1)})
    assert go(root).status == "success"
    storage = open_storage(load(root))
    expire(load(root), storage, now=datetime.now(UTC) + timedelta(days=100))
    before = set((root / "lake/base").rglob("*.parquet"))
    wanted = others(root)

    def planned(*given: Any) -> Any:
        log = RefineLog(storage, "orders")
        log.plan(replace(log.planned(log.epoch), prev=log.epoch, next=log.next_number()))
        return commit_base(*given)

    with monkeypatch.context() as patched:
        patched.setattr("headrace.run.forget.commit_base", planned)
        with pytest.raises(Busy, match="planned in the meantime"):
            erase(root)
    assert before <= set((root / "lake/base").rglob("*.parquet"))
    assert go(root).status == "success"
    erase(root)
    assert not before & set((root / "lake/base").rglob("*.parquet"))
    assert content(root) == wanted
