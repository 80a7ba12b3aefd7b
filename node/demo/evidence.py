"""What one node says at the end: its blocks, markets, money and bills, all asked over RPC.

Blocks are read again from their raw bytes, so that what is on the chain does not depend on what the
node's contract state claims.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from consensus.block import Block
from consensus.errors import LocalFault
from consensus.transaction import Transaction, outpoint
from contracts import payload
from contracts.operations import PlaceOrder, SubmitReadings, object_id, reading_hash
from node.demo.limits import CALLS_PER_BATCH
from node.demo.stage import COMMUNITY, Stage
from node.rpc.errors import RpcError

View = dict[str, Any]


@dataclass(slots=True)
class BlockFacts:
    """What the blocks hold: how often each reading and order is there, and who was paid.

    ``coins`` is what an account can spend at the end, ``payouts`` what coinbases paid to it.
    """

    readings: Counter[bytes] = field(default_factory=Counter)
    orders: Counter[bytes] = field(default_factory=Counter)
    coins: Counter[bytes] = field(default_factory=Counter)
    payouts: Counter[bytes] = field(default_factory=Counter)
    blocks: int = 0
    transactions: int = 0
    terms: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class Evidence:
    """The answers of one node. Slots are chain numbers; accounts are scripts in hex."""

    name: str
    height: int
    block_hash: str
    effects_digest: str
    coin_set: View
    facts: BlockFacts
    markets: dict[int, View]
    orders: dict[int, list[View]]
    trades: dict[int, list[View]]
    results: dict[int, list[View]]
    outcomes: dict[bytes, View | None]
    accounts: dict[bytes, View]
    queued: list[View]
    bills: dict[int, View | None]


async def gather_all(stage: Stage) -> list[Evidence]:
    """Ask every node, at the greatest height that all have."""
    height = min(status.height for status in stage.watch.nodes)
    return [await gather(stage, index, height) for index in range(len(stage.net.nodes))]


async def gather(stage: Stage, index: int, height: int) -> Evidence:
    """Ask one node everything. Raises RpcUnavailable, or LocalFault if it refuses to answer."""
    ask = _Asker(stage, index)
    slots = [stage.scenario.slot_number(at) for at in range(stage.scenario.slots)]
    by_slot = [(COMMUNITY, slot) for slot in slots]
    items = list(stage.journal.readings)
    accounts = [stage.operator.wallet.account.script, *(each.script for each in stage.scenario.households)]
    days = stage.scenario.chain_days()
    [block_hash] = await ask.each("getblockhash", [(height,)])
    [tip] = await ask.each("getblock", [(block_hash, 1)])
    [coin_set] = await ask.each("gettxoutsetinfo", [("none",)])
    [queued] = await ask.each("energy.payouts", [()])
    outcomes = await ask.each("energy.outcome", [(item.hex(),) for item in items])
    addresses = [(stage.net.address_of(script),) for script in accounts]
    return Evidence(
        name=stage.net.nodes[index].founder.name,
        height=height,
        block_hash=block_hash,
        effects_digest=tip["commitment"]["effects_digest"],
        coin_set=coin_set,
        facts=await _read_blocks(ask, height),
        markets=dict(zip(slots, await ask.each("energy.market", by_slot), strict=True)),
        orders=dict(zip(slots, await ask.each("energy.orders", by_slot), strict=True)),
        trades=dict(zip(slots, await ask.each("energy.trades", by_slot), strict=True)),
        results=dict(zip(slots, await ask.each("energy.results", by_slot), strict=True)),
        outcomes=dict(zip(items, outcomes, strict=True)),
        accounts=dict(zip(accounts, await ask.each("energy.account", addresses), strict=True)),
        queued=queued,
        bills=dict(
            zip(days, await ask.each("energy.bills", [(COMMUNITY, day) for day in days]), strict=True)
        ),
    )


class _Asker:
    """Calls one method many times on one node."""

    def __init__(self, stage: Stage, index: int) -> None:
        self._stage = stage
        self._index = index

    async def each(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the result per tuple of arguments. Raises RpcUnavailable, LocalFault."""
        client = await self._stage.net.client(self._index)
        found: list[Any] = []
        for at in range(0, len(arguments), CALLS_PER_BATCH):
            found += await client.batch([(method, each) for each in arguments[at : at + CALLS_PER_BATCH]])
        for result in found:
            if isinstance(result, RpcError):
                name = self._stage.net.nodes[self._index].founder.name
                raise LocalFault("demo-rpc", f"{name} refuses {method}: {result}")
        return found


async def _read_blocks(ask: _Asker, height: int) -> BlockFacts:
    facts = BlockFacts()
    unspent: dict[bytes, tuple[bytes, int]] = {}
    for first in range(0, height + 1, CALLS_PER_BATCH):
        heights = range(first, min(height + 1, first + CALLS_PER_BATCH))
        hashes = await ask.each("getblockhash", [(each,) for each in heights])
        raws = await ask.each("getblock", [(each, 0) for each in hashes])
        for number, raw in zip(heights, raws, strict=True):
            read_block(facts, unspent, Block.parse(bytes.fromhex(raw)), is_genesis=number == 0)
    for script, value in unspent.values():
        facts.coins[script] += value
    return facts


def read_block(
    facts: BlockFacts, unspent: dict[bytes, tuple[bytes, int]], block: Block, *, is_genesis: bool
) -> None:
    """Add a block to ``facts``; ``unspent`` maps an outpoint to its script and value.

    What a coinbase pays counts as a payout; for a proposer's own account that includes its fees.
    """
    facts.blocks += 1
    facts.transactions += len(block.txs) - 1
    if not is_genesis:
        facts.terms[block.header.nonce] += 1
    for tx in block.txs:
        if not tx.is_coinbase:
            for prevout in tx.prevouts:
                unspent.pop(prevout, None)
            _read_operation(facts, tx)
        elif not is_genesis:
            for output in tx.vout:
                if output.value:
                    facts.payouts[output.script_pubkey] += output.value
        for number, output in enumerate(tx.vout):
            if output.value:
                unspent[outpoint(tx.txid, number)] = (output.script_pubkey, output.value)


def _read_operation(facts: BlockFacts, tx: Transaction) -> None:
    found = payload.parse(tx)
    if found is None:
        return
    if isinstance(found.operation, PlaceOrder):
        facts.orders[object_id(tx.prevouts[0], found.data)] += 1
    elif isinstance(found.operation, SubmitReadings):
        facts.readings.update(reading_hash(item) for item in found.operation.items)
