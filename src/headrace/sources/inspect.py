"""Inspects a file while it is copied: what it is, and whether it may land at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core import Landed
from ..errors import Refused
from .columnar import AvroScan, ExcelScan, ParquetScan
from .how import Found, How, Kind, Scan
from .text import TextKind, TextScan
from .unpack import Unpack, packed, unpacker

_HEAD = 512
_OFFICE = ("[Content_Types].xml", "_rels/", "docProps/", "xl/", "word/", "ppt/")
_BY_NAME: Mapping[str, Kind] = {
    "csv": "csv",
    "tsv": "csv",
    "tab": "csv",
    "psv": "csv",
    "tbl": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "avro": "avro",
    "xlsx": "xlsx",
    "log": "text",
}


_PGP = ("pgp", "gpg")
_PACKETS = (b"\x84", b"\x85", b"\x8c", b"\xa3", b"\xc1", b"\xc3", b"\xd2")
"""With which a PGP message begins: session keys by public key or passphrase, compressed or encrypted data."""


@dataclass(frozen=True, slots=True)
class Past:
    """What the stream holds already, to judge a new file by."""

    previous: Landed | None = None
    """The newest landed version of the same name."""
    rows_usual: Callable[[], bool] = bool
    """Whether the stream's other files have rows."""
    report_rows: Callable[[], None] = lambda: None
    """Called when this file has rows."""


class FileInspector:
    """Sees each byte once; `result` tells the format, or raises `Refused` if the file must not land."""

    def __init__(self, name: str, how: How | None = None, past: Past | None = None) -> None:
        self.name = name
        self.how = how or How()
        self.past = past or Past()
        self._size = 0
        self._head = b""
        self._unpack: Unpack | None = None
        self._compression: str | None = None
        self._inner = b""
        self._scan: Scan | None = None
        self._excel: ExcelScan | None = None
        self._member: str | None = None
        self._started = False

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes. Raises `Refused` as soon as the file is surely unfit."""
        self._size += len(chunk)
        try:
            if self._started:
                self._pass(chunk)
                return
            self._head += chunk
            if len(self._head) >= _HEAD:
                self._start()
        except Refused as error:
            raise self._named(error) from None

    def _named(self, error: Refused) -> Refused:
        """Every message starts with the file's name."""
        if error.message.startswith(f"{self.name}: "):
            return error
        return Refused(f"{self.name}: {error.message}", hint=error.hint)

    def result(self) -> Mapping[str, Any]:
        """The detected format. Raises `Refused` for empty, cut, shrunk or unreadable files, by policy."""
        if not self._size:
            return self._empty()
        try:
            if not self._started:
                self._start()
            cut = self._unpack.finish() if self._unpack else None
            if cut and self.how.truncated == "refuse":
                raise self._refused(cut, "truncated")
            if self._excel is None and self._scan is None:
                self._open(self._inner)
            scan = self._excel or self._scan
            return self._judged(scan.finish()) if scan else self._empty()
        except Refused as error:
            raise self._named(error) from None

    def _start(self) -> None:
        self._started = True
        self._compression = None if self.how.format in ("parquet", "avro") else packed(self._head)
        if self._compression:
            self._unpack = unpacker(self._compression)
        head, self._head = self._head, b""
        self._pass(head)

    def _pass(self, chunk: bytes) -> None:
        if self._unpack is None:
            self._content(chunk)
            return
        for member, plain in self._unpack.feed(chunk):
            self._packed_content(member, plain)

    def _packed_content(self, member: str, plain: bytes) -> None:
        if member.startswith(("__MACOSX/", ".")) or "/." in member:
            return
        if self._excel is None and member.startswith(
            ("[Content_Types].xml", "_rels/", "docProps/", *_OFFICE)
        ):
            if self._member is not None:
                raise self._several(member)
            self._excel = ExcelScan()
        if self._excel:
            self._excel.member(member, plain)
            return
        if self._member is None:
            self._member = member
        elif member != self._member:
            raise self._several(member)
        self._content(plain)

    def _several(self, member: str) -> Refused:
        return Refused(
            f"the zip file has several members ({self._member}, {member})",
            hint="deliver one file per archive, or unpack it and use a glob",
        )

    def _content(self, data: bytes) -> None:
        if self._scan is not None:
            self._scan.feed(data)
            return
        self._inner += data
        if len(self._inner) >= _HEAD:
            self._open(self._inner)

    def _open(self, head: bytes) -> None:
        """Chooses the scan by the content's first bytes, then by the name."""
        if not head:
            return
        self._scan = self._scan_for(head)
        self._scan.feed(head)
        self._inner = b""

    def _scan_for(self, head: bytes) -> Scan:
        wanted = self.how.format
        named = _BY_NAME.get(self._suffix())
        if head[257:262] == b"ustar":
            raise Refused("it is a tar archive", hint="unpack it, and give the files in it by a glob")
        if head.startswith(b"-----BEGIN PGP MESSAGE") or (self._suffix() in _PGP and head[:1] in _PACKETS):
            raise Refused("it is encrypted by PGP", hint="decrypt it before it is delivered")
        magic = "parquet" if head[:4] in (b"PAR1", b"PARE") else "avro" if head[:4] == b"Obj\x01" else None
        kind = wanted if wanted != "auto" else magic or named
        if kind == "parquet":
            if magic != "parquet":
                raise Refused("it is not a Parquet file", hint="set `format`, or narrow `path`")
            return ParquetScan()
        if kind == "avro":
            if magic != "avro":
                raise Refused("it is not an Avro file", hint="set `format`, or narrow `path`")
            return AvroScan()
        if kind == "xlsx":
            raise Refused("it is not an Excel workbook (.xlsx)", hint="save it as .xlsx or CSV")
        if kind == "text":
            return TextScan(_lines(self.how), "csv")
        known: dict[str | None, TextKind] = {"csv": "csv", "jsonl": "jsonl", "json": "json"}
        return TextScan(self.how, known.get(kind))

    def _suffix(self) -> str:
        parts = (self._member or self.name).lower().rsplit("/", 1)[-1].split(".")
        while len(parts) > 1 and parts[-1] in ("gz", "gzip", "zst", "zstd", "zip"):
            parts.pop()
        return parts[-1] if len(parts) > 1 else ""

    def _empty(self) -> Mapping[str, Any]:
        if self.how.empty == "refuse":
            raise self._refused("it is empty" if not self._size else "it is empty: it holds no data", "empty")
        return {"type": "empty", "compression": self._compression, "lines": 0, "rows": 0}

    def _judged(self, found: Found) -> Mapping[str, Any]:
        # A workbook is a zip archive, and is read as one: nothing is to be unpacked before.
        facts = {**found.format, "compression": None if found.format["type"] == "xlsx" else self._compression}
        if self.how.envelope and facts["type"] != "jsonl":
            hint = f"`envelope: {self.how.envelope}` is for files of JSON lines, one change in each"
            raise Refused("it is not JSON lines", hint=hint)
        if self._compression == "zip" and self._member:
            facts["member"] = self._member
        if found.cut and self.how.truncated == "refuse":
            raise self._refused(found.cut, "truncated")
        if found.empty and self.how.empty == "refuse":
            if _blank(facts):
                return self._empty()
            if _had_rows(self.past.previous) or self.past.rows_usual():
                raise self._refused("it has no rows, where this stream's files usually have some", "empty")
        self._check_shrunk(facts)
        if not found.empty:
            self.past.report_rows()
        return facts

    def _check_shrunk(self, facts: Mapping[str, Any]) -> None:
        before = _size_of(self.past.previous.format) if self.past.previous else None
        now = _size_of(facts)
        if self.how.shrunk != "refuse" or before is None or now is None or before <= 100:
            return
        if now < self.how.min_ratio * before:
            raise self._refused(f"it shrank from {before:,} to {now:,} rows", "shrunk")

    def _refused(self, why: str, policy: str) -> Refused:
        return Refused(
            f"{self.name}: {why}",
            hint=f"ask the sender for a whole file, or set `{policy}: accept` on this source",
        )


def _lines(how: How) -> How:
    """Plain text is a table of one column, `line`, cut by a sign that text does not hold."""
    names = how.header if isinstance(how.header, tuple) else ("line",)
    return replace(how, delimiter="\x1f", quote="", header=names, skip=how.skip or 0, footer=how.footer or 0)


def _blank(facts: Mapping[str, Any]) -> bool:
    """Not even a header or an empty list: nothing but white space."""
    if facts["type"] == "json":
        return facts.get("rows") is None
    return facts["type"] in ("csv", "jsonl") and facts.get("header") is None


def has_rows(landed: Landed) -> bool:
    """Whether a landed file surely held at least one record."""
    if landed.rows is not None:
        return landed.rows > 0
    rows = landed.format.get("rows")
    if rows is not None:
        return bool(rows > 0)
    lines = int(landed.format.get("lines") or 0)
    return lines > int(landed.format.get("skip") or 0) + (landed.format.get("header") is not None)


def _had_rows(landed: Landed | None) -> bool:
    return landed is not None and has_rows(landed)


def _size_of(facts: Mapping[str, Any]) -> int | None:
    """Records, or lines where those were not counted."""
    rows = facts.get("rows")
    return int(rows) if rows is not None else (int(facts["lines"]) if facts.get("lines") else None)
