"""A small world for block stories: a chain, its coins and state in dicts, and a toy contract."""

from dataclasses import dataclass, replace

import pytest

from consensus import canonical
from consensus.assemble import assemble
from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block, payload_of
from consensus.commitment import find_commitment
from consensus.connect import RuleEnv, connect_block
from consensus.errors import RuleError
from consensus.genesis import genesis_block, genesis_connected
from consensus.ledger_limits import MAX_SNAPSHOT_INTERVAL
from consensus.merkle import txid_root
from consensus.overlay import StateOverlay
from consensus.params import (
    COIN,
    AddressPrefixes,
    Allocation,
    BftParams,
    ChainParams,
    Community,
    EnergyParams,
    LedgerParams,
)
from consensus.ports import OVER_BUDGET
from consensus.script.templates import data_carrier, p2pkh
from consensus.transaction import Transaction, TxIn, TxOut
from consensus.validators import sign_entry

PAID_PER_BLOCK = 2


def script_of(number):
    return p2pkh(bytes([number]) * 20)


def payload(*fields):
    return data_carrier(b"WT\x01" + canonical.encode(list(fields)))


class ToySession:
    def __init__(self, contracts, state, context):
        self.contracts = contracts
        self.view = StateOverlay(state, {})
        self.context = context
        self.units = contracts.op_budget
        self.paid = [
            (key, TxOut(int.from_bytes(value[:8], "big"), value[8:]))
            for key, value in list(state.scan(b"p/"))[:PAID_PER_BLOCK]
        ]

    def due_payouts(self):
        return tuple(output for _, output in self.paid)

    def run_timers(self):
        ticks = int.from_bytes(self.view.get(b"ticks") or b"", "big")
        self.view.put(b"ticks", (ticks + 1).to_bytes(4, "big"))

    def execute(self, tx, spent):
        self.contracts.executed += 1
        found = [(o.value, payload_of(o.script_pubkey)) for o in tx.vout if payload_of(o.script_pubkey)]
        if not found:
            return
        (value, data) = found[0]
        name, *fields = canonical.decode(data[3:])
        account = b"a/" + spent[0][12:]
        balance = int.from_bytes(self.view.get(account) or b"", "big")
        if self.units == 0:
            raise RuleError(OVER_BUDGET, permanent=False)
        if name == "fail" or (name != "deposit" and value):
            raise RuleError("bad-toy-op")
        if name == "crash":
            raise ZeroDivisionError("toy")
        if name == "deposit":
            self.view.put(account, (balance + value).to_bytes(8, "big"))
        elif name == "withdraw":
            if fields[0] > balance:
                raise RuleError("toy-funds", permanent=False)
            self.view.put(account, (balance - fields[0]).to_bytes(8, "big"))
            number = int.from_bytes(self.view.get(b"next") or b"", "big")
            self.view.put(b"next", (number + 1).to_bytes(8, "big"))
            self.view.put(b"p/" + number.to_bytes(8, "big"), fields[0].to_bytes(8, "big") + spent[0][12:])
        elif name == "put":
            self.view.put(fields[0], fields[1])
        self.units -= 1

    def finish(self):
        for key, _ in self.paid:
            self.view.put(key, None)
        return dict(self.view.diff)


class ToyContracts:
    def __init__(self, op_budget=1000):
        self.op_budget = op_budget
        self.executed = 0

    def genesis_state(self):
        return {b"genesis": b"toy", b"ticks": b""}

    def open(self, state, context):
        return ToySession(self, state, context)

    def check_payload(self, tx):
        if sum(payload_of(o.script_pubkey) is not None for o in tx.vout) > 1:
            raise RuleError("bad-op-multiple")

    def signatures(self, tx):
        return ()

    def candidates(self, state, time_s):
        return []

    def dismiss(self, state, accounts):
        return {b"org/" + account: None for account in accounts if state.get(b"org/" + account)}

    def accounting(self, state):
        return {
            "accounts": sum(int.from_bytes(value, "big") for _, value in state.scan(b"a/")),
            "payouts": sum(int.from_bytes(value[:8], "big") for _, value in state.scan(b"p/")),
        }


class ToySignatures:
    """Refuses the transactions in ``forged``; counts its calls."""

    def __init__(self):
        self.forged = {}
        self.calls = 0

    def check(self, items):
        self.calls += 1
        for tx, spent in items:
            if len(spent) != len(tx.prevouts):
                raise AssertionError("one coin per input")
            if tx.txid in self.forged:
                raise RuleError("mandatory-script-verify-flag-failed", "forged")


class DictView:
    """Coins or state in a dict; notes what was prefetched."""

    def __init__(self, data):
        self.data = data
        self.prefetched = []

    def get(self, key, /):
        return self.data.get(key)

    def scan(self, prefix, /):
        return iter([(k, self.data[k]) for k in sorted(self.data) if k.startswith(prefix)])

    def prefetch(self, prevouts):
        self.prefetched.append(list(prevouts))
        return {prevout: self.data[prevout] for prevout in prevouts if prevout in self.data}


def make_params(validators=4, allocations=None, **ledger):
    limits = {
        "max_money": 21_000_000 * COIN,
        "max_block_weight": 4_000_000,
        "min_fee_per_kvb": 1000,
        "min_payout": 10_000,
        "op_budget": 1000,
        "timer_budget": 10_000,
    }
    entries = tuple(
        sign_entry(
            bytes([17 + index]) * 32,
            bytes([33 + index]) * 32,
            chain_name="toy",
            name=f"node {index}",
            role="service-provider" if index else "grid-operator",
            payout_script=script_of(200 + index),
        )
        for index in range(validators)
    )
    if allocations is None:
        allocations = tuple(Allocation(script_of(number), 1000 * COIN) for number in range(1, 9))
    return ChainParams(
        name="toy",
        engine="bft",
        genesis_time_s=1_750_000_000,
        addresses=AddressPrefixes(111, 196, 239, "tb"),
        ledger=LedgerParams(**(limits | ledger)),
        bft=BftParams(0x207FFFFF, 86_400, 2, 64, 2_000, 100, 1_000, 250, 1_000, entries),
        energy=EnergyParams(
            900, 300, 3_600, 0, 30_000_000, 8_000_000, 10 * COIN, 1_000, 1_000,
            (Community("toytown", entries[0].payout_script),),
        ),
        allocations=allocations,
    )  # fmt: skip


@dataclass
class Wallet:
    """Unspent outputs that a test may spend: prevout, amount, script."""

    prevout: bytes
    amount: int
    script: bytes


class World:
    def __init__(self, *, params=None, op_budget=1000, contracts=None, signatures=None, far_root=True):
        self.params = params or make_params()
        if far_root and self.params.pow is None and not self.params.ledger.snapshot_interval_blocks:
            # A state root further away than any test goes: its blocks keep what undoes their state.
            ledger = replace(self.params.ledger, snapshot_interval_blocks=MAX_SNAPSHOT_INTERVAL)
            self.params = replace(self.params, ledger=ledger)
        self.contracts = contracts or ToyContracts(op_budget)
        self.signatures = signatures or ToySignatures()
        self.genesis = genesis_block(self.params, self.contracts)
        self.env = RuleEnv(
            self.params,
            self.genesis.hash,
            self.contracts,
            self.signatures,
        )
        self.coins = DictView({})
        self.state = DictView({})
        self.apply(genesis_connected(self.params, self.contracts))
        self.purses = [
            Wallet(self.genesis.txs[0].txid + index.to_bytes(4, "little"), a.amount, a.script_pubkey)
            for index, a in enumerate(self.params.allocations)
        ]

    # ---- moving the chain

    @property
    def round(self):
        return self.env.rounds.round_after(self.tip, self.state)

    @property
    def signers(self):
        return self.round.validator_set

    def apply(self, connected):
        for view, diff in ((self.coins, connected.coins), (self.state, connected.state)):
            for key, value in diff.items():
                if value is None:
                    view.data.pop(key, None)
                else:
                    view.data[key] = value
        self.tip = connected.tip

    def assemble(self, txs, **given):
        options = {
            "time_s": self.tip.time_s + 1,
            "term": 1,
            "proposer": 1,
            "last_bitmap": bytes((self.signers.n + 7) // 8),
        } | given
        return assemble(self.tip, txs, self.coins, self.state, self.env, **options)

    def block(self, txs=(), **given):
        made = self.assemble(txs, **given)
        if made.refused:
            raise made.refused[0][1]
        return made.block

    def connect(self, block):
        check_block(block, self.params)
        return connect_block(block, self.tip, self.coins, self.state, self.env)

    def extend(self, txs=(), **given):
        connected = self.connect(self.block(txs, **given))
        self.apply(connected)
        return connected

    def refusal(self, block):
        """Return the code by which ``block`` is refused; fails if it is accepted."""
        coins, state = dict(self.coins.data), dict(self.state.data)
        with pytest.raises(RuleError) as caught:
            self.connect(block)
        assert (coins, state) == (self.coins.data, self.state.data)
        return caught.value.code

    def conserved(self):
        utxo = sum(int.from_bytes(coin[4:12], "little") for coin in self.coins.data.values())
        sums = self.contracts.accounting(self.state)
        return utxo + sums["accounts"] + sums["payouts"] == self.tip.issued

    # ---- building transactions

    def pay(self, purses, outputs, *, version=2, sequence=0xFFFFFFFF, lock_time=0, fee=1000, witness=()):
        """Spend purses to [(amount, script)]; the rest minus ``fee`` goes back to the first purse."""
        purses = [purses] if isinstance(purses, Wallet) else purses
        rest = sum(p.amount for p in purses) - sum(amount for amount, _ in outputs) - fee
        outs = [TxOut(amount, script) for amount, script in outputs]
        if rest > 0:
            outs.append(TxOut(rest, purses[0].script))
        ins = [TxIn(p.prevout, b"\x01\x01", sequence, witness) for p in purses]
        return Transaction.build(version, ins, outs, lock_time)

    def output(self, tx, index):
        out = tx.vout[index]
        return Wallet(tx.txid + index.to_bytes(4, "little"), out.value, out.script_pubkey)


def rebuild(block, *, txs=None, vout=None, script_sig=None, witness=None, commitment=None, **header):
    """Return ``block`` with parts exchanged and the Merkle root made to fit, unless given."""
    txs = list(block.txs if txs is None else txs)
    coinbase = txs[0]
    if coinbase.is_coinbase:
        outputs = list(coinbase.vout if vout is None else vout)
        if commitment is not None:
            new = replace(find_commitment(coinbase), **commitment)
            outputs[-1] = TxOut(0, new.encode_script())
        txin = coinbase.vin[0]
        txin = txin._replace(
            script_sig=txin.script_sig if script_sig is None else script_sig,
            witness=txin.witness if witness is None else witness,
        )
        txs[0] = Transaction.build(coinbase.version, [txin], outputs, coinbase.lock_time)
    old = block.header
    fields = {
        "version": old.version,
        "prev_hash": old.prev_hash,
        "merkle_root": txid_root(txs)[0],
        "time_s": old.time_s,
        "bits": old.bits,
        "nonce": old.nonce,
    } | header
    return Block.build(BlockHeader.build(**fields), txs)


class Tools:
    """What test files need from here, as one fixture: helpers cannot be imported from a conftest."""

    World = World
    Wallet = Wallet
    ToyContracts = ToyContracts
    DictView = DictView
    make_params = staticmethod(make_params)
    rebuild = staticmethod(rebuild)
    payload = staticmethod(payload)
    script_of = staticmethod(script_of)


@pytest.fixture(scope="session")
def tools():
    return Tools


@pytest.fixture
def world():
    return World()
