"""Fee estimation: known histories give known answers."""

import struct
from random import Random

import pytest

from consensus.errors import DecodeError
from node.fees import BOUNDS, MAX_TARGET, Estimate, FeeEstimator, bucket_of


def history(estimator, blocks, feed, start=0):
    for height in range(start + 1, start + blocks + 1):
        estimator.block(height, feed(height))


def rate(estimator, target, waiting=(), *, conservative=False):
    return estimator.estimate(target, waiting, conservative=conservative).rate


@pytest.fixture
def busy():
    """High rates confirm in the next block, middle ones within 5, low ones within 20."""
    estimator = FeeEstimator(0)
    history(
        estimator,
        200,
        lambda height: (
            [(height - 1, 50_000)] * 20 + [(height - 5, 10_000)] * 20 + [(height - 20, 2_000)] * 20
        ),
    )
    return estimator


def test_without_data_there_is_no_answer():
    estimator = FeeEstimator(0)
    assert estimator.estimate(6, (), conservative=True) == Estimate(None, 0)
    history(estimator, 50, lambda height: [])
    assert estimator.estimate(6, (), conservative=True) == Estimate(None, 0)


def test_faster_costs_more(busy):
    assert rate(busy, 2) == 50_000
    assert rate(busy, 10) == 10_000
    assert rate(busy, 40) == 2_000
    rates = [rate(busy, target) for target in range(2, 101)]
    assert rates == sorted(rates, reverse=True)


def test_the_next_block_is_never_promised(busy):
    assert busy.estimate(1, (), conservative=False) == busy.estimate(2, (), conservative=False)
    assert busy.estimate(1, (), conservative=False).blocks == 2


def test_targets_reach_half_of_what_was_seen(busy):
    assert busy.estimate(MAX_TARGET, (), conservative=False).blocks == 99


def test_what_waits_in_vain_counts(busy):
    """A crowd at the middle rate that has waited long: it does not confirm in time any more."""
    crowd = [(busy._height - 30, 10_000)] * 2_000
    assert rate(busy, 10) == 10_000
    assert rate(busy, 10, crowd) == 50_000


def test_what_left_unconfirmed_counts():
    estimator = FeeEstimator(0)

    def feed(height):
        for _ in range(40):
            estimator.left(height - 12, 2_000)
        return [(height - 1, 50_000)] * 20 + [(height - 2, 2_000)] * 5

    history(estimator, 100, feed)
    assert rate(estimator, 6) == 50_000


def test_what_left_at_once_says_nothing():
    estimator = FeeEstimator(0)

    def feed(height):
        for _ in range(1_000):
            estimator.left(height, 2_000)
        return [(height - 1, 2_000)] * 20

    history(estimator, 100, feed)
    assert rate(estimator, 2) == 2_000


def test_the_past_fades():
    estimator = FeeEstimator(0)
    history(estimator, 100, lambda height: [(height - 1, 50_000)] * 20)
    history(estimator, 150, lambda height: [(height - 1, 2_000)] * 20, start=100)
    assert rate(estimator, 2) == 2_000


def test_a_conservative_answer_remembers_longer():
    """After a calm spell the short horizon is content with little, the longer ones are not."""
    estimator = FeeEstimator(0)
    history(estimator, 300, lambda height: [(height - 1, 50_000)] * 20 + [(height - 40, 2_000)] * 20)
    history(estimator, 120, lambda height: [(height - 1, 2_000)] * 20, start=300)
    assert rate(estimator, 2) == 2_000
    assert rate(estimator, 2, conservative=True) == 50_000


def test_a_conservative_answer_takes_no_comfort_from_a_shorter_horizon():
    """The longest horizon has seen too little; the middle one remembers, the short one does not."""
    estimator = FeeEstimator(0)
    history(estimator, 60, lambda height: [(height - 1, 50_000), (height - 60, 2_000)])
    history(estimator, 120, lambda height: [(height - 1, 2_000)], start=60)
    assert rate(estimator, 10) == 2_000
    assert rate(estimator, 10, conservative=True) == 50_000


def test_few_transactions_say_nothing():
    estimator = FeeEstimator(0)
    history(estimator, 20, lambda height: [(height - 1, 50_000)] if height == 3 else [])
    assert rate(estimator, 2) is None


def test_long_fading_loses_no_precision():
    """Counts are renormalised before their weight overflows."""
    estimator = FeeEstimator(0)
    history(estimator, 7_000, lambda height: [(height - 1, 5_000)] * 3)
    assert rate(estimator, 2) == 5_000
    assert estimator._short.weight < 1e101


def test_buckets_forget_what_has_faded():
    estimator = FeeEstimator(0)
    history(estimator, 10, lambda height: [(height - 1, 100 * 2**height)])
    history(estimator, 1_000, lambda height: [(height - 1, 5_000)], start=10)
    estimator.dump()
    assert list(estimator._short.buckets) == [bucket_of(5_000)]


def test_a_block_counts_once():
    estimator = FeeEstimator(5)
    estimator.block(5, [(4, 1_000)])
    estimator.block(4, [(3, 1_000)])
    assert estimator._short.buckets == {}
    estimator.block(6, [(6, 1_000)])  # admitted at this height: it cannot have waited
    assert estimator._short.buckets == {}


def test_every_rate_has_a_bucket():
    assert bucket_of(0) == 0
    assert bucket_of(10**15) == len(BOUNDS)
    places = [bucket_of(each) for each in range(0, 100_000, 7)]
    assert places == sorted(places)


def test_a_dump_restores_the_answers(busy):
    other = FeeEstimator(200)
    other.restore(busy.dump())
    for target in (2, 6, 10, 40, 90, 500):
        for conservative in (False, True):
            given = other.estimate(target, (), conservative=conservative)
            assert given == busy.estimate(target, (), conservative=conservative)
    assert other.dump() == busy.dump()


def test_an_old_history_does_not_widen_targets(busy):
    other = FeeEstimator(200 + 6 * MAX_TARGET + 1)
    other.restore(busy.dump())
    assert other.estimate(50, (), conservative=False).blocks == 0


def test_a_bad_dump_changes_nothing(busy):
    data = busy.dump()
    before = rate(busy, 2)
    dice = Random(1)
    bad = [b"", data[:-1], data + b"x", b"\xff" * len(data), data[:8] + b"\xff" * 4 + data[12:]]
    bad += [data[:at] for at in dice.sample(range(len(data)), 40)]
    nan = data[:16] + b"\xff" * 8 + data[24:]
    tiny = data[:16] + struct.pack("<d", 5e-324) + data[24:]  # a rate beyond all bounds
    row = 4 + (3 + 2 * 12) * 8
    twice = data[:12] + data[12 : 12 + row] * 2 + data[12 + 2 * row :]
    for each in (*bad, nan, tiny, twice, (9).to_bytes(4, "little") + bytes(16)):
        with pytest.raises(DecodeError, match="bad-fee-estimates"):
            busy.restore(each)
    assert rate(busy, 2) == before


def test_the_pool_feeds_it(node, kit, chain4):
    """Confirmed payments count with their wait; children and what was there before a restart do not."""
    pool = node.mempool
    counted = node.add(kit.pay(chain4.coin(0)))
    child = node.add(kit.pay(chain4.coin(1))).tx.txid + bytes(4)
    heir = node.add(kit.pay(child, 1_000, payer=kit.OTHER, have=kit.TOKEN // 2))
    old = node.add(kit.pay(chain4.coin(2)))
    pool.backdate(old.tx.txid, 5)
    assert (counted.height, heir.height, old.height) == (0, -1, -1)
    assert len(list(pool.waiting())) == 2
    txs = [entry.tx for entry in pool.entries()]
    node.extend(txs)
    pool.connect(txs, node.chain.ground(), 0)
    [bucket] = pool.estimator._short.buckets.values()
    assert bucket.count == pytest.approx(2 / 0.962)
    node.add(kit.pay(chain4.coin(3)))
    node.extend([])
    pool.connect([], node.chain.ground(), 0)
    pool.remove_with_descendants(next(iter(pool.entries())).tx.txid)
    assert sum(bucket.failed) > 0
