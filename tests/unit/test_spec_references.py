"""References are resolved, and what they stood for is never seen."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from headrace.spec.references import Surroundings, hide, public, resolve, secrets


def run(value: object, root: Path, **environ: str) -> tuple[object, list[str], list[str | None]]:
    resolved, _, problems = resolve(value, Surroundings(environ, root))
    return resolved, [p.message for p in problems], [p.hint for p in problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "alpha"),
        ("${A:-x}", "alpha"),
        ("${B:-x}", "x"),
        ("${B:-}", ""),
        ("${EMPTY:-x}", "x"),
        ("s3://${A}/${B:-b}/c", "s3://alpha/b/c"),
        ("$${A}", "${A}"),
        ("$A and {A}", "$A and {A}"),
        ("${file:token.txt}", "t0ken"),
    ],
)
def test_values(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text("t0ken\n")
    value, messages, _ = run({"k": [text]}, tmp_path, A="alpha", EMPTY="")
    assert (value, messages) == ({"k": [expected]}, [])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("${B}", "environment variable `B` is not set", "export B="),
        ("${EMPTY}", "environment variable `EMPTY` is empty", "export EMPTY="),
        ("${a b}", "`${a b}` is no reference", "${file:path}"),
        ("${}", "`${}` is no reference", "${NAME}"),
        ("${file:nope}", "secret file `nope` cannot be read: No such file", "relative to the pipeline file"),
        ("${file:empty}", "secret file `empty` is empty", "one value"),
        ("${file:binary}", "is not text", "base64"),
        ("${keyring:x}", "`keyring:x` is incomplete", "service/name"),
    ],
)
def test_what_leads_nowhere(text: str, message: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x01")
    _, messages, hints = run([text], tmp_path, EMPTY="")
    assert len(messages) == 1
    assert message in messages[0]
    assert hint in (hints[0] or "")


def test_keyring_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    _, messages, hints = run("${keyring:crm/reader}", tmp_path)
    assert messages == ["`keyring:crm/reader` needs the extra `keyring`"]
    assert hints == ["pip install 'headrace[keyring]'"]
    fake = types.ModuleType("keyring")
    stored = {("crm", "reader"): "pw"}
    fake.get_password = lambda service, name: stored.get((service, name))  # type: ignore[attr-defined]
    fake.errors = types.SimpleNamespace(KeyringError=OSError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", fake)
    assert run("${keyring:crm/reader}", tmp_path)[0] == "pw"
    assert run("${keyring:crm/other}", tmp_path)[1] == ["the keyring has no `crm/other`"]


def test_secrets_are_told_from_settings(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("hunter22")
    value = {
        "lake": "${LAKE}",
        "pii_key": "${K}",
        "sources": {
            "crm": {
                "dsn": "${CRM_DSN}",
                "password": "written-out",
                "login": "${file:pw}",
                "region": "${REGION}",
            },
            "web": {"address": "${SITE}"},
        },
        "tables": {"t": {"keys": ["id"]}},
    }
    environ = {
        "LAKE": "/data/lake",
        "K": "kk",
        "CRM_DSN": "postgres://db",
        "REGION": "eu",
        "SITE": "https://me:pw@site",
    }
    resolved, found, problems = resolve(value, Surroundings(environ, tmp_path))
    assert not problems
    assert public(resolved, found) == {
        "lake": "/data/lake",
        "pii_key": "${K}",
        "sources": {
            "crm": {"dsn": "${CRM_DSN}", "password": "***", "login": "${file:pw}", "region": "eu"},
            "web": {"address": "${SITE}"},
        },
        "tables": {"t": {"keys": ["id"]}},
    }
    expected = {"kk", "postgres://db", "written-out", "hunter22", "https://me:pw@site", "pw"}
    assert secrets(resolved, found) == expected


def test_messages_show_references_instead_of_values(tmp_path: Path) -> None:
    environ = {"N": "7", "API_TOKEN": "abcdef123"}
    _, found, _ = resolve({"n": "${N}", "t": "Bearer ${API_TOKEN}"}, Surroundings(environ, tmp_path))
    assert hide("`7` is no size", found, ("n",)) == "`${N}` is no size"
    assert hide("17 files", found, ("other",)) == "17 files"
    assert hide("refused: Bearer abcdef123", found, ()) == "refused: Bearer ${API_TOKEN}"
