"""Typed rows straight from the reader: texts are never stored, except those of rows that are broken.

A scratch table of texts would be the largest thing of a refinement: storing it costs more than reading the
file, and what outgrows memory is written and read again from disk. So casts and rules run while a file is
read, and their result, a typed row and its verdict, is kept: in memory if it is small, else as Parquet.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...sql import TableStep, checked_sql, unspoken
from ...sql.changes import key_sql
from .frame import ident
from .staging.parts import Shape

LARGE = 48 << 20
"""Bytes of input from which typed rows go to disk: a table in memory is quicker until it fills the budget."""
VERDICTS = ("_rules", "_stopped", "_warned", "_filtered", "_fields")


def shape_of(step: TableStep, dialect: str, large: int = LARGE) -> Shape:
    """The typed columns of `step`, then its verdicts: `_rules`, `_stopped`, `_warned` (NULL where there is
    nothing to say), `_filtered`, and `_fields`, the texts of a broken row as JSON; then `step.beside`.
    Changes have `_unchanged` and, where broken, `_key`; those that lack values keep their texts as well."""
    changes = step.spec.changes is not None
    beside = [*step.beside, *(["_unchanged"] if changes else [])]
    never = unspoken(step)
    said = "_broken" if "_stopped" in never else "_broken || _stopped"
    columns = [*step.columns, *VERDICTS, *beside, *(["_key"] if changes else [])]

    def sql(query: str, texts: Sequence[str], carried: Sequence[str]) -> str:
        # The audit columns pass through the checks untouched: here they carry the texts and what else is
        # asked for, as structs, which costs no copy.
        packed = _struct(texts)
        source = (
            f"SELECT {', '.join(ident(name) for name in step.inputs)}, {packed} AS _source, "
            f"{_struct(carried)} AS _file, 0::BIGINT AS _line, NULL::TIMESTAMPTZ AS _ingested_at "
            f"FROM ({query})"
        )
        # a validator of the project may still refuse any row
        broken = "true" if step.spec.steps else f"{said} <> ''"
        kept = f"{broken} OR _unchanged IS NOT NULL" if changes else broken
        shown = [ident(name) for name in step.columns]
        shown += [f"nullif({said}, '') AS _rules", "nullif(_stopped, '') AS _stopped"]
        shown += ["nullif(_warned, '') AS _warned", "_filtered"]
        shown += [f"CASE WHEN {kept} THEN to_json(_source)::VARCHAR END AS _fields", *beside]
        if changes:
            shown.append(f"CASE WHEN {broken} THEN {key_sql(step.keys)} END AS _key")
        shown += [f"_file.{ident(name)} AS {ident(name)}" for name in carried]
        checked = checked_sql(step, dialect, "headrace_texts")
        return f"WITH headrace_texts AS ({source}) SELECT {', '.join(shown)} FROM ({checked})"

    constant = {c: "false" if c == "_filtered" else "NULL::VARCHAR" for c in sorted(never)}
    return Shape(columns, sql, large, constant)


def _struct(names: Sequence[str]) -> str:
    if not names:
        return "NULL::VARCHAR"
    return "struct_pack(" + ", ".join(f"{ident(name)} := {ident(name)}" for name in names) + ")"
