"""A proof-of-work world in one process: chains with easy targets, and a shell that obeys the engine."""

from dataclasses import replace

from consensus.block import BlockHeader
from consensus.params import (
    COIN,
    NO_BFT,
    AddressPrefixes,
    Allocation,
    ChainParams,
    EnergyParams,
    LedgerParams,
    PowParams,
)
from consensus.pow import types as t
from consensus.pow.engine import State, begin, config_of, step
from consensus.pow.rules import expected_bits
from consensus.pow.target import target_of
from consensus.script.templates import p2pkh

GENESIS_TIME = 1_750_000_000
SPACING = 10


def make_params(*, ledger=(), **rules) -> ChainParams:
    """Return a chain whose blocks take sixteen hashes."""
    limits = {
        "max_money": 21_000_000 * COIN,
        "max_block_weight": 4_000_000,
        "min_fee_per_kvb": 1000,
        "min_payout": 10_000,
        "op_budget": 1000,
        "timer_budget": 10_000,
    }
    given = {
        "bits": 0x200FFFFF,
        "max_target": 0x207FFFFF,
        "spacing_s": SPACING,
        "half_life_s": 10 * SPACING,
        "future_limit_s": 10 * SPACING,
        "subsidy": 50 * COIN,
        "subsidy_halving_blocks": 5,
        "reorg_warn_depth": 3,
    }
    return ChainParams(
        name="hill",
        engine="pow",
        genesis_time_s=GENESIS_TIME,
        addresses=AddressPrefixes(111, 196, 239, "tb"),
        ledger=LedgerParams(**(limits | dict(ledger))),
        bft=NO_BFT,
        energy=EnergyParams(900, 300, 3_600, 0, 30_000_000, 8_000_000, 10 * COIN, 1_000, 1_000, ()),
        allocations=tuple(Allocation(p2pkh(bytes([n]) * 20), 1000 * COIN) for n in range(1, 4)),
        pow=PowParams(**(given | rules)),
    )


def mine(fields) -> BlockHeader:
    """Return a header with a nonce that meets its bits."""
    target = target_of(fields["bits"])
    nonce = 0
    while True:
        header = BlockHeader.build(nonce=nonce, **fields)
        if int.from_bytes(header.hash, "little") <= target:
            return header
        nonce += 1


def spoil(header: BlockHeader) -> BlockHeader:
    """Return the header with a nonce that does not meet its bits."""
    target = target_of(header.bits)
    nonce = 0
    while True:
        other = BlockHeader.parse(header.raw[:76] + nonce.to_bytes(4, "little"))
        if int.from_bytes(other.hash, "little") > target:
            return other
        nonce += 1


class Hill:
    """Headers over one genesis, made on demand."""

    def __init__(self, params: ChainParams | None = None) -> None:
        self.params = params or make_params()
        self.genesis = mine(
            {
                "version": 0x20000000,
                "prev_hash": bytes(32),
                "merkle_root": bytes(32),
                "time_s": GENESIS_TIME,
                "bits": self.params.pow.bits,
            }
        )
        self.heights = {self.genesis.hash: 0}
        self.headers = {self.genesis.hash: self.genesis}
        self.salt = 0

    def child(self, parent: BlockHeader, step_s: int = SPACING, **given) -> BlockHeader:
        """Mine a child ``step_s`` after its parent."""
        self.salt += 1
        height = self.heights[parent.hash]
        header = mine(
            {
                "version": 0x20000000,
                "prev_hash": parent.hash,
                "merkle_root": self.salt.to_bytes(32, "little"),
                "time_s": parent.time_s + step_s,
                "bits": expected_bits(self.params, height, parent.time_s),
            }
            | given
        )
        self.heights[header.hash] = height + 1
        self.headers[header.hash] = header
        return header

    def chain(self, parent: BlockHeader, count: int, step_s: int = SPACING) -> list[BlockHeader]:
        """Mine ``count`` blocks on top of each other."""
        made = []
        for _ in range(count):
            parent = self.child(parent, step_s)
            made.append(parent)
        return made


class Shell:
    """Performs effects and checks them. ``bad`` fail to connect, ``withheld`` never arrive."""

    def __init__(self, hill: Hill, *, now=None, bad=(), withheld=(), checkpoints=None, **config) -> None:
        self.hill = hill
        self.bad = set(bad)
        self.withheld = set(withheld)
        self.now = GENESIS_TIME + 10**8 if now is None else now
        made = config_of(hill.params, **config)
        if checkpoints is not None:
            made = replace(made, checkpoints=checkpoints)
        self.state: State = begin(made, hill.genesis)
        self.chain = [hill.genesis.hash]
        self.marks = {}
        self.log = []
        self.fetched = []
        self.events = []
        self.stored = {hill.genesis.hash}
        self.effects = []
        self.auto = True
        self.do(t.Start())

    def do(self, event) -> list:
        """Take one step and, if ``auto``, all that its effects lead to; return the effects."""
        self.effects = []
        self.events.append(event)
        while self.events:
            before = self.state
            trace = _trace(before)
            self.state, effects = step(before, self.events.pop(0), self.now)
            if _trace(before) != trace:
                raise AssertionError("a step changed the state before it")
            self.effects += effects
            for effect in effects:
                self.perform(effect)
        return self.effects

    def perform(self, effect) -> None:
        if isinstance(effect, t.StoreHeader):
            self.stored.add(effect.header.hash)
        elif isinstance(effect, t.StoreInvalid):
            self.marks[effect.block_hash] = effect.code
        elif isinstance(effect, t.ForgetInvalid):
            del self.marks[effect.block_hash]
        elif isinstance(effect, t.Disconnect):
            if self.chain.pop() != effect.block_hash:
                raise AssertionError("not the tip")
        elif isinstance(effect, t.FetchBodies):
            self.fetched += effect.block_hashes
            if self.auto:
                self.events += [t.BodyStored(h) for h in effect.block_hashes if h not in self.withheld]
        elif isinstance(effect, t.Connect) and self.auto:
            self.events.append(self.answer(effect))

    def answer(self, effect):
        """Connect a block or refuse it."""
        header = self.hill.headers[effect.block_hash]
        if header.prev_hash != self.chain[-1]:
            raise AssertionError("not a child of the tip")
        if effect.block_hash in self.bad:
            return t.Refused(effect.block_hash, "bad-toy")
        self.chain.append(effect.block_hash)
        return t.Connected(effect.block_hash)

    def hear(self, *headers, sender=1) -> list:
        """Receive headers from a peer."""
        return self.do(t.Headers(sender, tuple(headers)))

    @property
    def tip(self) -> bytes:
        if self.state.tree.tip.block_hash != self.chain[-1]:
            raise AssertionError("engine and shell have different tips")
        return self.chain[-1]

    def of(self, kind) -> list:
        """Return the effects of one kind that the last event led to."""
        return [effect for effect in self.effects if isinstance(effect, kind)]


def _trace(state: State):
    tree = state.tree
    return (
        len(tree.entries), len(tree.bodies), len(tree.order), tuple(tree.active), len(tree.invalid),
        tuple(tree.candidates), tree.best_header, len(state.fetching), len(state.orphans), len(state.locked),
    )  # fmt: skip
