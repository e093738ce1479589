"""Checks that every source must pass, as plain functions: they raise `AssertionError` and need no pytest."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..core import Batch, Landed, Position, RawFile, Source
from ..errors import Gap, Refused

Rows = Callable[[bytes, Mapping[str, Any]], Sequence[object]]
"""Turns the bytes of a file, of this format, into comparable rows.

For sources of records: which of them lie in one file, and what it is called, may differ from read to read.
"""


@dataclass
class Ledger:
    """What a source may ask while it reads (`core.Reading`), over what has landed here so far."""

    follow: bool = False
    landed: dict[str, Landed] = field(default_factory=dict)
    notes: list[tuple[str, str, str]] = field(default_factory=list)

    def seen(self, name: str) -> Landed | None:
        return self.landed.get(name)

    def names(self) -> Sequence[str]:
        return list(self.landed)

    def note(self, kind: str, name: str, message: str) -> None:
        self.notes.append((kind, name, message))


@dataclass(frozen=True, slots=True)
class Step:
    """One batch as it landed: its items (files or rows), and the position after it."""

    items: Sequence[object]
    files: Sequence[Landed]
    end: Position


def check_source(
    make: Callable[[], Source],
    *,
    rows: Rows | None = None,
    lost: Mapping[str, Position] | None = None,
    most: int = 1000,
) -> int:
    """Passes only if reading can stop after any batch and go on from there, with nothing lost or doubled.

    `make` returns a new source over the same, unchanging data. `lost` maps streams to positions that the
    source no longer has. Returns the number of batches that it looked at (at most `most` a stream).
    """
    names = list(make().streams())
    assert names, "a source has at least one stream"
    assert len(set(names)) == len(names), f"streams are not unique: {names}"
    assert list(make().streams()) == names, "streams differ from one call to the next"
    looked = 0
    for stream in names:
        steps = read_all(make(), stream, rows=rows, most=most)
        check_positions(steps, stream)
        check_resume(make, stream, steps, rows=rows)
        check_close(make, stream)
        looked += len(steps)
    for stream, position in (lost or {}).items():
        check_gap(make, stream, position)
    return looked


def read_all(
    source: Source,
    stream: str,
    *,
    start: Position | None = None,
    ledger: Ledger | None = None,
    rows: Rows | None = None,
    most: int = 1000,
) -> list[Step]:
    """Lands what `source` has from `start` on, as the lander does: content that has landed is dropped."""
    ledger = ledger or Ledger()
    steps: list[Step] = []
    with closing(cast(Any, source.read(stream, start, ledger))) as batches:
        for batch in batches:
            if batch is None:
                continue
            step = _landed(batch, ledger, rows)
            ledger.landed.update((item.name, item) for item in step.files)
            steps.append(step)
            assert len(steps) <= most, f"{stream}: more than {most} batches; give check_source less data"
    return steps


def check_positions(steps: Sequence[Step], stream: str) -> None:
    """Every position is JSON, comes back from it equal, and stays small."""
    sizes = []
    for number, step in enumerate(steps):
        try:
            text = json.dumps(step.end)
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{stream}: position {number} is not JSON: {error}") from None
        assert json.loads(text) == dict(step.end), f"{stream}: position {number} changes in JSON: {text}"
        sizes.append(len(text))
    assert not sizes or max(sizes) <= 64_000, f"{stream}: a position has {max(sizes)} bytes"


def check_resume(
    make: Callable[[], Source], stream: str, steps: Sequence[Step], *, rows: Rows | None = None
) -> None:
    """From the end of every batch, the rest equals the original suffix; after the last, nothing is left."""
    again = read_all(make(), stream, rows=rows)
    assert _items(again) == _items(steps), f"{stream}: a second read from the start differs from the first"
    for number, step in enumerate(steps):
        ledger = Ledger()
        for done in steps[: number + 1]:
            ledger.landed.update((item.name, item) for item in done.files)
        start = json.loads(json.dumps(step.end))
        rest = _items(read_all(make(), stream, start=start, ledger=ledger, rows=rows))
        wanted = _items(steps[number + 1 :])
        assert rest == wanted, (
            f"{stream}: after batch {number} of {len(steps)} a new reader got {len(rest)} items, "
            f"not the {len(wanted)} that follow; the first that differs: {_difference(rest, wanted)}"
        )


def check_close(make: Callable[[], Source], stream: str) -> None:
    """A reader that is closed early gives back its files, connections and threads, and harms no other."""
    whole = _first(make(), stream)
    before = _held()
    for taken in (0, 1):
        reader = make().read(stream, None, Ledger())
        for _ in range(taken):
            next(reader, None)
        cast(Any, reader).close()
        del reader
        after = _held()
        assert after <= before, f"{stream}: closed after {taken} batches, it still holds {after - before}"
    assert _first(make(), stream) == whole, f"{stream}: an early close changed what a new reader gets"


def check_gap(make: Callable[[], Source], stream: str, position: Position) -> None:
    """A position that the source no longer has raises `Gap`, before any batch comes."""
    try:
        batch = next((b for b in make().read(stream, position, Ledger()) if b is not None), None)
    except Gap:
        return
    raise AssertionError(f"{stream}: went on from the lost position {position} with {batch}")


def _landed(batch: Batch, ledger: Ledger, rows: Rows | None) -> Step:
    if rows is not None:
        return Step([row for file in batch.data for row in _rows(file, rows)], (), batch.end)
    names = [file.name for file in batch.data]
    assert len(set(names)) == len(names), f"a name comes twice in one batch: {names}"
    files = [landed for file in batch.data if (landed := _copied(file, ledger)) is not None]
    return Step([(file.name, file.bytes, file.sha256) for file in files], files, batch.end)


def _rows(file: RawFile, rows: Rows) -> Sequence[object]:
    inspector = file.inspector()
    content = b"".join(_chunks(file))
    inspector.feed(content)
    file.verify()
    return rows(content, inspector.result())


def _copied(file: RawFile, ledger: Ledger) -> Landed | None:
    """The file as the lander would record it, or None where it is refused or has landed already."""
    inspector = file.inspector()
    digest = hashlib.sha256()
    size = 0
    try:
        for chunk in _chunks(file):
            inspector.feed(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.verify()
        form = inspector.result()
    except Refused as error:
        ledger.note("refused", file.name, str(error))
        return None
    assert size == file.size or not file.size, f"{file.name}: {size} bytes came, {file.size} were announced"
    text = json.dumps(form)
    assert json.loads(text) == dict(form), f"{file.name}: its format changes in JSON: {text}"
    old = ledger.landed.get(file.name)
    if old is not None and old.sha256 == digest.hexdigest():
        return None
    return Landed(
        f"bronze/{file.name}",
        file.name,
        size,
        digest.hexdigest(),
        form.get("rows"),
        form,
        file.signature,
        table=file.table,
    )


def _chunks(file: RawFile) -> Iterator[bytes]:
    with file.open() as stream:
        while chunk := stream.read(1 << 20):
            yield chunk


def _first(source: Source, stream: str) -> object:
    """The size and the end of the first batch; without reading its data."""
    with closing(cast(Any, source.read(stream, None, Ledger()))) as batches:
        for batch in batches:
            if batch is not None:
                return len(batch.data), dict(batch.end)
    return None


def _items(steps: Sequence[Step]) -> list[object]:
    return [item for step in steps for item in step.items]


def _difference(got: Sequence[object], wanted: Sequence[object]) -> str:
    for one, other in zip(got, wanted, strict=False):
        if one != other:
            return f"{one} instead of {other}"
    longer, word = (got, "too many") if len(got) > len(wanted) else (wanted, "missing")
    return f"{word}: {longer[min(len(got), len(wanted))]}"


def _held() -> set[str]:
    """Open files, sockets and threads of this process, as far as the system tells."""
    held = {f"thread {thread.name}" for thread in threading.enumerate()}
    folder = Path("/proc/self/fd")
    for handle in list(folder.iterdir()) if folder.is_dir() else ():
        try:
            held.add(f"{handle.name} {handle.readlink()}")
        except OSError:
            continue
    return {item for item in held if "/proc/" not in item}
