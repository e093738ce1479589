"""A bare reader of a replication slot: receives every message up to an LSN, and forgets it, or decodes it.

    python pgoutput_reader.py DSN SLOT PUBLICATION LSN [--decode] [--keep FILE]

With `--decode` each row becomes a dictionary of texts, message by message, as a reader in plain Python does.
With `--keep` as well the newest row of each key (the column `id`) is at last written as Parquet, and synced.
"""

from __future__ import annotations

import os
import select
import struct
import sys
from pathlib import Path

import psycopg

dsn, slot, publication, upto = sys.argv[1:5]
decode = "--decode" in sys.argv
keep = sys.argv[sys.argv.index("--keep") + 1] if "--keep" in sys.argv else ""
high, low = upto.split("/")
end = int(high, 16) << 32 | int(low, 16)
names: dict[int, list[str]] = {}
newest: dict[str | None, dict[str, str | None]] = {}
count = 0


def relation(data: bytes) -> None:
    oid = struct.unpack_from(">I", data, 1)[0]
    at = data.index(b"\0", data.index(b"\0", 5) + 1) + 2
    (columns,) = struct.unpack_from(">H", data, at)
    at += 2
    found = []
    for _ in range(columns):
        stop = data.index(b"\0", at + 1)
        found.append(data[at + 1 : stop].decode())
        at = stop + 9
    names[oid] = found


def values(data: bytes, at: int, columns: list[str]) -> tuple[dict[str, str | None], int]:
    row: dict[str, str | None] = {}
    at += 2
    for name in columns:
        kind = data[at]
        at += 1
        if kind == 116:
            (length,) = struct.unpack_from(">I", data, at)
            at += 4
            row[name] = data[at : at + length].decode()
            at += length
        elif kind == 110:
            row[name] = None
    return row, at


def change(data: bytes) -> dict[str, str | None] | None:
    kind = data[:1]
    if kind == b"R":
        relation(data)
    if kind not in (b"I", b"U", b"D"):
        return None
    columns = names[struct.unpack_from(">I", data, 1)[0]]
    row, at = values(data, 6, columns)
    if kind == b"U" and data[5:6] != b"N":
        row, at = values(data, at + 1, columns)
    return row


# It answers no question of the server, so that must not take it for dead.
con = psycopg.connect(dsn, replication="database", autocommit=True, options="-c wal_sender_timeout=0")
pg = con.pgconn
options = f"proto_version '1', publication_names '{publication}'"
pg.exec_(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({options})".encode())
done = False
while not done:
    size, view = pg.get_copy_data(1)
    if size == 0:
        select.select([pg.socket], [], [])
        pg.consume_input()
        continue
    data = bytes(view)
    if data[:1] == b"k":
        done = struct.unpack_from(">Q", data, 1)[0] >= end
        continue
    if data[25:26] in (b"I", b"U", b"D"):
        count += 1
    elif data[25:26] == b"C":
        done = struct.unpack_from(">Q", data, 25 + 2 + 8)[0] >= end
    if decode:
        row = change(data[25:])
        if keep and row:
            if data[25:26] == b"D":
                newest.pop(row["id"], None)
            else:
                newest[row["id"]] = row
pg.finish()
if keep:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist([*newest.values()]), keep)
    with Path(keep).open("rb") as file:
        os.fsync(file.fileno())
print(count)
