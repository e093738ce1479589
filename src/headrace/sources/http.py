"""The one HTTP client: no call hangs, leaves for a forbidden address, fills the memory, or shows a secret."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

import httpcore
import httpx
from pydantic import BaseModel, ConfigDict, Field, field_validator

from .. import __version__, redact
from ..errors import ConfigError, HeadraceError, Refused, SystemFault, TransientError
from .http_auth import Auth, Authority, Credentials
from .http_guard import Allowed, Deadline, GuardedBackend, GuardedTransport
from .http_limits import RATE, Bucket, Bytes, retry_after, unpacked

T = TypeVar("T")

MAX_REDIRECTS = 5
_EXCERPT = 4096
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class Http(BaseModel):
    """What every connector that speaks HTTP may be told about how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    auth: Auth | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    """Go to the configured origin only, like credentials."""
    timeout: float = Field(30.0, gt=0)
    """Seconds: the longest wait for a connection, or for the next bytes."""
    total_timeout: float = Field(300.0, gt=0)
    """Seconds: the longest that one call may take, redirects included."""
    max_bytes: Bytes = 64_000_000
    """Of one response, unpacked."""
    allow_private: bool | list[str] = False
    """Addresses that are not public: networks, addresses, names; or all private and loopback ones."""
    verify_tls: bool = True
    ca_file: str | None = None
    rate: str | None = None
    """Most calls, such as `10/s`, `100/m`, `5000/h`."""
    attempts: int = Field(3, ge=0, le=20)
    """Retries of one call, for a passing reason."""
    retry_base: float = Field(1.0, ge=0)
    """Seconds: retry n waits base * 2^n plus jitter, or as long as the server asks."""
    max_wait: float = Field(60.0, ge=0)
    """Seconds: if a server asks for more, the call fails as transient and the run decides."""

    @field_validator("rate")
    @classmethod
    def _rate(cls, value: str | None) -> str | None:
        if value is not None and (not (match := RATE.fullmatch(value)) or float(match[1]) <= 0):
            raise ValueError(f"rate `{value}` is not like 10/s, 100/m or 5000/h")
        return value


@dataclass(frozen=True, slots=True)
class Request:
    url: str
    params: Sequence[tuple[str, str]] = ()
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    url: str
    status: int
    headers: httpx.Headers
    body: bytes = field(repr=False)
    """Unpacked."""


class Transient(TransientError):
    """A passing failure; `retry_after` (seconds) is what the server asked for."""

    retry_after: float | None = None


class Client:
    """Calls of one connector; thread-safe. `fetch` retries what passes; all else it raises by class."""

    def __init__(self, settings: Http, wait: Callable[[float], object] = time.sleep) -> None:
        self.settings, self.wait = settings, wait
        private = settings.allow_private
        allowed = Allowed(private) if isinstance(private, bool) else Allowed(False, tuple(private))
        self.deadline = Deadline()
        self.bucket = Bucket.of(settings.rate, wait)
        self.authority = Authority(settings.auth, self._post)
        timeout = httpx.Timeout(settings.timeout)
        pool = httpcore.ConnectionPool(
            ssl_context=_tls(settings),
            max_connections=20,
            keepalive_expiry=30,
            network_backend=GuardedBackend(allowed, self.deadline),
        )
        # No proxy, .netrc or cookie of this machine: what is not configured is not sent.
        self.http = httpx.Client(transport=GuardedTransport(pool), timeout=timeout, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def fetch(self, request: Request, expect: Sequence[int] = ()) -> Answer:
        """The answer, its body whole; statuses beyond 2xx are errors unless in `expect`.

        Only calls that change nothing may be made by this: a call whose answer is lost is made again.
        """
        return self.read(request, lambda answer: answer, expect)

    def read(self, request: Request, parse: Callable[[Answer], T], expect: Sequence[int] = ()) -> T:
        """What `parse` makes of the answer; a transient error of it is retried like one of the call."""
        attempt = 0
        while True:
            try:
                with self.stream(request, expect) as (answer, chunks):
                    whole = replace(answer, body=b"".join(chunks))
                return parse(whole)
            except TransientError as error:
                asked = getattr(error, "retry_after", None) or 0.0
                if attempt == self.settings.attempts or asked > self.settings.max_wait:
                    raise
                base = self.settings.retry_base
                longest = self.settings.max_wait
                self.wait(min(max(base * 2.0**attempt + random.uniform(0, base), asked), longest))
                attempt += 1

    @contextmanager
    def stream(
        self, request: Request, expect: Sequence[int] = ()
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """One try: the answer without its body, and the body in pieces, unpacked and within `max_bytes`."""
        self.bucket.take()
        self.deadline.at = time.monotonic() + self.settings.total_timeout
        try:
            with self._mapped(request.url):
                response = self._authorised(request)
            try:
                with self._mapped(request.url):
                    self._judge(response, expect)
                    answer = Answer(str(response.url), response.status_code, response.headers, b"")
                    yield answer, self._body(response, self.settings.max_bytes)
            finally:
                response.close()
        finally:
            self.deadline.at = None

    def _authorised(self, request: Request) -> httpx.Response:
        try:
            credentials = self.authority.credentials()
            response = self._followed(request, credentials)
            if response.status_code == 401 and self.authority.renew(credentials):
                response.close()
                response = self._followed(request, self.authority.credentials())
        except UnicodeError as error:  # a host that IDNA does not know
            raise httpx.InvalidURL(str(error)) from None
        return response

    def _followed(self, request: Request, credentials: Credentials) -> httpx.Response:
        """The response after redirects; credentials and configured headers go to the first origin alone."""
        first = httpx.URL(request.url)
        if first.scheme not in ("http", "https") or not first.host:
            raise ConfigError(f"{show(request.url)} is no http or https URL")
        if first.userinfo:
            raise ConfigError(
                f"{show(request.url)} holds credentials", hint="URLs show up in logs: give them as `auth:`"
            )
        url = first.copy_merge_params(list(request.params)) if request.params else first
        for _ in range(MAX_REDIRECTS + 1):
            own = _origin(url) == _origin(first)
            headers = {
                "User-Agent": f"headrace/{__version__}",
                "Accept-Encoding": "gzip, deflate",
                **(request.headers if own else {"Accept": request.headers.get("Accept", "*/*")}),
                **({**self.settings.headers, **credentials.headers} if own else {}),
            }
            target = url.copy_merge_params(credentials.params) if own and credentials.params else url
            built = self.http.build_request(request.method, target, headers=headers, content=request.body)
            response = self.http.send(built, stream=True)
            if response.status_code not in (301, 302, 303, 307, 308):
                return response
            response.close()
            url = self._next(request, url, response)
        raise SystemFault(f"{show(request.url)}: more than {MAX_REDIRECTS} redirects", hint="is it a loop?")

    def _next(self, request: Request, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        place = response.headers.get("location")
        if not place:
            raise SystemFault(f"{show(str(url))} redirects to nowhere (status {response.status_code})")
        target = url.join(place)
        if request.method not in ("GET", "HEAD"):
            hint = f"set the URL to {show(str(target))}, if that is right"
            raise ConfigError(f"{show(str(url))} redirects a {request.method}", hint=hint)
        if target.scheme not in ("http", "https") or (url.scheme, target.scheme) == ("https", "http"):
            raise SystemFault(f"{show(str(url))} redirects to {show(str(target))}, which is not encrypted")
        return target

    def _judge(self, response: httpx.Response, expect: Sequence[int]) -> None:
        status, headers = response.status_code, response.headers
        if 200 <= status < 300 or status in expect:
            return
        where = f"{show(str(response.url))} answered {status} {response.reason_phrase}".rstrip()
        wait = retry_after(headers, datetime.now(UTC))
        if status in _PASSING or (status == 403 and wait is not None):
            said = f", asking for {wait:.0f} s of patience" if wait else ""
            error = Transient(f"{where}{said}", hint="it is called again later")
            error.retry_after = wait
            raise error
        said = self._excerpt(response)
        message = f"{where}: {said}" if said else where
        if status in (401, 403):
            raise ConfigError(message, hint="check `auth:` and what these credentials may read")
        if status in (404, 410):
            raise ConfigError(message, hint="check the URL")
        if 400 <= status < 500:
            raise ConfigError(message, hint="check the URL and its parameters")
        raise SystemFault(message)

    def _excerpt(self, response: httpx.Response) -> str:
        """What an error page says, in a line, without the secrets that servers like to repeat."""
        found = b""
        try:
            for chunk in self._body(response, 64 * _EXCERPT):
                found += chunk
                if len(found) > _EXCERPT:
                    break
        except (HeadraceError, httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError):
            pass  # the status says enough
        return self._clean(" ".join(found[:_EXCERPT].decode("utf-8", "replace").split())[:300])

    def _clean(self, text: str) -> str:
        own = self.settings.headers.items()
        hidden = [value for name, value in own if redact.field(name, value) == redact.MASK]
        for secret in (*self.authority.secrets(), *hidden):
            for form in {secret, quote(secret, safe="")}:
                text = text.replace(form, redact.MASK)
        return redact.text(text)

    def _body(self, response: httpx.Response, most: int) -> Iterator[bytes]:
        size = 0
        announced = response.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > most:
            raise self._too_large(response, most)
        for piece in unpacked(response.iter_raw(), response.headers.get("content-encoding", "")):
            size += len(piece)
            if size > most:
                raise self._too_large(response, most)
            yield piece

    def _too_large(self, response: httpx.Response, most: int) -> Refused:
        hint = "ask for smaller pages, or raise `max_bytes`"
        return Refused(f"{show(str(response.url))}: the response has over {most:,} bytes", hint=hint)

    def _post(self, url: str, form: bytes, headers: Mapping[str, str]) -> bytes:
        """A token request: with no credentials but its own, and never redirected."""
        with self._mapped(url):
            built = self.http.build_request("POST", url, headers=dict(headers), content=form)
            response = self.http.send(built, stream=True)
            try:
                if response.is_redirect:
                    raise ConfigError(f"{show(url)} redirects", hint="correct `token_url`")
                self._judge(response, ())
                return b"".join(self._body(response, 1_000_000))
            finally:
                response.close()

    @contextmanager
    def _mapped(self, url: str) -> Iterator[None]:
        """Errors of the libraries as ours. Their texts are not repeated where they could quote a header."""
        try:
            yield
        except (httpcore.TimeoutException, httpx.TimeoutException) as error:
            raise Transient(
                f"{show(url)}: no answer in time ({error or type(error).__name__})",
                hint="`timeout` and `total_timeout` say how long that is",
            ) from error
        except httpcore.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ConfigError(
                    f"{show(url)}: its certificate is not trusted: {error}",
                    hint="name the authority that signed it in `ca_file`",
                ) from error
            raise Transient(f"{show(url)}: {error}", hint="is the server up, and the name right?") from error
        except (
            httpcore.UnsupportedProtocol,
            httpcore.LocalProtocolError,
            httpx.InvalidURL,
            UnicodeError,
        ) as error:
            raise ConfigError(
                f"{show(url)}: the request cannot be made ({type(error).__name__})",
                hint="check the URL, `headers` and `auth` for line breaks and other odd characters",
            ) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpx.TransportError) as error:
            raise Transient(f"{show(url)}: the answer broke off ({error})") from error


def show(url: str) -> str:
    """`url` fit for messages: no user, no query, no fragment.

    >>> show("https://etl:pw@api.example.com/orders?api_key=x#y")
    'https://api.example.com/orders'
    """
    return re.sub(r"(?<=://)[^/?#]*@", "", re.split(r"[?#]", url, maxsplit=1)[0])


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _tls(settings: Http) -> Any:
    try:
        context = httpx.create_ssl_context(verify=settings.verify_tls, trust_env=False)
        if settings.verify_tls:
            context.load_default_certs()  # the system's authorities, beside those that httpx brings
        if settings.ca_file:
            context.load_verify_locations(settings.ca_file)
    except OSError as error:
        raise ConfigError(f"ca_file {settings.ca_file}: {error}", hint="it is a PEM file") from error
    return context
