"""What the RPC handlers need of the daemon: one port, which ``node/app.py`` wires to the node.

Hashes and txids are 32 bytes in internal order, outpoints the 36 bytes of the wire, amounts base
units. Everything that reads chain or state answers for the committed tip.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from consensus.block import Block, BlockHeader
from consensus.chain import ChainTip
from consensus.errors import PeerFault, RuleError
from consensus.params import ChainParams
from consensus.ports import StateView
from consensus.transaction import Transaction
from node.evidence import Kept
from node.miner import Miner
from node.mining_port import PowControl, Template
from p2p.api import PeerInfo
from storage.address_view import AddressView

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CoinStats:
    """Totals over the UTXO set and the contract state at one block; amounts in base units.

    ``hash_serialized`` is the SHA256d over the ordered coins; ``contract_accounts`` the sum of
    balances held by contracts, ``payout_queue`` the sum of payouts that wait.
    """

    height: int
    block_hash: bytes
    txouts: int
    total_amount: int
    hash_serialized: bytes
    contract_accounts: int
    payout_queue: int
    issued: int


@dataclass(frozen=True, slots=True)
class KnownHeader:
    """A header of any branch; ``work`` is that of its chain from genesis on."""

    header: BlockHeader
    height: int
    work: int


class MempoolEntry(Protocol):
    """A transaction that waits."""

    @property
    def tx(self) -> Transaction:
        """The transaction."""
        ...

    @property
    def fee(self) -> int:
        """Inputs minus outputs."""
        ...

    @property
    def added_s(self) -> int:
        """Chain time of admission."""
        ...

    @property
    def parents(self) -> tuple[bytes, ...]:
        """Txids of the parents that were unconfirmed at admission, each once."""
        ...

    @property
    def height(self) -> int:
        """The tip's height at admission; negative where it says nothing."""
        ...

    @property
    def modified_fee(self) -> int:
        """The fee with what an operator added to it."""
        ...

    # Totals over pending ancestors and descendants, itself included.

    @property
    def ancestor_count(self) -> int:
        """How many ancestors."""
        ...

    @property
    def ancestor_vsize(self) -> int:
        """Their virtual bytes."""
        ...

    @property
    def ancestor_fees(self) -> int:
        """Their modified fees."""
        ...

    @property
    def descendant_count(self) -> int:
        """How many descendants."""
        ...

    @property
    def descendant_vsize(self) -> int:
        """Their virtual bytes."""
        ...

    @property
    def descendant_fees(self) -> int:
        """Their modified fees."""
        ...


class MempoolView(Protocol):
    """Read access to the mempool."""

    @property
    def count(self) -> int:
        """Transactions that wait."""
        ...

    @property
    def bytes_used(self) -> int:
        """What it holds, in bytes of its budget."""
        ...

    @property
    def max_bytes(self) -> int:
        """The byte budget."""
        ...

    @property
    def min_fee_per_kvb(self) -> int:
        """The chain's least fee rate."""
        ...

    @property
    def incremental_per_kvb(self) -> int:
        """By how much the fee rate of a replacement must be higher."""
        ...

    @property
    def full_rbf(self) -> bool:
        """Whether transactions that do not signal it may be replaced too."""
        ...

    @property
    def revision(self) -> int:
        """How often what a block would take has changed."""
        ...

    def min_fee(self, now_s: int, /) -> int:
        """The fee rate below which a transaction is refused now."""
        ...

    @property
    def vsize_total(self) -> int:
        """Sum of the virtual sizes of all entries."""
        ...

    @property
    def fee_total(self) -> int:
        """Sum of the fees of all entries, base units."""
        ...

    def get(self, txid: bytes, /) -> MempoolEntry | None:
        """Return the entry of ``txid``."""
        ...

    def entries(self) -> Iterable[MempoolEntry]:
        """Return all entries, parents before children."""
        ...

    def spender(self, prevout: bytes, /) -> bytes | None:
        """Return the txid of the pending transaction that spends ``prevout``."""
        ...

    def children(self, txid: bytes, /) -> Iterable[bytes]:
        """Return the txids that spend outputs of a pending transaction."""
        ...

    def ancestors(self, txid: bytes, /) -> Sequence[MempoolEntry]:
        """Return the unconfirmed ancestors of a pending transaction, without itself."""
        ...

    def descendants(self, txid: bytes, /) -> Sequence[MempoolEntry]:
        """Return all that depends on a pending transaction, without itself."""
        ...

    def replaceable(self, txid: bytes, /) -> bool:
        """Return whether a pending transaction or an ancestor of it signals replacement (BIP125)."""
        ...

    def prioritise(self, txid: bytes, delta: int, /) -> None:
        """Add base units to the fee by which ``txid`` is ordered."""
        ...


@dataclass(frozen=True, slots=True)
class AcceptResult:
    """Verdict on one transaction; ``fee`` is None where its inputs are not all known."""

    tx: Transaction
    fee: int | None
    refusal: RuleError | None


@dataclass(frozen=True, slots=True)
class Pruning:
    """``height``: the lowest whose block is stored; ``target_bytes`` 0: no limit in bytes."""

    height: int
    is_automatic: bool
    target_bytes: int


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """Ourselves on the wire. ``listen`` is (host, port); ``identity`` our Ed25519 key."""

    user_agent: str
    protocol_version: int
    services: int
    identity: bytes
    listen: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class BftStatus:
    """Where the engine stands. ``role`` is "leader", "candidate", "follower", "starting", "learner" or,
    for a node that is no validator, "observer".

    ``leader`` and ``index`` are positions in the validator set (``index`` is ours, None for a
    node that does not vote); ``names`` are the validators in that order. ``details`` is what the
    engine tells an operator who asks why the chain does not advance.
    """

    role: str
    round: int
    term: int
    leader: int | None
    index: int | None
    committed_height: int
    prepared_height: int
    names: tuple[str, ...]
    faults_tolerated: int
    quorum: int
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Convicted:
    """A contradiction with whose it is: ``name`` is that of the account's organisation now, "" if it left."""

    kept: Kept
    vote_key: bytes
    account: bytes
    name: str


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An optional index: whether it holds every block up to the tip, and the last block that it holds."""

    synced: bool
    best_height: int


class IndexView(Protocol):
    """The optional indexes."""

    def info(self) -> Mapping[str, IndexInfo]:
        """Return the indexes that are turned on, by the names that Bitcoin Core has for them."""
        ...

    async def read_addresses(self, read: Callable[[AddressView], T], /) -> T:
        """Run ``read`` on a thread, over the address index as it is at one block near the tip.

        Raises PeerFault "address-index-off" or "address-index-building".
        """
        ...


class Backend(Protocol):
    """The node, as its RPC interface sees it."""

    @property
    def params(self) -> ChainParams:
        """The chain file."""
        ...

    @property
    def chain_id(self) -> bytes:
        """The genesis block hash."""
        ...

    @property
    def mempool(self) -> MempoolView:
        """The mempool."""
        ...

    @property
    def indexes(self) -> IndexView:
        """The optional indexes."""
        ...

    def mempool_loaded(self) -> bool:
        """Return whether the mempool of the last run was read again."""
        ...

    async def save_mempool(self) -> str:
        """Write the mempool to its file; return the path. Raises StorageError."""
        ...

    def estimate_fee(self, target: int, /, *, conservative: bool) -> tuple[int | None, int]:
        """Return (base units per kvB or None if not known, target in blocks that the answer is for)."""
        ...

    def tip(self) -> ChainTip:
        """Return the committed tip."""
        ...

    def header(self, height: int, /) -> BlockHeader | None:
        """Return the header at ``height``."""
        ...

    def block_hash(self, height: int, /) -> bytes | None:
        """Return the hash of the block at ``height``."""
        ...

    def block(self, height: int, /) -> Block | None:
        """Read the block at ``height``."""
        ...

    def height_of(self, block_hash: bytes, /) -> int | None:
        """Return the height of a committed block."""
        ...

    def known_header(self, block_hash: bytes, /) -> KnownHeader | None:
        """Return a header, on the active chain or not."""
        ...

    def stored_block(self, block_hash: bytes, /) -> Block | None:
        """Read a block, on the active chain or not; None if its body is not here."""
        ...

    async def check_proposal(self, block: Block, /) -> None:
        """Judge a block on the tip of a proof-of-work chain that lacks its proof. Raises RuleError."""
        ...

    def find_transaction(self, txid: bytes, /) -> tuple[int, int] | None:
        """Return (height, index in the block) of a confirmed transaction, if it is indexed."""
        ...

    def coin(self, prevout: bytes, /) -> bytes | None:
        """Return the coin value (``consensus.coins``) of a confirmed unspent output."""
        ...

    def undo_coins(self, height: int, /) -> Mapping[bytes, bytes | None]:
        """Return the value before, per prevout that block ``height`` changed (None: did not exist)."""
        ...

    def state(self) -> StateView:
        """Return the contract state at the tip."""
        ...

    async def coin_stats(self) -> CoinStats:
        """Walk the UTXO set of one block; must not block the event loop."""
        ...

    def peers(self) -> Sequence[PeerInfo]:
        """Return the connected peers; their times are of ``Clock.monotonic_ms``."""
        ...

    def network_info(self) -> NetworkInfo:
        """Return how we appear on the wire."""
        ...

    @property
    def pow(self) -> PowControl | None:
        """What miners and operators of a proof-of-work chain may do; None on a bft chain."""
        ...

    def template_of(self, transactions: Sequence[Transaction], script: bytes, /) -> Template:
        """Assemble a block on the tip of a proof-of-work chain of these transactions, parents first.

        Raises RuleError if one is refused or does not fit.
        """
        ...

    @property
    def miner(self) -> Miner | None:
        """The miner inside the daemon; None on a bft chain."""
        ...

    def reveal_chain(self, length: int, generation: int | None, /) -> tuple[int, bytes]:
        """Return (generation, top of 32 bytes) of a reveal chain of this node's vote key.

        Without ``generation`` that of the next one that can be registered. Raises RuleError "wrong-engine" on
        a pow chain, ValueError for a length that no chain has.
        """
        ...

    def bft_evidence(self) -> Sequence[Convicted]:
        """Contradictions of validators, oldest first. Raises RuleError "wrong-engine" on a pow chain."""
        ...

    def bft_status(self) -> BftStatus:
        """Return where the engine stands. Raises RuleError "wrong-engine" on a proof-of-work chain."""
        ...

    def certificate(self, height: int, /) -> bytes | None:
        """Return the encoded commit certificate that covers block ``height``."""
        ...

    def round_end(self, height: int, /) -> bytes | None:
        """Return what proves the block that ended a round at ``height``, None for others."""
        ...

    async def submit(self, raw: bytes, /) -> bytes:
        """Admit a transaction to the mempool, relay it and return its txid.

        One that waits already is relayed again. Raises DecodeError or RuleError, code
        ``txn-already-confirmed`` where it is in the chain.
        """
        ...

    async def submit_many(
        self, txs: Sequence[Transaction], max_fee_rates: Sequence[int], /
    ) -> Sequence[PeerFault | None]:
        """Admit transactions in this order and relay them; return why each was refused, None where not.

        ``max_fee_rates``: base units per 1000 virtual bytes beyond which a fee is refused,
        ``max-fee-exceeded``; 0: none is. One that waits already is relayed again.
        """
        ...

    async def test_accept(self, raws: Sequence[bytes], /) -> Sequence[AcceptResult]:
        """Judge transactions, each on the tip plus those before it, without admitting any.

        Raises DecodeError where one does not parse.
        """
        ...

    def pruning(self) -> Pruning:
        """Return what pruning has taken and whether it goes on."""
        ...

    def size_on_disk(self) -> int:
        """Return the bytes that blocks, undo data and the database take."""
        ...

    def now_s(self) -> int:
        """Return chain time."""
        ...

    def uptime_s(self) -> int:
        """Return real seconds since the start."""
        ...

    def is_ready(self) -> tuple[bool, str]:
        """Return (True, "") while blocks advance, else (False, reason)."""
        ...

    def request_stop(self) -> None:
        """Begin a graceful stop and return at once."""
        ...

    def fatal(self, error: BaseException, /) -> None:
        """Report a bug: the daemon logs it, stops and exits non-zero."""
        ...
