"""A client that nobody here wrote: python-bitcoinlib pays, and spends from multisig, on a running chain."""

import hashlib
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import quote

import bitcoin
import bitcoin.rpc
import pytest
from bitcoin.core import CMutableTransaction, CMutableTxIn, COutPoint, CTransaction, CTxOut, Hash160, b2lx, lx
from bitcoin.core.script import (
    OP_0,
    OP_2,
    OP_3,
    OP_CHECKMULTISIG,
    SIGHASH_ALL,
    CScript,
    SignatureHash,
)
from bitcoin.wallet import CBitcoinAddress, CBitcoinSecret, P2PKHBitcoinAddress, P2SHBitcoinAddress

from node.rpc.client import read_cookie
from node.testnet import Testnet
from node.wallet import Account

pytestmark = pytest.mark.functional

FEE = 2_000
FINAL_TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def proxy(net: Testnet) -> bitcoin.rpc.Proxy:
    """bitcoinlib's RPC client, pointed at the second node."""
    bitcoin.SelectParams("testnet")
    config = net.nodes[1].config
    user, _, password = read_cookie(config.cookie_file).partition(":")
    return bitcoin.rpc.Proxy(service_url=f"http://{user}:{quote(password)}@{config.rpc.listen}")


def secret(tag: str) -> CBitcoinSecret:
    return CBitcoinSecret.from_secret_bytes(hashlib.sha256(tag.encode()).digest())


def genesis_coin(proxy: bitcoin.rpc.Proxy, script: bytes, skip: int) -> tuple[COutPoint, int]:
    """Return the ``skip``-th genesis output that pays to ``script``."""
    genesis = proxy.getblock(proxy.getblockhash(0))
    coinbase = genesis.vtx[0]
    found = [
        (COutPoint(coinbase.GetTxid(), index), output.nValue)
        for index, output in enumerate(coinbase.vout)
        if bytes(output.scriptPubKey) == script
    ]
    return found[skip]


def wait_final(proxy: bitcoin.rpc.Proxy, txid: bytes) -> dict:
    """Return the verbose transaction once a block has it."""
    deadline = monotonic() + FINAL_TIMEOUT_S
    while monotonic() < deadline:
        found = proxy.getrawtransaction(txid, verbose=True)
        if found.get("confirmations"):
            return found
        sleep(0.05)
    pytest.fail(f"{b2lx(txid)} is not confirmed after {FINAL_TIMEOUT_S} s")


def sign_p2pkh(tx: CMutableTransaction, index: int, key: CBitcoinSecret) -> None:
    script = P2PKHBitcoinAddress.from_pubkey(key.pub).to_scriptPubKey()
    digest = SignatureHash(script, tx, index, SIGHASH_ALL)
    tx.vin[index].scriptSig = CScript([key.sign(digest) + bytes([SIGHASH_ALL]), key.pub])


def pay(proxy: bitcoin.rpc.Proxy, funded: Account, skip: int, outputs: list[CTxOut]) -> bytes:
    """Spend a genesis coin of the funded account to ``outputs`` and return the txid."""
    owner = CBitcoinSecret.from_secret_bytes(bytes(31) + b"\x2a")
    coin, _ = genesis_coin(proxy, funded.script, skip)
    tx = CMutableTransaction([CMutableTxIn(coin)], outputs)
    sign_p2pkh(tx, 0, owner)
    return proxy.sendrawtransaction(CTransaction.from_tx(tx))


def test_pays_to_a_key_and_reads_it_back(proxy: bitcoin.rpc.Proxy, funded: Account, net: Testnet) -> None:
    payee = P2PKHBitcoinAddress.from_pubkey(secret("payee").pub)
    _, value = genesis_coin(proxy, funded.script, 0)
    txid = pay(proxy, funded, 0, [CTxOut(value - FEE, payee.to_scriptPubKey())])

    found = wait_final(proxy, txid)
    assert found["tx"].vout[0].nValue == value - FEE
    block = proxy.getblock(found["blockhash"])
    assert [tx.GetTxid() for tx in block.vtx[1:]].count(txid) == 1
    assert block.GetHash() == found["blockhash"]
    assert block.calc_merkle_root() == block.hashMerkleRoot
    unspent = proxy.gettxout(COutPoint(txid, 0), includemempool=False)
    assert unspent["txout"].nValue == value - FEE
    assert str(CBitcoinAddress.from_scriptPubKey(unspent["txout"].scriptPubKey)) == str(payee)


def test_spends_two_of_three_multisig(proxy: bitcoin.rpc.Proxy, funded: Account, net: Testnet) -> None:
    keys = [secret(name) for name in ("prosumer", "buyer", "mediator")]
    redeem = CScript([OP_2, *(key.pub for key in keys), OP_3, OP_CHECKMULTISIG])
    escrow = P2SHBitcoinAddress.from_redeemScript(redeem)
    _, value = genesis_coin(proxy, funded.script, 1)
    funding = pay(proxy, funded, 1, [CTxOut(value - FEE, escrow.to_scriptPubKey())])
    wait_final(proxy, funding)

    payee = P2PKHBitcoinAddress.from_pubkey(secret("payee").pub)
    spend = CMutableTransaction(
        [CMutableTxIn(COutPoint(funding, 0))], [CTxOut(value - 2 * FEE, payee.to_scriptPubKey())]
    )
    digest = SignatureHash(redeem, spend, 0, SIGHASH_ALL)
    signatures = [key.sign(digest) + bytes([SIGHASH_ALL]) for key in (keys[0], keys[2])]
    spend.vin[0].scriptSig = CScript([OP_0, signatures[0], redeem])
    with pytest.raises(bitcoin.rpc.VerifyRejectedError, match="mandatory-script-verify-flag-failed"):
        proxy.sendrawtransaction(CTransaction.from_tx(spend))

    spend.vin[0].scriptSig = CScript([OP_0, *signatures, redeem])
    txid = proxy.sendrawtransaction(CTransaction.from_tx(spend))
    assert wait_final(proxy, txid)["tx"].GetTxid() == txid
    with pytest.raises(IndexError, match="not found"):
        proxy.gettxout(COutPoint(funding, 0))


def test_refuses_what_is_wrong_and_says_why(proxy: bitcoin.rpc.Proxy, funded: Account, net: Testnet) -> None:
    _, value = genesis_coin(proxy, funded.script, 2)
    payee = P2PKHBitcoinAddress.from_pubkey(secret("payee").pub).to_scriptPubKey()
    with pytest.raises(bitcoin.rpc.JSONRPCError, match="bad-txns-in-belowout"):
        pay(proxy, funded, 2, [CTxOut(value + 1, payee)])

    unknown = CMutableTransaction([CMutableTxIn(COutPoint(lx("11" * 32), 0))], [CTxOut(1_000, payee)])
    with pytest.raises(bitcoin.rpc.JSONRPCError, match="bad-txns-inputs-missingorspent"):
        proxy.sendrawtransaction(CTransaction.from_tx(unknown))

    thief = secret("thief")
    coin, _ = genesis_coin(proxy, funded.script, 2)
    theft = CMutableTransaction([CMutableTxIn(coin)], [CTxOut(value - FEE, payee)])
    sign_p2pkh(theft, 0, thief)
    with pytest.raises(bitcoin.rpc.VerifyRejectedError, match="mandatory-script-verify-flag-failed"):
        proxy.sendrawtransaction(CTransaction.from_tx(theft))
    assert Hash160(thief.pub) != funded.script[3:23]


def test_double_spend_is_refused_while_the_first_waits_or_is_final(
    proxy: bitcoin.rpc.Proxy, funded: Account, net: Testnet
) -> None:
    _, value = genesis_coin(proxy, funded.script, 3)
    payee = P2PKHBitcoinAddress.from_pubkey(secret("payee").pub).to_scriptPubKey()
    txid = pay(proxy, funded, 3, [CTxOut(value - FEE, payee)])
    with pytest.raises(bitcoin.rpc.JSONRPCError, match=r"txn-mempool-conflict|missingorspent"):
        pay(proxy, funded, 3, [CTxOut(value - 2 * FEE, payee)])
    wait_final(proxy, txid)
    with pytest.raises(bitcoin.rpc.JSONRPCError, match="bad-txns-inputs-missingorspent"):
        pay(proxy, funded, 3, [CTxOut(value - 2 * FEE, payee)])


def test_the_chain_file_prefixes_are_bitcoins_test_prefixes(net: Testnet, tmp_path: Path) -> None:
    assert net.address_of(net.nodes[0].account_script)[0] in "mn"
