"""The checks at the end of a run. Each compares what every node says with what the demo submitted.

A check is a function of (book, evidence of one node) that yields what is wrong; nothing wrong passes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from node.demo.evidence import Evidence
from node.demo.journal import Journal, PlacedOrder
from node.demo.play import Outage
from node.demo.recompute import Cleared, Sums, clear, settle
from node.demo.scenario import Kill, Scenario

FAULTS_TOLD = 3
"""A broken run breaks thousands of things in the same way; the first few say which."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check's result; ``detail`` says what was compared, or what is wrong."""

    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Book:
    """What was submitted and what follows from it; ``names`` are for people, by account."""

    journal: Journal
    names: Mapping[bytes, str]
    owners: Mapping[bytes, bytes]
    addresses: Mapping[bytes, str]
    operator: bytes
    slots: Sequence[int]
    day_of: Mapping[int, int]
    prices: tuple[int, int]
    cleared: Mapping[int, Cleared]
    orders: Mapping[int, Mapping[bytes, PlacedOrder]]

    def settled(self, evidence: Evidence, slot: int) -> dict[bytes, Sums]:
        """Return the settlement of a slot, with the pairs of this node."""
        return settle(
            self.owners,
            self.orders[slot],
            self.cleared[slot],
            evidence.trades[slot],
            self.journal.readings_of(slot),
            *self.prices,
        )

    def totals(self, evidence: Evidence, day: int | None = None) -> dict[bytes, Sums]:
        """Return the sums of each household over the run, or over one of its days."""
        totals = {account: Sums() for account in self.owners.values()}
        for slot in self.slots:
            if day is None or self.day_of[slot] == day:
                for account, sums in self.settled(evidence, slot).items():
                    totals[account].add(sums)
        return totals


Finder = Callable[[Book, Evidence], Iterator[str]]


def make_book(
    scenario: Scenario, journal: Journal, operator: bytes, address_of: Callable[[bytes], str]
) -> Book:
    """Return the demo's own account of the run."""
    slots = [scenario.slot_number(at) for at in range(scenario.slots)]
    orders: dict[int, dict[bytes, PlacedOrder]] = {slot: {} for slot in slots}
    for order_id, order in journal.orders.items():
        orders[order.wish.slot][order_id] = order
    energy = scenario.energy
    accounts = [member.script for member in scenario.households]
    return Book(
        journal=journal,
        names={member.script: member.name for member in scenario.households} | {operator: "the operator"},
        owners={member.device_key: member.script for member in scenario.households},
        addresses={account: address_of(account) for account in (*accounts, operator)},
        operator=operator,
        slots=slots,
        day_of={slot: (slot * energy.slot_s + energy.day_offset_s) // 86_400 for slot in slots},
        prices=(energy.grid_price_per_kwh, energy.feed_in_price_per_kwh),
        cleared={slot: clear(orders[slot]) for slot in slots},
        orders=orders,
    )


# ---- agreement of the nodes -----------------------------------------------------------------------


def same_tip(evidences: Sequence[Evidence]) -> Check:
    """All nodes have the same block and the same effects digest at the common height."""
    first = evidences[0]
    faults = [
        f"{each.name} has {what} {theirs} at height {each.height}, {first.name} has {ours}"
        for each in evidences[1:]
        for what, theirs, ours in (
            ("block", each.block_hash, first.block_hash),
            ("effects digest", each.effects_digest, first.effects_digest),
        )
        if theirs != ours
    ]
    agreed = f"{len(evidences)} nodes, height {first.height}, block {first.block_hash}"
    return _check(faults, f"{agreed}, effects digest {first.effects_digest}")


def recovery(kills: Sequence[Kill], outages: Sequence[Outage]) -> Check:
    """Every planned fault happened, and every killed node came back and caught up."""
    faults = [f"{outage.name} did not catch up" for outage in outages if not outage.caught_up]
    if len(outages) != len(kills):
        faults.append(f"{len(outages)} of {len(kills)} nodes were killed, the others had no time to recover")
    faults += [
        f"nobody took over from {each.name}" for each in outages if each.was_leader and not each.replaced
    ]
    names = " and ".join(outage.name for outage in outages)
    return _check(faults, f"{names} were killed and have caught up")


# ---- what each node must say ----------------------------------------------------------------------


def unconserved(book: Book, evidence: Evidence) -> Iterator[str]:
    """Coins, contract accounts and queued payouts add up to what was issued; nothing is queued."""
    coins = evidence.coin_set
    total = coins["total_amount"] + coins["contract_accounts"] + coins["payout_queue"]
    if not coins["conserved"] or total != coins["issued"]:
        yield f"{total} tokens exist, {coins['issued']} were issued"


def unbalanced_energy(book: Book, evidence: Evidence) -> Iterator[str]:
    """In every slot what was sold was bought, and the grid's share is what the meters add up to."""
    for slot in book.slots:
        results, market = evidence.results[slot], evidence.markets[slot]
        bought = sum(result["bought_wh"] for result in results)
        sold = sum(result["sold_wh"] for result in results)
        if bought != sold or bought != market["volume_wh"]:
            yield f"slot {slot}: {bought} Wh bought, {sold} Wh sold, {market['volume_wh']} Wh cleared"
        net = sum(result["import_wh"] - result["export_wh"] for result in results)
        grid = sum(result["from_grid_wh"] - result["to_grid_wh"] for result in results)
        if net != grid:
            yield f"slot {slot}: the meters add up to {net} Wh, the grid's share to {grid} Wh"


def missing_readings(book: Book, evidence: Evidence) -> Iterator[str]:
    """Every reading is in exactly one batch of one block, was accepted, and no other is there."""
    for item_hash, item in book.journal.readings.items():
        where = f"the reading of {book.names[book.owners[item.device_key]]} for slot {item.slot}"
        count, outcome = evidence.facts.readings[item_hash], evidence.outcomes[item_hash]
        if count != 1:
            yield f"{where} is on the chain {count} times"
        elif outcome is None or outcome["code"] != "accepted":
            yield f"{where} was {'not judged' if outcome is None else outcome['code']}"
    strange = [each for each in evidence.facts.readings if each not in book.journal.readings]
    if strange:
        yield f"{len(strange)} readings that nobody submitted"


def missing_orders(book: Book, evidence: Evidence) -> Iterator[str]:
    """Every order is on the chain exactly once and in its book as it was placed, and no other is there."""
    listed = {order["order_id"]: order for slot in book.slots for order in evidence.orders[slot]}
    for order_id, order in book.journal.orders.items():
        wish, found = order.wish, listed.pop(order_id.hex(), None)
        where = f"the order of {book.names[order.account]} for slot {wish.slot}"
        if evidence.facts.orders[order_id] != 1:
            yield f"{where} is on the chain {evidence.facts.orders[order_id]} times"
        elif found is None or wrong(
            found,
            account=book.addresses[order.account],
            slot=wish.slot,
            side=wish.side,
            energy_wh=wish.energy_wh,
            limit_price_per_kwh=wish.limit_price_per_kwh,
        ):
            yield f"{where} is not in the book as it was placed"
    if listed:
        yield f"{len(listed)} orders that nobody placed"


def wrong_clearing(book: Book, evidence: Evidence) -> Iterator[str]:
    """Price, volume and what each order traded are those of our own auction."""
    for slot in book.slots:
        mine, market = book.cleared[slot], evidence.markets[slot]
        if market["status"] != "settled":
            yield f"slot {slot} is {market['status']}"
        if (market["price_per_kwh"], market["volume_wh"]) != (mine.price_per_kwh, mine.volume_wh):
            yield (
                f"slot {slot} cleared {market['volume_wh']} Wh at {market['price_per_kwh']}, "
                f"it should be {mine.volume_wh} Wh at {mine.price_per_kwh}"
            )
        for order in evidence.orders[slot]:
            due_wh = mine.fills.get(bytes.fromhex(order["order_id"]), 0)
            if order["filled_wh"] != due_wh:
                yield f"slot {slot}: an order traded {order['filled_wh']} Wh, it should be {due_wh} Wh"


def wrong_payouts(book: Book, evidence: Evidence) -> Iterator[str]:
    """Every account has, in the contracts and by payouts, what its trades and meters come to."""
    totals = book.totals(evidence)
    for account, sums in totals.items():
        yield from _wrong_account(book, evidence, account, sums.received - sums.paid)
        yield from _wrong_coins(book, evidence, account)
    grid = sum(sums.grid_paid - sums.grid_received for sums in totals.values())
    yield from _wrong_account(book, evidence, book.operator, grid)
    if evidence.queued:
        yield f"{len(evidence.queued)} payouts are still queued"


def _wrong_account(book: Book, evidence: Evidence, account: bytes, earned: int) -> Iterator[str]:
    """Money brought and earned must have been paid out or be there."""
    paid_out = 0 if account == book.operator else evidence.facts.payouts[account]
    if paid_out != book.journal.withdrawn[account]:
        yield f"{book.names[account]} was paid {paid_out}, withdrew {book.journal.withdrawn[account]}"
    found = evidence.accounts[account]
    has = paid_out + found["available"] + found["locked"] - found["owed"]
    due = book.journal.brought[account] + earned
    if has != due:
        yield f"{book.names[account]} has {has} base units of the contracts, {due} are due"


def _wrong_coins(book: Book, evidence: Evidence, account: bytes) -> Iterator[str]:
    journal = book.journal
    due = journal.allocated[account] - journal.brought[account] - journal.fees[account]
    due += evidence.facts.payouts[account]
    if evidence.facts.coins[account] != due:
        yield f"{book.names[account]} has coins of {evidence.facts.coins[account]} base units, {due} are due"


def wrong_bills(book: Book, evidence: Evidence) -> Iterator[str]:
    """The bills of each day are those that the demo computes itself."""
    for day, bills in evidence.bills.items():
        if bills is None:
            yield f"day {day} has no bills"
            continue
        by_account = {bill["account"]: bill for bill in bills["bills"]}
        for account, sums in book.totals(evidence, day).items():
            bill = by_account.pop(book.addresses[account], None)
            if bill is None:
                yield f"{book.names[account]} has no bill for day {day}"
                continue
            for name in wrong(bill, **{name: getattr(sums, name) for name in Sums.__slots__}):
                yield (
                    f"the bill of {book.names[account]} for day {day} has {name} {bill[name]}, "
                    f"it should be {getattr(sums, name)}"
                )
        if by_account:
            yield f"{len(by_account)} bills of day {day} for others"


def wrong(view: Mapping[str, Any], **due: Any) -> list[str]:
    """Return the names of the fields of ``view`` that differ from ``due``."""
    return [name for name, value in due.items() if view.get(name) != value]


# ---- all together ---------------------------------------------------------------------------------


def run_checks(book: Book, evidences: Sequence[Evidence]) -> dict[str, Check]:
    """Run all checks on all nodes."""
    journal, first = book.journal, evidences[0]
    volume_kwh = sum(cleared.volume_wh for cleared in book.cleared.values()) / 1000
    slots, households = len(book.slots), len(book.owners)
    passed: list[tuple[str, Finder, str]] = [
        ("conservation", unconserved, f"{first.coin_set['issued']} tokens"),
        ("energy", unbalanced_energy, f"{volume_kwh:.3f} kWh sold and bought in {slots} slots"),
        ("readings", missing_readings, f"{len(journal.readings)} readings, each on the chain once"),
        ("orders", missing_orders, f"{len(journal.orders)} orders, each on the chain once"),
        ("clearing", wrong_clearing, f"{slots} auctions computed again"),
        ("payouts", wrong_payouts, f"money of {households} households and the operator computed again"),
        ("bills", wrong_bills, f"{households} bills a day computed again"),
    ]
    checks = {"same_tip": same_tip(evidences)}
    for name, finder, detail in passed:
        faults = [
            f"{each.name}: {fault}" for each in evidences for fault in islice(finder(book, each), FAULTS_TOLD)
        ]
        checks[name] = _check(faults, f"{detail}, on {len(evidences)} nodes")
    return checks


def _check(faults: Sequence[str], detail: str) -> Check:
    if not faults:
        return Check(True, detail)
    more = f" (and {len(faults) - FAULTS_TOLD} more)" if len(faults) > FAULTS_TOLD else ""
    return Check(False, "; ".join(faults[:FAULTS_TOLD]) + more)
