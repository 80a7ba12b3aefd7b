"""Targets of the ledger: transactions, blocks, scripts, payloads and what a block commits to."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

from cext import _pure
from consensus import canonical, rounds
from consensus.block import Block, BlockHeader
from consensus.block_rules import check_block
from consensus.chain import ChainTip
from consensus.codec import Reader, compact_size, var_bytes
from consensus.commitment import find_commitment
from consensus.connect import connect_block
from consensus.errors import DecodeError, PeerFault, RuleError
from consensus.hashes import hash160, sha256
from consensus.keys import ed25519_public, pubkey_from_secret, taproot_tweak, xonly_from_secret
from consensus.merkle import txid_root
from consensus.params import COIN, Allocation, Community
from consensus.ports import BlockContext
from consensus.script import (
    CONSENSUS_FLAGS,
    ScriptError,
    TransactionChecker,
    tapleaf_hash,
    templates,
    verify_script,
)
from consensus.script import flags as bits
from consensus.signing import sign_input, sign_multisig_input, sign_taproot_input
from consensus.transaction import NULL_PREVOUT, Transaction, TxIn, TxOut, outpoint
from consensus.tx_rules import check_transaction
from consensus.undo import decode_parent, decode_undo, encode_undo
from contracts import devices, operations
from contracts.api import EnergyContracts
from contracts.governance.operations import CommitReveals, Leave, VoteDelegates
from tests.fuzz.mutate import edge_bytes, mutate_bytes, mutate_msgpack
from tests.fuzz.runner import Target, ensure
from tests.unit.consensus_rules.conftest import DictView, ToySignatures, World, make_params, script_of

try:
    from cext import _native
except ImportError:
    _native = None

MAX_MONEY = 21_000_000 * COIN
SECRETS = tuple(bytes([number]) * 32 for number in range(1, 6))
DEVICE = b"\x0d" * 32
SIGNED = b"\x47" + bytes(70) + b"\x01" + b"\x21" + bytes(33)
"""Shaped like a signature for all outputs and its key, where nobody checks signatures."""


# --- transactions ---------------------------------------------------------------------------------


def _spend(script: bytes, **given: Any) -> Transaction:
    """An unsigned transaction of two inputs and three outputs, the first input spending ``script``."""
    vin = [TxIn(bytes([1]) * 36, b"", 0xFFFFFFFE), TxIn(bytes([2]) * 36, b"\x51", 7)]
    vout = [TxOut(3 * COIN, script), TxOut(0, templates.data_carrier(b"note")), TxOut(7, b"")]
    return Transaction.build(2, vin, vout, given.get("lock_time", 0))


@cache
def signed_spends() -> tuple[tuple[Transaction, bytes], ...]:
    """(transaction, output script that its input 0 spends) for every way to spend that we can sign."""
    secret = SECRETS[0]
    keys = [pubkey_from_secret(each) for each in SECRETS[:3]]
    multi = templates.multisig(2, keys)
    own = hash160(keys[0])
    tap, _ = taproot_tweak(xonly_from_secret(secret), b"")
    made = []
    for script in (
        templates.p2pkh(own),
        templates.p2wpkh(own),
        templates.p2sh(hash160(templates.p2wpkh(own))),
    ):
        made.append((sign_input(_spend(script), 0, secret, TxOut(5 * COIN, script)), script))
    for script in (templates.p2sh(hash160(multi)), templates.p2wsh(sha256(multi))):
        tx = sign_multisig_input(_spend(script), 0, SECRETS[:2], TxOut(5 * COIN, script), multi)
        made.append((tx, script))
    script = templates.p2tr(tap)
    spent = (TxOut(5 * COIN, script), TxOut(COIN, b"\x51"))
    made.append((sign_taproot_input(_spend(script), 0, secret, spent), script))
    return tuple(made)


def sample_transactions() -> list[bytes]:
    coinbase = Transaction.build(
        2, [TxIn(NULL_PREVOUT, b"\x01\x05", witness=(bytes(32),))], [TxOut(0, b"\x6a")]
    )
    many = Transaction.build(
        1, [TxIn(bytes([n]) * 36, b"x" * n) for n in range(1, 40)], [TxOut(1, b"")] * 260
    )
    return [tx.raw for tx, _ in signed_spends()] + [coinbase.raw, many.raw]


def _scan(module: Any, data: bytes, offset: int) -> object:
    try:
        return module.scan_transaction(data, offset)
    except ValueError as error:
        return str(error)


def transaction() -> Target:
    contracts = EnergyContracts(make_params())

    def run(data: bytes) -> str:
        if _native is not None:
            for offset in (0, 1, len(data)):
                twin = _scan(_pure, data, offset)
                ensure(_scan(_native, data, offset) == twin, f"scan at {offset}: the twin says {twin}")
        tx = Transaction.parse(data)
        ensure(tx.raw == data, "raw is the input")
        ensure(
            Transaction.build(tx.version, tx.vin, tx.vout, tx.lock_time).raw == data, "build gives it again"
        )
        ensure(tx.prevouts == tuple(each.prevout for each in tx.vin), "prevouts are the inputs'")
        ensure(tx.sequences == tuple(each.sequence for each in tx.vin), "sequences are the inputs'")
        ensure(len(tx.txid) == len(tx.wtxid) == 32 and tx.vsize * 4 >= tx.weight, "hashes and sizes")
        inner, end = Transaction.parse_at(b"\xfd" + data + b"\0", 1)
        ensure(inner == tx and end == len(data) + 1 and inner.vin == tx.vin, "the same inside other bytes")
        contracts.check_payload(tx)
        contracts.signatures(tx)
        check_transaction(tx, MAX_MONEY)
        return "valid"

    return Target("transaction", sample_transactions(), run)


# --- scripts --------------------------------------------------------------------------------------

_OPCODES = sorted({*range(0x61, 0xBB)} - set(range(0x7E, 0x82)) | {0x7E, 0x8D, 0x95})


class Credulous:
    """A checker to which every signature and lock holds, so that scripts run further."""

    def check_ecdsa(self, signature: bytes, pubkey: bytes, script_code: bytes, version: int) -> bool:
        return bool(signature)

    def check_schnorr(self, signature: bytes, pubkey: bytes, context: object) -> None:
        return None

    def check_lock_time(self, lock_time: int) -> bool:
        return True

    def check_sequence(self, sequence: int) -> bool:
        return True


def pack_script_case(flags: int, script_sig: bytes, script_pubkey: bytes, witness: Sequence[bytes]) -> bytes:
    head = flags.to_bytes(4, "little") + var_bytes(script_sig) + var_bytes(script_pubkey)
    return head + compact_size(len(witness)) + b"".join(map(var_bytes, witness))


def read_script_case(data: bytes) -> tuple[int, bytes, bytes, list[bytes]]:
    """(flags, scriptSig, scriptPubKey, witness). Lengths that reach too far end where the data does."""
    reader = Reader(data)

    def part() -> bytes:
        return reader.take(min(reader.compact_size(), reader.remaining))

    try:
        flags, script_sig, script_pubkey = reader.u32(), part(), part()
        return flags, script_sig, script_pubkey, [part() for _ in range(min(reader.compact_size(), 1_100))]
    except PeerFault:
        return CONSENSUS_FLAGS, data[: len(data) // 2], data[len(data) // 2 :], []


def random_script(rng: Random) -> bytes:
    """Opcodes and pushes, mostly of small numbers, so that many get past their operands."""
    parts = []
    for _ in range(rng.randint(1, 25)):
        if rng.random() < 0.45:
            parts.append(bytes([rng.choice((0x00, 0x4F, *range(0x51, 0x61)))]))
        elif rng.random() < 0.2:
            parts.append(templates.push(rng.randbytes(rng.choice((1, 2, 4, 5, 20, 32, 33, 64, 65, 80)))))
        else:
            parts.append(bytes([rng.choice(_OPCODES) if rng.random() < 0.95 else rng.randrange(256)]))
    return b"".join(parts)


def _tapscript(script: bytes, witness: Sequence[bytes]) -> tuple[bytes, list[bytes]]:
    """(output script, witness) of a script path spend."""
    internal = xonly_from_secret(SECRETS[1])
    key, parity = taproot_tweak(internal, tapleaf_hash(script, 0xC0))
    return templates.p2tr(key), [*witness, script, bytes([0xC0 | parity]) + internal]


def mutate_script(rng: Random, pool: Sequence[bytes]) -> bytes:
    """Bytes, or the parts of a case: scripts exchanged, made up, or put behind a hash or a leaf."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, pool)
    flags, script_sig, script_pubkey, witness = read_script_case(rng.choice(pool))
    other = read_script_case(rng.choice(pool))
    script = random_script(rng)
    stack = [edge_bytes(rng) for _ in range(rng.randint(0, 6))]
    kind = rng.randrange(7)
    if kind == 0:
        flags ^= 1 << rng.randrange(23)
    elif kind == 1:
        script_pubkey = mutate_bytes(rng, [script_pubkey, other[2]])
    elif kind == 2:
        script_sig = b"".join(map(templates.push, stack))
        script_pubkey, witness = (script, [])
        if rng.random() < 0.4:
            script_sig += templates.push(script)
            script_pubkey = templates.p2sh(hash160(script))
    elif kind == 3:
        script_sig, script_pubkey, witness = b"", templates.p2wsh(sha256(script)), [*stack, script]
    elif kind == 4:
        script_sig, (script_pubkey, witness) = b"", _tapscript(script, stack)
        if rng.random() < 0.3:
            witness.append(b"\x50" + rng.randbytes(3))
    elif kind == 5 and witness:
        at = rng.randrange(len(witness))
        witness[at] = mutate_bytes(rng, [witness[at] or b"\0"])
    else:
        script_sig, witness = mutate_bytes(rng, [script_sig, other[1]]), other[3]
    return pack_script_case(flags, script_sig, script_pubkey, witness)


def script() -> Target:
    samples = [
        pack_script_case(CONSENSUS_FLAGS, tx.vin[0].script_sig, spent, tx.vin[0].witness)
        for tx, spent in signed_spends()
    ]
    key = xonly_from_secret(SECRETS[2])
    leaf, witness = _tapscript(templates.push(key) + b"\xac", [bytes(64)])
    samples.append(pack_script_case(CONSENSUS_FLAGS | 1 << 22, b"", leaf, witness))
    spends = {spent: tx for tx, spent in signed_spends()}
    default = signed_spends()[0][0]

    def run(data: bytes) -> str:
        flags, script_sig, script_pubkey, witness = read_script_case(data)
        credulous = bool(flags & 1 << 22)
        flags &= CONSENSUS_FLAGS
        if flags & bits.CLEANSTACK or flags & bits.TAPROOT:
            flags |= bits.WITNESS
        if flags & bits.WITNESS:
            flags |= bits.P2SH
        tx = spends.get(script_pubkey, default)
        spent = (TxOut(5 * COIN, script_pubkey), TxOut(COIN, b"\x51"))
        index = int(flags & bits.LOW_S == 0)
        checker = Credulous() if credulous else TransactionChecker(tx, index, 5 * COIN, spent)
        verify_script(script_sig, script_pubkey, witness, flags, checker)
        templates.classify(script_pubkey)
        return "spent"

    return Target("script", samples, run, mutate_script, (ScriptError,), 24_000)


# --- blocks ---------------------------------------------------------------------------------------


class Market:
    """A chain with members, orders and payouts under way; signatures are not checked, so money moves."""

    def __init__(self) -> None:
        scripts = [script_of(number) for number in range(1, 4)]
        base = make_params(
            allocations=tuple(Allocation(each, 1000 * COIN) for each in (*scripts, script_of(200)))
        )
        params = replace(base, energy=replace(base.energy, communities=(Community("town", script_of(200)),)))
        contracts = EnergyContracts(params)
        self.world = World(params=params, contracts=contracts, signatures=ToySignatures())
        self.purse = dict(zip((1, 2, 3, 200), self.world.purses, strict=True))
        tag = devices.chain_tag(params)
        provider = script_of(201)
        self.slot = self.world.tip.time_s // 900 + 6
        proof = devices.prove_device(tag, DEVICE, scripts[0], "town")
        reading = devices.sign_reading(tag, DEVICE, self.slot, 700, 10)
        self.operations = [
            operations.RegisterMember("town", scripts[0], provider),
            operations.RegisterMember("town", scripts[1], provider),
            operations.RegisterDevice(ed25519_public(DEVICE), scripts[0], provider, "town", proof),
            operations.Deposit(),
            operations.PlaceOrder("town", self.slot, "buy", 900, 25_000_000),
            operations.PlaceOrder("town", self.slot, "sell", 400, 9_000_000),
            operations.Withdraw(20_000_000),
            operations.SubmitReadings((reading,)),
            operations.RevokeDevice(ed25519_public(DEVICE)),
            operations.CancelOrder(bytes(32)),
            VoteDelegates((script_of(201), script_of(202))),
            CommitReveals(bytes(32), 100, 1),
            Leave(),
        ]
        register, register_2, device, deposit, buy, sell, withdraw, *_ = self.operations
        self.samples = [self.world.genesis.raw]
        self._extend(self._act(200, register), self._pay(1))
        self._extend(self._act(200, register_2), self._pay(2), self._pay(3, witness=(b"w" * 30,)))
        self._extend(self._act(1, deposit, COIN), self._act(2, deposit, 50 * COIN))
        self._extend(self._act(200, device), self._act(1, buy, COIN), self._act(2, withdraw))
        self._extend(self._act(2, sell, COIN), time_s=self.world.tip.time_s + 900)
        self.tip_block = self._next(self._act(1, withdraw), self._act(2, deposit, COIN), self._pay(3))
        self._next(time_s=(self.slot + 1) * 900)
        self._next(self._pay(3, witness=(b"w",)), time_s=self.slot * 900 + 90_000)

    def _next(self, *txs: Transaction, **given: Any) -> Block:
        """A block that could follow, but does not: the purses are as before."""
        made = self.world.block(txs, **given)
        self.purse = dict(self.held)
        self.samples.append(made.raw)
        return made

    def _act(self, who: int, operation: operations.Operation, value: int = 0) -> Transaction:
        payload = operations.payload_script(operations.encode(operation))
        unsigned = self.world.pay(self.purse[who], [(value, payload)], fee=2_000)
        vin = [unsigned.vin[0]._replace(script_sig=SIGNED)]
        tx = Transaction.build(unsigned.version, vin, unsigned.vout)
        self.purse[who] = self.world.output(tx, 1)
        return tx

    def _pay(self, who: int, **given: Any) -> Transaction:
        tx = self.world.pay(self.purse[who], [(COIN, script_of(who + 20))], **given)
        self.purse[who] = self.world.output(tx, 1)
        return tx

    def _extend(self, *txs: Transaction, **given: Any) -> None:
        self.world.extend(txs, **given)
        self.held = dict(self.purse)


@cache
def market() -> Market:
    return Market()


def block() -> Target:
    def run(data: bytes) -> str:
        found = Block.parse(data)
        ensure(found.raw == data, "raw is the input")
        ensure(Block.build(found.header, found.txs).raw == data, "build gives it again")
        ensure(found.weight >= found.stripped_size * 3 and len(found.hash) == 32, "hash and weight")
        check_block(found, market().world.params)
        return "valid"

    return Target("block", market().samples, run, max_bytes=65_536)


def header() -> Target:
    def run(data: bytes) -> str:
        found = BlockHeader.parse(data)
        again = BlockHeader.build(
            version=found.version,
            prev_hash=found.prev_hash,
            merkle_root=found.merkle_root,
            time_s=found.time_s,
            bits=found.bits,
            nonce=found.nonce,
        )
        ensure(again.raw == data and len(found.hash) == 32, "build gives it again")
        return "parsed"

    return Target("header", [each[:80] for each in market().samples], run)


def _mutate_payload(rng: Random, tx: Transaction) -> Transaction:
    """Change the operation that a transaction carries, if it carries one."""
    outputs = list(tx.vout)
    for at, output in enumerate(outputs):
        if output.script_pubkey[:1] == b"\x6a":
            data = bytes(output.script_pubkey[output.script_pubkey.find(b"WT") :])
            others = [operations.encode(each) for each in market().operations]
            script = operations.payload_script(mutate_msgpack(3, 0.05)(rng, [data, *others])[:60_000])
            outputs[at] = TxOut(output.value if rng.random() < 0.7 else 0, script)
    return Transaction.build(tx.version, tx.vin, outputs, tx.lock_time)


def _mutate_tx(rng: Random, tx: Transaction) -> Transaction:
    for _ in range(6):
        try:
            if rng.random() < 0.4:
                return _mutate_payload(rng, tx)
            return Transaction.parse(mutate_bytes(rng, [tx.raw]))
        except PeerFault:
            continue
    return tx


def mutate_block(rng: Random, pool: Sequence[bytes]) -> bytes:
    """Change a block and, mostly, make the Merkle root fit, so that later rules have to find it."""
    if rng.random() < 0.1:
        return mutate_bytes(rng, pool)
    try:
        found = Block.parse(rng.choice(pool))
    except PeerFault:
        return mutate_bytes(rng, pool)
    txs = list(found.txs)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(txs)) if txs else 0
        if at == 0 and len(txs) > 1 and rng.random() < 0.8:
            at = rng.randrange(1, len(txs))  # the coinbase is refused before anything is executed
        kind = rng.randrange(12)
        if kind == 0 and txs:
            txs.insert(rng.randint(0, len(txs)), txs[at])
        elif kind == 1 and len(txs) > 1:
            del txs[at]
        elif kind == 2 and len(txs) > 1:
            txs[at], txs[-1] = txs[-1], txs[at]
        elif txs:
            txs[at] = _mutate_tx(rng, txs[at])
    header_raw = found.header.raw
    if rng.random() < 0.3:
        header_raw = (mutate_bytes(rng, [header_raw]) + bytes(80))[:80]
    if txs and rng.random() < 0.95:
        header_raw = header_raw[:36] + txid_root(txs)[0] + header_raw[68:]
    return Block.build(BlockHeader(header_raw), txs).raw


def connect() -> Target:
    """check_block and connect_block: a refusal has a code, and what is accepted conserves money."""
    world = market().world
    issued = world.tip.issued
    sums = world.contracts.accounting(world.state)

    def run(data: bytes) -> str:
        found = Block.parse(data)
        check_block(found, world.params)
        connected = connect_block(found, world.tip, world.coins, world.state, world.env)
        coins = _difference(world.coins, connected.coins)
        state = DictView({**world.state.data})
        for key, value in connected.state.items():
            state.data.pop(key, None) if value is None else state.data.update({key: value})
        after = world.contracts.accounting(state)
        contract = sum(after.values()) - sum(sums.values())
        ensure(connected.tip.issued == issued, "no money was issued")
        ensure(coins + contract == 0, f"money is conserved: {coins} in coins, {contract} in contracts")
        undo = decode_undo(encode_undo(connected))
        ensure(undo == (connected.coins_undo, connected.state_undo), "undo comes back")
        before = {key: world.state.get(key) for key in connected.state}
        ensure(connected.state_undo == before, "undo holds what was")
        ensure(ChainTip.decode(connected.tip.encode()) == connected.tip, "the tip comes back")
        return f"connected {len(found.txs)} {len(connected.state)}"

    samples = [each for each in market().samples if each != world.genesis.raw]
    return Target("connect", samples, run, mutate_block, (PeerFault,), 65_536)


def _admissible(tx: Transaction) -> bool:
    """What admission checks of a transaction alone, before any leader sees it."""
    try:
        check_transaction(tx, MAX_MONEY)
        market().world.contracts.check_payload(tx)
    except RuleError:
        return False
    return not tx.is_coinbase


def assembly() -> Target:
    """Transactions, one behind the other: what a leader makes of them a follower must accept."""
    world = market().world

    def run(data: bytes) -> str:
        found = []
        at = 0
        while at < len(data) and len(found) < 30:
            tx, at = Transaction.parse_at(data, at)
            if _admissible(tx):
                found.append(tx)
        made = world.assemble(found, time_s=world.tip.time_s + len(data))
        ensure(not made.crashed, f"the assembler found a bug: {made.crashed}")
        check_block(made.block, world.params)
        connected = connect_block(made.block, world.tip, world.coins, world.state, world.env)
        ensure(connected == made.connected, "leader and follower get the same")
        last = made.refused[-1][1].code if made.refused else "nothing"
        return f"{len(made.block.txs) - 1} taken, {last} refused last"

    samples = [b"".join(tx.raw for tx in Block.parse(each).txs[1:]) for each in market().samples[1:]]

    def mutate(rng: Random, pool: Sequence[bytes]) -> bytes:
        txs = []
        for chosen in rng.choices(pool, k=rng.randint(1, 2)):
            at = 0
            while at < len(chosen):
                tx, at = Transaction.parse_at(chosen, at)
                txs.append(tx)
        for _ in range(rng.randint(1, 3)):
            if txs:
                at = rng.randrange(len(txs))
                txs[at] = _mutate_tx(rng, txs[at])
        return b"".join(tx.raw for tx in txs)

    return Target("assembly", samples, run, mutate, (DecodeError,), 65_536)


def _difference(before: DictView, diff: dict[bytes, bytes | None]) -> int:
    def amount(coin: bytes | None) -> int:
        return 0 if coin is None else int.from_bytes(coin[4:12], "little")

    return sum(amount(value) - amount(before.get(key)) for key, value in diff.items())


# --- what blocks and transactions carry -------------------------------------------------------------


def commitment() -> Target:
    """A commitment output, as the last output of a coinbase."""
    scripts = [
        market().tip_block.txs[0].vout[-1].script_pubkey,
        market().world.genesis.txs[0].vout[-1].script_pubkey,
    ]

    def run(data: bytes) -> str:
        coinbase = Transaction.build(2, [TxIn(NULL_PREVOUT, b"\x01\x05")], [TxOut(0, data)])
        found = find_commitment(coinbase)
        ensure(found.encode_script() == data, "encoding gives it again")
        return "parsed"

    def mutate(rng: Random, pool: Sequence[bytes]) -> bytes:
        chosen = rng.choice(pool)
        if rng.random() < 0.3 or b"WC" not in chosen:
            return mutate_bytes(rng, pool)
        body = mutate_msgpack(2, 0.1)(rng, [chosen[chosen.find(b"WC") :]])
        return templates.data_carrier(body[:500])

    return Target("commitment", scripts, run, mutate)


def payload() -> Target:
    """One byte that chooses who acts and what it brings, then a payload: decoded, encoded again, executed."""
    here = market()
    contracts = here.world.contracts
    takes_money = (operations.Deposit, operations.PlaceOrder)
    samples = [
        bytes([actor + 50 * isinstance(each, takes_money)]) + operations.encode(each)
        for actor in range(5)
        for each in here.operations
    ]
    context = BlockContext(here.world.genesis.hash, here.world.tip.height + 1, here.world.tip.time_s + 5)
    sums = contracts.accounting(here.world.state)

    def run(data: bytes) -> str:
        if len(data) < 1 or len(data) > 65_000:
            raise RuleError("bad-size")
        actor = script_of((1, 2, 3, 200, 201)[data[0] % 5])
        output = TxOut(data[0] // 5 * 1_000_000, operations.payload_script(data[1:]))
        vin = [TxIn(outpoint(sha256(data), 0), SIGNED)]
        tx = Transaction.build(2, vin, [output, TxOut(500, actor)])
        contracts.check_payload(tx)
        contracts.signatures(tx)
        if data[1:3] != operations.MARK:
            return "no payload"
        array = canonical.decode(data[4:])
        ensure(operations.encode(operations.from_array(array)) == data[1:], "encoding gives it again")
        session = contracts.open(here.world.state, context)
        session.due_payouts()
        session.run_timers()
        session.execute(tx, [(2).to_bytes(4, "little") + (10**9).to_bytes(8, "little") + actor])
        state = DictView(dict(here.world.state.data))
        for key, value in session.finish().items():
            if key.startswith(b"round/"):
                ensure(key == rounds.REVEAL + actor, f"{array[0]} writes {key!r}")
            state.data.pop(key, None) if value is None else state.data.update({key: value})
        paid = sum(each.value for each in session.due_payouts())
        gained = sum(contracts.accounting(state).values()) - sum(sums.values()) + paid
        ensure(gained == output.value, f"money is conserved: {output.value} brought, {gained} arrived")
        return f"executed {array[0]}"

    return Target("payload", samples, run, mutate_msgpack(4))


def msgpack() -> Target:
    values: list[Any] = [None, True, 0, -1, -33, 128, 2**32, 2**64 - 1, -(2**63), b"x" * 300, "é" * 20]
    values += [
        [1, [2, [3, [4, [5, [6]]]]]],
        {"a": 1, "b": [b"", ""]},
        {b"k": None, b"l": {1: 2}},
        list(range(40)),
    ]

    def run(data: bytes) -> str:
        value = canonical.decode(data)
        ensure(canonical.encode(value) == data, "encoding gives it again")
        return type(value).__name__

    return Target("msgpack", [canonical.encode(each) for each in values], run, mutate_msgpack(0, 0.5))


def undo() -> Target:
    world = market().world
    connected = world.connect(market().tip_block)

    def run(data: bytes) -> str:
        for values in decode_undo(data):
            for key, value in values.items():
                ensure(type(key) is bytes and type(value) in (bytes, type(None)), "bytes or nothing")
        try:
            parent = decode_parent(data)
        except DecodeError as error:
            return error.code
        ensure(ChainTip.decode(parent.encode()) == parent, "the tip comes back")
        return "reversible"

    samples = [encode_undo(connected), encode_undo(connected, world.tip)]
    return Target("undo", samples, run, mutate_msgpack())


def tip() -> Target:
    def run(data: bytes) -> str:
        ensure(ChainTip.decode(data).encode() == data, "encoding gives it again")
        return "parsed"

    return Target("tip", [market().world.tip.encode()], run, mutate_msgpack())


TARGETS = (transaction, script, block, header, connect, assembly, commitment, payload, msgpack, undo, tip)
