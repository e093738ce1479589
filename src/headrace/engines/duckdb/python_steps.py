"""A project's own Python functions as steps of a table, on frames of the library that they ask for.

A processor gets a portion of the good rows in their final types and returns them changed, or fewer of them; a
validator returns one boolean per row. A row is known by `_source`, `_file`, `_line` and `_ingested_at`, which
a processor must keep: what it does not return is counted as filtered, never lost.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ...core import Frame
from ...errors import ConfigError, DataError, MissingExtra
from ...spec.pipeline import Step, TableSpec
from .frame import AUDIT, DuckFrame, Session, count, fresh, ident, native, one, text, word

IDENTITY = tuple(name for name in AUDIT if name != "_epoch")
PORTION = 100_000
"""Rows that a function sees at once."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An Arrow stream and nothing else, so that no library is recognised by its type."""

    frame: Any

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)


def run_steps(
    session: Session, spec: TableSpec, project: Path | None, table: str, columns: Mapping[str, str]
) -> tuple[str, int]:
    """Puts the rows of `table` (columns, then identity) through all steps; returns (new table, rows dropped).

    Rows that a validator refuses are listed in table `flagged` (the identity, rule, severity) and, unless it
    only warns, leave the table. Raises DataError if a function fails or returns what cannot be its rows; of a
    table with personal data no value is told.
    """
    private = any(column.pii for column in spec.contract.columns.values())
    session.con.execute(
        f"CREATE TEMP TABLE flagged AS SELECT {', '.join(IDENTITY)}, '' AS rule, '' AS severity "
        f"FROM {table} WHERE false"
    )
    dropped = 0
    for step in spec.steps:
        name = step.processor or step.validator or ""
        function = load(name, project)
        if private:
            function = _silent(name, function)
        if step.validator:
            table = _validate(session, step, function, table, columns)
        else:
            before = count(session.con, table)
            table = _process(session, name, function, table, columns, private=private)
            dropped += before - count(session.con, table)
    for column in spec.partition_by:
        if columns[column] == "text":
            table = _parted(session, table, column)
    return table, dropped


def _parted(session: Session, table: str, column: str) -> str:
    """Flags rows with the empty text in a column to partition by, as the contract's rules do before steps."""
    empty, keys = f"{ident(column)} = ''", ", ".join(IDENTITY)
    if not count(session.con, f"{table} WHERE {empty}"):
        return table
    flags = f"SELECT {keys}, {text(column + '.partition')}, 'quarantine' FROM {table} WHERE {empty}"
    session.con.execute(f"INSERT INTO flagged {flags}")
    kept = fresh("stepped")
    session.con.execute(
        f"CREATE TEMP TABLE {kept} AS SELECT * FROM {table} WHERE {ident(column)} IS DISTINCT FROM ''"
    )
    return kept


def load(name: str, project: Path | None) -> Callable[[Any], Any]:
    """The function that `module:function` names, from the project's folder; raises ConfigError without it."""
    module_name, _, function = name.partition(":")
    path = (project or Path()).joinpath(*module_name.split(".")).with_suffix(".py")
    if not function or not path.exists():
        raise ConfigError(
            f"step `{name}`: there is no {path}", hint="name it `module:function`, beside the pipeline file"
        )
    found = getattr(_module(module_name, path, name), function, None)
    if not callable(found):
        raise ConfigError(f"step `{name}`: {path} has no function `{function}`", hint="check its spelling")
    return typing.cast(Callable[[Any], Any], found)


def _silent(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function`, whose errors tell their type and place; what they say may hold values of any row."""

    @functools.wraps(function)
    def run(frame: Any) -> Any:
        try:
            result = function(frame)
            return result.collect() if hasattr(result, "collect") else result
        except Exception as error:
            told = f"step `{name}` failed: {type(error).__name__} at {_place(error, function)}"
        raise DataError(
            told,
            hint="nothing was written; the message is not shown, since the table has personal data: "
            "call the function on rows of your own to see it",
        )

    return run


def _place(error: BaseException, function: Callable[[Any], Any]) -> str:
    """File and line of the project's code where `error` came about: the innermost in the function's file."""
    own = function.__code__.co_filename if hasattr(function, "__code__") else ""
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if frame.filename == own] or frames
    return f"{inner[-1].filename}:{inner[-1].lineno} in {inner[-1].name}" if inner else own


def _module(module_name: str, path: Path, name: str) -> ModuleType:
    # Each engine loads the file anew: two projects in one process may both have a `steps.py`.
    spec = importlib.util.spec_from_file_location(f"headrace_steps_{fresh('m')}_{module_name}", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles of the module look for it there
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise ConfigError(
            f"step `{name}`: {path} cannot be imported: {type(error).__name__}: {error}",
            hint="run it with `python` to see the whole traceback",
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _wanted(function: Callable[[Any], Any]) -> str:
    """The library whose frames the function's first parameter is annotated with; '' for plain Arrow."""
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        hints = {}
    first = next(iter(inspect.signature(function).parameters), "")
    annotation = hints.get(first)
    lazy = ":lazy" if getattr(annotation, "__name__", "") == "LazyFrame" else ""
    root = (getattr(annotation, "__module__", "") or "").split(".")[0]
    return root + lazy if root in ("polars", "pandas", "pyarrow") else ""


def _convert(frame: Frame, library: str, name: str) -> Any:
    """The rows as a frame of `library`; exact, also for integers with missing values."""
    if not library:
        return Stream(frame)
    try:
        if library.startswith("polars"):
            eager = importlib.import_module("polars").DataFrame(Stream(frame))
            return eager.lazy() if library.endswith(":lazy") else eager
        table = importlib.import_module("pyarrow").table(Stream(frame))
        if library == "pyarrow":
            return table
        # pandas' own types would turn integers with missing values into doubles
        return table.to_pandas(types_mapper=importlib.import_module("pandas").ArrowDtype)
    except ImportError as error:
        raise MissingExtra(
            f"step `{name}` asks for frames of {library}, which needs `{error.name}`",
            hint=f"pip install {error.name}",
        ) from error


def _portions(
    session: Session, name: str, function: Callable[[Any], Any], table: str, columns: Mapping[str, str]
) -> Iterable[tuple[int, Any]]:
    """(first rowid, what the function made of that portion)."""
    library = _wanted(function)
    shown = dict(columns) | {key: AUDIT[key] for key in IDENTITY}
    listed = ", ".join(ident(column) for column in shown)
    total = count(session.con, table)
    for start in range(0, total, PORTION):
        where = f"rowid >= {start} AND rowid < {start + PORTION}"
        rows = min(PORTION, total - start)
        frame = DuckFrame(session, f"SELECT {listed} FROM {table} WHERE {where} ORDER BY rowid", shown, rows)
        argument = _convert(frame, library, name)
        try:
            result = function(argument)
            result = result.collect() if hasattr(result, "collect") else result
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"step `{name}` failed on {rows:,} rows from {start:,}: {type(error).__name__}: {error}",
                hint="nothing was written; call the function on some of the rows to see where it fails",
            ) from error
        del argument  # a stream that was not drained would keep the session occupied
        yield start, result


def _process(
    session: Session,
    name: str,
    function: Callable[[Any], Any],
    table: str,
    columns: Mapping[str, str],
    *,
    private: bool,
) -> str:
    con, made = session.con, fresh("stepped")
    con.execute(f"CREATE TEMP TABLE {made} AS SELECT * FROM {table} WHERE false")
    shown = dict(columns) | {key: AUDIT[key] for key in IDENTITY}
    for _, result in _portions(session, name, function, table, columns):
        if not hasattr(result, "__arrow_c_stream__"):
            raise DataError(
                f"step `{name}` returned {type(result).__name__}, which is no frame",
                hint="return a polars or pandas DataFrame, a pyarrow Table, or anything Arrow can stream",
            )
        _take(session, name, result, made, shown, private=private)
    _check_rows(session, name, table, made)
    return made


def _take(
    session: Session, name: str, result: Any, into: str, columns: Mapping[str, str], *, private: bool
) -> None:
    """Appends a function's result to `into` if every value keeps its meaning in the column's type."""
    con, back = session.con, fresh("back")
    con.register(f"{back}_stream", Stream(result))
    try:
        con.execute(f"CREATE TEMP TABLE {back} AS SELECT * FROM {back}_stream")
    finally:
        con.unregister(f"{back}_stream")
    types = {row[0]: row[1] for row in con.execute(f"DESCRIBE {back}").fetchall()}
    if types.keys() != columns.keys():
        lost = [column for column in columns if column not in types]
        new = [column for column in types if column not in columns]
        raise DataError(
            f"step `{name}`: its result "
            + (f"lacks column `{lost[0]}`" if lost else f"has a column `{new[0]}` that the contract lacks"),
            hint="return the columns that came in; add new ones to the contract first (they come in as NULL)",
        )
    for column, kind in columns.items():
        if word(types[column]) == kind or native(kind) == types[column]:
            continue
        quoted, target = ident(column), native(kind)
        same = f"TRY_CAST(TRY_CAST({quoted} AS {target}) AS {types[column]}) IS NOT DISTINCT FROM {quoted}"
        bad = con.execute(f"SELECT {quoted} FROM {back} WHERE NOT ({same}) LIMIT 1").fetchall()
        if bad:
            raise DataError(
                f"step `{name}`: column `{column}` came back as {types[column]} with "
                f"{'a value' if private else repr(bad[0][0])}, "
                f"which is no {kind}",
                hint=f"return `{column}` as {kind}; nothing is rounded or cut silently",
            )
    listed = ", ".join(f"{ident(column)}::{native(kind)}" for column, kind in columns.items())
    con.execute(f"INSERT INTO {into} SELECT {listed} FROM {back}")
    con.execute(f"DROP TABLE {back}")


def _check_rows(session: Session, name: str, before: str, after: str) -> None:
    """A processor keeps rows or drops them: it makes none and doubles none."""
    same = " AND ".join(f"a.{key} IS NOT DISTINCT FROM b.{key}" for key in IDENTITY)
    keys = ", ".join(IDENTITY)
    (strangers,) = one(
        session.con,
        f"SELECT count(*) FROM {after} a WHERE NOT EXISTS (SELECT 1 FROM {before} b WHERE {same})",
    )
    (twins,) = one(
        session.con, f"SELECT count(*) FROM (SELECT 1 FROM {after} GROUP BY {keys} HAVING count(*) > 1)"
    )
    if strangers or twins:
        what = f"{strangers:,} rows that did not come in" if strangers else f"{twins:,} rows more than once"
        raise DataError(
            f"step `{name}` returned {what}",
            hint=f"keep {', '.join(IDENTITY)} of each row as they are, and return each row at most once",
        )


def _validate(
    session: Session, step: Step, function: Callable[[Any], Any], table: str, columns: Mapping[str, str]
) -> str:
    con, name = session.con, step.validator or ""
    rule = name.rpartition(":")[2]
    con.execute("CREATE OR REPLACE TEMP TABLE refused (place BIGINT)")
    for start, result in _portions(session, name, function, table, columns):
        mask = _mask(result)
        expected = min(PORTION, count(con, table) - start)
        if len(mask) != expected or not all(value is None or isinstance(value, bool) for value in mask):
            raise DataError(
                f"step `{name}` returned {len(mask):,} values for {expected:,} rows"
                if len(mask) != expected
                else f"step `{name}` returned values that are not true or false",
                hint="a validator returns one boolean per row, in the order of the rows; true is good",
            )
        places = [start + offset for offset, value in enumerate(mask) if not value]
        con.execute("INSERT INTO refused SELECT unnest(?::BIGINT[])", [places])
    keys = ", ".join(IDENTITY)
    con.execute(
        f"INSERT INTO flagged SELECT {keys}, {text(rule)}, {text(step.severity)} FROM {table} "
        "WHERE rowid IN (SELECT place FROM refused)"
    )
    if step.severity == "warn":
        return table
    kept = fresh("stepped")
    con.execute(
        f"CREATE TEMP TABLE {kept} AS SELECT * FROM {table} WHERE rowid NOT IN (SELECT place FROM refused)"
    )
    return kept


def _mask(result: Any) -> list[Any]:
    """A column of any library, or a frame of one column, as Python booleans."""
    columns = getattr(result, "columns", None)
    if columns is not None and len(columns) == 1:
        first = columns[0]
        result = result[first] if isinstance(first, str) else first
    for method in ("to_list", "tolist", "to_pylist"):
        if hasattr(result, method):
            return list(getattr(result, method)())
    return list(result)
