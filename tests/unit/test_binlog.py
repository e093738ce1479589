"""The vectorised decoder against one that goes row by row and value by value, on random tables."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from binlog_made import (
    BINARY,
    LATIN1,
    STRING,
    UTF8,
    Made,
    binary_json,
    bits,
    row,
    rows_event,
    table_map,
    told,
)
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy")
pytest.importorskip("nanoarrow")

from headrace.core import CHANGE
from headrace.errors import DataError
from headrace.sources import binlog, binlog_changes
from headrace.sources.binlog import MAGIC, decode, write
from headrace.sources.binlog_values import Cursor, reader
from headrace.sources.binlog_values import table_map as read_map

CHARSETS = {str(UTF8): "utf8mb4", str(LATIN1): "latin1", str(BINARY): "binary", "13": "sjis", "35": "ucs2"}
SHORT, LONG = struct.pack("<H", 60), struct.pack("<H", 900)
Row = Sequence[bytes | None]


def number(size: int) -> Any:
    return lambda r: r.choice([r.randbytes(size), bytes(size), b"\xff" * size, b"\1".ljust(size, b"\0")])


def decimal(precision: int, scale: int) -> Any:
    """Packed as `strings/decimal.c` says, straight from digits."""
    sizes = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)

    def made(r: random.Random) -> bytes:
        digits = "".join(r.choice("0012345678999") for _ in range(precision)).rjust(precision, "0")
        if r.random() < 0.3:
            digits = "0" * r.randint(0, precision) + digits
            digits = digits[:precision]
        whole, part = digits[: precision - scale], digits[precision - scale :]
        first = len(whole) % 9
        groups = ([whole[:first]] if first else []) + [whole[n : n + 9] for n in range(first, len(whole), 9)]
        groups += [part[n : n + 9] for n in range(0, len(part), 9)]
        out = bytearray(b"".join(int(g).to_bytes(sizes[len(g)], "big") for g in groups))
        out[0] ^= 0x80
        return bytes(b ^ 255 for b in out) if r.random() < 0.5 and int(digits) else bytes(out)

    return made


def day(r: random.Random) -> bytes:
    value = r.randrange(0, 10_000) << 9 | r.randrange(0, 13) << 5 | r.randrange(0, 32)
    return r.choice([0, value, value, value]).to_bytes(3, "little")


def fraction(r: random.Random, places: int) -> int:
    return r.randrange(10**places) * 10 ** ((places + 1) // 2 * 2 - places)


def datetime2(places: int) -> Any:
    def made(r: random.Random) -> bytes:
        value = (r.randrange(10_000) * 13 + r.randrange(13)) << 22 | r.randrange(32) << 17
        value |= r.randrange(24) << 12 | r.randrange(60) << 6 | r.randrange(60)
        return (value + 0x8000000000).to_bytes(5, "big") + fraction(r, places).to_bytes(
            (places + 1) // 2, "big"
        )

    return made


def timestamp2(places: int) -> Any:
    def made(r: random.Random) -> bytes:
        seconds = r.choice([0, 1, r.randrange(1 << 31), (1 << 32) - 1])
        part = fraction(r, places) if seconds else 0
        return seconds.to_bytes(4, "big") + part.to_bytes((places + 1) // 2, "big")

    return made


def time2(places: int) -> Any:
    extra = (places + 1) // 2

    def made(r: random.Random) -> bytes:
        whole = r.choice([r.randrange(839), r.randrange(30)]) << 12 | r.randrange(60) << 6 | r.randrange(60)
        value = whole << 8 * extra | fraction(r, places)
        return (r.choice([1, -1]) * value + (0x800000 << 8 * extra)).to_bytes(3 + extra, "big")

    return made


def text(prefix: int, alphabet: str, codec: str, most: int = 14) -> Any:
    def made(r: random.Random) -> bytes:
        value = "".join(r.choices(alphabet, k=r.choice([0, r.randrange(most)]))).encode(codec)
        return len(value).to_bytes(prefix, "little") + value

    return made


def raw(prefix: int, least: int = 0) -> Any:
    def made(r: random.Random) -> bytes:
        value = r.randbytes(r.choice([0, least, r.randrange(least, least + 20)]))
        return len(value).to_bytes(prefix, "little") + value

    return made


def json_cell(r: random.Random) -> bytes:
    value = binary_json(r.choice([None, 1, "é", [1, 2.5], {"a": "x" * r.randrange(200)}]))
    return struct.pack("<I", len(value)) + value


WORDS = ("a", "b,c", "", "é")
KINDS: Sequence[tuple[Made, Any]] = (
    *((Made("", kind, unsigned=sign), number(size))
      for kind, size in ((1, 1), (2, 2), (9, 3), (3, 4), (8, 8)) for sign in (False, True)),
    *((Made("", 246, bytes(p)), decimal(*p))
      for p in ((1, 0), (5, 5), (10, 2), (18, 9), (65, 30), (9, 0), (30, 30))),
    (Made("", 4, b"\4"), lambda r: struct.pack("<f", r.choice([0.0, -0.0, 1.0, r.gauss(0, 1e9)]))),
    (Made("", 5, b"\x08"), lambda r: struct.pack("<d", r.choice([0.0, -0.0, 1e300, r.gauss(0, 1e-9)]))),
    (Made("", 16, b"\3\1"), number(2)),
    (Made("", 16, b"\0\x08"), number(8)),
    (Made("", 13), number(1)),
    (Made("", 10), day),
    *((Made("", 18, bytes([n])), datetime2(n)) for n in (0, 1, 3, 6)),
    *((Made("", 17, bytes([n])), timestamp2(n)) for n in (0, 2, 5, 6)),
    *((Made("", 19, bytes([n])), time2(n)) for n in (0, 1, 4, 6)),
    (Made("", 15, SHORT), text(1, "ab'\"\n", "utf-8")),
    (Made("", 15, SHORT), text(1, "aé日😀", "utf-8")),
    (Made("", 15, LONG), text(2, "xyz", "utf-8", 700)),
    (Made("", 15, SHORT, collation=LATIN1), text(1, "ab", "latin-1")),
    (Made("", 15, SHORT, collation=LATIN1), text(1, "aé\x81", "latin-1")),
    (Made("", 15, SHORT, collation=13), text(1, "a日本", "shift-jis")),
    (Made("", 15, SHORT, collation=35), text(1, "a日", "utf-16-be")),
    (Made("", 15, SHORT, collation=BINARY), raw(1)),
    (Made("", 252, b"\1", collation=BINARY), raw(1)),
    (Made("", 252, b"\3"), text(3, "aé", "utf-8", 600)),
    (Made("", STRING, b"\xfe\x0c"), text(1, "aé", "utf-8", 4)),
    (Made("", STRING, b"\xfe\x28", collation=BINARY), raw(1)),
    (Made("", STRING, b"\xf7\1", words=WORDS), lambda r: bytes([r.randrange(6)])),
    (Made("", STRING, b"\xf7\2", words=WORDS), lambda r: struct.pack("<H", r.randrange(6))),
    (Made("", STRING, b"\xf8\1", words=WORDS), lambda r: bytes([r.randrange(16)])),
    (Made("", 255, b"\4"), raw(4, 4)),
    (Made("", 245, b"\4"), json_cell),
)  # fmt: skip


def slow(path: Path, form: Mapping[str, Any]) -> Iterator[list[str | None]]:
    """Row by row, value by value."""
    described = read_map(bytes.fromhex(form["table_map"]), form["charsets"], mariadb=form["mariadb"])
    read = [reader(field) for field in described.fields]
    names = [field.name for field in described.fields]
    keys = [names.index(key) for key in described.keys]
    stream = path.read_bytes()[len(MAGIC) :]
    at, before, ordinal = 0, (0, 0), 0
    while at < len(stream):
        kind, length, file, position, seconds, named = binlog.HEAD.unpack_from(stream, at)
        at += binlog.HEAD.size
        name, body = stream[at : at + named], stream[at + named : at + named + length]
        at += named + length
        if (file, position) != before:
            before, ordinal = (file, position), 0
        when = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for op, values in _told(kind, body, read, keys):
            ordinal += 1
            place = f"{form['generation']:04d}/{file:08d}/{position:012d}/{ordinal:010d}"
            yield [*values, op, place, when, name.decode() or None, None]


def _told(
    kind: int, body: bytes, read: Sequence[Any], keys: Sequence[int]
) -> Iterator[tuple[str, list[Any]]]:
    if kind == 0:
        yield "t", [None] * len(read)
        return
    cursor = Cursor(body, 10 if kind >= 30 else 8)
    cursor.packed()
    cursor.take((len(read) + 7) // 8 * (2 if kind in (24, 31) else 1))

    def image() -> list[Any]:
        return [
            None if null else each(cursor) for null, each in zip(cursor.bits(len(read)), read, strict=True)
        ]

    while cursor.left:
        first = image()
        if kind in (24, 31):
            second = image()
            if keys and all(first[n] == second[n] for n in keys):
                yield "u", second
            else:
                yield from (("d", first), ("c", second))
        else:
            yield ("c" if kind in (23, 30) else "d"), first


def form_of(columns: Sequence[Made], keys: Sequence[int]) -> dict[str, Any]:
    described = table_map(9, "shop", "t", columns, keys).hex()
    return {"type": "binlog", "changes": True, "mariadb": True, "generation": 3, "table_map": described,
            "charsets": CHARSETS, "keys": [c.name for c in columns], "shown": {}}  # fmt: skip


def table(r: random.Random, columns: int) -> tuple[list[Made], list[Any], list[int]]:
    chosen = [r.choice(KINDS) for _ in range(columns)]
    named = [
        Made(f"c{n}", c.kind, c.meta, c.unsigned, c.collation, c.words) for n, (c, _) in enumerate(chosen)
    ]
    keys = sorted(r.sample(range(columns), r.randint(0, min(2, columns))))
    return named, [make for _, make in chosen], keys


def events(r: random.Random, columns: list[Made], makers: list[Any], keys: list[int], size: int) -> bytes:
    import io

    out = io.BytesIO()
    out.write(MAGIC)
    position = 100

    def cells() -> list[bytes | None]:
        return [None if n not in keys and r.random() < 0.2 else make(r) for n, make in enumerate(makers)]

    for _ in range(size):
        position += r.choice([0, 40, 1000])
        kind = r.choice([0, 23, 24, 25, 30, 31, 32, 30, 31])
        rows: list[bytes] = []
        for _ in range(r.choice([1, 1, 3, 40]) if kind else 0):
            first = cells()
            rows.append(row(first))
            if kind in (24, 31):
                second = cells()
                for key in keys if r.random() < 0.6 else ():
                    second[key] = first[key]
                rows.append(row(second))
        body = rows_event(9, kind, len(columns), rows) if kind else b""
        write(out, kind, body, (7, position), r.choice(["", "0-1-42", "0-1-7"]), r.randrange(1 << 32))
    return out.getvalue()


def found(path: Path, form: Mapping[str, Any]) -> list[list[str | None]]:
    names, frames = decode(path, form)
    out: list[list[str | None]] = []
    with duckdb.connect() as con:
        for frame in frames:
            con.register("frame", frame)
            out += [list(each) for each in con.execute("SELECT * FROM frame").fetchall()]
    assert [*names][-5:] == [*CHANGE]
    return out


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    columns=st.integers(1, 12),
    size=st.sampled_from([1, 5, 40]),
    block=st.sampled_from([60, 3000, 8 << 20]),
    narrow=st.sampled_from([1, 24, 1000]),
)
def test_columns_are_what_a_reader_of_rows_finds(
    tmp_path_factory: pytest.TempPathFactory, seed: int, columns: int, size: int, block: int, narrow: int
) -> None:
    r = random.Random(seed)
    named, makers, keys = table(r, columns)
    path = tmp_path_factory.mktemp("binlog") / "object"
    path.write_bytes(events(r, named, makers, keys, size))
    form = form_of(named, keys)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(binlog.blocks, "__defaults__", (block,))
        patched.setattr(binlog_changes, "NARROW", narrow)
        assert found(path, form) == list(slow(path, form))


def test_every_kind_of_column_at_once(tmp_path: Path) -> None:
    r = random.Random(5)
    named = [
        Made(f"c{n}", c.kind, c.meta, c.unsigned, c.collation, c.words) for n, (c, _) in enumerate(KINDS)
    ]
    path = tmp_path / "object"
    path.write_bytes(events(r, named, [make for _, make in KINDS], [0], 60))
    assert found(path, form_of(named, [0])) == list(slow(path, form_of(named, [0])))


def test_more_than_250_columns(tmp_path: Path) -> None:
    r = random.Random(6)
    named = [Made(f"c{n}", 1) for n in range(700)]
    path = tmp_path / "object"
    path.write_bytes(events(r, named, [number(1)] * 700, [699], 9))
    assert found(path, form_of(named, [699])) == list(slow(path, form_of(named, [699])))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40)
def test_damage_is_said_or_gives_other_values_but_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    r = random.Random(seed)
    named, makers, keys = table(r, 5)
    whole = bytearray(events(r, named, makers, keys, 6))
    path = tmp_path_factory.mktemp("binlog") / "object"
    for _ in range(5):
        damaged = bytearray(whole)
        for _ in range(r.choice([1, 4])):
            damaged[r.randrange(len(MAGIC), len(whole))] = r.randrange(256)
        path.write_bytes(damaged[: r.choice([len(damaged), r.randrange(len(damaged))])])
        try:
            found(path, form_of(named, keys))
        except DataError:
            continue


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda body: body[:-1], "ends within"),
        (lambda body: body[:8] + b"\2\0\3" + body[11:], "does not have the table's 2 columns"),
        (lambda body: body[:11] + bits([True, False]) + body[12:], "without all columns"),
    ],
)
@pytest.mark.parametrize("narrow", [1, 24])
def test_an_event_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, what: str, narrow: int
) -> None:
    monkeypatch.setattr(binlog_changes, "NARROW", narrow)
    columns = [Made("id", 3), Made("v", 15, SHORT)]
    body = rows_event(9, 30, 2, [row([struct.pack("<i", 1), told(b"abc")])])
    path = tmp_path / "object"
    with path.open("wb") as out:
        out.write(MAGIC)
        write(out, 30, change(body), (1, 100), "", 0)
    with pytest.raises(DataError, match=what):
        found(path, form_of(columns, [0]))


def test_what_is_no_file_of_events_is_refused(tmp_path: Path) -> None:
    form = form_of([Made("id", 3)], [0])
    path = tmp_path / "object"
    for content, what in ((b"something", "no file of row events"), (MAGIC + b"\x1e\1", "cut off")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=what):
            found(path, form)
    path.write_bytes(MAGIC + binlog.HEAD.pack(99, 0, 1, 1, 0, 0))
    with pytest.raises(DataError, match="type 99 is no row event"):
        found(path, form)


def test_names_that_changes_use_are_refused(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(MAGIC)
    with pytest.raises(DataError, match="`_op` has a name that change events use") as error:
        found(tmp_path / "object", form_of([Made("_op", 3)], []))
    assert "RENAME COLUMN" in str(error.value)


def test_the_source_loads_without_numpy() -> None:
    code = "import sys, headrace.sources.mysql; assert not {'numpy', 'nanoarrow'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
