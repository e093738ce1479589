"""A problem is what is wrong, where in the definition, and how to fix it; they are reported all at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic_core import PydanticCustomError

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """`at` is a path of keys and list places, relative to the model that reports it."""

    at: Path
    message: str
    hint: str | None = None

    def under(self, *prefix: str | int) -> Problem:
        return Problem((*prefix, *self.at), self.message, self.hint)


def refuse(problems: Iterable[Problem]) -> None:
    """Raises what pydantic collects, if there are problems; the loader finds each one's line again."""
    found = tuple(problems)
    if not found:
        return
    text = "; ".join(p.message + (f" ({p.hint})" if p.hint else "") for p in found)
    raise PydanticCustomError("headrace", "{text}", {"text": text, "problems": found})


def suggest(value: str, known: Iterable[str], what: str) -> str:
    """A hint that names the nearest known word, if one is near, and then the known words.

    >>> suggest("integr", ["integer", "text"], "Types")
    'did you mean `integer`? Types: integer, text'
    >>> suggest("xyz", ["a", "b"], "sources")
    'sources: a, b'
    """
    words = list(known)
    listed = f"{what}: {', '.join(words)}" if words else f"there are no {what}"
    near = nearest(value, words)
    return f"did you mean `{near}`? {listed}" if near else listed


def nearest(value: str, known: Sequence[str]) -> str | None:
    """The known word that `value` is probably a misspelling of; case does not matter.

    >>> nearest("ORDER_ID", ["order_id", "qty"])
    'order_id'
    """
    folded = {word.casefold(): word for word in reversed(known)}
    near = difflib.get_close_matches(value.casefold(), folded, n=1, cutoff=0.6)
    return folded[near[0]] if near else None
