"""Transactions and blocks: the same bytes as python-bitcoinlib, and no other error than DecodeError."""

import pytest
from bitcoin.core import CBlock, CTransaction
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.block import Block, BlockHeader
from consensus.errors import DecodeError
from consensus.transaction import (
    NULL_PREVOUT,
    Transaction,
    TxIn,
    TxOut,
    hash_from_hex,
    hash_hex,
    outpoint,
)

SEGWIT_TX = (  # the signed P2WPKH example of BIP143
    "01000000000102fff7f7881a8099afa6940d42d1e7f6362bec38171ea3edf433541db4e4ad969f00000000494830450221008b9d1dc2"
    "6ba6a9cb62127b02742fa9d754cd3bebf337f7a55d114c8e5cdd30be022040529b194ba3f9281a99f2b1c0a19c0489bc22ede944ccf4"
    "ecbab4cc618ef3ed01eeffffffef51e1b804cc89d182d279655c3aa89e815b1b309fe287d9b2b55d57b90ec68a0100000000ffffffff"
    "02202cb206000000001976a9148280b37df378db99f66f85c95a783a76ac7a6d5988ac9093510d000000001976a9143bde42dbee7e4d"
    "be6a21b2d50ce2f0167faa815988ac000247304402203609e17b84f6a7d30c80bfa610b5b4542f32a8a0d5447a12fb1366d7f01cc44a"
    "0220573a954c4518331561406f90300e8f3358f51928d43c212a8caed02de67eebee0121025476c2e83188368da1ff3e292e7acafcdb"
    "3566bb0ad253f62fc70f07aeee635711000000"
)

scripts = st.binary(max_size=40) | st.binary(min_size=252, max_size=256)
inputs = st.builds(
    TxIn,
    prevout=st.binary(min_size=36, max_size=36),
    script_sig=scripts,
    sequence=st.integers(0, 2**32 - 1),
    witness=st.lists(scripts, max_size=3).map(tuple),
)
outputs = st.builds(TxOut, value=st.integers(-(2**63), 2**63 - 1), script_pubkey=scripts)
transactions = st.builds(
    Transaction.build,
    version=st.integers(0, 2**31 - 1),
    vin=st.lists(inputs, min_size=1, max_size=4),
    vout=st.lists(outputs, max_size=4),
    lock_time=st.integers(0, 2**32 - 1),
)


@given(transactions)
def test_bitcoinlib_reads_the_same(tx: Transaction) -> None:
    other = CTransaction.deserialize(tx.raw)
    assert other.serialize() == tx.raw
    assert (other.GetTxid(), other.GetHash()) == (tx.txid, tx.wtxid)
    assert (other.nVersion, other.nLockTime) == (tx.version, tx.lock_time)
    assert [(i.prevout.serialize(), i.scriptSig, i.nSequence) for i in other.vin] == [i[:3] for i in tx.vin]
    assert [(o.nValue, o.scriptPubKey) for o in other.vout] == list(tx.vout)
    stacks = tuple(tuple(w.scriptWitness.stack) for w in other.wit.vtxinwit)
    assert tuple(txin.witness for txin in tx.vin) == stacks or not tx.has_witness


@given(transactions)
def test_parsing_gives_back_the_parts(tx: Transaction) -> None:
    again = Transaction.parse(tx.raw)
    assert again.raw == tx.raw
    assert again == tx
    assert hash(again) == hash(tx)
    assert Transaction.build(again.version, again.vin, again.vout, again.lock_time).raw == tx.raw
    assert again.prevouts == tuple(txin.prevout for txin in again.vin)
    assert (again.input_count, again.output_count) == (len(again.vin), len(again.vout))
    assert again.sequences == tuple(txin.sequence for txin in again.vin)


@given(transactions)
def test_weight_counts_witness_bytes_once(tx: Transaction) -> None:
    bare = Transaction.build(tx.version, [i._replace(witness=()) for i in tx.vin], tx.vout, tx.lock_time)
    assert tx.stripped == bare.raw
    assert tx.txid == bare.txid
    assert tx.weight == 3 * len(bare.raw) + len(tx.raw)
    assert tx.vsize == -(-tx.weight // 4)
    assert tx.has_witness is (tx.raw != bare.raw)
    assert (tx.wtxid == tx.txid) is not tx.has_witness


@given(transactions, st.binary(max_size=20), st.binary(max_size=20))
def test_parse_at_finds_the_end(tx: Transaction, before: bytes, behind: bytes) -> None:
    again, end = Transaction.parse_at(before + tx.raw + behind, len(before))
    assert again == tx
    assert end == len(before + tx.raw)
    assert (again.vin, again.vout, again.txid, again.wtxid) == (tx.vin, tx.vout, tx.txid, tx.wtxid)


def parsed_or_code(raw: bytes) -> Transaction | str:
    try:
        return Transaction.parse(raw)
    except DecodeError as error:
        return error.code


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_arbitrary_bytes(raw: bytes) -> None:
    found = parsed_or_code(raw)
    if isinstance(found, Transaction):
        assert found.raw == raw
        assert Transaction.build(found.version, found.vin, found.vout, found.lock_time).raw == raw


@settings(max_examples=300)
@given(transactions, st.data())
def test_damaged_bytes(tx: Transaction, data: st.DataObject) -> None:
    raw = bytearray(tx.raw)
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[at] = data.draw(st.integers(0, 255))
    else:
        del raw[at:]
    found = parsed_or_code(bytes(raw))
    if isinstance(found, Transaction):
        assert found.raw == raw
        assert len(found.vin) == found.input_count
        assert len(found.vout) == found.output_count


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda raw: raw + b"\x00", "trailing-bytes"),
        (lambda raw: raw[:-1], "tx-truncated"),
        (lambda raw: raw[:4], "tx-truncated"),
        (lambda raw: raw[:3], "tx-truncated"),
        (lambda raw: raw[:5] + b"\x02" + raw[6:], "unknown-tx-flags"),
        (lambda raw: raw[:6] + b"\xfd\x02\x00" + raw[7:], "non-canonical-compactsize"),
        (lambda raw: raw[:6] + b"\xfc" + raw[7:], "tx-too-many"),
    ],
)
def test_malformed(change, code: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Transaction.parse(change(bytes.fromhex(SEGWIT_TX)))
    assert caught.value.code == code


def test_a_witness_without_any_element_is_superfluous() -> None:
    bare = Transaction.build(1, [TxIn(bytes(36), b"")], [TxOut(1, b"")])
    raw = bare.raw[:4] + b"\x00\x01" + bare.raw[4:-4] + b"\x00" + bare.raw[-4:]
    with pytest.raises(DecodeError, match="superfluous-witness"):
        Transaction.parse(raw)


def test_the_bip143_transaction() -> None:
    tx = Transaction.parse(bytes.fromhex(SEGWIT_TX))
    assert tx.txid == CTransaction.deserialize(tx.raw).GetTxid()
    assert (tx.version, tx.lock_time, tx.is_coinbase) == (1, 17, False)
    assert [len(txin.witness) for txin in tx.vin] == [0, 2]
    assert tx.vin[1].prev_index == 1
    assert hash_hex(tx.vin[1].prev_txid) == "8ac60eb9575db5b2d987e29f301b5b819ea83a5c6579d282d189cc04b8e151ef"
    assert [output.value for output in tx.vout] == [112340000, 223450000]


def test_a_coinbase_is_its_only_input() -> None:
    null = TxIn(NULL_PREVOUT, b"\x51\x51")
    assert Transaction.build(1, [null], [TxOut(0, b"")]).is_coinbase
    assert not Transaction.build(1, [null, null], [TxOut(0, b"")]).is_coinbase
    other = TxIn(outpoint(bytes(32), 0), b"\x51\x51")
    assert not Transaction.build(1, [other], [TxOut(0, b"")]).is_coinbase


def test_hashes_are_shown_reversed() -> None:
    value = bytes(range(32))
    assert hash_hex(value) == value[::-1].hex()
    assert hash_from_hex(hash_hex(value)) == value
    for text in ("", "00" * 31, "00" * 33, "zz" * 32, " " + "00" * 32, "0 " * 32):
        with pytest.raises(DecodeError, match="bad-hash"):
            hash_from_hex(text)


headers = st.builds(
    BlockHeader.build,
    version=st.integers(-(2**31), 2**31 - 1),
    prev_hash=st.binary(min_size=32, max_size=32),
    merkle_root=st.binary(min_size=32, max_size=32),
    time_s=st.integers(0, 2**32 - 1),
    bits=st.integers(0, 2**32 - 1),
    nonce=st.integers(0, 2**32 - 1),
)


@settings(max_examples=50)
@given(headers, st.lists(transactions, max_size=4))
def test_blocks_as_bitcoinlib_reads_them(header: BlockHeader, txs: list[Transaction]) -> None:
    block = Block.build(header, txs)
    other = CBlock.deserialize(block.raw)
    assert other.serialize() == block.raw
    assert other.GetHash() == block.hash == header.hash
    assert (other.nVersion, other.hashPrevBlock) == (header.version, header.prev_hash)
    assert (other.hashMerkleRoot, other.nTime) == (header.merkle_root, header.time_s)
    assert (other.nBits, other.nNonce) == (header.bits, header.nonce)
    again = Block.parse(block.raw)
    assert again == block
    assert again.txs == tuple(txs)
    assert again.weight == 3 * again.stripped_size + len(block.raw)
    if txs:
        assert again.weight == other.GetWeight()


@given(headers, st.lists(transactions, max_size=2), st.data())
def test_damaged_blocks(header: BlockHeader, txs: list[Transaction], data: st.DataObject) -> None:
    raw = bytearray(Block.build(header, txs).raw)
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    try:
        block = Block.parse(bytes(raw))
    except DecodeError:
        return
    assert block.raw == raw


def test_malformed_blocks() -> None:
    raw = Block.build(BlockHeader.parse(bytes(80)), [Transaction.parse(bytes.fromhex(SEGWIT_TX))]).raw
    for damaged, code in (
        (raw + b"\x00", "trailing-bytes"),
        (raw[:-1], "tx-truncated"),
        (raw[:79], "truncated"),
        (raw[:80], "truncated"),
        (raw[:80] + b"\xfe\xff\xff\xff\x00", "tx-truncated"),
    ):
        with pytest.raises(DecodeError) as caught:
            Block.parse(damaged)
        assert caught.value.code == code
    with pytest.raises(DecodeError, match="bad-header-size"):
        BlockHeader.parse(bytes(81))
