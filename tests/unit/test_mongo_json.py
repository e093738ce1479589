"""BSON to Extended JSON: for the bytes of each type, what the BSON specification says they are."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import bson
import pytest
from bson import json_util
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import DataError
from headrace.sources.mongo_json import OPTIONS, document, split, walked

# Type → (bytes in hexadecimal, Extended JSON), by hand after the specification's corpus.
TYPES: Sequence[tuple[str, str, str]] = (
    ("double", "10000000016400000000000000F03F00", '{"d":{"$numberDouble":"1.0"}}'),
    ("double -0", "10000000016400000000000000008000", '{"d":{"$numberDouble":"-0.0"}}'),
    ("double NaN", "10000000016400000000000000F87F00", '{"d":{"$numberDouble":"NaN"}}'),
    ("double inf", "10000000016400000000000000F07F00", '{"d":{"$numberDouble":"Infinity"}}'),
    ("double -inf", "10000000016400000000000000F0FF00", '{"d":{"$numberDouble":"-Infinity"}}'),
    ("string", "0E00000002610002000000620000", '{"a":"b"}'),
    ("string é", "0F00000002610003000000C3A90000", '{"a":"é"}'),
    ("string NUL", "10000000026100040000006100620000", '{"a":"a\\u0000b"}'),
    ("document", "160000000378000E0000000261000200000062000000", '{"x":{"a":"b"}}'),
    ("document empty", "0D000000037800050000000000", '{"x":{}}'),
    ("array", "140000000461000C0000001030000A0000000000", '{"a":[{"$numberInt":"10"}]}'),
    ("array empty", "0D000000046100050000000000", '{"a":[]}'),
    ("binary", "0F0000000578000200000000FFFF00", '{"x":{"$binary":{"base64":"//8=","subType":"00"}}}'),
    ("binary empty", "0D000000057800000000000000", '{"x":{"$binary":{"base64":"","subType":"00"}}}'),
    ("binary user", "0F0000000578000200000080FFFF00", '{"x":{"$binary":{"base64":"//8=","subType":"80"}}}'),
    (
        "binary uuid",
        "1D000000057800100000000473FFD26444B34C6990E8E7D1DFC035D400",
        '{"x":{"$binary":{"base64":"c//SZESzTGmQ6OfR38A11A==","subType":"04"}}}',
    ),
    (
        "binary old uuid",
        "1D000000057800100000000373FFD26444B34C6990E8E7D1DFC035D400",
        '{"x":{"$binary":{"base64":"c//SZESzTGmQ6OfR38A11A==","subType":"03"}}}',
    ),
    ("undefined", "0800000006610000", '{"a":{"$undefined":true}}'),
    ("objectid", "1400000007610056E1FC72E0C917E9C471416100", '{"a":{"$oid":"56e1fc72e0c917e9c4714161"}}'),
    ("true", "090000000862000100", '{"b":true}'),
    ("false", "090000000862000000", '{"b":false}'),
    ("date", "10000000096100C5D8D6CC3B01000000", '{"a":{"$date":{"$numberLong":"1356351330501"}}}'),
    (
        "date before 1970",
        "10000000096100C33CE7B9BDFFFFFF00",
        '{"a":{"$date":{"$numberLong":"-284643869501"}}}',
    ),
    (
        "date year 292278994",
        "10000000096100FFFFFFFFFFFFFF7F00",
        '{"a":{"$date":{"$numberLong":"9223372036854775807"}}}',
    ),
    ("null", "080000000A610000", '{"a":null}'),
    (
        "regex",
        "0F0000000B610061626300696D0000",
        '{"a":{"$regularExpression":{"pattern":"abc","options":"im"}}}',
    ),
    (
        "dbpointer",
        "1A0000000C610002000000620056E1FC72E0C917E9C471416100",
        '{"a":{"$dbPointer":{"$ref":"b","$id":{"$oid":"56e1fc72e0c917e9c4714161"}}}}',
    ),
    ("code", "0E0000000D610002000000620000", '{"a":{"$code":"b"}}'),
    ("symbol", "0E0000000E610002000000620000", '{"a":{"$symbol":"b"}}'),
    (
        "code with scope",
        "210000000F6100190000000500000061626364000C000000107800010000000000",
        '{"a":{"$code":"abcd","$scope":{"x":{"$numberInt":"1"}}}}',
    ),
    ("int32", "0C0000001069000000008000", '{"i":{"$numberInt":"-2147483648"}}'),
    ("timestamp", "100000001161002A00000015CD5B0700", '{"a":{"$timestamp":{"t":123456789,"i":42}}}'),
    ("int64", "10000000126100FFFFFFFFFFFFFF7F00", '{"a":{"$numberLong":"9223372036854775807"}}'),
    ("int64 small", "10000000126100010000000000000000", '{"a":{"$numberLong":"1"}}'),
    (
        "decimal128",
        "18000000136400F2AF967ED05C82DE3297FF6FDE3C403000",
        '{"d":{"$numberDecimal":"1234567890123456789012345678901234"}}',
    ),
    (
        "decimal128 zeros",
        "180000001364000A000000000000000000000000003E3000",
        '{"d":{"$numberDecimal":"1.0"}}',
    ),
    ("decimal128 NaN", "180000001364000000000000000000000000000000007C00", '{"d":{"$numberDecimal":"NaN"}}'),
    ("minkey", "08000000FF610000", '{"a":{"$minKey":1}}'),
    ("maxkey", "080000007F610000", '{"a":{"$maxKey":1}}'),
    (
        "key twice",
        "13000000106100010000001061000200000000",
        '{"a":{"$numberInt":"1"},"a":{"$numberInt":"2"}}',
    ),
    (
        "dbref",
        "2B000000037200230000000224726566000200000062000224696400020000006300107800010000000000",
        '{"r":{"$ref":"b","$id":"c","x":{"$numberInt":"1"}}}',
    ),
)


@pytest.mark.parametrize(("raw", "wanted"), [pytest.param(r, w, id=name) for name, r, w in TYPES])
def test_every_type_is_what_the_specification_says(raw: str, wanted: str) -> None:
    content = bytes.fromhex(raw)
    assert struct.unpack_from("<i", content)[0] == len(content), "the case itself"
    assert document(content).decode() == wanted
    assert walked(content).decode() == wanted


def test_fields_are_learned() -> None:
    keys: dict[str, None] = {"b": None}
    document(bson.encode({"a": 1, "b": 2}), keys)
    assert list(keys) == ["b", "a"]


def test_text_that_is_no_utf8_stays_its_bytes() -> None:
    content = bytes.fromhex("0E00000002610002000000E90000")
    assert document(content) == b'{"a":"\xe9"}'


@pytest.mark.parametrize(
    "raw", ["", "0500000001", "05000000", "0C0000001069000000", "080000004A610000", "0600000000"]
)
def test_what_is_no_document_is_refused(raw: str) -> None:
    with pytest.raises(DataError):
        document(bytes.fromhex(raw))


NAMES = st.text(st.characters(exclude_characters="\0$", exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31 - 1)
    | st.integers(-(2**63), 2**63 - 1).map(bson.Int64)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=20)
    | st.binary(min_size=12, max_size=12).map(bson.ObjectId)
    | st.integers(-(2**63), 2**63 - 1).map(bson.DatetimeMS)
    | st.decimals(allow_nan=False, places=6, min_value=-(10**20), max_value=10**20).map(bson.Decimal128),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_the_driver_reads_back_the_same_bytes(value: dict[str, object]) -> None:
    raw = bson.encode(value, codec_options=OPTIONS)
    line = document(raw)
    assert b"\n" not in line
    assert walked(raw) == line
    reading = json_util.JSONOptions(
        json_mode=json_util.JSONMode.CANONICAL, datetime_conversion=bson.DatetimeConversion.DATETIME_MS
    )
    again = json_util.loads(line.decode(), json_options=reading)
    assert bson.encode(again, codec_options=OPTIONS) == raw


def test_batches_are_cut_without_decoding() -> None:
    some = [bson.encode({"_id": n, "x": "y" * n}) for n in range(5)]
    assert list(split(b"".join(some))) == some
