"""How a listed file is offered to the lander, and what is told of one that is not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from ..core import RawFile, Reading
from .how import How
from .inspect import FileInspector, Past, has_rows
from .listing import Entry, opened, verify

_BLOCK = 1 << 20


@dataclass(slots=True)
class Judge:
    """Whether this stream's files usually have rows: any that has landed, or that this read has seen."""

    ctx: Reading
    usual: bool | None = None

    def rows_usual(self) -> bool:
        if self.usual is None:
            landed = (self.ctx.seen(name) for name in self.ctx.names())
            self.usual = any(item is not None and has_rows(item) for item in landed)
        return self.usual

    def saw_rows(self) -> None:
        self.usual = True


def raw(entry: Entry, how: How, judge: Judge) -> RawFile:
    past = Past(judge.ctx.seen(entry.name), judge.rows_usual, judge.saw_rows)
    return RawFile(
        name=entry.name,
        size=entry.size,
        open=lambda: opened(entry),
        verify=lambda: verify(entry),
        inspector=lambda: FileInspector(entry.name, how, past),
        signature=entry.signature,
    )


def modified(entry: Entry) -> int:
    return int(entry.signature.get("mtime_ns", entry.changed_at * 1e9))


def is_text(name: str) -> bool:
    """False for a name whose bytes are no UTF-8: Python carries those as lone surrogates."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def note(ctx: Reading, kind: str, name: str, message: str) -> None:
    """Tells the run of a file (`refused`, `unstable`, `vanished`, `ignored`), where it listens."""
    tell: Callable[[str, str, str], None] | None = getattr(ctx, "note", None)
    if tell is not None:
        tell(kind, name, message)


def sha256(entry: Entry) -> str:
    digest = hashlib.sha256()
    with opened(entry) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
