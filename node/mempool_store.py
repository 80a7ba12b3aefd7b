"""The mempool over a restart: ``<datadir>/mempool.dat``, written at stop and now and then, read after start.

Layout, little-endian: magic, u32 version, 32 bytes chain id, u32 length and bytes of the fee estimates,
u32 count of fee deltas with 32 bytes txid and i64 each, u32 count of transactions with u64 chain time
of admission, u32 length and raw bytes each, CRC-32C of all before. Nothing in it is trusted: every
transaction passes admission again. A file that makes no sense is reported and otherwise as good as none.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from cext import crc32c
from consensus.codec import Reader
from consensus.errors import DecodeError, RuleError, StorageError
from consensus.transaction import Transaction
from node.admission import NODE_STOPPING, RESTORED, Admission
from node.clock import Clock
from node.limits import (
    MAX_PRIORITISED,
    MEMPOOL_FILE_EXTRA_BYTES,
    MEMPOOL_RESTORE_BYTES,
    MEMPOOL_RESTORE_TXS,
    MEMPOOL_SAVE_S,
)
from node.mempool import Mempool
from storage.files import Files, storage_error

log = logging.getLogger("wattd.mempool")

MEMPOOL_NAME = "mempool.dat"
MAGIC = b"WTMEMPOL"
VERSION = 1

_U32 = Struct("<I")
_ENTRY = Struct("<QI")
_CRC_BYTES = 4


@dataclass(frozen=True, slots=True)
class Saved:
    """What the file holds: (chain time of admission, raw transaction) in order of arrival, fee deltas
    by txid, and what ``FeeEstimator.dump`` returned."""

    entries: Sequence[tuple[int, bytes]]
    deltas: dict[bytes, int]
    estimates: bytes


def encode_file(saved: Saved, chain_id: bytes) -> bytes:
    """Return the bytes of the file."""
    parts = [MAGIC, _U32.pack(VERSION), chain_id, _U32.pack(len(saved.estimates)), saved.estimates]
    parts.append(_U32.pack(len(saved.deltas)))
    for txid, delta in saved.deltas.items():
        parts += [txid, delta.to_bytes(8, "little", signed=True)]
    parts.append(_U32.pack(len(saved.entries)))
    for added_s, raw in saved.entries:
        parts += [_ENTRY.pack(added_s, len(raw)), raw]
    body = b"".join(parts)
    return body + _U32.pack(crc32c(body))


def decode_file(data: bytes, chain_id: bytes) -> Saved:
    """Read the bytes of the file.

    Raises DecodeError "mempool-file-damaged", "mempool-file-version" or "mempool-file-other-chain".
    """
    if len(data) < len(MAGIC) + _CRC_BYTES or not data.startswith(MAGIC):
        raise DecodeError("mempool-file-damaged", "it does not begin like one")
    body, checksum = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if _U32.pack(crc32c(body)) != checksum:
        raise DecodeError("mempool-file-damaged", "the checksum does not match")
    reader = Reader(body, len(MAGIC))
    version = reader.u32()
    if version != VERSION:
        raise DecodeError("mempool-file-version", f"version {version}, this node reads {VERSION}")
    if reader.take(32) != chain_id:
        raise DecodeError("mempool-file-other-chain", "it was written for another chain")
    estimates = bytes(reader.take(reader.u32()))
    deltas: dict[bytes, int] = {}
    for _ in range(reader.u32()):
        txid = bytes(reader.take(32))
        if txid in deltas:
            raise DecodeError("mempool-file-damaged", "a fee delta is given twice")
        deltas[txid] = reader.i64()
    entries = []
    for _ in range(reader.u32()):
        added_s = reader.u64()
        entries.append((added_s, bytes(reader.take(reader.u32()))))
    reader.finish()
    return Saved(entries, deltas, estimates)


class MempoolKeeper:
    """Saves and restores one mempool; with ``persist`` False it does so only when asked.

    The file is not written before it was read to the end: a stop in between must not lose the rest.
    """

    def __init__(
        self,
        path: Path,
        mempool: Mempool,
        admission: Admission,
        clock: Clock,
        chain_id: bytes,
        *,
        expiry_s: int,
        persist: bool = True,
        files: Files | None = None,
    ) -> None:
        self._path = path
        self._mempool = mempool
        self._admission = admission
        self._clock = clock
        self._chain_id = chain_id
        self._expiry_s = expiry_s
        self._persist = persist
        self._files = files or Files()
        self._lock = asyncio.Lock()
        self.loaded = not persist

    async def run(self) -> None:
        """Restore, then save now and then; cancelled at stop."""
        if not self._persist:
            return
        self.loaded = await self.restore()
        while self.loaded:
            await asyncio.sleep(MEMPOOL_SAVE_S)
            await self._save_if_possible()

    async def close(self) -> None:
        """Save at a clean stop."""
        if self._persist and self.loaded:
            await self._save_if_possible()

    async def save(self) -> str:
        """Write the file, off the event loop; return its path. Raises StorageError."""
        async with self._lock:
            pool = self._mempool
            saved = Saved(
                [(entry.added_s, entry.tx.raw) for entry in pool.entries()],
                pool.deltas(),
                pool.estimator.dump(),
            )
            await asyncio.to_thread(self._write, saved)
            return str(self._path)

    async def restore(self) -> bool:
        """Admit again what the file holds; return False if the node stops meanwhile."""
        try:
            saved = await asyncio.to_thread(self._read)
        except (DecodeError, StorageError) as fault:
            log.warning("the saved mempool cannot be read: %s", fault, extra={"file": str(self._path)})
            return True
        if saved is None:
            return True
        self._take_estimates(saved)
        taken = 0
        chunk: list[tuple[int, Transaction]] = []
        size = 0
        oldest_s = self._clock.now_s() - self._expiry_s
        for added_s, raw in saved.entries:
            if added_s < oldest_s:
                continue
            try:
                chunk.append((added_s, Transaction.parse(raw)))
            except DecodeError as fault:
                log.warning("a saved transaction makes no sense: %s", fault)
                continue
            size += len(raw)
            if size >= MEMPOOL_RESTORE_BYTES or len(chunk) >= MEMPOOL_RESTORE_TXS:
                admitted = await self._admit(chunk)
                if admitted is None:
                    return False
                taken, chunk, size = taken + admitted, [], 0
        admitted = await self._admit(chunk)
        if admitted is None:
            return False
        log.info(
            "mempool restored",
            extra={"taken": taken + admitted, "left": len(saved.entries) - taken - admitted},
        )
        return True

    def _take_estimates(self, saved: Saved) -> None:
        try:
            self._mempool.estimator.restore(saved.estimates)
        except DecodeError as fault:
            log.warning("the saved fee estimates cannot be read: %s", fault)
        for txid, delta in list(saved.deltas.items())[:MAX_PRIORITISED]:
            try:
                self._mempool.prioritise(txid, delta)
            except RuleError:
                break

    async def _admit(self, chunk: list[tuple[int, Transaction]]) -> int | None:
        """Return how many were taken, None if the node stops."""
        submissions = (self._admission.submit(tx, RESTORED) for _, tx in chunk)
        verdicts = await asyncio.gather(*submissions, return_exceptions=True)
        taken = 0
        for (added_s, tx), verdict in zip(chunk, verdicts, strict=True):
            if verdict is None:
                self._mempool.backdate(tx.txid, added_s)
                taken += 1
            elif not isinstance(verdict, RuleError):
                raise verdict
            elif verdict.code == NODE_STOPPING:
                return None
        return taken

    async def _save_if_possible(self) -> None:
        try:
            await self.save()
        except StorageError as fault:
            log.warning("the mempool cannot be saved: %s", fault, extra={"file": str(self._path)})

    def _write(self, saved: Saved) -> None:
        try:
            self._files.write_whole(self._path, encode_file(saved, self._chain_id))
        except OSError as fault:
            raise storage_error(fault, self._path) from None

    def _read(self) -> Saved | None:
        try:
            if not self._path.exists():
                return None
            fd = self._files.open(self._path)
            try:
                size = self._files.size(fd)
                if size > self._mempool.max_bytes + MEMPOOL_FILE_EXTRA_BYTES:
                    raise DecodeError("mempool-file-damaged", f"{size} bytes are more than a mempool takes")
                data = self._files.read(fd, size, 0)
            finally:
                self._files.close(fd)
        except OSError as fault:
            raise storage_error(fault, self._path) from None
        return decode_file(data, self._chain_id)
