"""A client that no one here wrote: python-bitcoinlib's proxy, keys, scripts and transactions."""

import asyncio

import bitcoin
import bitcoin.rpc
import pytest
from bitcoin.core import (
    CMutableTransaction,
    CMutableTxIn,
    CMutableTxOut,
    COutPoint,
    CTransaction,
    Hash160,
    b2lx,
    lx,
)
from bitcoin.core.script import OP_0, OP_2, OP_3, OP_CHECKMULTISIG, SIGHASH_ALL, CScript, SignatureHash
from bitcoin.wallet import CBitcoinAddress, CBitcoinSecret, P2PKHBitcoinAddress, P2SHBitcoinAddress

from consensus.params import COIN

FEE = 10_000


@pytest.fixture(autouse=True)
def regtest():
    bitcoin.SelectParams("regtest")
    yield
    bitcoin.SelectParams("mainnet")


@pytest.fixture
def proxy(served):
    made = bitcoin.rpc.Proxy(service_url=f"http://{served.cookie.text}@127.0.0.1:{served.server.port}")
    yield made
    made.close()


def secret(number):
    return CBitcoinSecret.from_secret_bytes(bytes([number]) * 32)


def signed(tx, redeem, keys, build):
    digest = SignatureHash(redeem, tx, 0, SIGHASH_ALL)
    signatures = [key.sign(digest) + bytes([SIGHASH_ALL]) for key in keys]
    tx.vin[0].scriptSig = build(signatures)
    return tx


async def test_payment_and_multisig_spend(served, proxy):
    def story():
        coin = served.node.wallet(1).coins()[0]
        key, keys = secret(1), [secret(number) for number in (11, 12, 13)]
        address = P2PKHBitcoinAddress.from_pubkey(key.pub)
        redeem = CScript([OP_2, *[each.pub for each in keys], OP_3, OP_CHECKMULTISIG])
        shared = P2SHBitcoinAddress.from_redeemScript(redeem)
        assert proxy.validateaddress(address)["isvalid"]
        outpoint = COutPoint(coin.prevout[:32], int.from_bytes(coin.prevout[32:], "little"))
        assert proxy.gettxout(outpoint)["txout"].nValue == coin.value
        pay = CMutableTransaction(
            [CMutableTxIn(outpoint)],
            [
                CMutableTxOut(10 * COIN, shared.to_scriptPubKey()),
                CMutableTxOut(coin.value - 10 * COIN - FEE, address.to_scriptPubKey()),
            ],
        )
        signed(pay, address.to_scriptPubKey(), [key], lambda sigs: CScript([*sigs, key.pub]))
        txid = proxy.sendrawtransaction(CTransaction.from_tx(pay))
        assert txid == pay.GetTxid()
        assert proxy.getrawmempool() == [txid]
        served.node.mine()

        spend = CMutableTransaction(
            [CMutableTxIn(COutPoint(txid, 0))], [CMutableTxOut(10 * COIN - FEE, address.to_scriptPubKey())]
        )
        signed(spend, redeem, keys[::2], lambda sigs: CScript([OP_0, *sigs, redeem]))
        spent = proxy.sendrawtransaction(CTransaction.from_tx(spend))
        served.node.mine()
        return txid, spent

    txid, spent = await asyncio.to_thread(story)

    def read_back():
        block = proxy.getblock(proxy.getbestblockhash())
        assert block.vtx[1].GetTxid() == spent
        found = proxy.getrawtransaction(spent, True)
        assert found["confirmations"] == 1
        assert found["blockhash"] == block.GetHash()
        assert proxy.getrawtransaction(txid).GetTxid() == txid
        assert proxy.getblockcount() == 2
        assert proxy.getblockhash(2) == block.GetHash()
        assert proxy.getblockheader(block.GetHash(), True)["height"] == 2
        assert proxy.getblockheader(block.GetHash()).GetHash() == block.GetHash()

    await asyncio.to_thread(read_back)


async def test_errors_become_its_exceptions(served, proxy):
    def story():
        with pytest.raises(IndexError):
            proxy.getblockhash(99)
        with pytest.raises(IndexError):
            proxy.getblock(bytes(32))
        with pytest.raises(IndexError):
            proxy.getrawtransaction(bytes(32))
        with pytest.raises(IndexError):
            proxy.gettxout(COutPoint(bytes(32), 0))
        nowhere = CMutableTxIn(COutPoint(b"\x01" * 32, 0))
        tx = CTransaction.from_tx(CMutableTransaction([nowhere], [CMutableTxOut(1, CScript([1]))]))
        with pytest.raises(bitcoin.rpc.VerifyError):
            proxy.sendrawtransaction(tx)
        with pytest.raises(bitcoin.rpc.JSONRPCError) as caught:
            proxy.call("nope")
        assert caught.value.error["code"] == -32601

    await asyncio.to_thread(story)


async def test_addresses_mean_the_same(served, proxy):
    script = CScript(bytes.fromhex("51"))
    p2sh = str(P2SHBitcoinAddress.from_redeemScript(script))
    decoded = await served.call("decodescript", script.hex())
    assert decoded["p2sh"] == p2sh
    valid = await served.call("validateaddress", p2sh)
    assert bytes.fromhex(valid["scriptPubKey"]) == bytes(CBitcoinAddress(p2sh).to_scriptPubKey())
    assert Hash160(script).hex() in valid["scriptPubKey"]


async def test_its_batches_work(served, proxy):
    calls = [{"version": "1.1", "method": "getblockhash", "params": [h], "id": h} for h in (0, 1)]
    replies = await asyncio.to_thread(proxy._batch, calls)
    assert lx(replies[0]["result"]) == served.node.chain_id
    assert replies[0]["result"] == b2lx(served.node.chain_id)
    assert replies[1]["error"]["code"] == -8
