"""YAML with every key's line, and none of YAML's traps.

Of YAML, only what a reader expects: true/false, numbers, text, lists, mappings. So `NO`, `on`, `12:30`,
`007` and `2026-01-31` are text, keys are always text, a key stands once, and there are no tags. Anchors
and `<<` work within limits that an "anchor bomb" exceeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .problem import Path as KeyPath

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
"""Values that anchors may expand to; a long file without anchors has as many as it has."""
MAX_ALIASES = 100
MAX_DEPTH = 50

_CORE = "tag:yaml.org,2002:"
_KNOWN_TAGS = {_CORE + word for word in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a key or list entry stands: `file` as the user knows it, 1-based `line`."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values, and by path where each key or list entry stands."""

    value: Any
    marks: Mapping[KeyPath, Mark] = field(default_factory=dict)


class Unreadable(Exception):
    """A file that is not the YAML we take: where, what, and how to fix it."""

    def __init__(self, mark: Mark, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.mark, self.message, self.hint = mark, message, hint


class _Loader(yaml.SafeLoader):
    """Reads the node graph only; nothing is ever constructed from a tag."""

    yaml_implicit_resolvers: dict[str | None, Any] = {}  # noqa: RUF012  (PyYAML's own way of subclassing)
    aliases = 0
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.depth += 1
        if isinstance(event, yaml.AliasEvent):
            self.aliases += 1
        if self.aliases > MAX_ALIASES or self.depth > MAX_DEPTH:
            what = f"more than {MAX_ALIASES} aliases" if self.depth <= MAX_DEPTH else "too deeply nested"
            raise yaml.composer.ComposerError(None, None, what, event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]+)?|[-+]?[1-9][0-9]*[eE][-+]?[0-9]+",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(_CORE + _tag, re.compile(rf"(?:{_pattern})$"), list(_first))


def read(file: Path, shown: str) -> Document:
    """The one document of `file`, which errors call `shown`; raises `Unreadable`."""
    start = Mark(shown, 1)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise Unreadable(
            start, f"cannot be read: {error.strerror}", "check the path and its rights"
        ) from error
    if len(data) > MAX_BYTES:
        raise Unreadable(start, f"{len(data):,} bytes; a definition has at most {MAX_BYTES:,}", "split it")
    try:
        return parse(data.decode("utf-8-sig"), shown)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(Mark(shown, line), "is not UTF-8", "save the file as UTF-8") from error


def parse(text: str, shown: str) -> Document:
    """The one document of `text`; raises `Unreadable`.

    >>> document = parse("name: sales\\ncountry: NO\\n", "pipeline.yml")
    >>> document.value, str(document.marks["country",])
    ({'name': 'sales', 'country': 'NO'}, 'pipeline.yml:2')
    """
    try:
        # Not the C reader: it recurses without our limits.
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        message = " ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(Mark(shown, line), message.replace("\t", "\\t"), _syntax_hint(message)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(
            Mark(shown, line), "has a character that YAML does not allow", "remove it"
        ) from error
    if node is None:
        raise Unreadable(Mark(shown, 1), "is empty", "see `headrace init` for a file to start from")
    # a value takes a character at least, so only anchors make more values than that
    return _Builder(shown, max(MAX_NODES, len(text))).document(node)


def _syntax_hint(message: str) -> str:
    if "another document" in message or "single document" in message:
        return "one file holds one document: remove `---`"
    if "\t" in message or "\\t" in message:
        return "indent with spaces, never with tabs"
    if "aliases" in message or "nested" in message:
        return "write the values out"
    return "put text with `: `, ` #` or a leading special character in quotes"


class _Builder:
    """Turns nodes into values, once per place where they stand: aliases are counted as often as used."""

    def __init__(self, file: str, most: int) -> None:
        self.file = file
        self.most = most
        self.nodes = 0
        self.marks: dict[KeyPath, Mark] = {}

    def document(self, node: yaml.Node) -> Document:
        self.marks[()] = self._mark(node)
        return Document(self.build(node, ()), self.marks)

    def build(self, node: yaml.Node, at: KeyPath) -> Any:
        self.nodes += 1
        if self.nodes > self.most or len(at) > MAX_DEPTH:
            raise Unreadable(self._mark(node), "anchors expand to too many values", "write the values out")
        if node.tag not in _KNOWN_TAGS:
            tag = node.tag.replace(_CORE, "!!")
            raise Unreadable(
                self._mark(node), f"tag `{tag}` is not allowed", "remove the tag: plain values only"
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode):
            return [self._entry(child, (*at, place)) for place, child in enumerate(node.value)]
        return self._scalar(node)

    def _entry(self, node: yaml.Node, at: KeyPath) -> Any:
        self.marks[at] = self._mark(node)
        return self.build(node, at)

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, child in node.value:
            if key.tag == _CORE + "merge":
                merged |= self._merged(child, at)
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise Unreadable(self._mark(key), "a key must be text", "write `key: value`")
            name = self._text(key)
            if name in own:
                first = self.marks[(*at, name)].line
                message = f"key `{name}` is there twice (first in line {first})"
                raise Unreadable(self._mark(key), message, "remove or rename one of them")
            self.marks[(*at, name)] = self._mark(key)
            own[name] = self.build(child, (*at, name))
        return {**{name: value for name, value in merged.items() if name not in own}, **own}

    def _merged(self, node: yaml.Node, at: KeyPath) -> dict[str, Any]:
        """What `<<` brings; the first of several mappings wins, as YAML has it."""
        result: dict[str, Any] = {}
        for part in reversed(node.value if isinstance(node, yaml.SequenceNode) else [node]):
            if not isinstance(part, yaml.MappingNode):
                raise Unreadable(self._mark(node), "`<<` needs a mapping", "write `<<: *anchor`")
            builder = _Builder(self.file, self.most)
            builder.nodes = self.nodes
            result |= builder.build(part, at)
            self.nodes = builder.nodes
            for place, mark in builder.marks.items():
                self.marks.setdefault(place, mark)
        return result

    def _scalar(self, node: yaml.Node) -> Any:
        text = self._text(node)
        kind = node.tag.removeprefix(_CORE)
        try:
            if kind == "int":
                return int(text)
            if kind == "float":
                return float(text)
        except ValueError as error:
            raise Unreadable(self._mark(node), f"`{text}` is no number", "put text in quotes") from error
        if kind == "bool":
            return text.lower() == "true"
        return None if kind == "null" else text

    def _text(self, node: yaml.Node) -> str:
        """The scalar's text; characters that JSON escapes in halves (\\ud83d\\ude00) are put together."""
        text: str = node.value
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise Unreadable(self._mark(node), "has half a character", "remove the escape `\\ud…`") from error

    def _mark(self, node: yaml.Node) -> Mark:
        return Mark(self.file, node.start_mark.line + 1)
