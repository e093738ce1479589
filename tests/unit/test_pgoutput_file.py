"""Files of raw pgoutput messages: what goes in comes out, message by message; cut files are refused."""

from __future__ import annotations

import io
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import DataError
from headrace.sources.pgoutput_file import HEAD, MAGIC, Block, Blocks, read_blocks

Transaction = tuple[int, int, int, list[bytes]]
TRANSACTIONS = st.lists(
    st.tuples(
        st.integers(0, 2**64 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(0, 2**32 - 1),
        st.lists(st.binary(min_size=1, max_size=20), max_size=5),
    ),
    max_size=8,
)


def written(transactions: list[Transaction], cut_every: int = 10_000) -> bytes:
    """A new block after every `cut_every` messages, also in the middle of a transaction."""
    blocks, out = Blocks(), bytearray(MAGIC)
    for lsn, committed, xid, messages in transactions:
        for place, message in enumerate(messages):
            blocks.add(message, 2 * place + 2)
            if len(blocks) == cut_every:
                blocks.close(lsn, committed, xid)
                out += blocks.take()
        blocks.close(lsn, committed, xid)
    return bytes(out + blocks.take())


def read(content: bytes) -> list[tuple[int, int, int, int, bytes]]:
    return [row for block in read_blocks(io.BytesIO(content)) for row in rows(block)]


def rows(block: Block) -> list[tuple[int, int, int, int, bytes]]:
    found, at = [], 0
    columns = zip(
        array("Q", bytes(block.lsn)),
        array("q", bytes(block.committed)),
        array("I", bytes(block.xid)),
        array("I", bytes(block.ordinal)),
        array("I", bytes(block.length)),
        strict=True,
    )
    for lsn, committed, xid, ordinal, length in columns:
        found.append((lsn, committed, xid, ordinal, bytes(block.messages[at : at + length])))
        at += length
    assert at == len(block.messages)
    return found


@given(TRANSACTIONS, st.integers(1, 7))
def test_every_message_comes_back_with_its_transaction(transactions: list[Transaction], cut: int) -> None:
    wanted = [
        (lsn, committed, xid, 2 * place + 2, message)
        for lsn, committed, xid, messages in transactions
        for place, message in enumerate(messages)
    ]
    assert read(written(transactions, cut)) == wanted


@given(TRANSACTIONS, st.data())
def test_a_file_that_is_cut_is_refused_or_ends_with_a_block(
    transactions: list[Transaction], data: st.DataObject
) -> None:
    whole = written(transactions, 3)
    ends = [len(MAGIC)]
    while ends[-1] < len(whole):
        count, size = HEAD.unpack_from(whole, ends[-1])
        ends.append(ends[-1] + HEAD.size + 28 * count + size)
    at = data.draw(st.integers(0, len(whole)))
    if at in ends:
        assert read(whole[:at]) == read(whole)[: len(read(whole[:at]))]
    else:
        with pytest.raises(DataError):
            read(whole[:at])


def test_lengths_must_add_up_and_sizes_are_not_believed() -> None:
    whole = bytearray(written([(1, 2, 3, [b"I123", b"D4"])]))
    whole[len(MAGIC) + HEAD.size + 2 * 24] += 1  # the first message's length
    with pytest.raises(DataError, match="do not add up to 6"):
        read(bytes(whole))
    with pytest.raises(DataError, match="is cut off"):
        read(MAGIC + HEAD.pack(2**32 - 1, 2**63))
    with pytest.raises(DataError, match="no file of pgoutput"):
        read(b"PAR1")
