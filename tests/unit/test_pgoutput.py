"""The vectorised decoder against one that goes message by message, as the protocol's manual is written."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy")
pytest.importorskip("nanoarrow")

from headrace.errors import DataError
from headrace.sources.pgoutput import META, decode
from headrace.sources.pgoutput_file import MAGIC, Blocks

OID = 16_400
UNSENT = object()
"""An unchanged TOAST value."""
Cell = Any
Row = Sequence[Cell]


@dataclass
class Table:
    names: list[str]
    key: list[str]
    identity: str = "d"
    primary: list[str] | None = None
    """The primary key, where the identity is full."""

    @property
    def form(self) -> dict[str, Any]:
        full = self.identity == "f"
        columns = [
            {"name": n, "type_oid": 25, "modifier": -1, "key": full or n in self.key, "type": "text"}
            for n in self.names
        ]
        keys = (self.primary or []) if full else self.key
        relation = {"oid": OID, "schema": "public", "table": "t", "identity": self.identity}
        return {
            "type": "pgoutput",
            "changes": True,
            "relation": {**relation, "columns": columns, "keys": keys},
        }


@dataclass
class Change:
    kind: str
    new: Row = ()
    old: Row | None = None
    marker: str = "K"


@dataclass
class Transaction:
    lsn: int
    committed: int
    xid: int
    changes: list[Change] = field(default_factory=list)


def packed(row: Row) -> bytes:
    out = struct.pack(">H", len(row))
    for cell in row:
        if cell is None:
            out += b"n"
        elif cell is UNSENT:
            out += b"u"
        else:
            data = cell.encode()
            out += b"t" + struct.pack(">I", len(data)) + data
    return out


def message(change: Change) -> bytes:
    if change.kind == "T":
        return b"T" + struct.pack(">IBI", 1, 0, OID)
    out = change.kind.encode() + struct.pack(">I", OID)
    if change.old is not None:
        out += change.marker.encode() + packed(change.old)
    return out if change.kind == "D" else out + b"N" + packed(change.new)


def file_of(transactions: Sequence[Transaction], block: int = 1 << 30) -> bytes:
    blocks, out = Blocks(), [MAGIC]
    for each in transactions:
        ordinal = 2
        for change in each.changes:
            blocks.add(message(change), ordinal)
            ordinal += 2
            if len(blocks) >= block:
                blocks.close(each.lsn, each.committed, each.xid)
                out.append(blocks.take())
        blocks.close(each.lsn, each.committed, each.xid)
    return b"".join([*out, blocks.take()])


def reference(data: bytes, table: Table) -> list[dict[str, str | None]]:
    """Reads the file as its layout is written down, one message at a time."""
    stream = io.BytesIO(data)
    assert stream.read(8) == b"HRPGOUT1"
    rows: list[dict[str, str | None]] = []
    while head := stream.read(12):
        count, _ = struct.unpack("<IQ", head)
        lsns = struct.unpack(f"<{count}Q", stream.read(8 * count))
        times = struct.unpack(f"<{count}q", stream.read(8 * count))
        ordinals = struct.unpack(f"<{count}I", stream.read(4 * count))
        xids = struct.unpack(f"<{count}I", stream.read(4 * count))
        for place, length in enumerate(struct.unpack(f"<{count}I", stream.read(4 * count))):
            events = list(_events(stream.read(length), table))
            for second, (op, cells) in enumerate(events):
                moment = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=times[place])
                names = [n for n, c in zip(table.names, cells, strict=True) if c is UNSENT]
                values = {n: None if c is UNSENT else c for n, c in zip(table.names, cells, strict=True)}
                rows.append(
                    {
                        **values,
                        "_op": op,
                        "_sequence": f"{lsns[place]:016X}/{ordinals[place] + second:010d}",
                        "_committed": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0"),
                        "_tx": str(xids[place]),
                        "_unchanged": ",".join(names) or None,
                    }
                )
    return rows


def _events(raw: bytes, table: Table) -> Iterator[tuple[str, list[Cell]]]:
    kind, stream = raw[:1], io.BytesIO(raw[5:])
    nothing: list[Cell] = [None] * len(table.names)
    if kind == b"T":
        yield "t", nothing
        return
    old = new = None
    while marker := stream.read(1):
        row = [_cell(stream) for _ in range(int.from_bytes(stream.read(2), "big"))]
        if marker == b"N":
            new = row
        else:
            old = row
    if kind == b"D":
        assert old is not None
        yield "d", old
        return
    assert new is not None
    filled = new
    if old is not None:
        pairs = list(zip(new, old, strict=True))
        filled = [o if n is UNSENT and isinstance(o, str) else n for n, o in pairs]
        keys = (table.primary or []) if table.identity == "f" else table.key
        places = [table.names.index(k) for k in keys]
        if not places or any(new[p] is not UNSENT and new[p] != old[p] for p in places):
            yield "d", [None if cell is UNSENT else cell for cell in old]
    yield ("c" if kind == b"I" else "u"), filled


def _cell(stream: io.BytesIO) -> Cell:
    match stream.read(1):
        case b"n":
            return None
        case b"u":
            return UNSENT
        case _:
            return stream.read(int.from_bytes(stream.read(4), "big")).decode()


def decoded(data: bytes, form: Mapping[str, Any], folder: Path) -> list[dict[str, str | None]]:
    path = folder / "object"
    path.write_bytes(data)
    names, frames = decode(path, form)
    rows: list[dict[str, str | None]] = []
    with duckdb.connect() as con:
        for frame in frames:
            con.register("frame", frame)
            rows += [dict(zip(names, row, strict=True)) for row in con.execute("FROM frame").fetchall()]
            con.unregister("frame")
    return rows


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.sampled_from(["", "1", "2", "ü" * 70, "x" * 300, "𝄞", "a,b", '"']),
)


@st.composite
def workloads(draw: st.DrawFn) -> tuple[Table, list[Transaction]]:
    names = [f"c{i}" for i in range(draw(st.integers(1, 5)))]
    identity = draw(st.sampled_from("dif"))
    key = names[: draw(st.integers(1, len(names)))]
    primary = draw(st.sampled_from([key, []])) if identity == "f" else None
    table = Table(names, key, identity, primary)

    def row(unsent: bool) -> list[Cell]:
        cells = st.one_of(st.none(), TEXTS, *([st.just(UNSENT)] if unsent else []))
        values = [draw(cells) for _ in names]
        return [draw(TEXTS) if n in key and v is None else v for n, v in zip(names, values, strict=True)]

    def old() -> list[Cell]:
        values = row(unsent=False)
        return (
            values
            if identity == "f"
            else [v if n in key else None for n, v in zip(names, values, strict=True)]
        )

    def change() -> Change:
        kind, marker = draw(st.sampled_from("IIUUUDT")), "O" if identity == "f" else "K"
        if kind == "U" and (identity == "f" or draw(st.booleans())):
            was = old()
            now = row(unsent=True)
            if draw(st.booleans()):
                now = [w if n in key else v for n, w, v in zip(names, was, now, strict=True)]
            return Change(kind, now, was, marker)
        if kind == "U":
            return Change(kind, row(unsent=True))
        return Change(kind, row(unsent=False) if kind == "I" else (), old() if kind == "D" else None, marker)

    lsns = draw(st.lists(st.integers(0, 2**64 - 1), max_size=5))
    return table, [
        Transaction(
            lsn,
            draw(st.integers(-(10**16), 10**17)),
            draw(st.integers(0, 2**32 - 1)),
            [change() for _ in range(draw(st.integers(0, 6)))],
        )
        for lsn in lsns
    ]


@settings(max_examples=400, deadline=None)
@given(workload=workloads(), block=st.sampled_from([1, 2, 3, 1000]))
def test_rows_are_those_of_the_reference(
    tmp_path_factory: pytest.TempPathFactory, workload: tuple[Table, list[Transaction]], block: int
) -> None:
    table, transactions = workload
    data = file_of(transactions, block)
    folder = tmp_path_factory.getbasetemp()
    assert decoded(data, table.form, folder) == reference(data, table)


@settings(max_examples=600, deadline=None)
@given(workload=workloads(), draws=st.data())
def test_broken_bytes_are_refused_or_decoded_never_anything_else(
    tmp_path_factory: pytest.TempPathFactory, workload: tuple[Table, list[Transaction]], draws: st.DataObject
) -> None:
    table, transactions = workload
    data = bytearray(file_of(transactions))
    for _ in range(draws.draw(st.integers(1, 3))):
        data[draws.draw(st.integers(0, len(data) - 1))] = draws.draw(st.integers(0, 255))
    cut = draws.draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    folder = tmp_path_factory.getbasetemp()
    try:
        rows = decoded(bytes(data[:cut]), table.form, folder)
    except DataError:
        return
    assert rows == reference(bytes(data[:cut]), table)


TABLE = Table(["id", "name", "note"], ["id"])


def one(tmp_path: Path, change: Change, table: Table = TABLE) -> list[dict[str, str | None]]:
    moment = int(
        (datetime(2026, 11, 20, 22, 17, 47, 123_456, UTC) - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds()
    )
    transaction = Transaction(0x1_6B37_4200, moment * 1_000_000 + 123_456, 745, [change])
    return decoded(file_of([transaction]), table.form, tmp_path)


def test_an_insert_says_where_it_belongs(tmp_path: Path) -> None:
    assert one(tmp_path, Change("I", ["7", None, ""])) == [
        {
            "id": "7",
            "name": None,
            "note": "",
            "_op": "c",
            "_sequence": "000000016B374200/0000000002",
            "_committed": "2026-11-20T22:17:47.123456Z",
            "_tx": "745",
            "_unchanged": None,
        }
    ]


def test_a_key_change_is_a_delete_and_an_update(tmp_path: Path) -> None:
    rows = one(tmp_path, Change("U", ["8", "Ann", UNSENT], ["7", None, None]))
    assert [
        (r["id"], r["name"], r["note"], r["_op"], r["_sequence"][-2:], r["_unchanged"]) for r in rows
    ] == [
        ("7", None, None, "d", "02", None),
        ("8", "Ann", None, "u", "03", "note"),
    ]


def test_an_old_key_that_is_the_same_is_no_key_change(tmp_path: Path) -> None:
    """PostgreSQL sends it also where a key's value is unchanged in TOAST; the old key has the value."""
    rows = one(tmp_path, Change("U", [UNSENT, "Ann", UNSENT], ["7", None, None]))
    assert [(r["id"], r["name"], r["_op"], r["_unchanged"]) for r in rows] == [("7", "Ann", "u", "note")]


def test_the_full_identity_gives_unchanged_toast_and_old_values(tmp_path: Path) -> None:
    full = Table(TABLE.names, ["id"], "f", ["id"])
    rows = one(tmp_path, Change("U", ["7", "Ann", UNSENT], ["7", "Bob", "long"], "O"), full)
    assert [(r["id"], r["name"], r["note"], r["_op"], r["_unchanged"]) for r in rows] == [
        ("7", "Ann", "long", "u", None)
    ]
    rows = one(tmp_path, Change("D", (), ["7", None, "long"], "O"), full)
    assert [(r["id"], r["name"], r["note"], r["_op"]) for r in rows] == [("7", None, "long", "d")]


def test_without_a_key_every_update_is_two_events(tmp_path: Path) -> None:
    keyless = Table(TABLE.names, [], "f", [])
    rows = one(tmp_path, Change("U", ["7", "Ann", UNSENT], ["7", "Bob", "long"], "O"), keyless)
    assert [(r["id"], r["name"], r["note"], r["_op"]) for r in rows] == [
        ("7", "Bob", "long", "d"),
        ("7", "Ann", "long", "u"),
    ]


def test_a_truncate_is_one_row_of_nulls(tmp_path: Path) -> None:
    (row,) = one(tmp_path, Change("T"))
    assert row["_op"] == "t"
    assert [row[name] for name in TABLE.names] == [None, None, None]


def test_every_column_says_what_it_lacks(tmp_path: Path) -> None:
    """More columns than an integer has bits."""
    names = ["id", *(f"c{i}" for i in range(100))]
    rows = one(tmp_path, Change("U", ["1", *[UNSENT] * 100]), Table(names, ["id"]))
    assert rows[0]["_unchanged"] == ",".join(names[1:])


def test_a_comma_in_a_name_does_not_make_two_columns_of_it(tmp_path: Path) -> None:
    names = ["id", "a,b", "a", "b"]
    rows = one(tmp_path, Change("U", ["1", UNSENT, "x", "y"]), Table(names, ["id"]))
    assert rows[0]["_unchanged"] == "a\x1fb"


def test_values_in_other_encodings_are_refused(tmp_path: Path) -> None:
    data = file_of([Transaction(1, 0, 1, [Change("I", ["1", "é", "x"])])])
    with pytest.raises(DataError, match=r"row 1: byte .* is not UTF-8"):
        decoded(data.replace("é".encode(), b"\xe9\x20"), TABLE.form, tmp_path)


def test_a_character_cut_by_two_cells_is_no_character(tmp_path: Path) -> None:
    changes = [Change("I", ["1", "a", "x"]), Change("I", ["2", "b", "x"])]
    data = file_of([Transaction(1, 0, 1, changes)])
    data = data.replace(b"\x01a", b"\x01\xc3").replace(b"\x01b", b"\x01\xa9")
    with pytest.raises(DataError, match=r"row 2: byte .* is not UTF-8"):
        decoded(data, TABLE.form, tmp_path)


def test_another_relations_message_is_refused_with_its_number(tmp_path: Path) -> None:
    changes = [Change("I", ["1", "a", "b"]), Change("D", (), ["1", None, None])]
    data = file_of([Transaction(1, 0, 1, changes)])
    wrong = data.replace(b"D" + struct.pack(">I", OID), b"D" + struct.pack(">I", OID + 1))
    with pytest.raises(DataError, match=r"message 2 \(a delete, .* is not of relation 16400"):
        decoded(wrong, TABLE.form, tmp_path)


def test_a_row_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not have 3 columns"):
        one(tmp_path, Change("I", ["1", "a"]))


def test_a_column_named_like_an_event_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`_op` has a name that change events use"):
        one(tmp_path, Change("I", ["1", "a"]), Table(["id", "_op"], ["id"]))


def test_a_frame_is_read_twice_alike(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(file_of([Transaction(1, 0, 1, [Change("I", ["1", "a", None])] * 3)]))
    names, frames = decode(path, TABLE.form)
    (frame,) = frames
    with duckdb.connect() as con:
        con.register("frame", frame)
        assert con.execute("FROM frame").fetchall() == con.execute("FROM frame").fetchall()
    assert list(names) == [*TABLE.names, *META]


def test_duckdb_reads_frames_without_pyarrow(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(file_of([Transaction(1, 0, 1, [Change("I", ["1", "é", None])])]))
    code = f"""
import sys
sys.modules |= dict.fromkeys(["pyarrow", "pandas", "polars", "arro3"])
from pathlib import Path
import duckdb
from headrace.sources.pgoutput import decode
names, frames = decode(Path({str(tmp_path / "object")!r}), {TABLE.form!r})
con = duckdb.connect()
con.register("frame", next(frames))
assert con.execute("SELECT id, name, note, _op FROM frame").fetchall() == [("1", "é", None, "c")]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
