"""The one place where contracts move money: balances, locked amounts, debts and payouts.

Every account is a scriptPubKey. Money enters by ``deposit`` (the value of a payload output) and
leaves by ``withdraw`` (a payout in the coinbase of a later block); everything else moves it between
accounts, so ``sum(available + locked) + sum(queued payouts)`` changes by deposits and paid payouts alone.

A **charge** that the payer cannot cover moves what is there and records the rest as a debt to the
creditor. Later credits of the debtor pay its debts first, oldest first. Two accounts that owe each
other are netted. A debt has no lock on money that is collateral of an order.
"""

from consensus.errors import RuleError
from contracts import keys
from contracts.limits import MAX_AMOUNT
from contracts.records import Account, ReadableState, WritableState, pack, unpack


class Bank:
    """Money of the contracts, in a writable state."""

    __slots__ = ("_state",)

    def __init__(self, state: WritableState) -> None:
        self._state = state

    # ---- balances ------------------------------------------------------------------------------

    def account(self, account: bytes) -> Account:
        """Return the balances of ``account``, zeros if it has none."""
        value = self._state.get(keys.ACCOUNT + account)
        return Account() if value is None else Account(*unpack(value))

    def _store(self, account: bytes, record: Account) -> None:
        key = keys.ACCOUNT + account
        if record.available or record.locked or record.first_debt != record.next_debt:
            self._state.put(key, pack(record))
        else:
            self._state.delete(key)

    def deposit(self, account: bytes, amount: int) -> None:
        """Credit what a payload output brings."""
        if amount:
            self._credit(account, amount)

    def lock(self, account: bytes, amount: int) -> None:
        """Move ``amount`` from available to locked. Raises RuleError ``insufficient-balance``."""
        record = self._spendable(account, amount)
        self._store(
            account, record._replace(available=record.available - amount, locked=record.locked + amount)
        )

    def release(self, account: bytes, amount: int) -> None:
        """Move ``amount`` from locked to available; debts are paid from it first."""
        if amount:
            self._take_locked(account, amount)
            self._credit(account, amount)

    def move_locked(self, payments: list[tuple[bytes, int]], receipts: list[tuple[bytes, int]]) -> None:
        """Take the payments out of locked money and credit the receipts; the two sums are equal.

        Raises ValueError if they are not, or if more is taken than locked: a fault of the caller.
        """
        if sum(amount for _, amount in payments) != sum(amount for _, amount in receipts):
            raise ValueError("payments and receipts differ")
        for account, amount in payments:
            self._take_locked(account, amount)
        for account, amount in receipts:
            self._credit(account, amount)

    def withdraw(self, account: bytes, amount: int, height: int) -> int:
        """Queue a payout to the account's own script; return its number.

        Raises RuleError ``insufficient-balance``.
        """
        record = self._spendable(account, amount)
        self._store(account, record._replace(available=record.available - amount))
        value = self._state.get(keys.PAYOUT_NEXT)
        number = 0 if value is None else int.from_bytes(value, "big")
        self._state.put(keys.PAYOUT_NEXT, keys.number(number + 1))
        self._state.put(keys.PAYOUT + keys.number(number), pack((account, amount, height)))
        return number

    def _spendable(self, account: bytes, amount: int) -> Account:
        record = self.account(account)
        if record.available and record.first_debt != record.next_debt:
            self._credit(account, 0)  # what came back from its own creditors pays debts before anything else
            record = self.account(account)
        if record.available < amount:
            raise RuleError(
                "insufficient-balance", f"{amount} wanted, {record.available} available", permanent=False
            )
        return record

    def _take_locked(self, account: bytes, amount: int) -> None:
        record = self.account(account)
        if not 0 <= amount <= record.locked:
            raise ValueError(f"{amount} of {record.locked} locked base units")
        self._store(account, record._replace(locked=record.locked - amount))

    # ---- charges and debts -----------------------------------------------------------------------

    def charge(self, debtor: bytes, creditor: bytes, amount: int, *, locked: int = 0) -> int:
        """Make ``debtor`` pay: netted debts first, then locked money, then available money, then by a debt.

        ``locked`` bounds what may be taken from locked money; returns what is left of it. Raises
        ValueError if less than ``locked`` is locked: a fault of the caller.
        """
        if debtor == creditor or not amount:
            return locked
        amount = self._net(debtor, creditor, min(amount, MAX_AMOUNT))
        record = self.account(debtor)
        from_locked = min(amount, locked)
        from_available = min(amount - from_locked, record.available)
        if locked > record.locked:
            raise ValueError(f"{locked} of {record.locked} locked base units")
        self._store(
            debtor,
            record._replace(available=record.available - from_available, locked=record.locked - from_locked),
        )
        paid = from_locked + from_available
        if amount > paid:
            self._owe(debtor, creditor, amount - paid)
        if paid:
            self._credit(creditor, paid)
        return locked - from_locked

    def _net(self, debtor: bytes, creditor: bytes, amount: int) -> int:
        """Set a new claim off against what the creditor owes the debtor; return what is left of it."""
        number = self._debt_number(creditor, debtor)
        if number is None:
            return amount
        owed = self._debt(creditor, number)[1]
        netted = min(owed, amount)
        self._set_debt(creditor, number, debtor, owed - netted)
        if owed == netted:
            self._store(creditor, self._without_holes(creditor, self.account(creditor)))
        return amount - netted

    def _owe(self, debtor: bytes, creditor: bytes, amount: int) -> None:
        number = self._debt_number(debtor, creditor)
        if number is not None:
            owed = self._debt(debtor, number)[1]
            self._set_debt(debtor, number, creditor, min(owed + amount, MAX_AMOUNT))
            return
        record = self.account(debtor)
        self._set_debt(debtor, record.next_debt, creditor, amount)
        index = keys.owned(keys.DEBT_OF, debtor) + creditor
        self._state.put(index, keys.number(record.next_debt))
        self._store(debtor, record._replace(next_debt=record.next_debt + 1))

    def _debt_number(self, debtor: bytes, creditor: bytes) -> int | None:
        value = self._state.get(keys.owned(keys.DEBT_OF, debtor) + creditor)
        return None if value is None else int.from_bytes(value, "big")

    def _debt(self, debtor: bytes, number: int) -> tuple[bytes, int]:
        creditor, amount = unpack(self._state.get(_debt_key(debtor, number)) or b"")
        return creditor, amount

    def _set_debt(self, debtor: bytes, number: int, creditor: bytes, amount: int) -> None:
        if amount:
            self._state.put(_debt_key(debtor, number), pack((creditor, amount)))
        else:
            self._state.delete(_debt_key(debtor, number))
            self._state.delete(keys.owned(keys.DEBT_OF, debtor) + creditor)

    def _without_holes(self, account: bytes, record: Account) -> Account:
        """Return ``record`` with its queue of debts starting at one that exists, if any does."""
        first = record.first_debt
        while first < record.next_debt and self._state.get(_debt_key(account, first)) is None:
            first += 1
        return record._replace(first_debt=first)

    def _credit(self, account: bytes, amount: int) -> None:
        """Add to available money and pay debts from it, oldest first.

        What a creditor gets pays the creditor's own debts in turn, each account once: money that
        comes round again to an account waits there until it is next used. So the work is bounded by
        the number of accounts in debt even where debts form a circle.
        """
        credits = [(account, amount)]
        served: dict[bytes, None] = {}
        for who, what in credits:
            record = self.account(who)
            record = record._replace(available=record.available + what)
            if record.first_debt != record.next_debt and who not in served:
                served[who] = None
                record = self._pay_debts(who, record, credits)
            self._store(who, record)

    def _pay_debts(self, debtor: bytes, record: Account, credits: list[tuple[bytes, int]]) -> Account:
        available = record.available
        while available and record.first_debt != record.next_debt:
            creditor, owed = self._debt(debtor, record.first_debt)
            paid = min(owed, available)
            available -= paid
            credits.append((creditor, paid))
            self._set_debt(debtor, record.first_debt, creditor, owed - paid)
            if paid == owed:
                record = self._without_holes(debtor, record)
        return record._replace(available=available)


def sums(state: ReadableState) -> dict[str, int]:
    """Return the money of all accounts, all debts and the payout queue, by a scan of their records."""
    available = locked = 0
    for _, value in state.scan(keys.ACCOUNT):
        free, held = unpack(value)[:2]
        available += free
        locked += held
    return {
        "available": available,
        "locked": locked,
        "accounts": available + locked,
        "payouts": sum(unpack(value)[1] for _, value in state.scan(keys.PAYOUT)),
        "debts": sum(unpack(value)[1] for _, value in state.scan(keys.DEBT)),
    }


def _debt_key(debtor: bytes, number: int) -> bytes:
    return keys.owned(keys.DEBT, debtor) + keys.number(number)
