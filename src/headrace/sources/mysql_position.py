"""How far a MySQL or MariaDB has been read: a place in its binlog, and the transactions up to there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core import Position
from ..errors import Gap
from .mysql_gtid import Gtids
from .mysql_server import Server
from .mysql_snapshot import here

ANEW = "take the tables in anew: `id: <a new name>` in the source"


@dataclass
class At:
    """The position, as it grows."""

    server: str
    generation: int
    file: str
    pos: int
    gtid: Gtids
    tables: dict[str, dict[str, Any]]

    @property
    def position(self) -> Position:
        return {
            "server": self.server,
            "generation": self.generation,
            "file": self.file,
            "pos": self.pos,
            "gtid": self.gtid.text,
            "tables": {name: dict(state) for name, state in self.tables.items()},
        }

    @classmethod
    def of(cls, start: Position | None, server: Server, con: Any, *, mariadb: bool) -> At:
        """Where to go on; on another server than before only if both count transactions alike (GTID)."""
        identity = "@@server_id" if mariadb else "@@server_uuid"
        me = str(server.rows(con, f"SELECT {identity}")[0][0])
        if start is None:
            place = here(server, con, mariadb=mariadb)
            return cls(me, 0, place.file, place.position, Gtids.of(place.gtid, mariadb=mariadb), {})
        at = cls(
            start["server"],
            start["generation"],
            start["file"],
            start["pos"],
            Gtids.of(start["gtid"], mariadb=mariadb),
            {name: dict(state) for name, state in start["tables"].items()},
        )
        if me == at.server:
            return at
        if not at.gtid:
            raise Gap(
                f"source {server.name}: this is server {me}; changes were read from server {at.server} up to "
                f"{at.file}:{at.pos}, a place that only that one knows",
                hint=f"go back to that server, or {ANEW}",
            )
        at.server, at.generation, at.file, at.pos = me, at.generation + 1, "", 0
        return at
