"""From a template to a block: the coinbase's branch, extra nonces, header times and the search."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext import merkle_root
from consensus.assemble import MAX_EXTRA_NONCE
from consensus.block import Block
from consensus.block_rules import check_block
from consensus.errors import RuleError
from consensus.hashes import sha256d
from consensus.merkle import txid_root
from consensus.pow.mining import NONCES, Work, coinbase_branch
from consensus.pow.target import target_of
from consensus.script.templates import push_number
from tests.unit.consensus_pow.powblocks import Quarry
from tests.unit.consensus_pow.powkit import SPACING


@pytest.fixture
def quarry(tools):
    return Quarry(tools)


def work_on(quarry, txs=(), **given):
    return Work(quarry.template(txs, **given), quarry.tip.height + 1)


def solve(work, extra_nonce, time_s=None):
    header = work.header(extra_nonce, time_s)
    nonce = work.search(header, 0, NONCES)
    return work.solved(extra_nonce, header, nonce)


# ---- the branch


@pytest.mark.parametrize("count", [*range(1, 35), 63, 64, 65, 127, 128, 129, 1000, 1023, 1024, 1025])
def test_the_branch_folds_to_the_full_root(count):
    dice = random.Random(count)
    txids = [dice.randbytes(32) for _ in range(count)]
    for _ in range(3):  # whatever the coinbase becomes
        root = txids[0] = dice.randbytes(32)
        for sibling in coinbase_branch(txids):
            root = sha256d(root + sibling)
        assert root == merkle_root(b"".join(txids))[0]
    assert len(coinbase_branch(txids)) == (count - 1).bit_length()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=80))
def test_the_branch_does_not_depend_on_the_coinbase(txids):
    assert coinbase_branch(txids) == coinbase_branch([bytes(32), *txids[1:]])


@pytest.mark.parametrize("payments", [0, 1, 2, 3, 6, 7])
def test_a_header_has_the_root_of_the_block_that_it_becomes(quarry, payments):
    w = quarry.world
    purse, txs = w.purses[0], []
    for _ in range(payments):
        tx = w.pay(purse, [(500, quarry.script)], witness=(b"s", b"k"))
        txs.append(tx)
        purse = w.output(tx, 1)
    work = work_on(quarry, txs)
    for extra_nonce in (b"", b"\x00", b"\x01\x02", bytes(range(MAX_EXTRA_NONCE))):
        block = solve(work, extra_nonce)
        assert block.header.merkle_root == txid_root(block.txs)[0]
        assert block.txs[1:] == tuple(txs)
        check_block(block, quarry.params)  # the witness commitment leaves the coinbase out, so it holds
        w.connect(block)
    quarry.append(block)


# ---- extra nonces


def test_a_template_is_the_work_of_its_own_extra_nonce(quarry):
    template = quarry.template(extra_nonce=b"\x07\x08")
    work = Work(template, 1)
    assert work.header(b"\x07\x08").raw[:76] == template.header.raw[:76]
    assert work.coinbase(b"\x07\x08") == template.txs[0]


def test_every_extra_nonce_is_other_work(quarry):
    work = work_on(quarry)
    nonces = [n.to_bytes(4, "big") for n in range(50)] + [b"", b"\x00", b"\x00\x00"]
    assert len({work.header(extra).merkle_root for extra in nonces}) == len(nonces)


def test_the_height_stays_in_front(quarry):
    for _ in range(20):
        quarry.dig()
    script_sig = work_on(quarry).coinbase(b"\xff" * 9).vin[0].script_sig
    assert script_sig == push_number(21) + b"\x09" + b"\xff" * 9


def test_too_long_an_extra_nonce(quarry):
    work = work_on(quarry)
    with pytest.raises(ValueError):
        work.header(bytes(MAX_EXTRA_NONCE + 1))
    with pytest.raises(ValueError):
        quarry.template(extra_nonce=bytes(MAX_EXTRA_NONCE + 1))


def test_the_longest_extra_nonce_fits_a_block_that_is_full(tools):
    """The template's own extra nonce is short; the miner's need not be."""
    limit = 200_000
    quarry = Quarry(tools, ledger={"max_block_weight": limit})
    w = quarry.world
    purse, txs = w.purses[0], []
    for _ in range(9):
        tx = w.pay(purse, [(500, quarry.script)], fee=30_000, witness=(b"s" * 20_000,))
        txs.append(tx)
        purse = w.output(tx, 1)

    def filled(size):
        filler = w.pay(w.purses[1], [(500, quarry.script)], fee=30_000, witness=(b"s" * size,))
        return quarry.template([*txs, filler])

    size = limit - filled(1_000).weight + 1_000  # would fill the block to the last unit
    fullest = 0
    for spare in range(300):
        template = filled(size - spare)
        if len(template.txs) == len(txs) + 2:
            fullest = max(fullest, template.weight)
            check_block(solve(Work(template, 1), bytes(MAX_EXTRA_NONCE)), quarry.params)
    assert limit - 200 <= fullest <= limit


# ---- header times


def test_a_later_header_time_needs_no_new_template(quarry):
    """Neither target nor contract time follow the block's own stamp."""
    for _ in range(12):
        quarry.dig()
    work = work_on(quarry, [quarry.world.pay(quarry.world.purses[0], [(500, quarry.script)])])
    given = [
        quarry.world.connect(solve(work, b"\x01", quarry.tip.time_s + step_s)) for step_s in (1, SPACING, 99)
    ]
    assert len({connected.tip.effects_digest for connected in given}) == 1
    assert [connected.tip.time_s - quarry.tip.time_s for connected in given] == [1, SPACING, 99]


def test_a_header_time_not_after_the_median_is_refused(quarry):
    for _ in range(12):
        quarry.dig()
    work = work_on(quarry)
    with pytest.raises(RuleError) as caught:
        quarry.world.connect(solve(work, b"", quarry.tip.time_s - 5 * SPACING))
    assert caught.value.code == "time-too-old"


# ---- the search


def test_a_search_finds_the_first_nonce_that_meets_the_target(quarry):
    work = work_on(quarry)
    header = work.header(b"\x05")
    target = target_of(header.bits)

    def meets(nonce):
        raw = header.raw[:76] + nonce.to_bytes(4, "little")
        return int.from_bytes(sha256d(raw), "little") <= target

    hits = [nonce for nonce in range(300) if meets(nonce)]
    assert work.search(header, 0, 300) == hits[0]
    assert work.search(header, hits[0] + 1, 300) == hits[1]
    assert work.search(header, hits[0], 1) == hits[0]
    assert work.search(header, hits[0] + 1, hits[1] - hits[0] - 1) is None
    assert work.search(header, 0, 0) is None


def test_solved_blocks_extend_the_chain(quarry):
    for number in range(30):
        work = work_on(quarry, step_s=1 + number % 17)
        block = solve(work, number.to_bytes(3, "big"))
        check_block(block, quarry.params)
        assert quarry.append(block).tip.block_hash == block.hash
    assert quarry.world.conserved()


def test_no_work_without_a_target(quarry):
    template = quarry.template()
    raw = template.header.raw
    bad = type(template.header).parse(raw[:72] + (0x1D800000).to_bytes(4, "little") + raw[76:])
    with pytest.raises(ValueError):
        Work(Block.build(bad, template.txs), 1)
