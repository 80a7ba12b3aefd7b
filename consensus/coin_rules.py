"""How one transaction may change the coins: contextual rules, and the diff that they leave.

Connecting, assembling and the mempool judge a transaction by the same functions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct

from cext import create_coins, move_payments, plain_cost, plain_fee, usual_fee
from consensus.block_rules import payload_of
from consensus.coins import coin_height, coin_is_coinbase, coin_script, is_unspendable
from consensus.errors import RuleError
from consensus.ledger_limits import MAX_BLOCK_SIGOPS_COST, MAX_BLOCK_WEIGHT, MIN_BLOCK_SIGOPS_COST
from consensus.limits import FORBIDDEN_TX_SIZE, MAX_TX_SIGOPS_COST, MAX_TX_WEIGHT, WITNESS_SCALE
from consensus.params import LedgerParams
from consensus.ports import BlockTimes, CoinView
from consensus.script.sigops import bare_checks, input_cost, output_cost
from consensus.transaction import (
    SEQUENCE_DISABLE_FLAG,
    SEQUENCE_MASK,
    SEQUENCE_TYPE_FLAG,
    Transaction,
    TxOut,
    hash_hex,
)
from consensus.tx_rules import is_final

_SEQUENCE_SHIFT = 9
"""Relative lock times by the clock count units of 512 seconds (BIP68)."""

_P2PKH_HEAD, _P2PKH_TAIL = b"\x76\xa9\x14", b"\x88\xac"
_P2WPKH_HEAD, _P2WPKH_COIN_BYTES = b"\x00\x14", 12 + 22

_amount_of = Struct("<q").unpack_from
_pack_coin = Struct("<Iq").pack


@dataclass(frozen=True, slots=True)
class SpendContext:
    """What a transaction is judged against: the block's height and time, and the chain's rules.

    ``recent`` holds the header times of the last blocks before ``height``, the parent's last, and
    ``times`` answers for those further back; where neither knows, relative locks in seconds stay shut.
    """

    height: int
    time_s: int
    ledger: LedgerParams
    times: BlockTimes | None = None
    recent: tuple[int, ...] = ()

    def time_at(self, height: int) -> int | None:
        """Return the header time of the block at ``height`` below this one, None if not known."""
        back = self.height - height
        if 0 < back <= len(self.recent):
            return self.recent[-back]
        if back <= 0 or self.times is None:
            return None
        return self.times.time_at(height)


def check_spend(tx: Transaction, spent: Sequence[bytes], context: SpendContext) -> int:
    """Return the fee of a transaction that spends the coin values ``spent``, one per input.

    Checks amounts, minimum fee, lock times, coinbase maturity and signature operations;
    ``check_transaction`` must have accepted ``tx``.
    Unspendable outputs carry nothing, since their value would vanish; the exception is the payload
    output, whose value its operation credits to accounts. Raises RuleError
    "bad-txns-inputvalues-outofrange", "bad-txns-unspendable-value", "bad-txns-in-belowout",
    "bad-txns-fee-outofrange", "min-fee-not-met", "bad-txns-nonfinal",
    "bad-txns-premature-spend-of-coinbase" or "bad-txns-too-many-sigops".
    """
    ledger = context.ledger
    fee = plain_fee(tx, list(spent), ledger.max_money, ledger.min_fee_per_kvb)
    if fee >= 0:
        return fee
    value_in = 0
    for coin in spent:
        value_in += _amount_of(coin, 4)[0]
    if value_in > ledger.max_money:
        raise RuleError("bad-txns-inputvalues-outofrange", f"inputs are worth {value_in}")
    value_out = 0
    for value, script in tx.vout:
        value_out += value
        if value and is_unspendable(script) and payload_of(script) is None:
            raise RuleError("bad-txns-unspendable-value", f"{value} on an output that nobody can spend")
    fee = value_in - value_out
    if fee < 0:
        raise RuleError("bad-txns-in-belowout", f"inputs are worth {value_in}, outputs {value_out}")
    if fee > ledger.max_money:
        raise RuleError("bad-txns-fee-outofrange", f"fee {fee}")
    if fee * 1000 < ledger.min_fee_per_kvb * tx.vsize:
        raise RuleError(
            "min-fee-not-met", f"fee {fee} for {tx.vsize} vbytes is below {ledger.min_fee_per_kvb} per 1000"
        )
    if tx.lock_time and not is_final(tx, context.height, context.time_s):
        raise RuleError("bad-txns-nonfinal", f"locked until {tx.lock_time}", permanent=False)
    if tx.version >= 2:
        _check_relative_locks(tx, spent, context)
    if ledger.coinbase_maturity_blocks:
        _check_maturity(spent, context)
    cost = signature_cost(tx, spent)
    if cost > MAX_TX_SIGOPS_COST:
        raise RuleError("bad-txns-too-many-sigops", f"signature operations cost {cost}")
    return fee


def usual_payment_fee(tx: Transaction, spent: list[bytes], ledger: LedgerParams) -> int:
    """Return the fee of a plain payment that passes ``check_transaction`` and ``check_spend``, else -1.

    It carries no payload. -1 says nothing: those two judge it, and say why.
    """
    return usual_fee(tx, spent, ledger.max_money, ledger.min_fee_per_kvb, MAX_TX_WEIGHT, FORBIDDEN_TX_SIZE)


def _check_maturity(spent: Sequence[bytes], context: SpendContext) -> None:
    """Coinbase outputs wait, since a reorganisation would take them back; those of genesis need not."""
    for coin in spent:
        born = coin_height(coin)
        wait = born + context.ledger.coinbase_maturity_blocks - context.height
        if coin_is_coinbase(coin) and born > 0 and wait > 0:
            raise RuleError(
                "bad-txns-premature-spend-of-coinbase",
                f"a coinbase output of height {born} must wait {wait} more blocks",
                permanent=False,
            )


def _check_relative_locks(tx: Transaction, spent: Sequence[bytes], context: SpendContext) -> None:
    """BIP68, with the header time of the coin's block in the place of median time past.

    On a bft chain header times never run backwards, so they serve as the chain's clock.
    """
    for index, sequence in enumerate(tx.sequences):
        if sequence & SEQUENCE_DISABLE_FLAG:
            continue
        wait = sequence & SEQUENCE_MASK
        if wait == 0:
            continue
        born = coin_height(spent[index])
        if sequence & SEQUENCE_TYPE_FLAG:
            since = context.time_at(born)
            is_open = since is not None and since + (wait << _SEQUENCE_SHIFT) <= context.time_s
        else:
            is_open = born + wait <= context.height
        if not is_open:
            raise RuleError("bad-txns-nonfinal", f"relative lock of input {index}", permanent=False)


def signature_cost(tx: Transaction, spent: Sequence[bytes]) -> int:
    """Return the signature operation cost of a transaction, one coin value per input.

    It is ``script.sigops.transaction_cost``, and on top of it what the inputs run of bare scripts that
    Bitcoin Core would not relay or has counted in another block (``bare_checks``), in units of four.
    """
    cost = plain_cost(tx, list(spent))
    if cost >= 0:
        return cost
    cost = sum(output_cost(script) for _, script in tx.vout)
    for index, coin in enumerate(spent):
        # One look at the coin tells plain payments, nearly all inputs, without building the input. That
        # their scriptSigs hold no operation is a rule of its own (SIGPUSHONLY).
        if coin[12:15] == _P2PKH_HEAD and coin[35:] == _P2PKH_TAIL:
            continue
        if len(coin) == _P2WPKH_COIN_BYTES and coin[12:14] == _P2WPKH_HEAD:
            cost += 1
        else:
            script = coin_script(coin)
            cost += input_cost(tx.vin[index], script) + WITNESS_SCALE * bare_checks(script)
    return cost


def signature_cost_limit(ledger: LedgerParams) -> int:
    """Return the largest signature operation cost of one block."""
    share = MAX_BLOCK_SIGOPS_COST * ledger.max_block_weight // MAX_BLOCK_WEIGHT
    return max(share, MIN_BLOCK_SIGOPS_COST)


class CoinChanges:
    """The coins of a view as transactions of one block spend and create them.

    ``coins`` maps prevouts to new values (None if spent), ``undo`` the same keys to the values
    before. A coin that the block both creates and spends is in neither.
    """

    __slots__ = ("_base_get", "coins", "height", "undo")

    def __init__(self, base: CoinView, height: int) -> None:
        self._base_get: Callable[[bytes], bytes | None] = base.get
        self.height = height
        self.coins: dict[bytes, bytes | None] = {}
        self.undo: dict[bytes, bytes | None] = {}

    def move_payments(
        self,
        txs: list[Transaction],
        start: int,
        items: list[tuple[Transaction, Sequence[bytes]]],
        known: dict[bytes, bytes],
        ledger: LedgerParams,
    ) -> tuple[int, int, int]:
        """Find, check and apply plain payments from ``txs[start]`` on, as far as they go.

        Adds them with the coin values that they spend to ``items``; returns the index of the first
        other transaction, the fees and the signature operation cost. ``known``: coin values read ahead.
        """
        at, fees, _, witness_inputs, legacy_outputs = move_payments(
            txs,
            start,
            items,
            self.coins,
            self.undo,
            known,
            self._base_get,
            self.height << 1,
            ledger.max_money,
            ledger.min_fee_per_kvb,
        )
        return at, fees, witness_inputs + WITNESS_SCALE * legacy_outputs

    def find(self, tx: Transaction) -> list[bytes]:
        """Return the coin values that ``tx`` spends; nothing changes.

        Raises RuleError "bad-txns-inputs-missingorspent" or "bad-txns-inputs-duplicate".
        """
        prevouts = tx.prevouts
        if len(prevouts) > 1 and len(set(prevouts)) != len(prevouts):
            raise RuleError("bad-txns-inputs-duplicate")  # again here: it would print money (CVE-2018-17144)
        changed = self.coins
        spent = []
        for prevout in prevouts:
            coin = changed.get(prevout, b"")  # no coin value is empty
            if coin == b"":
                coin = self._base_get(prevout)
            if coin is None:
                name = f"{hash_hex(prevout[:32])}:{int.from_bytes(prevout[32:], 'little')}"
                raise RuleError(
                    "bad-txns-inputs-missingorspent", f"{name} is not an unspent output", permanent=False
                )
            spent.append(coin)
        return spent

    def apply(self, tx: Transaction, spent: Sequence[bytes]) -> None:
        """Spend what ``find`` found for ``tx`` and create its outputs."""
        coins, undo = self.coins, self.undo
        for prevout, coin in zip(tx.prevouts, spent, strict=True):
            if prevout in coins:
                del coins[prevout]
                del undo[prevout]
            else:
                coins[prevout] = None
                undo[prevout] = coin
        if not create_coins(tx, coins, undo, self.height << 1):
            self.create(tx.txid, tx.vout, coinbase=False)

    def create(self, txid: bytes, outputs: Sequence[TxOut], *, coinbase: bool) -> None:
        """Create the spendable outputs of a transaction."""
        coins, undo = self.coins, self.undo
        code = self.height << 1 | coinbase
        for index, (value, script) in enumerate(outputs):
            if not is_unspendable(script):
                prevout = txid + index.to_bytes(4, "little")
                coins[prevout] = _pack_coin(code, value) + script
                undo[prevout] = None
