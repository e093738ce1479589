"""Which transactions have been read, by their global ids: what lets another server of the same data go on.

MariaDB: the newest of each domain (`0-1-42`). MySQL: intervals of each server's numbers (`uuid:1-42:44`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Spans = list[tuple[int, int]]


@dataclass(slots=True)
class Gtids:
    """A set of transactions; `text` gives it back, and `of` reads that."""

    mariadb: bool
    newest: dict[str, str] = field(default_factory=dict)
    spans: dict[str, Spans] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, *, mariadb: bool) -> Gtids:
        found = cls(mariadb)
        for each in "".join(text.split()).split(","):
            if each and mariadb:
                found.newest[each.partition("-")[0]] = each
            elif each:
                uuid, *spans = each.split(":")
                # A tag (MySQL 8.3) is part of the name; its intervals follow it.
                if not all(span[:1].isdigit() for span in spans):
                    return cls(mariadb)
                ends = (span.partition("-")[::2] for span in spans)
                found.spans[uuid.lower()] = sorted((int(a), int(b or a)) for a, b in ends)
        return found

    def __bool__(self) -> bool:
        return bool(self.newest or self.spans)

    @property
    def text(self) -> str:
        if self.mariadb:
            return ",".join(self.newest.values())
        return ",".join(
            ":".join([uuid, *(f"{a}-{b}" if a < b else str(a) for a, b in spans)])
            for uuid, spans in sorted(self.spans.items())
        )

    def add(self, gtid: str) -> None:
        """A set that was empty stays so: then not all that was before it is known.

        >>> known = Gtids.of("a:1-3:7", mariadb=False)
        >>> known.add("a:4"), known.add("a:6"), known.add("b:1"), known.text
        (None, None, None, 'a:1-4:6-7,b:1')
        """
        if self.mariadb:
            self.newest[gtid.partition("-")[0]] = gtid
        elif self:
            uuid, _, number = gtid.partition(":")
            self.spans[uuid] = _joined([*self.spans.get(uuid, ()), (int(number), int(number))])

    def forget(self) -> None:
        """From here on transactions come that have no id."""
        self.newest, self.spans = {}, {}


def _joined(spans: Sequence[tuple[int, int]]) -> Spans:
    found: Spans = []
    for a, b in sorted(spans):
        if found and a <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(b, found[-1][1]))
        else:
            found.append((a, b))
    return found


def encoded(spans: Mapping[str, Spans]) -> bytes:
    """As COM_BINLOG_DUMP_GTID sends a set: the ends of intervals are beyond the last number."""
    out = struct.pack("<Q", len(spans))
    for uuid, each in sorted(spans.items()):
        out += bytes.fromhex(uuid.replace("-", "")) + struct.pack("<Q", len(each))
        out += b"".join(struct.pack("<QQ", a, b + 1) for a, b in each)
    return out
