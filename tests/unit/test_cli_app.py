"""The commands without a lake: help, usage errors, the error handler, progress, `init` from the template."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from headrace.cli import FAILED, INTERRUPTED, OK, STOPPED, USAGE, app, doctor, main
from headrace.cli.progress import amount, plain, progress
from headrace.cli.start import create
from headrace.errors import ConfigError, HeadraceError, Stopped
from headrace.run.report import Event

COMMANDS = sorted(
    command.name or command.callback.__name__ for command in app.app.registered_commands if command.callback
) + sorted(str(group.name) for group in app.app.registered_groups)
DOCS = Path(__file__).parents[2] / "docs"


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == OK
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", out, re.MULTILINE) for name in COMMANDS)
    assert "130 interrupted" in " ".join(out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_is_documented(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == OK
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    page = (DOCS / "cli.md").read_text()
    assert f"## `headrace {name}" in page
    assert not {option for option in options if f"`{option}" not in page}


@pytest.mark.parametrize(
    "line", [["bogus"], ["run", "--bogus"], ["query"], ["query", "x", "--format", "xml"]]
)
def test_usage_errors_are_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage:" in captured.err


def _raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(app, "_load", fail)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("no", where="p.yml:3", hint="do it"), USAGE, "error: p.yml:3: no\nhint: do it\n"),
        (Stopped("rule `x` broke"), STOPPED, "error: rule `x` broke\n"),
        (ValueError("odd"), FAILED, "error: ValueError: odd\nhint: this is unexpected"),
        (KeyboardInterrupt(), INTERRUPTED, ""),
    ],
)
def test_errors_are_told_without_a_traceback(
    error: BaseException,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _raising(monkeypatch, error)
    assert main(["status"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(told)
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("line", [["--debug", "status"], ["status", "--debug"]])
def test_debug_shows_the_traceback(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _raising(monkeypatch, ConfigError("no"))
    with pytest.raises(ConfigError):
        main(line)


def test_run_json_tells_an_error_as_a_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _raising(monkeypatch, ConfigError("no", hint="do it"))
    assert main(["run", "--json"]) == USAGE
    assert json.loads(capsys.readouterr().out) == {
        "status": "failed",
        "error": "no\nhint: do it",
        "exit_code": USAGE,
    }


def test_completion_scripts_are_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_HEADRACE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "headrace qu")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert main([]) == OK
    assert capsys.readouterr().out.split() == ["query", "quarantine"]


def test_plain_progress_tells_long_work_now_and_then_and_every_note() -> None:
    now = [0.0]
    out = io.StringIO()
    listen = plain(out, lambda: now[0])
    listen(Event("land", "start"))
    for now[0], done in ((1.0, 100), (10.0, 1_000), (12.0, 1_200), (20.0, 2_000)):
        listen(Event("land", "progress", done, 4_000, "rows"))
    listen(Event("land", "retry", message="again in 2 s"))
    listen(Event("land", "end"))
    assert out.getvalue().splitlines() == [
        "land: 1,000 of 4,000 rows, 100 rows/s, 30 s left",
        "land: 2,000 of 4,000 rows, 100 rows/s, 20 s left",
        "land: again in 2 s",
    ]


def test_amount_without_a_total_or_time() -> None:
    assert amount(Event("x", "progress", 5, None, "files"), 0) == "5 files"
    assert amount(Event("x", "progress", 50, None, "rows"), 2) == "50 rows, 25 rows/s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal_leave_nothing_behind_but_notes() -> None:
    out = Terminal()
    with progress(quiet=False, out=out) as listen:
        listen(Event("refine:sales", "start", 0, 100, "rows"))
        listen(Event("refine:sales", "progress", 40, 100, "rows"))
        listen(Event("refine:sales", "note", message="[look] at this"))
        listen(Event("refine:sales", "end"))
    assert "[look] at this" in out.getvalue()


def test_quiet_is_quiet() -> None:
    out = io.StringIO()
    with progress(quiet=True, out=out) as listen:
        listen(Event("x", "note", message="hm"))
    assert out.getvalue() == ""


def test_init_makes_a_project_and_never_overwrites_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert create("shop", None)[-1] == "next: cd shop && headrace run"
    assert "name: shop\n" in (tmp_path / "shop/pipeline.yml").read_text()
    before = {path: path.read_bytes() for path in (tmp_path / "shop").rglob("*") if path.is_file()}
    with pytest.raises(HeadraceError, match="not empty"):
        create("shop", None)
    assert before == {path: path.read_bytes() for path in (tmp_path / "shop").rglob("*") if path.is_file()}
    with pytest.raises(HeadraceError, match="not a file"):
        create("other", tmp_path / "nothing.csv")
    assert not (tmp_path / "other").exists()


def test_doctor_finds_a_part_that_is_there_and_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runner() -> doctor.Finding:
        (found,) = [each for each in doctor.examine(tmp_path, None) if each.what == "runner"]
        return found

    assert runner().level == "ok"
    (tmp_path / "broken_part.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "PARTS", ("broken_part",))
    assert runner().level == "fail"
    assert "broken_part cannot be imported: ModuleNotFoundError" in runner().message
