"""Proof-of-work nodes in one process: real rules, stores, engines and peerings; only the wire is a queue."""

import asyncio
from functools import partial
from random import Random

from consensus.genesis import genesis_block
from consensus.params import Allocation
from consensus.pow.mining import Work
from consensus.transaction import outpoint
from contracts.api import EnergyContracts
from node.admission import RESTORED, Admission
from node.chainstate import ChainState
from node.keyfile import generate_keys
from node.mempool import Mempool
from node.pow_driver import PowDriver, restore_engine
from node.pow_wire import PowPeering
from node.sigcheck import SignatureVerifier
from node.testnet import TEST_POW, ChainPlan, Founder
from p2p.api import Peer
from p2p.messages import SERVICE_BLOCKS, Hello, decode, encode
from storage.store import ChainStore
from tests.unit.node.conftest import COINS, RICH, TOKEN, FakeClock

WAIT_S = 60.0
EXTRA = b"\x00\x00"


class Hill:
    """The parameters of a proof-of-work chain with COINS genesis coins of RICH."""

    def __init__(self, rules=TEST_POW, **ledger):
        from dataclasses import replace

        base = ChainPlan()
        plan = ChainPlan(
            name="hill",
            pow=rules,
            allocations=(Allocation(RICH.script, TOKEN),) * COINS,
            ledger=replace(base.ledger, **ledger),
        )
        keys = generate_keys(Random(1).randbytes)
        self.params = plan.params([(Founder("grid", "grid-operator"), keys)])
        self.genesis = genesis_block(self.params, EnergyContracts(self.params))

    def coin(self, number):
        """Return the prevout of RICH's genesis coin ``number``."""
        return outpoint(self.genesis.txs[0].txid, 1 + number)


class Wire:
    """What ``p2p.shell.Network`` is to a peering: messages to connected nodes, encoded and in order."""

    def __init__(self, node):
        self.node = node
        self.links = {}
        self.charged = []
        self.sent = []
        self.drop = lambda message: False

    def send_to(self, peer, message):
        self.sent.append((peer, message))
        other = self.links.get(peer)
        if other is None:
            return False
        if not self.drop(message):
            asyncio.get_running_loop().call_soon(other.receive, self.node.number, encode(message))
        return True

    def broadcast(self, message):
        for peer in list(self.links):
            self.send_to(peer, message)

    def penalise(self, peer, code):
        self.charged.append((peer, code))

    def room(self, peer):
        return 1 << 23


class PowNode:
    """One node over ``path``."""

    def __init__(self, number, path, hill, clock=None):
        self.number, self.path, self.hill = number, path, hill
        self.params = hill.params
        self.clock = clock or FakeClock()
        self.disconnected, self.connected, self.alarms, self.errors = [], [], [], []
        self.open()

    def open(self):
        """Open the store and start the engine, as a process does."""
        self.contracts = EnergyContracts(self.params)
        self.store = ChainStore.open(self.path, chain_id=self.hill.genesis.hash)
        self.verifier = SignatureVerifier(self.contracts)
        trial = partial(self.contracts.open, metered=False)
        given = (self.store, self.hill.genesis, self.params, self.contracts, trial, self.verifier)
        self.chain = ChainState(*given)
        self.mempool = Mempool(self.chain.ground(), self.contracts, self.params.ledger, max_bytes=1 << 20)
        self.peering = PowPeering(self.chain, self.mempool, self.clock)
        self.admission = Admission(
            self.mempool,
            self.verifier,
            self.clock,
            on_accepted=self.peering.on_accepted,
            on_refused=lambda job, fault, blame: None,
        )
        self.driver = PowDriver(
            restore_engine(self.chain),
            chain=self.chain,
            mempool=self.mempool,
            clock=self.clock,
            links=self.peering,
            listener=self,
        )
        self.wire = Wire(self)
        self.peering.attach(self.wire, self.driver, self.admission)
        self.task = asyncio.create_task(self.admission.run())
        self.driver.start()

    async def close(self):
        self.driver.stop()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.verifier.close()
        self.store.close()

    async def restart(self):
        await self.close()
        self.open()

    # ---- listener

    def on_commit(self, block, connected, evicted):
        self.connected.append(block.hash)
        self.peering.announce_tip()

    def on_disconnect(self, block):
        self.disconnected.append(block.hash)

    def on_returned(self, transactions):
        self.admission.offer(transactions, RESTORED)

    def on_alarm(self, name, fields):
        self.alarms.append((name, fields))

    def on_fatal(self, error):
        self.errors.append(error)

    # ---- peers

    def hello(self):
        tip = self.chain.tip
        identity = bytes([self.number]) * 32
        return Hello(
            1, self.chain.chain_id, identity, tip.height, tip.block_hash, SERVICE_BLOCKS, "test", 0, 0
        )

    def meet(self, other):
        """Connect two nodes."""
        for one, two in ((self, other), (other, self)):
            one.wire.links[two.number] = two
        for one, two in ((self, other), (other, self)):
            one.peering.on_peer_ready(one.peer(two))

    def part(self, other):
        """Cut two nodes off from each other."""
        for one, two in ((self, other), (other, self)):
            del one.wire.links[two.number]
            one.peering.on_peer_lost(one.peer(two), "gone")

    def peer(self, other):
        return Peer(other.number, bytes([other.number]) * 32, "test", False, False, other.hello())

    def receive(self, sender, data):
        if sender not in self.wire.links:
            return
        from consensus.errors import PeerFault

        try:
            self.peering.on_message(self.peer(self.wire.links[sender]), decode(data))
        except PeerFault as fault:
            self.wire.penalise(sender, fault.code)

    # ---- shortcuts

    @property
    def height(self):
        return self.chain.tip.height

    def solve(self, template=None, extra=EXTRA):
        """Return a block that solves a template, by default one on the tip from the pool."""
        template = template or self.driver.template(RICH.script, extra)
        work = Work(template.block, template.height)
        header = work.header(extra)
        return work.solved(extra, header, work.search(header, 0, 1 << 24))

    async def mine(self, count=1, extra=EXTRA):
        """Mine blocks on the tip; return them."""
        found = []
        for _ in range(count):
            self.clock.time_s += 10
            block = self.solve(extra=extra)
            assert await self.driver.submit_block(block) is None
            found.append(block)
        return found

    async def until(self, condition):
        """Return when ``condition()`` holds."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                assert not self.errors, self.errors
                self.peering._tick(self.clock.monotonic_ms())
                self.peering._flush()
                await asyncio.sleep(0.001)

    def contents(self):
        """Return all that the chain decided: tip, coins, contract state, header at every height."""
        heights = range(self.height + 1)
        return (
            self.chain.tip,
            dict(self.store.iterate_coins()),
            dict(self.store.state_view.scan(b"")),
            [self.store.block_hash(at) for at in heights],
        )


async def replayed(node, path):
    """Return the contents of a fresh node that was given only the active chain of ``node``."""
    fresh = PowNode(99, path, node.hill, node.clock)
    for height in range(1, node.height + 1):
        block = node.chain.block(node.store.block_hash(height))
        assert await fresh.driver.submit_block(block) is None
    contents = fresh.contents()
    await fresh.close()
    return contents
