"""Inspects text as it streams by: encoding, newlines, quotes, and what kind of text it is."""

from __future__ import annotations

import codecs
import re
from collections import deque
from io import BytesIO
from typing import Literal

from ..errors import Refused
from . import texts
from .dialect import Dialect, Given, sniff
from .how import Found, How

SAMPLE = 256 * 1024
TAIL = 128 * 1024
SPARSE = 100
"""Bytes of a line from which on newlines are looked for, not counted."""
_PAIR = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")
"""In every line that is UTF-8 and not ASCII; rare in Windows-1252."""

TextKind = Literal["csv", "jsonl", "json"]


class TextScan:
    """Counts what the whole file holds; decides dialect and kind on its first 256 KB.

    ASCII passes at memory speed: nothing is done per line. Other text costs one decoding, and only text
    that is not UTF-8 is looked at line by line.
    """

    def __init__(self, how: How, kind: TextKind | None) -> None:
        self.how = how
        self.kind = kind
        self.sample = bytearray()
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
        self._last: deque[bytes] = deque()
        """The newest chunks, as many as hold the tail: to cut it out of each costs as much as counting."""
        self._held = 0
        """Bytes of these."""
        self._edge = b""
        """The last eight bytes."""
        self._line = b""
        self._good = self._bad = False
        """Some text beyond ASCII is, or is not, UTF-8."""
        self._begun = False
        self._cut_character = False
        self._opens = self._closes = 0
        """Quotes right behind, and right before, a delimiter or a line's end."""

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
            self._settle_quote()
            return texts.csv_found(self)
        if self.kind == "jsonl":
            return texts.jsonl_found(self)
        return texts.json_found(self)

    @property
    def tail(self) -> bytes:
        """The last 128 KB, or all if there is less."""
        return b"".join(self._last)[-TAIL:]

    @property
    def newline(self) -> str:
        if self.newlines == 0 and self.returns:
            return "\r"
        return "\r\n" if 2 * self.returns > self.newlines else "\n"

    @property
    def final_newline(self) -> bool:
        return self._edge.endswith(b"\r" if self.newline == "\r" else b"\n")

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
        if self.kind is None:
            self.kind = texts.kind_of(self.decode(plain))
        if self.kind == "csv":
            self.dialect = self._sniffed(self.how.quote)
        self._count(plain)

    def _plain(self, data: bytes) -> bytes:
        """The bytes as they are, or UTF-16 as UTF-8."""
        return self._wide.decode(data).encode("utf-8", "surrogatepass") if self._wide else data

    def _count(self, data: bytes) -> None:
        self.size += len(data)
        self.newlines += _newlines(data, sparse=self.newlines * SPARSE < self.size)
        if b"\r" in data:
            self.returns += data.count(b"\r")
        if not self.nul:
            self.nul = b"\0" in data
        before = self._edge or b"\n"
        self._edge = data[-8:] if len(data) >= 8 else (self._edge + data)[-8:]
        self._last.append(data)
        self._held += len(data)
        while self._held - len(self._last[0]) >= TAIL:
            self._held -= len(self._last.popleft())
        if self.dialect:
            self._count_quotes(before, data, self.dialect)
        if not self._wide and not (self.how.encoding and not self.how.encoding.startswith("utf-8")):
            self._check_utf8(data)

    def _sniffed(self, quote: str | None) -> Dialect:
        how = self.how
        header = how.header if isinstance(how.header, bool) else (False if how.header else None)
        text = self.decode(bytes(self.sample))
        newline = "\r" if "\r" in text and "\n" not in text else "\n"
        given = Given(delimiter=how.delimiter, quote=quote, header=header, skip=how.skip)
        return sniff(text, newline, complete=self.complete, given=given)

    def _count_quotes(self, before: bytes, data: bytes, dialect: Dialect) -> None:
        quote = (dialect.quote or '"').encode()
        if quote not in data and quote not in before[-4:]:
            return

        def count(sign: bytes) -> int:
            # What a chunk's edge cuts in two is counted with the second part.
            return (before[1 - len(sign) :] + data).count(sign)

        self.quotes += data.count(quote)
        if dialect.escape == "\\":
            self.quotes -= count(b"\\" + quote)
        mark = dialect.delimiter.encode()
        if dialect.delimiter not in ",;":
            self._opens += count(mark + quote) + count(b"\n" + quote)
            self._closes += sum(count(quote + end) for end in (mark, b"\n", b"\r"))
        elif not self._opens:
            # Where quoting is the custom, one opening settles it.
            starts = (mark + quote, mark + b" " + quote, b"\n" + quote, b"\r" + quote)
            self._opens = int(any(count(sign) for sign in starts))

    def _settle_quote(self) -> None:
        """The sample may not have shown whether quotes enclose fields or are part of them; the file has."""
        found = self.dialect
        if found is None or found.row_end or found.quote == "'" or self.how.quote is not None:
            return
        if self.quotes:
            closes = self._closes + self._edge.endswith(b'"')
            encloses = self._opens > 0 and (found.delimiter in ",;" or closes >= 0.7 * self._opens)
            if encloses != (found.quote is not None):
                self.dialect = self._sniffed('"' if encloses else "")

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


def _newlines(data: bytes, *, sparse: bool) -> int:
    """How many there are; where they are sparse, looking for each takes a third of the time of counting."""
    if not sparse or not data:
        return data.count(b"\n")
    return len(BytesIO(data).readlines()) - (not data.endswith(b"\n"))


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
