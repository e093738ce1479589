"""The engine's front: opens DuckDB with its budget, refines a step, rewrites tables.

What reads bronze is imported when it is first needed, and DuckDB with it: a table without news needs neither.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...core import DataFile, Frame, Input, Outcome, RawInput, Rewrite, TableAt, Write
from ...errors import SystemFault
from .budget import budget
from .frame import DuckFrame, Session, relation_of
from .rewrite import kept_rows, rewrite
from .shape import LARGE

if TYPE_CHECKING:
    from ...sql import TableStep
    from ...sql.fix import BadRows, Fix, Proposal
    from ...sql.windows import WindowStep
    from .views import Private, Schemas


class DuckEngine:
    """Computes in DuckDB within `memory`, spilling into `scratch`; used by one thread at a time.

    `pii_key` is the secret of `mask: hash` and `mask: encrypt`; `project` is where the functions of a
    table's Python steps are found; `shares` engines divide what the process may have. Closing it removes
    its scratch and makes its frames unreadable.
    """

    dialect = "duckdb"

    def __init__(
        self,
        scratch: Path,
        memory: str = "1GB",
        threads: int | None = None,
        pii_key: bytes | None = None,
        project: Path | None = None,
        shares: int = 1,
    ) -> None:
        self.budget = budget(memory, shares, threads)

        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch = Path(tempfile.mkdtemp(prefix="duckdb-", dir=scratch))
        self.project = project
        self.pii_key = pii_key
        self.large = LARGE
        self.versions = {"duckdb": version("duckdb")}  # as it says itself, without loading it
        self._config: dict[str, Any] = {
            "memory_limit": f"{self.budget.bytes}B",
            "threads": self.budget.threads,
            # DuckDB 2.0.0 hangs for ever where a COPY fails while its writes are under way in other threads:
            # it waits for them with the lock held that they need. Without such threads it writes by itself.
            "async_threads": 0,
            "temp_directory": str(self.scratch / "spill"),
            "autoinstall_known_extensions": False,
        }

    @cached_property
    def session(self) -> Session:
        """Opened when it is first asked for: a table without news needs none."""
        import duckdb

        return Session(duckdb.connect(":memory:", config=self._config), self.budget.row_group)

    def __enter__(self) -> DuckEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _open(self) -> bool:
        return "session" in self.__dict__

    def close(self) -> None:
        if self._open:
            self.session.con.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def secret(self) -> str:
        """The key of `mask: hash` as text; empty without one (then no contract masks)."""
        if self.pii_key is None:
            return ""
        try:
            return self.pii_key.decode()
        except UnicodeDecodeError:
            return self.pii_key.hex()

    def run(
        self,
        step: TableStep,
        inputs: Mapping[str, Input | Sequence[RawInput] | None],
        *,
        epoch: int,
        now: str,
    ) -> Outcome:
        """All outputs of `step` over its range of bronze, as a pure function of the arguments.

        Raises Stopped if a `stop` rule or expectation breaks; nothing outside the scratch is written.
        """
        from .quarantine import requarantined
        from .refine import raw_inputs, refine

        with self._within(f"table `{step.table}`: refining this range of bronze"):
            outcome = refine(self, step, inputs, epoch=epoch, now=now)
        before = inputs.get("requarantine")
        if not isinstance(before, TableAt) or before.version < 0:
            return outcome
        bad = requarantined(self.session, outcome.frames["quarantine"], before, raw_inputs(inputs.get("raw")))
        return replace(outcome, frames={**outcome.frames, "quarantine": bad})

    def windows(
        self,
        step: WindowStep,
        tables: tuple[TableAt | None, TableAt],
        target: TableAt | None,
        epoch: int,
    ) -> Outcome:
        """What changes in a stream's windows between two versions of its table; see `windows.windows`."""
        from .windows import windows

        with self._within(f"stream `{step.name}`: {sum(file.rows for file in tables[1].files):,} rows"):
            return windows(self.session, step, tables, target, epoch)

    def rewrite(self, target: TableAt, write: Write, frame: Frame, into: Path) -> Rewrite:
        """The copy-on-write change that applies `frame` to `target`; new Parquet files lie under `into`."""
        rows, files = sum(file.rows for file in target.files), len(target.files)
        what = f"table `{write.table}`: the {write.mode} into {rows:,} rows in {files:,} files"
        with self._within(what):
            return rewrite(self.session, target, write, frame, into)

    @contextmanager
    def _within(self, what: str) -> Iterator[None]:
        """Says what does not fit, and into what. All that computes comes before the first commit."""
        import duckdb

        try:
            yield
        except duckdb.OutOfMemoryException as error:
            more = str(error).partition("\n")[0]
            raise SystemFault(
                f"{what} does not fit into {self.budget}: {more}",
                hint="nothing was committed; raise `memory:` in the pipeline file"
                " (and the limit, where one holds it down), or land smaller portions (`batch_bytes:`)",
            ) from error

    def kept_rows(
        self, target: TableAt, files: Sequence[DataFile], into: Path, where: str = "true"
    ) -> list[DataFile]:
        """New files under `into` with the rows of `files` that `where` keeps; see `rewrite.kept_rows`."""
        return kept_rows(self.session, target, files, where, into)

    @property
    def searched(self) -> Sequence[str]:
        """Types of files in which `erase` finds a value if it is there."""
        from .erase import SEARCHED

        return SEARCHED

    @staticmethod
    def erase(
        path: Path, form: Mapping[str, Any], names: Sequence[str], value: str, to: Path
    ) -> tuple[int, Mapping[str, Any]]:
        """Blanks one subject's records out of a copy of a file; see `erase.erase`."""
        from .erase import erase

        return erase(path, form, names, value, to)

    def interrupt(self) -> None:
        """Ends the running query soon, from another thread."""
        if self._open:
            self.session.con.interrupt()

    @staticmethod
    def validate(steps: Mapping[str, TableStep], chosen: Mapping[str, str]) -> None:
        """Binds the SQL of the chosen tables against empty ones; see `validate.validate`."""
        from .validate import validate

        validate(steps, chosen)

    @staticmethod
    def validate_windows(steps: Sequence[WindowStep]) -> None:
        """Binds the SQL of streams against empty tables; see `windows.types_of`."""
        from .validate import validate_windows

        validate_windows(steps)

    def strays(self, quarantine: TableAt, corrections: RawInput) -> int:
        """How many corrections are of records not in `quarantine`: only a rebuild can apply these."""
        from .corrections import strays

        return strays(self.session, quarantine, corrections)

    def propose(
        self, step: TableStep, bad: BadRows, fix: Fix, out: Path, note: Mapping[str, str], **options: Any
    ) -> Proposal:
        """Writes corrections of quarantined rows to `out`; see `propose.propose`."""
        from .propose import propose

        return propose(self, step, bad, fix, out, note, **options)

    def export(
        self, step: TableStep, bad: BadRows, rule: str | None, out: Path, hidden: Sequence[str]
    ) -> int:
        """Writes quarantined rows to `out` for editing; see `propose.export`."""
        from .propose import export

        return export(self.session, step, bad, rule, out, hidden)

    def passed(self, given: RawInput, out: Path) -> int:
        """Writes those of `given` to `out` that the last `run`, which had them as corrections, let pass."""
        from .corrections import passed

        return passed(self.session, given, out)

    def history(self, given: RawInput, live: Mapping[tuple[str, str], str]) -> list[tuple[Any, ...]]:
        """Each landed correction, and how many of its rows still apply; see `corrections.history`."""
        from .corrections import history

        return history(self.session, given, live)

    def typed(self, frame: Frame) -> DuckFrame:
        """`frame` with its columns in the contract's words; see `frame.relation_of`."""
        return relation_of(self.session, frame)

    def visible(self, at: TableAt) -> DuckFrame:
        """All rows that a reader sees of a table; see `published.visible`."""
        from .published import visible

        return visible(self.session, at)

    def changed(self, old: TableAt, new: TableAt, keys: Sequence[str]) -> DuckFrame | None:
        """What takes a reader's `old` to `new`, or None if only all rows do; see `published.changed`."""
        from .published import changed

        with self._within(f"table `{new.table}`: finding what changed since version {old.version}"):
            return changed(self.session, old, new, keys)

    def lines(self, frame: Frame, path: Path) -> int:
        """Writes `frame` to `path` as CSV; how many rows. See `published.lines`."""
        from .published import lines

        return lines(self.session, frame, path)

    def with_nul(self, frame: Frame) -> Mapping[str, int]:
        """Columns of `frame` in which texts hold the character NUL, and in how many rows."""
        from .published import with_nul

        return with_nul(self.session, frame)

    @staticmethod
    def publish(database: Path, schemas: Schemas) -> None:
        """Makes the DuckDB file `database` show the given tables as views; see `views.publish`."""
        from .views import publish

        publish(database, schemas)

    @staticmethod
    def stale(quarantine: TableAt, silver: TableAt, *, hidden: bool = False) -> str:
        """SQL of keys whose newest change is in quarantine; see `followed.stale_sql`."""
        from .followed import stale_sql

        return stale_sql(quarantine, silver, hidden=hidden)

    @staticmethod
    def query(
        schemas: Schemas,
        sql: str,
        *,
        attach: Mapping[str, Path] | None = None,
        memory: str = "1GB",
        private: Private | None = None,
    ) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
        """Column names and rows of one SELECT over the given tables; see `views.query`."""
        from .views import query

        return query(schemas, sql, attach=attach, memory=f"{budget(memory).bytes}B", private=private)
