"""Files in folders, stores and servers: what is new or changed lands as it is, and nothing lands twice."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from ..core import Batch, Position, RawFile, Reading
from ..errors import ConfigError, Refused, TransientError
from .events import Taken, Watch
from .events import batches as told_batches
from .how import Envelope, How, Kind, OrRefuse
from .listing import LAKE, Entry, Place, base_of, listed
from .pickup import Judge, is_text, modified, note, raw, sha256
from .remote import Access, Opening, is_remote, parse
from .remote import opened as place_of
from .rising import Limits, batches

IGNORED = (".*", "*.tmp", "*.part", "*.partial", "*.crdownload", "~$*", "*.swp", "*.filepart", "*~")
OPEN = "give it the right to read there, or leave the folder out: name it under `ignore`, or narrow `path`"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Files(BaseModel):
    """New and changed files of a place land once each, whole and unaltered, in a fixed order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["files"] = "files"
    name: str
    root: Path
    path: Annotated[list[str], BeforeValidator(_listed)]
    """Globs relative to the project (`data/*.csv`, `in/**/*.json`), a file, or a folder with all in it; or
    URLs of these (`s3://bucket/orders/*.csv`, `sftp://host/in/*.csv`, `https://host/prices.csv`)."""
    access: Access = Field(default_factory=Access)
    """How a remote place is entered."""
    format: Kind = "auto"
    envelope: Envelope | None = None
    """The files are JSON lines of changes: Debezium's envelopes, or Headrace's own."""
    changed: Literal["version", "refuse", "ignore"] = "version"
    """A landed name with other content: lands as its new version, is reported, or is left alone."""
    vanished: Literal["ignore", "warn", "refuse"] = "ignore"
    """A landed name that is no longer there."""
    empty: OrRefuse = "refuse"
    """No bytes; or no rows, where the stream's other files have some."""
    truncated: OrRefuse = "refuse"
    shrunk: OrRefuse = "refuse"
    """A new version with far fewer rows than a former one of over 100 rows."""
    min_ratio: float = Field(0.1, ge=0, le=1)
    delimiter: str | None = Field(None, min_length=1, max_length=4)
    quote: str | None = Field(None, max_length=1)
    """"" means that nothing quotes."""
    encoding: str | None = None
    header: bool | list[str] | None = None
    """A list names the columns of files without a header line."""
    skip: int | None = Field(None, ge=0)
    """Lines before the header."""
    footer: int | None = Field(None, ge=0)
    """Lines at the end that are no data."""
    settle: float | None = Field(None, ge=0)
    """Seconds for which a file must have been left alone before it is taken; 10 for FTP and SFTP, else 0."""
    ignore: list[str] = Field(default_factory=lambda: list(IGNORED))
    """Names of files and folders that are not looked at."""
    follow_links: bool = False
    batch: int = Field(10_000, ge=1)
    """Most files in one commit."""
    batch_bytes: int = Field(1_000_000_000, ge=1)
    order: Literal["name", "mtime"] = "name"
    relist: float = Field(0.0, ge=0)
    """Hours between two full listings of a store, where names rise; in between only later names are seen.
    With `events`, 24 if it is not said."""
    events: str | None = None
    """The URL of the SQS queue that a bucket tells of its new objects; between full listings it is asked."""
    _places: dict[str, Place] = PrivateAttr(default_factory=dict)

    @field_validator("path")
    @classmethod
    def _some(cls, value: list[str]) -> list[str]:
        if not value or not all(part.strip() for part in value):
            raise ValueError("give at least one path, such as data/*.csv")
        try:
            for part in filter(is_remote, value):
                parse(part)
        except ConfigError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None
        return value

    @model_validator(mode="after")
    def _fits(self) -> Files:
        if self.events is not None:
            if not self.events.startswith(("https://", "http://")):
                raise ValueError(
                    "`events` is the URL of a queue: https://sqs.<region>.amazonaws.com/<account>/<name>"
                )
            if len(self.path) > 1 or not self.path[0].startswith("s3://"):
                raise ValueError("`events` goes with one path in a bucket, such as s3://bucket/in/*.csv")
            if self.vanished != "ignore" or self.order != "name" or self.settle:
                raise ValueError("`events` tells what is new: leave out `vanished`, `order` and `settle`")
            return self
        if self.relist and (len(self.path) > 1 or not self.path[0].startswith("s3://")):
            raise ValueError("`relist` goes with one path in an object store, such as s3://bucket/in/*.csv")
        if self.relist and (self.vanished != "ignore" or self.order != "name"):
            raise ValueError("`relist` does not list what is there: leave out `vanished` and `order`")
        return self

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        known = ("utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "windows-1252")
        aliases = {
            "utf8": "utf-8",
            "cp1252": "windows-1252",
            "latin-1": "windows-1252",
            "latin1": "windows-1252",
        }
        plain = value.strip().lower().replace("_", "-")
        plain = aliases.get(plain, plain)
        if plain not in known:
            raise ValueError(f"encoding `{value}` is not one of {', '.join(known)}")
        return plain

    @property
    def changes(self) -> bool:
        """Whether rows are changes, with deletes."""
        return self.envelope is not None

    def streams(self) -> Sequence[str]:
        """One stream: the set of files."""
        return [self.name]

    def read(self, stream: str, start: Position | None, ctx: Reading) -> Iterator[Batch | None]:
        """Yields what the ledger does not have yet, by name or by time; `None` when idle and following.

        The position is a constant: which files have landed is the ledger's to say, so that neither it nor a
        re-run without news grows. Files that may not land are noted on `ctx` and do not hold up the others.
        """
        if stream != self.name:
            raise ConfigError(f"source {self.name} has no stream {stream}", hint=f"its stream is {self.name}")
        offered: dict[str, object] = {}
        how, judge, taken = self._how(), Judge(ctx), Taken()
        with ExitStack() as held:
            held.callback(self._close)
            while True:
                idle = True
                told = self._told(start, ctx, taken) if self.events else self._batches(start, ctx, offered)
                for group, end in told:
                    idle = False
                    offered.update((entry.name, entry.signature) for entry in group)
                    files = [raw(entry, how, judge) for entry in group]
                    yield Batch([taken.watch(file) for file in files] if self.events else files, end)
                    start = end
                if not ctx.follow:
                    return
                if idle:
                    yield None

    def listing(self, ctx: Reading) -> list[RawFile]:
        """What `read` would offer now; of files that are new or may have changed nothing is read."""
        judge = Judge(ctx)
        with ExitStack() as held:
            held.callback(self._close)
            return [raw(entry, self._how(), judge) for entry in self._news(ctx)]

    @property
    def remote(self) -> bool:
        """Whether any of its files lie elsewhere than on this machine."""
        return any(is_remote(pattern) for pattern in self.path)

    def _batches(
        self, start: Position | None, ctx: Reading, offered: dict[str, object]
    ) -> Iterator[tuple[list[Entry], Position]]:
        def fresh(entry: Entry) -> bool:
            return offered.get(entry.name) != entry.signature

        if self.relist:
            yield from batches(
                lambda after: self._elsewhere(self.path[0], [], ctx, after),
                lambda entry: self._wanted(entry, ctx) and fresh(entry),
                ctx,
                start,
                Limits(self.batch, self.batch_bytes, self.relist),
            )
            return
        end: Position = dict(start) if start else {"files": "ledger"}
        yield from ((group, end) for group in self._groups(filter(fresh, self._news(ctx))))

    def _told(
        self, start: Position | None, ctx: Reading, taken: Taken
    ) -> Iterator[tuple[list[Entry], Position]]:
        from . import remote_s3, remote_sqs  # their library is an extra

        at, path = parse(self.path[0])
        opening = Opening(at, self.access, self.ignore, self.root)
        with (
            closing(remote_s3.place(opening)) as place,
            closing(remote_sqs.Queue(opening, str(self.events))) as queue,
        ):
            watch = Watch(
                queue=queue,
                bucket=at.host,
                chosen=place.chosen(path),
                name=place.name,
                now=place.now,
                seen=ctx.seen,
                wanted=lambda entry: self._wanted(entry, ctx),
                tell=lambda kind, name, message: note(ctx, kind, name, message),
                taken=taken,
            )
            limits = (self.batch, self.batch_bytes, self.relist)
            yield from told_batches(watch, lambda: self._groups(self._news(ctx)), start, limits)

    def _news(self, ctx: Reading) -> Iterator[Entry]:
        """Listed files that are not known to be unchanged, in their order."""
        closed: list[str] = []
        found = self._entries(ctx, closed)
        if self.vanished != "ignore":
            found = list(found)
            self._check_vanished({entry.name for entry in found}, closed, ctx)
        return (entry for entry in found if self._wanted(entry, ctx))

    def _entries(self, ctx: Reading, closed: list[str]) -> Iterable[Entry]:
        """All files that are there; of folders below that may not be read, only their names, in `closed`.

        In their order. Those of stores come as they are listed, without being held in memory.
        """
        near: dict[str, Entry] = {}
        for pattern in self.path:
            if not is_remote(pattern):
                near.update((entry.name, entry) for entry in self._here(pattern, closed, ctx))
        far = [self._elsewhere(pattern, closed, ctx) for pattern in self.path if is_remote(pattern)]
        if self.order == "mtime":
            return sorted([*near.values(), *chain(*far)], key=lambda entry: (modified(entry), entry.name))
        here = sorted(near.values(), key=lambda entry: entry.name)
        return heapq.merge(here, *far, key=lambda entry: entry.name) if far else here

    def _here(self, pattern: str, closed: list[str], ctx: Reading) -> list[Entry]:
        def refuse(folder: str) -> None:
            if folder not in closed:
                closed.append(folder)
                note(ctx, "refused", folder, f"{folder} may not be read by this user\nhint: {OPEN}")

        links = self.follow_links
        try:
            found = list(listed(self.root, pattern, self.ignore, follow_links=links, closed=refuse))
        except FileNotFoundError:
            raise self._missing(str(base_of(self.root, pattern)), pattern, ctx) from None
        except PermissionError as error:
            path = str(error.filename).removesuffix(f"/{LAKE}")  # what it looks for in every folder
            said = f"source {self.name}: {path} may not be read by this user"
            raise ConfigError(said, hint=OPEN) from error
        if not found and not ctx.names():
            note(ctx, "ignored", pattern, f"{self.name}: `{pattern}` matches no file")
        return found

    def _elsewhere(self, pattern: str, closed: list[str], ctx: Reading, after: str = "") -> Iterator[Entry]:
        at, path = parse(pattern)
        key = f"{at.base} {at.user}"
        if key not in self._places:
            self._places[key] = place_of(Opening(at, self.access, self.ignore, self.root))
        none = True
        try:
            for entry in self._places[key].entries(path, after):
                none = False
                if entry.unfit:
                    closed.append(entry.name)
                    note(ctx, "refused", entry.name, f"{entry.name} {entry.unfit}")
                yield entry
        except FileNotFoundError:
            raise self._missing(at.base + path, pattern, ctx) from None
        if none and not after and not ctx.names():
            note(ctx, "ignored", pattern, f"{self.name}: `{pattern}` matches no file")

    def _close(self) -> None:
        while self._places:
            self._places.popitem()[1].close()

    def _missing(self, folder: str, pattern: str, ctx: Reading) -> ConfigError | TransientError:
        if ctx.names():
            return TransientError(
                f"source {self.name}: the folder {folder} is gone",
                hint="files have landed from it before: is it a mount that is not there now?",
            )
        return ConfigError(
            f"source {self.name}: the folder {folder} does not exist",
            hint=f"create it, or correct `path: {pattern}` (relative to {self.root})",
        )

    def _check_vanished(self, present: set[str], closed: Sequence[str], ctx: Reading) -> None:
        hidden = tuple(f"{folder}/" for folder in closed)
        gone = sorted(name for name in ctx.names() if name not in present and not name.startswith(hidden))
        for name in gone:
            note(ctx, "vanished", name, f"{name} has landed and is no longer there")
        if gone and self.vanished == "refuse":
            raise Refused(
                f"source {self.name}: {len(gone)} landed files are gone, such as {gone[0]}",
                hint="put them back, or set `vanished: warn` on this source",
            )

    def _wanted(self, entry: Entry, ctx: Reading) -> bool:
        if not is_text(entry.name):
            shown = entry.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            hint = "hint: rename the file: records and tables hold text only"
            note(ctx, "refused", shown, f"{shown} is no UTF-8 name\n{hint}")
            return False
        if entry.escapes and not self.follow_links:
            note(ctx, "refused", entry.name, f"{entry.name} is a link that leads out of its folder")
            return False
        if entry.unfit:
            return False
        before = ctx.seen(entry.name)
        if before is not None and dict(before.signature) == entry.signature:
            return False
        settle = self.settle
        if settle is None:
            settle = entry.place.settle if entry.place else 0.0
        if settle and time.time() - entry.changed_at < settle:
            note(ctx, "unstable", entry.name, f"{entry.name} changed less than {settle:g} s ago")
            return False
        if before is None or self.changed == "version":
            # The lander hashes what it copies, drops equal content, and remembers the new signature.
            return True
        if entry.size == before.bytes and sha256(entry) == before.sha256:
            return True
        if self.changed == "refuse":
            note(
                ctx,
                "refused",
                entry.name,
                f"{entry.name} has landed with other content\n"
                "hint: deliver it under a new name, or set `changed: version` on this source",
            )
        else:
            message = f"{self.name}: {entry.name} has landed with other content; it is left alone"
            note(ctx, "ignored", entry.name, message)
        return False

    def _groups(self, entries: Iterable[Entry]) -> Iterator[list[Entry]]:
        group: dict[str, Entry] = {}
        size = 0
        for entry in entries:
            if group and (len(group) >= self.batch or size + entry.size > self.batch_bytes):
                yield list(group.values())
                group, size = {}, 0
            group[entry.name] = entry  # two globs may mean the same file
            size += entry.size
        if group:
            yield list(group.values())

    def _how(self) -> How:
        return How(
            format="jsonl" if self.envelope and self.format == "auto" else self.format,
            delimiter=self.delimiter,
            quote=self.quote,
            encoding=self.encoding,
            header=tuple(self.header) if isinstance(self.header, list) else self.header,
            skip=self.skip,
            footer=self.footer,
            empty=self.empty,
            truncated=self.truncated,
            shrunk=self.shrunk,
            min_ratio=self.min_ratio,
            envelope=self.envelope,
        )
