"""The wallet vectors of BIP341: output keys, control blocks, signature hashes and key path spends."""

import json
from pathlib import Path
from typing import Any

from consensus.address import encode_address
from consensus.coins import encode_coin
from consensus.keys import sign_taproot, taproot_tweak, xonly_from_secret
from consensus.params import AddressPrefixes
from consensus.script import tapbranch_hash, tapleaf_hash, verify_transaction
from consensus.script.templates import p2tr
from consensus.sighash import Midstates, taproot
from consensus.signing import sign_taproot_input
from consensus.transaction import Transaction, TxOut

MAIN = AddressPrefixes(p2pkh=0, p2sh=5, wif=128, bech32_hrp="bc")


def load(shared_vectors: Path) -> dict[str, Any]:
    return json.loads((shared_vectors / "bitcoin" / "bip341_wallet_vectors.json").read_text())


def tree_root(tree: Any, leaves: dict[int, tuple[bytes, list[bytes]]]) -> tuple[bytes, list[int]]:
    """Return (root, ids below), and collect each leaf's (version and script hash, path to the root)."""
    if isinstance(tree, dict):
        leaf = tapleaf_hash(bytes.fromhex(tree["script"]), tree["leafVersion"])
        leaves[tree["id"]] = (leaf, [])
        return leaf, [tree["id"]]
    (left, left_ids), (right, right_ids) = (tree_root(child, leaves) for child in tree)
    for ids, sibling in ((left_ids, right), (right_ids, left)):
        for leaf_id in ids:
            leaves[leaf_id][1].append(sibling)
    return tapbranch_hash(left, right), left_ids + right_ids


def leaf_versions(tree: Any) -> dict[int, int]:
    if isinstance(tree, dict):
        return {tree["id"]: tree["leafVersion"]}
    return leaf_versions(tree[0]) | leaf_versions(tree[1])


def test_output_scripts(shared_vectors: Path) -> None:
    cases = load(shared_vectors)["scriptPubKey"]
    assert cases
    for case in cases:
        internal_key = bytes.fromhex(case["given"]["internalPubkey"])
        tree = case["given"]["scriptTree"]
        leaves: dict[int, tuple[bytes, list[bytes]]] = {}
        root = tree_root(tree, leaves)[0] if tree else b""
        output_key, parity = taproot_tweak(internal_key, root)
        expected = case["expected"]
        assert output_key.hex() == case["intermediary"]["tweakedPubkey"]
        assert p2tr(output_key).hex() == expected["scriptPubKey"]
        assert encode_address(p2tr(output_key), MAIN) == expected["bip350Address"]
        for leaf_id, control in enumerate(expected.get("scriptPathControlBlocks", [])):
            version = leaf_versions(tree)[leaf_id]
            path = b"".join(leaves[leaf_id][1])
            assert (bytes((version | parity,)) + internal_key + path).hex() == control


def test_key_path_spends(shared_vectors: Path) -> None:
    for case in load(shared_vectors)["keyPathSpending"]:
        given, expected = case["given"], case["intermediary"]
        unsigned = Transaction.parse(bytes.fromhex(given["rawUnsignedTx"]))
        spent = [TxOut(o["amountSats"], bytes.fromhex(o["scriptPubKey"])) for o in given["utxosSpent"]]
        mid = Midstates(unsigned, spent)
        assert mid.amounts_sha256.hex() == expected["hashAmounts"]
        assert mid.outputs_sha256.hex() == expected["hashOutputs"]
        assert mid.prevouts_sha256.hex() == expected["hashPrevouts"]
        assert mid.scripts_sha256.hex() == expected["hashScriptPubkeys"]
        assert mid.sequences_sha256.hex() == expected["hashSequences"]
        signed = Transaction.parse(bytes.fromhex(case["auxiliary"]["fullySignedTx"]))
        for spend in case["inputSpending"]:
            check_spend(unsigned, signed, spent, spend)
        verify_transaction(signed, [encode_coin(1, False, o.value, o.script_pubkey) for o in spent])


def check_spend(
    unsigned: Transaction, signed: Transaction, spent: list[TxOut], spend: dict[str, Any]
) -> None:
    given = spend["given"]
    index, hash_type = given["txinIndex"], given["hashType"]
    secret = bytes.fromhex(given["internalPrivkey"])
    root = bytes.fromhex(given["merkleRoot"] or "")
    assert xonly_from_secret(secret).hex() == spend["intermediary"]["internalPubkey"]
    message = taproot(Midstates(unsigned, spent), index, hash_type)
    assert message is not None
    assert message.hex() == spend["intermediary"]["sigHash"]
    (witness,) = (bytes.fromhex(item) for item in spend["expected"]["witness"])
    assert sign_taproot(secret, message, root) == witness[:64]
    ours = sign_taproot_input(unsigned, index, secret, spent, merkle_root=root, hash_type=hash_type)
    assert ours.vin[index].witness == (witness,) == signed.vin[index].witness
