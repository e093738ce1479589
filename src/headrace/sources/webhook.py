"""Webhooks: what the receiver acknowledged lands once, and leaves the spool only then."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..core import Batch, Position, RawFile, Reading
from ..errors import ConfigError, Gap
from .http_limits import Bytes
from .raw import known
from .webhook_spool import Spool
from .webhook_verify import Verify

JSON = ("application/json",)
_ID = re.compile(r"(header|body):\S+")


class Webhook(BaseModel):
    """Events that `headrace webhook` receives; each line has `id`, `received`, `headers` and `body`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["webhook"] = "webhook"
    name: str
    root: Path
    verify: Verify
    path: str = ""
    """Of the URL; default: `/<name>`."""
    idempotency_key: str | None = None
    """Where an event has its name: `header:X-Event-Id`, `body:event.id`; default: where the scheme has it."""
    headers: list[str] = Field(default_factory=list)
    """Kept with the event."""
    content_types: list[str] = Field(default_factory=lambda: list(JSON))
    """JSON is kept as it is; of others, the text."""
    max_body: Bytes = 1_000_000
    body_timeout: float = Field(10.0, gt=0)
    """Seconds in which a body must have come."""
    remember: float = Field(7 * 86_400.0, ge=60)
    """Seconds for which an event is recognised when it comes again."""
    spool: str = ""
    """A file relative to the project; default: `spool/<name>.db`."""
    spool_max: Bytes = 10_000_000_000
    """Beyond this, senders are told to come back later."""
    batch_bytes: Bytes = 64_000_000
    accept_spool: str | None = None
    """The id of a spool that took the place of a lost one."""

    @field_validator("path")
    @classmethod
    def _rooted(cls, value: str) -> str:
        if value and not re.fullmatch(r"/[\w./~-]*", value):
            raise ValueError(f"path `{value}` is not like /hooks/payments")
        return value

    @field_validator("idempotency_key")
    @classmethod
    def _place(cls, value: str | None) -> str | None:
        if value is not None and not _ID.fullmatch(value):
            raise ValueError(f"idempotency_key `{value}` is not like header:X-Event-Id or body:event.id")
        return value

    @property
    def route(self) -> str:
        return self.path or f"/{self.name}"

    @property
    def spool_path(self) -> Path:
        return self.root / (self.spool or f"spool/{self.name}.db")

    def receiver(self) -> Any:
        """The ASGI application that takes this source's events."""
        from .webhook_app import Receiver

        return Receiver(self)

    def streams(self) -> Sequence[str]:
        """One stream: the spool."""
        return [self.name]

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        """Yields what was acknowledged, in that order, and removes it from the spool once it has landed.

        Raises `Gap` if the spool is another one than before, or has already given away what comes next.
        """
        if stream != self.name:
            raise ConfigError(f"source {self.name} has no stream {stream}", hint=f"its stream is {self.name}")
        if not self.spool_path.exists() and start is None:
            return  # nothing has ever been received
        spool = Spool.open(self.spool_path)
        try:
            at = self._place_in(spool, start)
            while True:
                found = spool.read(at, self.batch_bytes)
                if found is None:
                    if not ctx.follow:
                        return
                    yield None
                    continue
                first, last, lines = found
                yield Batch([self._raw(spool.id, first, last, lines)], {"spool": spool.id, "seq": last})
                spool.drop(last)
                at = last
        finally:
            spool.close()

    def _place_in(self, spool: Spool, start: Position | None) -> int:
        known_id, at = (str(start["spool"]), int(start["seq"])) if start else (spool.id, 0)
        if known_id != spool.id:
            if self.accept_spool == spool.id:
                return 0
            raise Gap(
                f"source {self.name}: {self.spool_path} is another spool than the one that has landed so far",
                hint="put the old one back: what it held was acknowledged. If it is lost, say "
                f"`accept_spool: {spool.id}` on this source",
            )
        if at < spool.landed():
            raise Gap(
                f"source {self.name}: events {at + 1} to {spool.landed()} have landed and left the spool, "
                "but the lake does not have them",
                hint="was the lake restored from a backup? Ask the sender for these events again",
            )
        if start:
            spool.drop(at)  # landed by a run that ended before it could say so
        return at

    def _raw(self, spool: str, first: int, last: int, lines: bytes) -> RawFile:
        count = lines.count(b"\n")
        form = {
            "type": "jsonl",
            "encoding": "utf-8",
            "newline": "\n",
            "lines": count,
            "rows": count,
            "final_newline": True,
            "keys": ["id", "received", "headers", "body"],
        }
        return known(f"{spool[:8]}/{first:016}-{last:016}", lines, form)
