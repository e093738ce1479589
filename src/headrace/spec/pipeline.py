"""A pipeline: what one YAML file says. Sources carry their connector's own settings, validated by it."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from .contract import Contract, Model, Names


class SourceSpec(Model):
    """`type` names the connector (an entry point); all other keys are its own configuration."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str
    id: str | None = None
    """Stable identity of the land stream; default: the key in the YAML when it first landed."""

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Step(Model):
    """A user's Python function `module:function`, found beside the pipeline file."""

    processor: str | None = None
    validator: str | None = None
    severity: Literal["warn", "quarantine", "stop"] = "quarantine"

    @model_validator(mode="after")
    def _one(self) -> Step:
        if (self.processor is None) == (self.validator is None):
            raise ValueError("a step is either a processor or a validator")
        return self


class TableSpec(Model):
    source: Names = Field(alias="from")
    contract: Contract
    """Inline, or a path relative to the pipeline file (the loader reads it)."""
    keys: Names = Field(default_factory=list)
    """Columns that identify a row; `"*"` means all columns: exact duplicates collapse."""
    latest_by: Names = Field(default_factory=list)
    """Which version of a key stays: the greatest; without it, the one that landed last."""
    mode: Literal["append", "merge", "replace"] | None = None
    """Default: merge with keys, append without."""
    delete_when: str | None = None
    """SQL over final columns: such a row deletes its key (a tombstone stays)."""
    partition_by: Names = Field(default_factory=list)
    history: bool = False
    """Keep every version of every key in `silver.<table>_history`."""
    steps: list[Step] = Field(default_factory=list)
    start: Literal["beginning", "now"] = "beginning"

    @model_validator(mode="after")
    def _possible(self) -> TableSpec:
        columns = self.contract.columns
        for what, names in (("keys", self.keys), ("latest_by", self.latest_by), ("partition_by", self.partition_by)):
            for name in names:
                if name != "*" and name not in columns:
                    raise ValueError(f"{what}: `{name}` is not a column of the contract")
        if self.mode == "merge" and not self.keys:
            raise ValueError("mode `merge` needs `keys`")
        if self.mode == "append" and self.keys:
            raise ValueError("mode `append` keeps every row: leave out `keys`, or use merge")
        if (self.history or self.delete_when or self.latest_by) and not self.keys:
            raise ValueError("`history`, `delete_when` and `latest_by` need `keys`")
        return self

    @property
    def key_columns(self) -> list[str]:
        return list(self.contract.columns) if self.keys == ["*"] else list(self.keys)

    @property
    def effective_mode(self) -> Literal["append", "merge", "replace"]:
        return self.mode or ("merge" if self.keys else "append")


class Gold(Model):
    dbt: str
    """The dbt project, relative to the pipeline file."""
    target: Literal["duckdb"] = "duckdb"


class Retention(Model):
    bronze: str = "90d"
    silver: str = "180d"


class Encryption(Model):
    """AES-256-GCM envelopes: `key` names the current key among `keys`; old ones stay readable."""

    key: str
    keys: dict[str, str]
    """Key id → 32 bytes as base64 or hex; give them by reference: ${HEADRACE_KEY} or secret references."""


class Monitoring(Model):
    freshness: str | None = None
    alerts: list[str] = Field(default_factory=list)


class Retry(Model):
    attempts: int = Field(3, ge=0, le=20)
    base: float = Field(1.0, ge=0)
    """Seconds: attempt n waits base × 2^n plus jitter."""


class PipelineConfig(Model):
    name: str
    description: str = ""
    owner: str = ""
    sources: dict[str, SourceSpec]
    tables: dict[str, TableSpec]
    gold: Gold | None = None
    lake: str = "lake"
    """Where the data lives, relative to the pipeline file."""
    schedule: str | None = None
    retention: Retention = Retention()
    encryption: Encryption | None = None
    pii_key: str | None = None
    """Secret for `mask: hash` and `mask: encrypt` (64 bytes or a passphrase); needed when a contract masks."""
    monitoring: Monitoring = Monitoring()
    retry: Retry = Retry()
    parallel: int = Field(2, ge=1)
    """Tasks that may run at once."""
    memory: str = "1GB"
    """Budget of the embedded engine."""

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", value):
            raise ValueError(f"`{value}`: a pipeline's name is lower case letters, digits and _")
        return value

    @model_validator(mode="after")
    def _possible(self) -> PipelineConfig:
        for kind, names in (("source", self.sources), ("table", self.tables)):
            for name in names:
                if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                    raise ValueError(f"{kind} `{name}`: names are lower case letters, digits and _")
        for name, table in self.tables.items():
            for source in table.source:
                if source not in self.sources:
                    known = ", ".join(self.sources)
                    raise ValueError(f"tables.{name}.from: source `{source}` is not defined; sources: {known}")
            for column, spec in table.contract.columns.items():
                if spec.references:
                    other, _, key = spec.references.partition(".")
                    if other not in self.tables or key not in self.tables[other].contract.columns:
                        raise ValueError(f"tables.{name}: column `{column}` references `{spec.references}`, unknown here")
                if spec.mask in ("hash", "encrypt") and not self.pii_key:
                    raise ValueError(f"tables.{name}: column `{column}` is masked by {spec.mask}: set `pii_key`")
        return self
