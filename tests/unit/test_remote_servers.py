"""Files of SFTP and FTP(S) servers land as those of a folder do; against real servers on loopback."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from places import PASSWORD, USER, Server, ftp, line, sftp

from headrace.core import Batch
from headrace.errors import ConfigError, TransientError
from headrace.sources.files import Files
from headrace.sources.remote import Unreachable
from headrace.sources.remote_tree import Item, Tree, unfit
from headrace.testing.source import Ledger, check_source, read_all


@dataclass
class Site:
    server: Server
    scheme: str
    access: dict[str, Any] = field(default_factory=dict)

    def files(self, path: str = "/in/*.csv", port: int = 0, **settings: Any) -> Files:
        url = f"{self.scheme}://127.0.0.1:{port or self.server.port}{path}"
        access = {"user": USER, "password": PASSWORD, **self.access, **settings.pop("access", {})}
        return Files.model_validate({"name": "in", "root": "/tmp", "path": url, "access": access, **settings})


KINDS: dict[str, Callable[[Path], AbstractContextManager[Server]]] = {
    "sftp": sftp,
    "ftp": ftp,
    "ftp-old": lambda root: ftp(root, mlsd=False),
    "ftps": lambda root: ftp(root, tls=True),
    "ftps-implicit": lambda root: ftp(root, implicit=True),
}


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    kind = request.param
    with KINDS[kind](tmp_path) as server:
        access: dict[str, Any] = {"host_key": server.host_key} if kind == "sftp" else {}
        if server.certificate:
            access = {"ca": str(server.certificate), "implicit": kind == "ftps-implicit"}
        yield Site(server, kind.partition("-")[0], access)


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[Site]:
    with sftp(tmp_path) as server:
        yield Site(server, "sftp", {"host_key": server.host_key})


def names(source: Files, ledger: Ledger | None = None) -> list[str]:
    steps = read_all(source, "in", ledger=ledger)
    return [item.name.split("/", 3)[3] for step in steps for item in step.files]


def test_files_land_once_and_again_when_they_change(site: Site) -> None:
    for name in ("in/b.csv", "in/a b+ü#1.csv", "in/c.txt", "in/deep/d.csv", "in/.hidden.csv", "in/e.part"):
        site.server.put(name, f"a\n{name}\n")
    ledger = Ledger()
    assert names(site.files(), ledger) == ["in/a b+ü#1.csv", "in/b.csv"]
    assert names(site.files(), ledger) == []
    site.server.put("in/b.csv", "a\nin/b.CSV\n", age=30)  # as long as before
    assert names(site.files("/in/**/*.csv"), ledger) == ["in/b.csv", "in/deep/d.csv"]
    assert names(site.files("/in/deep")) == ["in/deep/d.csv"]
    assert names(site.files("/in/c.txt", format="csv")) == ["in/c.txt"]
    assert names(site.files("/*/?.csv")) == ["in/b.csv"]
    assert ledger.notes == []
    with pytest.raises(ConfigError, match="does not exist"):
        names(site.files("/nowhere/*.csv"))
    with pytest.raises(TransientError, match="is gone"):
        names(site.files("/nowhere/*.csv"), ledger)


def test_what_was_written_just_now_waits(site: Site) -> None:
    site.server.put("in/a.csv", age=0)
    ledger = Ledger()
    assert names(site.files(), ledger) == []
    assert [kind for kind, _, _ in ledger.notes] == ["unstable"]
    assert names(site.files(settle=0), ledger) == ["in/a.csv"]


def test_a_file_that_changes_or_goes_under_the_reader_does_not_land(site: Site) -> None:
    site.server.put("in/a.csv")
    site.server.put("in/b.csv")
    site.server.put("in/c.csv")
    reader = site.files().read("in", None, Ledger())
    batch = next(reader)
    assert isinstance(batch, Batch)
    first, second, third = batch.data
    with first.open() as stream:
        assert stream.read(3) == b"a,b"
        site.server.put("in/a.csv", age=20)
        stream.read()
    with pytest.raises(TransientError, match="changed"):
        first.verify()
    site.server.put("in/b.csv", "longer\nthan\nbefore\n")
    with pytest.raises(TransientError, match="changed"):
        second.open()
    (site.server.root / "in/c.csv").unlink()
    with pytest.raises(TransientError, match="is gone"):
        third.open()
    reader.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("settings", [{}, {"batch": 2}, {"order": "mtime", "batch": 3}])
def test_conformance(site: Site, settings: dict[str, Any]) -> None:
    for number in range(5):
        site.server.put(f"in/{number}.csv", f"a,b\n{number},2\n", age=60 + number)
    assert check_source(lambda: site.files(**settings)) >= 1


def test_a_big_file_comes_whole_and_early_close_is_no_harm(site: Site) -> None:
    text = "a,b\n" + "".join(f"{n},{n * n}\n" for n in range(400_000))
    site.server.put("in/big.csv", text)
    site.server.put("in/small.csv")
    ledger = Ledger()
    assert names(site.files(), ledger) == ["in/big.csv", "in/small.csv"]
    landed = next(item for item in ledger.landed.values() if item.name.endswith("big.csv"))
    assert landed.sha256 == hashlib.sha256(text.encode()).hexdigest()
    reader = site.files().read("in", None, Ledger())
    batch = next(reader)
    assert isinstance(batch, Batch)
    with batch.data[0].open() as stream:
        assert stream.read(10) == text[:10].encode()
    with batch.data[1].open() as stream:
        assert stream.read() == b"a,b\n1,2\n"
    reader.close()  # type: ignore[attr-defined]


def test_a_wrong_password_is_a_mistake_of_the_configuration(site: Site) -> None:
    with pytest.raises(ConfigError, match="login") as caught:
        names(site.files(access={"password": "hunter2-wrong"}))
    assert "hunter2" not in str(caught.value)


def test_a_server_that_is_away_is_one_error(site: Site) -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        names(site.files(port=9))


def test_an_unknown_host_key_is_refused_with_its_fingerprint(ssh: Site, tmp_path: Path) -> None:
    ssh.server.put("in/a.csv")
    blob = base64.b64decode(ssh.server.host_key.split()[1])
    print_ = "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    (tmp_path / "empty").write_text("")
    with pytest.raises(ConfigError, match="is not known") as caught:
        names(ssh.files(access={"host_key": None, "known_hosts": str(tmp_path / "empty")}))
    assert print_ in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="is not the one"):
        names(ssh.files(access={"host_key": print_[:-1] + ("A" if print_[-1] != "A" else "B")}))
    assert names(ssh.files(access={"host_key": print_})) == ["in/a.csv"]
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{ssh.server.port} {ssh.server.host_key}\n")
    assert names(ssh.files(access={"host_key": None, "known_hosts": str(known)})) == ["in/a.csv"]
    other = ssh.server.host_key[:-8] + "AAAAAAAA"
    known.write_text(f"[127.0.0.1]:{ssh.server.port} {other}\n")
    with pytest.raises(ConfigError, match="another host key"):
        names(ssh.files(access={"host_key": None, "known_hosts": str(known)}))


def test_a_private_key_opens_the_door(ssh: Site) -> None:
    ssh.server.put("in/a.csv")
    settings = {"password": None, "private_key": ssh.server.client_key}
    assert names(ssh.files(access=settings)) == ["in/a.csv"]
    with pytest.raises(ConfigError, match="private key cannot be read"):
        names(ssh.files(access={"password": None, "private_key": "nonsense"}))


def test_links_are_left_alone(ssh: Site) -> None:
    ssh.server.put("in/a.csv")
    (ssh.server.root / "in/link.csv").symlink_to("/etc/passwd")
    (ssh.server.root / "in/folder").symlink_to("/etc")
    assert names(ssh.files("/in/**")) == ["in/a.csv"]


@pytest.mark.parametrize("clean", [False, True])
def test_a_line_that_breaks_is_taken_up_again_or_nothing_lands(ssh: Site, clean: bool) -> None:
    text = "a,b\n" + "1,2\n" * 300_000
    ssh.server.put("in/a.csv", text)
    with line(ssh.server.port, cuts=[400_000, 500_000], clean=clean) as wire:
        ledger = Ledger()
        assert names(ssh.files(port=wire.port), ledger) == ["in/a.csv"]
        assert wire.connections == 3
    assert next(iter(ledger.landed.values())).bytes == len(text)
    with (
        line(ssh.server.port, cuts=[400_000] * 30, clean=clean) as wire,
        pytest.raises((TransientError, Unreachable)),
    ):
        names(ssh.files(port=wire.port))


def test_a_connection_that_was_idle_for_too_long_is_made_anew(site: Site) -> None:
    for name in ("in/a.csv", "in/b.csv"):
        site.server.put(name)
    source = site.files()
    reader = source.read("in", None, Ledger())
    batch = next(reader)
    assert isinstance(batch, Batch)
    [place] = source._places.values()
    tree: Any = place
    for file in batch.data:
        held = tree.server
        if site.scheme == "sftp":
            held._ssh.get_transport().sock.close()
        else:
            held._ftp.sock.shutdown(2)
        with file.open() as stream:
            assert stream.read() == b"a,b\n1,2\n"
        file.verify()
    reader.close()  # type: ignore[attr-defined]


def test_ftp_data_that_is_cut_short_does_not_land(tmp_path: Path) -> None:
    """A server that closes the data connection early has said nothing wrong: only the size tells."""
    with ExitStack() as held:
        server = held.enter_context(ftp(tmp_path))
        site = Site(server, "ftp")
        server.put("in/a.csv", "a,b\n" + "1,2\n" * 1000)
        batch = next(site.files().read("in", None, Ledger()))
        assert isinstance(batch, Batch)
        path = server.root / "in/a.csv"
        stat = path.stat()
        stream = batch.data[0].open()
        path.write_bytes(path.read_bytes()[:1000])
        os.utime(path, (stat.st_atime, stat.st_mtime))
        with pytest.raises(TransientError, match=r"changed|broke off"):
            stream.read()


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    with ftp(tmp_path, tls=True) as server, pytest.raises(ConfigError, match="certificate"):
        names(Site(server, "ftps").files())


@dataclass
class Liar:
    """A server whose listing holds names that lead elsewhere."""

    base: str = "ftp://liar"
    lost: tuple[type[BaseException], ...] = (OSError,)

    def listed(self, folder: str) -> list[Item]:
        assert ".." not in folder
        if folder == "/in/closed/":
            raise PermissionError
        odd = ("../up.csv", "..", "/etc/passwd", "a\nb.csv", "c:\\x.csv", "good.csv")
        return [*(Item(name, False, 1, time.time() - 60) for name in odd), Item("closed", True)]

    def stat(self, path: str) -> Item:
        raise AssertionError(path)

    fetch = stat  # type: ignore[assignment]

    def told(self) -> AbstractContextManager[None]:
        return ExitStack()  # type: ignore[return-value]

    def close(self) -> None:
        pass


def test_names_that_lead_elsewhere_are_never_followed() -> None:
    found = list(Tree(Liar(), ()).entries("/in/**"))  # type: ignore[arg-type]
    assert [entry.key for entry in found if not entry.unfit] == ["/in/good.csv"]
    assert len([entry for entry in found if entry.unfit]) == 5
    assert unfit("x\x7f") and not unfit("ü ~x.csv")  # noqa: PT018
