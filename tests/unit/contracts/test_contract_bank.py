"""The bank alone: money moves, nothing appears, debts are paid in their order."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import RuleError
from contracts.bank import Bank, sums
from contracts.limits import MAX_AMOUNT
from contracts.queries import account as account_view
from contracts.records import Account
from contracts.state import SessionState

A, B, C, D = (bytes([0x76, number]) * 12 for number in range(4))


@pytest.fixture
def bank(kit):
    return Bank(SessionState(kit.DictState()))


def debts(bank, script):
    view = account_view(bank._state, script)
    return [(bytes.fromhex(debt["creditor"]), debt["amount"]) for debt in view["debts"]]


def test_lock_and_release(bank):
    bank.deposit(A, 100)
    bank.lock(A, 60)
    assert bank.account(A) == Account(40, 60)
    with pytest.raises(RuleError) as caught:
        bank.lock(A, 41)
    assert caught.value.code == "insufficient-balance"
    bank.release(A, 60)
    assert bank.account(A) == Account(100, 0)
    with pytest.raises(ValueError, match="locked"):
        bank.release(A, 1)


def test_locked_money_moves_only_in_equal_sums(bank):
    bank.deposit(A, 100)
    bank.lock(A, 60)
    bank.move_locked([(A, 50)], [(B, 20), (C, 30)])
    assert (bank.account(A), bank.account(B), bank.account(C)) == (Account(40, 10), Account(20), Account(30))
    with pytest.raises(ValueError, match="differ"):
        bank.move_locked([(A, 5)], [(B, 6)])
    with pytest.raises(ValueError, match="locked"):
        bank.move_locked([(A, 11)], [(B, 11)])


def test_a_charge_takes_collateral_then_money_then_credit(bank):
    bank.deposit(A, 100)
    bank.lock(A, 60)
    assert bank.charge(A, B, 30, locked=50) == 20
    assert bank.account(A) == Account(40, 30)
    assert bank.charge(A, B, 25, locked=20) == 0
    assert bank.account(A) == Account(35, 10)
    assert bank.charge(A, B, 50) == 0
    assert bank.account(A)[:2] == (0, 10)
    assert debts(bank, A) == [(B, 15)]
    assert bank.account(B) == Account(90)
    with pytest.raises(ValueError, match="locked"):
        bank.charge(A, B, 11, locked=11)


def test_charging_oneself_moves_nothing(bank):
    assert bank.charge(A, A, 5, locked=3) == 3
    assert bank.charge(A, B, 0, locked=3) == 3
    assert bank._state.writes() == {}


def test_debts_are_paid_oldest_first(bank):
    for creditor, amount in ((C, 10), (B, 20), (D, 30), (C, 5)):
        bank.charge(A, creditor, amount)
    assert debts(bank, A) == [(C, 15), (B, 20), (D, 30)]
    bank.deposit(A, 16)
    assert debts(bank, A) == [(B, 19), (D, 30)]
    bank.charge(A, C, 1)
    assert debts(bank, A) == [(B, 19), (D, 30), (C, 1)]
    bank.deposit(A, 51)
    assert debts(bank, A) == []
    assert bank.account(A) == Account(1, 0, 4, 4)
    assert [bank.account(who).available for who in (B, C, D)] == [20, 16, 30]


def test_mutual_debts_are_netted(bank):
    bank.charge(A, B, 10)
    bank.charge(A, C, 7)
    bank.charge(B, A, 4)
    assert (debts(bank, A), debts(bank, B)) == ([(B, 6), (C, 7)], [])
    bank.charge(B, A, 9)
    assert (debts(bank, A), debts(bank, B)) == ([(C, 7)], [(A, 3)])
    bank.charge(C, A, 7)
    assert debts(bank, A) == []
    assert bank.account(A) == Account()


def test_netting_in_the_middle_of_the_queue_leaves_no_hole_that_stops_it(bank):
    for creditor in (B, C, D):
        bank.charge(A, creditor, 10)
    bank.charge(C, A, 10)
    bank.deposit(A, 25)
    assert debts(bank, A) == []
    assert bank.account(A).available == 5
    assert [bank.account(who).available for who in (B, C, D)] == [10, 0, 10]


def test_a_released_collateral_pays_debts_too(bank):
    bank.deposit(A, 50)
    bank.lock(A, 50)
    bank.charge(A, B, 20)
    assert debts(bank, A) == [(B, 20)]
    bank.release(A, 30)
    assert (debts(bank, A), bank.account(A)[:2]) == ([], (10, 20))


def test_a_circle_of_debts_ends(bank):
    big = 10**15
    bank.charge(A, B, big)
    bank.charge(B, C, big)
    bank.charge(C, A, big)
    bank.deposit(A, 3)
    assert [debts(bank, who)[0][1] for who in (A, B, C)] == [big - 3] * 3
    assert bank.account(A).available == 3  # it came round, and waits here
    with pytest.raises(RuleError):
        bank.withdraw(A, 4, 1)
    # before it is used it pays debts again
    assert [debts(bank, who)[0][1] for who in (A, B, C)] == [big - 6] * 3


def test_debts_stop_at_the_largest_amount(bank):
    bank.charge(A, B, MAX_AMOUNT + 5)
    bank.charge(A, B, MAX_AMOUNT)
    assert debts(bank, A) == [(B, MAX_AMOUNT)]


def test_withdrawals_queue_in_order(bank):
    bank.deposit(A, 100)
    assert [bank.withdraw(A, 10, 7), bank.withdraw(A, 20, 7)] == [0, 1]
    assert bank.account(A).available == 70
    assert sums(bank._state) == {"available": 70, "locked": 0, "accounts": 70, "payouts": 30, "debts": 0}


WHO = st.sampled_from([A, B, C, D])
AMOUNT = st.integers(0, 50)
STEPS = st.lists(
    st.tuples(st.sampled_from(["deposit", "charge", "lock", "release", "withdraw"]), WHO, WHO, AMOUNT),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=300)
def test_money_is_conserved_and_debts_never_face_each_other(kit, steps):
    bank = Bank(SessionState(kit.DictState()))
    brought = 0
    for kind, who, other, amount in steps:
        if kind == "deposit":
            bank.deposit(who, amount)
            brought += amount
        elif kind == "charge":
            bank.charge(who, other, amount, locked=min(amount, bank.account(who).locked))
        elif kind == "release":
            bank.release(who, min(amount, bank.account(who).locked))
        else:
            with suppress(RuleError):
                bank.lock(who, amount) if kind == "lock" else bank.withdraw(who, amount, 1)
        found = sums(bank._state)
        assert found["accounts"] + found["payouts"] == brought
        owing = {(w, c) for w in (A, B, C, D) for c, amount in debts(bank, w) if amount > 0}
        assert not {(c, w) for w, c in owing} & owing
        for w in (A, B, C, D):
            record = bank.account(w)
            assert min(record) >= 0
            assert (record.first_debt == record.next_debt) == (not debts(bank, w))
