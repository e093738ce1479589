"""JSON, one object per line or many in a document: every value becomes the text that stands in the source.

DuckDB extracts; it reads numbers as doubles, so a number with a fraction or exponent is taken from the source
text instead. What that cannot settle beyond doubt, and whatever is not plainly valid, is judged by
`strict`, record by record.
"""

from __future__ import annotations

import codecs
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, BinaryIO

from ..normalise import is_plain
from ..raw import BLOCK, BROKEN, as_text, bare, line_end, lines, open_plain, raw_lines
from .extract import GOOD, extraction
from .lines import line_at, place
from .pages import TOGETHER, laid_out
from .parts import Part, Stage, StagedFile, Wanted, ident, text
from .read import FAILED, LINES, Reading, load
from .slow import UNREADABLE, Numbered, decoded
from .strict import MALFORMED, Broken, Path, Paths, Text, documents, fold, is_text, judge, keys_of

ARRAY_FROM = 1 << 20  # a smaller document is not worth a second reader
OBJECT = 64 << 20  # bytes of one element of an array
ByHand = Callable[[Stage, StagedFile, Paths], None]
KEPT = 1 << 20  # characters of what follows a break in a document that its reject keeps


def paths(wanted: Wanted, forms: Iterable[Mapping[str, Any]]) -> Paths:
    """Per staged column the paths to try, in order; a top-level key matches in the case the contract says."""
    known = list(
        dict.fromkeys(str(key) for form in forms for key in form.get("keys") or () if is_text(str(key)))
    )

    def variants(name: str) -> Iterator[Path]:
        if "." in name and name in known:
            yield (name,)
        head, *rest = name.split(".")
        yield (head, *rest)
        if wanted.case == "ignore":
            yield from ((key,) for key in known if "." in name and fold(key) == fold(name))
            yield from ((key, *rest) for key in known if fold(key) == fold(head))

    columns = [
        list(dict.fromkeys(v for name in (accepted or [column]) for v in variants(name)))
        for column, accepted in wanted.columns.items()
    ]
    columns += [[(name,)] for name in wanted.names if name not in wanted.columns]
    flat = {place: name for place, name in enumerate(wanted.names) if name in wanted.flat}
    roots = [path[0] for column in columns for path in column]
    folds = {fold(root): root for root in reversed(roots)} if wanted.case == "ignore" else {}
    clear = len(folds) == len(set(roots))
    plain = [*dict.fromkeys(roots), *(key for key in known if fold(key) not in folds)] if clear else []
    return Paths(
        columns,
        wanted.contract,
        wanted.on_new == "quarantine",
        wanted.on_missing == "quarantine",
        flat,
        folds,
        plain,
    )


def stage_jsonl(stage: Stage, files: Sequence[StagedFile], wanted: Paths | None = None) -> None:
    """Stages files of one object per line; blank lines are no records."""
    wanted = wanted or paths(stage.wanted, (f.form for f in files))
    groups: dict[tuple[Any, ...], list[Reading]] = {}
    for file in files:
        if is_plain(file.form):
            reading = Reading(file, file.path, file.form)
            groups.setdefault((file.form.get("compression"),), []).append(reading)
        else:
            _judge_lines(stage, file, wanted)
    for group in groups.values():
        _read_lines(stage, group, wanted)


def stage_json(stage: Stage, files: Sequence[StagedFile]) -> None:
    """Stages documents: an array of objects, one object, or one that holds the records under one key."""
    wanted = paths(stage.wanted, (f.form for f in files))
    pages: list[Reading] = []
    for file in files:
        if page := laid_out(stage, file):
            pages.append(page)
            if len(pages) == TOGETHER:
                _read_pages(stage, pages, wanted)
                pages = []
            continue
        plain = is_plain(file.form) and file.form.get("compression") is None and not file.form.get("records")
        if not (plain and file.landed.bytes >= ARRAY_FROM and _read_array(stage, file, wanted)):
            _judge_document(stage, file, wanted)
    if pages:
        _read_pages(stage, pages, wanted)


def _read_pages(stage: Stage, pages: list[Reading], wanted: Paths) -> None:
    _read_lines(stage, pages, wanted, _judge_document)
    for page in pages:
        page.path.unlink()


def _read_lines(stage: Stage, group: list[Reading], wanted: Paths, by_hand: ByHand | None = None) -> None:
    """Reads a record a line; `by_hand` takes the files for which that does not add up."""
    slowly = by_hand or _judge_lines
    part = Part(stage.table("json"), [r.file for r in group], delta=[0] * len(group))
    part.paths = [str(r.path) for r in group]
    part.carried += ["_k", "_j", *(["_f"] if len(group) > 1 else [])]
    options = f"{LINES}, compression={text(str(group[0].form.get('compression') or 'none'))}"
    query = extraction(wanted, "coalesce(c0, '')", len(group) > 1, _usual(group[0], wanted))
    try:
        load(stage, part, group, query, options)
    except FAILED:
        stage.drop(part)
        if len(group) == 1:
            slowly(stage, group[0].file, wanted)
            return
        for half in (group[: len(group) // 2], group[len(group) // 2 :]):
            _read_lines(stage, [Reading(r.file, r.path, r.form) for r in half], wanted, by_hand)
        return
    doubtful = _doubtful(stage, part, group)
    numbers, odd = [0] * len(group), []
    for index, reading in enumerate(group):
        # Blank lines are rows here, so a row or refused line is one line each; else the file is read by hand.
        total = int(reading.form.get("lines") or reading.rows + len(reading.broken))
        segments = place(1, total, reading.rows, [(b.line, 1) for b in reading.broken], (), ())
        if segments is None:
            odd.append(reading)
            part.drop_rows(reading.first, reading.rows)
            continue
        part.locate(index, reading.first, reading.rows, segments)
        gone = doubtful.get(index, [])
        for row, _ in gone:
            part.drop_rows(row, 1)
        numbers[index] = reading.rows - len(gone)
        again = [(line_at(segments, row - reading.first), j) for row, j in gone if j is not None]
        _judge(stage, reading.file, again, wanted)
        refused = raw_lines(reading.path, reading.form, [(b.line, 1) for b in reading.broken])
        _judge_bytes(stage, reading.file, zip((b.line for b in reading.broken), refused, strict=True), wanted)
    stage.add(part, numbers)
    for reading in odd:
        slowly(stage, reading.file, wanted)


def _usual(reading: Reading, wanted: Paths) -> Mapping[Path, Sequence[str]]:
    try:
        with closing(open_plain(reading.path, reading.form.get("compression"))) as stream:
            return keys_of(decoded(stream.readline(BLOCK), "utf-8"), wanted)
    except BROKEN:
        return {}


def _doubtful(
    stage: Stage, part: Part, group: Sequence[Reading]
) -> Mapping[int, list[tuple[int, str | None]]]:
    """Per place in the group, (rowid, text) of the rows to judge; the text is None for blank lines."""
    order = sorted(range(len(group)), key=lambda i: group[i].first)
    starts = [group[i].first for i in order]
    found: dict[int, list[tuple[int, str | None]]] = {}
    query = f"SELECT rowid, _j FROM {ident(part.table)} WHERE _k <> {GOOD} ORDER BY rowid"
    for row, j in stage.con.execute(query).fetchall():
        found.setdefault(order[bisect_right(starts, row) - 1], []).append((row, j))
    return found


def _judge(stage: Stage, file: StagedFile, records: Iterable[tuple[int, str]], wanted: Paths) -> None:
    rows = Numbered(stage, file)
    for line, source in records:
        values, rule = judge(source, wanted)
        if values is None:
            stage.reject(file, [(line, source.replace("\0", "\\x00"), rule or MALFORMED)])
        else:
            rows.add(line, values)
    rows.finish()


def _judge_bytes(stage: Stage, file: StagedFile, records: Iterable[tuple[int, bytes]], wanted: Paths) -> None:
    def texts() -> Iterator[tuple[int, str]]:
        for line, raw in records:
            try:
                # JSON is UTF-8: where a file mixes encodings, the other one is a flaw.
                source = decoded(raw, "utf-8" if file.encoding == "mixed" else file.encoding)
            except UnicodeDecodeError:
                stage.reject(file, [(line, as_text(raw, file.encoding), "json.encoding")])
                continue
            if source.strip(" \t\r\n"):
                yield line, source

    _judge(stage, file, texts(), wanted)


def _judge_lines(stage: Stage, file: StagedFile, wanted: Paths) -> None:
    """Every line by hand; if the file itself breaks off, that is one more reject after the good lines."""
    following, end = 1, line_end(file.form)

    def numbered(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
        nonlocal following
        try:
            for line, raw in enumerate(lines(stream, end), 1):
                following = line + 1
                yield line, bare(raw, end)
        except BROKEN as error:
            stage.reject(file, [(following, str(error) or type(error).__name__, UNREADABLE)])

    try:
        with closing(open_plain(file.path, file.form.get("compression"))) as stream:
            _judge_bytes(stage, file, numbered(stream), wanted)
    except BROKEN as error:
        stage.reject(file, [(following, str(error) or type(error).__name__, UNREADABLE)])


def _read_array(stage: Stage, file: StagedFile, wanted: Paths) -> bool:
    """Whether DuckDB could read the document as an array; if not, nothing was staged."""
    part = Part(stage.table("json"), [file], delta=[1])
    source = f"read_json_objects({text(str(file.path))}, format='array', maximum_object_size={OBJECT})"
    query = extraction(wanted, "json::VARCHAR", False, {}).replace("{source}", source)
    try:
        stage.con.execute(f"CREATE TEMP TABLE {ident(part.table)} AS {query}")
    except FAILED:
        stage.drop(part)
        return False
    reading = Reading(file, file.path, file.form)
    reading.rows = stage.con.execute(f"SELECT count(*) FROM {ident(part.table)}").fetchall()[0][0]
    gone = _doubtful(stage, part, [reading]).get(0, [])
    for row, _ in gone:
        part.drop_rows(row, 1)
    _judge(stage, file, ((row + 1, j) for row, j in gone if j is not None), wanted)
    stage.add(part, [reading.rows - len(gone)])
    return True


def _judge_document(stage: Stage, file: StagedFile, wanted: Paths) -> None:
    """Element by element, in bounded memory; what follows a break is one reject."""
    record = 0
    flaw: tuple[str, str] | None = None

    def numbered() -> Iterator[tuple[int, str]]:
        nonlocal record, flaw
        source: Text | None = None
        try:
            with closing(open_plain(file.path, file.form.get("compression"))) as stream:
                source = Text(blocks(stream, file.encoding))
                for element in documents(source, file.form.get("records")):
                    record += 1
                    yield record, element
        except UnicodeDecodeError as error:
            rest = source.buffer[source.at :] if source else ""
            flaw = ("json.encoding", rest + as_text(bytes(error.object), file.encoding))
        except (json.JSONDecodeError, Broken, RecursionError):
            flaw = (MALFORMED, source.buffer[source.at :] if source else "")
        except BROKEN as error:
            flaw = (UNREADABLE, str(error) or type(error).__name__)

    _judge(stage, file, numbered(), wanted)
    if flaw:
        stage.reject(file, [(record + 1, flaw[1][:KEPT].replace("\0", "\\x00"), flaw[0])])


def blocks(stream: BinaryIO, encoding: str) -> Iterator[str]:
    """The text of a stream, piece by piece."""
    # A document that mixes encodings has no lines to tell them by; it is judged as UTF-8.
    name = "utf-8" if encoding == "mixed" else encoding
    decoder = codecs.getincrementaldecoder(name)("strict")
    while block := stream.read(BLOCK):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)
