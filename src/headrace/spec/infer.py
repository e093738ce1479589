"""From a profile of data to a proposed contract under which that data loads, but for its true outliers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .guess import Guess, Habits, guess
from .shapes import ColumnProfile as ColumnProfile
from .shapes import swapped
from .words import column_names, key_rank, tells_version


@dataclass(frozen=True, slots=True)
class Proposal:
    """`keys` is a list of columns or `["*"]`; `notes` are for people, one line each."""

    contract_yaml: str
    keys: list[str]
    latest_by: list[str]
    notes: list[str]


def propose(
    name: str,
    profiles: Sequence[ColumnProfile],
    rows: int,
    together: Sequence[Sequence[str]] = (),
) -> Proposal:
    """A contract for table `name`; `together` are sets of headers that are unique as a whole.

    A type is proposed if at least 99.5% of the values fit; the contract names those that do not.
    """
    names = dict(zip((p.name for p in profiles), column_names([p.name for p in profiles]), strict=True))
    habits = Habits(_day_first(profiles), _decimal_comma(profiles))
    guesses = {p.name: guess(p, names[p.name], habits) for p in profiles}
    nulls = sorted({word for g in guesses.values() for word in g.null_words})
    keys = _keys(name, profiles, names, nulls, together)
    versions = [names[p.name] for p in profiles if tells_version(names[p.name]) and guesses[p.name].ordered]
    notes = _notes(profiles, names, guesses, nulls)
    lines = [f"# Proposed from {rows:,} rows. Every line is yours to change.", "columns:"]
    for profile in profiles:
        lines += _column(profile, names[profile.name], guesses[profile.name], nulls)
    if nulls:
        texts = ", ".join(json.dumps(word, ensure_ascii=False) for word in ["", *nulls])
        lines += ["", "# Texts that mean missing, in every column.", f"nulls: [{texts}]"]
    if len({p.name.casefold() for p in profiles}) < len(profiles):
        lines += ["", "# Some headers differ only in case.", "header_case: exact"]
    lines += _sketch(profiles, names, guesses)
    return Proposal("\n".join(lines) + "\n", keys, versions[:1] if keys != ["*"] else [], notes)


def _day_first(profiles: Sequence[ColumnProfile]) -> bool | None:
    """What the columns that can be read in one way only say of the others."""
    votes = {True: 0, False: 0}
    for profile in profiles:
        for pattern, count in profile.shapes.items():
            other = swapped(pattern)
            if other != pattern and count > profile.shapes.get(other, 0):
                votes[pattern.index("%d") < pattern.index("%m")] += 1
    return None if votes[True] == votes[False] else votes[True] > votes[False]


def _decimal_comma(profiles: Sequence[ColumnProfile]) -> bool:
    commas = sum(p.shapes.get("comma", 0) for p in profiles)
    return commas > sum(p.shapes.get("thousands", 0) + p.shapes.get("decimal", 0) for p in profiles)


def _missing(profile: ColumnProfile, nulls: Sequence[str]) -> int:
    return profile.nulls + sum(profile.words.get(word, 0) for word in nulls)


def _keys(
    table: str,
    profiles: Sequence[ColumnProfile],
    names: Mapping[str, str],
    nulls: Sequence[str],
    together: Sequence[Sequence[str]],
) -> list[str]:
    ranked = [
        (rank, place, names[p.name])
        for place, p in enumerate(profiles)
        if p.unique and not _missing(p, nulls) and (rank := key_rank(names[p.name], table)) is not None
    ]
    if ranked:
        return [min(ranked)[2]]
    full = {p.name for p in profiles if not _missing(p, nulls)}
    whole = [headers for headers in together if set(headers) <= full]
    return [names[header] for header in min(whole, key=len)] if whole else ["*"]


def key_candidates(profiles: Sequence[ColumnProfile]) -> list[str]:
    """Headers that may be unique together: never missing, and named like identifiers or versions of one."""
    names = column_names([p.name for p in profiles])
    return [
        p.name
        for p, name in zip(profiles, names, strict=True)
        if not p.nulls and not p.words and p.distinct > 1 and key_rank(name, "") is not None
    ]


def _column(profile: ColumnProfile, name: str, found: Guess, nulls: Sequence[str]) -> list[str]:
    lines = [f"  {name}:"]
    if name != profile.name:
        lines.append(f"    from: {_scalar(profile.name)}")
    lines.append(f"    type: {found.type}")
    if found.formats:
        lines.append(f"    formats: [{', '.join(_scalar(text) for text in found.formats)}]")
    if found.trim:
        lines.append("    clean: [trim]")
    if not _missing(profile, nulls) and profile.rows:
        lines.append("    required: true")
    if found.minimum is not None:
        lines.append(f"    min: {found.minimum}")
    if found.pii:
        lines.append(f"    pii: {found.pii}  # add `mask: hash` to store it masked")
    lines += [f"    # {comment}" for comment in found.comments]
    return lines


def _scalar(text: str) -> str:
    """`text` as a YAML scalar, in quotes unless it cannot be taken for anything else.

    >>> _scalar("InvoiceNo"), _scalar("Unit: Price"), _scalar("%d/%m/%Y"), _scalar("null")
    ('InvoiceNo', '"Unit: Price"', '"%d/%m/%Y"', '"null"')
    """
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_ ]*[A-Za-z0-9_]|[A-Za-z]", text)
    if plain and text.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n"):
        return text
    return json.dumps(text, ensure_ascii=False)


def _notes(
    profiles: Sequence[ColumnProfile],
    names: Mapping[str, str],
    guesses: Mapping[str, Guess],
    nulls: Sequence[str],
) -> list[str]:
    notes = [f"{names[p.name]}: {note}" for p in profiles for note in guesses[p.name].notes]
    for profile in profiles:
        also = {word: profile.words[word] for word in nulls if word in profile.words}
        if also and guesses[profile.name].type == "text":
            listed = ", ".join(f"`{word}` ({count:,})" for word, count in also.items())
            notes.append(f"{names[profile.name]}: {listed} will count as missing here too")
    personal = [names[p.name] for p in profiles if guesses[p.name].pii]
    if personal:
        notes.append(f"suspected personal data: {', '.join(personal)}")
    return notes


def _sketch(
    profiles: Sequence[ColumnProfile], names: Mapping[str, str], guesses: Mapping[str, Guess]
) -> list[str]:
    """Where rules go, shown with a column of this data."""
    numbers = [names[p.name] for p in profiles if guesses[p.name].numeric]
    rule = (
        f"{numbers[0]} > 0" if numbers else f"{names[profiles[0].name]} IS NOT NULL" if profiles else "true"
    )
    return ["", "# rules:", f"#   my_rule: {{check: {rule}, severity: quarantine}}"]
