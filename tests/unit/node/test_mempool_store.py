"""The mempool over a restart: what is written is admitted again; nothing in the file is trusted."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cext import crc32c
from consensus.errors import DecodeError, StorageError
from consensus.transaction import outpoint
from contracts.operations import Deposit, Withdraw
from node.limits import MEMPOOL_EXPIRY_S
from node.mempool_store import MAGIC, MempoolKeeper, Saved, decode_file, encode_file
from storage.files import Files

CHAIN = bytes(range(32))
SAVED = Saved([(5, b"one"), (1 << 40, b"")], {b"t" * 32: -7}, b"estimates")


def damaged(data, at):
    """Return ``data`` with one bit of byte ``at`` flipped."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def sealed(body):
    return body + crc32c(body).to_bytes(4, "little")


class Full(Files):
    """A disk without room."""

    def write(self, fd, data, offset):
        raise OSError(28, "No space left on device")


@pytest.fixture
def kept(make_node, chain4, tmp_path):
    """Return nodes that share one mempool file, each with a keeper and a running admission."""
    tasks = []

    def make(**given):
        node = make_node(chain4)
        admission = node.open_admission()
        tasks.append(asyncio.create_task(admission.run()))
        node.keeper = MempoolKeeper(
            tmp_path / "mempool.dat",
            node.mempool,
            admission,
            node.clock,
            node.chain.chain_id,
            **{"expiry_s": MEMPOOL_EXPIRY_S, **given},
        )
        return node

    yield make
    for task in tasks:
        task.cancel()


# ---- the file ----------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, (1 << 64) - 1), st.binary(max_size=300)), max_size=20),
    st.dictionaries(st.binary(min_size=32, max_size=32), st.integers(-(1 << 63), (1 << 63) - 1), max_size=5),
    st.binary(max_size=100),
)
def test_a_file_reads_back(entries, deltas, estimates):
    saved = Saved(entries, deltas, estimates)
    assert decode_file(encode_file(saved, CHAIN), CHAIN) == saved


def test_every_flipped_bit_is_noticed():
    data = encode_file(SAVED, CHAIN)
    for at in range(len(data)):
        with pytest.raises(DecodeError, match="mempool-file-damaged"):
            decode_file(damaged(data, at), CHAIN)


def test_every_torn_file_is_noticed():
    data = encode_file(SAVED, CHAIN)
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            decode_file(data[:length], CHAIN)


def test_versions_and_chains_are_told_apart():
    data = encode_file(SAVED, CHAIN)
    with pytest.raises(DecodeError, match="mempool-file-other-chain"):
        decode_file(data, bytes(32))
    newer = MAGIC + (2).to_bytes(4, "little") + data[len(MAGIC) + 4 : -4]
    with pytest.raises(DecodeError, match="mempool-file-version"):
        decode_file(sealed(newer), CHAIN)


def test_counts_that_promise_too_much_are_refused():
    body = encode_file(Saved([], {}, b""), CHAIN)[:-4]
    with pytest.raises(DecodeError):
        decode_file(sealed(body[:-4] + b"\xff" * 4), CHAIN)
    with pytest.raises(DecodeError):
        decode_file(sealed(body + b"x"), CHAIN)


# ---- over a restart ----------------------------------------------------------------------------


def test_a_delta_is_given_once():
    whole = encode_file(Saved([], {b"t" * 32: 1}, b""), CHAIN)
    at = whole.index(b"t" * 32)
    twice = whole[: at - 4] + (2).to_bytes(4, "little") + whole[at : at + 40] * 2 + whole[at + 40 : -4]
    with pytest.raises(DecodeError, match="twice"):
        decode_file(sealed(twice), CHAIN)


async def test_transactions_come_back_with_their_age(kept, kit, chain4):
    first = kept()
    parent = kit.pay(chain4.coin(0))
    child = kit.pay(outpoint(parent.txid, 0), 1_000, payer=kit.OTHER, have=kit.TOKEN // 2)
    deposit = kit.operate(chain4.coin(1), Deposit(), value=50_000)
    withdraw = kit.operate(chain4.coin(2), Withdraw(40_000))
    for tx in (parent, child, deposit, withdraw):
        first.add(tx)
    born_s = first.clock.time_s
    assert Path(await first.keeper.save()).name == "mempool.dat"
    second = kept()
    second.clock.time_s += 1_000
    assert not second.keeper.loaded
    assert await second.keeper.restore()
    assert [entry.tx for entry in second.mempool.entries()] == [parent, child, deposit, withdraw]
    assert {entry.added_s for entry in second.mempool.entries()} == {born_s}
    # They are spread as what peers sent, so that a restart does not push them all at once.
    assert {job.source for job in second.accepted} == {-1}
    assert second.refused == []


async def test_what_is_no_longer_valid_stays_away(kept, kit, chain4):
    first = kept()
    confirmed, kept_tx = kit.pay(chain4.coin(0)), kit.pay(chain4.coin(1))
    withdraw = kit.operate(chain4.coin(2), Withdraw(40_000))
    first.add(kit.operate(chain4.coin(3), Deposit(), value=50_000))
    for tx in (confirmed, kept_tx, withdraw):
        first.add(tx)
    await first.keeper.save()
    second = kept()
    rival = kit.pay(chain4.coin(3))
    second.extend([confirmed, rival])
    second.mempool.connect([confirmed, rival], second.chain.ground(), 0)
    await second.keeper.restore()
    assert [entry.tx for entry in second.mempool.entries()] == [kept_tx]
    assert second.refused == []  # nobody sent them


async def test_what_is_too_old_stays_away(kept, kit, chain4):
    first = kept()
    first.add(kit.pay(chain4.coin(0)))
    first.clock.time_s += 500
    young = first.add(kit.pay(chain4.coin(1))).tx
    await first.keeper.save()
    second = kept(expiry_s=600)
    second.clock.time_s += 700
    await second.keeper.restore()
    assert [entry.tx for entry in second.mempool.entries()] == [young]


async def test_deltas_and_estimates_come_back(kept, kit, chain4):
    first = kept()
    tx = first.add(kit.pay(chain4.coin(0))).tx
    first.mempool.prioritise(tx.txid, 777)
    for height in range(1, 40):
        first.mempool.estimator.block(height, [(height - 1, 5_000)] * 20)
    await first.keeper.save()
    second = kept()
    await second.keeper.restore()
    assert second.mempool.get(tx.txid).delta == 777
    for pool in (first.mempool, second.mempool):
        assert pool.estimator.estimate(2, (), conservative=False).rate == 5_000


async def test_an_absent_file_is_an_empty_pool(kept, caplog):
    node = kept()
    assert await node.keeper.restore()
    assert node.mempool.count == 0
    assert "cannot be read" not in caplog.text


@pytest.mark.parametrize("content", [b"", b"nonsense", encode_file(SAVED, CHAIN)])
async def test_a_damaged_file_is_a_warning(kept, tmp_path, caplog, content):
    (tmp_path / "mempool.dat").write_bytes(content)
    node = kept()
    assert await node.keeper.restore()
    assert "the saved mempool cannot be read: mempool-file-" in caplog.text


async def test_a_file_that_cannot_be_opened_is_a_warning(kept, tmp_path, caplog):
    (tmp_path / "mempool.dat").mkdir()
    node = kept()
    assert await node.keeper.restore()
    assert "the saved mempool cannot be read" in caplog.text


async def test_a_file_larger_than_any_mempool_is_not_read(kept, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("node.mempool_store.MEMPOOL_FILE_EXTRA_BYTES", 0)
    node = kept()
    (tmp_path / "mempool.dat").write_bytes(bytes(node.mempool.max_bytes + 1))
    assert await node.keeper.restore()
    assert "mempool-file-damaged" in caplog.text


async def test_nonsense_inside_a_sound_file_is_left_out(kept, kit, chain4, tmp_path):
    node = kept()
    tx = kit.pay(chain4.coin(0))
    saved = Saved([(node.clock.time_s, b"no transaction"), (node.clock.time_s, tx.raw)], {}, b"no estimates")
    (tmp_path / "mempool.dat").write_bytes(encode_file(saved, node.chain.chain_id))
    assert await node.keeper.restore()
    assert [entry.tx for entry in node.mempool.entries()] == [tx]


async def test_a_full_disk_is_a_warning_but_an_error_for_who_asked(kept, kit, chain4, caplog):
    node = kept(files=Full())
    node.keeper.loaded = True
    await node.keeper.close()
    assert "the mempool cannot be saved" in caplog.text
    with pytest.raises(StorageError):
        await node.keeper.save()


async def test_a_failed_write_leaves_the_old_file(kept, kit, chain4, tmp_path):
    node = kept()
    node.add(kit.pay(chain4.coin(0)))
    await node.keeper.save()
    before = (tmp_path / "mempool.dat").read_bytes()
    full = kept(files=Full())
    with pytest.raises(StorageError):
        await full.keeper.save()
    assert (tmp_path / "mempool.dat").read_bytes() == before


async def test_a_stop_before_all_is_read_loses_nothing(kept, kit, chain4, tmp_path, monkeypatch):
    first = kept()
    for at in range(3):
        first.add(kit.pay(chain4.coin(at)))
    await first.keeper.save()
    before = (tmp_path / "mempool.dat").read_bytes()
    second = kept()
    blocked = asyncio.Event()

    async def check_many(items):
        blocked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(second.verifier, "check_many", check_many)
    running = asyncio.create_task(second.keeper.run())
    await blocked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await second.keeper.close()
    assert (tmp_path / "mempool.dat").read_bytes() == before


async def test_a_stopping_admission_ends_the_restore(kept, kit, chain4, monkeypatch):
    first = kept()
    first.add(kit.pay(chain4.coin(0)))
    await first.keeper.save()
    second = kept()
    second.admission._closed = True
    assert not await second.keeper.restore()


async def test_it_is_written_now_and_then(kept, kit, chain4, tmp_path, monkeypatch):
    monkeypatch.setattr("node.mempool_store.MEMPOOL_SAVE_S", 0)
    node = kept()
    node.add(kit.pay(chain4.coin(0)))
    running = asyncio.create_task(node.keeper.run())
    async with asyncio.timeout(5):
        while not (tmp_path / "mempool.dat").exists():
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert node.keeper.loaded


async def test_without_persistence_nothing_is_read_or_written(kept, kit, chain4, tmp_path):
    node = kept(persist=False)
    node.add(kit.pay(chain4.coin(0)))
    assert node.keeper.loaded
    await node.keeper.run()
    await node.keeper.close()
    assert not (tmp_path / "mempool.dat").exists()
    await node.keeper.save()  # asked for
    assert (tmp_path / "mempool.dat").exists()


async def test_many_are_restored_in_parts(kept, kit, chain4, monkeypatch):
    monkeypatch.setattr("node.mempool_store.MEMPOOL_RESTORE_TXS", 2)
    first = kept()
    txs = [first.add(kit.pay(chain4.coin(at))).tx for at in range(5)]
    await first.keeper.save()
    second = kept()
    await second.keeper.restore()
    assert [entry.tx for entry in second.mempool.entries()] == txs
