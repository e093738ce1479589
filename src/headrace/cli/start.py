"""`headrace init`: a project that runs at once, from a template, or proposed from a data file or an API."""

from __future__ import annotations

import glob
import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..core import Landed
    from ..spec.infer import Proposal

TEMPLATE = ("pipeline.yml", "contracts/orders.yml", "data/orders.csv")
BLOCK = 4 << 20


def create(name: str | None, source: str | Path | None) -> list[str]:
    """Makes the project's folder and returns what to tell; an existing project is never overwritten."""
    from ..spec.scaffold import project_name

    url = str(source) if "://" in str(source) else ""
    if url and not url.startswith(("https://", "http://")):
        raise ConfigError(
            f"--from takes a data file or the URL of an API, not {url.partition('://')[0]}://",
            hint="copy one file here and name it: `headrace init --from orders.csv`",
        )
    file = None if url or source is None else Path(source)
    if file is not None and not file.is_file():
        raise ConfigError(f"`{source}` is not a file", hint="--from takes one data file, such as orders.csv")
    folder = Path(name or _called(url) or (file.name.split(".")[0] if file else "pipeline"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"`{folder}` exists and is not empty", hint="give another name: headrace init NAME")
    word = project_name(folder.resolve().name)
    if url:
        contents, notes = of_api(word, _called(url), url)
    else:
        contents, notes = proposed(word, folder, file) if file else (template(word), [])
    for place, text in contents.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return [
        f"made {folder}/ with {', '.join(contents)}",
        *notes,
        "",
        f"next: cd {shlex.quote(str(folder))} && headrace run",
    ]


def template(name: str) -> dict[str, str]:
    """The example project under another name."""
    folder = files("headrace.cli").joinpath("template")
    contents = {place: folder.joinpath(place).read_text(encoding="utf-8") for place in TEMPLATE}
    contents["pipeline.yml"] = contents["pipeline.yml"].replace("NAME", name)
    return {**contents, ".gitignore": "lake/\n.env\n"}


def proposed(name: str, folder: Path, source: Path) -> tuple[dict[str, str], list[str]]:
    """The project's files for the data in `source`, which stays where it is, and notes on the proposal."""
    from ..spec.scaffold import project_files, project_name

    table = project_name(source.name.split(".")[0])
    proposal = _proposal(table, inspected(table, source), source)
    contents = project_files(table, glob.escape(os.path.relpath(source, folder)), proposal)
    return _named(contents, table, name), [f"note: {note}" for note in proposal.notes]


def of_api(name: str, table: str, url: str) -> tuple[dict[str, str], list[str]]:
    """The project's files for the API at `url`, of which one response is looked at, and notes."""
    from ..core import Landed
    from ..sources.rest_look import look
    from ..spec.scaffold import project_files, project_name

    table = project_name(table)
    found = look(url)
    with tempfile.TemporaryDirectory(prefix="headrace-") as scratch:
        body = Path(scratch) / table
        body.write_bytes(found.body)
        landed = Landed("", table, len(found.body), "", found.form.get("rows"), found.form)
        proposal = _proposal(table, landed, body)
    proposal = replace(proposal, notes=[*found.notes, *proposal.notes])
    contents = project_files(table, found.settings["url"], proposal, found.settings)
    return _named(contents, table, name), [f"note: {note}" for note in proposal.notes]


def _called(url: str) -> str:
    """What an API's data is called: the end of its path, or its host."""
    parts = urlsplit(url)
    found = [part for part in parts.path.split("/") if part]
    return (found[-1] if found else parts.hostname or "").split(".")[0]


def _named(contents: dict[str, str], table: str, name: str) -> dict[str, str]:
    pipeline = contents["pipeline.yml"].replace(f"name: {table}\n", f"name: {name}\n", 1)
    return {**contents, "pipeline.yml": pipeline}


def _proposal(table: str, landed: Landed, path: Path) -> Proposal:
    """A contract for the data in the file `path`, whose format is that of `landed`."""
    from ..core import RawInput
    from ..engines.duckdb import DuckEngine
    from ..engines.duckdb.profile import composite_keys, profile
    from ..engines.duckdb.staging.stage import stage
    from ..spec.infer import propose

    headers = _headers(landed.format, path)
    with tempfile.TemporaryDirectory(prefix="headrace-") as scratch, DuckEngine(Path(scratch)) as engine:
        con = engine.session.con
        raw = RawInput(table, [(1, landed, path.resolve())])
        staged = stage(con, [raw], {name: [name] for name in headers}, case="exact", scratch=engine.scratch)
        profiles = profile(con, staged.relation, headers)
        together = composite_keys(con, staged.relation, profiles)
    if not profiles or not profiles[0].rows:
        raise ConfigError(
            f"`{path.name}`: no rows were found, read as {landed.format.get('type')}",
            hint="types are proposed from values: give data with some rows",
        )
    return propose(table, profiles, profiles[0].rows, together)


def _headers(form: Mapping[str, Any], source: Path) -> list[str]:
    """Names of the file's fields, as staging calls them."""
    named = form.get("header") or form.get("keys")
    if named and form.get("header"):
        found = [name if name.strip() else f"column{place + 1}" for place, name in enumerate(named)]
        twice = next((name for place, name in enumerate(found) if name in found[:place]), None)
        if twice is not None:
            raise ConfigError(
                f"`{source}`: two columns are called `{twice}`, so nobody could tell which is meant",
                hint=f"rename one of them: headers are {', '.join(found)}",
            )
        return found
    if named:
        return [name for name in named if name.strip()]
    if count := form.get("columns"):
        return [f"column{place + 1}" for place in range(count)]
    raise ConfigError(
        f"`{source}`: no columns were found in this {form.get('type')} file",
        hint="start with `headrace init` and write the contract by hand: docs/contract.md",
    )


class _Nothing:
    """A ledger without entries (core.Reading)."""

    follow = False

    def seen(self, name: str) -> Landed | None:
        del name
        return None

    def names(self) -> list[str]:
        return []


def inspected(table: str, source: Path) -> Landed:
    """`source` as it would land: the files connector finds its format, or refuses it."""
    from ..core import Landed
    from ..spec.registry import connector

    settings: dict[str, Any] = {
        "name": table,
        "root": source.resolve().parent,
        "path": glob.escape(source.name),
    }
    for batch in connector("files").model_validate(settings).read(table, None, _Nothing()):
        for raw in batch.data:
            inspector = raw.inspector()
            with raw.open() as stream:
                while block := stream.read(BLOCK):
                    inspector.feed(block)
            found = dict(inspector.result())
            return Landed("", raw.name, raw.size, "", found.get("rows"), found)
    raise ConfigError(
        f"`{source}` cannot be read as data", hint="its name looks like a temporary file's: rename it"
    )
