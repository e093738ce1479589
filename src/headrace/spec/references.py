"""References in a definition: `${NAME}`, `${NAME:-default}`, `${file:path}`, `${keyring:service/name}`, and
`${vault:…}`, `${aws:…}`, `${gcp:…}` for secret managers.

What a reference stood for is known by path, so that errors and records show the reference, never the value.
`$${` is a plain `${`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ..redact import suspicious
from .managers import MANAGERS, look_up
from .problem import Path as KeyPath
from .problem import Problem

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_ENV = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:-(.*))?", re.DOTALL)
_SECRET = re.compile(
    r"key|secret|token|pass|pwd|credential|auth|private|signature|webhook|url|uri|dsn|conn", re.IGNORECASE
)
_SECRET_FIELD = re.compile(
    r"(^|_)(secrets?|tokens?|passwords?|passphrase|pwd|credentials?|alerts)$|(api|access|private|pii|account)_?key$"
)
_USERINFO = re.compile(r"://[^/\s:@]*:?([^/\s@]*)@")
MAX_FILE = 65_536


@dataclass(frozen=True, slots=True)
class Resolved:
    """A value that came from references: as `written`, as it is, and whether it must stay hidden."""

    written: str
    value: str
    secret: bool
    parts: tuple[str, ...] = ()
    """Secrets within the value: `${PW}` in `postgresql://etl:${PW}@db/sales`."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where references are looked up: the environment, and files relative to the project's root."""

    environ: Mapping[str, str]
    root: Path
    asked: dict[str, Any] = field(default_factory=dict, repr=False)
    """What secret managers have answered."""


def resolve(value: Any, around: Surroundings) -> tuple[Any, dict[KeyPath, Resolved], list[Problem]]:
    """`value` with all references replaced, what they were, and a problem for each that leads nowhere."""
    found: dict[KeyPath, Resolved] = {}
    problems: list[Problem] = []

    def change(text: str, at: KeyPath) -> str:
        if "${" not in text:
            return text
        resolved, problem = _resolve_text(text, at, around)
        if problem:
            problems.append(problem)
        elif resolved.value != text.replace("$${", "${"):
            found[at] = resolved
        return resolved.value

    return _replace(value, (), change), found, problems


def _resolve_text(text: str, at: KeyPath, around: Surroundings) -> tuple[Resolved, Problem | None]:
    problems: list[Problem] = []
    secret = is_secret_field(at)
    parts: list[str] = []
    every: list[str] = []

    def replace(match: re.Match[str]) -> str:
        nonlocal secret
        if match[1] is None:
            return "${"
        try:
            value, hidden = _look_up(match[1], around)
        except LookupError as error:
            message, hint = error.args
            problems.append(Problem(at, message, hint))
            return match[0]
        hidden = hidden or bool(_USERINFO.search(value))
        secret = secret or hidden
        every.append(value)
        if hidden:
            parts.append(value)
        return value

    value = _REFERENCE.sub(replace, text)
    if every and suspicious(value):  # such as https://host/a.csv?token=${T}
        secret, parts = True, every
    return Resolved(text, value, secret, tuple(parts)), problems[0] if problems else None


def _look_up(reference: str, around: Surroundings) -> tuple[str, bool]:
    """The value and whether it is a secret; raises LookupError(message, hint)."""
    kind, colon, rest = reference.partition(":")
    if colon and kind in _LOOK_UPS:
        return _LOOK_UPS[kind](rest.strip(), around), True
    match = _ENV.fullmatch(reference.strip())
    if not match:
        hint = (
            "write ${NAME}, ${NAME:-default}, ${file:path}, ${keyring:service/name}, ${vault:path#field}, "
            "${aws:name} or ${gcp:name}; $${ is plain text"
        )
        raise LookupError(f"`${{{reference}}}` is no reference", hint)
    name, has_default, default = match.groups()
    if around.environ.get(name):
        return around.environ[name], bool(_SECRET.search(name))
    if has_default:
        return default, False
    state = "empty" if name in around.environ else "not set"
    raise LookupError(
        f"environment variable `{name}` is {state}",
        f"export {name}=…, or give a default: ${{{name}:-…}}",
    )


def _from_file(name: str, around: Surroundings) -> str:
    path = around.root / Path(name).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        hint = "the path is relative to the pipeline file, or absolute"
        raise LookupError(f"secret file `{name}` cannot be read: {error.strerror}", hint) from error
    if len(data) > MAX_FILE or not data.strip():
        what = "empty" if not data.strip() else f"over {MAX_FILE:,} bytes"
        raise LookupError(f"secret file `{name}` is {what}", "a secret file holds one value")
    try:
        return data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise LookupError(f"secret file `{name}` is not text", "store keys as base64 or hex") from None


def _from_keyring(name: str, around: Surroundings) -> str:  # noqa: ARG001  (one shape for all look-ups)
    service, slash, user = name.rpartition("/")
    if not slash or not service or not user:
        raise LookupError(f"`keyring:{name}` is incomplete", "write ${keyring:service/name}")
    try:
        import keyring
    except ImportError as error:
        hint = "pip install 'headrace[keyring]'"
        raise LookupError(f"`keyring:{name}` needs the extra `keyring`", hint) from error
    try:
        value = keyring.get_password(service, user)
    except keyring.errors.KeyringError as error:
        raise LookupError(f"the keyring cannot be read for `{name}`: {error}", "unlock it") from error
    if not value:
        raise LookupError(f"the keyring has no `{name}`", f"keyring set {service} {user}")
    return str(value)


def _from_manager(kind: str, name: str, around: Surroundings) -> str:
    return look_up(kind, name, around.environ, around.asked)


_LOOK_UPS: Mapping[str, Callable[[str, Surroundings], str]] = {
    "file": _from_file,
    "keyring": _from_keyring,
    **{kind: partial(_from_manager, kind) for kind in MANAGERS},
}


def is_secret_field(at: KeyPath) -> bool:
    """Whether a field's place says that its value is a secret. Tables have none.

    >>> is_secret_field(("pii_key",)), is_secret_field(("sources", "crm", "api_token"))
    (True, True)
    >>> is_secret_field(("encryption", "key")), is_secret_field(("encryption", "keys", "k1"))
    (False, True)
    """
    if at[:2] == ("encryption", "keys"):
        return len(at) > 2
    return at[:1] != ("tables",) and any(isinstance(key, str) and _SECRET_FIELD.search(key) for key in at)


def hide(text: str, resolved: Mapping[KeyPath, Resolved], at: KeyPath) -> str:
    """`text` without any value that came from a reference: at `at` however short, elsewhere if it is long
    enough not to be found by chance."""
    for path, reference in sorted(resolved.items(), key=lambda item: -len(item[1].value)):
        near = path[: len(at)] == at or at[: len(path)] == path
        if reference.value and (near or (reference.secret and len(reference.value) >= 6)):
            text = text.replace(reference.value, reference.written)
    return text


def public(value: Any, resolved: Mapping[KeyPath, Resolved]) -> Any:
    """`value` fit for records: secrets are shown as the reference they came from, or as `***`."""
    written = {r.value: r.written for r in resolved.values() if r.secret and r.value}
    return _replace(
        value, (), lambda text, at: written.get(text, "***" if text and is_secret_field(at) else text)
    )


def secrets(value: Any, resolved: Mapping[KeyPath, Resolved]) -> frozenset[str]:
    """All secret values in `value`, whether they came from references or are written out.

    Of a URL also the password alone, as drivers quote it.
    """
    found = {text for r in resolved.values() if r.secret for text in (r.value, *r.parts)}

    def note(text: str, at: KeyPath) -> str:
        if is_secret_field(at):
            found.add(text)
        return text

    _replace(value, (), note)
    found |= {form for text in found for pw in _USERINFO.findall(text) if pw for form in (pw, unquote(pw))}
    return frozenset(found - {""})


def _replace(value: Any, at: KeyPath, change: Callable[[str, KeyPath], str]) -> Any:
    if isinstance(value, dict):
        return {key: _replace(child, (*at, key), change) for key, child in value.items()}
    if isinstance(value, list):
        return [_replace(child, (*at, place), change) for place, child in enumerate(value)]
    return change(value, at) if isinstance(value, str) else value
