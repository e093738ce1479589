"""A pipeline: what one YAML file says. Sources carry their connector's own settings, validated by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from .contract import Column, Contract, Model, Names
from .problem import Path, Problem, refuse, suggest
from .window import StreamSpec


class Connected(Model):
    """`type` names the connector (an entry point); all other keys are its own configuration."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class SourceSpec(Connected):
    """`type` names the connector (an entry point); all other keys are its own configuration."""

    id: str | None = None
    """Stable identity of the land stream; default: the key in the YAML when it first landed."""


class TargetSpec(Connected):
    """An external system to which tables are published; `type` names its connector, like a source's."""


class Step(Model):
    """A user's Python function `module:function`, found beside the pipeline file."""

    processor: str | None = None
    validator: str | None = None
    severity: Literal["warn", "quarantine", "stop"] = "quarantine"

    @model_validator(mode="after")
    def _one(self) -> Step:
        if (self.processor is None) == (self.validator is None):
            hint = "such as `- processor: steps:add_region`"
            refuse([Problem((), "a step is either a processor or a validator", hint)])
        return self


class Changes(Model):
    """How a table follows a stream of changes: inserts, updates, deletes, truncations."""

    deletes: Literal["hard", "soft"] = "hard"
    """A deleted row is shown no more, or is shown with `_deleted` and its last known values."""
    sequence_by: Names = Field(default_factory=list)
    """Which of two changes of a key is later: the greater; default: the source's own order (`_sequence`)."""
    apply_as_deletes: str | None = None
    """SQL over final columns: such a row deletes its key, beside those that the source marks as deletes."""
    truncate: Literal["apply", "ignore"] = "apply"
    """What a truncation at the source does: deletes every row that is older, or nothing."""


class TableSpec(Model):
    given: Names = Field(alias="from")
    """Sources, or tables of sources that have several: `pg.orders`."""
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
    changes: Changes | None = None
    """The rows are changes; set by itself where the source is one of changes."""
    partition_by: Names = Field(default_factory=list)
    history: bool = False
    """Keep every version of every key in `silver.<table>_history`."""
    steps: list[Step] = Field(default_factory=list)
    start: Literal["beginning", "now"] = "beginning"
    to: Names = Field(default_factory=list)
    """Targets that the table, with its history if it has one, is published to."""

    @model_validator(mode="after")
    def _possible(self) -> TableSpec:
        refuse(self._problems())
        return self

    def _problems(self) -> Iterator[Problem]:
        columns = self.contract.columns
        named = (("keys", self.keys), ("latest_by", self.latest_by), ("partition_by", self.partition_by))
        for what, names in named:
            for place, name in enumerate(names):
                if name not in columns and (what, name) != ("keys", "*"):
                    message = f"{what}: `{name}` is not a column of the contract"
                    yield Problem((what, place), message, suggest(name, columns, "columns"))
                if name in names[:place]:
                    yield Problem((what, place), f"{what}: `{name}` is there twice", "name it once")
        for name in self.key_columns:
            if name in columns and columns[name].mask in ("redact", "partial"):
                message = f"keys: `mask: {columns[name].mask}` makes different values of `{name}` equal"
                hint = "use `mask: hash` or `mask: encrypt`, which keep keys apart, or other keys"
                yield Problem(("keys",), message, hint)
        if "*" in self.keys and len(self.keys) > 1:
            hint = '`*` already means all columns: write `keys: "*"` or the columns alone'
            yield Problem(("keys",), "keys: `*` stands alone", hint)
        if self.mode == "merge" and not self.keys:
            yield Problem(("mode",), "mode `merge` needs `keys`", "name the columns that identify a row")
        if self.mode == "append" and self.keys:
            hint = "leave out `keys`, or use `mode: merge`"
            yield Problem(("mode",), "mode `append` keeps every row, so it has no `keys`", hint)
        for what, value in (
            ("history", self.history),
            ("delete_when", self.delete_when),
            ("latest_by", self.latest_by),
        ):
            if value and not self.keys:
                hint = "name the columns that identify a row, such as `keys: [order_id]`"
                yield Problem((what,), f"`{what}` needs `keys`", hint)
        yield from self.change_problems()

    def change_problems(self) -> Iterator[Problem]:
        """What does not go with `changes`, if the table follows any."""
        if self.changes is not None:
            yield from (p.under("changes") for p in self._change_problems(self.changes))

    def _change_problems(self, changes: Changes) -> Iterator[Problem]:
        columns = self.contract.columns
        if not self.keys or self.keys == ["*"]:
            hint = "name the columns that identify a row at the source, such as `keys: [order_id]`"
            yield Problem((), "a table of changes needs `keys`", hint)
        if self.mode not in (None, "merge"):
            hint = "leave `mode` out; `history: true` keeps every change"
            yield Problem((), f"a table of changes is merged, so `mode: {self.mode}` is not possible", hint)
        for what, instead in (("latest_by", "sequence_by"), ("delete_when", "apply_as_deletes")):
            if getattr(self, what):
                hint = f"write `changes: {{{instead}: …}}` instead"
                yield Problem((), f"`{what}` and `changes` say the same thing twice", hint)
        if self.steps:
            hint = "do it in SQL (`derive`, rules), or in a table or model made from this one"
            yield Problem((), "a table of changes has no Python steps: a delete knows only its key", hint)
        for place, name in enumerate(changes.sequence_by):
            at = ("sequence_by", place)
            if name not in columns:
                message = f"sequence_by: `{name}` is not a column of the contract"
                yield Problem(at, message, suggest(name, columns, "columns"))
            elif columns[name].type in ("json", "boolean") or columns[name].mask:
                hint = "name a number, date, timestamp or text that is stored as it is"
                yield Problem(at, f"sequence_by: column `{name}` has no order to go by", hint)
        for name in self.keys:
            if name in columns and columns[name].mask == "encrypt":
                hint = "use `mask: hash`, which keeps keys apart as well"
                yield Problem((), f"a table of changes: key `{name}` is encrypted", hint)

    @property
    def source(self) -> list[str]:
        """The sources that the table is made from."""
        return list(dict.fromkeys(name.partition(".")[0] for name in self.given))

    def tables_of(self, source: str) -> frozenset[str] | None:
        """Which of the source's tables it is made from; None means all that the source has."""
        found = [name.partition(".")[2] for name in self.given if name.partition(".")[0] == source]
        return frozenset(found) if all(found) else None

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
    keys: dict[str, str] = Field(repr=False)
    """Key id → 32 bytes as base64 or hex; give them by reference: ${HEADRACE_KEY} or secret references."""


class Monitoring(Model):
    freshness: str | None = None
    """Alert when a table's newest row is older, such as 30m."""
    alerts: list[str] = Field(default_factory=list, repr=False)
    """Apprise URLs; by reference, since they hold tokens."""


class Retry(Model):
    attempts: int = Field(3, ge=0, le=20)
    base: float = Field(1.0, ge=0)
    """Seconds: attempt n waits base * 2^n plus jitter."""


class PipelineConfig(Model):
    name: str
    description: str = ""
    owner: str = ""
    sources: dict[str, SourceSpec]
    tables: dict[str, TableSpec]
    streams: dict[str, StreamSpec] = Field(default_factory=dict)
    """Windows of time over a table; each is a table of its own, `silver.<name>`."""
    targets: dict[str, TargetSpec] = Field(default_factory=dict)
    """External systems that tables are published to: `to: [warehouse]`."""
    gold: Gold | None = None
    lake: str = "lake"
    """Where the data lives, relative to the pipeline file."""
    catalog: str | None = None
    """SQLAlchemy URL of the metadata database; default: catalog.db in the lake."""
    schedule: str | None = None
    retention: Retention = Retention()
    encryption: Encryption | None = None
    pii_key: str | None = Field(None, repr=False)
    """Secret for `mask: hash` and `mask: encrypt` (64 bytes or a passphrase), by reference."""
    monitoring: Monitoring = Monitoring()
    retry: Retry = Retry()
    parallel: int = Field(2, ge=1)
    """Tasks that may run at once."""
    memory: str = "1GB"
    """Budget of the embedded engine."""

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        refuse(_name_problem((), value, "a pipeline's name"))
        return value

    @model_validator(mode="after")
    def _possible(self) -> PipelineConfig:
        refuse(self._problems())
        return self

    def _problems(self) -> Iterator[Problem]:
        for kind, names in (
            ("sources", self.sources),
            ("tables", self.tables),
            ("streams", self.streams),
            ("targets", self.targets),
        ):
            for name in names:
                yield from _name_problem((kind, name), name, f"a {kind[:-1]}'s name")
        for name, table in self.tables.items():
            for place, given in enumerate(table.given):
                source = given.partition(".")[0]
                if source not in self.sources:
                    hint = suggest(source, self.sources, "sources")
                    at = ("tables", name, "from", place)
                    yield Problem(at, f"from: source `{source}` is not defined", hint)
            for column, spec in table.contract.columns.items():
                yield from (p.under("tables", name, "contract", "columns", column) for p in self._links(spec))

        yield from self._target_problems()

    def _target_problems(self) -> Iterator[Problem]:
        if "table" in self.targets:
            hint = "give it another name: `to: [table]` of a stream means its own table"
            yield Problem(("targets", "table"), "a target cannot be called `table`", hint)
        for kind, specs in (("tables", self.tables), ("streams", self.streams)):
            for name, spec in specs.items():
                for place, target in enumerate(spec.to):
                    if target not in self.targets and (kind, target) != ("streams", "table"):
                        hint = suggest(target, self.targets, "targets")
                        at = (kind, name, "to", place)
                        yield Problem(at, f"to: target `{target}` is not defined", hint)

    @property
    def published(self) -> dict[str, list[str]]:
        """Table or stream → the targets that it is published to."""
        named: dict[str, TableSpec | StreamSpec] = {**self.tables, **self.streams}
        return {name: [to for to in spec.to if to in self.targets] for name, spec in named.items()}

    def by_id(self) -> PipelineConfig:
        """The same pipeline with every source under its stable `id`, whatever its key is."""
        ids = {name: source.id or name for name, source in self.sources.items()}
        sources = {ids[name]: source for name, source in self.sources.items()}
        tables = {
            name: table.model_copy(
                update={
                    "given": [
                        ids[source] + dot + part
                        for source, dot, part in (given.partition(".") for given in table.given)
                    ]
                }
            )
            for name, table in self.tables.items()
        }
        return self.model_copy(update={"sources": sources, "tables": tables})

    def _links(self, spec: Column) -> Iterator[Problem]:
        if spec.references:
            other, _, key = spec.references.partition(".")
            if other not in self.tables:
                message = f"references: table `{other}` is not defined"
                yield Problem(("references",), message, suggest(other, self.tables, "tables"))
            elif key not in self.tables[other].contract.columns:
                message = f"references: table `{other}` has no column `{key}`"
                hint = suggest(key, self.tables[other].contract.columns, "columns")
                yield Problem(("references",), message, hint)
        if spec.mask in ("hash", "encrypt") and not self.pii_key:
            message = f"`mask: {spec.mask}` needs a key"
            yield Problem(("mask",), message, "set `pii_key: ${HEADRACE_PII_KEY}` in the pipeline file")


def _name_problem(at: Path, name: str, what: str) -> Iterator[Problem]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        better = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "name"
        hint = f"such as `{better if better[0].isalpha() else 'p_' + better}`"
        yield Problem(at, f"`{name}`: {what} is lower case letters, digits and _", hint)
