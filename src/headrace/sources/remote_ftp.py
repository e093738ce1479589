"""Files of FTP and FTPS servers, in binary; where TLS is asked for, no byte goes without it."""

from __future__ import annotations

import ftplib
import io
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

from ..errors import ConfigError, HeadraceError
from .remote import Opening, Unreachable
from .remote_tree import Item, Tree

_GONE = ("not found", "no such", "not exist", "cannot find", "can't find", "not a directory", "no file")


@dataclass
class Ftp:
    """One session of a server; a path without a first slash begins in the user's own folder."""

    opening: Opening
    lost: tuple[type[BaseException], ...] = (OSError, EOFError, ftplib.error_temp, ftplib.error_proto)
    _ftp: Any = None
    _busy: Any = None

    @property
    def base(self) -> str:
        return self.opening.at.base

    @property
    def ftp(self) -> ftplib.FTP:
        if self._busy is not None and not self._busy.over:
            self.close()  # a transfer that was given up: its rest would be taken for answers
        if self._ftp is None:
            self._ftp = _connected(self.opening)
        return cast(ftplib.FTP, self._ftp)

    def listed(self, folder: str) -> Sequence[Item]:
        """By MLSD; by NLST, SIZE and MDTM, at two questions a file, where a server does not know it."""
        folder = folder.rstrip("/") or "/"
        try:
            with _meant():
                found = list(self.ftp.mlsd(folder, ["type", "size", "modify"]))
        except ftplib.error_perm as error:
            if str(error)[:3] not in ("500", "501", "502", "504"):
                raise
            return self._named(folder)
        items = []
        for name, facts in found:
            kind = facts.get("type", "").lower()
            if kind in ("file", "dir"):  # not the folder itself, nor links, which may lead anywhere
                items.append(
                    Item(name, kind == "dir", int(facts.get("size", 0)), _time(facts.get("modify", "")))
                )
        return items

    def _named(self, folder: str) -> list[Item]:
        try:
            with _meant():
                names = self.ftp.nlst(folder)
        except FileNotFoundError:
            self._enter(folder)  # some servers say so of an empty folder
            return []
        if not names:
            self._enter(folder)
        at = folder.rstrip("/")
        return [self.stat(f"{at}/{name.rpartition('/')[2]}") for name in names]

    def _enter(self, folder: str) -> None:
        """Raises `FileNotFoundError` unless it is a folder."""
        here = self.ftp.pwd()
        with _meant():
            self.ftp.cwd(folder)
        self.ftp.cwd(here)

    def stat(self, path: str) -> Item:
        name = path.rpartition("/")[2]
        ftp = self.ftp
        ftp.voidcmd("TYPE I")  # a listing has switched to text, for which many servers tell no size
        try:
            with _meant():
                size = ftp.size(path)
                answer = ftp.voidcmd(f"MDTM {path}")
        except (FileNotFoundError, PermissionError, ftplib.error_perm):
            self._enter(path)
            return Item(name, True)
        return Item(name, False, size or 0, _time(answer[4:]))

    def fetch(self, path: str, at: int) -> BinaryIO:
        ftp = self.ftp
        ftp.voidcmd("TYPE I")
        with _meant():
            data = ftp.transfercmd(f"RETR {path}", at or None)
        self._busy = _Data(data, ftp)
        return cast(BinaryIO, self._busy)

    @contextmanager
    def told(self) -> Iterator[None]:
        try:
            yield
        except (HeadraceError, FileNotFoundError, PermissionError):
            raise
        except ssl.SSLError as error:
            self.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise ConfigError(
                    f"the certificate of {self.base} cannot be verified: {error.verify_message}",
                    hint="set `access: {ca: ca.pem}` to the certificate of who issued it",
                ) from error
            raise Unreachable(f"{self.base} broke off: {error.reason}", hint="does it speak TLS?") from error
        except ftplib.error_perm as error:
            self.close()
            raise ConfigError(f"{self.base} answers: {error}", hint="check `path` and `access`") from error
        except self.lost as error:
            self.close()
            raise Unreachable(f"{self.base} does not answer: {error}", hint="is it up?") from error

    def close(self) -> None:
        ftp, self._ftp = self._ftp, None
        busy, self._busy = self._busy, None
        if busy is not None:
            busy.close()
        if ftp is not None:
            with suppress(*self.lost, ftplib.Error):
                ftp.close()


def place(opening: Opening) -> Tree:
    return Tree(Ftp(opening), opening.ignore)


class _Tls(ftplib.FTP_TLS):
    """Also TLS from the first byte, and data connections that continue its session, as servers demand."""

    immediate = False

    def connect(self, *given: Any, **more: Any) -> str:
        if not self.immediate:
            return super().connect(*given, **more)
        self.host, self.port, self.timeout = given
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.af = plain.family
        try:
            self.sock = self.context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise
        self.file = self.sock.makefile("r", encoding=self.encoding)
        self.welcome = self.getresp()
        return self.welcome

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        data, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        session = getattr(self.sock, "session", None)
        try:
            return self.context.wrap_socket(data, server_hostname=self.host, session=session), size
        except BaseException:
            data.close()
            raise


@dataclass
class _Data(io.RawIOBase):
    """A data connection; at its end the server must say that the transfer is complete."""

    data: socket.socket
    ftp: ftplib.FTP
    over: bool = False

    def read(self, size: int = -1) -> bytes:
        if self.over:
            return b""
        part = self.data.recv(min(size, 1 << 20) if size > 0 else 1 << 20)
        if not part:
            if isinstance(self.data, ssl.SSLSocket):
                with suppress(OSError):  # many servers end without a good-bye; the size is checked
                    self.data.unwrap()
            self.data.close()
            self.ftp.voidresp()
            self.over = True
        return part

    def close(self) -> None:
        with suppress(OSError):
            self.data.close()
        super().close()


@contextmanager
def _meant() -> Iterator[None]:
    """The one answer 550 means several things, which only its text tells apart."""
    try:
        yield
    except ftplib.error_perm as error:
        said = str(error)
        if said[:3] in ("550", "450"):
            if any(word in said.lower() for word in _GONE):
                raise FileNotFoundError(said) from None
            raise PermissionError(said) from None
        raise


def _connected(opening: Opening) -> ftplib.FTP:
    access, at = opening.access, opening.at
    ftp: ftplib.FTP
    if at.scheme == "ftps":
        context = ssl.create_default_context()
        if access.ca:
            context.load_verify_locations(opening.file(access.ca))
        tls = _Tls(context=context, encoding="utf-8")
        tls.immediate = access.implicit or at.port == 990
        ftp = tls
    else:
        ftp = ftplib.FTP(encoding="utf-8")
    try:
        ftp.connect(at.host, at.port or (990 if access.implicit else 21), access.timeout)
        user = access.user or at.user or "anonymous"
        try:
            if isinstance(ftp, _Tls) and ftp.immediate:
                ftp.login(user, access.password or "", secure=False)
            else:
                ftp.login(user, access.password or "")
        except ftplib.error_perm as error:
            raise ConfigError(
                f"{at.base} refuses the login of `{user}`: {str(error)[:3]}",
                hint="check `access`: user and password; does it want ftps:// ?",
            ) from None
        if isinstance(ftp, _Tls):
            ftp.prot_p()
    except BaseException:
        ftp.close()
        raise
    return ftp


def _time(text: str) -> float:
    """`YYYYMMDDHHMMSS[.sss]`, UTC; what cannot be read is far in the past, and is compared all the same."""
    try:
        return datetime.strptime(text.strip()[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
