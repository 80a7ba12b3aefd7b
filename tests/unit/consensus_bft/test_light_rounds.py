"""A light client over a million blocks with changing validators: step by step, skipping, and under attack."""

from dataclasses import replace
from random import Random

import pytest

from consensus.bft import statements
from consensus.bft.certificates import bitmap_of
from consensus.bft.config import Electorate, genesis_base
from consensus.bft.evidence import check_evidence
from consensus.bft.quorum import faults, quorum
from consensus.bft.shown import Vote
from consensus.bft.types import QC, Kind
from consensus.block import BlockHeader
from consensus.commitment import Commitment
from consensus.errors import DecodeError, RuleError
from consensus.keys import sign_schnorr, xonly_from_secret
from consensus.light import (
    Certified,
    CoinbaseProof,
    RoundStep,
    Signers,
    Trust,
    decode_steps,
    encode_step,
    encode_steps,
    follow,
    next_signers,
)
from consensus.light_conflict import evidence_in, find_conflict
from consensus.light_limits import MAX_ROUND_STEPS
from consensus.rounds import SET, SetRecord, encode_set
from consensus.transaction import Transaction, TxIn, TxOut
from node.proofs import make_steps, step_to

CHAIN = b"\x09" * 32
START_S = 1_750_000_000
DAY_S = 86_400
FRESH = {"now_s": START_S + 20 * DAY_S, "trusting_period_s": 30 * DAY_S, "skipping": True}


class Rounds:
    """Boundary blocks of ``count`` rounds of ``length`` blocks: all that the sync of a light client reads.

    In each round ``turnover`` of ``n`` delegates give their place to others of ``pool`` organisations.
    """

    params = None
    chain_id = CHAIN

    def __init__(self, count, length, *, n=4, pool=8, turnover=1, seed=0, restarts=()):
        rng = Random(seed)
        self.length = length
        self.restarts = set(restarts)
        everybody = [(at + 1).to_bytes(32, "big") for at in range(pool)]
        self.keys = {secret: xonly_from_secret(secret) for secret in everybody}
        chosen = everybody[:n]
        self.sets = [tuple(chosen)]
        for _ in range(count):
            outside = [each for each in everybody if each not in chosen]
            for newcomer in rng.sample(outside, turnover):
                chosen[rng.randrange(n)] = newcomer
            self.sets.append(tuple(chosen))
        self.steps = [self.step(number) for number in range(count)]

    def signers(self, number, secrets=None):
        keys = tuple(self.keys[secret] for secret in secrets or self.sets[number])
        return Signers(number, number * self.length + 1, keys)

    def step(self, number, *, following=None, chain_id=CHAIN, members=None, own=None, **given):
        """Return the end of round ``number``; ``given`` changes what its certificate says."""
        following = following or self.signers(number + 1)
        commitment = Commitment(
            effects_digest=bytes(32),
            history_root=bytes(32),
            set_hash=(own or self.signers(number)).set_hash,
            proposer=0,
            last_bitmap=b"\x00",
            next_set_hash=following.set_hash,
        )
        coinbase = Transaction.build(
            1, [TxIn(bytes(32) + b"\xff" * 4, b"\x51")], [TxOut(0, commitment.encode_script())]
        )
        header = BlockHeader.build(
            version=1,
            prev_hash=bytes(32),
            merkle_root=coinbase.txid,
            time_s=START_S + number,
            bits=1,
            nonce=1,
        )
        qc = self.certify(number, header.hash, chain_id=chain_id, members=members, **given)
        return RoundStep(Certified(header, (), qc), CoinbaseProof(coinbase, ()), following)

    def certify(
        self, number, block_hash, *, chain_id=CHAIN, members=None, kind=Kind.COMMIT, term=1, height=None
    ):
        secrets = self.sets[number]
        members = range(quorum(len(secrets))) if members is None else members
        electorate = Electorate(chain_id, self.signers(number).voters(), genesis_base(chain_id))
        height = (number + 1) * self.length if height is None else height
        vote = Vote.COMMIT if kind is Kind.COMMIT else Vote.VALIDATED
        digest = statements.block_vote(electorate, vote, term, height, block_hash)
        sigs = tuple(sign_schnorr(secrets[member], digest) for member in members)
        return QC(kind, number, term, height, block_hash, bitmap_of(members, len(secrets)), sigs)

    def trust(self, number=0):
        return Trust(CHAIN, self.signers(number), number * self.length, bytes(32), START_S + number)

    # what node.proofs reads of a node

    def state(self):
        return self

    def get(self, key):
        number = int.from_bytes(key[len(SET) :], "big")
        if not key.startswith(SET) or number >= len(self.sets):
            return None
        found = self.signers(number)
        return encode_set(SetRecord(found.first_height, number, found.keys, ()))

    def round_end(self, height):
        number = height // self.length - 1
        return None if number + 1 in self.restarts else encode_step(self.steps[number])


def refused(trust, steps, **given):
    with pytest.raises(RuleError) as caught:
        follow(trust, steps, **given)
    return caught.value.code


@pytest.fixture(scope="module")
def chain():
    return Rounds(6, 100)


# ---- a million blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "pool", "turnover", "rounds"), [(4, 8, 1, 1_000), (21, 60, 2, 200), (7, 30, 2, 500)]
)
def test_33_a_million_blocks_followed_and_skipped_lead_to_the_same_trust(n, pool, turnover, rounds):
    source = Rounds(rounds, 1_000_000 // rounds, n=n, pool=pool, turnover=turnover, seed=n)
    believed = source.trust(1)
    known = 1
    while known < rounds:
        page = make_steps(source, known, rounds)
        assert 0 < len(page) <= MAX_ROUND_STEPS
        believed = follow(believed, decode_steps(encode_steps(CHAIN, page))[1])
        known = believed.signers.round
    assert believed.height == 1_000_000
    assert believed.signers == source.signers(rounds)
    skipped, at, hops = source.trust(1), 1, 0
    while at < rounds:
        page = make_steps(source, at, rounds, skipping=True)
        skipped = follow(skipped, decode_steps(encode_steps(CHAIN, page))[1], **FRESH)
        at, hops = skipped.signers.round, hops + len(page)
    assert skipped == believed
    print(f"n {n}: {hops} steps instead of {rounds - 1}")
    assert hops < rounds - 1


def test_a_set_that_stays_is_followed_in_one_step():
    source = Rounds(50, 10, turnover=0)
    (step,) = make_steps(source, 1, 50, skipping=True)
    assert follow(source.trust(1), [step], **FRESH).signers == source.signers(50)


def test_a_set_that_changes_as_a_whole_is_followed_round_by_round():
    source = Rounds(9, 10, n=4, pool=100, turnover=0)
    everybody = list(source.keys)
    source.sets = [tuple(everybody[at * 4 : at * 4 + 4]) for at in range(10)]
    source.steps = [source.step(number) for number in range(9)]
    steps = make_steps(source, 1, 9, skipping=True)
    assert [step.voters for step in steps] == [None] * 8
    assert follow(source.trust(1), steps, **FRESH).signers == source.signers(9)


def test_the_size_of_a_step():
    for n, most in ((4, 900), (21, 2_700), (22, 2_800), (50, 5_200)):
        source = Rounds(2, 10, n=n, pool=n + 1)
        print(n, len(encode_step(source.steps[1])))
        assert len(encode_step(source.steps[1])) < most


def test_only_a_skip_leads_over_a_restart():
    source = Rounds(6, 10, n=4, pool=8, turnover=0, restarts=(3,))
    with pytest.raises(RuleError) as caught:
        step_to(source, 3)
    assert caught.value.code == "proof-unavailable"
    with pytest.raises(RuleError):
        make_steps(source, 1, 6)
    steps = make_steps(source, 1, 6, skipping=True)
    assert follow(source.trust(1), steps, **FRESH).signers == source.signers(6)


def test_a_round_that_restarts_at_once_is_not_the_one_that_was_elected():
    """The block before both is the same, and what it proves is of the first."""
    source = Rounds(4, 10)
    source.steps[2] = replace(source.steps[2], signers=replace(source.signers(3), round=2))
    with pytest.raises(RuleError, match="restart"):
        step_to(source, 3)


# ---- attacks (CONSENSUS.md, section 4.4) -----------------------------------------------------------------


def changed(chain, number, **given):
    return [replace(chain.steps[number], **given)]


def with_qc(chain, number, **given):
    step = chain.steps[number]
    qc = step.boundary.certificate._replace(**given)
    return [replace(step, boundary=replace(step.boundary, certificate=qc))]


def test_a_quorum_is_computed_and_not_told(chain):
    few = chain.step(0, members=(0, 1))
    assert refused(chain.trust(), [few]) == "bad-cert-quorum"


def test_a_signer_counts_once(chain):
    sig = chain.steps[0].boundary.certificate.sigs[0]
    assert refused(chain.trust(), with_qc(chain, 0, sigs=(sig,) * 3)) == "bad-cert-signature"
    assert refused(chain.trust(), with_qc(chain, 0, bitmap=b"\x01")) == "bad-cert-bitmap"


def test_the_old_set_says_nothing_after_a_change(chain):
    """Former delegates, still with their keys, sign the end of a round that is not theirs."""
    following = chain.signers(3, chain.sets[0])
    forged = replace(chain.step(0, following=following, height=300), signers=following)
    later = follow(chain.trust(), chain.steps[:2])
    assert refused(later, [forged]) == "light-unknown-round"
    relabelled = forged.boundary.certificate._replace(round=2)
    renamed = replace(forged, boundary=replace(forged.boundary, certificate=relabelled))
    assert refused(later, [renamed]) == "bad-cert-signature"


def test_a_set_has_no_key_twice(chain):
    following = replace(chain.signers(1), keys=(chain.signers(1).keys[0],) * 4)
    twins = follow(
        chain.trust(), [chain.step(0, following=following)]
    )  # the quorum lied about its successors
    assert refused(twins, chain.steps[1:2]) == "light-bad-set"
    voters = replace(chain.signers(3), keys=(chain.signers(3).keys[0],) * 4)
    assert refused(chain.trust(), changed(chain, 3, voters=voters), **FRESH) == "light-bad-set"


def test_prepared_is_not_committed(chain):
    assert refused(chain.trust(), [chain.step(0, kind=Kind.PREPARE)]) == "bad-qc-kind"


def test_another_chain_signs_nothing_here(chain):
    assert refused(chain.trust(), [chain.step(0, chain_id=bytes(32))]) == "bad-cert-signature"


def test_a_header_at_another_height(chain):
    assert refused(chain.trust(), with_qc(chain, 0, height=99)) == "bad-cert-signature"
    other = chain.step(0, height=99)
    assert refused(chain.trust(), [other]) == "light-bad-set"


def test_the_next_set_must_be_the_one_committed(chain):
    others = chain.signers(1, list(chain.keys)[4:])
    assert refused(chain.trust(), changed(chain, 0, signers=others)) == "light-bad-set"
    wrong = replace(chain.signers(1), round=2)
    assert refused(chain.trust(), changed(chain, 0, signers=wrong)) == "light-bad-set"


def test_what_a_quorum_says_of_its_own_successors_must_make_sense(chain):
    for following in (replace(chain.signers(1), round=2), replace(chain.signers(1), first_height=102)):
        step = chain.step(0, following=following)
        assert refused(chain.trust(), [step]) == "light-bad-set"
    assert refused(chain.trust(), [chain.step(0, own=chain.signers(1))]) == "light-bad-set"


def test_a_set_signs_nothing_before_its_first_height(chain):
    later = follow(chain.trust(), chain.steps[:1])
    assert refused(later, [chain.step(1, height=50)]) == "light-bad-link"


def test_rounds_cannot_be_left_out(chain):
    assert refused(chain.trust(), chain.steps[1:]) == "light-unknown-round"
    assert refused(chain.trust(), [chain.steps[0], chain.steps[2]]) == "light-unknown-round"


def test_what_the_client_is_past_changes_nothing(chain):
    """So a proof that was made for a former trust holds with a newer one."""
    reached = follow(chain.trust(), chain.steps[:3])
    assert follow(chain.trust(), [*chain.steps[:2], *chain.steps[:3]]) == reached
    assert follow(reached, chain.steps[:3]) == reached
    assert follow(reached, chain.steps) == follow(chain.trust(), chain.steps)
    back = [replace(chain.steps[0], signers=replace(chain.signers(3), round=0))]
    assert follow(reached, back) == reached
    rival = [chain.step(1, following=chain.signers(2, list(chain.keys)[4:]), members=(1, 2, 3))]
    assert find_conflict(reached, rival, chain.steps) is None


def test_an_expired_trust_follows_nothing(chain):
    late = {"now_s": START_S + 31 * DAY_S, "trusting_period_s": 30 * DAY_S}
    assert refused(chain.trust(), chain.steps, **late) == "light-trust-expired"
    assert refused(chain.trust(), chain.steps, **late, skipping=True) == "light-trust-expired"


def test_skipping_is_for_whoever_asks_for_it_with_a_trust_of_known_age(chain):
    steps = changed(chain, 1, voters=chain.signers(1))
    assert follow(chain.trust(), steps, **FRESH).signers == chain.signers(2)
    for given in ({}, {"skipping": True}, FRESH | {"skipping": False}, FRESH | {"now_s": None}):
        assert refused(chain.trust(), steps, **given) == "light-skip-refused"


def test_f_members_of_the_trusted_set_are_too_few_to_skip():
    """One corrupt delegate of four, with strangers: a set of their own that certifies anything."""
    chain = Rounds(1, 10, n=7, pool=14, turnover=0)
    f = faults(7)
    for known in range(5):
        mine = list(chain.keys)[:known] + list(chain.keys)[7 : 14 - known]
        liars = Rounds(0, 10, n=7, pool=14)
        liars.sets = [chain.sets[0], tuple(mine)]
        step = liars.step(1, following=liars.signers(2, list(chain.keys)[7:]), members=range(5))
        step = replace(step, voters=liars.signers(1))
        if known > f:
            assert follow(chain.trust(), [step], **FRESH).signers == step.signers
        else:
            assert refused(chain.trust(), [step], **FRESH) == "light-skip-unknown"


def test_members_that_are_in_the_set_but_did_not_sign_do_not_vouch():
    chain = Rounds(3, 10, n=4, pool=12, turnover=0)
    everybody = list(chain.keys)
    # Two old members keep their seats, but the three others sign. With n = 5 a quorum is 4, so take 7.
    chain.sets = [tuple(everybody[:4]), tuple(everybody[:2] + everybody[4:9]), tuple(everybody[4:8])]
    step = replace(chain.step(1, members=range(2, 7)), voters=chain.signers(1))
    assert refused(chain.trust(), [step], **FRESH) == "light-skip-unknown"
    vouched = replace(chain.step(1, members=range(5)), voters=chain.signers(1))
    assert follow(chain.trust(), [vouched], **FRESH).signers == chain.signers(2)


def test_a_skip_never_leads_back(chain):
    later = follow(chain.trust(), chain.steps[:3])
    for number in (0, 2):
        assert follow(later, changed(chain, number, voters=chain.signers(number)), **FRESH) == later
    for voters in (chain.signers(3), chain.signers(2)):
        assert refused(later, changed(chain, 3, voters=voters), **FRESH).startswith(
            ("light-bad", "light-unk")
        )


def test_a_set_that_was_never_chosen_has_no_votes(chain):
    """Honest members sign for their real set; their votes do not fit another with the same members in it."""
    step = chain.steps[2]
    mixed = (*chain.sets[2][:3], next(each for each in chain.keys if each not in chain.sets[2]))
    voters = chain.signers(2, mixed)
    assert refused(chain.trust(), [replace(step, voters=voters)], **FRESH) == "bad-cert-signature"


def test_a_rival_of_a_trusted_block_is_told(chain):
    reached = follow(chain.trust(), chain.steps[:1])
    back = replace(reached, signers=chain.signers(0))
    rival = chain.step(0, following=chain.signers(1, list(chain.keys)[4:]))
    assert refused(back, [rival]) == "light-conflict"
    assert follow(back, chain.steps[:1]) == reached


@pytest.mark.parametrize("term", [1, 5])
def test_two_certified_next_sets_are_found_and_kept(chain, term):
    rival = chain.step(1, following=chain.signers(2, list(chain.keys)[4:]), members=(1, 2, 3), term=term)
    mine, theirs = chain.steps[:3], [chain.steps[0], rival]
    follow(chain.trust(), mine)
    follow(chain.trust(), theirs)
    assert find_conflict(chain.trust(), mine, chain.steps) is None
    conflict = find_conflict(chain.trust(), mine, theirs)
    assert conflict.round == 1
    assert len(conflict.liars) == 2 > faults(4)
    found = evidence_in(conflict)
    electorate = Electorate(CHAIN, chain.signers(1).voters(), genesis_base(CHAIN))
    for each in found:
        check_evidence(electorate, each)
    assert [each.offender for each in found] == ([1, 2] if term == 1 else [])


def test_a_conflict_between_two_sets_of_one_round_convicts_nobody_by_itself(chain):
    impostors = Rounds(0, 100)
    impostors.sets = [chain.sets[0], (*chain.sets[0][:2], *list(chain.keys)[4:6])]
    step = impostors.step(1, following=impostors.signers(2, list(chain.keys)[4:]))
    theirs = [replace(step, voters=impostors.signers(1))]
    follow(chain.trust(), theirs, **FRESH)
    conflict = find_conflict(chain.trust(), chain.steps, theirs)
    assert conflict.one.signers != conflict.other.signers
    assert evidence_in(conflict) == ()
    assert conflict.liars


def test_a_conflict_shows_between_a_follower_and_one_who_skips(chain):
    rival = chain.step(2, following=chain.signers(3, list(chain.keys)[4:]), members=(1, 2, 3))
    skipped = replace(rival, voters=chain.signers(2))
    follow(chain.trust(1), [skipped], **FRESH)
    assert find_conflict(chain.trust(1), chain.steps[1:], [skipped]).round == 2


# ---- bytes -----------------------------------------------------------------------------------------------


def test_pages_are_read_as_they_were_written(chain):
    steps = (chain.steps[0], replace(chain.steps[2], voters=chain.signers(2)))
    assert decode_steps(encode_steps(CHAIN, steps)) == (CHAIN, steps)
    assert next_signers(CHAIN, chain.signers(0), decode_steps(encode_steps(CHAIN, steps))[1][0])


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x93\x02\xc4\x00\x90", b"\x90"])
def test_other_bytes_are_no_page(data):
    with pytest.raises(DecodeError):
        decode_steps(data)


def test_a_page_has_its_limit(chain):
    assert len(decode_steps(encode_steps(CHAIN, chain.steps[:1] * MAX_ROUND_STEPS))[1]) == MAX_ROUND_STEPS
    with pytest.raises(DecodeError):
        decode_steps(encode_steps(CHAIN, chain.steps[:1] * (MAX_ROUND_STEPS + 1)))


def test_a_flipped_bit_never_leads_elsewhere(chain):
    seed = Random().getrandbits(32)
    print(f"seed {seed}")
    rng = Random(seed)
    data = encode_steps(CHAIN, chain.steps[:2])
    wanted = follow(chain.trust(), chain.steps[:2])
    for _ in range(200):
        bad = bytearray(data)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        try:
            reached = follow(chain.trust(), decode_steps(bytes(bad))[1])
        except (DecodeError, RuleError):
            continue
        assert reached == wanted
