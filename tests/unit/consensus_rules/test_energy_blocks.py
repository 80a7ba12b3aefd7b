"""Blocks with the real contracts and real signatures: a deposit, orders, a gate closure, a payout."""

from dataclasses import replace

import pytest

from consensus.block import Block
from consensus.errors import RuleError
from consensus.hashes import hash160
from consensus.keys import pubkey_from_secret
from consensus.params import COIN, Allocation, Community
from consensus.script import ScriptError, verify_transaction
from consensus.script.templates import p2pkh
from consensus.signing import sign_input
from consensus.transaction import TxOut
from consensus.undo import decode_undo, encode_undo
from consensus.validators import sign_entry
from contracts.api import EnergyContracts
from contracts.operations import Deposit, PlaceOrder, RegisterMember, Withdraw, encode, payload_script

SECRETS = {name: bytes([number]) * 32 for number, name in enumerate(("grid", "ann", "bob"), 1)}
SCRIPTS = {name: p2pkh(hash160(pubkey_from_secret(secret))) for name, secret in SECRETS.items()}


class ScriptChecker:
    """Runs every script of every transaction."""

    def check(self, items):
        for tx, spent in items:
            try:
                verify_transaction(tx, spent)
            except ScriptError as error:
                raise RuleError("mandatory-script-verify-flag-failed", str(error)) from error


@pytest.fixture
def energy(tools):
    base = tools.make_params(allocations=tuple(Allocation(s, 100 * COIN) for s in SCRIPTS.values()))
    grid = sign_entry(
        b"\x71" * 32,
        b"\x72" * 32,
        chain_name="toy",
        name="grid",
        role="grid-operator",
        payout_script=SCRIPTS["grid"],
    )
    params = replace(
        base,
        bft=replace(base.bft, validators=(grid, *base.bft.validators[1:])),
        energy=replace(base.energy, communities=(Community("toytown", SCRIPTS["grid"]),)),
    )
    world = tools.World(params=params, contracts=EnergyContracts(params), signatures=ScriptChecker())
    world.purse = dict(zip(SECRETS, world.purses, strict=True))
    return world


def act(world, who, operation, value=0):
    """Return the signed transaction by which ``who`` does ``operation``; its change is their next purse."""
    purse = world.purse[who]
    tx = world.pay(purse, [(value, payload_script(encode(operation)))], fee=2_000)
    tx = sign_input(tx, 0, SECRETS[who], TxOut(purse.amount, purse.script))
    world.purse[who] = world.output(tx, 1)
    return tx


def extend(world, *txs, **given):
    """Extend by a block, check conservation, and that undo gives back exactly what was."""
    made = world.assemble(txs, **given)
    assert (made.refused, made.crashed) == ([], [])
    before = dict(world.coins.data), dict(world.state.data)
    connected = world.connect(Block.parse(made.block.raw))
    assert connected == made.connected
    world.apply(connected)
    assert world.conserved()
    after = dict(world.coins.data), dict(world.state.data)
    for data, undo in zip(after, decode_undo(encode_undo(connected)), strict=True):
        data.update(undo)
    assert tuple({k: v for k, v in data.items() if v is not None} for data in after) == before
    return connected


def test_a_market_story_conserves_tokens_block_by_block(energy):
    provider = energy.params.bft.validators[1].payout_script
    members = [
        act(energy, "grid", RegisterMember("toytown", SCRIPTS[name], provider)) for name in ("ann", "bob")
    ]
    extend(energy, *members)
    extend(energy, act(energy, "ann", Deposit(), 5 * COIN), act(energy, "bob", Deposit(), 3 * COIN))
    slot = energy.tip.time_s // 900 + 4
    price = energy.params.energy.feed_in_price_per_kwh
    buy = act(energy, "ann", PlaceOrder("toytown", slot, "buy", 2_000, 2 * price), COIN)
    sell = act(energy, "bob", PlaceOrder("toytown", slot, "sell", 2_000, price), COIN)
    extend(energy, buy, sell)
    closing = extend(energy, time_s=slot * 900)
    assert len(closing.state) > 2  # the gate closed and the market cleared
    extend(energy, time_s=(slot + 20) * 900)  # settled without readings
    extend(energy, act(energy, "ann", Withdraw(COIN)))
    paid = extend(energy)
    assert [(coin[4:12], coin[12:]) for coin in paid.coins.values()] == [
        (COIN.to_bytes(8, "little"), SCRIPTS["ann"])
    ]


def test_an_operation_that_is_refused_is_not_in_the_block(energy):
    greedy = act(energy, "ann", Withdraw(COIN))
    made = energy.assemble([greedy])
    assert [txid for txid, _ in made.refused] == [greedy.txid]
    assert len(made.block.txs) == 1


def test_a_swapped_payload_breaks_the_signature(energy, tools):
    tx = act(energy, "ann", Deposit(), 5 * COIN)
    other = type(tx).build(
        tx.version, tx.vin, [tx.vout[0]._replace(value=4 * COIN), *tx.vout[1:]], tx.lock_time
    )
    made = energy.assemble([other])
    assert made.refused[0][1].code == "mandatory-script-verify-flag-failed"
    assert made.connected == energy.connect(made.block)


def test_a_payload_that_is_none_of_ours_is_refused(energy):
    purse = energy.purse["ann"]
    tx = energy.pay(purse, [(0, payload_script(b"WT\x01\x91\xa4nope"))], fee=2_000)
    tx = sign_input(tx, 0, SECRETS["ann"], TxOut(purse.amount, purse.script))
    assert energy.assemble([tx]).refused[0][1].code == "bad-op-unknown"
