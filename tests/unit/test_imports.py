"""The import rule, read from the syntax trees: imports inside functions count as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "headrace"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("core", "errors", "failpoints", "redact"),
    ("spec", "sql", "store", "drivers"),
    ("sources", "sinks", "engines", "gold", "catalog"),
    ("run", "observe", "security"),
    ("cli", "web", "airflow", "docs", "deploy", "testing"),
)
RANK = {package: rank for rank, layer in enumerate(LAYERS) for package in layer}

GROUND = LAYERS[0]
"""Single modules that everybody may import, and which may import one another."""

ALLOWED_SIBLINGS = {("sql", "spec"), ("run", "observe"), ("run", "security"), ("cli", "testing")}
"""`sql` compiles what `spec` says; a run logs and masks; a command hands over to `testing`, which anybody may
also call as a library. Nothing else crosses a layer sideways."""

DRIVERS = {
    "duckdb": ("engines", "sources/sql_rows", "sinks/duckdb_file"),
    "_duckdb": ("engines",),
    "deltalake": ("store/delta", "sinks"),
    "arro3": ("store/delta", "sources", "sinks", "engines/duckdb"),
    "sqlglot": ("sql",),
    "sqlalchemy": ("catalog", "sources/sql_rows"),
    "alembic": ("catalog",),
    "dbt": ("gold",),
    "cryptography": ("store", "engines/duckdb/masks"),
    "typer": ("cli",),
    "click": ("cli",),
    "rich": ("cli",),
    "loguru": ("observe",),
    "nanoarrow": ("sources",),
    "pymysql": ("sources",),
    "pymongo": ("sources",),
    "bson": ("sources",),
    "pydantic": ("spec", "sources", "sinks"),
    "pydantic_core": ("spec",),
    "yaml": ("spec", "gold"),
    "keyring": ("spec",),
    "fastavro": ("sources", "engines/duckdb"),
    "python_calamine": ("sources", "engines/duckdb"),
    "httpx": ("sources",),
    "httpcore": ("sources",),
    "uvicorn": ("cli/webhook",),
    "zstandard": ("sources", "engines/duckdb"),
    "psycopg": ("drivers", "sources", "sinks"),
    "botocore": ("sources", "spec"),
    "paramiko": ("sources",),
    "hvac": ("spec",),
    "google": ("spec",),
}
"""Each third-party package and where it may be imported. A new driver is a new line here, and an extra."""

NEVER = ("pyarrow", "pandas", "numpy", "polars")
USER_FRAMES = "engines/duckdb/python_steps"
"""A user's processor may ask for these frames, so this one module may import them, inside a function."""
VECTORS = ("sources/arrow_texts", "sources/pgoutput", "sources/binlog_changes", "sources/binlog_columns")
"""Decoders of binary changes calculate with numpy; only their entry points load them."""

HEAVY = ("duckdb", "deltalake", "sqlalchemy", "alembic", "dbt", "sqlglot", "rich", "loguru", "cryptography")


@dataclass(frozen=True)
class Import:
    module: str
    """Of the importer, as `store/delta`."""
    target: str
    """Dotted."""
    line: int
    top: bool
    """Runs when the importer is imported."""

    def __str__(self) -> str:
        return f"src/headrace/{self.module}.py:{self.line}: imports {self.target}"


def _imports(path: Path) -> Iterator[Import]:
    module = path.relative_to(SRC).with_suffix("").as_posix()
    package = ["headrace", *path.relative_to(SRC).parts[:-1]]

    def walk(node: ast.AST, top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                yield from (Import(i.module, i.target, i.line, False) for i in walk(child, False))
            elif isinstance(child, ast.Import):
                yield from (Import(module, alias.name, child.lineno, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                origin = ".".join([*base, *([child.module] if child.module else [])])
                if origin == "headrace" or not child.module:
                    for alias in child.names:
                        yield Import(module, f"{origin}.{alias.name}", child.lineno, top)
                else:
                    yield Import(module, origin, child.lineno, top)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from walk(child, top and not inside)

    yield from walk(ast.parse(path.read_text()), True)


def _all() -> list[Import]:
    return [found for path in sorted(SRC.rglob("*.py")) for found in _imports(path)]


def _violation(found: Import) -> str | None:
    here = found.module.split("/")[0]
    root, *rest = found.target.split(".")
    if root == "headrace":
        there = rest[0] if rest else "__init__"
        if here in ("__init__", "__main__") or there in ("__init__", "__version__") or here == there:
            return None
        if there not in RANK or here not in RANK:
            return f"{found}: `{there if there not in RANK else here}` has no layer"
        if RANK[there] > RANK[here]:
            return f"{found}: imports point down only"
        free = here in GROUND or here == "testing" or (here, there) in ALLOWED_SIBLINGS
        if RANK[there] == RANK[here] and not free:
            return f"{found}: siblings never import one another"
        return None
    if root in sys.stdlib_module_names or root == "__future__":
        return None
    if root == "numpy" and found.module in VECTORS:
        return None
    if root in NEVER:
        return None if found.module == USER_FRAMES and not found.top else f"{found}: never in src"
    if here == "testing":
        return None
    if root not in DRIVERS:
        return f"{found}: not a known driver"
    if not any(found.module == place or found.module.startswith(place + "/") for place in DRIVERS[root]):
        return f"{found}: belongs to {', '.join(DRIVERS[root])} only"
    return None


def test_imports_point_down_and_drivers_stay_in_their_package() -> None:
    wrong = [problem for found in _all() if (problem := _violation(found))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "target", "what"),
    [
        ("core", "headrace.spec.load", "down only"),
        ("spec/load", "headrace.store.records", "siblings"),
        ("engines/duckdb/engine", "headrace.sources.files", "siblings"),
        ("sources/files", "headrace.run.runner", "down only"),
        ("run/runner", "headrace.cli", "down only"),
        ("sources/files", "duckdb", "belongs to engines"),
        ("run/runner", "pyarrow", "never in src"),
        ("run/runner", "tomlkit", "not a known driver"),
        ("run/runner", "headrace.nowhere", "has no layer"),
    ],
)
def test_the_rule_can_fail(module: str, target: str, what: str) -> None:
    assert what in (_violation(Import(module, target, 1, True)) or "")


def test_imports_inside_functions_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SRC", tmp_path)
    (tmp_path / "sources").mkdir()
    path = tmp_path / "sources" / "x.py"
    path.write_text(
        "def f():\n    from ..run import runner\n    import duckdb\nfrom . import y\nfrom .z import w\n"
    )
    assert [(i.target, i.top) for i in _imports(path)] == [
        ("headrace.run", False),
        ("duckdb", False),
        ("headrace.sources.y", True),
        ("headrace.sources.z", True),
    ]


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_headrace_is_light() -> None:
    loaded = _modules_after("import headrace")
    assert "headrace" in loaded
    assert not loaded & {*HEAVY, *NEVER, "pydantic", "yaml", "typer"}


def test_building_the_command_line_loads_no_driver() -> None:
    loaded = _modules_after("import headrace.cli; headrace.cli.main(['version'])")
    assert "typer" in loaded
    assert not loaded & {*HEAVY, *NEVER} - {"rich"}
