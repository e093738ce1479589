"""A bare reader of a binlog: receives every event up to a position, and forgets it, or decodes it.

    python binlog_reader.py HOST PORT FILE POSITION ENDFILE ENDPOSITION [--decode]

With `--decode` each row becomes a dictionary of texts, row by row, as a reader in plain Python does. It knows
the types of the bench's table, and no others.
"""

from __future__ import annotations

import struct
import sys
from datetime import UTC, datetime, timedelta

import pymysql

host, port, file, position, last, upto = sys.argv[1:7]
decode = "--decode" in sys.argv
WRITE, UPDATE, DELETE = (23, 30), (24, 31), (25, 32)
STATUS = ("", "open", "paid", "sent", "returned")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
names: list[str] = []
count = 0


def described(body: bytes) -> None:
    """The names of the columns, out of the metadata of a table map."""
    at = 8 + 1 + body[8] + 1
    at += 1 + body[at] + 1
    columns = body[at]
    at += 1 + columns
    at += 1 + body[at] + (columns + 7) // 8
    while at < len(body):
        what, size = body[at], body[at + 1]
        at += 2
        if what == 4:
            names[:] = []
            end = at + size
            while at < end:
                names.append(body[at + 1 : at + 1 + body[at]].decode())
                at += 1 + body[at]
        else:
            at += size


def decimal(data: bytes) -> str:
    """decimal(12,2): ten digits before the point, two behind it."""
    negative = not data[0] & 0x80
    data = bytes([data[0] ^ 0x80]) + data[1:]
    if negative:
        data = bytes(byte ^ 255 for byte in data)
    whole = data[0] * 10**9 + int.from_bytes(data[1:5], "big")
    return f"{'-' if negative else ''}{whole}.{data[5]:02d}"


def text(body: bytes, at: int, prefix: int) -> tuple[str, int]:
    size = int.from_bytes(body[at : at + prefix], "little")
    at += prefix
    return body[at : at + size].decode(), at + size


def row(body: bytes, at: int) -> tuple[dict[str, str | None], int]:
    nulls = body[at]
    at += 1
    found: dict[str, str | None] = {}
    for place, name in enumerate(names):
        if nulls >> place & 1:
            found[name] = None
            continue
        if name == "id":
            found[name], at = str(struct.unpack_from("<q", body, at)[0]), at + 8
        elif name == "customer":
            found[name], at = str(struct.unpack_from("<i", body, at)[0]), at + 4
        elif name == "status":
            found[name], at = STATUS[body[at]], at + 1
        elif name == "amount":
            found[name], at = decimal(body[at : at + 6]), at + 6
        elif name == "placed_at":
            seconds = struct.unpack_from(">I", body, at)[0]
            found[name], at = (EPOCH + timedelta(seconds=seconds)).isoformat(" "), at + 4
        elif name == "paid":
            found[name], at = str(body[at]), at + 1
        else:
            found[name], at = text(body, at, 1)
    return found, at


def change(kind: int, body: bytes) -> dict[str, str | None] | None:
    at = 10 if kind >= 30 else 8
    at += 1 + (2 if kind in UPDATE else 1)
    after: dict[str, str | None] | None = None
    while at < len(body):
        after, at = row(body, at)
        if kind in UPDATE:
            after, at = row(body, at)
    return after


con = pymysql.connect(host=host, port=int(port), user="root")
with con.cursor() as cursor:
    cursor.execute("SET @master_binlog_checksum = 'CRC32', @mariadb_slave_capability = 4")
con._execute_command(0x12, struct.pack("<IHI", int(position), 1, 7_000_000) + file.encode())
current = file
while True:
    packet = con._read_packet()
    if packet.is_eof_packet():
        break
    data = packet.get_all_data()
    kind, end = data[5], int.from_bytes(data[14:18], "little")
    if kind == 4:
        current = data[28:-4].decode()
    if kind in (*WRITE, *UPDATE, *DELETE):
        count += 1
        if decode:
            change(kind, data[20:-4])
    elif decode and kind == 19:
        described(data[20:-4])
    if current == last and end >= int(upto):
        break
con.close()
print(count)
