"""The gold task: dbt over exactly the silver versions that this run recorded."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..core import TableAt
from ..spec.project import Project
from ..store.delta import Table
from ..store.intact import check_sizes
from ..store.records import RefineLog
from ..store.storage import Storage
from .followed import followed
from .parts import part
from .report import GoldReport


def gold_file(project: Project) -> Path:
    return project.lake / "gold" / f"{project.config.name}.duckdb"


def silver_tables(project: Project, storage: Storage) -> dict[str, tuple[TableAt, dict[str, str | int]]]:
    """Every silver table, history and stream at the version of its last done epoch, with what pins it."""
    found = {}
    for name in (*project.config.tables, *project.config.streams):
        log = RefineLog(storage, name)
        last = log.last
        restores = [done.epoch for done in log.done if done.mode == "restore"][-1:]
        for output, identity in (last.outputs if last else {}).items():
            schema, _, table = output.partition(".")
            if last is None or schema != "silver":
                continue
            at = Table(project.lake / schema / table, output).at(identity["version"])
            if name in project.config.tables:
                at = followed(project.config.tables[name], output, at)
            # rows of a restored table have old epochs: increments that look for new ones would miss them
            origin = "".join(f"@{epoch}" for epoch in restores)
            check_sizes(output, at.files)
            found[table] = (at, {"version": at.version, "epoch": last.epoch, "id": identity["id"] + origin})
    return found


def build_gold(project: Project, storage: Storage) -> GoldReport:
    """Builds the star schema, or says which models or tests failed; the old file stays until all passed."""
    from ..gold.dbt import build

    assert project.config.gold is not None
    tables = silver_tables(project, storage)
    database = gold_file(project)

    def publish(path: Path) -> None:
        part("engines", "duckdb").publish(path, {"silver": {name: at for name, (at, _) in tables.items()}})

    result = build(
        project.root / project.config.gold.dbt,
        database,
        publish,
        pins={name: pin for name, (_, pin) in tables.items()},
        memory=project.config.memory,
    )
    nodes: list[dict[str, Any]] = [asdict(node) for node in result.nodes]
    bad = [node for node in result.nodes if node.status in ("error", "fail", "runtime error")]
    error = "; ".join(f"{node.kind} {node.name}: {node.message or node.status}" for node in bad) or None
    return GoldReport(
        str(database), nodes, result.passed, result.seconds, error, "data" if error else None, result.noop
    )
