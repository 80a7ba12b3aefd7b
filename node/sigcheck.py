"""Signature checks, once in a transaction's life: batched, off the loop, remembered.

A transaction's witness id fixes its inputs, and an outpoint fixes the coin that it names, so the
verdict of script and device signatures depends on the wtxid alone (all flags hold from height 0).
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from cext import verify_ecdsa_batch
from consensus.errors import RuleError
from consensus.fastpath import signature_items
from consensus.keys import ed25519_verify
from consensus.ports import Contracts, SignatureCheck
from consensus.script import ScriptError, verify_transaction
from consensus.transaction import Transaction
from node.limits import SIGNATURE_CACHE_ITEMS

log = logging.getLogger("wattd.sigcheck")

Item = tuple[Transaction, Sequence[bytes]]


@dataclass(slots=True)
class SignatureBatch:
    """Checks of several transactions, flattened so that one native call verifies the common kind."""

    items: list[Item]
    ecdsa: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    ecdsa_owner: list[int] = field(default_factory=list)
    scripts: list[int] = field(default_factory=list)
    devices: list[tuple[int, SignatureCheck]] = field(default_factory=list)


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

    def add(self, wtxid: bytes) -> None:
        """Remember a transaction whose signatures all hold."""
        self._known[wtxid] = None
        if len(self._known) > self._max_items:
            del self._known[next(iter(self._known))]


class SignatureVerifier:
    """Implements ``consensus.ports.SignatureChecker`` with a cache in front of batch checks."""

    def __init__(self, contracts: Contracts, workers: int = 1) -> None:
        self._contracts = contracts
        self._cache = SignatureCache()
        self._closing = False
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="sigcheck")

    def close(self) -> None:
        """Stop the worker threads; of the batch under way no further script is begun."""
        self._closing = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def check(self, items: Sequence[Item]) -> None:
        """Check all of ``items`` here and now, except what is known to hold. Raises RuleError."""
        faults = self._run(self._prepare([item for item in items if item[0].wtxid not in self._cache]))
        if faults:
            raise faults[min(faults)]

    async def check_many(self, items: list[Item]) -> dict[bytes, RuleError]:
        """Check ``items`` on a worker thread; return {wtxid: error} of those that fail."""
        unknown = [item for item in items if item[0].wtxid not in self._cache]
        if not unknown:
            return {}
        batch = self._prepare(unknown)
        faults = await asyncio.get_running_loop().run_in_executor(self._pool, self._verify, batch)
        self._remember(batch, faults)
        return {batch.items[index][0].wtxid: error for index, error in faults.items()}

    def _run(self, batch: SignatureBatch) -> dict[int, RuleError]:
        faults = self._verify(batch)
        self._remember(batch, faults)
        return faults

    def _remember(self, batch: SignatureBatch, faults: dict[int, RuleError]) -> None:
        for index, (tx, _) in enumerate(batch.items):
            if index not in faults:
                self._cache.add(tx.wtxid)

    def _prepare(self, items: list[Item]) -> SignatureBatch:
        batch = SignatureBatch(items)
        for index, (tx, spent) in enumerate(items):
            checks = signature_items(tx, spent)
            if checks is None:
                batch.scripts.append(index)
            else:
                batch.ecdsa.extend(checks)
                batch.ecdsa_owner.extend([index] * len(checks))
            batch.devices.extend((index, check) for check in self._contracts.signatures(tx))
        return batch

    def _verify(self, batch: SignatureBatch) -> dict[int, RuleError]:
        faults: dict[int, RuleError] = {}
        if batch.ecdsa:
            for owner, valid in zip(batch.ecdsa_owner, verify_ecdsa_batch(batch.ecdsa), strict=True):
                if not valid:
                    faults[owner] = ScriptError("NULLFAIL")
        for index in batch.scripts:
            error = STOPPING if self._closing else check_scripts(*batch.items[index])
            if error is not None:
                faults[index] = error
        for index, check in batch.devices:
            if not ed25519_verify(check.public_key, check.message, check.signature):
                faults[index] = RuleError(
                    "bad-device-signature", f"the signature by device {check.public_key.hex()} does not hold"
                )
        return faults


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
