"""The files source keeps what every source promises; and the checks can fail, as their mutants show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from headrace.core import Batch, Position, RawFile, Reading
from headrace.errors import Gap
from headrace.sources.files import Files
from headrace.sources.raw import known
from headrace.testing.source import check_gap, check_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(9):
        (tmp_path / f"{number}.csv").write_text(f"a,b\n{number},2\n{number},3\n")
    (tmp_path / "refused.csv").write_text("")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.csv").write_text("a,b\n7,7\n")
    return tmp_path


@pytest.mark.parametrize("settings", [{}, {"batch": 3}, {"batch_bytes": 30}, {"order": "mtime", "batch": 1}])
def test_files(folder: Path, settings: dict[str, Any]) -> None:
    def make() -> Files:
        return Files.model_validate({"name": "in", "root": str(folder), "path": "**/*.csv", **settings})

    assert check_source(make) >= 1


def test_an_empty_folder(tmp_path: Path) -> None:
    assert check_source(lambda: Files(name="in", root=tmp_path, path=["*.csv"])) == 0


@dataclass
class Numbers:
    """A correct source of records, ten to a batch; what its mutants break is a setting."""

    fault: str = ""

    def streams(self) -> Sequence[str]:
        return ["a", "a"] if self.fault == "streams" else ["a", "b"]

    def read(
        self,
        stream: str,  # noqa: ARG002
        start: Position | None,
        ctx: Reading,  # noqa: ARG002
    ) -> Iterator[Batch | None]:
        at = int(start["at"]) if start else 0
        if at < 0 and self.fault != "gap":
            raise Gap("gone")
        if self.fault == "restart" and at >= 20:
            at = 0
        if self.fault == "skip" and at:
            at += 1
        if self.fault == "leak":
            LEAKED.append(Path(__file__).open("rb"))  # noqa: SIM115
        while at < 40:
            end = at + 10
            rows = list(range(at, end))
            if self.fault == "doubled" and start:
                rows = [at - 1, *rows]
            place: Any = {end} if self.fault == "json" else str(end) if self.fault == "grows" else end
            if self.fault == "keys":
                yield Batch([numbers(rows)], {"at": end, "seen": (1, 2)})
            elif self.fault == "grows":
                yield Batch([numbers(rows)], {"at": end, "seen": list(range(50_000))})
            else:
                yield Batch([numbers(rows)], {"at": place})
            at = end


LEAKED: list[BinaryIO] = []


def numbers(rows: Sequence[int]) -> RawFile:
    return known("numbers", json.dumps(list(rows)).encode(), {"type": "json"})


def rows(content: bytes, form: Mapping[str, Any]) -> list[object]:
    assert form["type"] == "json"
    return list(json.loads(content))


def test_a_source_of_records() -> None:
    assert check_source(Numbers, rows=rows, lost={"a": {"at": -1}}) == 8


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("streams", "not unique"),
        ("restart", "after batch 1 of 4"),
        ("skip", "after batch 0 of 4 .* 11 instead of 10"),
        ("doubled", "too many|instead of"),
        ("json", "not JSON"),
        ("keys", "changes in JSON"),
        ("grows", "bytes"),
        ("leak", "still holds"),
        ("gap", "lost position"),
    ],
)
def test_mutants_are_caught(fault: str, message: str) -> None:
    try:
        with pytest.raises(AssertionError, match=message):
            check_source(lambda: Numbers(fault), rows=rows, lost={"b": {"at": -1}})
    finally:
        while LEAKED:
            LEAKED.pop().close()


def test_a_files_source_that_forgets_the_ledger_is_caught(folder: Path) -> None:
    @dataclass
    class Forgetful:
        inner: Files
        change: Callable[[RawFile], RawFile] = lambda raw: raw

        def streams(self) -> Sequence[str]:
            return self.inner.streams()

        def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
            for number, batch in enumerate(self.inner.read(stream, None, ctx)):
                if batch is not None and not (start and number == 0):
                    yield replace(batch, data=[self.change(raw) for raw in batch.data])

    inner = Files.model_validate({"name": "in", "root": str(folder), "path": "*.csv", "batch": 2})
    with pytest.raises(AssertionError, match=r"missing|instead of"):
        check_source(lambda: Forgetful(inner))
    with pytest.raises(AssertionError, match="were announced"):
        check_source(lambda: Forgetful(inner, lambda raw: replace(raw, size=raw.size + 1)))


def test_the_gap_check_wants_a_gap() -> None:
    check_gap(Numbers, "a", {"at": -1})
    with pytest.raises(AssertionError, match="went on"):
        check_gap(Numbers, "a", {"at": 10})
