"""Secrets that managers keep: HashiCorp Vault, AWS Secrets Manager, Google Secret Manager."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TIMEOUT = 10
"""Seconds for one question."""


def look_up(kind: str, name: str, environ: Mapping[str, str], asked: dict[str, Any]) -> str:
    """The secret `name`, `path#field`; raises LookupError(message, hint), which holds no secret.

    `asked` remembers answers by path: a manager that makes credentials would make others the next time, and
    a user's name and password must be of one answer.
    """
    path, _, wanted = name.partition("#")
    if not path:
        raise LookupError(f"`{kind}:{name}` is incomplete", f"write ${{{kind}:path#field}}")
    where = f"{kind}:{path}"
    if where not in asked:
        asked[where] = MANAGERS[kind](path, environ)
    answer = asked[where]
    if isinstance(answer, str):
        return _text(answer, wanted, where)
    if not wanted:
        raise LookupError(f"`{where}` has fields", f"write ${{{where}#field}}: {', '.join(map(str, answer))}")
    return _field(answer, wanted, where)


def _vault(path: str, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """`path` as Vault's API names it: `secret/data/crm#password` of KV version 2, any engine likewise.

    Where and who: VAULT_ADDR; VAULT_TOKEN or ~/.vault-token, or VAULT_ROLE_ID and VAULT_SECRET_ID (AppRole);
    VAULT_NAMESPACE, VAULT_CACERT.
    """
    address = environ.get("VAULT_ADDR")
    if not address:
        raise LookupError("VAULT_ADDR is not set", "export VAULT_ADDR=https://…:8200")
    try:
        import hvac
    except ImportError as error:
        raise _missing("vault") from error
    where = f"{address}/v1/{path}"
    client = hvac.Client(
        url=address,
        token=environ.get("VAULT_TOKEN") or _token_file(),
        namespace=environ.get("VAULT_NAMESPACE"),
        verify=environ.get("VAULT_CACERT") or True,
        timeout=TIMEOUT,
    )
    try:
        if not client.token and environ.get("VAULT_ROLE_ID"):
            client.auth.approle.login(environ["VAULT_ROLE_ID"], environ.get("VAULT_SECRET_ID", ""))
        answer: Any = client.read(path)
    except hvac.exceptions.Forbidden:
        raise LookupError(
            f"Vault forbids `{path}`", "check VAULT_TOKEN, or the policy: read on this path"
        ) from None
    except hvac.exceptions.VaultError as error:
        raise LookupError(f"Vault refuses `{path}`: {type(error).__name__}", f"try {where}") from None
    except OSError as error:  # requests' errors are OSErrors; their texts may hold headers
        raise LookupError(
            f"Vault at {address} does not answer: {type(error).__name__}", "is it up?"
        ) from None
    finally:
        client.adapter.close()
    if not answer:
        raise LookupError(f"Vault has no `{path}`", "KV version 2 wants `data` in the path: secret/data/crm")
    data = answer.get("data") or {}
    if isinstance(data.get("data"), dict) and "metadata" in data:
        data = data["data"]
    return data


def _aws(secret: str, environ: Mapping[str, str]) -> str:  # noqa: ARG001  (the library reads it by itself)
    """A secret by name or ARN, `name#field` where it holds JSON; credentials as the AWS tools find them."""
    try:
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise _missing("aws") from error
    parts = secret.split(":")
    region = parts[3] if len(parts) > 6 and parts[0] == "arn" else None
    config = Config(connect_timeout=TIMEOUT, read_timeout=TIMEOUT, retries={"total_max_attempts": 3})
    try:
        session = botocore.session.get_session()
        client = session.create_client("secretsmanager", region_name=region, config=config)
        try:
            answer = client.get_secret_value(SecretId=secret)
        finally:
            client.close()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise LookupError(
            f"AWS Secrets Manager refuses `{secret}`: {code}", "grant secretsmanager:GetSecretValue on it"
        ) from None
    except BotoCoreError as error:
        raise LookupError(
            f"AWS Secrets Manager cannot be asked for `{secret}`: {error}", "set AWS_REGION and credentials"
        ) from None
    return _plain(answer.get("SecretString"), answer.get("SecretBinary"), f"aws:{secret}")


def _gcp(secret: str, environ: Mapping[str, str]) -> str:
    """`projects/p/secrets/name[/versions/n][#field]`; just `name` with GOOGLE_CLOUD_PROJECT set."""
    name = secret
    if "/" not in secret and environ.get("GOOGLE_CLOUD_PROJECT"):
        secret = f"projects/{environ['GOOGLE_CLOUD_PROJECT']}/secrets/{secret}"
    if not secret.startswith("projects/") or "/secrets/" not in secret:
        raise LookupError(f"`gcp:{name}` is incomplete", "write ${gcp:projects/p/secrets/crm}")
    version = secret if "/versions/" in secret else f"{secret}/versions/latest"
    try:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import secretmanager
    except ImportError as error:
        raise _missing("gcp") from error
    try:
        client = secretmanager.SecretManagerServiceClient()
        answer = client.access_secret_version(request={"name": version}, timeout=TIMEOUT)
    except (GoogleAPIError, GoogleAuthError) as error:
        raise LookupError(
            f"Google Secret Manager refuses `{secret}`: {type(error).__name__}",
            "grant roles/secretmanager.secretAccessor, and log in: gcloud auth application-default login",
        ) from None
    return _plain(None, answer.payload.data, f"gcp:{secret}")


MANAGERS: Mapping[str, Callable[[str, Mapping[str, str]], str | Mapping[str, Any]]] = {
    "vault": _vault,
    "aws": _aws,
    "gcp": _gcp,
}


def _missing(extra: str) -> LookupError:
    return LookupError(f"`{extra}:` needs the extra `{extra}`", f"pip install 'headrace[{extra}]'")


def _token_file() -> str | None:
    try:
        return Path("~/.vault-token").expanduser().read_text().strip() or None
    except (OSError, RuntimeError):
        return None


def _plain(text: str | None, binary: bytes | None, where: str) -> str:
    if text is not None:
        return text
    try:
        return (binary or b"").decode()
    except UnicodeDecodeError:
        raise LookupError(f"`{where}` is not text", "store keys as base64 or hex") from None


def _text(text: str, wanted: str, where: str) -> str:
    if not wanted:
        if not text:
            raise LookupError(f"`{where}` is empty", "a secret holds one value")
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise LookupError(f"`{where}` has no fields: it is not JSON", f"leave out `#{wanted}`")
    return _field(found, wanted, where)


def _field(data: Mapping[str, Any], wanted: str, where: str) -> str:
    """Names of fields are no secrets; their values never reach a message."""
    value = data.get(wanted)
    if value is None or value == "":
        raise LookupError(
            f"`{where}` has no field `{wanted}`", f"its fields: {', '.join(map(str, data)) or 'none'}"
        )
    return value if isinstance(value, str) else json.dumps(value)
