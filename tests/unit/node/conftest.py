"""A node without processes or sockets: real rules, contracts, store and engine; a clock that tests set."""

import asyncio
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from random import Random

import pytest

from cext import sha256d
from consensus.bft.codec import encode_qc
from consensus.bft.config import Timing
from consensus.bft.types import QC, Kind, Start
from consensus.block import Block, BlockHeader
from consensus.genesis import genesis_block
from consensus.merkle import txid_root
from consensus.params import Allocation
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from contracts.api import EnergyContracts
from contracts.operations import encode, payload_script
from node import driver
from node.admission import Admission
from node.chainstate import ChainState
from node.driver import BftDriver
from node.evidence import EvidenceBook
from node.indexer import Indexer
from node.keyfile import Secret, generate_keys
from node.mempool import Mempool, Staging
from node.reveals import Reveals
from node.rounds import Promises, VoteKeys
from node.sigcheck import SignatureVerifier
from node.testnet import ChainPlan, Founder
from node.wallet import Account
from storage.store import ChainStore

TOKEN = 100_000_000
COINS = 40
FEE = 1_000
WAIT_S = 5.0
FAST = Timing(
    progress_timeout_ms=2_000,
    slot_step_ms=1,
    idle_interval_ms=5,
    block_interval_ms=1,
    min_batch_txs=1,
    tenure_blocks=0,
)


def account(number):
    return Account(Secret(number.to_bytes(32, "big")))


RICH = account(7)
"""Owns COINS genesis coins of one token each."""
OTHER = account(8)


@dataclass
class Chain:
    """The parameters of a chain of ``founders`` validators, and their keys; ``bft`` as in its chain file."""

    founders: int
    bft: dict = field(default_factory=dict)
    plan: ChainPlan = field(init=False)
    keys: list = field(init=False)

    def __post_init__(self):
        names = [Founder("grid", "grid-operator")]
        names += [Founder(f"provider-{at}", "service-provider") for at in range(1, self.founders)]
        self.keys = [generate_keys(Random(at).randbytes) for at in range(self.founders)]
        self.stranger = generate_keys(Random(1_000).randbytes)
        self.plan = ChainPlan(allocations=(Allocation(RICH.script, TOKEN),) * COINS)
        self.params = self.plan.params(list(zip(names, self.keys, strict=True)))
        self.params = replace(self.params, bft=replace(self.params.bft, max_drift_s=2, **self.bft))
        self.genesis = genesis_block(self.params, EnergyContracts(self.params))

    def coin(self, number):
        """Return the prevout of the account's genesis coin ``number``."""
        return outpoint(self.genesis.txs[0].txid, self.founders + number)


class FakeClock:
    """Chain time and monotonic time, moved by the test."""

    def __init__(self):
        self.time_s = 1_700_000_100
        self.ms = 1_000

    def now_s(self):
        return self.time_s

    def monotonic_ms(self):
        return self.ms


class RealTime(FakeClock):
    """Monotonic time as it is: for engines that run by themselves."""

    def monotonic_ms(self):
        return int(asyncio.get_running_loop().time() * 1000)


class FakeLinks:
    """Notes what the driver sends; ``up`` are the validators that are connected."""

    def __init__(self):
        self.up = []
        self.sent = []
        self.broadcasts = []
        self.validators = []
        self.asked_txs = []
        self.asked_bodies = []
        self.punished = []

    def set_validators(self, identities):
        self.validators.append(list(identities))

    def send(self, validator, payload):
        self.sent.append((validator, payload))
        return validator in self.up

    def broadcast(self, payload):
        self.broadcasts.append(payload)

    def connected(self):
        return list(self.up)

    def ask_txs(self, validator, block_hash, wtxids):
        self.asked_txs.append((validator, block_hash, list(wtxids)))
        return validator in self.up

    def ask_body(self, validator, block_hash):
        self.asked_bodies.append((validator, block_hash))
        return validator in self.up

    def punish(self, validator, code):
        self.punished.append((validator, code))


class Ear:
    """The driver's listener; ``reach`` waits for a height."""

    def __init__(self):
        self.blocks = []
        self.errors = []
        self.alarms, self.events = [], []
        self.changed = asyncio.Event()

    def on_event(self, name, fields):
        self.events.append((name, fields))

    def on_alarm(self, name, fields):
        self.alarms.append((name, fields))
        self.changed.set()

    def on_commit(self, block, connected, evicted):
        self.blocks.append((block, connected, evicted))
        self.changed.set()

    def on_fatal(self, error):
        self.errors.append(error)
        self.changed.set()

    async def reach(self, height):
        async with asyncio.timeout(WAIT_S):
            while not self.errors and (not self.blocks or self.blocks[-1][1].tip.height < height):
                self.changed.clear()
                await self.changed.wait()
        assert not self.errors


class Node:
    """One node over ``path``; ``me`` is its index among the validators, None for a follower."""

    def __init__(
        self,
        path,
        chain,
        me=None,
        *,
        clock=None,
        max_bytes=1 << 20,
        contracts=None,
        address_index=False,
        restarts=None,
    ):
        self.path, self.params, self.given = path, chain.params, chain
        self.me = me
        self.clock = clock or FakeClock()
        self.contracts = contracts or EnergyContracts(chain.params)
        self.store = ChainStore.open(path, chain_id=chain.genesis.hash)
        self.indexer = Indexer(self.store, tx_index=True, address_index=address_index)
        self.verifier = SignatureVerifier(self.contracts)
        trial = partial(self.contracts.open, metered=False)
        self.chain = ChainState(
            self.store,
            chain.genesis,
            chain.params,
            self.contracts,
            trial,
            self.verifier,
            restarts=restarts,
        )
        self.mempool = Mempool(self.chain.ground(), self.contracts, chain.params.ledger, max_bytes=max_bytes)
        self.accepted, self.refused = [], []
        self.links = FakeLinks()
        self.vote_log = None
        self.driver = None

    def close(self):
        if self.driver is not None:
            self.driver.stop()
        if self.vote_log is not None:
            self.vote_log.close()
        self.verifier.close()
        self.indexer.close()
        self.store.close()

    # ---- parts

    @property
    def keys(self):
        """Return the keys of this node; a follower's are those of nobody."""
        return self.given.stranger if self.me is None else self.given.keys[self.me]

    def open_admission(self):
        self.admission = Admission(
            self.mempool,
            self.verifier,
            self.clock,
            on_accepted=self.accepted.extend,
            on_refused=lambda job, fault, blame: self.refused.append((job, fault.code, blame)),
        )
        return self.admission

    def open_driver(self, timing=FAST):
        """Restore the engine as ``node.app`` does."""
        promises = Promises.open(self.path / "votes.wal", self.chain, VoteKeys.of(self.keys), timing)
        self.vote_log = promises.log
        self.ear = Ear()
        self.driver = BftDriver(
            promises,
            chain=self.chain,
            mempool=self.mempool,
            find_tx=self.mempool.by_wtxid,
            clock=self.clock,
            reveals=Reveals(self.keys.vote, self.chain.chain_id),
            evidence=EvidenceBook(self.path / "evidence.bin"),
            links=self.links,
            listener=self.ear,
        )
        return self.driver

    # ---- shortcuts

    def add(self, tx):
        """Put a transaction into the pool, signatures unseen; return its entry."""
        entry = self.mempool.check(tx, Staging(), self.clock.now_s())
        self.mempool.add(entry)
        return entry

    def build(self, txs=(), *, parent=None, time_s=None, term=1, proposer=0):
        """Build a block and leave it as a candidate."""
        made = self.chain.build(
            parent or self.chain.tip.block_hash,
            lambda exclude: list(txs),
            time_s=time_s or self.clock.now_s(),
            term=term,
            proposer=proposer,
            last_bitmap=bytes((len(self.params.bft.validators) + 7) // 8),
        )
        assert made.refused == []
        return made.block

    def extend(self, txs=(), **given):
        """Build a block and commit it."""
        block = self.build(txs, **given)
        return self.chain.commit(block.hash, b"certificate %d" % self.chain.tip.height)

    def grow(self, rounds, *, size=2, above=0):
        """End so many rounds of ``size`` blocks and go on with ``above`` more; nobody signs anything.

        Returns (blocks, certificate of the last) for each round, as block sync brings them.
        """
        if not self.chain.tip.height:
            self.clock.time_s = self.params.genesis_time_s + 1
        sizes = [size] * rounds + [above] * (above > 0)
        return [self._grow_one(count, at < rounds) for at, count in enumerate(sizes)]

    def _grow_one(self, count, ends):
        found, blocks, certificate = self.chain.round, [], b""
        for at in range(count):
            self.clock.time_s += self.params.bft.round_s * (ends and at == count - 1)
            block = self.build(term=found.base_term + 1)
            height = self.chain.tip.height + 1
            certificate = encode_qc(
                QC(Kind.COMMIT, found.number, block.header.nonce, height, block.hash, b"", ())
            )
            self.chain.commit(block.hash, certificate)
            blocks.append(block)
        assert self.chain.round.number == found.number + ends
        return blocks, certificate

    def follow(self, segment):
        """Execute and commit what ``grow`` of another node returned for one round."""
        blocks, certificate = segment
        for block in blocks:
            self.chain.execute(block, self.chain.tip.block_hash, certified=True)
            self.chain.commit(block.hash, certificate)


def pay(prevouts, amount=TOKEN // 2, *, payer=RICH, have=TOKEN, to=OTHER, fee=FEE, **given):
    """Spend coins of ``payer`` worth ``have`` each; change comes back as output 1."""
    prevouts = [prevouts] if isinstance(prevouts, bytes) else prevouts
    rest = have * len(prevouts) - amount - fee
    outputs = [TxOut(amount, to.script)] + ([TxOut(rest, payer.script)] if rest else [])
    return payer.sign(Transaction.build(2, [TxIn(p, b"") for p in prevouts], outputs, **given))


def operate(prevout, operation, *, value=0, payer=RICH, have=TOKEN, fee=FEE):
    """Carry ``operation`` on a coin of ``payer``; output 0 is the payload, 1 the change."""
    outputs = [TxOut(value, payload_script(encode(operation))), TxOut(have - value - fee, payer.script)]
    return payer.sign(Transaction.build(2, [TxIn(prevout, b"")], outputs))


def unsigned(tx):
    """Return ``tx`` with signatures that do not hold; the txid changes with them."""
    spoilt = [txin._replace(script_sig=b"\x01\x01") for txin in tx.vin]
    return Transaction.build(tx.version, spoilt, tx.vout, tx.lock_time)


def remade(block, *, txs=None, **header):
    """Return ``block`` with other parts, Merkle root made to fit unless given."""
    txs = block.txs if txs is None else tuple(txs)
    old = block.header
    fields = {
        "version": old.version,
        "prev_hash": old.prev_hash,
        "merkle_root": txid_root(txs)[0] if txs else old.merkle_root,
        "time_s": old.time_s,
        "bits": old.bits,
        "nonce": old.nonce,
    } | header
    return Block.build(BlockHeader.build(**fields), txs)


class Script:
    """Stands in for the engine: gives the effects that the test queued, and keeps the events."""

    def __init__(self):
        self.queue = []
        self.events = []

    def step(self, state, event, now_ms):
        self.events.append(event)
        return state, tuple(self.queue.pop(0)) if self.queue else ()


class Everything:
    """The scripted engine's table of blocks: it holds whatever is asked for."""

    def __contains__(self, block_hash):
        return True


class Kit:
    """What test files need from here, as one fixture: helpers cannot be imported from a conftest."""

    TOKEN, FEE, WAIT_S, FAST = TOKEN, FEE, WAIT_S, FAST
    RICH, OTHER = RICH, OTHER
    FakeClock, RealTime, FakeLinks, Ear, Node, Script = FakeClock, RealTime, FakeLinks, Ear, Node, Script
    account = staticmethod(account)
    pay = staticmethod(pay)
    operate = staticmethod(operate)
    unsigned = staticmethod(unsigned)
    remade = staticmethod(remade)
    digest = staticmethod(sha256d)


@pytest.fixture(scope="session")
def kit():
    return Kit


@pytest.fixture(scope="session")
def chain1():
    """A chain of one validator, whose vote is a quorum."""
    return Chain(1)


@pytest.fixture(scope="session")
def chain4():
    """A chain of four validators."""
    return Chain(4)


@pytest.fixture(scope="session")
def short1():
    """A chain of one validator with an epoch every ten seconds of its clock."""
    return Chain(1, {"round_s": 10})


@pytest.fixture(scope="session")
def short4():
    """A chain of four validators with an epoch every ten seconds."""
    return Chain(4, {"round_s": 10})


@pytest.fixture
def make_node(tmp_path):
    """Return nodes in folders of their own; closed after the test."""
    nodes = []
    numbers = count()

    def make(chain, me=None, **given):
        node = Node(tmp_path / f"node-{next(numbers)}", chain, me, **given)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.close()


@pytest.fixture
def node(make_node, chain4):
    """A follower of the chain of four, at genesis."""
    return make_node(chain4)


@pytest.fixture
async def scripted(make_node, chain4, monkeypatch):
    """Validator 0 of four with a scripted engine; ``run`` performs effects and returns the answers."""
    node = make_node(chain4, 0)
    node.open_driver()
    node.driver._state.blocks = Everything()
    node.script = Script()
    monkeypatch.setattr(driver, "step", node.script.step)

    async def run(*effects):
        node.script.queue = [effects]
        before = len(node.script.events) + 1
        node.driver.post(Start())
        for _ in range(3):
            await asyncio.sleep(0)
        return node.script.events[before:]

    node.run = run
    return node
