"""Queries by address over HTTP: a real store and indexer behind the node in memory."""

import asyncio

import pytest

from consensus.params import COIN
from consensus.script import templates
from consensus.transaction import TxOut, hash_hex
from consensus.undo import encode_undo
from node import indexer as indexer_module
from node.indexer import Indexer
from node.rpc import address as address_module
from node.rpc.errors import RpcError
from storage import limits
from storage.store import ChainStore, ConnectBatch

BARE = b"\x51"
"""A script without an address."""


class Stored:
    """Writes the blocks of a MemoryNode to a store, where the indexer finds them."""

    def __init__(self, node, path, **given):
        self.node = node
        self.store = ChainStore.open(path, chain_id=node.chain_id)
        self.indexer = Indexer(self.store, **{"tx_index": True, "address_index": True, **given})
        node.indexes = self.indexer
        self.task = None

    def put_blocks(self):
        node = self.node
        for height in range(self.store.height + 1, len(node.blocks)):
            block, connected = node.blocks[height], node.connected[height]
            self.store.connect(
                ConnectBatch(
                    height=height,
                    block_hash=block.hash,
                    header=block.header.raw,
                    body=block.raw,
                    txids=connected.txids,
                    tip=connected.tip.encode(),
                    coins=connected.coins,
                    state={},
                    undo=encode_undo(connected),
                )
            )

    def mine(self, txs=()):
        block = self.node.mine(list(txs))
        self.put_blocks()
        return block

    def run(self):
        self.task = asyncio.create_task(self.indexer.run())

    async def synced(self):
        async with asyncio.timeout(5):
            while not self.indexer.info()["addressindex"].synced:
                await asyncio.sleep(0)

    async def stop(self):
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self.indexer.close()
        self.store.close()


@pytest.fixture
async def make_stored(node, tmp_path):
    made = []

    def make(**given):
        made.append(Stored(node, tmp_path / "store", **given))
        made[-1].put_blocks()
        return made[-1]

    yield make
    for stored in made:
        await stored.stop()


@pytest.fixture
async def stored(make_stored):
    found = make_stored()
    found.run()
    await found.synced()
    return found


async def refused(served, method, *params, **named):
    with pytest.raises(RpcError) as caught:
        await served.call(method, *params, **named)
    return caught.value.number, caught.value.reason


def pay(node, payer, amounts):
    """Pay amounts (base units) from one account to scripts."""
    return node.wallet(payer).pay([TxOut(amount, script) for script, amount in amounts]).tx


async def test_a_payment_is_seen_from_both_sides(served, stored):
    node = served.node
    payee = node.wallet(2).account.script
    tx = pay(node, 1, [(payee, 5 * COIN)])
    block = stored.mine([tx])
    payer, receiver = served.address(1), served.address(2)
    fee = 1000 * COIN - sum(out.value for out in tx.vout)

    where = {"height": 1, "hash": hash_hex(block.hash)}
    assert await served.call("getaddressbalance", {"addresses": [receiver]}) == {
        "balance": 1005 * COIN,
        "received": 1005 * COIN,
        **where,
    }
    change = 1000 * COIN - 5 * COIN - fee
    assert await served.call("getaddressbalance", payer) == {
        "balance": change,
        "received": 1000 * COIN + change,
        **where,
    }

    genesis = hash_hex(node.blocks[0].txs[0].txid)
    assert await served.call("getaddresstxids", {"addresses": [payer]}) == [genesis, hash_hex(tx.txid)]
    deltas = await served.call("getaddressdeltas", {"addresses": [payer]})
    assert [each["satoshis"] for each in deltas] == [1000 * COIN, change, -1000 * COIN]
    assert deltas[2] == {
        "satoshis": -1000 * COIN,
        "txid": hash_hex(tx.txid),
        "index": 0,
        "blockindex": 1,
        "height": 1,
        "address": payer,
    }
    utxos = await served.call("getaddressutxos", {"addresses": [receiver]})
    assert utxos[1] == {
        "address": receiver,
        "txid": hash_hex(tx.txid),
        "outputIndex": [out.script_pubkey for out in tx.vout].index(payee),
        "script": payee.hex(),
        "satoshis": 5 * COIN,
        "height": 1,
        "coinbase": False,
    }
    assert utxos[0]["coinbase"]


async def test_utxos_by_address_are_those_of_gettxout(served, stored):
    node = served.node
    for _ in range(3):
        stored.mine([pay(node, 1, [(node.wallet(2).account.script, COIN), (BARE, 7)])])
    for name in (served.address(1), served.address(2), BARE.hex()):
        utxos = await served.call("getaddressutxos", name)
        assert utxos
        for each in utxos:
            found = await served.call("gettxout", each["txid"], each["outputIndex"])
            assert found["value"] * COIN == each["satoshis"]
            assert found["scriptPubKey"]["hex"] == each["script"]
            assert found["confirmations"] == node.tip().height - each["height"] + 1
    assert (await served.call("getaddressbalance", BARE.hex()))["balance"] == 21


async def test_an_answer_is_never_older_than_the_call(served, stored):
    """The query waits for the block that was connected just before it."""
    script = templates.p2pkh(bytes(20))
    for count in range(1, 15):
        stored.mine([pay(served.node, 1, [(script, COIN)])])
        answer = await served.call("getaddressbalance", script.hex())
        assert (answer["height"], answer["balance"]) == (count, count * COIN)


async def test_chain_info_ranges_and_pages(served, stored):
    node = served.node
    script = templates.p2pkh(bytes([9] * 20))
    txs = []
    for _ in range(6):
        txs.append(pay(node, 1, [(script, COIN), (script, 2 * COIN)]))
        stored.mine(txs[-1:])
    ids = [hash_hex(tx.txid) for tx in txs]
    query = {"addresses": [script.hex()], "chainInfo": True}
    tip = {"height": 6, "hash": hash_hex(node.tip().block_hash)}

    whole = await served.call("getaddressdeltas", query)
    assert {key: whole[key] for key in whole if key != "deltas"} == tip
    assert len(whole["deltas"]) == 12
    cut = await served.call("getaddressdeltas", {**query, "start": 2, "end": 3})
    assert cut["start"] == {"height": 2, "hash": hash_hex(node.block_hash(2))}
    assert cut["end"] == {"height": 3, "hash": hash_hex(node.block_hash(3))}
    assert cut["deltas"] == whole["deltas"][2:6]
    assert await served.call("getaddresstxids", {**query, "start": 4, "end": 0}) == {
        "txids": ids[3:],
        **tip,
    }

    for method, key in (
        ("getaddressdeltas", "deltas"),
        ("getaddresstxids", "txids"),
        ("getaddressutxos", "utxos"),
    ):
        rows = (await served.call(method, query))[key]
        for limit in (1, 3, 5, len(rows)):
            found, after = [], ""
            while True:
                page = await served.call(method, {**query, "limit": limit, "after": after})
                found += page[key]
                if "next" not in page:
                    break
                assert len(page[key]) == limit
                after = page["next"]
            assert found == rows
    assert await served.call("getaddresstxids", {"addresses": [script.hex()], "limit": 2}) == ids[:2]
    past = await served.call("getaddressdeltas", {**query, "end": 2, "after": "ffffffff"})
    assert past["deltas"] == []


async def test_several_addresses_are_merged_in_chain_order(served, stored):
    node = served.node
    scripts = [templates.p2pkh(bytes([n] * 20)) for n in (1, 2, 3)]
    for at in (2, 0, 1, 0):
        stored.mine([pay(node, 1, [(scripts[at], COIN + at)])])
    names = [script.hex() for script in scripts]
    deltas = await served.call("getaddressdeltas", {"addresses": [*names, names[0]]})
    assert [(each["height"], names.index(each["address"])) for each in deltas] == [
        (1, 2),
        (2, 0),
        (3, 1),
        (4, 0),
    ]
    assert (await served.call("getaddressbalance", names))["balance"] == 4 * COIN + 3


async def test_too_many_rows_are_refused_and_not_cut_short(served, stored, monkeypatch):
    monkeypatch.setattr(address_module, "RPC_ADDRESS_ROWS", 3)
    monkeypatch.setattr(address_module, "RPC_ADDRESS_SCAN", 4)
    script = templates.p2pkh(bytes(20))
    stored.mine([pay(served.node, 1, [(script, COIN)] * 4)])
    number, reason = await refused(served, "getaddressutxos", script.hex())
    assert number == -8
    assert "More than 3 rows" in reason
    assert (await served.call("getaddressbalance", script.hex()))["balance"] == 4 * COIN
    stored.mine([pay(served.node, 1, [(script, COIN)])])
    assert (await refused(served, "getaddressbalance", script.hex()))[0] == -8


@pytest.mark.parametrize(
    ("query", "number", "text"),
    [
        (5, -3, "of type number is not of expected type object"),
        ({}, -3, "addresses.addresses"),
        ({"addresses": [5]}, -3, "addresses.addresses"),
        ({"addresses": []}, -8, "1 to 100"),
        ([f"{n:04x}" for n in range(101)], -8, "1 to 100"),
        ("nonsense", -5, "neither an address"),
        ({"addresses": ["51"], "start": -1}, -8, "start"),
        ({"addresses": ["51"], "start": "1"}, -3, "start"),
        ({"addresses": ["51"], "start": 5, "end": 4}, -8, "end"),
        ({"addresses": ["51"], "limit": 0}, -8, "limit"),
        ({"addresses": ["51"], "limit": 10_001}, -8, "limit"),
        ({"addresses": ["51"], "chainInfo": 1}, -3, "chainInfo"),
        ({"addresses": ["51"], "after": "xyz"}, -8, "after"),
        ({"addresses": ["51"], "from": 1}, -8, "Unknown option from"),
    ],
)
async def test_bad_queries(served, stored, query, number, text):
    found = await refused(served, "getaddressdeltas", query)
    assert found[0] == number
    assert text in found[1]


async def test_without_the_index_the_error_names_the_key(served):
    number, reason = await refused(served, "getaddressutxos", served.address(1))
    assert number == -1
    assert reason.startswith("address-index-off")


async def test_an_index_that_is_turned_off_says_so(served, make_stored):
    stored = make_stored(address_index=False)
    stored.run()
    number, reason = await refused(served, "getaddressbalance", served.address(1))
    assert (number, reason.split(":")[0]) == (-1, "address-index-off")
    assert "address_index = true" in reason
    assert await served.call("getindexinfo") == {"txindex": {"synced": True, "best_block_height": 0}}


async def test_while_it_is_built_queries_say_how_far_it_is(served, make_stored, monkeypatch):
    monkeypatch.setattr(limits, "SIDE_SLICE_BLOCKS", 1)
    monkeypatch.setattr(indexer_module, "INDEX_WAIT_BLOCKS", 0)
    stored = make_stored()
    number, reason = await refused(served, "getaddressbalance", served.address(1))
    assert number == -1
    assert reason.startswith("address-index-building: it is at height -1 of 0")
    for _ in range(4):
        stored.mine()
    assert await served.call("getindexinfo", "addressindex") == {
        "addressindex": {"synced": False, "best_block_height": -1}
    }
    assert await served.call("getindexinfo", "other") == {}
    stored.run()
    await stored.synced()
    assert (await served.call("getindexinfo"))["addressindex"] == {"synced": True, "best_block_height": 4}
    assert (await served.call("getaddressbalance", served.address(1)))["height"] == 4


async def test_raw_transactions_without_the_transaction_index(served):
    """Bitcoin Core's words, with our key in the place of its option."""
    node = served.node
    tx = pay(node, 1, [(BARE, COIN)])
    block = node.mine([tx])
    txid, blockhash = hash_hex(tx.txid), hash_hex(block.hash)
    node.indexes.tx_index = None
    assert await refused(served, "getrawtransaction", txid) == (
        -5,
        "No such mempool transaction. Set [storage] tx_index = true or provide a block hash to enable "
        "blockchain transaction queries. Use gettransaction for wallet transactions.",
    )
    found = await served.call("getrawtransaction", txid, 2, blockhash)
    assert found["hex"] == tx.raw.hex()
    assert (found["confirmations"], found["in_active_chain"]) == (1, True)
    assert "fee" in found
    assert await refused(served, "getrawtransaction", "00" * 32, 0, blockhash) == (
        -5,
        "No such transaction found in the provided block. Use gettransaction for wallet transactions.",
    )
    waiting = pay(node, 2, [(BARE, COIN)])
    await node.submit(waiting.raw)
    assert await served.call("getrawtransaction", hash_hex(waiting.txid)) == waiting.raw.hex()


async def test_psbt_inputs_come_from_the_utxo_set_without_the_transaction_index(served):
    node = served.node
    tx = pay(node, 1, [(templates.p2wpkh(bytes(20)), COIN), (templates.p2pkh(bytes(20)), COIN)])
    node.mine([tx])
    node.indexes.tx_index = None
    inputs = [{"txid": hash_hex(tx.txid), "vout": at} for at in (0, 1)]
    psbt = await served.call("createpsbt", inputs, [{"data": "00"}])
    segwit, legacy = (await served.call("decodepsbt", await served.call("utxoupdatepsbt", psbt)))["inputs"]
    assert segwit["witness_utxo"]["amount"] == 1
    assert "non_witness_utxo" not in segwit
    assert "witness_utxo" not in legacy  # it needs the whole transaction, which nobody can find


async def test_raw_transactions_while_the_transaction_index_is_built(served):
    served.node.indexes.tx_index = False
    number, reason = await refused(served, "getrawtransaction", "11" * 32)
    assert number == -5
    assert reason.startswith(
        "No such mempool transaction. Blockchain transactions are still in the process of being indexed."
    )
