"""BIP174's and BIP371's test vectors; ``bip174.json`` names their source."""

import json
from pathlib import Path

import pytest

from consensus import psbt as roles
from consensus.address import decode_wif
from consensus.errors import DecodeError, RuleError
from consensus.params import AddressPrefixes
from consensus.psbt import Psbt
from consensus.psbt.fields import read_output
from consensus.transaction import Transaction, TxIn, TxOut, hash_from_hex, outpoint

VECTORS = json.loads((Path(__file__).parent / "bip174.json").read_text())
FLOW = VECTORS["workflow"]
HARDENED = 1 << 31
PREFIXES = AddressPrefixes(111, 196, 239, "tb")

# BIP174 describes each invalid case; our code for it.
CODES = {
    "wire format, not PSBT format": "psbt-bad-magic",
    "missing outputs": "truncated",
    "Filled in scriptSig in unsigned tx": "psbt-signed-tx",
    "No unsigned tx": "psbt-missing-tx",
    "Duplicate keys in an input": "psbt-duplicate-key",
    "Invalid output witnessScript typed key": "truncated",
    "Invalid duplicate PartialSig": "psbt-duplicate-key",
    "Invalid duplicate BIP32 derivation (different derivs, same key)": "psbt-duplicate-key",
    "Invalid input internal key length.": "psbt-bad-value",
    "Invalid input key spend schnorr signature.": "psbt-bad-value",
    "Invalid input key spend signature length.": "psbt-bad-value",
    "Invalid output internal key length.": "psbt-bad-value",
    "Invalid input script spend signature length.": "psbt-bad-value",
    "Invalid encoding of base64 stream.": "psbt-bad-value",
}


@pytest.mark.parametrize("text", VECTORS["valid"])
def test_valid_and_written_back_as_it_was(text: str) -> None:
    psbt = Psbt.from_base64(text)
    assert psbt.to_base64() == text
    assert Psbt.parse(psbt.raw) == psbt


@pytest.mark.parametrize(("case", "text"), VECTORS["invalid"])
def test_invalid(case: str, text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        Psbt.from_base64(text)
    assert caught.value.code == CODES.get(case, "psbt-bad-key")


def test_two_parties_from_creator_to_extractor() -> None:
    vin = [TxIn(outpoint(hash_from_hex(txid), at), b"") for at, txid in enumerate(FLOW["txids"])]
    scripts = [bytes.fromhex(script) for script in FLOW["scripts"]]
    psbt = roles.create(vin, [TxOut(a, s) for a, s in zip(FLOW["amounts"], scripts, strict=True)])
    assert psbt.to_base64() == FLOW["created"]

    psbt = roles.add_utxo(psbt, 0, previous=Transaction.parse(bytes.fromhex(FLOW["previous_tx"])))
    psbt = roles.add_utxo(psbt, 1, output=read_output(bytes.fromhex(FLOW["witness_utxo"])))
    assert psbt.to_base64() == FLOW["with_utxos"]
    redeem = [bytes.fromhex(script) for script in FLOW["redeem_scripts"]]
    psbt = roles.add_input_scripts(psbt, 0, redeem=redeem[0])
    psbt = roles.add_input_scripts(psbt, 1, redeem=redeem[1], witness=bytes.fromhex(FLOW["witness_script"]))
    assert psbt.to_base64() == FLOW["with_scripts"]
    for step, pubkey in enumerate(FLOW["pubkeys"]):
        place = {"input_index": step // 2} if step < 4 else {"output_index": step - 4}
        path = (HARDENED, HARDENED, HARDENED + step)
        psbt = roles.add_derivation(
            psbt, bytes.fromhex(pubkey), bytes.fromhex(FLOW["fingerprint"]), path, **place
        )
    assert psbt.to_base64() == FLOW["with_derivations"]
    psbt = roles.set_sighash_type(roles.set_sighash_type(psbt, 0, 1), 1, 1)
    assert psbt.to_base64() == FLOW["with_sighash"]

    signed = []
    for signer in FLOW["signers"]:
        secrets = [decode_wif(text, PREFIXES)[0] for text in signer["secrets"]]
        signed.append(roles.sign_all(psbt, secrets))
        assert signed[-1].to_base64() == signer["result"]
        with pytest.raises(RuleError) as caught:
            roles.extract(signed[-1])
        assert caught.value.code == "psbt-incomplete"
    combined = roles.combine(signed)
    assert combined.to_base64() == FLOW["combined"]
    assert roles.combine(signed[::-1]) == combined
    final, refused = roles.finalise(combined)
    assert refused == []
    assert final.to_base64() == FLOW["finalised"]
    # That the interpreter accepts the signatures is checked by finalise and again by extract.
    assert roles.extract(final).raw.hex() == FLOW["extracted"]
