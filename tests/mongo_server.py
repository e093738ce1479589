"""A stand-in for a MongoDB replica set, as no package index has the server: its wire protocol, in memory.

It keeps documents as the bytes that came, and an oplog that can be made to forget; it answers OP_MSG as
MongoDB 7 does: hello, find with the server's order of types, writes, transactions, change streams with resume
tokens, `updateLookup`, images, drop and rename. Written from the server's documentation, it is none:
where it errs as Headrace does, tests see nothing. `HEADRACE_TEST_MONGO` names a real replica set instead.

`python tests/mongo_server.py` serves until its input ends, and prints its port.
"""

from __future__ import annotations

import itertools
import os
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson
from bson import Binary, Int64, Timestamp
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from mongo_data import OPTIONS, Data, Failed, Follower, token, transaction


class Handler(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        with suppress(ConnectionError, struct.error):
            while head := self._take(16):
                size, number, _, kind = struct.unpack("<iiii", head)
                body = self._take(size - 16)
                if kind == 2004:  # OP_QUERY: the driver's first hello
                    start = body.index(b"\0", 4) + 1 + 8
                    answer = self._answered(bson.decode(body[start:], OPTIONS), "admin")
                    self._send(number, 1, struct.pack("<iqii", 8, 0, 0, 1) + answer)
                else:
                    command, database = self._command(body)
                    self._send(number, 2013, struct.pack("<IB", 0, 0) + self._answered(command, database))

    def _take(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            piece = self.request.recv(size - len(found))
            if not piece:
                return b""
            found += piece
        return found

    def _send(self, to: int, kind: int, body: bytes) -> None:
        self.request.sendall(struct.pack("<iiii", 16 + len(body), 0, to, kind) + body)

    def _command(self, body: bytes) -> tuple[dict[str, Any], str]:
        """The command; documents that are written stay bytes."""
        flags, place = struct.unpack_from("<I", body)[0], 4
        end = len(body) - (4 if flags & 1 else 0)
        command: dict[str, Any] = {}
        sequences: dict[str, Any] = {}
        while place < end:
            kind = body[place]
            (size,) = struct.unpack_from("<i", body, place + 1)
            content = body[place + 1 : place + 1 + size]
            if kind == 0:
                command = bson.decode(content, OPTIONS)
            else:
                name, _, rest = content[4:].partition(b"\0")
                sequences[name.decode()] = list(_split(rest))
            place += 1 + size
        for name in ("documents", "updates", "deletes"):
            if name in command:
                sequences[name] = [bson.encode(each, codec_options=OPTIONS) for each in command[name]]
        for name, some in sequences.items():
            command[name] = some if name == "documents" else [_statement(each) for each in some]
        return command, str(command.get("$db", "admin"))

    def _answered(self, command: dict[str, Any], database: str) -> bytes:
        data = self.server.data
        with data.changed:
            try:
                reply = self._reply(data, next(iter(command)), command, database)
            except Failed as error:
                reply = dict(error.reply)
            if not data.alone:
                now = Timestamp(*data.time)
                proof = {"hash": bytes(20), "keyId": Int64(0)}
                reply |= {"operationTime": now, "$clusterTime": {"clusterTime": now, "signature": proof}}
            return bson.encode(reply, codec_options=OPTIONS)

    def _reply(self, data: Data, name: str, command: dict[str, Any], database: str) -> dict[str, Any]:
        for failure in data.failures:
            if failure[0] == name:
                data.failures.remove(failure)
                raise Failed(failure[1], failure[2], f"made to fail: {failure[2]}")
        if name.lower() in ("hello", "ismaster"):
            return self._hello(data)
        if name in ("insert", "update", "delete"):
            return data.write(database, command)
        if name == "commitTransaction":
            return data.commit(command)
        if name == "find":
            return self._opened(data, f"{database}.{command['find']}", data.find(database, command), command)
        if name == "aggregate":
            return self._followed(data, database, data.follow(database, command), command)
        if name == "getMore":
            return self._more(data, database, command)
        answer = _COMMANDS.get(name)
        if answer is None:
            raise Failed(59, "CommandNotFound", f"no such command: '{name}'")
        return {"ok": 1.0, **(answer(data, database, command) or {})}

    def _hello(self, data: Data) -> dict[str, Any]:
        host = f"127.0.0.1:{self.server.server_address[1]}"
        facts: dict[str, Any] = {
            "ok": 1.0, "helloOk": True, "isWritablePrimary": True, "ismaster": True, "minWireVersion": 0,
            "maxWireVersion": 21, "maxBsonObjectSize": 16 << 20, "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000, "logicalSessionTimeoutMinutes": 30, "readOnly": False,
        }  # fmt: skip
        if not data.alone:
            facts |= {"setName": "rs0", "setVersion": 1, "hosts": [host], "primary": host, "me": host}
        return facts

    def _opened(
        self, data: Data, space: str, found: Iterator[bytes], command: Mapping[str, Any]
    ) -> dict[str, Any]:
        batch = _batch(found, command.get("batchSize", 101))
        number = 0
        if (following := next(found, None)) is not None:
            number = next(data.numbers)
            data.cursors[number] = (space, itertools.chain([following], found))
        return _cursor("firstBatch", batch, number, space)

    def _followed(
        self, data: Data, database: str, follower: Follower, command: Mapping[str, Any]
    ) -> dict[str, Any]:
        number = next(data.numbers)
        data.cursors[number] = follower
        batch = data.take(follower, command.get("cursor", {}).get("batchSize", 101), 0)
        return _cursor("firstBatch", batch, number, f"{database}.$cmd.aggregate", follower)

    def _more(self, data: Data, database: str, command: Mapping[str, Any]) -> dict[str, Any]:
        number = command["getMore"]
        cursor = data.cursors.get(number)
        if cursor is None:
            raise Failed(43, "CursorNotFound", f"cursor id {number} not found")
        if isinstance(cursor, Follower):
            if cursor.place[:2] < data.forgotten:
                raise Failed(
                    286, "ChangeStreamHistoryLost", "the resume point may no longer be in the oplog."
                )
            batch = data.take(cursor, command.get("batchSize") or 1000, command.get("maxTimeMS", 1000) / 1000)
            return _cursor("nextBatch", batch, number, f"{database}.$cmd.aggregate", cursor)
        space, found = cursor
        batch = _batch(found, command.get("batchSize") or 100_000)
        following = next(found, None)
        if following is None:
            del data.cursors[number]
            return _cursor("nextBatch", batch, 0, space)
        data.cursors[number] = (space, itertools.chain([following], found))
        return _cursor("nextBatch", batch, number, space)


def _cursor(
    batch: str, some: list[bytes], number: int, space: str, follower: Follower | None = None
) -> dict[str, Any]:
    raw: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
    cursor = {batch: [RawBSONDocument(each, raw) for each in some], "id": Int64(number)}
    more = {"postBatchResumeToken": token(follower.place)} if follower else {}
    return {"ok": 1.0, "cursor": {**cursor, "ns": space, **more}}


def _batch(found: Iterator[bytes], most: int) -> list[bytes]:
    batch: list[bytes] = []
    size = 0
    while len(batch) < most and size < 1 << 20 and (one := next(found, None)) is not None:
        batch.append(one)
        size += len(one)
    return batch


def _split(content: bytes) -> Iterator[bytes]:
    while content:
        (size,) = struct.unpack_from("<i", content)
        yield content[:size]
        content = content[size:]


def _statement(raw: bytes) -> dict[str, Any]:
    given = bson.decode(raw, OPTIONS)
    for part in ("q", "u"):
        if part in given:
            given[part] = bson.encode(given[part], codec_options=OPTIONS)
    return given


def _listed(data: Data, database: str, command: Mapping[str, Any]) -> dict[str, Any]:
    del command
    some = []
    for name, space in data.databases.get(database, {}).items():
        options = {"changeStreamPreAndPostImages": {"enabled": True}} if space.images else {}
        kind = "view" if space.view else "collection"
        info = {} if space.view else {"uuid": Binary(space.uuid, 4)}
        some.append(bson.encode({"name": name, "type": kind, "options": options, "info": info}))
    return _cursor("firstBatch", some, 0, f"{database}.$cmd.listCollections")


def _made(data: Data, database: str, command: Mapping[str, Any]) -> None:
    space = data.space(database, str(command.get("create") or command.get("collMod")))
    space.images = bool(command.get("changeStreamPreAndPostImages", {}).get("enabled", space.images))
    space.view = "viewOn" in command
    data.tick()


def _dropped(data: Data, database: str, command: Mapping[str, Any]) -> None:
    if data.databases.get(database, {}).pop(str(command["drop"]), None):
        data.ends("drop", database, str(command["drop"]))


def _all_dropped(data: Data, database: str, command: Mapping[str, Any]) -> None:
    del command
    for name in list(data.databases.get(database, {})):
        _dropped(data, database, {"drop": name})
    if data.databases.pop(database, None) is not None:
        data.ends("dropDatabase", database)


def _renamed(data: Data, database: str, command: Mapping[str, Any]) -> None:
    del database
    where, _, name = str(command["renameCollection"]).partition(".")
    to = str(command["to"]).partition(".")[2]
    data.databases[where][to] = data.databases[where].pop(name)
    data.ends("rename", where, name, to)


def _forgotten(data: Data, database: str, command: Mapping[str, Any]) -> None:
    """Test only: the oplog loses all that it has."""
    del database, command
    data.oplog.clear()
    data.forgotten = data.tick()


def _fail(data: Data, database: str, command: Mapping[str, Any]) -> None:
    """Test only: the next commands of this name fail, so many times."""
    del database
    data.failures = [(str(command["command"]), command["code"], command["name"])] * command.get("times", 1)


_COMMANDS: Mapping[str, Callable[[Data, str, dict[str, Any]], dict[str, Any] | None]] = {
    "ping": lambda *_: None,
    "buildInfo": lambda *_: {"version": "7.0.0", "versionArray": [7, 0, 0, 0]},
    "endSessions": lambda *_: None,
    "killCursors": lambda data, _, command: {
        "cursorsKilled": [n for n in command["cursors"] if data.cursors.pop(n, None)]
    },
    "abortTransaction": lambda data, _, command: {"n": len(data.waiting.pop(transaction(command), []))},
    "listCollections": _listed,
    "create": _made,
    "collMod": _made,
    "drop": _dropped,
    "dropDatabase": _all_dropped,
    "renameCollection": _renamed,
    "standInForget": _forgotten,
    "standInFail": _fail,
}


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, alone: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = Data(alone)


@dataclass
class Standin:
    """A server in a process of its own."""

    port: int
    process: subprocess.Popen[str]
    alone: bool = False

    def dsn(self, database: str) -> str:
        return f"mongodb://127.0.0.1:{self.port}/{database}" + ("" if self.alone else "?replicaSet=rs0")

    def stop(self) -> None:
        self.process.communicate("", timeout=20)


def stand_in(*, alone: bool = False) -> Standin:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), *(["alone"] if alone else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert process.stdout is not None
    return Standin(int(process.stdout.readline()), process, alone)


if __name__ == "__main__":
    served = Server("alone" in sys.argv)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    print(served.server_address[1], flush=True)
    sys.stdin.read()
