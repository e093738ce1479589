"""How far a slot is behind, and how much log the server keeps for it: measured in each run, and told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core import Reading
from ..drivers.postgres import Connection
from .postgres_server import Server
from .postgres_slot import Slot, find_slot

RETAINED = 4 << 30
"""Bytes of WAL that a slot may hold back before a run says so."""
_PERILS = {
    "extended": "more than max_wal_size",
    "unreserved": "more than max_slot_wal_keep_size: the next checkpoint may take away what has not landed",
}
_NOW = (
    "select pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() "
    "else pg_current_wal_flush_lsn() end, '0/0')::bigint"
)


@dataclass(slots=True)
class Lag:
    """Watches the slot of one run: as the run found it, and as it left it."""

    server: Server
    slot: str
    ctx: Reading
    found: Slot | None = None
    _since: float = field(default_factory=time.monotonic)

    def begin(self, con: Connection) -> None:
        """Everything that is committed by now is going to land."""
        self.found, self._since = find_slot(self.server, con, self.slot), time.monotonic()

    def end(self, con: Connection, at: int) -> None:
        """Tells what is left after everything before LSN `at` has landed; warns of what may go wrong."""
        slot = find_slot(self.server, con, self.slot)
        if slot is None:
            return
        now = int(self.server.rows(con, _NOW)[0][0])
        behind, before = max(0, now - at), self.found or slot
        _told(self.ctx, "measure")(
            self.slot,
            {
                "bytes": behind,
                "seconds": round(time.monotonic() - self._since, 3) if behind else 0.0,
                "retained_bytes": max(slot.retained, before.retained),
                "wal_status": before.wal_status if before.wal_status in _PERILS else slot.wal_status,
            },
        )
        for each in (before, slot):
            peril = _PERILS.get(each.wal_status)
            if peril or each.retained > RETAINED:
                size = f"{each.retained / (1 << 30):.1f} GiB"
                why = f" ({each.wal_status}: {peril})" if peril else ""
                message = f"{self.server.name}: the server kept {size} of WAL for slot {self.slot}{why}"
                _told(self.ctx, "note")("ignored", self.slot, f"{message}; run more often")
                return


def _told(ctx: Reading, what: str) -> Callable[..., None]:
    """Who reads may have no ear for it."""
    found: Callable[..., None] = getattr(ctx, what, lambda *_: None)
    return found


def beat(server: Server, con: Connection) -> None:
    """Writes a message without content into the log of this database, where the server may write."""
    server.rows(
        con,
        "select case when pg_is_in_recovery() then null "
        "else pg_logical_emit_message(true, 'headrace', 'heartbeat')::text end",
    )


def due(every: float, position: Mapping[str, Any]) -> bool:
    """Whether the last heartbeat of `position` is so many seconds ago; never where they are off."""
    return bool(every) and time.time() - float(position.get("beat", 0)) >= every
