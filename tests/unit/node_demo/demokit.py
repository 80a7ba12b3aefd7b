"""A small market of three households and two slots, with the evidence of nodes that did everything right."""

from collections import Counter
from dataclasses import asdict, replace
from datetime import date
from decimal import Decimal

from contracts.devices import sign_reading
from contracts.operations import reading_hash
from contracts.records import BUY, SELL
from node.demo.checks import make_book
from node.demo.evidence import BlockFacts, Evidence
from node.demo.households import make_households
from node.demo.journal import Journal, PlacedOrder
from node.demo.recompute import money
from node.demo.scenario import Energy, Kill, Scenario, Wish
from node.demo.seeded import Seeded
from node.testnet import TEST_ENERGY

FIRST_SLOT = 404_468
OPERATOR = b"\x51" * 25
TAG = bytes(32)
FEE = 500
RESERVE = 10_000_000
ALLOCATED = 10_000_000_000

# (household, position, side, Wh, limit): two buyers at the margin of slot 0, nothing traded in slot 1.
WISHES = (
    (0, 0, BUY, 400, 25_000_000),
    (1, 0, SELL, 700, 12_000_000),
    (2, 0, BUY, 500, 20_000_000),
    (0, 1, BUY, 300, 10_000_000),
    (1, 1, SELL, 900, 20_000_000),
)
METERED = ((380, -650, 560), (310, -880, 0))
"""Net watt-hours per position and household."""


def make_scenario() -> Scenario:
    members = make_households(3, 3, Seeded(1))
    wishes = [{}, {}, {}]
    for member, at, side, energy_wh, limit in WISHES:
        wishes[member][at] = Wish(FIRST_SLOT + at, side, energy_wh, limit)
    energies = [
        Energy([max(net, 0) for net in nets], [max(-net, 0) for net in nets])
        for nets in zip(*METERED, strict=True)
    ]
    end_s = (FIRST_SLOT + 2) * 900
    offset_s = -(end_s % 86_400)
    return Scenario(
        day=date(1981, 7, 15),
        first_slot=FIRST_SLOT,
        first_of_day=48,
        slots=2,
        speed=900,
        energy=replace(TEST_ENERGY, day_offset_s=offset_s + (86_400 if offset_s < -43_200 else 0)),
        households=members,
        energies=energies,
        wishes=wishes,
        kills=[Kill(0, 1, leader=False)],
    )


def make_journal(scenario: Scenario) -> Journal:
    journal = Journal()
    for number, (member, at, *_) in enumerate(WISHES):
        account = scenario.households[member].script
        wish = scenario.wishes[member][at]
        price = wish.limit_price_per_kwh if wish.side == BUY else scenario.energy.grid_price_per_kwh
        value = money(wish.energy_wh, price)
        journal.orders[bytes([number + 1]) * 32] = PlacedOrder(account, wish, value)
        journal.brought[account] += value
        journal.fees[account] += FEE
    for member in scenario.households:
        journal.allocated[member.script] = ALLOCATED
        journal.brought[member.script] += RESERVE
        for at in (0, 1):
            net_wh = METERED[at][member.index]
            seed = member.device.reveal()
            item = sign_reading(TAG, seed, FIRST_SLOT + at, max(net_wh, 0), max(-net_wh, 0))
            journal.readings[reading_hash(item)] = item
    journal.brought[OPERATOR] = 1_000_000_000
    return journal


def address_of(script: bytes) -> str:
    return f"address-{script.hex()[6:14]}"


class World:
    """Scenario, journal, book, and evidence that agrees with them; tests then spoil one of the nodes."""

    def __init__(self, nodes: int = 2) -> None:
        self.scenario = make_scenario()
        self.journal = make_journal(self.scenario)
        self.book = make_book(self.scenario, self.journal, OPERATOR, address_of)
        self.evidences = [self.honest(f"node-{at}") for at in range(nodes)]
        self.bad = self.evidences[-1]
        totals = self.book.totals(self.bad)
        for member in self.scenario.households:
            sums = totals[member.script]
            self.journal.withdrawn[member.script] = (
                self.journal.brought[member.script] + sums.received - sums.paid
            )
        for evidence in self.evidences:
            self._pay(evidence, totals)

    def honest(self, name: str) -> Evidence:
        book, journal = self.book, self.journal
        evidence = Evidence(
            name=name,
            height=99,
            block_hash="ab" * 32,
            effects_digest="cd" * 32,
            coin_set={},
            facts=BlockFacts(readings=Counter(journal.readings), orders=Counter(journal.orders), blocks=100),
            markets={},
            orders={},
            trades={},
            results={},
            outcomes={each: {"code": "accepted"} for each in journal.readings},
            accounts={},
            queued=[],
            bills={},
        )
        evidence.facts.readings = Counter(dict.fromkeys(journal.readings, 1))
        evidence.facts.orders = Counter(dict.fromkeys(journal.orders, 1))
        for slot in book.slots:
            self._slot(evidence, slot)
        for day in dict.fromkeys(book.day_of.values()):
            bills = [
                {"account": book.addresses[account], **asdict(sums)}
                for account, sums in book.totals(evidence, day).items()
            ]
            evidence.bills[day] = {"bills": bills}
        return evidence

    def _slot(self, evidence: Evidence, slot: int) -> None:
        book, cleared = self.book, self.book.cleared[slot]
        evidence.markets[slot] = {
            "status": "settled",
            "price_per_kwh": cleared.price_per_kwh,
            "volume_wh": cleared.volume_wh,
        }
        evidence.orders[slot] = [
            {
                "order_id": order_id.hex(),
                "account": book.addresses[order.account],
                "slot": slot,
                "side": order.wish.side,
                "energy_wh": order.wish.energy_wh,
                "limit_price_per_kwh": order.wish.limit_price_per_kwh,
                "filled_wh": cleared.fills.get(order_id, 0),
            }
            for order_id, order in book.orders[slot].items()
        ]
        sell_id = next((each for each in cleared.fills if book.orders[slot][each].wish.side == SELL), b"")
        evidence.trades[slot] = [
            {
                "buy_id": order_id.hex(),
                "sell_id": sell_id.hex(),
                "energy_wh": energy_wh,
                "amount": money(energy_wh, cleared.price_per_kwh or 0),
            }
            for order_id, energy_wh in cleared.fills.items()
            if order_id != sell_id
        ]
        evidence.results[slot] = [
            {"account": book.addresses[account], **asdict(sums)}
            for account, sums in book.settled(evidence, slot).items()
        ]

    def _pay(self, evidence: Evidence, totals: dict) -> None:
        journal = self.journal
        for member in self.scenario.households:
            script = member.script
            evidence.accounts[script] = {"available": 0, "locked": 0, "owed": 0}
            evidence.facts.payouts[script] = journal.withdrawn[script]
            evidence.facts.coins[script] = (
                ALLOCATED - journal.brought[script] - journal.fees[script] + journal.withdrawn[script]
            )
        grid = sum(sums.grid_paid - sums.grid_received for sums in totals.values())
        available = journal.brought[OPERATOR] + grid
        evidence.accounts[OPERATOR] = {"available": available, "locked": 0, "owed": 0}
        evidence.coin_set = {
            "total_amount": Decimal(300),
            "contract_accounts": Decimal(5),
            "payout_queue": Decimal(0),
            "issued": Decimal(305),
            "conserved": True,
        }
