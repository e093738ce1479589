"""The ledger counts rows of corrections apart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("corrected", "superseded"):
        op.add_column("ledger", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    for name in ("superseded", "corrected"):
        op.drop_column("ledger", name)
