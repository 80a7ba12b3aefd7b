"""Mining and steering over RPC: a real node of a proof-of-work chain behind a real server.

``Outsider`` is a miner that knows nothing but what ``getblocktemplate`` says: it uses no code of ours.
"""

import asyncio
import hashlib
import struct
from dataclasses import replace
from decimal import Decimal
from random import Random

import pytest

from consensus.address import encode_address
from consensus.block import Block
from consensus.hashes import sha256
from consensus.script.templates import p2wsh
from consensus.transaction import Transaction, TxIn, TxOut, hash_hex, outpoint
from contracts.operations import Deposit, Withdraw
from node.config import Endpoint, RpcConfig
from node.engines import Engine
from node.facade import NodeFacade
from node.indexer import Indexer
from node.limits import MAX_LONG_POLLS, MEMPOOL_EXPIRY_S, MINING_MAX_BEHIND_BLOCKS
from node.mempool_store import MempoolKeeper
from node.metrics import Metrics
from node.miner import Miner
from node.pruner import Pruner
from node.rpc import mining
from node.rpc.auth import Cookie
from node.rpc.client import AsyncRpcClient
from node.rpc.errors import RpcError
from node.rpc.server import RpcServer
from node.rpc.template import with_witness_nonce
from node.testnet import TEST_POW
from tests.unit.node.conftest import FEE, OTHER, RICH, TOKEN, operate, pay
from tests.unit.node.pownet import Hill, PowNode

SUBSIDY = TEST_POW.subsidy
SEGWIT = {"rules": ["segwit"]}
HARD = replace(TEST_POW, bits=0x1A00FFFF, max_target=0x1A00FFFF)
ANYONE = p2wsh(sha256(b"\x51"))
"""Whoever shows the script OP_TRUE as witness may spend."""


class NoNetwork:
    identity = bytes(32)
    listen_address = ("127.0.0.1", 1)

    def peers(self):
        return []


class Station:
    """A node with its miner, facade, server and a client."""

    def __init__(self, number, path, hill):
        self.node = PowNode(number, path, hill)
        self.params = hill.params
        self.bugs = []
        self.spent = 0

    async def open(self):
        node = self.node
        self.indexer = Indexer(node.store, tx_index=True, address_index=False)
        self.miner = Miner(
            node.driver, node.clock, script=RICH.script, revision=lambda: node.mempool.revision
        )
        self.run = asyncio.create_task(self.miner.run())
        facade = NodeFacade(
            chain=node.chain,
            indexes=self.indexer,
            contracts=node.contracts,
            mempool=node.mempool,
            admission=node.admission,
            keeper=MempoolKeeper(
                node.path / "mempool.dat", node.mempool, node.admission, node.clock, node.chain.chain_id,
                expiry_s=MEMPOOL_EXPIRY_S,
            ),
            verifier=node.verifier,
            engine=Engine(node.driver, node.peering, None, pow=node.driver),
            pruner=Pruner(node.store, keep_blocks=0, keep_bytes=0),
            miner=self.miner,
            network=NoNetwork(),
            clock=node.clock,
            user_agent="test",
            services=lambda: 1,
            rebroadcast=lambda tx: None,
            stop=self.bugs.append,
        )  # fmt: skip
        cookie = Cookie(node.path / ".cookie")
        self.server = RpcServer(facade, RpcConfig(Endpoint("127.0.0.1", 0)), cookie, Metrics())
        await self.server.start()
        self.client = AsyncRpcClient(Endpoint("127.0.0.1", self.server.port), cookie.text)
        return self

    async def close(self):
        self.run.cancel()
        await asyncio.gather(self.run, return_exceptions=True)
        await self.client.close()
        await self.server.stop()
        self.indexer.close()
        await self.node.close()
        assert (self.bugs, self.node.errors) == ([], [])

    async def call(self, method, *params):
        return await self.client.call(method, *params)

    async def refusal(self, method, *params):
        with pytest.raises(RpcError) as caught:
            await self.client.call(method, *params)
        return caught.value.number, caught.value.reason

    def address(self, script):
        return encode_address(script, self.params.addresses)

    async def generate(self, count=1, script=OTHER.script):
        return await self.call("generatetoaddress", count, self.address(script))

    async def send(self, tx):
        await self.call("sendrawtransaction", tx.raw.hex(), 0, "1")
        return tx

    def coinbase(self, height):
        return self.node.chain.block(self.node.store.block_hash(height)).txs[0]


@pytest.fixture
async def stations(tmp_path):
    running = []

    async def build(hill):
        station = Station(len(running), tmp_path / f"node-{len(running)}", hill)
        running.append(station)
        return await station.open()

    yield build
    for station in running:
        await station.close()


@pytest.fixture(scope="module")
def hill():
    return Hill()


@pytest.fixture
async def station(stations, hill):
    return await stations(hill)


def with_witness(tx, item):
    return Transaction.build(tx.version, (tx.vin[0]._replace(witness=(item,)),), tx.vout, tx.lock_time)


# ---- a miner that knows only the RPC -----------------------------------------------------------


def double(data):
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def size_of(count):
    return bytes([count]) if count < 253 else b"\xfd" + struct.pack("<H", count)


class Outsider:
    """Assembles blocks from a template with hashlib and struct."""

    def __init__(self, template, coinbase=None, *, time=None):
        self.template = template
        self.coinbase = coinbase or bytes.fromhex(template["coinbasetxn"]["data"])
        self.time = template["curtime"] if time is None else time

    @classmethod
    def with_outputs(cls, template, outputs, *, extra=b"", witness=()):
        """Make the coinbase from ``coinbase_outputs`` instead of taking ``coinbasetxn``."""
        given = bytes.fromhex(template["coinbasetxn"]["data"])
        script = given[42 : 42 + given[41]] + extra  # behind version, count and prevout
        body = b"\x01" + bytes(32) + b"\xff\xff\xff\xff" + size_of(len(script)) + script + b"\xff\xff\xff\xff"
        body += size_of(len(outputs))
        for value, code in outputs:
            body += struct.pack("<q", value) + size_of(len(code)) + code
        return cls(template, struct.pack("<i", 1) + body + bytes(4))

    def append(self, extra):
        """Append to the scriptSig, as BIP23's coinbase/append allows."""
        given, length = self.coinbase, self.coinbase[41]
        self.coinbase = (
            given[:41] + bytes([length + len(extra)]) + given[42 : 42 + length] + extra + given[42 + length :]
        )
        return self

    def header(self, nonce=0):
        level = [double(self.coinbase)] + [
            bytes.fromhex(tx["txid"])[::-1] for tx in self.template["transactions"]
        ]
        while len(level) > 1:
            level += level[-1:] * (len(level) % 2)
            level = [double(one + two) for one, two in zip(level[::2], level[1::2], strict=True)]
        return (
            struct.pack("<i", self.template["version"])
            + bytes.fromhex(self.template["previousblockhash"])[::-1]
            + level[0]
            + struct.pack("<I", self.time)
            + bytes.fromhex(self.template["bits"])[::-1]
            + struct.pack("<I", nonce)
        )

    def body(self):
        datas = [bytes.fromhex(tx["data"]) for tx in self.template["transactions"]]
        return size_of(1 + len(datas)) + self.coinbase + b"".join(datas)

    def proposal(self):
        return {"mode": "proposal", "data": (self.header() + self.body()).hex()}

    def mine(self, *, solved=True):
        target, nonce = int(self.template["target"], 16), 0
        while (int.from_bytes(double(self.header(nonce)), "little") <= target) != solved:
            nonce += 1
        self.hash = double(self.header(nonce))[::-1].hex()
        return (self.header(nonce) + self.body()).hex()


def outputs_of(template, script):
    """Return all that the coinbase must pay, the reward to ``script``."""
    return [
        (each["value"], script if each["type"] == "reward" else bytes.fromhex(each["script"]))
        for each in template["coinbase_outputs"]
    ]


async def filled(station):
    """Let payouts be due in the next block, and payments, one of them with a witness, wait for it.

    Returns what waits, parents first.
    """
    coin = station.node.hill.coin
    await station.send(operate(coin(0), Deposit(), value=90_000))
    await station.generate()
    await station.send(operate(coin(1), Withdraw(50_000)))
    await station.generate()
    parent = await station.send(pay(coin(2), to=type("To", (), {"script": ANYONE})))
    coin_in = TxIn(outpoint(parent.txid, 0), b"", 0xFFFFFFFF, (b"\x51",))
    child = Transaction.build(2, [coin_in], [TxOut(TOKEN // 2 - 5_000, OTHER.script)])
    await station.send(child)
    other = await station.send(pay(coin(3)))
    return parent, child, other


async def test_an_outside_miner_needs_nothing_but_the_template(station):
    waiting = await filled(station)
    template = await station.call("getblocktemplate", SEGWIT)
    block = Outsider(template)
    assert await station.call("getblocktemplate", block.proposal()) is None
    assert await station.call("submitblock", block.mine()) is None
    assert await station.call("getbestblockhash") == block.hash
    shown = await station.call("getblock", block.hash, 2)
    assert {tx["txid"] for tx in shown["tx"][1:]} == {hash_hex(tx.txid) for tx in waiting}
    payout, reward, witness, commitment = shown["tx"][0]["vout"]
    assert payout["value"] == Decimal("0.00050000")
    assert payout["scriptPubKey"]["hex"] == RICH.script.hex()
    assert reward["value"] == Decimal(template["coinbasevalue"]) / 10**8
    assert reward["scriptPubKey"]["hex"] == RICH.script.hex()
    assert witness["scriptPubKey"]["hex"] == template["default_witness_commitment"]
    assert commitment["scriptPubKey"]["hex"].startswith("6a")
    assert shown["tx"][0]["vin"][0]["txinwitness"] == ["00" * 32]
    assert station.node.mempool.count == 0


async def test_what_a_template_says_of_transactions_and_limits(station):
    parent, child, other = await filled(station)
    node = station.node
    template = await station.call("getblocktemplate", SEGWIT)
    shown = {each["txid"]: each for each in template["transactions"]}
    places = {txid: place for place, txid in enumerate(shown, 1)}
    for tx, fee, sigops in ((parent, FEE, 4), (child, 5_000, 4), (other, FEE, 8)):
        each = shown[hash_hex(tx.txid)]
        assert (each["data"], each["hash"]) == (tx.raw.hex(), hash_hex(tx.wtxid))
        assert (each["fee"], each["sigops"], each["weight"]) == (fee, sigops, tx.weight)
    assert shown[hash_hex(child.txid)]["depends"] == [places[hash_hex(parent.txid)]]
    assert shown[hash_hex(other.txid)]["depends"] == shown[hash_hex(parent.txid)]["depends"] == []
    fees = 2 * FEE + 5_000
    assert template["coinbasevalue"] == SUBSIDY + fees
    assert template["coinbasetxn"]["fee"] == -fees
    assert (
        double(bytes.fromhex(template["coinbasetxn"]["data"]))[::-1].hex() == template["coinbasetxn"]["txid"]
    )
    kinds = [each["type"] for each in template["coinbase_outputs"]]
    assert kinds == ["payout", "reward", "witness", "commitment"]
    assert template["previousblockhash"] == hash_hex(node.chain.tip.block_hash)
    assert template["height"] == node.height + 1 == 3
    assert template["mintime"] == sorted(node.chain.tip.times)[len(node.chain.tip.times) // 2] + 1
    assert template["maxtime"] == node.clock.time_s + TEST_POW.future_limit_s
    assert template["curtime"] == max(node.clock.time_s, template["mintime"])
    assert int(template["bits"], 16) == node.driver.next_bits()
    assert template["longpollid"] == f"{template['previousblockhash']}{node.mempool.revision}"
    assert template["mutable"] == ["time", "coinbase/append"]
    assert "!segwit" in template["rules"]
    limits = [template[f"{what}limit"] for what in ("sigop", "size", "weight")]
    assert limits == [80_000, 4_000_000, 4_000_000]
    assert template["noncerange"] == "00000000ffffffff"
    assert (template["version"], template["vbavailable"], template["vbrequired"]) == (0x20000000, {}, 0)


async def test_a_template_without_witnesses_payouts_or_reward(stations):
    barren = await stations(Hill(replace(TEST_POW, subsidy=1, subsidy_halving_blocks=1)))
    template = await barren.call("getblocktemplate", SEGWIT)
    assert [each["type"] for each in template["coinbase_outputs"]] == ["commitment"]
    assert (template["coinbasevalue"], template["transactions"]) == (0, [])
    assert "default_witness_commitment" not in template
    assert await barren.call("submitblock", Outsider(template).mine()) is None
    await barren.send(operate(barren.node.hill.coin(0), Deposit(), value=90_000, fee=FEE))
    await barren.generate()
    await barren.send(operate(barren.node.hill.coin(1), Withdraw(50_000), fee=FEE))
    await barren.generate()
    template = await barren.call("getblocktemplate", SEGWIT)
    assert [each["type"] for each in template["coinbase_outputs"]] == ["payout", "commitment"]
    assert await barren.call("submitblock", Outsider(template).mine()) is None


async def test_the_reward_goes_where_the_miner_says(station):
    await filled(station)
    template = await station.call(
        "getblocktemplate", SEGWIT | {"payout_address": station.address(OTHER.script)}
    )
    block = Outsider(template).append(b"\x04pool").append(bytes(27))
    assert await station.call("submitblock", block.mine()) is None
    assert station.coinbase(3).vout[1].script_pubkey == OTHER.script
    assert station.coinbase(3).vin[0].script_sig == b"\x53\x00\x04pool" + bytes(27)
    bad = await station.refusal("getblocktemplate", SEGWIT | {"payout_address": "x"})
    assert bad[0] == -5
    assert (await station.refusal("getblocktemplate", SEGWIT | {"payout_address": 7}))[0] == -3


async def test_a_miner_may_make_the_coinbase_itself_from_the_outputs_it_is_told(station):
    await filled(station)
    template = await station.call("getblocktemplate", SEGWIT)
    payout, (reward, _), witness, commitment = outputs_of(template, b"")
    parts = [(reward - 1_000, OTHER.script), (1_000, RICH.script)]
    block = Outsider.with_outputs(template, [payout, *parts, witness, commitment], extra=b"\x02ab")
    assert await station.call("getblocktemplate", block.proposal()) is None
    assert await station.call("submitblock", block.mine()) is None
    assert station.coinbase(3).vout[1:3] == tuple(TxOut(*part) for part in parts)


async def test_a_coinbase_keeps_the_witness_that_it_has(station):
    """Only a missing one is filled in: a miner may commit with a nonce of its own."""
    await filled(station)
    raw = bytes.fromhex(Outsider(await station.call("getblocktemplate", SEGWIT)).mine())
    bare = Block.parse(raw)
    own = with_witness(bare.txs[0], b"\x07" * 32)
    given = Block.build(bare.header, (own, *bare.txs[1:]))
    assert with_witness_nonce(given) == given
    assert with_witness_nonce(bare).txs[0] == with_witness(bare.txs[0], bytes(32))
    assert await station.call("submitblock", given.raw.hex()) == "bad-witness-merkle-match"


async def test_every_mistake_of_a_miner_has_its_answer_in_proposals_and_blocks(station):
    await filled(station)
    template = await station.call("getblocktemplate", SEGWIT)
    payout, reward, witness, commitment = outputs_of(template, RICH.script)
    greedy = (reward[0] + 1, reward[1])
    poorer = dict(template, transactions=template["transactions"][:-1])
    cases = {
        "bad-cb-amount": [payout, greedy, witness, commitment],
        "bad-cb-payouts": [reward, payout, witness, commitment],
        "bad-commitment-missing": [payout, reward, witness],
        "bad-commitment-place": [payout, reward, commitment, witness],
        "unexpected-witness": [payout, reward, commitment],
        "bad-witness-merkle-match": [payout, reward, (0, witness[1][:-1] + b"\x00"), commitment],
        "bad-cb-unspendable-value": [payout, (reward[0] - 1, reward[1]), (1, b"\x6a"), witness, commitment],
    }
    for code, outputs in cases.items():
        block = Outsider.with_outputs(template, outputs)
        assert await station.call("getblocktemplate", block.proposal()) == code
        assert await station.call("submitblock", block.mine()) == code
    fewer = Outsider(poorer)
    assert await station.call("submitblock", fewer.mine()) == "bad-witness-merkle-match"
    early = Outsider(template, time=template["mintime"] - 1)
    assert await station.call("getblocktemplate", early.proposal()) == "time-too-old"
    assert await station.call("submitblock", early.mine()) == "time-too-old"
    late = Outsider(template, time=template["maxtime"] + 1)
    assert await station.call("getblocktemplate", late.proposal()) == "time-too-new"
    assert await station.call("submitblock", late.mine()) == "time-too-new"
    other_bits = Outsider(dict(template, bits="207ffffe"))
    assert await station.call("getblocktemplate", other_bits.proposal()) == "bad-diffbits"
    unsolved = Outsider(template)
    assert await station.call("submitblock", unsolved.mine(solved=False)) == "high-hash"
    assert station.node.height == 2
    assert await station.call("submitblock", Outsider(template, time=template["mintime"]).mine()) is None
    assert station.node.height == 3


async def test_repeated_stale_and_undecodable_blocks(station):
    template = await station.call("getblocktemplate", SEGWIT)
    block = Outsider(template)
    raw = block.mine()
    assert await station.call("submitblock", raw, "ignored") is None
    assert await station.call("submitblock", raw) == "duplicate"
    mined = {"mode": "proposal", "data": raw}
    assert await station.call("getblocktemplate", mined) == "duplicate"
    rival = Outsider(template).append(b"\x01")
    assert await station.call("getblocktemplate", rival.proposal()) == "inconclusive-not-best-prevblk"
    assert await station.call("submitblock", rival.mine()) == "inconclusive"
    assert await station.call("getblocktemplate", {"mode": "proposal", "data": rival.mine()}) == (
        "duplicate-inconclusive"
    )
    decode = (-22, "Block decode failed")
    assert await station.refusal("submitblock", "zz") == decode
    assert await station.refusal("submitblock", raw + "00") == decode
    assert await station.refusal("getblocktemplate", {"mode": "proposal", "data": raw[:-2]}) == decode
    tx = pay(station.node.hill.coin(0))
    headless = raw[:160] + "01" + tx.raw.hex()
    assert await station.refusal("submitblock", headless) == (-22, "Block does not start with a coinbase")
    assert await station.refusal("submitblock", raw[:160] + "00") == (
        -22, "Block does not start with a coinbase",
    )  # fmt: skip
    assert await station.call("getblockcount") == 1


async def test_requests_that_ask_for_no_template(station):
    for request in (None, {}, {"rules": []}, {"rules": "segwit "}, {"rules": ["csv"]}):
        number, reason = await station.refusal("getblocktemplate", request)
        assert (number, reason.partition(" (")[0]) == (
            -8, "getblocktemplate must be called with the segwit rule set",
        )  # fmt: skip
    assert await station.refusal("getblocktemplate", {"mode": "coinbase"}) == (-8, "Invalid mode")
    assert (await station.refusal("getblocktemplate", {"mode": "proposal"}))[0] == -3
    assert (await station.refusal("getblocktemplate", "x"))[0] == -3
    for bad in ("", "x" * 64, "0" * 64 + "-1"):
        assert (await station.refusal("getblocktemplate", SEGWIT | {"longpollid": bad}))[0] == -8


async def test_no_request_however_odd_is_a_bug_of_the_node(station):
    """Every answer to nonsense is an error of the client's making; the fixture looks for bugs."""
    template = await station.call("getblocktemplate", SEGWIT)
    raw = Outsider(template).mine()
    dice = Random(7)
    odd = [None, 0, -1, 2**70, 0.5, "", "x", "00", "template", "proposal", [], [1], {}, {"a": 1}, True]
    odd += [
        template["longpollid"],
        station.address(OTHER.script),
        raw[: dice.randrange(len(raw))],
        ["segwit"],
    ]
    keys = ("mode", "rules", "data", "longpollid", "payout_address", "capabilities")
    station.miner.long_polls = MAX_LONG_POLLS  # none of these shall wait
    calls = [
        ("getblocktemplate", {key: dice.choice(odd) for key in keys if dice.random() < 0.6})
        for _ in range(150)
    ]
    for _ in range(150):
        at = dice.randrange(len(raw) // 2)
        spoilt = raw[: 2 * at] + f"{dice.randrange(256):02x}" + raw[2 * at + 2 :]
        calls += [("submitblock", spoilt), ("getblocktemplate", {"mode": "proposal", "data": spoilt})]
        calls.append(("submitheader", spoilt[:160]))
    for method in (
        "generatetoaddress",
        "generateblock",
        "miner.start",
        "getnetworkhashps",
        "invalidateblock",
        "submitheader",
    ):
        calls += [(method, dice.choice(odd), dice.choice(odd)) for _ in range(10)]
    numbers = set()
    for method, *params in calls:
        try:
            await station.call(method, *params)
        except RpcError as fault:
            numbers.add(fault.number)
    assert numbers >= {-1, -3, -5, -8, -22, -25}
    assert -32603 not in numbers
    await station.call("miner.stop")


async def test_there_is_no_template_while_the_node_catches_up(stations, hill):
    ahead, station = await stations(hill), await stations(hill)
    hashes = await ahead.generate(MINING_MAX_BEHIND_BLOCKS + 1)
    for block_hash in hashes:
        header = await ahead.call("getblockheader", block_hash, False)
        assert await station.call("submitheader", header) is None
    assert await station.refusal("getblocktemplate", SEGWIT) == (
        -10, "wattd is in initial sync and waiting for blocks...",
    )  # fmt: skip
    info = await station.call("getblockchaininfo")
    assert (info["blocks"], info["headers"]) == (0, MINING_MAX_BEHIND_BLOCKS + 1)
    assert float(info["verificationprogress"]) == 1 / (MINING_MAX_BEHIND_BLOCKS + 2)


# ---- long polling ------------------------------------------------------------------------------


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def waiting_call(station, template):
    poll = asyncio.create_task(
        station.call("getblocktemplate", SEGWIT | {"longpollid": template["longpollid"]})
    )
    await until(lambda: station.miner.long_polls == 1)
    return poll


async def test_a_long_poll_ends_with_a_new_tip(station):
    first = await station.call("getblocktemplate", SEGWIT)
    poll = await waiting_call(station, first)
    [block_hash] = await station.generate()
    assert (await poll)["previousblockhash"] == block_hash
    assert station.miner.long_polls == 0
    again = await station.call("getblocktemplate", SEGWIT | {"longpollid": first["longpollid"]})
    assert again["previousblockhash"] == block_hash


async def test_a_long_poll_ends_with_new_transactions_after_a_while(station, monkeypatch):
    monkeypatch.setattr(mining, "LONG_POLL_S", 0.05)
    monkeypatch.setattr(mining, "LONG_POLL_MAX_S", 600)
    poll = await waiting_call(station, await station.call("getblocktemplate", SEGWIT))
    station.node.clock.ms += 5_000
    tx = await station.send(pay(station.node.hill.coin(0)))
    template = await poll
    assert [each["txid"] for each in template["transactions"]] == [hash_hex(tx.txid)]
    monkeypatch.setattr(mining, "LONG_POLL_MAX_S", 0.1)
    unchanged = await station.call("getblocktemplate", SEGWIT | {"longpollid": template["longpollid"]})
    assert unchanged["longpollid"] == template["longpollid"]


async def test_long_polls_are_bounded(station):
    template = await station.call("getblocktemplate", SEGWIT)
    poll = await waiting_call(station, template)
    station.miner.long_polls += MAX_LONG_POLLS - 1
    number, reason = await station.refusal(
        "getblocktemplate", SEGWIT | {"longpollid": template["longpollid"]}
    )
    assert (number, reason) == (-1, f"{MAX_LONG_POLLS} calls wait for a template already")
    asked = asyncio.create_task(station.generate(10**9))
    await until(lambda: station.node.height > 0)  # the tip moves, so the first one is answered
    assert (await poll)["previousblockhash"] != template["previousblockhash"]
    station.run.cancel()
    with pytest.raises(RpcError) as caught:
        await asked
    assert (caught.value.number, caught.value.reason) == (-9, "Shutting down")


@pytest.mark.parametrize("first", ["miner", "driver"])
async def test_a_long_poll_ends_when_the_node_stops(station, first):
    poll = await waiting_call(station, await station.call("getblocktemplate", SEGWIT))
    if first == "miner":
        station.miner.close()
    else:
        station.node.driver.stop()
    with pytest.raises(RpcError) as caught:
        await poll
    assert (caught.value.number, caught.value.reason) == (-9, "Shutting down")


# ---- the miner inside --------------------------------------------------------------------------


async def test_generatetoaddress(station, stations):
    hashes = await station.generate(3)
    assert [await station.call("getblockhash", height) for height in (1, 2, 3)] == hashes
    assert station.coinbase(2).vout[0] == TxOut(SUBSIDY, OTHER.script)
    assert await station.generate(0) == []
    assert (await station.refusal("generatetoaddress", 1, "nobody"))[0] == -5
    assert (await station.refusal("generatetoaddress", -1, "nobody"))[0] == -8
    hard = await stations(Hill(HARD))
    assert await hard.call("generatetoaddress", 1, hard.address(OTHER.script), 5_000) == []


async def test_generateblock_takes_exactly_what_it_is_given(station, stations):
    coin = station.node.hill.coin
    pending, left_out = await station.send(pay(coin(0))), await station.send(pay(coin(1)))
    direct = pay(coin(2))
    where = station.address(OTHER.script)
    made = await station.call("generateblock", where, [hash_hex(pending.txid), direct.raw.hex()])
    assert station.node.chain.block(station.node.chain.tip.block_hash).txs[1:] == (pending, direct)
    assert made == {"hash": await station.call("getbestblockhash")}
    assert [hash_hex(left_out.txid)] == await station.call("getrawmempool")
    kept = await station.call("generateblock", where, [], False)
    assert await station.call("getblockcount") == 1
    assert await station.call("submitblock", kept["hex"]) is None
    assert await station.call("getbestblockhash") == kept["hash"]
    spent = hash_hex(pending.txid)
    refused = [
        (["zz"], -8, "transactions must be"),
        (["00"], -22, "Transaction decode failed for 00"),
        ([spent], -5, f"Transaction {spent} not in mempool."),
        ([direct.raw.hex()], -25, "TestBlockValidity failed: bad-txns-inputs-missingorspent"),
        ([left_out.raw.hex()] * 2, -25, "TestBlockValidity failed: bad-txns-inputs-missingorspent"),
        ([station.coinbase(1).raw.hex()], -25, "TestBlockValidity failed: "),
    ]
    for given, number, reason in refused:
        found = await station.refusal("generateblock", where, given)
        assert (found[0], found[1][: len(reason)]) == (number, reason)
    assert (await station.refusal("generateblock", "x", []))[0] == -5
    assert await station.call("getblockcount") == 2


async def test_the_miner_is_started_and_stopped(station):
    shape = await station.call("miner.start", station.address(OTHER.script), 2)
    assert (shape["enabled"], shape["threads"]) == (True, 2)
    assert (shape["address"], shape["scriptPubKey"]) == (station.address(OTHER.script), OTHER.script.hex())
    await until(lambda: station.node.height >= 3)
    assert (await station.call("miner.stop"))["enabled"] is False
    height = -1
    while height != station.node.height:  # a search that was under way may end with one more block
        height = station.node.height
        await until(lambda: station.miner.status().blocks_found == station.node.height)
        info = (await station.call("getmininginfo"))["miner"]
        _, metrics = await station.client.get("/metrics")
    assert info["blocksfound"] == height
    assert info["hashespersec"] >= 0
    assert station.coinbase(1).vout[0].script_pubkey == OTHER.script
    assert f"wattd_miner_blocks_found {float(info['blocksfound'])}" in metrics
    assert await station.refusal("miner.start", None, 0) == (-8, "threads must be 1 to 64")
    assert (await station.refusal("miner.start", "x"))[0] == -5


async def test_getmininginfo_and_rates(station):
    clock = station.node.clock
    times = [station.node.chain.tip.time_s]
    for step_s in (10, 30, 20):
        clock.time_s += step_s
        await station.generate()
        times.append(station.node.chain.tip.time_s)
    headers = [
        await station.call("getblockheader", await station.call("getblockhash", at)) for at in range(4)
    ]
    works = [int(header["chainwork"], 16) for header in headers]
    info = await station.call("getmininginfo")
    assert (info["blocks"], info["chain"], info["pooledtx"]) == (3, "hill", 0)
    assert (info["bits"], info["target"]) == (headers[3]["bits"], headers[3]["target"])
    assert info["difficulty"] == headers[3]["difficulty"] == await station.call("getdifficulty")
    assert info["next"]["height"] == 4
    assert info["next"]["bits"] == f"{station.node.driver.next_bits():08x}"
    assert info["currentblocktx"] == 0
    assert info["currentblockweight"] > 0
    assert float(info["networkhashps"]) == (works[3] - works[0]) / (times[3] - times[0])
    rate = await station.call("getnetworkhashps", 1)
    assert float(rate) == (works[3] - works[2]) / 20 == float(await station.call("getnetworkhashps", -1))
    assert float(await station.call("getnetworkhashps", 1, 2)) == (works[2] - works[1]) / 30
    assert await station.call("getnetworkhashps", 5, 0) == 0
    clock.time_s -= 15  # header times may run backwards
    await station.generate()
    works.append(station.node.store.headers.get(station.node.chain.tip.block_hash).work)
    assert station.node.chain.tip.time_s == times[3] - 15
    assert float(await station.call("getnetworkhashps", 2)) == (works[4] - works[2]) / 20
    for wrong in ((0,), (-2,)):
        number, reason = await station.refusal("getnetworkhashps", *wrong)
        assert (number, reason) == (-8, "Invalid nblocks. Must be a positive number or -1.")
    assert await station.refusal("getnetworkhashps", 1, 5) == (-8, "Block does not exist at specified height")


# ---- steering ----------------------------------------------------------------------------------


async def test_the_operator_leaves_a_branch_and_comes_back(station):
    first, second = await station.generate(2)
    before = await station.call("getblockheader", second)
    tx = await station.send(pay(station.node.hill.coin(0)))
    [third] = await station.generate()
    assert await station.call("invalidateblock", second) is None
    assert await station.call("getbestblockhash") == first
    await until(lambda: station.node.mempool.get(tx.txid) is not None)
    [rival] = await station.generate(1, RICH.script)
    tips = await station.call("getchaintips")
    assert tips == [
        {"height": 3, "hash": third, "branchlen": 2, "status": "invalid"},
        {"height": 2, "hash": rival, "branchlen": 0, "status": "active"},
    ]
    left = await station.call("getblockheader", second)
    assert left["confirmations"] == -1
    assert "nextblockhash" not in left
    for field in ("chainwork", "mediantime", "height", "previousblockhash", "difficulty"):
        assert left[field] == before[field]
    block = await station.call("getblock", third, 2)
    assert (block["confirmations"], block["nTx"]) == (-1, 2)
    assert "fee" not in block["tx"][1]
    assert "term" not in block
    assert (
        await station.call("getblock", third, 0)
        == station.node.chain.block(bytes.fromhex(third)[::-1]).raw.hex()
    )
    assert (await station.call("getblockheader", first))["nextblockhash"] == rival
    assert await station.call("reconsiderblock", second) is None
    assert await station.call("getbestblockhash") == third
    assert [tip["status"] for tip in await station.call("getchaintips")] == ["active", "valid-fork"]
    left = await station.call("getblockheader", rival)
    assert left["confirmations"] == -1
    assert "nextblockhash" not in left  # though the active chain has a block above its height
    info = await station.call("getblockchaininfo")
    assert (info["blocks"], info["headers"], info["bestblockhash"]) == (3, 3, third)
    assert info["chainwork"] == (await station.call("getblockheader", third))["chainwork"]
    assert int(info["chainwork"], 16) > int(before["chainwork"], 16)


async def test_a_precious_block_wins_its_tie(station):
    template = await station.call("getblocktemplate", SEGWIT)
    one, two = Outsider(template), Outsider(template).append(b"\x01")
    assert await station.call("submitblock", one.mine()) is None
    assert await station.call("submitblock", two.mine()) == "inconclusive"
    assert await station.call("getbestblockhash") == one.hash
    assert await station.call("preciousblock", two.hash) is None
    assert await station.call("getbestblockhash") == two.hash
    for method in ("invalidateblock", "reconsiderblock", "preciousblock"):
        assert await station.refusal(method, "00" * 32) == (-5, "Block not found")
    genesis = hash_hex(station.node.chain.chain_id)
    number, reason = await station.refusal("invalidateblock", genesis)
    assert (number, reason.partition(":")[0]) == (-20, "bad-genesis-mark")


async def test_headers_alone(station):
    template = await station.call("getblocktemplate", SEGWIT)
    block = Outsider(template)
    raw = block.mine()
    child = dict(template, previousblockhash=block.hash)
    orphan = Outsider(child, time=template["curtime"] + 1)
    assert await station.refusal("submitheader", orphan.mine()[:160]) == (
        -25, f"Must submit previous header ({block.hash}) first",
    )  # fmt: skip
    assert await station.refusal("submitheader", raw[:158]) == (-22, "Block header decode failed")
    unsolved = Outsider(template).mine(solved=False)[:160]
    assert await station.refusal("submitheader", unsolved) == (-25, "high-hash")
    assert await station.call("submitheader", raw[:160]) is None
    assert await station.call("submitheader", raw[:160]) is None
    header = await station.call("getblockheader", block.hash)
    assert (header["height"], header["confirmations"]) == (1, -1)
    assert "nTx" not in header
    assert await station.refusal("getblock", block.hash) == (-1, "Block not available (not fully downloaded)")
    statuses = {tip["hash"]: tip["status"] for tip in await station.call("getchaintips")}
    assert statuses[block.hash] == "headers-only"
    assert (await station.call("getblockchaininfo"))["headers"] == 1
    assert await station.call("submitblock", raw) is None
    assert (await station.call("getblockheader", block.hash))["confirmations"] == 1


# ---- bft chains --------------------------------------------------------------------------------


async def test_a_bft_chain_is_neither_mined_nor_steered(served):
    calls = [
        ("generatetoaddress", 1, "x"), ("generateblock", "x", []), ("getblocktemplate", SEGWIT),
        ("submitblock", "00"), ("submitheader", "00"), ("getmininginfo",), ("getnetworkhashps",),
        ("miner.start",), ("miner.stop",),
        ("invalidateblock", "00" * 32), ("reconsiderblock", "00" * 32), ("preciousblock", "00" * 32),
    ]  # fmt: skip
    for method, *params in calls:
        with pytest.raises(RpcError) as caught:
            await served.call(method, *params)
        assert caught.value.number == -1
        assert caught.value.reason.startswith("not on this chain: its engine is bft")
    served.node.mine()
    tip = {"height": 1, "hash": hash_hex(served.node.tip().block_hash), "branchlen": 0, "status": "active"}
    assert await served.call("getchaintips") == [tip]
