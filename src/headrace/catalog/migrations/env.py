"""Run by Alembic for each command: migrates the connection that `catalog.migrate` hands over."""

from __future__ import annotations

from alembic import context

from headrace.catalog.schema import METADATA, VERSION

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION.name,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
