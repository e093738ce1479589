"""`headrace init`: a project that runs at once, from a template or proposed from a data file."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..core import Landed

TEMPLATE = ("pipeline.yml", "contracts/orders.yml", "data/orders.csv")
BLOCK = 4 << 20


def create(name: str | None, source: Path | None) -> list[str]:
    """Makes the project's folder and returns what to tell; an existing project is never overwritten."""
    from ..spec.scaffold import project_name

    if source is not None and not source.is_file():
        raise ConfigError(f"`{source}` is not a file", hint="--from takes one data file, such as orders.csv")
    folder = Path(name or (source.name.split(".")[0] if source else "pipeline"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"`{folder}` exists and is not empty", hint="give another name: headrace init NAME")
    word = project_name(folder.resolve().name)
    contents, notes = proposed(word, folder, source) if source else (template(word), [])
    for place, text in contents.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return [f"made {folder}/ with {', '.join(contents)}", *notes, "", f"next: cd {folder} && headrace run"]


def template(name: str) -> dict[str, str]:
    """The example project under another name."""
    folder = files("headrace.cli").joinpath("template")
    contents = {place: folder.joinpath(place).read_text(encoding="utf-8") for place in TEMPLATE}
    contents["pipeline.yml"] = contents["pipeline.yml"].replace("NAME", name)
    return {**contents, ".gitignore": "lake/\n.env\n"}


def proposed(name: str, folder: Path, source: Path) -> tuple[dict[str, str], list[str]]:
    """The project's files for the data in `source`, which stays where it is, and notes on the proposal."""
    from ..core import RawInput
    from ..engines.duckdb import DuckEngine
    from ..engines.duckdb.profile import composite_keys, profile
    from ..engines.duckdb.staging.stage import stage
    from ..spec.infer import propose
    from ..spec.scaffold import project_files, project_name

    table = project_name(source.name.split(".")[0])
    landed = inspected(table, source)
    headers = _headers(landed.format, source)
    with tempfile.TemporaryDirectory(prefix="headrace-") as scratch, DuckEngine(Path(scratch)) as engine:
        con = engine.session.con
        raw = RawInput(table, [(1, landed, source.resolve())])
        staged = stage(con, [raw], {name: [name] for name in headers}, case="exact", scratch=engine.scratch)
        profiles = profile(con, staged.relation, headers)
        together = composite_keys(con, staged.relation, profiles)
    proposal = propose(table, profiles, profiles[0].rows, together)
    contents = project_files(table, glob.escape(os.path.relpath(source, folder)), proposal)
    contents["pipeline.yml"] = contents["pipeline.yml"].replace(f"name: {table}\n", f"name: {name}\n", 1)
    return contents, [f"note: {note}" for note in proposal.notes]


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
