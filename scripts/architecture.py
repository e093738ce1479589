"""Writes the module tables of ARCHITECTURE.md from the modules' own first sentences."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "headrace"
START, END = "<!-- modules -->", "<!-- /modules -->"


def first_sentence(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(doc.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", paragraph)[0].replace("|", "\\|")


def tables() -> str:
    """One table per package, a row per module that says something of itself."""
    rows: dict[str, list[str]] = {}
    for path in sorted(SRC.rglob("*.py")):
        name = path.relative_to(SRC).as_posix()
        sentence = first_sentence(path)
        if "/versions/" in name or (path.name == "__init__.py" and not sentence):
            continue
        package = name.split("/")[0] if "/" in name else "headrace"
        rows.setdefault(package, []).append(f"| `{name}` | {sentence} |")
    order = ["headrace", *sorted(set(rows) - {"headrace"}, key=_layer)]
    parts = []
    for package in order:
        title = "The ground" if package == "headrace" else f"`{package}/`"
        parts.append("\n".join([f"### {title}", "", "| module | |", "|---|---|", *rows[package]]))
    return "\n\n".join(parts)


LAYERS = (
    ("spec", "sql", "store"),
    ("sources", "sinks", "engines", "gold", "catalog"),
    ("run", "observe", "security"),
)


def _layer(package: str) -> tuple[int, str]:
    return next((n for n, layer in enumerate(LAYERS) if package in layer), len(LAYERS)), package


def main() -> None:
    page = ROOT / "ARCHITECTURE.md"
    head, rest = page.read_text().split(START)
    tail = rest.split(END)[1]
    page.write_text(f"{head}{START}\n\n{tables()}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
