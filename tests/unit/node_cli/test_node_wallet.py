"""The client's wallet: what it signs is valid, change returns, fees fit the size, chains hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.coins import encode_coin
from consensus.params import AddressPrefixes
from consensus.script.templates import p2pkh
from consensus.transaction import Transaction, TxIn, TxOut, outpoint
from contracts.operations import Deposit, encode, payload_script
from node.keyfile import Secret
from node.limits import MAX_ANCESTORS
from node.sigcheck import check_scripts
from node.wallet import DUST, Account, Coin, Wallet, WalletError, build_payment, fee_for

ACCOUNT = Account(Secret(b"\x07" * 32))
OTHER = p2pkh(b"\x09" * 20)


def funding(*values):
    return Transaction.build(
        2, [TxIn(b"\x01" * 36, b"\x51")], [TxOut(value, ACCOUNT.script) for value in values]
    )


def funded(*values, fee_rate=1000):
    wallet = Wallet(ACCOUNT, fee_rate)
    wallet.observe(funding(*values))
    return wallet


def assert_signed(built):
    coins = [encode_coin(1, False, coin.value, ACCOUNT.script) for coin in built.spent]
    assert check_scripts(built.tx, coins) is None
    assert [coin.prevout for coin in built.spent] == list(built.tx.prevouts)
    paid = sum(output.value for output in built.tx.vout)
    assert sum(coin.value for coin in built.spent) == paid + built.fee


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=6),
    st.integers(0, 2 * 10**9),
    st.integers(0, 50_000),
)
def test_payments(values, amount, fee_rate):
    coins = [Coin(bytes([number]) * 36, value) for number, value in enumerate(values)]
    if sum(values) < amount + fee_for(len(coins), [TxOut(amount, OTHER)], fee_rate):
        with pytest.raises(WalletError, match="insufficient-funds"):
            build_payment(ACCOUNT, coins, [TxOut(amount, OTHER)], fee_rate)
        return
    built = build_payment(ACCOUNT, coins, [TxOut(amount, OTHER)], fee_rate)
    assert_signed(built)
    assert built.tx.vout[0] == TxOut(amount, OTHER)
    assert built.fee * 1000 >= built.tx.vsize * fee_rate
    # at most two bytes per signature too many, or change that would have been dust
    longest = fee_for(len(built.spent), built.tx.vout, fee_rate)
    assert built.fee == longest if built.change else built.fee - longest < DUST + 34 * fee_rate / 1000 + 1
    if built.change:
        assert built.tx.vout[-1] == TxOut(built.change.value, ACCOUNT.script)
        assert built.change.prevout == outpoint(built.tx.txid, 1)
        assert built.change.value >= DUST


def test_operations_carry_payload_and_value():
    wallet = funded(10**8)
    built = wallet.operate(encode(Deposit()), value=5_000)
    assert_signed(built)
    assert built.tx.vout[0] == TxOut(5_000, payload_script(encode(Deposit())))
    assert wallet.balance == 10**8 - 5_000 - built.fee


def test_unconfirmed_change_is_chained_up_to_the_mempool_s_depth():
    wallet = funded(10**8)
    for depth in range(1, MAX_ANCESTORS + 1):
        assert wallet.pay([]).change.depth == depth
    with pytest.raises(WalletError):
        wallet.pay([])


def test_confirmation_makes_coins_fresh_and_spent_ones_do_not_return():
    wallet = funded(10**8)
    first, second = wallet.pay([]), wallet.pay([])
    wallet.observe(first.tx)
    assert wallet.coins() == [second.change]
    wallet.observe(second.tx)
    assert wallet.coins() == [second.change._replace(depth=0)]


def test_confirmed_and_large_coins_go_first():
    wallet = funded(5_000_000, 9_000_000)
    assert wallet.pay([TxOut(1000, OTHER)]).spent[0].value == 9_000_000
    assert wallet.pay([TxOut(1000, OTHER)]).spent[0].value == 5_000_000
    assert wallet.pay([TxOut(1000, OTHER)]).spent[0].depth == 1


def test_undo():
    wallet = funded(10**8)
    before = wallet.coins()
    built = wallet.pay([TxOut(1000, OTHER)])
    wallet.undo(built)
    assert wallet.coins() == before
    wallet.observe(funding(10**8))
    assert wallet.coins() == before


def test_payments_of_others():
    wallet = funded(10**8)
    wallet.observe(Transaction.build(2, [TxIn(b"\x02" * 36, b"")], [TxOut(5, OTHER)]))
    assert wallet.balance == 10**8
    spend = Transaction.build(2, [TxIn(wallet.coins()[0].prevout, b"")], [TxOut(5, OTHER)])
    wallet.observe(spend)
    assert wallet.balance == 0


def test_account_shows_no_secret():
    assert "0707" not in repr(ACCOUNT)
    assert ACCOUNT.address(AddressPrefixes(111, 196, 239, "tb"))[0] in "mn"
