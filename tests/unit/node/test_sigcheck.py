"""Signature checks: batches, the cache, mixed kinds, and a verifier that closes."""

import asyncio
import threading

import pytest

from consensus.coins import encode_coin
from consensus.errors import RuleError
from consensus.hashes import hash160
from consensus.keys import ed25519_public, ed25519_sign
from consensus.ports import SignatureCheck
from consensus.script.templates import multisig, p2sh
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from contracts.api import EnergyContracts
from contracts.operations import Deposit, payload_script
from node import sigcheck
from node.chainstate import ChainState
from node.sigcheck import SignatureCache, SignatureVerifier, check_scripts


@pytest.fixture
def verifier(chain4):
    made = SignatureVerifier(EnergyContracts(chain4.params))
    yield made
    made.close()


def coin(script, value):
    return encode_coin(1, False, value, script)


@pytest.fixture
def items(kit, chain4):
    """Payments with the coins that they spend."""
    return [(kit.pay(chain4.coin(at)), [coin(kit.RICH.script, kit.TOKEN)]) for at in range(4)]


def by_interpreter(kit, chain4):
    """Return an item that needs the interpreter: 1-of-1 P2SH with a spoilt signature."""
    redeem = multisig(1, [kit.RICH.pubkey])
    tx = Transaction.build(
        2,
        [TxIn(chain4.coin(9), b"\x00\x01\x01" + bytes([len(redeem)]) + redeem)],
        kit.pay(chain4.coin(9)).vout,
    )
    return tx, [coin(p2sh(hash160(redeem)), kit.TOKEN)]


async def test_batches_name_who_failed(verifier, items, kit, chain4):
    forged = (kit.pay(chain4.coin(0), payer=kit.OTHER), items[0][1])
    wrong_amount_is_fine = (items[1][0], [coin(kit.RICH.script, 5)])  # legacy hashes do not cover it
    script = by_interpreter(kit, chain4)
    faults = await verifier.check_many([items[0], forged, wrong_amount_is_fine, script])
    assert set(faults) == {forged[0].wtxid, script[0].wtxid}
    assert {fault.code for fault in faults.values()} == {"mandatory-script-verify-flag-failed"}
    assert len(verifier._cache) == 2
    assert await verifier.check_many([]) == {}


async def test_one_bad_input_of_many_spoils_its_transaction_only(verifier, kit, chain4, items):
    two = kit.pay([chain4.coin(5), chain4.coin(6)])
    spoilt = Transaction.build(
        2, [two.vin[0], two.vin[1]._replace(script_sig=two.vin[0].script_sig)], two.vout
    )
    coins = [coin(kit.RICH.script, kit.TOKEN)] * 2
    faults = await verifier.check_many([(two, coins), (spoilt, coins), items[0]])
    assert list(faults) == [spoilt.wtxid]


async def test_what_is_known_is_not_checked_again(verifier, items, monkeypatch):
    verifier.check(items[:2])
    calls = []
    real = sigcheck.PaymentBatch
    monkeypatch.setattr(sigcheck, "PaymentBatch", lambda batch: calls.append(len(batch)) or real(batch))
    verifier.check(items)
    assert await verifier.check_many(items) == {}
    assert calls == [2]


@pytest.fixture
def held_up(monkeypatch):
    """Batches wait for ``.go`` before they are judged; ``.sizes`` counts what they hold."""

    class HeldUp:
        def __init__(self):
            self.go = asyncio.Event()
            self.sizes = []

        async def judge(self, batch, threads):
            self.sizes.append(len(batch.verdicts))
            await self.go.wait()
            batch.judge()
            return True

    made = HeldUp()
    monkeypatch.setattr(sigcheck, "_judge_natively", made.judge)
    return made


async def test_what_another_call_checks_is_not_checked_twice(verifier, items, kit, chain4, held_up):
    forged = (kit.pay(chain4.coin(0), payer=kit.OTHER), items[0][1])
    first = asyncio.create_task(verifier.check_many([items[0], forged]))
    second = asyncio.create_task(verifier.check_many([items[0], forged, items[1], items[2]]))
    third = asyncio.create_task(verifier.check_many(items[:3]))
    await asyncio.sleep(0)
    assert held_up.sizes == [2, 2]
    held_up.go.set()
    assert set(await first) == set(await second) == {forged[0].wtxid}
    assert await third == {}
    assert held_up.sizes == [2, 2]
    assert not verifier._under_way
    assert set(await verifier.check_many([forged])) == {forged[0].wtxid}  # faults are not remembered


async def test_a_call_that_is_given_up_leaves_its_checks_to_who_waits_for_them(verifier, items, held_up):
    first = asyncio.create_task(verifier.check_many(items[:2]))
    second = asyncio.create_task(verifier.check_many(items))
    third = asyncio.create_task(verifier.check_many(items[1:2]))
    await asyncio.sleep(0)
    third.cancel()
    await asyncio.sleep(0)
    assert third.cancelled()  # and those that it waited for go on
    first.cancel()
    held_up.go.set()
    assert await second == {}
    assert held_up.sizes == [2, 2, 2]
    assert first.cancelled()
    assert not verifier._under_way


def test_check_raises_what_the_first_faulty_one_broke(verifier, items, kit, chain4):
    forged = (kit.pay(chain4.coin(0), payer=kit.OTHER), items[0][1])
    with pytest.raises(RuleError, match="mandatory-script-verify-flag-failed"):
        verifier.check([items[0], forged, items[1]])
    assert forged[0].wtxid not in verifier._cache
    assert items[1][0].wtxid in verifier._cache  # its own signatures hold
    verifier.check(items[:2])


async def test_device_signatures_count_too(verifier, kit, chain4, monkeypatch):
    operations = [kit.operate(chain4.coin(at), Deposit(), value=90_000) for at in range(4)]
    items = [(tx, [coin(kit.RICH.script, kit.TOKEN)]) for tx in operations]
    seed, message = bytes(range(32)), b"reading"
    good = SignatureCheck("ed25519", ed25519_public(seed), message, ed25519_sign(seed, message))
    bad = SignatureCheck("ed25519", ed25519_public(seed), b"other", good.signature)
    misshapen = SignatureCheck("ed25519", b"", message, b"")
    checks = {items[0][0]: (good,), items[1][0]: (good, bad), items[2][0]: (misshapen,)}
    monkeypatch.setattr(verifier._contracts, "signatures", lambda tx: checks.get(tx, ()))
    faults = await verifier.check_many(items)
    assert {wtxid: fault.code for wtxid, fault in faults.items()} == {
        items[1][0].wtxid: "bad-device-signature",
        items[2][0].wtxid: "bad-device-signature",
    }


async def test_what_little_is_left_stays_on_the_loop_but_for_scripts(verifier, kit, chain4, monkeypatch):
    deposits = [
        (kit.operate(chain4.coin(at), Deposit(), value=90_000), [coin(kit.RICH.script, kit.TOKEN)])
        for at in range(4)
    ]
    verify, on_loop = verifier._verify, []

    def noted(rest):
        on_loop.append(threading.current_thread() is threading.main_thread())
        return verify(rest)

    monkeypatch.setattr(verifier, "_verify", noted)
    assert await verifier.check_many(deposits[:2]) == {}
    assert await verifier.check_many([by_interpreter(kit, chain4)]) != {}
    monkeypatch.setattr(sigcheck, "SIGNATURE_INLINE_BYTES", 100)
    assert await verifier.check_many(deposits[2:]) == {}
    assert on_loop == [True, False, False]


def test_a_crash_of_the_interpreter_is_a_refusal(kit, chain4, monkeypatch, caplog):
    def crash(tx, spent):
        raise IndexError("bug")

    assert check_scripts(*by_interpreter(kit, chain4)).code == "mandatory-script-verify-flag-failed"
    monkeypatch.setattr(sigcheck, "verify_transaction", crash)
    assert check_scripts(*by_interpreter(kit, chain4)).code == "script-crash"
    assert "interpreter crashed" in caplog.text


async def test_a_closing_verifier_begins_no_further_script(kit, chain4, monkeypatch):
    verifier = SignatureVerifier(EnergyContracts(chain4.params))
    ran = []

    def slow(tx, spent):
        ran.append(tx)
        verifier._closing = True

    monkeypatch.setattr(sigcheck, "check_scripts", slow)
    scripts = [by_interpreter(kit, chain4)] * 3
    faults = await asyncio.wait_for(verifier.check_many(scripts), 5)
    assert len(ran) == 1
    assert {fault.code for fault in faults.values()} == {"node-stopping"}
    verifier._closing = False
    verifier.close()
    assert verifier._verify([(0, *scripts[0], False)]) == {0: sigcheck.STOPPING}


@pytest.mark.parametrize("workers", [1, 3])
async def test_parts_of_a_batch_are_put_together_in_order(workers, kit, chain4, items, monkeypatch):
    monkeypatch.setattr(sigcheck, "SIGNATURE_PART_TXS", 1)
    forged = [(kit.pay(chain4.coin(at), payer=kit.OTHER), items[at][1]) for at in (0, 3)]
    script = by_interpreter(kit, chain4)
    batch = [items[0], items[1], forged[0], items[2], script, items[3], forged[1]]
    for closing in (False, True):
        verifier = SignatureVerifier(EnergyContracts(chain4.params), workers)
        if closing:
            verifier.close()
        reason = "node-stopping" if closing else "mandatory-script-verify-flag-failed"
        with pytest.raises(RuleError, match=reason):  # closed: the script is the first
            verifier.check(batch)
        assert {item[0].wtxid in verifier._cache for item in items} == {True}
        if not closing:
            assert set(await verifier.check_many(batch)) == {tx.wtxid for tx, _ in (*forged, script)}
            verifier.close()


# ---- before a block is executed -----------------------------------------------------------------


async def test_prewarm_finds_coins_outside_and_inside_the_block(verifier, kit, chain4, node):
    first = kit.pay(chain4.coin(0))
    second = kit.pay(outpoint(first.txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    nowhere = kit.pay(outpoint(bytes(32), 0))
    no_such_output = kit.pay(outpoint(first.txid, 7))
    block = [first, second, nowhere, no_such_output]
    assert verifier.unseen_bytes(block) == sum(len(tx.raw) for tx in block)
    await verifier.prewarm(block, node.chain.coins)
    assert [tx.wtxid in verifier._cache for tx in block] == [True, True, False, False]
    assert verifier.unseen_bytes(block) == len(nowhere.raw) + len(no_such_output.raw)


async def test_prewarm_names_the_first_that_does_not_hold(verifier, kit, chain4, node):
    good = kit.pay(chain4.coin(0))
    script, _ = by_interpreter(kit, chain4)  # here it spends a P2PKH coin, for which it is no key
    forged = kit.pay(chain4.coin(1), payer=kit.OTHER)
    with pytest.raises(RuleError, match="EQUALVERIFY"):
        await verifier.prewarm([good, forged, script], node.chain.coins)
    assert good.wtxid in verifier._cache
    assert forged.wtxid not in verifier._cache


async def test_prewarm_refuses_a_payload_that_no_contract_knows(verifier, kit, chain4, node):
    script = payload_script(b"WT\xff\xff")
    coin_of = chain4.coin(0)
    made = Transaction.build(
        2, [TxIn(coin_of, b"")], [TxOut(0, script), TxOut(kit.TOKEN - 1_000, kit.RICH.script)]
    )
    with pytest.raises(RuleError, match="bad-op-version"):
        await verifier.prewarm([kit.RICH.sign(made)], node.chain.coins)


async def test_a_prewarmed_block_is_executed_without_checking_again(
    node, make_node, chain4, kit, monkeypatch
):
    block = make_node(chain4).build([kit.pay(chain4.coin(at)) for at in range(40)])
    assert node.chain.wants_prewarm(block)
    parent = node.chain.tip.block_hash
    await node.chain.prewarm(block, parent)
    assert not node.chain.wants_prewarm(block)
    monkeypatch.setattr(sigcheck, "PaymentBatch", lambda batch: pytest.fail("checked again"))
    assert node.chain.execute(block, parent, formed=True).txids == tuple(tx.txid for tx in block.txs)


async def test_prewarm_looks_at_the_form_before_the_signatures(node, make_node, chain4, kit):
    block = make_node(chain4).build([kit.pay(chain4.coin(0))])
    mutated = kit.remade(block, txs=block.txs * 2, merkle_root=block.header.merkle_root)
    for parent, wrong, code in (
        (chain4.genesis.hash, mutated, "bad-txnmrklroot"),
        (bytes(32), block, "prev-blk-not-found"),
    ):
        with pytest.raises(RuleError) as caught:
            await node.chain.prewarm(wrong, parent)
        assert (caught.value.code, caught.value.permanent) == (code, False)
    assert len(node.verifier._cache) == 0


async def test_signatures_of_certified_blocks_are_checked_where_that_is_asked_for(
    node, make_node, chain4, kit
):
    """The votes of a quorum count for them otherwise."""
    honest = make_node(chain4).build([kit.pay(chain4.coin(at)) for at in range(3)])
    forged = kit.remade(honest, txs=(honest.txs[0], kit.unsigned(honest.txs[1])))
    parent = chain4.genesis.hash
    given = (node.store, chain4.genesis, chain4.params, node.contracts, node.contracts.open, node.verifier)
    trusting, checking = ChainState(*given), ChainState(*given, verify_certified=True)
    await trusting.prewarm_certified([honest])
    assert len(node.verifier._cache) == 0
    with pytest.raises(RuleError) as caught:
        trusting.execute(forged, parent, certified=True)  # fees and effects are what they are
    assert caught.value.code != "mandatory-script-verify-flag-failed"
    await checking.prewarm_certified([forged])  # what is wrong is left to be found
    with pytest.raises(RuleError) as caught:
        checking.execute(forged, parent, certified=True)
    assert caught.value.code == "mandatory-script-verify-flag-failed"
    await checking.prewarm_certified([honest])
    assert all(tx.wtxid in node.verifier._cache for tx in honest.txs[1:])
    checking.execute(honest, parent, certified=True)


async def test_coins_of_one_synced_block_may_come_from_the_one_before(node, make_node, chain4, kit):
    maker = make_node(chain4)
    first = kit.pay(chain4.coin(0))
    second = kit.pay(outpoint(first.txid, 0), 5_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    blocks = [maker.extend([first]).block, maker.extend([second]).block]
    given = (node.store, chain4.genesis, chain4.params, node.contracts, node.contracts.open, node.verifier)
    await ChainState(*given, verify_certified=True).prewarm_certified(blocks)
    assert second.wtxid in node.verifier._cache


def test_the_cache_forgets_the_oldest():
    cache = SignatureCache(max_items=2)
    for wtxids in ([b"a", b"b"], [b"b"], [b"c"]):
        cache.add(wtxids)
    assert [wtxid in cache for wtxid in (b"a", b"b", b"c")] == [False, True, True]
    assert len(cache) == 2
    cache.add([b"d", b"e", b"f"])
    assert [wtxid in cache for wtxid in (b"c", b"d", b"e", b"f")] == [False, False, True, True]
