"""The newest runs of a SQLite catalog, without SQLAlchemy: importing that takes longer than the answer."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .models import PipelineRun, RunMetrics

_COLUMNS = tuple(item.name for item in fields(PipelineRun))
_STEPS = Path(__file__).parent / "migrations" / "versions"


def recent(path: Path, pipeline: str, limit: int | None) -> list[PipelineRun] | None:
    """What `Catalog.runs` gives; None where that must be asked: the file is missing, broken, not of now."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            ((version,),) = database.execute("SELECT version_num FROM headrace_version").fetchall()
            if version != max(step.name[1:5] for step in _STEPS.glob("r*.py")):
                return None
            rows = database.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM pipeline_runs WHERE pipeline_name = ?"
                " ORDER BY start_time DESC, run_id DESC LIMIT ?",
                (pipeline, -1 if limit is None else limit),
            ).fetchall()
        return [_run(dict(zip(_COLUMNS, row, strict=True))) for row in rows]
    except (sqlite3.Error, ValueError, TypeError):
        return None  # who owns the file repairs it, migrates it, or says what is wrong


def _run(values: dict[str, Any]) -> PipelineRun:
    for name in ("start_time", "end_time"):
        if values[name]:
            values[name] = datetime.fromisoformat(values[name]).replace(tzinfo=UTC)
    values["metrics"] = RunMetrics.of(json.loads(values["metrics"]))
    return PipelineRun(**values)
