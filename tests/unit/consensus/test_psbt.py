"""Partially signed transactions: every script kind by one party after the other, and what is refused."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import keys, sighash
from consensus import psbt as roles
from consensus.coins import encode_coin
from consensus.errors import DecodeError, PeerFault, RuleError
from consensus.hashes import hash160, sha256
from consensus.limits import MAX_PSBT_BYTES, MAX_TX_WEIGHT
from consensus.psbt import InputType, OutputType, Psbt
from consensus.script import templates as t
from consensus.script import verify_transaction
from consensus.transaction import NULL_PREVOUT, Transaction, TxIn, TxOut, outpoint

SECRETS = [bytes(31) + bytes((n,)) for n in range(1, 5)]
PUBKEYS = [keys.pubkey_from_secret(secret) for secret in SECRETS]
FULL_KEY = keys.pubkey_from_secret(SECRETS[0], compressed=False)
H0 = hash160(PUBKEYS[0])
MULTI = t.multisig(2, PUBKEYS[:3])
WRAPPED = t.p2wsh(sha256(MULTI))
NESTED_KEY = t.p2wpkh(H0)
OUTPUT_KEY = keys.taproot_tweak(keys.xonly_from_secret(SECRETS[0]), b"")[0]
UNKNOWN = {b"\xf0abc": b"kept"}

# Name: (script, redeem script, witness script, who signs).
KINDS = {
    "p2pk": (t.p2pk(PUBKEYS[0]), None, None, (0,)),
    "p2pkh": (t.p2pkh(H0), None, None, (0,)),
    "p2pkh, full key": (t.p2pkh(hash160(FULL_KEY)), None, None, (0,)),
    "p2wpkh": (NESTED_KEY, None, None, (0,)),
    "nested p2wpkh": (t.p2sh(hash160(NESTED_KEY)), NESTED_KEY, None, (0,)),
    "bare multisig": (MULTI, None, None, (0, 2)),
    "p2sh multisig": (t.p2sh(hash160(MULTI)), MULTI, None, (2, 1)),
    "p2wsh multisig": (WRAPPED, None, MULTI, (0, 1)),
    "nested p2wsh multisig": (t.p2sh(hash160(WRAPPED)), WRAPPED, MULTI, (1, 2)),
    "p2tr key path": (t.p2tr(OUTPUT_KEY), None, None, (0,)),
}


def funding(script: bytes, amount: int = 900) -> Transaction:
    return Transaction.build(2, [TxIn(b"\x07" * 36, b"")], [TxOut(1, b"\x51"), TxOut(amount, script)])


def psbt_for(script: bytes, redeem: bytes | None = None, witness: bytes | None = None) -> Psbt:
    """One input on output 1 of ``funding``, updated with all there is to know."""
    previous = funding(script)
    psbt = roles.create([TxIn(outpoint(previous.txid, 1), b"")], [TxOut(500, b"\x51"), TxOut(300, b"\x52")])
    psbt = roles.add_utxo(psbt, 0, previous=previous)
    return roles.add_input_scripts(psbt, 0, redeem=redeem, witness=witness)


def code_of(call, *args, **kwargs) -> str:
    with pytest.raises(PeerFault) as caught:
        call(*args, **kwargs)
    for secret in SECRETS:
        assert secret.hex() not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_parties_sign_apart_and_one_after_the_other(kind: str) -> None:
    script, redeem, witness, signers = KINDS[kind]
    psbt = psbt_for(script, redeem, witness)
    apart = [roles.sign_input(psbt, 0, SECRETS[signer]) for signer in signers]
    in_turn = psbt
    for signer in signers:
        assert code_of(roles.finalise_input, in_turn, 0) == "psbt-incomplete"
        assert roles.missing_parts(in_turn, 0).count == len(signers) - signers.index(signer)
        in_turn = Psbt.parse(roles.sign_input(in_turn, 0, SECRETS[signer]).raw)
    assert roles.combine(apart).raw == in_turn.raw == roles.combine(apart[::-1]).raw
    final, refused = roles.finalise(in_turn)
    assert refused == []
    assert roles.is_final(final, 0)
    assert final == Psbt.parse(final.raw) == roles.finalise(final)[0]
    tx = roles.extract(final)
    verify_transaction(tx, [encode_coin(1, False, 900, script)])
    assert tx.vout == psbt.tx.vout
    assert code_of(roles.sign_input, final, 0, SECRETS[0]) == "psbt-finalised"


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_the_input_does_not_name(kind: str) -> None:
    script, redeem, witness, _ = KINDS[kind]
    psbt = psbt_for(script, redeem, witness)
    assert code_of(roles.sign_input, psbt, 0, SECRETS[3]) == "bad-signing-key"
    assert roles.sign_all(psbt, [SECRETS[3]]) == psbt


def test_sign_all_signs_what_is_ours_and_leaves_the_rest() -> None:
    mine, other = funding(t.p2wpkh(H0)), funding(t.p2wpkh(hash160(PUBKEYS[1])))
    psbt = roles.create([TxIn(outpoint(tx.txid, 1), b"") for tx in (mine, other)], [TxOut(5, b"\x51")])
    psbt = roles.add_utxo(psbt, 0, previous=mine)
    half = roles.sign_all(psbt, SECRETS[:1])
    assert [len(section.records) for section in half.inputs] == [2, 0]  # nothing is known of the second
    half = roles.add_utxo(half, 1, output=other.vout[1])
    done, refused = roles.finalise(half)
    assert [(index, error.code) for index, error in refused] == [(1, "psbt-incomplete")]
    assert code_of(roles.extract, done) == "psbt-incomplete"
    done, refused = roles.finalise(roles.sign_all(done, [SECRETS[1]]))
    assert refused == []
    assert roles.extract(done).has_witness


def test_a_signer_asks_for_proof_of_what_is_spent() -> None:
    legacy = funding(t.p2pkh(H0))
    psbt = roles.create([TxIn(outpoint(legacy.txid, 1), b"")], [TxOut(5, b"\x51")])
    assert code_of(roles.sign_input, psbt, 0, SECRETS[0]) == "psbt-missing-utxo"
    assert code_of(roles.add_utxo, psbt, 0, previous=funding(t.p2pkh(H0), 901)) == "psbt-utxo-mismatch"
    only_output = roles.add_utxo(psbt, 0, output=legacy.vout[1])
    assert code_of(roles.sign_input, only_output, 0, SECRETS[0]) == "psbt-missing-previous-tx"
    with_previous = roles.add_utxo(psbt, 0, previous=legacy)
    assert code_of(roles.add_utxo, with_previous, 0, output=TxOut(899, legacy.vout[1].script_pubkey)) == (
        "psbt-utxo-mismatch"
    )
    beyond = roles.create([TxIn(outpoint(legacy.txid, 2), b"")], [TxOut(5, b"\x51")])
    assert code_of(roles.add_utxo, beyond, 0, previous=legacy) == "psbt-utxo-mismatch"
    forged = with_previous.inputs[0].with_record(InputType.NON_WITNESS_UTXO, funding(t.p2pkh(H0), 90).raw)
    assert code_of(Psbt.parse, with_previous.with_input(0, forged).raw) == "psbt-utxo-mismatch"


@pytest.mark.parametrize(
    ("script", "redeem", "witness", "code"),
    [
        (t.p2sh(hash160(MULTI)), None, None, "psbt-missing-script"),
        (t.p2sh(hash160(MULTI)), t.p2pk(PUBKEYS[0]), None, "psbt-script-mismatch"),
        (t.p2pkh(H0), MULTI, None, "psbt-script-mismatch"),
        (WRAPPED, None, None, "psbt-missing-script"),
        (WRAPPED, None, t.p2pk(PUBKEYS[0]), "psbt-script-mismatch"),
        (t.p2sh(hash160(WRAPPED)), WRAPPED, t.p2pk(PUBKEYS[0]), "psbt-script-mismatch"),
        (b"\x51", None, None, "unsupported-script"),
        (t.witness_program(2, bytes(32)), None, None, "unsupported-script"),
        (t.p2sh(hash160(t.p2tr(OUTPUT_KEY))), t.p2tr(OUTPUT_KEY), None, "unsupported-script"),
    ],
)
def test_scripts_must_be_those_that_the_output_names(
    script: bytes, redeem: bytes | None, witness: bytes | None, code: str
) -> None:
    assert code_of(roles.sign_input, psbt_for(script, redeem, witness), 0, SECRETS[0]) == code


def test_a_signer_refuses_hash_types_that_leave_something_open() -> None:
    for script in (t.p2wpkh(H0), t.p2tr(OUTPUT_KEY)):
        for hash_type in (2, 3, 0x81, 0x83, 0x41):
            psbt = roles.set_sighash_type(psbt_for(script), 0, hash_type)
            assert code_of(roles.sign_input, psbt, 0, SECRETS[0]) == "psbt-sighash-refused"
        single = roles.sign_input(
            roles.set_sighash_type(psbt_for(script), 0, 3), 0, SECRETS[0], accepted=(3,)
        )
        assert roles.extract(roles.finalise(single)[0]).vin[0].witness[0][-1] == 3
    psbt = roles.set_sighash_type(psbt_for(t.p2wpkh(H0)), 0, 0)
    assert code_of(roles.sign_input, psbt, 0, SECRETS[0]) == "psbt-sighash-refused"


def test_a_finaliser_refuses_signatures_of_another_type() -> None:
    psbt = roles.sign_input(psbt_for(t.p2wpkh(H0)), 0, SECRETS[0])
    assert code_of(roles.finalise_input, roles.set_sighash_type(psbt, 0, 3), 0) == "psbt-sighash-mismatch"


def test_a_bad_signature_does_not_stand_in_the_way_of_good_ones() -> None:
    psbt = psbt_for(t.p2sh(hash160(MULTI)), MULTI)
    foreign = roles.sign_input(
        roles.add_input_scripts(psbt_for(t.p2sh(hash160(MULTI))), 0, redeem=MULTI), 0, SECRETS[0]
    )
    good = foreign.inputs[0].get(InputType.PARTIAL_SIG, PUBKEYS[0]) or b""
    # A signature by the second key, recorded under the first.
    psbt = psbt.with_input(0, psbt.inputs[0].with_record(InputType.PARTIAL_SIG, good, PUBKEYS[1]))
    assert roles.missing_parts(psbt, 0).count == 2
    for secret in (SECRETS[0], SECRETS[2]):
        psbt = roles.sign_input(psbt, 0, secret)
    assert roles.extract(roles.finalise(psbt)[0])


def test_extract_judges_final_scripts_that_somebody_else_made() -> None:
    psbt = roles.finalise(roles.sign_input(psbt_for(t.p2wpkh(H0)), 0, SECRETS[0]))[0]
    section = psbt.inputs[0].with_record(InputType.FINAL_SCRIPTWITNESS, b"\x01\x01\x01")
    damaged = psbt.with_input(0, section)
    assert code_of(roles.extract, damaged) == "psbt-script-failed"
    assert roles.extract(damaged, verify=False).vin[0].witness == (b"\x01",)


def test_taproot_needs_all_outputs_that_are_spent() -> None:
    first, second = funding(t.p2tr(OUTPUT_KEY)), funding(t.p2wpkh(H0))
    psbt = roles.create([TxIn(outpoint(tx.txid, 1), b"") for tx in (first, second)], [TxOut(5, b"\x51")])
    psbt = roles.set_taproot_key(
        roles.add_utxo(psbt, 0, output=first.vout[1]), 0, keys.xonly_from_secret(SECRETS[0])
    )
    assert code_of(roles.sign_input, psbt, 0, SECRETS[0]) == "psbt-missing-utxo"
    psbt = roles.sign_all(roles.add_utxo(psbt, 1, output=second.vout[1]), SECRETS[:1])
    final, refused = roles.finalise(psbt)
    assert refused == []
    coins = [encode_coin(1, False, 900, tx.vout[1].script_pubkey) for tx in (first, second)]
    verify_transaction(roles.extract(final), coins)
    nothing_known = psbt.with_input(1, roles.Section({}))
    assert code_of(roles.finalise_input, nothing_known, 0) == "psbt-missing-utxo"


def test_taproot_with_a_script_tree_signs_for_the_tweaked_key() -> None:
    root = b"\x09" * 32
    script = t.p2tr(keys.taproot_tweak(keys.xonly_from_secret(SECRETS[0]), root)[0])
    psbt = psbt_for(script)
    assert code_of(roles.sign_input, psbt, 0, SECRETS[0]) == "bad-signing-key"
    psbt = roles.set_taproot_key(psbt, 0, keys.xonly_from_secret(SECRETS[0]), root)
    assert roles.extract(roles.finalise(roles.sign_input(psbt, 0, SECRETS[0]))[0]).has_witness


def test_unknown_records_go_through_every_role() -> None:
    psbt = psbt_for(t.p2wpkh(H0))
    psbt = replace(
        psbt,
        globals=roles.Section({**psbt.globals.records, **UNKNOWN}),
        inputs=(roles.Section({**psbt.inputs[0].records, **UNKNOWN}),),
        outputs=tuple([roles.Section(UNKNOWN) for _ in psbt.outputs]),
    )
    psbt = roles.combine([Psbt.parse(psbt.raw), psbt_for(t.p2wpkh(H0))])
    final, _ = roles.finalise(roles.sign_input(psbt, 0, SECRETS[0]))
    for section in (final.globals, *final.inputs, *final.outputs):
        assert section.records[b"\xf0abc"] == b"kept"
    left = {key[:1] for key in final.inputs[0].records}
    assert left == {
        bytes((kind,)) for kind in (InputType.NON_WITNESS_UTXO, InputType.FINAL_SCRIPTWITNESS)
    } | {b"\xf0"}


def test_combining() -> None:
    one, other = psbt_for(t.p2wpkh(H0)), psbt_for(t.p2pkh(H0))
    assert code_of(roles.combine, [one, other]) == "psbt-different-tx"
    with pytest.raises(ValueError):
        roles.combine([])
    signed = roles.sign_input(one, 0, SECRETS[0])
    final, _ = roles.finalise(signed)
    assert roles.combine([signed, final]) == final == roles.combine([final, one, signed])


def test_nobody_pushes_out_the_signature_of_another_by_combining() -> None:
    psbt = psbt_for(t.p2sh(hash160(MULTI)), MULTI)
    honest = roles.sign_input(psbt, 0, SECRETS[0])
    good = honest.inputs[0].get(InputType.PARTIAL_SIG, PUBKEYS[0])
    for r in (1, 2**255):  # as bytes less and greater than the good one
        bad = keys.encode_der(r, 1) + b"\x01"
        evil = psbt.with_input(0, psbt.inputs[0].with_record(InputType.PARTIAL_SIG, bad, PUBKEYS[0]))
        for parts in ([honest, evil], [evil, honest], [evil, evil, honest]):
            assert roles.combine(parts).inputs[0].get(InputType.PARTIAL_SIG, PUBKEYS[0]) == good
    unknown = psbt.with_input(0, roles.Section({}))
    section = unknown.inputs[0]
    pair = [
        unknown.with_input(0, section.with_record(InputType.PARTIAL_SIG, value, PUBKEYS[0]))
        for value in (good, bad)
    ]
    assert roles.combine(pair) == roles.combine(pair[::-1])  # nobody can tell, and the order does not either


def test_a_signature_that_rules_refuse_in_form_does_not_count() -> None:
    psbt = roles.sign_input(psbt_for(t.p2sh(hash160(MULTI)), MULTI), 0, SECRETS[0])
    good = psbt.inputs[0].get(InputType.PARTIAL_SIG, PUBKEYS[0]) or b""
    size = good[3]
    r = int.from_bytes(good[4 : 4 + size], "big")
    s = int.from_bytes(good[6 + size : -1], "big")
    high = keys.encode_der(r, keys.CURVE_ORDER - s) + b"\x01"
    assert keys.verify_ecdsa(PUBKEYS[0], sighash.legacy(psbt.tx, 0, MULTI, 1), high[:-1])
    psbt = psbt.with_input(0, psbt.inputs[0].with_record(InputType.PARTIAL_SIG, high, PUBKEYS[0]))
    assert roles.missing_parts(psbt, 0).count == 2
    for secret in SECRETS[1:3]:
        psbt = roles.sign_input(psbt, 0, secret)
    assert roles.finalise(psbt)[1] == []


def test_a_kind_that_is_not_known_is_left_to_others() -> None:
    psbt = psbt_for(b"\x51")
    assert roles.missing_parts(psbt, 0) == roles.Missing(count=1)
    assert roles.estimate(psbt) is None
    assert code_of(roles.finalise_input, psbt, 0) == "psbt-incomplete"


def test_outputs_and_derivations() -> None:
    psbt = roles.add_output_scripts(psbt_for(t.p2wpkh(H0)), 1, redeem=WRAPPED, witness=MULTI)
    psbt = roles.add_derivation(psbt, PUBKEYS[0], b"abcd", (1 << 31, 5), input_index=0, output_index=1)
    psbt = Psbt.parse(psbt.raw)
    assert psbt.outputs[1].get(OutputType.WITNESS_SCRIPT) == MULTI
    assert list(psbt.inputs[0].of_type(InputType.BIP32_DERIVATION)) == [
        (PUBKEYS[0], b"abcd\x00\x00\x00\x80\x05\x00\x00\x00")
    ]
    assert roles.missing_parts(psbt, 0) == roles.Missing(signers=(H0,), count=1)
    assert roles.missing_parts(psbt_for(t.p2wpkh(H0)), 0) == roles.Missing(pubkeys=(H0,), count=1)


def test_what_an_input_lacks() -> None:
    psbt = psbt_for(t.p2sh(hash160(WRAPPED)))
    assert roles.missing_parts(psbt, 0) == roles.Missing(redeem_script=hash160(WRAPPED))
    psbt = roles.add_input_scripts(psbt, 0, redeem=WRAPPED)
    assert roles.missing_parts(psbt, 0) == roles.Missing(witness_script=sha256(MULTI))
    psbt = roles.add_input_scripts(psbt, 0, witness=MULTI)
    signers = tuple([hash160(key) for key in PUBKEYS[:3]])
    assert roles.missing_parts(psbt, 0) == roles.Missing(signers=signers, count=2)
    psbt = roles.sign_input(psbt, 0, SECRETS[1])
    assert roles.missing_parts(psbt, 0) == roles.Missing(signers=(signers[0], signers[2]), count=1)
    blank = roles.create([TxIn(b"\x01" * 36, b"")], [])
    assert roles.missing_parts(blank, 0) == roles.Missing(utxo=True)


def test_created_without_inputs_and_from_a_signed_transaction() -> None:
    empty = roles.create([], [TxOut(5, b"\x51")], lock_time=9)
    assert Psbt.from_base64(empty.to_base64()) == empty
    assert (empty.tx.lock_time, empty.tx.vout) == (9, (TxOut(5, b"\x51"),))
    assert roles.extract(empty) == empty.tx
    signed = Transaction.build(2, [TxIn(NULL_PREVOUT, b"\x51", 7, (b"x",))], [TxOut(5, b"\x51")], 3)
    psbt = roles.from_transaction(signed)
    assert psbt.tx.vin == (TxIn(NULL_PREVOUT, b"", 7),)
    assert code_of(roles.parse_unsigned, signed.raw) == "psbt-signed-tx"


def test_versions_and_sizes() -> None:
    psbt = psbt_for(t.p2wpkh(H0))
    for version, good in ((0, True), (1, False), (2, False)):
        head = psbt.globals.with_record(roles.GlobalType.VERSION, version.to_bytes(4, "little"))
        raw = replace(psbt, globals=head).raw
        if good:
            assert Psbt.parse(raw).raw == raw
        else:
            assert code_of(Psbt.parse, raw) == "psbt-bad-version"
    assert code_of(Psbt.parse, bytes(MAX_PSBT_BYTES + 1)) == "psbt-too-large"
    assert code_of(Psbt.from_base64, "A" * (2 * MAX_PSBT_BYTES + 1)) == "psbt-too-large"
    heavy = roles.create([TxIn(b"\x01" * 36, b"")], [TxOut(0, bytes(99_930))])
    assert heavy.tx.weight <= MAX_TX_WEIGHT
    assert Psbt.parse(heavy.raw) == heavy
    heavier = roles.create([TxIn(b"\x01" * 36, b"")], [TxOut(0, bytes(99_950))])
    assert code_of(Psbt.parse, heavier.raw) == "psbt-too-large"
    assert code_of(Psbt.from_base64, "cHNi dP8=") == "psbt-bad-base64"
    assert code_of(Psbt.from_base64, "é") == "psbt-bad-base64"
    assert code_of(Psbt.parse, psbt.raw + b"\x00") == "trailing-bytes"


@pytest.mark.parametrize(
    ("tree", "good"),
    [
        ("00c00151", True),
        ("01c0015101c00152", True),
        ("01c0015102c0015102c00151", True),
        ("02c0015102c0015101c00151", True),
        ("01c00151", False),
        ("00c0015100c00151", False),
        ("01c1015101c00152", False),
        ("01c0015101c00152" + "01c00152", False),
        ("02c0015101c0015102c00151", False),
        ("", False),
    ],
)
def test_a_tap_tree_is_a_whole_binary_tree(tree: str, good: bool) -> None:
    psbt = psbt_for(t.p2wpkh(H0))
    section = psbt.outputs[0].with_record(OutputType.TAP_TREE, bytes.fromhex(tree))
    raw = psbt.with_output(0, section).raw
    if good:
        assert Psbt.parse(raw).raw == raw
    else:
        assert code_of(Psbt.parse, raw) == "psbt-bad-value"


SEED = roles.sign_input(psbt_for(WRAPPED, None, MULTI), 0, SECRETS[0]).raw


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.integers(0, 255)), max_size=6), st.integers(0, 40)
)
def test_damaged_bytes_are_refused_or_stay_what_they_are(damage: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(SEED)
    for at, value in damage:
        data[at] = value
    data = data[: len(data) - cut]
    try:
        psbt = Psbt.parse(bytes(data))
    except DecodeError:
        return
    assert Psbt.parse(psbt.raw) == psbt
    for role in (
        lambda: roles.sign_all(psbt, SECRETS),
        lambda: roles.finalise(psbt),
        lambda: roles.extract(psbt),
    ):
        with contextlib.suppress(RuleError, DecodeError):
            role()
