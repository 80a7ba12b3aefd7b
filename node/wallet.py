"""A client's wallet in the small: one P2PKH account, its coins, payments and operations.

It keeps track of its own unconfirmed change, so transactions can be chained without waiting for
blocks. It asks no node: feed it the transactions that concern it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from consensus.address import encode_address
from consensus.codec import compact_size, var_bytes
from consensus.errors import PeerFault
from consensus.hashes import hash160
from consensus.keys import pubkey_from_secret, sign_ecdsa
from consensus.params import AddressPrefixes
from consensus.script.templates import p2pkh, push_data
from consensus.sighash import legacy
from consensus.transaction import SEQUENCE_FINAL, Transaction, TxIn, TxOut, outpoint
from contracts.operations import payload_script
from node.keyfile import Secret
from node.limits import MAX_ANCESTORS

SIGHASH_ALL = 1

DUST = 546
"""Change below this many base units costs more to spend than it is worth (Bitcoin Core's threshold
for P2PKH); it goes to the fee."""

_FIXED_SIZE = 8
"""Version and lock time."""

_INPUT_SIZE = 36 + 1 + 107 + 4
"""Longest signed P2PKH input: the scriptSig pushes a low-S signature (72 bytes with its hash type)
and a key (33)."""


class WalletError(PeerFault):
    """What the wallet was asked for cannot be built."""


class Coin(NamedTuple):
    """A spendable output of the account. ``depth`` counts its unconfirmed ancestors, 0 if confirmed."""

    prevout: bytes
    value: int
    depth: int = 0


class Account:
    """A secp256k1 key and its P2PKH script."""

    __slots__ = ("_secret", "pubkey", "script")

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self.pubkey = pubkey_from_secret(secret.reveal())
        self.script = p2pkh(hash160(self.pubkey))

    def __repr__(self) -> str:
        return f"Account({self.script.hex()})"

    def address(self, prefixes: AddressPrefixes) -> str:
        """Return the account's address on a chain."""
        return str(encode_address(self.script, prefixes))

    def sign(self, tx: Transaction) -> Transaction:
        """Return ``tx`` with every input signed (SIGHASH_ALL); all must spend this account's coins."""
        signed = []
        for index, txin in enumerate(tx.vin):
            digest = legacy(tx, index, self.script, SIGHASH_ALL)
            signature = sign_ecdsa(self._secret.reveal(), digest) + bytes((SIGHASH_ALL,))
            signed.append(txin._replace(script_sig=push_data(signature) + push_data(self.pubkey)))
        return Transaction.build(tx.version, signed, tx.vout, tx.lock_time)


class Built(NamedTuple):
    """A signed transaction, the coins it spends, and its change if any."""

    tx: Transaction
    fee: int
    spent: tuple[Coin, ...]
    change: Coin | None


def build_payment(account: Account, coins: Iterable[Coin], outputs: Sequence[TxOut], fee_rate: int) -> Built:
    """Spend ``coins``, in the order given and as many as it takes, to ``outputs``.

    Change goes back to the account, as the last output. ``fee_rate`` is in base units per 1000
    virtual bytes. Raises WalletError "insufficient-funds".
    """
    wanted = sum(output.value for output in outputs)
    spent: list[Coin] = []
    have = 0
    ancestors = 0
    for coin in coins:
        if ancestors + coin.depth >= MAX_ANCESTORS:
            continue  # together they would hang on more unconfirmed transactions than a mempool takes
        ancestors += coin.depth
        spent.append(coin)
        have += coin.value
        if have < wanted + fee_for(len(spent), outputs, fee_rate):
            continue
        change = have - wanted - fee_for(len(spent), [*outputs, TxOut(0, account.script)], fee_rate)
        final = [*outputs, TxOut(change, account.script)] if change >= DUST else list(outputs)
        tx = account.sign(_unsigned(spent, final))
        fee = have - sum(output.value for output in final)
        back = None
        if change >= DUST:
            depth = 1 + sum(coin.depth for coin in spent)
            back = Coin(outpoint(tx.txid, len(final) - 1), change, depth)
        return Built(tx, fee, tuple(spent), back)
    raise WalletError("insufficient-funds", f"{wanted} and a fee wanted, {have} there")


def build_operation(
    account: Account, coins: Iterable[Coin], payload: bytes, fee_rate: int, *, value: int = 0
) -> Built:
    """Carry out a contract operation as ``account``; ``value`` rides on the payload output.

    Raises WalletError "insufficient-funds".
    """
    return build_payment(account, coins, [TxOut(value, payload_script(payload))], fee_rate)


def fee_for(inputs: int, outputs: Sequence[TxOut], fee_rate: int) -> int:
    """Return the fee of a transaction with that many signed P2PKH inputs, rounded up."""
    size = _FIXED_SIZE + len(compact_size(inputs)) + inputs * _INPUT_SIZE + len(compact_size(len(outputs)))
    size += sum(8 + len(var_bytes(output.script_pubkey)) for output in outputs)
    return (size * fee_rate + 999) // 1000


def _unsigned(coins: Sequence[Coin], outputs: Sequence[TxOut]) -> Transaction:
    return Transaction.build(2, [TxIn(coin.prevout, b"", SEQUENCE_FINAL) for coin in coins], outputs)


class Wallet:
    """An account with the coins it knows, confirmed or its own pending change."""

    def __init__(self, account: Account, fee_rate: int) -> None:
        """Pay ``fee_rate`` base units per 1000 virtual bytes."""
        self.account = account
        self.fee_rate = fee_rate
        self._coins: dict[bytes, Coin] = {}
        self._pending: set[bytes] = set()

    @property
    def balance(self) -> int:
        """Return the sum of spendable coins, pending change included."""
        return sum(coin.value for coin in self._coins.values())

    def coins(self) -> list[Coin]:
        """Return the spendable coins, confirmed and large ones first."""
        return sorted(self._coins.values(), key=lambda coin: (coin.depth, -coin.value, coin.prevout))

    def observe(self, tx: Transaction) -> None:
        """Take note of a confirmed transaction: what it spends is gone, what it pays us is there."""
        for prevout in tx.prevouts:
            self._coins.pop(prevout, None)
            self._pending.discard(prevout)
        for index, output in enumerate(tx.vout):
            prevout = outpoint(tx.txid, index)
            if output.script_pubkey == self.account.script and prevout not in self._pending:
                self._coins[prevout] = Coin(prevout, output.value)

    def pay(self, outputs: Sequence[TxOut]) -> Built:
        """Build a payment and count its coins as spent. Raises WalletError."""
        return self._take(build_payment(self.account, self._usable(), outputs, self.fee_rate))

    def operate(self, payload: bytes, *, value: int = 0) -> Built:
        """Build an operation and count its coins as spent. Raises WalletError."""
        return self._take(build_operation(self.account, self._usable(), payload, self.fee_rate, value=value))

    def undo(self, built: Built) -> None:
        """Take back a transaction that the node refused."""
        if built.change is not None:
            self._coins.pop(built.change.prevout, None)
        for coin in built.spent:
            self._coins[coin.prevout] = coin
            self._pending.discard(coin.prevout)

    def _usable(self) -> list[Coin]:
        return [coin for coin in self.coins() if coin.depth < MAX_ANCESTORS]

    def _take(self, built: Built) -> Built:
        for coin in built.spent:
            del self._coins[coin.prevout]
            self._pending.add(coin.prevout)
        if built.change is not None:
            self._coins[built.change.prevout] = built.change
        return built
