"""Signature checks, once in a transaction's life: batched, off the loop, remembered.

A transaction's witness id fixes its inputs, and an outpoint fixes the coin that it names, so the
verdict of script and device signatures depends on the wtxid alone (all flags hold from height 0).
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeAlias

from cext import PaymentBatch, verify_ecdsa_batch
from consensus.coins import encode_coin
from consensus.connect import may_carry_payload
from consensus.errors import RuleError
from consensus.fastpath import signature_items
from consensus.keys import ed25519_verify
from consensus.ports import CoinView, Contracts
from consensus.script import ScriptError, verify_transaction
from consensus.transaction import Transaction
from node.limits import (
    SIGNATURE_CACHE_ITEMS,
    SIGNATURE_INLINE_BYTES,
    SIGNATURE_PART_TXS,
    SIGNATURE_THREADS_MAX,
)

log = logging.getLogger("wattd.sigcheck")

Item = tuple[Transaction, Sequence[bytes]]

Numbered = tuple[int, Transaction, Sequence[bytes], bool]
"""Index in the batch, transaction, its coins, and whether its scripts have been judged."""

_Verdicts: TypeAlias = dict[bytes, RuleError] | None
"""{wtxid: error} of those of a batch that fail; None if the batch was given up."""

HOLDS, UNJUDGED = 1, 2
"""Verdicts of ``cext.PaymentBatch``."""

STOPPING = RuleError("node-stopping", "its signatures were not checked", permanent=False)
"""The verdict on what a closing verifier does not get to."""


class SignatureCache:
    """The wtxids whose signatures hold: at most SIGNATURE_CACHE_ITEMS, the oldest leave first."""

    def __init__(self, max_items: int = SIGNATURE_CACHE_ITEMS) -> None:
        self._max_items = max_items
        self._known: dict[bytes, None] = {}

    def __contains__(self, wtxid: bytes) -> bool:
        return wtxid in self._known

    def __len__(self) -> int:
        return len(self._known)

    def add(self, wtxids: Iterable[bytes]) -> None:
        """Remember transactions whose signatures all hold."""
        known = self._known
        known.update(dict.fromkeys(wtxids))
        if len(known) > self._max_items:
            for wtxid in list(islice(known, len(known) - self._max_items)):
                del known[wtxid]

    def unseen(self, items: Sequence[Item]) -> list[Item]:
        """Return those of ``items`` that are not known to hold."""
        known = self._known
        return [item for item in items if item[0].wtxid not in known]


class SignatureVerifier:
    """Implements ``consensus.ports.SignatureChecker`` with a cache in front of batch checks.

    The payments of a batch are judged by one native call per thread, which takes the next few as it goes
    and holds no interpreter lock, so that no thread waits for a slower one (DESIGN.md, section 10.1).
    """

    def __init__(self, contracts: Contracts, workers: int | None = None) -> None:
        """Prepare ``workers`` threads, by default one per core that this process may use."""
        self._contracts = contracts
        self._cache = SignatureCache()
        self._under_way: dict[bytes, asyncio.Future[_Verdicts]] = {}
        self._closing = False
        self._workers = min(workers or usable_cores(), SIGNATURE_THREADS_MAX)
        self._pool = ThreadPoolExecutor(max_workers=self._workers, thread_name_prefix="sigcheck")

    def forget(self) -> None:
        """Check everything anew from now on."""
        self._cache = SignatureCache()
        self._under_way = {}

    def close(self) -> None:
        """Stop the worker threads; of the batch under way no further script is begun."""
        self._closing = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def check(self, items: Sequence[Item]) -> None:
        """Check all of ``items`` here and now, except what is known to hold. Raises RuleError."""
        unknown = self._cache.unseen(items)
        if not unknown:
            return
        batch = PaymentBatch(unknown)
        helpers = [self._pool.submit(batch.judge) for _ in range(1, self._threads(len(unknown)))]
        batch.judge()
        for helper in helpers:
            # One that has not begun, because admission keeps its thread busy, would find nothing left.
            if not helper.cancel():
                helper.result()
        faults, rest = _sort_out(batch, unknown)
        for part in self._cut(rest):
            faults |= self._verify(part)
        self._remember(unknown, faults)
        if faults:
            raise faults[min(faults)]

    async def check_many(self, items: list[Item]) -> dict[bytes, RuleError]:
        """Check ``items`` on worker threads; return {wtxid: error} of those that fail.

        What another call is checking at this time, as a proposal and the mempool often have the same
        transactions, is not checked twice: this call waits for that verdict.
        """
        faults: dict[bytes, RuleError] = {}
        left = self._cache.unseen(items)
        while left:
            mine: list[Item] = []
            theirs: dict[asyncio.Future[_Verdicts], list[Item]] = {}
            for item in left:
                other = self._under_way.get(item[0].wtxid)
                if other is None:
                    mine.append(item)
                else:
                    theirs.setdefault(other, []).append(item)
            if mine:
                faults |= await self._check_announced(mine)
            left = []
            for other, awaited in theirs.items():
                verdicts = await asyncio.shield(other)
                if verdicts is None:  # that call was given up
                    left += awaited
                elif verdicts:
                    faults |= {tx.wtxid: verdicts[tx.wtxid] for tx, _ in awaited if tx.wtxid in verdicts}
        return faults

    async def _check_announced(self, items: list[Item]) -> dict[bytes, RuleError]:
        """Check ``items`` and let other calls know meanwhile that they need not."""
        done: asyncio.Future[_Verdicts] = asyncio.get_running_loop().create_future()
        wtxids = [tx.wtxid for tx, _ in items]
        under_way = self._under_way
        under_way.update(dict.fromkeys(wtxids, done))
        verdicts: _Verdicts = None
        try:
            verdicts = await self._check_off_loop(items)
            return verdicts
        finally:
            for wtxid in wtxids:
                under_way.pop(wtxid, None)
            done.set_result(verdicts)

    async def _check_off_loop(self, items: list[Item]) -> dict[bytes, RuleError]:
        run = partial(asyncio.get_running_loop().run_in_executor, self._pool)
        batch = PaymentBatch(items)
        threads = self._threads(len(items))
        if not await _judge_natively(batch, threads):
            await asyncio.gather(*(run(batch.judge) for _ in range(threads)))
        faults, rest = _sort_out(batch, items)
        size = sum([len(tx.raw) for _, tx, _, _ in rest])
        if size <= SIGNATURE_INLINE_BYTES and all(judged for _, _, _, judged in rest):
            # The bytes of any payment may hold the mark of a payload by chance: for so little a thread would
            # wait longer for the interpreter lock of a busy loop than the whole batch took. Scripts that are
            # still to be run stay off the loop: their bytes say little of their work.
            faults |= self._verify(rest)
        else:
            for found in await asyncio.gather(*(run(self._verify, part) for part in self._cut(rest))):
                faults |= found
        self._remember(items, faults)
        return {items[index][0].wtxid: error for index, error in faults.items()}

    def unseen_bytes(self, txs: Sequence[Transaction]) -> int:
        """Return the size of those of ``txs`` whose signatures are not known to hold."""
        cache = self._cache
        return sum([len(tx.raw) for tx in txs if tx.wtxid not in cache])

    async def prewarm(self, txs: Sequence[Transaction], coins: CoinView) -> None:
        """Check on worker threads what ``check`` would check of a block's ``txs``, coinbase excluded.

        ``coins`` are the coins at the block's parent. ``check`` then finds those that hold in the cache.
        What spends a coin that is not there is left to the rules, which refuse the block for it.
        Raises the RuleError of the first transaction whose signatures do not hold.
        """
        items = _with_coins([tx for tx in txs if tx.wtxid not in self._cache], txs, coins)
        faults = await self.check_many(items)
        for tx, _ in items if faults else ():
            if tx.wtxid in faults:
                raise faults[tx.wtxid]

    def _threads(self, count: int) -> int:
        """Return how many threads ``count`` transactions are worth."""
        return 1 if self._closing else max(1, min(self._workers, count // SIGNATURE_PART_TXS))

    def _cut(self, rest: list[Numbered]) -> list[list[Numbered]]:
        """Cut into parts of one size, no more than there are threads and none too small to be worth one."""
        size = -(-len(rest) // self._threads(len(rest)))
        return [rest[at : at + size] for at in range(0, len(rest), size)] if rest else []

    def _remember(self, items: list[Item], faults: dict[int, RuleError]) -> None:
        held = items if not faults else [item for at, item in enumerate(items) if at not in faults]
        self._cache.add([tx.wtxid for tx, _ in held])

    def _verify(self, rest: list[Numbered]) -> dict[int, RuleError]:
        """Check what the batch call left: scripts it does not judge, and device signatures.

        Returns the faults by number.
        """
        faults: dict[int, RuleError] = {}
        ecdsa: list[tuple[bytes, bytes, bytes]] = []
        owners: list[int] = []
        scripts: list[Numbered] = []
        for number, tx, spent, judged in rest:
            checks = () if judged else signature_items(tx, spent)
            if checks is None:
                scripts.append((number, tx, spent, judged))
            else:
                ecdsa += checks
                owners += [number] * len(checks)
        for owner, valid in zip(owners, verify_ecdsa_batch(ecdsa), strict=True):
            if not valid:
                faults[owner] = ScriptError("NULLFAIL")
        for number, tx, spent, _ in scripts:
            error = STOPPING if self._closing else check_scripts(tx, spent)
            if error is not None:
                faults[number] = error
        for number, tx, _, _ in rest:
            error = self._check_devices(tx) if may_carry_payload(tx) else None
            if error is not None:
                faults[number] = error
        return faults

    def _check_devices(self, tx: Transaction) -> RuleError | None:
        try:
            checks = self._contracts.signatures(tx)
        except RuleError as error:
            return error
        for check in checks:
            if not ed25519_verify(check.public_key, check.message, check.signature):
                return RuleError(
                    "bad-device-signature", f"the signature by device {check.public_key.hex()} does not hold"
                )
        return None


async def _judge_natively(batch: PaymentBatch, threads: int) -> bool:
    """Let threads that never ask for the interpreter lock judge the batch; False if there are none.

    A busy event loop gives the lock away for so short a time that a thread of the interpreter may wait for
    it for many milliseconds, again and again. An eventfd tells the loop when they are done.
    """
    if not hasattr(os, "eventfd"):
        return False
    loop = asyncio.get_running_loop()
    wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        left = batch.start(threads, wake)
        if not left:
            return False
        done = loop.create_future()

        def ended() -> None:
            nonlocal left
            left -= os.eventfd_read(wake)
            if not left and not done.done():
                done.set_result(None)

        loop.add_reader(wake, ended)
        try:
            await done
        finally:
            loop.remove_reader(wake)
            batch.finish()
    finally:
        os.close(wake)
    return True


def _sort_out(batch: PaymentBatch, items: list[Item]) -> tuple[dict[int, RuleError], list[Numbered]]:
    """Return the faults that a judged batch found, by index, and what it leaves to be checked."""
    verdicts = batch.verdicts
    open_ones = dict.fromkeys(batch.marked())
    faults: dict[int, RuleError] = {}
    if verdicts.count(HOLDS) < len(items):
        for index, verdict in enumerate(verdicts):
            if verdict == UNJUDGED:
                open_ones[index] = None
            elif verdict != HOLDS:
                faults[index] = ScriptError("NULLFAIL")
    return faults, [(index, *items[index], verdicts[index] != UNJUDGED) for index in sorted(open_ones)]


def _with_coins(wanted: Sequence[Transaction], txs: Sequence[Transaction], coins: CoinView) -> list[Item]:
    """Return those of ``wanted`` whose coins are all in ``coins`` or made in ``txs``, with those coins."""
    made = {tx.txid: tx for tx in txs}
    outside = [prevout for tx in wanted for prevout in tx.prevouts if prevout[:32] not in made]
    read_ahead: Callable[[list[bytes]], dict[bytes, bytes]] | None = getattr(coins, "prefetch", None)
    known = {} if read_ahead is None else read_ahead(outside)
    items: list[Item] = []
    for tx in wanted:
        spent = []
        for prevout in tx.prevouts:
            parent = made.get(prevout[:32])
            if parent is None:
                coin = known.get(prevout) or coins.get(prevout)
            else:
                coin = _made_coin(parent, int.from_bytes(prevout[32:], "little"))
            if coin is None:
                break
            spent.append(coin)
        else:
            items.append((tx, spent))
    return items


def _made_coin(tx: Transaction, index: int) -> bytes | None:
    """Return an output as the coin that a child's signatures cover: no signature covers its height."""
    if index >= tx.output_count:
        return None
    output = tx.vout[index]
    return encode_coin(0, False, output.value, output.script_pubkey)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_scripts(tx: Transaction, spent: Sequence[bytes]) -> RuleError | None:
    """Run the interpreter over every input of ``tx``; ``spent`` is one coin value per input.

    What crashes the interpreter is refused like what fails in it: on every node alike, and logged.
    """
    try:
        verify_transaction(tx, spent)
    except RuleError as error:
        return error
    except Exception as bug:
        log.error("the script interpreter crashed", extra={"tx": tx.raw.hex()}, exc_info=bug)
        return RuleError("script-crash", repr(bug))
    return None
