"""The parameters of a chain: what the chain file says, as typed values.

Everything here is fixed at genesis and hashed into it, so two chains with other parameters are
two chains.
"""

from dataclasses import dataclass

COIN = 100_000_000
"""Base units per token."""


@dataclass(frozen=True, slots=True)
class AddressPrefixes:
    """Version bytes of Base58Check strings and the bech32 human-readable part."""

    p2pkh: int
    p2sh: int
    wif: int
    bech32_hrp: str


@dataclass(frozen=True, slots=True)
class Validator:
    """A founder's signed entry: who votes, who answers on the wire, where fees go.

    ``vote_key`` is an x-only secp256k1 key (32 bytes, BIP340), ``identity_key`` an Ed25519 key
    (32 bytes). ``vote_signature`` (BIP340) and ``identity_signature`` (Ed25519), 64 bytes each,
    cover ``consensus.validators.entry_digest``. ``role`` is "grid-operator" or "service-provider".
    The account of the organisation in contracts is ``payout_script``.
    """

    name: str
    role: str
    vote_key: bytes
    identity_key: bytes
    payout_script: bytes
    vote_signature: bytes
    identity_signature: bytes


@dataclass(frozen=True, slots=True)
class Allocation:
    """Tokens issued at genesis to one script."""

    script_pubkey: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class LedgerParams:
    """Limits and fees of the ledger; amounts in base units.

    An output of a mined coinbase can be spent ``coinbase_maturity_blocks`` above its own block. Each
    ``snapshot_interval_blocks`` a block commits to the state of one interval before; 0 is never.
    """

    max_money: int
    max_block_weight: int
    min_fee_per_kvb: int
    min_payout: int
    op_budget: int
    timer_budget: int
    coinbase_maturity_blocks: int = 0
    snapshot_interval_blocks: int = 0


@dataclass(frozen=True, slots=True)
class BftParams:
    """Parameters of the BFT engine; ``_s`` is block time, ``_ms`` is real time.

    An epoch lasts ``round_s``; failed delegates are replaced at multiples of ``substitution_s``. An
    epoch has at most ``delegates`` validators, elected in the mode ``election`` (``dpos.MODES``).
    """

    bits: int
    round_s: int
    max_drift_s: int
    tenure_blocks: int
    progress_timeout_ms: int
    slot_step_ms: int
    idle_interval_ms: int
    block_interval_ms: int
    min_batch_txs: int
    validators: tuple[Validator, ...]
    substitution_s: int = 10_800
    delegates: int = 21
    election: str = "plurality"


@dataclass(frozen=True, slots=True)
class Organisation:
    """Who acts as an organisation in contracts; ``account`` is a script, ``role`` as of a Validator."""

    name: str
    role: str
    account: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A block that the active chain must contain; nothing reorganises below it."""

    height: int
    block_hash: bytes


@dataclass(frozen=True, slots=True)
class PowParams:
    """Parameters of the proof-of-work engine; ``_s`` is seconds, ``bits`` and ``max_target`` are compact.

    ``bits`` is the target of genesis, from which difficulty is reckoned. ``organisations`` run the energy
    communities; nobody votes. ``checkpoints`` are in order of height and no part of the chain's identity:
    they name blocks, which only exist once the chain does.
    """

    bits: int
    max_target: int
    spacing_s: int
    half_life_s: int
    future_limit_s: int
    subsidy: int
    subsidy_halving_blocks: int
    reorg_warn_depth: int
    checkpoints: tuple[Checkpoint, ...] = ()
    organisations: tuple[Organisation, ...] = ()


NO_BFT = BftParams(0, 0, 0, 0, 0, 0, 0, 0, 0, (), 0, 0)
"""What a pow chain has in the place of bft parameters: nobody validates."""


@dataclass(frozen=True, slots=True)
class Community:
    """An energy community: one market. ``grid_operator`` is the account that backs imbalance."""

    id: str
    grid_operator: bytes


@dataclass(frozen=True, slots=True)
class EnergyParams:
    """Market parameters; prices in base units per kWh, durations in seconds of block time."""

    slot_s: int
    gate_lead_s: int
    reading_window_s: int
    day_offset_s: int
    grid_price_per_kwh: int
    feed_in_price_per_kwh: int
    max_price_per_kwh: int
    max_orders_per_slot: int
    max_participants: int
    communities: tuple[Community, ...]


@dataclass(frozen=True, slots=True)
class ChainParams:
    """A whole chain file.

    ``engine`` is "bft" or "pow". ``bft`` is NO_BFT on a pow chain, whose validators are nobody; ``pow``
    is None on a bft chain.
    """

    name: str
    engine: str
    genesis_time_s: int
    addresses: AddressPrefixes
    ledger: LedgerParams
    bft: BftParams
    energy: EnergyParams
    allocations: tuple[Allocation, ...]
    pow: PowParams | None = None

    @property
    def organisations(self) -> tuple[Organisation, ...]:
        """Return the organisations at genesis: the validators, or those that a pow chain names."""
        if self.pow is not None:
            return self.pow.organisations
        return tuple([Organisation(each.name, each.role, each.payout_script) for each in self.bft.validators])

    @property
    def keeps_state_undo(self) -> bool:
        """Whether anybody may ever ask what the contract state was before a block.

        A reorganisation does, and so does the state root of a block further back; a final block of a chain
        without state roots is never taken back.
        """
        return self.pow is not None or self.ledger.snapshot_interval_blocks > 0
