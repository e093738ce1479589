"""Scratch copies in which the lines that break a reader are blanked out, byte for byte the same otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from ..raw import BLOCK, open_plain


def blank_out(
    path: Path, form: Mapping[str, Any], spans: list[tuple[int, int]], filler: bytes, to: Path
) -> None:
    """Copies the plain bytes of `path` with each of `spans` (first byte, end byte) replaced by `filler`."""
    with closing(open_plain(path, form.get("compression"))) as stream, to.open("wb") as out:
        at = 0
        for first, end in sorted(spans):
            while at < first:
                block = stream.read(min(BLOCK, first - at))
                if not block:
                    return
                out.write(block)
                at += len(block)
            out.write(filler)
            while at < end:
                at += len(stream.read(min(BLOCK, end - at)) or b"\0" * (end - at))
        while block := stream.read(BLOCK):
            out.write(block)
