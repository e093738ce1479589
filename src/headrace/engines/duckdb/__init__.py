"""The embedded engine: DuckDB in this process, in bounded memory."""

from .engine import DuckEngine

__all__ = ["DuckEngine"]
