"""The documentation is true: its examples run, its links lead somewhere, its module list is complete.

What a fenced block is, by the words after the fence:

- `console`: lines after `$ ` run, one page in one folder, in order; the lines below are what they print
  (`...` stands for anything, seconds are not compared);
- `csv data/x.csv`, `yaml contracts/x.yml` …: a second word with a dot is a file, made in that folder;
- `yaml pipeline`, `yaml contract`, `yaml column`: must be valid as that;
- `python`: runs;
- anything else is only read.
"""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "sources").glob("*.md"),
        *(ROOT / "examples").glob("*/README.md"),
    ]
)
FENCE = re.compile(r"^```(\w[^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = re.compile(r"\d+(?:\.\d+)? s\b")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    kind: str
    word: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        kind, _, word = match[1].strip().partition(" ")
        found.append(Block(page, text.count("\n", 0, match.start()) + 1, kind, word, match[2]))
    return found


def _acts(block: Block) -> bool:
    return block.kind in ("console", "python") or "." in block.word


ACTING = [page for page in PAGES if any(_acts(block) for block in _blocks(page))]
YAML = [b for page in PAGES for b in _blocks(page) if b.word in ("pipeline", "contract", "column")]


@pytest.mark.parametrize("page", ACTING, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run_as_shown(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / ".bin"
    tools.mkdir()
    command = tools / "headrace"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m headrace "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "WHERE": f"{tools}/where",
    }
    here = tmp_path
    for block in _blocks(page):
        if "." in block.word:
            target = here / block.word
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text)
        elif block.kind == "console":
            here = _console(block, here, environment)
        elif block.kind == "python":
            monkeypatch.syspath_prepend(str(here))  # modules that the page has shown before
            code = compile(block.text, str(block), "exec")
            exec(code, {"__name__": "__example__"})


def _console(block: Block, here: Path, environment: dict[str, str]) -> Path:
    """Runs the block's commands; returns the folder that they ended in."""
    steps = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    where = Path(environment["WHERE"])
    for step in steps:
        command, _, wanted = step.partition("\n")
        done = subprocess.run(
            ["sh", "-c", f'{command}\nstatus=$?\npwd > "$WHERE"\nexit $status'],
            cwd=here,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        here = Path(where.read_text().strip())
        if not _same(wanted, done.stdout):
            pytest.fail(f"{block}: $ {command}\nshown:\n{wanted}\nprinted:\n{done.stdout}")
    return here


def _same(wanted: str, got: str) -> bool:
    def plain(text: str) -> str:
        lines = [SECONDS.sub("0.0 s", line).rstrip() for line in text.replace("…", "...").splitlines()]
        return "\n".join(line for line in lines if line) + "\n"

    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(plain(wanted), plain(got), flags)


def test_the_runner_notices_a_lie() -> None:
    assert _same("read 7   0.3 s\n...\nend\n", "read 7   2.0 s\n\nx\ny\nend\n")
    assert not _same("read 7\n", "read 8\n")


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_valid(block: Block) -> None:
    import yaml

    from headrace.spec.contract import Column, Contract
    from headrace.spec.pipeline import PipelineConfig

    document = yaml.safe_load(block.text)
    if block.word == "column":
        for column in document.values():
            Column.model_validate(column)
    elif block.word == "contract":
        Contract.model_validate(document)
    else:
        for table in document["tables"].values():
            if isinstance(table["contract"], str):
                names = {
                    *_listed(table, "keys"),
                    *_listed(table, "latest_by"),
                    *_listed(table, "partition_by"),
                }
                table["contract"] = {"columns": {name: {} for name in names - {"*"} or {"x"}}}
        PipelineConfig.model_validate(document)


def _listed(table: dict[str, object], key: str) -> list[str]:
    value = table.get(key, [])
    return [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page}: {target} leads nowhere"
        if anchor:
            assert anchor in _anchors(place), f"{page}: {target} has no such heading"


def test_architecture_lists_every_module_with_what_it_says_of_itself() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    src = ROOT / "src" / "headrace"
    listed = dict(re.findall(r"^\| `([\w/]+\.py)` \| (.+?) \|$", text, re.MULTILINE))
    modules = {}
    for path in sorted(src.rglob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        if path.name != "__init__.py" or doc:
            modules[path.relative_to(src).as_posix()] = doc
    assert set(listed) == {name for name in modules if "/versions/" not in name}
    assert not [name for name, doc in modules.items() if not doc], "modules without a docstring"


def test_the_mission_page_names_what_is_there() -> None:
    text = (ROOT / "docs/mission.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.*) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 198))
    src = ROOT / "src" / "headrace"
    for number, _, where, tests in rows:
        for path in re.findall(r"`([\w/*]+\.py|\w+/|[\w/]+\.yml)`", where):
            assert any(list(base.glob(path)) for base in (src, ROOT)), f"{number}: {path}"
        for path in re.findall(r"`([^`]+)`", tests):
            assert (ROOT / "tests" / path).is_file(), f"{number}: {path}"
        assert where != "not yet" or not tests, number


def test_every_field_of_a_definition_is_explained() -> None:
    from headrace.spec import contract, pipeline
    from headrace.sql.language import FUNCTIONS

    pages = {
        "pipeline.md": [pipeline.PipelineConfig, pipeline.TableSpec, pipeline.SourceSpec, pipeline.Step],
        "contract.md": [contract.Contract, contract.Column, contract.Rule, contract.Expect],
    }
    for name, models in pages.items():
        text = (ROOT / "docs" / name).read_text()
        words = {field.alias or key for model in models for key, field in model.model_fields.items()}
        assert not {word for word in words if not re.search(rf"\b{word}\b", text)}, name
    listed = re.search(r"these functions: `([^`]+)`", (ROOT / "docs/contract.md").read_text())
    assert listed
    assert listed[1].split() == list(FUNCTIONS)


def test_every_setting_of_files_is_explained() -> None:
    from headrace.sources.files import Files

    text = (ROOT / "docs/files.md").read_text()
    assert not {name for name in Files.model_fields if f"`{name}`" not in text} - {"type", "name", "root"}


def test_every_page_of_a_source_says_what_people_need() -> None:
    for page in sorted((ROOT / "docs/sources").glob("*.md")):
        text = page.read_text().lower()
        if page.name in ("own.md", "postgres-types.md"):
            continue
        for needed in ("\npromise: ", "rights", "**resume**", "what stops it"):
            assert needed in text, f"{page.name} does not say: {needed.strip()}"


def test_a_source_of_ones_own_takes_forty_lines_and_is_checked() -> None:
    page = ROOT / "docs/sources/own.md"
    source, check = (block for block in _blocks(page) if block.kind == "python")
    code = [line for line in source.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) <= 40
    assert "check_source(" in check.text


def test_the_changelog_knows_this_version() -> None:
    import headrace

    assert f"## {headrace.__version__}" in (ROOT / "CHANGELOG.md").read_text()
