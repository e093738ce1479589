"""The metadata database: runs, tasks, ledgers, quality, changes. Disposable: the lake is the only truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .catalog import Catalog as Catalog


def __getattr__(name: str) -> Any:
    # SQLAlchemy takes a good part of a second to import; the models alone do without it.
    if name == "Catalog":
        from .catalog import Catalog

        return Catalog
    raise AttributeError(name)
