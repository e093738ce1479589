"""Inspects text as it streams by: encoding, newlines, quotes, and then what kind of text it is."""

from __future__ import annotations

import codecs
import re
from typing import Literal

from ..errors import Refused
from . import texts
from .dialect import Dialect, Given, sniff
from .how import Found, How

SAMPLE = 256 * 1024
TAIL = 128 * 1024
_PAIR = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")
"""In every line that is UTF-8 and not ASCII; rare in Windows-1252."""

TextKind = Literal["csv", "jsonl", "json", "text"]


class TextScan:
    """Counts what the whole file holds; decides dialect and kind on its first 256 KB.

    ASCII passes at memory speed: nothing is done per line. Other text costs one decoding, and only text
    that is not UTF-8 is looked at line by line.
    """

    def __init__(self, how: How, kind: TextKind | None) -> None:
        self.how = how
        self.kind = kind
        self.sample = bytearray()
        self.tail = b""
        self.size = 0
        self.newlines = 0
        self.returns = 0
        self.quotes = 0
        self.nul = False
        self.complete = True
        """The sample holds the whole text."""
        self.dialect: Dialect | None = None
        self._encoding = ""
        self._wide: codecs.IncrementalDecoder | None = None
        self._strict: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
        self._line = b""
        self._good = self._bad = False
        """Some text beyond ASCII is, or is not, UTF-8."""
        self._begun = False
        self._cut_character = False
        self._proper: re.Pattern[bytes] | None = None

    def feed(self, data: bytes) -> None:
        if self._begun:
            self._count(self._plain(data))
            return
        self.sample += data
        if len(self.sample) >= SAMPLE:
            self._begin(complete=False)

    def finish(self) -> Found:
        if not self._begun:
            self._begin(complete=True)
        self._end_of_characters()
        if self.kind == "csv":
            return texts.csv_found(self)
        if self.kind == "jsonl":
            return texts.jsonl_found(self)
        if self.kind == "json":
            return texts.json_found(self)
        return texts.text_found(self)

    @property
    def newline(self) -> str:
        if self.newlines == 0 and self.returns:
            return "\r"
        return "\r\n" if 2 * self.returns > self.newlines else "\n"

    @property
    def final_newline(self) -> bool:
        return self.tail.endswith((b"\n", b"\r"))

    @property
    def lines(self) -> int:
        """Physical lines; a last one without newline counts."""
        ended = self.returns if self.newline == "\r" else self.newlines
        return ended + (self.size > 0 and not self.final_newline)

    @property
    def cut_character(self) -> bool:
        return self._cut_character

    @property
    def encoding(self) -> str:
        if self.how.encoding or self._wide or self._encoding == "utf-8-sig":
            return self._encoding
        if not self._bad:
            return "utf-8"
        return "mixed" if self._good else "windows-1252"

    def decode(self, data: bytes) -> str:
        """Text of a part of the (already narrowed) bytes; never raises."""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            known = self.how.encoding
            name = known if known and not known.lower().startswith("utf") else "windows-1252"
            return data.decode(name, "replace")

    def _begin(self, *, complete: bool) -> None:
        self._begun = True
        self.complete = complete
        raw = bytes(self.sample)
        self._encoding, marker = _encoding_of(raw, self.how.encoding)
        if self._encoding.startswith("utf-16"):
            self._wide = codecs.getincrementaldecoder(self._encoding)(errors="replace")
        elif self._encoding == "binary":
            raise Refused(
                "this is not text: it has too many control bytes",
                hint="set `format` if it is of a known type, or narrow `path`",
            )
        plain = self._plain(raw[marker:])
        self.sample = bytearray(plain)
        text = self.decode(plain)
        newline = "\r" if "\r" in text and "\n" not in text else "\n"
        if self.kind is None:
            self.kind = texts.kind_of(text)
        if self.kind == "csv":
            how = self.how
            given = Given(
                delimiter=how.delimiter,
                quote=how.quote,
                header=how.header if isinstance(how.header, bool) else (False if how.header else None),
                skip=how.skip,
            )
            self.dialect = sniff(text, newline, complete=complete, given=given)
            if self.how.quote is None and not self.dialect.row_end:
                edge = re.escape(self.dialect.delimiter.encode())
                pattern = rb'(?:^|%b)"(?:[^"\n]|"")*"(?=%b|\r?$)' % (edge, edge)
                self._proper = re.compile(pattern, re.M)
        self._count(plain)

    def _plain(self, data: bytes) -> bytes:
        """The bytes as they are, or UTF-16 as UTF-8."""
        return self._wide.decode(data).encode("utf-8", "surrogatepass") if self._wide else data

    def _count(self, data: bytes) -> None:
        self.size += len(data)
        self.newlines += data.count(b"\n")
        if b"\r" in data:
            self.returns += data.count(b"\r")
        if not self.nul:
            self.nul = b"\0" in data
        self.tail = data[-TAIL:] if len(data) >= TAIL else (self.tail + data)[-TAIL:]
        if self.dialect:
            self._count_quotes(data, self.dialect)
        if not self._wide and not (self.how.encoding and not self.how.encoding.startswith("utf-8")):
            self._check_utf8(data)

    def _count_quotes(self, data: bytes, dialect: Dialect) -> None:
        quote = (dialect.quote or '"').encode()
        if quote not in data:
            return
        first = self.quotes == 0
        self.quotes += data.count(quote)
        if dialect.escape == "\\":
            self.quotes -= data.count(b"\\" + quote)
        if self._proper is None:
            return
        # The sample may have had no quote, or stray ones: what quotes is what encloses a field somewhere.
        proper = self._proper.search(data) is not None
        if proper and dialect.quote != "'":
            self.dialect = _requoted(dialect, '"')
            self._proper = None
        elif first and dialect.quote == '"' and not self._opening(data, dialect):
            self.dialect = _requoted(dialect, None)

    def _opening(self, data: bytes, dialect: Dialect) -> bool:
        edge = re.escape(dialect.delimiter.encode())
        return dialect.delimiter in ",;" and re.search(rb'(?:^|%b) ?"' % edge, data, re.M) is not None

    def _check_utf8(self, data: bytes) -> None:
        if self._strict is not None:
            pending = self._strict.getstate()[0]
            if not pending and data.isascii():
                return
            try:
                if not self._strict.decode(data).isascii():
                    self._good = True
                return
            except UnicodeDecodeError:
                self._strict = None
                self._bad = True
                data = pending + data
        if self._good:
            return
        data = self._line + data
        end = data.rfind(b"\n") + 1
        self._line = data[max(end, len(data) - SAMPLE) :]
        self._good = _valid_line(data[:end])

    def _end_of_characters(self) -> None:
        if self._wide:
            self._cut_character = bool(self._wide.getstate()[0])
        elif self._strict is not None:
            # Where nothing else is UTF-8, an odd last byte is Windows-1252 and not half a character.
            half = bool(self._strict.getstate()[0])
            self._cut_character = half and bool(self._good or self.how.encoding)
            self._bad = half and not self._cut_character
        elif not self._good:
            self._good = _valid_line(self._line)


def _valid_line(data: bytes) -> bool:
    """Whether some line is UTF-8 beyond ASCII."""
    at = 0
    while match := _PAIR.search(data, at):
        end = data.find(b"\n", match.end())
        end = len(data) if end < 0 else end
        try:
            data[data.rfind(b"\n", at, match.start()) + 1 or at : end].decode("utf-8")
            return True
        except UnicodeDecodeError:
            at = end
    return False


def _requoted(dialect: Dialect, quote: str | None) -> Dialect:
    values = {name: getattr(dialect, name) for name in Dialect.__slots__}
    escape = dialect.escape if quote and dialect.escape else quote
    return Dialect(**{**values, "quote": quote, "escape": escape})


def _encoding_of(raw: bytes, given: str | None) -> tuple[str, int]:
    """(encoding, bytes of its mark) of a text that starts with `raw`."""
    if raw.startswith(codecs.BOM_UTF8):
        return "utf-8-sig", 3
    for mark, name in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if raw.startswith(mark):
            return name, 2
    if given:
        return given, 0
    sample = raw[:65536]
    if b"\0" in sample:
        even, odd = sample[::2].count(b"\0"), sample[1::2].count(b"\0")
        half = max(len(sample) // 2, 1)
        if odd > 0.4 * half and even < 0.1 * half:
            return "utf-16-le", 0
        if even > 0.4 * half and odd < 0.1 * half:
            return "utf-16-be", 0
    controls = len(sample) - len(sample.translate(None, bytes([*range(1, 9), *range(14, 28), 127])))
    if len(sample) > 64 and controls > 0.1 * len(sample):
        return "binary", 0
    return "utf-8", 0
