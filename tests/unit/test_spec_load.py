"""Loading a project: every problem at once, with its line and its fix."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from headrace.errors import ConfigError
from headrace.spec import registry
from headrace.spec.contract import TYPES, Contract
from headrace.spec.load import load
from headrace.spec.pipeline import PipelineConfig, TableSpec
from headrace.spec.project import Project

PIPELINE = """\
name: sales
sources:
  orders: {type: files, path: data/*.csv}
tables:
  sales:
    from: orders
    contract: contracts/sales.yml
    keys: order_id
    latest_by: updated_at
"""
INTEGER_HINT = f"hint: did you mean `integer`? Types: {TYPES}"
CONTRACT = """\
columns:
  order_id: {required: true}
  updated_at: {type: timestamp}
  qty: {type: integer, min: 0}
"""


def project(root: Path, pipeline: str = PIPELINE, contract: str = CONTRACT, **others: str) -> Path:
    (root / "contracts").mkdir(exist_ok=True)
    (root / "pipeline.yml").write_text(dedent(pipeline))
    (root / "contracts" / "sales.yml").write_text(dedent(contract))
    for name, text in others.items():
        (root / f"pipeline.{name}.yml").write_text(dedent(text))
    return root


def _keys(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def fails(root: Path, env: str | None = None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(root, env, environ)
    return str(caught.value)


def test_a_good_project(tmp_path: Path) -> None:
    found = load(project(tmp_path), environ={})
    assert found.config.tables["sales"].keys == ["order_id"]
    assert found.root == tmp_path.resolve()
    assert found.lake == tmp_path.resolve() / "lake"
    assert found.env is None
    assert found.stream("orders") == "orders"
    assert found.source("orders").streams()
    assert load(tmp_path / "pipeline.yml", environ={}).fingerprint == found.fingerprint


def test_the_praised_error(tmp_path: Path) -> None:
    root = project(tmp_path, contract=CONTRACT.replace("integer", "integr"))
    assert fails(root) == ("contracts/sales.yml:4: column `qty`: type `integr` is not known\n" + INTEGER_HINT)


def test_all_problems_at_once_each_with_its_hint(tmp_path: Path) -> None:
    pipeline = """\
    name: sales
    sources:
      orders: {type: filez, path: x}
      more:
        type: files
        pth: x
    tables:
      sales:
        from: [order, more]
        contract: contracts/sales.yml
        lates_by: updated_at
    parallel: many
    pii_key: ${PII}
    """
    contract = """\
    columns:
      order_id: {required: maybe}
      qty:
        type: integr
      price: {type: text, severity: quaratine}
    """
    assert fails(project(tmp_path, pipeline, contract)).splitlines() == [
        "pipeline.yml:3: source `orders`: source type `filez` is not known",
        "hint: did you mean `files`? types: " + ", ".join(sorted(registry._known("source"))),
        "pipeline.yml:4: source `more`: `path` is missing",
        "hint: add `path: …`",
        "pipeline.yml:6: source `more`: key `pth` is not known",
        *[line for line in fails(tmp_path).splitlines() if line.startswith("hint: did you mean `path`?")],
        "pipeline.yml:9: table `sales`: from: source `order` is not defined",
        "hint: did you mean `orders`? sources: orders, more",
        "pipeline.yml:11: table `sales`: key `lates_by` is not known",
        "hint: did you mean `latest_by`? keys: " + ", ".join(_keys(TableSpec)),
        "pipeline.yml:12: `parallel` must be a whole number, not `many`",
        "pipeline.yml:13: pii_key: environment variable `PII` is not set",
        "hint: export PII=…, or give a default: ${PII:-…}",
        "contracts/sales.yml:2: column `order_id`: `required` must be true or false, not `maybe`",
        "contracts/sales.yml:4: column `qty`: type `integr` is not known",
        INTEGER_HINT,
        "contracts/sales.yml:5: column `price`: `severity` cannot be `quaratine`",
        "hint: did you mean `quarantine`? values: warn, quarantine, stop",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "keys: order_id",
            "keys: [order_idd]",
            "pipeline.yml:8: table `sales`: keys: `order_idd` is not a column",
        ),
        ("keys: order_id", "keys: [order_id, '*']", "pipeline.yml:8: table `sales`: keys: `*` stands alone"),
        ("keys: order_id", "mode: merge", "pipeline.yml:8: table `sales`: mode `merge` needs `keys`"),
        ("keys: order_id", "mode: merge", "pipeline.yml:9: table `sales`: `latest_by` needs `keys`"),
        ("name: sales", "name: Sales Data", "pipeline.yml:1: `Sales Data`: a pipeline's name is lower case"),
        ("name: sales", "name: Sales Data", "hint: such as `sales_data`"),
        ("name: sales", "nome: sales", "pipeline.yml:1: `name` is missing"),
        ("name: sales", "name: 5", 'pipeline.yml:1: name: 5 is not text\nhint: put it in quotes: "5"'),
        ("tables:", "tables: {}\nx:", "key `x` is not known"),
        ("from: orders", "from:", "pipeline.yml:6: table `sales`: `from` has no value"),
        ("from: orders", "from: {a: b}", "`from` must be a list, not `key: value` lines"),
        ("contracts/sales.yml", "contracts/sale.yml", "contract `contracts/sale.yml` does not exist"),
        ("contracts/sales.yml", "contracts/sale.yml", "hint: did you mean `contracts/sales.yml`?"),
        (
            "contracts/sales.yml",
            "../sales.yml",
            "pipeline.yml:7: contract `../sales.yml` lies outside",
        ),
        ("contracts/sales.yml", "/etc/passwd", "lies outside the project"),
        ("contracts/sales.yml", "${WHERE}", "pipeline.yml:7: environment variable `WHERE` is not set"),
        ("path: data/*.csv", "path: 5", "source `orders`"),
        ("{type: files", "{type: files, id: My Id", "pipeline.yml:3: source `orders`: id `My Id`"),
    ],
)
def test_refused(old: str, new: str, expected: str, tmp_path: Path) -> None:
    assert old in PIPELINE
    assert expected in fails(project(tmp_path, PIPELINE.replace(old, new)))


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        ("- a\n", "contracts/sales.yml:1: a contract is `key: value` lines"),
        ("rules: {}\n", "contracts/sales.yml:1: `columns` is missing"),
        ("columns: {}\n", "contracts/sales.yml:1: columns: a contract has at least one column"),
        ("columns:\n  a:\n  a:\n", "contracts/sales.yml:3:"),
        ("columns:\n  a b: {}\n", "contracts/sales.yml:2: column `a b`: `a b` is no column name"),
        ("columns:\n  a b: {}\n", "hint: call it `a_b` and set `from: 'a b'`"),
        (
            "columns:\n  qty:\n  Qty:\n",
            "contracts/sales.yml:3: column `Qty`: columns `qty` and `Qty` differ only in case",
        ),
        ("columns:\n  a: {map: {1: 2}}\n", "contracts/sales.yml:2: column `a`: map.1: 2 is not text"),
        ("columns:\n  a: {mask: hash}\n", "contracts/sales.yml:2: column `a`: `mask` needs `pii`"),
        (
            "columns:\n  a: {mask: hash, pii: name, type: date}\n",
            "`mask: hash` needs a text column, not date",
        ),
        ("columns:\n  a: {references: b}\n", "`references` is `table.column`, not `b`"),
        ("columns:\n  a: {derive: b, from: c}\n", "a derived column has no `from`"),
        (
            "columns:\n  a:\nexpect:\n  - {rows: [1, 2], unique: a}\n",
            "sales.yml:4: expectation 1: an expectation is",
        ),
        ("columns:\n  a:\nexpect:\n  - {sum: a}\n", "sales.yml:4: expectation 1: `sum` goes with `between`"),
        ("columns:\n  a: {type: 'decimal(40,2)'}\n", "type `decimal(40,2)`: a decimal has 1 to 38 digits"),
        ("columns:\n  a: {min: []}\n", "column `a`: `min` must be text or a number, not a list"),
        (
            "columns:\n  order_id:\n  updated_at:\nrules:\n  r: x > 0\n",
            "rule `r`: `r` must be `key: value` lines",
        ),
    ],
)
def test_contracts_refused_at_their_own_line(contract: str, expected: str, tmp_path: Path) -> None:
    assert expected in fails(project(tmp_path, contract=contract))


def test_masking_needs_a_key(tmp_path: Path) -> None:
    contract = CONTRACT + "  email: {pii: email, mask: hash}\n"
    error = fails(project(tmp_path, contract=contract))
    assert error.startswith(
        "contracts/sales.yml:5: column `email`: `mask: hash` needs a key\nhint: set `pii_key:"
    )
    project(tmp_path, PIPELINE + "pii_key: ${K}\n", contract)
    found = load(tmp_path, environ={"K": "s3cret"})
    assert found.config.pii_key == "s3cret"
    assert "s3cret" not in repr(found) + repr(found.config) + str(found.public)
    assert found.secrets == {"s3cret"}
    assert load(tmp_path, environ={"K": "another"}).fingerprint == found.fingerprint


def test_references_between_tables(tmp_path: Path) -> None:
    contract = CONTRACT + "  store: {references: store.id}\n  p: {references: sales.qtty}\n"
    error = fails(project(tmp_path, contract=contract))
    assert "contracts/sales.yml:5: column `store`: references: table `store` is not defined" in error
    assert "contracts/sales.yml:6: column `p`: references: table `sales` has no column `qtty`" in error
    assert "did you mean `qty`?" in error


def test_environments_are_laid_over_the_base(tmp_path: Path) -> None:
    pipeline = PIPELINE + "parallel: 2\nenvironments:\n  dev: {lake: /tmp/dev}\n  prod:\n    parallel: many\n"
    project(tmp_path, pipeline, prod="lake: /data/lake\nsources: {orders: {path: /in/*.csv}}\n")
    assert load(tmp_path, "dev", {}).lake == Path("/tmp/dev")
    assert load(tmp_path, environ={"HEADRACE_ENV": "dev"}).env == "dev"
    assert load(tmp_path, environ={}).config.lake == "lake"
    assert fails(tmp_path, "prod").startswith(
        "pipeline.yml:14: `parallel` must be a whole number, not `many`"
    )
    project(tmp_path, pipeline.replace("many", "8"))
    prod = load(tmp_path, "prod", {})
    assert (prod.config.parallel, prod.config.lake) == (8, "/data/lake")
    assert prod.config.sources["orders"].settings == {"path": "/in/*.csv"}
    assert prod.fingerprint != load(tmp_path, environ={}).fingerprint
    (tmp_path / "pipeline.prod.yml").write_text("lake: null\ntables: {sales: {latest_by: x}}\n")
    assert fails(tmp_path, "prod").startswith(
        "pipeline.prod.yml:2: table `sales`: latest_by: `x` is not a column"
    )


def test_unknown_environment(tmp_path: Path) -> None:
    project(tmp_path, PIPELINE + "environments: {prod: {}}\n")
    assert fails(tmp_path, "prd") == (
        "pipeline.yml: environment `prd` is not defined\nhint: did you mean `prod`? environments: prod"
    )
    project(tmp_path, PIPELINE + "environments: [prod]\n")
    assert "`environments` has names with settings below" in fails(tmp_path)
    project(tmp_path)
    assert "add `environments: {prod: …}`" in fails(tmp_path, HEADRACE_ENV="prod")


def test_no_project(tmp_path: Path) -> None:
    assert "has no pipeline.yml\nhint: make a project with `headrace init`" in fails(tmp_path)
    assert "does not exist" in fails(tmp_path / "x.yml")
    (tmp_path / "pipeline.yml").write_text("- a")
    assert fails(tmp_path).startswith("pipeline.yml:1: a pipeline is `key: value` lines")


def test_a_contract_link_must_not_lead_out(tmp_path: Path) -> None:
    root = tmp_path / "p"
    root.mkdir()
    project(root)
    outside = tmp_path / "outside.yml"
    outside.write_text(CONTRACT)
    (root / "contracts" / "sales.yml").unlink()
    (root / "contracts" / "sales.yml").symlink_to(outside)
    assert "lies outside the project" in fails(root)


def test_resolved_values_never_show_in_errors(tmp_path: Path) -> None:
    project(tmp_path, PIPELINE.replace("type: files", "type: '${KIND}'") + "memory: ${MEM}\n")
    error = fails(tmp_path, KIND="hush-hush", MEM="tell-nobody")
    assert "hush-hush" not in error
    assert "tell-nobody" not in error
    assert "source type `${KIND}` is not known" in error
    assert "memory `${MEM}` is no size" in error


def test_missing_driver_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    (tmp_path / "fancy_source.py").write_text("import not_installed_driver\n")
    monkeypatch.syspath_prepend(tmp_path)
    known = {"fancy": EntryPoint("fancy", "fancy_source:Fancy", registry.GROUPS["source"])}
    monkeypatch.setattr(registry, "_known", lambda _role: known)
    project(tmp_path, PIPELINE.replace("type: files", "type: fancy"))
    assert fails(tmp_path) == (
        "pipeline.yml:3: source `orders`: source type `fancy` needs `not_installed_driver`, "
        "which is not installed\n"
        "hint: pip install 'headrace[fancy]'"
    )


def test_a_project_written_in_python(tmp_path: Path) -> None:
    contract = Contract.model_validate({"columns": {"id": {"type": "integer", "min": 5, "max": 1}}})
    tables = {"t": {"from": "s", "contract": contract, "keys": "id"}}
    values = {"name": "p", "sources": {"s": {"type": "files", "path": "x", "id": "s1"}}, "tables": tables}
    config = PipelineConfig.model_validate(values)
    with pytest.raises(ConfigError) as caught:
        Project.of(config, tmp_path)
    assert str(caught.value) == "table `t`, column `id`: min 5 is greater than max 1\nhint: swap them"
    good = contract.model_copy(
        update={"columns": {"id": contract.columns["id"].model_copy(update={"max": 9})}}
    )
    tables["t"]["contract"] = good
    found = Project.of(PipelineConfig.model_validate(values), tmp_path)
    assert list(found.config.sources) == ["s1"], "a source is known by its id"
    assert found.stream("s1") == "s1"
    with pytest.raises(ConfigError, match="source `x` is not defined"):
        found.source("x")


def test_fingerprint_is_of_the_meaning_not_the_spelling(tmp_path: Path) -> None:
    first = load(project(tmp_path), environ={}).fingerprint
    spelled = PIPELINE.replace("keys: order_id", "keys:\n      - 'order_id'") + "# a comment\nlake: lake\n"
    assert load(project(tmp_path, spelled), environ={}).fingerprint == first
    changed = CONTRACT.replace("min: 0", "min: 1")
    assert load(project(tmp_path, contract=changed), environ={}).fingerprint != first


WHOLE: dict[str, Any] = {
    "name": "p",
    "sources": {"s": {"type": "files", "path": "x", "id": "s1"}},
    "tables": {
        "t": {
            "from": ["s"],
            "keys": ["id"],
            "latest_by": ["at"],
            "delete_when": "gone",
            "partition_by": ["at"],
            "steps": [{"processor": "a:b"}],
            "contract": {
                "columns": {
                    "id": {"type": "integer", "min": 1, "max": 5, "references": "u.id"},
                    "at": {"type": "date", "formats": ["%d/%m/%Y"], "from": ["A"], "values": ["2026-01-31"]},
                    "price": {"type": "decimal(9,2)", "default": 1, "severity": "warn"},
                    "gone": {"type": "boolean", "map": {"x": "true"}, "clean": ["trim"]},
                },
                "rules": {"r": {"check": "id > 0"}},
                "expect": [{"unique": ["id"]}, {"sum": "price", "between": [0, 5]}, {"rows": [1, None]}],
                "nulls": ["", "-"],
            },
        },
        "u": {"from": ["s"], "keys": ["id"], "contract": {"columns": {"id": {"type": "integer"}}}},
    },
    "gold": {"dbt": "dbt"},
    "encryption": {"key": "k", "keys": {"k": "${K:-x}"}},
    "monitoring": {"freshness": "1h", "alerts": ["a"]},
    "environments": {"prod": {"lake": "/l", "tables": {"t": {"history": True}}}},
}
odd = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1.5, "", "x", "${NOPE}", "*", "%d", [], {}, [[]], {"x": {}}, [None], [5]]
    ),
    st.text(max_size=5),
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [at, *(place for key, child in children for place in places(child, (*at, key)))]


def changed(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = changed(value[at[0]], at[1:], new)
    return copy


def test_the_whole_definition_is_good(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(json.dumps(WHOLE))
    assert load(tmp_path, "prod", {}).config.tables["t"].history


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(places(WHOLE)[1:]), odd, st.sampled_from([None, "prod"]))
def test_any_change_loads_or_is_explained(at: tuple[Any, ...], new: Any, env: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yml"
        file.write_text(json.dumps(changed(WHOLE, at, new), indent=1))
        try:
            load(file, env, {})
        except ConfigError as error:
            lines = str(error).splitlines()
            assert all(line.startswith(("pipeline.yml", "hint: ")) for line in lines), lines
            assert not lines[0].startswith("hint: ")
