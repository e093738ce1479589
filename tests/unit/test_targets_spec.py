"""What is wrong with targets is said before anything runs, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.errors import ConfigError
from headrace.spec.change import essence
from headrace.spec.load import load

BASE = """name: shop
sources:
  orders: {type: files, path: data/*.csv}
targets:
  w: {TARGET}
tables:
  orders:
    from: orders
    to: [TO]
    keys: [KEYS]
    contract: {columns: {a: {}}}
"""


def definition(folder: Path, target: str, to: str = "w", keys: str = "a") -> Path:
    text = BASE.replace("{TARGET}", target).replace("TO]", f"{to}]").replace("KEYS", keys)
    (folder / "pipeline.yml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("target", "to", "keys", "wanted"),
    [
        (
            "{type: duckdb, path: x.duckdb}",
            "warehous",
            "a",
            ":9: table `orders`: to: target `warehous`",
        ),
        (
            "{type: duckdbb, path: x}",
            "w",
            "a",
            ":5: target `w`: target type `duckdbb` is not known",
        ),
        ("{type: duckdb}", "w", "a", "pipeline.yml:5: target `w`: `path` is missing"),
        (
            "{type: duckdb, path: x, mod: merge}",
            "w",
            "a",
            ":5: target `w`: key `mod` is not known",
        ),
        ("{type: duckdb, path: x, mode: upsert}", "w", "a", "`mode` cannot be `upsert`"),
        (
            "{type: duckdb, path: x, deletes: soft}",
            "w",
            "",
            "which it must know by their key",
        ),
        ("{type: postgres, url: 'host=x nonsense'}", "w", "a", "`url` is no connection string of PostgreSQL"),
    ],
)
def test_problems(tmp_path: Path, target: str, to: str, keys: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(definition(tmp_path, target, to, keys))
    assert wanted in str(caught.value)
    assert "hint:" in str(caught.value)


def test_where_a_table_goes_does_not_compute_it_anew(tmp_path: Path) -> None:
    there = load(definition(tmp_path, "{type: duckdb, path: x.duckdb}")).config.tables["orders"]
    assert there.to == ["w"]
    assert essence(there) == essence(there.model_copy(update={"to": []}))


def test_a_password_is_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE", "host=x password=sesame-17 nonsense")
    with pytest.raises(ConfigError) as caught:
        load(definition(tmp_path, '{type: postgres, url: "${WAREHOUSE}"}'))
    assert "sesame-17" not in str(caught.value)


def test_a_proof_leaves_targets_alone(tmp_path: Path) -> None:
    from headrace.testing.prove.replica import replicate

    root = definition(tmp_path, "{type: duckdb, path: ../out.duckdb}")
    (root / "data").mkdir()
    (root / "data/a.csv").write_text("a\n1\n")
    copy = replicate(load(root), tmp_path / "scratch")
    assert copy.targets == ["w"]
    config = copy.load().config
    assert config.targets == {}
    assert config.tables["orders"].to == []
