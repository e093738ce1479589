"""What one call may cost: how often, how much when unpacked, and how long a server may keep us waiting."""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ..errors import SystemFault, TransientError

RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(s|m|h|second|minute|hour)\s*")
_PER = {"s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)b?\s*", re.IGNORECASE)


def bytes_of(value: Any) -> Any:
    """
    >>> bytes_of("64MB"), bytes_of(10)
    (64000000, 10)
    """
    match = _BYTES.fullmatch(value) if isinstance(value, str) else None
    return int(float(match[1]) * 1000 ** " kmg".index(match[2].lower() or " ")) if match else value


Bytes = Annotated[int, BeforeValidator(bytes_of), Field(ge=1)]
"""A number of bytes, or a text such as 64MB."""


@dataclass
class Bucket:
    """A token bucket: over any time, no more calls than the rate allows, and a second's worth."""

    per_second: float
    burst: float
    wait: Callable[[float], object]
    tokens: float = 1.0
    last: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, rate: str | None, wait: Callable[[float], object]) -> Bucket:
        match = RATE.fullmatch(rate) if rate else None
        if match is None:
            return cls(0.0, 0.0, wait)
        speed = float(match[1]) / _PER[match[2][0]]
        return cls(speed, max(speed, 1.0), wait, max(speed, 1.0))

    def take(self) -> None:
        """Returns when a call may be made; callers are served in the order in which they came."""
        if not self.per_second:
            return
        with self.lock:
            now = time.monotonic()
            self.tokens = min(self.burst, self.tokens + (now - self.last) * self.per_second)
            self.last = now
            self.tokens -= 1
            debt = -self.tokens / self.per_second
        if debt > 0:
            self.wait(debt)


def unpacked(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The body without its content encoding, in pieces of at most a mebibyte, however far it is packed."""
    names = [name for part in encoding.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if not names:
        yield from chunks
        return
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise SystemFault(f"the answer is packed as `{encoding}`, which nobody asked for")
    packed = names[0] != "deflate"
    unpack = zlib.decompressobj(31) if packed else None
    for chunk in chunks:
        rest = chunk
        while rest:
            if unpack is None:  # some send zlib as they should, some bare deflate
                unpack = zlib.decompressobj(15 if rest[0] & 0x0F == 8 else -15)
            elif unpack.eof:
                unpack = zlib.decompressobj(31 if packed else 15)
            try:
                piece = unpack.decompress(rest, 1 << 20)
            except zlib.error as error:
                raise TransientError(f"the answer cannot be unpacked: {error}") from error
            if piece:
                yield piece
            rest = unpack.unused_data if unpack.eof else unpack.unconsumed_tail
    if unpack is not None and not unpack.eof:
        raise TransientError("the packed answer is cut off")


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that a server asks to wait: `Retry-After`, or the reset of a used-up limit.

    >>> now = datetime(2026, 10, 21, 7, 27, tzinfo=UTC)
    >>> retry_after({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, now)
    60.0
    >>> retry_after({"retry-after": "7"}, datetime.now(UTC)), retry_after({}, datetime.now(UTC))
    (7.0, None)
    """
    given = headers.get("retry-after", "").strip()
    if given.isdigit():
        return float(given)
    if given:
        try:
            then = parsedate_to_datetime(given)
        except ValueError:
            return None
        return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds())
    reset = headers.get("x-ratelimit-reset", "").strip()
    if headers.get("x-ratelimit-remaining", "").strip() == "0" and reset.isdigit():
        # Some say when (epoch seconds), some how long.
        return max(0.0, float(reset) - now.timestamp()) if int(reset) > 1_000_000_000 else float(reset)
    return None
