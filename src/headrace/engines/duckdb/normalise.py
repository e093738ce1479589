"""Odd text becomes clean UTF-8 in scratch, line for line, so that one fast reader serves all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_plain(form: Mapping[str, Any]) -> bool:
    """True if DuckDB's reader takes the bytes as they are."""
    return (
        str(form.get("encoding") or "utf-8") in ("utf-8", "utf-8-sig")
        and not form.get("nul")
        and not form.get("row_end")
        and not form.get("mixed_newlines")
        and form.get("compression") != "zip"
        and len(str(form.get("delimiter") or ",").encode()) <= 4
    )
