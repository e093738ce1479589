"""From the ordinal of a record to the physical line where it begins, exactly or not at all.

A reader numbers records; people look for lines. They differ where a record spans several lines, where
lines are blank, and where records were rejected. Each of these is an event; between two events the
distance is constant. If the events do not explain every line of the file, the count is `None`: then
something was swallowed, and the caller has to read the file another way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..raw import line_end, lines, open_plain


@dataclass(frozen=True, slots=True)
class LineMap:
    """Physical facts of one file: how many lines, which are blank, and on which line a byte lies."""

    total: int
    blank: Sequence[int]
    line_of: Mapping[int, int]
    """Byte offset (from 0) → line (from 1), for the offsets that were asked for."""
    start_of: Mapping[int, int]
    """The line's own first byte, for each of these lines."""
    end_of: Mapping[int, int]
    """The byte after its text, before its line end."""


def scan(path: Path, form: Mapping[str, Any], offsets: Iterable[int]) -> LineMap:
    """One pass over the file's bytes."""
    wanted = sorted(set(offsets))
    line_of: dict[int, int] = {}
    start_of: dict[int, int] = {}
    end_of: dict[int, int] = {}
    blank: list[int] = []
    number, at, next_offset = 0, 0, 0
    limit = wanted[0] if wanted else None
    with open_plain(path, form.get("compression")) as stream:
        for number, line in enumerate(lines(stream, line_end(form)), 1):
            if len(line) < 3 and not line.strip(b"\r\n"):
                blank.append(number)
            if limit is not None:
                end = at + len(line)
                while limit is not None and limit < end:
                    line_of[limit], start_of[number] = number, at
                    end_of[number] = at + len(line.rstrip(b"\r\n"))
                    next_offset += 1
                    limit = wanted[next_offset] if next_offset < len(wanted) else None
                at = end
    return LineMap(number, blank, line_of, start_of, end_of)


def place(
    first: int,
    total: int,
    rows: int,
    rejects: Sequence[tuple[int, int]],
    blank: Sequence[int],
    longer: Sequence[tuple[int, int]],
) -> list[tuple[int, int]] | None:
    """Segments (ordinal from, line) of `rows` records from line `first` on; None if lines are unexplained.

    `rejects`: (line, lines) each; `longer`: (ordinal, lines beyond the first) of rows that span several.

    >>> place(2, 7, 3, rejects=[(3, 1)], blank=[7], longer=[(1, 1)])
    [(0, 2), (1, 4), (2, 6), (3, 8)]
    """
    segments = [(0, first)]
    ordinal, line = 0, first
    reject_at, long_at = 0, 0
    blank_at = bisect_right(blank, first - 1)
    far = total + rows + 2
    while True:
        while blank_at < len(blank) and blank[blank_at] < line:
            blank_at += 1  # inside a record
        to_blank = blank[blank_at] if blank_at < len(blank) else far
        to_reject = rejects[reject_at][0] if reject_at < len(rejects) else far
        to_long = line + longer[long_at][0] - ordinal if long_at < len(longer) else far
        nearest = min(to_blank, to_reject, to_long)
        if nearest == far:
            break
        if nearest < line:
            return None
        ordinal += nearest - line
        # A row cannot begin on a line that is known to be something else: it moves on, to be met again.
        if nearest == to_reject:
            line = nearest + rejects[reject_at][1]
            reject_at += 1
        elif nearest == to_blank:
            line = nearest + 1
            blank_at += 1
        else:
            line = nearest + 1 + longer[long_at][1]
            ordinal += 1
            long_at += 1
        if ordinal > rows:
            return None
        if segments[-1][0] == ordinal:
            segments.pop()
        segments.append((ordinal, line))
    return segments if line + rows - ordinal == total + 1 else None


def line_at(segments: Sequence[tuple[int, int]], ordinal: int) -> int:
    """The line on which the record begins, by the segments of `place`.

    >>> line_at([(0, 2), (1, 4), (2, 6)], 2)
    6
    """
    start, line = segments[bisect_right(segments, ordinal, key=lambda s: s[0]) - 1]
    return line + ordinal - start
