"""Transactions reach the chain whatever single nodes do."""

import pytest

from consensus.transaction import hash_hex, outpoint
from contracts.operations import Deposit, SubmitReadings, Withdraw
from node.clock import Clock
from node.demo import courier as module
from node.demo.courier import Actor, Courier
from node.demo.journal import Journal
from node.demo.limits import GIVE_UP_REAL_S, MAX_IN_FLIGHT, REFUSED_REAL_S, RESEND_REAL_S
from node.keyfile import Secret
from node.rpc.client import RpcUnavailable
from node.rpc.errors import RpcError
from node.testnet import Founder
from node.wallet import Account, Coin, Wallet, WalletError


class FakeClient:
    def __init__(self):
        self.got = []
        self.fails = False
        self.reply = None

    async def batch(self, requests):
        if self.fails:
            raise RpcUnavailable("rpc-unreachable", "gone")
        self.got += [arguments[0] for _, arguments in requests]
        return [self.reply or "txid" for _ in requests]


class FakeNode:
    def __init__(self, name):
        self.founder = Founder(name, "service-provider")


class FakeStatus:
    is_up = True


class FakeWatch:
    """Four nodes that answer; also stands for the testnet behind it."""

    def __init__(self):
        self.clients = [FakeClient() for _ in range(4)]
        self.nodes = [FakeStatus() for _ in range(4)]
        self.net = self
        self.founders = [FakeNode(f"node-{at}") for at in range(4)]

    async def client(self, index):
        return self.clients[index]

    def lost(self, index):
        self.nodes[index].is_up = False


class Net:
    def __init__(self, watch):
        self.nodes = watch.founders
        self.client = watch.client


@pytest.fixture
def now(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(Clock, "monotonic_s", staticmethod(lambda: clock[0]))
    return clock


@pytest.fixture
def watch():
    watch = FakeWatch()
    watch.net = Net(watch)
    return watch


@pytest.fixture
def courier(watch):
    return Courier(watch, Journal())


def actor_of(courier, coins=1, home=0, number=1):
    wallet = Wallet(Account(Secret(bytes([number]) * 32)), 2_000)
    for index in range(coins):
        coin = Coin(outpoint(bytes([number]) * 32, index), 10_000_000)
        wallet._coins[coin.prevout] = coin
    return courier.join(Actor(f"actor-{number}", wallet, home))


def confirm_all(courier):
    courier.confirm(list(courier._pending))


async def test_it_goes_to_the_usual_node_and_is_done_when_a_block_holds_it(courier, watch, now):
    actor = actor_of(courier, home=2)
    seen = []
    courier.give(actor, Deposit(), "a deposit", value=5, signed=lambda built, payload: seen.append(payload))
    assert not courier.is_idle
    await courier.pump()
    assert [len(client.got) for client in watch.clients] == [0, 0, 1, 0]
    assert seen[0].startswith(b"WT\x01")
    await courier.pump()
    assert len(watch.clients[2].got) == 1
    assert courier.unconfirmed() == ["a deposit: in no block"]
    confirm_all(courier)
    assert courier.is_idle
    assert courier.unconfirmed() == []
    assert courier.resent == 0


async def test_what_no_block_holds_goes_to_the_next_node_unchanged(courier, watch, now):
    courier.give(actor_of(courier), Deposit(), "a deposit", value=5)
    for _ in range(5):
        await courier.pump()
        now[0] += RESEND_REAL_S
    sent = [client.got for client in watch.clients]
    assert [len(each) for each in sent] == [2, 1, 1, 1]
    assert len({raw for each in sent for raw in each}) == 1
    assert courier.resent == 4


async def test_a_node_that_is_gone_is_left_at_once(courier, watch, now):
    watch.clients[0].fails = True
    courier.give(actor_of(courier), Deposit(), "a deposit", value=5)
    await courier.pump()
    assert not watch.nodes[0].is_up
    await courier.pump()
    assert len(watch.clients[1].got) == 1
    await courier.pump()
    assert len(watch.clients[1].got) == 1


async def test_with_no_node_at_all_it_waits(courier, watch, now):
    for status in watch.nodes:
        status.is_up = False
    courier.give(actor_of(courier), Deposit(), "a deposit", value=5)
    await courier.pump()
    assert courier.waiting == 1
    watch.nodes[3].is_up = True
    await courier.pump()
    assert len(watch.clients[3].got) == 1


async def test_a_refusal_is_told_and_the_next_node_asked_soon(courier, watch, now):
    watch.clients[0].reply = RpcError(-25, "bad-txns-inputs-missingorspent")
    courier.give(actor_of(courier), Deposit(), "a deposit", value=5)
    await courier.pump()
    assert courier.unconfirmed() == ["a deposit: node-0 says bad-txns-inputs-missingorspent"]
    await courier.pump()
    assert not watch.clients[1].got
    now[0] += REFUSED_REAL_S
    await courier.pump()
    assert len(watch.clients[1].got) == 1
    assert courier.unconfirmed() == ["a deposit: in no block"]


async def test_a_node_that_has_it_in_the_chain_already_is_no_refusal(courier, watch, now):
    watch.clients[0].reply = RpcError(-27, "Transaction outputs already in utxo set")
    courier.give(actor_of(courier), Deposit(), "a deposit", value=5)
    await courier.pump()
    assert courier.unconfirmed() == ["a deposit: in no block"]


async def test_what_waits_too_long_is_complained_about(courier, watch, now):
    courier.give(actor_of(courier), Deposit(), "a deposit", value=5)
    await courier.pump()
    assert courier.complaints() == []
    now[0] += GIVE_UP_REAL_S + 1
    assert courier.complaints() == ["a deposit: in no block"]


async def test_an_account_keeps_its_order_and_its_window(courier, watch, now):
    actor = actor_of(courier)
    for number in range(MAX_IN_FLIGHT + 3):
        courier.give(actor, Withdraw(number + 1), f"withdrawal {number}")
    await courier.pump()
    assert len(watch.clients[0].got) == MAX_IN_FLIGHT
    assert courier.waiting == MAX_IN_FLIGHT + 3
    assert courier.unconfirmed()[-1] == f"withdrawal {MAX_IN_FLIGHT + 2}: not sent"
    first = next(iter(courier._pending))
    courier.confirm([first, "of somebody else"])
    await courier.pump()
    assert len(watch.clients[0].got) == MAX_IN_FLIGHT + 1
    # Each spends the change of the one before.
    spent = [sent.built.tx.prevouts[0][:32] for sent in courier._pending.values()]
    assert [hash_hex(each) for each in spent[1:]] == list(courier._pending)[:-1]


async def test_the_journal_knows_what_was_brought_and_paid(courier, watch, now):
    actor = actor_of(courier, coins=2)
    courier.give(actor, Deposit(), "one", value=5)
    courier.give(actor, Deposit(), "two", value=7)
    await courier.pump()
    journal, account = courier._journal, actor.wallet.account.script
    assert journal.brought[account] == 12
    assert journal.fees[account] == sum(sent.built.fee for sent in courier._pending.values())
    assert journal.transactions == 2


async def test_coins_that_hang_on_too_much_wait_and_no_coins_are_an_error(courier, watch, now, monkeypatch):
    actor = actor_of(courier)
    courier.give(actor, Deposit(), "one", value=5)
    await courier.pump()
    courier.give(actor, Deposit(), "two", value=5)
    monkeypatch.setattr(actor.wallet, "_usable", list)
    await courier.pump()
    assert courier.waiting == 2
    monkeypatch.undo()
    monkeypatch.setattr(Clock, "monotonic_s", staticmethod(lambda: now[0]))
    confirm_all(courier)
    await courier.pump()
    assert [sent.what for sent in courier._pending.values()] == ["two"]
    poor = actor_of(courier, coins=0, number=2)
    courier.give(poor, SubmitReadings(()), "readings")
    with pytest.raises(WalletError, match="insufficient-funds"):
        await courier.pump()


async def test_a_slow_node_delays_nobody(courier, watch, now, monkeypatch):
    import asyncio

    monkeypatch.setattr(module, "SLOW_REAL_S", 0.0)
    never = asyncio.Event()

    async def hang(requests):
        await never.wait()
        return ["txid" for _ in requests]

    watch.clients[0].batch = hang
    courier.give(actor_of(courier), Deposit(), "a deposit", value=5)
    await courier.pump()
    await asyncio.sleep(0)
    now[0] += RESEND_REAL_S
    await courier.pump()
    await asyncio.sleep(0)
    assert len(watch.clients[1].got) == 1
    never.set()
    await courier._lanes.wait(1.0)
