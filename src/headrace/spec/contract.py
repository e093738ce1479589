"""A contract: what a silver table promises. Pure data; `sql` compiles it, engines run it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .problem import Problem, refuse, suggest

Severity = Literal["warn", "quarantine", "stop"]
Drift = Literal["evolve", "freeze", "quarantine"]
Clean = Literal["trim", "squeeze", "lower", "upper", "title", "digits", "alnum"]
Mask = Literal["hash", "redact", "partial", "encrypt"]

TYPES = "boolean, integer, bigint, decimal(p,s), double, date, timestamp, text, json"
TYPE_WORDS = tuple(TYPES.split(", "))
_TYPE = re.compile(r"boolean|integer|bigint|double|date|timestamp|text|json|decimal\((\d+), ?(\d+)\)")

FORMAT_WORDS = ("currency", "percent", "decimal_comma", "thousands", "whole_decimal", "yes_no")
FORMATS = "strptime patterns such as %d/%m/%Y, " + ", ".join(FORMAT_WORDS)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])]


class Model(BaseModel):
    """Unknown keys are refused; instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Column(Model):
    type: str = "text"
    """One of boolean, integer, bigint, decimal(p,s), double, date, timestamp, text, json."""
    source: Names = Field(default_factory=list, alias="from")
    """Header names (or JSON paths a.b.c) that feed this column, first match wins; default: its own name."""
    formats: Names = Field(default_factory=list)
    """Accepted spellings beyond the plain one, tried in order: strptime patterns for date and timestamp;
    `currency` ($ € £ prefix/suffix), `percent`, `decimal_comma` (1.234,56), `thousands` (1,234.56),
    `whole_decimal` (17850.0 for an integer), `yes_no` for booleans."""
    timezone: str | None = None
    """IANA zone of timestamps without an offset; stored as UTC. Default UTC."""
    clean: list[Clean] = Field(default_factory=list)
    map: dict[str, str] = Field(default_factory=dict)
    """Exact replacements of the cleaned text (codes, units), before the cast."""
    default: str | int | float | bool | None = None
    """Used where the value is missing."""
    derive: str | None = None
    """SQL over the contract's other columns, in their final types; then the column has no source."""
    required: bool = False
    values: list[str | int] | None = None
    min: str | int | float | None = None
    max: str | int | float | None = None
    pattern: str | None = None
    """Regular expression (RE2) that the whole text must match."""
    max_length: int | None = None
    pii: str | None = None
    """What it is (`email`, `phone`, `name` …). Masked wherever people look."""
    mask: Mask | None = None
    """How it is stored in silver; needs `pii`."""
    references: str | None = None
    """`table.column` of another silver table."""
    on_missing: Literal["quarantine", "accept"] = "quarantine"
    """What to do with a reference that is not there (yet): late-arriving dimensions are `accept`ed and
    become unknown members in gold."""
    severity: Severity = "quarantine"
    """Of the checks that this column implies."""
    description: str = ""
    example: str | int | float | bool | None = None

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        value = value.strip().lower()
        match = _TYPE.fullmatch(value)
        if not match:
            hint = suggest(value, TYPE_WORDS, "Types")
            refuse([Problem((), f"type `{value}` is not known", hint)])
        elif match[1] and not max(1, int(match[2])) <= int(match[1]) <= 38:
            message = f"type `{value}`: a decimal has 1 to 38 digits, of which at most all are decimals"
            refuse([Problem((), message, "decimal(18,2) holds 16 digits before the point and 2 after it")])
        return value.replace(", ", ",")

    @model_validator(mode="after")
    def _possible(self) -> Column:
        refuse(self._problems())
        return self

    def _problems(self) -> Iterator[Problem]:
        if self.derive and (self.source or self.default is not None):
            other = "from" if self.source else "default"
            yield Problem(
                (other,),
                f"a derived column has no `{other}`",
                "leave out `from` and `default`, or `derive`; coalesce(…) in the SQL gives a default",
            )
        if self.mask and not self.pii:
            yield Problem(("mask",), "`mask` needs `pii`", "say what it is, such as `pii: email`")
        if self.mask and self.type != "text":
            message = f"`mask: {self.mask}` needs a text column, not {self.type}"
            yield Problem(("mask",), message, "set `type: text`")
        if self.references and not re.fullmatch(r"\w+\.\w+", self.references):
            message = f"`references` is `table.column`, not `{self.references}`"
            yield Problem(("references",), message, "such as `references: products.product_id`")


class Rule(Model):
    """A row rule: SQL over final columns that is true for good rows; NULL counts as broken."""

    check: str
    severity: Severity = "quarantine"
    description: str = ""


class Expect(Model):
    """A set rule on the table as it would be after this epoch, judged before anything is written."""

    unique: Names | None = None
    rows: tuple[int | None, int | None] | None = None
    """[min, max] rows of one epoch."""
    sum: str | None = None
    """A column, with `between`."""
    between: tuple[str | int | float | None, str | int | float | None] | None = None
    fresh: str | None = None
    """A timestamp or date column, with `within` such as 2d: its newest value may not be older."""
    within: str | None = None
    severity: Literal["warn", "stop"] = "stop"

    @model_validator(mode="after")
    def _one(self) -> Expect:
        if [self.unique, self.rows, self.sum, self.fresh].count(None) != 3:
            hint = "one list entry each, such as `- unique: [order_id]`"
            refuse([Problem((), "an expectation is exactly one of unique, rows, sum, fresh", hint)])
        if (self.sum is None) != (self.between is None) or (self.fresh is None) != (self.within is None):
            hint = "such as `{sum: amount, between: [0, 1000000]}` or `{fresh: order_date, within: 2d}`"
            refuse([Problem((), "`sum` goes with `between`, `fresh` with `within`", hint)])
        return self


class Contract(Model):
    description: str = ""
    owner: str = ""
    columns: dict[str, Column]
    rules: dict[str, Rule] = Field(default_factory=dict)
    expect: list[Expect] = Field(default_factory=list)
    filter: str | None = None
    """SQL over final columns: rows for which it is not true are none of this table's (counted `filtered`)."""
    nulls: list[str] = Field(default_factory=lambda: [""])
    """Texts that mean missing, after trimming."""
    on_new_column: Drift = "evolve"
    on_missing_column: Literal["accept", "quarantine"] = "accept"
    """A header without one of our columns: its values are missing, or the file's rows are quarantined."""
    header_case: Literal["ignore", "exact"] = "ignore"

    @field_validator("columns", mode="before")
    @classmethod
    def _plain_text(cls, value: Any) -> Any:
        """`name:` with nothing after it is a column of text."""
        if isinstance(value, dict):
            return {name: {} if column is None else column for name, column in value.items()}
        return value

    @field_validator("columns")
    @classmethod
    def _names(cls, value: dict[str, Column]) -> dict[str, Column]:
        if not value:
            refuse([Problem((), "a contract has at least one column", "such as `columns: {order_id: {}}`")])
        refuse(_name_problems(value))
        return value


def _name_problems(names: Iterable[str]) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            better = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "name"
            yield Problem(
                (name,),
                f"`{name}` is no column name: letters, digits and _, starting with a letter",
                f"call it `{better if better[0].isalpha() else 'c_' + better}` and set `from: {name!r}`",
            )
        other = taken.setdefault(name.lower(), name)
        if other != name:
            message = f"columns `{other}` and `{name}` differ only in case"
            yield Problem((name,), message, "engines do not tell them apart: rename one")
