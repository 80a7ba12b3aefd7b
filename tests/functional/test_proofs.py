"""A payment proven to somebody who runs no node: made over RPC, checked on the command line."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.chainfile import render_chain_file
from consensus.light import decode_proof, encode_proof
from consensus.transaction import Transaction, TxOut
from node.bench.load import COIN_VALUE
from node.cli.main import run_command
from node.clock import Clock
from node.rpc.errors import RpcError
from node.testnet import Testnet
from node.wallet import Account, Coin, build_payment

pytestmark = pytest.mark.functional

Run = Callable[..., Any]
TIMEOUT_S = 30.0
POLL_S = 0.05


def test_a_payment_is_proven_to_whoever_has_the_chain_file(
    run: Run, net: Testnet, funded: Account, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def pay() -> tuple[str, int]:
        genesis = await net.call(0, "getblock", await net.call(0, "getblockhash", 0), 1)
        coinbase = bytes.fromhex(genesis["tx"][0])[::-1]
        coin = Coin(coinbase + len(net.nodes).to_bytes(4, "little"), COIN_VALUE)
        tx = build_payment(funded, [coin], [TxOut(50_000, funded.script)], 1_000).tx
        txid = str(await net.call(1, "sendrawtransaction", tx.raw.hex()))
        deadline = Clock.monotonic_s() + TIMEOUT_S
        while True:
            try:
                await net.call(2, "bft.getproof", txid)
                break
            except RpcError:
                assert Clock.monotonic_s() < deadline
                await asyncio.sleep(POLL_S)
        height = await net.call(2, "getblockcount")
        while await net.call(2, "getblockcount") < height + 3:
            assert Clock.monotonic_s() < deadline
            await asyncio.sleep(POLL_S)
        return txid, height + 2

    txid, later = run(pay())
    datadir, chain = str(net.nodes[2].config.datadir), tmp_path / "chain.toml"
    chain.write_text(render_chain_file(net.params))
    proof, saved = tmp_path / "payment.proof", tmp_path / "trust.json"
    for anchor in ([], ["--anchor-height", str(later)]):
        assert run_command(["proof", "make", "--datadir", datadir, txid, "--out", str(proof), *anchor]) == 0
        capsys.readouterr()
        assert proof.stat().st_size < 10 * 1024
        check = ["proof", "check", str(proof), "--chain", str(chain), "--save-trust", str(saved)]
        assert run_command(check) == 0
        assert json.loads(capsys.readouterr().out)["txid"] == txid
    assert run_command(["proof", "check", str(proof), "--trust", str(saved)]) == 0
    assert json.loads(capsys.readouterr().out)["txid"] == txid

    async def over_rpc() -> None:
        shown = await net.call(3, "bft.getproof", txid)
        assert (await net.call(0, "bft.checkproof", shown["proof"]))["blockhash"] == shown["blockhash"]
        good = decode_proof(bytes.fromhex(shown["proof"]))
        tx = good.tx
        other = Transaction.build(
            tx.version, tx.vin, (tx.vout[0]._replace(value=1), *tx.vout[1:]), tx.lock_time
        )
        with pytest.raises(RpcError, match="light-bad-branch"):
            await net.call(0, "bft.checkproof", encode_proof(replace(good, tx=other)).hex())
        with pytest.raises(RpcError, match="bad-proof"):
            await net.call(0, "bft.checkproof", "c0")
        with pytest.raises(RpcError, match="No such transaction"):
            await net.call(0, "bft.getproof", "00" * 32)

    run(over_rpc())
    foreign = json.loads(saved.read_text()) | {"vote_keys": ["11" * 32, "12" * 32, "13" * 32, "14" * 32]}
    saved.write_text(json.dumps(foreign))
    assert run_command(["proof", "check", str(proof), "--trust", str(saved)]) == 65
    assert "bad-cert-signature" in capsys.readouterr().err
    saved.write_text(json.dumps(foreign | {"round": "one"}))
    assert run_command(["proof", "check", str(proof), "--trust", str(saved)]) == 78
    assert "round: give an integer" in capsys.readouterr().err
