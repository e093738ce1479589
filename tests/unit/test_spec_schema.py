"""The published schemas are those of the models, and say what the loader says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from headrace.spec.document import read
from headrace.spec.schema import Kind, json_schema, write

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["pipeline", "contract"])
def test_published_schemas_are_current(kind: Kind, tmp_path: Path) -> None:
    write(tmp_path)
    file = f"{kind}.schema.json"
    published = (ROOT / "docs" / "schema" / file).read_text(encoding="utf-8")
    assert published == (tmp_path / file).read_text(encoding="utf-8"), (
        "run: python -m headrace.spec.schema docs/schema"
    )


def valid(kind: Kind, value: Any) -> bool:
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


PIPELINE: dict[str, Any] = {
    "name": "p",
    "sources": {"s": {"type": "files", "path": "x"}},
    "tables": {"t": {"from": "s", "contract": "contracts/t.yml", "keys": ["id"]}},
}


def test_pipelines() -> None:
    assert valid("pipeline", PIPELINE)
    assert valid("pipeline", {**PIPELINE, "parallel": "${N:-2}", "environments": {"prod": {"lake": "/l"}}})
    assert not valid("pipeline", {**PIPELINE, "parallel": "two"})
    assert not valid("pipeline", {**PIPELINE, "environments": {"prod": {"lakes": "/l"}}})
    assert not valid("pipeline", {**PIPELINE, "lakes": "x"})
    assert not valid("pipeline", {k: v for k, v in PIPELINE.items() if k != "sources"})


@pytest.mark.parametrize(
    ("column", "good"),
    [
        (None, True),
        ({}, True),
        ({"type": "decimal(12,2)", "from": "A"}, True),
        ({"type": "integer", "from": ["A", "B"], "required": True, "min": 0}, True),
        ({"type": "integr"}, False),
        ({"severity": "bad"}, False),
        ({"nullable": True}, False),
    ],
)
def test_contracts(column: Any, good: bool) -> None:
    assert valid("contract", {"columns": {"a": column}}) is good


def test_every_key_is_described_or_plain() -> None:
    column = json_schema("contract")["$defs"]["Column"]["properties"]
    assert "first match wins" in column["from"]["description"]
    assert "source" not in column


@pytest.mark.parametrize("example", sorted(p.name for p in (ROOT / "examples").iterdir() if p.is_dir()))
def test_examples_fit(example: str) -> None:
    folder = ROOT / "examples" / example
    assert valid("pipeline", read(folder / "pipeline.yml", "pipeline.yml").value)
    contracts = sorted((folder / "contracts").glob("*.yml"))
    assert contracts
    assert all(valid("contract", read(file, file.name).value) for file in contracts)
    assert json.dumps(json_schema("pipeline"))
