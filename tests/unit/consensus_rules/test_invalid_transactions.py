"""The 31 invalid transactions of Bitcoin Core's functional tests (test/functional/data/invalid_txs.py: 16
templates and 15 disabled opcodes) as facts, each with the code by which our blocks refuse it.

All spend one coin that anybody may spend (``1``). Where Core tells relay from blocks, our rules do not:
what Core would not relay no block may contain.
"""

import pytest

from consensus.coins import encode_coin
from consensus.errors import RuleError
from consensus.hashes import hash160
from consensus.script import ScriptError, verify_transaction
from consensus.script import templates as t
from consensus.transaction import NULL_PREVOUT, Transaction, TxIn, TxOut, outpoint

AMOUNT = 50 * 10**8
MAX_MONEY = 21_000_000 * 10**8
TXID = b"\x51" * 32
IN = TxIn(outpoint(TXID, 0), b"")
P2SH = t.p2sh(hash160(b"\x00"))
SCRIPT_FAILED = "mandatory-script-verify-flag-failed"
DISABLED = {
    "CAT": 0x7E, "SUBSTR": 0x7F, "LEFT": 0x80, "RIGHT": 0x81, "INVERT": 0x83, "AND": 0x84, "OR": 0x85,
    "XOR": 0x86, "2MUL": 0x8D, "2DIV": 0x8E, "MUL": 0x95, "DIV": 0x96, "MOD": 0x97, "LSHIFT": 0x98,
    "RSHIFT": 0x99,
}  # fmt: skip


def build(vin, vout):
    return Transaction.build(2, vin, vout, 0)


def paying(*values, script=b"\x51", script_sig=b""):
    return build([IN._replace(script_sig=script_sig)], [TxOut(value, script) for value in values])


# Core's name: (transaction, our code, Core's code in a block or in the mempool).
TEMPLATES = {
    "OutputMissing": (build([IN], []), "bad-txns-vout-empty", "bad-txns-vout-empty"),
    "InputMissing": (
        Transaction.parse(bytes.fromhex("02000000000000000000")),
        "bad-txns-vin-empty",
        "bad-txns-vin-empty",
    ),
    "SizeTooSmall": (
        build([IN], [TxOut(0, b"\x6a\x00\x00\x00")]),
        "bad-txns-size-64",
        "tx-size-small",
    ),
    "ExtraWitness": (
        build([IN._replace(witness=(b"\x51",))], [TxOut(0, b"\x51" * 9)]),
        SCRIPT_FAILED,
        "Witness provided for non-witness script",
    ),
    "BadInputOutpointIndex": (
        build([TxIn(outpoint(TXID, 101), b"")], [TxOut(0, P2SH)]),
        "bad-txns-inputs-missingorspent",
        "bad-txns-inputs-missingorspent",
    ),
    "DuplicateInput": (
        build([IN, IN], [TxOut(1, P2SH)]),
        "bad-txns-inputs-duplicate",
        "bad-txns-inputs-duplicate",
    ),
    "PrevoutNullInput": (
        build([IN, TxIn(NULL_PREVOUT, b"")], [TxOut(1, P2SH)]),
        "bad-txns-prevout-null",
        "bad-txns-prevout-null",
    ),
    "NonexistentInput": (
        build([TxIn(outpoint(b"\x52" * 32, 0), b""), IN], [TxOut(1, P2SH)]),
        "bad-txns-inputs-missingorspent",
        "bad-txns-inputs-missingorspent",
    ),
    "SpendTooMuch": (paying(AMOUNT + 1, script=P2SH), "bad-txns-in-belowout", "bad-txns-in-belowout"),
    "CreateNegative": (paying(-1), "bad-txns-vout-negative", "bad-txns-vout-negative"),
    "CreateTooLarge": (paying(MAX_MONEY + 1), "bad-txns-vout-toolarge", "bad-txns-vout-toolarge"),
    "CreateSumTooLarge": (
        paying(MAX_MONEY, MAX_MONEY),
        "bad-txns-txouttotal-toolarge",
        "bad-txns-txouttotal-toolarge",
    ),
    "InvalidOPIFConstruction": (
        paying(AMOUNT // 2, script_sig=b"\x64" * 35),
        SCRIPT_FAILED,
        "Invalid OP_IF construction",
    ),
    # A script of more than 10,000 bytes can never be spent, and our rules refuse value on such an output.
    "TooManySigopsPerBlock": (
        paying(1, script=b"\xac" * 20_000),
        "bad-txns-unspendable-value",
        "bad-txns-too-many-sigops",
    ),
    "TooManySigopsPerTransaction": (
        paying(1, script=b"\xac" * 4_001),
        "bad-txns-too-many-sigops",
        "bad-txns-too-many-sigops",
    ),
    "NonStandardAndInvalid": (
        paying(AMOUNT // 2, script_sig=b"\x00\x00\x00\xab\x6a"),
        SCRIPT_FAILED,
        "Using OP_CODESEPARATOR in non-witness script",
    ),
} | {
    f"DisabledOpcode_OP_{name}": (
        build([IN._replace(script_sig=bytes((opcode,)))], [TxOut(1, P2SH)]),
        SCRIPT_FAILED,
        "disabled opcode",
    )
    for name, opcode in DISABLED.items()
}


class RealScripts:
    def check(self, items):
        for tx, spent in items:
            verify_transaction(tx, spent)


@pytest.fixture
def world(tools):
    world = tools.World(signatures=RealScripts())
    world.coins.data[IN.prevout] = encode_coin(0, False, AMOUNT, b"\x51")
    return world


def test_there_are_31_of_them():
    assert len(TEMPLATES) == 31


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_block_contains_it(world, tools, name):
    tx, code, _ = TEMPLATES[name]
    block = world.block()
    txs = [block.txs[0], tx]
    if tx.has_witness:  # the coinbase must commit to it, or the body would be blamed
        txs = committed(world, tools, tx)
    assert world.refusal(tools.rebuild(block, txs=txs)) == code


def committed(world, tools, tx):
    """Return coinbase and ``tx``, whose witness the coinbase commits to."""

    class Believing:
        def check(self, items):
            pass

    careful = world.env
    world.env = type(careful)(careful.params, careful.chain_id, careful.contracts, Believing())
    block = world.block([tx])
    world.env = careful
    return block.txs


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_leader_proposes_it(world, name):
    """What the mempool's checks of form let through, assembling refuses; a block of the rest is made."""
    tx, code, _ = TEMPLATES[name]
    if code in ("bad-txns-vout-empty", "bad-txns-vin-empty", "bad-txns-size-64", "bad-txns-prevout-null"):
        return  # check_transaction, which the mempool asks first
    if code.startswith(("bad-txns-vout", "bad-txns-txouttotal")):
        return
    (refused,) = world.assemble([tx]).refused
    assert refused[1].code == code


def test_the_same_with_a_script_of_a_permitted_size_is_too_many_sigops(world, tools):
    tx = build([IN], [TxOut(0, b"\xac" * 20_000)])
    block = world.block()
    assert world.refusal(tools.rebuild(block, txs=[block.txs[0], tx])) == "bad-txns-too-many-sigops"


@pytest.mark.parametrize(
    ("tx", "coin_script", "name"),
    [
        (TEMPLATES["ExtraWitness"][0], b"\x51", "WITNESS_UNEXPECTED"),
        (TEMPLATES["InvalidOPIFConstruction"][0], b"\x51", "SIG_PUSHONLY"),
        (TEMPLATES["NonStandardAndInvalid"][0], b"\x51", "SIG_PUSHONLY"),
        # Where they are allowed to stand, in the script that is spent, these have errors of their own.
        (paying(1), b"\x64" * 35, "INVALID_STACK_OPERATION"),
        (paying(1), b"\x51\x64", "UNBALANCED_CONDITIONAL"),
        (paying(1), b"\x00\x00\x00\xab\x6a", "OP_CODESEPARATOR"),
        *[(paying(1), bytes((opcode,)), "DISABLED_OPCODE") for opcode in DISABLED.values()],
        *[(paying(1), b"\x51\x00\x63%c\x68" % opcode, "DISABLED_OPCODE") for opcode in DISABLED.values()],
    ],
)
def test_errors_of_the_interpreter(tx, coin_script, name):
    """A disabled opcode fails even in a branch that is not taken (CVE-2010-5137)."""
    with pytest.raises(ScriptError) as caught:
        verify_transaction(tx, [encode_coin(0, False, AMOUNT, coin_script)])
    assert isinstance(caught.value, RuleError)
    assert caught.value.name == name
