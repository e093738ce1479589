"""A server that speaks MySQL 8's protocol: it answers queries from a list, and sends a binlog made by a test.

MySQL itself cannot be had from the package registries; this has what the source asks of one, and no more.
"""

from __future__ import annotations

import re
import socketserver
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from binlog_made import event, packed, told

Rows = Sequence[Sequence[Any]]
SETTINGS = {
    "log_bin": "ON",
    "binlog_format": "ROW",
    "binlog_row_image": "FULL",
    "binlog_row_metadata": "FULL",
    "binlog_row_value_options": "",
}
FORMAT = struct.pack("<H50sIB", 4, b"8.0.36", 0, 19) + bytes(41) + b"\1"
"""The last byte: events end with a CRC32."""


@dataclass
class StandIn:
    uuid: str = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
    version: str = "8.0.36"
    file: str = "binlog.000007"
    settings: dict[str, str] = field(default_factory=lambda: dict(SETTINGS))
    columns: Mapping[str, Rows] = field(default_factory=dict)
    """Table → (name, type, character set, place in the key)."""
    tables: Mapping[str, Rows] = field(default_factory=dict)
    executed: str = ""
    """Its set of GTIDs."""
    binlog: list[tuple[int, int, bytes]] = field(default_factory=list)
    """(kind, seconds, body); `ends` says where each ends."""
    asked: list[str] = field(default_factory=list)
    dumps: list[tuple[int, bytes]] = field(default_factory=list)
    """(command, what came with it)."""
    purged: bool = False
    port: int = 0

    def begin(self) -> None:
        self.binlog.append((15, 0, FORMAT))

    @property
    def ends(self) -> list[int]:
        ends, at = [], 4
        for _, _, body in self.binlog:
            at += 19 + len(body) + 4
            ends.append(at)
        return ends

    def answer(self, sql: str) -> Rows | None:
        """None: there is nothing to say but OK."""
        self.asked.append(sql)
        if "SHOW GLOBAL VARIABLES" in sql:
            return [(name, value) for name, value in self.settings.items() if f"'{name}'" in sql]
        if "SHOW MASTER STATUS" in sql or "SHOW BINARY LOG STATUS" in sql:
            return [(self.file, self.ends[-1] if self.binlog else 4, "", "", self.executed)]
        fixed = {
            "SELECT @@server_uuid": [(self.uuid,)],
            "SELECT version()": [(self.version,)],
            "SELECT @@global.binlog_checksum": [("CRC32",)],
        }
        if sql in fixed:
            return fixed[sql]
        if "key_column_usage" in sql.lower():
            return next(rows for table, rows in self.columns.items() if f"'{table}'" in sql)
        if "FROM information_schema.columns" in sql:
            return [("collations",)]
        if "FROM information_schema.collations" in sql:
            return [(45, "utf8mb4"), (8, "latin1"), (63, "binary")]
        if found := re.search(r"FROM `\w+`\.`(\w+)`", sql):
            return self.tables[found[1]]
        return None


class _Handler(socketserver.StreamRequestHandler):
    server: Any

    def handle(self) -> None:
        made: StandIn = self.server.made
        self.number = 0
        greeting = b"\x0a" + made.version.encode() + b"\0" + struct.pack("<I", 9) + b"12345678\0"
        flags = 0x81FFF7DF & ~0x0800 & ~0x1000000  # neither TLS nor OK instead of EOF
        greeting += struct.pack("<HBHH", flags & 0xFFFF, 45, 2, flags >> 16) + bytes([21]) + bytes(10)
        self.send(greeting + b"123456789012\0mysql_native_password\0")
        self.receive()
        self.ok()
        while (command := self.receive()) and command[0] != 1:
            if command[0] == 3:
                self.query(made.answer(command[1:].decode()))
            elif command[0] in (0x12, 0x1E):
                made.dumps.append((command[0], command[1:]))
                self.dump(made, command)
            else:
                self.ok()

    def query(self, rows: Rows | None) -> None:
        if rows is None:
            return self.ok()
        width = len(rows[0]) if rows else 1
        self.send(packed(width))
        for n in range(width):
            names = b"".join(told(word) for word in (b"def", b"", b"", b"", b"c%d" % n, b""))
            self.send(names + b"\x0c" + struct.pack("<HIBHBH", 45, 1024, 253, 0, 0, 0))
        self.send(b"\xfe\0\0\2\0")
        for row in rows:
            cells = (b"\xfb" if cell is None else told(str(cell).encode()) for cell in row)
            self.send(b"".join(cells))
        self.send(b"\xfe\0\0\2\0")
        return None

    def dump(self, made: StandIn, command: bytes) -> None:
        if made.purged:
            return self.send(b"\xff" + struct.pack("<H", 1236) + b"#HY000Could not find first log file name")
        start = 4 if command[0] == 0x1E else struct.unpack_from("<I", command, 1)[0]
        self.send(b"\0" + event(4, struct.pack("<Q", start) + made.file.encode(), 0, 0))
        for (kind, seconds, body), end in zip(made.binlog, made.ends, strict=True):
            if end > start or kind == 15:
                self.send(b"\0" + event(kind, body, seconds, 0 if end <= start else end))
        return self.send(b"\xfe\0\0\2\0")

    def ok(self) -> None:
        self.send(b"\0\0\0\2\0\0\0")

    def send(self, data: bytes) -> None:
        self.wfile.write(len(data).to_bytes(3, "little") + bytes([self.number % 256]) + data)
        self.number += 1

    def receive(self) -> bytes:
        head = self.rfile.read(4)
        if len(head) < 4:
            return b""
        self.number = head[3] + 1
        return self.rfile.read(int.from_bytes(head[:3], "little"))


@contextmanager
def serving(made: StandIn) -> Iterator[StandIn]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.made = made  # type: ignore[attr-defined]
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
