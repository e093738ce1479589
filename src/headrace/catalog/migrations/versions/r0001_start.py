"""The first catalog."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _counts(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _time(name: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "pipeline_runs",
        *_texts("run_id", "pipeline_name"),
        _time("start_time"),
        _time("end_time", nullable=True),
        *_texts("status"),
        sa.Column("metrics", sa.JSON, nullable=False),
        *_texts("env"),
        sa.Column("error", sa.Text),
        *_texts("fingerprint", "host"),
        *_counts("pid"),
        sa.PrimaryKeyConstraint("run_id", name="pk_pipeline_runs"),
    )
    op.create_index("ix_pipeline_runs_start_time", "pipeline_runs", ["start_time"])
    op.create_index(
        "ix_pipeline_runs_pipeline_name_start_time", "pipeline_runs", ["pipeline_name", "start_time"]
    )
    op.create_index("ix_pipeline_runs_status", "pipeline_runs", ["status"])
    op.create_table(
        "task_executions",
        *_texts("run_id", "task_id"),
        _time("start_time", nullable=True),
        _time("end_time", nullable=True),
        *_texts("status"),
        sa.Column("error_message", sa.Text),
        sa.Column("error_class", sa.Text),
        *_counts("retry_count"),
        sa.PrimaryKeyConstraint("run_id", "task_id", name="pk_task_executions"),
    )
    op.create_table(
        "ledger",
        *_texts("run_id", "table_name"),
        *_counts("epoch", "version", "read", "inserted", "updated", "unchanged", "deleted"),
        *_counts("deduplicated", "quarantined", "filtered", "late", "removed"),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "table_name", name="pk_ledger"),
    )
    op.create_index("ix_ledger_table_name_run_id", "ledger", ["table_name", "run_id"])
    op.create_table(
        "data_quality_results",
        *_texts("run_id", "table_name", "test_name", "result"),
        *_counts("row_count", "failed_rows"),
        _time("execution_time"),
        sa.PrimaryKeyConstraint("run_id", "table_name", "test_name", name="pk_data_quality_results"),
    )
    op.create_index(
        "ix_data_quality_results_table_name_execution_time",
        "data_quality_results",
        ["table_name", "execution_time"],
    )
    op.create_table(
        "change_events",
        *_texts("run_id", "source_id", "table_name", "change_type"),
        _time("timestamp"),
        *_counts("affected_rows"),
        sa.PrimaryKeyConstraint(
            "run_id", "source_id", "table_name", "change_type", "timestamp", name="pk_change_events"
        ),
    )
    op.create_index("ix_change_events_source_id_timestamp", "change_events", ["source_id", "timestamp"])
    op.create_table(
        "circuit_breakers",
        *_texts("name"),
        *_counts("failures"),
        sa.Column("opened_at", sa.Double),
        *_texts("last_error"),
        sa.PrimaryKeyConstraint("name", name="pk_circuit_breakers"),
    )
    op.create_table(
        "pipeline_versions",
        *_texts("pipeline_name", "fingerprint"),
        sa.Column("config", sa.JSON, nullable=False),
        _time("first_seen"),
        sa.PrimaryKeyConstraint("pipeline_name", "fingerprint", name="pk_pipeline_versions"),
    )
    op.create_table(
        "file_signatures",
        *_texts("stream", "name"),
        sa.Column("signature", sa.JSON, nullable=False),
        *_texts("sha256"),
        sa.PrimaryKeyConstraint("stream", "name", name="pk_file_signatures"),
    )


def downgrade() -> None:
    for table in (
        "file_signatures",
        "pipeline_versions",
        "circuit_breakers",
        "change_events",
        "data_quality_results",
        "ledger",
        "task_executions",
        "pipeline_runs",
    ):
        op.drop_table(table)
