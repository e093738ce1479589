"""Local times to UTC without guessing: a skipped time is refused; of a repeated one the first counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from .text import literal

_FIRST, _LAST = 1970, 2038


@cache
def change_hours(zone: str) -> tuple[int, ...] | None:
    """Local hours of the day that any clock change between 1970 and 2038 touches; None if unknown.

    Only a filter for speed: outside these hours and years a local time is neither skipped nor repeated.
    """
    try:
        tz = ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        return None
    week, hours = timedelta(days=7), set[int]()
    at, end = datetime(_FIRST, 1, 1, tzinfo=UTC), datetime(_LAST, 1, 1, tzinfo=UTC)
    while at < end:
        if _offset(tz, at) != _offset(tz, at + week):
            for hour in range(7 * 24):
                moment = at + timedelta(hours=hour)
                before, after = _offset(tz, moment), _offset(tz, moment + timedelta(hours=1))
                if before != after:
                    low, high = min(before, after), max(before, after)
                    local = moment + low
                    while local <= moment + timedelta(hours=1) + high:
                        hours.add(local.hour)
                        local += timedelta(minutes=30)
        at += week
    return tuple(sorted(hours))


def _offset(tz: ZoneInfo, moment: datetime) -> timedelta:
    return moment.astimezone(tz).utcoffset() or timedelta()


def to_utc(local: str, zone: str) -> str:
    """SQL of the instant of a local TIMESTAMP: NULL in a gap, the earlier of two in an overlap."""
    if zone.upper() in ("UTC", "ETC/UTC", "GMT", "Z"):
        return f"make_timestamptz(epoch_us({local}))"
    at = f"AT TIME ZONE {literal(zone)}"
    plain = f"(({local}) {at})"
    hours = change_hours(zone)
    if hours == ():
        return plain
    earlier = "".join(
        f"WHEN ({plain} - INTERVAL {gap}) {at} = ({local}) THEN {plain} - INTERVAL {gap} "
        for gap in ("'2 hours'", "'1 hour'", "'30 minutes'")
    )
    exact = f"CASE {earlier}WHEN {plain} {at} = ({local}) THEN {plain} END"
    if hours is None or len(hours) > 12:
        return exact
    quiet = f"hour({local}) NOT IN ({', '.join(map(str, hours))})"
    quiet += f" AND year({local}) BETWEEN {_FIRST} AND {_LAST - 1}"
    return f"CASE WHEN {quiet} THEN {plain} ELSE {exact} END"
