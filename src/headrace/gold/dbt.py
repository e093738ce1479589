"""Gold: dbt models over pinned silver versions, in one DuckDB file that readers never see half built.

DuckDB locks readers out of a file while it is written, so the work is done on a copy beside it:

1. the previous file is copied (incremental models go on from it),
2. `publish` makes a second file with views `silver.<table>` over the pinned Parquet files,
3. dbt builds and tests everything in one invocation, with that file attached,
4. views that need silver are dropped (a vacuum of silver would leave them dangling; marts are tables), and
   the pins are written into table `_headrace`,
5. only if every model and test passed, the copy is fsynced and renamed over the real file.

After a failure the old file is still there, untouched.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from ..errors import Busy, ConfigError, MissingExtra, SystemFault
from ..failpoints import reach
from .pins import Pin, Pins, fingerprint, pin, pinned, went_back

Kind = Literal["model", "test", "source", "seed", "snapshot", "other"]
_KINDS: Mapping[str, Kind] = {
    "model": "model",
    "test": "test",
    "unit_test": "test",
    "source": "source",
    "seed": "seed",
    "snapshot": "snapshot",
}
_BAD = {"error", "fail", "runtime error"}

SILVER = "headrace_silver"
"""The name under which dbt sees the database with the `silver` views (variable `silver_database`)."""


@dataclass(frozen=True, slots=True)
class NodeResult:
    """One model, test or source of the dbt project."""

    name: str
    kind: Kind
    status: str
    """success, pass, warn, fail, error or skipped, as dbt says it."""
    rows: int | None = None
    """Rows of a built table; None for views, tests and sources."""
    failures: int | None = None
    """Rows that a test found."""
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class GoldResult:
    nodes: Sequence[NodeResult] = field(default_factory=tuple)
    passed: bool = True
    seconds: float = 0.0
    noop: bool = False
    """True if silver, the project and the variables are those of the file that is there: nothing was done."""
    full: bool = False
    """True if incremental models were built anew."""


Publish = Callable[[Path], None]
"""Makes a new DuckDB file at the path, with a schema `silver` of views over the pinned files."""


def build(
    project: Path,
    database: Path,
    publish: Publish,
    *,
    pins: Mapping[str, Pin] | None = None,
    vars: Mapping[str, Any] | None = None,
    select: str | None = None,
    full_refresh: bool = False,
    memory: str = "1GB",
    threads: int = 2,
) -> GoldResult:
    """Replaces the gold file atomically, or leaves it as it is and says which models or tests failed.

    `pins` says what `publish` shows: table name → version, epoch and id. With the same pins, project and
    variables as last time nothing is done; without pins it always builds. If a table went back (a restore) or
    is another one, or the project changed, incremental models are built anew. Raises `MissingExtra` without
    dbt, `ConfigError` if the project can't be parsed, `Busy` while another build of this file runs.
    """
    begun = time.monotonic()
    variables = dict(vars or {})
    new = Pins(pins or {}, fingerprint(_checked(project), variables), complete=select is None)
    old = pinned(database)
    if pins and old == new and not full_refresh:
        return GoldResult(seconds=time.monotonic() - begun, noop=True)
    full = full_refresh or old is None or not pins or old.project != new.project or went_back(old, new)
    with _workshop(project, database, publish, _Limits(memory, threads)) as shop:
        _copy(database, shop.database)
        arguments = ["--vars", json.dumps({"silver_database": SILVER, **variables}, default=str)]
        arguments += ["--select", *select.split()] if select else []
        arguments += ["--full-refresh"] if full else []
        nodes = _invoke(shop, "build", arguments)
        passed = not any(node.status in _BAD for node in nodes)
        if passed:
            rows = _seal(shop, new)
            nodes = [replace(n, rows=rows.get(n.name)) if n.kind != "test" else n for n in nodes]
            reach("gold.built")
            _replace(shop.database, database)
            reach("gold.published")
            pin(database, new)
    return GoldResult(nodes, passed, time.monotonic() - begun, full=full)


def freshness(project: Path, database: Path, publish: Publish) -> GoldResult:
    """Judges the sources' freshness by their `loaded_at_field`, without touching the gold file."""
    begun = time.monotonic()
    with _workshop(_checked(project), database, publish) as shop:
        nodes = _invoke(shop, "source freshness", ["--vars", json.dumps({"silver_database": SILVER})])
    return GoldResult(nodes, not any(n.status in _BAD for n in nodes), time.monotonic() - begun)


def docs(project: Path, database: Path, publish: Publish, into: Path) -> Path:
    """Writes dbt's documentation of project and tables as one page under `into`, and returns its path."""
    with _workshop(_checked(project), database, publish) as shop:
        _copy(database, shop.database)
        _invoke(shop, "docs generate", ["--static", "--vars", json.dumps({"silver_database": SILVER})])
        into.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shop.target / "static_index.html", into / "index.html")
    return into / "index.html"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A model's full query, as dbt renders it; names of relations are `database.schema.name`."""

    name: str
    relation: str
    sql: str
    """Empty where it is no SQL."""
    needs: Sequence[str] = ()
    """Relations of other models that it names."""
    silver: Sequence[str] = ()
    """Silver tables that it names."""


def compiled(project: Path, name: str, publish: Publish) -> list[Compiled]:
    """The models with all macros applied, each after those that it needs; incremental ones as built anew.

    Works in a scratch folder, and runs no model; `name` is the gold database's. Raises as `build` does.
    """
    variables = json.dumps({"silver_database": SILVER})
    with (
        tempfile.TemporaryDirectory(prefix="headrace-dbt-") as scratch,
        _workshop(_checked(project), Path(scratch) / f"{name}.duckdb", publish) as shop,
    ):
        results = _answers(shop, "compile", ["--full-refresh", "--vars", variables])
    kinds = ("model", "snapshot")
    built = [result.node for result in results if str(result.node.resource_type) in kinds]
    nodes = {str(node.unique_id): node for node in built}
    found = [_compiled(node, nodes) for node in built]
    done: set[str] = set()
    ordered: list[Compiled] = []
    while len(ordered) < len(found):
        ready = [item for item in found if item.relation not in done and done.issuperset(item.needs)]
        ordered += ready
        done.update(item.relation for item in ready)
    return ordered


def _compiled(node: Any, nodes: Mapping[str, Any]) -> Compiled:
    parts = [str(item).split(".") for item in node.depends_on.nodes]
    needs = [_relation(nodes[str(item)]) for item in node.depends_on.nodes if str(item) in nodes]
    silver = [part[-1] for part in parts if part[0] == "source" and part[-2] == "silver"]
    sql = str(node.compiled_code or "") if str(node.language) == "sql" else ""
    return Compiled(str(node.name), _relation(node), sql, needs, silver)


def _relation(node: Any) -> str:
    return ".".join(str(part) for part in (node.database, node.schema, node.alias)).lower()


@dataclass(frozen=True, slots=True)
class _Limits:
    memory: str = "1GB"
    threads: int = 2


@dataclass(frozen=True, slots=True)
class _Shop:
    """Where one build happens: a folder beside the real file, on the same disk, held by one process."""

    project: Path
    folder: Path
    database: Path
    """The copy; it has the real file's name, because DuckDB calls a database after its file."""
    target: Path
    """dbt's artefacts and parse cache; kept between builds."""


def _checked(project: Path) -> Path:
    if not (project / "dbt_project.yml").is_file():
        raise ConfigError(
            "no dbt project here: dbt_project.yml is missing",
            where=str(project),
            hint="`gold.dbt` in the pipeline file is the folder of the dbt project",
        )
    return project


@contextmanager
def _workshop(
    project: Path, database: Path, publish: Publish, limits: _Limits | None = None
) -> Iterator[_Shop]:
    folder = database.parent / f".{database.stem}-build"
    folder.mkdir(parents=True, exist_ok=True)
    shop = _Shop(project, folder, folder / database.name, folder / "target")
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"another process builds {database}", hint="wait for it, or run again later") from None
        try:
            _sweep(shop)
            publish(folder / f"{SILVER}.duckdb")
            profile = {"target": "duckdb", "outputs": {"duckdb": _output(shop, limits or _Limits())}}
            (folder / "profiles.yml").write_text(yaml.safe_dump({_profile_name(project): profile}))
            yield shop
        finally:
            _sweep(shop)


def _sweep(shop: _Shop) -> None:
    """Removes what a build leaves, or a killed one left; the parse cache stays."""
    for base in (shop.database, shop.folder / f"{SILVER}.duckdb"):
        for path in (base, base.with_name(f"{base.name}.wal")):
            path.unlink(missing_ok=True)
    shutil.rmtree(shop.folder / "spill", ignore_errors=True)


def _profile_name(project: Path) -> str:
    try:
        return str(yaml.safe_load((project / "dbt_project.yml").read_text())["profile"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot read `profile` ({error})",
            where=str(project / "dbt_project.yml"),
            hint="add a line `profile: headrace`; the profile itself is made by Headrace",
        ) from None


def _output(shop: _Shop, limits: _Limits) -> dict[str, Any]:
    return {
        "type": "duckdb",
        "path": str(shop.database),
        "schema": "main",
        "threads": limits.threads,
        "config_options": {"memory_limit": limits.memory, "temp_directory": str(shop.folder / "spill")},
        "settings": {"TimeZone": "UTC", "preserve_insertion_order": False},
        "attach": [{"path": str(shop.folder / f"{SILVER}.duckdb"), "alias": SILVER, "read_only": True}],
    }


def _invoke(shop: _Shop, command: str, arguments: Sequence[str]) -> list[NodeResult]:
    return [_node(result) for result in _answers(shop, command, arguments)]


def _answers(shop: _Shop, command: str, arguments: Sequence[str]) -> list[Any]:
    """dbt's own results of one command, run in this process, silently and without telemetry."""
    try:
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager
        from dbt.cli.main import dbtRunner
    except ImportError as error:
        raise MissingExtra(f"gold needs dbt ({error})", hint="pip install 'headrace[gold]'") from None
    general = ["--quiet", "--no-print", "--no-use-colors", "--log-level", "none", "--log-level-file", "none"]
    general += ["--no-send-anonymous-usage-stats", "--project-dir", str(shop.project)]
    general += ["--profiles-dir", str(shop.folder), "--target-path", str(shop.target)]
    general += ["--log-path", str(shop.folder / "logs")]
    # half a second for artefacts that nobody reads; `docs` writes them
    general += [] if command.startswith("docs") else ["--no-write-json"]
    try:
        answer = dbtRunner().invoke([*command.split(), *general, *arguments])
    finally:
        # dbt keeps the environment for its next invocation; ours must let go of the file now
        manager: Any = DuckDBConnectionManager
        if manager._ENV is not None:
            manager._ENV.close()
        manager.close_all_connections()
    results = getattr(answer.result, "results", None)
    if results is None:
        if command == "docs generate" and answer.success:
            return []
        raise ConfigError(
            f"dbt {command} did not start: {str(answer.exception or 'no result').strip()}",
            where=str(shop.project),
            hint="correct the dbt project; `dbt parse` in it shows the same",
        )
    return [result for result in results if str(result.node.resource_type) != "exposure"]


def _node(result: Any) -> NodeResult:
    node = result.node
    return NodeResult(
        name=str(node.name),
        kind=_KINDS.get(str(node.resource_type), "other"),
        status=str(result.status),
        failures=getattr(result, "failures", None),
        seconds=round(float(result.execution_time or 0.0), 3),
        message=str(getattr(result, "message", None) or "").strip(),
    )


def _seal(shop: _Shop, pins: Pins) -> Mapping[str, int]:
    """Drops the views that need silver, writes the pins, checkpoints; returns the rows of each table.

    It speaks to DuckDB through dbt's own adapter, without silver attached: what fails to bind would dangle.
    """
    from dbt.adapters.duckdb.credentials import DuckDBCredentials
    from dbt.adapters.duckdb.environments import create

    credentials = DuckDBCredentials(database=shop.database.stem, schema="main", path=str(shop.database))
    environment = cast(Any, create(credentials))
    handle = environment.handle()
    try:
        cursor = handle.cursor()

        def ask(sql: str, *values: Any) -> list[tuple[Any, ...]]:
            return list(cursor.execute(sql, list(values) or None).fetchall())

        _drop_dangling(ask)
        ask("create or replace table main._headrace (name varchar primary key, value varchar)")
        for name, value in pins.rows():
            ask("insert into main._headrace values (?, ?)", name, value)
        tables = ask(
            "select schema_name, table_name from duckdb_tables() "
            "where not internal and not temporary and database_name = current_database()"
        )
        rows = {
            str(name): int(ask(f'select count(*) from "{schema}"."{name}"')[0][0]) for schema, name in tables
        }
        ask("checkpoint")
        return rows
    finally:
        handle.close()
        environment.close()


def _drop_dangling(ask: Callable[..., list[tuple[Any, ...]]]) -> None:
    # a view over a dropped view dangles in turn, so look again until nothing is found
    found = True
    while found:
        found = False
        views = ask(
            "select schema_name, view_name from duckdb_views() "
            "where not internal and not temporary and database_name = current_database()"
        )
        for schema, name in views:
            try:
                ask(f'select * from "{schema}"."{name}" limit 0')
            except Exception:
                ask(f'drop view "{schema}"."{name}"')
                found = True


def _copy(real: Path, copy: Path) -> None:
    if real.with_name(f"{real.name}.wal").exists():
        raise Busy(
            f"{real} has changes in {real.name}.wal: another program writes it, or was killed while it did",
            hint=f"close that program, or open and close the file once: duckdb {real} 'checkpoint'",
        )
    if real.exists():
        shutil.copyfile(real, copy)


def _replace(new: Path, real: Path) -> None:
    """Makes `new` durable, then the real file, in one step."""
    if new.with_name(f"{new.name}.wal").exists():
        raise SystemFault(f"DuckDB left changes outside {new}", hint="run again; if it stays, report it")
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    new.replace(real)
    folder = os.open(real.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
