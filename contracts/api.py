"""All contracts of a chain behind the port that the block rules know: ``consensus.ports.Contracts``."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from consensus.dpos import Candidate
from consensus.errors import ConfigError, RuleError
from consensus.params import ChainParams
from consensus.ports import OVER_BUDGET, BlockContext, SignatureCheck, StateView
from consensus.transaction import Transaction, TxOut
from contracts import devices, keys, payload, registry
from contracts.auth import authorise
from contracts.bank import Bank, sums
from contracts.due import run_due
from contracts.energy import market, membership, readings
from contracts.fields import bad_field, is_community_id
from contracts.governance import admission, delegates, reveals
from contracts.governance.entry import check_application
from contracts.governance.operations import KINDS as GOVERNANCE_KINDS
from contracts.governance.operations import Apply, Approve, CommitReveals, Expel, Leave, VoteDelegates
from contracts.limits import GOVERNANCE_UNITS, OPERATION_UNITS, PARSE_CACHE_BYTES, PAYOUTS_PER_BLOCK
from contracts.operations import (
    CancelOrder,
    Deposit,
    Operation,
    PlaceOrder,
    ReassignDevice,
    RegisterDevice,
    RegisterMember,
    RevokeDevice,
    SubmitReadings,
    Withdraw,
    object_id,
)
from contracts.payload import Payload
from contracts.records import pack, unpack
from contracts.scope import Call, Scope
from contracts.state import SessionState

_HANDLERS: dict[type[Operation], Callable[[Scope, Call, Any], None]] = {
    Deposit: membership.deposit,
    Withdraw: membership.withdraw,
    RegisterMember: membership.register,
    RegisterDevice: registry.register_device,
    RevokeDevice: registry.revoke_device,
    ReassignDevice: registry.reassign_device,
    PlaceOrder: market.place_order,
    CancelOrder: market.cancel_order,
    SubmitReadings: readings.submit,
    Apply: admission.apply,
    Approve: admission.approve,
    Expel: admission.expel,
    Leave: admission.leave,
    VoteDelegates: delegates.vote,
    CommitReveals: reveals.commit_reveals,
}


def units_of(operation: Operation) -> int:
    """Return how much of ``op_budget`` an operation takes."""
    if isinstance(operation, SubmitReadings):
        return OPERATION_UNITS * len(operation.items)
    return GOVERNANCE_UNITS if isinstance(operation, GOVERNANCE_KINDS) else OPERATION_UNITS


class EnergyContracts:
    """The contracts of one chain: energy, devices, governance.

    Holds no state but a cache of decoded payloads.
    """

    def __init__(self, params: ChainParams) -> None:
        """Raise ConfigError ``bad-energy-params`` for parameters under which the contracts could stall."""
        problems = tuple(_problems(params))
        if problems:
            raise ConfigError("bad-energy-params", problems)
        self.params = params
        self.chain_tag = devices.chain_tag(params)
        self._young: dict[bytes, Payload | None] = {}
        self._old: dict[bytes, Payload | None] = {}
        self._young_bytes = 0

    # ---- the port ------------------------------------------------------------------------------

    def genesis_state(self) -> dict[bytes, bytes]:
        """Return organisations, communities and market parameters, as the genesis block writes them."""
        energy = self.params.energy
        state: dict[bytes, bytes] = {
            keys.ORGANISATION + organisation.account: pack((organisation.name, organisation.role))
            for organisation in self.params.organisations
        }
        for community in energy.communities:
            state[keys.COMMUNITY + community.id.encode()] = pack((community.grid_operator,))
        state[keys.ENERGY_PARAMS] = pack(
            (
                energy.slot_s,
                energy.gate_lead_s,
                energy.reading_window_s,
                energy.day_offset_s,
                energy.grid_price_per_kwh,
                energy.feed_in_price_per_kwh,
                energy.max_price_per_kwh,
                energy.max_orders_per_slot,
                energy.max_participants,
            )
        )
        return dict(sorted(state.items()))

    def open(self, state: StateView, context: BlockContext, *, metered: bool = True) -> "EnergySession":
        """Start a block on ``state``, which must not change meanwhile.

        ``metered`` False lifts ``op_budget``: for a mempool, which holds more than one block.
        """
        return EnergySession(self, state, context, metered=metered)

    def check_payload(self, tx: Transaction) -> None:
        """Check the payload of ``tx`` without state.

        Raises RuleError: bad-op-multiple, -coinbase, -push, -version, -encoding, -unknown, -field,
        -value, -too-large, payout-too-small, bad-vote-signature, bad-identity-signature,
        bad-agreement-signature.
        """
        self.payload(tx)

    def signatures(self, tx: Transaction) -> tuple[SignatureCheck, ...]:
        """Return the device signatures of a transaction whose payload passes ``check_payload``."""
        found = self.payload(tx)
        return () if found is None else devices.signature_checks(self.chain_tag, found.operation)

    def candidates(self, state: StateView, time_s: int) -> list[Candidate]:
        """Return every organisation with a vote in order of account, with its ballot at ``time_s``.

        Nobody is left out here: offences count where the election is held.
        """
        return delegates.candidates(state, self.params, time_s)

    def dismiss(self, state: StateView, accounts: Sequence[bytes]) -> dict[bytes, bytes | None]:
        """Return the writes that take vote and role from these organisations, as a removal would."""
        return admission.dismissal(state, accounts)

    def accounting(self, state: StateView) -> Mapping[str, int]:
        """Return {"accounts": sum of available and locked money, "payouts": sum of the queue}."""
        found = sums(state)
        return {"accounts": found["accounts"], "payouts": found["payouts"]}

    # ---- payloads ------------------------------------------------------------------------------

    def has_payload(self, tx: Transaction) -> bool:
        """Whether ``tx`` has an output that claims to be a payload, well formed or not."""
        return bool(payload.payload_outputs(tx))

    def operation(self, tx: Transaction) -> Operation | None:
        """Return the operation that ``tx`` carries, if any. Raises RuleError as ``check_payload`` does."""
        found = self.payload(tx)
        return None if found is None else found.operation

    def payload(self, tx: Transaction) -> Payload | None:
        """Return the decoded and checked payload. Raises RuleError as ``check_payload`` does.

        What was decoded is kept for a while, in two generations that bound the cache. Where signature
        workers share it with the main loop, a race can lose an entry but never give a wrong one.
        """
        txid = tx.txid
        for generation in (self._young, self._old):
            if txid in generation:
                return generation[txid]
        found = payload.parse(tx)
        if found is not None:
            self._check_form(found)
            self._remember(txid, found)
        return found

    def _remember(self, txid: bytes, found: Payload) -> None:
        if self._young_bytes + len(found.data) > PARSE_CACHE_BYTES // 2:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[txid] = found
        self._young_bytes += len(found.data)

    def _check_form(self, found: Payload) -> None:
        """Check what the parameters of the chain say about an operation, whatever its state."""
        operation, value, ledger = found.operation, found.value, self.params.ledger
        if isinstance(operation, Deposit) and value <= 0:
            raise RuleError("bad-op-value", "a deposit brings a value on its payload output")
        if value < 0 or (value and not isinstance(operation, Deposit | PlaceOrder)):
            raise RuleError("bad-op-value", f"{operation.NAME} takes no money, the output carries {value}")
        if isinstance(operation, Withdraw) and operation.amount < ledger.min_payout:
            raise RuleError("payout-too-small", f"{operation.amount} < {ledger.min_payout}")
        if isinstance(operation, PlaceOrder):
            highest = self.params.energy.max_price_per_kwh
            if operation.limit_price_per_kwh > highest:
                raise bad_field("limit_price_per_kwh", f"{highest} at most")
        if units_of(operation) > ledger.op_budget:
            raise RuleError("bad-op-too-large", "more work than any block may hold")
        if isinstance(operation, Apply):
            check_application(self.params, operation)
        if isinstance(operation, VoteDelegates):
            most = delegates.most_approvals(self.params)
            if len(operation.approvals) > most:
                raise bad_field("approvals", f"{most} at most on this chain")


def _problems(params: ChainParams) -> list[str]:
    """Return what the contracts cannot work with; the parser of chain files asks for more."""
    energy, ledger = params.energy, params.ledger
    problems = []
    if energy.slot_s < 1 or energy.gate_lead_s < 0 or energy.reading_window_s < 1:
        problems.append("energy: slot_s and reading_window_s must be positive, gate_lead_s not negative")
    if not 1 <= max(energy.max_orders_per_slot, energy.max_participants) <= ledger.timer_budget:
        problems.append("ledger.timer_budget: the timers of one slot must fit a block")
    if ledger.op_budget < 1:
        problems.append("ledger.op_budget: at least 1")
    for community in energy.communities:
        if not is_community_id(community.id):
            problems.append(f"energy.communities: {community.id!r} is no community id")
        if not 0 < len(community.grid_operator) <= 255:
            problems.append(f"energy.communities: grid_operator of {community.id!r} has no usable script")
    roles: dict[bytes, str] = {}
    for organisation in params.organisations:
        if roles.setdefault(organisation.account, organisation.role) != organisation.role:
            problems.append(f"organisations: {organisation.name} shares its account with another role")
    return problems


class EnergySession:
    """The contracts during one block: timers, then operations, then payouts."""

    def __init__(
        self, contracts: EnergyContracts, state: StateView, context: BlockContext, *, metered: bool
    ) -> None:
        """Use ``EnergyContracts.open``."""
        session = SessionState(state)
        self._contracts = contracts
        self._base = state
        self._scope = Scope(contracts.params, context, session, Bank(session))
        self._budget = contracts.params.ledger.op_budget if metered else None
        self._units = 0

    def due_payouts(self) -> tuple[TxOut, ...]:
        """Return what the coinbase of this block pays: the head of the queue at the parent block."""
        payouts = [unpack(value) for _, value in self._due()]
        return tuple([TxOut(amount, script) for script, amount, _ in payouts])

    def _due(self) -> list[tuple[bytes, bytes]]:
        return list(islice(self._base.scan(keys.PAYOUT), PAYOUTS_PER_BLOCK))

    def run_timers(self) -> None:
        """Close gates, settle slots, bill days, end motions and begin reveals, within ``timer_budget``."""
        run_due(self._scope)
        self._scope.state.keep()

    def execute(self, tx: Transaction, spent: Sequence[bytes]) -> None:
        """Run the operation of ``tx``, if it has one; whatever it raises leaves the session as it was.

        Raises RuleError: those of ``check_payload``, bad-op-auth, op-budget-exceeded, and those of
        the operation.
        """
        found = self._contracts.payload(tx)
        if found is None:
            return
        units = units_of(found.operation)
        if self._budget is not None and self._units + units > self._budget:
            raise RuleError(OVER_BUDGET, "the block has no room for this operation", permanent=False)
        call = Call(authorise(tx, spent), object_id(tx.prevouts[0], found.data), tx.txid, found.value)
        state = self._scope.state
        mark = state.savepoint()
        try:
            _HANDLERS[type(found.operation)](self._scope, call, found.operation)
        except BaseException:
            state.rollback(mark)
            raise
        state.keep()
        self._units += units

    def finish(self) -> dict[bytes, bytes | None]:
        """Take the paid payouts out of the queue; return the final value per key written, None if deleted."""
        for key, _ in self._due():
            self._scope.state.delete(key)
        return self._scope.state.writes()
