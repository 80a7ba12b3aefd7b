"""Wallet-side signing: what we sign the interpreter accepts, and python-bitcoinlib does too."""

from collections.abc import Callable

import pytest
from bitcoin.core import CTransaction
from bitcoin.core.script import CScript
from bitcoin.core.scripteval import SCRIPT_VERIFY_P2SH, VerifyScript

from consensus import keys
from consensus.coins import encode_coin
from consensus.errors import RuleError
from consensus.hashes import hash160, sha256
from consensus.script import ScriptError, verify_transaction
from consensus.script import templates as t
from consensus.signing import missing_signatures, sign_input, sign_multisig_input, sign_taproot_input
from consensus.transaction import Transaction, TxIn, TxOut

SECRETS = [bytes(31) + bytes((n,)) for n in range(1, 5)]
PUBKEYS = [keys.pubkey_from_secret(secret) for secret in SECRETS]
H0 = hash160(PUBKEYS[0])
REDEEM = t.multisig(2, PUBKEYS[:3])
TYPES = (1, 2, 3, 0x81, 0x82, 0x83)


def unsigned() -> Transaction:
    return Transaction.build(2, [TxIn(b"\x05" * 36, b""), TxIn(b"\x06" * 36, b"")], [TxOut(5, b"\x51")] * 2)


def accepts(tx: Transaction, spent: TxOut) -> bool:
    coin = encode_coin(0, False, spent.value, spent.script_pubkey)
    other = encode_coin(0, False, 1, b"\x51")
    try:
        verify_transaction(tx, [coin, other])
    except ScriptError:
        return False
    return True


@pytest.mark.parametrize("hash_type", TYPES)
@pytest.mark.parametrize(
    "script",
    [
        t.p2pk(PUBKEYS[0]),
        t.p2pk(keys.pubkey_from_secret(SECRETS[0], compressed=False)),
        t.p2pkh(H0),
        t.p2pkh(hash160(keys.pubkey_from_secret(SECRETS[0], compressed=False))),
        t.p2wpkh(H0),
        t.p2sh(hash160(t.p2wpkh(H0))),
    ],
)
def test_one_key(script: bytes, hash_type: int) -> None:
    spent = TxOut(900, script)
    tx = sign_input(unsigned(), 0, SECRETS[0], spent, hash_type=hash_type)
    assert accepts(tx, spent)
    assert tx == sign_input(unsigned(), 0, SECRETS[0], encode_coin(8, True, 900, script), hash_type=hash_type)
    assert tx.vin[1] == unsigned().vin[1]
    damaged = Transaction.build(2, tx.vin, [TxOut(6, b"\x51")] * 2)
    assert accepts(damaged, spent) is (hash_type & 0x1F == 2)  # NONE leaves the outputs open


@pytest.mark.parametrize(
    "script", [t.p2pk(PUBKEYS[0]), t.p2pkh(H0), t.p2wpkh(H0), t.p2sh(hash160(t.p2wpkh(H0)))]
)
def test_another_key_is_refused(script: bytes) -> None:
    with pytest.raises(RuleError) as caught:
        sign_input(unsigned(), 0, SECRETS[1], TxOut(1, script))
    assert caught.value.code == "bad-signing-key"
    assert SECRETS[1].hex() not in str(caught.value)


@pytest.mark.parametrize("script", [b"", t.data_carrier(b"x"), t.p2tr(bytes(32)), REDEEM, t.p2wsh(bytes(32))])
def test_other_outputs_are_not_signed_with_one_key(script: bytes) -> None:
    with pytest.raises(RuleError) as caught:
        sign_input(unsigned(), 0, SECRETS[0], TxOut(1, script))
    assert caught.value.code == "unsupported-script"


MULTISIG_OUTPUTS: list[Callable[[bytes], bytes]] = [
    lambda script: t.p2sh(hash160(script)),
    lambda script: t.p2wsh(sha256(script)),
    lambda script: t.p2sh(hash160(t.p2wsh(sha256(script)))),
    lambda script: script,
]


@pytest.mark.parametrize("hash_type", TYPES)
@pytest.mark.parametrize("output", MULTISIG_OUTPUTS)
def test_parties_sign_one_after_the_other_in_any_order(
    output: Callable[[bytes], bytes], hash_type: int
) -> None:
    spent = TxOut(900, output(REDEEM))
    for first, second in ((0, 2), (2, 0), (1, 2), (2, 1)):
        half = sign_multisig_input(unsigned(), 0, [SECRETS[first]], spent, REDEEM, hash_type=hash_type)
        assert missing_signatures(half, 0, REDEEM) == 1
        assert not accepts(half, spent)
        again = sign_multisig_input(half, 0, [SECRETS[first]], spent, REDEEM, hash_type=hash_type)
        assert again == half
        done = sign_multisig_input(half, 0, [SECRETS[second]], spent, REDEEM, hash_type=hash_type)
        assert missing_signatures(done, 0, REDEEM) == 0
        assert accepts(done, spent)
        at_once = [SECRETS[first], SECRETS[second]]
        assert sign_multisig_input(unsigned(), 0, at_once, spent, REDEEM, hash_type=hash_type) == done
    more = sign_multisig_input(unsigned(), 0, SECRETS[:3], spent, REDEEM)
    assert accepts(more, spent)


@pytest.mark.parametrize("output", MULTISIG_OUTPUTS)
@pytest.mark.parametrize(("required", "total"), [(1, 1), (1, 3), (3, 3), (15, 15)])
def test_sizes_of_multisig(output: Callable[[bytes], bytes], required: int, total: int) -> None:
    secrets = [bytes(31) + bytes((n + 1,)) for n in range(total)]
    script = t.multisig(required, [keys.pubkey_from_secret(secret) for secret in secrets])
    spent = TxOut(900, output(script))
    assert accepts(sign_multisig_input(unsigned(), 0, secrets[-required:], spent, script), spent)


def test_twenty_keys_fit_a_witness_script_alone() -> None:
    secrets = [bytes(31) + bytes((n + 1,)) for n in range(20)]
    script = t.multisig(20, [keys.pubkey_from_secret(secret) for secret in secrets])
    for output, fits in zip(MULTISIG_OUTPUTS, (False, True, True, True), strict=True):
        spent = TxOut(900, output(script))
        assert accepts(sign_multisig_input(unsigned(), 0, secrets, spent, script), spent) is fits


@pytest.mark.parametrize("output", MULTISIG_OUTPUTS)
def test_a_key_that_stands_twice_signs_twice(output: Callable[[bytes], bytes]) -> None:
    script = t.multisig(2, [PUBKEYS[0], PUBKEYS[1], PUBKEYS[0]])
    spent = TxOut(900, output(script))
    both = sign_multisig_input(unsigned(), 0, SECRETS[:1], spent, script)
    assert missing_signatures(both, 0, script) == 0
    assert accepts(both, spent)
    third = sign_multisig_input(both, 0, [SECRETS[1]], spent, script)
    assert accepts(third, spent)
    longer = t.multisig(3, [PUBKEYS[0], PUBKEYS[0], PUBKEYS[1]])
    spent = TxOut(900, output(longer))
    done = unsigned()
    for secret in SECRETS[:2]:
        done = sign_multisig_input(done, 0, [secret], spent, longer)
    assert accepts(done, spent)


def test_multisig_refusals() -> None:
    spent = TxOut(1, t.p2sh(hash160(REDEEM)))
    for secret, coin, script, code in (
        (SECRETS[3], spent, REDEEM, "bad-signing-key"),
        (SECRETS[0], TxOut(1, t.p2sh(bytes(20))), REDEEM, "unsupported-script"),
        (SECRETS[0], spent, t.p2pkh(H0), "unsupported-script"),
    ):
        with pytest.raises(RuleError) as caught:
            sign_multisig_input(unsigned(), 0, [secret], coin, script)
        assert caught.value.code == code
    with pytest.raises(RuleError, match="unsupported-script"):
        missing_signatures(unsigned(), 0, t.p2pkh(H0))
    assert missing_signatures(unsigned(), 0, REDEEM) == 2


def test_a_signature_for_another_transaction_is_replaced() -> None:
    spent = TxOut(900, t.p2sh(hash160(REDEEM)))
    old = sign_multisig_input(unsigned(), 0, SECRETS[:2], spent, REDEEM)
    changed = Transaction.build(2, old.vin, [TxOut(7, b"\x51")] * 2)
    assert not accepts(changed, spent)
    assert accepts(sign_multisig_input(changed, 0, SECRETS[:2], spent, REDEEM), spent)


@pytest.mark.parametrize("hash_type", [0, *TYPES])
@pytest.mark.parametrize("root", [b"", b"\x09" * 32])
def test_taproot_key_path(hash_type: int, root: bytes) -> None:
    output_key, _ = keys.taproot_tweak(keys.xonly_from_secret(SECRETS[0]), root)
    spent = TxOut(900, t.p2tr(output_key))
    outputs = [spent, TxOut(1, b"\x51")]
    tx = sign_taproot_input(unsigned(), 0, SECRETS[0], outputs, merkle_root=root, hash_type=hash_type)
    assert accepts(tx, spent)
    assert not accepts(tx, TxOut(901, spent.script_pubkey))
    with pytest.raises(RuleError, match="bad-signing-key"):
        sign_taproot_input(unsigned(), 0, SECRETS[1], outputs, merkle_root=root)
    with pytest.raises(RuleError, match="bad-hash-type"):
        sign_taproot_input(unsigned(), 0, SECRETS[0], outputs, merkle_root=root, hash_type=4)


def test_bitcoinlib_accepts_what_we_sign() -> None:
    for spent, tx in (
        (TxOut(900, t.p2pkh(H0)), sign_input(unsigned(), 0, SECRETS[0], TxOut(900, t.p2pkh(H0)))),
        (
            TxOut(900, t.p2sh(hash160(REDEEM))),
            sign_multisig_input(unsigned(), 0, SECRETS[:2], TxOut(900, t.p2sh(hash160(REDEEM))), REDEEM),
        ),
    ):
        other = CTransaction.deserialize(tx.raw)
        script_sig = CScript(tx.vin[0].script_sig)
        VerifyScript(script_sig, CScript(spent.script_pubkey), other, 0, flags=(SCRIPT_VERIFY_P2SH,))
