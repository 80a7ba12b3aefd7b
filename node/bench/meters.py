"""The leader's time for one round of meter readings, beside Table 8 of the keyless-signature paper."""

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns, thread_time_ns

from consensus.bft.slots import order
from consensus.bft.types import Check, Commit, PendingWork
from consensus.errors import LocalFault
from consensus.hashes import sha256
from consensus.keys import ed25519_public
from consensus.params import Allocation, ChainParams
from consensus.transaction import Transaction, outpoint
from contracts import keys
from contracts.api import EnergyContracts
from contracts.devices import prove_device, sign_reading
from contracts.energy.readings import ACCEPTED, find_outcome
from contracts.limits import MAX_DEVICES_PER_MEMBER, MAX_READINGS_PER_BATCH
from contracts.operations import (
    Operation,
    RegisterDevice,
    RegisterMember,
    SubmitReadings,
    encode,
    reading_hash,
)
from contracts.records import pack
from contracts.scope import SERVICE_PROVIDER
from node.bench.committee import GENESIS_S, Committee, Node, committee_keys, committee_params
from node.bench.registry import Benchmark, Progress, Result, less_is_better
from node.keyfile import Secret
from node.mempool import Mempool, Staging
from node.sigcheck import SignatureVerifier
from node.testnet import TEST_ENERGY
from node.wallet import Account, Coin, build_operation
from storage.files import Files

TABLE_8_MS = {
    5: (51.4, 102.6, 154.0, 205.9),
    10: (51.7, 105.0, 157.7, 210.1),
    15: (52.9, 110.9, 165.4, 216.9),
    22: (55.2, 116.1, 178.3, 231.7),
    40: (63.2, 125.2, 191.2, 243.5),
    50: (72.1, 134.6, 204.2, 265.0),
}
"""Milliseconds by number of service providers; one column per number of meters."""

METERS = (1_000, 2_000, 3_000, 4_000)
PROVIDERS = tuple(TABLE_8_MS)
ROUNDS = 3
"""Rounds per cell; the median counts."""

REGISTRATIONS_PER_BLOCK = 2_000
FEE_RATE = 1_000
COIN_VALUE = 1_000_000_000
DELEGATES = 21
"""Providers that vote, as in the paper and by default in a chain file; the nodes of the others follow."""

BATCHES_PER_PROVIDER = 4
"""Batches that one provider has in one round at most; each begins with a coin of its own."""

MEMPOOL_BYTES = 64 << 20
PAPER = "keyless-signature paper, Table 8"
COMMUNITY = "riverside"

_ENERGY = replace(TEST_ENERGY, reading_window_s=10_000_000)
"""No slot is settled while the rounds are measured."""


class Voter(Node):
    """A validator that takes the leader's word for the block: its own work is not what is measured."""

    def save_body(self, block_hash: bytes) -> None:
        """Keep no body."""

    def execute(self, effect: Check) -> None:
        """Take it for valid."""

    def apply(self, effect: Commit) -> None:
        """Keep nothing."""

    def _look(self) -> None:
        """Want no blocks: what the others say of the round is enough to follow it."""


class Leader(Node):
    """The node that is measured: real time on its clock, files that are synced, a mempool."""

    clock = staticmethod(perf_counter_ns)
    files = Files()

    def __init__(self, committee: Committee, index: int, me: int | None, home: Path) -> None:
        super().__init__(committee, index, me, home)
        self.processor_ns = 0
        contracts = self.contracts
        self.verifier = SignatureVerifier(contracts)
        committee.resources.callback(self.verifier.close)
        self.mempool = Mempool(
            self.chain.ground(), contracts, committee.params.ledger, max_bytes=MEMPOOL_BYTES
        )

    def work(self, at_ns: int, what: Callable[[], None]) -> None:
        """Work, and note the processor time of it, too."""
        before_ns = thread_time_ns()
        super().work(at_ns, what)
        self.processor_ns += thread_time_ns() - before_ns

    def candidates(self, height: int, pending: set[bytes]) -> Iterable[Transaction]:
        """Return registrations first, then what waits in the mempool."""
        return self.committee.supply(height) or self.mempool.candidates(pending)

    def apply(self, effect: Commit) -> None:
        """Commit, and let the mempool follow."""
        block = self.chain.block(effect.block_hash)
        super().apply(effect)
        if block is not None:
            self.mempool.connect(block.txs[1:], self.chain.ground(), self.committee.time_s)

    def admit(self, raws: Sequence[bytes]) -> float:
        """Take transactions as they arrive: parse, check, verify every signature, insert; return seconds."""
        began = perf_counter()
        staging, entries = Staging(), []
        for raw in raws:
            entry = self.mempool.check(Transaction.parse(raw), staging, self.committee.time_s)
            staging.add(entry)
            entries.append(entry)
        self.verifier.check([(entry.tx, entry.spent) for entry in entries])
        for entry in entries:
            self.mempool.add(entry)
        return perf_counter() - began


class Founded(EnergyContracts):
    """Contracts on whose chain providers without a vote are known from the beginning."""

    def __init__(self, params: ChainParams, others: Sequence[Account]) -> None:
        super().__init__(params)
        self._others = others

    def genesis_state(self) -> dict[bytes, bytes]:
        """Return what the chain begins with, and the providers that an election left out."""
        found = super().genesis_state()
        for at, account in enumerate(self._others):
            found[keys.ORGANISATION + account.script] = pack((f"follower-{at}", SERVICE_PROVIDER))
        return dict(sorted(found.items()))


class Meters:
    """Meters of the providers of a chain: who registers them, and what they read in a slot."""

    def __init__(
        self, accounts: Sequence[Account], first_coin: tuple[bytes, int], tag: bytes, count: int
    ) -> None:
        txid, first = first_coin
        self._tag = tag
        self._accounts = accounts
        self._coins = [
            deque(
                Coin(outpoint(txid, first + len(accounts) * batch + at), COIN_VALUE)
                for batch in range(BATCHES_PER_PROVIDER)
            )
            for at in range(len(accounts))
        ]
        self.seeds = [sha256(b"meter %d" % number) for number in range(count)]

    def _operate(self, actor: int, operation: Operation) -> Transaction:
        """Sign an operation; the coins of an actor take turns, so that its batches hang on no other."""
        coins = self._coins[actor]
        built = build_operation(self._accounts[actor], [coins.popleft()], encode(operation), FEE_RATE)
        if built.change is None:
            raise LocalFault("bench-refused", "an organisation ran out of money")
        coins.append(built.change._replace(depth=0))
        return built.tx

    def provider_of(self, number: int) -> int:
        """Return which organisation serves a meter: all but the grid operator in turn."""
        return 1 + number % (len(self._accounts) - 1)

    def registrations(self) -> Iterator[Transaction]:
        """Yield what puts members and meters onto the chain."""
        owners = [
            Account(Secret(sha256(b"owner %d" % number))).script
            for number in range(-(-len(self.seeds) // MAX_DEVICES_PER_MEMBER))
        ]
        for owner in owners:
            yield self._operate(0, RegisterMember(COMMUNITY, owner, self._accounts[1].script))
        for number, seed in enumerate(self.seeds):
            owner = owners[number // MAX_DEVICES_PER_MEMBER]
            provider = self._accounts[self.provider_of(number)].script
            proof = prove_device(self._tag, seed, owner, COMMUNITY)
            yield self._operate(0, RegisterDevice(ed25519_public(seed), owner, provider, COMMUNITY, proof))

    def readings(self, slot: int, count: int) -> tuple[list[bytes], list[bytes]]:
        """Return the raw batches of the first ``count`` meters for a slot, and the hash of each reading."""
        raws: list[bytes] = []
        hashes: list[bytes] = []
        for provider in range(1, len(self._accounts)):
            own = [number for number in range(count) if self.provider_of(number) == provider]
            items = [sign_reading(self._tag, self.seeds[number], slot, 250 + number, 0) for number in own]
            hashes += map(reading_hash, items)
            for at in range(0, len(items), MAX_READINGS_PER_BATCH):
                batch = SubmitReadings(tuple(items[at : at + MAX_READINGS_PER_BATCH]))
                raws.append(self._operate(provider, batch).raw)
        return raws, hashes


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds that a round took its leader, on the clock and of the processor, and the arrival before it."""

    leading_s: float
    processor_s: float
    arrival_s: float


class Stage:
    """A network of ``providers`` on whose chain the meters are registered, and its leader.

    At most ``delegates`` of them vote.
    """

    def __init__(self, root: Path, providers: int, meters: int, delegates: int = DELEGATES) -> None:
        founders = committee_keys(providers)
        accounts = [Account(each.payout) for each in founders]
        voters, others = founders[:delegates], accounts[delegates:]
        coins = tuple(Allocation(account.script, COIN_VALUE) for account in accounts) * BATCHES_PER_PROVIDER
        params = committee_params(voters, coins, energy=_ENERGY)
        self._leader_index = -1
        self.committee = Committee(
            root,
            params,
            voters,
            len(others),
            [],
            seat=self._seat,
            contracts=lambda: Founded(params, others),
        )
        committee = self.committee
        leader = committee.nodes[self._leader_index]
        if not isinstance(leader, Leader):
            raise TypeError("the leader has another seat")
        self.leader = leader
        tag = leader.contracts.chain_tag
        self.meters = Meters(accounts, (committee.genesis.txs[0].txid, len(voters)), tag, meters)
        registrations = list(self.meters.registrations())
        committee.extend(
            registrations[at : at + REGISTRATIONS_PER_BLOCK]
            for at in range(0, len(registrations), REGISTRATIONS_PER_BLOCK)
        )
        committee.start()
        self.height = len(committee.blocks)
        self._finish()
        self._slot = GENESIS_S // _ENERGY.slot_s

    def _seat(self, committee: Committee, index: int, me: int | None, home: Path) -> Node:
        """Give the first candidate of the first term the seat of the leader."""
        if self._leader_index < 0:
            self._leader_index = order(committee.slot_seed, 1, committee.validators)[0]
        return (Leader if index == self._leader_index else Voter)(committee, index, me, home)

    def _finish(self) -> None:
        """Go on until all who vote have the block, and then until quiet.

        Readings come every quarter of an hour, so nothing of this round disturbs the next.
        """
        voters = range(self.committee.validators)
        self.committee.run(lambda: all(at in self.committee.commits_ns.get(self.height, ()) for at in voters))
        self.committee.settle()

    def round(self, count: int) -> Round:
        """Let the first ``count`` meters report the next slot; return what it took the leader."""
        committee, leader = self.committee, self.leader
        self._slot += 1
        committee.time_s = (self._slot + 1) * _ENERGY.slot_s
        raws, hashes = self.meters.readings(self._slot, count)
        arrival_s = leader.admit(raws)
        before_ns, processor_ns = leader.worked_ns, leader.processor_ns
        self.height += 1
        height = self.height
        committee.at(committee.now_ns, leader, lambda: leader.post(PendingWork(len(raws))))
        committee.run(lambda: leader.index in committee.commits_ns.get(height, ()))
        leading_s = (leader.worked_ns - before_ns) / 1e9
        processor_s = (leader.processor_ns - processor_ns) / 1e9
        self._finish()
        outcomes = [find_outcome(leader.chain.state, each) for each in hashes]
        if any(outcome is None or outcome.code != ACCEPTED for outcome in outcomes):
            raise LocalFault("bench-refused", "a reading was not accepted")
        return Round(leading_s, processor_s, arrival_s)


def _cells(
    providers: int, delegates: int, note: str, progress: Progress
) -> Iterator[tuple[Result, Result, Result]]:
    """Yield the time, processor time and arrival of each cell of one row; ``note`` ends their names."""
    with tempfile.TemporaryDirectory(prefix="wattd-bench-") as root:
        stage = Stage(Path(root), providers, METERS[-1], delegates)
        with stage.committee:
            for meters, paper_ms in zip(METERS, TABLE_8_MS[providers], strict=False):
                rounds = [stage.round(meters) for _ in range(ROUNDS)]
                leading, processor, arrival = (
                    median(times) * 1000
                    for times in zip(
                        *((r.leading_s, r.processor_s, r.arrival_s) for r in rounds), strict=True
                    )
                )
                name = f"leader_time[{meters} meters, {providers} providers{note}"
                progress(f"{name}]: {leading:.1f} ms, the paper {paper_ms}; arrival {arrival:.1f} ms")
                yield (
                    less_is_better(f"{name}]", leading, "ms", PAPER, paper_ms),
                    less_is_better(f"{name}, processor]", processor, "ms", PAPER, paper_ms),
                    Result(f"{name}, arrival]", arrival, "ms"),
                )


def _leader_time(progress: Progress) -> list[Result]:
    """Return the leader's time per round in every cell of the table, and the worst ratio.

    And those of the last row if all of its providers voted, which do not count for the worst.
    """
    rows = [cell for providers in PROVIDERS for cell in _cells(providers, DELEGATES, "", progress)]
    most = PROVIDERS[-1]
    beside = _cells(most, most, ", all vote", progress) if most > DELEGATES else ()
    worst = min((cell for cell, _, _ in rows), key=lambda cell: cell.ratio or 0)
    head = replace(worst, name="leader_time", reference=f"{PAPER}, the cell where we gain least")
    kinds = [result for kind in zip(*rows, strict=True) for result in kind]
    return [head, *kinds, *(result for cell in beside for result in cell)]


BENCHMARKS = (
    Benchmark(
        ("leader_time",),
        f"the leader's time for one round of {METERS[0]} to {METERS[-1]} meters, "
        f"{PROVIDERS[0]} to {PROVIDERS[-1]} providers",
        _leader_time,
    ),
)
