"""Checks of a chain file across fields: what each value alone cannot tell."""

from collections.abc import Iterable
from itertools import pairwise

from consensus.chain_fields import Problems
from consensus.coins import is_unspendable
from consensus.errors import RuleError
from consensus.ledger_limits import DAY_S, MIN_SNAPSHOT_INTERVAL
from consensus.limits import WITNESS_SCALE
from consensus.params import ChainParams, EnergyParams, PowParams
from consensus.pow.target import target_of
from consensus.script import templates
from consensus.validators import check_entry

_ACCOUNT_KINDS = (
    templates.PUBKEYHASH,
    templates.SCRIPTHASH,
    templates.WITNESS_V0_KEYHASH,
    templates.WITNESS_V0_SCRIPTHASH,
    templates.WITNESS_V1_TAPROOT,
)
_PAYABLE_KINDS = (*_ACCOUNT_KINDS, templates.PUBKEY, templates.MULTISIG)
_GENESIS_OVERHEAD_BYTES = 1_000
"""Header, coinbase input and commitment of the genesis block are smaller."""


def is_account_script(script: bytes) -> bool:
    """Tell whether a script can act and be paid as an account of contracts."""
    return templates.classify(script)[0] in _ACCOUNT_KINDS


def is_payable_script(script: bytes) -> bool:
    """Tell whether tokens may be issued to a script: a standard one that somebody can spend."""
    return not is_unspendable(script) and templates.classify(script)[0] in _PAYABLE_KINDS


def check_across(params: ChainParams, problems: Problems) -> None:
    """Add what is wrong between fields; fields that are wrong themselves are not judged again."""
    _check_validators(params, problems)
    _check_accounts(params, problems)
    if params.pow is None:
        _check_engine(params, problems)
    else:
        _check_organisations(params.pow, problems)
        _check_pow(params.pow, problems)
    _check_market(params.energy, problems)
    _check_budgets(params, problems)
    _check_communities(params, problems)
    _check_allocations(params, problems)


def _check_validators(params: ChainParams, problems: Problems) -> None:
    validators = params.bft.validators
    for key in ("name", "vote_key", "identity_key"):
        values = [getattr(validator, key) for validator in validators]
        for index, first in _repeated(values):
            path = f"bft.validators[{index}].{key}"
            if problems.clear_of(path, f"bft.validators[{first}].{key}"):
                problems.add(
                    path, f"the same as bft.validators[{first}].{key}", "every validator has its own"
                )
    operators = [validator for validator in validators if validator.role == "grid-operator"]
    if validators and not operators and problems.clear_of("bft.validators"):
        problems.add("bft.validators", "nobody has the role grid-operator", "give it to at least one")
    for index, validator in enumerate(validators):
        path = f"bft.validators[{index}]"
        if not problems.clear_of(path, "chain.name", "chain.addresses"):
            continue
        try:
            check_entry(params.name, validator)
        except RuleError as error:
            field = "vote_signature" if error.code == "bad-vote-signature" else "identity_signature"
            problems.add(
                f"{path}.{field}",
                "does not fit the entry",
                f"let {validator.name} sign the entry again for chain {params.name}",
            )


def _check_accounts(params: ChainParams, problems: Problems) -> None:
    """The account is the organisation in contracts, so it has one role there."""
    if not problems.clear_of("chain.addresses"):
        return
    table, field = _organisation_fields(params)
    roles: dict[bytes, str] = {}
    for index, organisation in enumerate(params.organisations):
        path = f"{table}[{index}]"
        if not problems.clear_of(f"{path}.{field}", f"{path}.role"):
            continue
        role = roles.setdefault(organisation.account, organisation.role)
        if role != organisation.role:
            problems.add(
                f"{path}.{field}",
                f"the account of a {organisation.role} and of a {role}",
                "give every organisation an account of its own",
            )


def _organisation_fields(params: ChainParams) -> tuple[str, str]:
    """Return the table in which the organisations are, and the field of their accounts."""
    return ("bft.validators", "payout_script") if params.pow is None else ("pow.organisations", "account")


def _repeated(values: list[object]) -> Iterable[tuple[int, int]]:
    """Yield (index, index of the first equal one) of every value that was there before."""
    first: dict[object, int] = {}
    for index, value in enumerate(values):
        if value in first:
            yield index, first[value]
        else:
            first[value] = index


def _check_engine(params: ChainParams, problems: Problems) -> None:
    bft = params.bft
    exponent, mantissa = bft.bits >> 24, bft.bits & 0xFFFFFF
    if problems.clear_of("bft.bits") and not (3 <= exponent <= 32 and 0 < mantissa < 0x800000):
        problems.add("bft.bits", f"found {bft.bits:#010x}", "give a compact target, such as 0x207fffff")
    if not problems.clear_of(
        "bft.progress_timeout_ms", "bft.slot_step_ms", "bft.idle_interval_ms", "bft.block_interval_ms"
    ):
        return
    if bft.progress_timeout_ms <= bft.slot_step_ms:
        problems.add(
            "bft.progress_timeout_ms",
            f"found {bft.progress_timeout_ms}, slot_step_ms is {bft.slot_step_ms}",
            "give more than slot_step_ms, or no candidate has its turn before the term is given up",
        )
    if bft.idle_interval_ms < bft.block_interval_ms:
        problems.add(
            "bft.idle_interval_ms",
            f"found {bft.idle_interval_ms}, block_interval_ms is {bft.block_interval_ms}",
            "give at least block_interval_ms: an empty block waits no less than a full one",
        )


def _check_organisations(rules: PowParams, problems: Problems) -> None:
    for index, first in _repeated([each.name for each in rules.organisations]):
        path = f"pow.organisations[{index}].name"
        if problems.clear_of(path, f"pow.organisations[{first}].name"):
            problems.add(
                path, f"the same as pow.organisations[{first}].name", "every organisation has its own"
            )


def _check_pow(rules: PowParams, problems: Problems) -> None:
    most = target_of(rules.max_target)
    if problems.clear_of("pow.max_target") and most is None:
        problems.add(
            "pow.max_target", f"found {rules.max_target:#010x}", "give a compact target, such as 0x207fffff"
        )
    first = target_of(rules.bits)
    if problems.clear_of("pow.bits") and first is None:
        problems.add("pow.bits", f"found {rules.bits:#010x}", "give a compact target, such as 0x207fffff")
    if problems.clear_of("pow.bits", "pow.max_target") and (first or 0) > (most or 0):
        problems.add(
            "pow.bits",
            f"found {rules.bits:#010x}, max_target is {rules.max_target:#010x}",
            "give at most max_target: no block may be easier",
        )
    if (
        problems.clear_of("pow.half_life_s", "pow.future_limit_s")
        and rules.future_limit_s > rules.half_life_s
    ):
        problems.add(
            "pow.future_limit_s",
            f"found {rules.future_limit_s}, half_life_s is {rules.half_life_s}",
            "give at most half_life_s, or one block stamped ahead halves the difficulty",
        )
    if problems.clear_of("pow.checkpoints"):
        heights = [checkpoint.height for checkpoint in rules.checkpoints]
        if any(above <= below for below, above in pairwise(heights)):
            problems.add("pow.checkpoints", "heights do not ascend", "give each height once, lowest first")


def _check_market(energy: EnergyParams, problems: Problems) -> None:
    if problems.clear_of("energy.slot_s"):
        if DAY_S % energy.slot_s:
            problems.add(
                "energy.slot_s", f"found {energy.slot_s}", f"give a divisor of {DAY_S}: days are whole slots"
            )
        elif problems.clear_of("energy.day_offset_s") and energy.day_offset_s % energy.slot_s:
            problems.add(
                "energy.day_offset_s",
                f"found {energy.day_offset_s}",
                f"give a multiple of slot_s ({energy.slot_s}): a day starts with a slot",
            )
    if not problems.clear_of(
        "energy.grid_price_per_kwh", "energy.feed_in_price_per_kwh", "energy.max_price_per_kwh"
    ):
        return
    if energy.feed_in_price_per_kwh > energy.grid_price_per_kwh:
        problems.add(
            "energy.feed_in_price_per_kwh",
            f"found {energy.feed_in_price_per_kwh}, grid_price_per_kwh is {energy.grid_price_per_kwh}",
            "give at most grid_price_per_kwh, or feeding in what one draws earns money",
        )
    if energy.grid_price_per_kwh > energy.max_price_per_kwh:
        problems.add(
            "energy.max_price_per_kwh",
            f"found {energy.max_price_per_kwh}, grid_price_per_kwh is {energy.grid_price_per_kwh}",
            "give at least grid_price_per_kwh: orders up to the grid's price make sense",
        )


def _check_budgets(params: ChainParams, problems: Problems) -> None:
    budget = params.ledger.timer_budget
    for key, value in (
        ("max_orders_per_slot", params.energy.max_orders_per_slot),
        ("max_participants", params.energy.max_participants),
    ):
        path = f"energy.{key}"
        if problems.clear_of(path, "ledger.timer_budget") and value > budget:
            problems.add(
                path,
                f"found {value}, ledger.timer_budget is {budget}",
                "give at most timer_budget: one market must fit one block",
            )
    ledger = params.ledger
    interval = ledger.snapshot_interval_blocks
    if 0 < interval < MIN_SNAPSHOT_INTERVAL and problems.clear_of("ledger.snapshot_interval_blocks"):
        problems.add(
            "ledger.snapshot_interval_blocks",
            f"found {interval}",
            f"give 0 for never, or at least {MIN_SNAPSHOT_INTERVAL}: that state must be committed",
        )
    amounts_clear = problems.clear_of("ledger.min_payout", "ledger.max_money")
    if amounts_clear and ledger.min_payout > ledger.max_money:
        problems.add(
            "ledger.min_payout", f"found {ledger.min_payout}", f"give at most max_money ({ledger.max_money})"
        )


def _check_communities(params: ChainParams, problems: Problems) -> None:
    communities = params.energy.communities
    for index, first in _repeated([community.id for community in communities]):
        path = f"energy.communities[{index}].id"
        if problems.clear_of(path, f"energy.communities[{first}].id"):
            problems.add(path, f"the same as energy.communities[{first}].id", "every community has its own")
    table, field = _organisation_fields(params)
    if params.pow is None and not params.organisations:
        return
    if not problems.clear_of(f"{table}[", "chain.addresses") or (params.pow and not problems.clear_of("bft")):
        return
    who = "a validator" if params.pow is None else "an organisation"
    operators = [each.account for each in params.organisations if each.role == "grid-operator"]
    for index, community in enumerate(communities):
        path = f"energy.communities[{index}].grid_operator"
        if problems.clear_of(path) and community.grid_operator not in operators:
            problems.add(
                path,
                f"not the {field} of {who} with the role grid-operator",
                f"give the {field} of an entry of {table} with that role: it backs the community's imbalance",
            )


def _check_allocations(params: ChainParams, problems: Problems) -> None:
    if not problems.clear_of("genesis.allocations", "ledger.max_money", "ledger.max_block_weight"):
        return
    total = sum(allocation.amount for allocation in params.allocations)
    if total > params.ledger.max_money:
        problems.add(
            "genesis.allocations",
            f"amounts add up to {total}",
            f"issue at most ledger.max_money ({params.ledger.max_money})",
        )
    size = _GENESIS_OVERHEAD_BYTES + sum(11 + len(a.script_pubkey) for a in params.allocations)
    if size * WITNESS_SCALE > params.ledger.max_block_weight:
        problems.add(
            "genesis.allocations",
            f"a genesis block of about {size} bytes",
            f"issue to fewer scripts: ledger.max_block_weight is {params.ledger.max_block_weight}",
        )
