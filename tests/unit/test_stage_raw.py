"""Raw lines are the exact bytes of a record, whatever packs or encodes them."""

from __future__ import annotations

import gzip
import zipfile
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.engines.duckdb import raw
from headrace.engines.duckdb.raw import Records, as_text, open_plain, raw_lines

WANTED = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), max_size=6)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text("abé ਊ\x0a\x0d", max_size=4).map(lambda t: t.replace("\n", "").replace("\r", "")), max_size=8
    ),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-16-le", "utf-16-be"]),
    st.booleans(),
    WANTED,
    st.sampled_from([2, 7, raw.BLOCK]),
)
def test_records_are_their_lines(tmp_path, lines, newline, encoding, final, wanted, block):
    path = tmp_path / "x"
    ended = [(line + newline).encode(encoding) for line in lines]
    if ended and not final:
        ended[-1] = lines[-1].encode(encoding)
    path.write_bytes(b"".join(ended))
    end = newline.encode(encoding)
    expected = [b"".join(ended[first - 1 : first - 1 + count]).removesuffix(end) for first, count in wanted]
    with patch.object(raw, "BLOCK", block):
        assert raw_lines(path, {"newline": newline, "encoding": encoding}, wanted) == expected


def test_packed_files_give_the_same(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    data = b"".join(b"line %d\xff\r\n" % i for i in range(1, 50_001))
    (tmp_path / "x.gz").write_bytes(gzip.compress(data))
    (tmp_path / "x.zst").write_bytes(zstandard.compress(data))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("inner", data)
    for name, compression in (("x.gz", "gzip"), ("x.zst", "zstd"), ("x.zip", "zip")):
        found = raw_lines(tmp_path / name, {"compression": compression}, [(49_999, 2), (1, 1), (60_000, 1)])
        assert found == [b"line 49999\xff\r\nline 50000\xff", b"line 1\xff", b""]


def test_a_packed_file_that_breaks_off_gives_all_lines_before_that(tmp_path):
    path = tmp_path / "x.gz"
    texts = [b"%d,%d\n" % (n, n * 7919 % 1_000_003) for n in range(60_000)]
    path.write_bytes(gzip.compress(b"".join(texts))[:-50_000])
    whole = 0
    with pytest.raises(EOFError), open_plain(path, "gzip") as stream:
        for whole, _ in enumerate(raw.lines(stream, b"\n"), 1):  # noqa: B007 - as far as it came
            pass
    assert 10_000 < whole < 60_000
    with Records(path, {"compression": "gzip"}) as file:
        for line in (1, whole - 2_000, whole - 1, whole):
            assert file.at(line, 1) + b"\n" == texts[line - 1]
        with pytest.raises(EOFError):
            file.at(whole + 2, 1)


def test_broken_packing_raises_what_is_promised(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"nonsense")
    for compression in ("gzip", "zip", "zstd", "lzo"):
        with pytest.raises((OSError, ValueError)), open_plain(path, compression) as stream:
            stream.read()


def test_a_zip_of_several_members_is_refused(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "1")
        archive.writestr("b", "2")
    with pytest.raises(ValueError, match="a zip with 2 members"):
        open_plain(path, "zip")


def test_raw_text_shows_every_byte():
    assert as_text(b"a\xff\0\xc3\xa9", "utf-8") == "a\\xff\\x00é"
    assert as_text(b"a\xe9\x81", "windows-1252") == "aé\\x81"


def test_records_may_be_asked_for_in_any_order(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"".join(b"line %d\n" % n for n in range(1, 8)))
    with Records(path, {}) as file:
        assert file.at(3, 2) == b"line 3\nline 4"
        assert file.at(4, 1) == b"line 4"
        assert file.at(1, 1) == b"line 1"
        assert file.at(7, 3) == b"line 7"
        assert file.at(9, 1) == b""
        assert file.at(2, 1) == b"line 2"
