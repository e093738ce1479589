"""Who we are to a server: a key, a name and password, a token, or a token that is fetched and renewed."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ..errors import ConfigError, SystemFault

_EARLY = 30.0
"""Seconds before its end at which a token is renewed: a request may be under way for as long."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ApiKey(_Settings):
    type: Literal["api_key"]
    key_name: str = "X-API-Key"
    """Name of the header or parameter."""
    place: Literal["header", "query"] = "header"
    api_key: SecretStr


class Basic(_Settings):
    type: Literal["basic"]
    user: str
    password: SecretStr


class Bearer(_Settings):
    type: Literal["bearer"]
    token: SecretStr


class OAuth2(_Settings):
    """RFC 6749: client credentials (section 4.4), or an access token from a refresh token (section 6)."""

    type: Literal["oauth2"]
    token_url: str
    client_id: str
    client_secret: SecretStr | None = None
    refresh_token: SecretStr | None = None
    """With it, the grant is `refresh_token`; without, `client_credentials`."""
    scope: str | None = None
    audience: str | None = None
    client_in: Literal["header", "body"] = "header"
    """Where the client's id and secret go: HTTP Basic, or the form."""


Auth = Annotated[ApiKey | Basic | Bearer | OAuth2, Field(discriminator="type")]

Post = Callable[[str, bytes, Mapping[str, str]], bytes]
"""(URL, form, headers) → the answer's body; the guarded client's own, without credentials of its own."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one request carries to its own origin, and to no other."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass
class Authority:
    """Gives every request its credentials; a token that has run out is renewed once, by one thread."""

    auth: ApiKey | Basic | Bearer | OAuth2 | None
    post: Post
    clock: Callable[[], float] = time.monotonic
    _token: str = field(default="", repr=False)
    _until: float = 0.0
    _refresh: str = field(default="", repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def credentials(self) -> Credentials:
        auth = self.auth
        if auth is None:
            return Credentials()
        if isinstance(auth, ApiKey):
            pair = {auth.key_name: auth.api_key.get_secret_value()}
            return Credentials(headers=pair) if auth.place == "header" else Credentials(params=pair)
        if isinstance(auth, Basic):
            return Credentials({"Authorization": basic(auth.user, auth.password.get_secret_value())})
        token = auth.token.get_secret_value() if isinstance(auth, Bearer) else self._fetched(auth)
        return Credentials({"Authorization": f"Bearer {token}"})

    def renew(self, used: Credentials) -> bool:
        """Whether what was refused with `used` is worth a second try: its token can be renewed."""
        with self._lock:
            if not isinstance(self.auth, OAuth2):
                return False
            if used.headers.get("Authorization") == f"Bearer {self._token}":
                self._until = 0.0
            return True

    def secrets(self) -> list[str]:
        """What must not be seen in a message."""
        auth = self.auth
        given = (
            [
                value.get_secret_value()
                for value in (getattr(auth, name) for name in type(auth).model_fields)
                if isinstance(value, SecretStr)
            ]
            if auth
            else []
        )
        return [*given, *(text for text in (self._token, self._refresh) if text)]

    def _fetched(self, auth: OAuth2) -> str:
        with self._lock:
            if self.clock() < self._until:
                return self._token
            answer = self._asked(auth)
            token = answer.get("access_token")
            if not isinstance(token, str) or not token:
                raise SystemFault(
                    f"{auth.token_url} gave no access_token",
                    hint=f"it gave: {', '.join(sorted(answer)) or 'nothing'}",
                )
            self._token = token
            # A server may rotate refresh tokens: the old one is void then.
            rotated = answer.get("refresh_token")
            self._refresh = rotated if isinstance(rotated, str) else self._refresh
            self._until = self.clock() + max(_lifetime(answer.get("expires_in")) - _EARLY, 1.0)
            return token

    def _asked(self, auth: OAuth2) -> dict[str, Any]:
        from urllib.parse import urlencode

        secret = auth.client_secret.get_secret_value() if auth.client_secret else ""
        refresh = self._refresh or (auth.refresh_token.get_secret_value() if auth.refresh_token else "")
        form = {"grant_type": "refresh_token" if refresh else "client_credentials"}
        form |= {"refresh_token": refresh} if refresh else {}
        form |= {"scope": auth.scope} if auth.scope else {}
        form |= {"audience": auth.audience} if auth.audience else {}
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if auth.client_in == "header" and secret:
            headers["Authorization"] = basic(auth.client_id, secret)
        else:
            form |= {"client_id": auth.client_id} | ({"client_secret": secret} if secret else {})
        try:
            answer = json.loads(self.post(auth.token_url, urlencode(form).encode(), headers))
        except ValueError:
            raise SystemFault(f"{auth.token_url} answered no JSON") from None
        if not isinstance(answer, dict):
            raise ConfigError(f"{auth.token_url} gave no object", hint="is it the token endpoint?")
        return answer


def _lifetime(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 300.0  # RFC 6749 lets a server leave it out


def basic(user: str, password: str) -> str:
    """
    >>> basic("Aladdin", "open sesame")
    'Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=='
    """
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
