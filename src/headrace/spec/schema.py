"""JSON Schemas of the files that users write, so that editors complete and check them while typing.

In a file: `# yaml-language-server: $schema=<path or address of pipeline.schema.json>`.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

from .contract import TYPES, Contract, Model
from .pipeline import PipelineConfig

Kind = Literal["pipeline", "contract"]


def json_schema(kind: Kind) -> dict[str, Any]:
    """The schema (draft 2020-12) of a pipeline file or a contract file, as the loader takes them."""
    model: type[Model] = PipelineConfig if kind == "pipeline" else Contract
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema["$defs"]
    for each in _models(Model):
        _describe(each, schema if each is model else definitions.get(each.__name__, {}))
    _column(definitions["Column"])
    contract = schema if kind == "contract" else definitions["Contract"]
    columns = contract["properties"]["columns"]
    columns["additionalProperties"] = {"anyOf": [columns["additionalProperties"], {"type": "null"}]}
    if kind == "pipeline":
        _pipeline(schema, definitions)
    _allow_references(schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": f"Headrace {kind}"}


def _models(base: type[Model]) -> Iterator[type[Model]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _describe(model: type[Model], schema: dict[str, Any]) -> None:
    """Fields are described by the texts below them: pydantic would read these whenever it is imported."""
    for kind in reversed(model.__mro__[: model.__mro__.index(Model)]):
        body = cast(ast.ClassDef, ast.parse(inspect.getsource(kind)).body[0]).body
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                name = cast(ast.Name, field.target).id
                shown = schema.get("properties", {}).get(model.model_fields[name].alias or name)
                if shown is not None:
                    shown["description"] = inspect.cleandoc(ast.literal_eval(below.value))


def _column(column: dict[str, Any]) -> None:
    words = [word for word in TYPES.split(", ") if "(" not in word]
    plain = {"enum": words}
    exact = {"pattern": r"^decimal\([0-9]+, ?[0-9]+\)$", "examples": ["decimal(18,2)"]}
    column["properties"]["type"] |= {"anyOf": [plain, exact]}


def _pipeline(schema: dict[str, Any], definitions: dict[str, Any]) -> None:
    """What the loader adds to the model: contracts by path, environments."""
    contract = definitions["TableSpec"]["properties"]["contract"]
    reference = {key: contract.pop(key) for key in list(contract) if key == "$ref"}
    contract["anyOf"] = [{"type": "string", "description": "path, such as contracts/sales.yml"}, reference]
    # An overlay has any part of a pipeline: what is required there, the base may hold.
    schema["properties"]["environments"] = {
        "type": "object",
        "description": "Settings by environment, laid over the others when chosen (--env or HEADRACE_ENV).",
        "additionalProperties": {
            "type": "object",
            "propertyNames": {"enum": sorted(schema["properties"])},
        },
    }


def _allow_references(node: Any) -> None:
    """Numbers and booleans may be given by reference too: `parallel: ${PARALLEL:-4}`."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in list(children):
        _allow_references(child)
    if isinstance(node, dict) and node.get("type") in ("integer", "number", "boolean"):
        plain = {key: node.pop(key) for key in list(node) if key not in ("title", "description", "default")}
        node["anyOf"] = [plain, {"type": "string", "pattern": r"\$\{"}]


def write(folder: Path) -> None:
    """Writes both schemas: `python -m headrace.spec.schema docs/schema`."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("pipeline", "contract"):
        text = json.dumps(json_schema(kind), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        (folder / f"{kind}.schema.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    import sys

    write(Path(sys.argv[1]))
