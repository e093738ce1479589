"""One column's proposed type, formats and comments, from its profile; when in doubt, text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .shapes import ColumnProfile, swapped
from .words import is_amount, is_code, is_never_negative, personal, says_date

ENOUGH = 0.995
"""The share of values that must fit a type for it to be proposed."""

_PLAIN = ("integer", "whole_decimal", "decimal", "exponent")
_GROUPED = ("percent", "thousands", "comma", "comma_or_thousands")
_NOT_PATTERNS = {*_PLAIN, *_GROUPED, "currency", "true_false", "yes_no", "date", "timestamp", "json"}
_PII_LOOKS = ("email", "phone", "iban", "card", "ip")


@dataclass(frozen=True, slots=True)
class Habits:
    """How a file writes what could be read in two ways, as far as the other columns tell."""

    day_first: bool | None = None
    decimal_comma: bool = False


@dataclass(frozen=True, slots=True)
class Guess:
    type: str = "text"
    formats: tuple[str, ...] = ()
    fits: int = 0
    """Values that the type holds, given the formats and null words."""
    null_words: tuple[str, ...] = ()
    trim: bool = False
    minimum: str | None = None
    pii: str | None = None
    comments: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        return self.type.partition("(")[0] in ("integer", "bigint", "decimal", "double")

    @property
    def ordered(self) -> bool:
        return self.type in ("date", "timestamp", "integer", "bigint")


def guess(profile: ColumnProfile, name: str, habits: Habits) -> Guess:
    """The narrowest type that at least 99.5% of the values fit."""
    found = (
        _boolean(profile, name)
        or _moment(profile, name, habits.day_first)
        or _number(profile, name, habits.decimal_comma)
        or _json(profile)
    )
    if found:
        values = profile.rows - profile.nulls
        without = values - sum(profile.words.values())
        if found.fits and without and found.fits >= ENOUGH * without:
            found = replace(found, null_words=tuple(profile.words))
            return _described(profile, name, found, without - found.fits)
    return _described(profile, name, _text(profile, name), 0)


def _boolean(profile: ColumnProfile, name: str) -> Guess | None:
    words, yes_no = profile.shapes.get("true_false", 0), profile.shapes.get("yes_no", 0)
    if not words and not yes_no:
        return None
    flag = name.startswith(("is_", "has_")) or name.endswith("_flag")
    if profile.distinct - len(profile.words) < 2 and not flag:
        return None
    return Guess("boolean", ("yes_no",) if yes_no else (), words + yes_no)


def _json(profile: ColumnProfile) -> Guess | None:
    count = profile.shapes.get("json", 0)
    return Guess("json", (), count) if count else None


def _moment(profile: ColumnProfile, name: str, day_first: bool | None) -> Guess | None:
    patterns = {p: n for p, n in profile.shapes.items() if p not in _NOT_PATTERNS and n}
    compact = patterns.pop("%Y%m%d", 0)
    if compact and says_date(name) and not profile.leading_zeros:
        return Guess("date", ("%Y%m%d",), compact)
    chosen, notes = _one_order(profile, patterns, day_first)
    dates, stamps = profile.shapes.get("date", 0), profile.shapes.get("timestamp", 0)
    if not chosen and not dates and not stamps:
        return None
    timed = stamps or any("%H" in p or "%I" in p for p in chosen)
    formats = sorted(chosen, key=lambda p: -chosen[p])
    if timed and dates:
        formats.append("%Y-%m-%d")
    fits = dates + stamps + sum(chosen.values())
    comments = tuple(f"ambiguous: {note}" for note in notes)
    return Guess("timestamp" if timed else "date", tuple(formats), fits, comments=comments, notes=notes)


def _one_order(
    profile: ColumnProfile, patterns: Mapping[str, int], day_first: bool | None
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Of each day-first and month-first pair, the one that the data says; a note where it does not."""
    chosen: dict[str, int] = {}
    notes: list[str] = []
    for pattern, count in patterns.items():
        other = swapped(pattern)
        if other == pattern or other not in patterns:
            chosen[pattern] = count
            continue
        if other in chosen:
            continue
        first, second = (pattern, other) if pattern.startswith("%d") else (other, pattern)
        if patterns[first] != patterns[second]:
            best = max(first, second, key=lambda p: patterns[p])
        elif day_first is not None:
            best = first if day_first else second
            notes.append(f"read as `{best}` like the file's other dates; `{swapped(best)}` fits as well")
        else:
            spans = {p: profile.spans.get(p, 0) for p in (first, second)}
            best = first if spans[first] <= spans[second] else second
            notes.append(f"read as `{best}`; `{swapped(best)}` fits as well: check one date")
        chosen[best] = patterns[best]
    return chosen, tuple(notes)


def _number(profile: ColumnProfile, name: str, decimal_comma: bool) -> Guess | None:
    counts = {shape: profile.shapes.get(shape, 0) for shape in (*_PLAIN, *_GROUPED)}
    fits = sum(counts.values())
    if counts["exponent"] <= (1 - ENOUGH) * fits:
        # 9e+05 among whole ids is no number that was meant so: somebody's software lost its digits.
        fits -= counts.pop("exponent")
    if not fits or profile.leading_zeros:
        return None
    if counts["comma"] and counts["thousands"]:
        # Both in one column: what could be either has no value, unless one of the two is an outlier.
        rare = min(("comma", "thousands"), key=lambda shape: counts[shape])
        unread = rare if counts[rare] <= (1 - ENOUGH) * fits else "comma_or_thousands"
        fits -= counts[unread]
        counts[unread] = 0
    formats, notes = _number_formats(profile, counts, decimal_comma)
    whole, places = profile.digits
    if "decimal_comma" in formats and counts["comma_or_thousands"]:
        places = max(places, 3)
    only_whole = not counts["decimal"] and not counts.get("exponent") and not counts["percent"] and not places
    if only_whole and (is_code(name) or whole > 18):
        return None
    if counts.get("exponent") or places > 12 or whole + places > 36:
        return Guess("double", formats, fits, notes=notes)
    if only_whole and not (counts["whole_decimal"] and is_amount(name)):
        if counts["whole_decimal"]:
            formats = (*formats, "whole_decimal")
        return Guess("bigint" if whole > 9 else "integer", formats, fits, notes=notes)
    scale = places + 2 if counts["percent"] else max(places, 2 if is_amount(name) else 1)
    precision = max(18, min(38, whole + scale + 4))
    return Guess(f"decimal({precision},{scale})", formats, fits, notes=notes)


def _number_formats(
    profile: ColumnProfile, counts: Mapping[str, int], decimal_comma: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    formats = ["currency"] if profile.shapes.get("currency") else []
    notes: tuple[str, ...] = ()
    if counts["comma"]:
        formats.append("decimal_comma")
    if counts["thousands"]:
        formats.append("thousands")
    sure = counts["comma"] or counts["thousands"]
    if counts["comma_or_thousands"] and not sure and decimal_comma:
        formats.append("decimal_comma")
        notes = ("1,234 is read as 1.234, with the file's other decimal commas",)
    elif counts["comma_or_thousands"] and not sure:
        formats.append("thousands")
        notes = ("1,234 is read as 1234 (`thousands`); with `decimal_comma` it would be 1.234",)
    if counts["percent"]:
        formats.append("percent")
    return tuple(formats), notes


def _text(profile: ColumnProfile, name: str) -> Guess:
    comments: list[str] = []
    numbers = sum(profile.shapes.get(shape, 0) for shape in (*_PLAIN, *_GROUPED))
    values = profile.rows - profile.nulls
    if values and numbers >= ENOUGH * values:
        if profile.leading_zeros:
            comments.append(f"stays text: {profile.leading_zeros:,} values have leading zeros")
        elif is_code(name):
            comments.append("stays text: codes are names, not numbers")
        else:
            comments.append("stays text: too many digits for a number")
    return Guess(comments=tuple(comments))


def _described(profile: ColumnProfile, name: str, found: Guess, outliers: int) -> Guess:
    """`found` with personal data marked and with what a reader wants to know of the values."""
    looks = [kind for kind in _PII_LOOKS if profile.looks.get(kind, 0) >= 0.5]
    pii = personal(name) or (looks[0] if looks and found.type == "text" else None)
    comments, notes = list(found.comments), list(found.notes)
    if outliers:
        odd = ", ".join(f"`{text[:40]}` ({count:,})" for text, count in profile.odd if not pii)
        what = f"{outliers:,} of {profile.rows:,} values are no {found.type}: they go to quarantine"
        comments.append(f"{what}: {odd}" if odd else what)
        notes.append(what)
    if found.type == "text" and not pii and 0 < profile.looks.get("email", 0) < 0.5:
        notes.append("some values look like email addresses")
    if profile.rows == profile.nulls:
        comments.append("no value seen")
    elif not pii:
        comments.append(_values(profile, found))
    minimum = "0" if found.numeric and _starts_at_zero(profile, name) else None
    trim = found.type == "text" and profile.untrimmed > 0
    return replace(
        found,
        pii=pii,
        trim=trim,
        minimum=minimum,
        comments=tuple(" ".join(c.split()) for c in comments if c),
        notes=tuple(notes),
    )


def _starts_at_zero(profile: ColumnProfile, name: str) -> bool:
    return profile.low is not None and not profile.low.startswith("-") and is_never_negative(name)


def _values(profile: ColumnProfile, found: Guess) -> str:
    if found.numeric and profile.low is not None:
        return f"seen: {profile.low} to {profile.high}"
    texts = [text if len(text) <= 30 else text[:29] + "…" for text, _ in profile.top]
    if profile.distinct <= len(texts):
        return f"seen: {', '.join(texts)}"
    return f"{profile.distinct:,} different values, such as {', '.join(texts[:3])}"
