"""Tables of the catalog, in SQLAlchemy's words only: any database that it speaks will do."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

REVISION = "0003"
"""The newest migration; a test holds the two together."""

METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)


class Utc(sa.TypeDecorator[datetime]):
    """Aware times only, in and out; stored as UTC also where the database forgets zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone: give datetime.now(UTC) and the like")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


RUNS = sa.Table(
    "pipeline_runs",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("pipeline_name", sa.Text, nullable=False),
    sa.Column("start_time", Utc, nullable=False),
    sa.Column("end_time", Utc),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("env", sa.Text, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    _count("pid"),
    sa.Index(None, "start_time"),
    sa.Index(None, "pipeline_name", "start_time"),
    sa.Index(None, "status"),
)

TASKS = sa.Table(
    "task_executions",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("task_id", sa.Text, primary_key=True),
    sa.Column("start_time", Utc),
    sa.Column("end_time", Utc),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("error_message", sa.Text),
    sa.Column("error_class", sa.Text),
    _count("retry_count"),
)

LEDGER = sa.Table(
    "ledger",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("table_name", sa.Text, primary_key=True),
    _count("epoch"),
    _count("version"),
    _count("read"),
    _count("inserted"),
    _count("updated"),
    _count("unchanged"),
    _count("deleted"),
    _count("deduplicated"),
    _count("quarantined"),
    _count("filtered"),
    _count("late"),
    _count("removed"),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("corrected", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("superseded", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("truncated", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index(None, "table_name", "run_id"),
)

QUALITY = sa.Table(
    "data_quality_results",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("table_name", sa.Text, primary_key=True),
    sa.Column("test_name", sa.Text, primary_key=True),
    sa.Column("result", sa.Text, nullable=False),
    _count("row_count"),
    _count("failed_rows"),
    sa.Column("execution_time", Utc, nullable=False),
    sa.Index(None, "table_name", "execution_time"),
)

CHANGES = sa.Table(
    "change_events",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("source_id", sa.Text, primary_key=True),
    sa.Column("table_name", sa.Text, primary_key=True),
    sa.Column("change_type", sa.Text, primary_key=True),
    sa.Column("timestamp", Utc, primary_key=True),
    _count("affected_rows"),
    sa.Index(None, "source_id", "timestamp"),
)

BREAKERS = sa.Table(
    "circuit_breakers",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    _count("failures"),
    sa.Column("opened_at", sa.Double),
    sa.Column("last_error", sa.Text, nullable=False),
)

VERSIONS = sa.Table(
    "pipeline_versions",
    METADATA,
    sa.Column("pipeline_name", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, primary_key=True),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("first_seen", Utc, nullable=False),
)

SIGNATURES = sa.Table(
    "file_signatures",
    METADATA,
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("signature", sa.JSON, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
)

VERSION = sa.Table(
    "headrace_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="headrace_version_pkc"),
)
"""Alembic's version table, under a name of our own: the database may be shared with other programs. As it is
described here too, a fresh catalog is made and stamped without importing Alembic."""
