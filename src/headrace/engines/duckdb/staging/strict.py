"""JSON by the letter of RFC 8259, record by record, with every number as it is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

MALFORMED, NOT_OBJECT, DUPLICATE = "json.malformed", "json.not_an_object", "json.duplicate_key"
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Paths:
    """Where staged columns come from: per column the paths to try, in order."""

    columns: Sequence[Sequence[Path]]
    contract: int
    """So many of the columns are the contract's; the rest are beyond it."""
    refuse_new: bool
    refuse_missing: bool
    flat: Mapping[int, str] = field(default_factory=dict)
    """Places, and names, of columns that take no object or array."""
    folds: Mapping[str, str] = field(default_factory=dict)
    """Folded top-level keys → a spelling that `columns` have; empty where case matters."""
    plain: Sequence[str] = ()
    """Top-level keys of which any number in one record leave no doubt what they mean."""

    @property
    def all(self) -> list[Path]:
        return list(dict.fromkeys(p for column in self.columns for p in column))

    @property
    def parents(self) -> list[Path]:
        """Objects on the way to a value, the record itself left out."""
        return list(dict.fromkeys(p[:i] for p in self.all for i in range(1, len(p))))

    @property
    def roots(self) -> list[str]:
        return list(dict.fromkeys(p[0] for p in self.all))


class Broken(ValueError):
    """A document is not JSON from here on."""


class Number(str):
    """A number as it stands in the source."""

    __slots__ = ()


class Object(dict[str, Any]):
    """A JSON object that remembers whether a key came twice."""

    __slots__ = ("pairs",)
    pairs: list[tuple[str, Any]]


def _object(pairs: list[tuple[str, Any]]) -> Object:
    # The first of two equal keys counts, as it does for DuckDB.
    made = Object(reversed(pairs))
    made.pairs = pairs
    return made


def _constant(name: str) -> NoReturn:
    raise Broken(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=_constant
)

_ENDS = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_constant)
"""Finds where a value ends; for that nothing of it need be kept."""


def judge(source: str, paths: Paths) -> tuple[list[str | None] | None, str | None]:
    """The texts of one record, or None and the rule that it breaks."""
    try:
        record = _DECODER.decode(source)
        if not isinstance(record, Object):
            return None, NOT_OBJECT
        spelt = _spelt(record, paths) if paths.folds else record
        if spelt is None:
            return None, DUPLICATE
        record = spelt
        rule = _flaw(record, paths)
        return (None, rule) if rule else ([_column(record, column) for column in paths.columns], None)
    except (ValueError, RecursionError):
        return None, MALFORMED


def keys_of(source: str, paths: Paths) -> dict[Path, list[str]]:
    """The keys of a record and of the objects on the way to its values; empty if it is no object."""
    try:
        record = _DECODER.decode(source)
    except (ValueError, RecursionError):
        return {}
    found = {path: _find(record, path)[0] for path in ((), *paths.parents)}
    return {
        path: list(dict.fromkeys(k for k, _ in v.pairs)) for path, v in found.items() if isinstance(v, Object)
    }


def is_text(key: str) -> bool:
    """Whether UTF-8 has a spelling for it: half a surrogate pair, which JSON can escape, has none."""
    return not any("\ud800" <= c <= "\udfff" for c in key)


def fold(name: str) -> str:
    """Equal for names that differ only in case and outer blanks."""
    return name.strip().casefold()


def _spelt(record: Object, paths: Paths) -> Object | None:
    """The record with its keys as `paths` spell them; None if two keys of it mean the same column."""
    meant = [key for key in record if fold(key) in paths.folds]
    if len({fold(key) for key in meant}) < len(meant):
        return None
    roots = set(paths.roots)
    strange = {key: paths.folds[fold(key)] for key in meant if key not in roots}
    return _object([(strange.get(key, key), value) for key, value in record.pairs]) if strange else record


def _flaw(record: Object, paths: Paths) -> str | None:
    for path in ((), *paths.parents):
        inner, there = _find(record, path)
        if there and isinstance(inner, Object) and len(inner) != len(inner.pairs):
            return DUPLICATE
    if paths.refuse_new and not record.keys() <= set(paths.roots):
        return "header.unknown_column"
    given = [any(_find(record, p)[1] for p in column) for column in paths.columns[: paths.contract]]
    if given and not any(given):
        return "header.no_column"
    if paths.refuse_missing and not all(given):
        return "header.missing_column"
    for place, name in paths.flat.items():
        if isinstance(_value(record, paths.columns[place]), Object | list):
            return f"{name}.type"
    return None


def _find(value: Any, path: Path) -> tuple[Any, bool]:
    for step in path:
        if isinstance(value, Object) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None, False
    return value, True


def _column(record: Object, column: Sequence[Path]) -> str | None:
    value = _value(record, column)
    return None if value is None else _text(value)


def _value(record: Object, column: Sequence[Path]) -> Any:
    return next((v for v, _ in (_find(record, path) for path in column) if v is not None), None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _dump(value)


def _dump(value: Any) -> str:
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, Object):
        return "{" + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{_dump(v)}" for k, v in value.pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_dump, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


class Text:
    """Decoded text that is read as far as needed: what was consumed is forgotten."""

    def __init__(self, blocks: Iterator[str]) -> None:
        self.blocks, self.buffer, self.at = blocks, "", 0

    def more(self) -> bool:
        block = next(self.blocks, None)
        if block is None:
            return False
        self.buffer, self.at = self.buffer[self.at :] + block, 0
        return True

    def peek(self) -> str:
        """The next character that is no white space; '' at the end."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more():
                return ""

    def expect(self, marks: str) -> str:
        found = self.peek()
        if not found or found not in marks:
            raise Broken(f"`{found}` where one of `{marks}` belongs")
        self.at += 1
        return found

    def value(self) -> str:
        """The source text of the next value. Raises `ValueError` if there is none."""
        self.peek()
        wanted = 0
        while True:
            try:
                _, end = _ENDS.raw_decode(self.buffer, self.at)
            except ValueError:
                if not self.more():
                    raise
            else:
                # A number may go on in the next block.
                if end < len(self.buffer) or not self.more():
                    found = self.buffer[self.at : end]
                    self.at = end
                    return found
            # Reading twice as far each time keeps a huge value from being parsed over and over.
            wanted = max(wanted * 2, len(self.buffer) * 2)
            while len(self.buffer) < wanted and self.more():
                pass


def documents(text: Text, key: str | Sequence[str] | None) -> Iterator[str]:
    """Source texts of a document's records: of its array's elements, or of the one object that it is.

    With `key`, the array lies there. A sequence leads to an array or one object: names of keys, and `*` for
    each element of an array (`data`, `edges`, `*`, `node`).
    Raises `Broken`, `JSONDecodeError` or `RecursionError` where the document breaks; records
    before that have been given.
    """
    if text.peek() == "\ufeff":
        text.at += 1
    if key is not None and not isinstance(key, str):
        yield from _along(text, key)
    elif text.peek() == "[":
        yield from _elements(text)
    elif key is None or text.peek() != "{":
        whole = text.value()
        if text.peek():
            text.buffer, text.at = whole + text.buffer[text.at :], 0
            raise Broken("text after the end of the document")
        yield whole
        return
    else:
        yield from _under(text, key)
    _end(text)


def _end(text: Text) -> None:
    if text.peek():
        raise Broken(f"`{text.peek()}` after the end of the document")


def _elements(text: Text) -> Iterator[str]:
    text.expect("[")
    if text.peek() == "]":
        text.at += 1
        return
    while True:
        yield text.value()
        if text.expect(",]") == "]":
            return


def _along(text: Text, path: Sequence[str]) -> Iterator[str]:
    if path and path[0] == "*":
        for element in _elements(text):
            yield from _along(Text(iter([element])), path[1:])
    elif path:
        yield from _under(text, path[0], path[1:])
    elif text.peek() == "[":
        yield from _elements(text)
    elif (found := text.value()) != "null":
        yield found


def _under(text: Text, key: str, rest: Sequence[str] | None = None) -> Iterator[str]:
    text.expect("{")
    while text.peek() != "}":
        if text.peek() != '"':
            raise Broken(f"`{text.peek()}` where a key belongs")
        name = json.loads(text.value())
        text.expect(":")
        if name == key and rest is not None:
            yield from _along(text, rest)
        elif name == key and text.peek() == "[":
            yield from _elements(text)
        else:
            text.value()
        if text.peek() != "}":
            text.expect(",")
            if text.peek() == "}":
                raise Broken("a comma before the end of the object")
    text.expect("}")
