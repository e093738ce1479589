"""Delimited text: every line becomes a row, part of one, or a reject; nothing is shifted and nothing lost.

DuckDB reads; its reject table gives what does not fit. An unterminated quote swallows the rows after it, so
its line is blanked out in a scratch copy and the file is read again. A file that then still cannot be
accounted for, line by line, goes through the slow reader of `slow`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..normalise import is_plain, normalise
from ..raw import as_text, raw_lines
from .header import Header, resolve
from .lines import LineMap, line_at, place, scan
from .parts import Part, Stage, StagedFile, ident, text
from .read import CUT, FAILED, RULES, UNQUOTED, Broken, Reading, load, options
from .repair import blank_out
from .slow import read_slowly

PASSES = 4


@dataclass(frozen=True, slots=True)
class Account:
    """Where the rows of one file begin (ordinal from, line), and its rejects (line, lines, rule)."""

    segments: Sequence[tuple[int, int]]
    rejects: Sequence[tuple[int, int, str]]
    total: int

    def line(self, ordinal: int) -> int:
        return line_at(self.segments, ordinal)


def dialect(form: Mapping[str, Any]) -> tuple[Any, ...]:
    """Files of one dialect and header are read together."""
    header = form.get("header")
    return (
        *(form.get(k) for k in ("compression", "delimiter", "quote", "escape", "columns", "skip", "newline")),
        form.get("nulls"),
        tuple(header) if header is not None else None,
        is_plain(form),
        # Read apart from the others: the reader may refuse the whole statement for one of these.
        bool(form.get("mixed_newlines")),
    )


def stage_csv(stage: Stage, files: Sequence[StagedFile]) -> None:
    """Stages files of one `dialect`."""
    header = resolve(stage.wanted, files[0].form)
    if header is None:
        for file in files:
            stage.reject(file, [(1, "neither a header nor columns were found", "file.unreadable")])
    elif header.refused:
        for file in files:
            read_slowly(stage, file, header)
    elif is_plain(files[0].form):
        _read(stage, [Reading(f, f.path, f.form) for f in files], header, 0)
    else:
        _read_normalised(stage, files, header)


def _read_normalised(stage: Stage, files: Sequence[StagedFile], header: Header) -> None:
    clean: list[Reading] = []
    for file in files:
        path = stage.path("clean.csv")
        form = normalise(file.path, file.form, path)
        if form is None:
            read_slowly(stage, file, header)
        else:
            clean.append(Reading(file, path, form))
    if clean:
        _read(stage, clean, header, 0)
    for reading in clean:
        reading.path.unlink(missing_ok=True)


def _read(stage: Stage, group: list[Reading], header: Header, attempt: int) -> None:
    part = Part(stage.table("csv"), [r.file for r in group], delta=[0] * len(group))
    part.paths = [str(r.path) for r in group]
    try:
        select = [f"{e} AS x{i}" for i, e in enumerate(header.expressions)]
        select += ["filename AS _f"] if len(group) > 1 else []
        part.carried += ["_f"] if len(group) > 1 else []
        if stage.shape is not None and (same := _spells_header(header, header.expressions)):
            select.append(f"({same}) AS _h")
            part.carried.append("_h")
        load(
            stage,
            part,
            group,
            f"SELECT {', '.join(select)} FROM {{source}}",
            options(group[0].form, header.width, long=attempt > 0),
        )
    except FAILED as error:
        stage.drop(part)
        if len(group) == 1:
            read_slowly(stage, group[0].file, header, str(error).partition("\n")[0])
            return
        # One file spoils the statement: halves find it in a few steps, and the others are read together.
        middle = len(group) // 2
        for half in (group[:middle], group[middle:]):
            for reading in half:
                reading.broken, reading.rows, reading.first = [], 0, 0
            _read(stage, half, header, attempt)
        return
    _finish(stage, part, group, header, attempt)


def _finish(stage: Stage, part: Part, group: list[Reading], header: Header, attempt: int) -> None:
    """Accounts for every line of every file; files that cannot be are read again in another way."""
    accounts: dict[int, Account | None] = {}
    swallowed = [any(b.swallows for b in r.broken) for r in group]
    for index, reading in enumerate(group):
        accounts[index] = None if swallowed[index] else _even(reading, header)
    uneven = [i for i in accounts if accounts[i] is None and not swallowed[i]]
    longer = _longer(stage, [group[i] for i in uneven], header, long=attempt > 0)
    for index in uneven:
        accounts[index] = _uneven(group[index], header, longer[str(group[index].path)])
    copies = _repeated_headers(stage, part, group, header)
    numbers = [0] * len(group)
    for index, reading in enumerate(group):
        account = accounts[index]
        if account is None:
            if reading.rows:
                part.gone.append((reading.first, reading.first + reading.rows - 1))
            continue
        part.locate(index, reading.first, reading.rows, account.segments)
        no_data = _no_data(reading, header, account, copies.get(index, []))
        part.gone += [(reading.first + o, reading.first + o) for o, _ in no_data]
        numbers[index] = reading.rows - len(no_data)
        _reject(
            stage,
            reading,
            [*account.rejects, *((account.line(o), header.lines, rule) for o, rule in no_data)],
        )
    stage.add(part, numbers)
    for index, reading in enumerate(group):
        if accounts[index] is None:
            _otherwise(stage, reading, header, attempt)


def _otherwise(stage: Stage, reading: Reading, header: Header, attempt: int) -> None:
    if attempt >= PASSES or not any(b.swallows for b in reading.broken):
        read_slowly(stage, reading.file, header)
        return
    quotes = [b.fault for b in reading.broken if b.kind == UNQUOTED and b.swallows]
    found = scan(reading.path, reading.form, quotes)
    spans = [(start, found.end_of[line]) for line, start in found.start_of.items()]
    copy = stage.path("repaired.csv")
    filler = str(reading.form.get("delimiter") or ",").encode() * header.width
    blank_out(reading.path, reading.form, spans, filler, copy)
    if not reading.plain:
        reading.path.unlink()
    form = {**reading.form, "compression": None, "lines": found.total}
    blanked = [*reading.blanked, *found.start_of]
    _read(stage, [Reading(reading.file, copy, form, blanked)], header, attempt + 1)
    copy.unlink(missing_ok=True)


def _even(reading: Reading, header: Header) -> Account | None:
    """If there are as many records as lines, each is exactly one line, and DuckDB's count is the line."""
    total = reading.form.get("lines")
    first = header.lines + int(reading.form.get("skip") or 0) + 1
    if total is None or reading.rows + len(reading.broken) != int(total) - first + 1:
        return None
    rejects = [(b.line, 1, _rule(reading, b, b.line)) for b in reading.broken]
    segments = place(first, int(total), reading.rows, [(line, 1) for line, _, _ in rejects], (), ())
    return Account(segments, rejects, int(total)) if segments is not None else None


def _uneven(reading: Reading, header: Header, longer: Sequence[tuple[int, int]]) -> Account | None:
    found: LineMap = scan(reading.path, reading.form, [b.start for b in reading.broken])
    first = header.lines + int(reading.form.get("skip") or 0) + 1
    mark = "\r" if reading.form.get("newline") == "\r" else "\n"
    rejects = []
    blank = found.blank if header.width > 1 else ()
    empty = set(blank)
    for b in reading.broken:
        if len(b.raw) >= CUT:
            return None
        line = found.line_of.get(b.start, 0)
        raw = b.raw.lstrip("\r\n") if line in empty else b.raw
        while line in empty:  # the reader counts blank lines before a record as its beginning
            line += 1
        rejects.append((line, 1 + raw.removesuffix(mark).count(mark), _rule(reading, b, line)))
    segments = place(first, found.total, reading.rows, [(line, n) for line, n, _ in rejects], blank, longer)
    return Account(segments, rejects, found.total) if segments is not None else None


def _rule(reading: Reading, broken: Broken, line: int) -> str:
    return RULES[UNQUOTED] if line in reading.blanked else RULES.get(broken.kind, "csv.malformed")


def _longer(
    stage: Stage, group: list[Reading], header: Header, long: bool
) -> Mapping[str, Sequence[tuple[int, int]]]:
    """Per path, the (ordinal, lines beyond the first) of records that span several lines."""
    result: dict[str, list[tuple[int, int]]] = {str(r.path): [] for r in group}
    quoted = [r for r in group if r.form.get("quote") and r.form.get("quoted") is not False]
    if not quoted:
        return result
    table, errors, scans = stage.table("spans"), stage.table("errors"), stage.table("scans")
    mark = "chr(13)" if quoted[0].form.get("newline") == "\r" else "chr(10)"
    fields = [f"c{i}" for i in range(header.width)]
    count = " + ".join(f"length({c}) - length(replace({c}, {mark}, ''))" for c in fields)
    any_mark = " OR ".join(f"contains({c}, {mark})" for c in fields)
    stage.con.execute(
        f"CREATE TEMP TABLE {ident(table)} AS "
        f"SELECT CASE WHEN {any_mark} THEN {count} END AS n, filename AS f "
        f"FROM read_csv(?, {options(quoted[0].form, header.width, long)}, filename=true, store_rejects=true, "
        f"rejects_table={text(errors)}, rejects_scan={text(scans)})",
        [[str(r.path) for r in quoted]],
    )
    found = stage.con.execute(
        f"SELECT s.f, s.rowid - b.first, s.n FROM {ident(table)} s JOIN "
        f"(SELECT f, min(rowid) AS first FROM {ident(table)} GROUP BY f) b USING (f) "
        "WHERE s.n > 0 ORDER BY s.rowid"
    ).fetchall()
    for path, ordinal, more in found:
        result[path].append((ordinal, more))
    for name in (table, errors, scans):
        stage.con.execute(f"DROP TABLE {ident(name)}")
    return result


def _repeated_headers(
    stage: Stage, part: Part, group: list[Reading], header: Header
) -> Mapping[int, list[int]]:
    """Ordinals, per place in the group, of rows whose staged fields spell the header."""
    same = _spells_header(header, [f"x{i}" for i in range(len(header.fields))])
    if not same:
        return {}
    same = "_h" if "_h" in part.carried else same
    found = stage.con.execute(f"SELECT rowid FROM {ident(part.table)} WHERE {same} ORDER BY rowid").fetchall()
    result: dict[int, list[int]] = {}
    order = sorted(range(len(group)), key=lambda i: group[i].first)
    starts = [group[i].first for i in order]
    for (row,) in found:
        index = order[bisect_right(starts, row) - 1]
        result.setdefault(index, []).append(row - group[index].first)
    return result


def _spells_header(header: Header, fields: Sequence[str]) -> str:
    """SQL that is true for a row whose `fields` are the header's names; '' without a header."""
    used = [
        (fields[i], header.names[f]) for i, f in enumerate(header.fields) if f is not None and header.names
    ]
    return " AND ".join(f"{field} = {text(name)}" for field, name in used)


def _no_data(reading: Reading, header: Header, account: Account, copies: list[int]) -> list[tuple[int, str]]:
    """(ordinal, rule) of staged rows that are no data: footers, and lines that repeat the header's bytes."""
    gone: dict[int, str] = {}
    if copies:
        place_of = [(int(reading.form.get("skip") or 0) + 1, header.lines)]
        place_of += [(account.line(o), header.lines) for o in copies]
        own, *others = raw_lines(reading.path, reading.form, place_of)
        own = own.removeprefix(b"\xef\xbb\xbf")
        gone |= {o: "csv.repeated_header" for o, raw in zip(copies, others, strict=True) if raw == own}
    footer = int(reading.form.get("footer_lines") or 0)
    for ordinal in range(max(0, reading.rows - footer), reading.rows):
        if account.line(ordinal) > account.total - footer:
            gone[ordinal] = "csv.footer"
    return sorted(gone.items())


def _reject(stage: Stage, reading: Reading, rejects: Sequence[tuple[int, int, str]]) -> None:
    footer = int(reading.form.get("footer_lines") or 0)
    total = reading.form.get("lines")
    after = int(total) - footer if footer and total is not None else 1 << 62
    file = reading.file
    ordered = sorted(rejects)
    raws = raw_lines(file.path, file.form, [(line, max(1, n)) for line, n, _ in ordered])
    stage.reject(
        file,
        (
            (line, as_text(raw, file.encoding), "csv.footer" if line > after else rule)
            for (line, _, rule), raw in zip(ordered, raws, strict=True)
        ),
    )
