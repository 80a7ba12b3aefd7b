"""PSBT methods: parties that share nothing but Base64, over real coins, scripts and blocks."""

from decimal import Decimal

import pytest

from consensus import psbt as roles
from consensus.address import encode_address
from consensus.hashes import hash160, sha256
from consensus.keys import pubkey_from_secret
from consensus.params import COIN
from consensus.psbt import InputType, Psbt
from consensus.script import templates
from consensus.transaction import Transaction, TxOut, hash_hex
from node.rpc.client import RpcError

SECRETS = [bytes([number]) * 32 for number in (1, 2, 3)]
PUBKEYS = [pubkey_from_secret(secret) for secret in SECRETS]
MULTI = templates.multisig(2, PUBKEYS)
WRAPPED = templates.p2wsh(sha256(MULTI))


async def refused(served, method, *params):
    with pytest.raises(RpcError) as caught:
        await served.call(method, *params)
    return caught.value.number, caught.value.reason


def sign(text, secret):
    return roles.sign_all(Psbt.from_base64(text), [secret]).to_base64()


@pytest.fixture
def funded(served):
    """Return the transaction whose output 0 is worth 5 tokens to a nested 2 of 3."""
    script = templates.p2sh(hash160(WRAPPED))
    tx = served.node.wallet(1).pay([TxOut(5 * COIN, script)]).tx
    served.node.mine([tx])
    return tx


async def test_two_of_three_by_parties_apart(served, funded):
    inputs = [{"txid": hash_hex(funded.txid), "vout": 0}]
    created = await served.call(
        "createpsbt", inputs, [{served.address(2): Decimal("4.9999")}, {"data": "aa"}]
    )
    analysis = await served.call("analyzepsbt", created)
    assert analysis == {
        "inputs": [{"has_utxo": False, "is_final": False, "next": "updater"}],
        "next": "updater",
    }

    updated = await served.call("utxoupdatepsbt", created)
    assert (await served.call("analyzepsbt", updated))["inputs"][0]["missing"] == {
        "redeemscript": hash160(WRAPPED).hex()
    }
    draft = roles.add_input_scripts(Psbt.from_base64(updated), 0, redeem=WRAPPED, witness=MULTI)
    draft = roles.add_derivation(draft, PUBKEYS[0], b"\xd9\x0c\x6a\x4f", ((1 << 31) + 7, 1), input_index=0)
    updated = await served.call("utxoupdatepsbt", draft.to_base64())  # now it is known to be segwit
    assert Psbt.from_base64(updated).inputs[0].get(InputType.WITNESS_UTXO) is not None

    by_first, by_third = sign(updated, SECRETS[0]), sign(updated, SECRETS[2])
    analysis = await served.call("analyzepsbt", by_first)
    assert analysis["next"] == analysis["inputs"][0]["next"] == "signer"
    assert analysis["inputs"][0]["missing"]["signatures"] == [hash160(key).hex() for key in PUBKEYS[1:]]
    assert analysis["fee"] == Decimal("0.0001")
    half = await served.call("finalizepsbt", by_first)
    assert half["complete"] is False
    assert (await served.call("decodepsbt", half["psbt"])) == await served.call("decodepsbt", by_first)

    combined = await served.call("combinepsbt", [by_third, by_first])
    shown = (await served.call("decodepsbt", combined))["inputs"][0]
    assert sorted(shown["partial_signatures"]) == sorted([PUBKEYS[0].hex(), PUBKEYS[2].hex()])
    assert shown["redeem_script"]["type"] == "witness_v0_scripthash"
    assert shown["witness_script"]["type"] == "multisig"
    assert shown["bip32_derivs"] == [
        {"pubkey": PUBKEYS[0].hex(), "master_fingerprint": "d90c6a4f", "path": "m/7h/1"}
    ]
    assert shown["witness_utxo"]["amount"] == Decimal(5)
    assert shown["non_witness_utxo"]["txid"] == hash_hex(funded.txid)
    estimate = await served.call("analyzepsbt", combined)
    assert estimate["next"] == "finalizer"

    kept = await served.call("finalizepsbt", combined, False)
    assert kept["complete"] is True
    assert (await served.call("analyzepsbt", kept["psbt"]))["next"] == "extractor"
    shown = (await served.call("decodepsbt", kept["psbt"]))["inputs"][0]
    assert len(shown["final_scriptwitness"]) == 4
    assert shown["final_scriptSig"]["hex"] == templates.push(WRAPPED).hex()
    done = await served.call("finalizepsbt", combined)
    tx = Transaction.parse(bytes.fromhex(done["hex"]))
    assert tx.vsize <= estimate["estimated_vsize"] <= tx.vsize + 2
    assert await served.call("sendrawtransaction", done["hex"]) == hash_hex(tx.txid)
    served.node.mine()


async def test_what_created_psbts_say(served):
    txid = "ab" * 32
    address = served.address(1)
    made = Psbt.from_base64(await served.call("createpsbt", [{"txid": txid, "vout": 3}], {address: 1}))
    assert made.tx.vin[0].sequence == 0xFFFFFFFD
    made = Psbt.from_base64(await served.call("createpsbt", [{"txid": txid, "vout": 3}], [], 7, False))
    assert (made.tx.vin[0].sequence, made.tx.lock_time) == (0xFFFFFFFE, 7)
    made = Psbt.from_base64(await served.call("createpsbt", [{"txid": txid, "vout": 3}], [], 0, False))
    assert made.tx.vin[0].sequence == 0xFFFFFFFF
    given = [{"txid": txid, "vout": 3, "sequence": 17}]
    assert Psbt.from_base64(await served.call("createpsbt", given, [])).tx.vin[0].sequence == 17
    empty = await served.call("createpsbt", [], [{address: "0.5"}])
    assert (await served.call("decodepsbt", empty))["tx"]["vout"][0]["value"] == Decimal("0.5")
    assert (await served.call("analyzepsbt", empty)) == {"next": "extractor"}


@pytest.mark.parametrize(
    ("inputs", "outputs", "number"),
    [
        ([{"txid": "ab", "vout": 0}], [], -8),
        ([{"txid": "ab" * 32}], [], -8),
        ([{"txid": "ab" * 32, "vout": -1}], [], -8),
        ([{"txid": "ab" * 32, "vout": 0, "sequence": 1 << 32}], [], -8),
        (["ab"], [], -3),
        ([], ["ab"], -3),
        ([], [{"nowhere": 1}], -5),
        ([], [{"data": "zz"}], -8),
        ([], [{"data": "aa", "more": 1}], -8),
        ([], [{"data": "aa"}, {"data": "bb"}], -8),
        ([], 5, -3),
    ],
)
async def test_refused_creations(served, inputs, outputs, number):
    assert (await refused(served, "createpsbt", inputs, outputs))[0] == number
    assert (await refused(served, "createpsbt", [], [], 1 << 32))[0] == -8
    one = [{served.address(1): 1}, {served.address(1): 2}]
    assert (await refused(served, "createpsbt", [], one))[0] == -8


async def test_refusals(served, funded):
    for text in ("", "cHNidP8=", "AgAAAAE=", "not base64!"):
        assert (await refused(served, "decodepsbt", text))[0] == -22
    converted = await served.call("converttopsbt", funded.raw.hex(), True)
    assert (await refused(served, "converttopsbt", funded.raw.hex()))[0] == -22
    other = await served.call("createpsbt", [], [])
    assert (await refused(served, "combinepsbt", [converted, other]))[0] == -8
    assert (await refused(served, "combinepsbt", []))[0] == -8
    beyond = await served.call("createpsbt", [{"txid": hash_hex(funded.txid), "vout": 9}], [])
    assert (await refused(served, "utxoupdatepsbt", beyond))[0] == -8
    unknown = await served.call("createpsbt", [{"txid": "ab" * 32, "vout": 0}], [])
    assert await served.call("utxoupdatepsbt", unknown) == unknown


async def test_analysis_of_what_cannot_be(served, funded):
    inputs = [{"txid": hash_hex(funded.txid), "vout": 0}]
    greedy = await served.call("createpsbt", inputs, [{served.address(2): 6}])
    greedy = await served.call("utxoupdatepsbt", greedy)
    assert (await served.call("analyzepsbt", greedy))["next"] == "creator"
    wrong = roles.add_input_scripts(Psbt.from_base64(greedy), 0, redeem=MULTI)
    assert "psbt-script-mismatch" in (await served.call("analyzepsbt", wrong.to_base64()))["error"]


async def test_what_is_pending_can_be_spent_and_every_record_is_shown(served):
    node = served.node
    built = node.wallet(1).pay([TxOut(COIN, templates.p2wpkh(hash160(PUBKEYS[1])))]).tx
    await served.call("sendrawtransaction", built.raw.hex())
    made = await served.call("createpsbt", [{"txid": hash_hex(built.txid), "vout": 0}], [])
    psbt = Psbt.from_base64(await served.call("utxoupdatepsbt", made))
    assert roles.spent_output(psbt, 0).value == COIN
    section = roles.set_sighash_type(psbt, 0, 3).inputs[0]
    for kind, value, key in (
        (InputType.SHA256, b"preimage", bytes(32)),
        (InputType.TAP_KEY_SIG, bytes(64), b""),
        (InputType.TAP_SCRIPT_SIG, bytes(64), bytes(64)),
        (InputType.TAP_LEAF_SCRIPT, b"\x51\xc0", bytes(33)),
        (InputType.TAP_BIP32_DERIVATION, b"\x01" + bytes(32) + b"abcd", bytes(32)),
        (InputType.TAP_INTERNAL_KEY, bytes(32), b""),
        (InputType.TAP_MERKLE_ROOT, bytes(32), b""),
        (InputType.PROPRIETARY, b"ours", b"\x05wattd\x01key"),
        (0xF0, b"unknown", b"key"),
    ):
        section = section.with_record(kind, value, key)
    shown = (await served.call("decodepsbt", psbt.with_input(0, section).to_base64()))["inputs"][0]
    assert shown["sighash"] == "SINGLE"
    assert shown["sha256_preimages"] == {"00" * 32: b"preimage".hex()}
    assert shown["taproot_scripts"] == [{"script": "51", "leaf_ver": 0xC0, "control_blocks": ["00" * 33]}]
    assert shown["taproot_bip32_derivs"][0]["leaf_hashes"] == ["00" * 32]
    assert shown["proprietary"] == [
        {"identifier": b"wattd".hex(), "subtype": 1, "key": b"key".hex(), "value": b"ours".hex()}
    ]
    assert shown["unknown"] == {"f0" + b"key".hex(): b"unknown".hex()}
    assert (
        encode_address(templates.p2wpkh(hash160(PUBKEYS[1])), node.params.addresses)
        == (shown["witness_utxo"]["scriptPubKey"]["address"])
    )
