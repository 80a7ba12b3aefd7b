"""Random life on a small chain: whatever is sent, money is conserved and the books agree."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consensus.keys import ed25519_public
from contracts import queries
from contracts.operations import (
    CancelOrder,
    Deposit,
    PlaceOrder,
    RevokeDevice,
    SubmitReadings,
    Withdraw,
)

HOUSEHOLDS = 4
WHO = st.integers(0, HOUSEHOLDS)  # 0 is the grid operator
MEMBER = st.integers(1, HOUSEHOLDS)
WH = st.one_of(st.integers(0, 3000), st.integers(0, 3000), st.just(100_000_000))

BIDS = st.tuples(
    st.just("order"), MEMBER, st.integers(1, 2), st.just("buy"), st.integers(1, 3000), st.integers(15, 40)
)
ASKS = st.tuples(
    st.just("order"), MEMBER, st.integers(1, 2), st.just("sell"), st.integers(1, 3000), st.integers(5, 25)
)
READINGS = st.tuples(st.just("read"), MEMBER, st.integers(-4, 0), WH, WH)
MONEY = st.one_of(
    st.tuples(st.just("deposit"), WHO, st.integers(1, 200_000)),
    st.tuples(st.just("withdraw"), WHO, st.integers(5_000, 60_000)),
)
RARE = st.one_of(
    st.tuples(st.just("cancel"), WHO, st.integers(0, 30)),
    st.tuples(st.just("revoke"), MEMBER),
    st.tuples(st.just("order"), WHO, st.integers(-9, 300), st.just("buy"), st.integers(1, 9), st.just(1)),
)
BLOCKS = st.lists(
    st.tuples(
        st.sampled_from([0, 300, 600, 900, 900, 3600, 20_000]),
        st.tuples(BIDS, ASKS, READINGS, READINGS, MONEY, RARE).flatmap(st.permutations),
    ),
    min_size=3,
    max_size=10,
)


class Life:
    """Turns drawn actions into transactions and checks the books after every block."""

    def __init__(self, kit):
        self.kit = kit
        self.world = kit.World(kit.make_params(ledger={"timer_budget": 20}))
        for number in range(1, HOUSEHOLDS + 1):
            self.world.household(number, 40_000 * number)
        self.order_ids = []
        self.accepted = {}

    def account(self, number):
        return self.kit.p2pkh(1000 + number) if number else self.kit.OPERATOR

    def tx(self, action):
        world, kind, who = self.world, action[0], action[1]
        if kind == "deposit":
            return world.tx(self.account(who), Deposit(), action[2])
        if kind == "withdraw":
            return world.tx(self.account(who), Withdraw(action[2]))
        if kind == "cancel":
            order_id = self.order_ids[action[2] % len(self.order_ids)] if self.order_ids else bytes(32)
            return world.tx(self.account(who), CancelOrder(order_id))
        if kind == "revoke":
            return world.tx(self.kit.OPERATOR, RevokeDevice(ed25519_public(world.seed(who))))
        slot = max(0, world.slot_now + action[2])
        if kind == "read":
            item = world.reading(who, slot, action[3], action[4])
            return world.tx(self.kit.PROVIDER, SubmitReadings((item, item)))
        _, _, ahead, side, energy_wh, price = action
        if ahead in (1, 2):
            slot = world.slot_now // 2 * 2 + 2 * ahead  # orders of several blocks meet in one slot
        order = PlaceOrder(self.kit.COMMUNITY, slot, side, energy_wh, price * 1000)
        value = energy_wh * price if energy_wh % 4 else 0
        return world.tx(self.account(who), order, value)

    def block(self, dt, actions):
        items = [self.tx(action) for action in actions]
        before = dict(self.world.state.values)
        self.world.block(*items, dt=dt)
        self.check_replay(before, items)
        self.check()

    def check_replay(self, before, items):
        """Another node with another instance, trying refused operations or not, writes the same."""
        world = self.world
        again = self.kit.World(world.params, state=self.kit.DictState(before))
        again.height, again.time_s = world.height - 1, world.time_s
        good = [item for item, error in zip(items, world.errors, strict=True) if error is None]
        assert again.block(*good) == [None] * len(good)
        assert again.state.values == world.state.values

    def check(self):
        self.world.check_books()
        self.check_locked()
        self.check_slots()
        self.check_readings()

    def check_locked(self):
        """What is locked is the collateral of orders whose slot is not settled."""
        state, locked = self.world.state, {}
        for slot in self.slots():
            for order in queries.orders(state, self.kit.COMMUNITY, slot):
                locked[order["account"]] = locked.get(order["account"], 0) + order["collateral"]
                self.order_ids.append(bytes.fromhex(order["order_id"]))
        self.order_ids = sorted(set(self.order_ids))
        for number in range(HOUSEHOLDS + 1):
            script = self.account(number)
            assert self.world.account(script)["locked"] == locked.get(script.hex(), 0)

    def slots(self):
        keys = [key for key in self.world.state.values if key.startswith(b"market/")]
        return sorted(int.from_bytes(key[-8:], "big") for key in keys)

    def check_slots(self):
        """Energy sold is energy bought, money paid is money received, and energy balances per slot."""
        for slot in self.slots():
            results = queries.results(self.world.state, self.kit.COMMUNITY, slot)
            trades = queries.trades(self.world.state, self.kit.COMMUNITY, slot)
            market = queries.market(self.world.state, self.world.params, self.kit.COMMUNITY, slot)
            assert market["volume_wh"] == sum(trade["energy_wh"] for trade in trades)
            assert market["trades"] == len(trades)
            if market["status"] == "settled":
                total = {}
                for name in ("bought_wh", "sold_wh", "trade_paid", "trade_received"):
                    total[name] = sum(view[name] for view in results)
                assert total["bought_wh"] == total["sold_wh"] == market["volume_wh"]
                assert total["trade_paid"] == total["trade_received"] == sum(t["amount"] for t in trades)
                net_wh = market["import_wh"] - market["export_wh"]
                assert net_wh == market["from_grid_wh"] - market["to_grid_wh"]
                assert self.world.time_s >= self.world.settle_at(slot)

    def check_readings(self):
        """An accepted reading stays as it was accepted."""
        now = {k: v for k, v in self.world.state.values.items() if k.startswith(b"reading/")}
        assert self.accepted.items() <= now.items()
        self.accepted = now

    def end(self):
        """Let everything fall due: nothing stays locked, nothing stays scheduled, days are billed."""
        world = self.world
        for _ in range(40):
            world.block(dt=86_400)
            self.check()
        assert not [key for key in world.state.values if key.startswith((b"timer/", b"day/"))]
        assert all(world.account(self.account(number))["locked"] == 0 for number in range(HOUSEHOLDS + 1))
        slots = self.slots()
        days = sorted({slot * 900 // 86_400 for slot in slots})
        bills = [queries.bills(world.state, self.kit.COMMUNITY, day)["bills"] for day in days]
        settled = sum(len(queries.results(world.state, self.kit.COMMUNITY, slot)) for slot in slots)
        assert sum(bill["slots"] for day in bills for bill in day) == settled


@given(BLOCKS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_operations_keep_the_books(kit, blocks):
    life = Life(kit)
    for dt, actions in blocks:
        life.block(dt, actions)
    life.end()
