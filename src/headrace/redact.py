"""No secret leaves by a log line or a stored error message."""

from __future__ import annotations

import re

MASK = "***"

_known: set[str] = set()
_SECRET_NAME = (
    r"passw(?:or)?d|passphrase|pwd|secret|token|credentials?|api[_-]?key|access[_-]?key|private[_-]?key"
)
_TEXT = re.compile(
    rf"""(?P<url>\b[a-z][\w+.-]*://[^\s:/@]*:)[^\s/@]+(?=@)
    |(?P<auth>\bauthorization["']?\s*[:=]\s*["']?(?:(?:bearer|basic|digest|token)\s+)?)[^\s"',;]+
    |(?P<bearer>\b(?:bearer|basic)\s+)[\w.~+/=-]{{12,}}
    |(?P<name>\b[\w-]*(?:{_SECRET_NAME})["']?\s*[=:]\s*)(?:"[^"]*"|'[^']*'|[^\s"',;&]+)""",
    re.I | re.X,
)


def register(secret: str) -> None:
    """From now on `secret` is masked wherever it appears; texts under four characters are too common."""
    if len(secret) >= 4:
        _known.add(secret)


def text(value: str) -> str:
    """`value` with registered secrets masked, and what looks like one by its name or place.

    >>> text("connect postgresql://etl:hunter2@db/sales?password=x failed")
    'connect postgresql://etl:***@db/sales?password=*** failed'
    """
    for secret in sorted(_known, key=len, reverse=True):
        if secret in value:
            value = value.replace(secret, MASK)
    return _TEXT.sub(_masked, value)


def _masked(match: re.Match[str]) -> str:
    return next(part for part in match.groups() if part is not None) + MASK
