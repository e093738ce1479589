"""Moves a catalog between versions of its schema; imports Alembic, so import it only if need be."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from ..errors import ConfigError
from .schema import REVISION, VERSION


def upgrade(connection: sa.Connection, to: str = "head") -> None:
    """Brings the schema up to `to` in the caller's transaction; refuses one that a newer Headrace wrote."""
    config = settings(connection)
    found = _version(connection)
    try:
        ScriptDirectory.from_config(config).get_revision(found or "base")
    except CommandError:
        raise ConfigError(
            f"the catalog has schema {found}; this Headrace knows up to {REVISION}",
            hint="upgrade Headrace, or move the catalog away: a new one will be made, no data is lost",
        ) from None
    command.upgrade(config, to)


def downgrade(connection: sa.Connection, to: str) -> None:
    """Takes the schema back to the revision `to` (`base`: to nothing) in the caller's transaction."""
    command.downgrade(settings(connection), to)


def settings(connection: sa.Connection) -> Config:
    """Alembic's settings for an open connection; there is no ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION.name):
        return None
    found: str | None = connection.execute(sa.select(VERSION.c.version_num)).scalar()
    return found
