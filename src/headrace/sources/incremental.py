"""From which value on an API is asked, so that nothing is missed: the greatest seen, less an overlap.

What the overlap gives again is known by hashes, if they are few; so a read without news lands nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from .paging import value_at

MOST_HASHES = 1000
"""Per source, over all its endpoints: positions stay small."""
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_CANDIDATES = 5000


class Incremental(BaseModel):
    """Only what changed: `param` asks for records whose `field` is a value or greater."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    param: str
    field: str
    """Path in a record to the value that grows with every change."""
    start: str | None = None
    """What the first read asks for; without it, the first read has no such parameter."""
    overlap: str = "1m"
    """How far before the greatest value seen the next read begins: `90s`, `5m`, `1d`, or a number."""
    format: str = "same"
    """How `param` is written: like the field, `epoch`, `epoch_ms`, or a strftime pattern."""

    @field_validator("overlap", mode="before")
    @classmethod
    def _span(cls, value: Any) -> str:
        text = str(value).strip()
        if not _SPAN.fullmatch(text):
            raise ValueError(f"overlap `{text}` is not like 90s, 5m, 1d, or a number")
        return text

    def lowered(self, high: str) -> str:
        """`high` less the overlap, in the same spelling.

        >>> Incremental(param="since", field="at", overlap="5m").lowered("2026-03-01T00:02:00Z")
        '2026-02-28T23:57:00Z'
        >>> Incremental(param="min_id", field="id", overlap="10").lowered("1000")
        '990'
        >>> Incremental(param="since", field="at", overlap="1m").lowered("1767225600")
        '1767225540'
        """
        amount, unit = _span(self.overlap)
        seconds = float(amount) * _SECONDS[unit or "s"]
        if (number := _number(high)) is not None:
            return str(number - (amount if unit is None else int(seconds * _ticks(number))))
        when = _time(high)
        if when is None:
            return high  # of other texts nothing can be taken away: ties alone are read again
        if len(high) == 10:
            return (when - timedelta(days=-(-seconds // 86400))).date().isoformat()
        text = (when - timedelta(seconds=seconds)).isoformat(sep=high[10], timespec=_grain(high))
        text = text if _has_zone(high) else text.removesuffix("+00:00")
        return text.replace("+00:00", "Z") if high.endswith("Z") else text

    def asked(self, since: str) -> str:
        """`since` as the parameter's value."""
        when = _time(since)
        if self.format == "same" or when is None:
            return since
        if self.format in ("epoch", "epoch_ms"):
            return str(int(when.timestamp() * (1000 if self.format == "epoch_ms" else 1)))
        return when.strftime(self.format)


@dataclass
class Watermark:
    """What a sweep has seen: the greatest value, and the hashes of records that the next will meet again."""

    incremental: Incremental
    most: int
    high: str | None
    known: frozenset[str] | None
    """Hashes of records that an earlier sweep landed near its end; None if they were too many to keep."""
    seen: dict[str, str] = field(default_factory=dict)
    """Hash → value."""
    lost: bool = False
    odd: int = 0
    """Records of a time that is yet to come: they land, and move nothing."""

    def take(self, records: Sequence[Any]) -> bool:
        """Notes the records of a page; whether any of them is news."""
        news = False
        for record in records:
            digest = fingerprint(record)
            news = news or self.known is None or digest not in self.known
            found = value_at(record, self.incremental.field)
            if found is None or isinstance(found, (bool, dict, list)):
                continue
            value = str(found).strip()
            if not value:
                continue
            if _is_ahead(value):
                self.odd += 1  # it would hide all that comes until then
            elif self.high is None or order(value) > order(self.high):
                self.high = value
            self.seen[digest] = value
        if len(self.seen) > _CANDIDATES:
            self._prune()
        return news

    def recent(self) -> list[str] | None:
        """Hashes of what the next sweep will meet again, if they are few."""
        self._prune()
        return None if self.lost or len(self.seen) > self.most else sorted(self.seen)

    def _prune(self) -> None:
        if self.high is None:
            return
        bound = order(self.incremental.lowered(self.high))
        self.seen = {digest: value for digest, value in self.seen.items() if order(value) >= bound}
        if len(self.seen) > _CANDIDATES:
            self.seen, self.lost = {}, True


def order(value: str) -> tuple[int, Any]:
    """A key that sorts numbers as numbers, times as instants (UTC where no zone is given), texts as texts.

    Times are above numbers and numbers above texts, so that a stray value does not pass for the greatest.

    >>> order("9") < order("10"), order("2026-01-01T01:00:00+02:00") < order("2026-01-01")
    (True, True)
    >>> order("n/a") < order("7") < order("2026-01-01")
    True
    """
    number = _number(value)
    if number is not None:
        return (1, number)
    when = _time(value)
    return (0, value) if when is None else (2, when)


def _is_ahead(value: str) -> bool:
    """Whether a time is more than a day in the future: clocks differ, but not by that much."""
    limit = datetime.now(UTC) + timedelta(days=1)
    number = _number(value)
    if number is not None:
        return _ticks(number) > 0 and number > Decimal(limit.timestamp()) * _ticks(number)
    when = _time(value)
    return when is not None and when > limit


def _ticks(number: Decimal) -> int:
    """How many to a second, if the number is one of epoch seconds or milliseconds of this century; else 0."""
    return 1 if 10**9 <= number < 10**10 else 1000 if 10**12 <= number < 10**13 else 0


def fingerprint(record: Any) -> str:
    """64 bits of a record's content, whatever the order of its keys."""
    text = json.dumps(record, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _span(text: str) -> tuple[Decimal, str | None]:
    match = _SPAN.fullmatch(text)
    assert match is not None
    return Decimal(match[1]), match[2]


def _number(text: str) -> Decimal | None:
    try:
        found = Decimal(text)
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def _time(text: str) -> datetime | None:
    try:
        if len(text) == 10:
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _has_zone(text: str) -> bool:
    return datetime.fromisoformat(text).tzinfo is not None


def _grain(text: str) -> str:
    """A fraction stays as fine as it was written: a bound must not be rounded up."""
    return "auto" if "." not in text else "microseconds"


def spread(hashes: Mapping[str, Any], name: str) -> frozenset[str] | None:
    """The hashes that a position keeps under `name`; None if it kept none because they were too many."""
    found = hashes.get(name, [])
    return None if found is None else frozenset(found)
