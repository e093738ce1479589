"""`headrace init`: a project that runs at once, from a template or proposed from a data file."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from ..errors import ConfigError

TEMPLATE = ("pipeline.yml", "contracts/orders.yml", "data/orders.csv")
IGNORED = "lake/\n.env\n"


def create(name: str | None, source: Path | None) -> list[str]:
    """Makes the project's folder and returns what to tell; an existing project is never overwritten."""
    if source is not None and not source.is_file():
        raise ConfigError(f"`{source}` is not a file", hint="--from takes one data file, such as orders.csv")
    folder = Path(name or (source.name.split(".")[0] if source else "pipeline"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"`{folder}` exists and is not empty",
            hint="give another name: headrace init NAME",
        )
    word = identifier(folder.resolve().name)
    contents, notes = proposed(word, folder, source) if source else (template(word), [])
    for place, text in contents.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return [f"made {folder}/ with {', '.join(contents)}", *notes, "", f"next: cd {folder} && headrace run"]


def identifier(text: str) -> str:
    """`text` as a pipeline's name: lower case letters, digits and _."""
    word = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return word if word[:1].isalpha() else f"p_{word}".rstrip("_")


def template(name: str) -> dict[str, str]:
    folder = files("headrace.cli").joinpath("template")
    contents = {place: folder.joinpath(place).read_text(encoding="utf-8") for place in TEMPLATE}
    contents["pipeline.yml"] = contents["pipeline.yml"].replace("NAME", name)
    return {**contents, ".gitignore": IGNORED}
