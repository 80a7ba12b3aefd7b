"""Random stories over several blocks: conservation at every height, and undo back to the start."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import DecodeError
from consensus.undo import decode_undo, encode_undo


def story(world, tools, data, blocks):
    """Extend ``world`` by random blocks; yield (coins and state before, Connected) of each."""
    purses = list(world.purses)
    for _ in range(blocks):
        txs = []
        for _ in range(data.draw(st.integers(0, 5))):
            purse = purses.pop(data.draw(st.integers(0, len(purses) - 1)))
            kind = data.draw(st.sampled_from(["pay", "deposit", "withdraw", "split"]))
            outputs = {
                "pay": [(10_000, tools.script_of(5))],
                "deposit": [(data.draw(st.integers(0, 90_000)), tools.payload("deposit"))],
                "withdraw": [(0, tools.payload("withdraw", data.draw(st.integers(1, 40_000))))],
                "split": [(5_000, tools.script_of(number)) for number in range(3)],
            }[kind]
            tx = world.pay(purse, outputs, fee=data.draw(st.integers(500, 5_000)))
            txs.append(tx)
            purses.append(world.output(tx, len(tx.vout) - 1))
        made = world.assemble(txs, proposer=data.draw(st.integers(0, 3)))
        gone = {txid for txid, _ in made.refused}
        purses = [purse for purse in purses if purse.prevout[:32] not in gone] or list(world.purses)
        before = dict(world.coins.data), dict(world.state.data)
        connected = world.connect(made.block)
        world.apply(connected)
        yield before, connected


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_tokens_are_conserved_and_undo_restores_every_block(tools, data):
    world = tools.World()
    steps = []
    for before, connected in story(world, tools, data, blocks=data.draw(st.integers(1, 6))):
        assert world.conserved()
        steps.append((before, encode_undo(connected)))
    for (coins, state), record in reversed(steps):
        for view, undo in zip((world.coins, world.state), decode_undo(record), strict=True):
            for key, value in undo.items():
                if value is None:
                    del view.data[key]  # KeyError if the block did not create it
                else:
                    view.data[key] = value
        assert world.coins.data == coins
        assert world.state.data == state


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_undo_has_the_keys_of_the_diffs_and_no_idle_coins(tools, data):
    world = tools.World()
    for (coins, state), connected in story(world, tools, data, blocks=2):
        assert connected.coins.keys() == connected.coins_undo.keys()
        assert connected.state.keys() == connected.state_undo.keys()
        for prevout, value in connected.coins.items():
            assert (value is None) != (connected.coins_undo[prevout] is None)
            assert connected.coins_undo[prevout] == coins.get(prevout)
        assert all(state.get(key) == value for key, value in connected.state_undo.items())


def test_the_state_before_is_kept_where_somebody_may_ask_for_it(tools):
    """A final block is never taken off; state roots look back."""
    for keeps in (False, True):
        world = tools.World(far_root=keeps)
        made = world.assemble([])
        connected = world.connect(made.block)
        assert connected == made.connected
        assert connected.state
        kept = {key: world.state.get(key) for key in connected.state} if keeps else {}
        assert connected.state_undo == kept


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\x93\x02\x90\x90",
        b"\x93\x01\x90",
        b"\x93\x01\x91\xc4\x01a\x90",
        b"\x93\x01\x92\x01\x02\x90",
        b"\xc1",
    ],
)
def test_broken_undo_record_is_refused(record):
    with pytest.raises(DecodeError, match="bad-undo"):
        decode_undo(record)


def test_repeated_key_in_an_undo_record_is_refused():
    pair = b"\xc4\x01a\xc4\x01b"
    decode_undo(b"\x93\x01\x92" + pair + b"\x90")
    with pytest.raises(DecodeError, match="bad-undo"):
        decode_undo(b"\x93\x01\x94" + pair + pair + b"\x90")
