"""Holds: a table that is to stay as it is until somebody releases it; one exclusively created record each."""

from __future__ import annotations

from typing import Any

from ..errors import Fenced
from .records import seal, unseal, utc
from .storage import Storage


def held(storage: Storage, table: str) -> dict[str, Any] | None:
    """The hold on `table` (`epoch`, `time`, `reason`), or None if there is none."""
    keys = storage.list(f"_headrace/hold/{table}")
    if not keys:
        return None
    body, _, _ = unseal(storage.read(keys[-1]), keys[-1])
    return body if body["held"] else None


def hold(storage: Storage, table: str, epoch: int, reason: str) -> None:
    """Runs leave `table` at `epoch` from now on, and say so; raises `Fenced` if another hold came first."""
    _record(storage, table, {"held": True, "epoch": epoch, "time": utc(), "reason": reason})


def release(storage: Storage, table: str) -> bool:
    """The next run goes on from where the table is; False if nothing held it."""
    if held(storage, table) is None:
        return False
    _record(storage, table, {"held": False, "epoch": 0, "time": utc(), "reason": ""})
    return True


def _record(storage: Storage, table: str, body: dict[str, Any]) -> None:
    folder = f"_headrace/hold/{table}"
    if not storage.create(f"{folder}/{len(storage.list(folder)):012d}.json", seal(body, "")):
        raise Fenced(f"table `{table}`: another hold or release came first", hint="run again")
