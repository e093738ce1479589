"""No secret leaves by a log line or a stored error message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "***"

_known: tuple[str, ...] = ()
"""Longest first, so that a secret within another leaves no rest of it."""

_NAME = re.compile(
    r"passw(?:or)?d|passphrase|pwd|secret|token|credentials?|authorization"
    r"|(?:api|access|private|pii|account|shared)[_-]?key",
    re.I,
)
# Bounded repeats: error texts can hold whole lines of data, and these must stay linear on any of them.
_TEXT = re.compile(
    rf"""(\b[a-z][\w+.-]{{0,30}}://[^\s:/@]{{0,200}}:)[^\s/]+(?=@)
    |(\bauthorization["']?\s*[:=]\s*["']?(?:(?:bearer|basic|digest|token)\s+)?)[^\s"',;]+
    |(\b(?:bearer|basic)\s+)[\w.~+/=-]{{12,}}
    |(\b[\w-]{{0,40}}(?:{_NAME.pattern})["']?\s*[=:]\s*)(?:"[^"\n]*"|'[^'\n]*'|[^\s"',;&]+)""",
    re.I | re.X,
)


def register(secrets: Iterable[str]) -> None:
    """From now on each of `secrets` is masked wherever it appears, also in a URL's spelling or line by line.

    Texts under four characters are left: they are in every other word.
    """
    global _known
    forms = {form for secret in secrets for form in (secret, quote(secret, safe=""), *secret.splitlines())}
    fresh = {form for form in forms if len(form.strip()) >= 4}
    _known = tuple(sorted({*_known, *fresh}, key=lambda form: (-len(form), form)))


def text(value: str) -> str:
    """`value` with registered secrets masked, and what looks like one by its name or place.

    >>> text("connect postgresql://etl:hunter2@db/sales?password=x failed")
    'connect postgresql://etl:***@db/sales?password=*** failed'
    """
    for secret in _known:
        if secret in value:
            value = value.replace(secret, MASK)
    return _TEXT.sub(_masked, value)


def suspicious(value: str) -> bool:
    """Whether `value` looks as if it held a secret, by the names and places in it alone.

    >>> suspicious("https://host/a.csv?token=x"), suspicious("https://host/a.csv?day=7")
    (True, False)
    """
    return _TEXT.search(value) is not None


def field(name: str, value: object) -> object:
    """`value`, masked whole if `name` says that it is a secret.

    >>> field("api_key", "abc def"), field("table", "sales"), field("rows", 3)
    ('***', 'sales', 3)
    """
    if _NAME.search(name):
        return MASK
    return value if value is None or isinstance(value, (bool, int, float)) else text(str(value))


def _masked(match: re.Match[str]) -> str:
    return next(part for part in match.groups() if part is not None) + MASK
