"""Files that lie elsewhere: which place a URL means, how it is entered, and that no transfer is partial."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field

from ..errors import ConfigError, HeadraceError, MissingExtra, TransientError
from .listing import Entry, Place, unstable

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(?:([^@/]*)@)?(\[[^\]]+\]|[^:/]*)(?::(\d+))?(/.*)?", re.DOTALL)
_MODULES = {
    "s3": "remote_s3",
    "sftp": "remote_sftp",
    "ftp": "remote_ftp",
    "ftps": "remote_ftp",
    "https": "remote_http",
    "http": "remote_http",
}
AGAIN = 3
"""How often one file's transfer is taken up again where it broke off."""


class Access(BaseModel):
    """How a remote place is entered. Secrets are given by reference: `password: ${SFTP_PASSWORD}`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    endpoint: str | None = None
    """Of a store that speaks S3 and is not Amazon's, as a URL."""
    region: str | None = None
    access_key_id: str | None = Field(None, repr=False)
    """With `secret_access_key`; without, the machine's own credentials are looked for as the AWS tools do."""
    secret_access_key: str | None = Field(None, repr=False)
    session_token: str | None = Field(None, repr=False)
    anonymous: bool = False
    """A public bucket: requests are not signed."""
    user: str | None = None
    password: str | None = Field(None, repr=False)
    private_key: str | None = Field(None, repr=False)
    """An SSH key's text: `${file:~/.ssh/id_ed25519}`."""
    passphrase: str | None = Field(None, repr=False)
    """Of the private key."""
    host_key: str | None = None
    """The server's SSH key: its line in known_hosts without the host, or its `SHA256:` fingerprint."""
    known_hosts: Path | None = None
    """Instead of ~/.ssh/known_hosts."""
    ca: Path | None = None
    """A file with certificates of authorities to trust beside, or for S3 instead of, the usual ones."""
    headers: Mapping[str, str] = Field(default_factory=dict, repr=False)
    """Sent with requests to https:// places, and only to the host that `path` names."""
    allow_private: bool = False
    """https:// places may have private addresses, such as 10.0.0.5 or localhost."""
    implicit: bool = False
    """ftps:// with TLS from the first byte, as on port 990."""
    timeout: float = Field(30, gt=0)
    """Seconds without an answer after which a connection is given up."""


class Unreachable(HeadraceError):
    """The place as a whole does not answer: the run tries again later, instead of with each file in turn."""

    error_class = "transient"


@dataclass(frozen=True, slots=True)
class Location:
    """A URL without its path. `host` is the bucket in `s3://bucket/…`."""

    scheme: str
    host: str
    port: int | None = None
    user: str | None = None

    @property
    def base(self) -> str:
        """What names begin with: neither users nor secrets, and the same for the same place."""
        return f"{self.scheme}://{self.host}{f':{self.port}' if self.port else ''}"


@dataclass(frozen=True, slots=True)
class Opening:
    """What a place is opened with."""

    at: Location
    access: Access
    ignore: Sequence[str] = ()
    root: Path = field(default_factory=Path)
    """Relative paths of `access` start here."""

    def file(self, path: Path) -> Path:
        return self.root / path.expanduser()


def is_remote(pattern: str) -> bool:
    return "://" in pattern


def parse(url: str) -> tuple[Location, str]:
    """Where `url` leads, and the path or glob there, with its first slash.

    >>> parse("sftp://ann@files.example.org:2222/in/*.csv")
    (Location(scheme='sftp', host='files.example.org', port=2222, user='ann'), '/in/*.csv')

    Raises `ConfigError`, without repeating what may hold a password.
    """
    found = _URL.fullmatch(url)
    if found is None or not found[3]:
        raise ConfigError("this is no URL of a place with files", hint="such as s3://bucket/orders/*.csv")
    scheme, user, host, port, path = found.groups()
    if scheme not in _MODULES:
        raise ConfigError(f"`{scheme}://` is not known", hint=f"known are {', '.join(sorted(_MODULES))}")
    if user is not None and ":" in user:
        raise ConfigError(
            f"a password stands in the URL of {scheme}://{host}",
            hint="take it out, and set `access: {password: ${NAME}}` on this source",
        )
    return Location(scheme, host, int(port) if port else None, unquote(user) if user else None), path or "/"


def opened(opening: Opening) -> Place:
    """The place, which is not called before it is asked for something. Raises `MissingExtra`."""
    module = import_module(f".{_MODULES[opening.at.scheme]}", __package__)
    return cast(Place, module.place(opening))


def missing(extra: str, driver: str) -> MissingExtra:
    return MissingExtra(f"this place needs `{driver}`", hint=f"pip install 'headrace[{extra}]'")


@dataclass
class Transfer(io.RawIOBase):
    """Yields exactly `entry.size` bytes, or raises `TransientError`: cut short, too long, or broken off.

    A transfer that breaks is taken up where it broke; `fetch(at)` opens the file from byte `at` on. `lost`
    are the errors of the place's library that mean a broken connection.
    """

    entry: Entry
    fetch: Callable[[int], BinaryIO]
    lost: tuple[type[BaseException], ...] = (OSError, EOFError)
    at: int = 0
    tries: int = 0
    stream: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self.entry.size + 1 - self.at if size < 0 else size
        parts: list[bytes] = []
        while wanted > 0 and (part := self._some(wanted)):
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        part = self.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def _some(self, wanted: int) -> bytes:
        if self.at >= self.entry.size:
            return b"" if self.stream is None else self._end()
        while True:
            why = "it is cut short"
            try:
                if self.stream is None:
                    self.stream = self.fetch(self.at)
                if part := self.stream.read(wanted):
                    self.at += len(part)
                    if self.at > self.entry.size:
                        raise unstable(self.entry)
                    return part
            except self.lost as error:
                why = f"{type(error).__name__}: {error}"
            self._drop()
            self.tries += 1
            if self.tries > AGAIN:
                raise TransientError(
                    f"{self.entry.name} broke off at byte {self.at:,} of {self.entry.size:,}: {why}",
                    hint="nothing of it has landed; the next run tries it again",
                )

    def _end(self) -> bytes:
        """Nothing may follow. An error here harms no one: all bytes have come."""
        try:
            extra = self.stream.read(1) if self.stream else b""
        except HeadraceError:
            raise
        except self.lost:
            extra = b""
        if extra:
            raise unstable(self.entry)
        self._drop()
        return b""

    def _drop(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            with suppress(*self.lost):  # a broken connection may fail once more when it is closed
                stream.close()

    def close(self) -> None:
        self._drop()
        super().close()
