"""Files of an SFTP server, whose host key must be known before anything is said to it."""

from __future__ import annotations

import base64
import hashlib
import io
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import ConfigError, HeadraceError
from .remote import Opening, Unreachable, missing
from .remote_tree import Item, Tree

try:
    import paramiko
except ImportError as error:
    raise missing("sftp", "paramiko") from error

_BLOCK = 32_768
"""Bytes that every server gives in one answer."""
_AHEAD = 64
"""Blocks that are asked for at once."""


class _Unknown(ConfigError):
    pass


@dataclass
class Sftp:
    """One session of a server."""

    opening: Opening
    lost: tuple[type[BaseException], ...] = (OSError, EOFError, paramiko.SSHException)
    _ssh: Any = None
    _sftp: Any = None

    @property
    def base(self) -> str:
        return self.opening.at.base

    @property
    def sftp(self) -> Any:
        if self._ssh is not None and not self._ssh.get_transport().is_active():
            self.close()
        if self._sftp is None:
            self._ssh = _connected(self.opening)
            self._sftp = self._ssh.open_sftp()
            self._sftp.get_channel().settimeout(self.opening.access.timeout)
        return self._sftp

    def listed(self, folder: str) -> Sequence[Item]:
        """Links are left out: they may lead anywhere."""
        return [
            Item(each.filename, stat.S_ISDIR(mode), each.st_size or 0, each.st_mtime or 0)
            for each in self.sftp.listdir_attr(folder)
            if stat.S_ISDIR(mode := each.st_mode or 0) or stat.S_ISREG(mode)
        ]

    def stat(self, path: str) -> Item:
        found = self.sftp.stat(path)
        return Item(
            path.rpartition("/")[2], stat.S_ISDIR(found.st_mode or 0), found.st_size or 0, found.st_mtime or 0
        )

    def fetch(self, path: str, at: int) -> BinaryIO:
        return cast(BinaryIO, _Ahead(self.sftp.open(path, "rb"), at))

    @contextmanager
    def told(self) -> Iterator[None]:
        try:
            yield
        except (HeadraceError, FileNotFoundError, PermissionError):
            raise
        except paramiko.AuthenticationException as error:
            raise ConfigError(
                f"{self.base} refuses the login of `{_user(self.opening)}`",
                hint="check `access`: user, and password or private_key",
            ) from error
        except paramiko.BadHostKeyException as error:
            raise ConfigError(
                f"{self.base} shows another host key than the one that is known: {_fingerprint(error.key)}",
                hint="somebody may be listening in: ask whoever runs it; if it is right, correct known_hosts",
            ) from error
        except self.lost as error:
            self.close()
            raise Unreachable(f"{self.base} does not answer: {error}", hint="is it up?") from error

    def close(self) -> None:
        ssh, self._ssh, self._sftp = self._ssh, None, None
        if ssh is not None:
            with suppress(*self.lost):
                transport = ssh.get_transport()
                ssh.close()
                if transport is not None:
                    transport.join(5)


def place(opening: Opening) -> Tree:
    return Tree(Sftp(opening), opening.ignore)


@dataclass
class _Ahead(io.RawIOBase):
    """Asks for many blocks before the first has come: else each would cost a round trip."""

    file: Any
    at: int

    def read(self, size: int = -1) -> bytes:
        wanted = min(size if size >= 0 else _BLOCK * _AHEAD, _BLOCK * _AHEAD)
        end = self.at + wanted
        blocks = [(at, min(_BLOCK, end - at)) for at in range(self.at, end, _BLOCK)]
        if not blocks:
            return b""
        data = bytearray()
        for (_, asked), block in zip(blocks, self.file.readv(blocks), strict=True):
            data += block
            if len(block) < asked:
                break  # the end, or a server that gives less: what follows is asked for anew
        self.at += len(data)
        return bytes(data)

    def close(self) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            self.file.close()
        super().close()


def _user(opening: Opening) -> str:
    return opening.access.user or opening.at.user or ""


def _fingerprint(key: Any) -> str:
    digest = hashlib.sha256(key.asbytes()).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


@dataclass
class _Policy(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]
    """A key that no file knows is right only if the definition names it."""

    wanted: str | None
    base: str

    def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:  # noqa: ARG002
        shown = _fingerprint(key)
        if self.wanted and self.wanted.split()[:2] in ([shown], [key.get_name(), key.get_base64()]):
            return
        state = "is not the one that `host_key` names" if self.wanted else "is not known"
        raise _Unknown(
            f"the host key of {self.base} {state}: {key.get_name()} {shown}",
            hint=f"ask whoever runs it whether this is right; if so, set `access: {{host_key: {shown}}}`",
        )


def _connected(opening: Opening) -> Any:
    access, at = opening.access, opening.at
    if not _user(opening):
        raise ConfigError(f"{at.base}: no user is given", hint="set `access: {user: …}`")
    ssh = paramiko.SSHClient()
    if not access.host_key:
        known = (
            opening.file(access.known_hosts)
            if access.known_hosts
            else Path("~/.ssh/known_hosts").expanduser()
        )
        if known.exists():
            ssh.load_host_keys(str(known))
        elif access.known_hosts:
            raise ConfigError(f"{known} does not exist", hint="correct `access.known_hosts`")
    ssh.set_missing_host_key_policy(_Policy(access.host_key, at.base))
    try:
        ssh.connect(
            at.host,
            port=at.port or 22,
            username=_user(opening),
            password=access.password,
            pkey=_key(access.private_key, access.passphrase) if access.private_key else None,
            # Only what the definition gives is shown to the server.
            allow_agent=not (access.password or access.private_key),
            look_for_keys=not (access.password or access.private_key),
            timeout=access.timeout,
            banner_timeout=access.timeout,
            auth_timeout=access.timeout,
            channel_timeout=access.timeout,
        )
    except BaseException:
        ssh.close()
        raise
    return ssh


def _key(text: str, passphrase: str | None) -> Any:
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        with suppress(paramiko.SSHException, ValueError):
            return kind.from_private_key(io.StringIO(text.strip() + "\n"), password=passphrase)
    raise ConfigError(
        "the private key cannot be read",
        hint="give an OpenSSH or PEM key as `private_key: ${file:…}`, and its `passphrase` if it has one",
    )
