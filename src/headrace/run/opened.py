"""A project's lake and its metadata database, opened; imports nothing else of a run, for who only looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..spec.project import Project
from ..store.cipher import Cipher
from ..store.records import check_format
from ..store.storage import LocalStorage

if TYPE_CHECKING:
    from ..catalog.catalog import Catalog


def open_storage(project: Project) -> LocalStorage:
    """The lake of a project, made if need be; raises `ConfigError` if a newer Headrace has written it."""
    encryption = project.config.encryption
    cipher = Cipher(encryption.key, encryption.keys) if encryption else None
    storage = LocalStorage(project.lake, cipher)
    check_format(storage)
    return storage


def open_catalog(project: Project) -> Catalog:
    # SQLAlchemy takes long to import, and who only looks at a lake does without
    from ..catalog.catalog import Catalog

    return Catalog.open(project.config.catalog or project.lake / "catalog.db")
