"""Problems as people read them: one line `file:line: path: problem`, its hint right below."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import ConfigError
from . import registry
from .document import Mark
from .pipeline import PipelineConfig, SourceSpec, TargetSpec
from .problem import Path as KeyPath
from .problem import Problem, suggest
from .references import Resolved, hide

_GIVEN = ("name", "root", "type")
"""What a connector gets from the loader, so that nobody writes it among the settings."""


@dataclass(frozen=True)
class Shown:
    """Which line each part of a definition stands in; empty for pipelines written in Python."""

    marks: Mapping[KeyPath, Mark] = field(default_factory=dict)

    def where(self, at: KeyPath) -> Mark | None:
        """The line of `at`, or of the nearest thing around it that has one."""
        for length in range(len(at), -1, -1):
            if at[:length] in self.marks:
                return self.marks[at[:length]]
        return None


def report(found: Iterable[Problem], shown: Shown, resolved: Mapping[KeyPath, Resolved]) -> ConfigError:
    """One error for all of `found`, in the order of their lines, without any value from a reference."""
    lines: dict[tuple[str, int, str], str] = {}
    for problem in found:
        mark = shown.where(problem.at)
        text = _one_line(hide(_labelled(problem, mark), resolved, problem.at))
        hint = _one_line(hide(problem.hint, resolved, problem.at)) if problem.hint else ""
        lines.setdefault((mark.file if mark else "", mark.line if mark else 0, text), hint)
    files = list(dict.fromkeys(mark.file for mark in shown.marks.values()))
    ordered = sorted(
        lines.items(), key=lambda item: (files.index(item[0][0]) if item[0][0] else -1, item[0][1])
    )
    if len(ordered) == 1:
        (file, line, text), hint = ordered[0]
        return ConfigError(text, hint=hint or None, where=f"{file}:{line}" if file else None)
    parts = []
    for (file, line, text), hint in ordered:
        parts.append(f"{file}:{line}: {text}" if file else text)
        if hint:
            parts.append(f"hint: {hint}")
    return ConfigError("\n".join(parts))


def _one_line(text: str) -> str:
    """`text` with line ends and other control characters spelt out: a value must not fake a line."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


def _labelled(problem: Problem, mark: Mark | None) -> str:
    label, rest = _label(problem.at, full=mark is None)
    name = next((key for key in reversed(rest) if isinstance(key, str)), "")
    if name and not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", problem.message):
        label = f"{label}: {_dotted(rest)}" if label else _dotted(rest)
    return f"{label}: {problem.message}" if label else problem.message


def _label(at: KeyPath, *, full: bool) -> tuple[str, KeyPath]:
    """What `at` lies in, in words, and the rest of the path."""
    if at[:1] in (("sources",), ("targets",)) and len(at) > 1:
        return f"{str(at[0])[:-1]} `{at[1]}`", at[2:]
    if at[:1] != ("tables",) or len(at) < 2:
        return "", at
    table, rest = f"table `{at[1]}`", at[2:]
    if rest[:1] != ("contract",):
        return table, rest
    before = f"{table}, " if full else ""
    if len(rest) > 2 and rest[1] in ("columns", "rules"):
        return f"{before}{str(rest[1])[:-1]} `{rest[2]}`", rest[3:]
    if len(rest) > 2 and rest[1] == "expect":
        return f"{before}expectation {int(rest[2]) + 1}", rest[3:]
    return (table if full else ""), rest[1:]


def _dotted(at: KeyPath) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in at).lstrip(".")


def settings_problems(sources: Mapping[str, SourceSpec], root: Path) -> list[Problem]:
    """What connectors say of their settings: nothing runs with a bad one."""
    return [p for name, spec in sources.items() for p in _settings(name, spec, "source", root)[1]]


def target_problems(config: PipelineConfig, root: Path) -> list[Problem]:
    """What the connectors of targets say of their settings, and of the tables that they are to take."""
    found: list[Problem] = []
    for name, spec in config.targets.items():
        made, wrong = _settings(name, spec, "target", root)
        found += wrong
        for table, other in config.tables.items():
            keyless = not other.keys or other.keys == ["*"]
            if name in other.to and keyless and getattr(made, "deletes", "") == "soft":
                message = f"to: target `{name}` marks deleted rows, which it must know by their key"
                hint = f"give `{table}` `keys`, or publish it to a target with `deletes: hard`"
                found.append(Problem(("tables", table, "to", other.to.index(name)), message, hint))
    return found


def _settings(
    name: str, spec: SourceSpec | TargetSpec, role: registry.Role, root: Path
) -> tuple[Any, list[Problem]]:
    """The connector with its settings, or what is wrong with them."""
    at = (f"{role}s", name)
    try:
        kind = registry.connector(spec.type, role)
    except ConfigError as error:
        return None, [Problem((*at, "type"), error.message, error.hint)]
    try:
        return kind.model_validate({**spec.settings, "name": name, "root": str(root)}), []
    except ValidationError as error:
        return None, [p.under(*at) for p in explain(error, kind, spec.settings, _GIVEN)]
    except ConfigError as error:
        return None, [Problem(at, error.message, error.hint)]


def explain(
    error: ValidationError, model: type[BaseModel], value: Any, given: Collection[str] = ()
) -> list[Problem]:
    """What pydantic found wrong with `value`, in our words; alternatives of a union become one problem."""
    found: list[Problem] = []
    alternatives: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        at = _real(detail["loc"], value)
        if detail["type"] == "headrace":
            found += [p.under(*at) for p in detail["ctx"]["problems"]]
        elif at != detail["loc"] and detail["type"] != "missing":
            alternatives.setdefault(at, []).append(detail)
        else:
            found.append(_explain(detail, at, model, given))
    for at, details in alternatives.items():
        found.append(_alternatives(details, at, model))
    return found


def _real(loc: KeyPath, value: Any) -> KeyPath:
    """The part of `loc` that is in `value`: pydantic adds names of union members to it."""
    for length, key in enumerate(loc):
        present = (isinstance(value, dict) and key in value) or (
            isinstance(value, list) and isinstance(key, int) and key < len(value)
        )
        if not present:
            return loc[:length]
        value = value[key]
    return loc


def _explain(
    detail: ErrorDetails, at: KeyPath, model: type[BaseModel], given: Collection[str] = ()
) -> Problem:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "missing":
        name = detail["loc"][-1]
        return Problem(at, f"`{name}` is missing", f"add `{name}: …`")
    if kind == "extra_forbidden":
        known = [name for name in _fields(model, at[:-1]) if len(at) > 1 or name not in given]
        return Problem(at, f"key `{at[-1]}` is not known", suggest(str(at[-1]), known, "keys"))
    if value is None:
        return Problem(at, f"`{_name(at)}` has no value", "give it one, or leave the key out")
    if kind in ("literal_error", "enum"):
        known = re.findall(r"'([^']*)'", context["expected"])
        return Problem(at, f"`{_name(at)}` cannot be {_quoted(value)}", suggest(str(value), known, "values"))
    if kind == "string_type" and not isinstance(value, (dict, list)):
        text = json.dumps(value)
        return Problem(at, f"{text} is not text", f'put it in quotes: "{text}"')
    words = {"string": "text", "dict": "`key: value` lines", "model": "`key: value` lines", "list": "a list"}
    words |= {"int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "a list"}
    word = words.get(kind.split("_")[0])
    if word and kind.endswith(("_type", "_parsing", "_from_float", "attributes_type")):
        return Problem(at, f"`{_name(at)}` must be {word}, not {_quoted(value)}", _example(word))
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    shown = message if message[:1] in "`\"'" else message[:1].lower() + message[1:]
    if kind == "value_error":
        return Problem(at, *_split_hint(shown))
    return Problem(at, f"`{_name(at)}` {shown}, not {_quoted(value)}")


def _split_hint(message: str) -> tuple[str, str | None]:
    head, found, hint = message.partition("\nhint: ")
    return head, hint if found else None


def _alternatives(details: list[ErrorDetails], at: KeyPath, model: type[BaseModel]) -> Problem:
    words = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}
    tails = [str(detail["loc"][len(at)]) for detail in details]
    if details[0]["input"] is None or not all(tail in words for tail in tails):
        return _explain(details[0], at, model)
    if "float" in tails:
        tails = [tail for tail in tails if tail != "int"]
    names = list(dict.fromkeys(words[tail] for tail in tails))
    return Problem(at, f"`{_name(at)}` must be {' or '.join(names)}, not {_quoted(details[0]['input'])}")


def _name(at: KeyPath) -> str:
    return next((key for key in reversed(at) if isinstance(key, str)), "the file")


def _quoted(value: Any) -> str:
    if isinstance(value, dict):
        return "`key: value` lines"
    if isinstance(value, list):
        return "a list"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"`{text if len(text) <= 80 else text[:77] + '…'}`"


def _example(word: str) -> str | None:
    examples = {"a list": "such as `[a, b]`", "`key: value` lines": "indent its keys below it"}
    return examples.get(word)


def _fields(model: Any, at: KeyPath) -> list[str]:
    """The keys that are known at `at`, as users write them."""
    kind: Any = model
    for key in at:
        kind = _model(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            named = {info.alias or name: info.annotation for name, info in kind.model_fields.items()}
            kind = named.get(str(key))
        else:
            kind = typing.get_args(kind)[-1] if typing.get_args(kind) else None
    kind = _model(kind)
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    return [info.alias or name for name, info in kind.model_fields.items()]


def _model(kind: Any) -> Any:
    """Out of `X | None`, the X."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next((arg for arg in typing.get_args(kind) if arg is not types.NoneType), None)
    return kind
