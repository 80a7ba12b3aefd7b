"""More named histories (CONSENSUS.md, section 5.5): the voting rules by hand, disks, networks, recovery."""

from random import Random

import pytest

from consensus.bft import statements
from consensus.bft.config import Timing
from consensus.bft.quorum import faults
from consensus.bft.shown import Vote
from consensus.bft.types import (
    EC,
    QC,
    Censored,
    Committed,
    Grant,
    Kind,
    Misbehaviour,
    Prepared,
    Propose,
    Received,
    RequestVote,
    Synced,
)
from tests.simulation.cluster import TIMING, Cluster, make_proposal
from tests.simulation.pool import Pool
from tests.simulation.villains import Villain

STEADY = Timing(400, 40, 300, 60, 50, 50, 0, 5)


def running(n=4, seed=1, height=5, timing=STEADY, **options):
    cluster = Cluster(n, seed, timing=timing, **options)
    cluster.start()
    cluster.work(100)
    cluster.reach(height, 3_000)
    return cluster


def others(cluster, *out):
    gone = {node.index for node in out}
    return [node for node in cluster.nodes if node.index not in gone]


# --- the voting rules, by hand ------------------------------------------------------------------


class Script:
    """Validator 0 is Byzantine, leads every term and says what the test wants; 1, 2 and 3 are honest."""

    def __init__(self):
        self.pool = Pool(4, 0)
        self.nodes = {node.index: node for node in self.pool.honest}
        self.base = self.pool.electorate.base

    def tell(self, message, *to):
        for index in to:
            self.nodes[index].feed(Received(0, message))

    def next_term(self, term):
        """All honest give up the term before; returns nothing, the proof is in the pool."""
        for node in self.nodes.values():
            node.feed(Censored())
        self.pool.assemble_proofs()

    def granted(self, term, *voters):
        """Ask for votes, and let the slot come."""
        self.tell(RequestVote(term, 0, self.pool.proofs[term]), *voters)
        for index in voters:
            self.nodes[index].let_slot_come()

    def ec(self, term, own_lock, *voters):
        """The certificate of these voters and of our own, which reports ``own_lock``."""
        digest = statements.grant(
            self.pool.electorate, term, 0, own_lock.term, own_lock.height, own_lock.block_hash
        )
        own = Grant(0, own_lock.term, own_lock.height, own_lock.block_hash, self.pool.sign(0, digest))
        chosen = [(own, own_lock), *(self.pool.grants[term, 0][voter] for voter in voters)]
        high = max((lock for _, lock in chosen), key=lambda lock: lock.rank)
        return EC(0, term, 0, tuple(grant for grant, _ in chosen), high)

    def block(self, parent, height, term, salt=b""):
        proposal = make_proposal(parent, height, term, b"%d/%d" % (height, term) + salt)
        self.pool.blocks[proposal.block_hash] = (height, proposal)
        return proposal

    def propose(self, term, height, proposal, justify, *to, commit=None):
        digest = statements.block_vote(self.pool.electorate, Vote.PROPOSE, term, height, proposal.block_hash)
        self.tell(Propose(term, height, 0, proposal, justify, commit, self.pool.sign(0, digest)), *to)

    def voters(self, kind, term, height, proposal):
        return set(self.pool.votes.get((kind, term, height, proposal.block_hash), {}))

    def qc(self, kind, term, height, proposal):
        return self.pool._certificate(kind, term, height, proposal.block_hash)

    def first_block(self):
        """Term 1: block 1 is prepared; all honest voted for it, none has seen the certificate."""
        self.granted(1, 1, 2, 3)
        one = self.block(self.base.block_hash, 1, 1)
        self.propose(1, 1, one, self.ec(1, self.base, 1, 2, 3), 1, 2, 3)
        assert self.voters(Kind.PREPARE, 1, 1, one) >= {1, 2, 3}
        return one, self.qc(Kind.PREPARE, 1, 1, one)


def test_13_two_certificates_of_one_election():
    """Both ECs are valid, their ``high`` differ, their ranks too: a node votes by the first it sees alone."""
    script = Script()
    one, prepared_one = script.first_block()
    script.tell(Prepared(prepared_one), 1, 2, 3)
    script.tell(Committed(script.qc(Kind.COMMIT, 1, 1, one)), 1, 2, 3)
    two = script.block(one.block_hash, 2, 1)
    script.propose(1, 2, two, prepared_one, 1, 2)
    prepared_two = script.qc(Kind.PREPARE, 1, 2, two)
    three = script.block(two.block_hash, 3, 1)
    script.propose(1, 3, three, prepared_two, 1, 2)
    script.tell(Prepared(script.qc(Kind.PREPARE, 1, 3, three)), 1)
    locks = {index: node.state.lock.height for index, node in script.nodes.items()}
    assert locks == {1: 3, 2: 2, 3: 1}

    script.next_term(2)
    script.granted(2, 1, 2, 3)
    low, high = script.ec(2, script.base, 2, 3), script.ec(2, script.base, 1, 2)
    assert (low.high.height, high.high.height) == (2, 3)
    script.propose(2, 2, two, low, 2, 3)
    script.propose(2, 3, three, high, 1, 2)
    assert script.voters(Kind.PREPARE, 2, 2, two) == {2, 3}
    assert script.voters(Kind.PREPARE, 2, 3, three) == {1}, "2 has voted by the other certificate"


def test_13_the_other_way_round():
    script = Script()
    one, prepared_one = script.first_block()
    script.tell(Prepared(prepared_one), 1)
    script.next_term(2)
    script.granted(2, 1, 2, 3)
    low, high = script.ec(2, script.base, 2, 3), script.ec(2, script.base, 1, 2)
    assert (low.high.height, high.high.height) == (0, 1)
    rival = script.block(script.base.block_hash, 1, 2, b"rival")
    script.propose(2, 1, one, high, 1, 2)
    script.propose(2, 1, rival, low, 2, 3)
    assert script.voters(Kind.PREPARE, 2, 1, one) == {1, 2}
    assert script.voters(Kind.PREPARE, 2, 1, rival) == {3}


def test_14_a_certificate_that_comes_after_the_grant_gets_no_commit_vote():
    """The voter locks it, so the next election shows it, but signs nothing for a term that it left."""
    script = Script()
    one, prepared = script.first_block()
    script.next_term(2)
    script.granted(2, 1, 2)
    script.tell(Prepared(prepared), 1, 2)
    assert script.voters(Kind.COMMIT, 1, 1, one) == set()
    assert script.nodes[1].state.lock == prepared
    assert script.pool.grants[2, 0][1][1] == script.base, "the grant had left before"
    script.tell(Prepared(prepared), 3)  # 3 has given the term up, but is still in it
    assert script.voters(Kind.COMMIT, 1, 1, one) <= {3}, "two commit votes are no certificate"

    script.next_term(3)
    script.granted(3, 1, 2)
    assert script.ec(3, script.base, 1, 2).high == prepared


# --- disks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("syncs", [0, 1, 2, 5, 20, 47])
def test_21_a_full_disk_ends_one_node_and_nothing_else(syncs):
    """What cannot be saved is not sent; with space again the node comes back and has broken no promise."""
    cluster = Cluster(4, 9, timing=STEADY)
    victim = cluster.nodes[1]
    victim.syncs_left = syncs
    cluster.start()
    cluster.work(100)
    cluster.run_until(lambda: not victim.up, 10_000)
    top = max(cluster.heights())
    cluster.reach(top + 5, 6_000, others(cluster, victim))
    assert not victim.up
    victim.syncs_left = None
    victim.start()
    cluster.reach(max(cluster.heights()) + 3, 6_000)


def test_21_more_full_disks_than_tolerated_stop_the_chain_and_no_more():
    cluster = running()
    for index in (0, 1):
        cluster.nodes[index].syncs_left = 3
    cluster.run_until(lambda: not cluster.nodes[0].up and not cluster.nodes[1].up, 5_000)
    cluster.run(200)
    heights = cluster.heights()
    cluster.run(3_000)
    assert max(cluster.heights()) <= max(heights)
    for index in (0, 1):
        cluster.nodes[index].syncs_left = None
        cluster.nodes[index].start()
    cluster.reach(max(heights) + 3, 8_000)


# --- block sync ---------------------------------------------------------------------------------


def test_28_a_fork_with_too_few_signatures_is_not_followed():
    """A peer serves a laggard a chain of its own whose certificate is one signature short."""
    cluster = running(n=7, height=3)
    laggard = others(cluster, cluster.leader())[0]
    laggard.crash()
    cluster.reach(30, 10_000, others(cluster, laggard))
    laggard.start()
    height, parent = laggard.height, laggard.state.committed_hash
    fake = []
    for _ in range(5):
        height += 1
        proposal = make_proposal(parent, height, 1, b"fork %d" % height)
        laggard.volatile[proposal.block_hash] = (height, proposal)
        fake.append((height, proposal.block_hash, parent))
        parent = proposal.block_hash
    secrets = [node.config.secret for node in cluster.nodes]
    electorate = laggard.config.electorate
    digest = statements.block_vote(electorate, Vote.COMMIT, 1, height, parent)
    members = range(electorate.voters.q - 1)
    sigs = tuple(secrets[member].sign(digest) for member in members)
    short = QC(Kind.COMMIT, 0, 1, height, parent, bytes([2 ** len(members) - 1]), sigs)
    doubled = short._replace(sigs=(*sigs, sigs[0]))
    borrowed = short._replace(bitmap=bytes([2 ** (len(members) + 1) - 1]), sigs=(*sigs, sigs[0]))
    cluster.monitor.charges = False
    for qc in (short, doubled, borrowed):
        laggard.feed(Synced(2, tuple(fake), qc))
    codes = ["bad-cert-quorum", "bad-cert-bitmap", "bad-cert-signature"]
    assert laggard.misbehaviours[-3:] == [Misbehaviour(2, code) for code in codes]
    cluster.reach(max(cluster.heights()) + 2, 6_000)


# --- load ---------------------------------------------------------------------------------------


def test_29_a_flood_does_not_slow_the_leader_below_its_idle_cadence():
    """A million transactions wait for ever, checks take up to a third of the leader's silence."""
    cluster = Cluster(4, 3, timing=STEADY)
    cluster.shell_ms = (20, 130)
    cluster.start()
    cluster.work(1_000_000)
    cluster.run(9_000)
    assert min(cluster.heights()) >= 9_000 // STEADY.idle_interval_ms
    assert {node.state.cur_term for node in cluster.nodes} == {1}


# --- networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [4, 7])
def test_30_links_clog_one_by_one_and_open_in_another_order(n, seed):
    """Swizzle-clog, after FoundationDB."""
    cluster = running(n=n, seed=seed)
    rng = Random(seed)
    links = [(a, b) for a in range(n) for b in range(n) if a != b]
    chosen = rng.sample(links, rng.randint(len(links) // 2, len(links)))
    for link in chosen:
        cluster.blocked.add(link)
        cluster.run(rng.randint(1, 120))
    for link in rng.sample(chosen, len(chosen)):
        cluster.blocked.discard(link)
        cluster.run(rng.randint(1, 120))
    cluster.reach(max(cluster.heights()) + 3, 10_000)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [4, 5, 7])
def test_31_a_core_that_is_healed_converges_without_the_rest(n, seed):
    """Liveness mode, after TigerBeetle: any faults for a while, then n - f good nodes must do alone."""
    rng = Random(seed)
    cluster = Cluster(n, seed, timing=TIMING)
    cluster.drop, cluster.duplicate, cluster.crash_rate = 0.2, 0.05, 0.01
    cluster.delays_ms = (1, 300)
    cluster.start()
    cluster.work(100)
    for _ in range(5):
        cluster.blocked = {(rng.randrange(n), rng.randrange(n)) for _ in range(n)}
        cluster.run(rng.randint(100, 700))
    core = rng.sample(cluster.nodes, n - faults(n))
    cluster.heal()
    cluster.partition(
        tuple(node.index for node in core), tuple(node.index for node in others(cluster, *core))
    )
    for node in core:
        if not node.up:
            node.start()
    cluster.reach(max(cluster.heights()) + 3, 12_000, core)
    terms = {node.state.cur_term for node in core}
    assert max(terms) - min(terms) <= 1


@pytest.mark.parametrize("strategy", ["extend", "sibling"])
def test_12_and_15_a_leader_against_its_own_certificate_gets_no_vote(strategy):
    """Neither a sibling of EC.high nor a child of it before it is committed."""
    cluster = Cluster(4, 6, timing=TIMING)
    Villain(cluster.nodes[3], (strategy,), Random(2))
    cluster.start()
    cluster.work(100)
    cut = []

    def lose_commits(source, target, message):
        cut.append(1)
        return None if isinstance(message, Committed) and len(cut) % 3 else 0

    cluster.filters = [lose_commits]
    cluster.run(6_000)
    cluster.heal()
    cluster.reach(max(cluster.heights()) + 3, 8_000)
