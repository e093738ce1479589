"""What every sink must hold, as plain functions: call them from any test runner, with your own sink.

`Bench` says how to reach the sink and how to read back what it holds. Each function raises AssertionError
with what was expected and what was found.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..core import Commit, Frame, Sink, Write
from ..errors import Fenced

Row = tuple[int, int, str]
"""(id, seq, text): the columns `id bigint, seq bigint, text text` of the test table."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A place to try a sink: `sink` opens it anew, as a new process would."""

    sink: Callable[[], Sink]
    frame: Callable[[Sequence[Row]], Frame]
    rows: Callable[[str], list[Row]]
    """All rows of a table, in any order; an unknown table has none."""


MERGE = Write("checked", "merge", ("id",), ("seq",))
APPEND = Write("checked", "append")


def check_sink(bench: Callable[[], Bench]) -> None:
    """Runs all checks, each on a new bench."""
    for check in (
        check_epoch_is_seen,
        check_stale_writer_is_fenced,
        check_streams_are_apart,
        check_empty_frame_moves_the_epoch,
        check_merge_keeps_the_highest,
        check_counts,
        check_crashing_runners,
    ):
        check(bench())


def _write(bench: Bench, rows: Sequence[Row], commit: Commit, write: Write = APPEND) -> None:
    writer = bench.sink().open([write.table], commit.stream)
    writer.write([(write, bench.frame(rows))], commit)


def _expect(bench: Bench, rows: Sequence[Row], what: str) -> None:
    found = sorted(bench.rows("checked"))
    assert found == sorted(rows), f"{what}: expected {sorted(rows)}, found {found}"


def check_epoch_is_seen(bench: Bench) -> None:
    """A new handle sees the epoch that was committed, and a repeated commit adds nothing."""
    assert bench.sink().open(["checked"], "s").epoch == 0, "a new stream is at epoch 0"
    for prev, following in ((0, 1), (1, 4)):
        for _ in range(2):
            _write(bench, [(following, 1, "x")], Commit("s", prev, following))
    epoch = bench.sink().open(["checked"], "s").epoch
    assert epoch == 4, f"a new handle should see epoch 4, not {epoch}"
    _expect(bench, [(1, 1, "x"), (4, 1, "x")], "each commit once")


def check_stale_writer_is_fenced(bench: Bench) -> None:
    """A writer that was paused while another took over is refused and leaves no row."""
    _write(bench, [(0, 1, "first")], Commit("s", 0, 1))
    for number in range(1, 6):
        zombie = bench.sink().open(["checked"], "s")
        _write(bench, [(number, 1, "new")], Commit("s", number, number + 1))
        try:
            zombie.write([(APPEND, bench.frame([(99, 1, "zombie")]))], Commit("s", number, 90 + number))
        except Fenced:
            pass
        else:
            raise AssertionError("a stale writer was not fenced")
        _expect(bench, [(0, 1, "first"), *((n, 1, "new") for n in range(1, number + 1))], "no zombie rows")
    try:
        _write(bench, [(98, 1, "late")], Commit("s", 2, 50))
    except Fenced:
        return
    raise AssertionError("a commit from an old epoch was not fenced")


def check_streams_are_apart(bench: Bench) -> None:
    """Streams that write one table do not fence each other."""
    for epoch in (1, 2, 3):
        for stream in ("a", "b"):
            _write(bench, [(epoch, 1, stream)], Commit(stream, epoch - 1, epoch))
    _expect(bench, [(n, 1, s) for n in (1, 2, 3) for s in ("a", "b")], "both streams")


def check_empty_frame_moves_the_epoch(bench: Bench) -> None:
    """No rows are a commit too; otherwise an epoch without rows would be done again for ever."""
    _write(bench, [(1, 1, "x")], Commit("s", 0, 1))
    _write(bench, [], Commit("s", 1, 2))
    epoch = bench.sink().open(["checked"], "s").epoch
    assert epoch == 2, f"an empty frame should move the epoch to 2, not {epoch}"
    _expect(bench, [(1, 1, "x")], "nothing else changed")


def check_merge_keeps_the_highest(bench: Bench) -> None:
    """Of two versions of a key the higher sequence stays, in whatever order they come."""
    _write(bench, [(1, 5, "new"), (2, 1, "two")], Commit("s", 0, 1), MERGE)
    _write(bench, [(1, 3, "old"), (2, 2, "newer"), (3, 1, "three")], Commit("s", 1, 2), MERGE)
    _expect(bench, [(1, 5, "new"), (2, 2, "newer"), (3, 1, "three")], "highest sequence")


def check_counts(bench: Bench) -> None:
    """What a write says it did is what it did: every row of the frame is in exactly one count."""
    _write(bench, [(1, 5, "a"), (2, 5, "b"), (3, 5, "c")], Commit("s", 0, 1), MERGE)
    writer = bench.sink().open(["checked"], "s")
    rows = [(1, 5, "a"), (2, 6, "bb"), (3, 1, "old"), (4, 1, "d"), (5, 1, "e")]
    (found,) = writer.write([(MERGE, bench.frame(rows))], Commit("s", 1, 2))
    counts = (found.inserted, found.updated, found.unchanged, found.stale)
    assert counts == (2, 1, 1, 1), (
        f"inserted, updated, unchanged, stale: expected (2, 1, 1, 1), found {counts}"
    )


def check_crashing_runners(bench: Bench, seed: int = 7, steps: int = 40) -> None:
    """Two runners that crash before and after their commits still apply every batch exactly once."""
    dice = random.Random(seed)
    batches: list[list[Row]] = [[(n, 1, "row")] for n in range(12)]
    held: dict[int, tuple[object, int]] = {}
    for _ in range(steps):
        runner = dice.randrange(2)
        if runner not in held or dice.random() < 0.3:
            writer = bench.sink().open(["checked"], "s")
            held[runner] = (writer, writer.epoch)
        writer, epoch = held[runner]  # type: ignore[assignment]
        if epoch >= len(batches) or dice.random() < 0.2:
            del held[runner]
            continue
        try:
            writer.write([(APPEND, bench.frame(batches[epoch]))], Commit("s", epoch, epoch + 1))
            held[runner] = (writer, epoch + 1)
        except Fenced:
            del held[runner]
    while (epoch := bench.sink().open(["checked"], "s").epoch) < len(batches):
        _write(bench, batches[epoch], Commit("s", epoch, epoch + 1))
    _expect(bench, [row for batch in batches for row in batch], "every batch once")
