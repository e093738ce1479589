"""Secrets planted in every place of a pipeline are in nothing that its commands write, print or start."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
from places import PASSWORD, USER, Server, Store, ftp, s3, sftp, web

pytest.importorskip("httpx")
pytest.importorskip("paramiko")

CONTRACT = "{columns: {a: {type: integer, required: true}, b: {type: integer}}}"


class Canaries:
    """Secrets by the name of their environment variable, each unlike anything else in the world."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def plant(self, name: str) -> str:
        self.known[name] = f"cAnAry{name.replace('_', '')}/+ {os.urandom(6).hex()}"
        return f"${{{name}}}"

    def forms(self) -> dict[bytes, str]:
        """Every spelling in which one could get out."""
        found = {}
        for name, value in self.known.items():
            raw = value.encode()
            for form in (raw, quote(value).encode(), quote(value, safe="").encode(), raw.hex().encode()):
                found[form] = name
            for shift in range(3):  # wherever it begins in a longer text
                whole = base64.b64encode(b"x" * shift + raw)
                found[whole[4 if shift else 0 : -4]] = name
        return found


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Store, Server, Server, Server]]:
    with ExitStack() as held:
        roots = [tmp_path / name for name in ("sftp", "ftps", "web")]
        for root in roots:
            root.mkdir()
        store = held.enter_context(s3())
        servers = [
            held.enter_context(sftp(roots[0])),
            held.enter_context(ftp(roots[1], tls=True)),
            held.enter_context(web(roots[2])),
        ]
        for server in servers:
            server.put("in/a.csv")
        store.put("in/a.csv")
        yield store, *servers


class Watch(threading.Thread):
    """Looks at the command lines of all processes while something runs."""

    def __init__(self, forms: dict[bytes, str]) -> None:
        super().__init__(daemon=True)
        self.forms, self.found, self.looks, self.over = forms, set[str](), 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    data = path.read_bytes()
                except OSError:
                    continue
                self.found |= {name for form, name in self.forms.items() if form in data}


def test_no_byte_of_a_secret_gets_out(
    tmp_path: Path, canaries: Canaries, places: tuple[Store, Server, Server, Server]
) -> None:
    store, ssh, files, site = places
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key").write_text(ssh.client_key)
    canaries.known["KEYFILE"] = ssh.client_key.splitlines()[2]
    plant = canaries.plant
    (root / "pipeline.yml").write_text(
        f"""
name: canary
retry: {{attempts: 1, base: 0.1}}
pii_key: {plant("PII")}
sources:
  s3:
    type: files
    path: s3://bucket/in/*.csv
    access: {{endpoint: {store.endpoint}, access_key_id: AKIAEXAMPLE,
      secret_access_key: "{plant("S3_SECRET")}", session_token: "{plant("S3_SESSION")}"}}
  gone: {{type: files, path: s3://nowhere/*, access: {{endpoint: {store.endpoint}, access_key_id: x,
      secret_access_key: "{plant("GONE_SECRET")}"}}}}
  ssh: {{type: files, path: "sftp://127.0.0.1:{ssh.port}/in/*.csv", access: {{user: {USER},
      host_key: "{ssh.host_key}", private_key: "${{file:{tmp_path}/secrets/key}}"}}}}
  ssh_wrong: {{type: files, path: "sftp://{USER}@127.0.0.1:{ssh.port}/in/*.csv", access: {{
      host_key: "{ssh.host_key}", password: "{plant("SSH_PASSWORD")}"}}}}
  ftps: {{type: files, path: "ftps://127.0.0.1:{files.port}/in/*.csv", access: {{user: {USER},
      password: "${{FTP_PASSWORD}}", ca: {files.certificate}}}}}
  ftps_wrong: {{type: files, path: "ftps://127.0.0.1:{files.port}/in/*.csv", access: {{user: {USER},
      password: "{plant("FTP_WRONG")}", ca: {files.certificate}}}}}
  web: {{type: files, path: "http://127.0.0.1:{site.port}/in/a.csv?token={plant("WEB_QUERY")}", access: {{
      allow_private: true, headers: {{Authorization: "Bearer {plant("WEB_TOKEN")}",
      X-Custom: "{plant("WEB_HEADER_KEY")}"}}}}}}
  web_wrong: {{type: files, path: "http://127.0.0.1:{site.port}/nowhere.csv?x={plant("WEB_URL")}", access: {{
      allow_private: true, user: me, password: "{plant("WEB_PASSWORD")}"}}}}
  db: {{type: sql, tables: [t], url: "{plant("DB_URL")}"}}
  db_parts: {{type: sql, tables: [t], url: "mysql+pymysql://me:{plant("DB_PASSWORD")}@127.0.0.1:9/shop"}}
targets:
  warehouse: {{type: postgres, timeout: 3, url: "{plant("TARGET_URL")}"}}
  parts: {{type: postgres, timeout: 3, url: "postgresql://me:{plant("TARGET_PASSWORD")}@127.0.0.1:9/shop"}}
tables:
"""
        + "".join(
            f"  {name}: {{from: {name}, contract: {CONTRACT}, to: [warehouse, parts]}}\n"
            for name in ("s3", "gone", "ssh", "ssh_wrong", "ftps", "ftps_wrong", "web", "web_wrong")
        )
        + f"  db: {{from: db.t, contract: {CONTRACT}}}\n"
        + f"  db_parts: {{from: db_parts.t, contract: {CONTRACT}}}\n"
    )
    password = canaries.known["DB_URL"]
    environ = {**os.environ, **canaries.known, "FTP_PASSWORD": PASSWORD}
    environ["DB_URL"] = f"postgresql+psycopg://me:{quote(password, safe='')}@127.0.0.1:9/shop"
    environ["TARGET_URL"] = f"postgresql://me:{quote(canaries.known['TARGET_URL'], safe='')}@127.0.0.1:9/shop"
    environ["TARGET_PASSWORD"] = quote(canaries.known["TARGET_PASSWORD"], safe="")
    environ |= {"HEADRACE_LOG_LEVEL": "TRACE", "HEADRACE_LOG_FILE": str(root / "log.txt"), "COLUMNS": "400"}
    forms = canaries.forms()
    watch = Watch(forms)
    watch.start()
    said = b""
    codes = []
    commands = [
        ["plan"],
        ["run"],
        ["run", "--select", "s3"],
        ["status"],
        ["status", "--format", "json"],
        ["doctor"],
        ["query", "select * from runs"],
    ]
    for place, command in enumerate(commands):
        if place == 2:
            site.put("in/a.csv", "a,b\nx,2\n")
            store.put("in/b.csv", b"")
            store.put("in/c.csv", "a,b\nnot a number,1\n")
        done = subprocess.run(
            [sys.executable, "-m", "headrace", *command],
            cwd=root,
            env={**environ, "HEADRACE_LOG": "json" if place % 2 else "human"},
            capture_output=True,
            timeout=300,
        )
        codes.append(done.returncode)
        said += done.stdout + done.stderr
        assert b"Traceback" not in done.stdout, done.stdout.decode()
    watch.over.set()
    watch.join()
    assert codes[1] != 0
    text = said.decode()
    for told in ("refuses the login", "no such bucket", "127.0.0.1/shop", "nowhere.csv"):
        assert told in text, told  # the failures that were to happen have happened
    names = {"s3", "ssh", "ftps", "web"}
    assert names <= {path.name for path in (root / "lake/silver").iterdir()}
    assert watch.looks > 10
    assert watch.found == set()
    assert {name for form, name in forms.items() if form in said} == set()
    scanned = 0
    for path in root.rglob("*"):
        if path.is_file() and path.name != "pipeline.yml":
            data = path.read_bytes()
            scanned += 1
            assert {name for form, name in forms.items() if form in data} == set(), path
    assert scanned > 30


def test_the_watch_can_see(canaries: Canaries) -> None:
    canaries.plant("SEEN")
    watch = Watch(canaries.forms())
    watch.start()
    secret = canaries.known["SEEN"]
    subprocess.run([sys.executable, "-c", "import time; time.sleep(0.5)", secret], check=True)
    watch.over.set()
    watch.join()
    assert watch.found == {"SEEN"}
    coded = base64.b64encode(f"me:{secret}".encode())
    assert any(form in coded for form in canaries.forms())
