"""Only what was signed with a secret of ours, just now, is taken; what was signed names it for ever after."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

Headers = Mapping[str, str]
"""Names in lower case."""


class Rejected(Exception):
    """A request that is not taken: the status that it gets, and why, in words that give nothing away."""

    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a sender signs, by HMAC-SHA256."""

    header: str
    prefix: str = ""
    encoding: Literal["hex", "base64"] = "hex"
    timestamp: str | None = None
    """The header with the seconds since 1970 at which it was signed."""
    signed: str = "{body}"
    """What is signed, of `{body}`, `{timestamp}` and `{id}`."""
    id: str | None = None
    """Where the sender puts the event's own name: `header:…` or `body:…`."""
    kept: tuple[str, ...] = ()
    """Headers that say what the body is."""


SCHEMES: Mapping[str, Scheme] = {
    "github": Scheme(
        "x-hub-signature-256", "sha256=", id="header:x-github-delivery", kept=("x-github-event",)
    ),
    "shopify": Scheme(
        "x-shopify-hmac-sha256", "", "base64", id="header:x-shopify-webhook-id", kept=("x-shopify-topic",)
    ),
    "slack": Scheme(
        "x-slack-signature",
        "v0=",
        "hex",
        "x-slack-request-timestamp",
        "v0:{timestamp}:{body}",
        "body:event_id",
    ),
    "stripe": Scheme("stripe-signature", "v1=", "hex", "stripe-signature", "{timestamp}.{body}", "body:id"),
    "standard": Scheme(
        "webhook-signature",
        "v1,",
        "base64",
        "webhook-timestamp",
        "{id}.{timestamp}.{body}",
        "header:webhook-id",
    ),
}
"""`standard` is the Standard Webhooks specification (version 1)."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | SecretStr) else value


class Verify(BaseModel):
    """Who may send: the sender's scheme, and the secrets that count now (several while they are rotated)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheme: Literal["github", "shopify", "slack", "stripe", "standard", "hmac", "token", "none"]
    secrets: Annotated[list[SecretStr], BeforeValidator(_listed)] = Field(default_factory=list)
    tolerance: float = Field(300.0, gt=0)
    """Seconds that a signature's time may differ from now."""
    header: str = "X-Signature"
    """For `hmac` and `token`, like all that follows."""
    prefix: str = ""
    encoding: Literal["hex", "base64"] = "hex"
    timestamp_header: str | None = None
    signed: str = "{body}"

    @model_validator(mode="after")
    def _possible(self) -> Verify:
        if self.scheme != "none" and not self.secrets:
            raise ValueError(f"scheme `{self.scheme}` needs `secrets`, by reference: ${{WEBHOOK_SECRET}}")
        if any(len(secret.get_secret_value()) < 8 for secret in self.secrets):
            raise ValueError("a secret of under 8 characters can be guessed")
        if "{body}" not in self.signed:
            raise ValueError("`signed` holds no {body}: anybody could change it")
        if self.timestamp_header and "{timestamp}" not in self.signed:
            raise ValueError("`signed` holds no {timestamp}: anybody could set the clock forward")
        return self

    @property
    def described(self) -> Scheme:
        stamp = self.timestamp_header.lower() if self.timestamp_header else None
        own = Scheme(self.header.lower(), self.prefix, self.encoding, stamp, self.signed)
        return SCHEMES.get(self.scheme, own)

    def check(self, headers: Headers, body: bytes, now: float) -> bytes | None:
        """A name for what was signed, equal for a replay however its other headers differ; raises `Rejected`.

        None where nothing was signed (`token`, `none`).
        """
        if self.scheme == "none":
            return None
        if self.scheme == "token":
            given = headers.get(self.header.lower(), "")
            if not _matches([given.encode()], [(self.prefix + s).encode() for s in self._texts()]):
                raise Rejected(401, "the token is missing or wrong")
            return None
        scheme = self.described
        stamp, signatures = _given(scheme, headers)
        if not signatures:
            raise Rejected(401, "the signature is missing")
        if scheme.timestamp and not (stamp.isascii() and stamp.isdigit() and len(stamp) < 13):
            raise Rejected(401, "the signature has no time")
        signed = _signed(scheme, headers, stamp, body)
        wanted = [hmac.digest(key, signed, "sha256") for key in self._keys()]
        if not _matches(signatures, wanted):
            raise Rejected(401, "the signature is wrong")
        if scheme.timestamp and abs(now - int(stamp)) > self.tolerance:
            raise Rejected(401, "the signature is too old, or of the future")
        return hashlib.sha256(signed).digest()

    def _texts(self) -> list[str]:
        return [secret.get_secret_value() for secret in self.secrets]

    def _keys(self) -> Iterator[bytes]:
        for secret in self._texts():
            if self.scheme == "standard":
                yield base64.b64decode(secret.removeprefix("whsec_") + "==")
            else:
                yield secret.encode()


def _given(scheme: Scheme, headers: Headers) -> tuple[str, list[bytes]]:
    """The time that was signed, and all signatures of the kind that we know."""
    value = headers.get(scheme.header, "")
    stamp = headers.get(scheme.timestamp, "").strip() if scheme.timestamp else ""
    parts = [value.strip()]
    if scheme.timestamp == scheme.header:  # Stripe: t=1492774577,v1=…,v1=…
        parts = [part.strip() for part in value.split(",")]
        stamp = next((part[2:] for part in parts if part.startswith("t=")), "")
    elif scheme.prefix == "v1,":  # Standard Webhooks: several, between spaces
        parts = value.split()
    texts = [part.removeprefix(scheme.prefix) for part in parts if part.startswith(scheme.prefix)]
    return stamp, [found for text in texts[:16] if (found := _decoded(text, scheme.encoding))]


def _decoded(text: str, encoding: str) -> bytes:
    try:
        return bytes.fromhex(text) if encoding == "hex" else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _signed(scheme: Scheme, headers: Headers, stamp: str, body: bytes) -> bytes:
    before, _, after = scheme.signed.partition("{body}")
    name = headers.get(scheme.id.removeprefix("header:"), "") if scheme.id else ""
    fill = {"timestamp": stamp, "id": name}
    return before.format(**fill).encode() + body + after.format(**fill).encode()


def _matches(given: Sequence[bytes], wanted: Sequence[bytes]) -> bool:
    """Whether any is equal; takes as long whichever it is, and however much of it is right."""
    found = [hmac.compare_digest(one, other) for one in given for other in wanted]
    return any(found)
