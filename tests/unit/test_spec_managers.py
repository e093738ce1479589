"""Secrets come from managers by their own libraries; what goes wrong is named without them.

Vault's client speaks its real protocol to a small stand-in; AWS's to moto; Google's library has no stand-in
that can be had, so its client is replaced.
"""

from __future__ import annotations

import json
import sys
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from places import s3

from headrace.spec.references import Surroundings, resolve, secrets

TOKEN = "hvs.root-token"
KV2 = {"data": {"data": {"password": "hunter22", "port": 5432}, "metadata": {"version": 3}}}
made = iter(range(1000))


class Vault(BaseHTTPRequestHandler):
    """As much of Vault's HTTP API as reading takes."""

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.headers.get("X-Vault-Token") not in (TOKEN, "hvs.by-role"):
            return self._answer(403, {"errors": ["permission denied"]})
        n = next(made)
        known = {
            "/v1/secret/data/crm": KV2,
            "/v1/kv/old": {"data": {"password": "of version 1"}},
            "/v1/database/creds/etl": {"data": {"username": f"user-{n}", "password": f"made-{n}"}},
        }
        if self.path not in known:
            return self._answer(404, {"errors": []})
        return self._answer(200, known[self.path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/auth/approle/login" and body == {"role_id": "r", "secret_id": "s"}:
            return self._answer(200, {"auth": {"client_token": "hvs.by-role"}})
        return self._answer(400, {"errors": ["invalid role or secret ID"]})


@pytest.fixture(scope="module")
def vault() -> Iterator[str]:
    pytest.importorskip("hvac")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Vault)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(value: Any, **environ: str) -> tuple[Any, list[str], frozenset[str]]:
    resolved, found, problems = resolve(value, Surroundings(environ, Path("/nowhere")))
    return resolved, [f"{p.message} | {p.hint}" for p in problems], secrets(resolved, found)


@pytest.fixture(autouse=True)
def _no_token_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def test_vault(vault: str) -> None:
    value = {
        "dsn": "postgresql://etl:${vault:secret/data/crm#password}@db:${vault:secret/data/crm#port}/x",
        "old": "${vault:kv/old#password}",
    }
    resolved, problems, hidden = run(value, VAULT_ADDR=vault, VAULT_TOKEN=TOKEN)
    assert problems == []
    assert resolved == {"dsn": "postgresql://etl:hunter22@db:5432/x", "old": "of version 1"}
    assert {"hunter22", "of version 1", "postgresql://etl:hunter22@db:5432/x"} <= hidden


def test_vault_makes_credentials_once_for_a_definition(vault: str) -> None:
    value = ["${vault:database/creds/etl#username}", "${vault:database/creds/etl#password}"]
    (user, password), _, _ = run(value, VAULT_ADDR=vault, VAULT_TOKEN=TOKEN)
    assert user.removeprefix("user-") == password.removeprefix("made-")


def test_vault_by_role(vault: str) -> None:
    by_role = {"VAULT_ADDR": vault, "VAULT_ROLE_ID": "r"}
    assert run("${vault:kv/old#password}", **by_role, VAULT_SECRET_ID="s")[0] == "of version 1"
    _, [problem], _ = run("${vault:kv/old#password}", **by_role, VAULT_SECRET_ID="wrong-secret")
    assert "Vault refuses" in problem
    assert "wrong-secret" not in problem


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ("${vault:}", {}, "is incomplete"),
        ("${vault:kv/old}", {}, "has fields"),
        ("${vault:kv/old#nope}", {}, "has no field `nope`"),
        ("${vault:kv/none#x}", {}, "has no `kv/none`"),
        ("${vault:kv/old#password}", {"VAULT_TOKEN": "hvs.another"}, "forbids `kv/old`"),
        ("${vault:kv/old#password}", {"VAULT_ADDR": "http://127.0.0.1:9"}, "does not answer"),
        ("${vault:kv/old#password}", {"VAULT_ADDR": ""}, "VAULT_ADDR is not set"),
    ],
)
def test_what_vault_has_not(vault: str, text: str, environ: dict[str, str], message: str) -> None:
    _, [problem], _ = run(text, **{"VAULT_ADDR": vault, "VAULT_TOKEN": TOKEN, **environ})
    assert message in problem
    assert "of version 1" not in problem
    assert "hvs." not in problem


def test_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    session = pytest.importorskip("botocore.session")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "example",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    with s3() as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        client = session.get_session().create_client("secretsmanager")
        client.create_secret(Name="prod/crm", SecretString=json.dumps({"password": "hunter22"}))
        arn = client.create_secret(Name="plain", SecretString="just text")["ARN"]
        client.create_secret(Name="bytes", SecretBinary=b"\xff\xfe")
        client.close()
        resolved, problems, hidden = run(["${aws:prod/crm#password}", f"${{aws:{arn}}}"])
        assert (resolved, problems) == (["hunter22", "just text"], [])
        assert {"hunter22", "just text"} <= hidden
        for text, message in (
            ("${aws:nowhere}", "ResourceNotFoundException"),
            ("${aws:plain#x}", "is not JSON"),
            ("${aws:bytes}", "is not text"),
        ):
            _, [problem], _ = run(text)
            assert message in problem
            assert "just text" not in problem


def test_gcp(monkeypatch: pytest.MonkeyPatch) -> None:
    secretmanager = pytest.importorskip("google.cloud.secretmanager")
    from google.api_core.exceptions import PermissionDenied

    class Client:
        def access_secret_version(self, request: dict[str, str], timeout: float) -> Any:
            assert timeout > 0
            if request["name"] != "projects/p/secrets/crm/versions/latest":
                raise PermissionDenied("no")  # type: ignore[no-untyped-call]
            return types.SimpleNamespace(payload=types.SimpleNamespace(data=b'{"password": "hunter22"}'))

    monkeypatch.setattr(secretmanager, "SecretManagerServiceClient", Client)
    assert run("${gcp:projects/p/secrets/crm#password}")[0] == "hunter22"
    assert run("${gcp:crm#password}", GOOGLE_CLOUD_PROJECT="p")[0] == "hunter22"
    assert "PermissionDenied" in run("${gcp:projects/p/secrets/crm/versions/3}")[1][0]
    assert "is incomplete" in run("${gcp:crm}")[1][0]


@pytest.mark.parametrize(
    ("kind", "driver"), [("vault", "hvac"), ("aws", "botocore.session"), ("gcp", "google")]
)
def test_managers_are_extras(kind: str, driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == driver or name.startswith(f"{driver}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, driver, None)
    name = "projects/p/secrets/x#y"
    _, [problem], _ = run(f"${{{kind}:{name}}}", VAULT_ADDR="http://127.0.0.1:9")
    assert f"pip install 'headrace[{kind}]'" in problem
