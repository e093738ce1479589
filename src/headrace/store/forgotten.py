"""What was erased from the lake: one exclusively created record per erasure, without what was erased.

It names the objects of bronze that took the place of others. The subject itself is there as a salted hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import Fenced
from .records import ERASED, erasures, seal
from .storage import Storage


@dataclass(frozen=True, slots=True)
class Erasure:
    number: int
    time: str
    who: str
    reason: str
    salt: str
    subject: str
    """sha256 of salt and subject, so that a request can be found again by whoever knows the subject."""
    columns: Sequence[str]
    tables: Sequence[str]
    records: int
    """Records blanked out of bronze."""
    writer: str
    replaced: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Key of an object → what of it is different: key, bytes, sha256, rows, format, key_id."""


def newest(storage: Storage) -> int:
    """The number of the newest erasure; 0 for none."""
    return len(storage.list(ERASED))


def commit(storage: Storage, erasure: Erasure) -> None:
    """Makes the erasure durable, or raises `Fenced` because another one came first."""
    if not storage.create(f"{ERASED}/{erasure.number:012d}.json", seal(asdict(erasure), "")):
        raise Fenced(f"another erasure came first as number {erasure.number}", hint="run again")


def erased_keys(storage: Storage) -> list[str]:
    """Keys of the objects that others have replaced."""
    return [key for _, body in erasures(storage) for key in body["replaced"]]
