"""Logs: in the form asked for, from every kind of logger, and never with a secret."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import redact
from headrace.errors import ConfigError
from headrace.observe import logs
from headrace.observe.logs import configure, logger


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("HEADRACE_LOG", "HEADRACE_LOG_LEVEL", "HEADRACE_LOG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(redact, "_known", ())
    root = logging.getLogger()
    level = root.level
    yield
    configure(level="CRITICAL", form="human")
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, logs.Standard)]
    root.setLevel(level)
    logging.captureWarnings(False)


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_people_read_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    logger.bind(table="sales").info("refined {} rows", 3)
    logger.debug("not shown")
    (line,) = _lines(capsys)
    assert line[2] == ":"
    assert line[9:] == "INFO     refined 3 rows  table=sales"


def test_machines_read_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_LOG", "json")
    monkeypatch.setenv("HEADRACE_LOG_LEVEL", "warning")
    configure()
    logger.info("not shown")
    with logger.contextualize(run_id="r1", rows=3):
        logger.warning('two\nlines, a "quote", {braces} and <red>tags</red>')
    (line,) = _lines(capsys)
    found = json.loads(line)
    assert found["message"] == 'two\nlines, a "quote", {braces} and <red>tags</red>'
    assert (found["level"], found["run_id"], found["rows"]) == ("WARNING", "r1", 3)
    assert found["time"].endswith("Z")


@pytest.mark.parametrize("form", ["human", "json"])
def test_standard_logging_and_warnings_are_caught(
    capsys: pytest.CaptureFixture[str], form: logs.Form
) -> None:
    configure(form=form)
    logging.getLogger("some.library").warning("odd: %s {and} <b>", "thing")
    logging.getLogger("some.library").log(25, "own level")
    logging.getLogger("some.library").debug("not shown")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("the catalog was moved", stacklevel=1)
    lines = _lines(capsys)
    assert "odd: thing {and} <b>" in lines[0]
    assert "own level" in lines[1]
    assert any("the catalog was moved" in line for line in lines[2:])
    if form == "json":
        assert json.loads(lines[0])["logger"] == "some.library"


_SECRET = "tr0ub4dor&3 /x"


@pytest.mark.parametrize("form", ["human", "json"])
def test_no_secret_is_in_a_line(capsys: pytest.CaptureFixture[str], form: logs.Form, tmp_path: Path) -> None:
    configure(form=form, secrets=[_SECRET], file=tmp_path / "run.log")
    logger.info("logging in with " + _SECRET)
    logger.bind(api_key="hunter2 hunter2", note=f"saw {_SECRET}").warning("bound")
    logging.getLogger("driver").error("dsn postgresql://etl:hunter2@db/x", stack_info=False)
    password = "hunter2"
    try:
        raise ValueError(f"password={password}")
    except ValueError:
        logger.exception("failed")
    text = "\n".join(_lines(capsys))
    kept = (tmp_path / "run.log").read_text()
    for where in (text, kept):
        assert "logging in with ***" in where
        assert "ValueError: password=***" in where
        assert "Traceback" in where
        assert "hunter2" not in where
        assert _SECRET not in where


@pytest.mark.parametrize(
    ("given_text", "masked"),
    [
        ("postgresql://etl:p@ss@db:5432/x", "postgresql://etl:***@db:5432/x"),
        ("redis://:pw@cache/0", "redis://:***@cache/0"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ("got bearer eyJhbGciOiJIUzI1NiJ9.e30", "got bearer ***"),
        ("password=x&user=y", "password=***&user=y"),
        ('{"db_password": "a b", "n": 1}', '{"db_password": ***, "n": 1}'),
        ("AWS_SECRET_ACCESS_KEY=abc", "AWS_SECRET_ACCESS_KEY=***"),
        ("api-key: 'k'", "api-key: ***"),
        ("PGPASSWORD=x psql", "PGPASSWORD=*** psql"),
        ("client_secret = s3", "client_secret = ***"),
    ],
)
def test_what_looks_like_a_secret_is_masked(given_text: str, masked: str) -> None:
    assert redact.text(given_text) == masked


@pytest.mark.parametrize(
    "harmless",
    [
        "contracts/sales.yml:14: column `qty`: type `integr` is not known",
        "order_key=17 of table sales: 3 rows",
        "https://example.org:8080/a@b",
        "mailto:ops@example.org",
        "s3://bucket/key=1/part.parquet",
        "the basic rules hold",
        "tokens: 512",
    ],
)
def test_what_is_no_secret_stays(harmless: str) -> None:
    assert redact.text(harmless) == harmless


@given(st.text(min_size=4, max_size=30).filter(lambda s: len(s.strip()) >= 4), st.text(), st.text())
def test_a_registered_secret_never_comes_through(secret: str, before: str, after: str) -> None:
    redact._known = ()
    redact.register([secret])
    shown = redact.text(before + secret + after)
    assert secret not in shown.replace(redact.MASK, "\0")
    redact._known = ()


def test_a_secret_is_known_in_other_spellings() -> None:
    redact.register(["p/ss word", "-----BEGIN KEY-----\nMIIBVwIBADAN\n-----END KEY-----"])
    assert redact.text("login/p%2Fss%20word and MIIBVwIBADAN") == "login/*** and ***"
    redact.register(["abc", ""])
    assert redact.text("abc") == "abc"


def test_masking_stays_linear() -> None:
    for piece in ("a-", "a.b+", "x://", "a:", "password", "basic "):
        began = time.perf_counter()
        redact.text(piece * 100_000)
        assert time.perf_counter() - began < 5, piece


def test_a_file_keeps_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "run.log"
    monkeypatch.setenv("HEADRACE_LOG_FILE", str(path))
    configure(form="json")
    logger.info("kept: é")
    assert json.loads(path.read_text(encoding="utf-8"))["message"] == "kept: é"


def test_a_file_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="log file"):
        configure(file=tmp_path)


def test_configuring_again_does_not_double(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        configure()
    logging.getLogger("x").warning("once")
    assert len(_lines(capsys)) == 1


@pytest.mark.parametrize(("name", "value"), [("HEADRACE_LOG", "xml"), ("HEADRACE_LOG_LEVEL", "loud")])
def test_unknown_settings_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name) as caught:
        configure()
    assert "hint: one of" in str(caught.value)


def test_other_peoples_handlers_stay(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    mine = logger.add(heard.append, format="{message}")
    configure()
    logger.info("both")
    logger.remove(mine)
    assert heard == ["both\n"]
    assert len(_lines(capsys)) == 1


def test_importing_headrace_leaves_loguru_alone() -> None:
    code = "import sys, headrace, headrace.observe, headrace.redact; print('loguru' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
