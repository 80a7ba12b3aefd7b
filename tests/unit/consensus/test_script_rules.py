"""The stack machine where the public vectors are silent: limits, numbers, templates, taproot scripts."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import keys
from consensus.coins import encode_coin
from consensus.errors import RuleError
from consensus.hashes import hash160, sha256
from consensus.limits import MAX_TX_SIGOPS_COST
from consensus.opcodes import OP_SUCCESS, Op, is_push_only, operations
from consensus.script import (
    CONSENSUS_FLAGS,
    FLAGS,
    ScriptError,
    SigVersion,
    TapContext,
    TransactionChecker,
    flags_from_names,
    tapbranch_hash,
    tapleaf_hash,
    verify_script,
    verify_transaction,
)
from consensus.script import flags as bits
from consensus.script import templates as t
from consensus.script.interpreter import Machine, find_and_delete
from consensus.script.numbers import BadNumber, decode_number, encode_number, is_true
from consensus.script.sigops import count_checks, input_cost
from consensus.sighash import Midstates, TapLeaf, taproot
from consensus.transaction import Transaction, TxIn, TxOut

SECRETS = [bytes(31) + bytes((n,)) for n in (1, 2, 3)]
XONLY = [keys.xonly_from_secret(secret) for secret in SECRETS]
INTERNAL = keys.xonly_from_secret(bytes(31) + b"\x63")
AMOUNT = 5000


def ops(*names: Op) -> bytes:
    return bytes(names)


def spender(
    witness: Sequence[bytes] = (),
    script_sig: bytes = b"",
    sequence: int = 0,
    lock_time: int = 0,
    version: int = 2,
) -> Transaction:
    txin = TxIn(b"\x07" * 36, script_sig, sequence, tuple(witness))
    return Transaction.build(version, [txin], [TxOut(1, b"\x51")], lock_time)


def verdict(
    script_pubkey: bytes,
    witness: Sequence[bytes] = (),
    script_sig: bytes = b"",
    flags: int = CONSENSUS_FLAGS,
    **fields: int,
) -> str:
    tx = spender(witness, script_sig, **fields)
    checker = TransactionChecker(tx, 0, AMOUNT, [TxOut(AMOUNT, script_pubkey)])
    try:
        verify_script(script_sig, script_pubkey, tx.vin[0].witness, flags, checker)
    except ScriptError as error:
        return error.name
    return "OK"


def bare(script: bytes) -> str:
    """Verdict of a legacy output script that needs no input."""
    return verdict(script)


# Numbers


@given(st.integers(-(2**40), 2**40))
def test_numbers_come_back(value: int) -> None:
    raw = encode_number(value)
    assert decode_number(raw, minimal=True, max_size=6) == value
    assert is_true(raw) is (value != 0)
    with pytest.raises(BadNumber):
        decode_number(raw[:-1] + bytes((raw[-1] & 0x7F, raw[-1] & 0x80)) if raw else b"\x00", minimal=True)


def test_numbers_have_four_bytes() -> None:
    assert decode_number(bytes.fromhex("ffffff7f"), minimal=True) == 2**31 - 1
    assert decode_number(bytes.fromhex("ffffffff"), minimal=True) == -(2**31) + 1
    with pytest.raises(BadNumber):
        decode_number(bytes(5), minimal=False)
    assert decode_number(b"\x01\x00", minimal=False) == 1
    assert not is_true(b"\x00\x80")
    assert is_true(b"\x80\x00")


# Limits


@pytest.mark.parametrize(
    ("script", "name"),
    [
        (b"\x51" + b"\x61" * 201, "OK"),
        (b"\x51" + b"\x61" * 202, "OP_COUNT"),
        (b"\x51\x63" + b"\x61" * 9_997 + b"\x68", "OP_COUNT"),
        (t.push_data(bytes(520)) + b"\x75\x51", "OK"),
        (t.push_data(bytes(521)) + b"\x75\x51", "PUSH_SIZE"),
        (b"\x00\x63" + t.push_data(bytes(521)) + b"\x68\x51", "PUSH_SIZE"),
        ((t.push_data(bytes(520)) + b"\x75") * 19 + b"\x51", "OK"),
        ((t.push_data(bytes(520)) + b"\x75") * 20 + b"\x51", "SCRIPT_SIZE"),
        (b"\x51" * 1000, "CLEANSTACK"),
        (b"\x51" * 1001, "STACK_SIZE"),
        (b"\x51" * 999 + b"\x6b\x51\x51", "STACK_SIZE"),
        (b"\x51\x63", "UNBALANCED_CONDITIONAL"),
        (b"\x4c", "BAD_OPCODE"),
        (b"\x00\x63\xba\x68\x51", "OK"),
        (b"\x51\x51\x51\xba", "BAD_OPCODE"),
        (b"\x00\x63\x7e\x68\x51", "DISABLED_OPCODE"),
        (b"\x51\xb0", "DISCOURAGE_UPGRADABLE_NOPS"),
        (b"\x51\xb9", "DISCOURAGE_UPGRADABLE_NOPS"),
        (b"\x51\xab", "OP_CODESEPARATOR"),
        (b"\x01\x05", "MINIMALDATA"),
        (b"\x01\x81", "MINIMALDATA"),
        (b"\x4c\x02ab", "MINIMALDATA"),
        (b"\x02\x05\x00\x8b", "SCRIPTNUM"),
    ],
)
def test_limits_under_consensus_flags(script: bytes, name: str) -> None:
    assert bare(script) == name


def test_multisig_keys_count_as_operations() -> None:
    key = t.push_data(b"\x02" + bytes(32))
    multisig = b"\x00\x00" + key * 20 + b"\x01\x14" + ops(Op.OP_CHECKMULTISIG)  # 0 of 20: 21 operations
    assert bare((multisig + b"\x75") * 9 + b"\x51") == "OK"  # 198
    assert bare((multisig + b"\x75") * 9 + b"\x61" * 4 + b"\x51") == "OP_COUNT"


def test_each_combination_of_flags_that_stands() -> None:
    with pytest.raises(ValueError):
        verdict(b"\x51", flags=bits.CLEANSTACK | bits.P2SH)
    with pytest.raises(ValueError):
        verdict(b"\x51", flags=bits.WITNESS)
    assert flags_from_names("P2SH,TAPROOT") == bits.P2SH | bits.TAPROOT
    assert flags_from_names("") == flags_from_names("NONE") == 0
    assert flags_from_names(",".join(FLAGS)) == CONSENSUS_FLAGS
    with pytest.raises(KeyError):
        flags_from_names("P2SH,OTHER")


def test_a_script_sig_only_pushes() -> None:
    assert verdict(b"\x51\x87", script_sig=b"\x51") == "OK"
    assert verdict(b"\x51\x87", script_sig=b"\x51\x61") == "SIG_PUSHONLY"
    assert is_push_only(b"\x50")
    assert not is_push_only(b"\x02a")


def test_a_script_error_is_a_coded_rejection() -> None:
    error = ScriptError("EVAL_FALSE")
    assert isinstance(error, RuleError)
    assert str(error) == "mandatory-script-verify-flag-failed: EVAL_FALSE"
    assert error.permanent


# Lock times


@pytest.mark.parametrize(
    ("operand", "lock_time", "sequence", "name"),
    [
        (100, 100, 0, "OK"),
        (101, 100, 0, "UNSATISFIED_LOCKTIME"),
        (100, 100, 0xFFFFFFFF, "UNSATISFIED_LOCKTIME"),
        (100, 500_000_000, 0, "UNSATISFIED_LOCKTIME"),
        (500_000_000, 500_000_000, 0, "OK"),
        (2**32 - 1, 2**32 - 1, 0, "OK"),
        (2**39, 2**32 - 1, 0, "SCRIPTNUM"),
        (-1, 100, 0, "NEGATIVE_LOCKTIME"),
    ],
)
def test_check_lock_time(operand: int, lock_time: int, sequence: int, name: str) -> None:
    script = t.push_number(operand) + ops(Op.OP_CHECKLOCKTIMEVERIFY, Op.OP_DROP, Op.OP_1)
    assert verdict(script, lock_time=lock_time, sequence=sequence) == name


@pytest.mark.parametrize(
    ("operand", "sequence", "version", "name"),
    [
        (10, 10, 2, "OK"),
        (11, 10, 2, "UNSATISFIED_LOCKTIME"),
        (10, 10, 1, "UNSATISFIED_LOCKTIME"),
        (10, 10 | 1 << 31, 2, "UNSATISFIED_LOCKTIME"),
        (10 | 1 << 22, 10, 2, "UNSATISFIED_LOCKTIME"),
        (10 | 1 << 22, 10 | 1 << 22, 2, "OK"),
        (10 | 1 << 16, 10, 2, "OK"),
        (1 << 31, 0, 1, "OK"),
        (-1, 10, 2, "NEGATIVE_LOCKTIME"),
    ],
)
def test_check_sequence(operand: int, sequence: int, version: int, name: str) -> None:
    script = t.push_number(operand) + ops(Op.OP_CHECKSEQUENCEVERIFY, Op.OP_DROP, Op.OP_1)
    assert verdict(script, sequence=sequence, version=version) == name


def test_lock_times_read_as_nops_without_their_flags() -> None:
    script = ops(Op.OP_CHECKLOCKTIMEVERIFY, Op.OP_CHECKSEQUENCEVERIFY, Op.OP_1)
    assert verdict(script, flags=bits.P2SH) == "OK"
    assert verdict(script) == "INVALID_STACK_OPERATION"


# FindAndDelete


@pytest.mark.parametrize(
    ("script", "pattern", "expected"),
    [  # from Bitcoin Core's script_FindAndDelete
        ("5152", "00", "5152"),
        ("515253", "52", "5153"),
        ("53535353", "53", ""),
        ("0302ff03", "0302ff03", ""),
        ("0302ff030302ff03", "0302ff03", ""),
        ("0302ff030302ff03", "02", "0302ff030302ff03"),
        ("0302ff030302ff03", "ff", "0302ff030302ff03"),
        ("0302ff030302ff03", "03", "02ff0302ff03"),
        ("02feed5169", "feed51", "02feed5169"),
        ("02feed5169", "02feed51", "69"),
        ("516902feed5169", "feed51", "516902feed5169"),
        ("516902feed5169", "02feed51", "516969"),
        ("00005151", "0051", "0051"),
        ("000051005151", "0051", "0051"),
        ("0003feed", "03feed", "00"),
        ("0003feed", "00", "03feed"),
    ],
)
def test_find_and_delete(script: str, pattern: str, expected: str) -> None:
    cleaned, found = find_and_delete(bytes.fromhex(script), bytes.fromhex(pattern))
    assert cleaned.hex() == expected
    assert found is (script != expected)


# Nothing but ScriptError


@settings(max_examples=300)
@given(
    st.binary(max_size=60),
    st.lists(st.binary(max_size=60), max_size=3),
    st.binary(max_size=60).filter(is_push_only),
    st.integers(0, CONSENSUS_FLAGS),
)
def test_arbitrary_scripts_end(script: bytes, witness: list[bytes], script_sig: bytes, flags: int) -> None:
    if flags & bits.WITNESS:
        flags |= bits.P2SH
    if flags & bits.CLEANSTACK:
        flags |= bits.P2SH | bits.WITNESS
    assert isinstance(verdict(script, witness, script_sig, flags=flags), str)
    assert verdict(t.p2wsh(sha256(script)), [*witness, script], flags=flags | bits.P2SH | bits.WITNESS)
    leaf_output, control = script_path(script)
    assert verdict(leaf_output, [*witness, script, control])


# Taproot


def script_path(
    script: bytes, siblings: Sequence[bytes] = (), leaf_version: int = 0xC0
) -> tuple[bytes, bytes]:
    """Return (scriptPubKey, control block) of an output with ``script`` in its tree."""
    node = tapleaf_hash(script, leaf_version)
    for sibling in siblings:
        node = tapbranch_hash(node, sibling)
    output_key, parity = keys.taproot_tweak(INTERNAL, node)
    return t.p2tr(output_key), bytes((leaf_version | parity,)) + INTERNAL + b"".join(siblings)


def tap_verdict(script: bytes, stack: Sequence[bytes] = (), flags: int = CONSENSUS_FLAGS, **kind) -> str:
    output, control = script_path(script, **kind)
    return verdict(output, [*stack, script, control], flags=flags)


def sign_leaf(script: bytes, secret: bytes, separator: int = 0xFFFFFFFF, hash_type: int = 0) -> bytes:
    output, _ = script_path(script)
    mid = Midstates(spender(), [TxOut(AMOUNT, output)])
    message = taproot(mid, 0, hash_type, leaf=TapLeaf(tapleaf_hash(script), separator))
    assert message is not None
    return keys.sign_schnorr(secret, message) + bytes((hash_type,)) * bool(hash_type)


TWO_OF_THREE = (
    t.push(XONLY[0])
    + ops(Op.OP_CHECKSIG)
    + t.push(XONLY[1])
    + ops(Op.OP_CHECKSIGADD)
    + t.push(XONLY[2])
    + ops(Op.OP_CHECKSIGADD, Op.OP_2, Op.OP_NUMEQUAL)
)


@pytest.mark.parametrize(
    ("signers", "name"),
    [((0, 1), "OK"), ((0, 2), "OK"), ((1, 2), "OK"), ((0, 1, 2), "EVAL_FALSE"), ((1,), "EVAL_FALSE")],
)
def test_two_of_three_by_checksigadd(signers: tuple[int, ...], name: str) -> None:
    stack = [sign_leaf(TWO_OF_THREE, SECRETS[n]) if n in signers else b"" for n in (2, 1, 0)]
    assert tap_verdict(TWO_OF_THREE, stack) == name


SIGNED = t.push(XONLY[0]) + ops(Op.OP_CHECKSIG)


def test_tapscript_signatures_are_judged_by_name() -> None:
    good = sign_leaf(SIGNED, SECRETS[0])
    assert tap_verdict(SIGNED, [good]) == "OK"
    assert tap_verdict(SIGNED, [sign_leaf(SIGNED, SECRETS[0], hash_type=0x83)]) == "OK"
    assert tap_verdict(SIGNED, [b""]) == "EVAL_FALSE"
    assert tap_verdict(SIGNED, [good + b"\x00"]) == "SCHNORR_SIG_HASHTYPE"
    assert tap_verdict(SIGNED, [good + b"\x04"]) == "SCHNORR_SIG_HASHTYPE"
    assert tap_verdict(SIGNED, [good[:-1]]) == "SCHNORR_SIG_SIZE"
    assert tap_verdict(SIGNED, [good[:-1] + bytes((good[-1] ^ 1,))]) == "SCHNORR_SIG"
    assert tap_verdict(SIGNED, [sign_leaf(SIGNED, SECRETS[1])]) == "SCHNORR_SIG"


def test_a_tapscript_signature_covers_the_last_code_separator() -> None:
    script = ops(Op.OP_1, Op.OP_DROP, Op.OP_CODESEPARATOR) + SIGNED
    assert tap_verdict(script, [sign_leaf(script, SECRETS[0], separator=2)]) == "OK"
    assert tap_verdict(script, [sign_leaf(script, SECRETS[0])]) == "SCHNORR_SIG"


def test_signature_checks_are_paid_by_witness_bytes() -> None:
    check = ops(Op.OP_2DUP) + ops(Op.OP_CHECKSIGVERIFY)
    for count, name in ((1, "OK"), (40, "TAPSCRIPT_VALIDATION_WEIGHT")):
        script = t.push(XONLY[0]) + check * count + ops(Op.OP_2DROP, Op.OP_1)
        assert tap_verdict(script, [sign_leaf(script, SECRETS[0])]) == name


@pytest.mark.parametrize(
    ("script", "stack", "name"),
    [
        (b"\x51", [], "OK"),
        (b"\x00", [], "EVAL_FALSE"),
        (b"\x51\x51", [], "CLEANSTACK"),
        (ops(Op.OP_IF, Op.OP_1, Op.OP_ENDIF), [b"\x02"], "TAPSCRIPT_MINIMALIF"),
        (ops(Op.OP_NOTIF, Op.OP_1, Op.OP_ENDIF), [b"\x00"], "TAPSCRIPT_MINIMALIF"),
        (ops(Op.OP_0, Op.OP_0, Op.OP_0, Op.OP_CHECKMULTISIG), [], "TAPSCRIPT_CHECKMULTISIG"),
        (ops(Op.OP_0, Op.OP_CHECKSIG), [b"x"], "TAPSCRIPT_EMPTY_PUBKEY"),
        (b"\x02ab" + ops(Op.OP_CHECKSIG), [b"x"], "DISCOURAGE_UPGRADABLE_PUBKEYTYPE"),
        (b"\x51" + b"\x61" * 300, [], "OK"),  # no limit on operations
        ((t.push_data(bytes(520)) + b"\x75") * 20 + b"\x51", [], "OK"),  # nor on the script's size
        (b"\x75\x51", [bytes(521)], "PUSH_SIZE"),
        (b"\x6d" * 499 + b"\x75", [b"\x01"] + [b""] * 999, "OK"),
        (b"\x6d" * 500, [b"\x01"] + [b""] * 1000, "STACK_SIZE"),  # before anything is dropped
        (b"\x4c", [], "BAD_OPCODE"),
        (b"\x50", [], "DISCOURAGE_OP_SUCCESS"),
        (b"\x50\x4c", [], "DISCOURAGE_OP_SUCCESS"),
        (b"\x4c\x50", [], "BAD_OPCODE"),
        (b"\x61\xff", [], "BAD_OPCODE"),
    ],
)
def test_tapscript(script: bytes, stack: list[bytes], name: str) -> None:
    assert tap_verdict(script, stack) == name


def test_the_taproot_upgrades_succeed_where_they_are_not_discouraged() -> None:
    open_flags = bits.P2SH | bits.WITNESS | bits.TAPROOT
    assert tap_verdict(b"\x50", flags=open_flags) == "OK"
    assert tap_verdict(b"\x50\x4c", flags=open_flags) == "OK"
    assert tap_verdict(b"\x02ab" + ops(Op.OP_CHECKSIG), [b"x"], flags=open_flags) == "OK"
    assert tap_verdict(b"\x00", leaf_version=0xC2, flags=open_flags) == "OK"
    assert tap_verdict(b"\x51", leaf_version=0xC2) == "DISCOURAGE_UPGRADABLE_TAPROOT_VERSION"
    assert verdict(t.witness_program(2, b"ab"), flags=open_flags) == "OK"
    assert verdict(t.witness_program(2, b"ab")) == "DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM"
    assert verdict(t.p2tr(XONLY[0]), flags=bits.P2SH | bits.WITNESS) == "OK"
    assert verdict(t.p2tr(XONLY[0])) == "WITNESS_PROGRAM_WITNESS_EMPTY"
    assert verdict(t.witness_program(1, t.ANCHOR_PROGRAM)) == "OK"
    assert len(OP_SUCCESS) == 87


def test_control_blocks() -> None:
    siblings = [sha256(bytes((n,))) for n in range(128)]
    for count in (0, 1, 2, 128):
        assert tap_verdict(b"\x51", siblings=siblings[:count]) == "OK"
    output, control = script_path(b"\x51", siblings)
    assert verdict(output, [b"\x51", control + bytes(32)]) == "TAPROOT_WRONG_CONTROL_SIZE"
    assert verdict(output, [b"\x51", control[:-1]]) == "TAPROOT_WRONG_CONTROL_SIZE"
    assert verdict(output, [b"\x51", b""]) == "TAPROOT_WRONG_CONTROL_SIZE"
    assert verdict(output, [b"\x52", control]) == "WITNESS_PROGRAM_MISMATCH"
    assert verdict(output, [b"\x51", bytes((control[0] ^ 1,)) + control[1:]]) == "WITNESS_PROGRAM_MISMATCH"
    assert verdict(output, [b"\x51", control[:1] + b"\xff" * 32 + control[33:]]) == "WITNESS_PROGRAM_MISMATCH"


def test_the_annex_is_signed_and_belongs_to_no_stack() -> None:
    secret = SECRETS[0]
    output_key, _ = keys.taproot_tweak(XONLY[0])
    output = t.p2tr(output_key)
    annex = b"\x50note"
    mid = Midstates(spender(), [TxOut(AMOUNT, output)])
    with_annex, without = (taproot(mid, 0, 0, note) for note in (annex, None))
    assert with_annex is not None
    assert without is not None
    assert verdict(output, [keys.sign_taproot(secret, with_annex), annex]) == "OK"
    assert verdict(output, [keys.sign_taproot(secret, without)]) == "OK"
    assert verdict(output, [keys.sign_taproot(secret, without), annex]) == "SCHNORR_SIG"
    script_output, control = script_path(b"\x51")
    assert verdict(script_output, [b"\x51", control, annex]) == "OK"


def test_p2sh_hides_no_taproot() -> None:
    redeem = t.p2tr(XONLY[0])
    assert (
        verdict(t.p2sh(hash160(redeem)), script_sig=t.push(redeem)) == "DISCOURAGE_UPGRADABLE_WITNESS_PROGRAM"
    )


def test_the_machine_can_be_run_alone() -> None:
    stack = [b"\x02", b"\x03"]
    checker = TransactionChecker(spender(), 0, 0)
    Machine(stack, ops(Op.OP_ADD), 0, checker, SigVersion.TAPSCRIPT, TapContext(leaf_hash=bytes(32))).run()
    assert stack == [b"\x05"]


# Templates

KEYS = [keys.pubkey_from_secret(secret) for secret in SECRETS]
H20, H32 = b"\x11" * 20, b"\x22" * 32


@pytest.mark.parametrize(
    ("script", "kind", "parts"),
    [
        (t.p2pk(KEYS[0]), "pubkey", (KEYS[0],)),
        (t.p2pk(b"\x04" + bytes(64)), "pubkey", (b"\x04" + bytes(64),)),
        (t.p2pk(b"\x05" + bytes(32)), "nonstandard", ()),
        (t.p2pkh(H20), "pubkeyhash", (H20,)),
        (t.p2sh(H20), "scripthash", (H20,)),
        (t.p2wpkh(H20), "witness_v0_keyhash", (H20,)),
        (t.p2wsh(H32), "witness_v0_scripthash", (H32,)),
        (t.p2tr(H32), "witness_v1_taproot", (H32,)),
        (t.witness_program(1, t.ANCHOR_PROGRAM), "anchor", ()),
        (t.witness_program(1, b"ab"), "witness_unknown", (b"\x01", b"ab")),
        (t.witness_program(16, bytes(40)), "witness_unknown", (b"\x10", bytes(40))),
        (t.witness_program(0, bytes(21)), "nonstandard", ()),
        (b"\x60\x29" + bytes(41), "nonstandard", ()),
        (t.multisig(2, KEYS), "multisig", (b"\x02", *KEYS)),
        (t.multisig(17, KEYS[:1] * 20), "multisig", (b"\x11", *KEYS[:1] * 20)),
        (t.multisig(2, KEYS)[:-1], "nonstandard", ()),
        (b"\x53" + t.multisig(2, KEYS[:2])[1:], "nonstandard", ()),
        (b"\x51\x02ab\x51\xae", "nonstandard", ()),
        (b"\x51" + t.push(KEYS[0]) + t.push(KEYS[1]) + b"\x51\xae", "nonstandard", ()),
        (b"\x00\x00\xae", "nonstandard", ()),
        (b"\x21" + bytes(32) + b"\xae", "nonstandard", ()),
        (t.data_carrier(b"hello"), "nulldata", (b"hello",)),
        (t.data_carrier(b"\x05"), "nulldata", ()),
        (b"\x6a", "nulldata", ()),
        (b"\x6a\x05ab", "nonstandard", ()),
        (b"\x6a\x61", "nonstandard", ()),
        (b"", "nonstandard", ()),
        (b"\x51", "nonstandard", ()),
    ],
)
def test_classification(script: bytes, kind: str, parts: tuple[bytes, ...]) -> None:
    assert t.classify(script) == (kind, parts)


@given(st.binary(max_size=70))
def test_any_script_has_a_kind(script: bytes) -> None:
    kind, parts = t.classify(script)
    assert (kind == "nonstandard") <= (parts == ())


@given(st.binary(max_size=70_000))
def test_pushes_are_minimal(data: bytes) -> None:
    if len(data) <= 520:
        tx = spender()
        stack: list[bytes] = []
        Machine(stack, t.push(data), CONSENSUS_FLAGS, TransactionChecker(tx, 0, 0), SigVersion.BASE).run()
        assert stack == [data]
    ((opcode, pushed),) = operations(t.push_data(data))
    assert pushed == data
    assert is_push_only(t.push(data))
    assert opcode == len(data) or opcode >= Op.OP_PUSHDATA1


def test_multisig_must_be_possible() -> None:
    for required, count in ((0, 1), (2, 1), (1, 0), (1, 21)):
        with pytest.raises(ValueError):
            t.multisig(required, KEYS[:1] * count)


# The budget of signature checks


def test_checks_are_counted_as_bitcoin_core_counts_them() -> None:
    for count in (1, 2, 3, 16):
        assert count_checks(t.multisig(1, KEYS[:1] * count)) == count
    assert count_checks(t.multisig(2, KEYS[:1] * 17)) == 20  # 17 is no literal
    assert count_checks(ops(Op.OP_CHECKSIG, Op.OP_CHECKSIGVERIFY, Op.OP_CHECKMULTISIGVERIFY)) == 22
    assert count_checks(b"\xac\x02\xac") == 1
    redeem = t.multisig(1, KEYS)
    assert input_cost(TxIn(bytes(36), t.push(redeem)), t.p2sh(hash160(redeem))) == 12
    assert input_cost(TxIn(bytes(36), b"", witness=(redeem,)), t.p2wsh(sha256(redeem))) == 3
    nested = t.p2wsh(sha256(redeem))
    assert input_cost(TxIn(bytes(36), t.push(nested), witness=(redeem,)), t.p2sh(hash160(nested))) == 3
    assert input_cost(TxIn(bytes(36), b""), t.p2wpkh(H20)) == 1
    assert input_cost(TxIn(bytes(36), b""), t.p2pkh(H20)) == 0
    assert input_cost(TxIn(bytes(36), b"\x05"), t.p2sh(H20)) == 0
    assert input_cost(TxIn(bytes(36), b"", witness=(bytes(64),)), t.p2tr(H32)) == 0


def test_a_transaction_that_would_check_too_much_is_refused_unrun() -> None:
    costly = ops(Op.OP_RETURN) + ops(Op.OP_CHECKMULTISIG) * (MAX_TX_SIGOPS_COST // 160)
    inputs = [TxIn(bytes((n,)) * 36, b"") for n in range(3)]
    coin = encode_coin(1, False, 1, costly)
    for allowed, code in ((2, "mandatory-script-verify-flag-failed"), (3, "bad-txns-too-many-sigops")):
        tx = Transaction.build(2, inputs[:allowed], [TxOut(1, b"")])
        with pytest.raises(RuleError) as caught:
            verify_transaction(tx, [coin] * allowed)
        assert caught.value.code == code


def test_opcode_table_has_no_gap_and_no_twin() -> None:
    named = sorted(Op)
    assert len(set(named)) == len(Op)
    assert all(second - first == 1 for first, second in pairwise(named) if first >= Op.OP_PUSHDATA1)
