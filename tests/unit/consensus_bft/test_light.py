"""The light client: what a proof must show, across rounds and history, and every way in which it must not."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import history
from consensus.bft import statements
from consensus.bft.certificates import bitmap_of
from consensus.bft.config import Electorate, genesis_base
from consensus.bft.quorum import quorum
from consensus.bft.shown import Vote
from consensus.bft.types import QC, Kind
from consensus.block import BlockHeader
from consensus.commitment import Commitment
from consensus.errors import DecodeError, PeerFault, RuleError
from consensus.hashes import sha256d
from consensus.keys import sign_schnorr, xonly_from_secret
from consensus.light import (
    Certified,
    CoinbaseProof,
    HistoryPath,
    RoundStep,
    Signers,
    Trust,
    TxProof,
    check_proof,
    decode_proof,
    encode_proof,
)
from consensus.merkle import branch
from consensus.transaction import Transaction, TxIn, TxOut

CHAIN = b"\x07" * 32
START_S = 1_750_000_000


def secrets(count, salt=0):
    return [(salt * 100 + at + 1).to_bytes(32, "big") for at in range(count)]


def payment(number):
    return Transaction.build(2, [TxIn(number.to_bytes(36, "little"), b"\x51")], [TxOut(number, b"\x51" * 25)])


class Ledger:
    """A chain of headers with certificates, rounds of ``length`` blocks, ``count`` signers each."""

    def __init__(self, blocks=7, length=100, count=4):
        self.sets = [secrets(count, at) for at in range(blocks // length + 2)]
        self.length = length
        self.headers, self.txs, self.signers = [], [], []
        parent, peaks = CHAIN, history.append((), 0, CHAIN)
        for height in range(1, blocks + 1):
            at = (height - 1) // length
            last = height % length == 0
            commitment = Commitment(
                effects_digest=bytes(32),
                history_root=history.root(peaks),
                set_hash=self.of(at).set_hash,
                proposer=0,
                last_bitmap=b"\x00",
                next_set_hash=self.of(at + 1).set_hash if last else None,
            )
            coinbase = Transaction.build(
                1, [TxIn(bytes(32) + b"\xff" * 4, b"\x51")], [TxOut(0, commitment.encode_script())]
            )
            txs = (coinbase, *(payment(height * 10 + number) for number in range(height % 5)))
            header = BlockHeader.build(
                version=0x20000000, prev_hash=parent, merkle_root=root_of(txs), time_s=START_S + height,
                bits=0x207FFFFF, nonce=1,
            )  # fmt: skip
            peaks = history.append(peaks, height, header.hash)
            self.headers.append(header)
            self.txs.append(txs)
            parent = header.hash

    def of(self, at):
        keys = tuple(xonly_from_secret(secret) for secret in self.sets[at])
        return Signers(at, at * self.length + 1, keys)

    def trust(self):
        return Trust(CHAIN, self.of(0), 0, CHAIN, START_S)

    def header(self, height):
        return self.headers[height - 1]

    def qc(self, height, kind=Kind.COMMIT, at=None, members=None, chain_id=CHAIN):
        at = (height - 1) // self.length if at is None else at
        keys = self.sets[at]
        members = range(quorum(len(keys))) if members is None else members
        electorate = Electorate(chain_id, self.of(at).voters(), genesis_base(chain_id))
        vote = Vote.COMMIT if kind is Kind.COMMIT else Vote.VALIDATED
        block_hash = self.header(height).hash
        digest = statements.block_vote(electorate, vote, 1, height, block_hash)
        sigs = tuple(sign_schnorr(keys[member], digest) for member in members)
        return QC(kind, at, 1, height, block_hash, bitmap_of(members, len(keys)), sigs)

    def certified(self, height, links=0, **given):
        headers = tuple(self.header(at) for at in range(height + 1, height + links + 1))
        return Certified(self.header(height), headers, self.qc(height + links, **given))

    def coinbase(self, height):
        txs = self.txs[height - 1]
        return CoinbaseProof(txs[0], branch([tx.txid for tx in txs], 0))

    def rounds(self, upto):
        steps = []
        for at in range(upto):
            height = (at + 1) * self.length
            steps.append(RoundStep(self.certified(height), self.coinbase(height), self.of(at + 1)))
        return tuple(steps)

    def proof(self, height, index=1, links=0, anchor=None, **given):
        txs = self.txs[height - 1]
        path = branch([tx.txid for tx in txs], index)
        certified = self.certified(anchor or height, links, **given)
        past = None
        if anchor is not None:
            leaves = [CHAIN, *(header.hash for header in self.headers)][:anchor]
            past = HistoryPath(self.coinbase(anchor), history.prove(leaves, height))
        rounds = self.rounds(((anchor or height) - 1) // self.length)
        return TxProof(CHAIN, txs[index], index, path, self.header(height), height, certified, past, rounds)


def root_of(txs):
    level = [tx.txid for tx in txs]
    while len(level) > 1:
        level += level[-1:] * (len(level) % 2)
        level = [sha256d(level[at] + level[at + 1]) for at in range(0, len(level), 2)]
    return level[0]


@pytest.fixture(scope="module")
def ledger():
    return Ledger()


@pytest.fixture(scope="module")
def rounds():
    """Three rounds of four blocks."""
    return Ledger(blocks=12, length=4)


def refused(trust, proof, **given):
    with pytest.raises(RuleError) as caught:
        check_proof(trust, proof, **given)
    return caught.value.code


@pytest.mark.parametrize("links", [0, 1, 2])
@pytest.mark.parametrize("height", [1, 3, 4, 5])
def test_a_final_transaction_is_proven(ledger, height, links):
    for index in range(len(ledger.txs[height - 1])):
        proof = ledger.proof(height, index, links)
        found = check_proof(ledger.trust(), decode_proof(encode_proof(proof)))
        assert (found.tx, found.height) == (ledger.txs[height - 1][index], height)
        assert found.trust == Trust(
            CHAIN, ledger.of(0), height + links, ledger.header(height + links).hash, START_S + height + links
        )


def test_changes_of_the_signers_are_followed_and_then_trusted(rounds):
    found = check_proof(rounds.trust(), decode_proof(encode_proof(rounds.proof(11))))
    assert found.trust.signers == rounds.of(2)
    again = replace(rounds.proof(12), tx=rounds.txs[11][1], rounds=())
    assert check_proof(found.trust, again).height == 12
    assert refused(rounds.trust(), again) == "light-unknown-round"


@given(height=st.integers(1, 11), data=st.data())
def test_an_old_transaction_is_proven_by_a_later_block(height, data):
    ledger = Ledger(blocks=12, length=4)
    anchor = data.draw(st.integers(height + 1, 12))
    index = data.draw(st.integers(0, len(ledger.txs[height - 1]) - 1))
    proof = ledger.proof(height, index, anchor=anchor)
    now_knows = check_proof(ledger.trust(), proof).trust
    direct = replace(proof, rounds=())
    assert check_proof(now_knows, direct).height == height
    other = data.draw(st.integers(0, 12).filter(lambda at: at != height))
    assert refused(now_knows, replace(direct, height=other)) == "light-bad-history"


def test_a_proof_of_22_validators_is_small():
    ledger = Ledger(blocks=8, length=4, count=22)
    assert len(encode_proof(ledger.proof(4, links=0))) < 10 * 1024
    assert len(encode_proof(ledger.proof(8))) < 10 * 1024
    assert check_proof(ledger.trust(), ledger.proof(8)).height == 8


def change(ledger, name):
    """Return a proof with one thing wrong, and the code that it must be refused with."""
    good = ledger.proof(3)
    certified, header = good.certified, good.header
    qc = certified.certificate
    txs = ledger.txs[2]
    forged = BlockHeader.build(
        version=1, prev_hash=header.prev_hash, merkle_root=bytes(32), time_s=1, bits=1, nonce=1
    )
    cases = {
        "prepared only": (replace(good, certified=ledger.certified(3, kind=Kind.PREPARE)), "bad-qc-kind"),
        "fewer than a quorum": (
            replace(good, certified=ledger.certified(3, members=(0, 1))),
            "bad-cert-quorum",
        ),
        "a signer twice": (
            replace(good, certified=replace(certified, certificate=qc._replace(sigs=(qc.sigs[0],) * 3))),
            "bad-cert-signature",
        ),
        "more bits than signatures": (
            replace(good, certified=replace(certified, certificate=qc._replace(bitmap=b"\x0f"))),
            "bad-cert-bitmap",
        ),
        "signed for another chain": (
            replace(good, certified=ledger.certified(3, chain_id=bytes(32))),
            "bad-cert-signature",
        ),
        "another chain": (replace(good, chain_id=bytes(32)), "light-wrong-chain"),
        "another height": (
            replace(good, certified=replace(certified, certificate=qc._replace(height=4)), height=4),
            "bad-cert-signature",
        ),
        "a height that is not certified": (replace(good, height=4), "light-bad-history"),
        "another header": (replace(good, header=forged), "light-bad-history"),
        "links that do not follow": (
            replace(
                good,
                certified=Certified(header, (ledger.header(5),), ledger.qc(5)),
            ),
            "light-bad-link",
        ),
        "too many links": (replace(good, certified=ledger.certified(3, links=3)), "light-bad-link"),
        "the certificate of a sibling": (
            replace(good, certified=Certified(header, (), ledger.qc(4))),
            "light-bad-link",
        ),
        "another transaction": (replace(good, tx=payment(99)), "light-bad-branch"),
        "another place": (replace(good, index=2), "light-bad-branch"),
        "a place outside the tree": (replace(good, index=1 + (1 << len(good.branch))), "light-bad-branch"),
        "a cut branch": (replace(good, branch=good.branch[:-1]), "light-bad-branch"),
        "a branch for ever": (replace(good, branch=good.branch * 20), "light-bad-branch"),
        "an uncommitted block": (
            replace(good, certified=Certified(forged, (), qc), header=forged),
            "light-bad-link",
        ),
        "the wrong witness of a coinbase": (replace(good, tx=txs[0]), "light-bad-branch"),
    }
    return cases[name]


@pytest.mark.parametrize(
    "name",
    [
        "prepared only", "fewer than a quorum", "a signer twice", "more bits than signatures",
        "signed for another chain", "another chain", "another height", "a height that is not certified",
        "another header", "links that do not follow", "too many links", "the certificate of a sibling",
        "another transaction", "another place", "a place outside the tree", "a cut branch",
        "a branch for ever", "an uncommitted block", "the wrong witness of a coinbase",
    ],
)  # fmt: skip
def test_what_proves_nothing_is_refused(ledger, name):
    proof, code = change(ledger, name)
    assert refused(ledger.trust(), proof) == code


def test_the_copy_of_a_repeated_leaf_is_no_second_transaction():
    """CVE-2012-2459: with an odd number of leaves the last one stands twice in the tree."""
    ledger = Ledger(blocks=2)
    txs = ledger.txs[1]
    assert len(txs) == 3
    good = ledger.proof(2, index=2)
    assert check_proof(ledger.trust(), good).tx == txs[2]
    assert refused(ledger.trust(), replace(good, index=3)) == "light-bad-branch"


def test_an_inner_node_is_no_transaction(ledger):
    """CVE-2017-12842: a transaction of 64 bytes is the hash of two nodes."""
    tx = Transaction.build(2, [TxIn(bytes(36), b"")], [TxOut(0, b"\x51" * 4)])
    assert len(tx.raw) == 64
    assert refused(ledger.trust(), replace(ledger.proof(3), tx=tx)) == "light-bad-transaction"


def test_steps_between_rounds_that_lead_nowhere(rounds):
    good = rounds.proof(7)
    (step,) = good.rounds

    def changed(**given):
        return refused(rounds.trust(), replace(good, rounds=(replace(step, **given),)))

    assert changed(signers=replace(step.signers, keys=step.signers.keys[::-1])) == "light-bad-set"
    assert changed(signers=replace(step.signers, round=0)) == "light-unknown-round"
    assert changed(signers=replace(step.signers, round=2)) == "light-bad-set"
    assert changed(signers=replace(step.signers, first_height=6)) == "light-bad-set"
    assert changed(coinbase=rounds.coinbase(3)) == "light-bad-branch"
    assert changed(boundary=rounds.certified(3), coinbase=rounds.coinbase(3)) == "light-bad-set"
    assert changed(boundary=rounds.certified(4, at=1)) == "light-unknown-round"
    twins = replace(step.signers, keys=(step.signers.keys[0],) * 4)
    assert changed(signers=twins) == "light-bad-set"
    # Signatures of the old set say nothing after the change.
    assert (
        refused(rounds.trust(), replace(good, certified=rounds.certified(7, at=0))) == "light-unknown-round"
    )
    skipped = replace(rounds.proof(9), rounds=rounds.rounds(2)[1:])
    assert refused(rounds.trust(), skipped) == "light-unknown-round"


def test_a_rival_of_the_trusted_block_is_told(ledger):
    trust = replace(ledger.trust(), height=3, block_hash=ledger.header(3).hash)
    assert check_proof(trust, ledger.proof(3)).height == 3
    assert refused(replace(trust, block_hash=ledger.header(4).hash), ledger.proof(3)) == "light-conflict"


def test_old_trust_and_old_blocks_are_refused_where_asked(ledger):
    proof = ledger.proof(3)
    assert check_proof(ledger.trust(), proof, now_s=START_S + 10, trusting_period_s=10).height == 3
    expired = {"now_s": START_S + 11, "trusting_period_s": 10}
    assert refused(ledger.trust(), proof, **expired) == "light-trust-expired"
    assert check_proof(ledger.trust(), proof, window_s=(START_S + 3, START_S + 3)).height == 3
    assert refused(ledger.trust(), proof, window_s=(START_S + 4, START_S + 9)) == "light-time-outside"


def test_damaged_bytes_never_prove_and_never_crash(rounds):
    seed = Random().getrandbits(32)
    print(f"seed {seed}")
    rng = Random(seed)
    proof = rounds.proof(9, index=2, links=1)
    data = encode_proof(proof)
    assert decode_proof(data) == proof
    for _ in range(400):
        bad = bytearray(data)
        at = rng.randrange(len(bad))
        bad[at] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            del bad[at : at + rng.randrange(1, 40)]
        try:
            found = check_proof(rounds.trust(), decode_proof(bytes(bad)))
        except PeerFault:
            continue
        # Only what no rule binds may differ: the witness of the transaction, and the coinbases' witnesses.
        assert (found.tx.txid, found.height) == (proof.tx.txid, proof.height)


@pytest.mark.parametrize("data", [b"", b"\x90", b"\xc0", bytes(40), b"\x9c" + b"\xc0" * 12])
def test_other_bytes_are_no_proof(data):
    with pytest.raises(DecodeError):
        decode_proof(data)
