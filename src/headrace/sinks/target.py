"""What all external targets share: their settings, and the SQL that tells what a write changes.

A target keeps, in a table of its own, how far each stream is, and moves that in the transaction that changes
the rows. So what it has and what it says it has are never two things.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ..core import GONE, Commit, Held, Write, Written
from ..errors import ConfigError, Fenced, HeadraceError, Unbalanced
from ..spec.widen import wider

COMMITS = "headrace_commits"
DELETED = "_deleted"
"""The column of a target with `deletes: soft` that says that a row is there no more."""


class Settings(BaseModel):
    """What every target may be told."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str
    root: Path = Path()
    mode: Literal["merge", "reload"] = "merge"
    """Send what has changed; or all rows each time, which also mends what others have changed there."""
    deletes: Literal["hard", "soft"] = "hard"
    """A row that is gone is deleted, or stays with `_deleted` true."""
    adopt: bool = False
    """Take over tables that are there already: their rows are replaced."""


def ident(name: str) -> str:
    """An identifier as SQL, whatever is in it.

    >>> ident('a "b"')
    '"a ""b""\"'
    """
    return '"' + name.replace('"', '""') + '"'


def noted(note: Mapping[str, Any] | None) -> str:
    """A note as it is stored: equal notes are equal texts."""
    return json.dumps(note or {}, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def held_of(found: Mapping[str, Held], stream: str, tables: Sequence[str], exists: bool) -> Held:
    """What a target holds for `stream`, out of all that it holds, and who else has written `tables`."""
    held = found.get(stream)
    others = [name for name, each in found.items() if name != stream and each.note.get("table") in tables]
    return Held(held.epoch if held else 0, held.note if held else {}, exists, others)


def due(target: str, commit: Commit, note: str, epoch: int, known: str) -> bool:
    """Whether `commit` is still to be applied; raises `Fenced` if another one has come first."""
    if epoch == commit.next and known == note:
        return False
    if epoch != commit.prev:
        raise Fenced(
            f"target {target}: `{commit.stream}` is at publication {epoch} there, not {commit.prev}",
            hint="another run has published in the meantime; nothing was written; run again",
        )
    return True


def matches(keys: Sequence[str], one: str, other: str, *, nulls: bool = True) -> str:
    """SQL: whether two rows have one key."""
    equal = "IS NOT DISTINCT FROM" if nulls else "="
    return " AND ".join(f"{one}.{ident(key)} {equal} {other}.{ident(key)}" for key in keys)


def stale(sequence: Sequence[str], held: str, new: str) -> str:
    """SQL: whether the held row has a greater sequence than the new one; NULL is least."""
    sql = "false"
    for name in reversed(sequence):
        one, other = f"{held}.{ident(name)}", f"{new}.{ident(name)}"
        greater = f"({one} IS NOT NULL AND ({other} IS NULL OR {one} > {other}))"
        sql = f"({greater} OR ({one} IS NOT DISTINCT FROM {other} AND {sql}))"
    return sql


def counts_sql(conditions: Mapping[str, str], matched: str) -> str:
    """SQL that counts what becomes of each new row: one row, in the order of `COUNTED`.

    `conditions` say of a new row joined with what is held (`matched`): `here`, `gone`, `older`, `differs`,
    and `over`, a held row that is marked as deleted already.
    """
    listed = ", ".join(f"{sql} AS {name}" for name, sql in conditions.items())
    kinds = (
        "NOT here AND NOT gone",
        "here AND NOT gone AND NOT older AND differs",
        "(here AND NOT gone AND NOT older AND NOT differs) OR (gone AND (NOT here OR over))",
        "here AND gone AND NOT older AND NOT over",
        "here AND older AND NOT (gone AND over)",
    )
    counted = ", ".join(f"count(*) FILTER (WHERE {kind})" for kind in kinds)
    return f"SELECT {counted} FROM (SELECT {listed} FROM {matched}) x"


def written(write: Write, version: int, sent: int, counts: Sequence[int], removed: int = 0) -> Written:
    """What a write did; raises `Unbalanced`, before the commit, unless every row is in one count."""
    inserted, updated, unchanged, deleted, older = counts
    if sent != inserted + updated + unchanged + deleted + older:
        raise Unbalanced(
            f"table `{write.table}`: {sent:,} rows were sent; inserted {inserted:,}, updated {updated:,}, "
            f"unchanged {unchanged:,}, deleted {deleted:,}, stale {older:,} are {sum(counts):,}",
            hint="nothing was written; do two rows have one key?",
        )
    return Written(write.table, version, inserted, updated, unchanged, deleted, older, removed)


def done(write: Write, what: str, wanted: int, rows: int) -> None:
    """Raises `Unbalanced` where a statement has changed another number of rows than had been counted."""
    if rows != wanted:
        raise Unbalanced(
            f"table `{write.table}`: {wanted:,} rows were to be {what}, and {rows:,} were",
            hint="nothing was written; has a trigger, rule or policy of the table a hand in it?",
        )


def fitting(
    target: str, table: str, held: Mapping[str, str | None], new: Mapping[str, str]
) -> dict[str, str]:
    """Columns of `held` (name → type word, None for an unknown one) that must become another type, and which.

    A held type that holds more than is needed stays. Raises `ConfigError` where no type holds both.
    """
    changes: dict[str, str] = {}
    for name, kind in new.items():
        if name not in held:
            continue
        has = held[name]
        hint = f"drop the column `{name}` there, or the table: the next run makes it anew"
        where = f"target {target}: table `{table}`: column `{name}`"
        if has is None:
            raise ConfigError(f"{where} has a type there that does not hold {kind} exactly", hint=hint)
        try:
            needed = wider(has, kind, name)
        except HeadraceError:
            raise ConfigError(f"{where} is {has} there and {kind} in silver", hint=hint) from None
        if needed != has:
            changes[name] = needed
    return changes


def sent_columns(columns: Mapping[str, str]) -> list[str]:
    """The columns of a frame that are the table's own."""
    return [name for name in columns if name != GONE]
