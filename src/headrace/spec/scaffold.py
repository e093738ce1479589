"""The files of a new project, which runs as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .infer import Proposal
from .words import column_name

_IGNORED = "# What runs make; the data itself is kept elsewhere.\nlake/\n.headrace/\n*.duckdb\n"


def project_name(text: str) -> str:
    """`text` as the name of a pipeline or table.

    >>> project_name("Shop Orders-2026"), project_name("2026")
    ('shop_orders_2026', 'c_2026')
    """
    return re.sub(r"_+", "_", column_name(text))


def project_files(
    name: str, source_path: str, proposal: Proposal, settings: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Path in the project → content: pipeline.yml, contracts/<table>.yml, README.md, .gitignore.

    `source_path` is a path or glob relative to the project's folder; `settings` those of a source of another
    type than files, which then reads it.
    """
    table = project_name(name)
    return {
        "pipeline.yml": _pipeline(table, settings or {"type": "files", "path": source_path}, proposal),
        f"contracts/{table}.yml": proposal.contract_yaml,
        "README.md": _readme(table, source_path, proposal),
        ".gitignore": _IGNORED,
    }


def _pipeline(table: str, settings: Mapping[str, Any], proposal: Proposal) -> str:
    every = proposal.keys == ["*"]
    keys = '"*"' if every else f"[{', '.join(proposal.keys)}]"
    why = "no column identifies a row: exact duplicates collapse" if every else "columns that identify a row"
    latest = (
        f"    latest_by: [{', '.join(proposal.latest_by)}]  # the greatest stays\n"
        if proposal.latest_by
        else ""
    )
    source = f"{table}_{settings['type']}"
    plain = {key: value if key == "type" else _written(value) for key, value in settings.items()}
    return (
        f"name: {table}\n"
        "sources:\n"
        f"  {source}:\n" + "".join(f"    {key}: {value}\n" for key, value in plain.items()) + "tables:\n"
        f"  {table}:\n"
        f"    from: {source}\n"
        f"    contract: contracts/{table}.yml\n"
        f"    keys: {keys}  # {why}\n"
        f"{latest}"
    )


def _written(value: Any) -> str:
    """JSON, which is YAML as well, in which nothing is a reference."""
    return json.dumps(value, ensure_ascii=False).replace("${", "$${")


def _readme(table: str, source_path: str, proposal: Proposal) -> str:
    notes = "".join(f"- {note}\n" for note in proposal.notes)
    check = f"\n## To check in the contract\n\n{notes}" if notes else ""
    return (
        f"# {table}\n\n"
        f"Loads `{source_path}` into the table `silver.{table}`.\n\n"
        "    headrace run\n"
        f'    headrace query "select * from silver.{table} limit 10"\n'
        "    headrace quarantine list\n\n"
        f"`contracts/{table}.yml` says what a good row is, `pipeline.yml` where the data comes from.\n"
        f"{check}"
    )
