"""Objects of S3 and compatible stores: listed in pages, and read as the version listed or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import ConfigError, Refused
from .listing import MAGIC, Entry, expression, gone, unstable
from .remote import Opening, Transfer, Unreachable, missing

try:
    import botocore.session
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
        PartialCredentialsError,
        SSLError,
    )
except ImportError as error:
    raise missing("s3", "botocore") from error

_LOST = (HTTPClientError, IncompleteReadError, OSError)
_GRANT = "grant s3:ListBucket on the bucket and s3:GetObject on its objects"


@dataclass
class S3:
    """A bucket. Keys come in rising order, a page of a thousand at a time, from any key on."""

    opening: Opening
    settle: float = 0.0
    """An object is there whole or not at all."""
    _client: Any = None

    @property
    def client(self) -> Any:
        if self._client is None:
            self._client = _connected(self.opening)
        return self._client

    def entries(self, pattern: str, after: str = "") -> Iterator[Entry]:
        pattern = pattern.removeprefix("/")
        if not MAGIC.search(pattern) and pattern and not pattern.endswith("/"):
            with self._told():
                found = self._head(pattern)
            if found is not None:
                yield found
                return
            pattern += "/"
        if not MAGIC.search(pattern):
            pattern += "**"
        prefix, chosen = self._meant(pattern)
        request = {"Bucket": self.opening.at.host, "Prefix": prefix}
        if after:
            request["StartAfter"] = after
        with self._told():
            for page in self.client.get_paginator("list_objects_v2").paginate(**request):
                for item in page.get("Contents", ()):
                    if chosen(item["Key"]):
                        yield self._entry(item["Key"], item["Size"], item["ETag"], item["LastModified"])

    def chosen(self, pattern: str) -> Callable[[str], bool]:
        """Whether an object of this key is among those that `pattern` means."""
        pattern = pattern.removeprefix("/")
        if MAGIC.search(pattern):
            return self._meant(pattern)[1]
        below = self._meant(f"{pattern}/**" if pattern and not pattern.endswith("/") else f"{pattern}**")[1]
        return lambda key: key == pattern or below(key)

    def name(self, key: str) -> str:
        return f"{self.opening.at.base}/{key}"

    def now(self, key: str) -> Entry | None:
        """The object as it is; None if it is not there. Raises `Refused` if it may not be looked at."""
        with self._told():
            try:
                return self._head(key)
            except ClientError as error:
                if _status(error) in (400, 403):
                    raise Refused(f"{self.name(key)} may not be read ({_code(error)})", hint=_GRANT) from None
                raise

    def _meant(self, pattern: str) -> tuple[str, Callable[[str], bool]]:
        """What keys of `pattern` begin with, and whether one is meant: unfit ones are, to be told of."""
        start = MAGIC.search(pattern)
        prefix = pattern[: start.start()] if start else pattern
        matches = re.compile(expression(pattern.split("/")), re.DOTALL).fullmatch
        folder = len(prefix) - len(prefix.rpartition("/")[2])

        def chosen(key: str) -> bool:
            if key.endswith("/") or not matches(key):
                return False
            return bool(_unfit(key)) or not self._ignored(key[folder:])

        return prefix, chosen

    def _ignored(self, relative: str) -> bool:
        parts = relative.split("/")
        return any(fnmatchcase(part, hidden) for part in parts for hidden in self.opening.ignore)

    def _head(self, key: str) -> Entry | None:
        try:
            head = self.client.head_object(Bucket=self.opening.at.host, Key=key)
        except ClientError as error:
            if _status(error) == 404:
                return None
            raise
        return self._entry(key, head["ContentLength"], head["ETag"], head["LastModified"])

    def _entry(self, key: str, size: int, etag: str, modified: Any) -> Entry:
        # Some stores list fractions of a second that they do not tell of the single object.
        time = modified.replace(microsecond=0).isoformat()
        return Entry(
            name=self.name(key),
            path=Path(),
            size=size,
            signature={"size": size, "etag": etag, "modified": time},
            changed_at=modified.timestamp(),
            key=key,
            unfit=_unfit(key),
            place=self,
        )

    def open(self, entry: Entry) -> BinaryIO:
        """`If-Match` makes the store refuse any other version than the listed one, even when resumed."""
        return cast(BinaryIO, Transfer(entry, lambda at: self._body(entry, at), _LOST))

    def _body(self, entry: Entry, at: int) -> BinaryIO:
        request = {"Bucket": self.opening.at.host, "Key": entry.key, "IfMatch": entry.signature["etag"]}
        if at:
            request["Range"] = f"bytes={at}-"
        with self._told():
            try:
                return cast(BinaryIO, self.client.get_object(**request)["Body"])
            except ClientError as error:
                status, code = _status(error), _code(error)
                if status == 404:
                    raise gone(entry) from None
                if status in (409, 412, 416):
                    raise unstable(entry) from None
                if code == "InvalidObjectState":
                    raise Refused(
                        f"{entry.name} is archived ({code})", hint="restore it from the archive first"
                    ) from None
                if status == 403:
                    raise Refused(f"{entry.name} may not be read ({code})", hint=_GRANT) from None
                raise

    def verify(self, entry: Entry) -> None:
        """All bytes came from the version that was listed; a later one is news for the next run."""

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(BotoCoreError, OSError):
                client.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the library, in our words: none of theirs leaves this module."""
        where = self.opening.at.base
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise ConfigError(
                f"{where}: there are no credentials",
                hint="set `access: {access_key_id: ${…}, secret_access_key: ${…}}`, or `anonymous: true`",
            ) from error
        except SSLError as error:
            raise ConfigError(
                f"{where}: its certificate cannot be verified", hint="set `access: {ca: ca.pem}`"
            ) from error
        except ClientError as error:
            raise _of(error, where) from error
        except (BotoCoreError, OSError) as error:
            raise Unreachable(
                f"{where} does not answer: {error}", hint="is it up, and `region` right?"
            ) from error


@cache
def _models() -> Any:
    return botocore.session.get_session().get_component("data_loader")


def session() -> Any:
    """A session of its own, which shares with all others only what the library reads of its services."""
    made = botocore.session.get_session()
    made.register_component("data_loader", _models())
    return made


def place(opening: Opening) -> S3:
    if opening.at.port or opening.at.user:
        raise ConfigError(
            f"{opening.at.base} names a port or a user",
            hint="write s3://bucket/…, and `access: {endpoint: …}`",
        )
    return S3(opening)


def _connected(opening: Opening) -> Any:
    access = opening.access
    config = Config(
        connect_timeout=min(access.timeout, 10),
        read_timeout=access.timeout,
        retries={"mode": "standard", "total_max_attempts": 4},
        signature_version=UNSIGNED if access.anonymous else None,
        # Stores beside Amazon's have no name per bucket.
        s3={"addressing_style": "path"} if access.endpoint else None,
        # Hashes of parts are no hash of a range; the whole is checked by its length and its version.
        response_checksum_validation="when_required",
    )
    found = session()
    return found.create_client(
        "s3",
        region_name=access.region or (None if found.get_config_variable("region") else "us-east-1"),
        endpoint_url=access.endpoint,
        aws_access_key_id=access.access_key_id,
        aws_secret_access_key=access.secret_access_key,
        aws_session_token=access.session_token,
        verify=str(opening.file(access.ca)) if access.ca else None,
        config=config,
    )


def _of(error: ClientError, where: str) -> ConfigError | Unreachable:
    status, code = _status(error), _code(error)
    if code == "NoSuchBucket" or status == 404:
        return ConfigError(f"{where}: there is no such bucket", hint="correct `path`, or `access.endpoint`")
    if (status in (301, 307, 400) and "edirect" in code) or code == "AuthorizationHeaderMalformed":
        return ConfigError(f"{where} lies in another region ({code})", hint="set `access: {region: …}`")
    if status in (400, 401, 403):
        return ConfigError(f"{where}: access is denied ({code})", hint=f"check the credentials; {_GRANT}")
    return Unreachable(f"{where} answers {status} {code}", hint="it is tried again")


def _unfit(key: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in key):
        return "has control characters in its name"
    return "has a name that would leave its folder" if {".", ".."} & set(key.split("/")) else ""


def _status(error: ClientError) -> int:
    answer: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    return int(answer.get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
