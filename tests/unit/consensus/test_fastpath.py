"""The fast path agrees with the interpreter: on good inputs, on damaged ones, and on what it leaves alone."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext import verify_ecdsa_batch
from consensus import keys, sighash
from consensus.coins import encode_coin
from consensus.errors import RuleError
from consensus.fastpath import signature_items
from consensus.hashes import hash160
from consensus.script import ScriptError, verify_transaction
from consensus.script import templates as t
from consensus.signing import sign_input, sign_multisig_input
from consensus.transaction import Transaction, TxIn, TxOut, outpoint

SECRETS = [bytes(31) + bytes((n,)) for n in range(1, 5)]
PUBKEYS = [keys.pubkey_from_secret(secret) for secret in SECRETS]
HASHES = [hash160(key) for key in PUBKEYS]
ALL_TYPES = (1, 2, 3, 0x81, 0x82, 0x83)


def interpreter_accepts(tx: Transaction, spent: Sequence[bytes]) -> bool:
    try:
        verify_transaction(tx, spent)
    except ScriptError:
        return False
    return True


def fast_verdict(tx: Transaction, spent: Sequence[bytes]) -> bool | None:
    items = signature_items(tx, spent)
    return None if items is None else all(verify_ecdsa_batch(items))


def coin_of(script: bytes, amount: int = 1000) -> bytes:
    return encode_coin(3, False, amount, script)


def signed(
    kinds: Sequence[tuple[int, Callable[[bytes], bytes], int]], outputs: int = 2
) -> tuple[Transaction, list[bytes]]:
    """Build a transaction whose input i spends ``kind(hash of key)`` with the given hash type."""
    vin = [TxIn(outpoint(bytes((n,)) * 32, n), b"", 0xFFFFFFFE - n) for n in range(len(kinds))]
    vout = [TxOut(100 + n, t.p2pkh(HASHES[0])) for n in range(outputs)]
    tx = Transaction.build(2, vin, vout, 7)
    spent = [coin_of(kind(HASHES[key])) for key, kind, _ in kinds]
    for index, (key, _, hash_type) in enumerate(kinds):
        tx = sign_input(tx, index, SECRETS[key], spent[index], hash_type=hash_type)
    return tx, spent


plain_inputs = st.tuples(
    st.integers(0, 3), st.sampled_from([t.p2pkh, t.p2wpkh]), st.sampled_from([1, 1, 1, *ALL_TYPES])
)


@settings(max_examples=40, deadline=None)
@given(st.lists(plain_inputs, min_size=1, max_size=4), st.integers(1, 3))
def test_good_transactions_take_the_fast_path(kinds: list, outputs: int) -> None:
    tx, spent = signed(kinds, outputs)
    items = signature_items(tx, spent)
    assert items is not None
    assert len(items) == len(kinds)
    assert all(verify_ecdsa_batch(items))
    assert interpreter_accepts(tx, spent)


def rebuilt(tx: Transaction, index: int, **fields: object) -> Transaction:
    vin = list(tx.vin)
    vin[index] = vin[index]._replace(**fields)  # type: ignore[arg-type]
    return Transaction.build(tx.version, vin, tx.vout, tx.lock_time)


@settings(max_examples=250, deadline=None)
@given(st.lists(plain_inputs, min_size=1, max_size=2), st.data())
def test_damaged_unlocking_data_is_judged_alike(kinds: list, data: st.DataObject) -> None:
    tx, spent = signed(kinds)
    index = data.draw(st.integers(0, len(kinds) - 1))
    txin = tx.vin[index]
    if txin.witness:
        which = data.draw(st.integers(0, 1))
        witness = list(txin.witness)
        witness[which] = damage(witness[which], data)
        damaged = rebuilt(tx, index, witness=tuple(witness))
    else:
        damaged = rebuilt(tx, index, script_sig=damage(txin.script_sig, data))
    verdict = fast_verdict(damaged, spent)
    assert verdict in (None, interpreter_accepts(damaged, spent))


def damage(raw: bytes, data: st.DataObject) -> bytes:
    at = data.draw(st.integers(0, len(raw) - 1))
    return data.draw(
        st.sampled_from(
            [
                raw[:at] + bytes((raw[at] ^ 1 << data.draw(st.integers(0, 7)),)) + raw[at + 1 :],
                raw[:at] + raw[at + 1 :],
                raw[:at] + b"\x00" + raw[at:],
                raw[:at],
            ]
        )
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(plain_inputs, min_size=1, max_size=2), st.data())
def test_a_damaged_transaction_is_judged_alike(kinds: list, data: st.DataObject) -> None:
    tx, spent = signed(kinds)
    index = data.draw(st.integers(0, len(kinds) - 1))
    change = data.draw(st.integers(0, 4))
    vout = list(tx.vout)
    if change == 0:
        tx = rebuilt(tx, index, sequence=5)
    elif change == 1:
        tx = rebuilt(tx, index, prevout=bytes(36))
    elif change == 2:
        vout[data.draw(st.integers(0, 1))] = TxOut(9, b"")
        tx = Transaction.build(tx.version, tx.vin, vout, tx.lock_time)
    elif change == 3:
        tx = Transaction.build(tx.version, tx.vin, tx.vout, 8)
    else:
        spent[index] = coin_of(spent[index][12:], 1001)
    assert fast_verdict(tx, spent) is interpreter_accepts(tx, spent)


def with_signature(change: Callable[[bytes], bytes]) -> tuple[Transaction, list[bytes]]:
    """Spend one P2PKH output with its signature changed, everything else canonical."""
    tx, spent = signed([(0, t.p2pkh, 1)])
    script = tx.vin[0].script_sig
    signature = script[1 : 1 + script[0]]
    return rebuilt(tx, 0, script_sig=t.push(change(signature)) + t.push(PUBKEYS[0])), spent


def negate_s(signature: bytes) -> bytes:
    s_at = 6 + signature[3]
    r = int.from_bytes(signature[4 : s_at - 2], "big")
    s = int.from_bytes(signature[s_at:-1], "big")
    return keys.encode_der(r, keys.CURVE_ORDER - s) + signature[-1:]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (negate_s, "SIG_HIGH_S"),
        (lambda sig: sig[:-1] + b"\x00", "SIG_HASHTYPE"),
        (lambda sig: sig[:-1] + b"\x04", "SIG_HASHTYPE"),
        (lambda sig: sig[:-1] + b"\x84", "SIG_HASHTYPE"),
        (lambda sig: sig[:2] + b"\x03" + sig[3:], "SIG_DER"),
        (lambda sig: b"", "EVAL_FALSE"),
    ],
)
def test_what_the_flags_forbid_is_left_to_the_interpreter(change: Callable, name: str) -> None:
    tx, spent = with_signature(change)
    assert signature_items(tx, spent) is None
    with pytest.raises(ScriptError) as caught:
        verify_transaction(tx, spent)
    assert caught.value.name == name


def multisig_case() -> tuple[Transaction, list[bytes]]:
    script = t.multisig(2, PUBKEYS[:3])
    spent = [coin_of(t.p2sh(hash160(script)))]
    tx = Transaction.build(2, [TxIn(bytes(36), b"")], [TxOut(1, b"")])
    return sign_multisig_input(tx, 0, SECRETS[:2], spent[0], script), spent


def uncompressed_case() -> tuple[Transaction, list[bytes]]:
    key = keys.pubkey_from_secret(SECRETS[0], compressed=False)
    spent = [coin_of(t.p2pkh(hash160(key)))]
    tx = Transaction.build(2, [TxIn(bytes(36), b"")], [TxOut(1, b"")])
    return sign_input(tx, 0, SECRETS[0], spent[0]), spent


def nested_case() -> tuple[Transaction, list[bytes]]:
    return signed([(0, lambda key_hash: t.p2sh(hash160(t.p2wpkh(key_hash))), 1)])


@pytest.mark.parametrize("case", [multisig_case, uncompressed_case, nested_case])
def test_other_good_spends_run_the_interpreter(case: Callable) -> None:
    tx, spent = case()
    assert signature_items(tx, spent) is None
    verify_transaction(tx, spent)


def test_what_does_not_belong_to_an_input_is_refused() -> None:
    legacy, legacy_coins = signed([(0, t.p2pkh, 1)])
    extra = rebuilt(legacy, 0, witness=(b"x", b"y"))
    assert signature_items(extra, legacy_coins) is None
    with pytest.raises(ScriptError, match="WITNESS_UNEXPECTED"):
        verify_transaction(extra, legacy_coins)
    segwit, segwit_coins = signed([(0, t.p2wpkh, 1)])
    stuffed = rebuilt(segwit, 0, script_sig=b"\x51")
    assert signature_items(stuffed, segwit_coins) is None
    with pytest.raises(ScriptError, match="WITNESS_MALLEATED"):
        verify_transaction(stuffed, segwit_coins)
    good = segwit.vin[0].witness
    for stack in ((b"", *good), (*good, b""), (*good, *good), good[:1], good[1:]):
        other_size = rebuilt(segwit, 0, witness=stack)
        assert signature_items(other_size, segwit_coins) is None
        with pytest.raises(ScriptError, match="WITNESS_PROGRAM_MISMATCH"):
            verify_transaction(other_size, segwit_coins)
    for at in (0, 1):
        wide = list(segwit.vin[0].witness)
        wide[at] = bytes(300)
        assert signature_items(rebuilt(segwit, 0, witness=tuple(wide)), segwit_coins) is None
    assert signature_items(rebuilt(legacy, 0, script_sig=bytes(300)), legacy_coins) is None


@pytest.mark.parametrize("kind", [t.p2pkh, t.p2wpkh])
def test_a_good_signature_by_another_key_is_a_theft(kind: Callable[[bytes], bytes]) -> None:
    vin = [TxIn(bytes(36), b"")]
    thief = coin_of(kind(HASHES[1]))
    victim = coin_of(kind(HASHES[0]))
    tx = sign_input(Transaction.build(2, vin, [TxOut(1, b"")]), 0, SECRETS[1], thief)
    # The thief signs the hash that the victim's output asks for: as if the victim's script were his.
    code = victim[12:] if kind is t.p2pkh else t.p2pkh(HASHES[0])
    if kind is t.p2pkh:
        signature = keys.sign_ecdsa(SECRETS[1], sighash.legacy(tx, 0, code, 1)) + b"\x01"
        tx = rebuilt(tx, 0, script_sig=t.push(signature) + t.push(PUBKEYS[1]))
    else:
        signature = keys.sign_ecdsa(SECRETS[1], sighash.segwit_v0(tx, 0, code, 1000, 1)) + b"\x01"
        tx = rebuilt(tx, 0, witness=(signature, PUBKEYS[1]))
    assert signature_items(tx, [victim]) is None
    with pytest.raises(ScriptError, match="EQUALVERIFY"):
        verify_transaction(tx, [victim])


def test_segwit_takes_no_uncompressed_or_hybrid_key() -> None:
    point = keys.pubkey_from_secret(SECRETS[0], compressed=False)
    for key in (point, bytes((6 + (point[-1] & 1),)) + point[1:]):
        coin = coin_of(t.p2wpkh(hash160(key)))
        tx = Transaction.build(2, [TxIn(bytes(36), b"")], [TxOut(1, b"")])
        message = sighash.segwit_v0(tx, 0, t.p2pkh(hash160(key)), 1000, 1)
        tx = rebuilt(tx, 0, witness=(keys.sign_ecdsa(SECRETS[0], message) + b"\x01", key))
        assert signature_items(tx, [coin]) is None
        assert not interpreter_accepts(tx, [coin])


def test_one_strange_input_sends_the_whole_transaction_to_the_interpreter() -> None:
    tx, spent = signed([(0, t.p2pkh, 1), (1, t.p2wpkh, 1)])
    assert signature_items(tx, spent) is not None
    assert signature_items(tx, [spent[0], coin_of(b"\x51")]) is None


def test_every_input_must_have_its_coin() -> None:
    tx, spent = signed([(0, t.p2pkh, 1), (1, t.p2wpkh, 1)])
    for coins in (spent[:1], [*spent, spent[0]], []):
        with pytest.raises(ValueError):
            signature_items(tx, coins)
        with pytest.raises((ValueError, RuleError)):
            verify_transaction(tx, coins)


@pytest.mark.parametrize("count", [252, 253, 300])
def test_counts_beyond_one_byte(count: int) -> None:
    vin = [TxIn(outpoint(bytes(32), n), b"") for n in range(count)]
    vout = [TxOut(n, b"") for n in range(count)]
    for kind in (t.p2pkh, t.p2wpkh):
        spent = [coin_of(kind(HASHES[0]))] * count
        tx = sign_input(Transaction.build(2, vin, vout), 5, SECRETS[0], spent[5])
        # Only input 5 is signed: give every other one the same unlocking data, which then fails to verify.
        unlock = tx.vin[5]
        tx = Transaction.build(
            2, [i._replace(script_sig=unlock.script_sig, witness=unlock.witness) for i in vin], vout
        )
        items = signature_items(tx, spent)
        assert items is not None
        assert [n for n, holds in enumerate(verify_ecdsa_batch(items)) if holds] == [5]
