"""What of bronze is gone, and the base that stands for it: one exclusively created record per expiry.

The newest record is the whole truth: which objects are gone, and for each table the Parquet files that hold
what they had contributed to it. A rebuild is that base plus all of bronze that is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..core import DataFile, Landed, TableAt
from ..errors import Corrupt, Fenced
from .records import LandLog, seal, unseal
from .storage import Storage

FOLDER = "_headrace/expired"
DATA = "base"
"""The folder of the lake where the files of bases lie."""

How = Literal["base", "superseded"]


@dataclass(frozen=True, slots=True)
class Base:
    """What the expired objects of `streams` have left in one table, under the contract of `fingerprint`."""

    fingerprint: str
    streams: Sequence[str]
    keys: Sequence[str]
    partition_by: Sequence[str]
    outputs: Mapping[str, TableAt] = field(default_factory=dict)
    """Output table → its rows; an output without an entry has none."""
    accepts: Mapping[str, int] = field(default_factory=dict)
    """Land stream → epoch up to which a new version of an expired file is taken as new rows."""
    objects: int = 0
    """How many are in it; others of its streams have no part in the table (`start: now`, `replace`)."""

    def fits(self, fingerprint: str) -> bool:
        """True if the base holds nothing that other settings than its own would have made different."""
        return not self.objects or self.fingerprint == fingerprint

    def at(self, output: str) -> TableAt:
        return self.outputs.get(output, TableAt(output, -1, (), {}, tuple(self.partition_by)))


@dataclass(frozen=True, slots=True)
class Gone:
    """Of one land stream: every object up to epoch `upto` is gone, but for the keys in `kept`."""

    upto: int
    kept: Sequence[str]


@dataclass(frozen=True, slots=True)
class Expired:
    """All that is gone as of one expiry; number 0 is a lake from which nothing ever went."""

    number: int = 0
    time: str = ""
    gone: Mapping[str, Gone] = field(default_factory=dict)
    bases: Mapping[str, Base] = field(default_factory=dict)
    objects: Mapping[str, How] = field(default_factory=dict)
    """Bronze key → how it went, for those that this record took; earlier ones are in the records before."""
    writer: str = ""
    adopted: Mapping[str, str] = field(default_factory=dict)
    """Of a record by which somebody accepted a table's rows as they are: table, by and reason."""
    sha256: str = ""

    def lacks(self, stream: str, epoch: int, item: Landed) -> bool:
        """True if the object is gone, or will be as soon as it is deleted."""
        gone = self.gone.get(stream)
        return gone is not None and epoch <= gone.upto and not {item.key, *item.was} & set(gone.kept)

    def after(self, lands: Iterable[LandLog], going: Mapping[str, How]) -> dict[str, Gone]:
        """What is gone once the objects of `going` are, too."""
        found = dict(self.gone)
        for land in lands:
            objects = land.objects(-1, land.epoch)
            lost = {item.key for epoch, item in objects if self.lacks(land.stream, epoch, item)}
            lost |= {item.key for _, item in objects if item.key in going}
            upto = max((epoch for epoch, item in objects if item.key in lost), default=-1)
            kept = [item.key for epoch, item in objects if epoch <= upto and item.key not in lost]
            if upto >= 0:
                found[land.stream] = Gone(upto, kept)
        return found


def newest(storage: Storage) -> int:
    """The number of the newest expiry; 0 for none."""
    keys = storage.list(FOLDER)
    return int(keys[-1].rsplit("/", 1)[-1].removesuffix(".json")) if keys else 0


def expired(storage: Storage, number: int | None = None) -> Expired:
    """The record of one expiry, by default the newest; raises `Corrupt` where it is missing or changed."""
    number = newest(storage) if number is None else number
    if not number:
        return Expired()
    body, digest, _ = unseal(storage.read(_key(number)), _key(number))
    gone = {stream: Gone(**item) for stream, item in body.pop("gone").items()}
    bases = {table: _base(item, storage.root) for table, item in body.pop("bases").items()}
    return Expired(**body, gone=gone, bases=bases, sha256=digest)


def commit(storage: Storage, before: Expired, record: Expired) -> Expired:
    """Makes the expiry after `before` durable, or raises `Fenced` because another one came first.

    Only then may what it lists be deleted.
    """
    record = replace(record, number=before.number + 1, sha256="")
    body = asdict(record)
    del body["sha256"]
    body["bases"] = {table: _dumped(base, storage.root) for table, base in record.bases.items()}
    key = _key(record.number)
    if not storage.create(key, seal(body, before.sha256)):
        found = expired(storage, record.number)
        if found.writer != record.writer:
            raise Fenced(f"another expiry made {key} first", hint="nothing was deleted; run again")
        return found
    return expired(storage, record.number)


def ways(storage: Storage, upto: int) -> dict[str, How]:
    """Bronze key → how it went, over all expiries; raises `Corrupt` where one is missing or out of line."""
    found: dict[str, How] = {}
    digest = ""
    for number in range(1, upto + 1):
        body, own, before = unseal(storage.read(_key(number)), _key(number))
        if before != digest:
            raise Corrupt(
                f"record {_key(number)} does not follow the one before it", hint="restore both from a backup"
            )
        digest = own
        found.update(body["objects"])
    return found


def _key(number: int) -> str:
    return f"{FOLDER}/{number:012d}.json"


def _dumped(base: Base, root: Path) -> dict[str, Any]:
    dumped = asdict(base)
    for output in dumped["outputs"].values():
        output["columns"] = list(output["columns"].items())  # a record's objects are sorted; columns are not
        for file in output["files"]:
            file["path"] = Path(file["path"]).relative_to(root).as_posix()
    return dumped


def _base(body: dict[str, Any], root: Path) -> Base:
    outputs = {name: _table(item, root) for name, item in body.pop("outputs").items()}
    return Base(**body, outputs=outputs)


def _table(body: dict[str, Any], root: Path) -> TableAt:
    files = [DataFile(**{**file, "path": root / file["path"]}) for file in body.pop("files")]
    columns, partition_by = dict(body.pop("columns")), tuple(body.pop("partition_by"))
    return TableAt(**body, files=tuple(files), columns=columns, partition_by=partition_by)
