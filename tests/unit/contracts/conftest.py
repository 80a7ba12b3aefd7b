"""A chain of contract state in memory: blocks of operations, time that moves, and books kept beside."""

from dataclasses import replace
from itertools import count

import pytest

from consensus import rounds
from consensus.coins import encode_coin
from consensus.errors import RuleError
from consensus.keys import ed25519_public
from consensus.params import (
    AddressPrefixes,
    BftParams,
    ChainParams,
    Community,
    EnergyParams,
    LedgerParams,
    Validator,
)
from consensus.ports import BlockContext
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from contracts import devices, queries
from contracts.api import EnergyContracts
from contracts.bank import sums
from contracts.operations import (
    CancelOrder,
    Deposit,
    PlaceOrder,
    RegisterDevice,
    RegisterMember,
    RevokeDevice,
    SubmitReadings,
    Withdraw,
    encode,
    object_id,
    payload_script,
)

SLOT_S = 900
DAY_S = 86_400
START_S = 20_000 * DAY_S
COMMUNITY = "bremen"
OTHER = "oldenburg"


def p2pkh(number):
    return b"\x76\xa9\x14" + number.to_bytes(20, "big") + b"\x88\xac"


OPERATOR = p2pkh(1)
PROVIDER = p2pkh(2)
PROVIDER_2 = p2pkh(3)
OTHER_OPERATOR = p2pkh(4)


def validator(name, role, script):
    return Validator(name, role, name.encode().ljust(32), bytes(32), script, bytes(64), bytes(64))


def make_params(ledger=None, **energy):
    return ChainParams(
        name="test",
        engine="bft",
        genesis_time_s=START_S - DAY_S,
        addresses=AddressPrefixes(111, 196, 239, "tb"),
        ledger=replace(LedgerParams(10**15, 4_000_000, 1000, 5_000, 1000, 200), **(ledger or {})),
        bft=BftParams(
            0x207FFFFF,
            86_400,
            2,
            64,
            1000,
            100,
            10_000,
            100,
            1,
            (
                validator("dso", "grid-operator", OPERATOR),
                validator("esp-1", "service-provider", PROVIDER),
                validator("esp-2", "service-provider", PROVIDER_2),
                validator("dso-2", "grid-operator", OTHER_OPERATOR),
            ),
        ),
        energy=replace(
            EnergyParams(
                slot_s=SLOT_S,
                gate_lead_s=300,
                reading_window_s=3600,
                day_offset_s=0,
                grid_price_per_kwh=30_000,
                feed_in_price_per_kwh=8_000,
                max_price_per_kwh=100_000,
                max_orders_per_slot=20,
                max_participants=20,
                communities=(Community(COMMUNITY, OPERATOR), Community(OTHER, OTHER_OPERATOR)),
            ),
            **energy,
        ),
        allocations=(),
    )


class DictState:
    """A StateView over a dict; ``reads`` counts for tests that care."""

    def __init__(self, values=()):
        self.values = dict(values)

    def get(self, key, /):
        return self.values.get(key)

    def scan(self, prefix, /):
        return iter(sorted(item for item in self.values.items() if item[0].startswith(prefix)))

    def apply(self, diff):
        for key, value in diff.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value


class World:
    """One chain: ``brought`` is all money that came in, ``paid`` all payouts that a coinbase made."""

    def __init__(self, params=None, state=None, **energy):
        self.params = params or make_params(**energy)
        self.contracts = EnergyContracts(self.params)
        self.state = DictState() if state is None else state
        self.state.apply(self.contracts.genesis_state())
        self.height = 0
        self.time_s = START_S
        self.tag = self.contracts.chain_tag
        self.brought = 0
        self.paid = 0
        self.errors = []
        self._numbers = count(1)

    # ---- transactions --------------------------------------------------------------------------

    def tx(self, actor, operation, value=0):
        """Return (tx, spent coins): input 0 spends a P2PKH coin of ``actor``, signed for all outputs."""
        script = payload_script(encode(operation))
        return self.raw_tx(actor, [TxOut(value, script), TxOut(500, actor)])

    def raw_tx(self, actor, outputs, script_sig=b"\x47" + bytes(70) + b"\x01" + b"\x21" + bytes(33)):
        prevout = outpoint(next(self._numbers).to_bytes(32, "big"), 0)
        tx = Transaction.build(2, [TxIn(prevout, script_sig)], outputs)
        return tx, [encode_coin(1, False, 10**9, actor)]

    # ---- blocks --------------------------------------------------------------------------------

    def open(self, time_s=None):
        return self.contracts.open(
            self.state, BlockContext(bytes(32), self.height + 1, self.time_s if time_s is None else time_s)
        )

    def block(self, *items, at=None, dt=0):
        """Connect a block; returns the RuleError of each transaction, None where it took effect."""
        self.time_s = self.time_s + dt if at is None else at
        session = self.open()
        due = session.due_payouts()
        session.run_timers()
        self.errors = []
        for tx, spent in items:
            try:
                session.execute(tx, spent)
            except RuleError as error:
                self.errors.append(error)
            else:
                self.errors.append(None)
                self.brought += sum(o.value for o in tx.vout if o.script_pubkey[:1] == b"\x6a")
        self.state.apply(session.finish())
        self.height += 1
        self.paid += sum(output.value for output in due)
        return self.errors

    def do(self, actor, operation, value=0, **when):
        """Run one operation in a block of its own; raises what it was refused with. Returns its tx."""
        tx, spent = self.tx(actor, operation, value)
        (error,) = self.block((tx, spent), **when)
        if error is not None:
            raise error
        return tx

    def refused(self, actor, operation, value=0, **when):
        """Return the code with which an operation is refused; the state stays as it was."""
        self.block(**when)
        before = dict(self.state.values)
        tx, spent = self.tx(actor, operation, value)
        (error,) = self.block((tx, spent))
        assert error is not None, "the operation took effect"
        assert self.state.values == before
        return error.code

    # ---- shorthands ----------------------------------------------------------------------------

    def household(self, number, deposit=0, provider=PROVIDER, meters=1):
        """Register a member with meters; returns its script."""
        script = p2pkh(1000 + number)
        self.do(OPERATOR, RegisterMember(COMMUNITY, script, provider))
        for meter in range(meters):
            self.meter(script, self.seed(number, meter), provider)
        if deposit:
            self.do(script, Deposit(), deposit)
        return script

    def meter(self, owner, seed, provider=PROVIDER, community=COMMUNITY, operator=OPERATOR):
        proof = devices.prove_device(self.tag, seed, owner, community)
        self.do(operator, RegisterDevice(ed25519_public(seed), owner, provider, community, proof))

    @staticmethod
    def seed(number, meter=0):
        return b"meter" + number.to_bytes(20, "big") + meter.to_bytes(7, "big")

    def reading(self, number, slot, import_wh=0, export_wh=0, meter=0):
        return devices.sign_reading(self.tag, self.seed(number, meter), slot, import_wh, export_wh)

    def order(self, actor, slot, side, energy_wh, price, value=None, **when):
        """Place an order that brings just its collateral; returns its id."""
        operation = PlaceOrder(COMMUNITY, slot, side, energy_wh, price)
        if value is None:
            reference = price if side == "buy" else self.params.energy.grid_price_per_kwh
            value = energy_wh * reference // 1000
        tx = self.do(actor, operation, value, **when)
        return object_id(tx.prevouts[0], encode(operation))

    def submit(self, *items, provider=PROVIDER, **when):
        return self.do(provider, SubmitReadings(tuple(items)), **when)

    # ---- time ----------------------------------------------------------------------------------

    @property
    def slot_now(self):
        return self.time_s // SLOT_S

    def gate(self, slot):
        return slot * SLOT_S - self.params.energy.gate_lead_s

    def end(self, slot):
        return (slot + 1) * SLOT_S

    def settle_at(self, slot):
        return self.end(slot) + self.params.energy.reading_window_s

    # ---- books ---------------------------------------------------------------------------------

    def account(self, script):
        return queries.account(self.state, script)

    def check_books(self):
        found = sums(self.state)
        assert found["accounts"] + found["payouts"] + self.paid == self.brought
        return found


def enter_epoch(world, epoch):
    """Let the state say that ``epoch`` runs, as the rules of rounds write it at the end of the one before."""
    found = rounds.founding(world.params, bytes(32))
    now = rounds.Round(epoch, epoch, world.height + 1, found.seed, found.seed, 1, found.members)
    world.state.apply({rounds.NOW: rounds.encode_round(now)})


class Kit:
    """What test modules use of this file."""

    World = World
    DictState = DictState
    make_params = staticmethod(make_params)
    enter_epoch = staticmethod(enter_epoch)
    p2pkh = staticmethod(p2pkh)
    OPERATOR, PROVIDER, PROVIDER_2, OTHER_OPERATOR = OPERATOR, PROVIDER, PROVIDER_2, OTHER_OPERATOR
    COMMUNITY, OTHER = COMMUNITY, OTHER
    SLOT_S, DAY_S, START_S = SLOT_S, DAY_S, START_S
    Cancel, Revoke, Withdraw = CancelOrder, RevokeDevice, Withdraw


@pytest.fixture(scope="session")
def kit():
    return Kit


@pytest.fixture
def world():
    return World()
