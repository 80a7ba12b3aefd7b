"""The state root: against RFC 6962 as it is written, proofs of single values, and the rule of blocks."""

from dataclasses import replace
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import state_root as subject
from consensus.chainfile import canonical_chain_bytes, parse_chain_file, render_chain_file
from consensus.errors import ConfigError, DecodeError
from consensus.state_root import (
    Space,
    StateProof,
    TreeHasher,
    covered_height,
    prove,
    state_root,
    verify,
)

INTERVAL = 4


def mth(leaves):
    """Merkle Tree Hash of RFC 6962, section 2.1, over leaf data; 32 zero bytes for the empty list."""
    if not leaves:
        return bytes(32)
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + mth(leaves[:split]) + mth(leaves[split:])).digest()


def expected(coins, state):
    """The state root from its definition."""
    text = b"\x02"
    for pairs in (coins, state):
        leaves = [len(key).to_bytes(4, "little") + key + value for key, value in pairs]
        text += len(pairs).to_bytes(8, "little") + mth(leaves)
    return sha256(text).digest()


def some_pairs(random, count, key_bytes):
    keys = sorted({random.randbytes(key_bytes) for _ in range(count)})
    return [(key, random.randbytes(random.randrange(1, 60))) for key in keys]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1023, 1024, 1025, 2048, 3000])
def test_root_is_that_of_the_definition(count):
    random = Random(count)
    coins, state = some_pairs(random, count, 36), some_pairs(random, 7, 9)
    assert state_root(coins, state) == expected(coins, state)
    assert state_root(state, coins) == expected(state, coins)
    assert (state_root(coins, state) == state_root(state, coins)) is False


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 70), st.integers(0, 70), st.integers(0, 2**32))
def test_rows_of_any_size_give_one_root(coins, state, seed):
    random = Random(seed)
    coins, state = some_pairs(random, coins, 36), some_pairs(random, state, 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "SLICE_LEAVES", 8)
        assert state_root(iter(coins), iter(state)) == expected(coins, state)


def test_pieces_of_any_length_give_one_root():
    pairs = some_pairs(Random(5), 2500, 36)
    tree = TreeHasher()
    for start in range(0, len(pairs), 256):
        tree.add(pairs[start : start + 256])
    whole = TreeHasher()
    whole.add(pairs)
    assert (tree.finish(), tree.count) == (whole.finish(), len(pairs))


def test_a_key_in_the_other_space_is_another_state():
    pair = (b"k" * 36, b"value")
    assert state_root([pair], []) != state_root([], [pair])


# ---- proofs


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 21])
@pytest.mark.parametrize("space", list(Space))
def test_every_value_can_be_proven(count, space):
    random = Random(count)
    spaces = [some_pairs(random, 11, 36), some_pairs(random, 11, 20)]
    spaces[space] = some_pairs(random, count, 36)
    root = state_root(*spaces)
    for at, (key, value) in enumerate(spaces[space]):
        proof = prove(*spaces, space, key)
        assert (proof.value, proof.index, proof.count, proof.space) == (value, at, len(spaces[space]), space)
        assert verify(proof, root)
        assert StateProof.decode(proof.encode()) == proof
        assert prove(*spaces, Space(1 - space), key) is None


def test_no_other_claim_passes():
    random = Random(1)
    coins, state = some_pairs(random, 13, 36), some_pairs(random, 6, 20)
    root = state_root(coins, state)
    proof = prove(coins, state, Space.COIN, coins[4][0])
    assert verify(proof, root)
    lies = [
        replace(proof, value=proof.value + b"\x00"),
        replace(proof, key=coins[5][0]),
        replace(proof, space=Space.STATE),
        replace(proof, index=5),
        replace(proof, index=-1),
        replace(proof, index=13),
        replace(proof, count=12),
        replace(proof, count=1 << 64),
        replace(proof, path=proof.path[:-1]),
        replace(proof, path=(*proof.path, bytes(32))),
        replace(proof, path=(*proof.path[:-1], bytes(32))),
        replace(proof, other_count=7),
        replace(proof, other_count=-1),
        replace(proof, other_root=bytes(32)),
        replace(proof, other_root=b""),
    ]
    assert [verify(lie, root) for lie in lies] == [False] * len(lies)
    assert not verify(proof, bytes(32))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_proofs_are_refused_or_do_not_hold(data):
    coins = some_pairs(Random(2), 9, 36)
    proof = prove(coins, [], Space.COIN, coins[2][0])
    raw = bytearray(proof.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = StateProof.decode(bytes(raw))
    except DecodeError:
        return
    assert found != proof
    assert not verify(found, state_root(coins, []))


@pytest.mark.parametrize("raw", [b"", b"\x90", b"\xc0", bytes(range(40))])
def test_what_is_no_proof_is_refused(raw):
    with pytest.raises(DecodeError):
        StateProof.decode(raw)


# ---- the rule


class Remembered:
    """State roots of a world, taken from its dicts after each block."""

    def __init__(self):
        self.roots = {}
        self.asked = []

    def note(self, world):
        coins, state = (sorted(view.data.items()) for view in (world.coins, world.state))
        self.roots[world.tip.height] = expected(coins, state)

    def root_at(self, height):
        self.asked.append(height)
        return self.roots[height]


@pytest.fixture
def grown(tools):
    """A world at height 7 whose next block commits to the state after block 4."""
    world = tools.World(params=tools.make_params(snapshot_interval_blocks=INTERVAL))
    roots = Remembered()
    world.env = replace(world.env, state_roots=roots)
    for height in range(1, 8):
        txs = [world.pay(world.purses[0], [(1000, tools.script_of(30))])] if height == 3 else []
        world.extend(txs)
        roots.note(world)
    assert roots.asked == []
    return world, roots


def test_the_end_of_an_interval_commits_to_the_state_one_interval_before(grown):
    world, roots = grown
    block = world.block()
    assert world.connect(block).tip.height == 8
    assert set(roots.asked) == {4}
    world.extend()
    roots.note(world)
    for _ in range(4):
        roots.asked.clear()
        world.extend()
        roots.note(world)
    assert set(roots.asked) == {8}


def test_heights_that_commit(tools):
    params = tools.make_params(snapshot_interval_blocks=INTERVAL)
    due = {height: covered_height(height, params) for height in range(21)}
    assert {h: c for h, c in due.items() if c is not None} == {8: 4, 12: 8, 16: 12, 20: 16}
    assert all(covered_height(height, tools.make_params()) is None for height in range(100))


def test_a_wrong_root_is_refused(grown, tools):
    world, _ = grown
    block = world.block()
    assert world.refusal(tools.rebuild(block, commitment={"state_root": bytes(32)})) == "bad-state-root"


def test_a_missing_root_is_refused(grown, tools):
    world, _ = grown
    assert world.refusal(tools.rebuild(world.block(), commitment={"state_root": None})) == "bad-state-root"


def test_a_root_that_is_not_due_is_refused(grown, tools):
    world, roots = grown
    world.extend()
    forward = {"state_root": roots.roots[4]}
    assert world.refusal(tools.rebuild(world.block(), commitment=forward)) == "bad-state-root"


def test_a_quorum_is_believed_where_the_root_is_not_at_hand(grown, tools):
    world, _ = grown
    block = tools.rebuild(world.block(), commitment={"state_root": bytes(32)})

    class Unknown:
        def root_at(self, height):
            return None

    world.env = replace(world.env, state_roots=Unknown())
    assert world.connect(block).tip.height == 8
    missing = tools.rebuild(block, commitment={"state_root": None})
    assert world.refusal(missing) == "bad-state-root"


def test_a_world_without_roots_is_a_mistake_of_ours(grown):
    world, _ = grown
    world.env = replace(world.env, state_roots=None)
    with pytest.raises(ValueError, match="state_roots"):
        world.block()


# ---- the chain file


def test_chains_without_an_interval_keep_their_identity(tools):
    params = tools.make_params()
    text = render_chain_file(params)
    older = "\n".join(line for line in text.split("\n") if not line.startswith("snapshot_interval_blocks"))
    assert older != text
    assert canonical_chain_bytes(parse_chain_file(older)) == canonical_chain_bytes(params)
    assert b"snapshot_interval" not in canonical_chain_bytes(params)
    other = tools.make_params(snapshot_interval_blocks=INTERVAL)
    assert b"snapshot_interval" in canonical_chain_bytes(other)
    assert parse_chain_file(render_chain_file(other)) == other


@pytest.mark.parametrize("blocks", [1, 3, -1, 1_000_001])
def test_intervals_that_make_no_sense(tools, blocks):
    text = render_chain_file(tools.make_params())
    text = text.replace("snapshot_interval_blocks = 0", f"snapshot_interval_blocks = {blocks}")
    with pytest.raises(ConfigError) as caught:
        parse_chain_file(text)
    assert [each.split(":")[0] for each in caught.value.problems] == ["ledger.snapshot_interval_blocks"]
