"""Files land once each: what is new, changed, gone, unready or not to be trusted is told apart."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.core import Batch, Landed, RawFile
from headrace.errors import ConfigError, Refused, TransientError
from headrace.sources.files import Files
from headrace.testing.source import Ledger, read_all


def files(root: Path, path: str | list[str] = "in/*.csv", **settings: object) -> Files:
    return Files.model_validate({"name": "in", "root": str(root), "path": path, **settings})


def put(root: Path, name: str, text: str = "a,b\n1,2\n") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def names(source: Files, ledger: Ledger | None = None) -> list[str]:
    """The names that land now."""
    steps = read_all(source, "in", ledger=ledger)
    return [item.name for step in steps for item in step.files]


def batches(source: Files, ledger: Ledger | None = None) -> list[list[RawFile]]:
    found = []
    for batch in source.read("in", None, ledger or Ledger()):
        assert isinstance(batch, Batch)
        assert isinstance(batch.data, list)
        found.append(batch.data)
    return found


def test_new_files_land_once_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("in/b.csv", "in/a.csv", "in/c.txt", "in/deep/d.csv"):
        put(tmp_path, name, name)
    ledger = Ledger()
    source = files(tmp_path)
    assert source.streams() == ["in"]
    assert names(source, ledger) == ["in/a.csv", "in/b.csv"]
    assert names(source, ledger) == []
    put(tmp_path, "in/aa.csv")
    assert names(source, ledger) == ["in/aa.csv"]
    assert ledger.notes == []


def test_order_by_time(tmp_path: Path) -> None:
    for name, stamp in (("in/a.csv", 3), ("in/b.csv", 1), ("in/c.csv", 2)):
        os.utime(put(tmp_path, name, name), (stamp, stamp))
    assert names(files(tmp_path, order="mtime")) == ["in/b.csv", "in/c.csv", "in/a.csv"]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("in/**/*.csv", ["in/a.csv", "in/x/b.csv", "in/x/y/c.csv"]),
        ("in/*/*.csv", ["in/x/b.csv"]),
        ("in", ["in/a.csv", "in/x/b.csv", "in/x/y/c.csv", "in/x/y/d.json"]),
        ("in/x/**", ["in/x/b.csv", "in/x/y/c.csv", "in/x/y/d.json"]),
        ("in/a.csv", ["in/a.csv"]),
        ("in/[ab].csv", ["in/a.csv"]),
        ("i?/a.csv", ["in/a.csv"]),
        (["in/a.csv", "in/*.csv", "in/x/*.csv"], ["in/a.csv", "in/x/b.csv"]),
        ("./in/../in/a.csv", ["in/a.csv"]),
    ],
)
def test_globs(tmp_path: Path, path: str | list[str], wanted: list[str]) -> None:
    for name in ("in/a.csv", "in/x/b.csv", "in/x/y/c.csv", "in/x/y/d.json"):
        put(tmp_path, name, "[1]" if name.endswith("json") else name)
    assert names(files(tmp_path, path)) == wanted


def test_names_do_not_change_when_the_project_moves(tmp_path: Path) -> None:
    project = tmp_path / "p"
    put(project, "in/a.csv")
    put(tmp_path, "out/b.csv", "x\n1\n")
    assert names(files(project, str(project / "in/*.csv"))) == ["in/a.csv"]
    assert names(files(project, "../out/*.csv")) == ["../out/b.csv"]
    assert names(files(project, str(tmp_path / "out/*.csv"))) == [str(tmp_path / "out/b.csv")]


def test_temporary_and_hidden_names_are_left_alone(tmp_path: Path) -> None:
    odd = (".a.csv", "b.csv.tmp", "c.csv.part", "d.crdownload", "~$e.csv", "f.csv.swp", "g.filepart", "h~")
    for name in (*odd, "good.csv", ".hidden/i.csv"):
        put(tmp_path, f"in/{name}", name)
    assert names(files(tmp_path, "in/**/*")) == ["in/good.csv"]
    assert names(files(tmp_path, "in/**/*", ignore=["good*", ".hidden"])) == sorted(f"in/{o}" for o in odd)


def test_links_do_not_lead_out_unless_asked_to(tmp_path: Path) -> None:
    put(tmp_path, "secret/a.csv", "s\n1\n")
    put(tmp_path, "p/in/real.csv")
    (tmp_path / "p/in/out.csv").symlink_to(tmp_path / "secret/a.csv")
    (tmp_path / "p/in/inside.csv").symlink_to(tmp_path / "p/in/real.csv")
    (tmp_path / "p/in/folder").symlink_to(tmp_path / "secret")
    (tmp_path / "p/in/loop").symlink_to(tmp_path / "p/in")
    (tmp_path / "p/in/broken.csv").symlink_to(tmp_path / "nowhere")
    ledger = Ledger()
    assert names(files(tmp_path / "p", "in/**/*.csv"), ledger) == ["in/inside.csv", "in/real.csv"]
    assert [note[:2] for note in ledger.notes] == [("refused", "in/out.csv")]
    everything = names(files(tmp_path / "p", "in/**/*.csv", follow_links=True))
    assert {"in/out.csv", "in/folder/a.csv"} < set(everything)
    assert not any("loop" in name for name in everything)


def test_pipes_and_folders_are_no_files(tmp_path: Path) -> None:
    put(tmp_path, "in/a.csv")
    os.mkfifo(tmp_path / "in/pipe.csv")
    (tmp_path / "in/folder.csv").mkdir()
    assert names(files(tmp_path)) == ["in/a.csv"]


def test_other_content_under_the_same_name(tmp_path: Path) -> None:
    path = put(tmp_path, "in/a.csv", "a,b\n1,2\n")
    ledger = Ledger()
    assert names(files(tmp_path), ledger) == ["in/a.csv"]
    path.write_text("a,b\n3,4\n")
    assert names(files(tmp_path, changed="ignore"), ledger) == []
    assert names(files(tmp_path, changed="refuse"), ledger) == []
    assert [note[:2] for note in ledger.notes] == [("ignored", "in/a.csv"), ("refused", "in/a.csv")]
    assert "changed: version" in ledger.notes[1][2]
    first = ledger.landed["in/a.csv"]
    assert names(files(tmp_path), ledger) == ["in/a.csv"]
    assert ledger.landed["in/a.csv"].sha256 != first.sha256
    assert names(files(tmp_path), ledger) == []


@pytest.mark.parametrize("changed", ["version", "refuse", "ignore"])
def test_a_touched_file_is_no_news(tmp_path: Path, changed: str) -> None:
    path = put(tmp_path, "in/a.csv")
    ledger = Ledger()
    names(files(tmp_path), ledger)
    before = ledger.landed["in/a.csv"]
    os.utime(path, (5, 5))
    assert names(files(tmp_path, changed=changed), ledger) == []
    assert ledger.landed["in/a.csv"] is before
    assert ledger.notes == []


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    put(tmp_path, "in/a.csv")
    ledger = Ledger()
    names(files(tmp_path), ledger)
    assert batches(files(tmp_path), ledger) == []
    landed = ledger.landed["in/a.csv"]
    ledger.landed["in/a.csv"] = Landed(landed.key, landed.name, landed.bytes, landed.sha256, 1, landed.format)
    assert len(batches(files(tmp_path), ledger)) == 1


def test_a_write_within_the_same_tick_is_not_missed(tmp_path: Path) -> None:
    """Time stamps have a grain; same size, new content, at once: `verify` waits until it would show."""
    path = tmp_path / "in/a.csv"
    missed = 0
    for number in range(20):
        put(tmp_path, "in/a.csv", f"a,b\n{number:02},2\n")
        ledger = Ledger()
        names(files(tmp_path), ledger)
        path.write_text(f"a,b\n{number:02},3\n")
        missed += names(files(tmp_path), ledger) != ["in/a.csv"]
    assert missed == 0


def test_vanished_files(tmp_path: Path) -> None:
    path = put(tmp_path, "in/a.csv")
    put(tmp_path, "in/b.csv", "a,b\n5,6\n")
    ledger = Ledger()
    names(files(tmp_path), ledger)
    path.unlink()
    assert names(files(tmp_path), ledger) == []
    assert ledger.notes == []
    assert names(files(tmp_path, vanished="warn"), ledger) == []
    assert [note[:2] for note in ledger.notes] == [("vanished", "in/a.csv")]
    with pytest.raises(Refused, match=r"in/a\.csv") as caught:
        names(files(tmp_path, vanished="refuse"), ledger)
    assert "vanished: warn" in str(caught.value)


def test_refused_files_do_not_hold_up_the_others(tmp_path: Path) -> None:
    put(tmp_path, "in/a.csv", "")
    put(tmp_path, "in/b.csv", "a,b\n1,2\n")
    put(tmp_path, "in/c.csv", "a,b\n3,4\n5")
    put(tmp_path, "in/d.csv", "a,b\n")
    put(tmp_path, "in/e.csv", "a,b\n7,8\n")
    ledger = Ledger()
    assert names(files(tmp_path), ledger) == ["in/b.csv", "in/e.csv"]
    assert [(kind, name) for kind, name, _ in ledger.notes] == [
        ("refused", "in/a.csv"),
        ("refused", "in/c.csv"),
        ("refused", "in/d.csv"),
    ]
    ledger.notes.clear()
    assert names(files(tmp_path), ledger) == []
    assert len(ledger.notes) == 3, "they are told of until they are replaced"
    put(tmp_path, "in/d.csv", "a,b\n9,9\n")
    assert names(files(tmp_path), ledger) == ["in/d.csv"]
    accepting = files(tmp_path, empty="accept", truncated="accept")
    assert names(accepting, ledger) == ["in/a.csv", "in/c.csv"]


def test_a_first_file_of_a_header_alone_is_accepted(tmp_path: Path) -> None:
    put(tmp_path, "in/a.csv", "a,b\n")
    ledger = Ledger()
    assert names(files(tmp_path), ledger) == ["in/a.csv"]
    put(tmp_path, "in/b.csv", "a,b\n1,2\n")
    assert names(files(tmp_path), ledger) == ["in/b.csv"]
    put(tmp_path, "in/c.csv", "a,b\n\n")
    assert names(files(tmp_path), ledger) == []


def test_the_real_incidents_are_refused_and_nothing_else(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    data = shared_data("cdc_ourairports")
    ledger = Ledger()
    for table in ("countries", "frequencies", "navaids", "regions"):
        target = put(tmp_path, f"in/{table}.csv", "")
        target.write_bytes(gzip.decompress((data / f"{table}_snapshot_first.csv.gz").read_bytes()))
    assert len(names(files(tmp_path), ledger)) == 4
    before = dict(ledger.landed)
    for bad in sorted(data.glob("*_BAD_*")):
        raw = bad.read_bytes()
        table = bad.name.split("_")[0]
        put(tmp_path, f"in/{table}.csv", "").write_bytes(gzip.decompress(raw) if raw else raw)
        assert names(files(tmp_path), ledger) == []
        assert ledger.notes[-1][:2] == ("refused", f"in/{table}.csv")
    assert ledger.landed == before


def test_commits_are_bounded_in_files_and_bytes(tmp_path: Path) -> None:
    for number in range(7):
        put(tmp_path, f"in/{number}.csv", f"a,b\n{number},{number}\n")
    assert [len(group) for group in batches(files(tmp_path, batch=3))] == [3, 3, 1]
    assert [len(group) for group in batches(files(tmp_path, batch_bytes=20))] == [2, 2, 2, 1]
    assert [len(group) for group in batches(files(tmp_path, batch_bytes=1))] == [1] * 7


def test_the_position_does_not_grow_or_move(tmp_path: Path) -> None:
    for number in range(50):
        put(tmp_path, f"in/{number}.csv", f"a,b\n{number},{number}\n")
    ends = [step.end for step in read_all(files(tmp_path, batch=5), "in")]
    assert ends == [ends[0]] * 10
    assert len(str(ends[0])) < 100


def test_a_file_that_changes_while_it_is_read_does_not_land(tmp_path: Path) -> None:
    path = put(tmp_path, "in/a.csv")
    (raw,) = batches(files(tmp_path))[0]
    with raw.open() as stream:
        stream.read()
    raw.verify()
    with path.open("a") as file:
        file.write("3,4\n")
    with pytest.raises(TransientError, match="changed while it was read"):
        raw.verify()
    with pytest.raises(TransientError, match="changed while it was read"):
        raw.open()
    path.unlink()
    with pytest.raises(TransientError, match="gone"):
        raw.open()
    with pytest.raises(TransientError, match="changed"):
        raw.verify()


def test_a_pipe_that_took_the_name_does_not_block(tmp_path: Path) -> None:
    path = put(tmp_path, "in/a.csv")
    (raw,) = batches(files(tmp_path))[0]
    path.unlink()
    os.mkfifo(path)
    started = time.monotonic()
    with pytest.raises(TransientError):
        raw.open()
    assert time.monotonic() - started < 5


def test_settle_waits_for_files_at_rest(tmp_path: Path) -> None:
    put(tmp_path, "in/a.csv")
    ledger = Ledger()
    assert names(files(tmp_path, settle=60), ledger) == []
    assert ledger.notes[0][:2] == ("unstable", "in/a.csv")
    assert names(files(tmp_path, settle=0.05), Ledger()) in ([], ["in/a.csv"])
    time.sleep(0.06)
    assert names(files(tmp_path, settle=0.05), ledger) == ["in/a.csv"]


def test_following_yields_none_when_idle_and_sees_what_comes(tmp_path: Path) -> None:
    put(tmp_path, "in/a.csv")
    put(tmp_path, "in/bad.csv", "")
    ledger = Ledger(follow=True)
    reader = iter(files(tmp_path).read("in", None, ledger))
    first = next(reader)
    assert first is not None
    assert isinstance(first.data, list)
    assert [raw.name for raw in first.data] == ["in/a.csv", "in/bad.csv"]
    assert next(reader) is None, "what was refused is not offered again until it changes"
    put(tmp_path, "in/b.csv", "a,b\n5,6\n")
    second = next(reader)
    assert second is not None
    assert isinstance(second.data, list)
    assert [raw.name for raw in second.data] == ["in/b.csv"]


def test_missing_folders_and_globs_that_match_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        names(files(tmp_path))
    assert "in/*.csv" in str(caught.value)
    put(tmp_path, "in/a.txt")
    ledger = Ledger()
    assert names(files(tmp_path), ledger) == []
    assert ledger.notes == [("ignored", "in/*.csv", "in: `in/*.csv` matches no file")]
    put(tmp_path, "in/a.csv")
    names(files(tmp_path), ledger)
    (tmp_path / "in").rename(tmp_path / "away")
    with pytest.raises(TransientError, match="is gone"):
        names(files(tmp_path), ledger)
    with pytest.raises(ConfigError, match="no stream"):
        next(iter(files(tmp_path).read("other", None, Ledger())))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "in/a.csv").chmod(0)
    ledger = Ledger()
    assert names(files(tmp_path), ledger) == []
    assert "chmod" in ledger.notes[0][2]


def test_settings_are_checked(tmp_path: Path) -> None:
    for wrong in (
        {"path": []},
        {"path": " "},
        {"encoding": "klingon"},
        {"colour": "red"},
        {"changed": "maybe"},
        {"min_ratio": 2},
        {"quote": "ab"},
    ):
        with pytest.raises(ValidationError):
            files(tmp_path, **wrong)  # type: ignore[arg-type]
    assert files(tmp_path, encoding="latin1").encoding == "windows-1252"
    named = files(tmp_path, header=["x", "y"], delimiter=";")
    put(tmp_path, "in/a.csv", "1;2\n")
    (raw,) = batches(named)[0]
    inspector = raw.inspector()
    inspector.feed(b"1;2\n")
    assert inspector.result()["names"] == ["x", "y"]


def test_ten_thousand_small_files_are_one_commit(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"{number}.csv").touch()
    started = time.monotonic()
    groups = batches(files(tmp_path))
    print(f"listed in {time.monotonic() - started:.2f} s")
    assert [len(group) for group in groups] == [10_000]


def closed(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """Keeps everybody out of folders of this name: the tests may run as root, whom no mode keeps out."""

    def refuse(path: Path) -> Any:
        if Path(path).name == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr("headrace.sources.listing.os.scandir", refuse)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "in/a.csv")
    closed(monkeypatch, "in")
    with pytest.raises(ConfigError, match="in may not be read") as caught:
        names(files(tmp_path, path="in/**/*.csv"))
    assert "ignore" in str(caught.value.hint)


def test_a_folder_below_that_may_not_be_read_is_refused_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "in/a.csv")
    put(tmp_path, "in/closed/b.csv")
    closed(monkeypatch, "closed")
    ledger = Ledger()
    source = files(tmp_path, path=["in/**/*.csv", "in/*/b.csv"], vanished="refuse")
    ledger.landed["in/closed/b.csv"] = Landed("k", "in/closed/b.csv", 1, "", 1, {})
    assert names(source, ledger) == ["in/a.csv"], "what lies in it has not vanished"
    ((kind, name, message),) = ledger.notes
    assert (kind, name) == ("refused", "in/closed")
    assert "may not be read by this user\nhint: give it the right" in message
