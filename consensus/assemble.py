"""Building a block: candidates in the order given, executed once, with the result of connecting it.

What ``assemble`` returns passes ``check_block`` and ``connect_block`` on the same parent, provided
that every candidate passed ``check_transaction`` and ``Contracts.check_payload``, which are stateless
and were done when the mempool took it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from consensus.block import Block, BlockHeader
from consensus.block_rules import WITNESS_NONCE_BYTES, witness_commitment_script
from consensus.chain import ChainTip
from consensus.coin_rules import (
    CoinChanges,
    SpendContext,
    check_spend,
    signature_cost,
    signature_cost_limit,
)
from consensus.commitment import Commitment, effects_digest, pow_commitment
from consensus.connect import (
    Connected,
    Items,
    RuleEnv,
    coinbase_outputs,
    connect_result,
    contract_time,
    due_state_root,
    may_carry_payload,
    merge_writes,
    spend_context,
    subsidy_of,
    undo_view,
)
from consensus.errors import RuleError
from consensus.history import root
from consensus.ledger_limits import BLOCK_VERSION, CANDIDATES_PER_PREFETCH, MAX_POSTPONED_IN_ROW
from consensus.limits import WITNESS_SCALE
from consensus.merkle import txid_root, witness_root
from consensus.offences import evidence_script
from consensus.overlay import ReadOnce
from consensus.params import Validator
from consensus.ports import OVER_BUDGET, BlockContext, CoinView, ContractSession, StateView
from consensus.pow.rules import expected_bits, median
from consensus.round_rules import Claim, Verdict, Writes, judge, with_writes
from consensus.script.sigops import output_cost
from consensus.script.templates import push_data, push_number
from consensus.transaction import NULL_PREVOUT, Transaction, TxIn, TxOut

MAX_EXTRA_NONCE = 32
"""Longest extra nonce, bytes: the height beside it leaves the coinbase's scriptSig under its 100 bytes."""

_OP_0 = b"\x00"
_HEAD_WEIGHT = WITNESS_SCALE * (80 + 5)
"""Header and the largest transaction count that 32 bits need."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """A new block with what it changes.

    ``refused`` lists (txid, error) of the candidates that the rules refuse on this parent, whatever
    room there is; those that merely did not fit are not in it. ``crashed`` lists (txid, exception)
    of candidates whose contract failed in a way that no rule foresees: bugs, to be logged; they are
    in ``refused`` too, with code "contract-crash".
    """

    block: Block
    connected: Connected
    refused: list[tuple[bytes, RuleError]]
    crashed: list[tuple[bytes, Exception]]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The givens of a block under way."""

    parent: ChainTip
    coins: CoinView
    state: StateView
    env: RuleEnv
    time_s: int
    term: int
    proposer: int
    last_bitmap: bytes
    max_weight: int
    verdict: Verdict | None = None
    """What the rules of rounds say of this block; None on a pow chain."""
    begun: Writes = field(default_factory=dict)
    """What a restart at the parent writes first."""
    reveal: bytes | None = None
    evidence: tuple[bytes, ...] = ()
    miner: tuple[bytes, bytes] | None = None
    """On a pow chain: the miner's script and extra nonce; term, proposer and bitmap are nobody's then."""

    @property
    def height(self) -> int:
        return self.parent.height + 1

    @property
    def fee_script(self) -> bytes:
        if self.miner is not None:
            return self.miner[0]
        return self.signers[self.proposer].payout_script

    @property
    def signers(self) -> tuple[Validator, ...]:
        return () if self.verdict is None else self.verdict.round.members

    @property
    def evidence_outputs(self) -> tuple[TxOut, ...]:
        return (TxOut(0, evidence_script(self.evidence)),) if self.evidence else ()

    @property
    def subsidy(self) -> int:
        return subsidy_of(self.height, self.parent, self.env.params)

    @property
    def bits(self) -> int:
        if self.miner is not None:
            return expected_bits(self.env.params, self.parent.height, self.parent.time_s)
        return self.env.params.bft.bits

    @property
    def script_sig(self) -> bytes:
        extra = _OP_0 if self.miner is None else push_data(self.miner[1])
        return push_number(self.height) + extra  # a scriptSig has at least two bytes

    @property
    def spare_weight(self) -> int:
        """Return what the coinbase may still grow by: a miner may use longer extra nonces than this."""
        if self.miner is None:
            return 0
        return WITNESS_SCALE * (len(push_data(bytes(MAX_EXTRA_NONCE))) - len(push_data(self.miner[1])))

    @property
    def state_root(self) -> bytes | None:
        return due_state_root(self.height, self.env)

    def commitment(self, digest: bytes) -> Commitment:
        history = root(self.parent.history)
        if self.verdict is None:
            return pow_commitment(digest, history, self.state_root)
        return Commitment(
            effects_digest=digest,
            history_root=history,
            state_root=self.state_root,
            set_hash=self.verdict.round.validator_set.set_hash,
            next_set_hash=self.verdict.next_set_hash,
            proposer=self.proposer,
            last_bitmap=self.last_bitmap,
            reveal=self.reveal,
            evidence_root=self.verdict.evidence_root,
        )


@dataclass(slots=True)
class _Attempt:
    """One pass over the candidates."""

    changes: CoinChanges
    session: ContractSession
    payouts: tuple[TxOut, ...]
    cost_left: int
    items: Items = field(default_factory=list)
    fees: int = 0
    refused: list[tuple[bytes, RuleError]] = field(default_factory=list)


class _ContractCrash(Exception):
    """A contract raised something that is no RuleError; the session's state is in doubt."""

    def __init__(self, txid: bytes, cause: Exception) -> None:
        super().__init__(txid.hex())
        self.txid = txid
        self.cause = cause


class _Candidates:
    """The candidates as often as they are wanted, taken from their source once and in chunks."""

    def __init__(self, source: Iterable[Transaction], coins: CoinView) -> None:
        self._source = iter(source)
        self._taken: list[Transaction] = []
        self._prefetch: Callable[[list[bytes]], object] | None = getattr(coins, "prefetch", None)

    def __iter__(self) -> Iterator[Transaction]:
        at = 0
        while at < len(self._taken) or self._take():
            yield self._taken[at]
            at += 1

    def _take(self) -> bool:
        chunk = list(islice(self._source, CANDIDATES_PER_PREFETCH))
        if self._prefetch is not None and chunk:
            self._prefetch([prevout for tx in chunk for prevout in tx.prevouts])
        self._taken += chunk
        return bool(chunk)


def assemble(
    parent: ChainTip,
    candidates: Iterable[Transaction],
    coins: CoinView,
    state: StateView,
    env: RuleEnv,
    *,
    time_s: int,
    term: int,
    proposer: int,
    last_bitmap: bytes,
    reveal: bytes | None = None,
    evidence: Sequence[bytes] = (),
    max_weight: int | None = None,
) -> Assembled:
    """Build the child of ``parent`` from ``candidates``, parents before children.

    ``last_bitmap`` and ``reveal`` are as in ``Commitment``, ``evidence`` as in the coinbase. A candidate
    that does not fit (weight, operations, signature operations) is passed over, with what spends it.
    Signatures are asked for once for the whole block; only if that fails, one by one. Raises ValueError
    for a time or term before the parent's, RuleError as ``round_rules.judge`` for what does not fit the
    round.
    """
    if time_s < parent.time_s or term < max(1, parent.term):
        raise ValueError(f"no block of time {time_s} and term {term} fits here")
    carried = tuple(evidence)
    claim = Claim(
        parent.height + 1,
        parent.block_hash,
        time_s,
        parent.time_s,
        term,
        proposer,
        last_bitmap,
        reveal,
        carried,
    )
    state = ReadOnce(state)
    begun = env.rounds.begun(parent, state)
    limit = env.params.ledger.max_block_weight
    plan = _Plan(
        parent,
        coins,
        state,
        env,
        time_s,
        term,
        proposer,
        last_bitmap,
        limit if max_weight is None else min(max_weight, limit),
        judge(claim, with_writes(state, begun), env.rounds),
        begun,
        reveal,
        carried,
    )
    return _build(plan, candidates)


def assemble_template(
    parent: ChainTip,
    candidates: Iterable[Transaction],
    coins: CoinView,
    state: StateView,
    env: RuleEnv,
    *,
    time_s: int,
    payout_script: bytes,
    extra_nonce: bytes = b"",
    max_weight: int | None = None,
) -> Assembled:
    """Build a child of ``parent`` on a pow chain as ``assemble`` does; it lacks the proof of work.

    Reward and fees go to ``payout_script``; ``extra_nonce`` of at most 32 bytes stands behind the height
    in the coinbase. ``connected`` is what it would change, but for the block hash in its tip. Raises
    ValueError for a time that is not after the median time past, and for a longer extra nonce.
    """
    if time_s <= median(parent.times) or len(extra_nonce) > MAX_EXTRA_NONCE:
        raise ValueError(f"no block of time {time_s} with extra nonce {extra_nonce.hex()} fits here")
    limit = env.params.ledger.max_block_weight
    weight = limit if max_weight is None else min(max_weight, limit)
    miner = (payout_script, extra_nonce)
    plan = _Plan(parent, coins, ReadOnce(state), env, time_s, 0, 0, b"", weight, miner=miner)
    return _build(plan, candidates)


def _build(plan: _Plan, candidates: Iterable[Transaction]) -> Assembled:
    env = plan.env
    source = _Candidates(candidates, plan.coins)
    barred: dict[bytes, RuleError] = {}
    crashed: list[tuple[bytes, Exception]] = []
    while True:
        try:
            attempt = _fill(plan, source, barred)
        except _ContractCrash as crash:
            crashed.append((crash.txid, crash.cause))
            barred[crash.txid] = RuleError("contract-crash", repr(crash.cause))
            continue
        forged = _forged(attempt.items, env)
        if not forged:
            block, connected = _seal(plan, attempt)
            return Assembled(block, connected, attempt.refused, crashed)
        barred |= forged


def _fill(plan: _Plan, source: Iterable[Transaction], barred: dict[bytes, RuleError]) -> _Attempt:
    attempt = _open(plan)
    context = spend_context(plan.time_s, plan.parent, plan.env)
    room = (
        plan.max_weight
        - _HEAD_WEIGHT
        - _coinbase(plan, attempt, 1 + plan.subsidy, bytes(32), bytes(32)).weight
        - plan.spare_weight
    )
    postponed: set[bytes] = set()
    in_row = 0
    for tx in source:
        txid = tx.txid
        if txid in barred:
            attempt.refused.append((txid, barred[txid]))
            continue
        weight = tx.weight
        if weight <= room:
            try:
                _include(tx, attempt, context)
            except RuleError as error:
                if error.code != OVER_BUDGET and not _spends(tx, postponed):
                    attempt.refused.append((txid, error))
                    continue
            else:
                room -= weight
                in_row = 0
                continue
        postponed.add(txid)
        in_row += 1
        if in_row >= MAX_POSTPONED_IN_ROW:
            break
    return attempt


def _open(plan: _Plan) -> _Attempt:
    time_s = contract_time(plan.time_s, plan.parent, plan.env.params)
    context = BlockContext(plan.env.chain_id, plan.height, time_s)
    session = plan.env.contracts.open(with_writes(plan.state, plan.begun), context)
    payouts = tuple(session.due_payouts())
    session.run_timers()
    changes = CoinChanges(plan.coins, plan.height)
    # The fee output is reckoned with even where there are no fees yet.
    reserved = sum(output_cost(output.script_pubkey) for output in payouts) + output_cost(plan.fee_script)
    return _Attempt(changes, session, payouts, signature_cost_limit(plan.env.params.ledger) - reserved)


def _include(tx: Transaction, attempt: _Attempt, context: SpendContext) -> None:
    """Add ``tx`` to the attempt, or raise RuleError and change nothing."""
    changes = attempt.changes
    if WITNESS_SCALE * tx.output_count + tx.input_count <= attempt.cost_left:  # no plain payment costs more
        taken, fee, cost = changes.move_payments([tx], 0, attempt.items, {}, context.ledger)
        if taken:
            attempt.fees += fee
            attempt.cost_left -= cost
            return
    spent = attempt.changes.find(tx)
    fee = check_spend(tx, spent, context)
    cost = signature_cost(tx, spent)
    if cost > attempt.cost_left:
        raise RuleError(OVER_BUDGET, "no signature operations left in this block", permanent=False)
    if may_carry_payload(tx):
        try:
            attempt.session.execute(tx, spent)
        except RuleError:
            raise
        except Exception as error:
            raise _ContractCrash(tx.txid, error) from error
    attempt.changes.apply(tx, spent)
    attempt.items.append((tx, spent))
    attempt.fees += fee
    attempt.cost_left -= cost


def _spends(tx: Transaction, txids: set[bytes]) -> bool:
    return bool(txids) and any(prevout[:32] in txids for prevout in tx.prevouts)


def _forged(items: Items, env: RuleEnv) -> dict[bytes, RuleError]:
    """Return the transactions whose signatures do not hold; a full mempool's worth has none."""
    try:
        env.signatures.check(items)
    except RuleError as error:
        forged = {}
        for item in items:
            try:
                env.signatures.check([item])
            except RuleError as fault:
                forged[item[0].txid] = fault
        if not forged:
            raise error from None  # it fails as a whole and passes in parts: a bug of the checker
        return forged
    return {}


def _coinbase(
    plan: _Plan, attempt: _Attempt, reward: int, digest: bytes, witness_merkle_root: bytes | None
) -> Transaction:
    outputs = coinbase_outputs(attempt.payouts, reward, plan.fee_script) + plan.evidence_outputs
    witness: tuple[bytes, ...] = ()
    if witness_merkle_root is not None:
        nonce = bytes(WITNESS_NONCE_BYTES)
        witness = (nonce,)
        outputs += (TxOut(0, witness_commitment_script(witness_merkle_root, nonce)),)
    outputs += (TxOut(0, plan.commitment(digest).encode_script()),)
    return Transaction.build(1, (TxIn(NULL_PREVOUT, plan.script_sig, 0xFFFFFFFF, witness),), outputs, 0)


def _seal(plan: _Plan, attempt: _Attempt) -> tuple[Block, Connected]:
    writes = attempt.session.finish()
    if plan.verdict is not None:
        writes = merge_writes(plan.begun, plan.verdict, writes)
    digest = effects_digest(plan.parent.effects_digest, writes)
    included = [tx for tx, _ in attempt.items]
    reward = attempt.fees + plan.subsidy
    witness_merkle_root = None
    if any(tx.has_witness for tx in included):
        placeholder = _coinbase(plan, attempt, reward, digest, None)
        witness_merkle_root = witness_root([placeholder, *included])
    coinbase = _coinbase(plan, attempt, reward, digest, witness_merkle_root)
    txs = (coinbase, *included)
    header = BlockHeader.build(
        version=BLOCK_VERSION,
        prev_hash=plan.parent.block_hash,
        merkle_root=txid_root(txs)[0],
        time_s=plan.time_s,
        bits=plan.bits,
        nonce=plan.term,
    )
    attempt.changes.create(coinbase.txid, coinbase.vout, coinbase=True)
    before = undo_view(plan.state, plan.env.params)
    connected = connect_result(
        header, txs, plan.parent, attempt.changes, writes, before, attempt.fees, plan.subsidy, digest
    )
    return Block.build(header, txs), connected
