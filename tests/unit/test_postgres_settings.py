"""Settings of the PostgreSQL source: refused where they cannot work, and every one of them explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.errors import ConfigError, SystemFault
from headrace.sources.postgres import Postgres
from headrace.sources.postgres_intake import relation
from headrace.sources.postgres_server import Server, ident, literal

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"tables": []}, "name at least one table"),
        ({"tables": ["orders", " "]}, "name at least one table"),
        ({"mode": "watermark"}, "needs `watermark: column`"),
        ({"watermark": "updated_at"}, "are for `mode: watermark`"),
        ({"mode": "snapshot", "slot": "mine"}, "are for `mode: cdc`"),
        ({"mode": "trigger", "resnapshot": {"orders": 1}}, "are for `mode: cdc`"),
        ({"slot": "My-Slot"}, "lower case letters"),
        ({"publication": "x" * 64}, "at most 63"),
        ({"tabels": ["orders"]}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        Postgres(**{"name": "pg", "dsn": "host=/tmp", "tables": ["orders"], **settings})


def test_the_dsn_is_in_no_text() -> None:
    source = Postgres(name="pg", dsn="postgresql://u:hunter2@h/d", tables=["orders"])
    server = Server(source.dsn, source.name)
    assert "hunter2" not in repr(source) + str(source) + repr(server)


def test_names_of_slots_are_names() -> None:
    assert Postgres(name="pg", dsn="x", tables="orders").slot_name == "headrace_pg"
    assert Postgres(name="Shop-1", dsn="x", tables="orders").slot_name == "headrace_shop_1"
    assert len(Postgres(name="n" * 99, dsn="x", tables="orders").slot_name) == 63
    assert Postgres(name="pg", dsn="x", tables="orders", slot="mine").publication_name == "mine"


@pytest.mark.parametrize(("mode", "changes"), [("cdc", True), ("snapshot", False), ("trigger", True)])
def test_which_modes_tell_changes(mode: Any, changes: bool) -> None:
    assert Postgres(name="pg", dsn="x", tables=["t"], mode=mode).changes is changes


def test_text_as_sql() -> None:
    assert ident('a"b') == '"a""b"'
    assert literal("it's") == "'it''s'"
    assert literal("a\\'b") == " E'a\\\\''b'"


def test_a_dsn_that_is_none_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError) as error:
        Server("host=x password='hunter2", "pg")
    assert "hunter2" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_description_that_is_cut_is_no_table() -> None:
    whole = b"R" + bytes(3) + b"\x07public\0orders\0d\0\x01\x01id\0" + bytes(3) + b"\x17" + b"\xff" * 4
    found = relation(whole)
    assert (found["oid"], found["schema"], found["table"], found["identity"]) == (7, "public", "orders", "d")
    assert found["columns"] == [{"name": "id", "type_oid": 23, "modifier": -1, "key": True, "type": None}]
    for end in range(1, len(whole)):
        with pytest.raises(SystemFault, match="cannot be read"):
            relation(whole[:end])


def test_every_setting_is_explained() -> None:
    text = (ROOT / "docs/sources/postgres.md").read_text()
    told = {"type", "name", "root", "dsn", "tables"}  # by the example
    assert not {name for name in Postgres.model_fields if f"`{name}`" not in text} - told
