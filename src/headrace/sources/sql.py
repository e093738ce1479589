"""Tables of SQLite, DuckDB and whatever SQLAlchemy speaks to: whole, or by a column that only grows."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..core import Batch, Position, RawFile, Reading
from ..errors import ConfigError
from .how import How
from .inspect import FileInspector
from .sql_rows import Database, Shape, connected, earlier, given, kept, line, select


class TableSettings(BaseModel):
    """How one table is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str | None = None
    """Its name in the database, `schema.name`; else that under which it stands here."""
    mode: Literal["full", "watermark"] | None = None
    """`watermark` where a watermark is given, else `full`."""
    watermark: str | None = None
    """A column that grows with every insert and update: a time of change, or a sequence."""
    overlap: float = Field(0, ge=0)
    """How far behind the highest value late rows may still come: seconds of a time, or else a number."""
    key: Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = Field(
        default_factory=list
    )
    """Unique columns without NULL; else the primary key."""
    columns: list[str] = Field(default_factory=list)
    """Only these."""

    @model_validator(mode="after")
    def _fits(self) -> TableSettings:
        if self.mode == "watermark" and not self.watermark:
            raise ValueError("mode `watermark` needs `watermark: <column>`")
        if self.overlap and not self.watermark:
            raise ValueError("`overlap` goes with `watermark`")
        return self


def _named(value: Any) -> Any:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        return {str(name).rpartition(".")[2]: {"table": name} for name in value}
    return {name: settings or {} for name, settings in value.items()} if isinstance(value, dict) else value


class Sql(BaseModel):
    """Rows of tables land in chunks, each once and in the order of keys; a killed read goes on."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["sql"] = "sql"
    name: str
    root: Path
    url: str = Field(repr=False)
    """`sqlite:///shop.db`, `duckdb:///shop.duckdb`, `postgresql+psycopg://…`, by reference: `${SHOP_URL}`."""
    tables: Annotated[dict[str, TableSettings], BeforeValidator(_named), Field(min_length=1)]
    """Names, or names with settings."""
    chunk: int = Field(50_000, ge=1)
    """Rows of one object and of one query."""

    def streams(self) -> Sequence[str]:
        """One stream, whose position knows each table."""
        return [self.name]

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        """Yields chunks of each table in turn; one that is read whole begins anew once it was complete."""
        if stream != self.name:
            raise ConfigError(f"source {self.name} has no stream {stream}", hint=f"its stream is {self.name}")
        state: dict[str, Any] = dict((start or {}).get("tables", {}))
        while True:
            idle = True
            with connected(self.url, self.root) as database:
                for name, settings in self.tables.items():
                    table = self._table(database, name, settings)
                    read = _watermark if settings.watermark else _full
                    for files, after in read(table, state.get(name), ctx):
                        state = {**state, name: after}
                        yield Batch(files, {"tables": state})
                        idle = False
            if not ctx.follow:
                return
            if idle:
                yield None

    def _table(self, database: Database, name: str, settings: TableSettings) -> _Table:
        where = settings.table or name
        try:
            shape = database.shape(where)
        except LookupError:
            raise ConfigError(
                f"source {self.name}: there is no table `{where}`",
                hint="give its name as `schema.name`, and its user the right to read it",
            ) from None
        columns = settings.columns or list(shape.columns)
        key = settings.key or list(shape.key)
        needed = [*columns, *key, *([settings.watermark] if settings.watermark else [])]
        if unknown := [column for column in needed if column not in shape.columns]:
            raise ConfigError(
                f"source {self.name}: table `{where}` has no column `{unknown[0]}`",
                hint=f"its columns: {', '.join(shape.columns)}",
            )
        if settings.watermark and not key:
            raise ConfigError(
                f"source {self.name}: table `{where}` has no primary key",
                hint="name unique columns: `key: [id]`; rows with equal watermarks could not be told apart",
            )
        return _Table(database, name, where, settings, Shape(columns, key), self.chunk)


@dataclass(frozen=True, slots=True)
class _Table:
    database: Database
    name: str
    where: str
    settings: TableSettings
    shape: Shape
    chunk: int


@dataclass
class _Chunk:
    """Rows of one object, encoded."""

    names: Sequence[str]
    rows: int = 0
    data: bytearray = field(default_factory=bytearray)
    last: Sequence[Any] = ()

    def add(self, row: Sequence[Any]) -> bytes:
        text = line(self.names, row)
        self.data += text
        self.rows += 1
        self.last = row
        return text


Read = Iterator[tuple[list[RawFile], dict[str, Any]]]


def _full(table: _Table, state: Mapping[str, Any] | None, ctx: Reading) -> Read:
    """Chunks `name/000001` …: one that has not changed does not land again, one that has replaces the old.

    Without a key, a read that was broken off begins anew: there is no order to go on in.
    """
    before = dict(state or {})
    state = {} if before.get("complete") else before
    number = int(state.get("chunk", 0)) if table.shape.key else 0
    after = [given(value) for value in state.get("after", ())] if table.shape.key else []
    keys = list(table.shape.key)
    columns = list(table.shape.columns)
    fetched = [*columns, *(key for key in keys if key not in columns)]
    places = [fetched.index(key) for key in keys]
    limit = table.chunk if keys else None
    rows: Iterator[Sequence[Any]] = iter(())
    fresh = True
    while True:
        if fresh or keys:
            rows = table.database.rows(select(table.where, fetched, keys, after=after, limit=limit))
            fresh = False
        chunk = _Chunk(columns)
        for row in rows:
            chunk.add(row[: len(columns)])
            chunk.last = row
            if chunk.rows >= table.chunk:
                break
        if not chunk.rows:
            break
        number += 1
        if keys:
            after = [chunk.last[place] for place in places]
        file = _file(table, f"{number:06}", bytes(chunk.data))
        landed = ctx.seen(file.name)
        if landed is None or landed.sha256 != hashlib.sha256(chunk.data).hexdigest():
            before = {"chunk": number, "after": [kept(value) for value in after]}
            yield [file], before
        if chunk.rows < table.chunk:
            break
    # Chunks of a former, longer table: their rows are gone from it.
    prefix = f"{table.name}/"
    former = [name for name in ctx.names() if name.startswith(prefix) and name[len(prefix) :].isdigit()]
    beyond = sorted(name for name in former if int(name[len(prefix) :]) > number)
    emptied = [_file(table, name[len(prefix) :], b"") for name in beyond if _rows(ctx, name)]
    if emptied or before != {"complete": True}:
        yield emptied, {"complete": True}


def _rows(ctx: Reading, name: str) -> bool:
    landed = ctx.seen(name)
    return landed is not None and landed.bytes > 0


def _watermark(table: _Table, state: Mapping[str, Any] | None, ctx: Reading) -> Read:  # noqa: ARG001
    """Rows above the highest (watermark, key) so far; and the last stretch again, if it has changed.

    The stretch is what lies within `overlap` below the highest watermark, at least the rows that share it.
    A hash of its rows, kept in the position, tells whether late rows or changes have come: the position
    does not grow with rows. What lands twice is one row by its key.
    """
    mark = str(table.settings.watermark)
    columns = list(table.shape.columns)
    order = list(dict.fromkeys([mark, *table.shape.key]))
    fetched = [*columns, *(column for column in order if column not in columns)]
    places = [fetched.index(column) for column in order]
    stretch = _Stretch(table.settings.overlap)
    after: list[Any] = []
    least = None
    if state:
        after = [given(value) for value in state["after"]]
        least = (mark, earlier(after[0], table.settings.overlap))
        query = select(table.where, fetched, order, least=least, until=after)
        for row in table.database.rows(query):
            stretch.add(row[places[0]], line(columns, row[: len(columns)]))
        if stretch.hash() != state["stretch"]:
            after, stretch = [], _Stretch(table.settings.overlap)
        else:
            least = None
    while True:
        query = select(table.where, fetched, order, after=after, least=least, present=mark, limit=table.chunk)
        chunk = _Chunk(columns)
        for row in table.database.rows(query):
            stretch.add(row[places[0]], chunk.add(row[: len(columns)]))
            chunk.last = row
        if not chunk.rows:
            return
        after = [chunk.last[place] for place in places]
        data = bytes(chunk.data)
        name = f"{_word(after[0])}-{hashlib.sha256(data).hexdigest()[:20]}"
        yield [_file(table, name, data)], {"after": [kept(v) for v in after], "stretch": stretch.hash()}
        if chunk.rows < table.chunk:
            return


@dataclass
class _Stretch:
    """The rows within `overlap` below the highest watermark seen, as hashes."""

    overlap: float
    rows: deque[tuple[Any, bytes]] = field(default_factory=deque)

    def add(self, mark: Any, text: bytes) -> None:
        if not self.rows or mark != self.rows[-1][0]:
            least = earlier(mark, self.overlap)
            while self.rows and self.rows[0][0] < least:
                self.rows.popleft()
        self.rows.append((mark, hashlib.sha256(text).digest()))

    def hash(self) -> str:
        return hashlib.sha256(b"".join(digest for _, digest in self.rows)).hexdigest()


def _word(value: Any) -> str:
    return "".join(letter if letter.isalnum() or letter in "-+." else "_" for letter in str(value))[:40]


def _file(table: _Table, name: str, data: bytes) -> RawFile:
    full = f"{table.name}/{name}"
    how = How("jsonl", encoding="utf-8", empty="accept", truncated="accept", shrunk="accept")
    return RawFile(
        full,
        len(data),
        lambda: io.BytesIO(data),
        lambda: None,
        lambda: FileInspector(f"{full}.jsonl", how),
        {},
        table.name,
    )
