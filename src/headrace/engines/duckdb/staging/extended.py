"""MongoDB's Extended JSON: a wrapped value becomes its plain text, and whatever has none stays as it is.

A text in a document may look like a wrapped value; the JSON type at its path tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .extract import pointer
from .parts import Wanted, ident, text
from .strict import Path

PLAIN = ("$oid", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal", "$symbol")
NESTED = "_nested"


def opened(wanted: Wanted, names: Sequence[str], paths: Sequence[Sequence[Path]], roots: str) -> str:
    """Select list over parts of envelopes: all columns, values unwrapped, and the rule that one breaks.

    `paths` are those of each name within the row; `roots` are the letters of parts that exist (a, b, k), with
    the whole of each as `whole_a` and so on.
    """
    replaced, nested = [], ""
    for place, name in enumerate(names):
        for root in roots:
            column, kind = f"o.{root}{place}", _kind(f"o.whole_{root}", paths[place])
            if name not in wanted.json:
                replaced.append(f"({unwrapped(column, kind)}) AS {ident(f'{root}{place}')}")
            if root == "a" and name in wanted.flat:
                still = f"ascii({column}) IN (91, 123) AND {kind} IN ('OBJECT', 'ARRAY')"
                nested += (
                    f"WHEN {still} AND ({unwrapped(column, kind)}) = {column} THEN {text(f'{name}.type')} "
                )
    chosen = f"o.* REPLACE ({', '.join(replaced)})" if replaced else "o.*"
    return f"{chosen}, {f'CASE {nested}END' if nested else 'NULL::VARCHAR'} AS {NESTED}"


def _kind(whole: str, paths: Sequence[Path]) -> str:
    """The JSON type of the first of the paths at which there is a value."""
    kinds = [f"nullif(json_type({whole}, {text(pointer(path))}), 'NULL')" for path in paths]
    return f"coalesce({', '.join(kinds)}, '')"


def unwrapped(value: str, kind: str) -> str:
    """SQL: the text of a value, given as JSON text or text, of JSON type `kind`."""
    return (
        f"CASE WHEN {value} IS NULL OR NOT starts_with({value}, '{{\"$') THEN {value} "
        f"WHEN {kind} <> 'OBJECT' THEN {value} ELSE {_plain(value)} END"
    )


def _plain(value: str) -> str:
    def at(*steps: str) -> str:
        return f"json_extract_string({value}, {text(pointer(steps))})"

    def holds(key: str) -> str:
        return f"starts_with({value}, {text(_begin(key))})"

    ms = f"try_cast({at('$date', '$numberLong')} AS BIGINT)"
    date = f"try(strftime(epoch_ms({ms}), '%Y-%m-%dT%H:%M:%S.%gZ'))"
    digits = f"lower(hex(from_base64({at('$binary', 'base64')})))"
    cut = " || '-' || ".join(f"substr({digits}, {a}, {n})" for a, n in _UUID)
    uuid = f"{at('$binary', 'subType')} = '04' AND length({digits}) = 32"
    whens: Mapping[str, str] = {
        **{holds(key): at(key) for key in PLAIN},
        holds("$date"): f"coalesce({date}, {value})",
        holds("$binary"): rf"CASE WHEN {uuid} THEN {cut} ELSE '\x' || {digits} END",
        f"{holds('$code')} AND json_array_length(json_keys({value})) = 1": at("$code"),
    }
    return (
        "CASE " + " ".join(f"WHEN {when} THEN {then}" for when, then in whens.items()) + f" ELSE {value} END"
    )


_UUID = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))


def _begin(key: str) -> str:
    return '{"' + key + '":'
