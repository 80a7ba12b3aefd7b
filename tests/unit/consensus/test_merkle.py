"""Merkle roots and branches, against the definition and a real block."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cext import merkle_root
from consensus import merkle
from consensus.hashes import sha256d
from consensus.transaction import Transaction, TxIn, TxOut, hash_from_hex, outpoint

leaves = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40)


def root_by_definition(level: list[bytes]) -> bytes:
    while len(level) > 1:
        level = level + level[-1:] * (len(level) % 2)
        level = [sha256d(a + b) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]


@given(leaves, st.data())
def test_a_branch_leads_to_the_root_from_its_place_only(found: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(found) - 1))
    path = merkle.branch(found, index)
    root = root_by_definition(found)
    assert merkle.fold_branch(found[index], path, index) == root
    assert merkle_root(b"".join(found))[0] == root
    if found[index] != bytes(32):
        assert merkle.fold_branch(bytes(32), path, index) != root


def test_no_branch_where_there_is_no_leaf() -> None:
    for index in (-1, 1):
        with pytest.raises(IndexError):
            merkle.branch([bytes(32)], index)


def test_root_of_bitcoin_block_100000() -> None:
    txids = [
        "8c14f0db3df150123e6f3dbbf30f8b955a8249b62ac1d1ff16284aefa3d06d87",
        "fff2525b8931402dd09222c50775608f75787bd2b87e56995a7bdd30f79702c4",
        "6359f0868171b1d194cbee1af2f16ea598ae8fad666d9b012c8ed2b79a236ec4",
        "e9a66845e05d5abc0ad04ec80f774a7e585c6e8db975962d069a522137b80c1d",
    ]
    root = merkle_root(b"".join(map(hash_from_hex, txids)))
    assert root == (hash_from_hex("f3e94742aca4b5ef85488dc37c06c3282295ffec960994b2c0d5ac2a25a95766"), False)


def payment(number: int, witness: bytes = b"") -> Transaction:
    txin = TxIn(outpoint(bytes(32), number), b"", witness=(witness,) if witness else ())
    return Transaction.build(2, [txin], [TxOut(number, b"\x51")])


def test_the_doubled_tail_is_found_out() -> None:
    txs = [payment(n) for n in range(3)]
    honest = merkle.txid_root(txs)
    doubled = merkle.txid_root([*txs, txs[-1]])
    assert honest[0] == doubled[0]
    assert (honest[1], doubled[1]) == (False, True)


def test_the_witness_root_counts_the_coinbase_as_zero() -> None:
    txs = [payment(1, b"a"), payment(2, b"b")]
    assert merkle.witness_root(txs) == sha256d(bytes(32) + txs[1].wtxid)
    assert merkle.witness_root(txs) == merkle.witness_root([payment(7, b"c"), txs[1]])
    assert merkle.witness_root(txs) != merkle.txid_root(txs)[0]
