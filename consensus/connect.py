"""Contextual rules: a block connected to its parent, giving the diffs of coins and contract state.

The steps are those of DESIGN.md, section 4: timers, transactions in order, payouts. Nothing is
written; whoever commits the block writes the diffs of ``Connected``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from cext import outside_prevouts
from consensus.block import Block, BlockHeader
from consensus.block_rules import is_witness_commitment
from consensus.chain import ChainTip, Connected
from consensus.coin_rules import (
    CoinChanges,
    SpendContext,
    check_spend,
    signature_cost,
    signature_cost_limit,
)
from consensus.coins import is_unspendable
from consensus.commitment import Commitment, effects_digest, find_commitment, pow_commitment
from consensus.errors import RuleError
from consensus.history import append, root
from consensus.ledger_limits import MEDIAN_TIME_SPAN
from consensus.offences import carried_evidence, is_evidence
from consensus.overlay import ReadOnce, read_many
from consensus.params import ChainParams
from consensus.ports import (
    BlockContext,
    BlockTimes,
    CoinView,
    Contracts,
    ContractSession,
    SignatureChecker,
    StateRoots,
    StateView,
)
from consensus.pow import rules as pow_rules
from consensus.restart import Restart
from consensus.round_rules import Claim, RoundEnv, Verdict, Writes, bitmap_size, judge, with_writes
from consensus.rounds import current
from consensus.script.sigops import transaction_cost
from consensus.script.templates import push_number
from consensus.state_root import covered_height
from consensus.transaction import Transaction, TxOut, hash_hex
from consensus.tx_rules import is_final
from consensus.undo import decode_undo, encode_undo

__all__ = [
    "Connected",
    "RuleEnv",
    "bitmap_size",
    "check_clock",
    "check_header",
    "coinbase_outputs",
    "connect_block",
    "connect_result",
    "contract_time",
    "decode_undo",
    "due_state_root",
    "encode_undo",
    "may_carry_payload",
    "merge_writes",
    "name_culprit",
    "spend_context",
]

Items: TypeAlias = list[tuple[Transaction, Sequence[bytes]]]
"""Transactions, each with the coin values that its inputs spend."""


@dataclass(frozen=True, slots=True)
class RuleEnv:
    """Everything that the rules of one chain need beside the block and its parent.

    ``times`` gives header times by height for relative locks in seconds (BIP68). It is asked only for
    blocks at least MEDIAN_TIME_SPAN below the one in question, which are committed; newer times come
    from the parent's tip. Without it transactions that need it wait. ``state_roots`` is needed where the
    chain file has a snapshot interval, and asked only for blocks that are committed. ``restarts``: what
    operators decided when they went on without a quorum, by the hash of the block before.
    """

    params: ChainParams
    chain_id: bytes
    contracts: Contracts
    signatures: SignatureChecker
    times: BlockTimes | None = None
    state_roots: StateRoots | None = None
    restarts: Mapping[bytes, Restart] = field(default_factory=dict)

    @property
    def rounds(self) -> RoundEnv:
        """Return what the rules of rounds need."""
        return RoundEnv(self.params, self.chain_id, self.contracts, self.restarts)


def connect_block(
    block: Block,
    parent: ChainTip,
    coins: CoinView,
    state: StateView,
    env: RuleEnv,
    *,
    needs_proof: bool = True,
) -> Connected:
    """Execute ``block`` on ``parent``, whose coins and contract state are given.

    ``check_block`` must have accepted the block. Raises RuleError with the code of the first rule
    that it breaks; any other exception is a bug of the rules and passes through. Without
    ``needs_proof`` a block of a pow chain may lack its proof of work: a miner's proposal.
    """
    header = block.header
    height = parent.height + 1
    coinbase = block.txs[0]
    check_header(header, parent, env.params, needs_proof=needs_proof)
    commitment = find_commitment(coinbase)
    state = ReadOnce(state)
    begun = env.rounds.begun(parent, state)
    view = with_writes(state, begun)
    verdict = _check_commitment(commitment, block, parent, view, env)
    time_s = contract_time(header.time_s, parent, env.params)
    if not coinbase.vin[0].script_sig.startswith(push_number(height)):
        raise RuleError("bad-cb-height", f"the coinbase does not start with height {height}")
    if not is_final(coinbase, height, time_s):
        raise RuleError("bad-txns-nonfinal", "the coinbase is locked")

    changes = CoinChanges(coins, height)
    context = spend_context(header.time_s, parent, env)
    items, carriers, fees = _spend(block.txs, changes, coins, context, env.contracts)
    env.signatures.check(items)

    session = env.contracts.open(view, BlockContext(env.chain_id, height, time_s))
    payouts = session.due_payouts()
    session.run_timers()
    _execute(carriers, session)
    writes = session.finish()
    fee_script = None
    if verdict is not None:
        writes = merge_writes(begun, verdict, writes)
        fee_script = verdict.round.members[commitment.proposer or 0].payout_script

    subsidy = subsidy_of(height, parent, env.params)
    _check_coinbase_outputs(coinbase, payouts, fees + subsidy, fee_script)
    changes.create(coinbase.txid, coinbase.vout, coinbase=True)
    connected = connect_result(
        header, block.txs, parent, changes, writes, undo_view(state, env.params), fees, subsidy
    )
    if connected.tip.effects_digest != commitment.effects_digest:
        raise RuleError(
            "bad-effects-digest",
            f"committed {commitment.effects_digest.hex()}, executed {connected.tip.effects_digest.hex()}",
        )
    return connected


def check_header(
    header: BlockHeader, parent: ChainTip, params: ChainParams, *, needs_proof: bool = True
) -> None:
    """Check a header against its parent and the chain.

    Raises RuleError "bad-prevblk", "time-too-old", "bad-diffbits", and "bad-term" on a bft chain or,
    if it ``needs_proof``, "high-hash" on a pow chain.
    """
    if params.pow is not None:
        check = pow_rules.check_header if needs_proof else pow_rules.check_template_header
        check(header, parent, params)
        return
    if header.prev_hash != parent.block_hash:
        raise RuleError("bad-prevblk", f"its parent is {hash_hex(header.prev_hash)}", permanent=False)
    if header.time_s < parent.time_s:
        raise RuleError("time-too-old", f"time {header.time_s} is before the parent's {parent.time_s}")
    if header.bits != params.bft.bits:
        raise RuleError("bad-diffbits", f"bits {header.bits:#010x}, the chain has {params.bft.bits:#010x}")
    if header.nonce < max(1, parent.term):
        raise RuleError("bad-term", f"term {header.nonce} after a block of term {parent.term}")


def check_clock(header: BlockHeader, now_s: int, params: ChainParams) -> None:
    """Check the time of a new block when its proposal arrives (CONSENSUS.md, section 2.9).

    On a pow chain only the future limit counts. Raises RuleError "time-too-new" or "time-too-far-back";
    both may pass later or elsewhere.
    """
    if params.pow is not None:
        pow_rules.check_clock(header, now_s, params)
        return
    drift_s = header.time_s - now_s
    if drift_s > params.bft.max_drift_s:
        raise RuleError("time-too-new", f"{drift_s} s ahead of this node's clock", permanent=False)
    if -drift_s > params.bft.max_drift_s:
        raise RuleError("time-too-far-back", f"{-drift_s} s behind this node's clock", permanent=False)


def contract_time(time_s: int, parent: ChainTip, params: ChainParams) -> int:
    """Return the time that contracts and lock times see in a block of header time ``time_s``.

    On a pow chain, whose header times may run backwards, it is the parent's median time past (BIP113).
    """
    return time_s if params.pow is None else pow_rules.median(parent.times)


def spend_context(time_s: int, parent: ChainTip, env: RuleEnv) -> SpendContext:
    """Return what the transactions of a block of header time ``time_s`` are judged against."""
    height, ledger = parent.height + 1, env.params.ledger
    if env.params.pow is None:
        return SpendContext(height, time_s, ledger, env.times, parent.times)
    times = pow_rules.MedianTimes(parent.height, parent.times, env.times)
    return SpendContext(height, contract_time(time_s, parent, env.params), ledger, times)


def subsidy_of(height: int, parent: ChainTip, params: ChainParams) -> int:
    """Return what the coinbase at ``height`` issues: nothing on a bft chain."""
    return 0 if params.pow is None else pow_rules.subsidy_at(params, height, parent.issued)


def may_carry_payload(tx: Transaction) -> bool:
    """Tell quickly that a transaction has no contract payload: one must contain its mark ``WT``."""
    return b"WT" in tx.raw


def coinbase_outputs(payouts: Sequence[TxOut], fees: int, fee_script: bytes) -> tuple[TxOut, ...]:
    """Return the outputs that pay, in order: the payouts as queued, then the fees if there are any.

    After them a coinbase has evidence if there is any (``consensus.offences``), a witness commitment
    (BIP141) if it needs one, and the WC output.
    """
    if fees == 0:
        return tuple(payouts)
    return (*payouts, TxOut(fees, fee_script))


def connect_result(
    header: BlockHeader,
    txs: Sequence[Transaction],
    parent: ChainTip,
    changes: CoinChanges,
    writes: dict[bytes, bytes | None],
    before: StateView | None,
    fees: int,
    subsidy: int = 0,
    digest: bytes | None = None,
) -> Connected:
    """Put together what connecting a block changes; ``before`` as ``undo_view`` gives it.

    ``digest`` is the effects digest, where it has been computed from these ``writes`` already.
    """
    tip = ChainTip(
        height=changes.height,
        block_hash=header.hash,
        time_s=header.time_s,
        effects_digest=digest or effects_digest(parent.effects_digest, writes),
        history=append(parent.history, changes.height, header.hash),
        issued=parent.issued + subsidy,
        term=header.nonce,
        times=(*parent.times, header.time_s)[-MEDIAN_TIME_SPAN:],
    )
    return Connected(
        tip=tip,
        txids=tuple([tx.txid for tx in txs]),
        coins=changes.coins,
        coins_undo=changes.undo,
        state=writes,
        state_undo={} if before is None else dict(zip(writes, read_many(before, list(writes)), strict=True)),
        fees=fees,
    )


def undo_view(state: StateView, params: ChainParams) -> StateView | None:
    """Return the contract state before a block if its undo data name it, else None.

    Looking up what nobody will ask for is a tenth of executing readings.
    """
    return state if params.keeps_state_undo else None


def _check_commitment(
    commitment: Commitment, block: Block, parent: ChainTip, state: StateView, env: RuleEnv
) -> Verdict | None:
    """Check all but the effects digest; return what follows for the rounds, None where nobody votes."""
    if commitment.history_root != root(parent.history):
        raise RuleError("bad-history-root", "not the root over the headers before")
    _check_state_root(commitment, parent.height + 1, env)
    if env.params.pow is None:
        return _check_votes(commitment, block, parent, state, env)
    if commitment != pow_commitment(
        commitment.effects_digest, commitment.history_root, commitment.state_root
    ):
        raise RuleError("bad-set-hash", "nobody votes on a pow chain: everything from set_hash on is nil")
    return None


def due_state_root(height: int, env: RuleEnv) -> bytes | None:
    """Return the state root that the block at ``height`` commits to; None if it commits to none.

    None also where ``env.state_roots`` leaves it to the quorum that certified the block.
    """
    covered = covered_height(height, env.params)
    if covered is None:
        return None
    if env.state_roots is None:
        raise ValueError("a chain with a snapshot interval needs RuleEnv.state_roots")
    return env.state_roots.root_at(covered)


def _check_state_root(commitment: Commitment, height: int, env: RuleEnv) -> None:
    if covered_height(height, env.params) is None:
        if commitment.state_root is not None:
            raise RuleError("bad-state-root", "not due")
        return
    if commitment.state_root is None:
        raise RuleError("bad-state-root", f"missing at height {height}")
    due = due_state_root(height, env)
    if due is not None and due != commitment.state_root:
        raise RuleError("bad-state-root", f"committed {commitment.state_root.hex()}, computed {due.hex()}")


def _check_votes(
    commitment: Commitment, block: Block, parent: ChainTip, state: StateView, env: RuleEnv
) -> Verdict:
    """Check what a bft chain commits to beside effects, history and state."""
    height = parent.height + 1
    signers = current(state, env.params, env.chain_id).validator_set
    proposer, bitmap = commitment.proposer, commitment.last_bitmap
    if commitment.set_hash != signers.set_hash or proposer is None or bitmap is None:
        raise RuleError("bad-set-hash", "the commitment names another validator set")
    claim = Claim(
        height,
        parent.block_hash,
        block.header.time_s,
        parent.time_s,
        block.header.nonce,
        proposer,
        bitmap,
        commitment.reveal,
        carried_evidence(block.txs[0]),
    )
    verdict = judge(claim, state, env.rounds)
    if commitment.next_set_hash != verdict.next_set_hash:
        due = "not due" if verdict.following is None else f"round {verdict.following.number} is due"
        raise RuleError("bad-next-set-hash", due)
    if commitment.evidence_root != verdict.evidence_root:
        raise RuleError("bad-evidence-root", "not the root over the evidence in the coinbase")
    return verdict


def merge_writes(begun: Writes, verdict: Verdict, writes: Writes) -> Writes:
    """Return the effects of restart, rounds and contracts; a reveal chain that was just registered stays."""
    return begun | verdict.writes | writes if begun or verdict.writes else writes


def _spend(
    block_txs: Sequence[Transaction],
    changes: CoinChanges,
    coins: CoinView,
    context: SpendContext,
    contracts: Contracts,
) -> tuple[Items, Items, int]:
    """Move the coins of all transactions but the coinbase.

    Returns them with what they spend, those among them that may carry a payload, and the fees.
    """
    txs = list(block_txs[1:])
    known = _prefetch(txs, coins)
    items: Items = []
    carriers: Items = []  # what move_payments takes carries none
    fees = at = 0
    cost = transaction_cost(block_txs[0], ())
    most = signature_cost_limit(context.ledger)
    while True:
        at, paid, plain_cost = changes.move_payments(txs, at, items, known, context.ledger)
        fees += paid
        cost += plain_cost
        if cost > most:
            raise RuleError("bad-blk-sigops", f"signature operations cost {cost}, at most {most}")
        if at == len(txs):
            return items, carriers, fees
        tx = txs[at]
        at += 1
        try:
            spent = changes.find(tx)
            fees += check_spend(tx, spent, context)
            if may_carry_payload(tx):
                contracts.check_payload(tx)
                carriers.append((tx, spent))
        except RuleError as error:
            raise name_culprit(error, tx) from error
        changes.apply(tx, spent)
        items.append((tx, spent))
        cost += signature_cost(tx, spent)


def _prefetch(txs: list[Transaction], coins: CoinView) -> dict[bytes, bytes]:
    """Let a view that can do so load the coins from outside the block in one go; return what it found."""
    prefetch: Callable[[list[bytes]], dict[bytes, bytes]] | None = getattr(coins, "prefetch", None)
    if prefetch is None:
        return {}
    return prefetch(outside_prevouts(txs))


def _execute(items: Items, session: ContractSession) -> None:
    for tx, spent in items:
        try:
            session.execute(tx, spent)
        except RuleError as error:
            raise name_culprit(error, tx) from error


def name_culprit(error: RuleError, tx: Transaction) -> RuleError:
    """Return ``error`` with the transaction that caused it in its reason."""
    reason = f"transaction {hash_hex(tx.txid)}: {error.reason}"
    return RuleError(error.code, reason, permanent=error.permanent)


def _check_coinbase_outputs(
    coinbase: Transaction, payouts: Sequence[TxOut], reward: int, fee_script: bytes | None
) -> None:
    """Check that exactly payouts and reward (fees and subsidy) are paid, to whom they are due.

    ``fee_script`` None: the miner shares the reward out as it likes, but to outputs that can be spent,
    or it would vanish.
    """
    outputs = coinbase.vout
    paid = sum(output.value for output in outputs)
    owed = sum(output.value for output in payouts) + reward
    if paid != owed:
        raise RuleError("bad-cb-amount", f"the coinbase pays {paid}, reward and payouts are {owed}")
    if outputs[: len(payouts)] != tuple(payouts):
        raise RuleError("bad-cb-payouts", f"not the {len(payouts)} due payouts in their order")
    if fee_script is None:
        if any(output.value and is_unspendable(output.script_pubkey) for output in outputs):
            raise RuleError("bad-cb-unspendable-value", "value on an output that nobody can spend")
        return
    due = coinbase_outputs(payouts, reward, fee_script)
    if outputs[: len(due)] != due:
        raise RuleError("bad-cb-fee-output", "the fees do not go to the proposer's payout script")
    beside = outputs[len(due) : -1]
    if beside and is_evidence(beside[0].script_pubkey):
        beside = beside[1:]
    if len(beside) > 1 or any(not is_witness_commitment(output.script_pubkey) for output in beside):
        raise RuleError("bad-cb-extra-output", "an output beside payouts, fees and commitments")
