"""What the methods answer: shapes and errors as Bitcoin Core's, amounts exact to eight decimals."""

from decimal import Decimal

import pytest

from consensus.address import encode_address
from consensus.errors import StorageError
from consensus.params import COIN
from consensus.script import templates
from consensus.transaction import Transaction, TxOut, hash_hex
from contracts.operations import Deposit, PlaceOrder, RegisterMember, encode, object_id, payload_script
from node.rpc.backend import Pruning
from node.rpc.errors import RpcError
from node.rpc.registry import METHODS


async def refused(served, method, *params, **named):
    with pytest.raises(RpcError) as caught:
        await served.call(method, *params, **named)
    return caught.value.number, caught.value.reason


async def test_chain_methods(served):
    node = served.node
    tx = node.wallet(1).pay([TxOut(5 * COIN + 1, templates.p2pkh(bytes(20)))]).tx
    block = node.mine([tx])
    node.mine()
    info = await served.call("getblockchaininfo")
    assert (info["chain"], info["blocks"], info["headers"]) == ("rpctest", 2, 2)
    assert info["chain_id"] == hash_hex(node.chain_id)
    assert info["effects_digest"] == node.tip().effects_digest.hex()
    assert info["issued"] == Decimal("4000.00000000")
    assert info["initialblockdownload"] is False
    assert info["bits"] == "207fffff"
    assert info["chainwork"] == f"{6:064x}"
    assert await served.call("getblockcount") == 2
    assert await served.call("getbestblockhash") == hash_hex(node.tip().block_hash)
    assert await served.call("getblockhash", 1) == hash_hex(block.hash)
    assert await refused(served, "getblockhash", 3) == (-8, "Block height out of range")

    header = await served.call("getblockheader", hash_hex(block.hash))
    assert header["height"] == 1
    assert header["confirmations"] == 2
    assert header["nTx"] == 2
    assert header["previousblockhash"] == hash_hex(node.chain_id)
    assert header["nextblockhash"] == hash_hex(node.tip().block_hash)
    assert header["mediantime"] == node.params.genesis_time_s + 1
    assert await served.call("getblockheader", hash_hex(block.hash), False) == block.header.raw.hex()
    assert (await refused(served, "getblockheader", "00" * 32)) == (-5, "Block not found")


async def test_what_is_pruned_is_told_as_bitcoin_core_does(served):
    names = ("pruned", "pruneheight", "automatic_pruning", "prune_target_size")

    async def shown():
        info = await served.call("getblockchaininfo")
        return {name: info[name] for name in names if name in info}

    assert await shown() == {"pruned": False}
    served.node.prunes = Pruning(0, True, 500 << 20)
    assert await shown() == {
        "pruned": True, "pruneheight": 0, "automatic_pruning": True, "prune_target_size": 500 << 20
    }  # fmt: skip
    served.node.prunes = Pruning(700, False, 0)
    assert await shown() == {"pruned": True, "pruneheight": 700, "automatic_pruning": False}


async def test_genesis_header_has_no_parent(served):
    header = await served.call("getblockheader", hash_hex(served.node.chain_id))
    assert "previousblockhash" not in header
    assert "nextblockhash" not in header


async def test_getblock_verbosities(served):
    node = served.node
    wallet = node.wallet(1)
    first = wallet.pay([TxOut(5 * COIN, node.wallet(2).account.script)])
    second = wallet.pay([])  # spends the first one's change inside the same block
    block = node.mine([first.tx, second.tx])
    blockhash = hash_hex(block.hash)
    assert await served.call("getblock", blockhash, 0) == block.raw.hex()
    assert await served.call("getblock", blockhash, False) == block.raw.hex()
    plain = await served.call("getblock", blockhash)
    assert plain["tx"] == [hash_hex(tx.txid) for tx in block.txs]
    assert (plain["size"], plain["weight"]) == (len(block.raw), block.weight)
    assert plain["term"] == block.header.nonce
    assert plain["commitment"]["effects_digest"] == node.tip().effects_digest.hex()
    assert plain["commitment"]["proposer"] == 1

    detailed = await served.call("getblock", blockhash, 2)
    coinbase, one, two = detailed["tx"]
    assert "coinbase" in coinbase["vin"][0]
    assert "fee" not in coinbase
    assert one["fee"] == Decimal(first.fee) / COIN
    assert two["fee"] == Decimal(second.fee) / COIN
    assert one["hex"] == first.tx.raw.hex()
    assert one["vout"][0]["value"] == Decimal("5.00000000")
    assert one["vout"][0]["scriptPubKey"]["address"] == served.address(2)
    assert "prevout" not in one["vin"][0]

    prevouts = [tx["vin"][0]["prevout"] for tx in (await served.call("getblock", blockhash, 3))["tx"][1:]]
    assert [each["height"] for each in prevouts] == [0, 1]
    assert [each["generated"] for each in prevouts] == [True, False]
    assert prevouts[0]["value"] == Decimal("1000.00000000")
    assert prevouts[1]["value"] == Decimal(first.change.value) / COIN
    assert (await refused(served, "getblock", "ff" * 32, 2))[0] == -5


async def test_amounts_are_exact_text(served):
    node = served.node
    tx = node.wallet(1).pay([TxOut(1, templates.p2pkh(bytes(20)))]).tx
    body = b'{"method":"decoderawtransaction","params":["%s"],"id":1}' % tx.raw.hex().encode()
    _, _, data = await served.http(body)
    assert b'"value":0.00000001,' in data
    change = tx.vout[1].value
    assert b'"value":%d.%08d,' % divmod(change, COIN) in data


async def test_transactions(served):
    node = served.node
    built = node.wallet(1).pay([TxOut(7 * COIN, node.wallet(2).account.script)])
    raw, txid = built.tx.raw.hex(), hash_hex(built.tx.txid)
    decoded = await served.call("decoderawtransaction", raw)
    assert (decoded["txid"], decoded["size"], decoded["vsize"]) == (txid, len(built.tx.raw), built.tx.vsize)
    assert decoded["vin"][0]["scriptSig"]["asm"].split()[0].endswith("[ALL]")
    assert decoded["vin"][0]["sequence"] == 0xFFFFFFFF

    assert (await refused(served, "getrawtransaction", txid))[0] == -5
    verdict = (await served.call("testmempoolaccept", [raw]))[0]
    assert verdict["allowed"] is True
    assert verdict["fees"]["base"] == Decimal(built.fee) / COIN
    assert await served.call("getrawmempool") == []
    assert await served.call("sendrawtransaction", raw) == txid
    assert await served.call("sendrawtransaction", raw) == txid  # as in Bitcoin Core, again is no error
    assert await served.call("getrawmempool") == [txid]
    assert await served.call("getrawtransaction", txid) == raw
    pending = await served.call("getrawtransaction", txid, 2)
    assert "blockhash" not in pending
    assert pending["fee"] == Decimal(built.fee) / COIN

    block = node.mine()
    confirmed = await served.call("getrawtransaction", txid, True)
    assert (confirmed["blockhash"], confirmed["confirmations"]) == (hash_hex(block.hash), 1)
    assert confirmed["blocktime"] == confirmed["time"] == block.header.time_s
    inside = await served.call("getrawtransaction", txid, 2, hash_hex(block.hash))
    assert inside["in_active_chain"] is True
    assert inside["vin"][0]["prevout"]["value"] == Decimal("1000.00000000")
    assert (await refused(served, "getrawtransaction", txid, 0, hash_hex(node.chain_id)))[0] == -5
    assert (await refused(served, "getrawtransaction", txid, 0, "00" * 32)) == (-5, "Block hash not found")
    assert (await refused(served, "sendrawtransaction", raw)) == (
        -27,
        "Transaction outputs already in utxo set",
    )
    verdict = (await served.call("testmempoolaccept", [raw]))[0]
    assert (verdict["allowed"], verdict["reject-reason"]) == (False, "txn-already-confirmed")


async def test_refused_transactions(served):
    node = served.node
    wallet = node.wallet(1)
    good = wallet.pay([])
    wallet.undo(good)
    forged = Transaction.build(2, [good.tx.vin[0]._replace(script_sig=b"\x51")], good.tx.vout)
    number, reason = await refused(served, "sendrawtransaction", forged.raw.hex())
    assert number == -26
    assert reason.startswith("mandatory-script-verify-flag-failed")
    missing = Transaction.build(2, [good.tx.vin[0]._replace(prevout=bytes(36))], good.tx.vout)
    assert await refused(served, "sendrawtransaction", missing.raw.hex()) == (
        -25,
        "bad-txns-inputs-missingorspent",
    )
    verdict = (await served.call("testmempoolaccept", [missing.raw.hex()]))[0]
    assert verdict["reject-reason"] == "missing-inputs"
    for text in ("", "zz", "00", good.tx.raw.hex() + "00", good.tx.raw.hex()[:-1]):
        assert (await refused(served, "sendrawtransaction", text))[0] == -22
    cheap = wallet.pay([])
    wallet.undo(cheap)
    wallet.fee_rate = 0
    number, reason = await refused(served, "sendrawtransaction", wallet.pay([]).tx.raw.hex())
    assert (number, reason.partition(":")[0]) == (-26, "min relay fee not met")


async def test_fee_and_burn_limits(served):
    node = served.node
    wallet = node.wallet(1)
    wallet.fee_rate = COIN // 5
    dear = wallet.pay([])
    wallet.undo(dear)
    raw = dear.tx.raw.hex()
    number, reason = await refused(served, "sendrawtransaction", raw)
    assert number == -25
    assert reason.startswith("Fee exceeds maximum")
    verdict = (await served.call("testmempoolaccept", [raw]))[0]
    assert (verdict["allowed"], verdict["reject-reason"]) == (False, "max-fee-exceeded")
    wallet.fee_rate = 1000
    burn = wallet.pay([TxOut(5, templates.data_carrier(b"bye"))])
    wallet.undo(burn)
    number, reason = await refused(served, "sendrawtransaction", burn.tx.raw.hex())
    assert (number, "maxburnamount" in reason) == (-25, True)
    # collateral and deposits on a payload output are not burnt
    deposit = wallet.operate(encode(Deposit()), value=COIN)
    assert await served.call("sendrawtransaction", deposit.tx.raw.hex()) == hash_hex(deposit.tx.txid)
    other = node.wallet(2)
    other.fee_rate = COIN // 5
    await served.call("sendrawtransaction", other.pay([]).tx.raw.hex(), 0)


async def test_gettxout(served):
    node = served.node
    coin = node.wallet(1).coins()[0]
    genesis_txid, index = hash_hex(coin.prevout[:32]), int.from_bytes(coin.prevout[32:], "little")
    found = await served.call("gettxout", genesis_txid, index)
    assert found["value"] == Decimal("1000.00000000")
    assert (found["confirmations"], found["coinbase"]) == (1, True)
    assert found["scriptPubKey"]["type"] == "pubkeyhash"
    assert found["scriptPubKey"]["desc"].startswith(f"addr({served.address(1)})#")
    built = node.wallet(1).pay([])
    txid = hash_hex(built.tx.txid)
    await served.call("sendrawtransaction", built.tx.raw.hex())
    assert await served.call("gettxout", genesis_txid, index) is None
    assert (await served.call("gettxout", genesis_txid, index, False))["confirmations"] == 1
    assert (await served.call("gettxout", txid, 0))["confirmations"] == 0
    assert await served.call("gettxout", txid, 0, False) is None
    assert await served.call("gettxout", txid, 1) is None
    assert await served.call("gettxout", "00" * 32, 0) is None
    assert (await refused(served, "gettxout", txid, 1 << 32))[0] == -8


async def test_gettxoutsetinfo(served):
    node = served.node
    wallet = node.wallet(1)
    await served.call("sendrawtransaction", wallet.operate(encode(Deposit()), value=3 * COIN).tx.raw.hex())
    node.mine()
    info = await served.call("gettxoutsetinfo")
    assert info["contract_accounts"] == Decimal("3.00000000")
    assert info["issued"] == Decimal("4000.00000000")
    assert info["total_amount"] == Decimal("3997.00000000")
    assert info["conserved"] is True
    assert len(info["hash_serialized"]) == 64
    assert "hash_serialized" not in await served.call("gettxoutsetinfo", "none")
    assert (await refused(served, "gettxoutsetinfo", "muhash"))[0] == -8
    node.coins.data.popitem()
    assert (await served.call("gettxoutsetinfo"))["conserved"] is False


async def test_mempool(served):
    node = served.node
    wallet = node.wallet(1)
    parent, child = wallet.pay([]), wallet.pay([])
    for built in (parent, child):
        await served.call("sendrawtransaction", built.tx.raw.hex())
    info = await served.call("getmempoolinfo")
    assert (info["size"], info["bytes"]) == (2, parent.tx.vsize + child.tx.vsize)
    assert info["total_fee"] == Decimal(parent.fee + child.fee) / COIN
    assert info["minrelaytxfee"] == Decimal("0.00001000")
    first, second = hash_hex(parent.tx.txid), hash_hex(child.tx.txid)
    entries = await served.call("getrawmempool", True)
    assert entries[first]["spentby"] == [second]
    assert entries[second]["depends"] == [first]
    entry = await served.call("getmempoolentry", second)
    assert (entry["ancestorcount"], entry["descendantcount"]) == (2, 1)
    assert entry["fees"]["ancestor"] == Decimal(parent.fee + child.fee) / COIN
    assert entry == entries[second]
    assert await refused(served, "getmempoolentry", "00" * 32) == (-5, "Transaction not in mempool")


async def test_relatives_in_the_mempool(served):
    wallet = served.node.wallet(1)
    txs = [wallet.pay([]).tx for _ in range(3)]
    for tx in txs:
        await served.call("sendrawtransaction", tx.raw.hex())
    first, second, third = (hash_hex(tx.txid) for tx in txs)
    assert set(await served.call("getmempoolancestors", third)) == {first, second}
    assert set(await served.call("getmempooldescendants", first)) == {second, third}
    assert await served.call("getmempoolancestors", first) == []
    verbose = await served.call("getmempooldescendants", second, True)
    assert list(verbose) == [third]
    assert verbose[third]["ancestorcount"] == 3
    assert verbose[third]["ancestorsize"] == sum(tx.vsize for tx in txs)
    entry = await served.call("getmempoolentry", first)
    assert (entry["descendantcount"], entry["descendantsize"]) == (3, sum(tx.vsize for tx in txs))
    assert entry["bip125-replaceable"] is False
    for name in ("getmempoolancestors", "getmempooldescendants"):
        assert await refused(served, name, "00" * 32) == (-5, "Transaction not in mempool")


async def test_priority_of_a_transaction(served):
    built = served.node.wallet(1).pay([])
    await served.call("sendrawtransaction", built.tx.raw.hex())
    txid = hash_hex(built.tx.txid)
    assert await served.call("prioritisetransaction", txid, 0, 5_000) is True
    fees = (await served.call("getmempoolentry", txid))["fees"]
    assert fees["base"] == Decimal(built.fee) / COIN
    assert fees["modified"] == fees["ancestor"] == fees["descendant"] == Decimal(built.fee + 5_000) / COIN
    assert (await refused(served, "prioritisetransaction", txid, 1, 5_000))[0] == -8
    assert (await refused(served, "prioritisetransaction", txid, 0, 1 << 62))[0] == -8


async def test_the_dynamic_minimum_is_shown(served):
    served.node.mempool.floor = 7_000
    served.node.loaded = False
    info = await served.call("getmempoolinfo")
    assert (info["mempoolminfee"], info["minrelaytxfee"]) == (Decimal("0.00007000"), Decimal("0.00001000"))
    assert (info["loaded"], info["fullrbf"]) == (False, False)


async def test_saving_the_mempool(served):
    assert await served.call("savemempool") == {"filename": "/data/mempool.dat"}
    served.node.save_fault = StorageError("disk-full", "no room", fix="make room")
    code, text = await refused(served, "savemempool")
    assert (code, text.startswith("Unable to dump mempool to disk")) == (-1, True)
    served.node.loaded = False
    assert await refused(served, "savemempool") == (-1, "The mempool was not loaded yet")


async def test_fee_estimates(served):
    served.node.fee_rates = {(6, False): 12_345, (6, True): 20_000}
    assert await served.call("estimatesmartfee", 6) == {"feerate": Decimal("0.00012345"), "blocks": 6}
    assert (await served.call("estimatesmartfee", 6, "CONSERVATIVE"))["feerate"] == Decimal("0.00020000")
    assert await served.call("estimatesmartfee", 1, "unset") == {
        "errors": ["Insufficient data or no feerate found"],
        "blocks": 2,
    }
    for target in (0, 1009, -1):
        assert await refused(served, "estimatesmartfee", target) == (
            -8,
            "Invalid conf_target, must be between 1 and 1008",
        )
    assert (await refused(served, "estimatesmartfee", 6, "fast"))[0] == -8


async def test_scripts_and_addresses(served):
    address = served.address(1)
    valid = await served.call("validateaddress", address)
    assert (valid["isvalid"], valid["address"], valid["isscript"]) == (True, address, False)
    wrong = await served.call("validateaddress", address[:-1] + "x")
    assert wrong["isvalid"] is False
    assert wrong["error"]
    segwit = await served.call("validateaddress", "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080")
    assert (segwit["iswitness"], segwit["witness_version"]) == (True, 0)
    keys = [served.node.wallet(number).account.pubkey for number in (1, 2, 3)]
    decoded = await served.call("decodescript", templates.multisig(2, keys).hex())
    assert decoded["type"] == "multisig"
    assert decoded["asm"] == f"2 {' '.join(key.hex() for key in keys)} 3 OP_CHECKMULTISIG"
    assert decoded["p2sh"].startswith("2")
    assert decoded["segwit"]["type"] == "witness_v0_scripthash"
    assert (await served.call("decodescript", ""))["type"] == "nonstandard"
    assert "p2sh" not in await served.call("decodescript", templates.data_carrier(b"x" * 9).hex())


async def test_network_and_control(served):
    [peer] = await served.call("getpeerinfo")
    assert (peer["id"], peer["inbound"], peer["identity"]) == (7, True, "ab" * 32)
    info = await served.call("getnetworkinfo")
    assert (info["connections"], info["connections_in"], info["subversion"]) == (1, 1, "wattd/test")
    assert info["localaddresses"] == [{"address": "127.0.0.1", "port": 9833, "score": 1}]
    assert await served.call("getconnectioncount") == 1
    assert await served.call("uptime") == 12
    assert await served.call("stop") == "wattd stopping"
    assert served.node.stops == 1


async def test_help_lists_and_explains_every_method(served):
    text = await served.call("help")
    for name in METHODS:
        assert f"\n{name}" in f"\n{text}"
        explained = await served.call("help", name)
        assert explained.startswith(name)
        assert METHODS[name].help
    assert 'getblock "blockhash" ( verbosity )' in text
    assert await served.call("help", "nope") == "help: unknown command: nope"


async def test_bft(served):
    node = served.node
    block = node.mine()
    status = await served.call("bft.status")
    assert (status["term"], status["leader"], status["leader_name"]) == (5, 2, "org-2")
    assert (status["n"], status["f"], status["q"], status["committed_height"]) == (4, 1, 3, 1)
    certificate = await served.call("bft.certificate", 1)
    assert certificate["signers"] == [0, 1, 3]
    assert certificate["certified_hash"] == hash_hex(block.hash)
    assert certificate["certificate"] == node.certificate(1).hex()
    assert (await refused(served, "bft.certificate", 0))[0] == -5
    assert await refused(served, "bft.certificate", 2) == (-8, "Block height out of range")


async def test_bft_evidence(served):
    [found] = await served.call("bft.evidence")
    validator = served.node.params.bft.validators[2]
    assert (found["validator"], found["vote_key"]) == (validator.name, validator.vote_key.hex())
    assert (found["round"], found["index"], found["account"]) == (
        0,
        2,
        encode_address(validator.payout_script, served.node.params.addresses),
    )
    assert (found["statements"], found["terms"], found["heights"]) == (["validated"] * 2, [5, 5], [9, 9])
    assert found["blocks"] == ["01" * 32, "02" * 32]
    assert found["signatures"] == ["01" * 64, "02" * 64]
    assert found["seen"] == 1_700_000_000


# ---- energy and devices ----------------------------------------------------------------------------


async def test_energy_market(served):
    node = served.node
    params = await served.call("energy.params")
    operator = node.wallet(80)
    assert params["communities"] == [{"id": "town", "grid_operator": served.address(80)}]
    slot = params["slot"] + 4
    member = node.wallet(1)
    register = operator.operate(
        encode(RegisterMember("town", member.account.script, node.params.bft.validators[1].payout_script))
    )
    await served.call("sendrawtransaction", register.tx.raw.hex())
    node.mine()
    [found] = await served.call("energy.members", "town")
    assert found["account"] == served.address(1)
    order = PlaceOrder("town", slot, "buy", 2000, 30_000_000)
    built = member.operate(encode(order), value=COIN)
    await served.call("sendrawtransaction", built.tx.raw.hex())
    node.mine()
    order_id = object_id(built.tx.prevouts[0], encode(order)).hex()
    placed = await served.call("energy.order", order_id)
    assert (placed["account"], placed["energy_wh"]) == (served.address(1), 2000)
    assert await served.call("energy.orders", "town", slot) == [placed]
    market = await served.call("energy.market", "town", slot)
    assert (market["status"], market["orders"]) == ("open", 1)
    held = await served.call("energy.account", served.address(1))
    assert held["available"] + held["locked"] == COIN
    assert held == await served.call("energy.account", member.account.script.hex())
    totals = await served.call("energy.totals")
    assert totals["accounts"] == COIN
    for method in ("energy.trades", "energy.results", "energy.readings"):
        assert await served.call(method, "town", slot) == []
    assert await served.call("energy.bills", "town", 20_000) is None
    assert await served.call("energy.bill", "town", 20_000, served.address(1)) is None
    assert await served.call("energy.day", "town", 20_000) == []
    assert await served.call("energy.outcome", "00" * 32) is None
    assert await served.call("energy.reading", "00" * 32, slot) is None
    assert await served.call("energy.order", "00" * 32) is None
    assert await served.call("energy.payouts") == []
    assert [each["name"] for each in await served.call("energy.organisations")]
    assert await served.call("device.get", "00" * 32) is None
    assert await served.call("device.list") == []
    assert await served.call("device.list", "town") == []


async def test_energy_errors_name_the_argument(served):
    for method in ("energy.market", "energy.orders", "energy.trades", "energy.results", "energy.readings"):
        assert await refused(served, method, "nowhere", 1) == (-5, "community is not one of this chain")
    assert (await refused(served, "device.list", "nowhere"))[0] == -5
    number, reason = await refused(served, "energy.account", "nobody")
    assert (number, reason.split()[0]) == (-5, "address")
    assert (await refused(served, "energy.market", "town", 1 << 62))[0] == -8
    assert (await refused(served, "energy.market", "town", -1)) == (-8, "slot must not be negative (got -1)")


async def test_energy_decode(served):
    order = PlaceOrder("town", 7, "sell", 500, 11)
    expected = {
        "operation": "energy.order",
        "fields": {
            "community": "town", "slot": 7, "side": "sell", "energy_wh": 500, "limit_price_per_kwh": 11,
        },
    }  # fmt: skip
    assert await served.call("energy.decode", encode(order).hex()) == expected
    assert await served.call("energy.decode", payload_script(encode(order)).hex()) == expected
    script = served.node.wallet(1).account.script
    register = await served.call("energy.decode", encode(RegisterMember("town", script, script)).hex())
    assert register["fields"]["member"] == served.address(1)
    for data in ("", "57", "575401", "575402c0", "ff"):
        assert (await refused(served, "energy.decode", data))[0] == -22


# ---- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "number", "named"),
    [
        ("getblockhash", ["1"], -3, "height"),
        ("getblockhash", [True], -3, "height"),
        ("getblockhash", [[]], -3, "height"),
        ("getblockhash", [1.5], -8, "height"),
        ("getblockhash", [-1], -8, "height"),
        ("getblockhash", [1 << 70], -8, "height"),
        ("getblockhash", [], -1, "height"),
        ("getblockhash", [None], -1, "height"),
        ("getblockhash", [1, 2], -1, "usage"),
        ("getblockhash", {"heigth": 1}, -8, "heigth"),
        ("getblock", ["ab"], -8, "blockhash"),
        ("getblock", ["zz" * 32], -8, "blockhash"),
        ("getblock", [" " * 64], -8, "blockhash"),
        ("getblock", ["00" * 32, "1"], -3, "verbosity"),
        ("getblockheader", ["00" * 32, 1], -3, "verbose"),
        ("getblock", {"args": ["00" * 32], "blockhash": "00" * 32}, -8, "blockhash"),
        ("getblock", {"args": 5}, -3, "args"),
        ("sendrawtransaction", [5], -3, "hexstring"),
        ("sendrawtransaction", ["00", {}], -3, "maxfeerate"),
        ("sendrawtransaction", ["00", "x"], -3, "maxfeerate"),
        ("sendrawtransaction", ["00", -1], -3, "maxfeerate"),
        ("sendrawtransaction", ["00", "NaN"], -3, "maxfeerate"),
        ("sendrawtransaction", ["00", "0.000000001"], -3, "maxfeerate"),
        ("testmempoolaccept", ["00"], -3, "rawtxs"),
        ("testmempoolaccept", [[5]], -3, "rawtxs[0]"),
        ("testmempoolaccept", [[]], -8, "Array"),
        ("testmempoolaccept", [["00"] * 26], -8, "Array"),
        ("energy.order", ["00"], -8, "id"),
        ("energy.decode", ["0"], -8, "payload_hex"),
        ("device.get", ["xyz"], -8, "device"),
    ],
)
async def test_bad_arguments(served, method, params, number, named):
    status, reply = await served.post({"method": method, "params": params, "id": 1})
    assert status == 500
    assert reply["error"]["code"] == number
    assert named in reply["error"]["message"]
    assert served.node.reported == []


async def test_named_and_mixed_arguments(served):
    blockhash = await served.call("getblockhash", height=0)
    raw = await served.call("getblock", verbosity=0, blockhash=blockhash)
    assert raw == await served.call("getblock", blockhash, verbosity=0)
    assert await served.call("getblock", blockhash, None) == await served.call("getblock", blockhash)
