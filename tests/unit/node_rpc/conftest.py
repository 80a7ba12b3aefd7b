"""A node in memory behind a real RPC server: real blocks, coins, scripts and contracts, no disk or peers."""

import asyncio
import base64
import http.client
import json
from decimal import Decimal

import pytest

from consensus.address import encode_address
from consensus.assemble import assemble
from consensus.bft.certificates import bitmap_of
from consensus.bft.codec import encode_qc
from consensus.bft.shown import Evidence, Signed, Vote
from consensus.bft.types import QC, Kind
from consensus.coins import coin_amount, encode_coin
from consensus.connect import RuleEnv
from consensus.errors import PeerFault, RuleError
from consensus.genesis import genesis_block, genesis_connected
from consensus.hashes import sha256d
from consensus.params import (
    COIN,
    AddressPrefixes,
    Allocation,
    BftParams,
    ChainParams,
    Community,
    EnergyParams,
    LedgerParams,
)
from consensus.ports import BlockContext
from consensus.pow.target import work_of
from consensus.transaction import Transaction
from consensus.tx_rules import check_transaction
from consensus.validators import sign_entry
from contracts.api import EnergyContracts
from node.config import Endpoint, RpcConfig
from node.evidence import Kept
from node.keyfile import Secret
from node.mempool_entry import MempoolEntry
from node.mempool_graph import Graph
from node.metrics import Metrics
from node.reveals import Reveals
from node.rpc.auth import Cookie
from node.rpc.backend import (
    AcceptResult,
    BftStatus,
    CoinStats,
    Convicted,
    IndexInfo,
    KnownHeader,
    NetworkInfo,
    Pruning,
)
from node.rpc.client import AsyncRpcClient
from node.rpc.server import RpcServer
from node.sigcheck import check_scripts
from node.wallet import Account, Wallet
from p2p.api import PeerInfo

GENESIS_TIME_S = 1_750_000_000
FEE_RATE = 1000


def account(number):
    return Account(Secret(bytes([number]) * 32))


def make_params():
    entries = tuple(
        sign_entry(
            bytes([60 + index]) * 32,
            bytes([70 + index]) * 32,
            chain_name="rpctest",
            name=f"org-{index}",
            role="service-provider" if index else "grid-operator",
            payout_script=account(80 + index).script,
        )
        for index in range(4)
    )
    return ChainParams(
        name="rpctest",
        engine="bft",
        genesis_time_s=GENESIS_TIME_S,
        addresses=AddressPrefixes(111, 196, 239, "bcrt"),
        ledger=LedgerParams(21_000_000 * COIN, 4_000_000, 1000, 10_000, 1000, 10_000),
        bft=BftParams(0x207FFFFF, 86_400, 2, 64, 2_000, 100, 1_000, 250, 1_000, entries),
        energy=EnergyParams(
            900, 300, 3_600, 0, 30_000_000, 8_000_000, 10 * COIN, 1_000, 1_000,
            (Community("town", entries[0].payout_script),),
        ),
        allocations=tuple(Allocation(account(number).script, 1000 * COIN) for number in (1, 2, 3, 80)),
    )  # fmt: skip


class View:
    def __init__(self):
        self.data = {}

    def get(self, key, /):
        return self.data.get(key)

    def scan(self, prefix, /):
        return iter([(key, self.data[key]) for key in sorted(self.data) if key.startswith(prefix)])

    def apply(self, diff):
        for key, value in diff.items():
            if value is None:
                self.data.pop(key, None)
            else:
                self.data[key] = value


def Entry(tx, fee, added_s, parents):
    return MempoolEntry(tx, fee, added_s, [], parents, None)


class Held(dict):
    """Entries by id; what is put in or taken out has its relations brought up to date."""

    def __init__(self):
        super().__init__()
        self.graph = Graph()

    def __setitem__(self, txid, entry):
        super().__setitem__(txid, entry)
        self.graph.insert(entry)

    def pop(self, txid, default=None):
        entry = super().pop(txid, default)
        if entry is not None:
            self.graph.remove(entry)
        return entry


class Pool:
    max_bytes = 1_000_000
    min_fee_per_kvb = 1000
    incremental_per_kvb = 1000
    full_rbf = False

    def __init__(self):
        self.held = Held()
        self.floor = 1000

    def min_fee(self, now_s):
        return self.floor

    def children(self, txid):
        return self.held.graph.children(txid)

    def ancestors(self, txid):
        return list(self.held.graph.ancestors(self.held[txid].parents).values())

    def descendants(self, txid):
        return list(self.held.graph.descendants(self.children(txid)).values())

    def replaceable(self, txid):
        return self.held[txid].signals

    def prioritise(self, txid, delta):
        if txid in self.held:
            self.held.graph.prioritise(self.held[txid], delta)

    @property
    def count(self):
        return len(self.held)

    @property
    def bytes_used(self):
        return sum(len(entry.tx.raw) for entry in self.held.values())

    @property
    def vsize_total(self):
        return sum(entry.tx.vsize for entry in self.held.values())

    @property
    def fee_total(self):
        return sum(entry.fee for entry in self.held.values())

    def get(self, txid):
        return self.held.get(txid)

    def entries(self):
        return self.held.values()

    def spender(self, prevout):
        for txid, entry in self.held.items():
            if prevout in entry.tx.prevouts:
                return txid
        return None


class AllSigned:
    def check(self, items):
        for tx, spent in items:
            fault = check_scripts(tx, spent)
            if fault is not None:
                raise fault


class MemoryIndexes:
    """Every transaction is indexed; ``tx_index`` None stands for a node without that index."""

    def __init__(self, node):
        self._node = node
        self.tx_index = True

    def info(self):
        height = self._node.tip().height
        return {} if self.tx_index is None else {"txindex": IndexInfo(self.tx_index, height)}

    async def read_addresses(self, read):
        raise PeerFault("address-index-off", "this node has none")


class MemoryNode:
    """Implements node.rpc.backend.Backend."""

    def __init__(self):
        self.params = make_params()
        self.contracts = EnergyContracts(self.params)
        genesis = genesis_block(self.params, self.contracts)
        self.chain_id = genesis.hash
        self.env = RuleEnv(self.params, genesis.hash, self.contracts, AllSigned(), None)
        self.coins, self.contract_state = View(), View()
        self.blocks, self.undos, self.connected = [], [], []
        self.mempool = Pool()
        self.indexes = MemoryIndexes(self)
        self.loaded, self.save_fault, self.fee_rates = True, None, {}
        self.reported = []
        self.stops = 0
        self.ready = (True, "")
        self.gate = None
        self._connect(genesis, genesis_connected(self.params, self.contracts))

    def _connect(self, block, connected):
        self.coins.apply(connected.coins)
        self.contract_state.apply(connected.state)
        self.blocks.append(block)
        self.undos.append(connected.coins_undo)
        self.connected.append(connected)
        self._tip = connected.tip

    def mine(self, txs=None, *, time_s=None):
        txs = [entry.tx for entry in self.mempool.held.values()] if txs is None else txs
        made = assemble(
            self._tip, txs, self.coins, self.contract_state, self.env,
            time_s=time_s or self._tip.time_s + 1, term=len(self.blocks), proposer=1, last_bitmap=b"\x07",
        )  # fmt: skip
        if made.refused:
            raise made.refused[0][1]
        self._connect(made.block, made.connected)
        for tx in txs:
            self.mempool.held.pop(tx.txid, None)
        return made.block

    def wallet(self, number):
        wallet = Wallet(account(number), FEE_RATE)
        for block in self.blocks:
            for tx in block.txs:
                wallet.observe(tx)
        return wallet

    # ---- Backend

    def tip(self):
        return self._tip

    def header(self, height):
        return self.blocks[height].header if 0 <= height < len(self.blocks) else None

    def block_hash(self, height):
        return self.blocks[height].hash if 0 <= height < len(self.blocks) else None

    def block(self, height):
        return self.blocks[height] if 0 <= height < len(self.blocks) else None

    def height_of(self, block_hash):
        return next((h for h, block in enumerate(self.blocks) if block.hash == block_hash), None)

    def known_header(self, block_hash):
        height = self.height_of(block_hash)
        if height is None:
            return None
        header = self.blocks[height].header
        return KnownHeader(header, height, work_of(header.bits) * (height + 1))

    def stored_block(self, block_hash):
        height = self.height_of(block_hash)
        return None if height is None else self.block(height)

    def find_transaction(self, txid):
        if self.indexes.info().get("txindex") is None:
            return None
        for height, block in enumerate(self.blocks):
            for index, tx in enumerate(block.txs):
                if tx.txid == txid:
                    return height, index
        return None

    def coin(self, prevout):
        return self.coins.get(prevout)

    def undo_coins(self, height):
        return self.undos[height]

    def state(self):
        return self.contract_state

    async def coin_stats(self):
        sums = self.contracts.accounting(self.contract_state)
        return CoinStats(
            height=self._tip.height,
            block_hash=self._tip.block_hash,
            txouts=len(self.coins.data),
            total_amount=sum(map(coin_amount, self.coins.data.values())),
            hash_serialized=sha256d(b"".join(k + v for k, v in sorted(self.coins.data.items()))),
            contract_accounts=sums["accounts"],
            payout_queue=sums["payouts"],
            issued=self._tip.issued,
        )

    def peers(self):
        return [
            PeerInfo(
                id=7, address="127.0.0.1:9001", inbound=True, pinned=True, identity="ab" * 32, height=3,
                services=1, user_agent="wattd/test", bytes_sent=10, bytes_received=20, messages_sent=1,
                messages_received=2, messages_dropped=0, unknown_messages=0, send_queue_bytes=0,
                ping_ms=4, connected_at_ms=0, score=0,
            )
        ]  # fmt: skip

    def network_info(self):
        return NetworkInfo("wattd/test", 1, 1, bytes(32), ("127.0.0.1", 9833))

    pow = miner = None

    def bft_evidence(self):
        shown = [Signed(Vote.VALIDATED, 5, 9, bytes([at]) * 32, bytes([at]) * 64) for at in (1, 2)]
        offender = self.params.bft.validators[2]
        kept = Kept(Evidence(2, *shown), 1_700_000_000, 0)
        return [Convicted(kept, offender.vote_key, offender.payout_script, offender.name)]

    def reveal_chain(self, length, generation):
        generation = 3 if generation is None else generation
        return generation, Reveals(Secret(b"\x07" * 32), bytes(32)).chain(generation, length).top

    def bft_status(self):
        names = tuple(each.name for each in self.params.bft.validators)
        return BftStatus("follower", 0, 5, 2, 0, self._tip.height, self._tip.height, names, 1, 3, {})

    def certificate(self, height):
        if height == 0:
            return None
        sigs = (bytes(64),) * 3
        return encode_qc(
            QC(Kind.COMMIT, 0, 5, height, self.blocks[height].hash, bitmap_of([0, 1, 3], 4), sigs)
        )

    def _judge(self, tx, staged):
        if tx.txid in self.mempool.held:
            raise RuleError("txn-already-in-mempool", permanent=False)
        check_transaction(tx, self.params.ledger.max_money)
        if self.find_transaction(tx.txid):
            raise RuleError("txn-already-confirmed", permanent=False)
        spent, parents = [], {}
        pool = {**{txid: entry.tx for txid, entry in self.mempool.held.items()}, **staged}
        for prevout in tx.prevouts:
            parent = pool.get(prevout[:32])
            coin = self.coins.get(prevout)
            if parent is not None:
                output = parent.vout[int.from_bytes(prevout[32:], "little")]
                coin = encode_coin(0, False, output.value, output.script_pubkey)
                parents[prevout[:32]] = None
            if coin is None:
                raise RuleError("bad-txns-inputs-missingorspent", permanent=False)
            spent.append(coin)
        fee = sum(map(coin_amount, spent)) - sum(output.value for output in tx.vout)
        if fee * 1000 < tx.vsize * 1000:
            raise RuleError("min relay fee not met", f"{fee} < {tx.vsize}", permanent=False)
        fault = check_scripts(tx, spent)
        if fault is not None:
            raise fault
        self.contracts.check_payload(tx)
        context = BlockContext(self.chain_id, self._tip.height + 1, self.now_s())
        self.contracts.open(self.contract_state, context).execute(tx, spent)
        return Entry(tx, fee, self.now_s(), tuple(parents))

    async def submit(self, raw):
        if self.gate is not None:
            await self.gate.wait()
        tx = Transaction.parse(raw)
        self.mempool.held[tx.txid] = self._judge(tx, {})
        return tx.txid

    async def submit_many(self, txs, max_fee_rates):
        faults = []
        for tx, max_fee_rate in zip(txs, max_fee_rates, strict=True):
            try:
                entry = self._judge(tx, {})
                if max_fee_rate and entry.fee > max_fee_rate * tx.vsize // 1000:
                    raise RuleError("max-fee-exceeded")
                await self.submit(tx.raw)
                faults.append(None)
            except RuleError as fault:
                faults.append(fault)
        return faults

    async def test_accept(self, raws):
        results, staged = [], {}
        for tx in map(Transaction.parse, raws):
            try:
                entry = self._judge(tx, staged)
                staged[tx.txid] = tx
                results.append(AcceptResult(tx, entry.fee, None))
            except RuleError as error:
                results.append(AcceptResult(tx, None, error))
        return results

    def mempool_loaded(self):
        return self.loaded

    async def save_mempool(self):
        if self.save_fault is not None:
            raise self.save_fault
        return "/data/mempool.dat"

    def estimate_fee(self, target, *, conservative):
        return self.fee_rates.get((target, conservative)), max(target, 2)

    prunes = Pruning(0, False, 0)

    def pruning(self):
        return self.prunes

    def size_on_disk(self):
        return 4096

    def now_s(self):
        return self._tip.time_s + 1

    def uptime_s(self):
        return 12

    def is_ready(self):
        return self.ready

    def request_stop(self):
        self.stops += 1

    def fatal(self, error):
        self.reported.append(error)


class Served:
    """A MemoryNode with its server and ways to talk to it."""

    def __init__(self, node, server, cookie):
        self.node, self.server, self.cookie = node, server, cookie
        self.where = Endpoint("127.0.0.1", server.port)
        self.client = AsyncRpcClient(self.where, cookie.text)

    def address(self, number):
        return encode_address(account(number).script, self.node.params.addresses)

    @property
    def headers(self):
        return {"Authorization": "Basic " + base64.b64encode(self.cookie.text.encode()).decode()}

    async def http(self, body, *, method="POST", path="/", headers=None):
        """Return (status, headers, body) of one request made with the standard library."""

        def exchange():
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
            try:
                connection.request(method, path, body, self.headers if headers is None else headers)
                response = connection.getresponse()
                return response.status, dict(response.getheaders()), response.read()
            finally:
                connection.close()

        return await asyncio.to_thread(exchange)

    async def post(self, value, **options):
        """Return (status, decoded reply or None) of a JSON value."""
        status, _, data = await self.http(json.dumps(value), **options)
        return status, json.loads(data, parse_float=Decimal) if data else None

    async def call(self, method, *params, **named):
        return await self.client.call(method, *params, **named)


@pytest.fixture
def node():
    return MemoryNode()


@pytest.fixture
def start(tmp_path, node):
    """Start servers over ``node``; they are stopped with the test."""
    running = []

    async def begin(**options):
        config = RpcConfig(**{"listen": Endpoint("127.0.0.1", 0), **options})
        cookie = Cookie(tmp_path / ".cookie")
        server = RpcServer(node, config, cookie, Metrics())
        await server.start()
        served = Served(node, server, cookie)
        running.append(served)
        return served

    return begin, running


@pytest.fixture
async def serve(start):
    begin, running = start
    yield begin
    for served in running:
        await served.client.close()
        await served.server.stop()


@pytest.fixture
async def served(serve):
    return await serve()
