"""Headrace: one definition, from laptop to cluster, with no row lost and a way to check it."""

__version__ = "0.1.0"
